//! `cargo xtask image`: plans, builds and delivers the agent server's images.

mod archive;
mod batch;
mod build;
mod build_info;
mod builder;
mod cache;
mod definition;
mod events;
mod explain;
mod export;
mod failed;
mod file;
mod folder;
mod github;
mod import;
mod matrix;
mod merge;
mod plan;
mod prebuilt;
mod progress;
mod record;
mod registry;
mod report;
mod request;
mod run;
mod source;
mod summary;
mod tag;
mod trace;
mod waves;

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use pico_args::Arguments;
use xshell::Shell;

use self::build::End;
use self::builder::Builder;
use self::definition::Definition;
use self::plan::{Facts, Plan, Target};
use self::prebuilt::Prebuilt;
use self::record::{Build, Record};
use self::report::Report;
use self::request::{Delivery, Request};
use self::source::Source;
use self::waves::{Built, Run};
use crate::error::usage;
use crate::process;
use crate::results;

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
        results::write(HELP)?;
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
        return results::write(format_args!("{:#}", job.plan.bake()));
    }
    let mut tags = Vec::new();
    let ended = job.build(sh, &mut tags);
    // An image that was pushed is there, whatever became of the others or of a cache.
    tags.iter().try_for_each(results::write)?;
    ended
}

/// A request with everything that was found out for it, ready to be built.
struct Job {
    request: Request,
    source: Source,
    plan: Plan,
    build_info: Option<build_info::Place>,
    prebuilt: Option<Prebuilt>,
}

impl Job {
    fn new(sh: &Shell, mut request: Request) -> Result<Self> {
        let definition = Definition::read(sh)?;
        let source = Source::find(sh, request.sha.take(), request.git_ref.take());
        let version = match (request.versioned_tag, request.version.take()) {
            (false, _) => None,
            (true, Some(version)) => Some(version),
            (true, None) => Some(definition::pinned_version(sh)?),
        };
        let prebuilt = request.prebuilt_sdist.as_deref().map(|path| Prebuilt::open(sh, path));
        let prebuilt = prebuilt.transpose()?;
        let facts = Facts {
            source: &source,
            version: version.as_deref(),
            prebuilt: prebuilt.as_ref().map(Prebuilt::folder),
        };
        let plan = Plan::new(&request, &definition, &facts)?;
        let images = plan.targets.len() * request.platforms.len().max(1);
        let build_info = request.build_info.as_deref();
        let build_info = build_info.map(|path| build_info::Place::new(path, images));
        Ok(Job { build_info: build_info.transpose()?, request, source, plan, prebuilt })
    }

    /// Builds the images, tells what came of them, exports their caches, and reports. The tags of
    /// images that are there come into `tags`, also before an error.
    ///
    /// # Errors
    /// An image that was not built. Of what failed when all were, the error says that they are.
    fn build(&mut self, sh: &Shell, tags: &mut Vec<String>) -> Result<()> {
        let begun = Instant::now();
        if let (Some(shard), []) = (self.request.shard, self.plan.targets.as_slice()) {
            eprintln!("nothing is built: the run has too few images for the shard {shard}.");
            return self.write_outputs(&[]);
        }
        if let Some(prebuilt) = &self.prebuilt {
            prebuilt.stage()?;
        }
        let probe = registry::probe(import::first(&self.plan), self.request.cache_timeout);
        let builder = builder::check(&self.request, &mut self.plan);
        // It has ended before anything else may, so it leaves nothing behind.
        let unread = import::unread(&self.plan, probe);
        let builder = builder?;
        let Job { request, plan, .. } = &*self;
        let mut built = Built::new(plan, &self.present());
        let reading = folder::Reading::open_all(plan)?;
        let run = Run { sh, request, plan, builder: &builder, unread: &unread, begun };
        let ended = run.build(&mut built, &|target, digest| self.tell(&builder, target, digest));
        reading.into_iter().try_for_each(folder::Reading::close)?;
        let ended = ended.and_then(|()| failed::check(sh, request, plan, &built));
        let ended = ended.and_then(|()| built.exports.check(request));
        let done = self.done(&built);
        tags.extend(done.iter().flat_map(|(target, _)| &target.tags).cloned());
        self.write_outputs(&done)?;
        self.report(&run, &built, &ended)?;
        match built.missing().as_slice() {
            [] => ended.map_err(|error| error.context(self.delivered())),
            _ => ended,
        }
    }

    /// The images that need not be built, with their digests.
    fn present(&self) -> BTreeMap<usize, String> {
        if !self.request.skip_existing {
            return BTreeMap::new();
        }
        let present = waves::present(&self.plan);
        let (count, all) = (present.len(), self.plan.targets.len());
        eprintln!("{count} of {all} images are in the registry already, and are skipped.");
        present
    }

    /// The targets that are built or were there, with their digests.
    fn done(&self, built: &Built) -> Vec<(&Target, String)> {
        let targets = self.plan.targets.iter().enumerate();
        targets
            .filter_map(|(number, target)| Some((target, built.digest(number, target)?)))
            .collect()
    }

    /// Reports, and keeps what the next build is compared with.
    fn report(&self, run: &Run, built: &Built, ended: &Result<()>) -> Result<()> {
        let Run { sh, request, plan, builder, begun, .. } = *run;
        let prebuilt = self.prebuilt.as_ref().map(Prebuilt::folder);
        let inputs = LazyCell::new(|| Record::inputs(sh, prebuilt));
        let builds = plan.targets.iter().enumerate().map(|(number, target)| {
            let bake = built.bake(number).filter(|bake| bake.end == End::Done)?;
            let path = record::path(sh, request, target);
            let last = Record::load(&path, &inputs);
            let mut now = inputs.clone();
            now.add(target, &bake.trace, last.as_ref());
            Some(Build { path, now, last })
        });
        let builds = builds.collect::<Vec<_>>();
        let seconds = begun.elapsed().as_secs_f64();
        let builds = builds.as_slice();
        Report { request, plan, builder, built, builds, ended, seconds }.publish()?;
        builds.iter().flatten().try_for_each(|build| build.now.save(&build.path))
    }

    /// Says that the images are where they belong.
    fn delivered(&self) -> String {
        let tags = self.plan.targets.iter().filter_map(|target| target.tags.first());
        let how = match self.request.delivery {
            Delivery::Push => "pushed",
            Delivery::Load => "loaded",
        };
        let tags = tags.map(String::as_str).collect::<Vec<_>>().join(", ");
        format!("{tags} is built and {how}, but the run did not end well")
    }

    /// Tells other programs of an image that is built.
    fn tell(&self, builder: &Builder, target: &Target, digest: &str) -> Result<()> {
        let Job { request, source, build_info, .. } = self;
        match (build_info, request.delivery) {
            (Some(place), Delivery::Push) => {
                build_info::write(request, source, target, (&builder.platforms, digest), place)
            }
            // A fork's pull request is built by the same command, and has nothing to tell of.
            _ => Ok(()),
        }
    }

    /// Tells the GitHub Actions step, if this is one, what was built.
    fn write_outputs(&self, done: &[(&Target, String)]) -> Result<()> {
        let targets = || done.iter().map(|(target, _)| target);
        let tags = targets().flat_map(|target| &target.tags).cloned().collect::<Vec<_>>();
        let releases = targets().flat_map(|target| &target.release_tags).cloned();
        let digests = done.iter().map(|(_, digest)| digest.as_str()).collect::<Vec<_>>();
        github::write_outputs(&[
            ("image", self.request.image.clone()),
            ("short_sha", tag::short_sha(&self.source.sha).to_owned()),
            ("tags", tags.join("\n")),
            ("tags_csv", tags.join(",")),
            ("versioned_tags_csv", releases.collect::<Vec<_>>().join(",")),
            ("digest", digests.join("\n")),
        ])
    }
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
