//! Many base images in one run: the list that names them, and the shard of the run that one of
//! several CI jobs builds.

use std::fmt;
use std::io;
use std::path::Path;

use anyhow::Result;

use super::values::number;
use crate::error::usage;
use crate::output;

/// The base images in the list `path`, which is a file or, as `-`, standard input.
/// Errors: a usage error for a list that can't be read, or has anything but references, or none.
pub fn read_list(path: &str) -> Result<Vec<String>> {
    let (list, content) = match path {
        "-" => ("standard input".to_owned(), output::read(io::stdin())),
        path => (format!("{path:?}"), output::load(Path::new(path))),
    };
    let refuse = |why: String| {
        usage(format!(
            "--base-images: {list}{why}: it must be UTF-8 text with base images, one a line, as in \
             debian:trixie-slim."
        ))
    };
    let bytes = content.map_err(|error| refuse(format!(" can't be read ({error})")))?;
    let text = str::from_utf8(&bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].split(|&byte| byte == b'\n').count();
        refuse(format!(", line {line}, is not UTF-8"))
    })?;
    let mut references = Vec::new();
    // Editors on Windows begin a file with a byte order mark, which is no part of a reference.
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let reference = without_comment(line).trim();
        if is_reference(reference) {
            references.push(reference.to_owned());
        } else if !reference.is_empty() {
            let line = index + 1;
            return Err(refuse(format!(", line {line}: {reference:?} is not an image reference")));
        }
    }
    if references.is_empty() {
        return Err(refuse(" names no base image".to_owned()));
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
    /// Reads `K/N`. An error is the end of a sentence on the value.
    pub fn parse(text: &str) -> Result<Self, String> {
        let part = |text| usize::try_from(number(text)?).ok();
        let parsed = text.split_once('/').and_then(|(k, n)| Some((part(k)?, part(n)?)));
        let parsed = parsed.filter(|(number, of)| (1..=*of).contains(number));
        parsed.map(|(number, of)| Shard { number, of }).ok_or_else(|| {
            "is not a part of a run: write K/N, the part and how many there are, as in 1/4 up to \
             4/4."
                .to_owned()
        })
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}
