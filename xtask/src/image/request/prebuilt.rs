//! Packages that are built already (`--prebuilt-sdist`): either the SDK's whole workspace as one
//! archive, or wheels and sdists of single packages that replace the pinned ones. Only names are
//! read here. An archive is unpacked inside the build's sandbox and nowhere else, so what is in it
//! can do no more than any other build step.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use xshell::Shell;

use super::workspace::{PACKAGES, Package, normalized};
use crate::digest::hex;
use crate::error::usage;

const SDIST: &str = ".tar.gz";
const WHEEL: &str = ".whl";
/// The largest archive that is taken. The SDK's own are a few megabytes.
const LARGEST: u64 = 1 << 30;

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
    /// Named by its content, so that two runs at once can share it.
    folder: PathBuf,
}

impl Prebuilt {
    /// Looks at `path`: an sdist, a wheel, or a folder of them.
    ///
    /// # Errors
    /// A usage error for a path without an archive, for one that is not a regular file or too
    /// large, and for two archives of one package.
    pub fn open(sh: &Shell, path: &Path) -> Result<Self> {
        let archives = find(path)?;
        let mut content = Sha256::new();
        for archive in &archives {
            content.update(archive.file_name().as_bytes());
            add_content(&mut content, &archive.path)
                .map_err(|error| refuse(&archive.path, format!("can't be read: {error}")))?;
        }
        let folder = sh.current_dir().join("target/prebuilt").join(hex(&content.finalize()));
        Ok(Prebuilt { archives, folder })
    }

    /// The folder that bake gets, absolute.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The archives that may hold the whole workspace.
    pub fn workspaces(&self) -> impl Iterator<Item = &Path> {
        let may = self.archives.iter().filter(|archive| archive.is_workspace());
        may.map(|archive| archive.path.as_path())
    }

    /// How many archives there are.
    pub fn count(&self) -> usize {
        self.archives.len()
    }

    /// The packages of the server, where these archives replace some of `pinned`.
    pub fn packages(&self, pinned: Vec<Package>) -> Vec<Package> {
        let replace = |package: Package| {
            let own = self.archives.iter().find(|archive| archive.package == package.name);
            let version = own.map_or(package.version, |archive| archive.version.clone());
            Package { name: package.name, version }
        };
        pinned.into_iter().map(replace).collect()
    }

    /// Fills the folder.
    ///
    /// # Errors
    /// A disk that does not take it.
    pub fn stage(&self) -> Result<()> {
        let copy = || -> io::Result<()> {
            fs::create_dir_all(&self.folder)?;
            for archive in &self.archives {
                let partial = self.folder.join(format!(".{}", std::process::id()));
                fs::copy(&archive.path, &partial)?;
                fs::rename(partial, self.folder.join(archive.file_name()))?;
            }
            Ok(())
        };
        copy().with_context(|| format!("{} can't be filled", self.folder.display()))
    }
}

impl Archive {
    /// `None` for a file that is no archive by its name.
    fn named(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy();
        let (package, version) = match name.strip_suffix(WHEEL) {
            // A wheel's name has the package's dashes replaced, so the first one ends it.
            Some(stem) => {
                let mut parts = stem.split('-');
                (parts.next()?, parts.next())
            }
            None => {
                let stem = name.strip_suffix(SDIST)?;
                let parts = stem.rsplit_once('-');
                let parts = parts.filter(|(_, end)| end.starts_with(|c: char| c.is_ascii_digit()));
                parts.map_or((stem, None), |(package, version)| (package, Some(version)))
            }
        };
        let (package, version) = (normalized(package), version.map(str::to_owned));
        Some(Archive { path: path.to_owned(), package, version })
    }

    fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// May it be the whole workspace? The root of a workspace is seldom a package, so that its
    /// sdist can be called anything, often `unknown-0.0.0.tar.gz`.
    fn is_workspace(&self) -> bool {
        self.file_name().ends_with(SDIST) && !PACKAGES.contains(&self.package.as_str())
    }
}

/// The archives at `path`, in the order of their names.
fn find(path: &Path) -> Result<Vec<Archive>> {
    let mut paths = if path.is_dir() {
        let entries = fs::read_dir(path).map_err(|error| refuse(path, error))?;
        let entries = entries.map(|entry| entry.map(|entry| entry.path()));
        entries.collect::<io::Result<Vec<_>>>().map_err(|error| refuse(path, error))?
    } else {
        vec![path.to_owned()]
    };
    paths.sort();
    let archives = paths.iter().filter_map(|path| Archive::named(path)).collect::<Vec<_>>();
    if archives.is_empty() {
        return Err(refuse(
            path,
            format!("is neither an archive ({SDIST} or {WHEEL}) nor a folder with one"),
        ));
    }
    let mut packages = BTreeMap::new();
    for archive in &archives {
        check_file(&archive.path)?;
        if let Some(first) = packages.insert(&archive.package, archive) {
            let (package, second) = (&archive.package, archive.file_name());
            let names = format!("{:?} and {second:?}", first.file_name());
            return Err(refuse(path, format!("has two archives of {package}, {names}")));
        }
    }
    Ok(archives)
}

/// Fails unless `path` is a regular file of a sane size. A pipe or a device might never end.
fn check_file(path: &Path) -> Result<()> {
    let file = fs::metadata(path).map_err(|error| refuse(path, error))?;
    if !file.is_file() {
        return Err(refuse(path, "is not a regular file"));
    }
    if file.len() > LARGEST {
        let (size, largest) = (file.len() >> 20, LARGEST >> 20);
        return Err(refuse(path, format!("is too large: {size} MiB of at most {largest} MiB")));
    }
    Ok(())
}

fn refuse(path: &Path, why: impl Display) -> anyhow::Error {
    // Quoted: a name may hold anything, such as what a terminal obeys.
    let path = path.to_string_lossy();
    usage(format!(
        "--prebuilt-sdist {path:?} {why}: name an sdist ({SDIST}), a wheel ({WHEEL}), or a folder \
         with one of each package."
    ))
}

fn add_content(digest: &mut Sha256, path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?.take(LARGEST);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            read => digest.update(&buffer[..read]),
        }
    }
}
