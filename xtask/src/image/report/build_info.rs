//! Build information: what a finished, pushed image is, one JSON file for each target and
//! architecture. `image merge` and `image summary` read it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::error::usage;
use crate::image::build::buildx::Docker;
use crate::image::build::registry;
use crate::image::plan::cache;
use crate::image::plan::tag;
use crate::image::plan::{Target, arch};
use crate::image::request::Request;
use crate::image::request::source::Source;
use crate::output;

/// The version of the format. Readers refuse another.
const SCHEMA: u64 = 1;

/// What a file is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One image, of one architecture.
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

/// A machine that an image runs on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Machine {
    /// As buildx writes it: `linux/arm64`.
    pub platform: String,
    /// As tags and jobs name it: `arm64`.
    pub arch: String,
}

/// A pushed image or manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct BuildInfo {
    pub kind: Kind,
    /// `None` where only a base image was asked for.
    pub variant: Option<String>,
    pub target: String,
    pub base_image: String,
    /// The repository.
    pub image: String,
    pub git_ref: String,
    pub sha: String,
    pub short_sha: String,
    /// One for an image, at least one for a manifest.
    pub machines: Vec<Machine>,
    /// References.
    pub tags: Vec<String>,
    /// The references of the manifest that an image is to be part of.
    pub manifest_tags: Vec<String>,
    /// `None` where the registry or the engine did not report it.
    pub digest: Option<String>,
    /// The caches of an image.
    pub cache_read: Vec<String>,
    pub cache_written: Vec<String>,
}

impl BuildInfo {
    /// Reads a file that [`BuildInfo::save`] wrote.
    ///
    /// # Errors
    /// A usage error for a file that can't be read, is of another schema, or lacks something.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.to_string_lossy();
        let wrong = |what: String| usage(format!("{name:?}: {what}"));
        let text = output::load(path).map_err(|error| wrong(format!("{error}.")))?;
        let info: Value = serde_json::from_slice(&text)
            .map_err(|error| wrong(format!("it is no build information: {error}.")))?;
        if info["schema"] != SCHEMA {
            return Err(wrong(format!(
                "its schema is {}, but this task reads {SCHEMA}: build it again with this version.",
                info["schema"]
            )));
        }
        Self::from_json(&info)
            .map_err(|error| wrong(format!("it is no build information: {error}")))
    }

    fn from_json(info: &Value) -> Result<Self> {
        let json = Fields(info);
        let kind = json.text("kind")?;
        let kind = Kind::ALL.into_iter().find(|known| known.name() == kind);
        let kind = kind.with_context(|| format!("its \"kind\" is {}.", info["kind"]))?;
        let machines = match kind {
            Kind::Image => {
                vec![Machine { platform: json.text("platform")?, arch: json.text("arch")? }]
            }
            Kind::Manifest => {
                let machines = json.texts("platforms")?.into_iter().zip(json.texts("arches")?);
                machines.map(|(platform, arch)| Machine { platform, arch }).collect()
            }
        };
        Ok(BuildInfo {
            kind,
            variant: json.optional("variant")?,
            target: json.text("target")?,
            base_image: json.text("base_image")?,
            image: json.text("image")?,
            git_ref: json.text("git_ref")?,
            sha: json.text("sha")?,
            short_sha: json.text("short_sha")?,
            machines,
            tags: json.texts("tags")?,
            manifest_tags: json.texts("manifest_tags")?,
            digest: json.optional("digest")?,
            cache_read: json.texts("cache_read")?,
            cache_written: json.texts("cache_written")?,
        })
    }

    fn to_json(&self) -> Value {
        let mut info = json!({
            "schema": SCHEMA,
            "kind": self.kind.name(),
            "variant": self.variant,
            "target": self.target,
            "base_image": self.base_image,
            "image": self.image,
            "git_ref": self.git_ref,
            "sha": self.sha,
            "short_sha": self.short_sha,
            "tags": self.tags,
            "digest": self.digest,
        });
        let mut set = |key: &str, value: Value| info[key] = value;
        let platforms = self.machines.iter().map(|machine| machine.platform.as_str());
        let arches = self.machines.iter().map(|machine| machine.arch.as_str());
        match self.kind {
            Kind::Image => {
                set("platform", platforms.collect::<String>().into());
                set("arch", arches.collect::<String>().into());
                set("manifest_tags", json!(self.manifest_tags));
                set("cache_read", json!(self.cache_read));
                set("cache_written", json!(self.cache_written));
            }
            Kind::Manifest => {
                set("platforms", platforms.collect());
                set("arches", arches.collect());
            }
        }
        info
    }

    /// Writes this to `path`.
    ///
    /// # Errors
    /// A file that can't be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        output::save(path, format!("{:#}\n", self.to_json()))
    }

    /// The platforms, separated by commas.
    pub fn platforms(&self) -> String {
        let platforms = self.machines.iter().map(|machine| machine.platform.as_str());
        platforms.collect::<Vec<_>>().join(",")
    }
}

/// The fields of a JSON object. A list that is missing is empty.
struct Fields<'a>(&'a Value);

impl Fields<'_> {
    fn text(&self, key: &str) -> Result<String> {
        self.optional(key)?.with_context(|| format!("it has no {key:?}."))
    }

    fn optional(&self, key: &str) -> Result<Option<String>> {
        match &self.0[key] {
            Value::Null => Ok(None),
            value => text(key, value).map(Some),
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<String>> {
        match &self.0[key] {
            Value::Null => Ok(Vec::new()),
            value => {
                let list = value.as_array();
                let list = list.with_context(|| format!("its {key:?} is {value}, not a list."))?;
                list.iter().map(|value| text(key, value)).collect()
            }
        }
    }
}

fn text(key: &str, value: &Value) -> Result<String> {
    let text = value.as_str().map(str::to_owned);
    text.with_context(|| format!("its {key:?} is {value}, not a string."))
}

/// Where `--build-info` goes.
pub struct Place {
    path: PathBuf,
    is_folder: bool,
}

impl Place {
    /// # Errors
    /// A usage error for a path that is no folder where several files are to be written.
    pub fn new(path: &str, files: usize) -> Result<Self> {
        let is_folder = path.ends_with('/') || Path::new(path).is_dir();
        if files > 1 && !is_folder {
            return Err(usage(format!(
                "--build-info {path:?} is no folder, but there are {files} files to write: end \
                 it in '/'."
            )));
        }
        Ok(Place { path: PathBuf::from(path), is_folder })
    }

    fn of(&self, name: &str) -> PathBuf {
        if self.is_folder { self.path.join(name) } else { self.path.clone() }
    }
}

/// An image that was pushed, and the client that reaches its registry.
pub struct Pushed<'a> {
    pub docker: &'a Docker,
    pub platforms: &'a [String],
    /// Of the image, or of the list of its images.
    pub digest: Option<&'a str>,
}

/// Writes a file for each platform of the pushed `target`.
///
/// # Errors
/// A registry that does not return the manifest of a platform; a file that can't be written.
pub fn write(
    request: &Request,
    source: &Source,
    target: &Target,
    pushed: &Pushed,
    place: &Place,
) -> Result<()> {
    for platform in pushed.platforms {
        let arch = request.arch.clone().unwrap_or_else(|| arch(platform));
        let info = BuildInfo {
            kind: Kind::Image,
            variant: target.variant.clone(),
            target: request.target.clone(),
            base_image: target.base_image.clone(),
            image: request.image.clone(),
            git_ref: source.git_ref.clone(),
            sha: source.sha.clone(),
            short_sha: tag::short_sha(&source.sha).to_owned(),
            tags: target.tags.clone(),
            manifest_tags: target.manifest_tags.clone(),
            digest: digest_for(request, platform, pushed)?,
            cache_read: names(&target.cache_read),
            cache_written: names(&target.cache_written),
            machines: vec![Machine { platform: platform.clone(), arch: arch.clone() }],
        };
        info.save(&place.of(&format!("{}-{arch}.json", target.name)))?;
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

fn names(places: &[cache::Place]) -> Vec<String> {
    places.iter().map(|place| place.name().to_owned()).collect()
}
