//! The engine's disk during a batch: its build cache is cut before it fills the disk.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::buildx::Docker;
use crate::image::request::Prune;
use crate::message;
use crate::process;

const PATIENCE: Duration = Duration::from_secs(10);
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

/// How full the disk with the engine's data is, in percent; `None` where it can't be seen from here.
fn used(docker: &Docker) -> Result<Option<u64>> {
    let info = docker.command(&["info", "--format", "{{json .}}"]);
    let Some(info) = text(info)? else { return Ok(None) };
    let info = serde_json::from_str::<Value>(&info).unwrap_or_default();
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let folder = info["DockerRootDir"].as_str().filter(|_| info["Name"] == own.trim());
    let Some(folder) = folder else { return Ok(None) };
    let mut df = Command::new("df");
    df.args(["-P", "-k", folder]);
    let table = text(df)?.unwrap_or_default();
    let used = table.lines().last().and_then(|line| line.split_whitespace().nth(4));
    Ok(used.and_then(|used| used.trim_end_matches('%').parse().ok()))
}

fn text(mut command: Command) -> Result<Option<String>> {
    let output = process::output(&mut command, PATIENCE)?;
    let output = output.filter(|output| output.status.success());
    Ok(output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()))
}
