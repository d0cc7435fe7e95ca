//! What is known of a run and of each of its images: steps, caches and times.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::cache_read::{self, CacheRead, Read};
use super::last_build::Build;
use super::text::rounded;
use crate::image::build::builder::Builder;
use crate::image::build::built::{Built, Row};
use crate::image::build::export::{Outcome, Written};
use crate::image::build::image::Image;
use crate::image::build::images::ImagesBaked;
use crate::image::build::phase::Phase;
use crate::image::build::registry::{Content, Part};
use crate::image::build::span::{Span, covered};
use crate::image::build::trace::Step;
use crate::image::plan::bake_file::layer_name;
use crate::image::plan::cache::Place;
use crate::image::request::source::Source;
use crate::image::request::{Delivery, Request};

/// A run that has ended, or could not continue.
pub struct Report<'a> {
    pub request: &'a Request,
    pub builder: &'a Builder,
    pub built: &'a Built<'a>,
    pub images: Vec<ImageReport<'a>>,
    pub source: &'a Source,
    /// What the registry holds of the images, by digest, where a program asked for it.
    pub contents: BTreeMap<String, Content>,
    /// The layers of pushed images, by digest, where they are shown.
    pub parts: BTreeMap<String, Vec<Part>>,
    /// How the run ended.
    pub ended: &'a Result<()>,
    /// Of the whole run.
    pub seconds: f64,
}

/// A target's steps, counted.
#[derive(Clone, Copy, Default)]
pub struct Count {
    pub total: usize,
    pub cached: usize,
    /// Where the cached ones are from, where that is certain.
    pub from_builder: Option<usize>,
    pub from_import: Option<usize>,
}

/// One image of a run.
pub struct ImageReport<'a> {
    pub row: &'a Row<'a>,
    /// Its build, if that is done, or is to be explained.
    pub build: Option<Build>,
    pub built: &'a Built<'a>,
    pub request: &'a Request,
}

impl ImageReport<'_> {
    /// The image's part of the report for programs.
    pub fn json(&self, contents: &BTreeMap<String, Content>) -> Value {
        let target = self.row.target;
        let content = self.reference().and_then(|reference| contents.get(&reference));
        let layers = content.map(|content| &content.layers);
        let count = self.count();
        let steps = self.steps().unwrap_or_default();
        json!({
            "image": {
                "result": self.result(),
                "error": self.row.image.error(),
                "digest": self.row.image.digest(),
                "compressed_bytes": content.map(Content::bytes),
                "layers": layers,
                "tags": target.tags,
                "layer": self.layer(),
                "base_image": target.base_image,
                "pushed": self.row.image.is_there() && self.request.delivery == Delivery::Push,
            },
            "steps": {
                "total": count.map(|count| count.total),
                "cached": count.map(|count| count.cached),
                "from_builder": count.and_then(|count| count.from_builder),
                format!("from_{}", self.import_source()):
                    count.and_then(|count| count.from_import),
                "saved_seconds": self.saved().map(covered).map(rounded),
            },
            "seconds": self.phases(),
            "cache_read": self.reads().iter().map(read_json).collect::<Vec<_>>(),
            "cache_written": self.written().map(|w| self.written_json(w)).collect::<Vec<_>>(),
            "step_list": steps.iter().map(step_json).collect::<Vec<_>>(),
        })
    }

    /// The layer on top of the image, where one was asked for.
    pub fn layer(&self) -> Option<Value> {
        let target = self.row.target;
        let layer = target.layer.as_ref()?;
        let digest = self.bake().and_then(|bake| bake.bake.digest(&layer_name(&target.name)));
        Some(json!({ "tags": layer.tags, "digest": digest }))
    }

    /// How the image ended, in a word.
    pub fn result(&self) -> &'static str {
        match self.row.image {
            Image::Waiting => "not reached",
            Image::Present { .. } => "present",
            Image::Done { .. } => "done",
            Image::Failed { .. } => "failed",
        }
    }

    /// The image as the registry has it, if it is there.
    pub fn reference(&self) -> Option<String> {
        let digest = self.row.image.digest()?;
        let is_push = self.request.delivery == Delivery::Push;
        is_push.then(|| format!("{}@{digest}", self.request.image))
    }

    fn written_json(&self, written: &Written) -> Value {
        json!({
            "ref": written.place,
            "mode": self.request.cache_mode.name(),
            "result": written.outcome.name(),
            "error": written.error,
            "bytes_uploaded": written.uploaded,
            "bytes_present": written.present,
            "seconds": written.seconds.map(rounded),
        })
    }

    /// Seconds by phase, `null` where they are not known. Phases overlap.
    fn phases(&self) -> Value {
        let seconds = Phase::ALL.map(|(phase, name)| (name.to_owned(), json!(self.seconds(phase))));
        Value::Object(Map::from_iter(seconds))
    }

    /// How long the image was in `phase`, in either bake; `None` where that is not known.
    pub fn seconds(&self, phase: Phase) -> Option<f64> {
        let bake = self.bake()?;
        let mut spans = bake.spans(&self.row.target.name, phase)?;
        let mut other = 0.0;
        match phase {
            Phase::CacheExport => {
                let exports = self.built.exports.bakes.as_slice();
                if let ([_], _) | (_, []) = (self.built.rows.as_slice(), exports) {
                    // Whatever these bakes do, they do for the image's caches.
                    spans.extend(exports.iter().filter_map(|bake| bake.trace.whole()));
                } else {
                    let own = self.written().filter(|w| w.outcome != Outcome::Skipped);
                    let own = own.map(|written| written.seconds).sum::<Option<f64>>()?;
                    return Some(rounded(own));
                }
            }
            Phase::ImageExport => {
                let push = bake.spans(&self.row.target.name, Phase::Push)?;
                spans.extend(&push);
                other = covered(push);
            }
            _ => {}
        }
        Some(rounded(covered(spans) - other))
    }

    pub fn count(&self) -> Option<Count> {
        let steps = self.steps()?;
        let cached = steps.iter().filter(|step| step.cached == Some(true)).count();
        let mut count = Count { total: steps.len(), cached, ..Count::default() };
        let reads = self.reads();
        let any_hit = reads.iter().any(|read| read.read == Some(Read::Hit));
        let all_known = reads.iter().all(|read| read.read.is_some());
        // BuildKit does not report which cache a step is from, so only these cases are certain.
        if cached == 0 {
            (count.from_builder, count.from_import) = (Some(0), Some(0));
        } else if !any_hit && all_known {
            (count.from_builder, count.from_import) = (Some(cached), Some(0));
        } else if self.bake()?.builder_was_empty == Some(true) && any_hit {
            (count.from_builder, count.from_import) = (Some(0), Some(cached));
        }
        Some(count)
    }

    pub fn reads(&self) -> Vec<CacheRead<'_>> {
        let Some(bake) = self.bake() else { return Vec::new() };
        let known = &self.built.exports.known;
        let places = self.row.target.cache_read.iter();
        places.map(|place| cache_read::read(place, bake, known)).collect()
    }

    /// The bake that the image was built by, or failed in.
    fn bake(&self) -> Option<&ImagesBaked> {
        self.built.bake(self.row)
    }

    pub fn steps(&self) -> Option<Vec<Step>> {
        self.bake()?.steps(&self.row.target.name)
    }

    pub fn written(&self) -> impl Iterator<Item = &Written> {
        let written = self.built.exports.written.iter();
        written.filter(|written| written.target == self.row.target.name)
    }

    /// When the cached steps last ran, where that is known of all. What they save is the time that
    /// these cover: parallel steps, and those that images share, save it once.
    pub fn saved(&self) -> Option<Vec<Span>> {
        let last = self.build.as_ref()?.last.as_ref()?;
        let steps = self.steps()?;
        let cached = steps.iter().filter(|step| step.cached == Some(true));
        cached.map(|step| last.steps.get(&step.name).copied()).collect()
    }

    /// Where the caches are read from, in a word.
    pub fn import_source(&self) -> &'static str {
        match self.row.target.cache_read.first() {
            Some(Place::Folder(_)) => "folder",
            _ => "registry",
        }
    }
}

fn read_json(read: &CacheRead) -> Value {
    json!({
        "ref": read.place,
        "result": read.read.map(Read::name),
        "status": read.status,
        "error": read.error,
        "seconds": read.seconds.map(rounded),
    })
}

fn step_json(step: &Step) -> Value {
    json!({
        "name": step.name,
        "cached": step.cached,
        "seconds": step.seconds.map(rounded),
        "error": step.error,
    })
}
