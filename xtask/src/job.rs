//! One image: it is started where it is checked, delivered, and its caches are exported, each by a bake of
//! its own. All that happened becomes its record.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use base::error::Interrupted;
use base::process;
use serde_json::Value;

use crate::build::{Ctx, Ended, ended, new_record, now, prune_limits, read_sizes};
use crate::cache_dir::Staging;
use crate::docker::{self, Baked, Content, End, sleep};
use crate::record::{CacheRead, CacheWritten, Layer, Record, Seconds, Status, Steps};
use crate::{disk, report};
use buildkit::cause::{self, Cause};
use buildkit::text;
use buildkit::trace::{self, Failure, Span, Trace};
use buildkit::vertex::Phase;
use request::names::{self, Cache};
use request::plan::{self, Image};

/// Seconds before an image is built again that failed for a transient reason.
const PAUSES: [u64; 4] = [2, 5, 15, 30];

/// One image while it is built.
pub struct Job<'a> {
    ctx: &'a Ctx<'a>,
    image: &'a Image,
    number: usize,
    /// Whether it is the first of the run, which finds the builder as it was.
    is_first: bool,
    /// Whether others have been built already.
    has_success: bool,
    /// Whether it has to start before it is pushed.
    is_checked: bool,
    log: Option<File>,
    log_path: Option<PathBuf>,
    attempts: u64,
}

/// How the bakes of an image ended.
enum Outcome {
    Done(Baked),
    Failed { error: String, failure: Option<Failure>, cause: Cause },
}

impl<'a> Job<'a> {
    pub fn new(
        ctx: &'a Ctx<'a>,
        image: &'a Image,
        number: usize,
        is_first: bool,
        has_success: bool,
        is_checked: bool,
    ) -> Self {
        Job {
            ctx,
            image,
            number,
            is_first,
            has_success,
            is_checked,
            log: None,
            log_path: None,
            attempts: 1,
        }
    }

    /// Checks and delivers the image, then exports its caches. A failed image is not an error.
    /// Errors: a signal; a system that starts no docker.
    pub fn build(&mut self) -> Result<Ended> {
        let (ctx, image) = (self.ctx, self.image);
        self.open_log();
        let started = now();
        let mut unread = ctx.unread.clone();
        let mut traces = Vec::new();
        let outcome = self.deliver(&mut unread, &mut traces)?;
        let steps = trace::steps(&traces);
        let mut record = new_record(ctx, image);
        record.started = Some(started);
        record.attempts = Some(self.attempts);
        record.builder_was_empty = if self.is_first { ctx.builder.was_empty } else { Some(false) };
        record.log = self.log_path.as_ref().map(|path| path.display().to_string());
        let mut exports = Vec::new();
        let mut result = ended(self.number, Record::default());
        let mut known = BTreeMap::new();
        match outcome {
            Outcome::Done(baked) => {
                record.status = Status::Built;
                record.pushed = ctx.args.push();
                record.digest = baked.digest(&image.name).map(str::to_owned);
                let layer = plan::layer_name(&image.name);
                record.layer = (!image.layer_tags.is_empty()).then(|| Layer {
                    tags: image.layer_tags.clone(),
                    digest: baked.digest(&layer).map(str::to_owned),
                });
                report::image_delivered(ctx, self.number, image, &record);
                known = self.known_contents(&record, &traces, steps.as_deref());
                let all_cached =
                    steps.iter().flatten().all(|step| step.cached == Some(true)) && steps.is_some();
                let is_needless = all_cached && record.builder_was_empty == Some(true);
                record.cache_written =
                    self.export(&unread, &traces, &known, is_needless, &mut exports);
                if ctx.args.records.is_some() {
                    read_sizes(ctx, image, &mut record);
                }
            }
            Outcome::Failed { error, failure, cause } => {
                record.status = Status::Failed;
                record.error = Some(error);
                (result.failure, result.cause) = (failure, Some(cause));
            }
        }
        record.cache_read = cache_reads(image, &traces, &unread, &known);
        record.context_bytes =
            traces.iter().chain(&exports).filter_map(Trace::context_bytes).reduce(|a, b| a + b);
        result.bases = traces.first().map(Trace::bases).unwrap_or_default();
        for (phase, _) in Phase::ALL {
            let spans = traces.iter().chain(&exports).flat_map(|trace| trace.spans(phase));
            result.spans.push((phase, spans.collect()));
        }
        if !traces.iter().all(|trace| trace.nodes.is_empty()) {
            record.seconds = seconds(&result.spans, &exports);
        }
        record.steps = counted(steps.as_deref(), &record, image);
        if let Some(steps) = steps {
            let last = ctx.last.steps(image);
            let cached = steps.iter().filter(|step| step.cached == Some(true));
            // Parallel steps save the time that they cover once.
            let saved = last.and_then(|last| {
                cached.map(|step| last.get(&step.name).copied()).collect::<Option<Vec<_>>>()
            });
            record.steps.saved_seconds = saved.map(|spans| text::rounded(trace::covered(spans)));
            record.step_list = steps;
        }
        record.finished = Some(now());
        result.record = record;
        Ok(result)
    }

    fn open_log(&mut self) {
        let args = self.ctx.args;
        let arch = args.arch.as_ref().map(|arch| format!("-{arch}")).unwrap_or_default();
        let flavor = args.flavor.suffix();
        let target = names::target_suffix(&args.target, &flavor);
        let file = format!("{}{flavor}{arch}{target}.log", self.image.name);
        let folder = self.ctx.root.join("target/image/logs");
        let path = folder.join(file);
        match fs::create_dir_all(&folder).and_then(|()| File::create(&path)) {
            Ok(log) => (self.log, self.log_path) = (Some(log), Some(path)),
            Err(error) => self
                .ctx
                .progress
                .warn(&format!("the log {} can't be written: {error}", path.display())),
        }
    }

    fn bake(
        &self,
        bake: &Value,
        steps_were_shown: bool,
        deadline: Option<Instant>,
    ) -> Result<Baked> {
        let ctx = self.ctx;
        let mut watch = ctx.progress.watch(self.number, self.log.as_ref(), steps_were_shown);
        ctx.docker.bake(bake, ctx.args, ctx.host, &mut watch, deadline)
    }

    /// Starts the image where it is checked, and delivers it, after as many tries as it takes. Caches that
    /// break the build, or keep it waiting, are left out of another try.
    fn deliver(
        &mut self,
        unread: &mut BTreeMap<String, String>,
        traces: &mut Vec<Trace>,
    ) -> Result<Outcome> {
        let (ctx, image) = (self.ctx, self.image);
        let platforms = u32::try_from(image.platforms.len().max(1)).unwrap_or(u32::MAX);
        let deadline = Instant::now().checked_add(ctx.args.timeout.saturating_mul(platforms));
        let (mut is_checked, mut tries) = (!self.is_checked, 0);
        loop {
            let without = unread.keys().cloned().collect::<BTreeSet<_>>();
            let steps_were_shown = is_checked && self.is_checked || self.attempts > 1;
            let bake = if is_checked { image.bake(&without) } else { image.check(&without) };
            let mut baked = self.bake(&bake, steps_were_shown, deadline)?;
            let trace = std::mem::take(&mut baked.trace);
            if baked.end == End::Done {
                traces.push(trace);
                if is_checked {
                    return Ok(Outcome::Done(baked));
                }
                is_checked = true;
                continue;
            }
            let outcome = self.after_failure(&baked, &trace, unread, &mut tries)?;
            traces.push(trace);
            if let Some(outcome) = outcome {
                return Ok(outcome);
            }
            self.attempts += 1;
        }
    }

    /// Decides after a bake that failed: returns how the image ended, or `None` after the pause before
    /// another try.
    fn after_failure(
        &self,
        baked: &Baked,
        trace: &Trace,
        unread: &mut BTreeMap<String, String>,
        tries: &mut usize,
    ) -> Result<Option<Outcome>> {
        let ctx = self.ctx;
        let status = match baked.end {
            End::Stopped(signal) => return Err(Interrupted(signal).into()),
            End::TimedOut => {
                let awaited = trace.awaited();
                if awaited.iter().any(|name| !unread.contains_key(name)) {
                    let why =
                        format!("no answer within {} s", docker::read_patience(ctx.args).as_secs());
                    unread.extend(awaited.into_iter().map(|name| (name, why.clone())));
                    ctx.progress.warn("a cache does not answer; retrying without it");
                    return Ok(None);
                }
                let what = trace.pending().map_or_else(|| "the build".to_owned(), text::title);
                let error =
                    format!("{what}: not done within {} s (--timeout)", ctx.args.timeout.as_secs());
                return Ok(Some(Outcome::Failed {
                    error,
                    failure: trace.failure(),
                    cause: Cause::Other,
                }));
            }
            End::Done => 0,
            End::Failed(status) => status,
        };
        let failure = trace.failure();
        let error = match (&failure, &trace.error) {
            (Some(failure), _) => format!("{}: {}", text::title(&failure.name), failure.error),
            (None, Some(error)) => error.clone(),
            (None, None) => format!("`docker buildx bake` exited with status {status}"),
        };
        let mut cause = failure.as_ref().map_or_else(|| Cause::of(&error), Failure::cause);
        // A host that has answered in this run has a name.
        if cause == Cause::NoHost && self.has_success {
            cause = Cause::Transient;
        }
        if cause == Cause::BrokenCache {
            // Where none is known to have been read, any may be meant.
            let mut read = trace.hits();
            if read.is_empty() {
                read.extend(self.image.cache_read.iter().map(|cache| cache.name().to_owned()));
            }
            if read.iter().any(|name| !unread.contains_key(name)) {
                let why = format!("it or another is broken: {error}");
                unread.extend(read.into_iter().map(|name| (name, why.clone())));
                ctx.progress.warn("a cache is broken; retrying without it");
                return Ok(None);
            }
            // No cache is left that it could be.
            cause = Cause::of_request(&error);
        }
        if cause == Cause::NoSpace && *tries == 0 && prune_limits(ctx.args).is_some() {
            *tries += 1;
            ctx.progress.warn("the builder has no space left; pruning its build cache");
            disk::prune(ctx.docker, 0)?;
            return Ok(None);
        }
        if *tries < cause.retries()
            && let Some(&pause) = PAUSES.get(*tries)
        {
            *tries += 1;
            let shown = &self.image.shown;
            ctx.progress
                .warn(&format!("{shown}: {}; retrying in {pause} s", text::shortened(&error, 120)));
            sleep(Duration::from_secs(pause))?;
            return Ok(None);
        }
        Ok(Some(Outcome::Failed { error, failure, cause }))
    }

    /// What the registry has of the caches that were read and of the image that was pushed, before anything
    /// is exported. Without exports, only caches that no step came from are looked at.
    fn known_contents(
        &self,
        record: &Record,
        traces: &[Trace],
        steps: Option<&[trace::Step]>,
    ) -> BTreeMap<String, Content> {
        let has_cached =
            steps.is_some_and(|steps| steps.iter().any(|step| step.cached == Some(true)));
        if self.image.cache_written.is_empty() && has_cached {
            return BTreeMap::new();
        }
        let mut asked =
            traces.iter().flat_map(Trace::hits).filter(|name| !name.starts_with("local:"));
        let mut asked = asked.by_ref().collect::<BTreeSet<_>>();
        // What another repository has is new to that of the caches.
        if !self.image.cache_written.is_empty() && self.ctx.args.cache_image.is_none() {
            asked.extend(record.reference());
        }
        self.ctx.docker.contents(&asked)
    }

    /// Exports the image's caches, and waits no longer for that than the request allows. An export that
    /// fails is not an error.
    fn export(
        &self,
        unread: &BTreeMap<String, String>,
        traces: &[Trace],
        known: &BTreeMap<String, Content>,
        is_needless: bool,
        exports: &mut Vec<Trace>,
    ) -> Vec<CacheWritten> {
        let (ctx, image) = (self.ctx, self.image);
        let deadline = Instant::now().checked_add(ctx.args.cache_timeout);
        let mut without = unread.keys().cloned().collect::<BTreeSet<_>>();
        let mut all = Vec::new();
        for cache in &image.cache_written {
            let mut written = CacheWritten {
                r#ref: cache.name().to_owned(),
                mode: ctx.args.cache_mode.name().to_owned(),
                ..CacheWritten::default()
            };
            // Everything was read from the very cache that would be written: only an engine that was empty
            // can't have had it from elsewhere, nor from a cache of which this one has all layers.
            let has_all = |own: &Content| {
                let others = image.cache_read.iter().filter_map(|other| known.get(other.name()));
                others
                    .flat_map(|other| other.layers.keys())
                    .all(|digest| own.layers.contains_key(digest))
            };
            if is_needless && known.get(cache.name()).is_some_and(has_all) {
                written.result = Some("skipped".to_owned());
                all.push(written);
                continue;
            }
            for is_last in [false, true] {
                let cause = match self.export_once(cache, &without, deadline, &mut written) {
                    Ok(trace) => {
                        exports.push(trace);
                        written.error.as_deref().map(Cause::of)
                    }
                    Err(error) => {
                        written.result = Some("failed".to_owned());
                        written.error = Some(format!("{error:#}"));
                        None
                    }
                };
                // BuildKit itself retries layers, and not the manifest. A layer that BuildKit built
                // itself may still be looked for in a broken cache.
                let is_manifest = written.error.as_deref().is_some_and(|e| e.contains("manifest"));
                let may_help = cause.is_some_and(|cause| {
                    cause == Cause::BrokenCache || is_manifest && cause.retries() > 0
                });
                let has_failed = written.result.as_deref() == Some("failed");
                if is_last || !has_failed || !may_help || process::caught().is_some() {
                    break;
                }
                if cause == Some(Cause::BrokenCache) {
                    without.extend(traces.iter().flat_map(Trace::hits));
                }
            }
            // Where the registry did not list all that it had, nobody knows what was new to it.
            if written.result.as_deref() == Some("done")
                && matches!(cache, Cache::Registry(_))
                && !known.is_empty()
            {
                let names = BTreeSet::from([cache.name().to_owned()]);
                if let Some(content) = ctx.docker.contents(&names).get(cache.name()) {
                    let (mut sent, mut present) = (0, 0);
                    for (digest, size) in &content.layers {
                        let is_known = known.values().any(|had| had.layers.contains_key(digest));
                        *(if is_known { &mut present } else { &mut sent }) += size;
                    }
                    (written.bytes_uploaded, written.bytes_present) = (Some(sent), Some(present));
                }
            }
            all.push(written);
        }
        all
    }

    /// Makes one bake that writes `cache`, and notes how that went. A folder is written beside what it holds,
    /// and takes that over when it is complete.
    fn export_once(
        &self,
        cache: &Cache,
        without: &BTreeSet<String>,
        deadline: Option<Instant>,
        written: &mut CacheWritten,
    ) -> Result<Trace> {
        let staging = match cache {
            Cache::Registry(_) => None,
            Cache::Folder(folder) => Some(Staging::new(folder)?),
        };
        let place = staging.as_ref().map_or(cache.clone(), Staging::place);
        let baked = self.bake(&self.image.export(&place, without), true, deadline)?;
        let runs = baked.trace.exports();
        let error = runs.iter().find_map(|run| run.error.clone());
        let is_complete = !runs.is_empty()
            && runs.iter().all(|run| run.completed.is_some() && run.error.is_none());
        let is_canceled = error.as_ref().is_none_or(|error| Cause::of(error) == Cause::Canceled);
        let result = match (baked.end, baked.has_cache(&self.image.name)) {
            _ if is_complete => Some("done"),
            (End::TimedOut, _) if is_canceled => Some("timed out"),
            _ if error.is_some() => Some("failed"),
            (End::Done, Some(true)) => Some("done"),
            (End::Done, None) => None,
            // buildx reports one that failed by leaving it out.
            _ => Some("failed"),
        };
        written.result = result.map(str::to_owned);
        written.seconds = runs.first().and_then(|run| run.seconds()).map(text::rounded);
        if result == Some("timed out") {
            written.seconds = Some(text::rounded(baked.seconds));
        }
        let error = error.or_else(|| baked.trace.error.clone());
        written.error = error.filter(|_| written.is_lost());
        if let (Some(staging), Some("done")) = (staging, result) {
            staging.keep()?;
        }
        Ok(baked.trace)
    }
}

/// Seconds by phase. An image is pushed within its export, which counts without that; of the bakes of caches
/// everything is done for the caches.
fn seconds(spans: &[(Phase, Vec<Span>)], exports: &[Trace]) -> Seconds {
    let of = |wanted: Phase| {
        let found = spans.iter().find(|(phase, _)| *phase == wanted);
        found.map(|(_, spans)| spans.clone()).unwrap_or_default()
    };
    let total = |spans: Vec<Span>| Some(text::rounded(trace::covered(spans)));
    let push = of(Phase::Push);
    let export = [of(Phase::ImageExport), push.clone()].concat();
    let mut caches = of(Phase::CacheExport);
    caches.extend(exports.iter().filter_map(|trace| trace.whole));
    Seconds {
        context: total(of(Phase::Context)),
        cache_import: total(of(Phase::CacheImport)),
        pull: total(of(Phase::Pull)),
        steps: total(of(Phase::Steps)),
        image_export: Some(text::rounded(trace::covered(export) - trace::covered(push.clone()))),
        push: total(push),
        cache_export: total(caches),
    }
}

/// How many steps there are, and where the cached ones are from. `BuildKit` does not report which cache a
/// step is from, so only some cases are certain.
fn counted(steps: Option<&[trace::Step]>, record: &Record, image: &Image) -> Steps {
    let Some(steps) = steps else { return Steps::default() };
    let cached = steps.iter().filter(|step| step.cached == Some(true)).count() as u64;
    let any_hit = record.cache_read.iter().any(|read| read.result.as_deref() == Some("hit"));
    let all_known = record.cache_read.iter().all(|read| read.result.is_some());
    let (builder, import) = if cached == 0 {
        (Some(0), Some(0))
    } else if !any_hit && all_known {
        (Some(cached), Some(0))
    } else if record.builder_was_empty == Some(true) && any_hit {
        (Some(0), Some(cached))
    } else {
        (None, None)
    };
    let is_folder = matches!(image.cache_read.first(), Some(Cache::Folder(_)));
    Steps {
        total: Some(steps.len() as u64),
        cached: Some(cached),
        from_builder: builder,
        from_registry: import.filter(|_| !is_folder),
        from_folder: import.filter(|_| is_folder),
        saved_seconds: None,
    }
}

/// How reading each cache of an image went, in the bake that read it first; `known` is what a registry holds
/// under some references.
fn cache_reads(
    image: &Image,
    traces: &[Trace],
    unread: &BTreeMap<String, String>,
    known: &BTreeMap<String, Content>,
) -> Vec<CacheRead> {
    let mut reads = Vec::new();
    for cache in &image.cache_read {
        let mut imports = traces.iter().flat_map(Trace::imports);
        let run = imports.find(|(name, run)| cache.is_read_as(name) && run.completed.is_some());
        let run = run.map(|(_, run)| run);
        let is_no_cache = known.get(cache.name()).is_some_and(|content| !content.is_cache);
        let (result, error) = match (unread.get(cache.name()), run.map(|run| run.error.as_deref()))
        {
            (Some(why), _) => (Some("failed"), Some(why.as_str())),
            (None, None) => (None, None),
            // BuildKit reads any image as a cache of nothing.
            (None, Some(None)) if is_no_cache => {
                (Some("failed"), Some("this is not a build cache"))
            }
            (None, Some(None)) => (Some("hit"), None),
            (None, Some(Some(error))) if cause::is_miss(cache.name(), error) => {
                (Some("miss"), None)
            }
            (None, Some(Some(error))) => match (Cause::of(error), cause::http_status(error)) {
                // Docker Hub says of a repository that it may not be shown, or is not there.
                (Cause::Denied | Cause::NotFound | Cause::Limited, _) | (_, Some(429)) => {
                    (Some("refused"), Some(error))
                }
                _ => (Some("failed"), Some(error)),
            },
        };
        reads.push(CacheRead {
            r#ref: cache.name().to_owned(),
            result: result.map(str::to_owned),
            status: run.and_then(|run| cause::http_status(run.error.as_deref()?)),
            error: error.map(str::to_owned),
            seconds: run.and_then(trace::Run::seconds).map(text::rounded),
        });
    }
    reads
}
