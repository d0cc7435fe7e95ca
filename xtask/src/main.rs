//! The repository's tasks. Each task is a file; this one only finds the task and reports errors.

mod digest;
mod engine;
mod error;
mod http;
mod image;
mod output;
mod process;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use pico_args::Arguments;
use xshell::Shell;

const HELP: &str = "\
The tasks of this repository.

Usage: cargo xtask TASK

Tasks:
  image     build the agent server's container images
  engine    run a command with a throw-away Docker engine

`cargo xtask TASK --help` tells more.";

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(error::exit_status(&error))
    })
}

fn run() -> Result<ExitCode> {
    let mut args = Arguments::from_env();
    let task = args.subcommand().map_err(|error| error::usage(format!("{error}.")))?;
    let sh = Shell::new()?;
    match task.as_deref() {
        Some("image") => {
            sh.change_dir(root()?);
            image::main(&sh, args)
        }
        // The engine's command runs where the caller stands.
        Some("engine") => engine::main(&sh, &root()?, args),
        Some(unknown) => {
            Err(error::usage(format!("there is no task {unknown:?}: the tasks are image, engine.")))
        }
        None => match args.finish().first() {
            Some(flag) if flag != "-h" && flag != "--help" => Err(error::usage(format!(
                "{:?} is not expected: `cargo xtask --help` lists the tasks.",
                flag.to_string_lossy()
            ))),
            _ => {
                output::write(HELP)?;
                Ok(ExitCode::SUCCESS)
            }
        },
    }
}

/// The repository's root: the parent of this crate's folder. `cargo run` tells the folder, which
/// may have moved since this was compiled.
fn root() -> Result<PathBuf> {
    let folder = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    folder.parent().map(Path::to_owned).context("xtask is not inside a workspace.")
}
