//! Control groups: all groups of containers are below one of the engine, so that it can be removed.

use std::process::Command;

use anyhow::Result;

use crate::sandbox::{run, run_anyway};

/// Moves processes from the group $1 to the group $2. Those of other PID namespaces are shown as 0,
/// which would mean the shell itself. Repeated, because processes may start others meanwhile.
const MOVE: &str = r#"
cd /sys/fs/cgroup
move() {
    for try in 1 2 3 4 5 6 7 8 9; do
        for process in $(grep -vx 0 "$1/cgroup.procs"); do echo "$process" >"$2/cgroup.procs"; done
    done 2>/dev/null
}
"#;

/// In a container with version 2, processes are in the root group, and a group with processes may
/// have no groups with controllers below it. The host's real root has no type, and no such rule.
const PREPARE: &str = r"
[ -e cgroup.type ] && grep -qvx 0 cgroup.procs || exit 0
mkdir -p xtask-host
move . xtask-host
sed 's/[^ ]\+/+&/g' cgroup.controllers >cgroup.subtree_control
";

const RESTORE: &str = r"
[ -d xtask-host ] || exit 0
sed 's/[^ ]\+/-&/g' cgroup.controllers >cgroup.subtree_control
move xtask-host .
rmdir xtask-host
";

/// Removes the group $1 from every hierarchy. A killed process may keep its own busy for a moment.
const REMOVE: &str = r#"
for group in /sys/fs/cgroup"$1" /sys/fs/cgroup/*"$1"; do
    try=0
    while [ -d "$group" ] && ! find "$group" -depth -type d -delete && [ $((try += 1)) -lt 100 ]; do
        sleep 0.02
    done
done
"#;

/// The group of the engine with this number, as dockerd's `cgroup-parent`.
pub fn parent(number: u8) -> String {
    format!("/xtask-engine-{number}")
}

/// Removes the group of the engine with this number.
pub fn remove(number: u8) {
    run_anyway(Command::new("sh").args(["-c", REMOVE, "sh", &parent(number)]));
}

/// Moves processes out of the root group, if need be. To be called with the gate held, as is
/// [`restore`].
pub fn prepare() -> Result<()> {
    let mut sh = Command::new("sh");
    run("preparing control groups", sh.arg("-c").arg([MOVE, PREPARE].concat())).map(drop)
}

/// Undoes [`prepare`].
pub fn restore() {
    run_anyway(Command::new("sh").arg("-c").arg([MOVE, RESTORE].concat()));
}
