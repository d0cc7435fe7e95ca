//! The record of a run: a JSON line for each image, written when the image ends, so that a run
//! that is killed leaves what it had done.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::image::build::batch::{Image, Row};

/// A record that is open.
pub struct Manifest(File);

impl Manifest {
    /// Opens `path`, to add to what an earlier run wrote there.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let open = || {
            folder.map_or(Ok(()), fs::create_dir_all)?;
            OpenOptions::new().create(true).append(true).open(path)
        };
        let file = open()
            .with_context(|| format!("--manifest: {:?} can't be written", path.to_string_lossy()));
        file.map(Manifest)
    }

    /// Adds images that have ended.
    pub fn add(&mut self, ended: &[&Row]) -> Result<()> {
        for row in ended {
            // One call a line, so that none is ever half written by a run that is killed.
            let written = self.0.write_all(line(row).as_bytes());
            written.context("the file of --manifest can't be written")?;
        }
        Ok(())
    }
}

fn line(row: &Row) -> String {
    let (status, attempts) = match row.image {
        Image::Waiting => ("waiting", 0),
        Image::Present { .. } => ("present", 0),
        Image::Done { .. } => ("built", row.retries + 1),
        Image::Failed { .. } => ("failed", row.retries + 1),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let record = json!({
        "base_image": row.target.base_image,
        "tags": row.target.tags,
        "digest": row.image.digest(),
        "status": status,
        "attempts": attempts,
        "finished": now.as_secs(),
        "error": row.image.error(),
    });
    format!("{record}\n")
}
