//! The repository's tasks: `image`, this package's library, and `engine`, a crate of its own.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use base::{error, message, output, similar};

const VERSION: &str = concat!("xtask ", env!("CARGO_PKG_VERSION"));

const HELP: &str = "\
The tasks of this repository.

Usage: cargo xtask TASK

Tasks:
  image     build the agent server's container images
  engine    run a command with a throw-away Docker engine

`cargo xtask TASK --help` explains a task; --version prints the version.";

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        message::error(&error);
        ExitCode::from(error::exit_status(&error))
    })
}

fn run() -> Result<ExitCode> {
    let mut words: Vec<OsString> = env::args_os().skip(1).collect();
    // `help image run` means `image run --help`.
    if words.first().is_some_and(|word| word == "help") {
        words.remove(0);
        words.push("--help".into());
    }
    let task = if words.is_empty() { OsString::new() } else { words.remove(0) };
    let wants_version = words.first().is_some_and(|word| word == "-V" || word == "--version");
    let root = base::root("xtask", env!("CARGO_MANIFEST_DIR"));
    match task.to_str() {
        Some("" | "-h" | "--help") => output::write(HELP)?,
        Some("-V" | "--version") => output::write(VERSION)?,
        Some("image" | "engine") if wants_version => output::write(VERSION)?,
        Some("image") => image::main(&root, words)?,
        Some("engine") => return engine(&root, &words),
        _ => {
            let task = task.to_string_lossy();
            let hint = similar::use_one_of(&task, &["image", "engine"]);
            return Err(error::usage(format!("unknown task {task:?}\nhint: {hint}")));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes the engine, a program of its own that cargo compiles when it is called.
fn engine(root: &Path, words: &[OsString]) -> Result<ExitCode> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["run", "--package", "engine", "--manifest-path"]);
    command.arg(root.join("Cargo.toml")).arg("--").args(words);
    Err(command.exec()).context("cannot run cargo")
}
