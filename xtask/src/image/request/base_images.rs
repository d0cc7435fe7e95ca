//! Many base images in one run: the list that names them, and the shard of the run that one of
//! several CI jobs builds.

use std::fmt;
use std::fs;
use std::io::{self, Read as _};

use anyhow::Result;

use super::values::number;
use crate::error::usage;

/// The most bytes of a list, enough for a hundred thousand references. A device has no end.
const LARGEST: u64 = 16 << 20;

/// The base images that the list in the file `path` names, or standard input where that is `-`:
/// one a line, in its order.
///
/// # Errors
/// A usage error for a list that can't be read, is too long, is not UTF-8, has anything but
/// references, or has none.
pub fn read_list(path: &str) -> Result<Vec<String>> {
    let list = if path == "-" { "standard input".to_owned() } else { format!("{path:?}") };
    let mut bytes = Vec::new();
    // One byte more than is accepted shows that there is too much.
    let read = match path {
        "-" => io::stdin().take(LARGEST + 1).read_to_end(&mut bytes),
        path => {
            fs::File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
        }
    };
    let read = read.map_err(|error| {
        usage(format!(
            "--base-images: {list} can't be read ({error}): name a file of base images, one a \
             line, or - for standard input."
        ))
    })?;
    if read as u64 > LARGEST {
        return Err(usage(format!(
            "--base-images: {list} has more than {} MiB: is it a list of base images?",
            LARGEST >> 20
        )));
    }
    let text = str::from_utf8(&bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].split(|&byte| byte == b'\n').count();
        usage(format!("--base-images: {list}, line {line}, is not UTF-8: save it as such."))
    })?;
    references(&list, text)
}

/// The references in `text`, which is called `list` in errors.
fn references(list: &str, text: &str) -> Result<Vec<String>> {
    let mut references = Vec::new();
    // Editors on Windows begin a file with a byte order mark, which is no part of a reference.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let reference = without_comment(line).trim();
        if !reference.is_empty() {
            if !is_reference(reference) {
                return Err(usage(format!(
                    "--base-images: {list}, line {}: {reference:?} is not an image reference: write \
                     one a line, as in debian:trixie-slim.",
                    index + 1
                )));
            }
            references.push(reference.to_owned());
        }
    }
    if references.is_empty() {
        return Err(usage(format!(
            "--base-images: {list} names no base image: write one a line, as in \
             debian:trixie-slim."
        )));
    }
    Ok(references)
}

/// `line` up to a `#` at its start or after a blank.
fn without_comment(line: &str) -> &str {
    let starts = |at: usize| line[..at].chars().next_back().is_none_or(char::is_whitespace);
    let comment = line.match_indices('#').map(|(at, _)| at).find(|&at| starts(at));
    comment.map_or(line, |at| &line[..at])
}

/// May `text` be an image reference? What can be none is refused before a tag is made of it.
pub fn is_reference(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:@+".contains(c))
}

/// One of `of` parts of a run, the first of which has the number 1.
#[derive(Clone, Copy, Debug)]
pub struct Shard {
    pub number: usize,
    pub of: usize,
}

impl Shard {
    /// Reads `K/N`.
    ///
    /// # Errors
    /// A usage error for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let part = |text| usize::try_from(number(text)?).ok();
        let parsed = text.split_once('/').and_then(|(k, n)| Some((part(k)?, part(n)?)));
        let parsed = parsed.filter(|(number, of)| (1..=*of).contains(number));
        parsed.map(|(number, of)| Shard { number, of }).ok_or_else(|| {
            usage(format!(
                "--shard {text:?} is not a part of a run: write K/N, the part and how many there \
                 are, as in 1/4 up to 4/4."
            ))
        })
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}
