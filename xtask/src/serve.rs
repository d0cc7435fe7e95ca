//! `cargo xtask image run` starts the image that it builds; `smoke` starts images that were pushed.

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base::digest::{random, sha256};
use base::error::usage;
use base::{http, message, output, process};

use crate::build;
use crate::docker::{Docker, not_started, sleep};
use outcome::record;
use outcome::text;
use request::bases;
use request::cli::Args;
use request::definition::{Definition, has_server};

/// How long a server may take until it is healthy: 4 s with a warm page cache.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the engine is asked for a server's health: as often as it looks.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long a server may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// The end of a server's log, shown when it fails.
const LAST_LINES: [&str; 2] = ["--tail", "30"];
/// GETs the path in its argument within a container, past any proxy that the image names.
const GET: &str = "import sys, urllib.request as r
opener = r.build_opener(r.ProxyHandler({}))
sys.stdout.buffer.write(opener.open('http://127.0.0.1:8000' + sys.argv[1], timeout=25).read())";

/// Builds and loads one image, starts it, prints address and key, and waits until a signal, which is
/// the normal end, or the server's end. The container is removed then.
/// Errors: a wrong request, a port in use, a failed build, a server that does not start or exits.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let variants = Definition::read(root)?.chosen(&args.variant)?.len();
    let images = variants * args.base_images.len().max(1);
    if images != 1 {
        return Err(usage(format!(
            "`image run` needs exactly one image, got {images}\nhint: name one --variant or \
             --base-image"
        )));
    }
    // No wrong request: it can be built.
    ensure!(
        has_server(&args.target),
        "the target {:?} has no server to run\nhint: `cargo xtask image list` shows which targets have one",
        args.target
    );
    let port = args.port;
    let _lock = lock(root, port)?;
    let docker = Docker::new(root, args.builder.as_deref());
    let name = container_name(root, port);
    // A killed run may have left it. This run has the lock, so nobody uses it.
    if !docker.output_of(&["rm", "--force", "--volumes", &name]).is_empty() {
        message::say(&format!("removed the container {name}, left by an earlier `image run`"));
    }
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| {
        usage(format!("cannot use port {port} ({error})\nhint: choose another port by --port"))
    })?;
    let mut records = Vec::new();
    build::run(root, args, &mut records)?;
    let record = records.first();
    let tag = record.and_then(|record| record.tags.first());
    let tag = tag.context("the image has no tag to start it by")?;
    // Of several that were asked for, the engine's own was built.
    let built = record.and_then(|record| record.platforms.first());
    let platform = built.map(String::as_str).filter(|_| !args.platforms.is_empty());
    let server = Container::start(docker, tag, Some(port), platform)?;
    server.wait_until_healthy()?;
    let Container { address, key, .. } = &server;
    if !server.answers() {
        // The context's endpoint is DOCKER_HOST where that is set.
        let format = "{{.Endpoints.docker.Host}}";
        let engine = server.docker.output_of(&["context", "inspect", "--format", format]);
        message::warn(&format!(
            "the server is healthy, but out of reach from here: use {address} on the machine of the \
             engine, {}",
            engine.trim()
        ));
    }
    output::write(format_args!(
        "address: http://{address}\nkey:     {key}\n\
         try:     curl -H 'X-Session-API-Key: {key}' http://{address}/api/conversations/count"
    ))?;
    // The connection to a remote engine may end before the server does.
    let mut misses = 0;
    while misses < 30 {
        if args.logs {
            server.logs(&["--follow", "--tail", "0"])?;
        } else {
            let mut wait = server.docker.command(&["wait", &server.name]);
            // An engine that goes down by the same Ctrl-C ends it with an error.
            wait.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            process::wait(&mut wait.spawn()?, None)?;
        }
        if process::caught().is_some() {
            return Ok(());
        }
        let state = server.state();
        if has_ended(&state) {
            if !args.logs {
                server.logs(&LAST_LINES)?;
            }
            bail!("the server exited; see its log above");
        }
        misses = if state.is_empty() { misses + 1 } else { 0 };
        thread::sleep(ASK_EVERY);
    }
    bail!("the engine does not answer any more")
}

/// Starts each pushed image that the files of records name, by its digest, waits until its server is
/// healthy, and prints it. Says which records it skips: what was not pushed, or has no server.
/// Errors: the first server that does not become healthy; a usage error for files without an image.
pub fn smoke(root: &Path, args: &Args) -> Result<()> {
    let mut images = Vec::new();
    for record in record::read(&args.words)? {
        let Some(image) = record.reference() else {
            message::say(&format!("{} is not started: it was not pushed", record.shown()));
            continue;
        };
        let has_digest = record.digest.as_deref().is_some_and(bases::is_digest);
        if !has_digest || !bases::is_repository(&record.image) {
            let name = record.shown();
            return Err(usage(format!("the record of {name}: {image:?} is not an image's digest")));
        }
        images.push((image, record.target));
    }
    if images.is_empty() {
        let hint = "pass a file that `--push --records FILE` wrote";
        return Err(usage(format!("no image in these files was pushed\nhint: {hint}")));
    }
    for (image, target) in images {
        if !has_server(&target) {
            message::say(&format!("{image} is not started: {target:?} has no server"));
            continue;
        }
        let docker = Docker::new(root, None);
        docker.pull(&image)?;
        let server = Container::start(docker, &image, None, None)?;
        server.wait_until_healthy().with_context(|| image.clone())?;
        output::write(image)?;
    }
    Ok(())
}

/// Keeps other runs of this checkout off `port` until this program ends, however it ends.
fn lock(root: &Path, port: u16) -> Result<File> {
    let folder = root.join("target/image");
    let path = folder.join(format!("run-{port}.lock"));
    let file = fs::create_dir_all(folder).and_then(|()| File::create(&path));
    let file = file.with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(usage(format!(
            "port {port} is used by another `cargo xtask image run`\nhint: stop it, or choose \
             another port by --port"
        ))),
        // A file system without locks is no reason not to run.
        _ => Ok(file),
    }
}

/// The name of this checkout's container for `port`.
fn container_name(root: &Path, port: u16) -> String {
    format!("agent-server-{port}-{:.8}", sha256(root.as_os_str().as_encoded_bytes()))
}

/// A container with a server, removed when this is dropped.
pub struct Container {
    docker: Docker,
    name: String,
    /// On the engine's machine.
    pub address: SocketAddr,
    key: String,
    is_started: bool,
}

impl Container {
    /// Starts `image` with a random key, on `port`, or else a free one, of the engine's own 127.0.0.1.
    pub fn start(
        docker: Docker,
        image: &str,
        port: Option<u16>,
        platform: Option<&str>,
    ) -> Result<Self> {
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr();
        let address = port.map_or_else(free, |port| Ok((Ipv4Addr::LOCALHOST, port).into()))?;
        let name = container_name(&docker.root, address.port());
        // Made before docker is called, so that a signal in between leaves nothing.
        let mut server = Container { docker, name, address, key: random(16)?, is_started: false };
        let publish = format!("{address}:8000");
        // The key goes by the environment: every user of the machine can read arguments.
        let mut args = vec!["run", "--detach", "--name", &server.name, "--env", "SESSION_API_KEY"];
        args.extend(platform.iter().flat_map(|platform| ["--platform", platform]));
        args.extend(["--publish", &publish, image]);
        let mut docker = server.docker.command(&args);
        docker.env("SESSION_API_KEY", &server.key).env_remove("DOCKER_DEFAULT_PLATFORM");
        let child = docker.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let mut child = child.map_err(|error| not_started(&error))?;
        server.is_started = process::wait(&mut child, None)?.success();
        process::check_signals()?;
        ensure!(server.is_started, "cannot start {image}; see docker's message above");
        Ok(server)
    }

    /// Asks the server over its port, and the engine, since the port may be out of reach from here.
    /// Errors: a signal; the server exits or takes too long, after the end of its log.
    pub fn wait_until_healthy(&self) -> Result<()> {
        let (started, mut asked) = (Instant::now(), Instant::now());
        while !self.answers() {
            sleep(Duration::from_millis(100))?;
            if asked.elapsed() < ASK_EVERY {
                continue;
            }
            let state = self.state();
            asked = Instant::now();
            if state == "running healthy" {
                break;
            }
            let has_ended = has_ended(&state);
            if has_ended || started.elapsed() > PATIENCE {
                self.logs(&LAST_LINES)?;
                process::check_signals()?;
                ensure!(!has_ended, "the server exited before it was healthy; see its log above");
                bail!("the server was not healthy in {} s; see its log above", PATIENCE.as_secs());
            }
        }
        Ok(())
    }

    /// The body that the server has for `path`; where its port is out of reach, asked from within.
    /// Errors: no answer, or another status than 200.
    pub fn fetch(&self, path: &str) -> Result<String> {
        if let Ok(answer) = http::get(self.address, path, ANSWER) {
            ensure!(answer.status == 200, "the server answers {path} with {}", answer.status);
            return Ok(answer.body);
        }
        let python = "/agent-server/.venv/bin/python";
        let exec = ["exec", &self.name, python, "-I", "-c", GET, path];
        let output = process::output(&mut self.docker.command(&exec), ANSWER)?;
        let output = output.with_context(|| format!("the server does not answer {path}"))?;
        let error = text::last_lines(&output.stderr, 1).concat();
        ensure!(output.status.success(), "the server does not answer {path}: {error}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// True if the server's port is in reach, and the server healthy.
    fn answers(&self) -> bool {
        let answer = http::get(self.address, "/health", Duration::from_secs(2));
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// The container's status and health; `gone` without one, empty where the engine does not say.
    fn state(&self) -> String {
        let format = "{{.State.Status}}{{if .State.Health}} {{.State.Health.Status}}{{end}}";
        let mut inspect = self.docker.command(&["inspect", "--format", format, &self.name]);
        let Ok(Some(output)) = process::output(&mut inspect, ANSWER) else { return String::new() };
        let error = String::from_utf8_lossy(&output.stderr).to_lowercase();
        match output.status.success() {
            true => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            false if error.contains("no such") => "gone".to_owned(),
            false => String::new(),
        }
    }

    /// Shows what `docker logs` writes with `flags`: on standard error, since it is not a result.
    fn logs(&self, flags: &[&str]) -> Result<()> {
        let (reader, writer) = io::pipe()?;
        let mut logs = self.docker.command(&[&["logs"], flags, &[&self.name]].concat());
        logs.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = logs.spawn()?;
        // It holds the pipe open.
        drop(logs);
        let mut lines = text::Lines::default();
        process::follow(&mut child, reader, |bytes| {
            lines.add(bytes).into_iter().for_each(output::note);
            true
        })?;
        lines.end().into_iter().for_each(output::note);
        Ok(())
    }
}

/// True for the state of a container that has ended. An engine that does not answer once is not one.
fn has_ended(state: &str) -> bool {
    ["exited", "dead", "gone"].iter().any(|end| state.starts_with(end))
}

impl Drop for Container {
    fn drop(&mut self) {
        // After a signal, `process::output` would end at once. Docker's errors are not shown: an engine
        // that went down took its container along.
        let call = |args: &[&str]| {
            let mut docker = self.docker.command(args);
            let output = docker.stdin(Stdio::null()).stderr(Stdio::null()).output();
            output.ok().filter(|output| output.status.success()).map(|output| output.stdout)
        };
        // It lets the server shut down before it is killed.
        if self.is_started {
            call(&["stop", &self.name]);
        }
        // An engine may finish a `docker run` that a signal ended, so there may be a container later.
        // Newer versions remove nothing successfully, but name what they removed.
        let is_stopped = process::caught().is_some();
        let attempts = if is_stopped { 20 } else { 1 };
        for _ in 0..attempts {
            let removed = call(&["rm", "--force", "--volumes", &self.name]);
            if removed.is_some_and(|name| self.is_started || !is_stopped || !name.is_empty()) {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        if call(&["inspect", "--format", "{{.Id}}", &self.name]).is_some() {
            message::warn(&format!("the container {} may be left behind", self.name));
        }
    }
}
