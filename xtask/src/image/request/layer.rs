//! A thin layer on top of each image of a run.

use std::path::PathBuf;

use anyhow::Result;
use pico_args::Arguments;

use super::{content, flags, values};
use base::error::usage;

/// A folder whose Dockerfile starts with `ARG BASE_IMAGE` and `FROM ${BASE_IMAGE}`.
#[derive(Clone)]
pub struct Layer {
    /// Absolute.
    pub folder: PathBuf,
    /// What its tags end in.
    pub suffix: String,
    /// A digest of the folder's files.
    pub files: String,
}

impl Layer {
    /// Takes its flags out of `args`; `None` without them.
    /// Errors: a usage error for a folder without a Dockerfile, and for a suffix alone or of
    /// characters that no tag has.
    pub fn read(args: &mut Arguments) -> Result<Option<Self>> {
        let folder = flags::LAYER.read(args, values::absolute)?.map(PathBuf::from);
        let suffix = flags::LAYER_TAG.read(args, values::arch)?;
        let Some(folder) = folder else {
            let hint = "--layer-tag names the tags of a layer: add --layer.";
            return if suffix.is_some() { Err(usage(hint)) } else { Ok(None) };
        };
        let error = |why: String| usage(format!("--layer {}: {why}", folder.display()));
        if !folder.join("Dockerfile").is_file() {
            return Err(error("there is no Dockerfile: name a folder that has one.".to_owned()));
        }
        let files = content::digest(&folder, &[]).map_err(|cause| error(format!("{cause}.")))?;
        let name = || folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let suffix = suffix.unwrap_or_else(name);
        Ok(Some(Layer { folder, suffix, files }))
    }
}
