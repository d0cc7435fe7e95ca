//! The bake of images: caches that break it are left out of another try.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::builder::Builder;
use super::buildkit::Cause;
use super::buildx::{Baked, Buildx, Docker, End};
use super::phase::Phase;
use super::registry::{self, SHORT_PATIENCE};
use super::span::{Span, covered};
use super::trace::{Failure, Step, Trace};
use crate::image::plan::bake_file::{BakeFile, ImageBake};
use crate::image::plan::cache::Place;
use crate::image::plan::{Plan, Target};
use crate::image::request::{Delivery, Request};
use base::message;

/// Caches that are not read, each with the reason, by the name that `BuildKit` uses.
pub type Unread = BTreeMap<String, String>;

/// Finds out, in the background, what `plan` must not read because the registry has not answered
/// within `limit`: `BuildKit` waits forever for a cache, and so does whatever it builds after that.
/// One cache is asked for and stands for all, as they are in one repository.
pub fn probe(docker: &Docker, plan: &Plan, limit: Duration) -> JoinHandle<Unread> {
    let limit = limit.min(SHORT_PATIENCE);
    let places = plan.targets.iter().flat_map(|target| &target.cache_read);
    let names = places.filter_map(|place| match place {
        Place::Registry(reference) => Some(reference.clone()),
        Place::Folder(_) => None,
    });
    let (docker, names) = (docker.clone(), names.collect::<Vec<_>>());
    thread::spawn(move || {
        let answer = names.first().map(|name| registry::inspect(&docker, name, limit));
        if !matches!(answer, Some(Ok(None))) {
            return Unread::new();
        }
        let why = format!("no answer within {} s", limit.as_secs());
        names.into_iter().map(|name| (name, why.clone())).collect()
    })
}

/// A bake of images that has ended.
pub struct ImagesBaked {
    /// The last try.
    pub bake: Baked,
    /// The events of the bake that started some of the images before this one delivered them.
    check: Option<Trace>,
    /// Whether the builder had no build cache before; `None` where that is not known.
    pub builder_was_empty: Option<bool>,
    pub unread: Unread,
    /// The events of an earlier try, where that was the one that read the caches.
    first_read: Option<Trace>,
}

impl ImagesBaked {
    /// The events of the try that read the caches.
    pub fn reading(&self) -> &Trace {
        self.first_read.as_ref().or(self.check.as_ref()).unwrap_or(&self.bake.trace)
    }

    /// The events of the bake that ran the steps of `target` first.
    pub fn first_bake(&self, target: &str) -> &Trace {
        let check = self.check.as_ref().filter(|trace| trace.steps(target).is_some());
        check.unwrap_or(&self.bake.trace)
    }

    /// The events of all its bakes, in the order of time.
    pub fn traces(&self) -> impl Iterator<Item = &Trace> {
        self.check.iter().chain([&self.bake.trace])
    }

    /// Notes what ran in the bake `before`, so that it does not read as cached.
    pub fn absorb(&mut self, before: &Trace) {
        self.check.as_mut().unwrap_or(&mut self.bake.trace).absorb(before);
    }

    /// As [`Trace::steps`], for the bake that ran them.
    pub fn steps(&self, target: &str) -> Option<Vec<Step>> {
        self.first_bake(target).steps(target)
    }

    /// As [`Trace::spans`], for all bakes.
    pub fn spans(&self, target: &str, phase: Phase) -> Option<Vec<Span>> {
        let spans = self.traces().map(|trace| trace.spans(target, phase));
        Some(spans.collect::<Option<Vec<_>>>()?.concat())
    }

    /// Seconds in which something was done for `target`; `None` where no event reported it.
    pub fn seconds(&self, target: &str) -> Option<f64> {
        let spans = Phase::ALL.iter().map(|(phase, _)| self.spans(target, *phase));
        Some(covered(spans.collect::<Option<Vec<_>>>()?.concat()))
    }

    /// As [`Trace::context_bytes`], for all bakes.
    pub fn context_bytes(&self) -> Option<u64> {
        self.traces().filter_map(Trace::context_bytes).reduce(|sum, bytes| sum + bytes)
    }
}

/// May the caches be exported by a second bake? Not where buildx got arguments that would make it
/// run the steps again, or write somewhere else.
pub fn exports_apart(request: &Request) -> bool {
    const HARMLESS: [&str; 4] = ["--allow", "--debug", "--provenance", "--sbom"];
    request.bake_args.iter().all(|arg| {
        let arg = arg.to_string_lossy();
        HARMLESS.contains(&arg.split('=').next().unwrap_or_default())
    })
}

/// Builds the images of some of a plan's targets.
pub struct Images<'a> {
    pub buildx: Buildx<'a>,
    pub builder: &'a Builder,
    pub plan: &'a Plan,
    pub targets: &'a [&'a Target],
    /// Those that have to start before any is delivered.
    pub checked: &'a [&'a Target],
    /// The names of those whose steps run again, whatever the builder has of them.
    pub anew: &'a BTreeSet<String>,
}

impl Images<'_> {
    /// Builds the images, and delivers them where all that are checked have started. Their caches
    /// are exported later, where that is possible. The caches in `unread` are not read; those that
    /// break the build, or keep it waiting, are left out of another try.
    pub fn build(&self, unread: &Unread) -> Result<ImagesBaked> {
        if self.checked.is_empty() {
            return self.bake(unread, |unread| self.file(unread));
        }
        let check =
            self.bake(unread, |unread| self.plan.checks(self.checked, &self.how(&names(unread))))?;
        if check.bake.end != End::Done {
            return Ok(check);
        }
        let steps_were_shown = self.checked.len() == self.targets.len();
        let file = |unread: &Unread| BakeFile { steps_were_shown, ..self.file(unread) };
        let images = self.bake(&check.unread, file)?;
        let (check, first_read) = (Some(check.bake.trace), check.first_read);
        Ok(ImagesBaked { check, first_read, ..images })
    }

    /// Bakes what `file` returns for the caches that are not to be read.
    fn bake(&self, unread: &Unread, file: impl Fn(&Unread) -> BakeFile) -> Result<ImagesBaked> {
        let buildx = &self.buildx;
        let mut unread = unread.clone();
        let platforms = u32::try_from(buildx.request.platforms.len().max(1)).unwrap_or(u32::MAX);
        let limit = buildx.request.timeout.saturating_mul(platforms);
        let deadline = || Instant::now().checked_add(limit);
        let mut bake = buildx.bake(&file(&unread), deadline())?;
        let is_taken = |failure: Failure| Cause::of(failure.error) == Cause::TagTaken;
        // Two runs that load one tag at once disturb each other in the engine.
        if matches!(bake.end, End::Failed(_)) && bake.trace.failures().any(is_taken) {
            message::warn("another run loaded the same tag at the same time; retrying");
            bake = buildx.bake(&file(&unread), deadline())?;
        }
        let mut first_read = None;
        loop {
            let broken = self.broken_caches(&bake);
            let is_late = bake.end == End::TimedOut;
            if !broken.keys().all(|name| unread.contains_key(name)) {
                message::warn("a cache is broken; retrying without it");
                unread.extend(broken);
                // What hangs may keep hanging in the builder. All steps have run by now, so the
                // retry gets no more time than an export.
                let soon = is_late.then(|| Instant::now() + buildx.request.cache_timeout);
                let retried = buildx.bake(&file(&unread), soon.or_else(deadline))?;
                first_read.get_or_insert(std::mem::replace(&mut bake, retried).trace);
                if !is_late {
                    continue;
                }
            }
            let (check, builder_was_empty) = (None, None);
            return Ok(ImagesBaked { bake, check, builder_was_empty, unread, first_read });
        }
    }

    fn file(&self, unread: &Unread) -> BakeFile {
        self.plan.images(self.targets, &self.how(&names(unread)))
    }

    fn how<'b>(&'b self, without: &'b BTreeSet<String>) -> ImageBake<'b> {
        let is_apart = exports_apart(self.buildx.request);
        let is_push = self.buildx.request.delivery == Delivery::Push;
        ImageBake {
            with_exports: !is_apart,
            direct_push: is_apart && is_push && self.builder.stores_images,
            // The pods of a cluster can't share what one of them got.
            shared_inputs: is_apart && !self.builder.is_cluster(),
            without,
            anew: self.anew,
        }
    }

    /// The caches that a bake failed by, each with the reason.
    fn broken_caches(&self, bake: &Baked) -> Unread {
        if bake.end == End::TimedOut {
            let why = format!("no answer within {} s", self.buildx.read_patience().as_secs());
            return bake.trace.awaited().into_iter().map(|name| (name, why.clone())).collect();
        }
        if !matches!(bake.end, End::Failed(_)) {
            return Unread::new();
        }
        let mut failures = bake.trace.failures();
        let broken = failures.find(|failure| Cause::of(failure.error) == Cause::BrokenCache);
        let Some(broken) = broken else { return Unread::new() };
        let why = format!("it or another is broken: {}", broken.error);
        bake.trace.hits().into_iter().map(|name| (name, why.clone())).collect()
    }
}

fn names(unread: &Unread) -> BTreeSet<String> {
    unread.keys().cloned().collect()
}
