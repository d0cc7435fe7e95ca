//! What people see of a run while it goes on. The log of each image has everything.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use base::{message, output, process, status};

use crate::build::{Ctx, Ended};
use outcome::cause;
use outcome::text::{self, LONGEST, Lines};
use outcome::trace::{Event, Node, Trace};
use outcome::vertex::{self, Phase};
use request::plan::Image;

/// How many lines are drawn at most.
const MOST: usize = 13;

/// How the bakes of an image are shown, one after the other.
pub struct Watch<'a> {
    pub ctx: &'a Ctx<'a>,
    pub image: &'a Image,
    pub log: Option<File>,
    /// True for steps that run ahead of their image: they are shown nowhere, and end with the run.
    pub is_ahead: bool,
    /// True where every line is shown.
    is_plain: bool,
    is_terminal: bool,
    /// The nodes of this bake that began: when, by this machine's clock, and the rest of their output.
    begun: BTreeMap<usize, (Instant, Lines)>,
    /// The steps that have ended.
    ended: BTreeSet<String>,
}

impl<'a> Watch<'a> {
    pub fn new(ctx: &'a Ctx<'a>, image: &'a Image) -> Self {
        let is_plain = ctx.args.progress.as_deref() == Some("plain");
        Watch {
            ctx,
            image,
            log: None,
            is_ahead: false,
            is_plain,
            // In the log of a CI job every frame of a terminal would stay.
            is_terminal: status::is_terminal() && !is_plain && !ctx.args.ci,
            begun: BTreeMap::new(),
            ended: BTreeSet::new(),
        }
    }

    /// Notes that a node has begun, once.
    fn begin(&mut self, place: usize, trace: &Trace) {
        if let Entry::Vacant(begun) = self.begun.entry(place) {
            begun.insert((Instant::now(), Lines::default()));
            let title = text::title(&trace.nodes[place].name);
            self.log(&format!("#{} {title}", place + 1), false);
        }
    }

    /// Shows an event that `trace` has taken up: to the log always; to people steps that ran, once.
    pub fn show(&mut self, event: &Event, trace: &Trace) {
        if self.is_ahead && !matches!(event, Event::Log(..)) {
            return;
        }
        match event {
            Event::Log(place, text) => {
                // One message may hold a step's start, output and end.
                self.begin(*place, trace);
                let rest = self.begun.get_mut(place);
                for line in rest.map(|(_, rest)| rest.add(text.as_bytes())).unwrap_or_default() {
                    self.log(&format!("#{} {line}", place + 1), false);
                    line.strip_prefix("warning: ").inspect(|warning| warn_once(self.ctx, warning));
                }
            }
            Event::Warning(warning) => warn_once(self.ctx, warning),
            // What buildx writes after a failure is that failure once more, or that it was stopped.
            Event::Text(_) if trace.failure().is_some() || process::caught().is_some() => {}
            Event::Text(text) => self.log(&format!("buildx: {}", message::one_line(text)), true),
            Event::Run(place, run) => {
                let (number, node) = (place + 1, &trace.nodes[*place]);
                self.begin(*place, trace);
                if run.completed.is_none() {
                    return;
                }
                let rest = self.begun.get_mut(place).and_then(|(_, rest)| rest.end());
                rest.inspect(|line| self.log(&format!("#{number} {line}"), false));
                let seconds = run.seconds().unwrap_or_default();
                let cache = vertex::cache(&node.name);
                let end = match run.error.as_deref() {
                    Some(e) if cache.is_some_and(|c| cause::is_miss(c, e)) => "MISS".to_owned(),
                    Some(error) => format!("ERROR: {error}"),
                    None if run.cached => "CACHED".to_owned(),
                    None => format!("DONE {seconds:.1}s"),
                };
                self.log(&format!("#{number} {end}"), false);
                // A step of several parts, such as COPY --link, is shown when the last one has ended.
                let mut parts = trace.nodes.iter().filter(|other| other.step == node.step);
                if run.error.is_none()
                    && !(self.ctx.is_batch() || self.is_plain)
                    && Phase::of(&node.step) == Phase::Steps
                    && parts.all(|part| part.runs.last().is_some_and(|r| r.completed.is_some()))
                    && self.ended.insert(node.step.clone())
                    && !run.cached
                    && seconds >= 0.05
                {
                    let (number, all) = (self.ended.len(), trace.steps().len());
                    let title = text::title(&node.step);
                    message::say(&format!("=> {end:<11} [{number}/{all}] {title}"));
                }
            }
        }
    }

    /// Adds a line to the log, which people see as well if it `is_shown`, or they want every line.
    fn log(&self, line: &str, is_shown: bool) {
        // A log that can't be written, as on a full disk, costs nothing else.
        if let Some(mut log) = self.log.as_ref() {
            let _ = writeln!(log, "{}", message::one_line(line));
        }
        if is_shown || self.is_plain {
            output::note(text::shortened(line, LONGEST));
        }
    }

    /// Draws what runs, or says so where nothing was said for too long. Is called every few milliseconds.
    pub fn tick(&self, trace: &Trace) {
        let is_batch = self.ctx.is_batch();
        // A batch has a line for each image anyway.
        let silence = Duration::from_secs(if is_batch { 60 } else { 10 });
        if self.is_ahead || !status::is_due(self.is_terminal, silence) {
            return;
        }
        let begun = self.begun.iter();
        let begun = begun.filter_map(|(place, (at, _))| Some((*at, trace.nodes.get(*place)?)));
        let mut running = begun.filter(|(_, node)| node.is_running()).collect::<Vec<_>>();
        running.sort_by_key(|(begun, _)| *begun);
        let waiting = "waiting for the builder".to_owned();
        let (head, room) = if is_batch {
            let what = running.first().map_or(waiting, |(_, node)| text::title(&node.name));
            let (run, images) = (self.ctx.run(), self.ctx.images.len());
            let (ended, failed, count) = (run.ended.len(), run.failed(), run.running);
            let done = ended - failed;
            let mut line = format!("{done} of {images} done, {failed} failed, {count} running");
            let is_built = |ended: &&Ended| ended.record.attempts.is_some();
            if let built @ 1.. = run.ended.values().filter(is_built).count() as u64 {
                let left = self.ctx.started.elapsed().as_secs() * (images - ended) as u64 / built;
                line += &format!("; {} min left", left / 60);
            }
            (format!("{line}; {}: {what}", self.image.shown), 0)
        } else {
            let count = running.len();
            let what = if count > 0 { format!("{count} running") } else { waiting };
            let (seconds, done) = (self.ctx.started.elapsed().as_secs_f64(), self.ended.len());
            let rows = process::terminal_size().map_or(24, |(_, rows)| rows);
            let room = if self.is_terminal { MOST.min(rows - 1).max(2) - 1 } else { 1 };
            (format!("[+] {seconds:.1}s, {done} done, {what}"), room)
        };
        let mut lines = vec![head];
        lines.extend(running.iter().take(room).map(|(begun, node)| node_line(*begun, node)));
        if is_batch || !self.is_terminal {
            lines = vec![text::shortened(&lines.concat(), columns().min(100))];
        }
        status::show(&lines, self.is_terminal);
    }

    /// Ends a bake.
    pub fn end(&mut self) {
        status::clear();
        self.begun.clear();
    }
}

/// A node that runs since `begun`, and its last output or how much it has sent or fetched.
fn node_line(begun: Instant, node: &Node) -> String {
    let sized = node.parts.values().filter(|(_, all)| *all > 0);
    let (done, all) = sized.fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    let last = text::last_lines(&node.output, 1);
    let state = match last.first() {
        Some(line) => line.trim().to_owned(),
        None if all > 0 => format!("{} of {}", text::bytes(done), text::bytes(all)),
        None => String::new(),
    };
    let (seconds, title) = (begun.elapsed().as_secs_f64(), text::title(&node.name));
    let title = message::cut(&title, columns() / 2);
    format!(" => {seconds:>5.1}s {title}  {state}").trim_end().to_owned()
}

/// Shows a warning that many images may have, and each of their bakes.
pub fn warn_once(ctx: &Ctx, text: &str) {
    if ctx.run().warned.insert(text.to_owned()) {
        warn(text);
    }
}

/// Shows a warning, cut to a line of a log.
pub fn warn(text: &str) {
    message::warn(&text::shortened(text, LONGEST));
}

/// How long a line for people may be. In the last column, some terminals begin the next line.
pub fn columns() -> usize {
    process::terminal_size().map_or(LONGEST, |(columns, _)| (columns - 1).clamp(40, LONGEST))
}
