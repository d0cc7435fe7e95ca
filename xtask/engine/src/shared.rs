//! What the engine's other modules stand on: messages, folders with one owner, and the folder
//! that all engines of the host share.

use std::fmt::Display;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base::process::{self, TICK};
use base::{output, status};

/// One folder for the engines of all checkouts. Short, because the path of a socket may have no
/// more than 108 bytes.
const ENGINES: &str = "/run/xtask-engine";

pub const MAX_ENGINES: u8 = 16;

/// Prints a message on standard error: standard output is the command's.
pub fn say(message: impl Display) {
    output::note(format_args!("engine: {message}"));
}

/// Shows now and then how far the engine is.
pub fn show(progress: &str) {
    let is_terminal = status::is_terminal();
    if status::is_due(is_terminal, Duration::from_secs(10)) {
        status::show(&[format!("engine: {progress}")], is_terminal);
    }
}

/// A folder that this process owns. The lock is on the folder's own inode, so no lock file stays
/// behind, and the lock goes with the process, however that ends.
pub struct Folder {
    pub path: PathBuf,
    /// True if it is removed when this is dropped.
    pub is_temporary: bool,
    _lock: File,
}

impl Folder {
    /// The folder `path`, created if need be; `None` if another process owns it.
    pub fn try_take(path: &Path) -> Result<Option<Folder>> {
        loop {
            fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
            let lock = match File::open(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                opened => opened?,
            };
            match lock.try_lock() {
                Err(TryLockError::WouldBlock) => return Ok(None),
                locked => locked?,
            }
            // Its last owner may have removed it; then this lock is on an unlinked folder.
            let inode = lock.metadata()?.ino();
            if fs::metadata(path).is_ok_and(|there| there.ino() == inode) {
                return Ok(Some(Folder { path: path.into(), is_temporary: false, _lock: lock }));
            }
        }
    }

    /// The same, but waits for it. `waiting` is called now and then; its error ends the wait.
    fn wait_for(path: &Path, waiting: impl Fn() -> Result<()>) -> Result<Folder> {
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
        let folders = entries.map(|entry| entry.path()).filter(|path| path.is_dir());
        folders.filter_map(|path| Folder::try_take(&path).ok().flatten()).collect()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes the folder and its content; says so if that fails.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            say(format_args!("cannot remove {}: {error}", self.path.display()));
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_temporary {
            self.remove();
            // Only if it is empty.
            let _ = self.path.parent().map(fs::remove_dir);
        }
    }
}

/// Makes `path` with `make`, in a scratch folder, unless it exists. Only one process or thread makes
/// it at a time, and what exists is complete.
/// Errors: those of `make`; `Interrupted` on a signal during the wait.
pub fn once(path: &Path, make: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let mut partial = Folder::wait_for(&path.with_extension("partial"), || {
        show("waiting for the downloads of another engine");
        process::check_signals()
    })?;
    partial.is_temporary = true;
    let scratch = partial.join("scratch");
    // A killed process may have left its own.
    let _ = fs::remove_dir_all(&scratch);
    if !path.exists() {
        fs::create_dir(&scratch)?;
        fs::rename(make(&scratch)?, path)?;
    }
    Ok(())
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

/// The folders of all engines that run or were killed.
pub fn folders() -> impl Iterator<Item = PathBuf> {
    (0..MAX_ENGINES).map(|number| common(&number.to_string())).filter(|path| path.exists())
}
