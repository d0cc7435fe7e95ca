//! A cache kept in a folder of this machine. buildx writes it in place, the index last, and removes nothing.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::docker::sleep;
use request::names::Cache;
use request::plan::Image;

/// What a build reads first.
pub const INDEX: &str = "index.json";

/// Opens every cache folder of `images`: nobody removes its content meanwhile. Errors: one can't be opened.
pub fn open(images: &[Image]) -> Result<Vec<(&str, File)>> {
    let mut all = Vec::new();
    for cache in images.iter().flat_map(|image| &image.cache_read) {
        let Cache::Folder(folder) = cache else { continue };
        let opened = fs::create_dir_all(folder).and_then(|()| File::open(folder));
        let lock = opened.with_context(|| format!("cannot use the cache folder {folder:?}"))?;
        // Some file systems have no locks.
        let _ = lock.lock_shared();
        all.push((folder.as_str(), lock));
    }
    Ok(all)
}

/// Removes what the indexes no longer name, except where another build is at work: then that one will.
pub fn clean(opened: Vec<(&str, File)>) {
    for (folder, lock) in opened {
        let _ = lock.unlock();
        if lock.try_lock().is_ok() {
            // What can't be removed costs nothing but its room.
            let _ = remove_stale(Path::new(folder));
        }
    }
}

/// Keeps others from writing to `folder` while the file is open: of two that write a blob, one would fail.
/// Errors: the folder can't be written to; a signal.
pub fn lock_writing(folder: &str) -> Result<File> {
    let lock = File::create(Path::new(folder).join(".lock"));
    let lock = lock.with_context(|| format!("cannot write to the cache folder {folder:?}"))?;
    while matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
        sleep(Duration::from_millis(100))?;
    }
    Ok(lock)
}

/// Removes blobs that nothing names, and what an export that was interrupted had begun.
fn remove_stale(folder: &Path) -> io::Result<()> {
    let _ = fs::remove_dir_all(folder.join("ingest"));
    let Ok(index) = fs::read(folder.join(INDEX)) else { return Ok(()) };
    let index: Value = serde_json::from_slice(&index)?;
    let blobs = folder.join("blobs/sha256");
    // It names a manifest, which names the layers.
    let mut named = index.to_string();
    for manifest in index["manifests"].as_array().into_iter().flatten() {
        let digest = manifest["digest"].as_str().unwrap_or_default();
        named += &fs::read_to_string(blobs.join(digest.trim_start_matches("sha256:")))?;
    }
    for blob in fs::read_dir(blobs)? {
        let blob = blob?;
        if !named.contains(&*blob.file_name().to_string_lossy()) {
            fs::remove_file(blob.path())?;
        }
    }
    Ok(())
}
