//! What an engine changes on the host and restores: a number, from which the names of its bridge,
//! its table of rules and its control groups follow; a folder below `/run`; IP forwarding.

use std::env::{self, consts::ARCH};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use base::error::usage;

use crate::sandbox::{private, unpacked};
use crate::shared::{Folder, MAX_ENGINES, common, folders, gate};
use crate::{cgroup, emulate, network};

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
/// The kernel changes this one along with forwarding.
const REDIRECTS: &str = "/proc/sys/net/ipv4/conf/all/accept_redirects";

const INSTEAD: &str = "install Docker and run the command without `cargo xtask engine`";

/// Refuses a host on which no engine can run, and a `path` that its programs can't use.
/// Errors: what is missing, and what to do instead; a usage error for the path.
pub fn check(path: &Path) -> Result<()> {
    // PATH, overlay mounts and apt's configuration have no way to quote these.
    let path = path.display().to_string();
    if let Some(bad) = path.chars().find(|char| ":,\"\\".contains(*char)) {
        return Err(usage(format!(
            "the engine cannot work in {path:?}, which contains {bad:?}\nhint: move the checkout to \
             a path without it"
        )));
    }
    if !["x86_64", "aarch64"].contains(&ARCH) || !Path::new("/usr/bin/apt-get").exists() {
        bail!("the engine needs Debian or Ubuntu on amd64 or arm64\nhint: {INSTEAD}");
    }
    let output = private("true").stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!(
            "the engine may not make namespaces here ({})\nhint: be root, in a container with \
             `--privileged`, or {INSTEAD}",
            reason.trim()
        );
    }
    Ok(())
}

/// One engine's share of the host, restored when it is dropped.
pub struct Claim<'a> {
    pub programs: &'a Path,
    pub number: u8,
    /// The addresses of its networks.
    pub range: String,
    /// Below `/run`.
    pub folder: Folder,
}

impl<'a> Claim<'a> {
    /// Removes what killed engines left, and sets up what belongs to the first free number.
    pub fn take(programs: &'a Path) -> Result<Claim<'a>> {
        let mut claim = Claim::first_free(programs)?;
        claim.range = network::range(claim.number)?;
        fs::write(claim.folder.join("range"), &claim.range)?;
        network::up(&claim)?;
        let _gate = gate()?;
        if fs::read_to_string(FORWARD)?.trim() == "0" {
            fs::write(common("redirects"), fs::read(REDIRECTS)?)?;
            fs::write(FORWARD, "1").context("cannot switch on IP forwarding")?;
        }
        cgroup::prepare()?;
        Ok(claim)
    }

    fn first_free(programs: &'a Path) -> Result<Claim<'a>> {
        let _gate = gate()?;
        sweep(programs);
        for number in 0..MAX_ENGINES {
            if let Some(folder) = Folder::try_take(&common(&number.to_string()))? {
                return Ok(Claim { programs, number, range: String::new(), folder });
            }
        }
        bail!("{MAX_ENGINES} engines are running on this host, which is the limit\nhint: end one");
    }

    /// `program` of the unpacked ones, which finds this engine, and no other.
    pub fn command(&self, program: &str) -> Command {
        let mut command = unpacked(self.programs, &self.folder.path, program);
        for (name, _) in env::vars_os() {
            if ["DOCKER_", "REGISTRY_"].iter().any(|own| name.to_string_lossy().starts_with(own)) {
                command.env_remove(name);
            }
        }
        command.env("DOCKER_HOST", "unix:///run/docker.sock");
        command
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let _gate = gate();
        clean_up(self.programs, &self.folder);
        sweep(self.programs);
        emulate::restore();
        // What engines have changed together, none of them needs any more.
        if folders().next().is_none() {
            if let Ok(redirects) = fs::read_to_string(common("redirects")) {
                let _ = fs::write(FORWARD, "0");
                let _ = fs::write(REDIRECTS, redirects);
            }
            cgroup::restore();
            let _ = fs::remove_dir_all(common(""));
        }
    }
}

/// Removes what killed engines have made on the host.
fn sweep(programs: &Path) {
    for killed in Folder::abandoned(&common("")) {
        clean_up(programs, &killed);
    }
}

/// Removes what the engine of `folder` has made on the host.
fn clean_up(programs: &Path, folder: &Folder) {
    let name = folder.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let Ok(number) = name.parse() {
        let range = fs::read_to_string(folder.join("range")).unwrap_or_default();
        network::down(unpacked(programs, &folder.path, "sh"), number, &range);
        cgroup::remove(number);
    }
    folder.remove();
}
