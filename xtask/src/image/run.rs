//! `cargo xtask image run`: builds one variant, loads it, and runs it until it is stopped.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use pico_args::Arguments;
use xshell::Shell;

use super::job::Job;
use crate::image::build::buildx::Docker;
use crate::image::build::registry;
use crate::image::report::build_info::BuildInfo;
use crate::image::report::text;
use crate::image::request::definition::Definition;
use crate::image::request::{self, Check, Delivery, Request, flags};
use base::digest::{random, sha256};
use base::error::usage;
use base::http;
use base::message;
use base::output;
use base::process;

/// The port that the server listens on inside its container.
const SERVER_PORT: u16 = 8000;
/// How long a server may take until it is healthy. A frozen one took 6 s, a slow disk takes more.
const PATIENCE: Duration = Duration::from_secs(120);
/// The end of a server's log, which is shown when it fails.
const LAST_LINES: [&str; 2] = ["--tail", "30"];
/// How long docker may take to describe or remove a container.
const DOCKER_PATIENCE: Duration = Duration::from_secs(30);

/// Builds with `--load`, starts the container, and prints address and key, as the last thing
/// before a signal or the server's end; with `--logs` the server's log follows. Then the container
/// is removed. Fails on a wrong request, a port in use, and a server that does not start or ends.
pub fn main(sh: &Shell, mut args: Arguments, bake_args: Vec<OsString>) -> Result<()> {
    let port = port(&mut args)?;
    let logs = flags::LOGS.is_given(&mut args);
    let mut request = Request::read(&mut args, bake_args)?;
    flags::finish(args, flags::Subcommand::Run)?;
    let _lock = lock(sh, port)?;
    let docker = Docker::new(sh, None);
    let name = container_name(sh, port);
    // A run that was killed may have left it. As this one has the lock, nobody uses it.
    if !output_of(&docker, &["rm", "--force", "--volumes", &name]).is_empty() {
        output::note(format_args!("removed the container {name}, left by an earlier `image run`"));
    }
    check_free(port)?;
    process::catch_signals();
    request.delivery = Delivery::Load;
    // It is started here anyway.
    request.check = Check::Off;
    let mut job = Job::new(sh, request)?;
    let [target] = job.plan.targets.as_slice() else {
        return Err(usage(format!(
            "`image run` starts one image, but {} are asked for: name one --variant or \
             --base-image.",
            job.plan.targets.len()
        )));
    };
    let Some(image) = target.tags.first().cloned() else {
        bail!("the target {:?} has no tag to run.", target.name);
    };
    job.build(sh).ended?;
    let container = Container::start(docker, name, &image, port)?;
    container.wait_until_healthy()?;
    output::write(format_args!("address: http://{}", container.address))?;
    output::write(format_args!("key:     {}", container.key))?;
    output::write(format_args!(
        "try:     curl -H 'X-Session-API-Key: {}' http://{}/api/conversations/count",
        container.key, container.address
    ))?;
    if logs {
        container.logs(&["--follow", "--tail", "0"])?;
    } else {
        container.wait()?;
    }
    if process::caught().is_none() {
        if !logs {
            container.logs(&LAST_LINES)?;
        }
        bail!("the server stopped by itself; the end of its log is above.");
    }
    Ok(())
}

/// Starts each pushed image that the files name, by its digest, waits until its server is healthy,
/// and prints it. Fails on the first that does not become healthy.
pub fn smoke(sh: &Shell, args: Arguments) -> Result<()> {
    process::catch_signals();
    let definition = Definition::read(sh)?;
    let docker = Docker::new(sh, None);
    for file in request::files(args, flags::Subcommand::Smoke)? {
        let info = BuildInfo::read(&file)?;
        let digest = info.digest.filter(|digest| registry::is_digest(digest));
        let Some(digest) = digest.filter(|_| request::is_repository(&info.image)) else {
            let file = file.to_string_lossy();
            return Err(usage(format!("{file:?}: it names no image by its digest.")));
        };
        let image = format!("{}@{digest}", info.image);
        if !definition.checkable.contains(&info.target) {
            message::say(&format!("{image} is not started: {:?} has no server.", info.target));
            continue;
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let container = Container::start(docker.clone(), container_name(sh, port), &image, port)?;
        container.wait_until_healthy().context(image.clone())?;
        output::write(image)?;
    }
    Ok(())
}

/// The port to publish on.
fn port(args: &mut Arguments) -> Result<u16> {
    match flags::PORT.text(args)? {
        None => Ok(8000),
        Some(port) => port.parse().ok().filter(|&port| port > 0).ok_or_else(|| {
            usage(format!("--port {port:?} is no port: use a number from 1 to 65535."))
        }),
    }
}

/// Keeps other runs of this checkout off `port` for as long as the file is open, which is until
/// this program ends, however it ends.
fn lock(sh: &Shell, port: u16) -> Result<File> {
    let folder = sh.create_dir("target/image")?;
    let path = folder.join(format!("run-{port}.lock"));
    let file =
        File::create(&path).with_context(|| format!("{} can't be written", path.display()))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(usage(format!(
            "port {port} is used by another `cargo xtask image run`: stop that, or choose another \
             port with --port."
        ))),
        // A file system without locks is no reason not to run.
        _ => Ok(file),
    }
}

/// The name of this checkout's container for `port`.
pub fn container_name(sh: &Shell, port: u16) -> String {
    let root = sha256(sh.current_dir().as_os_str().as_encoded_bytes());
    format!("agent-server-{port}-{}", &root[..8])
}

/// What docker writes to standard output; nothing if it fails, or takes too long.
fn output_of(docker: &Docker, args: &[&str]) -> String {
    let output = process::output(&mut docker.command(args), DOCKER_PATIENCE).ok().flatten();
    let output = output.filter(|output| output.status.success());
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// Fails if a server can't listen on `port`.
fn check_free(port: u16) -> Result<()> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop).map_err(|error| {
        usage(format!(
            "port {port} on 127.0.0.1 can't be used ({error}): choose another with --port."
        ))
    })
}

/// A running container, removed when this is dropped.
pub struct Container {
    docker: Docker,
    name: String,
    pub address: SocketAddr,
    key: String,
}

impl Container {
    /// Starts `image`, whose server is then on that port of 127.0.0.1.
    pub fn start(docker: Docker, name: String, image: &str, port: u16) -> Result<Self> {
        let key = random(16)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        // Made before docker is called, so that a signal in between leaves nothing.
        let container = Container { docker, name, address, key };
        let publish = format!("{address}:{SERVER_PORT}");
        // The key goes by the environment: arguments can be read by every user of the machine.
        let env = ["--env", "SESSION_API_KEY", "--publish", &publish, image];
        let args = [&["run", "--detach", "--name", &container.name][..], &env].concat();
        let mut docker = container.docker.command(&args);
        docker.env("SESSION_API_KEY", &container.key).stdin(Stdio::null()).stdout(Stdio::null());
        let status = process::wait(&mut docker.spawn()?, None)?;
        if !status.success() {
            process::check_signals()?;
            bail!("`docker run` of {image} failed; what it said is above.");
        }
        Ok(container)
    }

    /// Fails, after the end of its log, if it ends or takes too long.
    pub fn wait_until_healthy(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_healthy() {
            process::check_signals()?;
            let is_late = Instant::now() > deadline;
            if is_late || !self.is_running() {
                self.logs(&LAST_LINES)?;
                let why = if is_late {
                    format!("was not healthy within {} s", PATIENCE.as_secs())
                } else {
                    "ended before it was healthy".to_owned()
                };
                bail!("the server {why}; the end of its log is above.");
            }
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn is_healthy(&self) -> bool {
        let answer = http::get(self.address, "/health", Duration::from_secs(1));
        answer.is_ok_and(|answer| answer.status == 200)
    }

    fn is_running(&self) -> bool {
        let inspect = ["inspect", "--format", "{{.State.Running}}", &self.name];
        output_of(&self.docker, &inspect).trim() == "true"
    }

    /// Shows the log that `docker logs` writes with `flags`. It is no result, so it goes to
    /// standard error.
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

    /// Waits until a signal or the server's end.
    fn wait(&self) -> Result<()> {
        let mut wait = self.docker.command(&["wait", &self.name]);
        wait.stdin(Stdio::null()).stdout(Stdio::null());
        process::wait(&mut wait.spawn()?, None)?;
        Ok(())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // `docker stop` lets the server shut down before it kills it.
        for args in [&["stop", &self.name][..], &["rm", "--force", "--volumes", &self.name]] {
            let mut docker = self.docker.command(args);
            let ended = docker.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if !ended.status().is_ok_and(|status| status.success()) {
                message::warn(&format!("the container {} may be left behind", self.name));
            }
        }
    }
}
