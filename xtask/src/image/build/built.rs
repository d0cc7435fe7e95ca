//! What a run has built so far.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::ahead::Ahead;
use super::builder::Repairs;
use super::buildkit::Cause;
use super::buildx::Docker;
use super::export::{Exports, Outcome, Written};
use super::image::Image;
use super::images::ImagesBaked;
use super::registry;
use super::trace::{Failure, Trace};
use crate::image::plan::inputs::LABEL;
use crate::image::plan::{Plan, Target};
use base::message;

/// Seconds before an image is built again that failed for a passing reason.
const PAUSES: [u64; 3] = [2, 5, 15];

/// A target of the plan, and its image so far.
pub struct Row<'a> {
    pub target: &'a Target,
    pub image: Image,
    /// When its first bake began.
    pub started: Option<SystemTime>,
    /// How often it was built again.
    pub retries: usize,
    /// Whether its steps run again, whatever the builder has of them.
    pub(super) runs_all_steps: bool,
    /// Whether its end was handed on.
    pub(super) is_told: bool,
}

impl Row<'_> {
    /// Notes that the image failed by `error` in the bake of that number. Returns the seconds after
    /// which it is built again, where that is worth its time.
    pub(super) fn retry(&mut self, bake: usize, error: String, is_passing: bool) -> Option<u64> {
        let Some(&seconds) = PAUSES.get(self.retries).filter(|_| is_passing) else {
            self.image = Image::Failed { bake, error };
            return None;
        };
        let image = &self.target.base_image;
        message::warn(&format!("{image}: {error}; retrying in {seconds} s"));
        self.retries += 1;
        self.runs_all_steps |= Cause::of(&error) == Cause::LostStep;
        Some(seconds)
    }
}

/// What a run has built so far.
pub struct Built<'a> {
    /// In the order of the plan.
    pub rows: Vec<Row<'a>>,
    pub bakes: Vec<ImagesBaked>,
    pub exports: Exports,
    /// The variants of which an image has been started.
    pub(super) started: BTreeSet<String>,
    pub(super) repairs: Repairs,
    /// The steps on base images that run meanwhile, and what happened in those that have ended.
    pub(super) ahead: Option<Ahead>,
    pub(super) ran_ahead: Vec<Trace>,
}

impl<'a> Built<'a> {
    /// Of `plan`, of which nothing is built.
    pub fn new(plan: &'a Plan) -> Self {
        let new = |target| {
            let image = Image::Waiting;
            let (started, retries) = (None, 0);
            Row { target, image, started, retries, runs_all_steps: false, is_told: false }
        };
        let rows = plan.targets.iter().map(new).collect();
        Built {
            rows,
            bakes: Vec::new(),
            exports: Exports::default(),
            started: BTreeSet::new(),
            repairs: Repairs::default(),
            ahead: None,
            ran_ahead: Vec::new(),
        }
    }

    /// Finds the images that the registry has under all their tags; returns how many.
    pub fn find_present(&mut self, docker: &Docker) -> usize {
        let tags = self.rows.iter().flat_map(|row| row.target.all_tags()).cloned().collect();
        let found = registry::digests(docker, &tags);
        let firsts = self.rows.iter().filter_map(|row| row.target.tags.first());
        let firsts = firsts.filter(|tag| found.contains_key(*tag)).cloned().collect();
        let labels = registry::labels(docker, &firsts, LABEL);
        for row in &mut self.rows {
            let first = row.target.tags.first().filter(|tag| found.contains_key(*tag));
            let label = first.and_then(|tag| labels.get(tag));
            if let (Some(first), true) = (first, label != Some(&row.target.inputs)) {
                message::say(&format!("{first} was made of other inputs, and is built again."));
                continue;
            }
            let digests = row.target.tags.iter().map(|tag| found.get(tag));
            let digests = digests.collect::<Option<BTreeSet<_>>>().unwrap_or_default();
            let has_all = row.target.all_tags().all(|tag| found.contains_key(tag));
            if let (1, Some(digest), true) = (digests.len(), digests.first(), has_all) {
                row.image = Image::Present { digest: (*digest).clone() };
            }
        }
        self.count(|image| *image != Image::Waiting)
    }

    /// Notes the caches that images in the registry should have and don't: the run that pushed them
    /// was stopped before it wrote them.
    pub fn find_lost_caches(&mut self, docker: &Docker) {
        let present = self.rows.iter().filter(|row| row.image.is_there());
        let places = present.flat_map(|row| row.target.cache_written.iter().map(move |p| (row, p)));
        let places = places.map(|(row, place)| (&row.target.name, place.name().to_owned()));
        let places = places.collect::<Vec<_>>();
        let names = places.iter().map(|(_, name)| name.clone()).collect();
        let found = registry::digests(docker, &names);
        let lost = places.into_iter().filter(|(_, place)| !found.contains_key(place));
        self.exports.written.extend(lost.map(|(target, place)| Written {
            target: target.clone(),
            place,
            outcome: Outcome::Failed,
            error: Some("the run that pushed the image did not write it".to_owned()),
            ..Written::default()
        }));
    }

    /// The bake that the image of `row` was built by, or failed in.
    pub fn bake(&self, row: &Row) -> Option<&ImagesBaked> {
        match row.image {
            Image::Done { bake, .. } | Image::Failed { bake, .. } => self.bakes.get(bake),
            Image::Waiting | Image::Present { .. } => None,
        }
    }

    /// What the image of `row` failed by, where that is known.
    pub fn failure(&self, row: &Row) -> Option<Failure<'_>> {
        self.bake(row)?.bake.trace.failure(&row.target.name)
    }

    /// The hosts that have answered in this run.
    pub(super) fn hosts(&self) -> BTreeSet<String> {
        let there = self.rows.iter().filter(|row| row.image.is_there());
        let references = there
            .flat_map(|row| row.target.tags.first().into_iter().chain([&row.target.base_image]));
        let hosts = references.filter_map(|reference| reference.split_once('/'));
        hosts.map(|(host, _)| host.split(':').next().unwrap_or(host).to_owned()).collect()
    }

    /// The rows whose images are not built.
    pub fn missing(&self) -> Vec<&Row<'a>> {
        self.rows.iter().filter(|row| !row.image.is_there()).collect()
    }

    /// How many images are as `wanted` says.
    pub fn count(&self, wanted: fn(&Image) -> bool) -> usize {
        self.rows.iter().filter(|row| wanted(&row.image)).count()
    }

    /// How many images have not ended.
    pub fn waiting(&self) -> usize {
        self.count(|image| *image == Image::Waiting)
    }
}
