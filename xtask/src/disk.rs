//! The disk with the engine's data: how full it is, and a batch's pruning before it fills.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use base::message;
use serde_json::Value;

use crate::docker::{Docker, SHORT_PATIENCE, printed};

/// The size of the smallest first build, in GB.
const LEAST: f64 = 5.0;
/// A prune may hang; the batch goes on without it.
const PRUNE_PATIENCE: Duration = Duration::from_secs(300);
/// Asks docker for its client and engine, as JSON.
pub const INFO: [&str; 3] = ["info", "--format", "{{json .}}"];

/// The disk with the data of an engine on this machine.
pub struct Disk {
    /// Where the engine has its data.
    folder: String,
    /// In GB.
    free: f64,
    /// In percent.
    used: u64,
}

impl Disk {
    /// The disk of the engine that [`INFO`] describes; `None` for an engine on another machine.
    /// Errors: a signal, or a system that starts no command.
    pub fn of(info: &Value) -> Result<Option<Self>> {
        let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let is_here = |folder: &&str| info["Name"] == own.trim() && Path::new(folder).is_dir();
        let folder = info["DockerRootDir"].as_str().filter(is_here);
        let Some(folder) = folder else { return Ok(None) };
        let mut df = Command::new("df");
        df.args(["-P", "-k", folder]);
        let table = printed(df, SHORT_PATIENCE)?.unwrap_or_default();
        let columns = table.lines().last().unwrap_or_default().split_whitespace();
        let [_, _, _, free, used, ..] = columns.collect::<Vec<_>>()[..] else { return Ok(None) };
        let (free, used) = (free.parse::<f64>(), used.trim_end_matches('%').parse());
        let (Ok(free), Ok(used)) = (free, used) else { return Ok(None) };
        Ok(Some(Disk { folder: folder.to_owned(), free: free * 1024.0 / 1e9, used }))
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

/// Warns, before a batch, of a disk on which a first build may not fit.
/// Errors: as [`Disk::of`].
pub fn check(docker: &Docker) -> Result<()> {
    if let Some(Err(error)) = disk(docker)?.map(|disk| disk.space()) {
        message::warn(&format!("the engine's disk: {error}").replace("\nhint: ", "; "));
    }
    Ok(())
}

/// Prunes the build cache to `keep` GB where `threshold` percent of the disk are used. `BuildKit`
/// removes what was used least recently, so what all images of a batch share stays.
/// Errors: as [`Disk::of`].
pub fn prune_if_full(docker: &Docker, threshold: u64, keep: u64) -> Result<()> {
    if let Some(Disk { used, .. }) = disk(docker)?
        && used >= threshold
    {
        message::say(&format!(
            "the engine's disk is {used} % full; pruning its build cache to {keep} GB"
        ));
        prune(docker, keep)?;
    }
    Ok(())
}

/// Prunes the build cache to `keep` GB.
/// Errors: as [`Disk::of`].
pub fn prune(docker: &Docker, keep: u64) -> Result<()> {
    let limit = format!("--keep-storage={keep}gb");
    let prune = docker.buildx(&["prune", "--all", "--force", &limit]);
    if printed(prune, PRUNE_PATIENCE)?.is_none() {
        message::warn("the build cache could not be pruned; going on without that");
    }
    Ok(())
}

fn disk(docker: &Docker) -> Result<Option<Disk>> {
    let info = printed(docker.command(&INFO), SHORT_PATIENCE)?.unwrap_or_default();
    Disk::of(&serde_json::from_str(&info).unwrap_or_default())
}
