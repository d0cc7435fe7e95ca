//! How the engine's programs are run: in a mount and PID namespace of their own, where the
//! unpacked packages stand in for the host's `/usr`.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use base::{lock, process};

use crate::shared::show;

const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Mounts the programs' own `/usr`, and a `/run` for them. The host's `/usr/local` and `/usr/src`
/// stay, for checkouts that are there. `-n` keeps mount from writing to the host's `/run`.
const ENTER: &str = r#"
set -e
usr=$1 run=$2
shift 2
for folder in local src; do
    if [ -d /usr/$folder ]; then mount -n --rbind /usr/$folder "$usr/$folder"; fi
done
if [ -d /run/systemd/resolve ]; then
    mkdir -p "$run/systemd/resolve"
    mount -n --rbind /run/systemd/resolve "$run/systemd/resolve"
fi
mount -n --rbind "$run" /run
mount -n --rbind "$usr" /usr
exec "$@"
"#;

/// `program` of the unpacked `programs`, on the host's network, with `run` as its `/run`.
pub fn unpacked(programs: &Path, run: &Path, program: &str) -> Command {
    let mut command = private("sh");
    command.args(["-c", ENTER, "sh"]).arg(programs.join("usr")).arg(run).arg(program);
    command.current_dir("/");
    command
}

/// `program` of the host, in a mount and PID namespace: whatever it starts and mounts ends with
/// it, and it ends with this process.
pub fn private(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "slave"]);
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", program]);
    // Cargo's library path is meant for Rust programs, and the caller's `PATH` for other tools.
    command.env("PATH", PATH).env_remove("LD_LIBRARY_PATH");
    command
}

/// The seconds of what took some time, such as `unpacking packages 9.8`.
pub static TIMES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notes how long `what` took.
pub fn took(what: &str, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    if seconds > 0.1 {
        lock(&TIMES).push(format!("{what} {seconds:.1}"));
    }
}

/// Runs `command` to its end and returns its standard output. Where that takes long, shows now and
/// then `what` it does, and the line that it wrote last.
/// Errors: if it fails, with the reason that it wrote; `Interrupted` on a signal.
pub fn run(what: &str, command: &mut Command) -> Result<String> {
    let started = Instant::now();
    // Longer than any download; only a signal ends a step before that.
    let output = process::output_with(command, Duration::from_secs(86_400), |written| {
        if started.elapsed() > Duration::from_secs(1)
            && let Some(line) = String::from_utf8_lossy(written).lines().next_back()
        {
            show(&format!("{what}: {line}"));
        }
    });
    let output = output.and_then(|output| output.context("it took too long"));
    let output = output.with_context(|| what.to_owned())?;
    if !output.status.success() {
        let written = [output.stdout, output.stderr].concat();
        bail!("{what} failed: {}", reason(&String::from_utf8_lossy(&written)));
    }
    took(what, started);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The line of `written` that says why a program failed, and what to do where that is known.
fn reason(written: &str) -> String {
    if written.contains("No space left on device") || written.contains("enough free space") {
        return "no space left on the disk\nhint: free 2 GB; `cargo xtask engine --prune` removes what \
                earlier engines left"
            .to_owned();
    }
    let mut lines = written.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines.clone().find_map(|line| line.strip_prefix("E: "));
    let reason = error.or_else(|| lines.next_back()).unwrap_or("it wrote nothing");
    if reason.contains("Failed to fetch") {
        return format!("{reason}\nhint: check the network, and the proxy in apt's configuration");
    }
    reason.to_owned()
}

/// Runs `command`, part of a clean-up, to its end, signal or not. Failures are ignored: there may
/// be nothing to clean up.
pub fn run_anyway(command: &mut Command) {
    // A second Ctrl-C at the terminal must not reach it.
    let _ = command.process_group(0).stdin(Stdio::null()).output();
}
