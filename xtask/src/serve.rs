//! `cargo xtask image run` starts the image that it builds; `smoke` starts images that were pushed.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base::digest::random;
use base::error::usage;
use base::{http, message, output, process};

use crate::docker::{self, Docker, sleep};
use crate::{build, merge};
use outcome::record;
use outcome::text;
use request::cli::Args;
use request::definition::{Definition, has_server};

/// How long docker may take to start a server, and that to be healthy: 4 s with a warm page cache.
const PATIENCE: Duration = Duration::from_secs(120);
/// The end of a server's log, shown when it fails.
const LAST_LINES: [&str; 2] = ["--tail", "30"];

/// Builds and loads one image, starts it, prints address and key, and waits for a signal.
/// Errors: a wrong request, a port in use, a failed build, a server that does not start or exits.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let variants = Definition::read(root)?.chosen(&args.variant)?.len();
    let images = variants * args.base_images.len().max(1);
    if images != 1 {
        let hint = "name one --variant or --base-image";
        return Err(usage(format!(
            "`image run` needs exactly one image, got {images}\nhint: {hint}"
        )));
    }
    // No wrong request: it can be built.
    let hint = "`cargo xtask image list` shows which targets have one";
    let target = &args.target;
    ensure!(has_server(target), "the target {target:?} has no server to run\nhint: {hint}");
    TcpListener::bind((Ipv4Addr::LOCALHOST, args.port)).map_err(|error| {
        let port = args.port;
        let hint = "choose another port by --port; `docker ps` shows what a killed run left";
        usage(format!("cannot use port {port} ({error})\nhint: {hint}"))
    })?;
    let docker = Docker::new(root, args.builder.as_deref());
    let mut records = Vec::new();
    build::run(root, args, &mut records)?;
    let built = records.first().and_then(|record| Some((record, record.tags.first()?)));
    let (record, tag) = built.context("the image has no tag to start it by")?;
    // Of several that were asked for, the engine's own was built.
    let platform = record.platforms.first().filter(|_| !args.platforms.is_empty());
    let server = Container::start(docker, tag, args.port, platform.map(String::as_str))?;
    let Container { address, key, .. } = &server;
    output::write(format_args!(
        "address: http://{address}\nkey:     {key}\n\
         try:     curl -H 'X-Session-API-Key: {key}' http://{address}/api/conversations/count"
    ))?;
    let answers = if args.logs {
        server.logs(&["--follow", "--tail", "0"])?
    } else {
        let mut wait = server.docker.command(&["wait", &server.name]);
        // An engine that goes down by the same Ctrl-C ends it with an error.
        wait.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        process::wait(&mut wait.spawn()?)?.success()
    };
    if process::caught().is_some() {
        return Ok(());
    }
    ensure!(answers, "the engine does not answer any more");
    if !args.logs {
        server.logs(&LAST_LINES)?;
    }
    bail!("the server exited; see its log above")
}

/// Starts each pushed image of records by its digest until its server is healthy, and prints it.
/// Errors: the first server that does not become healthy; a usage error for files without an image.
pub fn smoke(root: &Path, args: &Args) -> Result<()> {
    let mut is_empty = true;
    for record in record::read(&args.words)? {
        let name = record.shown();
        let Some(image) = record.reference() else {
            message::say(&format!("{name} is not started: it was not pushed"));
            continue;
        };
        merge::check_values(&record, &[])?;
        is_empty = false;
        if !has_server(&record.target) {
            message::say(&format!("{image} is not started: {:?} has no server", record.target));
            continue;
        }
        Container::pull(root, &image)?;
        output::write(image)?;
    }
    if is_empty {
        let hint = "pass a file that `--push --records FILE` wrote";
        return Err(usage(format!("no image in these files was pushed\nhint: {hint}")));
    }
    Ok(())
}

/// A container with a server, removed when this is dropped.
pub struct Container {
    docker: Docker,
    name: String,
    /// On the engine's machine.
    address: SocketAddr,
    key: String,
}

impl Container {
    /// Starts `image` on `port` of the engine's 127.0.0.1 (0: a free one), and waits until it is healthy.
    fn start(docker: Docker, image: &str, port: u16, platform: Option<&str>) -> Result<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|l| l.local_addr());
        let address = address.with_context(|| format!("cannot use port {port}"))?;
        // No name of another run's, as this container is removed by its name.
        let name = format!("agent-server-{}-{}", address.port(), random(4)?);
        // Made before docker is called, so that a signal in between leaves nothing.
        let server = Container { docker, name, address, key: random(16)? };
        let publish = format!("{address}:8000");
        // The key goes by the environment: every user of the machine can read arguments.
        let mut args = vec!["run", "--detach", "--name", &server.name, "--env", "SESSION_API_KEY"];
        args.extend(platform.iter().flat_map(|platform| ["--platform", platform]));
        args.extend(["--publish", &publish, image]);
        let mut docker = server.docker.command(&args);
        docker.env("SESSION_API_KEY", &server.key).env_remove("DOCKER_DEFAULT_PLATFORM");
        let output = docker::output(&mut docker, PATIENCE)?;
        let output = output.with_context(|| format!("docker does not start {image}"))?;
        let why = text::last_lines(&output.stderr, 5).join(" ");
        ensure!(output.status.success(), "cannot start {image}: {why}");
        server.wait_until_healthy().with_context(|| image.to_owned())?;
        Ok(server)
    }

    /// As [`Container::start`], of an image that is pulled unless the engine has it, on a free port.
    pub fn pull(root: &Path, image: &str) -> Result<Self> {
        let docker = Docker::new(root, None);
        docker.pull(image)?;
        Self::start(docker, image, 0, None)
    }

    /// Asks the server, and the engine, since the server's port may be out of reach from here.
    /// Errors: a signal; the server exits or takes too long, after the end of its log.
    fn wait_until_healthy(&self) -> Result<()> {
        let started = Instant::now();
        let is_healthy = || self.fetch("/health", 2).is_ok();
        loop {
            // The engine looks once a second.
            for _ in 0..10 {
                if is_healthy() {
                    return Ok(());
                }
                sleep(Duration::from_millis(100))?;
            }
            let format = "{{.State.Status}}{{if .State.Health}} {{.State.Health.Status}}{{end}}";
            let state = self.docker.output_of(&["inspect", "--format", format, &self.name]);
            if state.trim().ends_with(" healthy") {
                if !is_healthy() {
                    let how = format!("use {} on the machine of the engine", self.address);
                    let what = "the server is healthy, but out of reach from here";
                    message::warn(&format!("{what}: {how}"));
                }
                return Ok(());
            }
            let has_ended = state.starts_with("exited") || state.starts_with("dead");
            if has_ended || started.elapsed() > PATIENCE {
                self.logs(&LAST_LINES)?;
                process::check_signals()?;
                ensure!(!has_ended, "the server exited before it was healthy; see its log above");
                bail!("the server was not healthy in {} s; see its log above", PATIENCE.as_secs());
            }
        }
    }

    /// What the server has for `path`. Errors: no answer within `seconds`; another status than 200.
    pub fn fetch(&self, path: &str, seconds: u64) -> Result<String> {
        let answer = http::get(self.address, path, Duration::from_secs(seconds))?;
        ensure!(answer.status == 200, "the server answers {path} with {}", answer.status);
        Ok(answer.body)
    }

    /// Shows what `docker logs` writes with `flags`, on standard error. False where it fails.
    fn logs(&self, flags: &[&str]) -> Result<bool> {
        let (reader, writer) = io::pipe()?;
        let mut logs = self.docker.command(&[&["logs"], flags, &[&self.name]].concat());
        logs.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = logs.spawn()?;
        // It holds the pipe open.
        drop(logs);
        let mut lines = text::Lines::default();
        let status = process::follow(&mut child, reader, |bytes| {
            lines.add(bytes).into_iter().for_each(output::note);
            true
        })?;
        lines.end().into_iter().for_each(output::note);
        Ok(status.is_some_and(|status| status.success()))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // An engine may finish a `docker run` that a signal ended, so there may be a container later.
        let attempts = if process::caught().is_some() { 20 } else { 1 };
        for _ in 0..attempts {
            // Not by `process::output`, which a signal would end at once.
            let mut docker = self.docker.command(&["rm", "--force", "--volumes", &self.name]);
            let output = docker.stdin(Stdio::null()).stderr(Stdio::null()).output();
            // Newer versions remove nothing successfully, but name what they removed.
            if output.is_ok_and(|output| !output.stdout.is_empty()) {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}
