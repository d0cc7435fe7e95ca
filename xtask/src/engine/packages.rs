//! The programs: Debian packages, fetched with the host's apt but a configuration of our own,
//! and unpacked without being installed.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::sandbox::{Programs, private, run};
use super::shared::{once, say};
use crate::digest::sha256;

/// The release of Debian that the programs are from, unless another is asked for.
pub const RELEASE: &str = "trixie";

/// The packages, their dependencies aside. All of them are from one release, the C
/// library too, so the host's own does not matter.
const PACKAGES: &[&str] = &[
    "?essential",
    "arch-test",
    "debian-archive-keyring",
    "docker-buildx",
    "docker-cli",
    "docker-registry",
    "docker.io",
    "iproute2",
    "mmdebstrap",
    "mount",
    "nftables",
];

const MIRROR: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The host's proxies are used; its pins, architectures, hooks and larger indexes are not.
const APT_CONF: &str = r#"
#clear APT::Architectures;
#clear APT::Default-Release;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Post-Invoke;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
#clear Acquire::IndexTargets::deb::DEP-11-icons-small;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large;
#clear Acquire::IndexTargets::deb::DEP-11-icons-hidpi;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large-hidpi;
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "true";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
"#;

/// For all packages but one: our own source, and a host on which nothing is installed.
const DEBIAN_CONF: &str = r#"
APT::Update::Error-Mode "any";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::TrustedParts "/dev/null";
"#;

/// The programs of Debian's `release`, fetched and unpacked if `downloads` does not have them.
///
/// # Errors
/// If they can't be fetched or unpacked; `Interrupted` on a signal.
pub fn get(downloads: &Path, release: &str) -> Result<Programs> {
    let mut dpkg = Command::new("dpkg");
    let arch = run("dpkg", dpkg.arg("--print-architecture"))?.trim().to_owned();
    let recipe = sha256([&PACKAGES.join(" "), APT_CONF, DEBIAN_CONF].concat());
    let folder = downloads.join(format!("programs-{release}-{arch}-{}", &recipe[..8]));
    once(&folder, |partial| {
        say(format_args!("downloading Docker and its tools from Debian {release}, once (140 MB)"));
        let debs = fetch(release, partial, PACKAGES)?;
        say("unpacking them");
        let programs = partial.join("programs");
        for deb in debs {
            unpack(&deb, &programs)?;
        }
        arrange(&programs)?;
        Ok(programs)
    })?;
    Ok(Programs { folder, arch })
}

/// Fetches `packages` of `release` and what they depend on, and returns the files' paths.
///
/// # Errors
/// If one can't be fetched; `Interrupted` on a signal.
pub fn fetch(release: &str, partial: &Path, packages: &[&str]) -> Result<Vec<PathBuf>> {
    let apt = Apt::new(partial.join("apt"))?;
    let (list, keys, status) =
        (apt.0.join("sources.list"), apt.0.join("keys.gpg"), apt.0.join("status"));
    fs::write(&list, format!("deb {MIRROR} {release} main\n"))?;
    fs::write(&status, "")?;
    fs::copy(keyring(partial)?, &keys)?;
    let mut conf = DEBIAN_CONF.to_owned();
    for (key, path) in [
        ("Dir::Etc::SourceList", &list),
        ("Dir::Etc::Trusted", &keys),
        ("Dir::State::status", &status),
    ] {
        let _ = writeln!(conf, "{key} \"{}\";", path.display());
    }
    apt.configure(&conf)?;
    run("downloading Debian's package lists", apt.get().arg("update"))?;
    let mut install = apt.get();
    install.args(["--yes", "--download-only", "install"]).args(packages);
    run("downloading Debian's packages", &mut install)?;
    debs(&apt.0.join("cache/archives"))
}

/// Unpacks the package file `deb` into `folder`.
///
/// # Errors
/// If it can't be unpacked; `Interrupted` on a signal.
pub fn unpack(deb: &Path, folder: &Path) -> Result<()> {
    let mut dpkg = private("dpkg-deb");
    run("unpacking a package", dpkg.arg("--extract").arg(deb).arg(folder)).map(drop)
}

/// Does what the packages' own scripts would have done, as far as it is needed, and removes what
/// nobody reads here.
fn arrange(programs: &Path) -> Result<()> {
    let usr = programs.join("usr");
    for entry in fs::read_dir(programs)? {
        let path = entry?.path();
        if path == usr {
            continue;
        }
        if path.is_symlink() { fs::remove_file(path)? } else { fs::remove_dir_all(path)? }
    }
    for unread in ["doc", "locale", "man"] {
        fs::remove_dir_all(usr.join("share").join(unread))?;
    }
    for place in ["local", "src"] {
        fs::create_dir_all(usr.join(place))?;
    }
    for program in ["iptables", "ip6tables"] {
        symlink(format!("{program}-nft"), usr.join("sbin").join(program))?;
    }
    fs::create_dir(programs.join("bin"))?;
    symlink("../usr/bin/docker", programs.join("bin/docker"))?;
    Ok(())
}

/// Debian's keys: the host's own, or on Ubuntu those of a package there.
fn keyring(partial: &Path) -> Result<PathBuf> {
    if Path::new(KEYRING).exists() {
        return Ok(KEYRING.into());
    }
    let apt = Apt::new(partial.join("keyring"))?;
    apt.configure("")?;
    // A third party's source may be out of reach; only the package matters.
    let _ = run("downloading the host's package lists", apt.get().arg("update"));
    let mut download = apt.get();
    download.current_dir(&apt.0).args(["download", "debian-archive-keyring"]);
    run("downloading the package debian-archive-keyring", &mut download)?;
    for deb in debs(&apt.0)? {
        unpack(&deb, &apt.0)?;
    }
    Ok(apt.0.join(KEYRING.trim_start_matches('/')))
}

/// An apt with its state in a folder of ours.
struct Apt(PathBuf);

impl Apt {
    fn new(folder: PathBuf) -> Result<Apt> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        Ok(Apt(folder))
    }

    fn configure(&self, more: &str) -> Result<()> {
        let mut conf = format!("{APT_CONF}{more}");
        for (key, part) in [("Dir::State::Lists", "lists"), ("Dir::Cache", "cache")] {
            let _ = writeln!(conf, "{key} \"{}\";", self.0.join(part).display());
        }
        Ok(fs::write(self.0.join("apt.conf"), conf)?)
    }

    fn get(&self) -> Command {
        let mut apt = private("apt-get");
        apt.args(["--quiet", "--config-file"]).arg(self.0.join("apt.conf"));
        apt.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
        apt
    }
}

/// The package files in `folder`.
fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        paths.push(entry?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    Ok(paths)
}
