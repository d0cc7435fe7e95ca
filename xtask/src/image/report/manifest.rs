//! The record of a run: a JSON line for each image, written when the image ends, so that a run
//! that is killed leaves what it had done.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde_json::{Map, json};

use super::image::ImageReport;
use crate::image::build::image::Image;
use crate::image::build::phase::Phase;

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

    /// Adds an image that has ended, and whose log is in that file.
    pub fn add(&mut self, image: &ImageReport, log: Option<&Path>) -> Result<()> {
        // One call a line, so that none is ever half written by a run that is killed.
        let written = self.0.write_all(line(image, log).as_bytes());
        written.context("the file of --manifest can't be written")
    }
}

fn line(image: &ImageReport, log: Option<&Path>) -> String {
    let row = image.row;
    let (status, attempts) = match row.image {
        Image::Waiting => ("waiting", 0),
        Image::Present { .. } => ("present", 0),
        Image::Done { .. } => ("built", row.retries + 1),
        Image::Failed { .. } => ("failed", row.retries + 1),
    };
    // Its caches are exported after its end.
    let phases = Phase::ALL.into_iter().filter(|(phase, _)| *phase != Phase::CacheExport);
    let seconds = phases.map(|(phase, name)| (name.to_owned(), json!(image.seconds(phase))));
    let since_1970 = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let record = json!({
        "base_image": row.target.base_image,
        "tags": row.target.tags,
        "digest": row.image.digest(),
        "layer": image.layer(),
        "status": status,
        "attempts": attempts,
        "started": row.started.map(|time| since_1970(time).as_secs()),
        "finished": since_1970(SystemTime::now()).as_secs(),
        "seconds": seconds.collect::<Map<_, _>>(),
        "error": row.image.error(),
        "log": log,
    });
    format!("{record}\n")
}
