//! The programs: Debian packages, fetched with the host's apt but a configuration of our own, and
//! unpacked without being installed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Result, anyhow};
use base::digest::sha256;
use base::error::usage;

use crate::image;
use crate::sandbox::{private, run};
use crate::shared::once;

/// The release of Debian that the programs are from, unless another is asked for.
pub const RELEASE: &str = "trixie";

/// This machine's architecture, as Debian and Docker call it.
pub const ARCH: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// The packages, their dependencies aside. All of them are from one release, the C library too, so
/// the host's own does not matter.
const PACKAGES: &str = "?essential docker-buildx docker-cli docker-registry docker.io iproute2 \
                        nftables tini";

/// Debian's keys where a host has them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The package of the keys, below the mirror: that of Ubuntu may be too old for our release.
const KEYS: &str = "pool/main/d/debian-archive-keyring/debian-archive-keyring_2025.1_all.deb";
const KEYS_DIGEST: &str = "SHA256:9ea7778e443144ca490668737a8ab22dd3e748bb99e805e22ec055abeb3c7fac";
const MIRROR: &str = "http://deb.debian.org/debian";

/// For a host on which nothing is installed. It fetches no descriptions, and stops at the first
/// index that is missing.
const APT_CONF: &str = r#"
Acquire::Languages "none";
Acquire::Retries "3";
APT::Get::Assume-Yes "true";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Debug::NoLocking "true";
Dir::State::status "status";
quiet "1";
"#;

/// Does what the packages' own scripts would do, as far as it is needed, and removes what nobody
/// reads.
const FINISH: &str = "
rm -r usr/share/doc usr/share/locale usr/share/man
mkdir -p usr/local usr/src path
ln -s iptables-nft usr/sbin/iptables
ln -s ip6tables-nft usr/sbin/ip6tables
ln -s ../usr/bin/docker path/docker
";

/// The programs of Debian's `release`, unless `downloads` has them: a folder with `usr`, and `path` with
/// docker, which is all that the command sees. The base image shares packages, and is made at the same time.
pub fn get(downloads: &Path, release: &str) -> Result<PathBuf> {
    let recipe = sha256([PACKAGES, APT_CONF].concat());
    let folder = downloads.join(format!("programs-{release}-{ARCH}-{}", &recipe[..8]));
    once(&folder, |scratch| {
        let programs = scratch.join("programs");
        fs::create_dir(&programs)?;
        let apt = Apt::new(scratch.join("apt"), release, ARCH)?;
        thread::scope(|scope| {
            let (mut shared, mut base) = (Vec::new(), None);
            if release == RELEASE {
                shared = apt.fetch(image::PACKAGES)?;
                let fetched = Some((shared.clone(), programs.as_path()));
                base = Some(scope.spawn(|| image::get(downloads, ARCH, fetched)));
            }
            let mut own = apt.fetch(PACKAGES)?;
            own.retain(|archive| !shared.contains(archive));
            unpack(&own, &programs)?;
            let made = base.map_or(Ok(Ok(())), ScopedJoinHandle::join);
            made.unwrap_or_else(|_| Err(anyhow!("the base image was not made")))
        })?;
        // The base image brings what it shares, unless another engine had made it.
        if !programs.join("usr/bin/dash").exists() {
            unpack(&apt.fetch(PACKAGES)?, &programs)?;
        }
        run("preparing programs", Command::new("sh").args(["-ec", FINISH]).current_dir(&programs))?;
        Ok(programs)
    })?;
    Ok(folder)
}

/// Unpacks the packages `archives` into `folder`, the largest first.
pub fn unpack(archives: &[PathBuf], folder: &Path) -> Result<()> {
    const UNPACK: &str = r#"
        folder=$1
        shift
        ls -NS "$@" | xargs -d '\n' -n 1 -P "$(nproc)" \
            sh -c 'dpkg-deb --extract "$1" "$0" && echo "${1##*/}"' "$folder""#;
    let mut script = private("sh");
    script.args(["-c", UNPACK, "sh"]).arg(folder).args(archives);
    run("unpacking packages", &mut script).map(drop)
}

/// An apt with a folder of ours instead of `/`.
pub struct Apt(PathBuf);

impl Apt {
    /// One for `release` and `arch` in `folder`, with its package lists.
    pub fn new(folder: PathBuf, release: &str, arch: &str) -> Result<Apt> {
        const FOLDERS: &str = "etc/apt/apt.conf.d etc/apt/preferences.d etc/apt/trusted.gpg.d \
                               var/lib/apt/lists/partial var/cache/apt/archives/partial";
        let apt = Apt(folder);
        for folder in FOLDERS.split(' ') {
            fs::create_dir_all(apt.0.join(folder))?;
        }
        // How the host's apt reaches the network, proxies included.
        let mut dump = Command::new("apt-config");
        let dump = run("apt-config", dump.args(["dump", "--format", "%F \"%v\";%n", "Acquire"]))?;
        let network = dump.lines().filter(|line| !line.starts_with("Acquire::IndexTargets"));
        let network = network.collect::<Vec<_>>().join("\n");
        // apt reads this before, and so instead of, the configuration in `/etc/apt`.
        let own = format!("APT::Architecture \"{arch}\";\nDir \"{}\";\n", apt.0.display());
        fs::write(apt.0.join("apt.conf"), format!("{network}\n{APT_CONF}{own}"))?;

        let mirror = env::var("APT_MIRROR").unwrap_or_default();
        let mirror = if mirror.is_empty() { MIRROR } else { mirror.trim_end_matches('/') };
        let mut keys = PathBuf::from(KEYRING);
        // As on Ubuntu.
        if !keys.exists() {
            let package = apt.0.join("keys.deb");
            let mut download = apt.command("/usr/lib/apt/apt-helper");
            download.args(["download-file", &format!("{mirror}/{KEYS}")]).arg(&package);
            run("downloading Debian's keys", download.arg(KEYS_DIGEST))?;
            unpack(&[package], &apt.0)?;
            keys = apt.0.join(&KEYRING[1..]);
        }
        fs::copy(keys, apt.0.join("etc/apt/trusted.gpg.d/debian.gpg"))?;
        let mut sources = format!("deb {mirror} {release} main\n");
        if release == RELEASE {
            sources += &format!("deb {mirror} {release}-updates main\n");
            sources += &format!("deb {mirror}-security {release}-security main\n");
        }
        fs::write(apt.0.join("etc/apt/sources.list"), sources)?;
        fs::write(apt.0.join("var/lib/apt/status"), "")?;
        apt.get("downloading package lists", "update")?;
        Ok(apt)
    }

    /// Fetches `packages` and what they depend on, and returns all that was fetched so far.
    pub fn fetch(&self, packages: &str) -> Result<Vec<PathBuf>> {
        self.get("downloading packages", &format!("--download-only install {packages}"))?;
        let files = fs::read_dir(self.0.join("var/cache/apt/archives"))?.flatten();
        let mut archives: Vec<PathBuf> = files.map(|file| file.path()).collect();
        archives.retain(|path| path.extension().is_some_and(|end| end == "deb"));
        archives.sort();
        Ok(archives)
    }

    /// Calls apt-get; a failure says so if the release lacks something.
    fn get(&self, what: &str, arguments: &str) -> Result<()> {
        let mut apt = self.command("apt-get");
        run(what, apt.args(arguments.split(' '))).map(drop).map_err(|error| {
            let reason = format!("{error:#}");
            let lacks = ["Unable to locate package", "does not have a Release file"];
            if !lacks.iter().any(|lack| reason.contains(lack)) {
                return error;
            }
            usage(format!("{reason}\nhint: trixie, forky and sid have a Docker for the engine"))
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = private(program);
        command.env("APT_CONFIG", self.0.join("apt.conf"));
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
        // A killed one leaves files there.
        command.env("TMPDIR", &self.0);
        command
    }
}
