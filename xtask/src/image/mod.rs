//! `cargo xtask image`: plans, builds and delivers the agent server's images.

mod build;
mod job;
mod matrix;
mod merge;
mod plan;
mod report;
mod request;
mod run;
mod summary;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use pico_args::Arguments;
use xshell::Shell;

use self::job::Job;
use self::request::Request;
use crate::error::usage;
use crate::output;
use crate::process;

const HELP: &str = "\
Builds the agent server's container images.

Usage: cargo xtask image [OPTIONS] [-- BAKE ARGS]    build it
       cargo xtask image run [OPTIONS]               build, load and start it
       cargo xtask image matrix [--variant NAME]     a CI run's jobs, as JSON
       cargo xtask image merge FILE...               join architectures
       cargo xtask image summary FILE...             Markdown of what was built

Options, each with its variable and default:
  --variant NAME         VARIANT         python; repeat, a,b or all
  --base-image REF       BASE_IMAGE      the variant's; repeat for several
  --base-images FILE                     a list of more, one a line; - is stdin
  --shard K/N                            all; else part K of N
  --custom-tags A,B      CUSTOM_TAGS     the variant's name, or none
  --image REPO           IMAGE           ghcr.io/openhands/agent-server
  --target NAME          TARGET          binary
  --platforms LIST       PLATFORMS       the engine's own
  --arch SUFFIX          ARCH            none
  --push, --load         PUSH=1, LOAD=1  push where CI is true, else load
  --versioned-tag        VERSIONED_TAG=1 off
  --prebuilt-sdist PATH  PREBUILT_SDIST  none: the pinned release from PyPI
  --builder NAME         BUILDX_BUILDER  buildx's own choice
  --build-info PATH                      none; where to tell what was pushed
  --jobs NUMBER                          8; how many images a bake builds
  --skip-existing                        off; leave out what is pushed already
  --report FILE                          none; where the report goes as JSON
  --strict-cache                         off; fail if a cache was not written
  --explain                              off; say why steps ran
  --print                                print the definition, build nothing
  --port NUMBER                          8000; for run

Cache: OPENHANDS_BUILDKIT_CACHE_MODE=off|min|max             max
       OPENHANDS_SHARED_REGISTRY_CACHE_EXPORT=1             off
       OPENHANDS_BUILDKIT_CACHE_TIMEOUT=TIME, of exports    10m
       BUILD_CACHE_DIR=FOLDER, for builds that load         none";

/// Runs the task.
///
/// # Errors
/// A usage error for a wrong request; any other error for a build or a container that failed.
pub fn main(sh: &Shell, args: Arguments) -> Result<ExitCode> {
    let (mut args, bake_args) = split_at_dashes(args);
    if args.contains(["-h", "--help"]) {
        output::write(HELP)?;
        return Ok(ExitCode::SUCCESS);
    }
    match args.subcommand().map_err(|error| usage(format!("{error}.")))?.as_deref() {
        None => image(sh, args, bake_args)?,
        Some("run") => run::main(sh, args, bake_args)?,
        Some("matrix") => matrix::main(sh, args)?,
        Some("merge") => merge::main(sh, args)?,
        Some("summary") => summary::main(args)?,
        Some(unknown) => {
            return Err(usage(format!(
                "there is no image task {unknown:?}: there are run, matrix, merge, summary."
            )));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn image(sh: &Shell, mut args: Arguments, bake_args: Vec<OsString>) -> Result<()> {
    let print = args.contains("--print");
    let request = Request::read(&mut args, bake_args)?;
    request::finish(args)?;
    // Not before the request is read, which may take as long as somebody types a list.
    process::catch_signals();
    let mut job = Job::new(sh, request)?;
    if print {
        return output::write(format_args!("{:#}", job.plan.bake()));
    }
    let mut tags = Vec::new();
    let ended = job.build(sh, &mut tags);
    // An image that was pushed is there, whatever became of the others or of a cache.
    tags.iter().try_for_each(output::write)?;
    ended
}

/// The flags before `--`, and what comes after it. An empty value, as in `--arch=`, is a value.
fn split_at_dashes(args: Arguments) -> (Arguments, Vec<OsString>) {
    let mut flags = Vec::new();
    let mut rest = args.finish().into_iter();
    for arg in rest.by_ref().take_while(|arg| arg != "--") {
        match arg.to_str().and_then(|arg| arg.strip_suffix('=')) {
            Some(flag) if flag.starts_with("--") => flags.extend([flag.into(), OsString::new()]),
            _ => flags.push(arg),
        }
    }
    (Arguments::from_vec(flags), rest.collect())
}
