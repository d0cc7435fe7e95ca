//! The programs: Debian packages, fetched with the host's apt but a configuration of our own, and
//! unpacked without being installed.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Result, anyhow, bail};
use base::digest::sha256;
use base::error::usage;

use crate::image;
use crate::sandbox::{Programs, private, run, run_with};
use crate::shared::{once, progress, timed};

/// The release of Debian that the programs are from, unless another is asked for.
pub const RELEASE: &str = "trixie";

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

/// For every apt here. It fetches no descriptions, and stops at the first index that is missing.
const APT_CONF: &str = r#"
Acquire::Languages "none";
Acquire::Retries "3";
APT::Get::Assume-Yes "true";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Debug::NoLocking "true";
"#;

/// Our own source, and a host on which nothing is installed.
const DEBIAN_CONF: &str = r#"
APT::Update::Error-Mode "any";
Dir::State::status "status";
"#;

/// The programs of Debian's `release`, fetched and unpacked if `downloads` does not have them. The
/// layer of the base image is made at the same time, as it needs some of the same packages.
pub fn get(downloads: &Path, release: &str) -> Result<Programs> {
    let arch = run("dpkg", Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned();
    if !["amd64", "arm64"].contains(&arch.as_str()) {
        bail!("the engine runs on amd64 and arm64; this machine is {arch}");
    }
    let recipe = sha256([PACKAGES, APT_CONF, DEBIAN_CONF].concat());
    let folder = downloads.join(format!("programs-{release}-{arch}-{}", &recipe[..8]));
    let layer = image::layer(downloads, &arch);
    once(&folder, |scratch| {
        let programs = scratch.join("programs");
        fs::create_dir(&programs)?;
        let apt = Apt::new(scratch.join("apt"), release, &arch)?;
        if release == RELEASE && !layer.exists() {
            let shared = apt.fetch(image::PACKAGES)?;
            let make = |scratch: &Path| image::make(scratch, &programs, &shared);
            thread::scope(|scope| {
                let making = scope.spawn(|| once(&layer, make));
                let fetched = apt.fetch(PACKAGES).and_then(|mut archives| {
                    archives.retain(|archive| !shared.contains(archive));
                    unpack(&archives, &programs)
                });
                making.join().unwrap_or_else(|_| Err(anyhow!("the base image was not made")))?;
                fetched
            })?;
        }
        // The layer that is made here brings them, unless another engine has made it meanwhile.
        if !programs.join("usr/bin/dash").exists() {
            unpack(&apt.fetch(PACKAGES)?, &programs)?;
        }
        // What the packages' own scripts would have done, as far as it is needed, and without what
        // nobody reads.
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
        symlink("../usr/bin/docker", programs.join("path/docker"))?;
        Ok(programs)
    })?;
    image::get(downloads, &arch)?;
    Ok(Programs { folder, arch })
}

/// Unpacks the packages `archives` into `folder`, the largest first.
pub fn unpack(archives: &[PathBuf], folder: &Path) -> Result<()> {
    const UNPACK: &str = r#"
        folder=$1
        shift
        ls -NS "$@" | xargs -d '\n' -n 1 -P "$(nproc)" \
            sh -c 'dpkg-deb --extract "$1" "$0" && echo "$1"' "$folder""#;
    let mut script = private("sh");
    script.args(["-c", UNPACK, "sh"]).arg(folder).args(archives);
    timed("unpacking", || {
        let mut done = 0;
        run_with("unpacking Debian's packages", &mut script, |written| {
            done += String::from_utf8_lossy(written).matches(".deb\n").count();
            progress("unpacking", &format!("{done}/{}", archives.len()));
        })
    })
    .map(drop)
}

/// An apt with a folder of ours instead of `/`.
pub struct Apt {
    folder: PathBuf,
    release: String,
}

impl Apt {
    /// One for `release` and `arch`, with its package lists.
    pub fn new(folder: PathBuf, release: &str, arch: &str) -> Result<Apt> {
        let mirror = env::var("APT_MIRROR").unwrap_or_default();
        let mirror = if mirror.is_empty() { MIRROR } else { mirror.trim_end_matches('/') };
        let conf = format!("{DEBIAN_CONF}APT::Architecture \"{arch}\";\n");
        let apt = Apt::configured(folder, release, &conf)?;
        let mut keys = PathBuf::from(KEYRING);
        // As on Ubuntu.
        if !keys.exists() {
            let package = apt.folder.join("keys.deb");
            let mut download = apt.call("/usr/lib/apt/apt-helper");
            download.args(["download-file", &format!("{mirror}/{KEYS}")]).arg(&package);
            run("downloading Debian's keys", download.arg(KEYS_DIGEST))?;
            unpack(&[package], &apt.folder)?;
            keys = apt.folder.join(&KEYRING[1..]);
        }
        fs::copy(keys, apt.folder.join("etc/apt/trusted.gpg.d/debian.gpg"))?;
        let mut sources = format!("deb {mirror} {release} main\n");
        if release == RELEASE {
            sources += &format!("deb {mirror} {release}-updates main\n");
            sources += &format!("deb {mirror}-security {release}-security main\n");
        }
        fs::write(apt.folder.join("etc/apt/sources.list"), sources)?;
        fs::write(apt.folder.join("var/lib/apt/status"), "")?;
        timed("downloading package lists", || {
            apt.run("downloading Debian's package lists", apt.get().arg("update"), |_| ())
        })?;
        Ok(apt)
    }

    fn configured(folder: PathBuf, release: &str, conf: &str) -> Result<Apt> {
        for part in ["apt.conf.d", "preferences.d", "trusted.gpg.d"] {
            fs::create_dir_all(folder.join("etc/apt").join(part))?;
        }
        fs::create_dir_all(folder.join("var/lib/apt/lists/partial"))?;
        let apt = Apt { folder, release: release.to_owned() };
        fs::create_dir_all(apt.archives().join("partial"))?;
        // How the host's apt reaches the network, proxies included.
        let mut dump = Command::new("apt-config");
        let dump = run("apt-config", dump.args(["dump", "--format", "%F \"%v\";%n", "Acquire"]))?;
        let network = dump.lines().filter(|line| !line.starts_with("Acquire::IndexTargets"));
        let network = network.collect::<Vec<_>>().join("\n");
        // apt reads this before, and so instead of, the configuration in `/etc/apt`.
        let conf = format!("{network}\n{APT_CONF}Dir \"{}\";\n{conf}", apt.folder.display());
        fs::write(apt.folder.join("apt.conf"), conf)?;
        Ok(apt)
    }

    /// Fetches `packages` and what they depend on, and returns all that was fetched so far.
    pub fn fetch(&self, packages: &str) -> Result<Vec<PathBuf>> {
        const WHAT: &str = "downloading packages";
        let mut install = self.get();
        install.args(["--download-only", "install"]).args(packages.split(' '));
        let before = self.bytes();
        let mut said = String::new();
        timed(WHAT, || {
            self.run("downloading Debian's packages", &mut install, |written| {
                said += &String::from_utf8_lossy(written);
                if let Some((_, all)) = said.split_once("Need to get ") {
                    let all = all.split([' ', '/']).next().unwrap_or_default();
                    let done = (self.bytes() - before) / 1_000_000;
                    progress(WHAT, &format!("{done} of {all} MB"));
                }
            })
        })?;
        self.fetched()
    }

    /// Runs apt; says so if it fails because the release lacks something.
    fn run(&self, what: &str, apt: &mut Command, watch: impl FnMut(&[u8])) -> Result<()> {
        run_with(what, apt, watch).map(drop).map_err(|error| {
            let text = error.to_string();
            let lacks = ["Unable to locate package", "does not have a Release file"];
            if !lacks.iter().any(|lack| text.contains(lack)) {
                return error;
            }
            let release = &self.release;
            let reason = text.rsplit_once("failed: ").map_or(&*text, |(_, reason)| reason);
            usage(format!(
                "Debian {release:?} has no Docker for the engine: {reason}\nhint: the releases that \
                 work are trixie, forky and sid"
            ))
        })
    }

    fn archives(&self) -> PathBuf {
        self.folder.join("var/cache/apt/archives")
    }

    /// The size of the packages that are there, in part or as a whole.
    fn bytes(&self) -> u64 {
        let folders = [self.archives().join("partial"), self.archives()];
        let files = folders.map(fs::read_dir).into_iter().flatten().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
    }

    fn fetched(&self) -> Result<Vec<PathBuf>> {
        let mut packages = Vec::new();
        for file in fs::read_dir(self.archives())? {
            packages.push(file?.path());
        }
        packages.retain(|path| path.extension().is_some_and(|end| end == "deb"));
        packages.sort();
        Ok(packages)
    }

    fn get(&self) -> Command {
        let mut apt = self.call("apt-get");
        apt.arg("--quiet");
        apt
    }

    fn call(&self, program: &str) -> Command {
        let mut apt = private(program);
        apt.env("APT_CONFIG", self.folder.join("apt.conf"));
        apt.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
        // A killed one leaves files there.
        apt.env("TMPDIR", &self.folder);
        apt
    }
}
