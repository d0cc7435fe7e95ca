//! A run: the request becomes a plan, of which each image is built by its own processes, some at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::mem;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use base::scratch::Scratch;
use base::{lock, message, process};
use serde_json::{Value, json};

use crate::cache_dir;
use crate::docker::{self, AT_ONCE, Docker, SHORT_PATIENCE};
use crate::explain::Last;
use crate::progress::{self, Watch};
use crate::{job, report};
use outcome::cause::Cause;
use outcome::record::{self, CacheWritten, Layer, Record, Status};
use outcome::trace::{Failure, Span};
use outcome::vertex::Phase;
use request::cli::{Args, Check, Mode, TagBy};
use request::facts::Facts;
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
    pub docker: &'a Docker,
    pub images: &'a [Image],
    /// Caches that are not to be read, each with the reason, by the name that `BuildKit` uses.
    pub unread: BTreeMap<String, String>,
    /// What the last builds on this machine were made of.
    pub last: Last,
    pub started: Instant,
    run: Mutex<Run>,
}

impl Ctx<'_> {
    /// What has been built so far.
    pub fn run(&self) -> MutexGuard<'_, Run> {
        lock(&self.run)
    }

    /// True where many images are built, of which single steps are not shown.
    pub fn is_batch(&self) -> bool {
        self.images.len() > 1
    }

    /// The number of the image to build next; `None` once there is none, or the run is stopped.
    fn next(&self) -> Option<usize> {
        if process::caught().is_some() { None } else { self.run().queue.pop_front() }
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

/// What a run has built so far.
#[derive(Default)]
pub struct Run {
    queue: VecDeque<usize>,
    /// How many images are built now.
    pub running: usize,
    /// By their numbers in the plan.
    pub ended: BTreeMap<usize, Ended>,
    records: Option<File>,
    /// Why the file of `--records` is not written any more.
    error: Option<anyhow::Error>,
    /// How the last images failed that failed with the same error.
    alike: Vec<(Option<Cause>, String)>,
    /// Why no further image is tried.
    pub stopped: Option<String>,
    /// The check keys of images that have started.
    pub started: BTreeSet<String>,
    /// Whether the next image finds a builder without build cache; `None` where that is not known.
    pub builder_was_empty: Option<bool>,
    /// Layers that the repository of caches has.
    pub known_layers: BTreeSet<String>,
    /// What was warned of.
    pub warned: BTreeSet<String>,
}

/// Builds, delivers and reports what `args` ask for; `records` gets one of each image. Errors: the first.
pub fn run(root: &Path, args: &Args, records: &mut Vec<Record>) -> Result<()> {
    let started = Instant::now();
    // Found out before anything is built: all that a run writes is below this.
    Scratch::within(&root.join("target/image/tmp"))?;
    let mut facts = Facts::read(root, args)?;
    let file = args.records.as_deref().map(record::open).transpose()?;
    facts.source.check(args)?;
    // What is wrong with the request is said before anything is asked, also by an empty shard.
    let count = plan::plan(args, &facts)?.len();
    if let (0, Some((number, of))) = (count, args.shard) {
        message::say(&format!("shard {number}/{of} is empty; nothing to build"));
        return report::write_outputs(args, &facts.source, &[]);
    }

    // All that is asked of docker and of registries, at once.
    let docker = &Docker::new(root, args.builder.as_deref());
    let docker = &if count > AT_ONCE { docker.for_many() } else { docker.clone() };
    let reads_caches = args.push || args.ci || args.cache_dir.is_some();
    let is_compared = facts.definition.has_check && args.check() == Check::First && count > 1;
    let (builder, builder_was_empty, known) = thread::scope(|scope| {
        let known = scope.spawn(|| docker.bases(&facts.needed, args.push, is_compared));
        let was_empty = scope.spawn(|| if reads_caches { docker.is_empty() } else { None });
        let builder = docker.inspect();
        (builder, was_empty.join().unwrap_or_default(), known.join().unwrap_or_default())
    });
    let builder = builder?;
    process::check_signals()?;
    builder.check_platforms(&args.platforms)?;
    (facts.builder, facts.bases) = (Some(builder.clone()), known);
    let facts = &facts;
    let images = &plan::plan(args, facts)?;
    message::say(&format!("server: {}", facts.source.describe()));
    facts.warn_of_triggers();

    // What people may not have meant.
    if !args.push
        && args.platforms.len() > 1
        && let Some(own) = images.first().and_then(|image| image.platforms.first())
    {
        let all = args.platforms.join(", ");
        let what = format!("only the image for {own}, the engine's own platform, is loaded");
        message::warn(&format!("{what}; a push has all of {all}"));
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
        let (Some(variant), base) = (&image.variant, &image.base_image) else { continue };
        let what = format!("the tags of the variant {variant:?} will name an image on {base}");
        message::warn(&format!("{what}, which is not its own base image"));
    }

    // `BuildKit` waits forever for a cache. One stands for all, as they are in one repository.
    let limit = args.cache_timeout.min(SHORT_PATIENCE);
    let caches = images.iter().flat_map(|image| &image.cache_read);
    let caches = caches.filter(|cache| matches!(cache, Cache::Registry(_))).map(Cache::name);
    let asked = Instant::now();
    let answer = caches.clone().next().map(|first| docker.raw_manifest(first, limit));
    let why = answer.and_then(Result::err).filter(|_| asked.elapsed() >= limit);
    let unread = caches.filter_map(|name| Some((name.to_owned(), why.as_ref()?.to_string())));
    let ctx = Ctx {
        args,
        facts,
        docker,
        images,
        unread: unread.collect(),
        last: Last::new(root, args, &facts.source),
        started,
        run: Mutex::new(Run { records: file, builder_was_empty, ..Run::default() }),
    };
    if args.skip_existing {
        skip_present(&ctx);
    }

    let opened = cache_dir::open(images)?;
    let there = ctx.run().ended.keys().copied().collect::<BTreeSet<_>>();
    ctx.run().queue = (0..images.len()).filter(|number| !there.contains(number)).collect();
    let is_first_alone = args.push && ctx.is_batch() && there.is_empty();
    thread::scope(|scope| {
        // Of many that are pushed the first one is built alone, so that the layers in common are pushed once;
        // meanwhile the steps of the next ones on their bases run, one at a time.
        if is_first_alone && let Some(first) = ctx.next() {
            scope.spawn(|| {
                let without = ctx.unread.keys().cloned().collect();
                for image in images.iter().skip(1).take(args.jobs) {
                    // A step that fails here fails again when its image is built, and is shown then.
                    let Some(bake) = image.steps_on_base(&without) else { return };
                    let deadline = Instant::now().checked_add(args.timeout);
                    let mut watch = Watch::new(&ctx, image);
                    watch.is_ahead = true;
                    let baked = docker.bake(&bake, &mut watch, deadline);
                    if baked.is_err() || !ctx.run().ended.is_empty() {
                        return;
                    }
                }
            });
            work(&ctx, first);
        }
        for _ in 0..args.jobs.min(images.len()) {
            scope.spawn(|| {
                while let Some(number) = ctx.next() {
                    work(&ctx, number);
                }
            });
        }
    });
    cache_dir::clean(opened);

    let mut run = mem::take(&mut *ctx.run());
    for (number, image) in images.iter().enumerate() {
        if !run.ended.contains_key(&number) {
            let mut ended = unbuilt(&ctx, image);
            ended.record.error.clone_from(&run.stopped);
            run.add(number, ended);
        }
    }
    let ended = run.ended.into_values().collect::<Vec<_>>();
    let result = report::publish(&ctx, &ended, run.error, started.elapsed().as_secs_f64());
    records.extend(ended.into_iter().map(|ended| ended.record));
    result
}

/// At how many percent of a full disk the build cache is pruned; on a developer's machine only on request.
pub fn prune_threshold(args: &Args) -> Option<u64> {
    args.prune_threshold.or(args.ci.then_some(60))
}

/// Builds the image `number` and notes how it ended, unless the run is stopped before that.
fn work(ctx: &Ctx, number: usize) {
    if let Some(threshold) = prune_threshold(ctx.args)
        && (number + 1).is_multiple_of(DISK_CHECK)
        && let Some((.., used)) = ctx.docker.disk()
        && used >= threshold
    {
        // What all images of a batch share was used last, and stays.
        let (keep, what) = (ctx.args.prune_keep, format!("the engine's disk is {used} % full"));
        message::say(&format!("{what}; pruning its build cache to {keep} GB"));
        ctx.docker.prune(keep);
    }
    ctx.run().running += 1;
    let image = &ctx.images[number];
    let ended = job::build(ctx, image);
    let mut run = ctx.run();
    run.running -= 1;
    if let Some(ended) = ended {
        report::image_ended(ctx, image, &ended, run.failed() == 0);
        run.add(number, ended);
    }
}

impl Run {
    /// How many images have failed.
    pub fn failed(&self) -> usize {
        self.ended.values().filter(|ended| ended.record.status == Status::Failed).count()
    }

    /// Notes that an image has ended, writes its record, and decides whether others are tried.
    fn add(&mut self, number: usize, ended: Ended) {
        if let Some(file) = &self.records
            && let Err(error) = record::append(file, &ended.record)
        {
            (self.error, self.records) = (Some(error), None);
        }
        if ended.record.status == Status::Built {
            self.alike.clear();
        }
        if ended.record.status == Status::Failed {
            // What others may have, too, has no names, digests and addresses.
            let Record { name, base_image, .. } = &ended.record;
            let is_own = |word: &&str| {
                let has_digit = word.contains(|c: char| c.is_ascii_digit());
                [name, base_image, "/"].iter().any(|name| word.contains(name))
                    || has_digit && word.parse::<u64>().is_err()
            };
            let error = ended.record.error.as_deref().unwrap_or_default();
            let is_common = ended.cause.is_some_and(Cause::is_common);
            let words = error.split_whitespace().filter(|word| !is_common && !is_own(word));
            let failure = (ended.cause, words.collect::<Vec<_>>().join(" "));
            self.alike.retain(|last| *last == failure);
            self.alike.push(failure);
            let left = self.queue.len();
            // A base image that is not there says nothing of others, unless none was there.
            let is_for_all = is_common || self.failed() == self.ended.len();
            let is_limit = ended.cause == Some(Cause::Limited);
            if (is_limit || self.alike.len() >= ALIKE && is_for_all) && left > 0 {
                self.stopped = Some(format!("skipped the other {left}, which would fail alike"));
                self.queue.clear();
            }
        }
        self.ended.insert(number, ended);
    }
}

/// Notes the images that the registry has, made of the same inputs by their tag or label, and mends their tags.
fn skip_present(ctx: &Ctx) {
    let is_by_content = ctx.args.tag_by == TagBy::Content;
    let asked = ctx.images.iter().flat_map(Image::all_tags).cloned().collect();
    let found = ctx.docker.each(&asked, |docker, tag| docker.manifest(tag).ok()?);
    if process::caught().is_some() {
        return;
    }
    if found.is_empty()
        && let Some(why) = asked.first().and_then(|tag| ctx.docker.manifest(tag).err())
    {
        let what = "the registry does not say which images it has, so all are built";
        return message::warn(&format!("{what}: {why:#}"));
    }
    // The first tag names an image by its commit or its content, and is pushed before the others.
    let firsts = ctx.images.iter().filter_map(|image| image.tags.first());
    let firsts = firsts.filter(|tag| !is_by_content && found.contains_key(*tag)).cloned();
    let inputs = ctx.docker.each(&firsts.collect(), Docker::inputs);
    for (number, image) in ctx.images.iter().enumerate() {
        if let Some(base) = image.unknown_base.as_ref().filter(|_| is_by_content) {
            let what = "rebuilding images that use it";
            progress::warn_once(ctx, &format!("cannot resolve base image {base}; {what}"));
            continue;
        }
        let is_whole = image.layer_tags.iter().all(|tag| found.contains_key(tag));
        let first = image.tags.first().filter(|_| is_whole);
        let Some((first, manifest)) = first.and_then(|tag| found.get_key_value(tag)) else {
            continue;
        };
        if !is_by_content && inputs.get(first) != Some(&image.inputs) {
            let why = inputs.get(first).map(|_| "its inputs changed");
            let why = why.unwrap_or("cannot read the inputs of the image in the registry");
            message::say(&format!("rebuilding {}: {why}", image.shown));
            continue;
        }
        let digest = docker::digest(manifest);
        // buildx may have made a list with that image alone.
        let is_it = |other: &String| docker::digest(other) == digest || other.contains(&digest);
        let stale = image.tags.iter().filter(|tag| !found.get(*tag).is_some_and(is_it)).cloned();
        let stale = stale.collect::<Vec<_>>();
        if !stale.is_empty() {
            let source = format!("{}@{digest}", ctx.args.image);
            if let Err(error) = ctx.docker.create(&stale, &[source]) {
                message::warn(&format!("{}: {error:#}; building it again", stale.join(", ")));
                continue;
            }
        }
        let mut ended = unbuilt(ctx, image);
        let record = &mut ended.record;
        (record.status, record.pushed, record.digest) = (Status::Present, true, Some(digest));
        record.layer = image.layer_tags.first().map(|tag| Layer {
            tags: image.layer_tags.clone(),
            digest: found.get(tag).map(|manifest| docker::digest(manifest)),
        });
        // An image may have been built for another branch, and its cache with it.
        for cache in image.cache_written.iter().filter(|_| !is_by_content) {
            if !matches!(ctx.docker.manifest(cache.name()), Ok(Some(_))) {
                let error = "the run that pushed the image did not write it".to_owned();
                record.cache_written.push(written(ctx, cache, "failed", Some(error)));
            }
        }
        read_sizes(ctx, image, record);
        record.finished = Some(now());
        ctx.run().add(number, ended);
    }
    let (count, all) = (ctx.run().ended.len(), ctx.images.len());
    message::say(&format!("{count} of {all} images are in the registry, and skipped"));
}

/// What came of a cache of an image.
pub fn written(ctx: &Ctx, cache: &Cache, result: &str, error: Option<String>) -> CacheWritten {
    CacheWritten {
        r#ref: cache.name().to_owned(),
        mode: ctx.args.cache_mode.name().to_owned(),
        result: result.to_owned(),
        error,
        ..CacheWritten::default()
    }
}

/// In seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// An image of which nothing is built yet.
pub fn unbuilt(ctx: &Ctx, image: &Image) -> Ended {
    let (args, source) = (ctx.args, &ctx.facts.source);
    let packages = source.packages.iter().cloned();
    let own = image.platforms.iter().map(|platform| plan::arch(platform));
    let arches = args.arch.clone().map_or_else(|| own.collect(), |arch| vec![arch]);
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
        server: json!({
            "from": source.kind,
            "commit": source.sha,
            "ref": source.git_ref,
            "dirty": source.is_dirty,
            "packages": packages.collect::<Value>(),
            "description": source.describe(),
        }),
        builder: ctx.facts.builder.as_ref().map(|builder| builder.name.clone()),
        cache_mode: Some(args.cache_mode.name().to_owned()),
        ..Record::default()
    };
    Ended { record, ..Ended::default() }
}

/// Asks the registry for the sizes of a pushed image and of main's, which only records have.
pub fn read_sizes(ctx: &Ctx, image: &Image, record: &mut Record) {
    let Some(reference) = record.reference().filter(|_| ctx.args.records.is_some()) else { return };
    let references = [&reference].into_iter().chain(&image.main_tag).cloned().collect();
    let layers = ctx.docker.each(&references, Docker::layers);
    let size = |reference: &String| Some(layers.get(reference)?.0.values().sum());
    record.main_bytes = image.main_tag.as_ref().and_then(size);
    record.bytes = size(&reference);
}
