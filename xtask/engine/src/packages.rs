//! The programs: Debian packages, fetched with the host's apt but a configuration of our own,
//! and unpacked without being installed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::sandbox::{Programs, private, run};
use crate::shared::{once, say};
use base::digest::sha256;

/// The release of Debian that the programs are from, unless another is asked for.
pub const RELEASE: &str = "trixie";

/// The packages, their dependencies aside. All of them are from one release, the C
/// library too, so the host's own does not matter.
const PACKAGES: &str = "?essential arch-test debian-archive-keyring docker-buildx docker-cli \
                        docker-registry docker.io iproute2 mmdebstrap mount nftables tini";

const MIRROR: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// For every apt here.
const APT_CONF: &str = r#"
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Debug::NoLocking "true";
"#;

/// For all packages but one: our own source, and a host on which nothing is installed.
const DEBIAN_CONF: &str = r#"
APT::Update::Error-Mode "any";
Dir::State::status "status";
"#;

/// For that one: the host's sources and packages, but not its pins and hooks.
const HOST_CONF: &str = r#"
Dir::Etc "/etc/apt";
Dir::Etc::Main "/dev/null";
Dir::Etc::Parts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
"#;

/// The programs of Debian's `release`, fetched and unpacked if `downloads` does not have them.
pub fn get(downloads: &Path, release: &str) -> Result<Programs> {
    let mut dpkg = Command::new("dpkg");
    let arch = run("dpkg", dpkg.arg("--print-architecture"))?.trim().to_owned();
    let recipe = sha256([PACKAGES, APT_CONF, DEBIAN_CONF].concat());
    let folder = downloads.join(format!("programs-{release}-{arch}-{}", &recipe[..8]));
    once(&folder, |partial| {
        say(format_args!("downloading Docker and its tools from Debian {release}, once (140 MB)"));
        let programs = partial.join("programs");
        fetch(release, partial, PACKAGES, &programs)?;
        arrange(&programs)?;
        Ok(programs)
    })?;
    Ok(Programs { folder, arch })
}

/// Fetches `packages` of `release` and what they depend on, and unpacks them into `folder`.
pub fn fetch(release: &str, partial: &Path, packages: &str, folder: &Path) -> Result<()> {
    let apt = Apt::new(partial.join("apt"), DEBIAN_CONF)?;
    fs::write(apt.0.join("etc/apt/sources.list"), format!("deb {MIRROR} {release} main\n"))?;
    fs::write(apt.0.join("var/lib/apt/status"), "")?;
    fs::copy(keyring(partial)?, apt.0.join("etc/apt/trusted.gpg"))?;
    run("downloading Debian's package lists", apt.get().arg("update"))?;
    let mut install = apt.get();
    install.args(["--yes", "--download-only", "install"]).args(packages.split(' '));
    run("downloading Debian's packages", &mut install)?;
    say("unpacking them");
    unpack(&apt.0.join("var/cache/apt/archives"), folder)
}

/// Unpacks the packages in `archives` into `folder`.
fn unpack(archives: &Path, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let mut dpkg = private("dpkg-deb");
            run("unpacking a package", dpkg.arg("--extract").arg(path).arg(folder))?;
        }
    }
    Ok(())
}

/// Does what the packages' own scripts would have done, as far as it is needed, and removes what
/// nobody reads.
fn arrange(programs: &Path) -> Result<()> {
    let usr = programs.join("usr");
    for unread in ["doc", "locale", "man"] {
        fs::remove_dir_all(usr.join("share").join(unread))?;
    }
    for place in ["local", "src"] {
        fs::create_dir_all(usr.join(place))?;
    }
    for program in ["iptables", "ip6tables"] {
        symlink(format!("{program}-nft"), usr.join("sbin").join(program))?;
    }
    fs::create_dir(programs.join("path"))?;
    Ok(symlink("../usr/bin/docker", programs.join("path/docker"))?)
}

/// Debian's keys: the host's own, or on Ubuntu those of a package there.
fn keyring(partial: &Path) -> Result<PathBuf> {
    if Path::new(KEYRING).exists() {
        return Ok(KEYRING.into());
    }
    let apt = Apt::new(partial.join("keyring"), HOST_CONF)?;
    // A third party's source may be out of reach; only the package matters.
    let _ = run("downloading the host's package lists", apt.get().arg("update"));
    let mut download = apt.get();
    download.current_dir(&apt.0).args(["download", "debian-archive-keyring"]);
    run("downloading the package debian-archive-keyring", &mut download)?;
    unpack(&apt.0, &apt.0)?;
    Ok(apt.0.join(KEYRING.trim_start_matches('/')))
}

/// An apt with a folder of ours instead of `/`.
struct Apt(PathBuf);

impl Apt {
    fn new(folder: PathBuf, conf: &str) -> Result<Apt> {
        for part in ["etc/apt", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let network = network_settings()?;
        // apt reads this before, and so instead of, the configuration in `/etc/apt`.
        let conf = format!("{APT_CONF}Dir \"{}\";\n{conf}{network}", folder.display());
        fs::write(folder.join("apt.conf"), conf)?;
        Ok(Apt(folder))
    }

    fn get(&self) -> Command {
        let mut apt = private("apt-get");
        apt.arg("--quiet").env("APT_CONFIG", self.0.join("apt.conf"));
        apt.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
        apt
    }
}

/// How the host's apt reaches the network, proxies included, without the indexes that it loads.
pub fn network_settings() -> Result<String> {
    let mut dump = Command::new("apt-config");
    let settings = run("apt-config", dump.args(["dump", "--format", "%F \"%v\";%n", "Acquire"]))?;
    let lines = settings.lines().filter(|line| !line.starts_with("Acquire::IndexTargets"));
    // Behind the host's own, so that these count.
    let ours = ["Acquire::Languages \"none\";", "Acquire::Retries \"3\";", ""];
    Ok(lines.chain(ours).collect::<Vec<_>>().join("\n"))
}
