//! Build information: what a finished, pushed image is, one JSON file for each target and
//! architecture. `image merge` and `image summary` read it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::image::build::buildx::Docker;
use crate::image::build::images::ImagesBaked;
use crate::image::build::registry::{self, Content};
use crate::image::build::trace::Step;
use crate::image::plan::cache::Place;
use crate::image::plan::tag;
use crate::image::plan::{Target, arch};
use crate::image::request::source::Source;
use crate::image::request::{Delivery, Request};
use base::error::usage;
use base::output;

/// The version of the format. Readers refuse another.
const SCHEMA: u64 = 1;

/// What a file is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// One image, of one architecture.
    #[default]
    Image,
    /// The manifest that `image merge` made of several images.
    Manifest,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::Image, Kind::Manifest];

    fn name(self) -> &'static str {
        match self {
            Kind::Image => "image",
            Kind::Manifest => "manifest",
        }
    }
}

/// A pushed image or manifest.
#[derive(Clone, Default)]
pub struct BuildInfo {
    pub kind: Kind,
    /// `None` where only a base image was asked for.
    pub variant: Option<String>,
    /// `None` for the default.
    pub flavor: Option<String>,
    pub target: String,
    pub base_image: String,
    /// The repository.
    pub image: String,
    pub git_ref: String,
    pub sha: String,
    pub short_sha: String,
    /// As buildx writes them, such as `linux/arm64`: one for an image, at least one for a manifest.
    pub platforms: Vec<String>,
    /// As tags and jobs name the platforms, such as `arm64`.
    pub arches: Vec<String>,
    /// References.
    pub tags: Vec<String>,
    /// The references of the manifest that an image is to be part of.
    pub manifest_tags: Vec<String>,
    /// `None` where the registry or the engine did not report it.
    pub digest: Option<String>,
    /// The compressed size of an image; `None` where the registry did not say.
    pub bytes: Option<u64>,
    /// The same of main's image when this one was pushed; `None` on main too.
    pub main_bytes: Option<u64>,
    /// In which something was done for the image, its caches aside.
    pub seconds: Option<u64>,
    pub steps: Option<u64>,
    pub cached_steps: Option<u64>,
    /// What the image got as server.
    pub server: Option<String>,
    /// The platforms that a manifest should have, and has no image for.
    pub missing: Vec<String>,
    /// The caches of an image.
    pub cache_read: Vec<String>,
    pub cache_written: Vec<String>,
}

impl BuildInfo {
    /// Reads a file that [`BuildInfo::save`] wrote. A usage error for one that can't be read, is of
    /// another schema, or lacks something.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.to_string_lossy();
        let wrong = |what: String| usage(format!("{name:?}: {what}"));
        let text = output::load(path).map_err(|error| wrong(format!("{error}.")))?;
        let json: Value = serde_json::from_slice(&text)
            .map_err(|error| wrong(format!("it is no build information: {error}.")))?;
        if json["schema"] != SCHEMA {
            return Err(wrong(format!(
                "its schema is {}, but this task reads {SCHEMA}: build it again with this version.",
                json["schema"]
            )));
        }
        let no_field =
            |key: &str| wrong(format!("it is no build information: its {key:?} is {}.", json[key]));
        let kind = Kind::ALL.into_iter().find(|kind| json["kind"] == kind.name());
        let kind = kind.ok_or_else(|| no_field("kind"))?;
        let mut info = BuildInfo { kind, ..BuildInfo::default() };
        for (key, field) in info.fields() {
            field.read(&json[key]).ok_or_else(|| no_field(key))?;
        }
        Ok(info)
    }

    /// Writes this to `path`.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut json = json!({ "schema": SCHEMA, "kind": self.kind.name() });
        for (key, field) in self.clone().fields() {
            json[key] = field.json();
        }
        output::save(path, format!("{json:#}\n"))
    }

    /// The fields of the file.
    fn fields(&mut self) -> Vec<(&'static str, Field<'_>)> {
        let mut fields = vec![
            ("variant", Field::Optional(&mut self.variant)),
            ("flavor", Field::Optional(&mut self.flavor)),
            ("target", Field::Text(&mut self.target)),
            ("base_image", Field::Text(&mut self.base_image)),
            ("image", Field::Text(&mut self.image)),
            ("git_ref", Field::Text(&mut self.git_ref)),
            ("sha", Field::Text(&mut self.sha)),
            ("short_sha", Field::Text(&mut self.short_sha)),
            ("tags", Field::List(&mut self.tags)),
            ("digest", Field::Optional(&mut self.digest)),
        ];
        fields.extend(match self.kind {
            Kind::Image => vec![
                ("platform", Field::One(&mut self.platforms)),
                ("arch", Field::One(&mut self.arches)),
                ("manifest_tags", Field::List(&mut self.manifest_tags)),
                ("bytes", Field::Number(&mut self.bytes)),
                ("main_bytes", Field::Number(&mut self.main_bytes)),
                ("seconds", Field::Number(&mut self.seconds)),
                ("steps", Field::Number(&mut self.steps)),
                ("cached_steps", Field::Number(&mut self.cached_steps)),
                ("server", Field::Optional(&mut self.server)),
                ("cache_read", Field::List(&mut self.cache_read)),
                ("cache_written", Field::List(&mut self.cache_written)),
            ],
            Kind::Manifest => vec![
                ("platforms", Field::List(&mut self.platforms)),
                ("arches", Field::List(&mut self.arches)),
                ("missing", Field::List(&mut self.missing)),
            ],
        });
        fields
    }
}

/// A field of the file, and where its value is kept.
enum Field<'a> {
    Text(&'a mut String),
    Optional(&'a mut Option<String>),
    Number(&'a mut Option<u64>),
    /// A text, kept as a list of one.
    One(&'a mut Vec<String>),
    /// Empty where it is missing.
    List(&'a mut Vec<String>),
}

impl Field<'_> {
    /// Takes over `value`; `None` if it is of another type.
    fn read(self, value: &Value) -> Option<()> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match self {
            Field::Optional(_) | Field::List(_) | Field::Number(_) if value.is_null() => {}
            Field::Number(field) => *field = Some(value.as_u64()?),
            Field::Text(field) => *field = text(value)?,
            Field::Optional(field) => *field = Some(text(value)?),
            Field::One(field) => *field = vec![text(value)?],
            Field::List(field) => {
                *field = value.as_array()?.iter().map(text).collect::<Option<_>>()?;
            }
        }
        Some(())
    }

    fn json(self) -> Value {
        match self {
            Field::Text(field) => json!(field),
            Field::Optional(field) => json!(field),
            Field::Number(field) => json!(field),
            Field::One(field) => json!(field.first()),
            Field::List(field) => json!(field),
        }
    }
}

/// A usage error where the path of `--build-info` is no folder, but several files go there.
pub fn check_path(path: &str, files: usize) -> Result<()> {
    if files > 1 && !is_folder(path) {
        return Err(usage(format!(
            "--build-info {path:?} is no folder, but there are {files} files to write: end it in \
             '/'."
        )));
    }
    Ok(())
}

fn is_folder(path: &str) -> bool {
    path.ends_with('/') || Path::new(path).is_dir()
}

/// An image that was pushed, and the client that reaches its registry.
pub struct Pushed<'a> {
    pub docker: &'a Docker,
    pub platforms: &'a [String],
    pub digest: Option<&'a str>,
    /// `None` where it was there before the run.
    pub baked: Option<&'a ImagesBaked>,
}

/// Writes what `--build-info` asks for, a file for each platform of the pushed `target`. Fails if
/// the registry does not return the manifest of a platform.
pub fn write(request: &Request, source: &Source, target: &Target, pushed: &Pushed) -> Result<()> {
    // A fork's pull request is built by the same command, and pushes nothing.
    let (Some(path), Delivery::Push) = (&request.build_info, request.delivery) else {
        return Ok(());
    };
    let names = |places: &[Place]| places.iter().map(|place| place.name().to_owned()).collect();
    let steps = pushed.baked.and_then(|baked| baked.steps(&target.name));
    let seconds = pushed.baked.and_then(|baked| baked.seconds(&target.name)).map(f64::round);
    let seconds = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let is_cached = |step: &&Step| step.cached == Some(true);
    for platform in pushed.platforms {
        let arch = request.arch.clone().unwrap_or_else(|| arch(platform));
        let flavor = request.flavor.suffix();
        let digest = digest_for(request, platform, pushed)?;
        let file = format!("{}{flavor}-{arch}.json", target.name);
        let file = if is_folder(path) { Path::new(path).join(file) } else { path.into() };
        // The run that pushed it knows more of it.
        let is_told = |old: BuildInfo| old.digest == digest && old.tags == target.tags;
        if pushed.baked.is_none() && BuildInfo::read(&file).is_ok_and(is_told) {
            continue;
        }
        let reference = digest.as_ref().map(|digest| format!("{}@{digest}", request.image));
        let main = target.main_tag.as_ref();
        let references = reference.iter().chain(main).cloned().collect();
        let contents = registry::contents(pushed.docker, &references);
        let bytes = |name: Option<&String>| contents.get(name?).map(Content::bytes);
        let info = BuildInfo {
            kind: Kind::Image,
            variant: target.variant.clone(),
            flavor: flavor.strip_prefix('-').map(str::to_owned),
            target: request.target.clone(),
            base_image: target.base_image.clone(),
            image: request.image.clone(),
            git_ref: source.git_ref.clone(),
            sha: source.sha.clone(),
            short_sha: tag::short_sha(&source.sha).to_owned(),
            platforms: vec![platform.clone()],
            arches: vec![arch],
            tags: target.tags.clone(),
            manifest_tags: target.manifest_tags.clone(),
            digest,
            bytes: bytes(reference.as_ref()),
            main_bytes: bytes(main),
            seconds: seconds.map(|time| time.as_secs()),
            steps: steps.as_ref().map(|steps| steps.len() as u64),
            cached_steps: steps.as_ref().map(|steps| steps.iter().filter(is_cached).count() as u64),
            server: Some(source.describe()),
            missing: Vec::new(),
            cache_read: names(&target.cache_read),
            cache_written: names(&target.cache_written),
        };
        info.save(&file)?;
    }
    Ok(())
}

/// The digest of the image for one platform, which a list holds for each of several.
fn digest_for(request: &Request, platform: &str, pushed: &Pushed) -> Result<Option<String>> {
    let Some(digest) = pushed.digest else { return Ok(None) };
    if let [_] = pushed.platforms {
        return Ok(Some(digest.to_owned()));
    }
    let manifests = registry::manifests(pushed.docker, &format!("{}@{digest}", request.image))?;
    let manifest = manifests.into_iter().find(|manifest| manifest.platform == platform);
    let manifest =
        manifest.with_context(|| format!("the pushed {digest} has no image for {platform}."))?;
    Ok(Some(manifest.digest))
}
