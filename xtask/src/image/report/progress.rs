//! Shows people what a build does: at a terminal the steps that run, with their times; elsewhere
//! a line whenever something begins or ends, in the words of buildx's own plain progress.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::image::build::buildkit::{Event, Log, Status, Vertex};
use crate::image::build::observer::{Observer, Watcher};
use crate::image::build::trace::is_miss;
use crate::image::request::{Request, Style};
use crate::process;

/// How often the steps that run are drawn again.
const REDRAW: Duration = Duration::from_millis(100);
/// How many lines of its output are shown of a step that failed.
const LAST_LINES: usize = 30;
/// How many of the steps that run are shown.
const SHOWN: usize = 12;

/// Work that is no step, and parts of work, are shown where they took so many seconds.
const LONG: f64 = 1.0;

/// Who watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Terminal,
    Lines,
}

/// Work that has been told of.
struct Work {
    number: usize,
    name: String,
    started: Option<Instant>,
    /// When it began, as buildx has it.
    began: Option<f64>,
    ended: bool,
    /// The last lines of its output.
    output: Vec<String>,
    /// Output that has no end of line yet.
    rest: String,
}

/// Progress on standard error.
pub struct Progress {
    view: View,
    /// Whether a CI job shows what is written.
    in_ci: bool,
    /// Whether the steps have been shown already, by an earlier bake.
    is_export: bool,
    works: HashMap<String, Work>,
    /// How many lines at the bottom of the terminal are to be drawn again.
    drawn: usize,
    last_draw: Option<Instant>,
    begun: Instant,
}

impl Observer for Request {
    fn warn(&self, text: &str) {
        eprintln!("{}", warning_line(self.ci, text));
    }

    fn say(&self, text: &str) {
        eprintln!("{text}");
    }

    fn watch(&self, is_export: bool) -> Box<dyn Watcher> {
        Box::new(Progress::new(self.progress == Style::Plain, self.ci, is_export))
    }
}

impl Watcher for Progress {
    fn show(&mut self, event: &Event) {
        self.show_event(event);
    }

    fn tick(&mut self) {
        let is_due = self.last_draw.is_none_or(|last| last.elapsed() >= REDRAW);
        if self.view == View::Terminal && is_due {
            self.last_draw = Some(Instant::now());
            self.draw();
        }
    }

    /// Leaves the terminal as it was, with what has ended above.
    fn end(&mut self) {
        for work in self.works.values_mut() {
            work.ended = true;
        }
        self.erase();
    }
}

impl Progress {
    /// `plain` asks for lines on a terminal too; of an export, only that is shown.
    pub fn new(plain: bool, in_ci: bool, is_export: bool) -> Self {
        let terminal = io::stderr().is_terminal() && process::terminal_size().is_some();
        Progress {
            view: if terminal && !plain { View::Terminal } else { View::Lines },
            in_ci,
            is_export,
            works: HashMap::new(),
            drawn: 0,
            last_draw: None,
            begun: Instant::now(),
        }
    }

    fn show_event(&mut self, event: &Event) {
        match event {
            Event::Vertex(vertex) => self.vertex(vertex),
            Event::Status(status) => self.status(status),
            Event::Log(log) => self.log(log),
            Event::Warning(warning) => {
                let text = one_line(&warning.text);
                self.line(&warning_line(self.in_ci, &text));
            }
            Event::Text(text) => self.line(text),
        }
    }

    fn vertex(&mut self, vertex: &Vertex) {
        let number = self.works.len() + 1;
        let work = self.works.entry(vertex.digest.clone()).or_insert_with(|| Work {
            number,
            name: one_line(&vertex.name),
            started: None,
            began: None,
            ended: false,
            output: Vec::new(),
            rest: String::new(),
        });
        // While a result is fetched, that is told of as if it were the same vertex again.
        let is_part = work.began.is_some() && work.began != vertex.started;
        if work.ended || vertex.started.is_none() || is_part {
            return;
        }
        work.began = vertex.started;
        let (number, name) = (work.number, work.name.clone());
        let begins = work.started.is_none();
        work.started.get_or_insert_with(Instant::now);
        work.ended = vertex.completed.is_some();
        let seconds = vertex.completed.map(|end| end - vertex.started.unwrap_or(end));
        let hidden = if self.is_export { !is_export(&name) } else { is_internal(&name) };
        let is_bad = vertex.error.is_some() && !is_missing(vertex);
        if hidden && !is_bad && seconds.is_none_or(|seconds| seconds < LONG) {
            return;
        }
        if self.view == View::Lines && (begins || hidden) {
            self.line(&format!("#{number} {name}"));
        }
        let Some(seconds) = seconds else { return };
        let how = match &vertex.error {
            // Another target's equal step does the work.
            Some(error) if error.contains("context canceled") => "CANCELED".to_owned(),
            Some(_) if is_missing(vertex) => "MISS".to_owned(),
            Some(error) => format!("ERROR: {}", one_line(error)),
            None if vertex.cached => "CACHED".to_owned(),
            None => format!("DONE {seconds:.1}s"),
        };
        self.end_work(&vertex.digest, number, &name, &how);
    }

    fn end_work(&mut self, digest: &str, number: usize, name: &str, how: &str) {
        if self.view == View::Lines {
            return self.line(&format!("#{number} {how}"));
        }
        let work = self.works.get_mut(digest);
        let output = work.map(|work| std::mem::take(&mut work.output)).unwrap_or_default();
        if how.starts_with("ERROR") {
            for line in output {
                self.line(&format!("   {line}"));
            }
        }
        let name = without_mounts(name);
        match how.strip_prefix("ERROR: ") {
            Some(error) => self.line(&format!("=> ERROR       {name}\n   {error}")),
            None if how == "CANCELED" => {}
            None => self.line(&format!("=> {how:<11} {name}")),
        }
    }

    fn status(&mut self, status: &Status) {
        if self.view == View::Lines
            && let (Some(started), Some(completed)) = (status.started, status.completed)
            && completed - started >= LONG
            && let Some(work) = self.works.get(&status.vertex)
        {
            let (number, id) = (work.number, one_line(&status.id));
            self.line(&format!("#{number} {id} {:.1}s done", completed - started));
        }
    }

    fn log(&mut self, log: &Log) {
        let Some(work) = self.works.get_mut(&log.vertex) else { return };
        let seconds = work.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
        let number = work.number;
        work.rest.push_str(&log.text);
        let mut lines = Vec::new();
        while let Some(end) = work.rest.find('\n') {
            let line = one_line(work.rest[..end].trim_end_matches('\r'));
            work.rest.drain(..=end);
            if work.output.len() == LAST_LINES {
                work.output.remove(0);
            }
            work.output.push(line.clone());
            lines.push(line);
        }
        if self.view == View::Lines {
            for line in lines {
                self.line(&format!("#{number} {seconds:.3} {line}"));
            }
        }
    }

    fn draw(&mut self) {
        let (columns, rows) = process::terminal_size().unwrap_or((80, 24));
        let mut running = self.works.values().filter(|work| work.started.is_some() && !work.ended);
        let mut running = running.by_ref().collect::<Vec<_>>();
        running.sort_by_key(|work| work.number);
        let room = SHOWN.min(rows.saturating_sub(2)).max(1);
        let mut lines = vec![format!("[+] {:.1}s, {} running", secs(self.begun), running.len())];
        for work in running.iter().take(room) {
            let seconds = work.started.map_or(0.0, secs);
            let said = work.output.last().map(|said| format!("  {said}")).unwrap_or_default();
            lines.push(format!(" => {seconds:>6.1}s {}{said}", without_mounts(&work.name)));
        }
        self.erase();
        for line in &lines {
            let cut = line.chars().take(columns.saturating_sub(1)).collect::<String>();
            // Standard error that is gone is noticed elsewhere, or by nobody.
            let _ = writeln!(io::stderr(), "{cut}");
        }
        self.drawn = lines.len();
    }

    fn erase(&mut self) {
        if self.drawn > 0 {
            let _ = write!(io::stderr(), "\x1b[{}A\x1b[0J", self.drawn);
            self.drawn = 0;
        }
    }

    fn line(&mut self, line: &str) {
        self.erase();
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Is this part of every build, and of no interest while it works?
fn is_internal(name: &str) -> bool {
    name.starts_with("[internal] ") || name.contains(" internal] ")
}

fn is_export(name: &str) -> bool {
    name.contains("exporting cache")
}

/// A step's name without its mounts, which make all steps look alike.
fn without_mounts(name: &str) -> String {
    let words = name.split(' ').filter(|word| !word.is_empty() && !word.starts_with("--mount="));
    words.collect::<Vec<_>>().join(" ")
}

/// Is this a cache that is not there yet?
fn is_missing(vertex: &Vertex) -> bool {
    let reference = vertex.name.rsplit(' ').next().unwrap_or_default();
    let error = vertex.error.as_deref().unwrap_or_default();
    vertex.name.contains("importing cache") && is_miss(reference, error)
}

/// A warning as people read it, or as GitHub shows it beside a job.
pub fn warning_line(in_ci: bool, text: &str) -> String {
    if in_ci { format!("::warning::{text}") } else { format!("warning: {text}") }
}

fn secs(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

/// `text` without what would colour it, move the cursor or begin a line.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    let mut chars = text.trim_end().chars();
    while let Some(c) = chars.next() {
        match c {
            // A terminal's command ends with its first letter.
            '\x1b' => drop(chars.by_ref().find(char::is_ascii_alphabetic)),
            c if c.is_control() => line.push(' '),
            c => line.push(c),
        }
    }
    line
}
