//! All JSON that buildx gets: each bake is asked of the plan and handed over as it is. Nothing
//! edits it afterwards, neither as text nor by `--set`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::cache::{Place, csv_field};
use super::{Layer, Plan, Target};
use crate::image::request::Delivery;
use crate::image::request::definition::CHECK;

/// One bake as buildx gets it on standard input.
pub struct BakeFile {
    pub json: Value,
    /// The names of its targets in `BuildKit`'s events, without helper targets.
    pub targets: Vec<String>,
    /// Whether an earlier bake ran its steps, so that nobody needs to see them again.
    pub steps_were_shown: bool,
}

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
    /// The names of targets whose steps run again, whatever the builder has of them.
    pub anew: &'a BTreeSet<String>,
}

/// A cache that is exported by a bake of its own.
pub struct CacheExport<'a> {
    /// Its target's name in that bake, of which each export needs one.
    pub name: String,
    pub target: &'a Target,
    /// Where it is written, which may be another folder than the one that is read.
    pub place: Place,
}

/// How layers are compressed. A third of the time of the default level, 6, is saved by 2 % more
/// bytes.
const COMPRESSION: &str = ",compression=gzip,compression-level=4";

/// The build context that a layer stands on.
const BASE: &str = "finished-image";

const LAYER_SUFFIX: &str = "_layer";
const CHECK_SUFFIX: &str = "_check";

/// The target of the layer on the image of `target`.
pub fn layer_name(target: &str) -> String {
    format!("{target}{LAYER_SUFFIX}")
}

/// The image that a bake's target of that name works for: itself, or its check, or its layer.
pub fn image_name(target: &str) -> &str {
    let image = [LAYER_SUFFIX, CHECK_SUFFIX].iter().find_map(|it| target.strip_suffix(it));
    image.unwrap_or(target)
}

/// The helper target that has the image's folder. The Dockerfile has an empty stage `inputs` that
/// it takes the place of. A run's own targets begin with a variant's name, which has no `_` there.
const INPUTS: &str = "_inputs";

impl Plan {
    /// The whole run in one bake, as `--print` shows it.
    pub fn print(&self) -> Value {
        let all = self.targets.iter().collect::<Vec<_>>();
        let none = &BTreeSet::new();
        let (direct_push, shared_inputs, without, anew) = (false, false, none, none);
        let how = ImageBake { with_exports: true, direct_push, shared_inputs, without, anew };
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
        // `--print` shows a bake with exports, and other tools read it.
        let compression = if how.with_exports { "" } else { COMPRESSION };
        let output = &format!("{output}{compression}");
        let inputs = self.inputs(targets, how).filter(|_| targets.len() > 1);
        let targets = targets.iter().flat_map(|target| {
            let mut bake = self.image(target, how, inputs.as_ref());
            let exports = target.cache_written.iter().filter(|_| how.with_exports);
            let exports = exports.map(|place| literal(&place.write_entry(self.cache_mode)));
            deliver(&mut bake, exports.collect(), &target.tags, output);
            let layer = target
                .layer
                .as_ref()
                .map(|layer| (layer_name(&target.name), self.layer(&target.name, layer, output)));
            [(target.name.clone(), bake)].into_iter().chain(layer)
        });
        bake_file(targets.collect(), inputs, false)
    }

    /// The bake that starts each of the images of `targets`, and meanwhile makes what a push then
    /// sends.
    pub fn checks(&self, targets: &[&Target], how: &ImageBake) -> BakeFile {
        let output = if how.direct_push {
            format!("type=image,store=false{COMPRESSION}")
        } else {
            "type=cacheonly".to_owned()
        };
        let inputs = self.inputs(targets, how);
        let targets = targets.iter().flat_map(|target| {
            let mut image = self.image(target, how, inputs.as_ref());
            deliver(&mut image, json!([]), &[], &output);
            let mut check = image.clone();
            check.insert("target".to_owned(), json!(CHECK));
            extend(&mut check, "args", [("CHECK", literal(&self.stage))]);
            deliver(&mut check, json!([]), &[], "type=cacheonly");
            [(format!("{}{CHECK_SUFFIX}", target.name), check), (target.name.clone(), image)]
        });
        bake_file(targets.collect(), inputs, false)
    }

    /// The bake that runs the steps which the image of `target` needs on its base image, and keeps
    /// nothing; `None` where it needs none.
    pub fn steps_on_base(&self, target: &Target, without: &BTreeSet<String>) -> Option<BakeFile> {
        let mut bake = self.target(target, without);
        bake.insert("target".to_owned(), json!(self.stage_below.as_ref()?));
        deliver(&mut bake, json!([]), &[], "type=cacheonly");
        Some(bake_file(vec![(target.name.clone(), bake)], None, true))
    }

    /// The bake that writes caches of images that are built already, and keeps nothing else.
    pub fn exports(&self, exports: &[CacheExport], without: &BTreeSet<String>) -> BakeFile {
        let targets = exports.iter().map(|export| {
            let mut bake = self.target(export.target, without);
            let entry = literal(&export.place.export_entry(self.cache_mode));
            deliver(&mut bake, json!([entry]), &[], "type=cacheonly");
            (export.name.clone(), bake)
        });
        bake_file(targets.collect(), None, true)
    }

    /// What the bakes that make the image of `target` have in common; `inputs` is their helper
    /// target, where they have one.
    fn image(
        &self,
        target: &Target,
        how: &ImageBake,
        inputs: Option<&Value>,
    ) -> Map<String, Value> {
        let mut bake = self.target(target, how.without);
        if inputs.is_some() {
            extend(&mut bake, "contexts", [("inputs", json!(format!("target:{INPUTS}")))]);
        }
        if how.anew.contains(&target.name) {
            bake.insert("no-cache".to_owned(), json!(true));
        }
        bake
    }

    /// What all bakes of `target` have in common.
    fn target(&self, target: &Target, without: &BTreeSet<String>) -> Map<String, Value> {
        let mut bake = target.variant_bake.clone();
        bake.insert("target".to_owned(), json!(self.stage));
        bake.insert("platforms".to_owned(), json!(self.platforms));
        let args = target.args.iter().map(|(name, value)| (*name, literal(value)));
        extend(&mut bake, "args", args);
        let labels = target.labels.iter().map(|(name, value)| (*name, literal(value)));
        extend(&mut bake, "labels", labels);
        if let Some((name, folder)) = &self.context {
            extend(&mut bake, "contexts", [(*name, literal(&folder.to_string_lossy()))]);
        }
        if let Some(secret) = self.certificates() {
            append(&mut bake, "secret", [secret]);
        }
        if let Some(Value::Array(read)) = bake.get_mut("cache-from") {
            read.retain(|entry| !without.iter().any(|name| is_read_as(entry, name)));
        }
        let read = target.cache_read.iter();
        let read = read.filter(|place| !without.iter().any(|name| place.is_read_as(name)));
        append(&mut bake, "cache-from", read.map(|place| literal(&place.read_entry())));
        bake
    }

    /// The target of a layer on the image of `target`.
    fn layer(&self, target: &str, layer: &Layer, output: &str) -> Map<String, Value> {
        let mut bake = Map::new();
        bake.insert("context".to_owned(), literal(&layer.folder.to_string_lossy()));
        bake.insert("platforms".to_owned(), json!(self.platforms));
        extend(&mut bake, "contexts", [(BASE, json!(format!("target:{target}")))]);
        extend(&mut bake, "args", [("BASE_IMAGE", json!(BASE))]);
        append(&mut bake, "secret", self.certificates());
        deliver(&mut bake, json!([]), &layer.tags, output);
        bake
    }

    /// The host's certificates, as a secret of steps.
    fn certificates(&self) -> Option<Value> {
        let source = csv_field(&format!("src={}", self.ca_bundle.as_ref()?));
        Some(literal(&format!("type=file,id=ca-certificates,{source}")))
    }

    /// The helper target with the image's folder, which `targets` share; `None` where they have
    /// several, or are not to share it.
    fn inputs(&self, targets: &[&Target], how: &ImageBake) -> Option<Value> {
        let mut folders = targets.iter().map(|target| target.variant_bake.get("context"));
        let folder = folders.next().filter(|_| how.shared_inputs)?;
        let inputs = json!({
            "context": folder.cloned().unwrap_or_else(|| json!(".")),
            "dockerfile-inline": "FROM scratch\nCOPY . /\n",
            "platforms": self.platforms,
            "output": ["type=cacheonly"],
        });
        folders.all(|other| other == folder).then_some(inputs)
    }
}

impl Target {
    /// Its tags, and those of its layer.
    pub fn all_tags(&self) -> impl Iterator<Item = &String> {
        self.tags.iter().chain(self.layer.iter().flat_map(|layer| &layer.tags))
    }

    /// Its build arguments, with their values as bake reads them.
    pub fn args(&self) -> BTreeMap<String, String> {
        let file = self.variant_bake.get("args").and_then(Value::as_object).into_iter().flatten();
        let file =
            file.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        let own = self.args.iter().map(|(name, value)| ((*name).to_owned(), escaped(value)));
        file.chain(own).collect()
    }
}

fn deliver(bake: &mut Map<String, Value>, cache_to: Value, tags: &[String], output: &str) {
    bake.insert("cache-to".to_owned(), cache_to);
    bake.insert("tags".to_owned(), json!(tags));
    bake.insert("output".to_owned(), json!([output]));
}

fn extend<'a>(
    bake: &mut Map<String, Value>,
    key: &str,
    entries: impl IntoIterator<Item = (&'a str, Value)>,
) {
    if let Value::Object(object) = bake.entry(key).or_insert_with(|| json!({})) {
        object.extend(entries.into_iter().map(|(name, value)| (name.to_owned(), value)));
    }
}

fn append(bake: &mut Map<String, Value>, key: &str, items: impl IntoIterator<Item = Value>) {
    if let Value::Array(list) = bake.entry(key).or_insert_with(|| json!([])) {
        list.extend(items);
    }
}

/// May `entry`, which the bake file has, be the cache that an import vertex calls `name`? It is
/// text or an object, and both hold a reference as it is.
fn is_read_as(entry: &Value, name: &str) -> bool {
    let entry = entry.to_string();
    entry.contains(name) || name.starts_with("local:") && entry.contains("local")
}

fn bake_file(
    targets: Vec<(String, Map<String, Value>)>,
    inputs: Option<Value>,
    steps_were_shown: bool,
) -> BakeFile {
    let names = targets.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let targets = targets.into_iter().map(|(name, target)| (name, Value::Object(target)));
    let helper = inputs.map(|inputs| (INPUTS.to_owned(), inputs));
    let all = targets.chain(helper).collect::<Map<_, _>>();
    let json = json!({ "group": { "default": { "targets": names } }, "target": all });
    BakeFile { json, targets: names, steps_were_shown }
}

pub fn literal(text: &str) -> Value {
    json!(escaped(text))
}

/// `text` as bake writes it. Bake reads every string as a template: a branch name may hold `${`.
fn escaped(text: &str) -> String {
    text.replace("${", "$${").replace("%{", "%%{")
}

#[cfg(test)]
#[path = "../../../../tests/unit/bake_file.rs"]
mod tests;
