//! What the engine's other modules stand on: messages, folders with one owner, and the folder
//! that all engines of the host share.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use base::process::{self, TICK};
use base::{lock, output, status};

/// One folder for the engines of all checkouts. Short, because the path of a socket may have no
/// more than 108 bytes.
const ENGINES: &str = "/run/xtask-engine";

pub const MAX_ENGINES: u8 = 16;

/// Prints a message on standard error: standard output is the command's.
pub fn say(message: impl Display) {
    output::note(format_args!("engine: {message}"));
}

/// What is being done at the same time, one entry for each kind of work.
static DOING: Mutex<BTreeMap<&str, String>> = Mutex::new(BTreeMap::new());
/// How long each kind of work took.
static TIMES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Shows how far the work `what` is, beside what is done at the same time.
pub fn progress(what: &'static str, how_far: &str) {
    let mut doing = lock(&DOING);
    doing.insert(what, format!("{what} {how_far}"));
    let all: Vec<&str> = doing.values().map(|text| text.trim_end()).collect();
    show(&all.join(", "));
}

/// Shows `text` as the line that says how far the engine is, now and then.
fn show(text: &str) {
    let is_terminal = status::is_terminal();
    if status::is_due(is_terminal, Duration::from_secs(10)) {
        status::show(&[format!("engine: {text}")], is_terminal);
    }
}

/// Does `work`, called `what` in the line that says how far it is and in [`times`].
pub fn timed<T>(what: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    progress(what, "");
    let result = work();
    lock(&DOING).remove(what);
    let time = format!("{what} {:.1}", started.elapsed().as_secs_f64());
    lock(&TIMES).push(time);
    result
}

/// How many seconds each work took, such as `downloading 4.1, unpacking 9.8`.
pub fn times() -> String {
    lock(&TIMES).join(", ")
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
            fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
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
            say(format_args!("cannot remove {}: {error}", self.path.display()));
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
    let partial = Folder::wait_for(&path.with_extension("partial"), || {
        show("waiting for the downloads of another engine");
        process::check_signals()
    })?;
    let scratch = partial.path.join("scratch");
    // A killed process may have left its own.
    let _ = fs::remove_dir_all(&scratch);
    let make = || {
        if !path.exists() {
            fs::create_dir(&scratch)?;
            fs::rename(make(&scratch)?, path)?;
        }
        Ok(())
    };
    let result = make();
    partial.remove();
    result
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
