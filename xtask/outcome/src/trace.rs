//! What happened in one bake: which steps ran, how long all took, and how reading and writing caches went.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::cause::{self, Cause};
use crate::events::{self, decoded};
use crate::record::Step;
use crate::text;
use crate::vertex::{self, Phase};

/// How much of a step's output is kept, in bytes.
const OUTPUT_KEPT: usize = 8192;

/// Something that happened in a build.
pub enum Event {
    /// The node of this number has begun, or ended.
    Run(usize, Run),
    /// Output of the node of this number.
    Log(usize, String),
    /// Advice of `BuildKit`.
    Warning(String),
    /// A line that is no event, meant for people.
    Text(String),
}

/// A time from one moment to another, each in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub from: f64,
    pub to: f64,
}

/// Seconds that `spans` cover together.
pub fn covered(mut spans: Vec<Span>) -> f64 {
    spans.sort_by(|a, b| a.from.total_cmp(&b.from));
    let (mut sum, mut until) = (0.0, f64::MIN);
    for span in spans {
        sum += (span.to - span.from.max(until)).max(0.0);
        until = until.max(span.to);
    }
    sum
}

/// How a vertex went once. It may start several times, as to fetch a cached result.
#[derive(Clone, Debug)]
pub struct Run {
    pub started: f64,
    /// `None` while it runs, and where it was stopped.
    pub completed: Option<f64>,
    pub cached: bool,
    pub error: Option<String>,
}

impl Run {
    fn span(&self) -> Option<Span> {
        Some(Span { from: self.started, to: self.completed? })
    }

    /// True where it ended, and well.
    pub fn is_done(&self) -> bool {
        self.completed.is_some() && self.error.is_none()
    }

    /// `None` where it did not end.
    pub fn seconds(&self) -> Option<f64> {
        Some(self.completed? - self.started)
    }
}

/// A vertex of the build: a step, or other work that buildx reports like one.
#[derive(Debug, Default)]
pub struct Node {
    digest: String,
    /// Without the target's name.
    pub name: String,
    /// The step that it is a part of.
    pub step: String,
    /// In the order of time, without those that were given up.
    pub runs: Vec<Run>,
    /// The end of its output.
    pub output: Vec<u8>,
    /// Bytes that its parts have sent or fetched, and how many there are.
    pub parts: BTreeMap<String, (u64, u64)>,
}

impl Node {
    pub fn phase(&self) -> Phase {
        Phase::of(&self.name)
    }

    pub fn is_running(&self) -> bool {
        self.runs.last().is_some_and(|run| run.completed.is_none())
    }
}

/// Work that failed: the name of its vertex, why, and the end of its output.
#[derive(Clone, Debug)]
pub struct Failure {
    pub name: String,
    pub error: String,
    pub output: Vec<u8>,
}

impl Failure {
    pub fn cause(&self) -> Cause {
        let is_base = vertex::is_base(&self.name);
        // Its error begins with what the registry says.
        let is_push = Phase::of(&self.name) == Phase::Push;
        let error = if is_push { &format!("failed to push: {}", self.error) } else { &self.error };
        match Cause::of_step(error, &self.output) {
            // A base image is in no cache. Where only a layer is refused, its manifest was not.
            Cause::BrokenCache if is_base => match Cause::of_request(error) {
                Cause::Denied if vertex::base(&self.name).is_some() => Cause::Transient,
                Cause::Denied => Cause::NotFound,
                cause => cause,
            },
            // The login is wrong, not the name.
            Cause::Denied if error.contains("failed to fetch oauth token") => Cause::Denied,
            // Most registries say of an image that is not there that the user may not see it.
            Cause::Denied | Cause::NoRepository if is_base => Cause::NotFound,
            Cause::Step | Cause::MissingFile if vertex::is_trigger(&self.name) => Cause::Trigger,
            // What a server prints that does not start is not of this step's network.
            Cause::StepNetwork if self.is_check() => Cause::Step,
            cause => cause,
        }
    }

    /// What failed, and why: scripts end by a line `error: …`; other steps by the status of their command.
    pub fn describe(&self) -> String {
        let title = text::title(&self.name);
        let Some(end) = cause::step_end(&self.error) else {
            return format!("{title}: {}", self.error);
        };
        // Compilers write so as well, further up.
        let lines = text::last_lines(&self.output, 5);
        let reason = lines.iter().rev().find_map(|line| line.strip_prefix("error: "));
        reason.map_or(format!("{title} ended with {end}"), |reason| format!("{title}: {reason}"))
    }

    /// True where the server of the image was started to check it.
    pub fn is_check(&self) -> bool {
        self.name.starts_with("[check ")
    }
}

/// The events of one bake.
#[derive(Debug, Default)]
pub struct Trace {
    /// In the order in which they were reported first.
    pub nodes: Vec<Node>,
    /// What is baked, all of one image.
    pub targets: Vec<String>,
    /// The last error that buildx itself wrote.
    pub error: Option<String>,
}

impl Trace {
    /// Takes up an object or a line, and returns what people may see of it.
    pub fn add(&mut self, value: &Value) -> Vec<Event> {
        if let Some(line) = value.as_str() {
            let error = line.strip_prefix("ERROR: ").map(str::to_owned);
            self.error = error.or(self.error.take());
            return vec![Event::Text(line.to_owned())];
        }
        let list = |key: &str| value[key].as_array().into_iter().flatten();
        let (ended, others): (Vec<_>, Vec<_>) =
            list("vertexes").partition(|vertex| vertex["completed"].is_string());
        let mut seen: Vec<_> = others.into_iter().filter_map(|v| self.add_vertex(v)).collect();
        for status in list("statuses") {
            let Some((_, node)) = self.node(&status["vertex"]) else { continue };
            let id = status["id"].as_str().unwrap_or_default();
            if let Some(done) = status["current"].as_u64() {
                let all = status["total"].as_u64().unwrap_or_default();
                node.parts.insert(id.to_owned(), (done, all));
            }
            // An image is pushed within its export.
            let run = events::run(status).filter(|run| run.completed.is_some());
            if let Some(run) = run.filter(|_| id.starts_with("pushing ")) {
                self.nodes.push(Node { name: id.to_owned(), runs: vec![run], ..Node::default() });
            }
        }
        for log in list("logs") {
            let Some((place, node)) = self.node(&log["vertex"]) else { continue };
            let text = decoded(&log["data"]);
            node.output.extend(text.as_bytes());
            node.output.drain(..node.output.len().saturating_sub(OUTPUT_KEPT));
            seen.push(Event::Log(place, text));
        }
        seen.extend(list("warnings").map(|value| Event::Warning(decoded(&value["short"]))));
        // Work that ends does so after its parts.
        seen.extend(ended.into_iter().filter_map(|vertex| self.add_vertex(vertex)));
        seen
    }

    /// The node of that digest, and its number.
    fn node(&mut self, digest: &Value) -> Option<(usize, &mut Node)> {
        self.nodes.iter_mut().enumerate().find(|(_, node)| node.digest == *digest)
    }

    fn add_vertex(&mut self, vertex: &Value) -> Option<Event> {
        let digest = &vertex["digest"];
        if self.node(digest).is_none() {
            let own = |name: &str| vertex::without_target(&self.targets, name);
            let name = vertex["name"].as_str()?;
            self.nodes.push(Node {
                digest: digest.as_str()?.to_owned(),
                name: own(name),
                step: own(vertex["progressGroup"]["name"].as_str().unwrap_or(name)),
                ..Node::default()
            });
        }
        let (place, node) = self.node(digest)?;
        let run = events::run(vertex)?;
        // Events may repeat a time, with another rounding.
        node.runs.retain(|known| (known.started - run.started).abs() > 1e-6);
        // An equal step of another target may do the work.
        if run.error.as_deref().map(Cause::of) == Some(Cause::Canceled) {
            return None;
        }
        node.runs.push(run.clone());
        node.runs.sort_by(|a, b| a.started.total_cmp(&b.started));
        Some(Event::Run(place, run))
    }

    /// Bytes that were sent to the builder as Dockerfile and context; `None` where no event reported any.
    pub fn context_bytes(&self) -> Option<u64> {
        let parts = self.nodes.iter().flat_map(|node| &node.parts);
        let sent = parts.filter(|(id, _)| id.starts_with("transferring "));
        sent.map(|(_, (bytes, _))| *bytes).reduce(|sum, bytes| sum + bytes)
    }

    /// The steps in the order in which they started.
    pub fn steps(&self) -> Vec<Step> {
        let names = self.nodes.iter().map(|node| &node.step);
        let mut seen = BTreeSet::new();
        let names = names.filter(|name| Phase::of(name) == Phase::Steps && seen.insert(*name));
        let step = |name: &String| {
            let parts = self.nodes.iter().filter(|node| node.step == *name);
            let parts = parts.filter(|node| !node.runs.is_empty()).collect::<Vec<_>>();
            let runs = || parts.iter().flat_map(|part| &part.runs);
            let error = runs().find_map(|run| run.error.clone());
            let spans = runs().map(Run::span).collect::<Option<Vec<_>>>();
            let is_known = !parts.is_empty() && error.is_none();
            // The part of another name, LINK of COPY --link, is run for each base.
            let mut own = parts.iter().filter(|part| part.name == *name);
            Step {
                name: name.clone(),
                // A result that is cached may still have to be fetched, which is a run of its own.
                cached: is_known.then(|| own.all(|part| part.runs.iter().any(|run| run.cached))),
                seconds: spans.filter(|spans| !spans.is_empty()).map(covered),
                started: runs().map(|run| run.started).min_by(f64::total_cmp),
                error,
            }
        };
        let mut steps = names.map(step).collect::<Vec<_>>();
        let start = |step: &Step| step.started.unwrap_or(f64::MAX);
        steps.sort_by(|a, b| start(a).total_cmp(&start(b)));
        steps
    }

    /// When the bake was in one of `phases`.
    pub fn spans(&self, phases: &[Phase]) -> Vec<Span> {
        let nodes = self.nodes.iter().filter(|node| phases.contains(&node.phase()));
        nodes.flat_map(|node| &node.runs).filter_map(Run::span).collect()
    }

    /// The caches that were asked for, each with how that went.
    pub fn imports(&self) -> impl Iterator<Item = (&str, &Run)> {
        self.nodes.iter().filter_map(|node| vertex::cache(&node.name).zip(node.runs.last()))
    }

    /// The caches that were read without an error, by the names that buildx uses.
    pub fn hits(&self) -> BTreeSet<String> {
        let hits = self.imports().filter(|(_, run)| run.error.is_none());
        hits.map(|(name, _)| name.to_owned()).collect()
    }

    /// The base images, each with its digest.
    pub fn bases(&self) -> BTreeMap<String, String> {
        let bases = self.nodes.iter().filter_map(|node| vertex::base(&node.name)?.split_once('@'));
        bases.map(|(reference, digest)| (reference.to_owned(), digest.to_owned())).collect()
    }

    /// The caches that the bake waits for; empty if it waits for something else as well.
    pub fn awaited(&self) -> BTreeSet<String> {
        let running = self.nodes.iter().filter(|node| node.is_running());
        let caches = running.map(|node| vertex::cache(&node.name).map(str::to_owned));
        caches.collect::<Option<_>>().unwrap_or_default()
    }

    /// The name of what was still done.
    pub fn pending(&self) -> Option<&str> {
        self.nodes.iter().find(|node| node.is_running()).map(|node| node.name.as_str())
    }

    /// How each export of an image, or of a cache, went.
    pub fn exports(&self, phase: Phase) -> impl Iterator<Item = &Run> + Clone {
        let nodes = self.nodes.iter().filter(move |node| node.phase() == phase);
        nodes.filter_map(|node| node.runs.last())
    }

    /// What failed first. A cache never does.
    pub fn failure(&self) -> Option<Failure> {
        let is_cache = |phase| matches!(phase, Phase::CacheImport | Phase::CacheExport);
        self.nodes.iter().filter(|node| !is_cache(node.phase())).find_map(|node| {
            let error = node.runs.iter().find_map(|run| run.error.clone())?;
            Some(Failure { name: node.name.clone(), error, output: node.output.clone() })
        })
    }
}

/// The steps of an image over all its bakes: each as it was in the bake that ran it, else in the first.
pub fn steps(traces: &[Trace]) -> Vec<Step> {
    let mut all: Vec<Step> = Vec::new();
    for step in traces.iter().flat_map(Trace::steps) {
        let has_run = step.cached == Some(false) && step.error.is_none();
        match all.iter_mut().find(|known| known.name == step.name) {
            Some(known) if has_run || known.cached.is_none() => *known = step,
            Some(_) => {}
            None => all.push(step),
        }
    }
    all
}
