//! A run's images, some targets a bake: so that hundreds do not wait for one, and a bad base image
//! costs one image.

use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};

use super::ahead::Ahead;
use super::builder::Builder;
use super::buildkit::{self, Cause};
use super::buildx::{Buildx, End};
use super::built::{Built, Row};
use super::disk;
use super::export::Exporter;
use super::image::Image;
use super::images::{Images, ImagesBaked, Unread};
use super::registry;
use super::trace::Failure;
use crate::image::plan::{Plan, Target};
use crate::image::request::{Check, Delivery};
use base::error::Interrupted;

/// Is called with every image that is done, and the bake that built it.
pub type OnDone<'a> = &'a dyn Fn(&Target, &ImagesBaked) -> Result<()>;

/// Is called with the images that have ended since the last call, and all of the run.
pub type OnEnd<'a> = &'a dyn Fn(&[&Row], &Built) -> Result<()>;

/// A run that is under way.
pub struct Run<'a> {
    pub buildx: Buildx<'a>,
    pub plan: &'a Plan,
    pub builder: &'a Builder,
    /// Caches that are not to be read.
    pub unread: &'a Unread,
    pub on_done: OnDone<'a>,
    pub on_end: OnEnd<'a>,
}

impl Run<'_> {
    /// Builds the images that wait, and exports their caches. `built` is up to date at any time,
    /// also after an error: a signal, or an engine that is gone. An image that fails is none.
    pub fn build(&self, built: &mut Built) -> Result<()> {
        let rows = built.rows.iter().enumerate();
        let waiting = rows.filter(|(_, row)| row.image == Image::Waiting);
        let waiting = waiting.map(|(number, _)| number).collect::<Vec<_>>();
        self.tell(built)?;
        if waiting.len() > 1 {
            disk::check(self.buildx.docker)?;
        }
        let waves = self.waves(&waiting, built);
        built.ahead = self.ahead(&waves, built);
        let is_one = waves.len() == 1;
        let ended = waves.into_iter().try_for_each(|wave| self.wave(wave, is_one, built));
        built.ahead = None;
        ended
    }

    /// Builds the rows of `wave`, which may be all of the run.
    fn wave(&self, wave: &[usize], is_all: bool, built: &mut Built) -> Result<()> {
        if let (Some(limits), false) = (&self.buildx.request.prune, is_all) {
            disk::tend(self.buildx.docker, limits)?;
        }
        let mut groups = vec![wave.to_vec()];
        while let Some(group) = groups.pop() {
            groups.extend(self.group(&group, built)?);
            self.tell(built)?;
        }
        if let Some(ahead) = &built.ahead {
            ahead.start_no_more();
        }
        if let (Some(error), left @ 1..) = (common_failure(wave, built), built.waiting()) {
            let all = wave.len();
            bail!("all of {all} images failed alike, so {left} were not tried: {error}");
        }
        Ok(())
    }

    /// Where one image goes ahead, starts the steps of the next ones on their base images.
    fn ahead(&self, waves: &[&[usize]], built: &Built) -> Option<Ahead> {
        let [[_], next, ..] = waves else { return None };
        let targets = next.iter().map(|&number| built.rows[number].target).collect::<Vec<_>>();
        Ahead::start(&self.buildx, self.plan, &targets, self.unread)
    }

    /// Hands on the images that have ended since it did so last.
    fn tell(&self, built: &mut Built) -> Result<()> {
        let mut ended = Vec::new();
        for (number, row) in built.rows.iter_mut().enumerate() {
            if row.image != Image::Waiting && !std::mem::replace(&mut row.is_told, true) {
                ended.push(number);
            }
        }
        let ended = ended.into_iter().map(|number| &built.rows[number]).collect::<Vec<_>>();
        (self.on_end)(&ended, built)
    }

    /// The numbers `waiting`, by bake. Of many base images the first is built alone, for the
    /// pushes of one bake don't know of each other: each would send the layers that the images
    /// share.
    fn waves<'a>(&self, waiting: &'a [usize], built: &Built) -> Vec<&'a [usize]> {
        let variant = |number: &usize| &built.rows[*number].target.variant;
        let is_new = waiting.len() == built.rows.len();
        let may_lead = is_new && self.buildx.request.delivery == Delivery::Push;
        let lead = match waiting {
            [lead, rest @ ..] if may_lead => rest.iter().any(|row| variant(row) == variant(lead)),
            _ => false,
        };
        let (lead, rest) = waiting.split_at(usize::from(lead));
        lead.chunks(1).chain(rest.chunks(self.buildx.request.jobs)).collect()
    }

    /// Builds the rows `group` in one bake. Returns the groups that are to be built after that,
    /// because one of their targets or something that passes broke the bake.
    fn group(&self, group: &[usize], built: &mut Built) -> Result<Vec<Vec<usize>>> {
        let Run { buildx, plan, builder, .. } = *self;
        for &number in group {
            built.rows[number].started.get_or_insert_with(SystemTime::now);
        }
        let targets = &group.iter().map(|&number| built.rows[number].target).collect::<Vec<_>>();
        let checked = &self.to_check(targets, built);
        let anew = group.iter().map(|&number| &built.rows[number]).filter(|row| row.runs_all_steps);
        let anew = &anew.map(|row| row.target.name.clone()).collect();
        let images = Images { buildx, builder, plan, targets, checked, anew };
        let mut baked = images.build(self.unread)?;
        if let Some(ahead) = built.ahead.take_if(|ahead| ahead.starts_no_more()) {
            built.ran_ahead = ahead.end();
        }
        // What a bake that failed has done, later ones find in the builder.
        let failed = built.bakes.iter().filter(|bake| bake.bake.end != End::Done);
        for trace in built.ran_ahead.iter().chain(failed.flat_map(ImagesBaked::traces)) {
            baked.absorb(trace);
        }
        // What the first bake leaves in the builder, the others find there.
        let is_first = built.bakes.is_empty() && baked.unread == *self.unread;
        baked.builder_was_empty = if is_first { builder.was_empty } else { Some(false) };
        let end = baked.bake.end;
        let is_own_fault = baked.bake.trace.failures().any(|it| it.cause() == Cause::Step);
        built.bakes.push(baked);
        match end {
            End::Done => {
                built.started.extend(checked.iter().map(|target| target.built_as.clone()));
                self.deliver(group, targets, built)?;
                Ok(Vec::new())
            }
            End::Stopped(signal) => Err(Interrupted(signal).into()),
            _ if !is_own_fault && built.repairs.restart(&buildx, builder, end)? => {
                Ok(vec![group.to_vec()])
            }
            End::TimedOut => self.after_timeout(group, built),
            End::Failed(_) => self.after_failure(group, built),
        }
    }

    /// Those of `targets` that have to start before they are delivered: all, or the first of each
    /// variant.
    fn to_check<'a>(&self, targets: &[&'a Target], built: &Built) -> Vec<&'a Target> {
        let mut started = built.started.clone();
        let due = targets.iter().filter(|target| match self.plan.check {
            Check::All => true,
            Check::First => started.insert(target.built_as.clone()),
            Check::Off => false,
        });
        due.copied().collect()
    }

    /// Notes which images of `group` the last bake failed by. Returns what is to be built again.
    fn after_failure(&self, group: &[usize], built: &mut Built) -> Result<Vec<Vec<usize>>> {
        let bake = built.bakes.len() - 1;
        let mut rest = group.to_vec();
        let mut pause = 0;
        let mut has_failure = false;
        let known_hosts = built.hosts();
        let is_full = |failure: Failure| failure.cause() == Cause::NoSpace;
        let has_room = built.bakes[bake].bake.trace.failures().any(is_full)
            && built.repairs.make_room(self.buildx.docker)?;
        for &number in group {
            let row = &mut built.rows[number];
            let Some(failure) = built.bakes[bake].bake.trace.failure(&row.target.name) else {
                continue;
            };
            has_failure = true;
            let error = format!("{}: {}", failure.name, failure.error);
            let cause = failure.cause();
            let is_passing = cause.is_passing()
                || buildkit::is_passing(&error)
                || buildkit::unknown_host(&error).is_some_and(|host| known_hosts.contains(host))
                || cause == Cause::NoSpace && has_room;
            match row.retry(bake, error, is_passing) {
                Some(seconds) => pause = pause.max(seconds),
                None => rest.retain(|left| *left != number),
            }
        }
        if !has_failure {
            return Self::divided(group, built);
        }
        registry::sleep(Duration::from_secs(pause))?;
        Ok(Vec::from_iter(Some(rest).filter(|rest| !rest.is_empty())))
    }

    /// Notes which images of `group` were not done in time, and returns the others, which are built
    /// again: what they have done is in the builder.
    fn after_timeout(&self, group: &[usize], built: &mut Built) -> Result<Vec<Vec<usize>>> {
        let bake = built.bakes.len() - 1;
        let limit = self.buildx.request.timeout.as_secs();
        let mut rest = Vec::new();
        for &number in group {
            let row = &mut built.rows[number];
            match built.bakes[bake].bake.trace.pending(&row.target.name) {
                Some(name) => {
                    let error = format!("{name}: not done within {limit} s (--timeout)");
                    row.image = Image::Failed { bake, error };
                }
                None => rest.push(number),
            }
        }
        if rest.len() == group.len() {
            return Self::divided(group, built);
        }
        Ok(Vec::from_iter(Some(rest).filter(|rest| !rest.is_empty())))
    }

    /// What to build after a bake that failed without saying by which of its targets.
    fn divided(group: &[usize], built: &mut Built) -> Result<Vec<Vec<usize>>> {
        let bake = built.bakes.len() - 1;
        let baked = &built.bakes[bake].bake;
        if let [number] = *group {
            let error = baked.check().err().map(|error| error.to_string()).unwrap_or_default();
            let is_passing = buildkit::is_passing(&error);
            let Some(seconds) = built.rows[number].retry(bake, error, is_passing) else {
                return Ok(Vec::new());
            };
            registry::sleep(Duration::from_secs(seconds))?;
            return Ok(vec![group.to_vec()]);
        }
        let (one, other) = group.split_at(group.len() / 2);
        Ok(vec![other.to_vec(), one.to_vec()])
    }

    /// Notes that the images of `group` are done, and exports their caches.
    fn deliver(&self, group: &[usize], targets: &[&Target], built: &mut Built) -> Result<()> {
        let Run { buildx, plan, .. } = *self;
        let number = built.bakes.len() - 1;
        let images = &built.bakes[number];
        for &row in group {
            let row = &mut built.rows[row];
            let digest = images.bake.digest(&row.target.name).map(str::to_owned);
            row.image = Image::Done { bake: number, digest };
            (self.on_done)(row.target, images)?;
        }
        self.tell(built)?;
        let images = &built.bakes[number];
        let exports = Exporter { buildx, plan, targets, images }.write()?;
        let end = exports.bakes.last().map_or(End::Done, |bake| bake.end);
        built.exports.add(exports);
        built.repairs.restart(&buildx, self.builder, end)?;
        Ok(())
    }
}

/// The error by which every image of a wave failed, if there is one and the wave is one.
fn common_failure<'a>(wave: &[usize], built: &'a Built) -> Option<&'a str> {
    let errors = wave.iter().map(|&number| built.rows[number].image.error());
    let errors = errors.collect::<Option<Vec<_>>>()?;
    let first = *errors.first()?;
    (wave.len() > 1 && errors.iter().all(|error| *error == first)).then_some(first)
}
