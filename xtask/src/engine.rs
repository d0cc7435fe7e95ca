//! `cargo xtask engine`: runs a command with a private Docker engine and a registry, on machines
//! that have none. Everything it needs is unpacked below `target/engine`; what it needs of the
//! host while it runs, it gives back.

mod base;
mod cgroup;
mod command;
mod daemons;
mod data;
mod emulate;
mod host;
mod http;
mod network;
mod packages;
mod sandbox;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use pico_args::Arguments;
use xshell::Shell;

use self::base::Base;
use self::daemons::Daemons;
use self::data::Data;
use self::host::Claim;
use crate::error::usage;
use crate::output;
use crate::process;

const HELP: &str = "\
Runs a command with a private Docker engine and a registry on a loopback port.

Usage: cargo xtask engine [--fresh] [--emulate] [-- COMMAND...]

Without a command it opens a shell. Needs root on Debian or Ubuntu, and no Docker. The exit
status is the command's. Its containers end with it; images, build cache and the registry's
content stay in target/engine for the next call, which takes another folder there if a first
one is still running. `debian:trixie-slim` is there without a registry.

Options:
  --fresh      start empty, and leave nothing but the downloads
  --emulate    run programs of the other architecture, amd64 or arm64, with QEMU
  -h, --help   this text

The command finds in its environment:
  DOCKER_HOST, DOCKER_CONFIG, PATH        the engine, and a docker with buildx
  XTASK_REGISTRY                          the registry, as 127.0.0.1:PORT
  XTASK_ENGINE_LOG, XTASK_REGISTRY_LOG    the paths of their logs";

/// Runs the task; the repository's `root` has the folder for downloads and data.
///
/// # Errors
/// A usage error for a wrong request, `Interrupted` on a signal while the engine starts; any
/// other error if it can't run here or does not come up.
pub fn main(_sh: &Shell, root: &Path, args: Arguments) -> Result<ExitCode> {
    match Options::parse(args)? {
        None => {
            output::write(HELP)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(options) => run(&root.join("target/engine"), &options).map(ExitCode::from),
    }
}

struct Options {
    fresh: bool,
    emulate: bool,
    command: Vec<OsString>,
}

impl Options {
    /// `None` if it was help that was asked for.
    fn parse(args: Arguments) -> Result<Option<Options>> {
        let mut args = args.finish().into_iter();
        let mut options = Options { fresh: false, emulate: false, command: Vec::new() };
        for arg in args.by_ref() {
            match arg.to_string_lossy().as_ref() {
                "--fresh" => options.fresh = true,
                "--emulate" => options.emulate = true,
                "-h" | "--help" => return Ok(None),
                "--" => break,
                other => {
                    return Err(usage(format!(
                        "{other:?} is not a flag of engine: there are --fresh and --emulate; \
                         the command comes after `--`."
                    )));
                }
            }
        }
        options.command.extend(args);
        Ok(Some(options))
    }
}

/// Starts everything, runs the command, and takes everything down again: what is taken here is
/// given back, in reverse order, when it goes out of scope.
fn run(folder: &Path, options: &Options) -> Result<u8> {
    host::check()?;
    process::catch_signals();
    let downloads = folder.join("downloads");
    let programs = packages::get(&downloads)?;
    command::check(&options.command, &programs)?;

    let started = Instant::now();
    let data = Data::take(folder, options.fresh)?;
    let claim = Claim::take(&programs)?;
    if options.emulate {
        emulate::register(&claim, &programs, &downloads)?;
    }
    let base = Base::get(&downloads, &programs, options.emulate)?;
    let daemons = Daemons::start(&programs, &data, &claim)?;
    base.load(&programs, &data, &daemons)?;
    let seconds = started.elapsed().as_secs_f64();
    say(format_args!("ready in {seconds:.1} s, registry {}", daemons.registry));

    let status = command::run(&options.command, &programs, &data, &claim, &daemons);
    daemons.stop(options.fresh);
    status
}

/// Tells the user what is going on, on standard error: standard output is the command's.
fn say(message: impl std::fmt::Display) {
    eprintln!("engine: {message}");
}
