//! Control groups: all groups of containers are below one of the engine, so that it can be removed.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base::process::within;

/// The mount point where version 2 is the only one; else each hierarchy has a folder there.
const ROOT: &str = "/sys/fs/cgroup";
/// Where the host's processes go while containers need their group.
const ASIDE: &str = "/sys/fs/cgroup/xtask-host";

/// The group of the engine with this number, as dockerd's `cgroup-parent`.
pub fn parent(number: u8) -> String {
    format!("/xtask-engine-{number}")
}

/// Removes the group of the engine with this number, from every hierarchy.
pub fn remove(number: u8) {
    let folders = fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in folders.chain([ROOT.into()]) {
        remove_all(&hierarchy.join(&parent(number)[1..]));
    }
}

/// Groups are removed from the innermost out. A killed process may keep its own busy for a moment.
fn remove_all(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_all(&entry.path());
        }
    }
    within(Duration::from_secs(2), || fs::remove_dir(group).is_ok() || !group.exists());
}

/// Moves processes out of the root group, if need be. In a container with version 2 they are in
/// it, and a group with processes may have no groups with controllers below it. To be called with
/// the gate held, as is [`restore`].
pub fn prepare() -> Result<()> {
    // The host's real root has no type, and no such rule.
    if Path::new(ROOT).join("cgroup.type").exists() && !processes(ROOT).is_empty() {
        fs::create_dir_all(ASIDE).context("cannot make a control group")?;
        move_processes(ROOT, ASIDE);
        set_controllers("+").context("cannot pass controllers to control groups")?;
    }
    Ok(())
}

/// Undoes [`prepare`].
pub fn restore() {
    if Path::new(ASIDE).exists() {
        let _ = set_controllers("-");
        move_processes(ASIDE, ROOT);
        remove_all(Path::new(ASIDE));
    }
}

fn processes(group: &str) -> Vec<String> {
    let processes = fs::read_to_string(format!("{group}/cgroup.procs")).unwrap_or_default();
    // Those of other PID namespaces are shown as 0, which would mean this process.
    processes.lines().filter(|&process| process != "0").map(str::to_owned).collect()
}

/// Repeated, because processes may start others meanwhile; one that has ended can't be moved.
fn move_processes(from: &str, to: &str) {
    for process in (0..10).flat_map(|_| processes(from)) {
        let _ = fs::write(format!("{to}/cgroup.procs"), process);
    }
}

fn set_controllers(sign: &str) -> io::Result<()> {
    let controllers = fs::read_to_string(format!("{ROOT}/cgroup.controllers"))?;
    let change = controllers.split_whitespace().map(|name| format!("{sign}{name} "));
    fs::write(format!("{ROOT}/cgroup.subtree_control"), change.collect::<String>())
}
