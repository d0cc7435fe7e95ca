//! One image: it is started where it is checked, delivered, and its caches are exported, each by a bake of
//! its own. All that happened becomes its record.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::mem;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use base::process;
use serde_json::Value;

use crate::build::{Ctx, Ended, now, prune_limits, read_sizes};
use crate::docker::{self, Baked, Content, Docker, End, sleep};
use crate::progress::columns;
use crate::{cache_dir, disk, progress, report};
use outcome::cause::{self, Cause};
use outcome::record::{CacheRead, CacheWritten, Layer, Record, Seconds, Status, Step, Steps};
use outcome::text;
use outcome::trace::{self, Failure, Span, Trace};
use outcome::vertex::Phase;
use request::names::{self, Cache};
use request::plan::{self, Image};

/// Seconds before an image is built again that failed for a transient reason.
const PAUSES: [u64; 4] = [2, 5, 15, 30];

/// One image while it is built.
pub struct Job<'a> {
    ctx: &'a Ctx<'a>,
    image: &'a Image,
    /// Whether it is the first of the run, which finds the builder as it was.
    is_first: bool,
    /// Whether others have been built already.
    has_success: bool,
    /// Whether it has to start before it is pushed.
    is_checked: bool,
    log: Option<File>,
    attempts: u64,
    /// How many of these were made because of the error, and not without a cache.
    tries: usize,
    /// Caches that are not read, each with the reason.
    unread: BTreeMap<String, String>,
    /// What happened in the bakes that check and deliver the image.
    traces: Vec<Trace>,
    /// What happened in the bakes that export its caches.
    exports: Vec<Trace>,
}

impl<'a> Job<'a> {
    /// Of `image`, before anything is done for it.
    pub fn new(ctx: &'a Ctx<'a>, image: &'a Image) -> Self {
        let mut run = ctx.run();
        Job {
            ctx,
            image,
            is_first: !mem::replace(&mut run.has_begun, true),
            has_success: run.has_success(),
            // Of images that begin at once, each is checked: none is pushed before one has started.
            is_checked: image.check_key.as_ref().is_some_and(|key| !run.started.contains(key)),
            log: None,
            attempts: 1,
            tries: 0,
            unread: ctx.unread.clone(),
            traces: Vec::new(),
            exports: Vec::new(),
        }
    }

    /// Checks and delivers the image, then exports its caches. A failed image is not an error.
    /// Errors: a signal; a system that starts no docker.
    pub fn build(mut self) -> Result<Ended> {
        let (ctx, image) = (self.ctx, self.image);
        let mut ended = Ended::new(ctx, image);
        let record = &mut ended.record;
        record.log = self.open_log();
        record.started = Some(now());
        let delivered = self.deliver()?;
        let steps = trace::steps(&self.traces);
        record.attempts = Some(self.attempts);
        record.builder_was_empty = if self.is_first { ctx.builder.was_empty } else { Some(false) };
        let mut known = BTreeMap::new();
        match delivered {
            Ok(baked) => {
                record.status = Status::Built;
                record.pushed = ctx.args.push;
                let digest = |target: &str| baked.digest(target).map(str::to_owned);
                record.digest = digest(&image.name);
                record.layer = (!image.layer_tags.is_empty()).then(|| Layer {
                    tags: image.layer_tags.clone(),
                    digest: digest(&plan::layer_name(&image.name)),
                });
                report::image_delivered(ctx, image);
                known = self.known_contents(record, &steps);
                let is_needless = record.builder_was_empty == Some(true)
                    && !steps.is_empty()
                    && steps.iter().all(|step| step.cached == Some(true));
                record.cache_written = self.export(&known, is_needless);
                read_sizes(ctx, image, record);
            }
            Err((error, cause)) => {
                (record.status, record.error) = (Status::Failed, Some(error));
                ended.failure = self.traces.last().and_then(Trace::failure);
                ended.cause = Some(cause);
            }
        }
        record.cache_read = self.cache_reads(&known);
        let all = || self.traces.iter().chain(&self.exports);
        record.context_bytes = all().filter_map(Trace::context_bytes).reduce(|a, b| a + b);
        ended.bases = self.traces.first().map(Trace::bases).unwrap_or_default();
        for &phase in Phase::ALL {
            let spans = all().flat_map(|trace| trace.spans(phase));
            ended.spans.push((phase, spans.collect()));
        }
        if !self.traces.iter().all(|trace| trace.nodes.is_empty()) {
            record.seconds = seconds(&ended.spans, &self.exports);
        }
        if !steps.is_empty() {
            record.steps = counted(&steps, record, image);
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
        Ok(ended)
    }

    /// Opens the image's log, and returns its path.
    fn open_log(&mut self) -> Option<String> {
        let args = self.ctx.args;
        let suffix = names::suffix(args.flavor.part(), args.arch.as_deref(), Some(&args.target));
        let folder = self.ctx.docker.root.join("target/image/logs");
        let name = format!("{}{suffix}", self.image.name);
        let mut path = folder.join(format!("{name}.log"));
        let open = |path: &Path| OpenOptions::new().create(true).append(true).open(path);
        let mut log = fs::create_dir_all(&folder).and_then(|()| open(&path));
        // Another run may be building an image of that name.
        let mut number = 2;
        while log.as_ref().is_ok_and(|log| matches!(log.try_lock(), Err(TryLockError::WouldBlock)))
        {
            path = folder.join(format!("{name}-{number}.log"));
            log = open(&path);
            number += 1;
        }
        let log = log.and_then(|log| log.set_len(0).map(|()| log));
        let path = path.display().to_string();
        let log = log.inspect_err(|error| {
            progress::warn(&format!("the log {path} can't be written: {error}"));
        });
        self.log = log.ok();
        self.log.is_some().then_some(path)
    }

    fn bake(
        &self,
        bake: &Value,
        shown: Option<&str>,
        steps_were_shown: bool,
        deadline: Option<Instant>,
    ) -> Result<Baked> {
        let ctx = self.ctx;
        let mut watch = ctx.progress.watch(shown, self.log.as_ref(), steps_were_shown);
        ctx.docker.bake(bake, ctx.args, &ctx.facts.host, &mut watch, deadline)
    }

    /// How long the image may take.
    fn limit(&self) -> Duration {
        let platforms = u32::try_from(self.image.platforms.len().max(1)).unwrap_or(u32::MAX);
        self.ctx.args.timeout.saturating_mul(platforms)
    }

    /// Starts the image where it is checked, and delivers it, after as many tries as it takes. Caches that
    /// break the build, or keep it waiting, are left out of another try. Returns why it failed, if it did.
    fn deliver(&mut self) -> Result<Result<Baked, (String, Cause)>> {
        let image = self.image;
        let deadline = Instant::now().checked_add(self.limit());
        let mut is_checked = !self.is_checked;
        loop {
            let without = self.unread.keys().cloned().collect();
            let steps_were_shown = is_checked && self.is_checked || self.attempts > 1;
            process::check_signals()?;
            let bake = if is_checked { image.bake(&without) } else { image.check(&without) };
            let mut baked = self.bake(&bake, Some(&image.shown), steps_were_shown, deadline)?;
            let trace = mem::take(&mut baked.trace);
            let failed = self.after_bake(baked.end, &trace)?;
            self.traces.push(trace);
            match (baked.end, failed) {
                (_, Some(why)) => return Ok(Err(why)),
                (End::Done, None) if is_checked => return Ok(Ok(baked)),
                (End::Done, None) => is_checked = true,
                (_, None) => self.attempts += 1,
            }
        }
    }

    /// Decides after a bake: returns why the image failed, or `None` once the next bake may begin.
    fn after_bake(&mut self, end: End, trace: &Trace) -> Result<Option<(String, Cause)>> {
        let ctx = self.ctx;
        let status = match end {
            End::TimedOut => {
                let why =
                    format!("no answer within {} s", docker::read_patience(ctx.args).as_secs());
                if self.leave_out(trace.awaited(), &why, "does not answer") {
                    return Ok(None);
                }
                let what = trace.pending().map_or_else(|| "the build".to_owned(), text::title);
                let limit = self.limit().as_secs();
                let error = format!("{what}: not done within {limit} s (--timeout)");
                return Ok(Some((error, Cause::Other)));
            }
            End::Done => return Ok(None),
            End::Failed(status) => status,
        };
        let failure = trace.failure();
        let error = match (&failure, &trace.error) {
            (Some(failure), _) => failure.describe(),
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
            if self.leave_out(read, &format!("it or another is broken: {error}"), "is broken") {
                return Ok(None);
            }
            // No cache is left that it could be.
            cause = Cause::of_request(&error);
        }
        if cause == Cause::NoSpace && self.tries == 0 && prune_limits(ctx.args).is_some() {
            progress::warn("the builder has no space left; pruning its build cache");
            disk::prune(ctx.docker, 0);
        } else if self.tries < cause.retries()
            && let Some(&pause) = PAUSES.get(self.tries)
        {
            let shown = text::shortened(&self.image.shown, 40);
            let room = columns().saturating_sub(shown.chars().count() + 30);
            let error = text::shortened(&error, room);
            progress::warn(&format!("{shown}: {error}; retrying in {pause} s"));
            sleep(Duration::from_secs(pause))?;
        } else {
            return Ok(Some((error, cause)));
        }
        self.tries += 1;
        Ok(None)
    }

    /// Leaves `caches` out of the next try, because of `why`; false where all of them were left out before.
    fn leave_out(&mut self, caches: BTreeSet<String>, why: &str, shown: &str) -> bool {
        let is_new = caches.iter().any(|name| !self.unread.contains_key(name));
        if is_new {
            self.unread.extend(caches.into_iter().map(|name| (name, why.to_owned())));
            // The caches are named in the end.
            let image = &self.image.shown;
            progress::warn(&format!("{image}: a cache {shown}; retrying without it"));
        }
        is_new
    }

    /// What the registry has of the caches that were read and of the image that was pushed, before anything
    /// is exported. Without exports, only caches that no step came from are looked at.
    fn known_contents(&self, record: &Record, steps: &[Step]) -> BTreeMap<String, Content> {
        let is_exported = !self.image.cache_written.is_empty();
        if !is_exported && steps.iter().any(|step| step.cached == Some(true)) {
            return BTreeMap::new();
        }
        let mut asked = self.traces.iter().flat_map(Trace::hits).collect::<BTreeSet<_>>();
        asked.retain(|name| !name.starts_with("local:"));
        // What another repository has is new to that of the caches.
        if is_exported && self.ctx.args.cache_image.is_none() {
            asked.extend(record.reference());
        }
        let known = self.ctx.docker.each(&asked, Docker::content);
        // Of some alone, nobody could tell what is new.
        if known.len() == asked.len() { known } else { BTreeMap::new() }
    }

    /// Exports the image's caches, as long as the request allows. An export that fails is not an error.
    fn export(
        &mut self,
        known: &BTreeMap<String, Content>,
        is_needless: bool,
    ) -> Vec<CacheWritten> {
        let (ctx, image) = (self.ctx, self.image);
        let deadline = Instant::now().checked_add(ctx.args.cache_timeout);
        let mut without = self.unread.keys().cloned().collect::<BTreeSet<_>>();
        let mut all = Vec::new();
        for cache in &image.cache_written {
            let mut written = CacheWritten {
                r#ref: cache.name().to_owned(),
                mode: ctx.args.cache_mode.name().to_owned(),
                ..CacheWritten::default()
            };
            if process::caught().is_some() {
                written.result = Some("failed".to_owned());
                written.error = Some("the run was stopped before".to_owned());
                all.push(written);
                continue;
            }
            // Everything was read from the very cache that would be written: only an engine that was empty
            // can't have had it from elsewhere, nor from a cache of which this one has all layers.
            let has_all = |own: &Content| {
                let read = image.cache_read.iter().filter_map(|read| known.get(read.name()));
                let mut layers = read.flat_map(|read| read.layers.keys());
                layers.all(|digest| own.layers.contains_key(digest))
            };
            if is_needless && known.get(cache.name()).is_some_and(has_all) {
                written.result = Some("skipped".to_owned());
                all.push(written);
                continue;
            }
            for is_last in [false, true] {
                let cause = match self.export_once(cache, &without, deadline, &mut written) {
                    Ok(()) => written.error.as_deref().map(Cause::of),
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
                    without.extend(self.traces.iter().flat_map(Trace::hits));
                }
            }
            // Where the registry did not list all that it had, nobody knows what was new to it. What images
            // have in common is sent once.
            if written.result.as_deref() == Some("done")
                && matches!(cache, Cache::Registry(_))
                && !known.is_empty()
                && let Some(content) = ctx.docker.content(cache.name())
            {
                let (mut sent, mut present) = (0, 0);
                let mut run = ctx.run();
                for (digest, size) in content.layers {
                    let is_known = known.values().any(|had| had.layers.contains_key(&digest));
                    let is_new = run.cached_layers.insert(digest) && !is_known;
                    *(if is_new { &mut sent } else { &mut present }) += size;
                }
                (written.bytes_uploaded, written.bytes_present) = (Some(sent), Some(present));
            }
            all.push(written);
        }
        all
    }

    /// Makes one bake that writes `cache`, and notes how that went.
    fn export_once(
        &mut self,
        cache: &Cache,
        without: &BTreeSet<String>,
        deadline: Option<Instant>,
        written: &mut CacheWritten,
    ) -> Result<()> {
        let folder = match cache {
            Cache::Registry(_) => None,
            Cache::Folder(folder) => Some((folder, cache_dir::lock_writing(folder)?)),
        };
        let baked = self.bake(&self.image.export(cache, without), None, true, deadline)?;
        // buildx itself writes a folder's index, after everything else.
        let has_index = folder.is_none_or(|(folder, _)| {
            baked.end == End::Done && Path::new(folder).join(cache_dir::INDEX).exists()
        });
        let runs = baked.trace.exports();
        let error = runs.iter().find_map(|run| run.error.clone());
        let is_complete =
            !runs.is_empty() && error.is_none() && runs.iter().all(|run| run.completed.is_some());
        let is_canceled = error.as_ref().is_none_or(|error| Cause::of(error) == Cause::Canceled);
        let result = match (baked.end, baked.has_cache(&self.image.name)) {
            _ if is_complete && has_index => Some("done"),
            (End::TimedOut, _) if is_canceled => Some("timed out"),
            _ if error.is_some() => Some("failed"),
            (End::Done, Some(true)) if has_index => Some("done"),
            (End::Done, None) => None,
            // buildx reports one that failed by leaving it out.
            _ => Some("failed"),
        };
        written.result = result.map(str::to_owned);
        let seconds = match result {
            Some("timed out") => Some(baked.seconds),
            _ => runs.first().and_then(|run| run.seconds()),
        };
        written.seconds = seconds.map(text::rounded);
        let error = error.or_else(|| baked.trace.error.clone());
        written.error = error.filter(|_| written.is_lost());
        self.exports.push(baked.trace);
        Ok(())
    }

    /// How reading each cache went, in the bake that read it first; `known` is what a registry has of some.
    fn cache_reads(&self, known: &BTreeMap<String, Content>) -> Vec<CacheRead> {
        let mut reads = Vec::new();
        for cache in &self.image.cache_read {
            let name = cache.name();
            let imports = self.traces.iter().flat_map(Trace::imports);
            let mut runs = imports.filter(|(read, _)| cache.is_read_as(read)).map(|(_, run)| run);
            let run = runs.find(|run| run.completed.is_some());
            let (result, error) = match (self.unread.get(name), run.map(|run| &run.error)) {
                (Some(why), _) => (Some("failed"), Some(why.as_str())),
                (None, None) => (None, None),
                // BuildKit reads any image as a cache of nothing.
                (None, Some(None)) if known.get(name).is_some_and(|content| !content.is_cache) => {
                    (Some("failed"), Some("this is not a build cache"))
                }
                (None, Some(None)) => (Some("hit"), None),
                (None, Some(Some(error))) if cause::is_miss(name, error) => (Some("miss"), None),
                (None, Some(Some(error))) => match (Cause::of(error), cause::http_status(error)) {
                    // Docker Hub says of a repository that it may not be shown, or is not there.
                    (Cause::Denied | Cause::NotFound | Cause::Limited, _) | (_, Some(429)) => {
                        (Some("refused"), Some(error.as_str()))
                    }
                    _ => (Some("failed"), Some(error.as_str())),
                },
            };
            reads.push(CacheRead {
                r#ref: name.to_owned(),
                result: result.map(str::to_owned),
                status: run.and_then(|run| cause::http_status(run.error.as_deref()?)),
                error: error.map(str::to_owned),
                seconds: run.and_then(trace::Run::seconds).map(text::rounded),
            });
        }
        reads
    }
}

/// Seconds by phase. An image is pushed within its export, which counts without that; of the bakes of caches
/// everything is done for the caches.
fn seconds(spans: &[(Phase, Vec<Span>)], exports: &[Trace]) -> Seconds {
    let of = |wanted: &[Phase]| {
        let wanted = spans.iter().filter(|(phase, _)| wanted.contains(phase));
        wanted.flat_map(|(_, spans)| spans.clone()).collect::<Vec<_>>()
    };
    let total = |phase| Some(text::rounded(trace::covered(of(&[phase]))));
    let export = trace::covered(of(&[Phase::ImageExport, Phase::Push]));
    let mut caches = of(&[Phase::CacheExport]);
    caches.extend(exports.iter().flat_map(Trace::whole));
    Seconds {
        context: total(Phase::Context),
        cache_import: total(Phase::CacheImport),
        pull: total(Phase::Pull),
        steps: total(Phase::Steps),
        image_export: Some(text::rounded(export - trace::covered(of(&[Phase::Push])))),
        push: total(Phase::Push),
        cache_export: Some(text::rounded(trace::covered(caches))),
    }
}

/// How many steps there are, and where the cached ones are from. `BuildKit` does not report which cache a
/// step is from, so only some cases are certain.
fn counted(steps: &[Step], record: &Record, image: &Image) -> Steps {
    let cached = steps.iter().filter(|step| step.cached == Some(true)).count() as u64;
    let any_hit = record.cache_read.iter().any(|read| read.result.as_deref() == Some("hit"));
    let all_known = record.cache_read.iter().all(|read| read.result.is_some());
    let (builder, import) = if cached == 0 || !any_hit && all_known {
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
