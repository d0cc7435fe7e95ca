//! Where the server in an image comes from: an SDK checkout, an archive of its workspace, or the pinned
//! release; and which commit that is.

use std::collections::HashMap;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use base::digest::sha256;
use base::error::usage;
use base::scratch::not_written;
use base::{message, process};

use crate::cli::{Args, TagBy, variable};
use crate::definition;

/// The word for a commit, ref or version that is not known.
pub const UNKNOWN: &str = "unknown";

/// The packages of an image, each a folder of the workspace; the first has the image's version.
pub const PACKAGES: [&str; 4] =
    ["openhands-sdk", "openhands-tools", "openhands-workspace", "openhands-agent-server"];

/// What to do about a file or folder that can't be read.
const READABLE: &str = "hint: make it readable for this user, or have git ignore it";
/// How git lets people trust a repository of another user.
const SAFE: &str = "git config --global --add safe.directory";
/// How long git or tar may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A package and its version, where that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: Option<String>,
}

/// What an image is built from.
#[derive(Default)]
pub struct Source {
    pub packages: Vec<Package>,
    /// The workspace's files, for the build context `sdk`; nobody else changes them while this lives.
    /// `None` for the release that the requirements pin.
    pub folder: Option<PathBuf>,
    /// The checkout that the files are from; `None` for those of an archive too.
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
    /// Keeps other runs off the folder.
    #[allow(dead_code)]
    lock: Option<File>,
}

impl Source {
    /// Finds what `args` ask for: an archive, the checkout that they name or that is around the
    /// caller or this repository, or the pinned release. Copies files below `target/sdk`.
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
        let git = Git::new(checkout.as_deref(), root);
        let (sha, git_ref) = git.commit(args)?;
        let is_head = git.head.as_ref() == Some(&sha);
        let created = is_head.then(|| {
            git.read(&["show", "--no-patch", "--no-show-signature", "--format=%cI", "HEAD"])
        });
        let mut source = Source {
            packages: definition::pinned_packages(root),
            sha,
            git_ref,
            created: created.flatten(),
            ..Source::default()
        };
        if let Some(archive) = &args.prebuilt_sdist {
            let (folder, lock) = slot(root, archive)?;
            unpack(archive, &folder)?;
            source.packages = packages(&format!("the archive {}", archive.display()), &folder)?;
            (source.folder, source.lock) = (Some(folder), Some(lock));
        } else if let Some(checkout) = &checkout {
            source.packages = packages(&format!("the checkout {}", checkout.display()), checkout)?;
            let files = git.files()?;
            let (folder, lock) = slot(root, checkout)?;
            update(checkout, files, &folder)?;
            source.is_dirty = git.is_dirty(args)?;
            source.checkout = Some(checkout.clone());
            (source.folder, source.lock) = (Some(folder), Some(lock));
        }
        if let Some(folder) = &source.folder
            && (args.push || args.tag_by == TagBy::Content)
        {
            // The Dockerfile sets the modes of what it copies.
            source.files = Some(digest(folder, None, false)?);
        }
        process::check_signals()?;
        Ok(source)
    }

    /// Errors: a usage error for a push of changes that are not committed.
    pub fn check(&self, args: &Args) -> Result<()> {
        if !args.push {
            return Ok(());
        }
        if let Some(checkout) =
            self.checkout.as_ref().filter(|_| self.is_dirty && !args.allow_dirty)
        {
            return Err(usage(format!(
                "the checkout {} has changes that are not committed, so its commit does not say what \
                 would be pushed\nhint: commit them, or allow them with --allow-dirty",
                checkout.display()
            )));
        }
        if self.sha == UNKNOWN && args.tag_by == TagBy::Commit {
            let why = "the commit is not known, so tags begin with `unknown-`";
            message::warn(&format!("{why}; SDK_SHA names one"));
        }
        Ok(())
    }

    /// What the server is made of, in a word.
    pub fn kind(&self) -> &'static str {
        match (&self.folder, &self.checkout) {
            (_, Some(_)) => "checkout",
            (Some(_), None) => "archive",
            (None, None) => "release",
        }
    }

    /// The version of the SDK in the image, which is the image's.
    pub fn version(&self) -> &str {
        self.packages.first().and_then(|sdk| sdk.version.as_deref()).unwrap_or(UNKNOWN)
    }

    /// What the image gets, such as `the checkout at 0123456 (PATH): openhands-sdk 1.58.2, …`.
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

    /// Says what the image gets.
    pub fn announce(&self) {
        message::say(&format!("server: {}", self.describe()));
        let mut versions = self.packages.iter().filter_map(|package| package.version.as_ref());
        let first = versions.next();
        if versions.any(|version| Some(version) != first) {
            let list = self.package_list();
            message::warn(&format!("the packages of the server have different versions: {list}"));
        }
    }

    /// The packages and their versions, as `openhands-sdk 1.58.2, openhands-tools 1.58.2`.
    pub fn package_list(&self) -> String {
        let mut list = Vec::new();
        for Package { name, version } in &self.packages {
            list.push(format!("{name} {}", version.as_deref().unwrap_or(UNKNOWN)));
        }
        list.join(", ")
    }
}

fn is_checkout(folder: &Path) -> bool {
    folder.join("uv.lock").is_file()
        && PACKAGES.iter().all(|name| folder.join(name).join("pyproject.toml").is_file())
}

/// The packages of the workspace in `folder`, which errors call `name`. Their versions are read as text,
/// since one line of TOML matters and uv itself reads the rest.
/// Errors: a usage error for a part that is missing or can't be read.
fn packages(name: &str, folder: &Path) -> Result<Vec<Package>> {
    let part = |path: &str| {
        fs::read_to_string(folder.join(path)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => usage(format!(
                "{name} has no {path}\nhint: an SDK checkout has uv.lock, pyproject.toml and the \
                 folders {}",
                PACKAGES.join(", ")
            )),
            _ => usage(unreadable(&folder.join(path), &error).to_string()),
        })
    };
    part("pyproject.toml")?;
    part("uv.lock")?;
    let mut packages = Vec::new();
    for package in PACKAGES {
        let manifest = part(&format!("{package}/pyproject.toml"))?;
        let project = manifest.split_once("[project]").map_or("", |(_, rest)| rest);
        let project = project.split("\n[").next().unwrap_or_default();
        let version = project.lines().find_map(|line| {
            let text = line.strip_prefix("version")?.trim().strip_prefix('=')?.split('#').next()?;
            Some(text.trim().trim_matches(['"', '\'']).to_owned())
        });
        packages.push(Package { name: package.to_owned(), version });
    }
    Ok(packages)
}

/// What git says of a folder.
struct Git<'a> {
    folder: &'a Path,
    /// This repository, which is not part of a checkout that it lies in.
    own: Option<String>,
    /// True where the folder is an SDK checkout, not this repository.
    is_checkout: bool,
    head: Option<String>,
    /// True where a repository around the checkout does not have its files.
    is_around: bool,
    /// Why git does not say what HEAD is, where there is a repository.
    refusal: Option<String>,
}

impl<'a> Git<'a> {
    fn new(checkout: Option<&'a Path>, root: &'a Path) -> Self {
        let folder = checkout.unwrap_or(root);
        let own = root.strip_prefix(folder).ok().filter(|own| !own.as_os_str().is_empty());
        let own = own.map(|own| format!(":(exclude){}", own.display()));
        let mut git = Git {
            folder,
            own,
            is_checkout: checkout.is_some(),
            head: None,
            is_around: false,
            refusal: None,
        };
        // An unpacked archive has no repository, and a new repository no commit.
        let has_repository = folder.ancestors().any(|folder| folder.join(".git").exists());
        match git.run(&["rev-parse", "--verify", "HEAD"]) {
            Ok(output) if output.status.success() => git.head = Some(text(&output.stdout)),
            _ if !has_repository => {}
            Ok(output) => {
                let error = text(&output.stderr);
                let is_new = error.contains("Needed a single revision");
                git.refusal = (!is_new).then(|| refusal(folder, &error));
            }
            Err(error) => git.refusal = Some(error.to_string()),
        }
        if git.is_checkout && git.head.is_some() {
            let tracked = git.run(&["ls-files", "uv.lock"]);
            if tracked.is_ok_and(|git| git.status.success() && git.stdout.is_empty()) {
                (git.head, git.is_around) = (None, true);
            }
        }
        git
    }

    fn run(&self, args: &[&str]) -> Result<Output> {
        let mut git = Command::new("git");
        git.arg("-C").arg(self.folder).args(args).env("LC_ALL", "C");
        // In a hook of git they name the repository that the hook is of.
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"] {
            git.env_remove(name);
        }
        let output = process::output(&mut git, PATIENCE);
        // At a terminal git gets the signal as well, and fails.
        process::check_signals()?;
        let output =
            output.map_err(|error| anyhow!("git can't be run ({error:#})\nhint: install git"))?;
        output.context("git does not answer")
    }

    fn read(&self, args: &[&str]) -> Option<String> {
        let output = self.run(args).ok().filter(|output| output.status.success())?;
        Some(text(&output.stdout)).filter(|text| !text.is_empty())
    }

    /// The commit and the ref of what is built. GitHub's variables name those of the workflow's own
    /// repository, so they count only where HEAD is that commit, or where there is no git to ask.
    fn commit(&self, args: &Args) -> Result<(String, String)> {
        process::check_signals()?;
        let mut github = (variable("GITHUB_SHA")?, variable("GITHUB_REF")?);
        if self.is_checkout && (self.head.is_some() || self.is_around) && github.0 != self.head {
            github = (None, None);
        }
        let sha = args.sha.clone().or(github.0).or_else(|| self.head.clone());
        let git_ref = args.git_ref.clone().or(github.1);
        let own_ref =
            || self.read(&["symbolic-ref", "--quiet", "HEAD"]).filter(|_| !self.is_around);
        let git_ref = git_ref.or_else(own_ref);
        if let (None, Some(refusal)) = (&sha, &self.refusal) {
            if args.push {
                return Err(usage(format!("{refusal}, or name the commit by SDK_SHA")));
            }
            message::warn(&refusal.replace("\nhint: ", ": "));
        }
        let unknown = || UNKNOWN.to_owned();
        Ok((sha.unwrap_or_else(unknown), git_ref.unwrap_or_else(unknown)))
    }

    /// `args` for the folder without this repository.
    fn of_folder<'b>(&'b self, args: &[&'b str]) -> Vec<&'b str> {
        let own = self.own.as_deref();
        args.iter().copied().chain(["--", "."]).chain(own).collect()
    }

    /// Errors: a usage error for a push where git does not say it. Elsewhere that counts as dirty.
    fn is_dirty(&self, args: &Args) -> Result<bool> {
        let status = ["status", "--porcelain", "--untracked-files=normal"];
        let why = match self.run(&self.of_folder(&status)) {
            Ok(output) if output.status.success() => return Ok(!output.stdout.is_empty()),
            Ok(output) => text(&output.stderr).replace('\n', " "),
            Err(error) => format!("{error:#}"),
        };
        process::check_signals()?;
        let folder = self.folder.display();
        let why = format!("git does not say whether {folder} has uncommitted changes ({why})");
        if args.push && !args.allow_dirty {
            let hint = "make `git status` work there, or allow changes with --allow-dirty";
            return Err(usage(format!("{why}\nhint: {hint}")));
        }
        message::warn(&format!("{why}: taken for changed"));
        Ok(true)
    }

    /// The files that git tracks, or neither tracks nor ignores.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let listed = self.run(&self.of_folder(&args))?;
        if !listed.status.success() {
            return Err(usage(refusal(self.folder, &text(&listed.stderr))));
        }
        // Git passes over a folder that it may not enter.
        let stderr = text(&listed.stderr);
        if let Some(line) = stderr.lines().find(|line| line.contains("Permission denied")) {
            let why = line.trim_start_matches("warning: ");
            return Err(usage(format!("git reads not all of the checkout: {why}\n{READABLE}")));
        }
        let paths = listed.stdout.split(|&byte| byte == 0).filter(|path| !path.is_empty());
        let paths = paths.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect::<Vec<_>>();
        if !paths.iter().any(|path| path == Path::new("uv.lock")) {
            return Err(usage(no_files(self.folder, "the repository around it ignores uv.lock")));
        }
        Ok(paths)
    }
}

/// Why git does not answer for `folder`, by its own `error`, and what to do.
fn refusal(folder: &Path, error: &str) -> String {
    let shown = folder.to_string_lossy();
    let first = error.lines().next().unwrap_or_default();
    if error.contains("dubious ownership") || error.contains("unsafe repository") {
        // Git names the root of the repository, which may be above.
        let own = error.lines().find_map(|line| line.trim().strip_prefix(SAFE));
        let root = own.map_or(shown.clone(), |own| own.trim().into());
        return format!(
            "git does not trust {shown:?}: another user owns it\nhint: `{SAFE} {root}`"
        );
    }
    if error.contains("unknown repository extension") || error.contains("Expected git repo version")
    {
        let why = error.split_whitespace().collect::<Vec<_>>().join(" ");
        return format!("git is too old for the repository of {shown:?} ({why})\nhint: update git");
    }
    if error.contains("GIT_DISCOVERY_ACROSS_FILESYSTEM") {
        return format!(
            "git looks for the repository of {shown:?} on its own file system alone\nhint: set \
             GIT_DISCOVERY_ACROSS_FILESYSTEM=1 where the one above is meant"
        );
    }
    let mut above = folder.ancestors().map(|above| above.join(".git"));
    let Some(repository) = above.find(|git| git.exists()) else { return no_files(folder, first) };
    let is_file = repository.is_file();
    let head = if is_file { repository } else { repository.join("HEAD") };
    match File::open(&head) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            unreadable(&head, &error).to_string()
        }
        _ if is_file => format!(
            "the repository of {shown:?} is not there ({first})\nhint: it is a worktree or a submodule; \
             use a clone, or mount the repository too"
        ),
        _ if error.contains("Permission denied") => {
            format!("git can't read the repository of {shown:?} ({first})\n{READABLE}")
        }
        _ => format!("the repository of {shown:?} is broken ({first})\nhint: clone it again"),
    }
}

/// What to do about a folder whose files git does not know.
fn no_files(folder: &Path, why: &str) -> String {
    let shown = folder.to_string_lossy();
    format!(
        "git does not say which files belong to {shown:?} ({why})\nhint: `git init` it, or pass what \
         `uv build --sdist` makes of it by --prebuilt-sdist"
    )
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// The first of the folders `target/sdk/NAME-0`, `-1`, … that no other run uses, and its lock. It is
/// named after the folder or archive that is built: buildx sends what has changed in it.
fn slot(root: &Path, origin: &Path) -> Result<(PathBuf, File)> {
    let name = sha256(origin.as_os_str().as_bytes());
    let mut number = 0;
    loop {
        let folder = root.join(format!("target/sdk/{}-{number}", &name[..16]));
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
    let refuse = |why: &str| {
        usage(format!(
            "--prebuilt-sdist {:?} can't be used: {why}\nhint: name the .tar.gz that `uv build --sdist` \
             makes at the root of the SDK",
            archive.to_string_lossy()
        ))
    };
    // A pipe or a device might never end.
    if !archive.is_file() {
        return Err(refuse("it is not a regular file"));
    }
    tidy(folder, &|_| false).map_err(|error| not_written(folder, &error))?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--gzip", "--strip-components=1", "--no-same-owner", "--file"]);
    tar.arg(archive).arg("--directory").arg(folder);
    let output = process::output(&mut tar, PATIENCE)?
        .with_context(|| format!("tar has not read it within {} s", PATIENCE.as_secs()))?;
    if !output.status.success() {
        return Err(refuse(text(&output.stderr).lines().next().unwrap_or("tar fails")));
    }
    if !folder.join("uv.lock").is_file() {
        return Err(refuse("it is not the archive of a whole workspace, which has uv.lock"));
    }
    Ok(tidy(folder, &|_| true)?)
}

/// Makes `folder` hold the `files` of `checkout`, and nothing else.
fn update(checkout: &Path, files: Vec<PathBuf>, folder: &Path) -> Result<()> {
    let mut wanted = HashMap::new();
    for path in files {
        // A tracked file may be deleted, and a submodule is a folder.
        let from = checkout.join(&path);
        match fs::symlink_metadata(&from) {
            Ok(file) if file.is_file() || file.is_symlink() => {
                wanted.insert(folder.join(path), (from, file));
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(unreadable(&from, &error));
            }
            _ => {}
        }
    }
    let fail = |error| not_written(folder, &error);
    tidy(folder, &|path| wanted.contains_key(path)).map_err(fail)?;
    for (to, (from, metadata)) in &wanted {
        copy(from, metadata, to).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound => unreadable(from, &error),
            _ => anyhow!("cannot copy {} to {}: {error}", from.display(), to.display()),
        })?;
    }
    tidy(folder, &|_| true).map_err(fail)
}

/// Copies a link, or a file whose content or mode differs. It gets a time of its own: buildx takes a file of
/// the same size and time for unchanged, and checkouts may have one time for all of their files.
fn copy(from: &Path, metadata: &Metadata, to: &Path) -> io::Result<()> {
    if let Ok(old) = fs::symlink_metadata(to) {
        let is_same = (old.is_file() && metadata.is_file())
            && (old.len(), git_mode(&old)) == (metadata.len(), git_mode(metadata))
            && fs::read(from)? == fs::read(to)?;
        if is_same {
            return Ok(());
        }
        fs::remove_file(to)?;
    }
    to.parent().map_or(Ok(()), fs::create_dir_all)?;
    if metadata.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    fs::copy(from, to)?;
    File::open(to)?.set_modified(SystemTime::now())
}

/// Removes the files below `folder` that `is_wanted` does not want, and gives all others and the
/// folders the modes that git knows: they are part of cache keys, and umasks differ.
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

/// A digest of all files below `folder`, or of those in it that `wanted` names: of their names and contents
/// and of where links lead. Only if `is_exact`, execute bits, empty folders and Python's bytecode count.
/// Errors: what can't be read, with its path.
pub fn digest(folder: &Path, wanted: Option<&[&str]>, is_exact: bool) -> Result<String> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.map_err(|error| unreadable(folder, &error))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut all = String::new();
    for entry in entries {
        let (name, path) = (entry.file_name(), entry.path());
        // Python leaves bytecode beside what it runs; .dockerignore has that too.
        if wanted.is_some_and(|wanted| wanted.iter().all(|wanted| name != *wanted))
            || !is_exact && name == "__pycache__"
        {
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
pub fn unreadable(path: &Path, error: &io::Error) -> anyhow::Error {
    let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
    let hint = if is_denied { format!("\n{READABLE}") } else { String::new() };
    anyhow!("{} can't be read: {error}{hint}", path.display())
}
