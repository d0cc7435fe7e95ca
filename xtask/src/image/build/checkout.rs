//! An SDK checkout: what git says of it, and a copy of the files that belong to it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use xshell::{Shell, cmd};

use crate::digest::sha256;
use crate::error::usage;
use crate::image::request::workspace::PACKAGES;

/// How many runs at once may build from one checkout.
const SLOTS: usize = 64;

/// Finds the checkout that `folder` is in: the nearest folder, upwards, with a lock and all four
/// packages.
pub fn around(folder: &Path) -> Option<PathBuf> {
    let is_checkout = |folder: &&Path| {
        folder.join("uv.lock").is_file()
            && PACKAGES.iter().all(|name| folder.join(name).join("pyproject.toml").is_file())
    };
    folder.ancestors().find(is_checkout).map(Path::to_owned)
}

/// The commit and the ref of the checkout at `root`, by git's word; `None` where it has none, such
/// as in an unpacked archive, or for the ref on a detached HEAD.
pub fn commit(sh: &Shell, root: &Path) -> (Option<String>, Option<String>) {
    let git = |command: xshell::Cmd| command.quiet().ignore_stderr().read().ok();
    let sha = git(cmd!(sh, "git -C {root} rev-parse --verify HEAD"));
    let git_ref = git(cmd!(sh, "git -C {root} symbolic-ref --quiet HEAD"));
    (sha, git_ref)
}

/// When the commit of the checkout at `root` was made, as `2026-11-25T07:02:10+00:00`.
pub fn commit_time(sh: &Shell, root: &Path) -> Option<String> {
    let git = cmd!(sh, "git -C {root} show --no-patch --format=%cI HEAD");
    git.quiet().ignore_stderr().read().ok()
}

/// Does the checkout at `root` hold changes that are not committed?
///
/// # Errors
/// A folder that git does not know.
pub fn is_dirty(sh: &Shell, root: &Path) -> Result<bool> {
    let git = cmd!(sh, "git -C {root} status --porcelain --untracked-files=normal -- .");
    Ok(!git.quiet().read()?.is_empty())
}

/// The files of a checkout: those that git tracks, and those that it neither tracks nor ignores.
struct Files {
    root: PathBuf,
    /// Relative to the root, in git's order.
    paths: Vec<PathBuf>,
}

impl Files {
    fn list(sh: &Shell, root: &Path) -> Result<Self> {
        let git = cmd!(sh, "git -C {root} ls-files -z --cached --others --exclude-standard");
        let listed = git.quiet().ignore_status().output()?;
        if !listed.status.success() {
            let root = root.to_string_lossy();
            let error = String::from_utf8_lossy(&listed.stderr);
            let error = error.lines().next().unwrap_or_default();
            return Err(usage(format!(
                "git does not say which files belong to the checkout {root:?} ({error}): `git \
                 init` it, or pass what `uv build --sdist` makes of it by --prebuilt-sdist."
            )));
        }
        let paths = listed.stdout.split(|&byte| byte == 0).filter(|path| !path.is_empty());
        let paths = paths.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect();
        Ok(Files { root: root.to_owned(), paths })
    }

    /// Makes `copy` hold these files and nothing else. Only what differs is written, so that
    /// buildx sends no more than that.
    fn copy_to(&self, copy: &Path) -> io::Result<()> {
        let mut kept = BTreeSet::new();
        for path in &self.paths {
            let (from, to) = (self.root.join(path), copy.join(path));
            // A tracked file may be deleted, and a submodule is a folder.
            let Ok(metadata) = fs::symlink_metadata(&from) else { continue };
            if metadata.is_dir() {
                continue;
            }
            kept.extend(path.ancestors().map(Path::to_owned));
            if let Some(folder) = to.parent() {
                make_folder(copy, folder)?;
            }
            if metadata.is_symlink() {
                copy_link(&from, &to)?;
            } else if metadata.is_file() {
                copy_file(&from, &metadata, &to)?;
            }
        }
        remove_others(copy, Path::new(""), &kept)
    }
}

/// Makes `folder` below `root`, in place of whatever else was there.
fn make_folder(root: &Path, folder: &Path) -> io::Result<()> {
    if folder.is_dir() && !folder.is_symlink() {
        return Ok(());
    }
    if let (Some(parent), true) = (folder.parent(), folder != root) {
        make_folder(root, parent)?;
    }
    remove(folder)?;
    fs::create_dir_all(folder)
}

fn copy_link(from: &Path, to: &Path) -> io::Result<()> {
    let target = fs::read_link(from)?;
    if fs::read_link(to).is_ok_and(|old| old == target) {
        return Ok(());
    }
    remove(to)?;
    symlink(target, to)
}

/// Copies a file with its time, by which buildx sees what differs, and with the modes that git
/// knows.
fn copy_file(from: &Path, metadata: &fs::Metadata, to: &Path) -> io::Result<()> {
    let mode = if metadata.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
    let is_same = fs::symlink_metadata(to).is_ok_and(|old| {
        let has_mode = old.permissions().mode() & 0o777 == mode;
        let is_as_old = old.modified().ok() == metadata.modified().ok();
        old.is_file() && old.len() == metadata.len() && has_mode && is_as_old
    });
    if is_same {
        return Ok(());
    }
    remove(to)?;
    fs::copy(from, to)?;
    fs::set_permissions(to, Permissions::from_mode(mode))?;
    File::options().append(true).open(to)?.set_modified(metadata.modified()?)
}

/// Removes what is in `folder` of `root` and not in `kept`.
fn remove_others(root: &Path, folder: &Path, kept: &BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let path = folder.join(entry?.file_name());
        if !kept.contains(&path) {
            remove(&root.join(&path))?;
        } else if root.join(&path).is_dir() && !root.join(&path).is_symlink() {
            remove_others(root, &path, kept)?;
        }
    }
    Ok(())
}

/// Removes a file, a link or a folder; one that is not there is no error.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

/// A copy of a checkout's files, which is this run's alone until it is dropped.
pub struct Copy {
    pub folder: PathBuf,
    _lock: File,
}

impl Copy {
    /// Copies the checkout at `root` to a folder below `target`. The copy of an earlier run is
    /// brought up to date, unless another run is using it.
    ///
    /// # Errors
    /// A usage error for a folder that git does not know; a file that can't be copied.
    pub fn make(sh: &Shell, root: &Path, target: &Path) -> Result<Self> {
        let files = Files::list(sh, root)?;
        let name = sha256(root.as_os_str().as_encoded_bytes());
        let slots = (0..SLOTS).map(|slot| target.join(format!("sdk/{}-{slot}", &name[..16])));
        let make = || -> io::Result<Self> {
            for folder in slots {
                fs::create_dir_all(&folder)?;
                let lock = File::create(folder.with_extension("lock"))?;
                if lock.try_lock().is_ok() {
                    files.copy_to(&folder)?;
                    return Ok(Copy { folder, _lock: lock });
                }
            }
            Err(io::Error::other(format!("{SLOTS} runs are building it already")))
        };
        make().with_context(|| format!("the checkout {} can't be copied", root.display()))
    }
}
