//! Many base images in one run: the list that names them, and the shard of the run that one of
//! several CI jobs builds.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::values::{number, split};
use base::error::usage;
use base::output;

/// A base image, with the custom tags that a list gives to the image on it.
#[derive(Clone, PartialEq, Eq)]
pub struct BaseImage {
    pub reference: String,
    pub custom_tags: Vec<String>,
}

/// The base images in the list `path`, which is a file or, as `-`, standard input.
/// Errors: a usage error for a list that can't be read, or has anything but base images, or none,
/// or one name for two of them.
pub fn read_list(path: &str) -> Result<Vec<BaseImage>> {
    let (list, content) = match path {
        "-" => ("standard input".to_owned(), output::read(io::stdin())),
        path => (format!("{path:?}"), output::load(Path::new(path))),
    };
    let refuse = |why: String| {
        usage(format!(
            "--base-images: {list}{why}: it must be UTF-8 text with a base image a line, as in \
             debian:trixie-slim, and after a blank the image's own custom tags, as in \
             `debian:trixie-slim one,two`."
        ))
    };
    let bytes = content.map_err(|error| refuse(format!(" can't be read ({error})")))?;
    let text = str::from_utf8(&bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].split(|&byte| byte == b'\n').count();
        refuse(format!(", line {line}, is not UTF-8"))
    })?;
    let mut base_images = Vec::new();
    let mut owners = HashMap::new();
    // Editors on Windows begin a file with a byte order mark, which is no part of a reference.
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let entry = without_comment(line).trim();
        if let Some(base_image) = base_image(entry) {
            for tag in &base_image.custom_tags {
                let owner = owners.entry(tag.clone());
                let (first, other) = owner.or_insert((index + 1, base_image.reference.clone()));
                if *other != base_image.reference {
                    return Err(usage(format!(
                        "--base-images: {list}, line {}: {tag:?} is the name of the image on \
                         {other} already, by line {first}: give each image names of its own.",
                        index + 1
                    )));
                }
            }
            base_images.push(base_image);
        } else if !entry.is_empty() {
            return Err(refuse(format!(", line {}: {entry:?} is not a base image", index + 1)));
        }
    }
    if base_images.is_empty() {
        return Err(refuse(" names no base image".to_owned()));
    }
    Ok(base_images)
}

/// Each reference once, in the order of `base_images`, with all custom tags that it has there.
pub fn joined(base_images: Vec<BaseImage>) -> Vec<BaseImage> {
    let mut places = HashMap::new();
    let mut joined: Vec<BaseImage> = Vec::new();
    for BaseImage { reference, custom_tags } in base_images {
        let place = *places.entry(reference.clone()).or_insert(joined.len());
        match joined.get_mut(place) {
            Some(known) => known.custom_tags.extend(custom_tags),
            None => joined.push(BaseImage { reference, custom_tags }),
        }
    }
    joined
}

/// Reads `REF`, `REF TAG[,TAG…]`, or an object with `base_image` and `custom_tags`, as scripts
/// write it. Tags are names that others look up, so one that would have to be changed is refused.
fn base_image(entry: &str) -> Option<BaseImage> {
    let (reference, custom_tags) = if entry.starts_with('{') {
        let entry: Value = serde_json::from_str(entry).ok()?;
        let tags = match &entry["custom_tags"] {
            Value::Null => Vec::new(),
            Value::String(tags) => split(tags),
            Value::Array(tags) => {
                tags.iter().map(|tag| tag.as_str().map(str::to_owned)).collect::<Option<_>>()?
            }
            _ => return None,
        };
        (entry["base_image"].as_str()?.to_owned(), tags)
    } else {
        let (reference, tags) = entry.split_once(char::is_whitespace).unwrap_or((entry, ""));
        (reference.to_owned(), split(tags))
    };
    let is_tag = |tag: &String| {
        !tag.is_empty() && tag.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
    };
    let is_known = is_reference(&reference) && custom_tags.iter().all(is_tag);
    is_known.then_some(BaseImage { reference, custom_tags })
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
