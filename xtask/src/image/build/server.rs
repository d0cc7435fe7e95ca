//! Which server an image gets: an SDK checkout, an archive, or the pinned release.

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

use super::checkout::{self, Copy};
use crate::image::request::content;
use crate::image::request::definition;
use crate::image::request::prebuilt::Prebuilt;
use crate::image::request::source::{Server, Source, UNKNOWN};
use crate::image::request::workspace::{self, Package};
use crate::image::request::{Delivery, Request};
use base::error::usage;
use base::message;
use base::process;

/// How long tar may take to read an archive.
const PATIENCE: Duration = Duration::from_secs(60);

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
    /// around the caller or this repository, or the pinned release. A usage error for a checkout or
    /// an archive that can't be built.
    pub fn find(sh: &Shell, request: &Request) -> Result<Self> {
        let repository = sh.current_dir();
        let checkout = match &request.sdk_project_root {
            Some(root) => Some(root.canonicalize().map_err(|error| {
                let root = root.to_string_lossy();
                usage(format!("--sdk-project-root {root:?}: {error}: name an SDK checkout."))
            })?),
            None => {
                let callers = env::current_dir().ok().and_then(|folder| checkout::around(&folder));
                callers.or_else(|| checkout::around(&repository))
            }
        };
        let git = checkout.clone().unwrap_or_else(|| repository.clone());
        let prebuilt = request.prebuilt_sdist.as_deref().map(|path| Prebuilt::open(sh, path));
        let prebuilt = prebuilt.transpose()?;
        let archived = prebuilt.as_ref().map(|prebuilt| archived(sh, prebuilt)).transpose()?;
        let archived = archived.flatten();
        let (server, packages) = match (archived, &prebuilt, &checkout) {
            (Some(packages), ..) => (Server::Archive, packages),
            (None, Some(prebuilt), _) => {
                (Server::Release, prebuilt.packages(definition::pinned_packages(sh)))
            }
            (None, None, Some(root)) => {
                let name = format!("the checkout {}", root.display());
                let packages =
                    workspace::packages(&name, |path| sh.read_file(root.join(path)).ok());
                (Server::Checkout, packages?)
            }
            (None, None, None) => (Server::Release, definition::pinned_packages(sh)),
        };
        let checkout = checkout.filter(|_| server == Server::Checkout);
        let copy = checkout.as_deref().map(|root| Copy::make(sh, root, &repository.join("target")));
        let copy = copy.transpose()?;
        let folder = match (&copy, &prebuilt) {
            (Some(copy), _) => Some(copy.folder.clone()),
            (None, prebuilt) => prebuilt.as_ref().map(|prebuilt| prebuilt.folder.clone()),
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
            files: files(request, copy.as_ref(), folder.as_deref())?,
            folder,
            packages,
        };
        Ok(Found { source, prebuilt, checkout, _copy: copy })
    }

    /// Puts its files where the build finds them. A usage error for a push of changes that are not
    /// committed.
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

    /// What the image gets, and where that lies.
    pub fn summary(&self) -> String {
        let path = self.checkout.as_ref().map(|path| format!(" ({})", path.display()));
        self.source.describe() + &path.unwrap_or_default()
    }

    /// Says what the image gets.
    pub fn describe(&self) {
        message::say(&format!("server: {}", self.summary()));
        let packages = &self.source.packages;
        let versions = packages.iter().filter_map(|package| package.version.as_ref());
        if versions.collect::<BTreeSet<_>>().len() > 1 {
            message::warn(&format!(
                "the packages of the server have different versions: {}",
                self.source.package_list()
            ));
        }
    }
}

/// A digest of the server's files, for images that are pushed or named by it.
fn files(request: &Request, copy: Option<&Copy>, folder: Option<&Path>) -> Result<Option<String>> {
    Ok(match copy {
        _ if !request.names_inputs() => None,
        Some(copy) => Some(content::digest(&copy.folder, &[])?),
        // The folder of archives is named by their content.
        None => folder.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()),
    })
}

/// The packages of the archive of the SDK's workspace in `prebuilt`, if there is one. Nothing of it
/// is unpacked: its manifests are read from a pipe.
fn archived(sh: &Shell, prebuilt: &Prebuilt) -> Result<Option<Vec<Package>>> {
    for path in prebuilt.workspaces() {
        let name = path.to_string_lossy();
        let names = tar_output(&mut Command::from(cmd!(sh, "tar -tzf {path}")));
        let names = names.map_err(|error| {
            usage(format!("--prebuilt-sdist {name:?} is no archive: {error:#}."))
        })?;
        // The name of the one folder in it means nothing. Examples in it may have locks of their
        // own. Without a lock it is the archive of a single package.
        let mut folders = names.lines().filter_map(|name| name.strip_suffix("/uv.lock"));
        let Some(folder) = folders.find(|folder| !folder.contains('/')) else { continue };
        if prebuilt.count() > 1 {
            return Err(usage(format!(
                "--prebuilt-sdist: {name:?} holds the whole workspace, but there are other \
                 archives beside it: name that one, or archives of single packages."
            )));
        }
        let packages = workspace::packages(&format!("the archive {name}"), |file| {
            let file = format!("{folder}/{file}");
            tar_output(&mut Command::from(cmd!(sh, "tar -xzOf {path} {file}"))).ok()
        });
        return packages.map(Some);
    }
    Ok(None)
}

/// What `tar` prints, which must be text.
fn tar_output(tar: &mut Command) -> Result<String> {
    let Some(output) = process::output(tar, PATIENCE)? else {
        bail!("tar has not read it within {} s", PATIENCE.as_secs());
    };
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{}", error.lines().find(|line| !line.is_empty()).unwrap_or("tar fails"));
    }
    String::from_utf8(output.stdout).context("it is not text")
}
