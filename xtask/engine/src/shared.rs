//! What the engine's other modules stand on: messages, folders with one owner, and the folder
//! that all engines of the host share.

use std::fmt::Display;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result};

use base::output;
use base::process::{self, TICK};

/// One folder for the engines of all checkouts. Short, because the path of a socket may have no
/// more than 108 bytes.
const ENGINES: &str = "/run/xtask-engine";

pub const MAX_ENGINES: u8 = 16;

/// Prints a message on standard error: standard output is the command's.
pub fn say(message: impl Display) {
    output::note(format_args!("engine: {message}"));
}

/// A folder that this process owns. The lock is on the folder's own inode, so no lock file stays
/// behind, and the lock goes with the process, however that ends.
pub struct Folder {
    pub path: PathBuf,
    _lock: File,
}

impl Folder {
    /// The folder `path`, created if need be; `None` if another process owns it.
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
            // Its last owner may have removed it; then this lock is on an unlinked folder.
            let present = fs::metadata(path).map(|there| there.ino()).ok();
            if present == Some(lock.metadata()?.ino()) {
                return Ok(Some(Folder { path: path.to_owned(), _lock: lock }));
            }
        }
    }

    /// The same, but waits for it. `waiting` is called now and then; its error ends the wait.
    pub fn wait_for(path: &Path, mut waiting: impl FnMut() -> Result<()>) -> Result<Folder> {
        loop {
            if let Some(folder) = Folder::try_take(path)? {
                return Ok(folder);
            }
            waiting()?;
            thread::sleep(TICK);
        }
    }

    /// The folders in `parent` that have no owner, with this process as their owner.
    pub fn abandoned(parent: &Path) -> Vec<Folder> {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.filter_map(|entry| Folder::try_take(&entry.path()).ok().flatten()).collect()
    }

    /// Removes the folder and its content; says so if that fails.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            say(format_args!("can't remove {}: {error}", self.path.display()));
        }
    }
}

/// Makes `path` with `make`, in a scratch folder, unless it exists. Only one process makes
/// anything at a time, and what exists is complete. `Interrupted` on a signal during the wait.
pub fn once(path: &Path, make: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let downloads = path.parent().context("a download has a folder.")?;
    let mut announced = false;
    let _lock = Folder::wait_for(downloads, || {
        if !announced {
            say("waiting for another engine's download");
        }
        announced = true;
        process::check_signals()
    })?;
    if path.exists() {
        return Ok(());
    }
    let partial = downloads.join("partial");
    // A killed process may have left its own.
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    let result = make(&partial).and_then(|made| Ok(fs::rename(made, path)?));
    // An interrupted program may still write there, so this can fail too; the first error counts.
    let removed = fs::remove_dir_all(&partial);
    result?;
    Ok(removed?)
}

/// Keeps all other engines from changing what they share while it is held, which is never long:
/// no signal ends the wait for it.
pub fn gate() -> Result<Folder> {
    Folder::wait_for(Path::new(ENGINES), || Ok(()))
}

/// The path `name` in the folder of all engines.
pub fn common(name: &str) -> PathBuf {
    Path::new(ENGINES).join(name)
}

pub fn folder(number: u8) -> PathBuf {
    common(&number.to_string())
}

/// The folders of all engines that run or were killed.
pub fn folders() -> impl Iterator<Item = PathBuf> {
    (0..MAX_ENGINES).map(folder).filter(|path| path.exists())
}
