//! Base images: references, the list that names many of them, and the part that one CI job builds.

use std::io;
use std::path::Path;

use anyhow::{Result, ensure};
use base::error::usage;
use base::output;
use serde_json::Value;

use crate::cli::{name, split};
use crate::definition::strings;

/// A base image, with the custom tags that a list gives to the image on it.
#[derive(Clone, PartialEq, Eq)]
pub struct BaseImage {
    pub reference: String,
    pub custom_tags: Vec<String>,
}

/// The base images in the list `path`, which is a file or, as `-`, standard input.
/// Errors: a usage error for anything else, and for nothing.
pub fn read_list(path: &str) -> Result<Vec<BaseImage>> {
    let (list, content) = match path {
        "-" => ("standard input".to_owned(), output::read(io::stdin())),
        path => (format!("{path:?}"), output::load(Path::new(path))),
    };
    let refuse = |why: String| {
        usage(format!(
            "--base-images: {list}{why}\nhint: write a base image a line, as in debian:trixie-slim, and \
             after a blank the image's own custom tags, as in `debian:trixie-slim one,two`"
        ))
    };
    let bytes = content.map_err(|error| refuse(format!(" can't be read ({error})")))?;
    // What is not UTF-8 is no base image either.
    let text = String::from_utf8_lossy(&bytes);
    let mut base_images = Vec::new();
    // Editors on Windows begin a file with a byte order mark, which is not part of a reference.
    for (line, number) in text.trim_start_matches('\u{feff}').lines().zip(1..) {
        // A comment begins at the start of the line or after a blank.
        let words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
        let entry = &words.collect::<Vec<_>>().join(" ");
        if !entry.is_empty() {
            let why = || refuse(format!(", line {number}: {entry:?} is not a base image"));
            base_images.push(base_image(entry).ok_or_else(why)?);
        }
    }
    ensure!(!base_images.is_empty(), refuse(" names no base image".to_owned()));
    Ok(base_images)
}

/// Each reference once, in the order of `base_images`, with all custom tags that it has there.
pub fn joined(base_images: impl Iterator<Item = BaseImage>) -> Vec<BaseImage> {
    let mut joined: Vec<BaseImage> = Vec::new();
    for base_image in base_images {
        match joined.iter_mut().find(|known| known.reference == base_image.reference) {
            Some(known) => known.custom_tags.extend(base_image.custom_tags),
            None => joined.push(base_image),
        }
    }
    joined
}

/// Reads `REF`, `REF TAG[,TAG…]`, or an object. Tags are not cleaned, but refused: others look them up.
fn base_image(entry: &str) -> Option<BaseImage> {
    let (reference, custom_tags) = if entry.starts_with('{') {
        let entry: Value = serde_json::from_str(entry).ok()?;
        let tags = match &entry["custom_tags"] {
            Value::Null => Vec::new(),
            Value::String(tags) => split(tags),
            tags => strings(tags)?,
        };
        (entry["base_image"].as_str()?.to_owned(), tags)
    } else {
        let (reference, tags) = entry.split_once(' ').unwrap_or((entry, ""));
        (reference.to_owned(), split(tags))
    };
    let is_valid = is_reference(&reference) && custom_tags.iter().all(|tag| name(tag).is_ok());
    is_valid.then_some(BaseImage { reference, custom_tags })
}

/// True where `text` may be an image reference: anything else is refused before a tag is made of it.
pub fn is_reference(text: &str) -> bool {
    // As in `[::1]:5000/x`.
    let ipv6 = text.strip_prefix('[').and_then(|text| text.split_once(']'));
    let is_ipv6 = |c: char| c.is_ascii_hexdigit() || c == ':';
    let ipv6 = ipv6.filter(|(ip, _)| ip.contains(':') && ip.chars().all(is_ipv6));
    let name = ipv6.map_or(text, |(_, rest)| rest.trim_start_matches([':', '/']));
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !name.contains("//")
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:@+".contains(c))
}

/// True for a repository: a host in any case, a path in lower case.
pub fn is_repository(image: &str) -> bool {
    let is_segment = |segment: &str| {
        let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        segment.starts_with(is_alphanumeric)
            && segment.ends_with(is_alphanumeric)
            && segment.chars().all(|c| is_alphanumeric(c) || "._-".contains(c))
    };
    let (_, path) = host_and_path(image);
    image.len() <= 255 && is_reference(image) && path.split('/').all(is_segment)
}

/// The registry of a repository, and its path there.
pub fn host_and_path(repository: &str) -> (&str, &str) {
    // docker takes every first part in upper case for a host; here it may be a mistyped organization.
    let is_host = |host: &str| host.contains(['.', ':']) || host.eq_ignore_ascii_case("localhost");
    let parts = repository.split_once('/').filter(|(host, _)| is_host(host));
    parts.unwrap_or(("docker.io", repository))
}

/// A reference without its tag and digest.
pub fn repository(reference: &str) -> &str {
    let untagged = reference.split('@').next().unwrap_or_default();
    match untagged.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => untagged,
    }
}

/// True for a digest, and for nothing that docker would take for a flag.
pub fn is_digest(digest: &str) -> bool {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}
