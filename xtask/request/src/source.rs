//! Which server an image gets (an SDK checkout, an archive of one, or the pinned release) and its commit.

use std::collections::HashMap;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use base::digest::sha256;
use base::error::usage;
use base::scratch::not_written;
use base::{message, process};

use crate::cli::{Args, TagBy, variable};

/// The word for a commit, ref or version that is not known.
pub const UNKNOWN: &str = "unknown";

/// The packages of an image, each a folder of the workspace; the first has the image's version.
pub const PACKAGES: [&str; 4] =
    ["openhands-sdk", "openhands-tools", "openhands-workspace", "openhands-agent-server"];

/// How long git or tar may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The packages with their versions, where these are known.
type Packages = [(&'static str, Option<String>); 4];

/// What an image is built from.
#[derive(Default)]
pub struct Source {
    /// `checkout`, `archive` or `release`, as records have it.
    pub kind: &'static str,
    pub packages: Packages,
    /// The workspace's files, for the build context `sdk`; `None` for the pinned release.
    pub folder: Option<PathBuf>,
    /// Where the files are from, unless that is an archive.
    pub checkout: Option<PathBuf>,
    pub sha: String,
    /// `refs/heads/…`, `refs/tags/…` or a bare branch name.
    pub git_ref: String,
    /// When the commit was made, in RFC 3339.
    pub created: Option<String>,
    /// True for a checkout with changes that are not committed.
    pub is_dirty: bool,
    /// A digest of the workspace's files, where names or labels need it.
    pub files: Option<String>,
    /// Keeps other runs off the folder while this lives.
    #[allow(dead_code)]
    lock: Option<File>,
}

impl Source {
    /// Finds what `args` ask for, or a checkout around the caller or this repository, and copies its files.
    /// Errors: a usage error for a checkout or an archive that can't be built.
    pub fn resolve(root: &Path, args: &Args) -> Result<Self> {
        let checkout = match &args.sdk_project_root {
            Some(folder) => Some(folder.canonicalize().map_err(|error| {
                let folder = folder.to_string_lossy();
                usage(format!("--sdk-project-root {folder:?}: {error}\nhint: name an SDK checkout"))
            })?),
            None => {
                let here = env::current_dir().unwrap_or_default();
                let mut around = here.ancestors().chain(root.ancestors());
                around.find(|folder| is_checkout(folder)).map(Path::to_owned)
            }
        };
        let mut source =
            Source { kind: "release", packages: pinned_packages(root), ..Source::default() };
        source.find_commit(checkout.as_deref(), root, args)?;
        let Some(origin) = args.prebuilt_sdist.as_ref().or(checkout.as_ref()) else {
            return Ok(source);
        };
        let (folder, lock) = slot(root, origin)?;
        if args.prebuilt_sdist.is_some() {
            source.kind = "archive";
            unpack(origin, &folder)?;
            source.packages = packages_of(source.kind, origin, &folder)?;
        } else {
            source.kind = "checkout";
            source.packages = packages_of(source.kind, origin, origin)?;
            // This repository may lie in the checkout, and is no part of it.
            let own = match root.strip_prefix(origin) {
                Ok(own) if own != "" => format!(":(exclude){}", own.display()),
                _ => ".".to_owned(),
            };
            copy_files(origin, &own, &folder)?;
            let status = ["status", "--porcelain", "--untracked-files=normal", "--", ".", &own];
            source.is_dirty = !git(origin, &status)?.is_empty();
            source.checkout.clone_from(&checkout);
        }
        if args.push || args.tag_by == TagBy::Content {
            // The Dockerfile sets the modes of what it copies.
            source.files = Some(digest(&folder, None, false)?);
        }
        (source.folder, source.lock) = (Some(folder), Some(lock));
        Ok(source)
    }

    /// Finds the commit, its ref and its date. GitHub's variables are those of the workflow's own repository,
    /// so they count only where HEAD is that commit, or where there is no git.
    fn find_commit(&mut self, checkout: Option<&Path>, root: &Path, args: &Args) -> Result<()> {
        let (folder, is_checkout) = (checkout.unwrap_or(root), checkout.is_some());
        let git = |args: &[&str]| Ok(text(&git(folder, args)?));
        let head: Result<_> = git(&["log", "-1", "--no-show-signature", "--format=%H %cI"]);
        process::check_signals()?;
        // A repository around a checkout may not have its files, and then its commit is another's.
        let is_around = is_checkout && head.is_ok() && git(&["ls-files", "uv.lock"])?.is_empty();
        let known = head.as_ref().ok().filter(|_| !is_around);
        let (own_sha, date) = known.and_then(|head| head.split_once(' ')).unzip();
        let mut github = (variable("GITHUB_SHA")?, variable("GITHUB_REF")?);
        if is_checkout && head.is_ok() && github.0.as_deref() != own_sha {
            github = (None, None);
        }
        let own_ref = || git(&["symbolic-ref", "--quiet", "HEAD"]).ok().filter(|_| !is_around);
        let git_ref = args.git_ref.clone().or(github.1).or_else(own_ref);
        let sha = args.sha.clone().or(github.0).or(own_sha.map(str::to_owned));
        self.created = date.filter(|_| sha.as_deref() == own_sha).map(str::to_owned);
        // An unpacked archive has no repository, and a new repository no commit.
        if let (None, Err(refusal)) = (&sha, &head)
            && folder.ancestors().any(|folder| folder.join(".git").exists())
            && !refusal.to_string().contains("does not have any commits yet")
        {
            ensure!(!args.push, usage(format!("{refusal}, or name the commit by SDK_SHA")));
            message::warn(&refusal.to_string().replace("\nhint: ", ": "));
        }
        self.sha = sha.unwrap_or_else(|| UNKNOWN.to_owned());
        self.git_ref = git_ref.unwrap_or_else(|| UNKNOWN.to_owned());
        Ok(())
    }

    /// Errors: a usage error for a push of changes that are not committed.
    pub fn check(&self, args: &Args) -> Result<()> {
        let checkout = self.checkout.as_ref().filter(|_| self.is_dirty && args.push);
        if let Some(checkout) = checkout.filter(|_| !args.allow_dirty) {
            let why = "has changes that are not committed, so its commit does not say what would be pushed";
            let hint = "commit them, or allow them with --allow-dirty";
            bail!(usage(format!("the checkout {} {why}\nhint: {hint}", checkout.display())));
        }
        if args.push && self.sha == UNKNOWN && args.tag_by == TagBy::Commit {
            message::warn(
                "the commit is not known, so tags begin with `unknown-`; SDK_SHA names one",
            );
        }
        Ok(())
    }

    /// What the image gets, such as `the checkout at 0123456 (PATH): sdk 1.58.2, …`.
    pub fn describe(&self) -> String {
        let from = match &self.checkout {
            Some(path) => {
                let commit = self.sha.get(..7).unwrap_or(&self.sha);
                let dirty = if self.is_dirty { " with uncommitted changes" } else { "" };
                format!("the checkout at {commit}{dirty} ({})", path.display())
            }
            None if self.folder.is_some() => "the archive of a workspace".to_owned(),
            None => "the pinned release".to_owned(),
        };
        // They all begin alike, and the line is to fit a terminal.
        format!("{from}: {}", self.package_list().replace("openhands-", ""))
    }

    /// The packages and their versions, as `openhands-sdk 1.58.2, openhands-tools 1.58.2`.
    pub fn package_list(&self) -> String {
        let package = |(name, version): &(&str, Option<String>)| {
            format!("{name} {}", version.as_deref().unwrap_or(UNKNOWN))
        };
        self.packages.each_ref().map(package).join(", ")
    }
}

fn is_checkout(folder: &Path) -> bool {
    folder.join("uv.lock").is_file()
        && PACKAGES.iter().all(|name| folder.join(name).join("pyproject.toml").is_file())
}

/// The packages, with the versions that the requirements pin.
fn pinned_packages(root: &Path) -> Packages {
    let file = root.join("agent-server-image/lock/requirements.txt");
    let requirements = fs::read_to_string(file).unwrap_or_default();
    PACKAGES.map(|name| {
        // Extras may stand between, as in `openhands-sdk[boto3]==1.58.2`.
        let mut pins = requirements.lines().filter_map(|line| line.split_once("=="));
        let pin = pins.find(|(package, _)| package.split('[').next() == Some(name));
        (name, pin.and_then(|(_, pin)| Some(pin.split_whitespace().next()?.to_owned())))
    })
}

/// The packages of the workspace in `folder`, which is of the archive or checkout `origin`.
/// Errors: a usage error for a part that is missing or can't be read.
fn packages_of(kind: &str, origin: &Path, folder: &Path) -> Result<Packages> {
    let part = |path: &str| {
        fs::read_to_string(folder.join(path)).map_err(|error| match error.kind() {
            ErrorKind::NotFound => usage(format!(
                "the {kind} {} has no {path}\nhint: an SDK checkout has uv.lock, pyproject.toml and the \
                 folders {}",
                origin.display(),
                PACKAGES.join(", ")
            )),
            _ => usage(unreadable(&folder.join(path), &error).to_string()),
        })
    };
    part("pyproject.toml")?;
    part("uv.lock")?;
    let mut packages = PACKAGES.map(|name| (name, None));
    for (name, version) in &mut packages {
        let manifest = part(&format!("{name}/pyproject.toml"))?;
        let project = manifest.split_once("[project]").map_or("", |(_, rest)| rest);
        let project = project.split("\n[").next().unwrap_or_default();
        // One line of TOML matters here; uv itself reads the rest.
        *version = project.lines().find_map(|line| {
            let text = line.strip_prefix("version")?.trim().strip_prefix('=')?.split('#').next()?;
            Some(text.trim().trim_matches(['"', '\'']).to_owned())
        });
    }
    Ok(packages)
}

/// What git writes, asked in `folder`.
/// Errors: a usage error with git's own words and what to do; a signal.
fn git(folder: &Path, args: &[&str]) -> Result<Vec<u8>> {
    let mut git = Command::new("git");
    git.arg("-C").arg(folder).args(args).env("LC_ALL", "C");
    // In a hook of git they name the repository that the hook is of.
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"] {
        git.env_remove(name);
    }
    let output = process::output(&mut git, PATIENCE);
    // At a terminal git gets the signal as well, and fails.
    process::check_signals()?;
    let output = output
        .map_err(|error| usage(format!("git can't be run ({error:#})\nhint: install git")))?
        .context("git does not answer")?;
    let words = text(&output.stderr);
    // It passes over a folder that it may not enter, and succeeds.
    let has_all = output.status.success() && !words.contains("could not open directory");
    if has_all { Ok(output.stdout) } else { Err(refusal(folder, &words)) }
}

/// Makes `folder` hold the files of `checkout` that git tracks or does not ignore, and no others.
fn copy_files(checkout: &Path, own: &str, folder: &Path) -> Result<()> {
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", ".", own];
    let mut files = HashMap::new();
    for path in git(checkout, &list)?.split(|&byte| byte == 0) {
        let path = OsStr::from_bytes(path);
        let from = checkout.join(path);
        match fs::symlink_metadata(&from) {
            // A submodule is a folder.
            Ok(file) if !file.is_file() && !file.is_symlink() => {}
            Ok(file) => drop(files.insert(folder.join(path), (from, file))),
            // A tracked file may be deleted, also with its folder.
            Err(error) if error.kind() != ErrorKind::PermissionDenied => {}
            Err(error) => return Err(unreadable(&from, &error)),
        }
    }
    let has_lock = files.contains_key(&folder.join("uv.lock"));
    ensure!(has_lock, no_files(checkout, "the repository around it ignores uv.lock"));
    let fail = |error| not_written(folder, &error);
    tidy(folder, &|path| files.contains_key(path)).map_err(fail)?;
    for (to, (from, file)) in &files {
        copy(from, file, to).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => unreadable(from, &error),
            _ => anyhow!("cannot copy {} to {}: {error}", from.display(), to.display()),
        })?;
    }
    tidy(folder, &|_| true).map_err(fail)
}

/// The error for a folder whose files git does not know.
fn no_files(folder: &Path, why: &str) -> anyhow::Error {
    let folder = folder.to_string_lossy();
    let hint = "name an SDK checkout; `git init` it, or pass what `uv build --sdist` makes of it by \
                --prebuilt-sdist";
    usage(format!("git does not say which files belong to {folder:?} ({why})\nhint: {hint}"))
}

/// The error for git that says `words` in place of an answer.
fn refusal(folder: &Path, words: &str) -> anyhow::Error {
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    // The command has the root of the repository, which may be above.
    let trust = words.split_once(" To add an exception for this directory, call: ");
    let (words, command) = trust.unwrap_or((&words, ""));
    let mut above = folder.ancestors().map(|above| above.join(".git"));
    let Some(git) = above.find(|git| git.exists()) else { return no_files(folder, words) };
    let hint = if trust.is_some() {
        &format!("`{command}`")
    } else if git.is_file() && words.contains("not a git repository") {
        "it is a worktree or a submodule; use a clone, or mount its repository too"
    } else {
        "make `git status` work there without warnings, or clone it again"
    };
    usage(format!("git refuses {:?} ({words})\nhint: {hint}", folder.to_string_lossy()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// The first of the folders `target/sdk/NAME-0`, `-1`, … that no other run uses, and its lock. Each `origin`
/// has its own: buildx sends what has changed in it.
fn slot(root: &Path, origin: &Path) -> Result<(PathBuf, File)> {
    let name = sha256(origin.as_os_str().as_bytes());
    let mut number = 0;
    loop {
        let folder = root.join(format!("target/sdk/{name:.16}-{number}"));
        let lock = fs::create_dir_all(&folder);
        let lock = lock.and_then(|()| File::create(folder.with_extension("lock")));
        let lock = lock.map_err(|error| not_written(&folder, &error))?;
        // Some file systems have no locks.
        if !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            return Ok((folder, lock));
        }
        number += 1;
    }
}

/// Unpacks the one folder in the workspace's archive. tar itself refuses paths that lead out of it.
fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    let name = archive.to_string_lossy();
    let hint = "name the .tar.gz that `uv build --sdist` makes at the root of the SDK";
    let refuse =
        |why: &str| usage(format!("--prebuilt-sdist {name:?} can't be used: {why}\nhint: {hint}"));
    // A pipe or a device might never end.
    ensure!(archive.is_file(), refuse("it is not a regular file"));
    tidy(folder, &|_| false).map_err(|error| not_written(folder, &error))?;
    let mut tar = Command::new("tar");
    // Files have new times: those in an archive may all be one, and buildx compares times.
    tar.args(["--extract", "--gzip", "--touch", "--strip-components=1", "--no-same-owner"]);
    tar.arg("--file").arg(archive).arg("--directory").arg(folder);
    let output = process::output(&mut tar, PATIENCE)?
        .with_context(|| format!("tar has not read it within {} s", PATIENCE.as_secs()))?;
    let why = text(&output.stderr);
    ensure!(output.status.success(), refuse(why.lines().next().unwrap_or("tar fails")));
    tidy(folder, &|_| true).map_err(|error| not_written(folder, &error))
}

/// Copies a link, or a file whose content or mode differs. The copy gets a time of its own: buildx takes
/// a file of the same size and time for unchanged, and all files of a checkout may have one time.
fn copy(from: &Path, file: &Metadata, to: &Path) -> io::Result<()> {
    if let Ok(old) = fs::symlink_metadata(to) {
        let is_same = old.is_file() && file.is_file() && git_mode(&old) == git_mode(file);
        if is_same && old.len() == file.len() && fs::read(from)? == fs::read(to)? {
            return Ok(());
        }
        fs::remove_file(to)?;
    }
    to.parent().map_or(Ok(()), fs::create_dir_all)?;
    if file.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    fs::copy(from, to)?;
    File::open(to)?.set_modified(SystemTime::now())
}

/// Removes the files below `folder` that `is_wanted` does not want, and gives all else the modes that git
/// knows: they are part of cache keys, and umasks differ.
fn tidy(folder: &Path, is_wanted: &dyn Fn(&Path) -> bool) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            tidy(&path, is_wanted)?;
            // It stays unless it is empty now.
            let _ = fs::remove_dir(&path);
        } else if !is_wanted(&path) {
            fs::remove_file(&path)?;
        } else if metadata.is_file() {
            fs::set_permissions(&path, Permissions::from_mode(git_mode(&metadata)))?;
        }
    }
    Ok(())
}

fn git_mode(file: &Metadata) -> u32 {
    if file.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 }
}

/// A digest of the files below `folder`, or of those in it that `wanted` names. Only if `is_exact`, execute bits,
/// empty folders and Python's bytecode count. Errors: what can't be read, with its path.
pub fn digest(folder: &Path, wanted: Option<&[&str]>, is_exact: bool) -> Result<String> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.map_err(|error| unreadable(folder, &error))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut all = String::new();
    for entry in entries {
        let (name, path) = (entry.file_name(), entry.path());
        let is_wanted = wanted.is_none_or(|wanted| wanted.iter().any(|wanted| name == *wanted));
        // Python leaves bytecode beside what it runs; .dockerignore has that too.
        if !is_wanted || !is_exact && name == "__pycache__" {
            continue;
        }
        let fail = |error: io::Error| unreadable(&path, &error);
        let metadata = fs::symlink_metadata(&path).map_err(fail)?;
        let content = if metadata.is_dir() {
            digest(&path, None, is_exact)?
        } else if metadata.is_symlink() {
            sha256(fs::read_link(&path).map_err(fail)?.as_os_str().as_bytes())
        } else if metadata.is_file() {
            let content = fs::read(&path).map_err(fail)?;
            let mode = if is_exact { git_mode(&metadata) & 0o100 } else { 0 };
            format!("{mode} {}", sha256(content))
        } else {
            continue;
        };
        // Git knows no empty folders.
        if is_exact || content != sha256("") || !metadata.is_dir() {
            all.push_str(&format!("{} {content}\n", sha256(name.as_bytes())));
        }
    }
    Ok(sha256(all))
}

/// The error for something that can't be read, with its path and what to do.
fn unreadable(path: &Path, error: &io::Error) -> anyhow::Error {
    let is_denied = error.kind() == ErrorKind::PermissionDenied;
    let hint = "\nhint: make it readable for this user, or have git ignore it";
    anyhow!("{} can't be read: {error}{}", path.display(), if is_denied { hint } else { "" })
}
