//! Packages that are built already (`--prebuilt-sdist`): either the SDK's whole workspace as one
//! archive, or wheels and sdists of single packages that replace the pinned ones. They are unpacked
//! in the build's sandbox and nowhere else: what is in them can do no more than any build step.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use xshell::Shell;

use super::workspace::{PACKAGES, Package, normalized};
use base::digest::sha256;
use base::error::usage;
use base::output;

const SDIST: &str = ".tar.gz";
const WHEEL: &str = ".whl";

/// An archive, with what its file name says.
struct Archive {
    path: PathBuf,
    /// Of its package, normalized.
    package: String,
    version: Option<String>,
}

/// Archives to build from, and the folder that bake gets them in.
pub struct Prebuilt {
    archives: Vec<Archive>,
    /// Absolute, and named by its content, so that two runs at once can share it.
    pub folder: PathBuf,
}

impl Prebuilt {
    /// Looks at `path`: an sdist, a wheel, or a folder of them.
    /// Errors: a usage error for anything else, and for two archives of one package.
    pub fn open(sh: &Shell, path: &Path) -> Result<Self> {
        let archives = find(path)?;
        let mut content = String::new();
        for archive in &archives {
            let bytes = archive.read().map_err(|error| refuse(&archive.path, error))?;
            content.push_str(&format!("{}\n{}\n", archive.file_name(), sha256(bytes)));
        }
        let folder = sh.current_dir().join("target/prebuilt").join(sha256(content));
        Ok(Prebuilt { archives, folder })
    }

    /// The archives that may hold the whole workspace.
    pub fn workspaces(&self) -> impl Iterator<Item = &Path> {
        let may = self.archives.iter().filter(|archive| archive.is_workspace());
        may.map(|archive| archive.path.as_path())
    }

    pub fn count(&self) -> usize {
        self.archives.len()
    }

    /// The packages of the server, where these archives replace some of `pinned`.
    pub fn packages(&self, pinned: Vec<Package>) -> Vec<Package> {
        let mut packages = pinned;
        for package in &mut packages {
            if let Some(own) = self.archives.iter().find(|own| own.package == package.name) {
                package.version.clone_from(&own.version);
            }
        }
        packages
    }

    /// Fills the folder.
    /// Errors: an archive that can't be read any more; a disk that does not take it.
    pub fn stage(&self) -> Result<()> {
        self.archives.iter().try_for_each(|archive| {
            output::save(&self.folder.join(archive.file_name()), archive.read()?)
        })
    }
}

impl Archive {
    /// `None` for a file that is no archive by its name.
    fn named(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy();
        let (stem, parts) = if let Some(stem) = name.strip_suffix(WHEEL) {
            // A wheel's name has the package's dashes replaced, so the first one ends it.
            (stem, stem.split_once('-'))
        } else {
            let stem = name.strip_suffix(SDIST)?;
            (stem, stem.rsplit_once('-'))
        };
        let parts = parts.filter(|(_, end)| end.starts_with(|c: char| c.is_ascii_digit()));
        let package = normalized(parts.map_or(stem, |(package, _)| package));
        let version = parts.and_then(|(_, end)| end.split('-').next()).map(str::to_owned);
        Some(Archive { path: path.to_owned(), package, version })
    }

    fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// A pipe or a device is not read: it might never end.
    fn read(&self) -> io::Result<Vec<u8>> {
        if fs::metadata(&self.path)?.is_file() {
            return output::load(&self.path);
        }
        Err(io::Error::other("it is not a regular file"))
    }

    /// May it be the whole workspace? The root of a workspace is seldom a package, so that its
    /// sdist can be called anything, often `unknown-0.0.0.tar.gz`.
    fn is_workspace(&self) -> bool {
        self.file_name().ends_with(SDIST) && !PACKAGES.contains(&self.package.as_str())
    }
}

fn find(path: &Path) -> Result<Vec<Archive>> {
    let mut paths = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.map_err(|error| refuse(path, error))?;
        paths = entries.into_iter().map(|entry| entry.path()).collect();
    }
    paths.sort();
    let archives = paths.iter().filter_map(|path| Archive::named(path)).collect::<Vec<_>>();
    if archives.is_empty() {
        return Err(refuse(path, format!("there is no archive ({SDIST} or {WHEEL})")));
    }
    let mut packages = BTreeMap::new();
    for archive in &archives {
        if let Some(first) = packages.insert(&archive.package, archive) {
            let names = format!("{:?} and {:?}", first.file_name(), archive.file_name());
            let package = &archive.package;
            return Err(refuse(path, format!("there are two archives of {package}, {names}")));
        }
    }
    Ok(archives)
}

fn refuse(path: &Path, why: impl Display) -> anyhow::Error {
    // Quoted: a name may hold anything, such as what a terminal obeys.
    let path = path.to_string_lossy();
    usage(format!(
        "--prebuilt-sdist {path:?} can't be used: {why}. Name an sdist ({SDIST}), a wheel \
         ({WHEEL}), or a folder with one of each package."
    ))
}
