//! One bake: what it is given, and how it went.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};
use xshell::Shell;

use super::observer::Watcher;
use crate::error::Interrupted;
use crate::image::build::builder::{Builder, builder_flag};
use crate::image::build::buildkit::Reader;
use crate::image::build::export;
use crate::image::build::trace::{Trace, is_import};
use crate::image::request::definition::FOLDER;
use crate::image::request::{Delivery, Request, Style};
use crate::process;

/// How long a bake may wait for caches to be read, when all else is done.
const READ_PATIENCE: Duration = Duration::from_secs(60);

/// How a bake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Done,
    /// With this exit status, after buildx has said why.
    Failed(u8),
    /// It took longer than it might, or waited too long for a cache.
    TimedOut,
    /// By this signal.
    Stopped(i32),
}

/// A bake that has ended.
pub struct Baked {
    pub end: End,
    /// What its events tell; nothing where buildx showed its own progress.
    pub trace: Trace,
    /// For each target, what came of it. Nothing of a bake that was not done.
    pub metadata: Value,
    /// From its start to its end.
    pub seconds: f64,
    /// Whether the builder had no build cache before; `None` where that is not known.
    pub builder_was_empty: Option<bool>,
    /// Why caches that were asked for were not read, by reference.
    pub unread: BTreeMap<String, String>,
    /// The events of an earlier bake, if that was the one that read the caches.
    reading: Option<Box<Trace>>,
}

impl Baked {
    /// The events of the bake that read the caches.
    pub fn reading(&self) -> &Trace {
        self.reading.as_deref().unwrap_or(&self.trace)
    }

    /// # Errors
    /// A build that failed, or a signal that stopped it.
    pub fn check(&self) -> Result<()> {
        match self.end {
            End::Done => Ok(()),
            End::Failed(status) => {
                bail!("the build failed: `docker buildx bake` ended with status {status}.")
            }
            End::TimedOut => bail!(
                "the registry stopped answering while caches were read, and the builder still \
                 waits for it: try again later, or restart the builder."
            ),
            End::Stopped(signal) => Err(Interrupted(signal).into()),
        }
    }
}

/// Hands the definition to one `docker buildx bake`, on standard input, with `overrides` for its
/// `--set`, and shows its progress on standard error. At `deadline` it is stopped.
///
/// # Errors
/// A docker that can't be started. A build that fails is no error here: see [`Baked::check`].
pub fn bake(
    sh: &Shell,
    request: &Request,
    builder: &Builder,
    definition: &Value,
    overrides: &[&str],
    deadline: Option<Instant>,
) -> Result<Baked> {
    let begun = Instant::now();
    let scratch = sh.create_temp_dir()?;
    let metadata = scratch.path().join("metadata.json");
    let mut docker = command(sh, request, &metadata);
    docker.args(inputs_once(sh, request, builder, definition, scratch.path())?);
    // Older versions never remove the Dockerfile that `dockerfile-inline` becomes.
    docker.env("TMPDIR", scratch.path());
    docker.args(overrides.iter().flat_map(|value| ["--set", value]));
    let mut child = docker.spawn().context("docker can't be started")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A bake that ends before it has read everything tells why by itself.
        let _ = stdin.write_all(definition.to_string().as_bytes());
    }
    let mut trace = Trace::new(target_names(definition));
    let status = match child.stderr.take() {
        Some(pipe) => {
            let watcher = builder.observer.watch(is_export(definition));
            watch(&mut child, pipe, watcher, &mut trace, (deadline, patience(request)))?
        }
        None => process::follow(&mut child, std::io::empty(), |_| !is_past(deadline))?,
    };
    let end = match (process::caught(), status) {
        (Some(signal), _) => End::Stopped(signal),
        (None, None) => End::TimedOut,
        (None, Some(status)) if status.success() => End::Done,
        (None, Some(status)) => End::Failed(process::exit_code(status)),
    };
    // An engine that tells nothing has built all the same.
    let metadata = sh.read_file(&metadata).unwrap_or_default();
    let metadata = serde_json::from_str(&metadata).unwrap_or_default();
    let (seconds, unread) = (begun.elapsed().as_secs_f64(), BTreeMap::new());
    let builder_was_empty = None;
    Ok(Baked { end, trace, metadata, seconds, builder_was_empty, unread, reading: None })
}

/// A bake in the image's folder, of a definition that comes on standard input.
fn command(sh: &Shell, request: &Request, metadata: &Path) -> Command {
    let (progress, errors) = match &request.progress {
        Style::Buildx(name) => (name.as_str(), Stdio::inherit()),
        Style::Auto | Style::Plain => ("rawjson", Stdio::piped()),
    };
    let mut docker = Command::new("docker");
    docker
        .arg("buildx")
        .args(builder_flag(request))
        .args(["bake", "--file", "-", "--progress", progress, "--metadata-file"])
        .arg(metadata)
        .args(&request.bake_args)
        .current_dir(sh.current_dir().join(FOLDER))
        // The definition comes from here and not from a stranger: it may name the CA bundle and
        // the prebuilt packages, which lie outside the folder. Older versions have no `--allow`.
        .env("BUILDX_BAKE_ENTITLEMENTS_FS", "0")
        // An attestation tells the time of the build, so the same image would get another digest
        // every time. `-- --provenance=true` adds it where it is wanted.
        .env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1")
        // Newer versions would ask for one all the same, to put it into the metadata.
        .env("BUILDX_METADATA_PROVENANCE", "disabled")
        .stdin(Stdio::piped())
        .stderr(errors);
    docker
}

/// What has buildx send the image's folder once for all targets of a bake, where versions before
/// 0.14 would send it for each: a file that adds a target of the folder's files and gives it to the
/// others as `inputs`, which the Dockerfile has for a stage. Pods of a cluster can't share it.
fn inputs_once(
    sh: &Shell,
    request: &Request,
    builder: &Builder,
    definition: &Value,
    scratch: &Path,
) -> Result<Vec<OsString>> {
    const NAME: &str = "_inputs";
    let targets = definition["target"].as_object().into_iter().flatten();
    let (names, targets): (Vec<_>, Vec<_>) = targets.unzip();
    let [first, others @ ..] = targets.as_slice() else { return Ok(Vec::new()) };
    let is_alike = |other: &&Value| ["context", "platforms"].iter().all(|k| other[k] == first[k]);
    let may = !builder.is_cluster && export::are_apart(request);
    if others.is_empty() || !may || !others.iter().all(is_alike) {
        return Ok(Vec::new());
    }
    let link = json!({ "contexts": { "inputs": format!("target:{NAME}") } });
    let mut more =
        names.into_iter().map(|name| (name.clone(), link.clone())).collect::<Map<_, _>>();
    let inputs = json!({
        "context": first["context"],
        "dockerfile-inline": "FROM scratch\nCOPY . /\n",
        "platforms": first["platforms"],
        "output": ["type=cacheonly"],
    });
    more.insert(NAME.to_owned(), inputs);
    let file = scratch.join("inputs.json");
    sh.write_file(&file, json!({ "target": more }).to_string())?;
    Ok(vec!["--file".into(), file.into()])
}

/// Does a definition make no image, but only caches?
fn is_export(definition: &Value) -> bool {
    let mut targets = definition["target"].as_object().into_iter().flatten();
    targets.all(|(_, target)| target["output"] == json!(["type=cacheonly"]))
}

/// How long a bake may wait for caches: no longer to read them than to write them.
fn patience(request: &Request) -> Duration {
    READ_PATIENCE.min(request.cache_timeout)
}

fn is_past(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() > deadline)
}

/// What `BuildKit` says where it can't get at a layer that a cache promised. Any other failure
/// would come again without caches.
const BROKEN: [&str; 4] = [
    "failed to compute cache key",
    "failed to read expected number of bytes",
    "httpReadSeeker",
    "unexpected commit digest",
];

/// Builds the images of `definition`; their caches are exported later, where that is possible
/// apart. The caches in `unread` are not read, for the reasons there; those that break the build,
/// or keep it waiting, are left out of another try.
///
/// # Errors
/// A docker that can't be started.
pub fn images(
    sh: &Shell,
    request: &Request,
    builder: &Builder,
    definition: &Value,
    unread: &BTreeMap<String, String>,
) -> Result<Baked> {
    let mut definition = definition.clone();
    let mut overrides = Vec::new();
    if export::are_apart(request) {
        overrides.push("*.cache-to=");
        if request.delivery == Delivery::Push && builder.stores_images {
            overrides.push(DIRECT_PUSH);
        }
    }
    let mut unread = unread.clone();
    leave_out(&mut definition, &unread);
    let mut baked = bake(sh, request, builder, &definition, &overrides, None)?;
    // Two runs that load one tag at once are in each other's way in the engine.
    if matches!(baked.end, End::Failed(_)) && baked.trace.has_failed_by(": already exists") {
        builder.observer.warn("another run loaded the same tag at the same time; trying again");
        baked = bake(sh, request, builder, &definition, &overrides, None)?;
    }
    let mut reading = None;
    loop {
        let again = self::unread(request, &baked);
        if again.keys().all(|name| unread.contains_key(name)) {
            return Ok(Baked { unread, reading, ..baked });
        }
        builder.observer.warn("a cache is in the way of the build, which begins again without it");
        unread.extend(again);
        leave_out(&mut definition, &unread);
        // What hangs may go on to hang in the builder. All steps have run by now.
        let is_stuck = baked.end == End::TimedOut;
        let deadline = is_stuck.then(|| Instant::now() + request.cache_timeout);
        reading.get_or_insert_with(|| Box::new(baked.trace));
        baked = bake(sh, request, builder, &definition, &overrides, deadline)?;
        if is_stuck {
            return Ok(Baked { unread, reading, ..baked });
        }
    }
}

/// Has `BuildKit` push, and keep nothing for the engine. Docker's own builder would unpack every
/// image first, and its base with it, and an older buildx have the engine push it once more. An
/// empty value is true for `BuildKit`, and says nothing to buildx.
const DIRECT_PUSH: &str = "*.output=type=image,push=,store=false";

/// Takes the caches in `unread` out of what is read.
pub fn leave_out(definition: &mut Value, unread: &BTreeMap<String, String>) {
    change(definition, "cache-from", |entry| {
        // buildx names a folder by the digest of its index.
        let is_of = |name: &String| {
            entry == format!("type=registry,ref={name}")
                || name.starts_with("local:") && entry.starts_with("type=local,")
        };
        !unread.keys().any(is_of)
    });
}

/// Keeps those of the entries under `key` of every target that are `wanted`.
fn change(definition: &mut Value, key: &str, wanted: impl Fn(&str) -> bool) {
    for (_, target) in definition["target"].as_object_mut().into_iter().flatten() {
        if let Some(entries) = target[key].as_array_mut() {
            entries.retain(|entry| entry.as_str().is_some_and(&wanted));
        }
    }
}

/// The caches that a bake failed by, each with the reason.
fn unread(request: &Request, baked: &Baked) -> BTreeMap<String, String> {
    if baked.end == End::TimedOut {
        let why = format!("no answer within {} s", patience(request).as_secs());
        return baked.trace.awaited().into_iter().map(|name| (name, why.clone())).collect();
    }
    let Some(error) = broken_layer(baked) else { return BTreeMap::new() };
    let why = format!("it or another is broken: {error}");
    baked.trace.hits().map(|name| (name.to_owned(), why.clone())).collect()
}

/// The error of a bake that failed by what it got from a cache, and not by a step's own command.
fn broken_layer(baked: &Baked) -> Option<String> {
    let was_read = baked.trace.hits().next().is_some();
    let mut failures = baked.trace.failures().filter(|(_, error)| !error.contains("canceled"));
    let is_failed = matches!(baked.end, End::Failed(_)) && was_read;
    let (_, error) =
        failures.find(|(name, error)| is_failed && !is_import(name) && is_of_broken(error))?;
    Some(error.to_owned())
}

/// Does `error` tell of a layer that a cache promised and can't be had?
pub fn is_of_broken(error: &str) -> bool {
    BROKEN.iter().any(|sign| error.contains(sign))
}

/// The names of a definition's targets.
pub fn target_names(definition: &Value) -> Vec<String> {
    let targets = definition["target"].as_object().into_iter().flatten();
    targets.map(|(name, _)| name.clone()).collect()
}

/// Shows and collects what a bake tells until it ends, until `deadline`, or until it has waited for
/// caches alone for longer than `patience`.
fn watch(
    child: &mut Child,
    pipe: ChildStderr,
    mut watcher: Box<dyn Watcher>,
    trace: &mut Trace,
    (deadline, patience): (Option<Instant>, Duration),
) -> Result<Option<ExitStatus>> {
    let mut reader = Reader::default();
    let mut waiting_since = None;
    let status = process::follow(child, pipe, |bytes| {
        for event in reader.read(bytes) {
            trace.add(&event);
            watcher.show(&event);
        }
        watcher.tick();
        // BuildKit itself waits for a cache without end.
        let is_waiting = !trace.awaited().is_empty();
        waiting_since = is_waiting.then(|| waiting_since.unwrap_or_else(Instant::now));
        let is_stuck = waiting_since.is_some_and(|since| since.elapsed() > patience);
        !is_stuck && !is_past(deadline)
    })?;
    for event in reader.end() {
        trace.add(&event);
        watcher.show(&event);
    }
    watcher.end();
    Ok(status)
}
