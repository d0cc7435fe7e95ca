//! Shows people what a build does: at a terminal the steps that run, with their times; elsewhere
//! a line whenever something begins or ends, in the words of buildx's own plain progress.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::ended::Batch;
use super::screen::Screen;
use super::text::{self, Lines};
use crate::image::build::buildkit::{self, Cause, Vertex};
use crate::image::build::buildx::Watcher;
use crate::image::build::events::{Event, Log, Status, VertexEvent};
use crate::image::plan::bake_file::{BakeFile, image_name};
use crate::image::request::{Request, Style};
use base::message;
use base::output;
use base::process;

/// Work that is no step, and parts of work, are shown where they took so many seconds.
const LONG: f64 = 1.0;

/// How long a log may stay silent.
const SILENCE: Duration = Duration::from_secs(60);

/// How many lines of its output are kept of work that may fail.
const LAST_LINES: usize = 30;

/// A step, or other work of a build.
struct Work {
    number: usize,
    name: String,
    /// Whether it is a step that was announced before it began, so that it can be counted.
    is_planned: bool,
    started: Option<Instant>,
    /// When it began, by buildx's clock.
    began: Option<f64>,
    ended: bool,
    /// The last lines of its output.
    output: VecDeque<String>,
    /// Output without the end of its line.
    lines: Lines,
    /// Bytes of what it sends or fetches: how many are done, and how many there are.
    parts: BTreeMap<String, (u64, u64)>,
}

impl Work {
    fn new(number: usize, name: &str, vertex: &VertexEvent) -> Self {
        Work {
            number,
            name: text::step(&message::one_line(name)),
            is_planned: vertex.started.is_none() && Vertex::of(name) == Vertex::Step,
            started: None,
            began: None,
            ended: false,
            output: VecDeque::new(),
            lines: Lines::default(),
            parts: BTreeMap::new(),
        }
    }

    /// The last line of its output, or how much it has sent or fetched.
    fn state(&self) -> Option<String> {
        let done = self.parts.values().map(|(done, _)| done).sum();
        let all = self.parts.values().map(|(_, all)| all).sum();
        let bytes = || format!("{} of {}", text::bytes(done), text::bytes(all));
        self.output.back().cloned().or_else(|| (all > 0).then(bytes))
    }

    fn seconds(&self) -> f64 {
        self.started.map_or(0.0, |started| started.elapsed().as_secs_f64())
    }

    fn is_running(&self) -> bool {
        self.started.is_some() && !self.ended
    }
}

/// Progress on standard error.
pub struct Progress {
    /// `None` where lines are written, and nothing is drawn again.
    screen: Option<Screen>,
    /// When the last line was written; `None` where something else shows that the build runs.
    spoke: Option<Instant>,
    /// Whether the steps have been shown already, by an earlier bake.
    steps_were_shown: bool,
    /// By the digest of the vertex.
    works: HashMap<String, Work>,
    /// How many steps have begun, of those that were announced.
    counted: usize,
    begun: Instant,
    has_failed: bool,
    /// How far the run was when this bake began, where nothing is printed of single steps because
    /// there are many images.
    batch: Option<Batch>,
    /// How many images this bake builds.
    images: usize,
    /// The bake's targets, where they are all of one image, which then nothing needs to name.
    parts: Vec<String>,
}

impl Watcher for Progress {
    fn show(&mut self, event: &Event) {
        match event {
            Event::Vertex(vertex) => self.vertex(vertex),
            Event::Status(status) => self.status(status),
            Event::Log(log) => self.log(log),
            // Of the Dockerfile, which the bake before this one read, too.
            Event::Warning(_) if self.steps_were_shown => {}
            Event::Warning(warning) => {
                self.erase();
                self.heard();
                message::warn(warning);
            }
            // What buildx writes after a failure is that failure once more, with other lines of
            // the Dockerfile. Nor has it a reason of its own where it was stopped.
            Event::Text(_) if self.has_failed || process::caught().is_some() => {}
            Event::Text(text) => self.whole(&format!("buildx: {}", message::one_line(text))),
        }
    }

    fn tick(&mut self) {
        if let Some(text) = self.heartbeat(Instant::now()) {
            self.whole(&text);
        }
        let Some(room) = self.screen.as_ref().and_then(Screen::room) else { return };
        let lines = self.frame(room);
        if let Some(screen) = &mut self.screen {
            screen.draw(&lines);
        }
    }

    /// Leaves the terminal as it was, with what has ended above.
    fn end(&mut self) {
        let works = self.works.iter().filter(|(_, work)| work.is_running());
        for digest in works.map(|(digest, _)| digest.clone()).collect::<Vec<_>>() {
            self.last_line(&digest);
        }
        self.works.values_mut().for_each(|work| work.ended = true);
        self.erase();
    }
}

impl Progress {
    /// Watches the bake of `file` for `request`, which is so far if it is a batch.
    pub fn watch(request: &Request, file: &BakeFile, batch: Batch) -> Box<dyn Watcher> {
        // The log of a CI job keeps every frame that a terminal would draw over.
        let is_drawn = request.progress == Style::Auto && !request.ci;
        let screen = if is_drawn { Screen::of_stderr() } else { None };
        let is_silent = screen.is_none() && !matches!(request.progress, Style::Buildx(_));
        let images = file.targets.iter().map(|target| image_name(target));
        let images = images.collect::<BTreeSet<_>>().len();
        Box::new(Progress {
            screen,
            spoke: is_silent.then(Instant::now),
            steps_were_shown: file.steps_were_shown,
            works: HashMap::new(),
            counted: 0,
            begun: Instant::now(),
            has_failed: false,
            batch: (request.is_batch() && request.progress == Style::Auto).then_some(batch),
            // Those of a bake of caches are done.
            images: batch.left.min(images),
            parts: if images == 1 { file.targets.clone() } else { Vec::new() },
        })
    }

    /// What runs, and how long it has, if nothing was written for too long before `now`.
    fn heartbeat(&self, now: Instant) -> Option<String> {
        self.spoke.filter(|&spoke| now.saturating_duration_since(spoke) >= SILENCE)?;
        if let Some(batch) = &self.batch {
            return Some(self.batch_line(batch));
        }
        let running = self.works.values().filter(|work| work.is_running());
        let first = running.clone().min_by_key(|work| work.started);
        let (name, since) = match first {
            Some(work) => (work.name.as_str(), work.started.unwrap_or(now)),
            None => ("docker buildx bake", self.begun),
        };
        let minutes = now.saturating_duration_since(since).as_secs() / 60;
        let more = match running.count() {
            0 | 1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        Some(format!("still running: {name} ({minutes} min){more}"))
    }

    /// How far a batch is, and the step that has run longest.
    fn batch_line(&self, batch: &Batch) -> String {
        let running = self.works.values().filter(|work| work.is_running());
        let slowest = running.min_by_key(|work| (work.started, work.number));
        let slowest = slowest.map(|work| format!("; {:.0} s {}", work.seconds(), work.name));
        batch.line(self.images) + &slowest.unwrap_or_default()
    }

    /// The lines to draw, `room` at most: each work with its last output below it, or beside it
    /// where there are too many.
    fn frame(&self, room: usize) -> Vec<String> {
        if let Some(batch) = &self.batch {
            return vec![self.batch_line(batch)];
        }
        let mut running = self.works.values().filter(|work| work.is_running()).collect::<Vec<_>>();
        running.sort_by_key(|work| (work.started, work.number));
        let what = match running.len() {
            0 => "waiting for the builder".to_owned(),
            count => format!("{count} running"),
        };
        let is_below = 2 * running.len() < room;
        let mut lines = vec![format!("[+] {:.1}s, {what}", self.begun.elapsed().as_secs_f64())];
        for work in running.into_iter().take(room - 1) {
            let line = format!(" => {:>6.1}s {}", work.seconds(), work.name);
            match work.state() {
                Some(state) if is_below => {
                    lines.extend([line, format!("{:12}{}", "", state.trim_start())]);
                }
                state => lines.push(format!("{line}  {}", state.unwrap_or_default())),
            }
        }
        lines
    }

    fn vertex(&mut self, vertex: &VertexEvent) {
        let number = self.works.len() + 1;
        let work = self.works.entry(vertex.digest.clone());
        let work = work.or_insert_with(|| {
            let own = buildkit::split_target(&self.parts, &vertex.name);
            Work::new(number, own.as_ref().map_or(&vertex.name, |own| &own.name), vertex)
        });
        // While a result is fetched, buildx reports that as if it were the same vertex.
        let is_part = work.began.is_some() && work.began != vertex.started;
        if work.ended || vertex.started.is_none() || is_part {
            return;
        }
        work.began = vertex.started;
        let begins = work.started.is_none();
        work.started.get_or_insert_with(Instant::now);
        work.ended = vertex.completed.is_some();
        if begins {
            self.count(&vertex.digest);
        }
        let Some(work) = self.works.get(&vertex.digest) else { return };
        let (number, name) = (work.number, work.name.clone());
        let seconds = vertex.completed.map(|end| end - vertex.started.unwrap_or(end));
        let hidden = if self.steps_were_shown {
            !buildkit::is_delivery(&vertex.name)
        } else {
            buildkit::is_internal(&vertex.name)
        };
        let error = vertex.error.as_deref();
        let is_bad = error.is_some_and(|error| !buildkit::is_missing_cache(&vertex.name, error));
        if hidden && !is_bad && seconds.is_none_or(|seconds| seconds < LONG) {
            return;
        }
        if self.screen.is_none() && (begins || hidden) {
            self.line(&format!("#{number} {name}"));
        }
        if let Some(seconds) = seconds {
            self.last_line(&vertex.digest);
            self.end_work(vertex, seconds);
        }
    }

    /// Names a step that begins by its place among all that were announced.
    fn count(&mut self, digest: &str) {
        let all = self.works.values().filter(|work| work.is_planned).count();
        if let Some(work) = self.works.get_mut(digest).filter(|work| work.is_planned) {
            self.counted += 1;
            work.name = text::counted(&work.name, self.counted, all);
        }
    }

    /// Shows how work of so many seconds ended.
    fn end_work(&mut self, vertex: &VertexEvent, seconds: f64) {
        let Some(work) = self.works.get_mut(&vertex.digest) else { return };
        let (number, name) = (work.number, work.name.clone());
        let output = std::mem::take(&mut work.output);
        let end = match vertex.error.as_deref() {
            // An equal step of another target does the work.
            Some(error) if Cause::of(error) == Cause::Canceled => "CANCELED",
            Some(error) if buildkit::is_missing_cache(&vertex.name, error) => "MISS",
            Some(error) => {
                self.has_failed |= !buildkit::is_cache(&vertex.name);
                return self.fail(number, &name, output, error);
            }
            None if vertex.cached => "CACHED",
            None => &format!("DONE {seconds:.1}s"),
        };
        if self.screen.is_none() {
            self.line(&format!("#{number} {end}"));
        } else if end != "CANCELED" {
            self.line(&format!("=> {end:<11} {name}"));
        }
    }

    /// Shows that work failed, at a terminal with the last lines of its output.
    fn fail(&mut self, number: usize, name: &str, output: VecDeque<String>, error: &str) {
        if self.batch.is_some() {
            return;
        }
        if self.screen.is_none() {
            return self.line(&format!("#{number} ERROR: {error}"));
        }
        for line in output {
            self.whole(&format!("   {line}"));
        }
        self.line(&format!("=> {:<11} {name}", "ERROR"));
        self.whole(&format!("   {}", text::shortened(error)));
    }

    fn status(&mut self, status: &Status) {
        if let (Some(done), Some(all)) = (status.current, status.total)
            && let Some(work) = self.works.get_mut(&status.vertex)
        {
            work.parts.insert(status.id.clone(), (done, all));
        }
        if self.screen.is_none()
            && let (Some(started), Some(completed)) = (status.started, status.completed)
            && completed - started >= LONG
            && let Some(work) = self.works.get(&status.vertex)
        {
            let (number, id) = (work.number, message::one_line(&status.id));
            self.line(&format!("#{number} {id} {:.1}s done", completed - started));
        }
    }

    fn log(&mut self, log: &Log) {
        let Some(work) = self.works.get_mut(&log.vertex) else { return };
        let mut lines = work.lines.add(log.text.as_bytes());
        // Output can arrive after the end of its step.
        if work.ended {
            lines.extend(work.lines.end());
        }
        self.output(&log.vertex, &lines);
    }

    /// Shows the last line of a step's output, whose end is missing.
    fn last_line(&mut self, digest: &str) {
        let last = self.works.get_mut(digest).and_then(|work| work.lines.end());
        self.output(digest, last.as_slice());
    }

    fn output(&mut self, digest: &str, lines: &[String]) {
        let Some(work) = self.works.get_mut(digest) else { return };
        let (number, seconds) = (work.number, work.seconds());
        work.output.extend(lines.iter().cloned());
        let surplus = work.output.len().saturating_sub(LAST_LINES);
        work.output.drain(..surplus);
        if self.screen.is_none() {
            for line in lines {
                self.line(&format!("#{number} {seconds:.3} {line}"));
            }
        }
    }

    /// Prints a line that may be cut.
    fn line(&mut self, line: &str) {
        if self.batch.is_some() {
            return;
        }
        self.heard();
        match &mut self.screen {
            Some(screen) => screen.print(line),
            None => output::note(text::shortened(line)),
        }
    }

    /// Prints a text that has to be read whole; a log keeps its beginning and its end.
    fn whole(&mut self, text: &str) {
        self.heard();
        match &mut self.screen {
            Some(screen) => screen.print_whole(text),
            None => output::note(text::shortened(text)),
        }
    }

    /// Notes that a line is written.
    fn heard(&mut self) {
        self.spoke = self.spoke.map(|_| Instant::now());
    }

    fn erase(&mut self) {
        if let Some(screen) = &mut self.screen {
            screen.erase();
        }
    }
}

#[cfg(test)]
#[path = "../../../../tests/unit/progress.rs"]
mod tests;
