//! `cargo xtask image run`: builds one variant, loads it, and runs it until it is stopped.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use pico_args::Arguments;
use xshell::{Shell, cmd};

use super::job::Job;
use crate::digest::random;
use crate::error::usage;
use crate::image::request::{Delivery, Request, flags};
use crate::output;
use crate::process;

/// The port that the server listens on inside its container.
const SERVER_PORT: u16 = 8000;
/// How long a server may take until it is healthy. A frozen one took 6 s, a slow disk takes more.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many lines of a server's log tell why it did not come up.
const LAST_LINES: &str = "30";

/// Builds with `--load`, starts the container, prints address and key, and follows the log until
/// a signal or the server's end; then the container is removed.
///
/// # Errors
/// A usage error for a wrong request or a port in use; a server that does not come up or ends.
pub fn main(sh: &Shell, mut args: Arguments, bake_args: Vec<OsString>) -> Result<()> {
    let port = port(&mut args)?;
    let mut request = Request::read(&mut args, bake_args)?;
    flags::finish(args, flags::Command::Run)?;
    process::catch_signals();
    request.delivery = Delivery::Load;
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
    job.build(sh, &mut Vec::new())?;
    let container = Container::start(sh, &image, port)?;
    container.wait_until_healthy()?;
    output::write(format_args!("address: http://{}", container.address))?;
    output::write(format_args!("key:     {}", container.key))?;
    output::write(format_args!(
        "try:     curl -H 'X-Session-API-Key: {}' http://{}/api/conversations/count",
        container.key, container.address
    ))?;
    container.follow()
}

/// The port to publish on, which must be free.
fn port(args: &mut Arguments) -> Result<u16> {
    let port = match flags::PORT.value(args)? {
        None => 8000,
        Some(port) => port.parse().ok().filter(|&port| port > 0).ok_or_else(|| {
            usage(format!("--port {port:?} is no port: use a number from 1 to 65535."))
        })?,
    };
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(port),
        Err(error) => Err(usage(format!(
            "port {port} on 127.0.0.1 can't be used ({error}): choose another with --port."
        ))),
    }
}

/// A running container, removed when this is dropped.
struct Container<'a> {
    sh: &'a Shell,
    name: String,
    address: SocketAddr,
    key: String,
}

impl<'a> Container<'a> {
    fn start(sh: &'a Shell, image: &str, port: u16) -> Result<Self> {
        let key = random(16)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        // The name is known before docker is asked, so that a signal in between leaves nothing.
        let container =
            Container { sh, name: format!("agent-server-{}", random(4)?), address, key };
        let Container { name, key, .. } = &container;
        // The key goes by the environment: arguments can be read by every user of the machine.
        cmd!(sh, "docker run --detach --name {name} --env SESSION_API_KEY")
            .args(["--publish".to_owned(), format!("{address}:{SERVER_PORT}")])
            .arg(image)
            .env("SESSION_API_KEY", key)
            .quiet()
            .ignore_stdout()
            .run()?;
        Ok(container)
    }

    fn wait_until_healthy(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_healthy() {
            process::check_signals()?;
            if !self.is_running()? {
                self.print_last_lines()?;
                bail!("the server ended before it was healthy; its last log lines are above.");
            }
            if Instant::now() > deadline {
                self.print_last_lines()?;
                bail!(
                    "the server was not healthy within {} s; its last log lines are above.",
                    PATIENCE.as_secs()
                );
            }
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn is_healthy(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let second = Duration::from_secs(1);
            let mut stream = TcpStream::connect_timeout(&self.address, second)?;
            stream.set_read_timeout(Some(second))?;
            stream.write_all(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = ask().unwrap_or_default();
        answer.split_whitespace().nth(1) == Some("200")
    }

    fn is_running(&self) -> Result<bool> {
        let Container { sh, name, .. } = self;
        let format = "{{.State.Running}}";
        let running = cmd!(sh, "docker inspect --format {format} {name}").quiet().read()?;
        Ok(running == "true")
    }

    fn print_last_lines(&self) -> Result<()> {
        let mut logs = Command::new("docker");
        logs.args(["logs", "--tail", LAST_LINES, &self.name]);
        process::wait(&mut to_stderr(&mut logs)?.spawn()?, None)?;
        Ok(())
    }

    /// Shows the log on standard error until a signal or the server's own end.
    fn follow(&self) -> Result<()> {
        let mut logs = Command::new("docker");
        logs.args(["logs", "--follow", &self.name]);
        process::wait(&mut to_stderr(&mut logs)?.spawn()?, None)?;
        if process::caught().is_none() {
            bail!("the server ended by itself; its log is above.");
        }
        Ok(())
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let Container { sh, name, .. } = self;
        // A server gets the time that `docker stop` gives it to end by itself.
        let stopped = cmd!(sh, "docker stop {name}").quiet().ignore_stdout().run();
        let removed = cmd!(sh, "docker rm --force --volumes {name}").quiet().ignore_stdout().run();
        if let Err(error) = stopped.and(removed) {
            eprintln!("warning: the container {name} may be left behind: {error}");
        }
    }
}

/// Standard output carries only results, and a log is none.
fn to_stderr(command: &mut Command) -> Result<&mut Command> {
    let stderr = std::os::fd::AsFd::as_fd(&std::io::stderr()).try_clone_to_owned()?;
    Ok(command.stdin(Stdio::null()).stdout(stderr))
}
