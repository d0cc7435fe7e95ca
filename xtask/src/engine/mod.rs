//! `cargo xtask engine`: runs a command with a private Docker engine and a registry, on machines
//! that have none. Its programs and data are below `target/engine`; what it changes on the host
//! while it runs, it restores.

mod base;
mod cgroup;
mod command;
mod daemons;
mod data;
mod emulate;
mod host;
mod network;
mod packages;
mod sandbox;
mod shared;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use pico_args::Arguments;

use self::base::Base;
use self::daemons::Daemons;
use self::data::Data;
use self::host::Claim;
use self::shared::say;
use crate::error::usage;
use crate::output;
use crate::process;

const HELP: &str = "\
Runs a command with a private Docker engine and a registry on a loopback port.

Usage: cargo xtask engine [OPTIONS] [-- COMMAND...]

Without a command it opens a shell. Needs root on Debian or Ubuntu, and no Docker. The exit
status is the command's. Its containers end with it; images, build cache and the registry's
content stay in target/engine for the next call, which uses another folder there while a first
one is running. `debian:trixie-slim` is there without a registry.

Options:
  --fresh          start empty, and leave nothing but the downloads
  --emulate        run programs of the other architecture, amd64 or arm64, with QEMU
  --release NAME   Docker from this release of Debian, such as forky; default trixie
  --prune          only remove what earlier calls left, the downloads aside
  -h, --help       this text

The command finds in its environment:
  DOCKER_HOST, DOCKER_CONFIG, PATH        the engine, and a docker with buildx
  XTASK_REGISTRY                          the registry, as 127.0.0.1:PORT
  XTASK_ENGINE_LOG, XTASK_REGISTRY_LOG    the paths of their logs";

/// Runs the task; the repository's `root` has the folder for downloads and data.
/// Errors: a usage error for a wrong request; `Interrupted` on a signal while the engine starts.
pub fn main(root: &Path, args: Arguments) -> Result<ExitCode> {
    let folder = root.join("target/engine");
    match Options::parse(args)? {
        None => output::write(HELP)?,
        Some(options) if options.prune => data::prune(&folder)?,
        Some(options) => return run(&folder, &options).map(ExitCode::from),
    }
    Ok(ExitCode::SUCCESS)
}

struct Options {
    prune: bool,
    fresh: bool,
    emulate: bool,
    release: String,
    command: Vec<OsString>,
}

impl Options {
    /// `None` if the request is for help.
    fn parse(args: Arguments) -> Result<Option<Options>> {
        let mut flags = args.finish();
        let end = flags.iter().position(|arg| arg == "--").unwrap_or(flags.len());
        let command: Vec<OsString> = flags.split_off(end).into_iter().skip(1).collect();
        let mut flags = Arguments::from_vec(flags);
        if flags.contains(["-h", "--help"]) {
            return Ok(None);
        }
        let release = flags.opt_value_from_str("--release");
        let release: Option<String> = release.map_err(|error| usage(format!("{error}.")))?;
        let options = Options {
            prune: flags.contains("--prune"),
            fresh: flags.contains("--fresh"),
            emulate: flags.contains("--emulate"),
            release: release.unwrap_or_else(|| packages::RELEASE.to_owned()),
            command,
        };
        if let Some(other) = flags.finish().first() {
            return Err(usage(format!(
                "unexpected or repeated argument {:?}: the flags of engine are --fresh, --emulate, \
                 --release and --prune; the command comes after `--`.",
                other.to_string_lossy()
            )));
        }
        // The name becomes part of paths and of apt's sources.
        let name = &options.release;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase()) {
            return Err(usage(format!(
                "--release {name:?} is no release of Debian: use a code name, such as trixie or \
                 forky."
            )));
        }
        if options.prune && !options.command.is_empty() {
            return Err(usage("--prune runs no command: leave out what comes after `--`."));
        }
        Ok(Some(options))
    }
}

/// Starts everything, runs the command, and takes everything down again: what is set up here is
/// undone, in reverse order, when it goes out of scope.
fn run(folder: &Path, options: &Options) -> Result<u8> {
    host::check(folder)?;
    process::catch_signals();
    let downloads = folder.join("downloads");
    let programs = packages::get(&downloads, &options.release)?;
    command::check(&options.command, &programs)?;

    let started = Instant::now();
    let data = Data::take(folder, &options.release, options.fresh)?;
    let claim = Claim::take(&programs)?;
    if options.emulate {
        emulate::register(&claim.path(""), &programs, &downloads)?;
    }
    let base = Base::get(&downloads, &programs, options.emulate)?;
    let daemons = Daemons::start(&programs, &data, &claim)?;
    base.load(&programs, &data, &daemons)?;
    let seconds = started.elapsed().as_secs_f64();
    say(format_args!("ready in {seconds:.1} s, registry {}", daemons.address));

    let status = command::run(&options.command, &programs, &data, &daemons);
    daemons.stop(options.fresh);
    status
}
