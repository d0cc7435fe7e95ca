//! What this program hands on: results on standard output, which carries nothing else, and files
//! that others read while they are written.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};

/// Writes `text` and the end of its line. A reader that has seen enough, such as `head`, is no
/// error.
///
/// # Errors
/// Standard output that takes no more, such as a file on a full disk.
pub fn write(text: impl std::fmt::Display) -> Result<()> {
    match writeln!(io::stdout(), "{text}").and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("standard output can't be written")
        }
        _ => Ok(()),
    }
}

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
