//! A run: what was typed, and what is found out, become a plan; each image of it is built by processes of
//! its own, some at once, and ends in a record.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use base::error::{Interrupted, usage};
use base::{message, process};

use crate::cache_dir::Reading;
use crate::docker::{self, Content, Docker, SHORT_PATIENCE};
use crate::explain::Last;
use crate::job::Job;
use crate::progress::Progress;
use crate::record::{self, CacheWritten, Field as _, Record, Status};
use crate::{disk, report};
use buildkit::cause::{self, Cause};
use buildkit::trace::{Failure, Span};
use buildkit::vertex::Phase;
use request::bases::Shard;
use request::cli::{Args, Check, Mode, TagBy};
use request::definition::{Definition, FOLDER};
use request::host::Host;
use request::names::{self, Cache};
use request::plan::{self, Builder, Facts, INPUTS_LABEL, Image};
use request::source::{self, Source};

/// How many images in a row may fail by one cause before the others are not tried.
const ALIKE: usize = 3;
/// How often a batch looks at the engine's disk, in images.
const DISK_CHECK: usize = 8;

/// A run that has ended.
pub struct Finished {
    pub records: Vec<Record>,
    /// The first error: an image that was not built, or what failed when all were.
    pub ended: Result<()>,
}

/// What a run is made with.
pub struct Ctx<'a> {
    pub root: &'a Path,
    pub args: &'a Args,
    pub source: &'a Source,
    pub builder: &'a Builder,
    pub docker: &'a Docker,
    pub host: &'a Host,
    pub progress: &'a Progress,
    /// Caches that are not to be read, each with the reason, by the name that `BuildKit` uses.
    pub unread: &'a BTreeMap<String, String>,
    /// What the last builds on this machine were made of.
    pub last: &'a Last,
}

/// An image of a run that has ended, with what only this run knows of it.
pub struct Ended {
    /// The number of the image in the plan.
    pub number: usize,
    pub record: Record,
    pub spans: Vec<(Phase, Vec<Span>)>,
    pub failure: Option<Failure>,
    pub cause: Option<Cause>,
    /// The base images that were used, with their digests.
    pub bases: BTreeMap<String, String>,
}

/// What a request means, without docker and without a network, as `--print` shows it.
/// Errors: a usage error for a request that can't be built.
pub fn planned(root: &Path, args: &Args) -> Result<(Definition, Source, Vec<Image>)> {
    let definition = Definition::read(root)?;
    plan::check(args, &definition)?;
    let source = Source::resolve(root, args)?;
    let host = Host::read(root)?;
    let none = BTreeMap::new();
    let (files, layer_files) = digests(root, args)?;
    let facts = Facts {
        definition: &definition,
        source: &source,
        host: &host,
        builder: None,
        bases: &none,
        files,
        layer_files,
    };
    let images = plan::plan(args, &facts)?;
    Ok((definition, source, images))
}

/// A digest of the image's folder, and one of the layer's, where names or labels hold them.
fn digests(root: &Path, args: &Args) -> Result<(String, Option<String>)> {
    if let Some(folder) = &args.layer
        && let Err(error) = fs::metadata(folder.join("Dockerfile"))
    {
        let folder = folder.to_string_lossy();
        return Err(match error.kind() {
            io::ErrorKind::NotFound => {
                usage(format!("--layer {folder:?}: there is no Dockerfile in it"))
            }
            _ => source::unreadable(Path::new(&*folder), &error),
        });
    }
    if !args.push() && args.tag_by == TagBy::Commit {
        return Ok((String::new(), None));
    }
    let files = digest_of_folder(root)?;
    let layer = args.layer.as_ref().map(|folder| source::digest(folder, None, true)).transpose()?;
    Ok((files, layer))
}

/// A digest of all that the build reads of the image's folder, whose modes the Dockerfile sets.
/// Errors: what can't be read.
pub fn digest_of_folder(root: &Path) -> Result<String> {
    let read = [".dockerignore", "Dockerfile", "steps", "runtime", "lock"];
    source::digest(&root.join(FOLDER), Some(&read), false)
}

/// Builds what `args` ask for, delivers it, exports caches, and reports.
pub fn run(root: &Path, args: &Args) -> Finished {
    run_images(root, args)
        .unwrap_or_else(|error| Finished { records: Vec::new(), ended: Err(error) })
}

fn run_images(root: &Path, args: &Args) -> Result<Finished> {
    let started = Instant::now();
    let definition = Definition::read(root)?;
    let (bases, count) = plan::check(args, &definition)?;
    let records = args.records.as_deref().map(record::open).transpose()?;
    let docker = Docker::new(root, args.builder.as_deref());
    let host = Host::read(root)?;
    let source = Source::resolve(root, args)?;
    source.check(args)?;
    if let Some(Shard { number, of }) = args.shard.filter(|shard| shard.number > count) {
        message::say(&format!("shard {number}/{of} is empty; nothing to build"));
        report::write_outputs(args, &source, &[])?;
        return Ok(Finished { records: Vec::new(), ended: Ok(()) });
    }
    let (files, layer_files) = digests(root, args)?;
    let mut facts = Facts {
        definition: &definition,
        source: &source,
        host: &host,
        builder: None,
        bases: &BTreeMap::new(),
        files,
        layer_files,
    };
    // What is wrong with the request is said before anything is asked.
    plan::plan(args, &facts)?;

    // All that is asked of docker and of registries, at once.
    let reads_caches = args.push() || args.ci || args.cache_dir.is_some();
    let is_compared = definition.has_check && args.check() == Check::First && count > 1;
    let (builder, known) = thread::scope(|scope| {
        let known = scope.spawn(|| docker.bases(&bases, args.push(), is_compared));
        let was_empty = scope.spawn(|| if reads_caches { docker.is_empty() } else { None });
        let builder = docker.inspect();
        let was_empty = was_empty.join().unwrap_or_default();
        let builder = builder.map(|builder| Builder { was_empty, ..builder });
        (builder, known.join().unwrap_or_default())
    });
    let builder = builder?;
    process::check_signals()?;
    builder.check_platforms(&args.platforms)?;
    if args.strict_cache && writes_caches(args) {
        builder.check_cache_export()?;
    }
    (facts.builder, facts.bases) = (Some(&builder), &known);
    let images = plan::plan(args, &facts)?;
    source.announce();
    for (reference, _) in known.iter().filter(|(_, base)| base.has_triggers) {
        message::warn(&format!(
            "the base image {reference} has ONBUILD triggers: they run in this build, on the image's own files"
        ));
    }
    warn_of_request(args, &builder, &images);
    let docker = if images.len() > DISK_CHECK { docker.for_many() } else { docker };
    let unread = unreachable_caches(&docker, &images, args.cache_timeout);
    let progress = Progress::new(args.progress, args.ci, images.len());
    let last = Last::new(root, args, &source);
    let ctx = Ctx {
        root,
        args,
        source: &source,
        builder: &builder,
        docker: &docker,
        host: &host,
        progress: &progress,
        unread: &unread,
        last: &last,
    };
    let reading = Reading::open_all(&images)?;
    let run = Mutex::new(Run { records, ..Run::default() });
    build_all(&ctx, &images, &run);
    progress.close();
    for reading in reading {
        if let Err(error) = reading.close() {
            message::warn(&format!("{error:#}"));
        }
    }
    let mut run = run.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(signal) = process::caught() {
        run.error = Some(Interrupted(signal).into());
    }
    for (number, image) in images.iter().enumerate() {
        if !run.ended.iter().any(|ended| ended.number == number) {
            let record = Record { error: run.stopped.clone(), ..new_record(&ctx, image) };
            run.add(ended(number, record));
        }
    }
    run.ended.sort_by_key(|ended| ended.number);
    let seconds = started.elapsed().as_secs_f64();
    let ended = report::publish(&ctx, &images, &run.ended, run.error, seconds);
    Ok(Finished { records: run.ended.into_iter().map(|ended| ended.record).collect(), ended })
}

fn writes_caches(args: &Args) -> bool {
    args.cache_mode != Mode::Off && (args.push() || args.cache_dir.is_some())
}

/// Says what of a request people may not have meant.
fn warn_of_request(args: &Args, builder: &Builder, images: &[Image]) {
    if !args.push()
        && args.platforms.len() > 1
        && let Some(own) = images.first().and_then(|image| image.platforms.first())
    {
        message::warn(&format!(
            "only the image for {own}, the engine's own platform, is loaded; a push has all of {}",
            args.platforms.join(", ")
        ));
    }
    if writes_caches(args)
        && let Err(error) = builder.check_cache_export()
    {
        message::warn(&error.to_string().replace("\nhint: ", "; "));
    }
    for image in images.iter().filter(|image| args.push() && !image.has_own_base) {
        if let Some(variant) = &image.variant {
            message::warn(&format!(
                "the tags of the variant {variant:?} will name an image on {}, which is not its own base image",
                image.base_image
            ));
        }
    }
}

/// The caches that must not be read because the registry has not answered in time: `BuildKit` waits
/// forever for a cache, and so does whatever it builds after that. One cache is asked for and stands for
/// all, as they are in one repository.
fn unreachable_caches(
    docker: &Docker,
    images: &[Image],
    limit: Duration,
) -> BTreeMap<String, String> {
    let limit = limit.min(SHORT_PATIENCE);
    let mut unread = BTreeMap::new();
    let registry = |cache: &&Cache| matches!(cache, Cache::Registry(_));
    let mut caches = images.iter().flat_map(|image| &image.cache_read).filter(registry);
    let Some(first) = caches.clone().next() else { return unread };
    if matches!(docker.inspect_raw(first.name(), limit), Ok(None)) {
        let why = format!("no answer within {} s", limit.as_secs());
        caches.by_ref().for_each(|cache| drop(unread.insert(cache.name().to_owned(), why.clone())));
    }
    unread
}

/// What a run has built so far.
#[derive(Default)]
struct Run {
    queue: VecDeque<usize>,
    ended: Vec<Ended>,
    records: Option<File>,
    /// How many of the last images failed by one cause, and at which host.
    alike: usize,
    last_failure: Option<(Cause, Option<String>)>,
    /// Why no further image is tried.
    stopped: Option<String>,
    error: Option<anyhow::Error>,
    /// The check keys of images that have started.
    started: BTreeSet<String>,
}

impl Run {
    /// Notes that an image has ended, writes its record, and decides whether others are tried.
    fn add(&mut self, ended: Ended) {
        if let Some(file) = &self.records
            && let Err(error) = record::append(file, &ended.record)
        {
            self.error.get_or_insert(error);
            self.records = None;
        }
        match (ended.record.status, ended.cause) {
            (Status::Failed, Some(cause)) => {
                let host = ended.record.error.as_deref().and_then(cause::host).map(str::to_owned);
                // A base image that is not there says nothing of others, unless none was there.
                let key = Some((cause, host.filter(|_| cause.is_common())));
                self.alike = if self.last_failure == key { self.alike + 1 } else { 1 };
                self.last_failure = key;
                let has_success = self.ended.iter().any(|ended| ended.record.status.is_there());
                let left = self.queue.len();
                let is_over = cause == Cause::Limited
                    || self.alike >= ALIKE && (cause.is_common() || !has_success);
                if is_over && left > 0 && self.stopped.is_none() {
                    let count = self.alike;
                    let which = if has_success { "last" } else { "first" };
                    let images = if count == 1 {
                        "image failed".to_owned()
                    } else {
                        format!("{count} images failed with the same error")
                    };
                    let why = format!("the {which} {images}; skipped the other {left}");
                    self.stopped = Some(why);
                    self.queue.clear();
                }
            }
            (Status::Built, _) => (self.alike, self.last_failure) = (0, None),
            _ => {}
        }
        self.ended.push(ended);
    }
}

fn locked(run: &Mutex<Run>) -> MutexGuard<'_, Run> {
    run.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Builds `images`, `--jobs` at once. Of many that are pushed the first one is built alone, so that the
/// layers in common are pushed once; meanwhile the steps of the next ones on their bases run, one at a time.
fn build_all(ctx: &Ctx, images: &[Image], run: &Mutex<Run>) {
    if ctx.args.skip_existing {
        skip_present(ctx, images, run);
    }
    let mut waiting = (0..images.len()).collect::<VecDeque<_>>();
    waiting.retain(|number| !locked(run).ended.iter().any(|ended| ended.number == *number));
    if waiting.len() > 1
        && let Err(error) = disk::check(ctx.docker)
    {
        locked(run).error.get_or_insert(error);
        return;
    }
    let is_new = waiting.len() == images.len();
    if ctx.args.push()
        && is_new
        && waiting.len() > 1
        && let Some(first) = waiting.pop_front()
    {
        let (is_enough, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        let next = waiting.iter().take(ctx.args.jobs).filter_map(|number| images.get(*number));
        let next = next.collect::<Vec<_>>();
        locked(run).queue = waiting;
        thread::scope(|scope| {
            scope.spawn(|| {
                for image in next {
                    // A step that fails here fails again when its image is built, and is shown then.
                    let without = ctx.unread.keys().cloned().collect();
                    let Some(bake) = image.steps_on_base(&without) else { return };
                    let mut watch = ctx.progress.silent(&is_over);
                    let deadline = Instant::now().checked_add(ctx.args.timeout);
                    let baked = ctx.docker.bake(&bake, ctx.args, ctx.host, &mut watch, deadline);
                    if baked.is_err() || is_enough.load(Ordering::SeqCst) {
                        return;
                    }
                }
            });
            work(ctx, images, run, first);
            is_enough.store(true, Ordering::SeqCst);
            let is_stopped = locked(run).queue.is_empty() || process::caught().is_some();
            is_over.store(is_stopped, Ordering::SeqCst);
            // Meanwhile the bake of these steps may go on: the bake of its image waits for them.
            workers(ctx, images, run);
        });
        return;
    }
    locked(run).queue = waiting;
    workers(ctx, images, run);
}

/// Builds what is in the queue.
fn workers(ctx: &Ctx, images: &[Image], run: &Mutex<Run>) {
    thread::scope(|scope| {
        for _ in 0..ctx.args.jobs.min(images.len()) {
            scope.spawn(|| {
                while let Some(number) = { locked(run).queue.pop_front() } {
                    if process::caught().is_some() {
                        return;
                    }
                    work(ctx, images, run, number);
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
fn work(ctx: &Ctx, images: &[Image], run: &Mutex<Run>, number: usize) {
    let Some(image) = images.get(number) else { return };
    if let Some((threshold, keep)) =
        prune_limits(ctx.args).filter(|_| number > 0 && number.is_multiple_of(DISK_CHECK))
        && let Err(error) = disk::prune_if_full(ctx.docker, threshold, keep)
    {
        ctx.progress.warn(&format!("{error:#}"));
    }
    ctx.progress.begin(number, &image.shown);
    let is_first = locked(run).ended.is_empty();
    let has_success = locked(run).ended.iter().any(|ended| ended.record.status.is_there());
    // Of images that begin at once, each is checked: none is pushed before one has started.
    let unchecked = image.check_key.clone().filter(|key| !locked(run).started.contains(key));
    match Job::new(ctx, image, number, is_first, has_success, unchecked.is_some()).build() {
        Ok(ended) => {
            report::image_ended(ctx, images.len(), image, &ended);
            let mut run = locked(run);
            if ended.record.status.is_there() {
                run.started.extend(unchecked);
            }
            run.add(ended);
        }
        Err(error) => {
            ctx.progress.end(number, true, "");
            // An image that a signal has stopped was not tried to its end.
            if !error.is::<Interrupted>() {
                locked(run).error.get_or_insert(error);
            }
        }
    }
}

/// Notes the images that the registry has already, made of the same inputs: by the tag that holds the digest
/// of these, or by the label of one. Their other tags are pointed to them where they are not.
fn skip_present(ctx: &Ctx, images: &[Image], run: &Mutex<Run>) {
    let is_by_content = ctx.args.tag_by == TagBy::Content;
    let names_content = |image: &Image, tag: &str| {
        let tag = tag.rsplit(':').next().unwrap_or_default();
        is_by_content && tag.starts_with(names::short_sha(&image.inputs))
    };
    let mut asked = BTreeSet::new();
    let mut candidates = Vec::new();
    let mut unknown = BTreeSet::new();
    for (number, image) in images.iter().enumerate() {
        if let Some(base) = image.unknown_base.as_ref().filter(|_| is_by_content) {
            unknown.insert(base);
            continue;
        }
        // Tags are pushed in their order, and those by content name one image: with the last one all of
        // these are there.
        let fixed = image.tags.iter().rfind(|tag| names_content(image, tag));
        let Some(anchor) = fixed.or(image.tags.first()) else { continue };
        let others = image.tags.iter().filter(|tag| !names_content(image, tag) && *tag != anchor);
        asked.extend(others.chain(&image.layer_tags).chain([anchor]).cloned());
        candidates.push((number, image, anchor));
    }
    for base in unknown {
        message::warn(&format!("cannot resolve base image {base}; rebuilding images that use it"));
    }
    let found = ctx.docker.raw(&asked);
    let anchors = candidates.iter().map(|(_, _, anchor)| *anchor);
    let anchors =
        anchors.filter(|tag| found.contains_key(*tag) && !is_by_content).cloned().collect();
    let labels = ctx.docker.labels(&anchors, INPUTS_LABEL);
    let (mut count, mut moved) = (0, 0);
    for (number, image, anchor) in candidates {
        let Some(manifest) = found.get(anchor) else { continue };
        if !is_by_content && labels.get(anchor) != Some(&image.inputs) {
            message::say(&format!("rebuilding {}: its inputs changed", image.shown));
            continue;
        }
        if !image.layer_tags.iter().all(|tag| found.contains_key(tag)) {
            continue;
        }
        let digest = docker::digest(manifest);
        let mut stale = Vec::new();
        for tag in image.tags.iter().filter(|tag| !names_content(image, tag)) {
            // buildx may have made a list with that image alone.
            let is_there = found.get(tag).is_some_and(|manifest| {
                docker::digest(manifest) == digest
                    || String::from_utf8_lossy(manifest).contains(&digest)
            });
            if !is_there {
                stale.push(tag.clone());
            }
        }
        if !stale.is_empty() {
            let source = format!("{}@{digest}", ctx.args.image);
            if let Err(error) = ctx.docker.create(&stale, &[source]) {
                message::warn(&format!("{}: {error:#}; building it again", stale.join(", ")));
                continue;
            }
            moved += stale.len();
        }
        count += 1;
        let mut record = new_record(ctx, image);
        record.status = Status::Present;
        record.pushed = true;
        record.digest = Some(digest);
        // An image may have been built for another branch, and its cache with it.
        if !is_by_content {
            record.cache_written = lost_caches(ctx, image);
        }
        if ctx.args.records.is_some() {
            read_sizes(ctx, image, &mut record);
        }
        record.finished = Some(now());
        locked(run).add(ended(number, record));
    }
    message::say(&format!("{count} of {} images are in the registry, and skipped", images.len()));
    if moved > 0 {
        message::say(&format!("{moved} tags were moved to images that were there already"));
    }
    ctx.progress.skip(count);
}

/// The caches that an image in the registry should have and does not: the run that pushed it was stopped
/// before it wrote them.
fn lost_caches(ctx: &Ctx, image: &Image) -> Vec<CacheWritten> {
    let names =
        image.cache_written.iter().map(|cache| cache.name().to_owned()).collect::<BTreeSet<_>>();
    let found = ctx.docker.raw(&names);
    let lost = names.into_iter().filter(|name| !found.contains_key(name));
    let lost = lost.map(|name| CacheWritten {
        r#ref: name,
        mode: ctx.args.cache_mode.name().to_owned(),
        result: Some("failed".to_owned()),
        error: Some("the run that pushed the image did not write it".to_owned()),
        ..CacheWritten::default()
    });
    lost.collect()
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The record of an image of which nothing is built.
pub fn new_record(ctx: &Ctx, image: &Image) -> Record {
    let (args, source) = (ctx.args, ctx.source);
    let arches = match &args.arch {
        Some(arch) => vec![arch.clone()],
        None => image.platforms.iter().map(|platform| plan::arch(platform)).collect(),
    };
    let mut packages = serde_json::Map::new();
    for package in &source.packages {
        packages.insert(package.name.clone(), package.version.json());
    }
    Record {
        name: image.name.clone(),
        variant: image.variant.clone(),
        flavor: args.flavor.suffix().strip_prefix('-').map(str::to_owned),
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
            from: source.kind().to_owned(),
            commit: source.sha.clone(),
            r#ref: source.git_ref.clone(),
            dirty: source.is_dirty,
            packages: serde_json::Value::Object(packages),
            description: Some(source.describe()),
        },
        builder: Some(ctx.builder.name.clone()),
        cache_mode: Some(args.cache_mode.name().to_owned()),
        ..Record::default()
    }
}

/// Asks the registry for the sizes of a pushed image and of main's.
pub fn read_sizes(ctx: &Ctx, image: &Image, record: &mut Record) {
    let Some(reference) = record.reference() else { return };
    let main = image.main_tag.clone();
    let references = [Some(reference.clone()), main.clone()].into_iter().flatten().collect();
    let contents = ctx.docker.contents(&references);
    record.bytes = contents.get(&reference).map(Content::bytes);
    record.main_bytes = main.and_then(|main| contents.get(&main).map(Content::bytes));
}

/// An image that ended without a bake.
pub fn ended(number: usize, record: Record) -> Ended {
    Ended { number, record, spans: Vec::new(), failure: None, cause: None, bases: BTreeMap::new() }
}
