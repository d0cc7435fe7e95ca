//! Every call of docker: bakes, what the builder can do, and requests to registries, which
//! `docker buildx imagetools` makes with the user's logins.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{self, Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use base::digest::{random, sha256};
use base::scratch::Scratch;
use base::{message, process};
use serde_json::Value;

use crate::progress::Watch;
use outcome::cause::{self, Cause};
use outcome::events;
use outcome::trace::Trace;
use request::bases::repository;
use request::cli::{Args, in_engine, quoted, without_repeats};
use request::definition::{FOLDER, strings};
use request::facts::{Base, Builder};
use request::host::Host;
use request::plan::INPUTS_LABEL;

/// How long docker may take to describe itself or a builder: buildx itself waits 20 s for a node.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A builder in a container or a cluster pulls its image first.
const START_PATIENCE: Duration = Duration::from_secs(300);
const REGISTRY_PATIENCE: Duration = Duration::from_secs(120);
const PULL_PATIENCE: Duration = Duration::from_secs(1800);
/// How long a request to a registry may take that the build can do without.
pub const SHORT_PATIENCE: Duration = Duration::from_secs(10);
/// How many of these are made at once.
pub const AT_ONCE: usize = 8;
/// Seconds before a request that failed for a transient reason is made again.
const PAUSES: [u64; 4] = [1, 2, 5, 30];
/// The oldest minor version: `BuildKit` 0.13 reads the Dockerfile, buildx 0.13 writes its events as JSON.
const OLDEST: u32 = 13;

/// The docker client. Every call of it is made here.
#[derive(Clone)]
pub struct Docker {
    pub root: PathBuf,
    /// The buildx builder to use, where it is not buildx's own choice.
    builder: Option<String>,
    /// The program that docker calls for `docker buildx`, where that is called without docker.
    plugin: Option<String>,
}

/// How a bake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Done,
    /// With this exit status, after buildx has said why.
    Failed(u8),
    /// It took longer than allowed, or waited too long for a cache.
    TimedOut,
    /// By this signal.
    Stopped(i32),
}

/// A bake that has ended.
pub struct Baked {
    pub end: End,
    pub trace: Trace,
    /// What buildx wrote of each target; `null` for a bake that was not done.
    metadata: Value,
    /// From its start to its end.
    pub seconds: f64,
}

impl Baked {
    /// The digest of the image of `target`, where buildx says so.
    pub fn digest(&self, target: &str) -> Option<&str> {
        self.metadata[target]["containerimage.digest"].as_str()
    }

    /// Whether a cache of `target` was exported; `None` where buildx wrote no metadata.
    pub fn has_cache(&self, target: &str) -> Option<bool> {
        let is_known = !self.metadata.is_null();
        is_known.then(|| self.metadata[target]["cache.manifest"].is_string())
    }
}

/// The layers of an image or of a cache, by digest, with their compressed sizes in bytes.
#[derive(Clone, Default)]
pub struct Content {
    pub layers: BTreeMap<String, u64>,
    /// True for a build cache.
    pub is_cache: bool,
}

impl Docker {
    /// Calls in `root`, for the builder of that name.
    pub fn new(root: &Path, builder: Option<&str>) -> Self {
        Docker { root: root.to_owned(), builder: builder.map(str::to_owned), plugin: None }
    }

    /// The same client for many calls of buildx: without docker, each takes less than half the time.
    /// Where docker does not say where its plugin is, or a script starts docker, nothing changes.
    pub fn for_many(&self) -> Self {
        if self.plugin.is_some() || !is_own_program() {
            return self.clone();
        }
        let format =
            "{{range .ClientInfo.Plugins}}{{if eq .Name \"buildx\"}}{{.Path}}{{end}}{{end}}";
        let path = self.output_of(&["info", "--format", format]).trim().to_owned();
        Docker { plugin: Some(path).filter(|path| Path::new(path).is_file()), ..self.clone() }
    }

    /// A call of `program` in `root`, which finds docker's folders where the caller stands.
    fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for name in ["DOCKER_CONFIG", "DOCKER_CERT_PATH", "BUILDX_CONFIG"] {
            let folder = env::var_os(name).and_then(|folder| path::absolute(folder).ok());
            command.envs(folder.map(|folder| (name, folder)));
        }
        command.current_dir(&self.root);
        command
    }

    /// `docker` with these arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut docker = self.program("docker");
        docker.args(args);
        docker
    }

    /// `docker buildx` with these arguments, for the builder.
    pub fn buildx(&self, args: &[&str]) -> Command {
        let mut buildx = match &self.plugin {
            Some(plugin) => self.program(plugin),
            None => self.command(&["buildx"]),
        };
        buildx.args(self.builder.iter().flat_map(|name| ["--builder", name])).args(args);
        buildx
    }

    /// What docker writes to standard output with `args`; nothing if it fails, or takes too long.
    pub fn output_of(&self, args: &[&str]) -> String {
        let output = process::output(&mut self.command(args), PATIENCE).ok().flatten();
        let output = output.filter(|output| output.status.success());
        output.map_or_else(String::new, |o| String::from_utf8_lossy(&o.stdout).into_owned())
    }

    /// Runs one `docker buildx bake` of `bake`, which it reads on standard input, and shows it by `watch`.
    /// It is stopped at `deadline`, and where it waits for nothing but caches for longer than [`read_patience`]:
    /// `BuildKit` itself waits forever. A build that fails is not an error here.
    pub fn bake(
        &self,
        bake: &Value,
        args: &Args,
        host: &Host,
        watch: &mut Watch,
        deadline: Option<Instant>,
    ) -> Result<Baked> {
        let started = Instant::now();
        let scratch = Scratch::within(&self.root.join("target/image/tmp"))?;
        let metadata = scratch.0.join("metadata.json");
        let mut docker = self.buildx(&["bake", "--file", "-", "--progress", "rawjson"]);
        docker
            .arg("--metadata-file")
            .arg(&metadata)
            .args(&args.bake_args)
            .current_dir(self.root.join(FOLDER))
            .envs(host.variables())
            // The definition is made here and not by a stranger: it may name files outside the folder.
            // Older versions have no `--allow`.
            .env("BUILDX_BAKE_ENTITLEMENTS_FS", "0")
            // An attestation contains the time of the build, so the same image would get another digest
            // every time. `-- --provenance=true` adds it where it is wanted.
            .env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1")
            // Newer versions would ask for one all the same, to put it into the metadata.
            .env("BUILDX_METADATA_PROVENANCE", "disabled")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // For a provenance, buildx asks git seven things.
        if args.bake_args.is_empty() {
            docker.env("BUILDX_GIT_INFO", "0");
        }
        let mut child = docker.spawn().map_err(|error| not_started(&error))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A bake that ends before it has read everything says why by itself.
            let _ = stdin.write_all(bake.to_string().as_bytes());
        }
        let targets = strings(&bake["group"]["default"]["targets"]).unwrap_or_default();
        let mut trace = Trace { targets: targets.clone(), ..Trace::default() };
        let mut rest = Vec::new();
        let mut waiting_since = None;
        let patience = read_patience(args);
        let Some(pipe) = child.stderr.take() else { bail!("docker has no standard error") };
        let status = process::follow(&mut child, pipe, |bytes| {
            for value in events::read(&mut rest, bytes, false) {
                for (event, place) in trace.add(&value) {
                    watch.show(&event, place, &trace);
                }
            }
            watch.tick(&trace);
            let now = Instant::now();
            let is_waiting = !trace.awaited().is_empty();
            waiting_since = is_waiting.then(|| waiting_since.unwrap_or(now));
            let is_stuck = waiting_since.is_some_and(|since| now - since > patience);
            !is_stuck && !watch.is_canceled() && deadline.is_none_or(|deadline| now <= deadline)
        })?;
        for value in events::read(&mut rest, &[], true) {
            for (event, place) in trace.add(&value) {
                watch.show(&event, place, &trace);
            }
        }
        watch.end();
        // A signal may come when everything was pushed.
        let is_pushed = args.push && trace.images_exported() == targets.len();
        let end = match (process::caught(), status) {
            (Some(_), Some(status)) if status.success() || is_pushed => End::Done,
            (Some(signal), _) => End::Stopped(signal),
            (None, None) => End::TimedOut,
            (None, Some(status)) if status.success() => End::Done,
            (None, Some(status)) => End::Failed(process::exit_code(status)),
        };
        // A buildx that is too old does not know the flags, and says no more than that.
        if matches!(end, End::Failed(_))
            && trace.nodes.is_empty()
            && let Err(error) = self.version()
        {
            trace.error = Some(format!("{error:#}").replace("\nhint: ", "; "));
        }
        // An engine that writes no metadata has built all the same.
        let metadata = fs::read(&metadata).unwrap_or_default();
        let metadata = serde_json::from_slice(&metadata).unwrap_or_default();
        Ok(Baked { end, trace, metadata, seconds: started.elapsed().as_secs_f64() })
    }

    /// What the builder can do, which is started for that.
    /// Errors: what is missing, and what to do.
    pub fn inspect(&self) -> Result<Builder> {
        let mut text =
            self.ask(&[], PATIENCE, "the builder", "`docker buildx ls` lists the builders")?;
        let name = field(&text, "Name").unwrap_or_default().to_owned();
        let driver = field(&text, "Driver").unwrap_or_default().to_owned();
        // buildx does not name the driver of an engine that does not answer.
        let hint = if driver.is_empty() || driver == "docker" {
            format!("start Docker, or run {}", in_engine(""))
        } else {
            format!("see `docker buildx inspect {}`, and start that machine", quoted(&name))
        };
        let shown = |node: &str| {
            let own = node.lines().next().unwrap_or_default().trim_start_matches("Name:").trim();
            let at = field(node, "Endpoint").map(|at| format!(" at {at}")).unwrap_or_default();
            format!("the node {own:?}{at} of the builder {name:?}")
        };
        // A builder in a container or a cluster has no features to print until it runs.
        let is_down = |node: &&str| field(node, "Status").is_some_and(|status| status != "running");
        if let Some(what) = text.split("\nName:").find(is_down).map(shown) {
            text = self.ask(&["--bootstrap"], START_PATIENCE, &what, &hint)?;
        }
        for node in text.split("\nName:") {
            if let Some(error) = field(node, "Error") {
                let hint = cause::engine_hint(error).unwrap_or(&hint);
                bail!("{} does not answer: {error}\nhint: {hint}", shown(node));
            }
        }
        // Older versions of buildx use the other name.
        for version in fields(&text, "BuildKit version").chain(fields(&text, "Buildkit")) {
            ensure!(
                !is_too_old(version),
                "the builder {name:?} has BuildKit {version}, which is too old\nhint: update to Docker 26 or \
                 BuildKit 0.{OLDEST}, or run {}",
                in_engine("")
            );
        }
        // Each node has a list of its own.
        let platforms = fields(&text, "Platforms").flat_map(|list| list.split(", "));
        let platforms = platforms.map(|name| name.trim_end_matches('*').to_owned());
        let runs = without_repeats(platforms.collect());
        // A buildx that does not print it is taken at its best: bake itself would still complain.
        let exports_cache = field(&text, "Cache export").is_none_or(|can| can == "true");
        Ok(Builder { name, driver, exports_cache, runs, was_empty: None })
    }

    /// What buildx prints of the builder; its features only with `--debug`.
    /// Errors: `what` can't be used, and the hint.
    fn ask(&self, flags: &[&str], patience: Duration, what: &str, hint: &str) -> Result<String> {
        let name = Vec::from_iter(self.builder.as_deref());
        let args = [&["--debug", "buildx", "inspect"], flags, &name].concat();
        let output = answer(&mut self.command(&args), patience)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        self.version()?;
        let error = error_of(&output);
        bail!("{what} can't be used: {error}\nhint: {}", cause::engine_hint(&error).unwrap_or(hint))
    }

    /// Whether the builder has no build cache; `None` where buildx does not say.
    pub fn is_empty(&self) -> Option<bool> {
        let usage = process::output(&mut self.buildx(&["du"]), PATIENCE).ok()??;
        Some(field(&String::from_utf8_lossy(&usage.stdout), "Total")? == "0B")
    }

    /// The version of buildx.
    /// Errors: there is none, it is too old, or `docker` is another program; and what to do.
    pub fn version(&self) -> Result<String> {
        let output = answer(&mut self.command(&["buildx", "version"]), PATIENCE)?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let (first, engine) = (text.trim().lines().next().unwrap_or_default(), in_engine(""));
        ensure!(
            !["podman", "buildah", "nerdctl"].iter().any(|name| text.contains(name)),
            "this `docker` is not Docker's and has no `buildx bake` ({first})\nhint: install Docker's client \
             and buildx, or run {engine}"
        );
        ensure!(
            !text.contains(" WSL "),
            "{first}\nhint: turn on the WSL integration for this distribution in Docker Desktop's settings"
        );
        ensure!(
            output.status.success(),
            "docker has no buildx plugin\nhint: install docker-buildx-plugin (Debian's docker-buildx), or run {engine}"
        );
        // Such as `github.com/docker/buildx v0.13.1 788433953af1`; Ubuntu's has no `v`.
        let version = first.split(' ').nth(1).unwrap_or(first);
        ensure!(
            !is_too_old(version),
            "buildx {version} is too old\nhint: install buildx 0.{OLDEST} or newer"
        );
        Ok(version.to_owned())
    }

    /// Makes one list of the images `sources` (references by digest) and pushes it under `tags`.
    /// Errors: the registry refuses, or does not recover in time.
    pub fn create(&self, tags: &[String], sources: &[String]) -> Result<()> {
        let mut args = vec!["create"];
        args.extend(tags.iter().flat_map(|tag| ["--tag", tag]));
        args.extend(sources.iter().map(String::as_str));
        self.imagetools(&args).map(drop)
    }

    /// Pushes an image of a few bytes to `repository`: a new one, for what a registry has is not pushed.
    /// Errors: there is no buildx that can, or as [`Docker::create`].
    pub fn probe(&self, repository: &str) -> Result<()> {
        self.version()?;
        let context = Scratch::within(&self.root.join("target/image/tmp"))?;
        fs::write(context.0.join("Dockerfile"), "FROM scratch\nWORKDIR /probe\n")?;
        let context = context.0.to_string_lossy();
        let label = format!("dev.openhands.probe={}", random(16)?);
        let tag = format!("{repository}:probe");
        let how =
            ["build", "--provenance=false", "--label", &label, "--tag", &tag, "--push", &context];
        request(self.buildx(&how), REGISTRY_PATIENCE, Cause::hint).map(drop)
    }

    /// Pulls `image`, unless the engine has it.
    /// Errors: as [`Docker::create`].
    pub fn pull(&self, image: &str) -> Result<()> {
        if self.output_of(&["image", "inspect", "--format", "{{.Id}}", image]).is_empty() {
            message::say(&format!("pulling {image}"));
            let pull = self.command(&["pull", "--quiet", image]);
            let pulled = request(pull, PULL_PATIENCE, Cause::hint);
            pulled.with_context(|| format!("cannot pull {image}"))?;
        }
        Ok(())
    }

    /// What `docker buildx imagetools` prints, of images that were pushed.
    /// Errors: as [`Docker::create`].
    pub fn imagetools(&self, args: &[&str]) -> Result<Vec<u8>> {
        let call = self.buildx(&[&["imagetools"], args].concat());
        request(call, REGISTRY_PATIENCE, |cause| match cause {
            Cause::NotFound => Some("the registry does not show it yet, or it was deleted"),
            Cause::PlainHttp | Cause::Certificate => Some(
                "buildx asks from this machine: name the file of the registry's CA by SSL_CERT_FILE, or \
                 create a builder in a container whose buildkitd.toml names the registry",
            ),
            _ => cause.hint(),
        })
    }

    /// Asks for all `references`, some at once; returns by reference what there is.
    pub fn each<T: Send>(
        &self,
        references: &BTreeSet<String>,
        ask: impl Fn(&Docker, &str) -> Option<T> + Copy + Send,
    ) -> BTreeMap<String, T> {
        let references = Vec::from_iter(references);
        let share = references.len().div_ceil(AT_ONCE).max(1);
        let docker = &if share > 1 { self.for_many() } else { self.clone() };
        let ask_all = move |names: &[&String]| {
            let found = names.iter().filter_map(|&name| Some((name.clone(), ask(docker, name)?)));
            found.collect::<Vec<_>>()
        };
        thread::scope(|scope| {
            let spawn = |names| scope.spawn(move || ask_all(names));
            let shares = references.chunks(share).map(spawn).collect::<Vec<_>>();
            shares.into_iter().flat_map(|share| share.join().unwrap_or_default()).collect()
        })
    }

    /// What `reference` holds, where that can be read.
    pub fn content(&self, reference: &str) -> Option<Content> {
        let manifest = self.manifest_json(reference)?;
        let is_cache = manifest["config"]["mediaType"] == "application/vnd.buildkit.cacheconfig.v0";
        let mut images = vec![manifest.clone()];
        for image in manifest["manifests"].as_array().into_iter().flatten() {
            let digest = image["digest"].as_str()?;
            images.push(self.manifest_json(&format!("{}@{digest}", repository(reference)))?);
        }
        let mut layers = BTreeMap::new();
        for layer in images.iter().filter_map(|image| image["layers"].as_array()).flatten() {
            layers.insert(layer["digest"].as_str()?.to_owned(), layer["size"].as_u64()?);
        }
        Some(Content { layers, is_cache })
    }

    /// The base images `references`, by reference. A push asks registries first, so that all machines get
    /// the same; a load, which is not to wait, the engine. Their lowest layers only where `is_compared`.
    pub fn bases(
        &self,
        references: &BTreeSet<String>,
        is_push: bool,
        is_compared: bool,
    ) -> BTreeMap<String, Base> {
        let is_small = references.len() <= AT_ONCE;
        self.each(references, move |docker, reference| {
            let in_engine = || {
                let images = docker.output_of(&["image", "inspect", reference]);
                let image = &serde_json::from_str::<Value>(&images).ok()?[0];
                let pulled = image["RepoDigests"][0].as_str();
                let digest = pulled.and_then(|name| name.rsplit('@').next());
                Some(Base {
                    digest: digest.or(image["Id"].as_str())?.to_owned(),
                    system: None,
                    has_triggers: !image["Config"]["OnBuild"][0].is_null(),
                })
            };
            let in_registry = || {
                let manifest = docker.manifest(reference).ok()??;
                // Of a batch it would take longer than it is worth.
                let image = if is_small { docker.configuration(reference) } else { None };
                let system = || {
                    let mut manifest: Value = serde_json::from_slice(&manifest).ok()?;
                    if let Some(first) = manifest["manifests"][0]["digest"].as_str() {
                        let reference = format!("{}@{first}", repository(reference));
                        manifest = docker.manifest_json(&reference)?;
                    }
                    Some(manifest["layers"][0]["digest"].as_str()?.to_owned())
                };
                Some(Base {
                    digest: digest(&manifest),
                    system: if is_compared { system() } else { None },
                    has_triggers: image.is_some_and(|i| !i["config"]["OnBuild"][0].is_null()),
                })
            };
            if is_push {
                in_registry().or_else(in_engine)
            } else {
                in_engine().or_else(in_registry)
            }
        })
    }

    /// The label of the image `reference` that holds a digest of what went into it, empty where it has none;
    /// `None` where that can't be read.
    pub fn inputs(&self, reference: &str) -> Option<String> {
        let image = self.configuration(reference)?;
        Some(image["config"]["Labels"][INPUTS_LABEL].as_str().unwrap_or_default().to_owned())
    }

    /// The configuration of an image, or of a list that of its first image.
    fn configuration(&self, reference: &str) -> Option<Value> {
        let args = ["imagetools", "inspect", "--format", "{{json .Image}}", reference];
        let output = process::output(&mut self.buildx(&args), SHORT_PATIENCE).ok()??;
        let image: Value = serde_json::from_slice(&output.stdout).ok()?;
        let by_platform = image.as_object()?.values().find(|image| image["config"].is_object());
        by_platform.cloned().or(Some(image))
    }

    /// The manifest that a registry has under `reference`, if it has one.
    /// Errors: the registry does not say, in two tries.
    pub fn manifest(&self, reference: &str) -> Result<Option<Vec<u8>>> {
        let mut is_last = false;
        loop {
            let output = self
                .inspect_raw(reference, SHORT_PATIENCE)?
                .with_context(|| format!("no answer within {} s", SHORT_PATIENCE.as_secs()))?;
            if output.status.success() {
                return Ok(Some(output.stdout));
            }
            let error = error_of(&output);
            match Cause::of(&error) {
                Cause::NotFound | Cause::NoRepository => return Ok(None),
                Cause::Transient if !is_last => is_last = true,
                _ => bail!(error),
            }
        }
    }

    fn manifest_json(&self, reference: &str) -> Option<Value> {
        serde_json::from_slice(&self.manifest(reference).ok()??).ok()
    }

    /// Asks for a manifest once; `None` if there is no answer within `limit`.
    pub fn inspect_raw(&self, reference: &str, limit: Duration) -> Result<Option<Output>> {
        process::output(&mut self.buildx(&["imagetools", "inspect", "--raw", reference]), limit)
    }
}

/// How long a bake may wait for nothing but caches: no longer to read them than to write them.
pub fn read_patience(args: &Args) -> Duration {
    Duration::from_secs(60).min(args.cache_timeout)
}

/// The digest of a manifest.
pub fn digest(manifest: &[u8]) -> String {
    format!("sha256:{}", sha256(manifest))
}

/// What the call `docker` of a registry prints, after as many tries as it takes.
/// Errors: what went wrong, and the `hint` for its cause.
fn request(
    mut docker: Command,
    patience: Duration,
    hint: impl Fn(Cause) -> Option<&'static str>,
) -> Result<Vec<u8>> {
    // What is pulled is started on the engine's own platform.
    docker.env_remove("DOCKER_DEFAULT_PLATFORM");
    let mut pauses = PAUSES.iter();
    loop {
        let output = process::output(&mut docker, patience).map_err(explained)?;
        let output = output.with_context(|| {
            format!("the registry has not answered for {} s", patience.as_secs())
        })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let error = error_of(&output);
        let cause = Cause::of(&error);
        let most = match cause {
            // It may have been pushed a moment ago.
            Cause::NotFound => 3,
            Cause::NoEngine => 2,
            _ => cause.retries(),
        };
        let made = PAUSES.len() - pauses.len();
        let Some(pause) = pauses.next().filter(|_| made < most) else {
            let hint = hint(cause).map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            bail!("{error}{hint}")
        };
        message::warn(&format!("{error}; retrying in {pause} s"));
        sleep(Duration::from_secs(*pause))?;
    }
}

/// What the call `docker` ends with.
/// Errors: there is no docker, or no answer within `patience`; and what to do.
pub fn answer(docker: &mut Command, patience: Duration) -> Result<Output> {
    process::output(docker, patience).map_err(explained)?.with_context(|| {
        let (seconds, engine) = (patience.as_secs(), in_engine(""));
        format!(
            "the engine has not answered for {seconds} s\nhint: restart Docker, or run {engine}"
        )
    })
}

/// The error of a call of docker, with what to do where it can't be started.
fn explained(error: anyhow::Error) -> anyhow::Error {
    error.downcast_ref().map(not_started).unwrap_or(error)
}

/// The error of a docker that can't be started, and what to do.
pub fn not_started(error: &io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::NotFound => anyhow!(
            "docker is not installed\nhint: install Docker with buildx, or run {}",
            in_engine("")
        ),
        _ => anyhow!(
            "docker can't be started: {error}\nhint: check the `docker` that comes first in PATH"
        ),
    }
}

/// The error in what docker wrote, behind which it may name a page on the build; else the last line.
fn error_of(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let error = stderr.lines().rev().find_map(|line| line.strip_prefix("ERROR: "));
    let last = || stderr.lines().rfind(|line| !line.trim().is_empty());
    error.or_else(last).unwrap_or_default().to_owned()
}

/// The value of the first line `name: value` in buildx's text.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    fields(text, name).next()
}

/// The values of all such lines.
fn fields<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let values = text.lines().filter_map(move |l| l.trim().strip_prefix(name)?.strip_prefix(':'));
    values.map(str::trim).filter(|value| !value.is_empty())
}

/// True where `version`, such as `v0.12.1` or `v0.8+unknown`, is one of 0 with a minor version before
/// [`OLDEST`]. Packagers may give none, which reads as 0.0.
fn is_too_old(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split(['.', '+', '-']).map(str::parse);
    let (major, minor) = (numbers.next(), numbers.next());
    matches!((major, minor), (Some(Ok(0)), Some(Ok(minor))) if (1..OLDEST).contains(&minor))
}

/// True where `docker` is Docker's own program. A script, or what starts a snap, gives it an environment that
/// its plugin needs too.
fn is_own_program() -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut programs = env::split_paths(&path).map(|folder| folder.join("docker"));
    let program = programs.find(|path| path.is_file()).and_then(|path| path.canonicalize().ok());
    let Some(program) = program.filter(|path| path.ends_with("docker")) else { return false };
    let mut magic = [0; 4];
    let read = File::open(program).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"\x7fELF"
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
