//! `cargo xtask engine`: runs a command with a private Docker engine and a registry. Its programs
//! and data are below `target/engine`; what it changes on the host, it restores.

mod cgroup;
mod command;
mod daemons;
mod data;
mod emulate;
mod host;
mod image;
mod network;
mod packages;
mod sandbox;
mod shared;

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use base::error::{self, usage};
use base::{lock, message, output, process};
use pico_args::Arguments;

use crate::daemons::Daemons;
use crate::host::Claim;
use crate::shared::say;

const HELP: &str = "\
Run a command with a private Docker engine and a registry on a loopback port.

Usage: cargo xtask engine [OPTIONS] [-- COMMAND...]

Without COMMAND, open your shell with `(engine)` in its prompt. Needs root on Debian or Ubuntu, and
no Docker. The exit status is the command's. Containers end with it. Images, build cache and the
content of the registry stay in target/engine for the next call. `debian:trixie-slim` is there.

Options:
  --fresh          start empty, and leave only downloads
  --emulate        run programs of the other architecture (amd64, arm64) with QEMU
  --release NAME   take Docker from this Debian release: trixie (default), forky or sid
  --prune          remove what earlier calls left, except downloads
  -h, --help       print this help

The command finds in its environment:
  DOCKER_HOST, DOCKER_CONFIG, PATH        the engine, and docker with buildx
  XTASK_REGISTRY                          the registry, as 127.0.0.1:PORT
  XTASK_ENGINE_LOG, XTASK_REGISTRY_LOG    paths of their logs

XTASK_ENGINE_KEEP_MB (20000) limits what stays: the oldest go first, and never what the last call used.";

fn main() -> ExitCode {
    let words = env::args_os().skip(1).collect();
    let root = base::root("xtask/engine", env!("CARGO_MANIFEST_DIR"));
    let status = engine(&root, words).unwrap_or_else(|error| {
        message::error(&error);
        error::exit_status(&error)
    });
    ExitCode::from(status)
}

/// Does what the `words` of the command line say, and returns the exit status; the repository's
/// `root` has the folder for downloads and data. An engine is started for the command, and stopped.
/// Errors: a usage error for a wrong request; `Interrupted` on a signal while the engine starts.
fn engine(root: &Path, mut words: Vec<OsString>) -> Result<u8> {
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let command: Vec<OsString> = words.split_off(end).into_iter().skip(1).collect();
    let mut flags = Arguments::from_vec(words);
    if flags.contains(["-h", "--help"]) {
        return output::write(HELP).map(|()| 0);
    }
    let release: Option<String> =
        flags.opt_value_from_str("--release").map_err(|error| usage(error.to_string()))?;
    let release = release.as_deref().unwrap_or(packages::RELEASE);
    let [prune, fresh, emulate] =
        ["--prune", "--fresh", "--emulate"].map(|flag| flags.contains(flag));
    if let Some(other) = flags.finish().first() {
        return Err(usage(format!(
            "unexpected or repeated argument {:?}\nhint: the options are --fresh, --emulate, --release \
             and --prune; the command comes after `--`",
            other.to_string_lossy()
        )));
    }
    // The name becomes part of paths and of apt's sources.
    if release.is_empty() || !release.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return Err(usage(format!(
            "--release {release:?} is not a Debian release\nhint: use a code name, such as trixie or \
             forky"
        )));
    }
    let folder = root.join("target/engine");
    if prune {
        if !command.is_empty() {
            return Err(usage("--prune runs no command\nhint: leave out `--` and the command"));
        }
        return data::prune(&folder).map(|()| 0);
    }

    let started = Instant::now();
    host::check(&folder)?;
    process::catch_signals();
    let downloads = folder.join("downloads");
    let programs = packages::get(&downloads, release)?;
    command::check(&command, &programs)?;
    // What is set up from here on is undone, in reverse order, when it goes out of scope.
    let data = data::take(&folder, release, fresh)?;
    let claim = Claim::take(&programs)?;
    let architectures = if emulate { &["amd64", "arm64"][..] } else { &[packages::ARCH] };
    if emulate {
        emulate::register(&claim.folder, &downloads)?;
    }
    for arch in architectures {
        image::get(&downloads, arch, None)?;
    }
    let daemons = Daemons::start(&data, &claim)?;
    image::load(&downloads, architectures, &claim)?;
    let (seconds, steps) = (started.elapsed().as_secs_f64(), lock(&sandbox::TIMES).join(", "));
    say(format_args!("ready in {seconds:.1} s ({steps}), registry {}", daemons.address));

    let status = command::run(&command, &daemons);
    // Nobody will read the data of a fresh one again.
    if !fresh {
        daemons.stop();
    }
    status
}
