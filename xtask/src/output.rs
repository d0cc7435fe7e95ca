//! What this program hands on: results on standard output, which carries nothing else, notes for
//! people on standard error, and files that others read while they are written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The largest file that is read as a whole.
const LARGEST: u64 = 64 << 20;
/// How many symbolic links a path may lead through, as Linux has it.
const LINKS: usize = 40;

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

/// Writes `text` and the end of its line to standard error. Nobody may be there to read it, and
/// that must not end a run.
pub fn note(text: impl std::fmt::Display) {
    // One call, so that lines of this program never mix with those of its children.
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Reads a file of a size that this program can hold.
///
/// # Errors
/// A file that can't be read, or is larger.
pub fn load(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        return Err(io::Error::new(
            ErrorKind::FileTooLarge,
            format!("it is larger than {} MiB", LARGEST >> 20),
        ));
    }
    Ok(content)
}

/// Writes `content` to `path`, and makes the folders that it lies in. A file is replaced as a
/// whole, so nobody ever reads half of it, and keeps its mode and owner. Symbolic links are
/// followed. What is no regular file, such as a device or `/dev/stdout`, is written to.
///
/// # Errors
/// A file that can't be written.
pub fn save(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    save_to(path, content.as_ref())
        .with_context(|| format!("{:?} can't be written", path.to_string_lossy()))
}

fn save_to(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = folder_of(path) {
        fs::create_dir_all(folder)?;
    }
    if let Some(mut stream) = standard_stream(path) {
        return stream.write_all(content);
    }
    let is_special = fs::metadata(path).is_ok_and(|file| !file.is_file());
    if is_special || is_open_file(path) {
        let mut file = OpenOptions::new().write(true).truncate(true).open(path)?;
        return file.write_all(content);
    }
    replace(&followed(path)?, content)
}

/// The folder of `path`, unless that is the current one.
fn folder_of(path: &Path) -> Option<&Path> {
    path.parent().filter(|folder| !folder.as_os_str().is_empty())
}

/// Standard output or standard error, if `path` leads there. Opened by its path, a file would be
/// written from its beginning, over what it holds already.
fn standard_stream(path: &Path) -> Option<File> {
    let wanted = fs::metadata(path).ok()?;
    let streams =
        [io::stdout().as_fd().try_clone_to_owned(), io::stderr().as_fd().try_clone_to_owned()];
    streams.into_iter().flatten().map(File::from).find(|stream| {
        let is_same = |stream: fs::Metadata| {
            (stream.dev(), stream.ino(), stream.rdev())
                == (wanted.dev(), wanted.ino(), wanted.rdev())
        };
        stream.metadata().is_ok_and(is_same)
    })
}

/// Is `path` one of the files that a process has open, as in `/dev/fd/3`? It may have no name.
fn is_open_file(path: &Path) -> bool {
    let folder = folder_of(path).and_then(|folder| folder.canonicalize().ok());
    folder.is_some_and(|folder| folder.starts_with("/proc"))
}

/// What `path` leads to by symbolic links; that need not exist.
fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("it is one of a circle of symbolic links"))
}

/// Writes `content` beside `path` and moves it there.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    // It could only be of an earlier process of this number.
    let _ = fs::remove_file(&partial);
    let written = write_like(path, &partial, content).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

/// Writes `content` to the new file `partial`, with the mode and owner of the file at `path`.
fn write_like(path: &Path, partial: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(partial)?;
    if let Ok(old) = fs::metadata(path) {
        // Only root may give a file away. The mode comes second, as this may clear parts of it.
        let _ = chown(partial, Some(old.uid()), Some(old.gid()));
        file.set_permissions(old.permissions())?;
    }
    file.write_all(content)
}
