//! One run, from the request to its report.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use xshell::Shell;

use super::build::batch::{self, Built, Run};
use super::build::builder::{self, Builder};
use super::build::images::End;
use super::build::{cache_dir, checkout, probe, registry};
use super::plan::{Facts, Plan, Target, tag};
use super::report::console::Console;
use super::report::last_build::{self, Build, Record};
use super::report::{Report, build_info, failed, github};
use super::request::definition::{self, Definition};
use super::request::prebuilt::Prebuilt;
use super::request::source::Source;
use super::request::{Delivery, Request};

/// A request with everything that was found out for it, ready to be built.
pub struct Job {
    pub request: Request,
    source: Source,
    pub plan: Plan,
    build_info: Option<build_info::Place>,
    prebuilt: Option<Prebuilt>,
}

impl Job {
    /// # Errors
    /// A usage error for a request that can't be built.
    pub fn new(sh: &Shell, mut request: Request) -> Result<Self> {
        let definition = Definition::read(sh)?;
        let source = checkout::source(sh, request.sha.take(), request.git_ref.take());
        let prebuilt = request.prebuilt_sdist.as_deref().map(|path| Prebuilt::open(sh, path));
        let prebuilt = prebuilt.transpose()?;
        let of_prebuilt = prebuilt.as_ref().and_then(Prebuilt::version).map(str::to_owned);
        let version = match (request.versioned_tag, request.version.take().or(of_prebuilt)) {
            (false, _) => None,
            (true, Some(version)) => Some(version),
            (true, None) => Some(definition::pinned_version(sh)?),
        };
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
    pub fn build(&mut self, sh: &Shell, tags: &mut Vec<String>) -> Result<()> {
        let begun = Instant::now();
        if let (Some(shard), []) = (self.request.shard, self.plan.targets.as_slice()) {
            eprintln!("nothing is built: the run has too few images for the shard {shard}.");
            return self.write_outputs(&[]);
        }
        if let Some(prebuilt) = &self.prebuilt {
            prebuilt.stage()?;
        }
        let probe = registry::probe(probe::first(&self.plan), self.request.cache_timeout);
        let console = Console::new(&self.request);
        let builder = builder::check(&self.request, &mut self.plan, &console);
        // It has ended before anything else may, so it leaves nothing behind.
        let unread = probe::unread(&self.plan, probe);
        let builder = builder?;
        let Job { request, plan, .. } = &*self;
        let mut built = Built::new(plan, &self.present());
        let reading = cache_dir::Reading::open_all(plan)?;
        let run = Run { sh, request, plan, builder: &builder, unread: &unread, begun };
        let ended = run.build(&mut built, &|target, digest| self.tell(&builder, target, digest));
        reading.into_iter().try_for_each(cache_dir::Reading::close)?;
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
        let present = batch::present(&self.plan);
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
            let path = last_build::path(sh, request, target);
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
                let digest = Some(digest).filter(|digest| !digest.is_empty());
                let pushed = build_info::Pushed { platforms: &builder.platforms, digest };
                build_info::write(request, source, target, &pushed, place)
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
