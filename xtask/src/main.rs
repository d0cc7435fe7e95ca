//! The repository's tasks. Each task is a file; this one only finds the task and reports errors.

mod digest;
mod engine;
mod error;
mod http;
mod image;
mod message;
mod output;
mod process;
mod similar;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use pico_args::Arguments;
use xshell::Shell;

/// A task of this program.
struct Task {
    name: &'static str,
    help: &'static str,
    main: fn(&Shell, Arguments) -> Result<ExitCode>,
}

/// For dispatch, help and errors.
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
        main: |sh, args| engine::main(sh, &root()?, args),
    },
];

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        // Parts of it may be what a registry or a file holds.
        output::note(format_args!("error: {}", message::one_line(&format!("{error:#}"))));
        ExitCode::from(error::exit_status(&error))
    })
}

fn run() -> Result<ExitCode> {
    let mut args = Arguments::from_env();
    let name = args.subcommand().map_err(|error| error::usage(format!("{error}.")))?;
    let is_help = name.as_deref() == Some("help");
    match name {
        Some(name) if !is_help => match TASKS.iter().find(|task| task.name == name) {
            Some(task) => (task.main)(&Shell::new()?, args),
            None => Err(unknown_task(&name)),
        },
        _ => help(is_help, args),
    }
}

/// Prints the help, or that of the task that `help` names, or the version.
fn help(is_help: bool, args: Arguments) -> Result<ExitCode> {
    let words = args.finish();
    let words = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>();
    match words.first().map(AsRef::as_ref) {
        None | Some("-h" | "--help") => output::write(overview())?,
        Some("-V" | "--version") => output::write(concat!("xtask ", env!("CARGO_PKG_VERSION")))?,
        Some(name) if is_help => {
            let task = TASKS.iter().find(|task| task.name == name);
            let task = task.ok_or_else(|| unknown_task(name))?;
            return (task.main)(&Shell::new()?, Arguments::from_vec(vec!["--help".into()]));
        }
        Some(flag) => {
            return Err(error::usage(format!(
                "unexpected argument {flag:?}: `cargo xtask --help` lists the tasks."
            )));
        }
    }
    Ok(ExitCode::SUCCESS)
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
    let names = || TASKS.iter().map(|task| task.name);
    error::usage(format!(
        "there is no task {name:?}:{} The tasks are {}.",
        similar::suggestion(name, names()),
        names().collect::<Vec<_>>().join(", ")
    ))
}

/// The repository's root: the parent of this crate's folder. `cargo run` names the folder, which
/// may have moved since this was compiled.
fn root() -> Result<PathBuf> {
    let folder = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    folder.parent().map(Path::to_owned).context("xtask is not inside a workspace.")
}
