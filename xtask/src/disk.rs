//! The disk with the engine's data: how full it is, and a batch's pruning before it fills.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base::message;

use crate::docker::{Docker, SHORT_PATIENCE, call};

/// The folder of the engine's data, its free GB, and used percent; `None` for one on another machine.
pub fn space(docker: &Docker) -> Option<(String, f64, u64)> {
    let info = docker.output_of(&["info", "--format", "{{.Name}} {{.DockerRootDir}}"]);
    let (name, folder) = info.trim().split_once(' ')?;
    let own = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    if name != own.trim() || !Path::new(folder).is_dir() {
        return None;
    }
    let table = call(Command::new("df").args(["-P", "-k", folder]), SHORT_PATIENCE).ok()?;
    let columns = table.lines().last()?.split_whitespace().collect::<Vec<_>>();
    let free = columns.get(3)?.parse::<f64>().ok()? * 1024.0 / 1e9;
    Some((folder.to_owned(), free, columns.get(4)?.trim_end_matches('%').parse().ok()?))
}

/// Prunes the build cache to `keep` GB where `threshold` percent of the disk are used. What all images of a
/// batch share stays: it was used last.
pub fn prune_if_full(docker: &Docker, threshold: u64, keep: u64) {
    if let Some((.., used)) = space(docker)
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
    // It may hang; the batch goes on without it.
    if let Err(error) = call(&mut prune, Duration::from_secs(300)) {
        message::warn(&format!("the build cache could not be pruned: {error}"));
    }
}
