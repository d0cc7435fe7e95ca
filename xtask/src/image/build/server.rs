//! Which server an image gets: an SDK checkout, an archive, or the pinned release.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

use super::checkout::{self, Copy};
use super::observer::Observer;
use crate::error::usage;
use crate::image::plan::tag;
use crate::image::request::definition;
use crate::image::request::prebuilt::Prebuilt;
use crate::image::request::source::{Server, Source, UNKNOWN};
use crate::image::request::workspace::{self, Package};
use crate::image::request::{Delivery, Request};
use crate::process;

/// The largest manifest or lock of a workspace, in bytes.
const LARGEST: u64 = 64 << 20;

/// A server that was found, and what keeps its files in place.
pub struct Found {
    pub source: Source,
    prebuilt: Option<Prebuilt>,
    /// The checkout that is built.
    checkout: Option<PathBuf>,
    _copy: Option<Copy>,
}

impl Found {
    /// Finds the server that `request` asks for: an archive, the checkout that it names, the one
    /// around the caller or this repository, or the pinned release.
    ///
    /// # Errors
    /// A usage error for a checkout or an archive that can't be built.
    pub fn find(sh: &Shell, request: &Request) -> Result<Self> {
        let repository = sh.current_dir();
        let around = || {
            let callers = env::current_dir().ok().and_then(|folder| checkout::around(&folder));
            callers.or_else(|| checkout::around(&repository))
        };
        let checkout = match &request.sdk_project_root {
            Some(root) => Some(named(root)?),
            None => around(),
        };
        let git = checkout.clone().unwrap_or_else(|| repository.clone());
        let prebuilt = request.prebuilt_sdist.as_deref().map(|path| Prebuilt::open(sh, path));
        let prebuilt = prebuilt.transpose()?;
        let workspace = prebuilt.as_ref().map(|prebuilt| Archive::of(sh, prebuilt)).transpose()?;
        let workspace = workspace.flatten();
        let (server, packages) = match (workspace, &prebuilt, &checkout) {
            (Some(archive), ..) => (Server::Archive, archive.packages()?),
            (None, Some(prebuilt), _) => {
                (Server::Release, prebuilt.packages(definition::pinned_packages(sh)))
            }
            (None, None, Some(root)) => (Server::Checkout, packages_of(root)?),
            (None, None, None) => (Server::Release, definition::pinned_packages(sh)),
        };
        let checkout = checkout.filter(|_| server == Server::Checkout);
        let copy = checkout.as_deref().map(|root| Copy::make(sh, root, &repository.join("target")));
        let copy = copy.transpose()?;
        let folder = match (&copy, &prebuilt) {
            (Some(copy), _) => Some(copy.folder.clone()),
            (None, prebuilt) => prebuilt.as_ref().map(|prebuilt| prebuilt.folder().to_owned()),
        };
        let (sha, git_ref) = checkout::commit(sh, &git);
        let is_head = request.sha.is_none() || request.sha == sha;
        let known = |given: &Option<String>, found: Option<String>| {
            given.clone().or(found).unwrap_or_else(|| UNKNOWN.to_owned())
        };
        let source = Source {
            sha: known(&request.sha, sha),
            git_ref: known(&request.git_ref, git_ref),
            created: checkout::commit_time(sh, &git).filter(|_| is_head),
            is_dirty: checkout.is_some() && checkout::is_dirty(sh, &git)?,
            server,
            folder,
            packages,
        };
        Ok(Found { source, prebuilt, checkout, _copy: copy })
    }

    /// Puts its files where the build finds them.
    ///
    /// # Errors
    /// A usage error for a push of changes that are not committed; a folder that can't be filled.
    pub fn prepare(&self, request: &Request) -> Result<()> {
        let is_push = request.delivery == Delivery::Push;
        if self.source.is_dirty && is_push && !request.allow_dirty {
            return Err(usage(format!(
                "the checkout {} has changes that are not committed, so its commit does not say \
                 what would be pushed: commit them, or allow them with --allow-dirty.",
                self.checkout.as_deref().unwrap_or(Path::new("")).display()
            )));
        }
        self.prebuilt.as_ref().map_or(Ok(()), Prebuilt::stage)
    }

    /// Says what the image gets.
    pub fn describe(&self, observer: &dyn Observer) {
        let Source { is_dirty, sha, packages, .. } = &self.source;
        let checkout = self.checkout.as_deref().unwrap_or(Path::new("")).display();
        let dirty = if *is_dirty { " with uncommitted changes" } else { "" };
        let from = match self.source.server {
            Server::Checkout => {
                format!("the checkout {checkout} at {}{dirty}", tag::short_sha(sha))
            }
            Server::Archive => "the archive of a workspace".to_owned(),
            Server::Release if self.prebuilt.is_some() => "the pinned release, in part".to_owned(),
            Server::Release => "the pinned release".to_owned(),
        };
        observer.say(&format!("server: {from}: {}", self.source.package_list()));
        let versions = packages.iter().filter_map(|package| package.version.as_ref());
        if versions.collect::<BTreeSet<_>>().len() > 1 {
            observer.warn(&format!(
                "the packages of the server have different versions: {}",
                self.source.package_list()
            ));
        }
    }
}

/// The checkout that was named.
fn named(root: &Path) -> Result<PathBuf> {
    root.canonicalize().map_err(|error| {
        let root = root.to_string_lossy();
        usage(format!("--sdk-project-root {root:?}: {error}: name an SDK checkout."))
    })
}

/// The packages of the checkout at `root`.
fn packages_of(root: &Path) -> Result<Vec<Package>> {
    let name = format!("the checkout {}", root.display());
    workspace::packages(&name, |path| fs::read_to_string(root.join(path)).ok())
}

/// An archive of the SDK's workspace. Nothing of it is unpacked: its manifests are read from a pipe.
struct Archive<'a> {
    sh: &'a Shell,
    path: &'a Path,
    /// The one folder in it, whose name means nothing.
    folder: String,
}

impl<'a> Archive<'a> {
    /// The one in `prebuilt`, if there is one; then nothing else may be beside it.
    fn of(sh: &'a Shell, prebuilt: &'a Prebuilt) -> Result<Option<Self>> {
        for path in prebuilt.workspaces() {
            let Some(archive) = Self::open(sh, path)? else { continue };
            if prebuilt.count() > 1 {
                let path = path.to_string_lossy();
                return Err(usage(format!(
                    "--prebuilt-sdist: {path:?} holds the whole workspace, but there are other \
                     archives beside it: name that one, or archives of single packages."
                )));
            }
            return Ok(Some(archive));
        }
        Ok(None)
    }

    /// `None` for an archive without a lock, which is that of a single package.
    fn open(sh: &'a Shell, path: &'a Path) -> Result<Option<Self>> {
        let mut tar = Command::from(cmd!(sh, "tar -tzf {path}"));
        let names = tar_output(&mut tar).map_err(|error| {
            let path = path.to_string_lossy();
            usage(format!("--prebuilt-sdist {path:?} is no archive: {error:#}."))
        })?;
        let mut folders = names.lines().filter_map(|name| name.strip_suffix("/uv.lock"));
        // Examples in it may have locks of their own.
        let folder = folders.find(|folder| !folder.contains('/'));
        Ok(folder.map(|folder| Archive { sh, path, folder: folder.to_owned() }))
    }

    fn packages(&self) -> Result<Vec<Package>> {
        let Archive { sh, path, folder } = self;
        let name = format!("the archive {}", path.display());
        workspace::packages(&name, |file| {
            let file = format!("{folder}/{file}");
            tar_output(&mut Command::from(cmd!(sh, "tar -xzOf {path} {file}"))).ok()
        })
    }
}

/// What `tar` prints, which must be text and not without end.
fn tar_output(tar: &mut Command) -> Result<String> {
    let pipes = tar.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().context("tar can't be started")?;
    let mut text = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(LARGEST + 1).read_to_end(&mut text)?;
    }
    if text.len() as u64 > LARGEST {
        process::end(&mut child)?;
        bail!("it holds more than {} MiB of what should be short", LARGEST >> 20);
    }
    let ended = child.wait_with_output()?;
    if !ended.status.success() {
        let error = String::from_utf8_lossy(&ended.stderr);
        bail!("{}", error.lines().find(|line| !line.is_empty()).unwrap_or("tar fails"));
    }
    String::from_utf8(text).context("it is not text")
}
