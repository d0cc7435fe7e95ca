//! Temporary folders.

use std::env;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::digest::random;

/// A folder of this user's alone that is removed when this is dropped. Those of xshell have a
/// number, and once 1,024 of killed runs are left there it finds no free one.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// An empty folder with a random name.
    ///
    /// # Errors
    /// The system's temporary folder can't be written to.
    pub fn new() -> Result<Self> {
        let path = env::temp_dir().join(format!("xtask-{}", random(8)?));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
