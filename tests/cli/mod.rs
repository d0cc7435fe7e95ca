//! Needs nothing but the programs: what a call writes, without docker.

mod base_images;
mod caches;
mod engine_command;
mod plan;
mod prebuilt_sdist;
mod processes;
mod random_input;
mod readme;
mod requests;
mod run;
mod sdk_checkout;
mod shipped;
mod steps;
mod summary;
mod tag_by_content;
mod tags;
mod transcripts;
mod workflow;

use serde_json::Value;

use crate::support::{IMAGE, Xtask, strings};

/// A plan of one image, on `debian:trixie-slim`.
fn debian(args: &[&str]) -> Xtask {
    Xtask::print(&[&["--variant", "debian"], args].concat())
}

const SLUG: &str = "debian_tag_trixie-slim";

/// The tags of a target without the repository.
fn tags(target: &Value) -> Vec<String> {
    let tag = |tag: &str| tag.strip_prefix(&format!("{IMAGE}:")).unwrap().to_owned();
    strings(&target["tags"]).into_iter().map(tag).collect()
}

/// The refs of cache entries without the repository; other entries as they are.
fn refs(entries: &Value) -> Vec<&str> {
    let head = format!("type=registry,ref={IMAGE}:");
    strings(entries)
        .into_iter()
        .map(|entry| entry.strip_prefix(&head).unwrap_or(entry))
        .map(|entry| entry.split(",mode=").next().unwrap())
        .collect()
}
