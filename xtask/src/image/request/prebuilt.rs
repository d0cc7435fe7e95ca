//! Packages that are built already and replace the pinned ones (`--prebuilt-sdist`). They are
//! looked through before they reach a build: their file names and entries come from elsewhere.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use xshell::Shell;

use crate::digest::hex;
use crate::error::usage;
use crate::image::request::archive;

/// Archives that were found good, and the folder that bake gets them in.
pub struct Prebuilt {
    archives: Vec<PathBuf>,
    /// Named by its content, so that two runs at once can share it.
    folder: PathBuf,
}

impl Prebuilt {
    /// Looks through `path`: a source archive, a wheel, or a folder of them.
    ///
    /// # Errors
    /// A usage error for a path that holds no archive, for an archive that is not one, or for one
    /// that has entries outside itself.
    pub fn open(sh: &Shell, path: &Path) -> Result<Self> {
        let archives = find(path)?;
        let mut content = Sha256::new();
        for archive in &archives {
            check(archive).map_err(|error| {
                usage(format!("--prebuilt-sdist {} can't be used: {error:#}.", archive.display()))
            })?;
            content.update(name(archive).as_bytes());
            content.update(fs::read(archive)?);
        }
        let folder = sh.current_dir().join("target/prebuilt").join(hex(&content.finalize()));
        Ok(Prebuilt { archives, folder })
    }

    /// The folder that bake gets, absolute.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Fills the folder.
    ///
    /// # Errors
    /// A disk that does not take it.
    pub fn stage(&self) -> Result<()> {
        let copy = || -> std::io::Result<()> {
            fs::create_dir_all(&self.folder)?;
            for archive in &self.archives {
                let copy = self.folder.join(name(archive));
                let partial = self.folder.join(format!(".{}", std::process::id()));
                fs::copy(archive, &partial)?;
                fs::rename(partial, copy)?;
            }
            Ok(())
        };
        copy().with_context(|| format!("{} can't be filled", self.folder.display()))
    }
}

/// Looks through the entries of an archive.
type Check = fn(&Path) -> Result<()>;

/// What a package's archive can end in, and how its entries are read.
const KINDS: [(&str, Check); 2] = [(".tar.gz", check_sdist), (".whl", check_wheel)];

fn find(path: &Path) -> Result<Vec<PathBuf>> {
    let is_archive = |path: &PathBuf| KINDS.iter().any(|(end, _)| name(path).ends_with(end));
    let listed = if path.is_dir() {
        let entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path()));
        entries.collect::<Result<Vec<_>>>()?
    } else {
        vec![path.to_owned()]
    };
    let mut archives = listed.into_iter().filter(is_archive).collect::<Vec<_>>();
    archives.sort();
    if archives.is_empty() {
        let ends = KINDS.map(|(end, _)| end).join(" or ");
        return Err(usage(format!(
            "--prebuilt-sdist {} is neither a package's archive ({ends}) nor a folder with one.",
            path.display()
        )));
    }
    Ok(archives)
}

fn check(archive: &Path) -> Result<()> {
    let name = name(archive);
    match KINDS.iter().find(|(end, _)| name.ends_with(end)) {
        Some((_, check)) => check(archive),
        None => Ok(()),
    }
}

fn check_wheel(path: &Path) -> Result<()> {
    archive::check_zip(&fs::read(path)?)
}

fn check_sdist(path: &Path) -> Result<()> {
    let mut gzip = Command::new("gzip")
        .args(["--decompress", "--stdout"])
        .stdin(File::open(path)?)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("gzip can't be started")?;
    let checked = match gzip.stdout.take() {
        Some(mut tar) => archive::check_tar(&mut tar as &mut dyn Read),
        None => Ok(()),
    };
    // Only after the pipe is closed does gzip end when there is more than was read.
    let whole = gzip.wait()?.success();
    checked.and_then(|()| {
        anyhow::ensure!(whole, "it is not in gzip's format");
        Ok(())
    })
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
