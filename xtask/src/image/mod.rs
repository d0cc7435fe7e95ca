//! `cargo xtask image`: plans, builds and delivers the agent server's images.

mod api;
mod build;
mod doctor;
mod job;
mod list;
mod matrix;
mod merge;
mod plan;
mod report;
mod request;
mod run;
mod summary;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use anyhow::Result;
use pico_args::Arguments;
use xshell::Shell;

use self::job::Job;
use self::request::Request;
use self::request::flags::{self, Subcommand};
use base::error::usage;
use base::output;
use base::process;
use base::similar::suggestion;

struct Task {
    command: Subcommand,
    help: &'static str,
    usage: &'static str,
    /// Gets the arguments, and those behind `--`.
    main: fn(&Shell, Arguments, Vec<OsString>) -> Result<()>,
}

const TASKS: &[Task] = &[
    Task {
        command: Subcommand::Build,
        help: "build the images",
        usage: "[OPTIONS] [-- BAKE ARGS]",
        main: image,
    },
    Task {
        command: Subcommand::Run,
        help: "build, load and start one image, and print address and key",
        usage: "[OPTIONS] [-- BAKE ARGS]",
        main: run::main,
    },
    Task {
        command: Subcommand::List,
        help: "print variants, targets and the tags of a request",
        usage: "[OPTIONS]",
        main: |sh, args, _| list::main(sh, args),
    },
    Task {
        command: Subcommand::Doctor,
        help: "find out whether a request can be built here, and what to do",
        usage: "[OPTIONS]",
        main: |sh, args, _| doctor::main(sh, args),
    },
    Task {
        command: Subcommand::Matrix,
        help: "print the jobs of a CI run as JSON",
        usage: "[OPTIONS]",
        main: |sh, args, _| matrix::main(sh, args),
    },
    Task {
        command: Subcommand::Probe,
        help: "push an image of a few bytes, to try it",
        usage: "[OPTIONS]",
        main: |sh, args, _| merge::probe(sh, args),
    },
    Task {
        command: Subcommand::Smoke,
        help: "start pushed images by their digests",
        usage: "FILE...",
        main: |sh, args, _| run::smoke(sh, args),
    },
    Task {
        command: Subcommand::Api,
        help: "compare the REST API of an image with an earlier one",
        usage: "[OPTIONS] [IMAGE]",
        main: |sh, args, _| api::main(sh, args),
    },
    Task {
        command: Subcommand::Merge,
        help: "join architectures under one tag",
        usage: "[OPTIONS] FILE...",
        main: |sh, args, _| merge::main(sh, args),
    },
    Task {
        command: Subcommand::Summary,
        help: "print Markdown on what was built",
        usage: "[OPTIONS] FILE...",
        main: |sh, args, _| summary::main(sh, args),
    },
];

/// Runs the subcommand that `args` begin with.
/// Errors: a usage error for a wrong request; any other error for a build or container that failed.
pub fn main(sh: &Shell, args: Arguments) -> Result<ExitCode> {
    let (mut args, bake_args) = split_at_dashes(args);
    let mut wants_help = args.contains(["-h", "--help"]);
    let mut name = subcommand(&mut args)?;
    if name == "help" {
        wants_help = true;
        name = subcommand(&mut args)?;
    }
    let task = TASKS.iter().find(|task| task.command.name() == name);
    let task = task.ok_or_else(|| unknown(&name))?;
    match bake_args.first() {
        _ if wants_help => output::write(help(task))?,
        Some(arg) if !task.usage.ends_with("BAKE ARGS]") => {
            return Err(flags::unexpected(&arg.to_string_lossy(), task.command));
        }
        _ => (task.main)(sh, args, bake_args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn subcommand(args: &mut Arguments) -> Result<String> {
    Ok(args.subcommand().map_err(|error| usage(format!("{error}.")))?.unwrap_or_default())
}

fn unknown(name: &str) -> anyhow::Error {
    let names = TASKS.iter().map(|task| task.command.name()).filter(|name| !name.is_empty());
    let suggestion = suggestion(name, names.clone());
    let names = names.collect::<Vec<_>>().join(", ");
    usage(format!(
        "there is no image task {name:?}:{suggestion} There are {names}; without one, images are \
         built."
    ))
}

/// What `task` does and takes. The build's help lists the other subcommands too.
fn help(task: &Task) -> String {
    let mut about = format!("It can {}.\n", task.help);
    if task.command == Subcommand::Build {
        let others = TASKS.iter().filter(|task| task.command != Subcommand::Build);
        let row = |task: &Task| format!("  {:<9} {}\n", task.command.name(), task.help);
        about = format!(
            "Builds the agent server's container images, or:\n{}\
             `cargo xtask image help NAME` explains one.\n\n\
             A flag beats its variable. A switch's variable is 1 or 0.\n",
            others.map(row).collect::<String>()
        );
    }
    let options = flags::help(task.command);
    format!("Usage: {} {}\n\n{about}{}", task.command.call(), task.usage, options.trim_end())
}

fn image(sh: &Shell, mut args: Arguments, bake_args: Vec<OsString>) -> Result<()> {
    let print = flags::PRINT.is_given(&mut args);
    let request = Request::read(&mut args, bake_args)?;
    flags::finish(args, Subcommand::Build)?;
    // Not before the request is read, which may take as long as somebody types a list.
    process::catch_signals();
    let is_batch = request.is_batch();
    let mut job = Job::new(sh, request)?;
    if print {
        return output::write(format_args!("{:#}", job.plan.print()));
    }
    let finished = job.build(sh);
    // An image that was pushed is there, whatever happened to the others or to a cache.
    // The lines of a batch have named those of its images to whoever sees them.
    if !(is_batch && io::stdout().is_terminal()) {
        finished.tags.iter().try_for_each(output::write)?;
    }
    finished.ended
}

/// The flags before `--`, and the arguments behind it. An empty value, as in `--arch=`, is a value.
/// `--timings` needs none, which reads as an empty one.
fn split_at_dashes(args: Arguments) -> (Arguments, Vec<OsString>) {
    let mut flags = Vec::new();
    let mut rest = args.finish().into_iter();
    for arg in rest.by_ref().take_while(|arg| arg != "--") {
        let bare = arg.to_str().filter(|arg| *arg == flags::TIMINGS.name);
        match bare.or(arg.to_str().and_then(|arg| arg.strip_suffix('='))) {
            Some(flag) if flag.starts_with("--") => flags.extend([flag.into(), OsString::new()]),
            _ => flags.push(arg),
        }
    }
    (Arguments::from_vec(flags), rest.collect())
}
