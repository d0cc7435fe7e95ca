//! The repository's tasks. Each task is a file; this one only finds the task and reports errors.

mod digest;
mod engine;
mod error;
mod http;
mod image;
mod message;
mod output;
mod process;
mod scratch;
mod similar;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use pico_args::Arguments;
use xshell::Shell;

struct Task {
    name: &'static str,
    help: &'static str,
    main: fn(&Shell, Arguments) -> Result<ExitCode>,
}

const VERSION: &str = concat!("xtask ", env!("CARGO_PKG_VERSION"));

const TASKS: &[Task] = &[
    Task {
        name: "image",
        help: "build the agent server's container images",
        main: |sh, args| {
            sh.change_dir(root()?);
            image::main(sh, args)
        },
    },
    Task {
        name: "engine",
        help: "run a command with a throw-away Docker engine",
        // The engine's command runs where the caller stands.
        main: |_, args| engine::main(&root()?, args),
    },
];

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        // Parts of it may be what a registry or a file holds.
        message::say(&format!("error: {error:#}"));
        ExitCode::from(error::exit_status(&error))
    })
}

fn run() -> Result<ExitCode> {
    let mut words = env::args_os().skip(1).peekable();
    let is_help = words.next_if(|word| word == "help").is_some();
    let name = words.next().unwrap_or_default();
    let args = if is_help { vec!["--help".into()] } else { words.collect() };
    match name.to_string_lossy().as_ref() {
        "" | "-h" | "--help" => output::write(overview())?,
        name if is_version(name) => output::write(VERSION)?,
        name => match TASKS.iter().find(|task| task.name == name) {
            Some(_) if args.first().and_then(|arg| arg.to_str()).is_some_and(is_version) => {
                output::write(VERSION)?;
            }
            Some(task) => return (task.main)(&Shell::new()?, Arguments::from_vec(args)),
            None => return Err(unknown_task(name)),
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn is_version(word: &str) -> bool {
    matches!(word, "-V" | "--version")
}

fn overview() -> String {
    let tasks = TASKS.iter().map(|task| format!("  {:<10}{}\n", task.name, task.help));
    format!(
        "The tasks of this repository.\n\nUsage: cargo xtask TASK\n\nTasks:\n{}\n\
         `cargo xtask TASK --help` explains a task; --version prints the version.",
        tasks.collect::<String>()
    )
}

fn unknown_task(name: &str) -> anyhow::Error {
    let names = TASKS.iter().map(|task| task.name);
    let suggestion = similar::suggestion(name, names.clone());
    let names = names.collect::<Vec<_>>().join(", ");
    error::usage(format!("there is no task {name:?}:{suggestion} The tasks are {names}."))
}

/// The repository's root: the parent of this crate's folder. `cargo run` names the folder, which
/// may have moved since this was compiled.
fn root() -> Result<PathBuf> {
    let folder = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    folder.parent().map(Path::to_owned).context("xtask is not inside a workspace.")
}
