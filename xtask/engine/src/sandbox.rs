//! How the engine's programs are run: in a mount and PID namespace of their own, where the
//! unpacked packages stand in for the host's `/usr`.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use base::error::Interrupted;
use base::process;

pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Mounts the programs' own `/usr`, and `/run` if there is one for them. The host's
/// `/usr/local` and `/usr/src` stay, for checkouts that are there. `-n` keeps mount from writing
/// about it to the host's `/run`.
const ENTER: &str = r#"
set -e
usr=$1 run=$2
shift 2
for folder in local src; do
    if [ -d /usr/$folder ]; then mount -n --rbind /usr/$folder "$usr/$folder"; fi
done
if [ "$run" ]; then
    if [ -d /run/systemd/resolve ]; then
        mkdir -p "$run/systemd/resolve"
        mount -n --rbind /run/systemd/resolve "$run/systemd/resolve"
    fi
    mount -n --rbind "$run" /run
fi
mount -n --rbind "$usr" /usr
exec "$@"
"#;

pub struct Programs {
    /// Holds `usr`, and `path` with docker, which is all that the command may see of it.
    pub folder: PathBuf,
    pub arch: String,
}

impl Programs {
    /// `program` of the unpacked ones, on the host's network.
    pub fn command(&self, program: &str) -> Command {
        self.daemon(Path::new(""), program)
    }

    /// The same, for a daemon that is to find `run` as its `/run`.
    pub fn daemon(&self, run: &Path, program: &str) -> Command {
        let mut command = private("sh");
        command.args(["-c", ENTER, "sh"]).arg(self.folder.join("usr")).arg(run).arg(program);
        command.current_dir("/");
        command
    }
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

/// Runs `command` to its end and returns its standard output.
/// Errors: if it fails, with the reason that it wrote; `Interrupted` on a signal.
pub fn run(what: &str, command: &mut Command) -> Result<String> {
    run_with(what, command, |_| ())
}

/// As [`run`], and passes what is written to `watch`, and an empty slice on each idle tick.
pub fn run_with(what: &str, command: &mut Command, watch: impl FnMut(&[u8])) -> Result<String> {
    // Longer than any download; only a signal ends a step before that.
    let limit = Duration::from_secs(86_400);
    let output = match process::output_with(command, limit, watch) {
        Err(error) if error.is::<Interrupted>() => return Err(error),
        output => output.with_context(|| format!("cannot run {}", command.get_program().display())),
    };
    let output = output?.with_context(|| format!("{what} took too long"))?;
    if !output.status.success() {
        let written = [output.stdout, output.stderr].concat();
        bail!("{what} failed: {}", reason(&String::from_utf8_lossy(&written)));
    }
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

/// Runs `command`, part of a clean-up, to its end, signal or not, and returns its standard output.
/// Failures are ignored: there may be nothing to clean up.
pub fn run_anyway(command: &mut Command) -> String {
    // A second Ctrl-C at the terminal must not reach it.
    let output = command.process_group(0).stdin(Stdio::null()).output();
    output.map_or_else(|_| String::new(), |out| String::from_utf8_lossy(&out.stdout).into_owned())
}
