//! An SDK checkout: what git says of it, and a copy of the files that belong to it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use xshell::{Shell, cmd};

use crate::image::request::workspace::PACKAGES;
use base::digest::sha256;
use base::error::usage;

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

/// This repository, for git to leave out, where it lies in the checkout at `root`: it is no part of
/// that.
fn without_own(sh: &Shell, root: &Path) -> Option<String> {
    let own = sh.current_dir();
    let own = own.strip_prefix(root).ok().filter(|own| !own.as_os_str().is_empty())?;
    Some(format!(":(exclude){}", own.display()))
}

/// Does the checkout at `root` hold changes that are not committed? Fails for a folder that git
/// does not know.
pub fn is_dirty(sh: &Shell, root: &Path) -> Result<bool> {
    let own = without_own(sh, root);
    let git = cmd!(sh, "git -C {root} status --porcelain --untracked-files=normal -- . {own...}");
    Ok(!git.quiet().read()?.is_empty())
}

/// The files of the checkout at `root` that git tracks, or neither tracks nor ignores.
fn files(sh: &Shell, root: &Path) -> Result<Vec<PathBuf>> {
    let own = without_own(sh, root);
    let git =
        cmd!(sh, "git -C {root} ls-files -z --cached --others --exclude-standard -- . {own...}");
    let listed = git.quiet().ignore_status().output()?;
    if !listed.status.success() {
        let root = root.to_string_lossy();
        let error = String::from_utf8_lossy(&listed.stderr);
        let error = error.lines().next().unwrap_or_default();
        return Err(usage(format!(
            "git does not say which files belong to the checkout {root:?} ({error}): `git init` \
             it, or pass what `uv build --sdist` makes of it by --prebuilt-sdist."
        )));
    }
    let paths = listed.stdout.split(|&byte| byte == 0).filter(|path| !path.is_empty());
    Ok(paths.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect())
}

/// A copy of a checkout's files, which is this run's alone until it is dropped.
pub struct Copy {
    pub folder: PathBuf,
    _lock: File,
}

impl Copy {
    /// Copies the checkout at `root` to a folder below `target`: what has changed since an earlier
    /// run, unless that still goes on. A usage error for a folder that git does not know.
    pub fn make(sh: &Shell, root: &Path, target: &Path) -> Result<Self> {
        let files = files(sh, root)?;
        let name = sha256(root.as_os_str().as_encoded_bytes());
        let slots = (0..SLOTS).map(|slot| target.join(format!("sdk/{}-{slot}", &name[..16])));
        let make = || -> io::Result<Self> {
            for folder in slots {
                fs::create_dir_all(&folder)?;
                let lock = File::create(folder.with_extension("lock"))?;
                if lock.try_lock().is_ok() {
                    update(root, &files, &folder)?;
                    return Ok(Copy { folder, _lock: lock });
                }
            }
            Err(io::Error::other(format!("{SLOTS} runs are building it already")))
        };
        make().with_context(|| format!("the checkout {} can't be copied", root.display()))
    }
}

/// Makes `copy` hold the `files` of `root`, and nothing else.
fn update(root: &Path, files: &[PathBuf], copy: &Path) -> io::Result<()> {
    let mut wanted = BTreeMap::new();
    let mut folders = BTreeSet::new();
    for path in files {
        // A tracked file may be deleted, and a submodule is a folder.
        let metadata = fs::symlink_metadata(root.join(path)).ok();
        let Some(metadata) = metadata.filter(|metadata| !metadata.is_dir()) else { continue };
        folders.extend(path.ancestors().skip(1));
        wanted.insert(path.as_path(), metadata);
    }
    let is_wanted = |path: &Path, is_folder: bool| {
        if is_folder { folders.contains(path) } else { wanted.contains_key(path) }
    };
    remove_others(copy, Path::new(""), &is_wanted)?;
    for folder in folders {
        fs::create_dir_all(copy.join(folder))?;
    }
    wanted.iter().try_for_each(|(path, from)| copy_file(&root.join(path), from, &copy.join(path)))
}

/// Removes all below the folder `path` of `copy` that `is_wanted` does not want; it is called with a
/// path in `copy`, and whether that is a folder.
fn remove_others(
    copy: &Path,
    path: &Path,
    is_wanted: &dyn Fn(&Path, bool) -> bool,
) -> io::Result<()> {
    for entry in fs::read_dir(copy.join(path))? {
        let entry = entry?;
        let path = path.join(entry.file_name());
        let is_folder = entry.file_type()?.is_dir();
        match (is_folder, is_wanted(&path, is_folder)) {
            (true, true) => remove_others(copy, &path, is_wanted)?,
            (true, false) => fs::remove_dir_all(entry.path())?,
            (false, true) => {}
            (false, false) => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// Copies a link, or a file with the modes that git knows and with its time, which comes last: where
/// all of these are alike the file is taken to be the same, as buildx does when it sends them.
fn copy_file(path: &Path, from: &Metadata, to: &Path) -> io::Result<()> {
    let mode = if from.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
    let copied = fs::symlink_metadata(to).ok();
    if copied.as_ref().is_some_and(|to| is_same(from, mode, to)) {
        return Ok(());
    }
    if copied.is_some() {
        fs::remove_file(to)?;
    }
    if from.is_symlink() {
        symlink(fs::read_link(path)?, to)?;
    } else if from.is_file() {
        fs::copy(path, to)?;
        fs::set_permissions(to, Permissions::from_mode(mode))?;
        File::options().append(true).open(to)?.set_modified(from.modified()?)?;
    }
    Ok(())
}

/// Is `to` a copy of the file `from` as it is now, with this mode?
fn is_same(from: &Metadata, mode: u32, to: &Metadata) -> bool {
    let time = from.modified().ok();
    from.is_file()
        && to.is_file()
        && from.len() == to.len()
        && to.permissions().mode() & 0o777 == mode
        && time.is_some()
        && time == to.modified().ok()
}
