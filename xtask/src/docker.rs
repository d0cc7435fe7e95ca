//! Every call of docker. Registries are asked by `docker buildx imagetools`, with the user's logins.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{self, Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use base::digest::sha256;
use base::scratch::Scratch;
use base::{message, process};
use serde_json::Value;

use crate::progress::Watch;
use outcome::cause::{self, Cause};
use outcome::events;
use outcome::trace::Trace;
use outcome::vertex::Phase;
use request::bases::repository;
use request::cli::{Args, in_engine, without_repeats};
use request::definition::{FOLDER, strings};
use request::facts::{Base, Builder};
use request::plan::INPUTS_LABEL;

/// How long docker may take to describe itself or a builder: buildx itself waits 20 s for a node.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long a request to a registry may take that the build can do without.
pub const SHORT_PATIENCE: Duration = Duration::from_secs(10);
/// How long one may take that it can't.
pub const PUSH_PATIENCE: Duration = Duration::from_secs(120);
/// How many requests are made at once.
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
}

/// A bake that has ended.
pub struct Baked {
    pub end: End,
    pub trace: Trace,
    /// What buildx wrote of each target; `null` for a bake that was not done.
    pub metadata: Value,
}

/// The layers of an image or of a cache, by digest, with their compressed sizes in bytes.
pub type Layers = BTreeMap<String, u64>;

impl Docker {
    /// Calls in `root`, for the builder of that name.
    pub fn new(root: &Path, builder: Option<&str>) -> Self {
        Docker { root: root.to_owned(), builder: builder.map(str::to_owned), plugin: None }
    }

    /// The same client for many calls of buildx, where possible without docker: in less than half the time.
    pub fn for_many(&self) -> Self {
        // A script, or what starts a snap, gives docker an environment that its plugin needs too.
        let path = env::var_os("PATH").unwrap_or_default();
        let mut programs = env::split_paths(&path).map(|folder| folder.join("docker"));
        let program = programs.find(|path| path.is_file()).and_then(|p| p.canonicalize().ok());
        let mut magic = [0; 4];
        let own = program.filter(|path| path.ends_with("docker"));
        let read = own.and_then(|path| File::open(path).ok()?.read_exact(&mut magic).ok());
        if read.is_none() || magic != *b"\x7fELF" {
            return self.clone();
        }
        let format =
            "{{range .ClientInfo.Plugins}}{{if eq .Name \"buildx\"}}{{.Path}}{{end}}{{end}}";
        let path = self.output_of(&["info", "--format", format]).trim().to_owned();
        Docker { plugin: Some(path).filter(|path| Path::new(path).is_file()), ..self.clone() }
    }

    /// A call of `program` in `root`, which finds docker's folders where the caller stands.
    fn program(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        for name in ["DOCKER_CONFIG", "DOCKER_CERT_PATH", "BUILDX_CONFIG"] {
            let folder = env::var_os(name).and_then(|folder| path::absolute(folder).ok());
            command.envs(folder.map(|folder| (name, folder)));
        }
        command.args(args).current_dir(&self.root);
        command
    }

    /// `docker` with these arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        self.program("docker", args)
    }

    /// `docker buildx` with these arguments, for the builder.
    pub fn buildx(&self, args: &[&str]) -> Command {
        let mut buildx = match &self.plugin {
            Some(plugin) => self.program(plugin, &[]),
            None => self.command(&["buildx"]),
        };
        buildx.args(self.builder.iter().flat_map(|name| ["--builder", name])).args(args);
        buildx
    }

    /// What docker writes to standard output with `args`; nothing if it fails, or takes too long.
    pub fn output_of(&self, args: &[&str]) -> String {
        call(&mut self.command(args), PATIENCE).unwrap_or_default()
    }

    /// Runs one `docker buildx bake` of `bake`, shown by `watch`, up to `until`, or until it waits for nothing but
    /// caches: `BuildKit` does so forever. Errors: a signal, or no docker to run; not a build that fails.
    pub fn bake(&self, bake: &Value, watch: &mut Watch, until: Option<Instant>) -> Result<Baked> {
        let args = watch.ctx.args;
        let scratch = Scratch::within(&self.root.join("target/image/tmp"))?;
        let metadata = scratch.0.join("metadata.json");
        let mut docker = self.buildx(&["bake", "--file", "-", "--progress", "rawjson"]);
        docker
            .arg("--metadata-file")
            .arg(&metadata)
            .args(&args.bake_args)
            .current_dir(self.root.join(FOLDER))
            .envs(&watch.ctx.facts.host.variables)
            // The definition may name files outside the folder. Older versions have no `--allow`.
            .env("BUILDX_BAKE_ENTITLEMENTS_FS", "0")
            // An attestation contains the time, so the same image would get another digest every time.
            .env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1")
            // Newer versions would ask for one all the same, to put it into the metadata.
            .env("BUILDX_METADATA_PROVENANCE", "disabled")
            // For a provenance, buildx asks git seven things.
            .envs(args.bake_args.is_empty().then_some(("BUILDX_GIT_INFO", "0")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
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
        let mut show = |bytes: &[u8], is_last: bool| {
            for value in events::read(&mut rest, bytes, is_last) {
                trace.add(&value).iter().for_each(|event| watch.show(event, &trace));
            }
            watch.tick(&trace);
            let now = Instant::now();
            let is_waiting = !trace.awaited().is_empty();
            waiting_since = is_waiting.then(|| waiting_since.unwrap_or(now));
            let is_stuck = waiting_since.is_some_and(|since| now - since > patience);
            let is_over = watch.is_ahead && watch.ctx.run().stopped.is_some();
            !is_stuck && !is_over && until.is_none_or(|until| now <= until)
        };
        let status = process::follow(&mut child, pipe, |bytes| show(bytes, false))?;
        show(&[], true);
        watch.end();
        // A signal, or an error of something else, may come when everything was pushed. Docker's old image
        // store pushes after the export.
        let builder = watch.ctx.facts.builder.as_ref();
        let pushes_within = builder.is_some_and(|b| b.driver != "docker" || b.exports_cache);
        let exported = trace.exports(Phase::ImageExport).filter(|run| run.is_done()).count();
        let is_pushed =
            args.push && pushes_within && trace.failure().is_none() && exported == targets.len();
        let is_done = status.is_some_and(|status| status.success() || is_pushed);
        if !is_done {
            process::check_signals()?;
        }
        let end = match status {
            _ if is_done => End::Done,
            Some(status) => End::Failed(process::exit_code(status)),
            None => End::TimedOut,
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
        Ok(Baked { end, trace, metadata })
    }

    /// What the builder can do, which is started for that. Errors: what is missing, and what to do.
    pub fn inspect(&self) -> Result<Builder> {
        let mut text = self.ask(&[], PATIENCE, "the builder")?;
        let name = field(&text, "Name").unwrap_or_default().to_owned();
        let driver = field(&text, "Driver").unwrap_or_default().to_owned();
        let shown = |node: &str| {
            let own = node.lines().next().unwrap_or_default().trim_start_matches("Name:").trim();
            let at = field(node, "Endpoint").map(|at| format!(" at {at}")).unwrap_or_default();
            format!("the node {own:?}{at} of the builder {name:?}")
        };
        // A builder in a container or a cluster has no features to print until it runs, which takes a pull.
        let is_down = |node: &&str| field(node, "Status").is_some_and(|status| status != "running");
        if let Some(node) = text.split("\nName:").find(is_down).map(shown) {
            text = self.ask(&["--bootstrap"], Duration::from_secs(300), &node)?;
        }
        let failed = text.split("\nName:").find_map(|node| Some((node, field(node, "Error")?)));
        if let Some((node, error)) = failed {
            return Err(unusable(&shown(node), error));
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
        Ok(Builder { name, driver, exports_cache, runs })
    }

    /// What buildx prints of the builder; its features only with `--debug`. Errors: `what` can't be used.
    fn ask(&self, flags: &[&str], patience: Duration, what: &str) -> Result<String> {
        let name = Vec::from_iter(self.builder.as_deref());
        let args = [&["--debug", "buildx", "inspect"], flags, &name].concat();
        call(&mut self.command(&args), patience).or_else(|error| {
            self.version()?;
            Err(unusable(what, &error.to_string()))
        })
    }

    /// The folder of the engine's data, its free GB, and used percent; `None` for one on another machine.
    pub fn disk(&self) -> Option<(String, f64, u64)> {
        let info = self.output_of(&["info", "--format", "{{.Name}} {{.DockerRootDir}}"]);
        let (name, folder) = info.trim().split_once(' ')?;
        let own = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
        if name != own.trim() || !Path::new(folder).is_dir() {
            return None;
        }
        let table = call(Command::new("df").args(["-P", "-k", folder]), SHORT_PATIENCE).ok()?;
        let columns = table.lines().last()?.split_whitespace().collect::<Vec<_>>();
        let free = columns.get(3)?.parse::<f64>().ok()? * 1024.0 / 1e9;
        Some((folder.to_owned(), free, columns.get(4)?.trim_end_matches('%').parse().ok()?))
    }

    /// Prunes the build cache to `keep` GB.
    pub fn prune(&self, keep: u64) {
        let limit = format!("--keep-storage={keep}gb");
        let mut prune = self.buildx(&["prune", "--all", "--force", &limit]);
        // It may hang; the batch goes on without it.
        if let Err(error) = call(&mut prune, Duration::from_secs(300)) {
            message::warn(&format!("the build cache could not be pruned: {error}"));
        }
    }

    /// Whether the builder has no build cache; `None` where buildx does not say.
    pub fn is_empty(&self) -> Option<bool> {
        Some(field(&call(&mut self.buildx(&["du"]), PATIENCE).ok()?, "Total")? == "0B")
    }

    /// The version of buildx. Errors: there is none, or it is too old; and what to do.
    pub fn version(&self) -> Result<String> {
        let output = output(&mut self.command(&["buildx", "version"]), PATIENCE)?;
        let late = format!("no answer within {} s", PATIENCE.as_secs());
        let output = output.ok_or_else(|| unusable("docker", &late))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let (first, engine) = (text.trim().lines().next().unwrap_or("it fails"), in_engine(""));
        // Podman answers to the name `docker`, and Docker Desktop's stub where it is not switched on.
        let is_foreign = ["podman", "buildah", "nerdctl"].iter().any(|name| text.contains(name));
        let what =
            if is_foreign { "`docker` is not Docker's" } else { "`docker buildx` can't be used" };
        ensure!(
            output.status.success() && !is_foreign,
            "{what}: {first}\nhint: install Docker's client with buildx (Debian's \
             docker-buildx); on WSL, turn on Docker Desktop's integration; or run {engine}"
        );
        // Such as `github.com/docker/buildx v0.13.1 788433953af1`; Ubuntu's has no `v`.
        let version = first.split(' ').nth(1).unwrap_or(first);
        let hint = format!("install buildx 0.{OLDEST} or newer");
        ensure!(!is_too_old(version), "buildx {version} is too old\nhint: {hint}");
        Ok(version.to_owned())
    }

    /// Pushes a list of the images `sources` under `tags`. Errors: the registry refuses.
    pub fn create(&self, tags: &[String], sources: &[String]) -> Result<()> {
        let mut args = vec!["create"];
        args.extend(tags.iter().flat_map(|tag| ["--tag", tag]));
        args.extend(sources.iter().map(String::as_str));
        self.imagetools(&args).map(drop)
    }

    /// Pulls `image`, unless the engine has it. Errors: the registry refuses.
    pub fn pull(&self, image: &str) -> Result<()> {
        if self.output_of(&["image", "inspect", "--format", "{{.Id}}", image]).is_empty() {
            message::say(&format!("pulling {image}"));
            let pull = self.command(&["pull", "--quiet", image]);
            request(pull, Duration::from_secs(1800), Cause::hint)
                .with_context(|| format!("cannot pull {image}"))?;
        }
        Ok(())
    }

    /// What `docker buildx imagetools` prints, of images that were pushed. Errors: the registry refuses.
    pub fn imagetools(&self, args: &[&str]) -> Result<String> {
        let imagetools = self.buildx(&[&["imagetools"], args].concat());
        request(imagetools, PUSH_PATIENCE, |cause| match cause {
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
        let references = references.iter().collect::<Vec<_>>();
        let share = references.len().div_ceil(AT_ONCE).max(1);
        let ask = move |name: &&String| Some(((*name).clone(), ask(self, name)?));
        thread::scope(|scope| {
            let ask_all = move |names: &[&String]| names.iter().filter_map(ask).collect::<Vec<_>>();
            let shares = references.chunks(share).map(|names| scope.spawn(move || ask_all(names)));
            shares
                .collect::<Vec<_>>()
                .into_iter()
                .flat_map(|share| share.join().unwrap_or_default())
                .collect()
        })
    }

    /// The layers of `reference`, where that can be read, and whether it is a build cache.
    pub fn layers(&self, reference: &str) -> Option<(Layers, bool)> {
        let manifest = self.manifest_json(reference)?;
        let is_cache = manifest["config"]["mediaType"] == "application/vnd.buildkit.cacheconfig.v0";
        let mut images = vec![manifest.clone()];
        for image in manifest["manifests"].as_array().into_iter().flatten() {
            let digest = image["digest"].as_str()?;
            images.push(self.manifest_json(&format!("{}@{digest}", repository(reference)))?);
        }
        let mut layers = Layers::new();
        for layer in images.iter().filter_map(|image| image["layers"].as_array()).flatten() {
            layers.insert(layer["digest"].as_str()?.to_owned(), layer["size"].as_u64()?);
        }
        Some((layers, is_cache))
    }

    /// The base images: for a push rather from registries, alike for all machines; for a load from the engine.
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
                    let mut manifest: Value = serde_json::from_str(&manifest).ok()?;
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

    /// The label with the digest of what went into `reference`, empty for none; `None` where it can't be read.
    pub fn inputs(&self, reference: &str) -> Option<String> {
        let image = self.configuration(reference)?;
        Some(image["config"]["Labels"][INPUTS_LABEL].as_str().unwrap_or_default().to_owned())
    }

    /// The configuration of an image, or of a list that of its first image.
    fn configuration(&self, reference: &str) -> Option<Value> {
        let args = ["imagetools", "inspect", "--format", "{{json .Image}}", reference];
        let text = call(&mut self.buildx(&args), SHORT_PATIENCE).ok()?;
        let image: Value = serde_json::from_str(&text).ok()?;
        let by_platform = image.as_object()?.values().find(|image| image["config"].is_object());
        by_platform.cloned().or(Some(image))
    }

    /// The manifest that a registry has under `reference`. Errors: the registry does not say, in two tries.
    pub fn manifest(&self, reference: &str) -> Result<Option<String>> {
        let cause = |error: &anyhow::Error| Cause::of(&error.to_string());
        let ask = || self.raw_manifest(reference, SHORT_PATIENCE);
        let again = |error| if cause(&error) == Cause::Transient { ask() } else { Err(error) };
        match ask().or_else(again) {
            Err(e) if matches!(cause(&e), Cause::NotFound | Cause::NoRepository) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Asks for a manifest once. Errors: as [`call`].
    pub fn raw_manifest(&self, reference: &str, limit: Duration) -> Result<String> {
        call(&mut self.buildx(&["imagetools", "inspect", "--raw", reference]), limit)
    }

    fn manifest_json(&self, reference: &str) -> Option<Value> {
        serde_json::from_str(&self.manifest(reference).ok()??).ok()
    }
}

/// How long a bake may wait for nothing but caches: no longer to read them than to write them.
pub fn read_patience(args: &Args) -> Duration {
    Duration::from_secs(60).min(args.cache_timeout)
}

/// The digest of a manifest.
pub fn digest(manifest: &str) -> String {
    format!("sha256:{}", sha256(manifest))
}

/// What the call `docker` of a registry prints, in some tries. Errors: what went wrong, and a `hint`.
pub fn request(
    mut docker: Command,
    patience: Duration,
    hint: impl Fn(Cause) -> Option<&'static str>,
) -> Result<String> {
    // What is pulled is started on the engine's own platform.
    docker.env_remove("DOCKER_DEFAULT_PLATFORM");
    let mut tries = 0;
    loop {
        let error = match call(&mut docker, patience) {
            Ok(text) => return Ok(text),
            Err(error) => error.to_string(),
        };
        process::check_signals()?;
        let cause = Cause::of(&error);
        let most = match cause {
            // It may have been pushed a moment ago.
            Cause::NotFound => 3,
            Cause::NoEngine => 2,
            _ => cause.retries(),
        };
        let Some(&pause) = PAUSES.get(tries).filter(|_| tries < most) else {
            let hint = hint(cause).map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            bail!("{error}{hint}")
        };
        tries += 1;
        message::warn(&format!("{error}; retrying in {pause} s"));
        sleep(Duration::from_secs(pause))?;
    }
}

/// What the call `docker` prints. Errors: no answer within `patience`, a signal, or what docker says.
pub fn call(docker: &mut Command, patience: Duration) -> Result<String> {
    let output = output(docker, patience)?;
    let output = output.with_context(|| format!("no answer within {} s", patience.as_secs()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    // Behind its error, docker may name a page on the build.
    let error = stderr.lines().rev().find_map(|line| line.strip_prefix("ERROR: "));
    let last = || stderr.lines().rfind(|line| !line.trim().is_empty());
    let ended = || format!("docker ended with {}", output.status);
    Err(anyhow!(error.or_else(last).map_or_else(ended, str::to_owned)))
}

/// What the call `docker` ends with; `None` for no answer within `patience`. Errors: no docker; a signal.
pub fn output(docker: &mut Command, patience: Duration) -> Result<Option<Output>> {
    let output = process::output(docker, patience);
    output.map_err(|error| error.downcast_ref().map(not_started).unwrap_or(error))
}

/// The error of a part of docker, and what to do.
pub fn unusable(what: &str, error: &str) -> anyhow::Error {
    let start = format!(
        "start or restart Docker, or the builder's machine (see `docker buildx ls`), or run {}",
        in_engine("")
    );
    let hint = cause::engine_hint(error).unwrap_or(&start);
    anyhow!("{what} can't be used: {}\nhint: {hint}", error.trim_end_matches('.'))
}

/// The error of a docker that can't be started, and what to do.
pub fn not_started(error: &io::Error) -> anyhow::Error {
    let what = match error.kind() {
        io::ErrorKind::NotFound => "docker is not installed".to_owned(),
        _ => format!("docker can't be run: {error}"),
    };
    anyhow!("{what}\nhint: install Docker with buildx, or run {}", in_engine(""))
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

/// True for a `version` such as `v0.12.1` or `v0.8+unknown`. Packagers may give none, which reads as 0.0.
fn is_too_old(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split(['.', '+', '-']).map(str::parse);
    let (major, minor) = (numbers.next(), numbers.next());
    matches!((major, minor), (Some(Ok(0)), Some(Ok(minor))) if (1..OLDEST).contains(&minor))
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
