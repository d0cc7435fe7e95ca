//! The disk with the engine's data: how full it is, and a batch's cut of the build cache before it
//! fills.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::buildx::Docker;
use crate::image::request::Prune;
use base::message;
use base::process;

const PATIENCE: Duration = Duration::from_secs(10);
/// What the smallest first build takes, in GB.
pub const LEAST: f64 = 5.0;
/// A prune may hang; the batch goes on without it.
const PRUNE_PATIENCE: Duration = Duration::from_secs(300);

/// Cuts the build cache where the disk is as full as `limits` say. `BuildKit` removes what was used
/// least recently, and nothing in use: what all images of the batch share stays.
/// Errors: a signal, or a system that starts no command.
pub fn tend(docker: &Docker, limits: &Prune) -> Result<()> {
    let Some(used) = used(docker)?.filter(|&used| used >= limits.threshold) else { return Ok(()) };
    let keep = limits.keep;
    message::say(&format!("the engine's disk is {used} % full; cutting its cache to {keep} GB"));
    let help = process::output(&mut docker.buildx(&["prune", "--help"]), PATIENCE)?;
    let help = help.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let is_new = help.is_some_and(|help| help.contains("--max-used-space"));
    let flag = if is_new { "--max-used-space" } else { "--keep-storage" };
    let limit = format!("{flag}={keep}gb");
    let args = ["prune", "--all", "--force", &limit];
    let pruned = process::output(&mut docker.buildx(&args), PRUNE_PATIENCE)?;
    if !pruned.is_some_and(|output| output.status.success()) {
        message::warn("the build cache could not be cut; going on without that");
    }
    Ok(())
}

/// Warns, before a batch, of a disk on which a first build may not fit.
/// Errors: a signal, or a system that starts no command.
pub fn check(docker: &Docker) -> Result<()> {
    let free = disk(docker)?.and_then(|disk| disk.free()).map(|free| free / 1e9);
    if let Some(free) = free.filter(|&free| free < LEAST) {
        message::warn(&format!(
            "the engine's disk has {free:.1} GB free, and a first build takes {LEAST} GB or more: \
             make room, as by `docker system prune`, if the batch fails by it"
        ));
    }
    Ok(())
}

/// How full the disk with the engine's data is, in percent; `None` where it can't be seen from here.
fn used(docker: &Docker) -> Result<Option<u64>> {
    Ok(disk(docker)?.and_then(|disk| disk.column(4)?.trim_end_matches('%').parse().ok()))
}

fn disk(docker: &Docker) -> Result<Option<Disk>> {
    let Some(info) = text(docker.command(&INFO))? else { return Ok(None) };
    Disk::of(&serde_json::from_str(&info).unwrap_or_default())
}

/// What docker tells of its engine, as JSON.
pub const INFO: [&str; 3] = ["info", "--format", "{{json .}}"];

/// The disk with the data of an engine on this machine.
pub struct Disk {
    /// Where the engine has its data.
    pub folder: String,
    table: String,
}

impl Disk {
    /// That of the engine with this [`INFO`]; `None` for one of another machine.
    /// Errors: a signal, or a system that starts no command.
    pub fn of(info: &Value) -> Result<Option<Self>> {
        let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let folder = info["DockerRootDir"].as_str().filter(|_| info["Name"] == own.trim());
        let folder = folder.filter(|folder| Path::new(folder).is_dir());
        let Some(folder) = folder else { return Ok(None) };
        let mut df = Command::new("df");
        df.args(["-P", "-k", folder]);
        Ok(text(df)?.map(|table| Disk { folder: folder.to_owned(), table }))
    }

    /// The free space in bytes, where that is known.
    pub fn free(&self) -> Option<f64> {
        Some(self.column(3)?.parse::<f64>().ok()? * 1024.0)
    }

    fn column(&self, number: usize) -> Option<&str> {
        self.table.lines().last()?.split_whitespace().nth(number)
    }
}

fn text(mut command: Command) -> Result<Option<String>> {
    let output = process::output(&mut command, PATIENCE)?;
    let output = output.filter(|output| output.status.success());
    Ok(output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()))
}
