//! The disk with the engine's data: how full it is, and a batch's pruning before it fills.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use base::message;
use serde_json::Value;

use crate::docker::{Docker, SHORT_PATIENCE, call};

/// The size of the smallest first build, in GB.
const LEAST: f64 = 5.0;
/// A prune may hang; the batch goes on without it.
const PRUNE_PATIENCE: Duration = Duration::from_secs(300);
/// Asks docker for its client and engine, as JSON.
pub const INFO: [&str; 3] = ["info", "--format", "{{json .}}"];

/// The disk with the data of an engine on this machine: where that is, GB that are free, percent that are used.
pub struct Disk {
    folder: String,
    free: f64,
    used: u64,
}

impl Disk {
    /// The disk of the engine that `info` describes; `None` for an engine on another machine.
    pub fn of(info: &Value) -> Option<Self> {
        let own = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
        let folder = info["DockerRootDir"].as_str().filter(|_| info["Name"] == own.trim())?;
        Path::new(folder).is_dir().then_some(())?;
        let mut df = Command::new("df");
        let table = call(df.args(["-P", "-k", folder]), SHORT_PATIENCE).ok()?;
        let columns = table.lines().last()?.split_whitespace().collect::<Vec<_>>();
        let free = columns.get(3)?.parse::<f64>().ok()? * 1024.0 / 1e9;
        let used = columns.get(4)?.trim_end_matches('%').parse().ok()?;
        Some(Disk { folder: folder.to_owned(), free, used })
    }

    /// The free space, for people.
    /// Errors: a first build may not fit.
    pub fn space(&self) -> Result<String> {
        let text = format!("{:.1} GB free in {}", self.free, self.folder);
        ensure!(
            self.free >= LEAST,
            "{text}, and a first build needs {LEAST} GB or more\nhint: make room, for example by `docker \
             system prune`"
        );
        Ok(text)
    }
}

/// Prunes the build cache to `keep` GB where `threshold` percent of the disk are used. `BuildKit`
/// removes what was used least recently, so what all images of a batch share stays.
pub fn prune_if_full(docker: &Docker, threshold: u64, keep: u64) {
    let info = serde_json::from_str(&docker.output_of(&INFO)).unwrap_or_default();
    if let Some(Disk { used, .. }) = Disk::of(&info)
        && used >= threshold
    {
        message::say(&format!(
            "the engine's disk is {used} % full; pruning its build cache to {keep} GB"
        ));
        prune(docker, keep);
    }
}

/// Prunes the build cache to `keep` GB.
pub fn prune(docker: &Docker, keep: u64) {
    let limit = format!("--keep-storage={keep}gb");
    let mut prune = docker.buildx(&["prune", "--all", "--force", &limit]);
    if let Err(error) = call(&mut prune, PRUNE_PATIENCE) {
        message::warn(&format!("the build cache could not be pruned: {error}"));
    }
}
