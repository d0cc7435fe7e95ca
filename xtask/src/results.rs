//! Standard output, which carries only results: everything that people watch goes to standard
//! error.

use std::io::{self, ErrorKind, Write as _};

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
