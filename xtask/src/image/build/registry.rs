//! Requests to a registry, made by `docker buildx imagetools`, which knows the user's logins.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::digest::sha256;
use crate::process;

/// Pauses before a request that failed in passing is made again, 15 s in all.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a request may take that only serves to tell more.
const SHORT_PATIENCE: Duration = Duration::from_secs(10);
/// How many of these are made at once.
const AT_ONCE: usize = 8;

/// The media type of a build cache's configuration.
const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";

/// What buildx says where a registry is busy or a connection was lost: worth another try.
const PASSING: [&str; 8] = [
    "429 Too Many Requests",
    "500 Internal Server Error",
    "502 Bad Gateway",
    "503 Service Unavailable",
    "504 Gateway Timeout",
    "connection reset by peer",
    "broken pipe",
    "EOF",
];

/// What buildx says where another try would be in vain, and what to do instead.
const REMEDIES: [(&[&str], &str); 2] = [
    (
        &["401 Unauthorized", "403 Forbidden", "authorization failed", "access denied"],
        "`docker login` to the registry as a user who may write there",
    ),
    (&["404 Not Found", "not found"], "check that the image was pushed and not deleted since"),
];

/// The layers of an image or of a cache, by digest, with their sizes in bytes.
pub type Layers = BTreeMap<String, u64>;

/// One image of a list.
#[derive(Debug, PartialEq)]
pub struct Manifest {
    /// As buildx writes it: `linux/arm64`, `linux/arm/v7`.
    pub platform: String,
    pub digest: String,
}

/// Makes one list of the images `sources` (references by digest) and pushes it under `tags`.
///
/// # Errors
/// A registry that refuses; a passing failure that did not pass.
pub fn create(tags: &[String], sources: &[String]) -> Result<()> {
    let tags = tags.iter().flat_map(|tag| ["--tag", tag]);
    let sources = sources.iter().map(String::as_str);
    let args = ["create"].into_iter().chain(tags).chain(sources).collect::<Vec<_>>();
    imagetools(&args).map(drop)
}

/// What is known of an image or a cache by its manifest.
pub struct Content {
    /// Of a list, the layers of all its images.
    pub layers: Layers,
    /// Whether it is a build cache.
    pub is_cache: bool,
}

/// Asks for all `references` by `ask`, some at once; what is there comes by reference.
fn each<T: Send>(references: &BTreeSet<String>, ask: fn(&str) -> Option<T>) -> BTreeMap<String, T> {
    let references = references.iter().collect::<Vec<_>>();
    let share = references.len().div_ceil(AT_ONCE).max(1);
    thread::scope(|scope| {
        let ask_all = |references: &[&String]| -> Vec<(String, T)> {
            let found = references.iter().map(|name| Some(((*name).clone(), ask(name)?)));
            found.flatten().collect()
        };
        let shares = references.chunks(share).map(|share| scope.spawn(move || ask_all(share)));
        let shares = shares.collect::<Vec<_>>().into_iter();
        shares.filter_map(|share| share.join().ok()).flatten().collect()
    })
}

/// What those of `references` hold that can be asked for, by reference.
pub fn contents(references: &BTreeSet<String>) -> BTreeMap<String, Content> {
    each(references, content)
}

/// The digests of those of `references` that are there, by reference.
pub fn digests(references: &BTreeSet<String>) -> BTreeMap<String, String> {
    each(references, |name| Some(format!("sha256:{}", sha256(raw(name)?))))
}

fn content(reference: &str) -> Option<Content> {
    let manifest: Value = serde_json::from_slice(&raw(reference)?).ok()?;
    let mut layers = Layers::new();
    let repository = repository(reference);
    let images = manifest["manifests"].as_array().into_iter().flatten().map(|image| {
        let image = raw(&format!("{repository}@{}", image["digest"].as_str()?))?;
        serde_json::from_slice::<Value>(&image).ok()
    });
    for image in images.chain([Some(manifest.clone())]) {
        for layer in image?["layers"].as_array().into_iter().flatten() {
            layers.insert(layer["digest"].as_str()?.to_owned(), layer["size"].as_u64()?);
        }
    }
    let is_cache = manifest["config"]["mediaType"] == CACHE_CONFIG;
    Some(Content { layers, is_cache })
}

/// A manifest as the registry has it, if it gives it at the second try at the latest.
fn raw(reference: &str) -> Option<Vec<u8>> {
    for _ in 0..2 {
        let output = inspect(reference, SHORT_PATIENCE).ok()??;
        if output.status.success() {
            return Some(output.stdout);
        }
        if String::from_utf8_lossy(&output.stderr).contains("not found") {
            break;
        }
    }
    None
}

/// Asks for a manifest once; `None` if there is no answer within `limit`.
fn inspect(reference: &str, limit: Duration) -> Result<Option<Output>> {
    let mut docker = Command::new("docker");
    docker.args(["buildx", "imagetools", "inspect", "--raw", reference]);
    process::output(&mut docker, limit)
}

/// Asks for `reference` in the background; what comes is whether there was any answer within
/// `limit` or so, as there is in any case if there is nothing to ask for.
pub fn probe(reference: Option<String>, limit: Duration) -> JoinHandle<Result<(), Duration>> {
    let limit = limit.min(SHORT_PATIENCE);
    thread::spawn(move || match reference.map(|reference| inspect(&reference, limit)) {
        Some(Ok(None)) => Err(limit),
        _ => Ok(()),
    })
}

/// A reference without its tag and digest.
pub fn repository(reference: &str) -> &str {
    let untagged = reference.split('@').next().unwrap_or_default();
    match untagged.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => untagged,
    }
}

/// The images in the list `reference`, attestations aside.
///
/// # Errors
/// As [`create`]; or a `reference` that is no list.
pub fn manifests(reference: &str) -> Result<Vec<Manifest>> {
    let raw = imagetools(&["inspect", "--raw", reference])?;
    let index: Value = serde_json::from_str(&raw)
        .with_context(|| format!("the registry's manifest of {reference} is not JSON"))?;
    let list = index["manifests"]
        .as_array()
        .with_context(|| format!("{reference} is no list of images."))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let manifest = |entry: &Value| {
        let platform = &entry["platform"];
        let parts = ["os", "architecture", "variant"].map(|key| text(&platform[key]));
        let mut parts = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
        // Every arm64 is v8, and buildx leaves that out too.
        if parts.len() == 3 && parts[1] == "arm64" && parts[2] == "v8" {
            parts.pop();
        }
        Manifest { platform: parts.join("/"), digest: text(&entry["digest"]) }
    };
    let manifests = list.iter().map(manifest);
    Ok(manifests.filter(|manifest| manifest.platform != "unknown/unknown").collect())
}

/// Is another try worth its time after this error?
pub fn is_passing(error: &str) -> bool {
    PASSING.iter().any(|passing| error.contains(passing))
}

/// What `docker buildx imagetools` writes, after as many tries as it takes.
fn imagetools(args: &[&str]) -> Result<String> {
    let mut pauses = PAUSES.into_iter();
    loop {
        let mut docker = Command::new("docker");
        docker.args(["buildx", "imagetools"]).args(args);
        let Some(output) = process::output(&mut docker, PATIENCE)? else {
            bail!("the registry has not answered for {} s.", PATIENCE.as_secs());
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let said = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let said = said.trim_start_matches("ERROR: ").to_owned();
        match pauses.next().filter(|_| is_passing(&said)) {
            Some(pause) => {
                eprintln!("warning: {said}; trying again in {} s.", pause.as_secs());
                sleep(pause)?;
            }
            None => {
                let remedy =
                    REMEDIES.iter().find(|(signs, _)| signs.iter().any(|s| said.contains(s)));
                let remedy = remedy.map_or("try again later", |(_, remedy)| remedy);
                bail!("the registry refused: {said}. To go on, {remedy}.");
            }
        }
    }
}

/// Sleeps, but not past a signal.
///
/// # Errors
/// [`crate::error::Interrupted`] on a signal.
pub fn sleep(pause: Duration) -> Result<()> {
    let end = Instant::now() + pause;
    while Instant::now() < end {
        process::check_signals()?;
        thread::sleep(process::TICK);
    }
    Ok(())
}
