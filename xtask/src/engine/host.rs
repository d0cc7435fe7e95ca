//! What an engine takes of the host and gives back: a number, from which the names of its bridge,
//! its table of rules and its control groups follow; a folder below `/run`; IP forwarding.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use super::data::Folder;
use super::network::{self, Range};
use super::sandbox::{PATH, Programs, private};
use super::{cgroup, emulate};

/// One folder for all engines of the host, those of other checkouts too. Short, because the
/// path of a socket may have no more than 108 bytes.
const ENGINES: &str = "/run/xtask-engine";

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
/// The kernel changes this one along with forwarding.
const REDIRECTS: &str = "/proc/sys/net/ipv4/conf/all/accept_redirects";

const INSTEAD: &str = "Install Docker, start it, and run the command without `cargo xtask engine`.";

/// Refuses a host on which no engine can run.
///
/// # Errors
/// What is missing, and what to do instead.
pub fn check() -> Result<()> {
    for program in ["apt-get", "dpkg", "dpkg-deb", "setpriv", "unshare"] {
        if !PATH.split(':').any(|folder| Path::new(folder).join(program).exists()) {
            bail!("the engine needs Debian or Ubuntu: there is no {program} here. {INSTEAD}");
        }
    }
    if fs::metadata("/proc/self")
        .is_ok_and(|owner| std::os::unix::fs::MetadataExt::uid(&owner) != 0)
    {
        bail!("the engine needs root, or a container in which you are root. {INSTEAD}");
    }
    let mut isolated = private("true");
    let output = isolated.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "the engine may not make namespaces here ({}). In a container, start that one with \
             `--privileged`. Or: {INSTEAD}",
            said.trim()
        );
    }
    Ok(())
}

/// One engine's share of the host, given back when it is dropped.
pub struct Claim<'a> {
    pub number: u8,
    pub range: Range,
    folder: Folder,
    programs: &'a Programs,
}

impl<'a> Claim<'a> {
    /// Takes the first free number and sets up what goes with it. What killed engines left is
    /// removed first.
    ///
    /// # Errors
    /// If no number is free, or the kernel refuses something.
    pub fn take(programs: &'a Programs) -> Result<Claim<'a>> {
        let (number, folder) = take_number(programs)?;
        // Without a range there is nothing yet to give back but the folder.
        let range = Range::choose(number).inspect_err(|_| folder.remove())?;
        let claim = Claim { number, range, folder, programs };
        fs::write(claim.path("range"), claim.range.to_string())?;
        network::up(programs, number, claim.range, &claim.folder.path)?;
        forward()?;
        cgroup::prepare()?;
        Ok(claim)
    }

    /// A path in its folder below `/run`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path.join(name)
    }

    /// Docker's socket.
    pub fn socket(&self) -> PathBuf {
        self.path("docker.sock")
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let _gate = gate();
        give_back(self.programs, &self.folder);
        sweep(self.programs);
        restore();
    }
}

/// Keeps all other engines from changing what they share, for as long as it is held, which is
/// never long: no signal ends the wait for it.
///
/// # Errors
/// Those of the file system.
pub fn gate() -> Result<Folder> {
    Folder::wait_for(Path::new(ENGINES), || Ok(()))
}

/// A path that all engines share.
pub fn shared(name: &str) -> PathBuf {
    Path::new(ENGINES).join(name)
}

/// The folders of all engines.
pub fn folders() -> impl Iterator<Item = PathBuf> {
    (0..network::ENGINES).map(folder).filter(|path| path.exists())
}

fn folder(number: u8) -> PathBuf {
    shared(&number.to_string())
}

fn take_number(programs: &Programs) -> Result<(u8, Folder)> {
    let _gate = gate()?;
    sweep(programs);
    for number in 0..network::ENGINES {
        let path = folder(number);
        if !path.exists()
            && let Some(folder) = Folder::try_take(&path)?
        {
            return Ok((number, folder));
        }
    }
    bail!("{} engines are running on this host, and no more can.", network::ENGINES);
}

/// Gives back what engines took that were killed.
fn sweep(programs: &Programs) {
    for killed in Folder::abandoned(Path::new(ENGINES)) {
        give_back(programs, &killed);
    }
}

fn give_back(programs: &Programs, folder: &Folder) {
    let name = folder.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let Ok(number) = name.parse() {
        let range = fs::read_to_string(folder.path.join("range")).unwrap_or_default();
        network::down(programs, number, Range::parse(&range));
        cgroup::remove(number);
    }
    folder.remove();
}

/// Switches IP forwarding on, and remembers what was there.
fn forward() -> Result<()> {
    let _gate = gate()?;
    let read = |path| fs::read_to_string(path).with_context(|| format!("can't read {path}"));
    if read(FORWARD)?.trim() == "0" {
        fs::write(shared("redirects"), read(REDIRECTS)?)?;
        fs::write(FORWARD, "1").context("can't switch on IP forwarding for the containers")?;
    }
    Ok(())
}

/// Puts back what engines have changed together, as far as none of them still needs it.
fn restore() {
    emulate::restore();
    if folders().next().is_some() {
        return;
    }
    if let Ok(redirects) = fs::read_to_string(shared("redirects")) {
        let _ = fs::write(FORWARD, "0");
        let _ = fs::write(REDIRECTS, redirects);
        let _ = fs::remove_file(shared("redirects"));
    }
    cgroup::restore();
    let _ = fs::remove_dir(ENGINES);
}
