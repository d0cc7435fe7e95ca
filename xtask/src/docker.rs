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
use request::bases::{is_digest, repository};
use request::cli::{Args, in_engine, quoted, without_repeats};
use request::definition::{FOLDER, strings};
use request::facts::{Base, Builder};
use request::host::Host;
use request::plan::INPUTS_LABEL;

/// How long docker may take to describe itself or a builder: buildx itself waits 20 s for a node.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A builder in a container or a cluster pulls its image first.
const START_PATIENCE: Duration = Duration::from_secs(300);
/// How long a request to a registry may take.
const REGISTRY_PATIENCE: Duration = Duration::from_secs(120);
/// How long an image may take to be pulled.
const PULL_PATIENCE: Duration = Duration::from_secs(1800);
/// How long a request may take that the build can do without.
pub const SHORT_PATIENCE: Duration = Duration::from_secs(10);
/// How many of these are made at once.
pub const AT_ONCE: usize = 8;
/// Seconds before a request that failed for a transient reason is made again.
const PAUSES: [u64; 5] = [1, 2, 5, 10, 20];
/// The oldest minor version of `BuildKit` 0 that reads the Dockerfile.
const OLDEST_BUILDKIT: u32 = 13;
/// The oldest minor version of buildx 0 that writes its events as JSON.
const OLDEST_BUILDX: u32 = 13;
/// What to do about images that a registry does not have, though they were pushed.
const NOT_SHOWN: &str = "the registry does not show it yet, or it was deleted";
/// What to do about registries that buildx itself does not trust.
const BY_BUILDX: &str = "buildx asks from this machine: name the file of the registry's CA by SSL_CERT_FILE, or \
     create a builder in a container whose buildkitd.toml names the registry";
/// The media type of a build cache's configuration.
const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";

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
        printed(self.command(args), PATIENCE).ok().flatten().unwrap_or_default()
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
        let mut outputs =
            bake["target"].as_object().into_iter().flatten().map(|(_, t)| &t["output"][0]);
        let is_push = outputs.all(|o| o.as_str().is_some_and(|o| o.starts_with("type=image,push")));
        let is_pushed = is_push && trace.images_exported() == targets.len();
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
            && let Err(error) = self.check_version()
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
        let all = "`docker buildx ls` lists the builders";
        let mut text = self.ask(&["inspect"], PATIENCE, "the builder", all)?;
        let name = field(&text, "Name").unwrap_or_default().to_owned();
        let driver = field(&text, "Driver").unwrap_or_default().to_owned();
        // buildx does not name the driver of an engine that does not answer.
        let hint = if driver.is_empty() || driver == "docker" {
            format!("start Docker, or run {}", in_engine(""))
        } else {
            format!("see `docker buildx inspect {}`, and start that machine", quoted(&name))
        };
        // A builder in a container or a cluster has no features to print until it runs.
        if let Some((node, _)) = node(&text, "Status", |status| status != "running") {
            let what = format!("{node} of the builder {name:?}");
            text = self.ask(&["inspect", "--bootstrap"], START_PATIENCE, &what, &hint)?;
        }
        if let Some((node, error)) = node(&text, "Error", |_| true) {
            let hint = cause::engine_hint(error).unwrap_or(&hint);
            bail!("{node} of the builder {name:?} does not answer: {error}\nhint: {hint}");
        }
        // Older versions of buildx use the other name.
        for version in fields(&text, "BuildKit version").chain(fields(&text, "Buildkit")) {
            ensure!(
                !is_older(version, OLDEST_BUILDKIT),
                "the builder {name:?} has BuildKit {version}, which is too old\nhint: update to Docker 26 or \
                 BuildKit 0.{OLDEST_BUILDKIT}, or run {}",
                in_engine("")
            );
        }
        // Each node has a list of its own.
        let platforms = fields(&text, "Platforms").flat_map(|list| list.split(", "));
        let platforms = platforms.map(|name| name.trim_end_matches('*').to_owned());
        // A buildx that does not print it is taken at its best: bake itself would still complain.
        let exports_cache = field(&text, "Cache export").is_none_or(|can| can == "true");
        let runs = without_repeats(platforms.collect());
        Ok(Builder { name, driver, exports_cache, runs, was_empty: None })
    }

    /// Whether the builder has no build cache; `None` where buildx does not say.
    pub fn is_empty(&self) -> Option<bool> {
        let usage = process::output(&mut self.buildx(&["du"]), PATIENCE).ok().flatten()?;
        Some(field(&String::from_utf8_lossy(&usage.stdout), "Total")? == "0B")
    }

    /// What `docker buildx` prints. Only with `--debug` does `inspect` print a builder's features.
    /// Errors: `what` can't be used, and the hint.
    fn ask(&self, args: &[&str], patience: Duration, what: &str, hint: &str) -> Result<String> {
        let mut docker = self.command(&["--debug", "buildx"]);
        docker.args(self.builder.iter().flat_map(|name| ["--builder", name])).args(args);
        let output = answer(&mut docker, patience)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        self.check_version()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let error = said(&stderr);
        let hint = cause::engine_hint(error).unwrap_or(hint);
        bail!("{what} can't be used: {error}\nhint: {hint}")
    }

    /// What buildx says of its version.
    /// Errors: there is no buildx, or `docker` is another program; and what to do.
    pub fn version(&self) -> Result<String> {
        let output = answer(&mut self.command(&["buildx", "version"]), PATIENCE)?;
        let stdout = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let all = format!("{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
        let (first, engine) = (all.trim().lines().next().unwrap_or_default(), in_engine(""));
        ensure!(
            !["podman", "buildah", "nerdctl"].iter().any(|name| all.contains(name)),
            "this `docker` is not Docker's and has no `buildx bake` ({first})\nhint: install Docker's client \
             and buildx, or run {engine}"
        );
        ensure!(
            !all.contains(" WSL "),
            "{first}\nhint: turn on the WSL integration for this distribution in Docker Desktop's settings"
        );
        ensure!(
            output.status.success(),
            "docker has no buildx plugin\nhint: install docker-buildx-plugin (Debian's docker-buildx), or run {engine}"
        );
        Ok(stdout)
    }

    /// The version of buildx.
    /// Errors: it is too old, or as [`Docker::version`].
    pub fn check_version(&self) -> Result<String> {
        let text = self.version()?;
        // Such as `github.com/docker/buildx v0.13.1 788433953af1`; Ubuntu's has no `v`.
        let version = text.split(' ').nth(1).unwrap_or(&text);
        ensure!(
            !is_older(version, OLDEST_BUILDX),
            "buildx {version} is too old\nhint: install buildx 0.{OLDEST_BUILDX} or newer"
        );
        Ok(version.to_owned())
    }

    /// Makes one list of the images `sources` (references by digest) and pushes it under `tags`.
    /// Errors: the registry refuses, or does not recover in time.
    pub fn create(&self, tags: &[String], sources: &[String]) -> Result<()> {
        let mut args = vec!["imagetools", "create"];
        args.extend(tags.iter().flat_map(|tag| ["--tag", tag]));
        args.extend(sources.iter().map(String::as_str));
        self.request(&args).map(drop)
    }

    /// Pushes an image of a few bytes to `repository`: a new one, for what a registry has is not pushed.
    /// Errors: as [`Docker::create`].
    pub fn probe(&self, repository: &str) -> Result<()> {
        let context = Scratch::within(&self.root.join("target/image/tmp"))?;
        fs::write(context.0.join("Dockerfile"), "FROM scratch\nWORKDIR /probe\n")?;
        let context = context.0.to_string_lossy();
        let label = format!("dev.openhands.probe={}", random(16)?);
        let tag = format!("{repository}:probe");
        let how =
            ["build", "--provenance=false", "--label", &label, "--tag", &tag, "--push", &context];
        self.request(&how).map(drop)
    }

    /// Pulls `image`, unless the engine has it.
    /// Errors: as [`Docker::create`].
    pub fn pull(&self, image: &str) -> Result<()> {
        if self.output_of(&["image", "inspect", "--format", "{{.Id}}", image]).is_empty() {
            message::say(&format!("pulling {image}"));
            let pulled = self.request(&["pull", "--quiet", image]);
            pulled.with_context(|| format!("cannot pull {image}"))?;
        }
        Ok(())
    }

    /// The platforms of the images in the list `reference`, attestations aside.
    /// Errors: as [`Docker::create`], or where `reference` is not a list.
    pub fn platforms(&self, reference: &str) -> Result<Vec<String>> {
        let raw = self.request(&["imagetools", "inspect", "--raw", reference])?;
        let index: Value = serde_json::from_str(&raw)
            .with_context(|| format!("the registry's manifest of {reference} is not JSON"))?;
        let list = index["manifests"].as_array();
        let list = list.with_context(|| format!("{reference} is not a list of images"))?;
        let mut platforms = Vec::new();
        for entry in list {
            let text = |key| entry["platform"][key].as_str().unwrap_or_default();
            // As buildx writes it: every arm64 is v8, and most others have no variant.
            let platform = ["os", "architecture", "variant"].map(text).join("/");
            let platform = platform.trim_matches('/');
            let plain = platform.strip_suffix("/v8").filter(|plain| plain.ends_with("/arm64"));
            platforms.push(plain.unwrap_or(platform).to_owned());
        }
        platforms.retain(|platform| platform != "unknown/unknown");
        Ok(platforms)
    }

    /// What `docker buildx`, or for `pull` docker itself, prints with `args`, after as many tries as it takes.
    fn request(&self, args: &[&str]) -> Result<String> {
        let is_pull = args.first() == Some(&"pull");
        let mut tries = 0;
        loop {
            let (mut docker, patience) = if is_pull {
                (self.command(args), PULL_PATIENCE)
            } else {
                (self.buildx(args), REGISTRY_PATIENCE)
            };
            // What is pulled is started on the engine's own platform.
            let output = output(docker.env_remove("DOCKER_DEFAULT_PLATFORM"), patience)?;
            let output = output.with_context(|| {
                format!("the registry has not answered for {} s", patience.as_secs())
            })?;
            if output.status.success() {
                return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
            }
            if !is_pull {
                self.version()?;
            }
            let stderr = String::from_utf8_lossy(&output.stderr);
            let error = said(&stderr);
            let cause = Cause::of(error);
            // buildx asks itself, not the engine, and for what was pushed a moment ago.
            let is_imagetools = args.first() == Some(&"imagetools");
            let was_pushed = is_imagetools || args.iter().any(|arg| arg.contains("@sha256:"));
            let most = match cause {
                Cause::NotFound if was_pushed => 3,
                // An engine may restart.
                Cause::NotFound | Cause::NoEngine => 2,
                Cause::Limited => 1,
                _ if cause.retries() > 0 => PAUSES.len(),
                _ => 0,
            };
            let Some(&pause) = PAUSES[..most].get(tries) else {
                let hint = match cause {
                    Cause::NotFound if was_pushed => Some(NOT_SHOWN),
                    Cause::PlainHttp | Cause::Certificate if is_imagetools => Some(BY_BUILDX),
                    _ => cause.hint(),
                };
                let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
                let who = if cause == Cause::NoEngine { "docker" } else { "the registry" };
                bail!("{who} refused: {error}{hint}")
            };
            tries += 1;
            message::warn(&format!("{error}; retrying in {pause} s"));
            sleep(Duration::from_secs(pause))?;
        }
    }

    /// Asks for all `references`, some at once; returns by reference what there is.
    pub fn each<T: Send>(
        &self,
        references: &BTreeSet<String>,
        ask: impl Fn(&Docker, &str) -> Option<T> + Copy + Send,
    ) -> BTreeMap<String, T> {
        let references = references.iter().collect::<Vec<_>>();
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
        let is_cache = manifest["config"]["mediaType"] == CACHE_CONFIG;
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
                let format = "{{range .RepoDigests}}{{.}} {{end}}@{{.Id}} {{json .Config.OnBuild}}";
                let text = docker.output_of(&["image", "inspect", "--format", format, reference]);
                let digest = text.split(['@', ' ', '\n']).find(|word| is_digest(word))?;
                let has_triggers = text.trim().ends_with(']') && !text.trim().ends_with("[]");
                Some(Base { digest: digest.to_owned(), system: None, has_triggers })
            };
            let in_registry = || {
                let manifest = docker.manifest(reference)?;
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

    /// A manifest as the registry has it, if it answers within two tries.
    pub fn manifest(&self, reference: &str) -> Option<Vec<u8>> {
        for _ in 0..2 {
            let output = self.inspect_raw(reference, SHORT_PATIENCE).ok()??;
            if output.status.success() {
                return Some(output.stdout);
            }
            let error = String::from_utf8_lossy(&output.stderr);
            let mut lines = error.lines().filter(|line| !line.trim().is_empty());
            if lines.any(|line| Cause::of(line) != Cause::Transient) {
                break;
            }
        }
        None
    }

    /// Why the registry does not say whether it has `reference`; `None` where it says so.
    pub fn silence(&self, reference: &str) -> Option<String> {
        let Ok(Some(output)) = self.inspect_raw(reference, SHORT_PATIENCE) else {
            return Some(format!("no answer within {} s", SHORT_PATIENCE.as_secs()));
        };
        let stderr = String::from_utf8_lossy(&output.stderr);
        let is_clear = output.status.success()
            || matches!(Cause::of(said(&stderr)), Cause::NotFound | Cause::NoRepository);
        (!is_clear).then(|| said(&stderr).to_owned())
    }

    fn manifest_json(&self, reference: &str) -> Option<Value> {
        serde_json::from_slice(&self.manifest(reference)?).ok()
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

/// The value of the first line `name: value` in buildx's text.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    fields(text, name).next()
}

/// The values of all such lines.
fn fields<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let values = text.lines().filter_map(move |l| l.trim().strip_prefix(name)?.strip_prefix(':'));
    values.map(str::trim).filter(|value| !value.is_empty())
}

/// The error in what docker wrote, behind which it may name a page on the build; else the last line.
fn said(stderr: &str) -> &str {
    let error = stderr.lines().rev().find_map(|line| line.strip_prefix("ERROR: "));
    error.or_else(|| stderr.lines().rfind(|line| !line.trim().is_empty())).unwrap_or_default()
}

/// The first line `key: value` of a node in buildx's text whose value `is_wanted`: that node with its
/// address, and the value.
fn node<'a>(
    text: &'a str,
    key: &str,
    is_wanted: impl Fn(&str) -> bool,
) -> Option<(String, &'a str)> {
    let (mut name, mut endpoint) = ("", "");
    for (found, value) in text.lines().filter_map(|line| line.trim().split_once(':')) {
        match (found, value.trim()) {
            ("Name", value) => (name, endpoint) = (value, ""),
            ("Endpoint", value) => endpoint = value,
            (_, value) if found == key && !value.is_empty() && is_wanted(value) => {
                let at = if endpoint.is_empty() { "" } else { " at " };
                return Some((format!("the node {name:?}{at}{endpoint}"), value));
            }
            _ => {}
        }
    }
    None
}

/// True where `version`, such as `v0.12.1` or `v0.8+unknown`, is one of 0 with a minor version before
/// `oldest`. Packagers may give none, which reads as 0.0.
fn is_older(version: &str, oldest: u32) -> bool {
    let numbers = version.trim().trim_start_matches('v').split(['.', '+', '-']);
    let mut numbers = numbers.map(str::parse::<u32>);
    let (major, minor) = (numbers.next(), numbers.next());
    matches!((major, minor), (Some(Ok(0)), Some(Ok(minor))) if (1..oldest).contains(&minor))
}

/// What a command prints; `None` where it fails or takes too long.
/// Errors: a signal, or a system that starts no command.
pub fn printed(mut command: Command, patience: Duration) -> Result<Option<String>> {
    let output = process::output(&mut command, patience)?;
    let output = output.filter(|output| output.status.success());
    Ok(output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// What the call `docker` ends with.
/// Errors: there is no docker, or no answer within `patience`; and what to do.
pub fn answer(docker: &mut Command, patience: Duration) -> Result<Output> {
    output(docker, patience)?.with_context(|| {
        let (seconds, engine) = (patience.as_secs(), in_engine(""));
        format!(
            "the engine has not answered for {seconds} s\nhint: restart Docker, or run {engine}"
        )
    })
}

/// The same, and `None` where there is no answer.
fn output(docker: &mut Command, patience: Duration) -> Result<Option<Output>> {
    process::output(docker, patience).map_err(|error| match error.downcast_ref::<io::Error>() {
        Some(error) => not_started(error),
        None => error,
    })
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
