//! A cache kept in a folder of this machine. buildx writes such a folder in place: what was there
//! stays for ever, and one that was interrupted can't be read. So an export goes to a staging
//! folder inside it, and what is complete is moved to where it is read.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};

use crate::image::plan::Plan;
use crate::image::plan::cache::Place;

/// What the names of staging folders begin with.
const STAGING: &str = ".partial-";
const INDEX: &str = "index.json";
/// Where the blobs of an OCI layout lie, each named by its digest.
const BLOBS: &str = "blobs/sha256";
/// The larger blobs are layers, and name no others.
const LARGEST_MANIFEST: u64 = 16 << 20;

/// Keeps others from removing what a build may read from a cache folder.
pub struct Reading {
    folder: PathBuf,
    lock: File,
}

impl Reading {
    /// Opens every cache folder of `plan`, and makes those that are not there.
    pub fn open_all(plan: &Plan) -> Result<Vec<Self>> {
        let places = plan.targets.iter().flat_map(|target| &target.cache_read);
        let folders = places.filter_map(|place| match place {
            Place::Folder(folder) => Some(PathBuf::from(folder)),
            Place::Registry(_) => None,
        });
        let open = |folder: PathBuf| {
            let shared = || -> io::Result<File> {
                fs::create_dir_all(&folder)?;
                let lock = File::open(&folder)?;
                lock.lock_shared()?;
                Ok(lock)
            };
            let lock = shared().with_context(|| unusable(&folder, "used"))?;
            Ok(Reading { folder, lock })
        };
        folders.map(open).collect()
    }

    /// Removes what its index no longer names, unless another build is at work there: then that
    /// one will.
    pub fn close(self) -> Result<()> {
        let Reading { folder, lock } = self;
        let clean = || {
            lock.unlock()?;
            if lock.try_lock().is_ok() { remove_stale(&folder) } else { Ok(()) }
        };
        clean().with_context(|| unusable(&folder, "cleaned"))
    }
}

/// A folder that an export is written to first, removed when this is dropped.
pub struct Staging {
    /// The cache folder.
    folder: PathBuf,
    path: PathBuf,
}

impl Staging {
    /// For the cache folder `folder`, whose blobs need not be written once more.
    pub fn new(folder: &str) -> Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let folder = PathBuf::from(folder);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{STAGING}{}-{number}", std::process::id()));
        let staged = path.join(BLOBS);
        fs::create_dir_all(&staged).with_context(|| unusable(&folder, "used"))?;
        for blob in files(&folder.join(BLOBS)).unwrap_or_default() {
            // On a file system without links it is written once more.
            let _ = fs::hard_link(&blob, staged.join(name(&blob)));
        }
        Ok(Staging { folder, path })
    }

    /// Where to write to.
    pub fn place(&self) -> Place {
        Place::Folder(self.path.to_string_lossy().into_owned())
    }

    /// Takes over what was written: blobs first, then the index that names them.
    pub fn keep(self) -> Result<()> {
        let take_over = || -> io::Result<()> {
            let blobs = self.folder.join(BLOBS);
            fs::create_dir_all(&blobs)?;
            for blob in files(&self.path.join(BLOBS))? {
                fs::rename(&blob, blobs.join(name(&blob)))?;
            }
            fs::rename(self.path.join(INDEX), self.folder.join(INDEX))
        };
        take_over().with_context(|| unusable(&self.folder, "written"))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn unusable(folder: &Path, how: &str) -> String {
    format!("the cache folder {:?} can't be {how}", folder.to_string_lossy())
}

/// The files in `folder`; none where there is no such folder.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| entry.map(|entry| entry.path())).collect(),
    }
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or_default()
}

/// Removes blobs that nothing names, and staging folders of runs that were killed.
fn remove_stale(folder: &Path) -> io::Result<()> {
    for path in files(folder)?.iter().filter(|path| name(path).starts_with(STAGING)) {
        fs::remove_dir_all(path)?;
    }
    let Ok(index) = fs::read_to_string(folder.join(INDEX)) else { return Ok(()) };
    let mut stale = files(&folder.join(BLOBS))?;
    let mut texts = vec![index];
    while let Some(text) = texts.pop() {
        let (named, others) =
            stale.into_iter().partition::<Vec<_>, _>(|blob| text.contains(name(blob)));
        stale = others;
        let is_small =
            |blob: &&PathBuf| blob.metadata().is_ok_and(|file| file.len() <= LARGEST_MANIFEST);
        // A layer is no text.
        texts
            .extend(named.iter().filter(is_small).filter_map(|blob| fs::read_to_string(blob).ok()));
    }
    stale.into_iter().try_for_each(fs::remove_file)
}
