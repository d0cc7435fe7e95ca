//! `cargo xtask image doctor`: can a request be built on this machine, and if not, what to do?

use std::env;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use pico_args::Arguments;
use serde_json::Value;
use xshell::{Shell, cmd};

use super::build::builder::{self, Builder, PATIENCE};
use super::build::buildx::Docker;
use super::build::disk::{Disk, INFO, LEAST};
use super::build::registry;
use super::build::server;
use crate::image::request::flags::{self, Subcommand};
use crate::image::request::{Delivery, Request};
use base::message;
use base::output;
use base::process;

/// The first release of buildx that writes its events as JSON.
const OLDEST_BUILDX: (u32, u32) = (0, 13);

/// What was found out.
struct Finding {
    subject: &'static str,
    /// What is there, or what is wrong and what to do.
    found: Result<String>,
    /// Whether nothing is built without it.
    is_needed: bool,
}

/// Prints a line for each thing that the request in `args` needs. Fails if it can't be built.
pub fn main(sh: &Shell, mut args: Arguments) -> Result<()> {
    let request = Request::read(&mut args, Vec::new())?;
    flags::finish(args, Subcommand::Doctor)?;
    process::catch_signals();
    let mut works = true;
    for Finding { subject, found, is_needed } in findings(sh, &request) {
        process::check_signals()?;
        works &= found.is_ok() || !is_needed;
        let line = match found {
            Ok(text) => format!("ok  {subject}: {text}"),
            Err(error) => format!("!!  {subject}: {error:#}"),
        };
        output::write(message::one_line(&line))?;
    }
    ensure!(works, "this request can't be built here: see the lines that begin with `!!`.");
    Ok(())
}

fn findings(sh: &Shell, request: &Request) -> Vec<Finding> {
    let cargo = cmd!(sh, "cargo --version").quiet().ignore_stderr().read();
    let cargo = cargo.context("cargo is not on PATH: install Rust from https://rustup.rs");
    let mut findings = vec![Finding { subject: "Rust", found: cargo, is_needed: false }];
    findings.extend(docker(sh, request));
    let server = server::Found::find(sh, request)
        .and_then(|server| server.prepare(request).map(|()| server.summary()));
    findings.extend([
        Finding { subject: "login", found: login(request), is_needed: false },
        Finding { subject: "server", found: server, is_needed: true },
    ]);
    findings
}

/// Docker and what belongs to it, as far as each can be asked.
fn docker(sh: &Shell, request: &Request) -> Vec<Finding> {
    let docker = Docker::new(sh, request.builder.as_deref());
    let output = match builder::answer(&mut docker.command(&INFO), PATIENCE) {
        Ok(output) => output,
        Err(error) => return vec![needed("docker", Err(error))],
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    // What an engine that is not there leaves out is null, or empty.
    let info: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let client = info["ClientInfo"]["Version"].as_str().unwrap_or("of an unknown version");
    let mut findings = vec![
        needed("docker", Ok(client.to_owned())),
        Finding {
            subject: "engine",
            found: engine(&info, &errors),
            // A builder may be elsewhere.
            is_needed: request.delivery == Delivery::Load,
        },
    ];
    findings.extend(disk(&info).map(|found| needed("disk", found)));
    let buildx = buildx(&docker);
    let has_buildx = buildx.is_ok();
    findings.push(needed("buildx", buildx));
    if has_buildx {
        match builder::inspect(&docker, request) {
            Ok(builder) => findings.extend(abilities(&builder, request)),
            Err(error) => findings.push(needed("builder", Err(error))),
        }
    }
    findings
}

fn needed(subject: &'static str, found: Result<String>) -> Finding {
    Finding { subject, found, is_needed: true }
}

fn engine(info: &Value, errors: &str) -> Result<String> {
    let text = |name: &str| info[name].as_str().filter(|text| !text.is_empty());
    if let Some(version) = text("ServerVersion") {
        let (system, arch) = (text("OperatingSystem"), text("Architecture"));
        let machine = [system, arch].into_iter().flatten().collect::<Vec<_>>().join(", ");
        return Ok(format!("{version} ({machine})"));
    }
    let error = info["ServerErrors"][0].as_str().or(errors.lines().last());
    let error = error.unwrap_or("it does not answer.");
    bail!("{error} Start Docker, or run {}.", builder::in_engine(""))
}

fn buildx(docker: &Docker) -> Result<String> {
    let text = builder::version(docker)?;
    // As `github.com/docker/buildx v0.13.1 788433953af1`.
    let version = text.split(' ').nth(1).unwrap_or(&text);
    let mut numbers = version.trim_start_matches('v').split('.').map(str::parse);
    if let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next())
        && (major, minor) < OLDEST_BUILDX
    {
        let (major, minor) = OLDEST_BUILDX;
        bail!("{version} is too old: install {major}.{minor} or newer.");
    }
    Ok(version.to_owned())
}

fn abilities(builder: &Builder, request: &Request) -> [Finding; 3] {
    let Builder { name, driver, runs, .. } = builder;
    let export = builder.check_export().map(|()| "caches can be written".to_owned());
    let platforms = builder.check_platforms(&request.platforms).map(|()| runs.join(", "));
    [
        needed("builder", Ok(format!("{name}, driver {driver}"))),
        Finding { subject: "cache export", found: export, is_needed: false },
        needed("platforms", platforms),
    ]
}

/// The space for what is built, where the engine is on this machine.
fn disk(info: &Value) -> Option<Result<String>> {
    let disk = Disk::of(info).ok()??;
    let free = disk.free()? / 1e9;
    let text = format!("{free:.1} GB free in {}", disk.folder);
    if free >= LEAST {
        return Some(Ok(text));
    }
    Some(Err(anyhow!(
        "{text}, and a first build takes {LEAST} GB or more: make room, as by `docker system \
         prune`."
    )))
}

/// Whether docker knows a login for the registry of the image. Not every registry needs one.
fn login(request: &Request) -> Result<String> {
    let (host, _) = registry::host_and_path(&request.image);
    let folder = env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".docker"));
    let path = folder.or_else(home).unwrap_or_default().join("config.json");
    let config = output::load(&path).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    if has_login(&config, host) {
        return Ok(format!("{host}, in {}", path.display()));
    }
    let none = format!("none for {host} in {}", path.display());
    match request.delivery {
        Delivery::Load => Ok(format!("{none}, which only a push may need")),
        Delivery::Push => bail!(
            "{none}: run `docker login {host}`, unless it takes pushes without; `cargo xtask \
             image probe` tries one."
        ),
    }
}

fn has_login(config: &Value, host: &str) -> bool {
    let host = if host == "docker.io" { "index.docker.io" } else { host };
    let is_host = |key: &str| {
        let key = key.split_once("://").map_or(key, |(_, key)| key);
        key.split('/').next() == Some(host)
    };
    // A store of credentials leaves the entry, and nothing in it.
    let has_store = config["credsStore"].is_string();
    let is_full = |entry: &Value| entry.as_object().is_some_and(|entry| !entry.is_empty());
    let mut logins = config["auths"].as_object().into_iter().flatten();
    config["credHelpers"][host].is_string()
        || logins.any(|(key, entry)| is_host(key) && (has_store || is_full(entry)))
}
