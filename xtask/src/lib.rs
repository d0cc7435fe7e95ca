//! `cargo xtask image`.

mod api;
mod build;
mod cache_dir;
mod docker;
mod doctor;
mod explain;
mod github;
mod job;
mod merge;
mod progress;
mod report;
mod serve;
mod summary;
mod timings;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::path::Path;

use anyhow::Result;
use base::{error, message, output, process, similar};
use request::cli::{self, Args, Command};
use request::facts::Facts;
use request::plan;

/// What each subcommand of `image` does, and how it is called.
const SUBCOMMANDS: [(Command, &str, &str); 10] = [
    (Command::Build, "[OPTIONS] [-- BAKE ARGS]", "build the images"),
    (Command::Run, "[OPTIONS] [-- BAKE ARGS]", "build and start an image, print address and key"),
    (Command::List, "[OPTIONS]", "print variants, targets and the tags of a request"),
    (Command::Doctor, "[OPTIONS]", "find out whether a request can be built here, and what to do"),
    (Command::Matrix, "[OPTIONS]", "print the jobs of a CI run as JSON"),
    (Command::Probe, "[OPTIONS]", "push an image of a few bytes, to try it"),
    (Command::Smoke, "FILE...", "start pushed images by their digests"),
    (Command::Api, "[OPTIONS] [IMAGE]", "compare the REST API of an image with an earlier one"),
    (Command::Merge, "[OPTIONS] FILE...", "join architectures under one tag"),
    (Command::Summary, "[OPTIONS] FILE...", "print Markdown on what was built"),
];

/// Runs the subcommand that `words` begin with. Errors: usage, or a build or a container that failed.
pub fn main(root: &Path, mut words: Vec<OsString>) -> Result<()> {
    // `help run` means `run --help`.
    if let Some(word) = words.first_mut().filter(|word| *word == "help") {
        *word = "--help".into();
    }
    let asks = |flag: &str| words.iter().take_while(|word| *word != "--").any(|word| word == flag);
    let (asks_short, asks_help) = (asks("-h"), asks("-h") || asks("--help"));
    if asks_help {
        words.retain(|word| word != "-h" && word != "--help");
    }
    let has_name = words.first().is_some_and(|word| !word.to_string_lossy().starts_with('-'));
    let name = if has_name { words.remove(0) } else { OsString::new() };
    let name = name.to_string_lossy();
    let Some(subcommand) = SUBCOMMANDS.iter().find(|(command, ..)| command.name() == name) else {
        let names = SUBCOMMANDS[1..].iter().map(|(command, ..)| command.name());
        let hint = similar::use_one_of(&name, &names.collect::<Vec<_>>());
        return Err(error::usage(format!("unknown subcommand {name:?}\nhint: {hint}")));
    };
    let command = subcommand.0;
    if asks_help {
        let is_short = asks_short && command == Command::Build;
        return output::write(help(subcommand, is_short).trim_end());
    }
    let args = Args::read(command, &words)?;
    // Not before the request is read, which may take as long as somebody types a list.
    process::catch_signals();
    match command {
        Command::Build => build_images(root, &args),
        Command::Run => serve::run(root, &args),
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

/// What a subcommand does and takes. The build's help lists the others too.
fn help(&(command, usage, about): &(Command, &str, &str), is_short: bool) -> String {
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
    if is_short {
        help += "\n`--help` explains each of these flags and variables:\n";
    } else if !flags.is_empty() {
        help += "\nFlags override variables. Empty variables are ignored, except the two\n\
                 INSTALL_ ones, where empty means \"none\". A switch's variable is 1 or 0.\n\n\
                 Options and variables, with [VARIABLE; default]:\n";
    }
    help + &flags
}

/// Builds what `args` ask for, or prints it.
fn build_images(root: &Path, args: &Args) -> Result<()> {
    if args.print {
        let facts = Facts::read(root, args)?;
        let images = plan::plan(args, &facts)?;
        if !facts.host.variables.is_empty() {
            message::warn(
                "`docker buildx bake` alone builds this without the settings of your mirrors",
            );
        }
        return output::write(format_args!("{:#}", plan::print(&images)));
    }
    let mut records = Vec::new();
    let built = build::run(root, args, &mut records);
    // What was pushed is there, whatever happened to the others. At a terminal, a batch has named it.
    let is_told = records.len() > 1 && io::stdout().is_terminal();
    let mut there = records.iter().filter(|record| !is_told && record.status.is_there());
    let printed = there.try_for_each(|record| record.all_tags().try_for_each(output::write));
    message::ended_by([built, printed].into_iter().filter_map(Result::err))
}
