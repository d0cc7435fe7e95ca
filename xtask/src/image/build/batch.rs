//! A run's images, built in waves of some targets a bake: so that hundreds do not wait for one,
//! and a bad base image costs one image.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;
use xshell::Shell;

use crate::error::Interrupted;
use crate::image::build::builder::{self, Builder};
use crate::image::build::export::{self, Exports};
use crate::image::build::images::{self, Baked, End};
use crate::image::build::observer::Observer;
use crate::image::build::registry;
use crate::image::plan::bake_file::ImageBake;
use crate::image::plan::{Plan, Target};
use crate::image::request::{Delivery, Request};

/// Pauses before an image is built again that failed by something that passes.
const PAUSES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(10)];

/// What became of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// Not reached, because the run ended before.
    Waiting,
    /// It was in the registry, with this digest.
    Present(String),
    /// Built and delivered, by the bake of this number.
    Done(usize),
    /// Not built, by the bake of this number, for this reason.
    Failed(usize, String),
}

/// What came of a run so far.
pub struct Built {
    /// For each target of the plan.
    pub images: Vec<Image>,
    pub bakes: Vec<Baked>,
    pub exports: Exports,
}

impl Built {
    /// Of `plan`, of which the images in `present` are in the registry already.
    pub fn new(plan: &Plan, present: &BTreeMap<usize, String>) -> Self {
        let image = |number| match present.get(&number) {
            Some(digest) => Image::Present(digest.clone()),
            None => Image::Waiting,
        };
        let images = (0..plan.targets.len()).map(image).collect();
        Built { images, bakes: Vec::new(), exports: Exports::default() }
    }

    /// The bake that the target `number` came from, or failed in.
    pub fn bake(&self, number: usize) -> Option<&Baked> {
        match self.images.get(number)? {
            Image::Done(bake) | Image::Failed(bake, _) => self.bakes.get(*bake),
            _ => None,
        }
    }

    /// The digest of the target `number`, if it is built.
    pub fn digest(&self, number: usize, target: &Target) -> Option<String> {
        match &self.images[number] {
            Image::Present(digest) => Some(digest.clone()),
            Image::Done(bake) => {
                let metadata = &self.bakes[*bake].metadata[&target.name];
                Some(metadata["containerimage.digest"].as_str().unwrap_or_default().to_owned())
            }
            _ => None,
        }
    }

    /// The numbers of the targets that are not built, with the reasons that are known.
    pub fn missing(&self) -> Vec<(usize, Option<&str>)> {
        let missing = self.images.iter().enumerate().filter_map(|(number, image)| match image {
            Image::Failed(_, error) => Some((number, Some(error.as_str()))),
            Image::Waiting => Some((number, None)),
            Image::Present(_) | Image::Done(_) => None,
        });
        missing.collect()
    }

    fn count(&self, wanted: fn(&Image) -> bool) -> usize {
        self.images.iter().filter(|image| wanted(image)).count()
    }
}

/// The targets that the registry has under all their tags, by number, with their digests.
pub fn present(plan: &Plan) -> BTreeMap<usize, String> {
    let tags = plan.targets.iter().flat_map(|target| &target.tags).cloned();
    let found = registry::digests(&tags.collect());
    let digest = |target: &Target| {
        let digests = target.tags.iter().map(|tag| found.get(tag));
        let digests = digests.collect::<Option<BTreeSet<_>>>()?;
        digests.first().filter(|_| digests.len() == 1).map(|digest| (*digest).clone())
    };
    let targets = plan.targets.iter().enumerate();
    targets.filter_map(|(number, target)| Some((number, digest(target)?))).collect()
}

/// A run that is under way.
pub struct Run<'a> {
    pub sh: &'a Shell,
    pub request: &'a Request,
    pub plan: &'a Plan,
    pub builder: &'a Builder<'a>,
    /// Caches that are not to be read, each with the reason.
    pub unread: &'a BTreeMap<String, String>,
    pub begun: Instant,
}

impl Run<'_> {
    /// Builds what is not there, and exports its caches; `tell` hears of every image that is
    /// done. What came of it is in `built` at any time, also after an error.
    ///
    /// # Errors
    /// A signal or an engine that is gone. An image that fails is no error here.
    pub fn build(
        &self,
        built: &mut Built,
        tell: &dyn Fn(&Target, &str) -> Result<()>,
    ) -> Result<()> {
        let waiting =
            built.images.iter().enumerate().filter(|(_, image)| **image == Image::Waiting);
        let waiting = waiting.map(|(number, _)| number).collect::<Vec<_>>();
        let mut pace = None;
        let mut tries = vec![0; self.plan.targets.len()];
        for wave in self.waves(&waiting) {
            let mut groups = vec![wave.to_vec()];
            while let Some(group) = groups.pop() {
                groups.extend(self.group(&group, built, &mut tries, tell)?);
            }
            if waiting.len() > wave.len() {
                pace.get_or_insert_with(|| Pace::new(built)).say(built, self.builder.observer);
            }
            if let Some(error) = common_failure(wave, built) {
                let left = built.count(|image| *image == Image::Waiting);
                if left > 0 {
                    bail!(
                        "all of {} images failed alike, so {left} were not tried: {error}",
                        wave.len()
                    );
                }
            }
        }
        Ok(())
    }

    /// The targets `waiting`, by bake. Of many base images the first goes alone, for the pushes of
    /// one bake don't know of each other: each would send the layers that the images share.
    fn waves<'a>(&self, waiting: &'a [usize]) -> Vec<&'a [usize]> {
        let variant = |target: &usize| &self.plan.targets[*target].variant;
        let is_new = waiting.len() == self.plan.targets.len();
        let may_lead = is_new && self.request.delivery == Delivery::Push;
        let lead = match waiting {
            [lead, rest @ ..] if may_lead => rest.iter().any(|t| variant(t) == variant(lead)),
            _ => false,
        };
        let (lead, rest) = waiting.split_at(usize::from(lead));
        lead.chunks(1).chain(rest.chunks(self.request.jobs)).collect()
    }

    /// Builds the targets `group` in one bake. Gives the groups that are to be built after that,
    /// because one of their targets or something that passes was in the way.
    fn group(
        &self,
        group: &[usize],
        built: &mut Built,
        tries: &mut [usize],
        tell: &dyn Fn(&Target, &str) -> Result<()>,
    ) -> Result<Vec<Vec<usize>>> {
        let Run { sh, request, plan, builder, .. } = self;
        let targets = group.iter().map(|&target| &plan.targets[target]).collect::<Vec<_>>();
        let how = ImageBake {
            with_exports: true,
            direct_push: false,
            shared_inputs: false,
            without: &BTreeSet::new(),
        };
        let definition = plan.images(&targets, &how).json;
        let mut baked = images::images(sh, request, builder, &definition, self.unread)?;
        // What the first bake leaves in the builder, the others find there.
        let is_first = built.bakes.is_empty() && baked.unread == *self.unread;
        baked.builder_was_empty = if is_first { builder.was_empty } else { Some(false) };
        let number = built.bakes.len();
        let failed = match baked.end {
            End::Failed(_) => failures(group, plan, &baked),
            _ => Vec::new(),
        };
        let end = baked.end;
        built.bakes.push(baked);
        match end {
            End::Done => {
                self.deliver(group, &definition, built, tell)?;
                return Ok(Vec::new());
            }
            End::Stopped(signal) => return Err(Interrupted(signal).into()),
            End::TimedOut | End::Failed(_) => {}
        }
        if failed.is_empty() {
            return self.divided(group, built, number);
        }
        let mut rest = group.to_vec();
        let mut pause = None;
        for (target, error) in failed {
            let again = PAUSES.get(tries[target]).filter(|_| is_passing(&error));
            if let Some(again) = again {
                builder.observer.warn(&format!(
                    "{}: {error}; trying again in {} s",
                    plan.targets[target].base_image,
                    again.as_secs()
                ));
                tries[target] += 1;
                pause = pause.max(Some(*again));
            } else {
                built.images[target] = Image::Failed(number, error);
                rest.retain(|left| *left != target);
            }
        }
        registry::sleep(pause.unwrap_or_default())?;
        Ok(if rest.is_empty() { Vec::new() } else { vec![rest] })
    }

    /// What to build after a bake that failed without telling by which of its targets.
    fn divided(&self, group: &[usize], built: &mut Built, bake: usize) -> Result<Vec<Vec<usize>>> {
        if !builder::answers(self.request, self.builder.observer) {
            bail!("the engine stopped answering while images were built.");
        }
        if let [target] = group {
            let error = built.bakes[bake].check().err().map(|error| error.to_string());
            built.images[*target] = Image::Failed(bake, error.unwrap_or_default());
            return Ok(Vec::new());
        }
        let (one, other) = group.split_at(group.len() / 2);
        Ok(vec![other.to_vec(), one.to_vec()])
    }

    /// Tells of images that are done, and exports their caches.
    fn deliver(
        &self,
        group: &[usize],
        definition: &Value,
        built: &mut Built,
        tell: &dyn Fn(&Target, &str) -> Result<()>,
    ) -> Result<()> {
        let Run { sh, request, plan, builder, .. } = self;
        let number = built.bakes.len() - 1;
        let targets = group.iter().map(|&target| &plan.targets[target]).collect::<Vec<_>>();
        for (&place, target) in group.iter().zip(&targets) {
            built.images[place] = Image::Done(number);
            tell(target, &built.digest(place, target).unwrap_or_default())?;
        }
        let image = &built.bakes[number];
        let exports = export::write(sh, request, builder, &targets, definition, image)?;
        let ended = exports.check_end(request, builder.observer);
        built.exports.add(exports);
        ended
    }
}

/// How fast a run goes on after its first bake, which makes what all images share.
struct Pace {
    since: Instant,
    /// How many images it had to build then.
    left: usize,
}

impl Pace {
    fn new(built: &Built) -> Self {
        Pace { since: Instant::now(), left: built.count(|image| *image == Image::Waiting) }
    }

    /// Tells how far the run is, and how long it may still take where that is known.
    fn say(&self, built: &Built, observer: &dyn Observer) {
        let done = built.count(|image| matches!(image, Image::Done(_) | Image::Present(_)));
        let failed = built.count(|image| matches!(image, Image::Failed(..)));
        let left = built.count(|image| *image == Image::Waiting);
        let count = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let pace = if self.left > left {
            let each = self.since.elapsed().as_secs_f64() / count(self.left - left);
            let minutes = each * count(left) / 60.0;
            format!("; {:.0} images an hour, about {minutes:.0} min left", 3600.0 / each)
        } else {
            String::new()
        };
        let all = built.images.len();
        observer
            .say(&format!("batch: {done} of {all} done, {failed} failed, {left} to come{pace}"));
    }
}

/// The targets of `group` that a bake failed by, each with its error.
fn failures(group: &[usize], plan: &Plan, baked: &Baked) -> Vec<(usize, String)> {
    let failure = |&target: &usize| {
        let (work, error) = baked.trace.failure(&plan.targets[target].name)?;
        Some((target, format!("{work}: {error}")))
    };
    group.iter().filter_map(failure).collect()
}

/// Is another try worth its time? Not after a step's own command, whatever that may hold.
fn is_passing(error: &str) -> bool {
    !error.contains("did not complete successfully") && registry::is_passing(error)
}

/// The error by which every image of a wave failed, if there is one and the wave is one.
fn common_failure<'a>(wave: &[usize], built: &'a Built) -> Option<&'a str> {
    let error = |&target: &usize| match &built.images[target] {
        Image::Failed(_, error) => Some(error.as_str()),
        _ => None,
    };
    let errors = wave.iter().map(error).collect::<Option<Vec<_>>>()?;
    let first = *errors.first()?;
    (wave.len() > 1 && errors.iter().all(|error| *error == first)).then_some(first)
}
