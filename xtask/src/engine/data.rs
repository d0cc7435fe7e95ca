//! Folders that one process has at a time, and the data folder of an engine, which is one.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result};

use super::sandbox::run;
use super::say;
use crate::process::TICK;

/// A folder that this process has for itself. The lock is on the folder's own inode, so there is
/// no lock file to be left over, and it goes with the process, however that ends.
pub struct Folder {
    pub path: PathBuf,
    _lock: File,
}

impl Folder {
    /// The folder `path`, made if need be; `None` if another process has it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn try_take(path: &Path) -> Result<Option<Folder>> {
        loop {
            fs::create_dir_all(path).with_context(|| format!("can't make {}", path.display()))?;
            let lock = match File::open(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                opened => opened?,
            };
            match lock.try_lock() {
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error.into()),
                Ok(()) => {}
            }
            // Whoever had it before may have removed it; then the lock is on nothing.
            let is_there = fs::metadata(path).map(|there| there.ino()).ok();
            if is_there == Some(lock.metadata()?.ino()) {
                return Ok(Some(Folder { path: path.to_owned(), _lock: lock }));
            }
        }
    }

    /// The same, but waits for it; `waiting` is called now and then, and ends it with an error.
    ///
    /// # Errors
    /// Those of the file system and of `waiting`.
    pub fn wait_for(path: &Path, mut waiting: impl FnMut() -> Result<()>) -> Result<Folder> {
        loop {
            if let Some(folder) = Folder::try_take(path)? {
                return Ok(folder);
            }
            waiting()?;
            thread::sleep(TICK);
        }
    }

    /// Those of the folders in `parent` that nobody has: their processes were killed.
    pub fn abandoned(parent: &Path) -> Vec<Folder> {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.filter_map(|entry| Folder::try_take(&entry.path()).ok().flatten()).collect()
    }

    /// Removes it with what it holds.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            say(format_args!("can't remove {}: {error}", self.path.display()));
        }
    }
}

/// Where one engine keeps images, build cache, the registry's content, and its logs.
pub struct Data {
    folder: Folder,
    pub fresh: bool,
    /// Whether it is on an overlay itself, as all that is in a container but its volumes. Layers
    /// can't be overlays there, and have to be copies.
    pub on_overlay: bool,
}

impl Data {
    /// The first data folder below `engine` that no other engine has; an empty one, to be removed
    /// in the end, if it is to be `fresh`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn take(engine: &Path, fresh: bool) -> Result<Data> {
        let fresh_ones = engine.join("fresh");
        for killed in Folder::abandoned(&fresh_ones) {
            killed.remove();
        }
        // Only an empty one goes.
        let _ = fs::remove_dir(&fresh_ones);
        let parent = engine.join(if fresh { "fresh" } else { "data" });
        let mut number = 0;
        loop {
            if let Some(folder) = Folder::try_take(&parent.join(number.to_string()))? {
                let on_overlay = is_on_overlay(&folder.path)?;
                if on_overlay {
                    let path = engine.display();
                    say(format_args!("{path} is on an overlay; a volume there would be faster"));
                }
                return Ok(Data { folder, fresh, on_overlay });
            }
            number += 1;
        }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path.join(name)
    }
}

fn is_on_overlay(path: &Path) -> Result<bool> {
    let mut stat = Command::new("stat");
    stat.args(["--file-system", "--format=%T"]).arg(path);
    Ok(run("stat", &mut stat)?.trim() == "overlayfs")
}

impl Drop for Data {
    fn drop(&mut self) {
        if self.fresh {
            self.folder.remove();
            // Only the last fresh engine can remove it.
            let _ = self.folder.path.parent().map(fs::remove_dir);
        }
    }
}
