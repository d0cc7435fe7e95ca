//! Files that others read while they are written.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Writes `content` to `path`, in folders that need not be there, so that nobody ever finds half
/// of it.
///
/// # Errors
/// A disk that does not take it.
pub fn save(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let write = || -> std::io::Result<()> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        let partial = path.with_extension(format!("{}.partial", std::process::id()));
        fs::write(&partial, content)?;
        fs::rename(&partial, path)
    };
    write().with_context(|| format!("{} can't be written", path.display()))
}
