//! A cache kept in a folder of this machine. buildx writes such a folder in place: what was there
//! stays for ever, and one that was interrupted can't be read. So an export goes to a staging
//! folder inside it, and what is complete is moved to where it is read.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::image::plan::Plan;
use crate::image::plan::cache::Place;

/// What the names of staging folders begin with.
const STAGING: &str = ".partial-";
const INDEX: &str = "index.json";
/// The larger blobs are layers, and name no others.
const LARGEST_MANIFEST: u64 = 16 << 20;

/// Keeps others from removing what a build may read from a cache folder.
pub struct Reading {
    folder: PathBuf,
    lock: File,
}

impl Reading {
    /// Opens every cache folder of `plan`.
    ///
    /// # Errors
    /// As [`Reading::open`].
    pub fn open_all(plan: &Plan) -> Result<Vec<Self>> {
        let places = plan.targets.iter().flat_map(|target| &target.cache_read);
        let folders = places.filter_map(|place| match place {
            Place::Folder(folder) => Some(Self::open(folder)),
            Place::Registry(_) => None,
        });
        folders.collect()
    }

    /// Opens the folder `path`, making it if there is none.
    ///
    /// # Errors
    /// A folder that can't be made or locked.
    fn open(path: &str) -> Result<Self> {
        let folder = PathBuf::from(path);
        let open = || -> io::Result<File> {
            fs::create_dir_all(&folder)?;
            let lock = File::open(&folder)?;
            lock.lock_shared()?;
            Ok(lock)
        };
        let lock = open().with_context(|| format!("the cache folder {path:?} can't be used"))?;
        Ok(Reading { folder, lock })
    }

    /// Removes what its index no longer names, unless another build is at work there: then that
    /// one will.
    ///
    /// # Errors
    /// A folder that can't be read or changed.
    pub fn close(self) -> Result<()> {
        let Reading { folder, lock } = self;
        let clean = || -> io::Result<()> {
            lock.unlock()?;
            if lock.try_lock().is_ok() {
                remove_stale(&folder)?;
            }
            Ok(())
        };
        clean().with_context(|| format!("the cache folder {:?} can't be cleaned", folder.display()))
    }
}

/// A folder that an export is written to first, removed when this is dropped.
pub struct Staging {
    folder: PathBuf,
    path: PathBuf,
}

impl Staging {
    /// For the cache folder `folder`, whose blobs need not be written once more.
    ///
    /// # Errors
    /// A folder that can't be made.
    pub fn new(folder: &str) -> Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let folder = PathBuf::from(folder);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{STAGING}{}-{number}", std::process::id()));
        let blobs = path.join(blobs());
        fs::create_dir_all(&blobs)
            .with_context(|| format!("the cache folder {:?} can't be used", folder.display()))?;
        for blob in files(&folder.join(self::blobs())).unwrap_or_default() {
            // On a file system without links it is written once more.
            let _ = blob.file_name().map(|name| fs::hard_link(&blob, blobs.join(name)));
        }
        Ok(Staging { folder, path })
    }

    /// Where to write to.
    pub fn path(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// The cache folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Takes over what was written: blobs first, then the index that names them.
    ///
    /// # Errors
    /// A folder that can't be changed.
    pub fn keep(self) -> Result<()> {
        let take_over = || -> io::Result<()> {
            let blobs = self.folder.join(blobs());
            fs::create_dir_all(&blobs)?;
            for blob in files(&self.path.join(self::blobs()))? {
                let Some(name) = blob.file_name() else { continue };
                fs::rename(&blob, blobs.join(name))?;
            }
            fs::rename(self.path.join(INDEX), self.folder.join(INDEX))
        };
        take_over().with_context(|| {
            format!("the cache folder {:?} can't be written", self.folder.display())
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Where the blobs of an OCI layout lie.
fn blobs() -> PathBuf {
    Path::new("blobs").join("sha256")
}

/// The files in `folder`; none where there is no such folder.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| entry.map(|entry| entry.path())).collect()
}

/// Removes blobs that nothing names, and staging folders of runs that were killed.
fn remove_stale(folder: &Path) -> io::Result<()> {
    for path in files(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(STAGING) {
            fs::remove_dir_all(&path)?;
        }
    }
    let Ok(index) = fs::read_to_string(folder.join(INDEX)) else { return Ok(()) };
    let blobs = folder.join(blobs());
    let mut named = BTreeSet::new();
    let mut to_read = vec![index];
    while let Some(text) = to_read.pop() {
        for digest in digests(&serde_json::from_str(&text).unwrap_or_default()) {
            let path = blobs.join(&digest);
            let is_small = path.metadata().is_ok_and(|file| file.len() <= LARGEST_MANIFEST);
            if named.insert(digest) && is_small {
                // A layer is no text.
                to_read.extend(fs::read_to_string(path));
            }
        }
    }
    for blob in files(&blobs)? {
        let name = blob.file_name().unwrap_or_default().to_string_lossy();
        if !named.contains(name.as_ref()) {
            fs::remove_file(&blob)?;
        }
    }
    Ok(())
}

/// The SHA-256 digests that a manifest names, in hex digits.
fn digests(document: &Value) -> Vec<String> {
    match document {
        Value::Array(items) => items.iter().flat_map(digests).collect(),
        Value::Object(entries) => {
            let own = entries.get("digest").and_then(Value::as_str);
            let own = own.and_then(|digest| digest.strip_prefix("sha256:")).map(str::to_owned);
            own.into_iter().chain(entries.values().flat_map(digests)).collect()
        }
        _ => Vec::new(),
    }
}
