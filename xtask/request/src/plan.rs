//! What is built, tagged and cached. [`plan`] is pure, and nobody edits what it returns. `--print` shows it, and
//! every bake is taken from it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Result;
use base::digest::sha256;
use base::error::usage;
use serde_json::{Map, Value, json};

use crate::bases::BaseImage;
use crate::cli::{Args, Check, Flavor, Mode, TagBy, split};
use crate::definition::{self, CHECK, Variant, check_name};
use crate::facts::Facts;
use crate::names::{self, Cache, Naming};
use crate::source::UNKNOWN;

/// One image of a run.
pub struct Image {
    /// Its name in the bake definition.
    pub name: String,
    /// Its name for people: the variant or base image that they asked for.
    pub shown: String,
    /// `None` where only a base image was asked for.
    pub variant: Option<String>,
    /// True where its base image is the variant's own.
    pub has_own_base: bool,
    pub base_image: String,
    pub base_digest: Option<String>,
    /// What it is built for; empty where the builder is not known.
    pub platforms: Vec<String>,
    /// References, with the repository.
    pub tags: Vec<String>,
    /// The references of its multi-architecture manifest: the tags without architecture.
    pub manifest_tags: Vec<String>,
    /// What main calls this image, if the tag names one architecture and this is not main's.
    pub main_tag: Option<String>,
    /// The tags that name a release, without repository, architecture and target, as jobs read them.
    pub release_tags: Vec<String>,
    pub cache_read: Vec<Cache>,
    pub cache_written: Vec<Cache>,
    /// The tags of the layer on top of it; empty without one.
    pub layer_tags: Vec<String>,
    /// Once an image with this key has started, others are pushed unchecked; `None` for no check.
    pub check_key: Option<String>,
    /// A digest of what goes into it.
    pub inputs: String,
    /// A base image whose digest is not known, so that `inputs` has its name alone.
    pub unknown_base: Option<String>,
    mode: Mode,
    /// Its bake target without caches, and its layer's with the name of that.
    target: Value,
    layer: Option<(String, Value)>,
}

/// The label that holds [`Image::inputs`].
pub const INPUTS_LABEL: &str = "dev.openhands.inputs";

/// How layers are compressed. A third of the time of the default level, 6, is saved by 2 % more bytes.
const COMPRESSION: &str = "compression=gzip,compression-level=4,force-compression=true";

/// The providers of the pinned release's catalog. A checkout's own catalog may have others.
const PROVIDERS: [&str; 6] = ["claude-code", "codex", "gemini-cli", "kimi-code", "opencode", "pi"];

/// A variant on a base image.
struct Choice<'a> {
    name: String,
    built_as: &'a String,
    variant: &'a Variant,
    /// True where the variant was asked for, and not only a base image.
    is_named: bool,
    base: BaseImage,
}

/// The images of a run, or of the shard of one that was asked for.
/// Errors: a usage error for a name that there is not, and for a tag that two images would get.
pub fn plan(args: &Args, facts: &Facts) -> Result<Vec<Image>> {
    for provider in args.acp_providers.iter().filter(|_| facts.source.folder.is_none()) {
        check_name("ACP provider", provider, PROVIDERS.into_iter())?;
    }
    // A variant's name tags its image unless only a base image was asked for, or several would share it.
    let is_named =
        args.base_images.is_empty() || args.base_images.len() == 1 && !args.variant.is_empty();
    let mut choices: Vec<Choice> = Vec::new();
    for (built_as, variant) in facts.definition.chosen(&args.variant)? {
        let own = BaseImage { reference: variant.base_image.clone(), custom_tags: Vec::new() };
        let bases = if args.base_images.is_empty() { vec![own] } else { args.base_images.clone() };
        for base in bases {
            let name = format!("{built_as}-{}", names::slug(&base.reference));
            // Bake takes neither dots nor `+`.
            let name = names::valid(name, &base.reference).replace('.', "_");
            let name = if is_named { built_as.clone() } else { name };
            choices.push(Choice { name, built_as, variant, is_named, base });
        }
    }
    // Names that are alike, as those of `a.b` and `a_b` are, end in a digest.
    let names = choices.iter().map(|choice| choice.name.clone()).collect::<Vec<_>>();
    let is_shared =
        |choice: &&mut Choice| names.iter().filter(|name| **name == choice.name).count() > 1;
    for choice in choices.iter_mut().filter(is_shared) {
        choice.name = names::with_digest(&choice.name, &choice.base.reference);
    }
    let images = choices.iter().map(|choice| image(args, facts, &choices, choice));
    let mut images = images.collect::<Vec<_>>();
    // The second would silently replace the first in the registry or in the definition.
    let mut owners = BTreeMap::<_, &Image>::new();
    for image in &images {
        for name in [&image.name].into_iter().chain(image.all_tags()) {
            if let Some(first) = owners.insert(name, image) {
                let (one, other) = (&first.shown, &image.shown);
                let hint = "leave out --variant, --custom-tags or one of the base images";
                let why =
                    format!("the images {one} and {other} would both be {name}\nhint: {hint}");
                return Err(usage(why));
            }
        }
    }
    // Only now, so that names, errors and the writer of the shared cache are the same in every shard. The
    // names alone decide, as jobs may list base images in different orders. Neighbours are often alike.
    if let Some((number, of)) = args.shard {
        let names = images.iter().map(|image| image.name.clone()).collect::<BTreeSet<_>>();
        let own = names.iter().skip(number - 1).step_by(of).collect::<BTreeSet<_>>();
        images.retain(|image| own.contains(&image.name));
    }
    Ok(images)
}

fn image(args: &Args, facts: &Facts, choices: &[Choice], choice: &Choice) -> Image {
    let (source, builder) = (&facts.source, facts.builder.as_ref());
    let BaseImage { reference: base_image, custom_tags } = &choice.base;
    let base = facts.bases.get(base_image);
    let exports_cache = builder.is_none_or(|builder| builder.exports_cache);
    let variant = choice.is_named.then(|| choice.built_as.clone());
    let given = args.custom_tags.as_deref().map(split);
    let given = given.unwrap_or_else(|| variant.iter().cloned().collect());
    let version = args.version.as_ref().or(source.packages[0].1.as_ref());
    let version = version.map_or(UNKNOWN, String::as_str);
    let mut naming = Naming {
        cache_image: args.cache_image.as_deref().unwrap_or(&args.image),
        sha: &source.sha,
        git_ref: &source.git_ref,
        version: args.versioned_tag.then_some(version),
        base_image,
        custom_tags: if custom_tags.is_empty() { &given } else { custom_tags },
        flavor: args.flavor,
        arch: args.arch.as_deref(),
        target: &args.target,
    };

    // An export replaces a folder's index, so each image needs its own folder.
    let own_folder = |folder: &PathBuf| {
        let folder = if choices.len() == 1 { folder.clone() } else { folder.join(&choice.name) };
        Cache::Folder(folder.to_string_lossy().into_owned())
    };
    let folder = Vec::from_iter(args.cache_dir.as_ref().map(own_folder));
    // One image writes the shared cache, or all would write the same tag at once.
    let is_writer = || choices.iter().all(|other| choice.name <= other.name);
    let (cache_read, mut cache_written) = match (args.push, args.ci) {
        (true, _) => {
            (naming.caches_read(), naming.caches_written(args.shared_export && is_writer()))
        }
        // A fork's pull request reads what others wrote and writes nothing.
        (false, true) => (naming.caches_read(), Vec::new()),
        (false, false) => (folder.clone(), folder),
    };
    if args.cache_mode == Mode::Off || !exports_cache {
        cache_written.clear();
    }

    let asked = &args.platforms;
    let platforms = match builder {
        // An engine runs its own platform, and older ones can't load another.
        Some(builder) if !args.push || asked.is_empty() => {
            let own = builder.runs.iter().find(|own| asked.is_empty() || asked.contains(own));
            own.or(asked.first()).into_iter().cloned().collect()
        }
        _ => asked.clone(),
    };

    let capabilities = args.capabilities.iter().map(|capability| capability.name());
    let providers = Some(args.acp_providers.join(",")).filter(|_| args.flavor == Flavor::Default);
    let own = json!({
        "target": args.target,
        "args": {
            "BASE_IMAGE": base_image,
            "TARGET": args.target,
            "IMAGE_FLAVOR": args.flavor.name(),
            "INSTALL_CAPABILITIES": capabilities.collect::<Vec<_>>().join(","),
            "INSTALL_ACP_PROVIDERS": providers.unwrap_or_default(),
            "SERVER": if source.folder.is_some() { "checkout" } else { "release" },
            "BUILDER_IMAGE": args.builder_image,
            "TOOLS_IMAGE": args.tools_image,
            "ENABLE_VERTEX": args.vertex.then_some("1"),
            "UPGRADE_PACKAGES": args.upgrade_packages.then_some("1"),
        },
        "labels": {
            "org.opencontainers.image.version": known(version),
            "org.opencontainers.image.base.name": base_image,
            "org.opencontainers.image.base.digest": base.map(|base| &base.digest),
            "dev.openhands.packages": source.package_list(),
        },
    });
    let mut target = with(choice.variant.bake.clone(), own);
    // `BUILDER_IMAGE` and the like are bases as well.
    let values = target["args"].as_object().into_iter().flatten();
    let bases = values.filter_map(|(_, value)| facts.needed.get(value.as_str()?));
    let bases = bases.map(|base| (base, facts.bases.get(base).map(|base| &base.digest)));
    let bases = bases.collect::<BTreeMap<_, _>>();
    let unknown_base = bases.iter().find(|base| base.1.is_none()).map(|base| (*base.0).clone());
    let is_by_content = args.tag_by == TagBy::Content;
    let is_attestation =
        |arg: &&String| arg.starts_with("--provenance") || arg.starts_with("--sbom");
    let inputs = json!({
        "files": facts.files,
        "server": source.files,
        "layer": facts.layer_files,
        "bake": target,
        "bases": bases,
        // All architectures of a multi-arch tag share one name, so the digest leaves the platform out.
        "platforms": if is_by_content && args.arch.is_some() { &[] } else { platforms.as_slice() },
        "bake_args": args.bake_args.iter().filter(is_attestation).collect::<Vec<_>>(),
    });
    let inputs = sha256(inputs.to_string());
    if is_by_content {
        naming.sha = inputs.get(..40).unwrap_or_default();
    }
    if builder.is_some() && (args.push || is_by_content) {
        target["labels"][INPUTS_LABEL] = json!(inputs);
    }

    // On containerd's store Docker's own builder can push by itself, without unpacking the image.
    let driver = builder.map_or("", |builder| &builder.driver);
    let stores = driver == "docker" && exports_cache;
    let output = match (builder, args.push) {
        (None, true) => "type=registry".to_owned(),
        // Docker's own builder would unpack every image and its base first, and an older buildx push it
        // twice. An empty value is true for BuildKit and says nothing to buildx.
        (_, true) if stores => format!("type=image,push=,store=false,{COMPRESSION}"),
        (_, true) => format!("type=registry,{COMPRESSION}"),
        // The image stays on this machine: what is compressed would be decompressed at once.
        (_, false) if stores || driver == "docker-container" => {
            "type=docker,compression=uncompressed".to_owned()
        }
        (_, false) => "type=docker".to_owned(),
    };
    let delivered = json!({
        "platforms": if asked.is_empty() { &[] } else { platforms.as_slice() },
        "output": [output],
        "secret": facts.host.secrets,
        "args": facts.host.proxies,
    });
    let references = |tags: Vec<String>| {
        tags.iter().map(|tag| format!("{}:{tag}", args.image)).collect::<Vec<_>>()
    };
    let tags = references(naming.tags());
    let of_commit = json!({
        "args": {
            "OPENHANDS_BUILD_GIT_SHA": source.sha,
            "OPENHANDS_BUILD_GIT_REF": source.git_ref,
        },
        "labels": {
            "org.opencontainers.image.revision": known(&source.sha),
            "org.opencontainers.image.ref.name": known(&source.git_ref),
            "org.opencontainers.image.created": source.created,
            "dev.openhands.dirty": source.checkout.as_ref().map(|_| source.is_dirty.to_string()),
        },
        "contexts": source.folder.as_ref().map(|folder| json!({ "sdk": folder.to_string_lossy() })),
        "tags": tags,
    });
    let target = with(with(target, delivered.clone()), of_commit);
    let mut layer_tags = Vec::new();
    let layer = args.layer.as_ref().map(|folder| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let suffix = args.layer_tag.as_deref().unwrap_or(&name);
        let with_suffix = |tag: &String| names::valid(format!("{tag}-{suffix}"), tag);
        layer_tags = references(naming.tags().iter().map(with_suffix).collect());
        let layer = json!({
            "context": folder.to_string_lossy(),
            "contexts": { "finished-image": format!("target:{}", choice.name) },
            "args": { "BASE_IMAGE": "finished-image" },
            "tags": layer_tags,
            "cache-to": [],
        });
        (layer_name(&choice.name), with(delivered, layer))
    });
    let system = base.and_then(|base| base.system.as_deref()).unwrap_or(base_image);
    let check_key = match args.check() {
        _ if !(facts.definition.has_check && definition::has_server(&args.target)) => None,
        Check::All => Some(choice.name.clone()),
        Check::First => Some(format!("{} {system}", choice.built_as)),
        Check::Off => None,
    };
    Image {
        name: choice.name.clone(),
        shown: match &variant {
            Some(name) if args.base_images.is_empty() => name.clone(),
            Some(name) => format!("{name} on {base_image}"),
            None => base_image.to_owned(),
        },
        variant,
        has_own_base: *base_image == choice.variant.base_image,
        base_image: base_image.to_owned(),
        base_digest: base.map(|base| base.digest.clone()),
        platforms,
        main_tag: naming.main_tag().map(|tag| format!("{}:{tag}", args.image)),
        release_tags: Naming { arch: None, target: "binary", ..naming }.release_tags(),
        manifest_tags: references(Naming { arch: None, ..naming }.tags()),
        tags,
        cache_read,
        cache_written,
        layer_tags,
        check_key,
        inputs,
        unknown_base,
        mode: args.cache_mode,
        target,
        layer,
    }
}

fn known(text: &str) -> Option<&str> {
    Some(text).filter(|text| *text != UNKNOWN)
}

/// The name of the target of the layer on the image `name`.
pub fn layer_name(name: &str) -> String {
    format!("{name}_layer")
}

/// `images` as one bake definition, as `--print` shows it.
pub fn print(images: &[Image]) -> Value {
    bake(images.iter().flat_map(|image| {
        let written = image.cache_written.iter().map(|cache| cache.write_entry(image.mode));
        let written = json!({ "cache-to": written.collect::<Vec<_>>() });
        image.with_layer(with(image.cached(&BTreeSet::new()), written))
    }))
}

impl Image {
    /// Its tags, and those of its layer.
    pub fn all_tags(&self) -> impl Iterator<Item = &String> {
        self.tags.iter().chain(&self.layer_tags)
    }

    /// Its build arguments but for those of the commit, with their values as bake reads them.
    pub fn build_args(&self) -> BTreeMap<String, String> {
        let args = self.target["args"].as_object().into_iter().flatten();
        let args = args.filter(|(name, _)| !name.starts_with("OPENHANDS_BUILD_GIT_"));
        args.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
    }

    /// The bake that delivers the image and its layer, without the caches that `BuildKit` calls `without`.
    pub fn bake(&self, without: &BTreeSet<String>) -> Value {
        bake(self.with_layer(self.cached(without)))
    }

    /// The bake that starts the image, and meanwhile makes what a push then sends.
    pub fn check(&self, without: &BTreeSet<String>) -> Value {
        let check = self.unnamed(without, json!({ "target": CHECK }));
        let output = self.target["output"][0].as_str().filter(|output| output.contains("push="));
        let output = output.map(|output| output.replace("push=,", ""));
        let output = output.unwrap_or_else(|| "type=cacheonly".to_owned());
        let image = self.unnamed(without, json!({ "output": [output] }));
        bake([(format!("{}_check", self.name), check), (self.name.clone(), image)])
    }

    /// The bake that runs the steps on the base, and keeps nothing; `None` where there are none.
    pub fn steps_on_base(&self, without: &BTreeSet<String>) -> Option<Value> {
        let stage = definition::stage_below(self.target["target"].as_str()?)?;
        Some(bake([(self.name.clone(), self.unnamed(without, json!({ "target": stage })))]))
    }

    /// The bake that writes one of the image's caches to the place `to`, and nothing else.
    pub fn export(&self, to: &Cache, without: &BTreeSet<String>) -> Value {
        let written = json!({ "cache-to": [to.export_entry(self.mode)] });
        bake([(self.name.clone(), self.unnamed(without, written))])
    }

    /// Its target without the caches in `unread`, and with none to write: that is a bake of its own.
    fn cached(&self, unread: &BTreeSet<String>) -> Value {
        let is_read = |cache: &&Cache| !unread.iter().any(|name| cache.is_read_as(name));
        let read = self.cache_read.iter().filter(is_read).map(|cache| cache.entry("src"));
        let read = read.collect::<Vec<_>>();
        with(self.target.clone(), json!({ "cache-from": read, "cache-to": [] }))
    }

    /// Its target with these `changes`, delivered nowhere unless they say so.
    fn unnamed(&self, unread: &BTreeSet<String>, changes: Value) -> Value {
        let target = json!({ "tags": [], "output": ["type=cacheonly"] });
        with(with(self.cached(unread), target), changes)
    }

    /// Its `target` and its layer's, by name.
    fn with_layer(&self, target: Value) -> impl Iterator<Item = (String, Value)> {
        [(self.name.clone(), target)].into_iter().chain(self.layer.clone())
    }
}

/// A bake of `targets`, by name, as buildx gets it on standard input.
fn bake(targets: impl IntoIterator<Item = (String, Value)>) -> Value {
    let (names, all): (Vec<_>, Map<_, _>) =
        targets.into_iter().map(|target| (target.0.clone(), target)).unzip();
    json!({ "group": { "default": { "targets": names } }, "target": all })
}

/// `target` with `changes`, which are not written for bake yet.
fn with(mut target: Value, changes: Value) -> Value {
    definition::merge(&mut target, literal(changes));
    target
}

/// `value` without what is null, for bake. It reads every string as a template, and a branch may hold `${`.
fn literal(value: Value) -> Value {
    match value {
        Value::String(text) => json!(text.replace("${", "$${").replace("%{", "%%{")),
        Value::Array(items) => items.into_iter().map(literal).collect(),
        Value::Object(map) => {
            let known = map.into_iter().filter(|(_, value)| !value.is_null());
            known.map(|(name, value)| (name, literal(value))).collect()
        }
        value => value,
    }
}

/// The architecture of a platform as tags and jobs name it: `linux/arm64` is `arm64`.
pub fn arch(platform: &str) -> String {
    let after_os = platform.split_once('/').map_or(platform, |(_, arch)| arch);
    after_os.replace('/', "-")
}
