//! Temporary folders.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};

use crate::digest::random;

/// A folder of this user's alone that is removed when this is dropped. Those of xshell have a
/// number, and once 1,024 of killed runs are left there it finds no free one.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// An empty folder with a random name in `folder`, which is made where it is missing. Files for
    /// docker belong below the repository: the docker of a snap has a temporary folder of its own.
    /// Errors: `folder` can't be made or written to.
    pub fn within(folder: &Path) -> Result<Self> {
        let path = folder.join(format!("xtask-{}", random(8)?));
        let made = fs::create_dir_all(folder);
        let made = made.and_then(|()| DirBuilder::new().mode(0o700).create(&path));
        made.map_err(|error| not_written(folder, &error))?;
        Ok(Scratch(path))
    }
}

/// The error for the folder of this program that can't be written to, and what to do.
pub fn not_written(folder: &Path, error: &io::Error) -> anyhow::Error {
    let folder = folder.display();
    anyhow!("cannot write to {folder}: {error}\nhint: make it writable for this user")
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
