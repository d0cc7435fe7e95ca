//! Build information: what a finished, pushed image is, one JSON file for each target and
//! architecture. `image merge` and `image summary` read it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::error::usage;
use crate::image::build::registry;
use crate::image::plan::cache;
use crate::image::plan::tag;
use crate::image::plan::{Target, arch};
use crate::image::request::Request;
use crate::image::request::source::Source;
use crate::output;

/// The version of what the files hold. Readers refuse another.
pub const SCHEMA: u64 = 1;
/// What a file tells of: one image, or the manifests that `image merge` made of several.
pub const IMAGE: &str = "image";
pub const MANIFEST: &str = "manifest";

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

/// Writes a file for each of `platforms` of the pushed `target`, whose digest is `digest`.
///
/// # Errors
/// A registry that does not give the manifest of a platform, or a disk that takes no file.
pub fn write(
    request: &Request,
    source: &Source,
    target: &Target,
    (platforms, digest): (&[String], &str),
    place: &Place,
) -> Result<()> {
    for platform in platforms {
        let arch = request.arch.clone().unwrap_or_else(|| arch(platform));
        // The digest of an image for several platforms is that of its list.
        let digest = match platforms {
            [_] => digest.to_owned(),
            _ => registry::manifests(&format!("{}@{digest}", request.image))?
                .into_iter()
                .find(|manifest| manifest.platform == *platform)
                .map(|manifest| manifest.digest)
                .with_context(|| format!("the pushed {digest} has no image for {platform}."))?,
        };
        let info = json!({
            "schema": SCHEMA,
            "kind": IMAGE,
            "variant": target.variant,
            "target": request.target,
            "arch": arch,
            "platform": platform,
            "base_image": target.base_image,
            "image": request.image,
            "git_ref": source.git_ref,
            "sha": source.sha,
            "short_sha": tag::short_sha(&source.sha),
            "tags": target.tags,
            "manifest_tags": target.manifest_tags,
            "digest": digest,
            "cache_read": names(&target.cache_read),
            "cache_written": names(&target.cache_written),
        });
        let path = place.of(&format!("{}-{arch}.json", target.name));
        output::save(&path, format!("{info:#}\n"))?;
    }
    Ok(())
}

fn names(places: &[cache::Place]) -> Vec<&str> {
    places.iter().map(cache::Place::name).collect()
}

/// Reads a file that [`write`] or `image merge` wrote.
///
/// # Errors
/// A usage error for a file that can't be read or is of another schema.
pub fn read(path: &Path) -> Result<Value> {
    let said = |what: String| usage(format!("{}: {what}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| said(format!("{error}.")))?;
    let info: Value = serde_json::from_str(&text)
        .map_err(|error| said(format!("it is no build information: {error}.")))?;
    if info["schema"] != SCHEMA {
        return Err(said(format!(
            "its schema is {}, but this task reads {SCHEMA}: build it again with this version.",
            info["schema"]
        )));
    }
    Ok(info)
}

/// The text under `key`; empty where there is none.
pub fn text<'a>(info: &'a Value, key: &str) -> &'a str {
    info[key].as_str().unwrap_or_default()
}

/// The list of texts under `key`.
pub fn texts<'a>(info: &'a Value, key: &str) -> Vec<&'a str> {
    info[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
