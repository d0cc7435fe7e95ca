//! A run: what was typed, and what is found out, become a plan; each image of it is built by processes of
//! its own, some at once, and ends in a record.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::mem;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use base::error::Interrupted;
use base::scratch::Scratch;
use base::{lock, message, process, status};

use crate::cache_dir::Reading;
use crate::docker::{self, Docker, SHORT_PATIENCE};
use crate::explain::Last;
use crate::job::Job;
use crate::progress::Progress;
use crate::{disk, report};
use outcome::cause::{self, Cause};
use outcome::record::{self, CacheWritten, Layer, Record, Status};
use outcome::trace::{Failure, Span};
use outcome::vertex::Phase;
use request::bases::Shard;
use request::cli::{Args, Check, Mode, TagBy};
use request::facts::{Builder, Facts};
use request::names::{self, Cache};
use request::plan::{self, Image};

/// How many images in a row may fail by one cause before the others are not tried.
const ALIKE: usize = 3;
/// How often a batch looks at the engine's disk, in images.
const DISK_CHECK: usize = 8;

/// A run: what it is made with, and what came of it so far.
pub struct Ctx<'a> {
    pub args: &'a Args,
    pub facts: &'a Facts,
    pub builder: &'a Builder,
    pub docker: &'a Docker,
    pub images: &'a [Image],
    /// Caches that are not to be read, each with the reason, by the name that `BuildKit` uses.
    pub unread: BTreeMap<String, String>,
    pub progress: Progress,
    /// What the last builds on this machine were made of.
    pub last: Last,
    run: Mutex<Run>,
}

impl Ctx<'_> {
    /// What has been built so far.
    pub fn run(&self) -> MutexGuard<'_, Run> {
        lock(&self.run)
    }
}

/// An image of a run that has ended, with what only this run knows of it.
#[derive(Default)]
pub struct Ended {
    pub record: Record,
    pub spans: Vec<(Phase, Vec<Span>)>,
    pub failure: Option<Failure>,
    pub cause: Option<Cause>,
    /// The base images that were used, with their digests.
    pub bases: BTreeMap<String, String>,
}

/// Builds what `args` ask for, delivers it, exports caches, and reports; `records` gets one of each image.
/// Errors: the first one, of an image that was not built, or of what failed when all were.
pub fn run(root: &Path, args: &Args, records: &mut Vec<Record>) -> Result<()> {
    let started = Instant::now();
    // Found out before anything is built: all that a run writes is below this.
    Scratch::within(&root.join("target/image/tmp"))?;
    let mut facts = Facts::read(root, args)?;
    let file = args.records.as_deref().map(record::open).transpose()?;
    facts.source.check(args)?;
    // What is wrong with the request is said before anything is asked, also by an empty shard.
    let count = plan::plan(args, &facts)?.len();
    if let (0, Some(Shard { number, of })) = (count, args.shard) {
        message::say(&format!("shard {number}/{of} is empty; nothing to build"));
        return report::write_outputs(args, &facts.source, &[]);
    }

    // All that is asked of docker and of registries, at once.
    let docker = Docker::new(root, args.builder.as_deref());
    let reads_caches = args.push || args.ci || args.cache_dir.is_some();
    let is_compared = facts.definition.has_check && args.check() == Check::First && count > 1;
    let (builder, was_empty, known) = thread::scope(|scope| {
        let known = scope.spawn(|| docker.bases(&facts.needed, args.push, is_compared));
        let was_empty = scope.spawn(|| if reads_caches { docker.is_empty() } else { None });
        let builder = docker.inspect();
        (builder, was_empty.join().unwrap_or_default(), known.join().unwrap_or_default())
    });
    let builder = Builder { was_empty, ..builder? };
    process::check_signals()?;
    builder.check_platforms(&args.platforms)?;
    (facts.builder, facts.bases) = (Some(builder.clone()), known);
    let facts = &facts;
    let images = &plan::plan(args, facts)?;
    message::say(&format!("server: {}", facts.source.describe()));
    facts.warn_of_triggers();
    warn_of_request(args, &builder, images)?;
    let docker = &if images.len() > DISK_CHECK { docker.for_many() } else { docker };
    // `BuildKit` waits forever for a cache, and so does whatever it builds after that. One cache is asked
    // for and stands for all, as they are in one repository.
    let limit = args.cache_timeout.min(SHORT_PATIENCE);
    let caches = images.iter().flat_map(|image| &image.cache_read);
    let mut caches = caches.filter(|cache| matches!(cache, Cache::Registry(_))).map(Cache::name);
    let mut unread = BTreeMap::new();
    if let Some(first) = caches.next()
        && let asked = Instant::now()
        && let Err(why) = docker.raw_manifest(first, limit)
        && asked.elapsed() >= limit
    {
        let names = [first].into_iter().chain(caches);
        unread.extend(names.map(|name| (name.to_owned(), why.to_string())));
    }
    let ctx = Ctx {
        args,
        facts,
        builder: &builder,
        docker,
        images,
        unread,
        progress: Progress::new(args.progress.as_deref(), args.ci, images.len()),
        last: Last::new(root, args, &facts.source),
        run: Mutex::new(Run { records: file, ..Run::default() }),
    };
    let reading = Reading::open_all(images)?;
    build_all(&ctx);
    status::clear();
    drop(reading);
    let mut run = mem::take(&mut *ctx.run());
    if let Some(signal) = process::caught() {
        run.errors.insert(0, Interrupted(signal).into());
    }
    for (number, image) in images.iter().enumerate() {
        if !run.ended.contains_key(&number) {
            let mut ended = Ended::new(&ctx, image);
            ended.record.error.clone_from(&run.stopped);
            run.add(number, ended);
        }
    }
    let ended = run.ended.into_values().collect::<Vec<_>>();
    let result = report::publish(&ctx, &ended, run.errors, started.elapsed().as_secs_f64());
    records.extend(ended.into_iter().map(|ended| ended.record));
    result
}

/// Says what of a request people may not have meant.
/// Errors: `--strict-cache`, and no cache can be written.
fn warn_of_request(args: &Args, builder: &Builder, images: &[Image]) -> Result<()> {
    if !args.push
        && args.platforms.len() > 1
        && let Some(own) = images.first().and_then(|image| image.platforms.first())
    {
        message::warn(&format!(
            "only the image for {own}, the engine's own platform, is loaded; a push has all of {}",
            args.platforms.join(", ")
        ));
    }
    if args.cache_mode != Mode::Off
        && (args.push || args.cache_dir.is_some())
        && let Err(error) = builder.check_cache_export()
    {
        if args.strict_cache {
            return Err(error);
        }
        message::warn(&error.to_string().replace("\nhint: ", "; "));
    }
    for image in images.iter().filter(|image| args.push && !image.has_own_base) {
        if let Some(variant) = &image.variant {
            message::warn(&format!(
                "the tags of the variant {variant:?} will name an image on {}, which is not its own base image",
                image.base_image
            ));
        }
    }
    Ok(())
}

/// What a run has built so far.
#[derive(Default)]
pub struct Run {
    queue: VecDeque<usize>,
    /// By their numbers in the plan.
    pub ended: BTreeMap<usize, Ended>,
    records: Option<File>,
    /// How many of the last images failed by one cause, and at which host or by which step's reason.
    alike: usize,
    last_failure: Option<(Cause, Option<String>)>,
    /// Why no further image is tried.
    stopped: Option<String>,
    /// What failed besides the images.
    errors: Vec<anyhow::Error>,
    /// The check keys of images that have started.
    pub started: BTreeSet<String>,
    /// True once an image is being built.
    pub has_begun: bool,
    /// The layers of the caches that were written.
    pub cached_layers: BTreeSet<String>,
}

impl Run {
    /// Whether an image is where it belongs.
    pub fn has_success(&self) -> bool {
        self.ended.values().any(|ended| ended.record.status.is_there())
    }

    /// Notes an error, once: many images may have the same. A signal is noted when the run ends by it.
    fn fail(&mut self, error: anyhow::Error) {
        let text = format!("{error:#}");
        let is_new = self.errors.iter().all(|known| format!("{known:#}") != text);
        if is_new && !error.is::<Interrupted>() {
            self.errors.push(error);
        }
    }

    /// Notes that an image has ended, writes its record, and decides whether others are tried.
    fn add(&mut self, number: usize, ended: Ended) {
        if let Some(file) = &self.records
            && let Err(error) = record::append(file, &ended.record)
        {
            self.fail(error);
            self.records = None;
        }
        match (ended.record.status, ended.cause) {
            (Status::Failed, Some(cause)) => {
                let error = ended.record.error.as_deref().unwrap_or_default();
                let failure = ended.failure.as_ref();
                // A base image that is not there says nothing of others, unless none was there.
                let detail = match cause {
                    Cause::Step => {
                        let step = || Some(failure?.name.clone());
                        failure.and_then(Failure::reason).or_else(step)
                    }
                    Cause::Other => Some(without_names(error, &ended.record)),
                    _ => cause::host(error).filter(|_| cause.is_common()).map(str::to_owned),
                };
                let key = Some((cause, detail));
                self.alike = if self.last_failure == key { self.alike + 1 } else { 1 };
                self.last_failure = key;
                let (has_success, left) = (self.has_success(), self.queue.len());
                let is_over = cause == Cause::Limited
                    || self.alike >= ALIKE && (cause.is_common() || !has_success);
                if is_over && left > 0 && self.stopped.is_none() {
                    let is_first = self.alike > self.ended.len();
                    let which = if is_first { "first" } else { "last" };
                    let images = match self.alike {
                        1 => "image failed".to_owned(),
                        count => format!("{count} images failed with the same error"),
                    };
                    self.stopped = Some(format!("the {which} {images}; skipped the other {left}"));
                    self.queue.clear();
                }
            }
            (Status::Built, _) => (self.alike, self.last_failure) = (0, None),
            _ => {}
        }
        self.ended.insert(number, ended);
    }
}

/// The words of `error` that say the same of every image: no names, numbers and digests.
fn without_names(error: &str, record: &Record) -> String {
    let own = |word: &&str| {
        let is_name = word.contains(&record.name) || word.contains(&record.base_image);
        !is_name && !word.contains(|c: char| c.is_ascii_digit() || c == '/')
    };
    error.split_whitespace().filter(own).collect::<Vec<_>>().join(" ")
}

/// Builds all images, `--jobs` at once. Of many that are pushed the first one is built alone, so that the
/// layers in common are pushed once; meanwhile the steps of the next ones on their bases run, one at a time.
fn build_all(ctx: &Ctx) {
    let (images, jobs) = (ctx.images, ctx.args.jobs);
    if ctx.args.skip_existing {
        skip_present(ctx);
    }
    let is_waiting = |number: &usize| !ctx.run().ended.contains_key(number);
    let mut waiting = (0..images.len()).filter(is_waiting).collect::<VecDeque<_>>();
    let is_many = waiting.len() > 1;
    let is_first_alone = ctx.args.push && is_many && waiting.len() == images.len();
    let first = if is_first_alone { waiting.pop_front() } else { None };
    ctx.run().queue = waiting;
    let (is_enough, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        if let Some(first) = first {
            scope.spawn(|| {
                for image in images.iter().skip(1).take(jobs) {
                    // A step that fails here fails again when its image is built, and is shown then.
                    let without = ctx.unread.keys().cloned().collect();
                    let Some(bake) = image.steps_on_base(&without) else { return };
                    let mut watch = ctx.progress.silent(&is_over);
                    let deadline = Instant::now().checked_add(ctx.args.timeout);
                    let baked =
                        ctx.docker.bake(&bake, ctx.args, &ctx.facts.host, &mut watch, deadline);
                    if baked.is_err() || is_enough.load(Ordering::SeqCst) {
                        return;
                    }
                }
            });
            work(ctx, first);
            is_enough.store(true, Ordering::SeqCst);
            let is_stopped = ctx.run().queue.is_empty() || process::caught().is_some();
            is_over.store(is_stopped, Ordering::SeqCst);
            // Meanwhile the bake of these steps may go on: the bake of its image waits for them.
        }
        for _ in 0..jobs.min(images.len()) {
            scope.spawn(|| {
                while let Some(number) = { ctx.run().queue.pop_front() } {
                    if process::caught().is_some() {
                        return;
                    }
                    work(ctx, number);
                }
            });
        }
    });
}

/// At how many percent of a full disk the build cache is pruned, and how many GB are kept; `None` on a
/// developer's machine, where that is done only on request.
pub fn prune_limits(args: &Args) -> Option<(u64, u64)> {
    let (threshold, keep) = (args.prune_threshold, args.prune_keep);
    let is_wanted = args.ci || threshold.is_some() || keep.is_some();
    is_wanted.then_some((threshold.unwrap_or(60), keep.unwrap_or(60)))
}

/// Builds the image `number` and notes how it ended.
fn work(ctx: &Ctx, number: usize) {
    let Some(image) = ctx.images.get(number) else { return };
    if let Some((threshold, keep)) = prune_limits(ctx.args)
        && number > 0
        && number.is_multiple_of(DISK_CHECK)
    {
        disk::prune_if_full(ctx.docker, threshold, keep);
    }
    ctx.progress.begin();
    match Job::new(ctx, image).build() {
        Ok(ended) => {
            report::image_ended(ctx, image, &ended);
            let mut run = ctx.run();
            if ended.record.status.is_there() {
                run.started.extend(image.check_key.clone());
            }
            run.add(number, ended);
        }
        Err(error) if error.is::<Interrupted>() => drop(ctx.progress.end(true, "")),
        Err(error) => {
            let mut ended = Ended::new(ctx, image);
            ended.record.status = Status::Failed;
            ended.record.error = Some(format!("{error:#}"));
            ended.cause = Some(Cause::Other);
            report::image_ended(ctx, image, &ended);
            ctx.run().add(number, ended);
        }
    }
}

/// Notes the images that the registry has already, made of the same inputs: by the tag that holds the digest
/// of these, or by the label of one. Their other tags are pointed to them where they are not.
fn skip_present(ctx: &Ctx) {
    let is_by_content = ctx.args.tag_by == TagBy::Content;
    let names_content = |image: &Image, tag: &str| {
        let tag = tag.rsplit(':').next().unwrap_or_default();
        is_by_content && tag.starts_with(names::short_sha(&image.inputs))
    };
    let mut asked = BTreeSet::new();
    let mut candidates = Vec::new();
    let mut unknown = BTreeSet::new();
    for (number, image) in ctx.images.iter().enumerate() {
        if let Some(base) = image.unknown_base.as_ref().filter(|_| is_by_content) {
            unknown.insert(base);
            continue;
        }
        // Tags are pushed in their order, and those by content name one image: with the last one all of
        // these are there.
        let fixed = image.tags.iter().rfind(|tag| names_content(image, tag));
        let Some(anchor) = fixed.or(image.tags.first()) else { continue };
        let others = image.tags.iter().filter(|tag| !names_content(image, tag));
        asked.extend(others.chain(&image.layer_tags).chain([anchor]).cloned());
        candidates.push((number, image, anchor));
    }
    for base in unknown {
        message::warn(&format!("cannot resolve base image {base}; rebuilding images that use it"));
    }
    let found = ctx.docker.each(&asked, |docker, tag| docker.manifest(tag).ok()?);
    if process::caught().is_some() {
        return;
    }
    if found.is_empty()
        && let Some(why) = asked.first().and_then(|tag| ctx.docker.manifest(tag).err())
    {
        message::warn(&format!(
            "the registry does not say which images it has, so all are built: {why:#}"
        ));
        return;
    }
    let anchors = candidates.iter().map(|(_, _, anchor)| *anchor);
    let anchors = anchors.filter(|tag| found.contains_key(*tag) && !is_by_content).cloned();
    let inputs = ctx.docker.each(&anchors.collect(), Docker::inputs);
    let (mut count, mut moved) = (0, 0);
    for (number, image, anchor) in candidates {
        let Some(manifest) = found.get(anchor) else { continue };
        if !is_by_content && inputs.get(anchor) != Some(&image.inputs) {
            let why = if inputs.contains_key(anchor) {
                "its inputs changed"
            } else {
                "cannot read the inputs of the image in the registry"
            };
            message::say(&format!("rebuilding {}: {why}", image.shown));
            continue;
        }
        if !image.layer_tags.iter().all(|tag| found.contains_key(tag)) {
            continue;
        }
        let digest = docker::digest(manifest);
        // buildx may have made a list with that image alone.
        let is_it =
            |manifest: &String| docker::digest(manifest) == digest || manifest.contains(&digest);
        let others = image.tags.iter().filter(|tag| !names_content(image, tag));
        let stale = others.filter(|tag| !found.get(*tag).is_some_and(is_it)).cloned();
        let stale = stale.collect::<Vec<_>>();
        if !stale.is_empty() {
            let source = format!("{}@{digest}", ctx.args.image);
            if let Err(error) = ctx.docker.create(&stale, &[source]) {
                message::warn(&format!("{}: {error:#}; building it again", stale.join(", ")));
                continue;
            }
        }
        moved += stale.len();
        count += 1;
        let mut ended = Ended::new(ctx, image);
        let record = &mut ended.record;
        (record.status, record.pushed, record.digest) = (Status::Present, true, Some(digest));
        record.layer = image.layer_tags.first().map(|tag| Layer {
            tags: image.layer_tags.clone(),
            digest: found.get(tag).map(|manifest| docker::digest(manifest)),
        });
        // An image may have been built for another branch, and its cache with it.
        if !is_by_content {
            record.cache_written = lost_caches(ctx, image);
        }
        read_sizes(ctx, image, record);
        record.finished = Some(now());
        ctx.run().add(number, ended);
    }
    let all = ctx.images.len();
    message::say(&format!("{count} of {all} images are in the registry, and skipped"));
    if moved > 0 {
        message::say(&format!("{moved} tags were moved to images that were there already"));
    }
    ctx.progress.skip(count);
}

/// The caches that an image in the registry lacks: the run that pushed it was stopped before it wrote them.
fn lost_caches(ctx: &Ctx, image: &Image) -> Vec<CacheWritten> {
    let names = image.cache_written.iter().map(|cache| cache.name().to_owned());
    let mut names = names.collect::<BTreeSet<_>>();
    let found = ctx.docker.each(&names, |docker, name| docker.manifest(name).ok()?);
    names.retain(|name| !found.contains_key(name));
    let lost = |name| CacheWritten {
        r#ref: name,
        mode: ctx.args.cache_mode.name().to_owned(),
        result: Some("failed".to_owned()),
        error: Some("the run that pushed the image did not write it".to_owned()),
        ..CacheWritten::default()
    };
    names.into_iter().map(lost).collect()
}

/// In seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Ended {
    /// An image of which nothing is built yet.
    pub fn new(ctx: &Ctx, image: &Image) -> Self {
        let (args, source) = (ctx.args, &ctx.facts.source);
        let arches = match &args.arch {
            Some(arch) => vec![arch.clone()],
            None => image.platforms.iter().map(|platform| plan::arch(platform)).collect(),
        };
        let packages = source.packages.iter();
        let record = Record {
            name: image.name.clone(),
            variant: image.variant.clone(),
            flavor: args.flavor.part().map(str::to_owned),
            target: args.target.clone(),
            base_image: image.base_image.clone(),
            base_digest: image.base_digest.clone(),
            image: args.image.clone(),
            git_ref: source.git_ref.clone(),
            sha: source.sha.clone(),
            short_sha: names::short_sha(&source.sha).to_owned(),
            platforms: image.platforms.clone(),
            arches,
            tags: image.tags.clone(),
            manifest_tags: image.manifest_tags.clone(),
            release_tags: image.release_tags.clone(),
            server: record::Server {
                from: source.kind.to_owned(),
                commit: source.sha.clone(),
                r#ref: source.git_ref.clone(),
                dirty: source.is_dirty,
                packages: packages.map(|p| (p.name.clone(), p.version.clone())).collect(),
                description: Some(source.describe()),
            },
            builder: Some(ctx.builder.name.clone()),
            cache_mode: Some(args.cache_mode.name().to_owned()),
            ..Record::default()
        };
        Ended { record, ..Ended::default() }
    }
}

/// Asks the registry for the sizes of a pushed image and of main's, which only records have.
pub fn read_sizes(ctx: &Ctx, image: &Image, record: &mut Record) {
    let Some(reference) = record.reference().filter(|_| ctx.args.records.is_some()) else { return };
    let references = [&reference].into_iter().chain(&image.main_tag).cloned().collect();
    let contents = ctx.docker.each(&references, Docker::content);
    let size = |reference: &String| Some(contents.get(reference)?.layers.values().sum());
    record.main_bytes = image.main_tag.as_ref().and_then(size);
    record.bytes = size(&reference);
}
