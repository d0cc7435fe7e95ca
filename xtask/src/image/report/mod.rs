//! The report of a run: what its caches cost and what they gave. JSON for programs, a few lines
//! for people. What can't be known is `null`, never 0.

pub mod build_info;
pub mod cache_read;
pub mod console;
pub mod explain;
pub mod failed;
pub mod github;
pub mod last_build;
pub mod progress;
pub mod screen;
pub mod text;
pub mod work;

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::{Map, Value, json};

use self::cache_read::{CacheRead, Read};
use self::text::{bytes, or_unknown, rounded, shortened};
use crate::error::Interrupted;
use crate::image::build::batch::{Built, Image};
use crate::image::build::builder::Builder;
use crate::image::build::export::{Outcome, Written};
use crate::image::build::images::Baked;
use crate::image::build::trace::{Phase, Step, union};
use crate::image::plan::cache::Place;
use crate::image::plan::{Plan, Target};
use crate::image::report::explain::explain;
use crate::image::report::last_build::Build;
use crate::image::request::{Delivery, Request};
use crate::output;

/// The version of what the JSON holds.
const SCHEMA: u64 = 1;
/// With more targets than this, people are shown only what went wrong.
const SHOWN: usize = 8;
/// The sum of all phases adds up to the run's time if it differs by less, in seconds and as a
/// share of it.
const SLACK: (f64, f64) = (1.0, 0.05);

/// A target's steps, counted.
#[derive(Default)]
struct Count {
    total: usize,
    cached: usize,
    /// Where the cached ones came from, where that is certain.
    from_builder: Option<usize>,
    from_import: Option<usize>,
}

/// A run that has ended, or could not go on.
pub struct Report<'a> {
    pub request: &'a Request,
    pub plan: &'a Plan,
    pub builder: &'a Builder<'a>,
    pub built: &'a Built,
    /// For each target of the plan, its build if that is done.
    pub builds: &'a [Option<Build>],
    /// How the run ended.
    pub ended: &'a Result<()>,
    /// Of the whole run.
    pub seconds: f64,
}

impl Report<'_> {
    /// Tells everyone: people on standard error and on the page of a GitHub job, programs in the
    /// file of `--report`.
    ///
    /// # Errors
    /// A file that can't be written.
    pub fn publish(&self) -> Result<()> {
        for warning in self.warnings() {
            self.builder.observer.warn(&warning);
        }
        if self.request.explain {
            for (target, build) in self.plan.targets.iter().zip(self.builds) {
                let Some(Build { now, last, .. }) = build else { continue };
                let steps = self.steps(target);
                for line in explain(&target.name, steps.as_deref(), now, last.as_ref()) {
                    output::note(line);
                }
            }
        }
        let table = self.table();
        output::note(&table);
        github::write_page(&github::fenced("text", &table))?;
        match &self.request.report {
            Some(path) => output::save(path, format!("{:#}\n", self.json())),
            None => Ok(()),
        }
    }

    /// The report for programs.
    pub fn json(&self) -> Value {
        let targets = self.plan.targets.iter().map(|target| (target.name.clone(), self.of(target)));
        let bakes = self.built.bakes.iter().chain(&self.built.exports.bakes);
        let context_bytes = bakes.filter_map(|bake| bake.trace.context_bytes());
        json!({
            "schema": SCHEMA,
            "result": match self.ended {
                Ok(()) => "done",
                Err(error) if error.is::<Interrupted>() => "interrupted",
                Err(_) => "failed",
            },
            "seconds": rounded(self.seconds),
            "cache_mode": self.request.cache_mode.name(),
            "builder": self.builder.name,
            "builder_was_empty": self.builder.was_empty,
            "context_bytes": context_bytes.reduce(|sum, bytes| sum + bytes),
            "targets": targets.collect::<Map<_, _>>(),
            "summary": self.summary(),
        })
    }

    fn of(&self, target: &Target) -> Value {
        let number = self.number(target);
        let digest = self.built.digest(number, target);
        let (result, error) = match &self.built.images[number] {
            Image::Waiting => ("not reached", None),
            Image::Present(_) => ("present", None),
            Image::Done(_) => ("done", None),
            Image::Failed(_, error) => ("failed", Some(error)),
        };
        let count = self.count(target);
        let count = count.as_ref();
        let reads = self.reads(target).into_iter().map(|read| {
            json!({
                "ref": read.place,
                "result": read.read.map(Read::name),
                "status": read.status,
                "error": read.error,
                "seconds": read.seconds.map(rounded),
            })
        });
        let written = self.written(target).map(|written| {
            json!({
                "ref": written.place,
                "mode": self.request.cache_mode.name(),
                "result": written.outcome.name(),
                "error": written.error,
                "bytes_uploaded": written.uploaded,
                "bytes_present": written.present,
                "seconds": written.seconds.map(rounded),
            })
        });
        let steps = self.steps(target).unwrap_or_default();
        let step_list = steps.iter().map(|step| {
            json!({
                "name": step.name,
                "cached": step.cached,
                "seconds": step.seconds.map(rounded),
                "error": step.error,
            })
        });
        json!({
            "image": {
                "result": result,
                "error": error,
                "digest": digest,
                "tags": target.tags,
                "base_image": target.base_image,
                "pushed": digest.is_some() && self.request.delivery == Delivery::Push,
            },
            "steps": {
                "total": count.map(|count| count.total),
                "cached": count.map(|count| count.cached),
                "from_builder": count.and_then(|count| count.from_builder),
                format!("from_{}", import_source(target)):
                    count.and_then(|count| count.from_import),
                "saved_seconds": self.saved(target).map(rounded),
            },
            "seconds": self.phases(target),
            "cache_read": reads.collect::<Vec<_>>(),
            "cache_written": written.collect::<Vec<_>>(),
            "step_list": step_list.collect::<Vec<_>>(),
        })
    }

    /// Seconds by phase, and whether they add up to those of the run.
    fn phases(&self, target: &Target) -> Value {
        let mut phases = Map::new();
        let (mut sum, mut all) = (None, Vec::new());
        for (name, phase) in Phase::NAMES {
            let spans = self.spans(target, phase);
            let seconds = spans.as_ref().map(|spans| union(spans.clone()));
            if let Some(seconds) = seconds {
                sum = Some(sum.unwrap_or(0.0) + seconds);
            }
            all.extend(spans.into_iter().flatten());
            phases.insert(name.to_owned(), json!(seconds.map(rounded)));
        }
        let slack = SLACK.0.max(self.seconds * SLACK.1);
        phases.insert("sum".to_owned(), json!(sum.map(rounded)));
        phases.insert("wall".to_owned(), json!(rounded(self.seconds)));
        let idle = sum.map(|_| (self.seconds - union(all)).max(0.0));
        phases.insert("unaccounted".to_owned(), json!(idle.map(rounded)));
        let adds_up = sum.map(|sum| (sum - self.seconds).abs() <= slack);
        phases.insert("adds_up".to_owned(), json!(adds_up));
        Value::Object(phases)
    }

    /// When `target` was in `phase`, in either bake; `None` where nobody told.
    fn spans(&self, target: &Target, phase: Phase) -> Option<Vec<(f64, f64)>> {
        let mut spans = self.bake(target)?.trace.spans(&target.name, phase)?;
        // Whatever these bakes do, they do for the caches.
        if phase == Phase::CacheExport {
            spans.extend(self.built.exports.bakes.iter().filter_map(|bake| bake.trace.whole()));
        }
        Some(spans)
    }

    fn count(&self, target: &Target) -> Option<Count> {
        let steps = self.steps(target)?;
        let cached = steps.iter().filter(|step| step.cached == Some(true)).count();
        let mut count = Count { total: steps.len(), cached, ..Count::default() };
        let reads = self.reads(target);
        let any_hit = reads.iter().any(|read| read.read == Some(Read::Hit));
        let all_told = reads.iter().all(|read| read.read.is_some());
        // BuildKit does not tell where a step came from, so only these cases are certain.
        if cached == 0 {
            (count.from_builder, count.from_import) = (Some(0), Some(0));
        } else if !any_hit && all_told {
            (count.from_builder, count.from_import) = (Some(cached), Some(0));
        } else if self.bake(target)?.builder_was_empty == Some(true) && any_hit {
            (count.from_builder, count.from_import) = (Some(0), Some(cached));
        }
        Some(count)
    }

    fn reads<'a>(&'a self, target: &'a Target) -> Vec<CacheRead<'a>> {
        let Some(bake) = self.bake(target) else { return Vec::new() };
        let known = &self.built.exports.known;
        target.cache_read.iter().map(|place| cache_read::read(place, bake, known)).collect()
    }

    fn number(&self, target: &Target) -> usize {
        let targets = &self.plan.targets;
        targets.iter().position(|other| std::ptr::eq(other, target)).unwrap_or_default()
    }

    /// The bake that a target came from, or failed in.
    fn bake(&self, target: &Target) -> Option<&Baked> {
        self.built.bake(self.number(target))
    }

    fn steps(&self, target: &Target) -> Option<Vec<Step>> {
        self.bake(target)?.trace.steps(&target.name)
    }

    fn written(&self, target: &Target) -> impl Iterator<Item = &Written> {
        self.built.exports.written.iter().filter(move |written| written.target == target.name)
    }

    /// Seconds that the cached steps took when they last ran, where all of that is known.
    fn saved(&self, target: &Target) -> Option<f64> {
        let last = self.builds.get(self.number(target))?.as_ref()?.last.as_ref()?;
        let steps = self.steps(target)?;
        let cached = steps.iter().filter(|step| step.cached == Some(true));
        let seconds = cached.map(|Step { name, .. }| last.steps.get(name).copied());
        seconds.sum::<Option<f64>>().map(|sum| sum.max(0.0))
    }

    /// What to say of caches that could not be read, each once.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for target in &self.plan.targets {
            for read in self.reads(target) {
                let bad = matches!(read.read, Some(Read::Refused | Read::Failed));
                if let (true, Some(error)) = (bad, read.error) {
                    warnings.push(format!(
                        "the cache {} can't be read, and the build goes on without it: {error}",
                        read.place
                    ));
                }
            }
        }
        for lost in self.built.exports.lost() {
            let why = match (&lost.error, lost.outcome) {
                (_, Outcome::TimedOut) => format!(
                    "it was not done within {} s (OPENHANDS_BUILDKIT_CACHE_TIMEOUT)",
                    self.request.cache_timeout.as_secs()
                ),
                (Some(error), _) => error.clone(),
                (None, _) => "buildx does not say why".to_owned(),
            };
            warnings.push(format!(
                "the image of {:?} is complete, but its cache was not written to {}: {why}",
                lost.target, lost.place
            ));
        }
        let mut seen = BTreeSet::new();
        warnings.retain(|warning| seen.insert(warning.clone()));
        warnings
    }

    /// The report for people.
    pub fn table(&self) -> String {
        let mut lines = Vec::new();
        let is_told = |target: &&Target| self.steps(target).is_some();
        if self.plan.targets.len() <= SHOWN {
            for target in self.plan.targets.iter().filter(is_told) {
                self.add_lines(target, &mut lines);
            }
        }
        if self.plan.targets.len() > 1 {
            for (number, error) in self.built.missing() {
                let target = &self.plan.targets[number];
                let error = shortened(error.unwrap_or("not reached"));
                lines.push(format!(
                    "{} on {} is not built: {error}",
                    target.name, target.base_image
                ));
            }
        }
        lines.push(self.summary());
        lines.join("\n")
    }

    fn add_lines(&self, target: &Target, lines: &mut Vec<String>) {
        let phases = self.phases(target);
        let seconds =
            |name: &str| phases[name].as_f64().map_or("?".to_owned(), |s| format!("{s:.1}"));
        let names =
            Phase::NAMES.map(|(name, _)| format!("{} {}", name.replace('_', " "), seconds(name)));
        lines.push(format!("{}: {} (seconds)", target.name, names.join(", ")));
        if phases["adds_up"] == false {
            lines.push(format!(
                "  these make {} of {} s; {} s are none of them, and some went on at once",
                seconds("sum"),
                seconds("wall"),
                seconds("unaccounted")
            ));
        }
        for read in self.reads(target) {
            let (how, seconds) =
                (read.read.map_or("not told", Read::name), or_unknown(read.seconds));
            lines.push(format!("  read  {how:<9} {seconds:>7}  {}", read.place));
        }
        for written in self.written(target) {
            let how = written.outcome.name().unwrap_or("not told");
            let bytes = match (written.uploaded, written.present) {
                (Some(new), Some(old)) => {
                    format!(", {} sent, {} there already", bytes(new), bytes(old))
                }
                _ => String::new(),
            };
            let seconds = or_unknown(written.seconds);
            let mode = self.request.cache_mode.name();
            lines.push(format!("  write {how:<9} {seconds:>7}  {} ({mode}{bytes})", written.place));
        }
    }

    /// The one line to act on.
    pub fn summary(&self) -> String {
        let is_counted = |target: &&Target| match &self.built.images[self.number(target)] {
            Image::Done(_) => true,
            Image::Failed(..) => self.plan.targets.len() == 1,
            Image::Waiting | Image::Present(_) => false,
        };
        let targets = || self.plan.targets.iter().filter(is_counted);
        let counts = targets().map(|target| self.count(target)).collect::<Option<Vec<_>>>();
        let mut parts = Vec::new();
        match counts {
            None => parts.push("what the steps took from it is not known".to_owned()),
            Some(counts) => {
                let total = counts.iter().map(|count| count.total).sum::<usize>();
                let cached = counts.iter().map(|count| count.cached).sum::<usize>();
                let from = |which: fn(&Count) -> Option<usize>| -> Option<usize> {
                    counts.iter().map(which).sum()
                };
                let source = targets().next().map_or("registry", import_source);
                let from = match (from(|c| c.from_builder), from(|c| c.from_import)) {
                    _ if cached == 0 => "cache".to_owned(),
                    (Some(_), Some(0)) => "builder".to_owned(),
                    (Some(0), Some(_)) => source.to_owned(),
                    _ => format!("builder or {source}"),
                };
                let saved = targets().map(|target| self.saved(target)).sum::<Option<f64>>();
                let saved = saved.filter(|_| cached > 0);
                let saved = saved.map(|s| format!(", saved about {s:.0} s")).unwrap_or_default();
                parts.push(format!("{cached} of {total} steps from {from}{saved}"));
            }
        }
        parts.push(self.export_summary());
        format!("cache: {}", parts.join("; "))
    }

    fn export_summary(&self) -> String {
        let written = &self.built.exports.written;
        let mode = self.request.cache_mode.name();
        if written.is_empty() {
            return format!("nothing exported ({mode})");
        }
        let lost = self.built.exports.lost().count();
        let skipped = written.iter().filter(|w| w.outcome == Outcome::Skipped).count();
        if skipped == written.len() {
            return format!("export skipped, all of it is there ({mode})");
        }
        let seconds = match self.built.exports.bakes.as_slice() {
            [] => written.iter().map(|written| written.seconds).sum::<Option<f64>>(),
            bakes => Some(bakes.iter().map(|bake| bake.seconds).sum()),
        };
        let sent = written.iter().filter_map(|w| w.uploaded).sum::<u64>();
        let known = written.iter().any(|w| w.uploaded.is_some());
        let sent = if known { format!(", {}", bytes(sent)) } else { String::new() };
        let lost =
            if lost > 0 { format!(", {lost} of {} LOST", written.len()) } else { String::new() };
        format!("export {}{sent} ({mode}){lost}", or_unknown(seconds))
    }
}

/// Where a target's caches are read from, in a word.
fn import_source(target: &Target) -> &'static str {
    match target.cache_read.first() {
        Some(Place::Folder(_)) => "folder",
        _ => "registry",
    }
}
