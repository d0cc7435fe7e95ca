//! One image: it is checked, delivered, and its caches exported, each by a bake; and it becomes a record.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::mem;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use base::error::Interrupted;
use base::process;

use crate::build::{Ctx, Ended, now, prune_threshold, read_sizes, unbuilt, written};
use crate::docker::{self, Baked, Docker, End, Layers, sleep};
use crate::progress::{self, Watch, columns};
use crate::{cache_dir, report};
use outcome::cause::{self, Cause};
use outcome::record::{self, CacheRead, CacheWritten, Layer, Record, Status, Steps};
use outcome::text::{shortened, title};
use outcome::trace::{self, Failure, Span, Trace};
use outcome::vertex::Phase;
use request::names::Cache;
use request::plan::{self, Image};

/// Seconds before an image is built again that failed for a transient reason.
const PAUSES: [u64; 4] = [2, 5, 15, 30];

/// One image while it is built.
struct Job<'a> {
    watch: Watch<'a>,
    /// How many bakes have failed.
    tries: usize,
    /// How many of these by a cache that is left out since then.
    left_out: usize,
    /// Why the last one did.
    cause: Option<Cause>,
    /// Caches that are not read, each with the reason.
    unread: BTreeMap<String, String>,
    /// What happened in the bakes that check and deliver the image.
    traces: Vec<Trace>,
    /// What the registry had of caches and image before an export; empty where it does not tell of all.
    known: BTreeMap<String, (Layers, bool)>,
    /// When caches were exported.
    exports: Vec<Span>,
}

/// Checks and delivers `image`, then exports its caches; `None` for one that a signal stopped.
pub fn build<'a>(ctx: &'a Ctx<'a>, image: &'a Image) -> Option<Ended> {
    let mut ended = unbuilt(ctx, image);
    let record = &mut ended.record;
    let mut watch = Watch::new(ctx, image);
    (watch.log, record.log) = open_log(ctx, image).unzip();
    record.builder_was_empty = ctx.run().builder_was_empty.replace(false);
    record.started = Some(now());
    let mut job = Job {
        watch,
        tries: 0,
        left_out: 0,
        cause: None,
        unread: ctx.unread.clone(),
        traces: Vec::new(),
        known: BTreeMap::new(),
        exports: Vec::new(),
    };
    let delivered = job.deliver();
    record.attempts = Some(job.tries as u64 + 1);
    record.step_list = trace::steps(&job.traces);
    match delivered {
        Ok(baked) => {
            (record.status, record.pushed) = (Status::Built, ctx.args.push);
            let of_target = |target: &str| baked.metadata[target]["containerimage.digest"].as_str();
            let digest = |target: &str| of_target(target).map(str::to_owned);
            record.digest = digest(&image.name);
            let layer = |tags| Layer { tags, digest: digest(&plan::layer_name(&image.name)) };
            record.layer = image.layer_tags.first().map(|_| layer(image.layer_tags.clone()));
            report::image_delivered(ctx, image);
            record.cache_written = job.export(record);
            read_sizes(ctx, image, record);
        }
        Err(error) if error.is::<Interrupted>() => return None,
        Err(error) => {
            (record.status, record.error) = (Status::Failed, Some(format!("{error:#}")));
            ended.failure = job.traces.last().and_then(Trace::failure);
            ended.cause = job.cause;
        }
    }

    let traces = &job.traces;
    record.context_bytes = traces.iter().filter_map(Trace::context_bytes).reduce(|a, b| a + b);
    ended.bases = traces.first().map(Trace::bases).unwrap_or_default();

    // How reading each cache went, in the bake that read it first.
    for cache in &image.cache_read {
        let name = cache.name();
        let imports = traces.iter().flat_map(Trace::imports);
        let mut runs = imports.filter(|(read, _)| cache.is_read_as(read)).map(|(_, run)| run);
        let run = runs.find(|run| run.completed.is_some());
        let unread = job.unread.get(name).map(String::as_str);
        let said = run.and_then(|run| run.error.as_deref());
        // BuildKit reads any image as a cache of nothing.
        let other = job.known.get(name).filter(|(_, is_cache)| !is_cache);
        let error = unread.or(said).or(other.map(|_| "this is not a build cache"));
        let status = said.and_then(cause::http_status);
        let result = match error.map(|error| (cause::is_miss(name, error), Cause::of(error))) {
            _ if unread.is_some() => Some("failed"),
            None => run.map(|_| "hit"),
            Some((true, _)) => Some("miss"),
            // Docker Hub says of a repository that it may not be shown, or is not there.
            Some((_, Cause::Denied | Cause::NotFound | Cause::Limited)) => Some("refused"),
            Some(_) => Some(if status == Some(429) { "refused" } else { "failed" }),
        };
        record.cache_read.push(CacheRead {
            r#ref: name.to_owned(),
            result: result.map(str::to_owned),
            status,
            error: error.filter(|_| result != Some("miss")).map(str::to_owned),
            seconds: run.and_then(trace::Run::seconds),
        });
    }

    let spans = |phases: &[Phase]| {
        // Of the bakes of caches everything is done for the caches.
        let exports = job.exports.iter().filter(|_| phases.contains(&Phase::CacheExport));
        traces
            .iter()
            .flat_map(|trace| trace.spans(phases))
            .chain(exports.copied())
            .collect::<Vec<_>>()
    };
    ended.spans = Phase::ALL.iter().map(|&phase| (phase, spans(&[phase]))).collect();
    if traces.iter().any(|trace| !trace.nodes.is_empty()) {
        let covered = |phases: &[Phase]| trace::covered(spans(phases));
        let seconds = Phase::ALL.iter().map(|&phase| match phase {
            // An image is pushed within its export, which counts without that.
            Phase::ImageExport => covered(&[phase, Phase::Push]) - covered(&[Phase::Push]),
            _ => covered(&[phase]),
        });
        let seconds = seconds.map(|seconds| record::rounded(seconds.into()));
        record.seconds = Phase::ALL.iter().map(|phase| phase.name()).zip(seconds).collect();
    }

    if !record.step_list.is_empty() {
        let steps = record.step_list.iter().filter(|step| step.cached == Some(true));
        let cached = steps.clone().count() as u64;
        // BuildKit does not report which cache a step is from, so only some cases are certain.
        let reads = || record.cache_read.iter().map(|read| read.result.as_deref());
        let imported = match record.builder_was_empty {
            _ if cached == 0 => Some(0),
            _ if reads().all(|result| result.is_some_and(|result| result != "hit")) => Some(0),
            Some(true) if reads().any(|result| result == Some("hit")) => Some(cached),
            _ => None,
        };
        let is_folder = matches!(image.cache_read.first(), Some(Cache::Folder(_)));
        // Parallel steps save the time that they cover once.
        let saved = ctx.last.steps(image).and_then(|last| {
            let spans = steps.map(|step| last.get(&step.name).copied()).collect::<Option<_>>()?;
            Some(trace::covered(spans))
        });
        record.steps = Steps {
            total: Some(record.step_list.len() as u64),
            cached: Some(cached),
            from_builder: imported.map(|imported| cached - imported),
            from_registry: imported.filter(|_| !is_folder),
            from_folder: imported.filter(|_| is_folder),
            saved_seconds: saved,
        };
    }
    record.finished = Some(now());
    Some(ended)
}

/// Opens the log of `image`, and names it.
fn open_log(ctx: &Ctx, image: &Image) -> Option<(File, String)> {
    let folder = ctx.docker.root.join("target/image/logs");
    fs::create_dir_all(&folder).ok()?;
    // Another run may be building an image of that name.
    ["", "-2", "-3"].iter().find_map(|number| {
        let path = folder.join(format!("{}{number}.log", ctx.last.name(image)));
        let log = OpenOptions::new().create(true).append(true).open(&path).ok()?;
        let is_free = !matches!(log.try_lock(), Err(TryLockError::WouldBlock));
        (is_free && log.set_len(0).is_ok()).then(|| (log, path.display().to_string()))
    })
}

impl Job<'_> {
    /// Delivers the image, after it was started where it is checked. Errors: why it failed; a signal.
    fn deliver(&mut self) -> Result<Baked> {
        let (ctx, image) = (self.watch.ctx, self.watch.image);
        let platforms = u32::try_from(image.platforms.len().max(1)).unwrap_or(u32::MAX);
        let limit = ctx.args.timeout.saturating_mul(platforms);
        let deadline = Instant::now().checked_add(limit);
        // Of images that begin at once, each is checked: none is pushed before one has started.
        let key = image.check_key.as_ref();
        let mut has_started = key.is_none_or(|key| ctx.run().started.contains(key));
        loop {
            process::check_signals()?;
            let without = self.unread.keys().cloned().collect();
            let bake = if has_started { image.bake(&without) } else { image.check(&without) };
            let mut baked = ctx.docker.bake(&bake, &mut self.watch, deadline)?;
            let trace = mem::take(&mut baked.trace);
            let decided = self.after_bake(&trace, baked.end, limit);
            self.traces.push(trace);
            decided?;
            match baked.end {
                End::Done if has_started => {
                    ctx.run().started.extend(image.check_key.clone());
                    return Ok(baked);
                }
                End::Done => has_started = true,
                _ => self.tries += 1,
            }
        }
    }

    /// After a bake that failed: leaves out caches that broke it, makes room, or waits to try again.
    /// Errors: why the image failed; a signal.
    fn after_bake(&mut self, trace: &Trace, end: End, limit: Duration) -> Result<()> {
        let (ctx, image) = (self.watch.ctx, self.watch.image);
        let failure = trace.failure();
        let error = match (end, &failure, &trace.error) {
            (End::Done, ..) => return Ok(()),
            (End::TimedOut, ..) => {
                let what = trace.pending().map_or_else(|| "the build".to_owned(), title);
                format!("{what}: not done within {} s (--timeout)", limit.as_secs())
            }
            (_, Some(failure), _) => failure.describe(),
            (_, None, Some(error)) => error.clone(),
            (End::Failed(status), ..) => format!("`buildx bake` exited with status {status}"),
        };
        let mut cause = failure.as_ref().map_or_else(|| Cause::of(&error), Failure::cause);
        let (mut unread, mut why) = (BTreeSet::new(), format!("it or another is broken: {error}"));
        if end == End::TimedOut {
            let patience = docker::read_patience(ctx.args).as_secs();
            (unread, why) = (trace.awaited(), format!("no answer within {patience} s"));
            cause = Cause::Other;
        } else if cause == Cause::BrokenCache {
            unread = trace.hits();
            // Where none is known to have been read, any may be meant.
            if unread.is_empty() {
                unread.extend(image.cache_read.iter().map(|cache| cache.name().to_owned()));
            }
            // Where all are left out already, it is none of them.
            cause = Cause::of_request(&error);
        }
        if unread.iter().any(|name| !self.unread.contains_key(name)) {
            self.unread.extend(unread.into_iter().map(|name| (name, why.clone())));
            self.left_out += 1;
            // The caches are named in the end.
            progress::warn(&format!("{}: a cache can't be read; retrying without it", image.shown));
            return Ok(());
        }
        self.cause = Some(cause);
        let tries = self.tries - self.left_out;
        if cause == Cause::NoSpace && tries == 0 && prune_threshold(ctx.args).is_some() {
            progress::warn("the builder has no space left; pruning its build cache");
            ctx.docker.prune(0);
            return Ok(());
        }
        let Some(&pause) = PAUSES.get(tries).filter(|_| tries < cause.retries()) else {
            bail!("{error}")
        };
        let shown = shortened(&image.shown, 40);
        let error = shortened(&error, columns().saturating_sub(shown.chars().count() + 30));
        progress::warn(&format!("{shown}: {error}; retrying in {pause} s"));
        sleep(Duration::from_secs(pause))
    }

    /// Exports the image's caches, as long as the request allows. An export that fails is not an error.
    fn export(&mut self, record: &Record) -> Vec<CacheWritten> {
        let (ctx, image) = (self.watch.ctx, self.watch.image);
        if image.cache_written.is_empty() {
            return Vec::new();
        }
        let hits = self.traces.iter().flat_map(Trace::hits).collect::<BTreeSet<_>>();
        let mut asked = hits.clone();
        asked.retain(|name| !name.starts_with("local:"));
        // What another repository has is new to that of the caches.
        asked.extend(record.reference().filter(|_| ctx.args.cache_image.is_none()));
        self.known = ctx.docker.each(&asked, Docker::layers);
        if self.known.len() < asked.len() {
            self.known.clear();
        }
        let layers = self.known.values().flat_map(|(layers, _)| layers.keys().cloned());
        ctx.run().known_layers.extend(layers);
        let steps = &record.step_list;
        let is_needless = record.builder_was_empty == Some(true)
            && !steps.is_empty()
            && steps.iter().all(|step| step.cached == Some(true));
        let deadline = Instant::now().checked_add(ctx.args.cache_timeout);
        let mut without = self.unread.keys().cloned().collect::<BTreeSet<_>>();
        let mut all = Vec::new();
        for cache in &image.cache_written {
            // Only an engine that was empty had nothing else, where this cache has all layers of the others.
            let mut read =
                image.cache_read.iter().filter_map(|read| Some(&self.known.get(read.name())?.0));
            if is_needless
                && let Some((own, _)) = self.known.get(cache.name())
                && read.all(|read| read.keys().all(|digest| own.contains_key(digest)))
            {
                all.push(written(ctx, cache, "skipped", None));
                continue;
            }
            let mut export = |without: &BTreeSet<String>| {
                let exported = self.export_once(cache, without, deadline);
                exported.unwrap_or_else(|e| written(ctx, cache, "failed", Some(format!("{e:#}"))))
            };
            let mut written = export(&without);
            let error = written.error.as_deref().unwrap_or_default();
            let cause = Cause::of(error);
            // A layer that BuildKit built itself may still be looked for in a broken cache.
            if cause == Cause::BrokenCache {
                without.extend(hits.iter().cloned());
            }
            // BuildKit itself retries layers, and not the manifest.
            let is_manifest = error.contains("manifest") && cause.retries() > 0;
            if written.result == "failed" && (cause == Cause::BrokenCache || is_manifest) {
                written = export(&without);
            }
            // Where the registry did not list all that it had, nobody knows what was new to it.
            if written.result == "done"
                && !self.known.is_empty()
                && let Some((layers, _)) = ctx.docker.layers(cache.name())
            {
                let (mut sent, mut present) = (0, 0);
                for (digest, size) in layers {
                    let is_new = ctx.run().known_layers.insert(digest);
                    *(if is_new { &mut sent } else { &mut present }) += size;
                }
                (written.bytes_uploaded, written.bytes_present) = (Some(sent), Some(present));
            }
            all.push(written);
        }
        all
    }

    /// Makes one bake that writes `cache`.
    fn export_once(
        &mut self,
        cache: &Cache,
        without: &BTreeSet<String>,
        deadline: Option<Instant>,
    ) -> Result<CacheWritten> {
        process::check_signals()?;
        let folder = match cache {
            Cache::Registry(_) => None,
            Cache::Folder(folder) => Some((folder, cache_dir::lock_writing(folder)?)),
        };
        let (ctx, image, started) = (self.watch.ctx, self.watch.image, Instant::now());
        let baked = ctx.docker.bake(&image.export(cache, without), &mut self.watch, deadline)?;
        self.exports.extend(baked.trace.spans(Phase::ALL));
        let mut runs = baked.trace.exports(Phase::CacheExport);
        let error = runs.clone().find_map(|run| run.error.clone());
        // buildx itself writes a folder's index, after everything else.
        let has_index = folder.is_none_or(|(folder, _)| {
            baked.end == End::Done && Path::new(folder).join(cache_dir::INDEX).exists()
        });
        let is_complete = has_index && runs.clone().all(trace::Run::is_done);
        // buildx reports one that failed by leaving it out.
        let is_named = baked.metadata[&image.name]["cache.manifest"].is_string();
        let result = match baked.end {
            _ if is_complete && runs.clone().next().is_some() => "done",
            End::Done if is_complete && is_named => "done",
            End::TimedOut => "timed out",
            _ => "failed",
        };
        let error = error.or(baked.trace.error.clone()).filter(|_| result != "done");
        let mut written = written(ctx, cache, result, error);
        written.seconds = match result {
            "timed out" => Some(started.elapsed().as_secs_f64()),
            _ => runs.next().and_then(trace::Run::seconds),
        };
        Ok(written)
    }
}
