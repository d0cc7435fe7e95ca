//! A cache kept in a folder of this machine. buildx writes such a folder in place: what was there
//! stays for ever, and one that was interrupted can't be read. So an export goes to a staging
//! folder inside it, and what is complete is moved to where it is read.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base::scratch::Scratch;

use request::names::Cache;
use request::plan::Image;

/// Where an export is written to first, in the cache folder.
const STAGING: &str = ".partial";
const INDEX: &str = "index.json";
/// Where the blobs of an OCI layout lie, each named by its digest.
const BLOBS: &str = "blobs/sha256";
/// Larger blobs are layers, and name no others.
const LARGEST_MANIFEST: u64 = 16 << 20;

/// Keeps others from removing what a build may read from a cache folder.
pub struct Reading {
    folder: PathBuf,
    lock: File,
}

impl Reading {
    /// Opens every cache folder of `images`, and makes those that are not there.
    pub fn open_all(images: &[Image]) -> Result<Vec<Self>> {
        let open = |folder: &Path| {
            fs::create_dir_all(folder)?;
            let lock = File::open(folder)?;
            // Some file systems have no locks.
            let _ = lock.lock_shared();
            Ok(Reading { folder: folder.to_owned(), lock })
        };
        let mut all = Vec::new();
        for cache in images.iter().flat_map(|image| &image.cache_read) {
            if let Cache::Folder(folder) = cache {
                all.push(named(Path::new(folder), "used", open)?);
            }
        }
        Ok(all)
    }

    /// Removes what its index no longer names, unless another build is at work there: then that
    /// one will.
    pub fn close(self) -> Result<()> {
        named(&self.folder, "cleaned", |folder| {
            let _ = self.lock.unlock();
            if self.lock.try_lock().is_ok() { remove_stale(folder) } else { Ok(()) }
        })
    }
}

/// A folder that an export is written to first, in the cache folder.
pub struct Staging {
    folder: PathBuf,
    scratch: Scratch,
}

impl Staging {
    /// For the cache folder `folder`, whose blobs need not be written once more.
    pub fn new(folder: &str) -> Result<Self> {
        let folder = PathBuf::from(folder);
        let scratch = Scratch::within(&folder.join(STAGING))?;
        let staged = scratch.0.join(BLOBS);
        named(&folder, "used", |_| fs::create_dir_all(&staged))?;
        for blob in entries(&folder.join(BLOBS)).unwrap_or_default() {
            // On a file system without links it is written once more.
            let _ = fs::hard_link(blob.path(), staged.join(blob.file_name()));
        }
        Ok(Staging { folder, scratch })
    }

    /// Where to write to.
    pub fn place(&self) -> Cache {
        Cache::Folder(self.scratch.0.to_string_lossy().into_owned())
    }

    /// Takes over what was written: blobs first, then the index that names them.
    pub fn keep(self) -> Result<()> {
        named(&self.folder, "written", |folder| {
            let blobs = folder.join(BLOBS);
            fs::create_dir_all(&blobs)?;
            for blob in entries(&self.scratch.0.join(BLOBS))? {
                fs::rename(blob.path(), blobs.join(blob.file_name()))?;
            }
            fs::rename(self.scratch.0.join(INDEX), folder.join(INDEX))
        })
    }
}

/// Calls `act` on the cache folder, whose name an error gets.
fn named<T>(folder: &Path, how: &str, act: impl FnOnce(&Path) -> io::Result<T>) -> Result<T> {
    act(folder)
        .with_context(|| format!("the cache folder {:?} can't be {how}", folder.to_string_lossy()))
}

fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    fs::read_dir(folder)?.collect()
}

/// Removes blobs that nothing names, and staging folders of runs that were killed.
fn remove_stale(folder: &Path) -> io::Result<()> {
    let staging = folder.join(STAGING);
    for entry in entries(&staging).unwrap_or_default() {
        if entry.file_name().to_string_lossy().starts_with("xtask-") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    // It stays unless it is empty now.
    let _ = fs::remove_dir(staging);
    let index = fs::read_to_string(folder.join(INDEX));
    let (Ok(index), Ok(mut stale)) = (index, entries(&folder.join(BLOBS))) else { return Ok(()) };
    let mut manifests = vec![index];
    while let Some(manifest) = manifests.pop() {
        let is_named =
            |blob: &fs::DirEntry| manifest.contains(&*blob.file_name().to_string_lossy());
        for blob in stale.extract_if(.., |blob| is_named(blob)) {
            if blob.metadata().is_ok_and(|file| file.len() <= LARGEST_MANIFEST) {
                // A layer is no text.
                manifests.extend(fs::read_to_string(blob.path()));
            }
        }
    }
    stale.iter().try_for_each(|blob| fs::remove_file(blob.path()))
}
