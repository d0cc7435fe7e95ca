//! Requests to a registry, made by `docker buildx imagetools`, which knows the user's logins.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::buildkit::{self, Cause};
use super::buildx::Docker;
use base::digest::{random, sha256};
use base::message;
use base::process;
use base::scratch::Scratch;

/// Seconds before a request that failed for a passing reason is made again.
const PAUSES: [u64; 4] = [1, 2, 4, 8];
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a request may take that the build can do without.
pub const SHORT_PATIENCE: Duration = Duration::from_secs(10);
/// How many of these are made at once.
const AT_ONCE: usize = 8;
/// The media type of a build cache's configuration.
const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";

/// The layers of an image or of a cache, by digest, with their sizes in bytes.
pub type Layers = BTreeMap<String, u64>;

/// One image of a list.
#[derive(Debug, PartialEq)]
pub struct Manifest {
    /// As buildx writes it: `linux/arm64`, `linux/arm/v7`.
    pub platform: String,
    pub digest: String,
}

/// What is known of an image or a cache by its manifest.
pub struct Content {
    /// Of a list, the layers of all its images.
    pub layers: Layers,
    /// Whether it is a build cache.
    pub is_cache: bool,
}

impl Content {
    /// The compressed size of all layers.
    pub fn bytes(&self) -> u64 {
        self.layers.values().sum()
    }
}

/// Makes one list of the images `sources` (references by digest) and pushes it under `tags`;
/// fails where the registry refuses, or does not recover in time.
pub fn create(docker: &Docker, tags: &[String], sources: &[String]) -> Result<()> {
    let tags = tags.iter().flat_map(|tag| ["--tag", tag]);
    let sources = sources.iter().map(String::as_str);
    let args = ["imagetools", "create"].into_iter().chain(tags).chain(sources).collect::<Vec<_>>();
    request(docker, &args).map(drop)
}

/// Pushes an image of a few bytes to `repository`, under the tag `probe`; fails as [`create`] does.
/// It is another image each time, for what a registry has already is not pushed.
pub fn probe(docker: &Docker, repository: &str) -> Result<()> {
    let context = Scratch::new()?;
    fs::write(context.0.join("Dockerfile"), "FROM scratch\nWORKDIR /probe\n")?;
    let context = context.0.to_string_lossy();
    let label = format!("dev.openhands.probe={}", random(16)?);
    let tag = format!("{repository}:probe");
    let how = ["--provenance=false", "--label", &label, "--tag", &tag, "--push"];
    request(docker, &[&["build"], &how[..], &[&context]].concat()).map(drop)
}

/// The images in the list `reference`, attestations aside; fails as [`create`] does, or where
/// `reference` is no list.
pub fn manifests(docker: &Docker, reference: &str) -> Result<Vec<Manifest>> {
    let raw = request(docker, &["imagetools", "inspect", "--raw", reference])?;
    let index: Value = serde_json::from_str(&raw)
        .with_context(|| format!("the registry's manifest of {reference} is not JSON"))?;
    let list = index["manifests"].as_array();
    let list = list.with_context(|| format!("{reference} is no list of images."))?;
    let manifests = list.iter().map(manifest);
    Ok(manifests.filter(|manifest| manifest.platform != "unknown/unknown").collect())
}

/// What `docker buildx` prints with `args`, after as many tries as it takes.
fn request(docker: &Docker, args: &[&str]) -> Result<String> {
    let mut pauses = PAUSES.into_iter();
    loop {
        let Some(output) = process::output(&mut docker.buildx(args), PATIENCE)? else {
            bail!("the registry has not answered for {} s.", PATIENCE.as_secs());
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let error = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let error = error.trim_start_matches("ERROR: ").to_owned();
        match pauses.next().filter(|_| buildkit::is_passing(&error)) {
            Some(pause) => {
                message::warn(&format!("{error}; retrying in {pause} s"));
                sleep(Duration::from_secs(pause))?;
            }
            None => {
                bail!("the registry refused: {error}. To continue, {}.", Cause::of(&error).remedy())
            }
        }
    }
}

fn manifest(entry: &Value) -> Manifest {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let parts = ["os", "architecture", "variant"].map(|key| text(&entry["platform"][key]));
    let mut parts = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
    // Every arm64 is v8, and buildx leaves that out too.
    if parts.len() == 3 && parts[1] == "arm64" && parts[2] == "v8" {
        parts.pop();
    }
    Manifest { platform: parts.join("/"), digest: text(&entry["digest"]) }
}

/// What those of `references` hold that can be read, by reference.
pub fn contents(docker: &Docker, references: &BTreeSet<String>) -> BTreeMap<String, Content> {
    each(docker, references, content)
}

/// The digests of those of `references` that exist, by reference.
pub fn digests(docker: &Docker, references: &BTreeSet<String>) -> BTreeMap<String, String> {
    each(docker, references, |docker, name| Some(digest(&manifest_bytes(docker, name)?)))
}

/// The manifests of those of `references` that exist, by reference.
pub fn raw(docker: &Docker, references: &BTreeSet<String>) -> BTreeMap<String, Vec<u8>> {
    each(docker, references, manifest_bytes)
}

/// The digest of a manifest.
pub fn digest(manifest: &[u8]) -> String {
    format!("sha256:{}", sha256(manifest))
}

/// The digests of the base images `references`, by reference: of those that no registry reports,
/// the one in the engine.
pub fn base_digests(docker: &Docker, references: &BTreeSet<String>) -> BTreeMap<String, String> {
    each(docker, references, |docker, name| {
        let reported = manifest_bytes(docker, name).map(|manifest| digest(&manifest));
        reported.or_else(|| {
            let args = ["image", "inspect", "--format", "{{.Id}}", name];
            let output = process::output(&mut docker.command(&args), SHORT_PATIENCE).ok()??;
            let id = String::from_utf8(output.stdout).ok()?.trim().to_owned();
            is_digest(&id).then_some(id)
        })
    })
}

/// The label `name` of those of `references` that have it, by reference.
pub fn labels(
    docker: &Docker,
    references: &BTreeSet<String>,
    name: &str,
) -> BTreeMap<String, String> {
    each(docker, references, |docker, reference| {
        let image = configuration(docker, reference)?;
        let label = |image: &Value| Some(image["config"]["Labels"][name].as_str()?.to_owned());
        // Of a list, the images by platform.
        let images = image.as_object().into_iter().flat_map(|images| images.values());
        label(&image).or_else(|| images.filter(|image| image.is_object()).find_map(label))
    })
}

/// Asks for all `references`, some at once; returns by reference what there is.
fn each<T: Send>(
    docker: &Docker,
    references: &BTreeSet<String>,
    ask: impl Fn(&Docker, &str) -> Option<T> + Copy + Send,
) -> BTreeMap<String, T> {
    let references = references.iter().collect::<Vec<_>>();
    let share = references.len().div_ceil(AT_ONCE).max(1);
    let docker = &if share > 1 { docker.for_many() } else { docker.clone() };
    thread::scope(|scope| {
        let shares = references.chunks(share).map(|names| {
            let docker = docker.clone();
            let found = move |name: &&String| Some(((*name).clone(), ask(&docker, name)?));
            scope.spawn(move || names.iter().filter_map(found).collect::<Vec<_>>())
        });
        let shares = shares.collect::<Vec<_>>();
        shares.into_iter().flat_map(|share| share.join().unwrap_or_default()).collect()
    })
}

fn content(docker: &Docker, reference: &str) -> Option<Content> {
    let manifest: Value = serde_json::from_slice(&manifest_bytes(docker, reference)?).ok()?;
    let mut layers = Layers::new();
    let repository = repository(reference);
    let images = manifest["manifests"].as_array().into_iter().flatten().map(|image| {
        let reference = format!("{repository}@{}", image["digest"].as_str()?);
        serde_json::from_slice::<Value>(&manifest_bytes(docker, &reference)?).ok()
    });
    for image in images.chain([Some(manifest.clone())]) {
        for layer in image?["layers"].as_array().into_iter().flatten() {
            layers.insert(layer["digest"].as_str()?.to_owned(), layer["size"].as_u64()?);
        }
    }
    let is_cache = manifest["config"]["mediaType"] == CACHE_CONFIG;
    Some(Content { layers, is_cache })
}

/// A layer of an image.
pub struct Part {
    /// The instruction that made it, or the comment that its script begins with.
    pub made_by: String,
    /// Its compressed size.
    pub bytes: u64,
}

/// The layers of those of `references` that are one image and can be read, the largest first.
pub fn parts(docker: &Docker, references: &BTreeSet<String>) -> BTreeMap<String, Vec<Part>> {
    each(docker, references, |docker, reference| {
        let manifest: Value = serde_json::from_slice(&manifest_bytes(docker, reference)?).ok()?;
        let image = configuration(docker, reference)?;
        let steps = image["history"].as_array()?.iter().filter(|step| step["empty_layer"] != true);
        let parts = steps.zip(manifest["layers"].as_array()?).map(|(step, layer)| {
            let made_by = made_by(step["created_by"].as_str()?);
            Some(Part { made_by, bytes: layer["size"].as_u64()? })
        });
        let mut parts = parts.collect::<Option<Vec<_>>>()?;
        parts.sort_by_key(|part| Reverse(part.bytes));
        Some(parts)
    })
}

/// What a configuration says of a layer's origin, without what is the same for all.
fn made_by(created_by: &str) -> String {
    let script = created_by.split_once("-c # ").and_then(|(_, script)| script.lines().next());
    let instruction = created_by.trim_end_matches(" # buildkit");
    message::one_line(script.unwrap_or(instruction))
}

/// The configuration of an image, or of a list those of its images by platform.
fn configuration(docker: &Docker, reference: &str) -> Option<Value> {
    let args = ["imagetools", "inspect", "--format", "{{json .Image}}", reference];
    let output = process::output(&mut docker.buildx(&args), SHORT_PATIENCE).ok()??;
    serde_json::from_slice(&output.stdout).ok()
}

/// A manifest as the registry has it, if it answers within two tries.
fn manifest_bytes(docker: &Docker, reference: &str) -> Option<Vec<u8>> {
    for _ in 0..2 {
        let output = inspect(docker, reference, SHORT_PATIENCE).ok()??;
        if output.status.success() {
            return Some(output.stdout);
        }
        let error = String::from_utf8_lossy(&output.stderr);
        if error.lines().any(|line| Cause::of(line) == Cause::NotFound) {
            break;
        }
    }
    None
}

/// Asks for a manifest once; `None` if there is no answer within `limit`.
pub fn inspect(docker: &Docker, reference: &str, limit: Duration) -> Result<Option<Output>> {
    process::output(&mut docker.buildx(&["imagetools", "inspect", "--raw", reference]), limit)
}

/// Is `digest` one, and nothing that docker would take for a flag?
pub fn is_digest(digest: &str) -> bool {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A reference without its tag and digest.
pub fn repository(reference: &str) -> &str {
    let untagged = reference.split('@').next().unwrap_or_default();
    match untagged.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => untagged,
    }
}

/// The registry of a repository, and its path there.
pub fn host_and_path(repository: &str) -> (&str, &str) {
    match repository.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => ("docker.io", repository),
    }
}

/// Sleeps, but not past a signal, which is an error.
pub fn sleep(pause: Duration) -> Result<()> {
    let end = Instant::now() + pause;
    while Instant::now() < end {
        process::check_signals()?;
        thread::sleep(process::TICK);
    }
    Ok(())
}
