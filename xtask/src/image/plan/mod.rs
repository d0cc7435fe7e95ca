//! From a request to what is built, tagged and cached: pure, so that `--print` shows the very thing
//! that a build hands to buildx.

pub mod bake_file;
pub mod cache;
pub mod inputs;
pub mod tag;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Map, Value};

use self::cache::Place;
use self::tag::Naming;
use crate::image::request::base_images::Shard;
use crate::image::request::definition::{Definition, Variant};
use crate::image::request::source::{Server, Source, UNKNOWN};
use crate::image::request::{Check, Delivery, Flavor, Mode, Request};
use base::error::usage;

/// A run, or the shard of one that was asked for.
pub struct Plan {
    pub targets: Vec<Target>,
    pub cache_mode: Mode,
    /// Which images have to start; none where the Dockerfile has no stage that starts them.
    pub check: Check,
    /// The Dockerfile's stage that is built.
    stage: String,
    /// The stage below it whose steps run on the base image.
    stage_below: Option<String>,
    /// Empty for the engine's own.
    platforms: Vec<String>,
    delivery: Delivery,
    ca_bundle: Option<String>,
    /// The named build context that the server is built from, and its folder.
    context: Option<(&'static str, PathBuf)>,
}

/// One image of a run.
pub struct Target {
    /// Its name in the bake definition.
    pub name: String,
    /// `None` where only a base image was asked for.
    pub variant: Option<String>,
    /// The variant that it is built as, also where only a base image was asked for.
    pub built_as: String,
    /// Whether its base image is the variant's own.
    pub has_own_base: bool,
    pub base_image: String,
    /// The custom tags that a list gives it.
    pub listed_tags: Vec<String>,
    /// Those that it has.
    custom_tags: Vec<String>,
    /// References, with the repository.
    pub tags: Vec<String>,
    /// The references of its multi-architecture manifest: the tags without architecture.
    pub manifest_tags: Vec<String>,
    /// What main calls this image, if the tag names one architecture and this is not main's.
    pub main_tag: Option<String>,
    /// The tags that name a release, without repository, architecture and target, as jobs read
    /// them.
    pub release_tags: Vec<String>,
    /// Where its cache is read from and written to.
    pub cache_read: Vec<Place>,
    pub cache_written: Vec<Place>,
    /// The layer on top of it.
    pub layer: Option<Layer>,
    /// A digest of what goes into it.
    pub inputs: String,
    /// A base image whose digest is not known, so that `inputs` has its name alone.
    pub unknown_base: Option<String>,
    /// The build arguments that the request decides, as text.
    args: Vec<(&'static str, String)>,
    labels: Vec<(&'static str, String)>,
    /// What the bake file says of its variant.
    variant_bake: Map<String, Value>,
}

/// An image that is made of a target's image in the same bake.
pub struct Layer {
    folder: PathBuf,
    /// References, with the repository.
    pub tags: Vec<String>,
}

/// A variant on a base image.
struct Choice<'a> {
    name: String,
    /// The name of the variant where that is what was asked for, and not only a base image.
    variant_name: Option<&'a String>,
    built_as: &'a String,
    variant: &'a Variant,
    base_image: &'a str,
    /// Those that a list gives this image alone.
    custom_tags: &'a [String],
}

impl Plan {
    /// Finds out tags, caches and arguments of every image.
    /// Errors: a usage error for a name that the definition does not have, and for a request in
    /// which two images would get the same tag.
    pub fn new(request: &Request, definition: &Definition, source: &Source) -> Result<Self> {
        check_name("target", &request.target, definition.stages.iter().map(|stage| &stage.name))?;
        let can_check = definition.checkable.contains(&request.target);
        let choices = choices(request, definition)?;
        let mut targets = Vec::new();
        for choice in &choices {
            for platform in &request.platforms {
                check_name("platform", platform, choice.variant.platforms.iter())?;
            }
            // One target writes the shared cache, or all would write the same tag at once.
            let writes_shared = request.shared_export && targets.is_empty();
            // An export replaces a folder's index, so each target needs its own folder.
            let folder = request.cache_dir.as_ref().map(|folder| match choices.len() {
                1 => folder.clone(),
                _ => format!("{folder}/{}", choice.name),
            });
            let mut target = Target::new(request, source, choice, writes_shared, folder);
            target.inputs = target.digest(request, definition, source);
            target.set_tags(request, source);
            targets.push(target);
        }
        let mut plan = Plan {
            targets,
            cache_mode: request.cache_mode,
            check: if can_check { request.check } else { Check::Off },
            stage: request.target.clone(),
            stage_below: definition.stage_below(&request.target).map(str::to_owned),
            platforms: request.platforms.clone(),
            delivery: request.delivery,
            ca_bundle: request.ca_bundle.clone(),
            context: source.folder.clone().map(|folder| (source.server.context(), folder)),
        };
        plan.check_names()?;
        // Only now, so that tags, names and the writer of the shared cache are the same in every
        // shard, and a request is refused by all jobs of a run or by none.
        if let Some(shard) = request.shard {
            plan.cut(shard);
        }
        Ok(plan)
    }

    /// Keeps the targets that are `shard`'s. The cut depends on the names alone: jobs that list the
    /// same base images in different orders still miss none. Neighbours, which are often much
    /// alike, go to different shards.
    fn cut(&mut self, shard: Shard) {
        let names = self.targets.iter().map(|target| target.name.clone()).collect::<BTreeSet<_>>();
        let own = names.into_iter().skip(shard.number - 1).step_by(shard.of);
        let own = own.collect::<BTreeSet<_>>();
        self.targets.retain(|target| own.contains(&target.name));
    }

    /// Builds for no platform but this one.
    pub fn narrow(&mut self, platform: &str) {
        self.platforms = vec![platform.to_owned()];
    }

    /// Takes away every cache that was to be written; says whether there was any.
    pub fn drop_exports(&mut self) -> bool {
        let mut dropped = false;
        for target in &mut self.targets {
            dropped |= !target.cache_written.is_empty();
            target.cache_written.clear();
        }
        dropped
    }

    /// A tag names one image, and a target's name one target: the second would silently replace
    /// the first in the registry or in the definition.
    fn check_names(&self) -> Result<()> {
        let mut owners = BTreeMap::new();
        for target in &self.targets {
            for name in [&target.name].into_iter().chain(target.all_tags()) {
                if let Some(first) = owners.insert(name, target) {
                    return Err(usage(format!(
                        "the targets {:?} on {} and {:?} on {} would both be {name}: leave out \
                         --variant, --custom-tags or one of the base images.",
                        first.name, first.base_image, target.name, target.base_image
                    )));
                }
            }
        }
        Ok(())
    }
}

impl Target {
    fn new(
        request: &Request,
        source: &Source,
        choice: &Choice,
        writes_shared: bool,
        folder: Option<String>,
    ) -> Self {
        let own_tag = choice.variant_name.map(std::slice::from_ref).unwrap_or_default();
        let custom_tags = match choice.custom_tags {
            [] => request.custom_tags.as_deref().unwrap_or(own_tag),
            listed => listed,
        };
        let naming = naming(request, source, &source.sha, choice.base_image, custom_tags);
        let folder = Vec::from_iter(folder.map(Place::Folder));
        let (cache_read, mut cache_written) = match (request.delivery, request.ci) {
            (Delivery::Push, _) => (naming.caches_read(), naming.caches_written(writes_shared)),
            // A fork's pull request reads what others wrote and writes nothing.
            (Delivery::Load, true) => (naming.caches_read(), Vec::new()),
            (Delivery::Load, false) => (folder.clone(), folder),
        };
        if request.cache_mode == Mode::Off {
            cache_written.clear();
        }
        Target {
            name: choice.name.clone(),
            variant: choice.variant_name.cloned(),
            built_as: choice.built_as.clone(),
            has_own_base: choice.base_image == choice.variant.base_image,
            base_image: choice.base_image.to_owned(),
            listed_tags: choice.custom_tags.to_vec(),
            custom_tags: custom_tags.to_vec(),
            tags: Vec::new(),
            layer: None,
            main_tag: naming.main_tag().map(|tag| format!("{}:{tag}", request.image)),
            manifest_tags: Vec::new(),
            release_tags: Naming { arch: None, target: "binary", ..naming }.release_tags(),
            cache_read,
            cache_written,
            inputs: String::new(),
            unknown_base: None,
            args: args(request, source, choice.base_image),
            labels: labels(request, source, choice.base_image),
            variant_bake: choice.variant.bake.clone(),
        }
    }
}

/// What the names of an image on `base_image` are made of. `sha` is the commit, or what stands in
/// its place.
fn naming<'a>(
    request: &'a Request,
    source: &'a Source,
    sha: &'a str,
    base_image: &'a str,
    custom_tags: &'a [String],
) -> Naming<'a> {
    Naming {
        cache_image: request.cache_image.as_ref().unwrap_or(&request.image),
        sha,
        git_ref: &source.git_ref,
        version: request.versioned_tag.then(|| version(request, source)),
        base_image,
        custom_tags,
        flavor: request.flavor,
        arch: request.arch.as_deref(),
        target: &request.target,
    }
}

fn args(request: &Request, source: &Source, base_image: &str) -> Vec<(&'static str, String)> {
    let providers = match request.flavor {
        Flavor::Default => request.acp_providers.join(","),
        Flavor::Slim | Flavor::Minimal => String::new(),
    };
    let mut args = vec![
        ("BASE_IMAGE", base_image.to_owned()),
        ("IMAGE_FLAVOR", request.flavor.name().to_owned()),
        ("INSTALL_CAPABILITIES", request.capabilities.join(",")),
        ("INSTALL_ACP_PROVIDERS", providers),
        ("SERVER", source.server.name().to_owned()),
        ("OPENHANDS_BUILD_GIT_SHA", source.sha.clone()),
        ("OPENHANDS_BUILD_GIT_REF", source.git_ref.clone()),
    ];
    args.extend(request.proxies.iter().cloned());
    args
}

fn version<'a>(request: &'a Request, source: &'a Source) -> &'a str {
    request.version.as_deref().unwrap_or_else(|| source.version())
}

/// The labels that differ from run to run; the bake file has the others. What is not known has no
/// label.
fn labels(request: &Request, source: &Source, base_image: &str) -> Vec<(&'static str, String)> {
    let known = |text: &str| Some(text.to_owned()).filter(|text| text != UNKNOWN);
    let is_checkout = source.server == Server::Checkout;
    let labels = [
        ("org.opencontainers.image.version", known(version(request, source))),
        ("org.opencontainers.image.revision", known(&source.sha)),
        ("org.opencontainers.image.ref.name", known(&source.git_ref)),
        ("org.opencontainers.image.created", source.created.clone()),
        ("org.opencontainers.image.base.name", Some(base_image.to_owned())),
        ("dev.openhands.packages", Some(source.package_list())),
        ("dev.openhands.dirty", is_checkout.then(|| source.is_dirty.to_string())),
    ];
    labels.into_iter().filter_map(|(name, text)| Some((name, text?))).collect()
}

/// The variants that are asked for by name, by `all`, or by naming none.
/// Errors: a usage error for a name that the definition does not have.
pub fn variants<'a>(asked: &'a [String], definition: &'a Definition) -> Result<Vec<&'a String>> {
    for name in asked.iter().filter(|name| *name != "all") {
        check_name("variant", name, definition.variants.keys())?;
    }
    Ok(match asked {
        [] => definition.default_variants.iter().collect(),
        asked if asked.iter().any(|name| name == "all") => definition.variants.keys().collect(),
        asked => asked.iter().collect(),
    })
}

/// The variants of a request, each on each of its base images.
fn choices<'a>(request: &'a Request, definition: &'a Definition) -> Result<Vec<Choice<'a>>> {
    // A variant's name tags its image where a variant is what was asked for: not where only a
    // base image was, nor where several would share the name.
    let base_images = request.base_images.as_slice();
    let by_variant = match base_images.len() {
        0 => true,
        1 => !request.variants.is_empty(),
        _ => false,
    };
    let mut choices = Vec::new();
    for name in variants(&request.variants, definition)? {
        let variant = &definition.variants[name];
        let own = (variant.base_image.as_str(), [].as_slice());
        let own = base_images.is_empty().then_some(own);
        let asked = base_images.iter().map(|base| (base.reference.as_str(), &*base.custom_tags));
        choices.extend(own.into_iter().chain(asked).map(|(base_image, custom_tags)| {
            let variant_name = by_variant.then_some(name);
            let name_of_base = || target_name(name, base_image);
            Choice {
                name: variant_name.cloned().unwrap_or_else(name_of_base),
                variant,
                variant_name,
                built_as: name,
                base_image,
                custom_tags,
            }
        }));
    }
    tell_apart(&mut choices);
    Ok(choices)
}

/// Closes names that are alike, as those of `a.b` and `a_b` are, with a digest. The others keep
/// the name that people know.
fn tell_apart(choices: &mut [Choice]) {
    let mut counts = BTreeMap::new();
    for choice in &*choices {
        *counts.entry(choice.name.clone()).or_insert(0) += 1;
    }
    for choice in choices {
        if counts.get(&choice.name).is_some_and(|&count| count > 1) {
            choice.name = tag::closed(&choice.name, choice.base_image);
        }
    }
}

/// A name for the bake target of `variant` on `base_image`. Bake takes neither dots nor `+`.
fn target_name(variant: &str, base_image: &str) -> String {
    let name = tag::valid(format!("{variant}-{}", tag::slug(base_image)), base_image);
    name.replace('.', "_")
}

/// Fails unless `name` is one of `accepted`; `kind` is what it should be the name of.
/// Errors: a usage error that lists what is accepted.
pub fn check_name<'a>(
    kind: &str,
    name: &str,
    accepted: impl Iterator<Item = &'a String>,
) -> Result<()> {
    let accepted = accepted.map(String::as_str).collect::<Vec<_>>();
    if accepted.contains(&name) {
        return Ok(());
    }
    let names = accepted.join(", ");
    Err(usage(format!("there is no {kind} {name:?}: use one of {names}.")))
}

/// The architecture of a platform as tags and jobs name it: `linux/arm64` is `arm64`.
pub fn arch(platform: &str) -> String {
    let after_os = platform.split_once('/').map_or(platform, |(_, arch)| arch);
    after_os.replace('/', "-")
}
