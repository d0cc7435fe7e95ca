//! What this program hands on: results on standard output, which carries nothing else, notes for
//! people on standard error, and files that others read while they are written.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write as _};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::status;

/// The size in bytes of the largest file that [`load`] takes.
const LARGEST: u64 = 64 << 20;

/// Writes `text` and the end of its line to standard output. A reader that has seen enough is not an error.
/// Errors: standard output can't be written, such as to a full disk.
pub fn write(text: impl std::fmt::Display) -> Result<()> {
    match writeln!(io::stdout(), "{text}").and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Writes `text` and the end of its line to standard error. Nobody may be there to read it, and
/// that must not end a run. The lines of [`crate::status`] are taken away first.
pub fn note(text: impl std::fmt::Display) {
    status::write(&format!("{text}\n"));
}

/// The content of a file of a size that this program can hold.
/// Errors: those of the system; a file of more than 64 MiB.
pub fn load(path: &Path) -> io::Result<Vec<u8>> {
    read(File::open(path)?)
}

/// As [`load`], of what is open already.
pub fn read(input: impl Read) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    input.take(LARGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("it is larger than {} MiB", LARGEST >> 20)));
    }
    Ok(content)
}

/// Writes `content` to `path`, and makes the folders that it lies in. A file is replaced as a whole, so
/// nobody ever reads half of it, and keeps its mode and owner. A link is followed, a device written to.
/// Errors: those of the system, with the path.
pub fn save(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let content = content.as_ref();
    let save = || {
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        match path.canonicalize() {
            Ok(file) if file.is_file() => replace(&file, content),
            Err(_) if !path.is_symlink() => replace(path, content),
            _ => fs::write(path, content),
        }
    };
    save().with_context(|| format!("cannot write {:?}", path.to_string_lossy()))
}

/// Writes `content` beside `path` and moves it there, with the mode and owner of what was there.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    // It could only be of an earlier process of this number.
    let _ = fs::remove_file(&partial);
    let write = || {
        let mut file = File::create_new(&partial)?;
        if let Ok(old) = fs::metadata(path) {
            // Only root may give a file away. The mode comes second, as this may clear parts of it.
            let _ = chown(&partial, Some(old.uid()), Some(old.gid()));
            file.set_permissions(old.permissions())?;
        }
        file.write_all(content)?;
        fs::rename(&partial, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&partial)))
}
