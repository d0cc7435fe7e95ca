//! The command: what it finds in its environment, and how it ends.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use base::error::usage;
use base::output;
use base::process::{self, SIGKILL, SIGTERM, within};

use crate::daemons::{DOCKER_LOG, Daemons, REGISTRY_LOG};

/// How long the processes that the command left may take to end after a signal.
const GRACE: Duration = Duration::from_secs(2);

const PROMPT: &str = "(engine) # ";
/// What Bash reads at its start: the user's own file mostly sets a prompt.
const BASHRC: &str = "\
[ ! -f ~/.bashrc ] || . ~/.bashrc
PS1=\"(engine) ${PS1#'(engine) '}\"
";

/// The caller's own settings, for another engine.
const FOREIGN: &str = "BUILDX_BUILDER BUILDX_CONFIG DOCKER_CERT_PATH DOCKER_CONTEXT DOCKER_TLS \
                       DOCKER_TLS_VERIFY";

/// Refuses a command that does not exist, before anything is started for it.
pub fn check(command: &[OsString], programs: &Path) -> Result<()> {
    let Some(name) = command.first() else { return Ok(()) };
    let mut which = Command::new("sh");
    which.args(["-c", r#"command -v -- "$1""#, "sh"]).arg(name).env("PATH", path(programs)?);
    if which.stdin(Stdio::null()).output()?.status.success() {
        return Ok(());
    }
    Err(usage(format!("there is no command {}", name.display())))
}

/// Runs the command, or a shell if there is none, and returns its exit status as a shell does.
pub fn run(command: &[OsString], daemons: &Daemons) -> Result<u8> {
    let (data, programs) = (daemons.data, daemons.claim.programs);
    // Docker's own configuration, with its plugin buildx.
    let config = data.join("config");
    let plugin = config.join("cli-plugins/docker-buildx");
    fs::create_dir_all(config.join("cli-plugins"))?;
    let _ = fs::remove_file(&plugin);
    symlink(programs.join("usr/libexec/docker/cli-plugins/docker-buildx"), plugin)?;
    // If this process is killed, the command gets SIGTERM.
    let mut process = Command::new("setpriv");
    process.args(["--pdeathsig", "TERM", "--"]).args(command);
    if command.is_empty() {
        let name = env::var_os("SHELL").unwrap_or_else(|| "sh".into());
        process.args(shell(&name, &data.join("bashrc"))?).env("PS1", PROMPT);
    }
    let socket = daemons.claim.folder.join("docker.sock");
    for name in FOREIGN.split(' ') {
        process.env_remove(name);
    }
    process
        .env("PATH", path(programs)?)
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .env("DOCKER_CONFIG", config)
        .env("XTASK_REGISTRY", daemons.address.to_string())
        .env("XTASK_ENGINE_LOG", data.join(DOCKER_LOG))
        .env("XTASK_REGISTRY_LOG", data.join(REGISTRY_LOG));
    adopt_orphans();
    let own = process::children(std::process::id());
    let mut child = process.spawn().context("cannot run setpriv")?;
    let status = process::wait(&mut child);
    end_leftovers(&own);
    Ok(process::exit_code(status?))
}

/// Makes processes whose parents end children of this program, so that it can end them as well.
fn adopt_orphans() {
    const PR_SET_CHILD_SUBREAPER: i32 = 36;
    #[allow(unsafe_code)]
    unsafe extern "C" {
        fn prctl(option: i32, ...) -> i32;
    }
    // SAFETY: this option takes one integer and touches no memory of this process.
    #[allow(unsafe_code)]
    unsafe {
        prctl(PR_SET_CHILD_SUBREAPER, 1_usize);
    }
}

/// The command that opens the shell `name`. For Bash, `file` becomes what it reads at its start.
fn shell(name: &OsStr, file: &Path) -> Result<Vec<OsString>> {
    if Path::new(name).file_name() != Some(OsStr::new("bash")) {
        return Ok(vec![name.into()]);
    }
    output::save(file, BASHRC)?;
    Ok(vec![name.into(), "--rcfile".into(), file.into()])
}

/// Ends what the command left running: children that this process has got beside its `own`. Those
/// that do not end by SIGTERM, and what they leave in turn, are killed.
fn end_leftovers(own: &[u32]) {
    let send = |signal| {
        let mut left = process::children(std::process::id());
        left.retain(|child| !own.contains(child));
        for &child in &left {
            process::kill(child, signal);
        }
        left.is_empty()
    };
    // Signal 0 only looks.
    if !send(SIGTERM) && !within(GRACE, || send(0)) {
        within(GRACE, || send(SIGKILL));
    }
}

/// The caller's `PATH`, with our docker first.
fn path(programs: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = [programs.join("path")].into_iter().chain(env::split_paths(&path));
    env::join_paths(folders).context("the path of the checkout cannot be in PATH")
}

#[cfg(test)]
mod tests {
    use base::scratch::Scratch;

    use super::*;

    /// The prompt of `name` for a user whose own file is `bashrc`.
    fn prompt(name: &str, bashrc: &str) -> Result<String> {
        let folder = Scratch::within(&env::temp_dir())?;
        fs::write(folder.0.join(".bashrc"), bashrc)?;
        let words = shell(OsStr::new(name), &folder.0.join("new/bashrc"))?;
        let mut command = Command::new("env");
        command.args(words).args(["-i", "-c", "printf %s \"$PS1\""]);
        let output = command.env("HOME", &folder.0).env("PS1", PROMPT).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    #[test]
    fn the_prompt_says_that_one_is_in_an_engine() -> Result<()> {
        assert_eq!(prompt("sh", "PS1='not read '")?, PROMPT);
        assert_eq!(prompt("/bin/bash", "PS1='mine> '")?, "(engine) mine> ");
        // Debian's file for all users may set one first.
        let unset = prompt("bash", "A=1")?;
        assert!(
            unset.starts_with("(engine) ") && unset.matches("(engine)").count() == 1,
            "{unset}"
        );
        Ok(())
    }
}
