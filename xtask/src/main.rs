//! The repository's tasks: `cargo xtask image`, and `cargo xtask engine`, which is a crate of its own.

mod api;
mod bases;
mod build;
mod buildkit;
mod cache_dir;
mod cli;
mod definition;
mod disk;
mod docker;
mod doctor;
mod events;
mod explain;
mod github;
mod host;
mod job;
mod merge;
mod names;
mod openapi;
mod plan;
mod progress;
mod record;
mod report;
mod serve;
mod source;
mod summary;
mod text;
mod timings;
mod trace;

use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode};

use anyhow::{Context as _, Result};
use base::{error, message, output, process, similar};

use crate::cli::{Args, Command};

const VERSION: &str = concat!("xtask ", env!("CARGO_PKG_VERSION"));

const HELP: &str = "\
The tasks of this repository.

Usage: cargo xtask TASK

Tasks:
  image     build the agent server's container images
  engine    run a command with a throw-away Docker engine

`cargo xtask TASK --help` explains a task; --version prints the version.";

/// What each subcommand of `image` does, and how it is called.
const SUBCOMMANDS: [(Command, &str, &str); 10] = [
    (Command::Build, "[OPTIONS] [-- BAKE ARGS]", "build the images"),
    (
        Command::Run,
        "[OPTIONS] [-- BAKE ARGS]",
        "build and start one image, and print its address and key",
    ),
    (Command::List, "[OPTIONS]", "print variants, targets and the tags of a request"),
    (Command::Doctor, "[OPTIONS]", "find out whether a request can be built here, and what to do"),
    (Command::Matrix, "[OPTIONS]", "print the jobs of a CI run as JSON"),
    (Command::Probe, "[OPTIONS]", "push an image of a few bytes, to try it"),
    (Command::Smoke, "FILE...", "start pushed images by their digests"),
    (Command::Api, "[OPTIONS] [IMAGE]", "compare the REST API of an image with an earlier one"),
    (Command::Merge, "[OPTIONS] FILE...", "join architectures under one tag"),
    (Command::Summary, "[OPTIONS] FILE...", "print Markdown on what was built"),
];

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
        words.rotate_left(1);
        if let Some(word) = words.last_mut() {
            *word = "--help".into();
        }
    }
    let task = if words.is_empty() { OsString::new() } else { words.remove(0) };
    let wants_version = words.first().is_some_and(|word| word == "-V" || word == "--version");
    match task.to_str() {
        Some("" | "-h" | "--help") => output::write(HELP)?,
        Some("-V" | "--version") => output::write(VERSION)?,
        Some("image" | "engine") if wants_version => output::write(VERSION)?,
        Some("image") => image(&root()?, words)?,
        Some("engine") => return engine(&words),
        _ => {
            let task = task.to_string_lossy();
            let suggestion = similar::suggestion(&task, ["image", "engine"].into_iter());
            let suggestion = suggestion.replace(" did", "; did");
            let hint = format!("expected `image` or `engine`{suggestion}");
            return Err(error::usage(format!("unknown task {task:?}\nhint: {hint}")));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the subcommand that `words` begin with.
/// Errors: a usage error for a wrong request; any other error for a build or a container that failed.
fn image(root: &Path, mut words: Vec<OsString>) -> Result<()> {
    let own = words.iter().take_while(|word| *word != "--").collect::<Vec<_>>();
    let asks_short = own.iter().any(|word| *word == "-h");
    let mut wants_help = asks_short || own.iter().any(|word| *word == "--help");
    if wants_help {
        words.retain(|word| word != "-h" && word != "--help");
    }
    let mut name = subcommand(&mut words);
    if name == "help" {
        wants_help = true;
        name = subcommand(&mut words);
    }
    let Some((command, ..)) = SUBCOMMANDS.into_iter().find(|(command, ..)| command.name() == name)
    else {
        let names =
            SUBCOMMANDS.iter().map(|(command, ..)| command.name()).filter(|name| !name.is_empty());
        let suggestion = similar::suggestion(&name, names.clone());
        let names = names.collect::<Vec<_>>().join(", ");
        return Err(error::usage(format!(
            "unknown subcommand {name:?}\nhint: expected one of {names} (or none, to build){}",
            suggestion.replace(" did", "; did")
        )));
    };
    if wants_help {
        let is_short = asks_short && command == Command::Build;
        return output::write(help(command, is_short).trim_end());
    }
    let mut args = Args::read(command, words)?;
    // Not before the request is read, which may take as long as somebody types a list.
    process::catch_signals();
    match command {
        Command::Build => build(root, &args),
        Command::Run => serve::run(root, &mut args),
        Command::List => doctor::list(root, &args),
        Command::Doctor => doctor::doctor(root, &args),
        Command::Matrix => merge::matrix(root, &args),
        Command::Probe => merge::probe(root, &args),
        Command::Smoke => serve::smoke(root, &args),
        Command::Api => api::main(root, &args),
        Command::Merge => merge::merge(root, &args),
        Command::Summary => summary::summary(root, &args),
    }
}

/// Takes the name of a subcommand from `words`; empty where they begin with a flag.
fn subcommand(words: &mut Vec<OsString>) -> String {
    match words.first() {
        Some(word) if !word.to_string_lossy().starts_with('-') => {
            words.remove(0).to_string_lossy().into_owned()
        }
        _ => String::new(),
    }
}

/// What `command` does and takes. The build's help lists the other subcommands too.
fn help(command: Command, is_short: bool) -> String {
    let own = SUBCOMMANDS.iter().find(|(own, ..)| *own == command);
    let (usage, about) = own.map_or(("", ""), |(_, usage, about)| (usage, about));
    let mut help = format!("Usage: {} {usage}\n\n", cli::call(command));
    if command == Command::Build {
        help += "Builds the agent server's container images, or with a name:\n";
        for (command, _, about) in &SUBCOMMANDS[1..] {
            help += &format!("  {:<9} {about}\n", command.name());
        }
        help += "`cargo xtask image help NAME` explains one.\n";
    } else {
        help += &format!("{}{}.\n", about[..1].to_uppercase(), &about[1..]);
    }
    let flags = cli::help(command, is_short);
    if flags.is_empty() {
        return help;
    }
    if is_short {
        help += "\n`--help` explains each of these flags and variables:\n";
    } else {
        help += "\nFlags override variables. Empty variables are ignored, except the two\n\
                 INSTALL_ ones, where empty means \"none\". A switch's variable is 1 or 0.\n";
    }
    help + &flags
}

/// Builds what `args` ask for, or prints it.
fn build(root: &Path, args: &Args) -> Result<()> {
    if args.print {
        let (.., images) = build::planned(root, args)?;
        return output::write(format_args!("{:#}", plan::print(&images)));
    }
    let finished = build::run(root, args);
    // An image that was pushed is there, whatever happened to the others or to a cache. At a terminal, the
    // lines of a batch have named those of its images.
    if !(finished.records.len() > 1 && io::stdout().is_terminal()) {
        for record in finished.records.iter().filter(|record| record.status.is_there()) {
            record.all_tags().try_for_each(output::write)?;
        }
    }
    finished.ended
}

/// Becomes the engine, a program of its own that cargo compiles when it is called. The command runs
/// where the caller stands; signals, input and the exit status are the engine's.
fn engine(words: &[OsString]) -> Result<ExitCode> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Process::new(cargo);
    command.args(["run", "--package", "engine", "--manifest-path"]);
    command.arg(root()?.join("Cargo.toml")).arg("--").args(words);
    Err(command.exec()).context("cannot run cargo")
}

/// The repository's root: the parent of this crate's folder. `cargo run` names the folder, which may have
/// moved since this was compiled; within the engine's command it names the engine's.
fn root() -> Result<PathBuf> {
    let compiled = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let named = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let folder = named.filter(|folder| folder.ends_with("xtask")).unwrap_or(compiled);
    folder.parent().map(Path::to_owned).context("xtask is not inside a workspace")
}
