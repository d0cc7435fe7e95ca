//! One run, from the request to its report.

use std::cell::{LazyCell, RefCell};
use std::time::Instant;

use anyhow::Result;
use xshell::Shell;

use super::build::batch::Run;
use super::build::builder::{self, Builder};
use super::build::buildx::{Buildx, Docker, End};
use super::build::built::{Built, Row};
use super::build::cache_dir::Reading;
use super::build::images::{self, ImagesBaked, Unread};
use super::build::{present, registry, server};
use super::plan::bake_file::BakeFile;
use super::plan::{Plan, Target, tag};
use super::report::build_info::Pushed;
use super::report::ended::{self, Ended};
use super::report::image::{ImageReport, Report};
use super::report::last_build::{self, Build, Record};
use super::report::manifest::Manifest;
use super::report::progress::Progress;
use super::report::{self, build_info, failed, failure, github, log, table};
use super::request::definition::Definition;
use super::request::{Delivery, Request, TagBy};
use base::error::Interrupted;
use base::message;

/// A request with everything that was found out for it, ready to be built.
pub struct Job {
    request: Request,
    server: server::Found,
    pub plan: Plan,
}

/// A run that has ended.
pub struct Finished {
    /// The tags of the images that are there, also after an error.
    pub tags: Vec<String>,
    /// The first error: an image that was not built, or what failed when all were.
    pub ended: Result<()>,
}

impl Job {
    /// Finds out what `request` needs, and plans it. A usage error for one that can't be built.
    pub fn new(sh: &Shell, request: Request) -> Result<Self> {
        let definition = Definition::read(sh)?;
        let server = server::Found::find(sh, &request)?;
        let plan = Plan::new(&request, &definition, &server.source)?;
        let images = plan.targets.len() * request.platforms.len().max(1);
        if let Some(path) = &request.build_info {
            build_info::check_path(path, images)?;
        }
        Ok(Job { request, server, plan })
    }

    /// Builds the images, exports their caches, and reports.
    pub fn build(&mut self, sh: &Shell) -> Finished {
        let started = Instant::now();
        let docker = Docker::new(sh, self.request.builder.as_deref());
        let request = &self.request;
        let said = Ended::default();
        let watch =
            |request: &Request, file: &BakeFile| Progress::watch(request, file, said.batch());
        let buildx = Buildx { sh, docker: &docker, request, watch: &watch };
        if let (Some(shard), []) = (request.shard, self.plan.targets.as_slice()) {
            message::say(&format!(
                "nothing is built: the run has too few images for the shard {shard}."
            ));
            let ended = self.write_outputs(&Built::new(&self.plan));
            return Finished { tags: Vec::new(), ended };
        }
        let prepared = match prepare(&buildx, &self.server, &mut self.plan) {
            Ok(prepared) => prepared,
            Err(error) => return Finished { tags: Vec::new(), ended: Err(error) },
        };
        let builder = &prepared.builder;
        if request.names_inputs() {
            let bases = self.plan.targets.iter().flat_map(Target::bases).collect();
            let bases = registry::base_digests(&docker, &bases);
            self.plan.add_inputs(request, &self.server.source, &bases, &builder.platforms);
        }
        let mut built = Built::new(&self.plan);
        let ended = self.run(&buildx, &prepared, &said, &mut built);
        let tags = done(&built).flat_map(|row| row.target.all_tags().cloned()).collect();
        let images = self.images(sh, &built);
        let (built, seconds) = (&built, started.elapsed().as_secs_f64());
        let pushed = || images.iter().filter_map(ImageReport::reference);
        let for_programs = pushed().filter(|_| request.report.is_some()).collect();
        let contents = registry::contents(&docker, &for_programs);
        // The images of a batch have most layers in common.
        let sized = if request.is_batch() { 1 } else { table::SHOWN };
        let for_people = pushed().filter(|_| ended.is_ok() && images.len() <= table::SHOWN);
        let parts = registry::parts(&docker, &for_people.take(sized).collect());
        let (source, ended_so) = (&self.server.source, &ended);
        let report = Report {
            request,
            builder,
            built,
            images,
            source,
            contents,
            parts,
            ended: ended_so,
            seconds,
        };
        let published = self.write_outputs(built).and_then(|()| report::publish(sh, &report));
        // The cause of a failure comes last; of a batch it was shown when the image failed.
        if let (Some(row), false) = (built.missing().first(), request.is_batch()) {
            failure::show(sh, request, built, row);
        }
        let ended = match built.missing().as_slice() {
            [] => published.and(ended.map_err(|error| error.context(self.delivered()))),
            _ => published.and(ended.map_err(|error| self.to_continue(error))),
        };
        Finished { tags, ended }
    }

    /// Builds the images that are not there; `built` is up to date at any time.
    fn run(
        &self,
        buildx: &Buildx,
        Prepared { builder, unread }: &Prepared,
        said: &Ended,
        built: &mut Built,
    ) -> Result<()> {
        let Buildx { sh, docker, request, .. } = *buildx;
        if request.skip_existing {
            self.skip(docker, builder, built)?;
        }
        let manifest = request.manifest.as_deref().map(Manifest::open).transpose()?;
        let manifest = RefCell::new(manifest);
        let on_end = |ended: &[&Row], built: &Built| {
            let logs = ended.iter().map(|row| log::save(sh, request, built, row));
            let logs = logs.collect::<Vec<_>>();
            if request.is_batch() {
                said.say(sh, request, ended, built);
            }
            let mut manifest = manifest.borrow_mut();
            let Some(manifest) = manifest.as_mut() else { return Ok(()) };
            ended.iter().zip(logs).try_for_each(|(row, log)| {
                let image = ImageReport { row, build: None, built, request };
                manifest.add(&image, log.as_deref())
            })
        };
        let reading = Reading::open_all(&self.plan)?;
        let on_done = |target: &Target, baked: &ImagesBaked| {
            let (platforms, digest) = (&builder.platforms, baked.bake.digest(&target.name));
            let pushed = Pushed { docker, platforms, digest, baked: Some(baked) };
            build_info::write(request, &self.server.source, target, &pushed)
        };
        let (plan, on_done, on_end) = (&self.plan, &on_done, &on_end);
        let run = Run { buildx: *buildx, plan, builder, unread, on_done, on_end };
        let ended = run.build(built);
        for reading in reading {
            if let Err(error) = reading.close() {
                message::warn(&format!("{error:#}"));
            }
        }
        ended?;
        failed::check(sh, request, built)?;
        built.exports.check(request)
    }

    /// Finds out which images the registry has already, and writes their build information.
    fn skip(&self, docker: &Docker, builder: &Builder, built: &mut Built) -> Result<()> {
        let is_by_content = self.request.tag_by == TagBy::Content;
        let count =
            if is_by_content { present::find(docker, built) } else { built.find_present(docker) };
        let all = built.rows.len();
        message::say(&format!("{count} of {all} images are in the registry, and skipped."));
        // An image may have been built for another branch, and its cache with it.
        if !is_by_content {
            built.find_lost_caches(docker);
        }
        for Row { target, image, .. } in built.rows.iter().filter(|row| row.image.is_there()) {
            let (platforms, digest) = (&builder.platforms, image.digest());
            let pushed = Pushed { docker, platforms, digest, baked: None };
            build_info::write(&self.request, &self.server.source, target, &pushed)?;
        }
        Ok(())
    }

    /// The images of the run, each with its last build.
    fn images<'a>(&'a self, sh: &Shell, built: &'a Built) -> Vec<ImageReport<'a>> {
        let inputs = LazyCell::new(|| Record::inputs(sh, self.server.source.folder.as_deref()));
        let compared = |row: &Row| {
            let is_wanted = |end| end == End::Done || self.request.explain;
            let images = built.bake(row).filter(|images| is_wanted(images.bake.end))?;
            let path = last_build::path(sh, &self.request, row.target);
            let last = Record::load(&path);
            let is_new = last.is_none() && self.request.explain;
            let other = is_new.then(|| last_build::on_another_base(&path)).flatten();
            let mut now = inputs.clone();
            now.add(row.target, images.first_bake(&row.target.name), last.as_ref());
            Some(Build { path, now, last, other })
        };
        let request = &self.request;
        let image = |row| ImageReport { row, build: compared(row), built, request };
        built.rows.iter().map(image).collect()
    }

    /// `error`, with the command that goes on where it stopped, if that is known to do so.
    fn to_continue(&self, error: anyhow::Error) -> anyhow::Error {
        let is_push = self.request.delivery == Delivery::Push;
        if !(self.request.is_batch() && is_push && error.is::<Interrupted>()) {
            return error;
        }
        error.context(format!("`{}` continues this batch", ended::to_continue()))
    }

    /// Says that the images are where they belong.
    fn delivered(&self) -> String {
        let tags = self.plan.targets.iter().filter_map(|target| target.tags.first());
        let how = match self.request.delivery {
            Delivery::Push => "pushed",
            Delivery::Load => "loaded",
        };
        let tags = tags.map(String::as_str).collect::<Vec<_>>().join(", ");
        format!("{tags}: {how}, but a later step failed")
    }

    /// Writes the outputs of the GitHub Actions step, if this is one.
    fn write_outputs(&self, built: &Built) -> Result<()> {
        let targets = || done(built).map(|row| row.target);
        let tags = targets().flat_map(Target::all_tags).cloned().collect::<Vec<_>>();
        let releases = targets().flat_map(|target| &target.release_tags).cloned();
        let slugs = targets().map(|target| tag::slug(&target.base_image));
        let digests = done(built).map(|row| row.image.digest().unwrap_or_default());
        github::write_outputs(&[
            ("image", self.request.image.clone()),
            ("short_sha", tag::short_sha(&self.server.source.sha).to_owned()),
            ("tags", tags.join("\n")),
            ("tags_csv", tags.join(",")),
            ("versioned_tags_csv", releases.collect::<Vec<_>>().join(",")),
            ("base_image_slug", slugs.collect::<Vec<_>>().join(",")),
            ("digest", digests.collect::<Vec<_>>().join("\n")),
        ])
    }
}

/// What a run is built with.
struct Prepared {
    builder: Builder,
    /// The caches that are not to be read.
    unread: Unread,
}

/// Finds the builder, and fits `plan` to it.
fn prepare(buildx: &Buildx, server: &server::Found, plan: &mut Plan) -> Result<Prepared> {
    server.prepare(buildx.request)?;
    let probe = images::probe(buildx.docker, plan, buildx.request.cache_timeout);
    let builder = builder::check(buildx, plan);
    // Ended before anything else may fail, so that it leaves nothing behind.
    let unread = probe.join().unwrap_or_default();
    let builder = builder?;
    server.describe();
    let is_push = buildx.request.delivery == Delivery::Push;
    for target in plan.targets.iter().filter(|target| is_push && !target.has_own_base) {
        if let Some(variant) = &target.variant {
            message::warn(&format!(
                "the tags of the variant {variant:?} will name an image on {}, which is not its \
                 own base image",
                target.base_image
            ));
        }
    }
    Ok(Prepared { builder, unread })
}

/// The rows whose images are there.
fn done<'a>(built: &'a Built<'a>) -> impl Iterator<Item = &'a Row<'a>> {
    built.rows.iter().filter(|row| row.image.is_there())
}
