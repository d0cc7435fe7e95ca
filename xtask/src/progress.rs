//! What people see of a run while it goes on: of one image its steps, of many a line for each when it ends
//! and how far the run is. At a terminal the last lines are drawn again and again; elsewhere a line comes
//! at least every ten seconds. The log of each image has everything.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base::{lock, message, output, process, status};
use outcome::cause;
use outcome::text::{self, LONGEST, Lines};
use outcome::trace::{Event, Node, Trace};
use outcome::vertex::{self, Phase};

/// Work that is not a step is shown where it took so many seconds.
const LONG: f64 = 1.0;
/// How many lines are drawn at most.
const MOST: usize = 13;

/// Progress on standard error, which all images of a run share.
pub struct Progress {
    /// True where nothing is shown of single steps because there are many images.
    is_batch: bool,
    /// True where every line is shown.
    is_plain: bool,
    is_terminal: bool,
    state: Mutex<State>,
}

struct State {
    begun: Instant,
    images: usize,
    /// How many of them are built now, and not delivered yet.
    running: usize,
    done: usize,
    failed: usize,
    /// When the first images ended, which make what all share, and how many had ended then.
    pace: Option<(Instant, usize)>,
    /// What steps have warned of.
    warned: BTreeSet<String>,
}

/// How one bake is shown.
pub struct Watch<'a> {
    progress: &'a Progress,
    /// Its image, for people, until that is delivered.
    image: Option<&'a str>,
    /// The image's log.
    log: Option<&'a File>,
    /// True where an earlier bake of the image has shown the steps, so that only the delivery is new.
    steps_were_shown: bool,
    /// Ends the bake, which is shown nowhere, once it is true.
    canceled: Option<&'a AtomicBool>,
    /// What was shown to have begun and to have ended.
    begun: BTreeMap<usize, Instant>,
    ended: BTreeSet<String>,
    cached: usize,
    lines: BTreeMap<usize, Lines>,
    has_failed: bool,
}

impl Progress {
    /// For a run of `images` images. In the log of a CI job every frame of a terminal would stay.
    pub fn new(style: Option<&str>, ci: bool, images: usize) -> Self {
        let is_plain = style == Some("plain");
        Progress {
            is_batch: images > 1,
            is_plain,
            is_terminal: status::is_terminal() && !is_plain && !ci,
            state: Mutex::new(State {
                begun: Instant::now(),
                images,
                running: 0,
                done: 0,
                failed: 0,
                pace: None,
                warned: BTreeSet::new(),
            }),
        }
    }

    /// A bake of `image`, as people call it until it is delivered, whose log is `log`.
    pub fn watch<'a>(
        &'a self,
        image: Option<&'a str>,
        log: Option<&'a File>,
        steps_were_shown: bool,
    ) -> Watch<'a> {
        Watch {
            progress: self,
            image,
            log,
            steps_were_shown,
            canceled: None,
            begun: BTreeMap::new(),
            ended: BTreeSet::new(),
            cached: 0,
            lines: BTreeMap::new(),
            has_failed: false,
        }
    }

    /// A bake that is shown nowhere and ends once `canceled` is true.
    pub fn silent<'a>(&'a self, canceled: &'a AtomicBool) -> Watch<'a> {
        Watch { canceled: Some(canceled), ..self.watch(None, None, true) }
    }

    /// Notes that an image is being built.
    pub fn begin(&self) {
        lock(&self.state).running += 1;
    }

    /// Notes that it has ended, and in a batch shows `line`. True for the first that failed.
    pub fn end(&self, has_failed: bool, line: &str) -> bool {
        let mut state = lock(&self.state);
        state.running -= 1;
        if has_failed {
            state.failed += 1;
        } else {
            state.done += 1;
        }
        let ended = state.done + state.failed;
        state.pace.get_or_insert((Instant::now(), ended));
        if self.is_batch && !line.is_empty() {
            message::say(line);
        }
        has_failed && state.failed == 1
    }

    /// Notes that `count` images need not be built.
    pub fn skip(&self, count: usize) {
        lock(&self.state).done += count;
    }
}

impl State {
    /// How far a batch is, in one line, with the time that is left where that is known.
    fn batch(&self) -> String {
        let State { images, done, failed, pace, running, .. } = self;
        let ended = done + failed;
        let line = format!("{done} of {images} done, {failed} failed, {running} running");
        let Some((since, before)) = pace.filter(|(_, before)| ended > *before) else { return line };
        #[allow(clippy::cast_precision_loss)]
        let (built, left) = ((ended - before) as f64, images.saturating_sub(ended) as f64);
        let each = since.elapsed().as_secs_f64() / built;
        format!("{line}; {:.0} an hour, {:.0} min left", 3600.0 / each, each * left / 60.0)
    }
}

impl Watch<'_> {
    /// True once the bake is to end.
    pub fn is_canceled(&self) -> bool {
        self.canceled.is_some_and(|canceled| canceled.load(Ordering::SeqCst))
    }

    /// Shows an event, which `trace` has taken up as that of its node `place`.
    pub fn show(&mut self, event: &Event, place: Option<usize>, trace: &Trace) {
        if self.canceled.is_some() && !matches!(event, Event::Log(_)) {
            return;
        }
        let node = place.and_then(|place| Some((place, trace.nodes.get(place)?)));
        match (event, node) {
            // Of the Dockerfile, which the bake before this one read, too.
            (Event::Warning(_), _) if self.steps_were_shown => {}
            (Event::Warning(warning), _) => warn(warning),
            // What buildx writes after a failure is that failure once more, with other lines of the
            // Dockerfile. Nor has it a reason of its own where it was stopped.
            (Event::Text(_), _) if self.has_failed || process::caught().is_some() => {}
            (Event::Text(text), _) => {
                let line = format!("buildx: {}", message::one_line(text));
                self.to_log(&line);
                output::note(text::shortened(&line, LONGEST));
            }
            (Event::Run(run), Some((place, node))) => {
                if let Entry::Vacant(begun) = self.begun.entry(place) {
                    begun.insert(Instant::now());
                    self.plain(place, node, &text::title(&node.name));
                }
                if run.completed.is_some() {
                    self.node_ended(place, node, trace);
                }
            }
            (Event::Log(text), Some((place, node))) => {
                for line in self.lines.entry(place).or_default().add(text.as_bytes()) {
                    self.plain(place, node, &line);
                    // Many images may have the same reason, and this one may run ahead of its image.
                    if let Some(warning) = line.strip_prefix("warning: ")
                        && lock(&self.progress.state).warned.insert(warning.to_owned())
                    {
                        warn(warning);
                    }
                }
            }
            _ => {}
        }
    }

    /// Shows how work ended: to the log always; to people steps once, those from a cache only counted.
    fn node_ended(&mut self, place: usize, node: &Node, trace: &Trace) {
        let Some(run) = node.runs.last() else { return };
        if let Some(line) = self.lines.get_mut(&place).and_then(Lines::end) {
            self.plain(place, node, &line);
        }
        let seconds = run.seconds().unwrap_or_default();
        let is_miss = |error| vertex::cache(&node.name).is_some_and(|c| cause::is_miss(c, error));
        let (end, is_error) = match run.error.as_deref() {
            Some(error) if is_miss(error) => ("MISS".to_owned(), false),
            Some(error) => (format!("ERROR: {error}"), true),
            None if run.cached => ("CACHED".to_owned(), false),
            None => (format!("DONE {seconds:.1}s"), false),
        };
        self.plain(place, node, &end);
        let is_cache = matches!(node.phase(), Phase::CacheImport | Phase::CacheExport);
        self.has_failed |= is_error && !is_cache;
        // An error is shown whole when the image has failed, or when all is told of its caches.
        if is_error || self.progress.is_batch || self.progress.is_plain {
            return;
        }
        if Phase::of(&node.step) != Phase::Steps {
            if self.is_new(node) && seconds >= LONG {
                message::say(&format!("=> {end:<11} {}", text::title(&node.name)));
            }
            return;
        }
        // A step of several parts, such as COPY --link, is shown when the last one has ended.
        let mut parts = trace.nodes.iter().filter(|other| other.step == node.step);
        if parts.any(|part| part.runs.last().is_none_or(|run| run.completed.is_none()))
            || !self.ended.insert(node.step.clone())
            || self.steps_were_shown
        {
            return;
        }
        if run.cached {
            self.cached += 1;
        } else if seconds >= 0.05 {
            let (number, all) = (self.ended.len(), trace.steps().len());
            let title = text::title(&node.step);
            message::say(&format!("=> {end:<11} [{number}/{all}] {title}"));
        }
    }

    /// True for what no earlier bake of the image has shown: after its steps, only the delivery.
    fn is_new(&self, node: &Node) -> bool {
        let is_delivery =
            matches!(node.phase(), Phase::ImageExport | Phase::Push | Phase::CacheExport);
        is_delivery || !self.steps_were_shown
    }

    /// A line of the log, which people see as well where they want every line.
    fn plain(&self, place: usize, node: &Node, text: &str) {
        let line = format!("#{} {text}", place + 1);
        self.to_log(&line);
        if self.progress.is_plain && self.is_new(node) {
            output::note(text::shortened(&line, LONGEST));
        }
    }

    fn to_log(&self, line: &str) {
        // A log that can't be written, as on a full disk, costs nothing else.
        if let Some(mut log) = self.log {
            let _ = writeln!(log, "{}", message::one_line(line));
        }
    }

    /// Draws what runs, or says so where nothing was said for too long. Is called every few milliseconds.
    pub fn tick(&mut self, trace: &Trace) {
        let progress = self.progress;
        // A batch has a line for each image anyway.
        let silence = Duration::from_secs(if progress.is_batch { 60 } else { 10 });
        if self.canceled.is_some() || !status::is_due(progress.is_terminal, silence) {
            return;
        }
        let state = lock(&progress.state);
        let running = trace.nodes.iter().enumerate().filter(|(_, node)| node.is_running());
        // By this machine's clock: the builder's may differ.
        let running = running.map(|(place, node)| {
            (self.begun.get(&place).map_or(0.0, |begun| begun.elapsed().as_secs_f64()), node)
        });
        let mut running = running.collect::<Vec<_>>();
        running.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let waiting = || "waiting for the builder".to_owned();
        let seconds = state.begun.elapsed().as_secs_f64();
        let lines = if progress.is_batch {
            let what = running.first().map_or_else(waiting, |(_, node)| text::title(&node.name));
            let image = self.image.map(|image| format!("; {image}: {what}")).unwrap_or_default();
            vec![text::shortened(&format!("{}{image}", state.batch()), columns().min(100))]
        } else if progress.is_terminal {
            let room = MOST.min(process::terminal_size().map_or(24, |(_, rows)| rows) - 1).max(2);
            let what = match running.len() {
                0 => waiting(),
                count => format!("{count} running"),
            };
            let cached = match self.cached {
                0 => String::new(),
                count => format!(", {count} cached"),
            };
            let head = format!("[+] {seconds:.1}s, {} done{cached}, {what}", self.ended.len());
            let nodes = running.iter().take(room - 1);
            let nodes = nodes.map(|(seconds, node)| format!(" => {}", node_line(*seconds, node)));
            [head].into_iter().chain(nodes).collect()
        } else {
            let first = running.first();
            let what = first.map_or_else(waiting, |(seconds, node)| node_line(*seconds, node));
            let more = match running.len() {
                0 | 1 => String::new(),
                count => format!(", and {} more", count - 1),
            };
            vec![text::shortened(&format!("{seconds:.0}s: {what}{more}"), 100)]
        };
        status::show(&lines, progress.is_terminal);
    }

    /// Shows at the end of the bake how many steps were cached.
    pub fn end(&mut self) {
        if self.progress.is_batch {
            return;
        }
        if self.cached > 0 {
            let steps = if self.cached == 1 { "step" } else { "steps" };
            message::say(&format!("=> {:<11} {} {steps}", "CACHED", self.cached));
        }
        status::clear();
    }
}

/// A node that runs since so many seconds, and its last output or how much it has sent or fetched.
fn node_line(seconds: f64, node: &Node) -> String {
    let sized = || node.parts.values().filter(|(_, all)| *all > 0);
    let done = sized().map(|(done, _)| done).sum();
    let all = sized().map(|(_, all)| all).sum();
    let last = text::last_lines(&node.output, 1);
    let state = match last.first() {
        Some(line) => line.trim().to_owned(),
        None if all > 0 => format!("{} of {}", text::bytes(done), text::bytes(all)),
        None => String::new(),
    };
    let title = message::cut(&text::title(&node.name), columns() / 2);
    format!("{seconds:>5.1}s {title}  {state}").trim_end().to_owned()
}

/// Shows a warning, cut to a line of a log.
pub fn warn(text: &str) {
    message::warn(&text::shortened(text, LONGEST));
}

/// How long a line for people may be: as wide as their terminal, or as the longest line of a log. The last
/// column is not used: there, some terminals begin the next line.
pub fn columns() -> usize {
    process::terminal_size().map_or(LONGEST, |(columns, _)| (columns - 1).clamp(40, LONGEST))
}
