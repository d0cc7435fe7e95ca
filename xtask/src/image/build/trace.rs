//! What happened in a bake, put together from its events: which steps ran and which came from a
//! cache, how long everything took, and how reading and writing caches went.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::buildkit::{self, Cause, TargetVertex, Vertex};
use super::events::{Event, Log, Status, VertexEvent};
use super::phase::Phase;
use super::span::{Span, covered};
use crate::image::plan::bake_file::image_name;

/// How much of a step's output is kept, in bytes.
const OUTPUT_KEPT: usize = 8192;

/// How a vertex went, once it has started.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub started: f64,
    /// `None` while it runs, and where it was stopped.
    pub completed: Option<f64>,
    pub cached: bool,
    pub error: Option<String>,
}

impl Outcome {
    /// Has this been given up in favour of an equal step of another target?
    fn is_merged(&self) -> bool {
        self.error.as_ref().is_some_and(|error| Cause::of(error) == Cause::Canceled)
    }

    fn span(&self) -> Option<Span> {
        Some(Span { from: self.started, to: self.completed? })
    }

    /// In seconds; `None` where it did not end.
    pub fn seconds(&self) -> Option<f64> {
        self.span().map(|span| span.to - span.from)
    }
}

/// A vertex as one target sees it.
#[derive(Debug)]
struct Node {
    target: usize,
    /// Without the target's name.
    name: String,
    /// The step that it is a part of.
    step: String,
    weak: bool,
    outcomes: Vec<Outcome>,
    /// When its parts that push started and ended.
    pushes: Vec<Span>,
    /// The end of its output.
    output: Vec<u8>,
}

impl Node {
    fn vertex(&self) -> Vertex<'_> {
        Vertex::of(&self.name)
    }

    fn phase(&self) -> Phase {
        Phase::of(self.vertex())
    }

    /// How it went, without what another target did in its place.
    fn own_outcomes(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| !outcome.is_merged())
    }
}

/// A step of a target.
#[derive(Clone, Debug)]
pub struct Step {
    pub name: String,
    /// `None` where that is not known.
    pub cached: Option<bool>,
    pub seconds: Option<f64>,
    pub started: Option<f64>,
    pub error: Option<String>,
}

impl Step {
    /// When it ran, where that is known.
    pub fn span(&self) -> Option<Span> {
        let from = self.started?;
        Some(Span { from, to: from + self.seconds? })
    }
}

/// Work that failed: the name of its vertex, why, and the end of its output.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    pub name: &'a str,
    pub error: &'a str,
    pub output: &'a [u8],
}

impl Failure<'_> {
    pub fn cause(&self) -> Cause {
        Cause::of_step(self.error, &String::from_utf8_lossy(self.output))
    }
}

/// What was done for a target, or for another one in its place, and the end of its output.
pub struct Work<'a> {
    pub name: &'a str,
    /// The last that is known of it.
    pub outcome: &'a Outcome,
    pub output: &'a [u8],
}

/// The events of one bake, by target.
#[derive(Debug)]
pub struct Trace {
    /// In the order in which they were reported first.
    nodes: Vec<Node>,
    /// By target and digest.
    places: HashMap<(usize, String), usize>,
    targets: Vec<String>,
    /// The number of each target's image: its own, or that of the one that it is a part of.
    images: Vec<usize>,
    /// Bytes of every transfer of a Dockerfile or a context, by vertex and name. Each target
    /// reports one that it shares with others, at times of its own.
    transfers: BTreeMap<(String, String), u64>,
    whole: Option<Span>,
    /// The last error that buildx itself wrote.
    error: Option<String>,
}

impl Trace {
    /// A bake of `targets`, of which nothing is known yet.
    pub fn new(targets: Vec<String>) -> Self {
        let (nodes, places, transfers) = (Vec::new(), HashMap::new(), BTreeMap::new());
        let image = |(number, target): (usize, &String)| {
            let image = image_name(target);
            targets.iter().position(|other| other == image).unwrap_or(number)
        };
        let images = targets.iter().enumerate().map(image).collect();
        Trace { nodes, places, targets, images, transfers, whole: None, error: None }
    }

    pub fn add(&mut self, event: &Event) {
        match event {
            Event::Vertex(vertex) => self.add_vertex(vertex),
            Event::Status(status) => self.add_status(status),
            Event::Log(log) => self.add_log(log),
            Event::Text(text) => {
                let error = text.strip_prefix("ERROR: ").map(str::to_owned);
                self.error = error.or(self.error.take());
            }
            Event::Warning(_) => {}
        }
    }

    /// Takes over from `before`, an earlier bake, how the work went that was cached in this one.
    pub fn absorb(&mut self, before: &Trace) {
        let has_run = |outcome: &&Outcome| {
            !outcome.cached && outcome.error.is_none() && outcome.completed.is_some()
        };
        for ((target, digest), &place) in &before.places {
            let name = before.targets.get(*target);
            let target = self.targets.iter().position(|target| Some(target) == name);
            let own = target.and_then(|target| self.places.get(&(target, digest.clone())));
            let Some(&own) = own else { continue };
            let (node, earlier) = (&mut self.nodes[own], &before.nodes[place]);
            let ran = earlier.outcomes.iter().filter(has_run).cloned().collect::<Vec<_>>();
            if !ran.is_empty() && node.own_outcomes().all(|outcome| outcome.cached) {
                (node.outcomes, node.output) = (ran, earlier.output.clone());
            }
        }
    }

    fn add_log(&mut self, log: &Log) {
        for target in 0..self.targets.len() {
            if let Some(&place) = self.places.get(&(target, log.vertex.clone())) {
                let output = &mut self.nodes[place].output;
                output.extend(log.text.as_bytes());
                output.drain(..output.len().saturating_sub(OUTPUT_KEPT));
            }
        }
    }

    /// The error that buildx itself ended with, if it wrote one.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    fn add_vertex(&mut self, vertex: &VertexEvent) {
        for time in [vertex.started, vertex.completed].into_iter().flatten() {
            let whole = self.whole.unwrap_or(Span { from: time, to: time });
            self.whole = Some(Span { from: whole.from.min(time), to: whole.to.max(time) });
        }
        let Some(TargetVertex { target, name }) =
            buildkit::split_target(&self.targets, &vertex.name)
        else {
            return;
        };
        let target = self.images[target];
        let key = (target, vertex.digest.clone());
        let place = *self.places.entry(key).or_insert_with(|| {
            let step = vertex.group.as_deref().unwrap_or(&vertex.name);
            let own = buildkit::split_target(&self.targets, step);
            let step = own.map_or(step.to_owned(), |own| own.name);
            let (outcomes, pushes, output) = (Vec::new(), Vec::new(), Vec::new());
            let weak = vertex.weak;
            self.nodes.push(Node { target, name, step, weak, outcomes, pushes, output });
            self.nodes.len() - 1
        });
        let Some(started) = vertex.started else { return };
        let (completed, cached, error) = (vertex.completed, vertex.cached, vertex.error.clone());
        let outcome = Outcome { started, completed, cached, error };
        let outcomes = &mut self.nodes[place].outcomes;
        match outcomes.iter_mut().find(|known| is_same_time(known.started, started)) {
            Some(known) => *known = outcome,
            None => outcomes.push(outcome),
        }
    }

    fn add_status(&mut self, status: &Status) {
        if let (true, Some(current)) = (buildkit::is_transfer(&status.id), status.current) {
            let transfer = (status.vertex.clone(), status.id.clone());
            let bytes = self.transfers.entry(transfer).or_default();
            *bytes = current.max(*bytes);
        }
        let (Some(from), Some(to)) = (status.started, status.completed) else { return };
        if !buildkit::is_push(&status.id) {
            return;
        }
        for target in 0..self.targets.len() {
            if let Some(&place) = self.places.get(&(target, status.vertex.clone())) {
                self.nodes[place].pushes.push(Span { from, to });
            }
        }
    }

    /// From the first event to the last.
    pub fn whole(&self) -> Option<Span> {
        self.whole
    }

    /// Bytes that were sent to the builder as Dockerfiles and contexts; `None` where no event
    /// reported any.
    pub fn context_bytes(&self) -> Option<u64> {
        (!self.transfers.is_empty()).then(|| self.transfers.values().sum())
    }

    /// The steps of `target` in the order in which they started; `None` where no event reported
    /// any.
    pub fn steps(&self, target: &str) -> Option<Vec<Step>> {
        let steps = self.of(target).map(|node| &node.step);
        let names = steps.filter(|name| Vertex::of(name) == Vertex::Step).collect::<BTreeSet<_>>();
        let mut steps = names.into_iter().map(|name| self.step(target, name)).collect::<Vec<_>>();
        let start = |step: &Step| step.started.unwrap_or(f64::MAX);
        steps.sort_by(|a, b| start(a).total_cmp(&start(b)));
        Some(steps).filter(|steps| !steps.is_empty())
    }

    fn step(&self, target: &str, name: &str) -> Step {
        // A step that another target has as well is run for only one of them.
        let own = parts(name, self.of(target));
        let parts = if own.is_empty() { parts(name, self.nodes.iter()) } else { own };
        let has_weak = parts.iter().any(|part| part.weak);
        let mut working = parts.iter().filter(|part| part.weak || !has_weak);
        let outcomes = || parts.iter().flat_map(|part| part.own_outcomes());
        let error = outcomes().find_map(|outcome| outcome.error.clone());
        let spans = outcomes().map(Outcome::span).collect::<Option<Vec<_>>>();
        let is_known = !parts.is_empty() && error.is_none();
        Step {
            name: name.to_owned(),
            // A result that is cached may still have to be fetched, which is an event of its own.
            cached: is_known
                .then(|| working.all(|part| part.own_outcomes().any(|outcome| outcome.cached))),
            seconds: spans.filter(|spans| !spans.is_empty()).map(covered),
            started: outcomes().map(|outcome| outcome.started).min_by(f64::total_cmp),
            error,
        }
    }

    /// When `target` was in `phase`; `None` if there was no event at all. An image is pushed within
    /// its export.
    pub fn spans(&self, target: &str, phase: Phase) -> Option<Vec<Span>> {
        if self.nodes.is_empty() {
            return None;
        }
        let mut spans = Vec::new();
        for node in self.of(target) {
            if node.phase() == phase {
                spans.extend(node.own_outcomes().filter_map(Outcome::span));
            }
            if phase == Phase::Push && node.phase() == Phase::ImageExport {
                spans.extend(&node.pushes);
            }
        }
        Some(spans)
    }

    /// The caches that were asked for, each with how that went; the same for all targets.
    pub fn imports(&self) -> BTreeMap<&str, &Outcome> {
        let imports = self.nodes.iter().filter_map(|node| match node.vertex() {
            Vertex::CacheImport(cache) => Some((cache, node.outcomes.last()?)),
            _ => None,
        });
        imports.collect()
    }

    /// The caches that were read without an error, by the names that buildx uses.
    pub fn hits(&self) -> BTreeSet<String> {
        let hits = self.imports().into_iter().filter(|(_, outcome)| outcome.error.is_none());
        hits.map(|(name, _)| name.to_owned()).collect()
    }

    /// The base images of `target`, each with its digest.
    pub fn bases(&self, target: &str) -> BTreeMap<String, String> {
        let base = |node: &Node| match node.vertex() {
            Vertex::Base { reference, digest } if !digest.is_empty() => {
                Some((reference.to_owned(), digest.to_owned()))
            }
            _ => None,
        };
        self.of(target).filter_map(base).collect()
    }

    /// The caches that the bake waits for, if it waits for nothing else.
    pub fn awaited(&self) -> BTreeSet<String> {
        let is_pending =
            |node: &&Node| node.outcomes.last().is_some_and(|outcome| outcome.completed.is_none());
        let names = self.nodes.iter().filter(is_pending).map(|node| match node.vertex() {
            Vertex::CacheImport(cache) => Some(cache.to_owned()),
            _ => None,
        });
        names.collect::<Option<BTreeSet<_>>>().unwrap_or_default()
    }

    /// The name of what `target` was still doing.
    pub fn pending(&self, target: &str) -> Option<&str> {
        let is_pending =
            |node: &&Node| node.own_outcomes().any(|outcome| outcome.completed.is_none());
        self.of(target).find(is_pending).map(|node| node.name.as_str())
    }

    /// All that was done for `target`, in the order in which it was reported first.
    pub fn works(&self, target: &str) -> impl Iterator<Item = Work<'_>> {
        self.of(target).filter_map(|node| {
            let own = node.own_outcomes().max_by_key(|outcome| outcome.error.is_some());
            let outcome = own.or_else(|| node.outcomes.last())?;
            Some(Work { name: &node.name, outcome, output: &node.output })
        })
    }

    /// Did any step come from a cache?
    pub fn has_cached_steps(&self) -> bool {
        self.nodes.iter().flat_map(|node| &node.outcomes).any(|outcome| outcome.cached)
    }

    /// How each cache export of `target` went.
    pub fn exports(&self, target: &str) -> Vec<&Outcome> {
        let nodes = self.of(target).filter(|node| node.phase() == Phase::CacheExport);
        nodes.filter_map(|node| node.outcomes.last()).collect()
    }

    /// What failed first of `target` itself. A cache that can't be read or written is no failure,
    /// nor is what was given up because of another.
    pub fn failure(&self, target: &str) -> Option<Failure<'_>> {
        self.of(target).find_map(failure)
    }

    /// What failed, as in [`Trace::failure`], of all targets.
    pub fn failures(&self) -> impl Iterator<Item = Failure<'_>> {
        self.nodes.iter().filter_map(failure)
    }

    /// What belongs to `target`, also as its check or its layer.
    fn of(&self, target: &str) -> impl Iterator<Item = &Node> {
        let number = self.targets.iter().position(|name| name == target);
        self.nodes.iter().filter(move |node| Some(node.target) == number)
    }
}

fn failure(node: &Node) -> Option<Failure<'_>> {
    if matches!(node.phase(), Phase::CacheImport | Phase::CacheExport) {
        return None;
    }
    let error = node.own_outcomes().find_map(|outcome| outcome.error.as_deref())?;
    Some(Failure { name: &node.name, error, output: &node.output })
}

/// Those of `nodes` that are parts of the step `name` and have started.
fn parts<'a>(name: &str, nodes: impl Iterator<Item = &'a Node>) -> Vec<&'a Node> {
    let has_started = |node: &&Node| node.own_outcomes().next().is_some();
    nodes.filter(|node| node.step == name).filter(has_started).collect()
}

/// Times of one moment, which events may repeat, differ by rounding at most.
fn is_same_time(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6
}
