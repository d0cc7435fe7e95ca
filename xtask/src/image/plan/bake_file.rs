//! All JSON that buildx gets: each bake is asked of the plan and handed over as it is. Nothing edits
//! it afterwards, neither as text nor by `--set`.
//!
//! A target of a run inherits from one of `docker-bake.json`, so that bake merges by its own rules
//! what this program does not know, such as `ssh`. Lists like `secret` and `cache-from` are
//! appended to the parent's, single values and all other lists replace the parent's.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::cache::{Place, csv_field};
use super::{Plan, Target};
use crate::image::request::Delivery;

/// One bake as buildx gets it on standard input.
pub struct BakeFile {
    pub json: Value,
    /// The names of its targets in `BuildKit`'s events, without helper targets.
    pub targets: Vec<String>,
    pub is_export: bool,
}

/// How images are baked.
pub struct ImageBake<'a> {
    /// Whether caches are exported by the same bake.
    pub with_exports: bool,
    /// Whether `BuildKit` pushes and keeps nothing for the engine.
    pub direct_push: bool,
    /// Whether the image's folder is sent once for all targets: buildx before 0.14 would send it
    /// for each. Not for a cluster, whose pods can't share it.
    pub shared_inputs: bool,
    /// Caches that are not read, as `BuildKit`'s import vertices name them.
    pub without: &'a BTreeSet<String>,
}

/// A cache that is exported by a bake of its own.
pub struct CacheExport<'a> {
    /// Its target's name in that bake, of which each export needs one.
    pub name: String,
    pub target: &'a Target,
    /// Where it is written, which may be another folder than the one that is read.
    pub place: Place,
}

/// The helper target that has the image's folder. The Dockerfile has an empty stage `inputs` that
/// it takes the place of. A run's own targets begin with a variant's name, which has no `_` there.
const INPUTS: &str = "_inputs";

/// The name of a target of the bake file. The prefix keeps it apart from the run's targets.
fn parent_name(name: &str) -> String {
    format!("_file-{name}")
}

impl Plan {
    /// The whole run in one bake, as `--print` shows it.
    pub fn print(&self) -> Value {
        let all = self.targets.iter().collect::<Vec<_>>();
        let without = &BTreeSet::new();
        let how =
            ImageBake { with_exports: true, direct_push: false, shared_inputs: false, without };
        self.images(&all, &how).json
    }

    /// The bake that makes the images of `targets`.
    pub fn images(&self, targets: &[&Target], how: &ImageBake) -> BakeFile {
        let output = match (how.direct_push, self.delivery) {
            // Docker's own builder would unpack every image first, and its base with it, and an
            // older buildx have the engine push it once more. An empty value is true for BuildKit
            // and says nothing to buildx.
            (true, Delivery::Push) => "type=image,push=,store=false",
            (false, Delivery::Push) => "type=registry",
            (_, Delivery::Load) => "type=docker",
        };
        let paths = |target: &&Target| target.paths.clone();
        let is_shared = how.shared_inputs && is_same_of_several(targets.iter().map(paths));
        let mut helpers = self.parents(how.without);
        if let (true, Some(first)) = (is_shared, targets.first()) {
            helpers.insert(INPUTS.to_owned(), self.inputs(first));
        }
        let targets = targets.iter().map(|target| {
            let mut bake = self.target(target, how.without);
            let exports = target.cache_written.iter().filter(|_| how.with_exports);
            let exports = exports.map(|place| literal(&place.write_entry(self.cache_mode)));
            bake["cache-to"] = exports.collect();
            bake["tags"] = json!(target.tags);
            bake["output"] = json!([output]);
            if is_shared {
                bake["contexts"]["inputs"] = json!(format!("target:{INPUTS}"));
            }
            (target.name.clone(), bake)
        });
        bake_file(targets.collect(), helpers, false)
    }

    /// The bake that writes caches of images that are built already, and keeps nothing else.
    pub fn exports(&self, exports: &[CacheExport], without: &BTreeSet<String>) -> BakeFile {
        let targets = exports.iter().map(|export| {
            let mut bake = self.target(export.target, without);
            bake["cache-to"] = json!([literal(&export.place.export_entry(self.cache_mode))]);
            bake["tags"] = json!([]);
            bake["output"] = json!(["type=cacheonly"]);
            (export.name.clone(), bake)
        });
        bake_file(targets.collect(), self.parents(without), true)
    }

    /// What all bakes of `target` have in common.
    fn target(&self, target: &Target, without: &BTreeSet<String>) -> Value {
        let read = target.cache_read.iter();
        let read = read.filter(|place| !without.iter().any(|name| place.is_read_as(name)));
        let mut bake = json!({
            "inherits": [parent_name(&target.parent)],
            "target": self.stage,
            "platforms": self.platforms,
            "args": target.all_args(),
            "cache-from": read.map(|place| literal(&place.read_entry())).collect::<Vec<_>>(),
        });
        for (key, path) in &target.paths {
            bake[*key] = json!(path);
        }
        if let Some(bundle) = &self.ca_bundle {
            let source = csv_field(&format!("src={bundle}"));
            bake["secret"] = json!([literal(&format!("type=file,id=ca-certificates,{source}"))]);
        }
        if let Some(folder) = &self.prebuilt {
            bake["contexts"] = json!({ "prebuilt": literal(&folder.to_string_lossy()) });
        }
        bake
    }

    /// The bake file's targets under names of their own, without the caches that are not to be read.
    fn parents(&self, without: &BTreeSet<String>) -> Map<String, Value> {
        let mut parents = self.parents.clone();
        for target in parents.values_mut().filter_map(Value::as_object_mut) {
            for parent in list(target, "inherits") {
                *parent = json!(parent_name(parent.as_str().unwrap_or_default()));
            }
            if let Some(Value::Array(read)) = target.get_mut("cache-from") {
                // An entry is text or an object, and both hold the reference as it is.
                let is_of = |entry: &Value, name: &str| {
                    let text = entry.to_string();
                    text.contains(name) || name.starts_with("local:") && text.contains("local")
                };
                read.retain(|entry| !without.iter().any(|name| is_of(entry, name)));
            }
        }
        parents.into_iter().map(|(name, target)| (parent_name(&name), target)).collect()
    }

    /// A target of the files of `target`'s folder.
    fn inputs(&self, target: &Target) -> Value {
        let mut inputs = json!({
            "dockerfile-inline": "FROM scratch\nCOPY . /\n",
            "platforms": self.platforms,
            "output": ["type=cacheonly"],
        });
        inputs["context"] = json!(target.paths.get("context").map_or(".", String::as_str));
        inputs
    }
}

impl Target {
    /// Its build arguments, with their values as bake reads them.
    pub fn args(&self) -> BTreeMap<String, String> {
        let text = |(name, value): (String, Value)| Some((name, value.as_str()?.to_owned()));
        self.all_args().into_iter().filter_map(text).collect()
    }

    /// The same, with those that are not text.
    fn all_args(&self) -> BTreeMap<String, Value> {
        let file = self.file_args.iter().map(|(name, value)| (name.clone(), value.clone()));
        let own = self.own_args.iter().map(|(name, value)| ((*name).to_owned(), literal(value)));
        file.chain(own).collect()
    }
}

/// The items of the list `key` of a target.
fn list<'a>(target: &'a mut Map<String, Value>, key: &str) -> impl Iterator<Item = &'a mut Value> {
    target.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

fn bake_file(
    targets: Vec<(String, Value)>,
    helpers: Map<String, Value>,
    is_export: bool,
) -> BakeFile {
    let names = targets.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let all = targets.into_iter().chain(helpers).collect::<Map<_, _>>();
    let json = json!({ "group": { "default": { "targets": names } }, "target": all });
    BakeFile { json, targets: names, is_export }
}

/// Are there several items, and all alike?
fn is_same_of_several<T: PartialEq>(mut items: impl Iterator<Item = T>) -> bool {
    let first = items.next();
    let mut others = items.peekable();
    others.peek().is_some() && others.all(|other| Some(other) == first)
}

/// `text` as a bake value. Bake reads every string as a template: a branch name may hold `${`.
pub fn literal(text: &str) -> Value {
    json!(text.replace("${", "$${").replace("%{", "%%{"))
}
