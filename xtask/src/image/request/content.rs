//! Digests of folders: what builds read of them, and nothing else.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base::digest::sha256;

/// A digest of all files below `folder` but for those named `skipped`: of their names, contents and
/// execute bits, and of where links lead.
/// Errors: what can't be read.
pub fn digest(folder: &Path, skipped: &[&str]) -> io::Result<String> {
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut all = String::new();
    for entry in entries {
        let (name, path) = (entry.file_name(), entry.path());
        if skipped.iter().any(|skipped| name == *skipped) {
            continue;
        }
        let kind = entry.file_type()?;
        let content = if kind.is_dir() {
            digest(&path, skipped)?
        } else if kind.is_symlink() {
            sha256(fs::read_link(&path)?.as_os_str().as_bytes())
        } else if kind.is_file() {
            let mode = entry.metadata()?.permissions().mode() & 0o100;
            format!("{mode} {}", sha256(fs::read(&path)?))
        } else {
            continue;
        };
        all.push_str(&format!("{} {content}\n", sha256(name.as_bytes())));
    }
    Ok(sha256(all))
}
