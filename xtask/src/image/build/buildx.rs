//! Calls of docker, and one `docker buildx bake`: what it gets and how it went.

use std::ffi::OsString;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use xshell::{Shell, cmd};

use super::events::{Event, Reader};
use super::trace::Trace;
use crate::image::plan::bake_file::BakeFile;
use crate::image::request::definition::FOLDER;
use crate::image::request::{Request, Style};
use base::error::Interrupted;
use base::process;
use base::scratch::Scratch;

/// How long docker may take to describe itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a bake may wait for caches to be read, when all else is done.
const READ_PATIENCE: Duration = Duration::from_secs(60);

/// The docker client: every call of it is made here.
#[derive(Clone)]
pub struct Docker {
    sh: Shell,
    /// The buildx builder to use, where it is not buildx's own choice.
    builder: Option<String>,
    /// The program that docker calls for `docker buildx`, where that is called without docker.
    plugin: Option<String>,
}

impl Docker {
    /// Calls in the directory of `sh`, with the builder of that name.
    pub fn new(sh: &Shell, builder: Option<&str>) -> Self {
        Docker { sh: sh.clone(), builder: builder.map(str::to_owned), plugin: None }
    }

    /// The same client for many calls of buildx: without docker, each takes less than half the
    /// time. Where docker does not say where its plugin is, nothing changes.
    pub fn for_many(&self) -> Self {
        let format =
            "{{range .ClientInfo.Plugins}}{{if eq .Name \"buildx\"}}{{.Path}}{{end}}{{end}}";
        let info = process::output(&mut self.command(&["info", "--format", format]), PATIENCE);
        let path = info.ok().flatten().and_then(|info| String::from_utf8(info.stdout).ok());
        let path = path.map(|path| path.trim().to_owned());
        Docker { plugin: path.filter(|path| Path::new(path).is_file()), ..self.clone() }
    }

    /// `docker` with these arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        Command::from(cmd!(self.sh, "docker {args...}"))
    }

    /// `docker buildx` with these arguments, for the builder.
    pub fn buildx(&self, args: &[&str]) -> Command {
        let args = [self.builder_flag().as_slice(), args].concat();
        match &self.plugin {
            Some(plugin) => Command::from(cmd!(self.sh, "{plugin} {args...}")),
            None => self.command(&[&["buildx"], args.as_slice()].concat()),
        }
    }

    /// As [`Docker::buildx`]; only with `--debug` does `inspect` print a builder's features.
    pub fn debug_buildx(&self, args: &[&str]) -> Command {
        self.command(&[&["--debug", "buildx"], self.builder_flag().as_slice(), args].concat())
    }

    fn builder_flag(&self) -> Vec<&str> {
        self.builder.iter().flat_map(|name| ["--builder", name]).collect()
    }
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
    /// Its events; empty where buildx showed its own progress.
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

    /// Was a cache of `target` exported? `None` where buildx wrote no metadata.
    pub fn has_cache(&self, target: &str) -> Option<bool> {
        let is_known = !self.metadata.is_null();
        is_known.then(|| self.metadata[target]["cache.manifest"].is_string())
    }

    /// Fails for a build that failed, or that a signal stopped.
    pub fn check(&self) -> Result<()> {
        match self.end {
            End::Done => Ok(()),
            End::Failed(status) => match self.trace.error() {
                Some(error) => bail!("{error}"),
                None => bail!("`docker buildx bake` exited with status {status}."),
            },
            End::TimedOut => bail!(
                "the registry stopped answering while caches were read, and the builder still \
                 waits for it: try again later, or restart the builder."
            ),
            End::Stopped(signal) => Err(Interrupted(signal).into()),
        }
    }
}

/// Watches one bake.
pub trait Watcher {
    fn show(&mut self, event: &Event);

    /// Is called every few milliseconds.
    fn tick(&mut self);

    /// Is called once, after the last event.
    fn end(&mut self);

    /// Is the bake to go on? Else it is stopped.
    fn is_wanted(&self) -> bool {
        true
    }
}

/// Runs bakes for one request.
#[derive(Clone, Copy)]
pub struct Buildx<'a> {
    pub sh: &'a Shell,
    pub docker: &'a Docker,
    pub request: &'a Request,
    /// Makes the watcher of a bake.
    pub watch: &'a dyn Fn(&Request, &BakeFile) -> Box<dyn Watcher>,
}

impl Buildx<'_> {
    /// Runs one `docker buildx bake` of `file`, which it reads on standard input. At `deadline` it
    /// is stopped. A build that fails is no error here: see [`Baked::check`].
    pub fn bake(&self, file: &BakeFile, deadline: Option<Instant>) -> Result<Baked> {
        let started = Instant::now();
        let scratch = Scratch::new()?;
        let metadata = scratch.0.join("metadata.json");
        let mut docker = self.command(&metadata);
        // Older versions never remove the Dockerfile that `dockerfile-inline` becomes.
        docker.env("TMPDIR", &scratch.0);
        let mut child = docker.spawn().context("docker can't be started")?;
        if let Some(mut stdin) = child.stdin.take() {
            // A bake that ends before it has read everything says why by itself.
            let _ = stdin.write_all(file.json.to_string().as_bytes());
        }
        let mut trace = Trace::new(file.targets.clone());
        let watcher = (self.watch)(self.request, file);
        let status = self.follow(&mut child, &mut trace, watcher, deadline)?;
        let end = match (process::caught(), status) {
            (Some(signal), _) => End::Stopped(signal),
            (None, None) => End::TimedOut,
            (None, Some(status)) if status.success() => End::Done,
            (None, Some(status)) => End::Failed(process::exit_code(status)),
        };
        // An engine that writes no metadata has built all the same.
        let metadata = self.sh.read_file(&metadata).unwrap_or_default();
        let metadata = serde_json::from_str(&metadata).unwrap_or_default();
        Ok(Baked { end, trace, metadata, seconds: started.elapsed().as_secs_f64() })
    }

    /// A bake in the image's folder, of a definition on standard input.
    fn command(&self, metadata: &Path) -> Command {
        let (progress, errors) = match &self.request.progress {
            Style::Buildx(name) => (name.as_str(), Stdio::inherit()),
            Style::Auto | Style::Plain => ("rawjson", Stdio::piped()),
        };
        let mut docker = self.docker.buildx(&["bake", "--file", "-", "--progress", progress]);
        docker
            .args([OsString::from("--metadata-file"), metadata.into()])
            .args(&self.request.bake_args)
            .current_dir(self.sh.current_dir().join(FOLDER))
            // The definition is made here and not by a stranger: it may name the CA bundle and
            // the prebuilt packages, which lie outside the folder. Older versions have no
            // `--allow`.
            .env("BUILDX_BAKE_ENTITLEMENTS_FS", "0")
            // An attestation contains the time of the build, so the same image would get another
            // digest every time. `-- --provenance=true` adds it where it is wanted.
            .env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1")
            // Newer versions would ask for one all the same, to put it into the metadata.
            .env("BUILDX_METADATA_PROVENANCE", "disabled")
            .stdin(Stdio::piped())
            .stderr(errors);
        // For a provenance, buildx asks git seven things for each target.
        if self.request.bake_args.is_empty() {
            docker.env("BUILDX_GIT_INFO", "0");
        }
        docker
    }

    /// How long a bake may wait for caches: no longer to read them than to write them.
    pub fn read_patience(&self) -> Duration {
        READ_PATIENCE.min(self.request.cache_timeout)
    }

    /// Shows and collects the events of a bake until it ends, until `deadline`, or until it has
    /// waited too long for nothing but caches: `BuildKit` itself waits forever.
    fn follow(
        &self,
        child: &mut Child,
        trace: &mut Trace,
        mut watcher: Box<dyn Watcher>,
        deadline: Option<Instant>,
    ) -> Result<Option<ExitStatus>> {
        // Where buildx shows its own progress, there is no pipe.
        let pipe = child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>);
        let mut reader = Reader::default();
        let mut waiting_since = None;
        let status = process::follow(child, pipe.unwrap_or(Box::new(io::empty())), |bytes| {
            for event in reader.read(bytes) {
                trace.add(&event);
                watcher.show(&event);
            }
            watcher.tick();
            let now = Instant::now();
            let is_waiting = !trace.awaited().is_empty();
            waiting_since = is_waiting.then(|| waiting_since.unwrap_or(now));
            let is_stuck = waiting_since.is_some_and(|since| now - since > self.read_patience());
            !is_stuck && watcher.is_wanted() && deadline.is_none_or(|deadline| now <= deadline)
        })?;
        for event in reader.end() {
            trace.add(&event);
            watcher.show(&event);
        }
        watcher.end();
        Ok(status)
    }
}
