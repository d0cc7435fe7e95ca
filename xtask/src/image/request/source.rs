//! Where the server in an image comes from.

use std::path::PathBuf;

use super::workspace::{Package, SDK};

/// The word for a commit, ref or version that is not known.
pub const UNKNOWN: &str = "unknown";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// The release that the requirements pin, perhaps with some packages replaced.
    Release,
    /// The files of an SDK checkout.
    Checkout,
    /// An archive of the SDK's whole workspace.
    Archive,
}

impl Server {
    /// The name by which the Dockerfile knows it.
    pub fn name(self) -> &'static str {
        match self {
            Server::Release => "release",
            Server::Checkout => "checkout",
            Server::Archive => "archive",
        }
    }

    /// The build context that holds its files.
    pub fn context(self) -> &'static str {
        match self {
            Server::Checkout => "sdk",
            Server::Release | Server::Archive => "prebuilt",
        }
    }
}

/// What an image is built from.
pub struct Source {
    pub sha: String,
    /// `refs/heads/…`, `refs/tags/…` or a bare branch name.
    pub git_ref: String,
    /// When the commit was made, in RFC 3339.
    pub created: Option<String>,
    pub is_dirty: bool,
    pub server: Server,
    /// The files that the server is built from, besides the pinned release.
    pub folder: Option<PathBuf>,
    /// A digest of these files, where it is needed.
    pub files: Option<String>,
    pub packages: Vec<Package>,
}

impl Source {
    /// The version of the SDK in the image, which is the image's.
    pub fn version(&self) -> &str {
        let sdk = self.packages.iter().find(|package| package.name == SDK);
        sdk.and_then(|sdk| sdk.version.as_deref()).unwrap_or(UNKNOWN)
    }

    /// What the image gets, such as `the checkout at 0123456: openhands-sdk 1.58.2, …`.
    pub fn describe(&self) -> String {
        let dirty = if self.is_dirty { " with uncommitted changes" } else { "" };
        let commit = self.sha.get(..7).unwrap_or(&self.sha);
        let from = match (self.server, &self.folder) {
            (Server::Checkout, _) => format!("the checkout at {commit}{dirty}"),
            (Server::Archive, _) => "the archive of a workspace".to_owned(),
            (Server::Release, Some(_)) => "the pinned release, in part replaced".to_owned(),
            (Server::Release, None) => "the pinned release".to_owned(),
        };
        format!("{from}: {}", self.package_list())
    }

    /// The packages and their versions, as `openhands-sdk 1.58.2, openhands-tools 1.58.2`.
    pub fn package_list(&self) -> String {
        let name = |package: &Package| {
            format!("{} {}", package.name, package.version.as_deref().unwrap_or(UNKNOWN))
        };
        self.packages.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}
