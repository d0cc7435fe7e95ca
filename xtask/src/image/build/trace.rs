//! What happened in a bake, put together from its events: which steps ran and which came from a
//! cache, how long everything took, and what became of the caches.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::image::build::buildkit::{Event, Status, Vertex};

/// What a run spends its time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading the Dockerfile, the context and what base images and registries tell.
    Context,
    CacheImport,
    Steps,
    ImageExport,
    Push,
    CacheExport,
}

impl Phase {
    /// In the order in which they come, with their names in a report.
    pub const NAMES: [(&str, Phase); 6] = [
        ("context", Phase::Context),
        ("cache_import", Phase::CacheImport),
        ("steps", Phase::Steps),
        ("image_export", Phase::ImageExport),
        ("push", Phase::Push),
        ("cache_export", Phase::CacheExport),
    ];
}

const IMPORT: &str = "importing cache manifest from ";

/// How a vertex went, once it has begun.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub started: f64,
    /// `None` while it goes on, and where it was stopped.
    pub completed: Option<f64>,
    pub cached: bool,
    pub error: Option<String>,
}

impl Outcome {
    /// Has this been given up in favour of an equal step of another target?
    fn is_merged(&self) -> bool {
        self.error.as_ref().is_some_and(|error| error.contains("context canceled"))
    }
}

/// A vertex as one target sees it.
#[derive(Debug)]
struct Node {
    /// Without the target's name.
    name: String,
    /// The step that it is a part of.
    step: String,
    weak: bool,
    outcomes: Vec<Outcome>,
    /// When its parts that push began and ended.
    pushes: Vec<(f64, f64)>,
}

/// A step of a target.
#[derive(Clone, Debug)]
pub struct Step {
    pub name: String,
    /// `None` where that was not told.
    pub cached: Option<bool>,
    pub seconds: Option<f64>,
    pub started: Option<f64>,
    pub error: Option<String>,
}

/// The events of one bake, by target.
#[derive(Debug)]
pub struct Trace {
    /// In the order in which they were told of first; by target and digest.
    nodes: Vec<(usize, Node)>,
    places: HashMap<(usize, String), usize>,
    targets: Vec<String>,
    /// Bytes of every transfer of a Dockerfile or a context, by vertex and name. Each target tells
    /// of one that it shares with others, at times of its own.
    transfers: BTreeMap<(String, String), u64>,
    first: Option<f64>,
    last: Option<f64>,
}

impl Trace {
    /// A bake of `targets`, of which nothing is known yet.
    pub fn new(targets: Vec<String>) -> Self {
        let (nodes, places, transfers) = (Vec::new(), HashMap::new(), BTreeMap::new());
        Trace { nodes, places, targets, transfers, first: None, last: None }
    }

    /// Takes in what was told.
    pub fn add(&mut self, event: &Event) {
        match event {
            Event::Vertex(vertex) => self.add_vertex(vertex),
            Event::Status(status) => self.add_status(status),
            _ => {}
        }
    }

    fn add_vertex(&mut self, vertex: &Vertex) {
        for time in [vertex.started, vertex.completed].into_iter().flatten() {
            self.first = Some(self.first.map_or(time, |first| first.min(time)));
            self.last = Some(self.last.map_or(time, |last| last.max(time)));
        }
        let Some((target, name)) = self.split(&vertex.name) else { return };
        let key = (target, vertex.digest.clone());
        let place = *self.places.entry(key).or_insert_with(|| {
            let step = vertex.group.as_deref().unwrap_or(&vertex.name);
            let step = split(&self.targets, step).map_or(step.to_owned(), |(_, step)| step);
            let (outcomes, pushes) = (Vec::new(), Vec::new());
            self.nodes.push((target, Node { name, step, weak: vertex.weak, outcomes, pushes }));
            self.nodes.len() - 1
        });
        let Some(started) = vertex.started else { return };
        let outcome = Outcome {
            started,
            completed: vertex.completed,
            cached: vertex.cached,
            error: vertex.error.clone(),
        };
        let outcomes = &mut self.nodes[place].1.outcomes;
        match outcomes.iter_mut().find(|known| same(known.started, started)) {
            Some(known) => *known = outcome,
            None => outcomes.push(outcome),
        }
    }

    fn add_status(&mut self, status: &Status) {
        if let (true, Some(current)) = (status.id.starts_with("transferring "), status.current) {
            let transfer = (status.vertex.clone(), status.id.clone());
            let bytes = self.transfers.entry(transfer).or_default();
            *bytes = current.max(*bytes);
        }
        let (Some(started), Some(completed)) = (status.started, status.completed) else { return };
        if !status.id.starts_with("pushing ") {
            return;
        }
        for target in 0..self.targets.len() {
            if let Some(&place) = self.places.get(&(target, status.vertex.clone())) {
                self.nodes[place].1.pushes.push((started, completed));
            }
        }
    }

    /// The target that the vertex `name` belongs to, and its name without that.
    fn split(&self, name: &str) -> Option<(usize, String)> {
        split(&self.targets, name)
    }

    /// From the first event to the last.
    pub fn whole(&self) -> Option<(f64, f64)> {
        Some((self.first?, self.last?))
    }

    /// Bytes that were sent to the builder as Dockerfiles and contexts; `None` where nothing was
    /// told of it.
    pub fn context_bytes(&self) -> Option<u64> {
        (!self.transfers.is_empty()).then(|| self.transfers.values().sum())
    }

    /// The steps of `target` in the order in which they began; `None` if nothing was told of any.
    pub fn steps(&self, target: &str) -> Option<Vec<Step>> {
        let names = self.of(target).map(|node| &node.step).filter(|name| is_step(name));
        let names = names.collect::<BTreeSet<_>>();
        let mut steps = names.into_iter().map(|name| self.step(target, name)).collect::<Vec<_>>();
        let start = |step: &Step| step.started.unwrap_or(f64::MAX);
        steps.sort_by(|a, b| start(a).total_cmp(&start(b)));
        Some(steps).filter(|steps| !steps.is_empty())
    }

    fn step(&self, target: &str, name: &str) -> Step {
        // A step that another target has as well is run for only one of them.
        let own = parts(name, self.of(target));
        let parts =
            if own.is_empty() { parts(name, self.nodes.iter().map(|(_, node)| node)) } else { own };
        let has_weak = parts.iter().any(|(weak, _)| *weak);
        let mut working = parts.iter().filter(|(weak, _)| *weak || !has_weak);
        let outcomes = || parts.iter().flat_map(|(_, outcomes)| outcomes);
        let error = outcomes().find_map(|outcome| outcome.error.clone());
        let spans = outcomes().map(|outcome| Some((outcome.started, outcome.completed?)));
        let is_told = !parts.is_empty() && error.is_none();
        Step {
            name: name.to_owned(),
            // A result that is cached may still have to be fetched, which is told of once more.
            cached: is_told.then(|| {
                working.all(|(_, outcomes)| outcomes.iter().any(|outcome| outcome.cached))
            }),
            seconds: spans.collect::<Option<Vec<_>>>().filter(|s| !s.is_empty()).map(union),
            started: outcomes().map(|outcome| outcome.started).min_by(f64::total_cmp),
            error,
        }
    }

    /// When `target` was in `phase`; `None` if nothing was told of the bake.
    pub fn spans(&self, target: &str, phase: Phase) -> Option<Vec<(f64, f64)>> {
        if self.nodes.is_empty() {
            return None;
        }
        let mut spans = Vec::new();
        for node in self.of(target) {
            let pushing = node.pushes.iter().copied();
            let all = node.outcomes.iter().filter(|outcome| !outcome.is_merged());
            let all = all.filter_map(|outcome| Some((outcome.started, outcome.completed?)));
            match (phase_of(&node.name), phase) {
                (Phase::ImageExport, Phase::Push) => spans.extend(pushing),
                (Phase::ImageExport, Phase::ImageExport) => {
                    spans.extend(all.flat_map(|span| without(span, node.pushes.clone())));
                }
                (own, wanted) if own == wanted => spans.extend(all),
                _ => {}
            }
        }
        Some(spans)
    }

    /// The caches that were asked for, each with how that went; the same for all targets.
    pub fn imports(&self) -> BTreeMap<&str, &Outcome> {
        let mut imports = BTreeMap::new();
        for (_, node) in &self.nodes {
            if let (Some(reference), Some(outcome)) =
                (node.name.strip_prefix(IMPORT), node.outcomes.last())
            {
                imports.insert(reference, outcome);
            }
        }
        imports
    }

    /// The caches that were read without an error, by the names that buildx gives them.
    pub fn hits(&self) -> impl Iterator<Item = &str> {
        let imports = self.imports().into_iter();
        imports.filter(|(_, outcome)| outcome.error.is_none()).map(|(name, _)| name)
    }

    /// The base images of `target`, each with its digest.
    pub fn bases(&self, target: &str) -> BTreeMap<String, String> {
        let base = |node: &Node| {
            let (_, reference) = node.name.split_once("] FROM ")?;
            let (name, digest) = reference.split_once('@')?;
            Some((name.to_owned(), digest.to_owned()))
        };
        self.of(target).filter_map(base).collect()
    }

    /// The caches that the bake waits for, if it waits for nothing else.
    pub fn awaited(&self) -> BTreeSet<String> {
        let pending =
            |node: &&Node| node.outcomes.last().is_some_and(|outcome| outcome.completed.is_none());
        let pending = self.nodes.iter().map(|(_, node)| node).filter(pending);
        let names = pending.map(|node| node.name.strip_prefix(IMPORT).map(str::to_owned));
        names.collect::<Option<BTreeSet<_>>>().unwrap_or_default()
    }

    /// Did any step come from a cache?
    pub fn has_cached_steps(&self) -> bool {
        let mut outcomes = self.nodes.iter().flat_map(|(_, node)| &node.outcomes);
        outcomes.any(|outcome| outcome.cached)
    }

    /// How each cache export of `target` went.
    pub fn exports(&self, target: &str) -> Vec<&Outcome> {
        let nodes = self.of(target).filter(|node| phase_of(&node.name) == Phase::CacheExport);
        nodes.filter_map(|node| node.outcomes.last()).collect()
    }

    /// The name and error of what failed first of `target` itself. A cache that can't be read or
    /// written is no failure, nor is what was given up because of another.
    pub fn failure(&self, target: &str) -> Option<(&str, &str)> {
        let counts =
            |node: &&Node| !matches!(phase_of(&node.name), Phase::CacheImport | Phase::CacheExport);
        self.of(target).filter(counts).find_map(|node| {
            let mut outcomes = node.outcomes.iter().filter(|outcome| !outcome.is_merged());
            Some((node.name.as_str(), outcomes.find_map(|outcome| outcome.error.as_deref())?))
        })
    }

    /// The names and errors of what failed.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.nodes.iter().flat_map(|(_, node)| {
            let outcomes = node.outcomes.iter().filter(|outcome| !outcome.is_merged());
            outcomes.filter_map(|outcome| Some((node.name.as_str(), outcome.error.as_deref()?)))
        })
    }

    /// Has any work failed with an error that holds `sign`?
    pub fn has_failed_by(&self, sign: &str) -> bool {
        self.failures().any(|(_, error)| error.contains(sign))
    }

    fn of(&self, target: &str) -> impl Iterator<Item = &Node> {
        let wanted = self.targets.iter().position(|name| name == target);
        self.nodes.iter().filter(move |(target, _)| Some(*target) == wanted).map(|(_, node)| node)
    }
}

/// The parts of the step `name` among `nodes`: whether they do the work, and how that went.
fn parts<'a>(name: &str, nodes: impl Iterator<Item = &'a Node>) -> Vec<(bool, Vec<&'a Outcome>)> {
    let outcomes = |node: &'a Node| node.outcomes.iter().filter(|o| !o.is_merged()).collect();
    let parts = nodes.filter(|node| node.step == name).map(|node| (node.weak, outcomes(node)));
    parts.filter(|(_, outcomes): &(_, Vec<_>)| !outcomes.is_empty()).collect()
}

/// With several targets, buildx puts the target's name into the brackets that a vertex's name
/// begins with, or before it in brackets of its own.
fn split(targets: &[String], name: &str) -> Option<(usize, String)> {
    if targets.len() == 1 {
        return Some((0, name.to_owned()));
    }
    targets.iter().enumerate().find_map(|(number, target)| {
        let rest = name.strip_prefix('[')?.strip_prefix(target.as_str())?;
        let own = rest.strip_prefix("] ").map(str::to_owned);
        let name = own.or_else(|| rest.strip_prefix(' ').map(|rest| format!("[{rest}")))?;
        Some((number, name))
    })
}

/// Steps have a number in their stage; fetching the base image is none that could be cached.
pub fn is_step(name: &str) -> bool {
    let inner = name.strip_prefix('[').and_then(|name| name.split_once("] "));
    inner.is_some_and(|(place, instruction)| {
        let number = place.rsplit_once(' ').map_or(place, |(_, number)| number);
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        number.split_once('/').is_some_and(|(n, of)| is_number(n) && is_number(of))
            && !instruction.starts_with("FROM ")
    })
}

/// Is a vertex of this name the reading of a cache's manifest?
pub fn is_import(name: &str) -> bool {
    name.starts_with(IMPORT)
}

/// Does `error` say that the registry has no cache `reference`? That is how every first build goes.
pub fn is_miss(reference: &str, error: &str) -> bool {
    error.ends_with(&format!("{reference}: not found"))
}

fn phase_of(name: &str) -> Phase {
    match name {
        name if is_import(name) => Phase::CacheImport,
        name if name.starts_with("exporting cache") => Phase::CacheExport,
        name if name.starts_with("pushing ") => Phase::Push,
        name if name.starts_with("exporting ") => Phase::ImageExport,
        name if name.starts_with("importing to ") => Phase::ImageExport,
        name if is_step(name) => Phase::Steps,
        _ => Phase::Context,
    }
}

/// Times of one moment, as they come twice, differ by rounding at most.
fn same(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6
}

/// Seconds that the spans cover together.
pub fn union(mut spans: Vec<(f64, f64)>) -> f64 {
    spans.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut sum, mut until) = (0.0, f64::MIN);
    for (from, to) in spans {
        sum += (to - from.max(until)).max(0.0);
        until = until.max(to);
    }
    sum
}

/// The parts of `span` that none of `holes` covers.
fn without(span: (f64, f64), mut holes: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    holes.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut parts, mut from) = (Vec::new(), span.0);
    for (start, end) in holes {
        if start > from {
            parts.push((from, start.min(span.1)));
        }
        from = from.max(end);
    }
    if from < span.1 {
        parts.push((from, span.1));
    }
    parts
}
