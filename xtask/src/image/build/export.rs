//! Cache exports: a bake of their own after that of the images, so that no image waits for a
//! cache or is lost with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anyhow::{Result, bail};

use super::buildkit::{self, Cause};
use super::buildx::{Baked, Buildx, End};
use super::cache_dir::Staging;
use super::images::{ImagesBaked, exports_apart};
use super::registry::{self, Content};
use crate::image::plan::bake_file::CacheExport;
use crate::image::plan::cache::Place;
use crate::image::plan::{Plan, Target};
use crate::image::request::{Delivery, Request};

/// How an export ended.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed,
    TimedOut,
    /// Everything in it was read from there.
    Skipped,
    #[default]
    Unknown,
}

impl Outcome {
    /// The name in a report; an unknown outcome has none.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Outcome::Done => Some("done"),
            Outcome::Failed => Some("failed"),
            Outcome::TimedOut => Some("timed out"),
            Outcome::Skipped => Some("skipped"),
            Outcome::Unknown => None,
        }
    }
}

/// A cache that was to be written.
#[derive(Default)]
pub struct Written {
    /// The target whose cache it is.
    pub target: String,
    /// A reference or a folder.
    pub place: String,
    pub outcome: Outcome,
    pub error: Option<String>,
    pub seconds: Option<f64>,
    /// Bytes of layers that were sent, and of those that the registry had already.
    pub uploaded: Option<u64>,
    pub present: Option<u64>,
}

impl Written {
    fn new(export: &Export, outcome: Outcome) -> Self {
        Written {
            target: export.target.name.clone(),
            place: export.place.name().to_owned(),
            outcome,
            ..Written::default()
        }
    }

    /// Has it failed for a passing reason? `BuildKit` itself retries the layers.
    fn is_passing(&self) -> bool {
        let error = self.error.as_deref().unwrap_or_default();
        let is_manifest = error.contains("manifest");
        self.outcome == Outcome::Failed && is_manifest && buildkit::is_passing(error)
    }

    /// Has it failed because a layer is still looked for in a broken cache?
    fn is_broken(&self) -> bool {
        self.error.as_deref().map(Cause::of) == Some(Cause::BrokenCache)
    }
}

/// All exports of a run, and the bakes that made them.
#[derive(Default)]
pub struct Exports {
    pub written: Vec<Written>,
    pub bakes: Vec<Baked>,
    /// What the registry held before them, of what was read or pushed.
    pub known: BTreeMap<String, Content>,
}

impl Exports {
    /// Adds those of another bake of images.
    pub fn add(&mut self, other: Exports) {
        self.written.extend(other.written);
        self.bakes.extend(other.bakes);
        self.known.extend(other.known);
    }

    /// With `--strict-cache`, fails on any export that was not done.
    pub fn check(&self, request: &Request) -> Result<()> {
        let is_kept = [Outcome::Done, Outcome::Skipped];
        let lost = self.written.iter().filter(|written| !is_kept.contains(&written.outcome));
        let (lost, all) = (lost.count(), self.written.len());
        if request.strict_cache && lost > 0 {
            bail!("{lost} of {all} caches were not written (--strict-cache).");
        }
        Ok(())
    }

    /// Those that are known to have failed.
    pub fn lost(&self) -> impl Iterator<Item = &Written> {
        let is_lost = [Outcome::Failed, Outcome::TimedOut];
        self.written.iter().filter(move |written| is_lost.contains(&written.outcome))
    }
}

/// An export that is to be made.
struct Export<'a> {
    target: &'a Target,
    place: &'a Place,
    /// The name of its target in its bake: each has one of its own, because `BuildKit` reports one
    /// export of a target only.
    name: String,
    /// Whether all base images share it.
    is_shared: bool,
}

/// Exports the caches of images that are built.
pub struct Exporter<'a> {
    pub buildx: Buildx<'a>,
    pub plan: &'a Plan,
    pub targets: &'a [&'a Target],
    /// The bake that made the images.
    pub images: &'a ImagesBaked,
}

impl Exporter<'_> {
    /// Exports, and waits no longer for that than the request allows. An export that fails is no
    /// error: see [`Exports::lost`].
    pub fn write(&self) -> Result<Exports> {
        let exports = self.exports();
        if !exports_apart(self.buildx.request) {
            let bake = &self.images.bake;
            let written = exports.iter().map(|export| written(export, &export.target.name, bake));
            return Ok(Exports { written: written.collect(), ..Exports::default() });
        }
        let asked = self.references_before(&exports);
        let known = registry::contents(self.buildx.docker, &asked);
        let is_needless = |export: &Export| self.is_needless(export, &known);
        let (skipped, exports): (Vec<_>, Vec<_>) = exports.into_iter().partition(is_needless);
        let mut written =
            skipped.iter().map(|export| Written::new(export, Outcome::Skipped)).collect::<Vec<_>>();
        let (bakes, mut made) = self.make(&exports)?;
        // Where the registry did not list all that it had, nobody knows what was new to it.
        if known.len() == asked.len() {
            self.count_bytes(&mut made, &known);
        }
        written.append(&mut made);
        Ok(Exports { written, bakes, known })
    }

    /// Makes `exports` in as many bakes as it takes; returns these, and how each export went.
    fn make(&self, exports: &[Export]) -> Result<(Vec<Baked>, Vec<Written>)> {
        let deadline = Instant::now().checked_add(self.buildx.request.cache_timeout);
        let (mut bakes, mut made) = (Vec::new(), Vec::new());
        // The shared cache comes last: a registry may refuse one of two that push the same bytes
        // at once, as these two do.
        let (mut later, mut now): (Vec<_>, Vec<_>) = exports.iter().partition(|e| e.is_shared);
        // A cache that broke the bake of the images would break this one.
        let mut without = self.images.unread.keys().cloned().collect::<BTreeSet<_>>();
        let mut tried = BTreeSet::new();
        while !now.is_empty() || !later.is_empty() {
            if now.is_empty() {
                now = std::mem::take(&mut later);
            }
            let (bake, outcomes) = self.bake(&now, &without, deadline)?;
            let is_over = bake.end != End::Done;
            bakes.push(bake);
            for (export, written) in now.drain(..).zip(outcomes) {
                let may_help = written.is_passing() || written.is_broken();
                if is_over || !may_help || !tried.insert(&export.name) {
                    made.push(written);
                    continue;
                }
                // A layer that BuildKit built itself may still be looked for in a broken cache.
                if written.is_broken() {
                    without.extend(self.images.bake.trace.hits());
                }
                later.push(export);
            }
            if is_over {
                made.extend(later.drain(..).map(|export| Written::new(export, Outcome::Failed)));
            }
        }
        Ok((bakes, made))
    }

    /// Exports in one bake; returns how each of `exports` went.
    fn bake(
        &self,
        exports: &[&Export],
        without: &BTreeSet<String>,
        deadline: Option<Instant>,
    ) -> Result<(Baked, Vec<Written>)> {
        let staging = |export: &&Export| match export.place {
            Place::Registry(_) => Ok(None),
            Place::Folder(folder) => Staging::new(folder).map(Some),
        };
        let stagings = exports.iter().map(staging).collect::<Result<Vec<_>>>()?;
        let entries = exports.iter().zip(&stagings).map(|(export, staging)| CacheExport {
            name: export.name.clone(),
            target: export.target,
            place: staging.as_ref().map_or(export.place.clone(), Staging::place),
        });
        let file = self.plan.exports(&entries.collect::<Vec<_>>(), without);
        let bake = self.buildx.bake(&file, deadline)?;
        let made = exports.iter().map(|export| written(export, &export.name, &bake));
        let made = made.collect::<Vec<_>>();
        for (staging, made) in stagings.into_iter().zip(&made) {
            if let (Some(staging), Outcome::Done) = (staging, made.outcome) {
                staging.keep()?;
            }
        }
        Ok((bake, made))
    }

    /// What a run is to export, each under a name of its own.
    fn exports(&self) -> Vec<Export<'_>> {
        let is_taken = |name: &String| self.targets.iter().any(|target| target.name == *name);
        let mut exports = Vec::new();
        for target in self.targets {
            for (number, place) in target.cache_written.iter().enumerate() {
                let is_shared = number > 0;
                let mut name = target.name.clone();
                if is_shared {
                    name.push_str("-shared");
                    while is_taken(&name) {
                        name.push('_');
                    }
                }
                exports.push(Export { target, place, name, is_shared });
            }
        }
        exports
    }

    /// Every cache that was read and every image that was pushed: a registry has their layers
    /// before anything is exported. Without exports, only caches that no step came from are looked
    /// at.
    fn references_before(&self, exports: &[Export]) -> BTreeSet<String> {
        let bake = &self.images.bake;
        if exports.is_empty() && bake.trace.has_cached_steps() {
            return BTreeSet::new();
        }
        // What another repository has is new to that of the caches.
        let Request { delivery, cache_image, .. } = self.buildx.request;
        let is_push = *delivery == Delivery::Push && cache_image.is_none();
        let pushed = exports.iter().filter(|_| is_push).filter_map(|export| {
            let digest = bake.digest(&export.target.name)?;
            Some(format!("{}@{digest}", registry::repository(export.target.tags.first()?)))
        });
        let places = self.targets.iter().flat_map(|target| &target.cache_read);
        let hits = bake.trace.hits();
        let is_hit = |place: &&Place| matches!(place, Place::Registry(name) if hits.contains(name));
        let read = places.filter(is_hit).map(|place| place.name().to_owned());
        read.chain(pushed).collect()
    }

    /// Was everything read from the very cache that would be written? Only an engine that was
    /// empty can't have had it from elsewhere, nor from a cache of which this one has all layers.
    fn is_needless(&self, export: &Export, known: &BTreeMap<String, Content>) -> bool {
        let Place::Registry(reference) = export.place else { return false };
        let steps = self.images.steps(&export.target.name);
        let all_cached =
            steps.is_some_and(|steps| steps.iter().all(|step| step.cached == Some(true)));
        if !all_cached || self.images.builder_was_empty != Some(true) {
            return false;
        }
        let Some(own) = known.get(reference) else { return false };
        let read = export.target.cache_read.iter().map(Place::name);
        let mut others = read.filter_map(|other| known.get(other));
        others.all(|other| other.layers.keys().all(|digest| own.layers.contains_key(digest)))
    }

    /// Counts for each cache that was written what was new of it to the registry.
    fn count_bytes(&self, written: &mut [Written], known: &BTreeMap<String, Content>) {
        let done = written.iter().filter(|written| written.outcome == Outcome::Done);
        let places = done.map(|written| written.place.clone()).collect();
        let caches = registry::contents(self.buildx.docker, &places);
        for written in written {
            let Some(Content { layers, .. }) = caches.get(&written.place) else { continue };
            let is_known =
                |digest: &String| known.values().any(|had| had.layers.contains_key(digest));
            let (present, uploaded): (Vec<_>, Vec<_>) =
                layers.iter().partition(|(digest, _)| is_known(digest));
            let sum = |layers: Vec<(&String, &u64)>| layers.into_iter().map(|(_, size)| size).sum();
            (written.present, written.uploaded) = (Some(sum(present)), Some(sum(uploaded)));
        }
    }
}

/// How the one export of the target `name` in `bake` went.
fn written(export: &Export, name: &str, bake: &Baked) -> Written {
    let exports = bake.trace.exports(name);
    let error = exports.iter().find_map(|export| export.error.clone());
    let is_complete = !exports.is_empty()
        && exports.iter().all(|export| export.completed.is_some() && export.error.is_none());
    let is_canceled = error.as_ref().is_none_or(|error| Cause::of(error) == Cause::Canceled);
    let outcome = match (bake.end, bake.has_cache(name)) {
        _ if is_complete => Outcome::Done,
        (End::TimedOut, _) if is_canceled => Outcome::TimedOut,
        _ if error.is_some() => Outcome::Failed,
        (End::Done, Some(true)) => Outcome::Done,
        (End::Done, None) => Outcome::Unknown,
        // buildx reports one that failed by leaving it out.
        _ => Outcome::Failed,
    };
    let seconds = exports.first().and_then(|export| export.seconds());
    let stopped = (outcome == Outcome::TimedOut).then_some(bake.seconds);
    Written { error, seconds: seconds.or(stopped), ..Written::new(export, outcome) }
}
