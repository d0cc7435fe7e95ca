//! A step of a build, or other work: what is known of it, and how it ended.

use std::collections::VecDeque;
use std::time::Instant;

use super::text::{self, Lines};
use crate::image::build::buildkit::{self, Cause};
use crate::image::build::events::VertexEvent;
use crate::message;

/// How many lines of its output are kept of work that may fail.
const LAST_LINES: usize = 30;

/// A step, or other work of a build.
pub struct Work {
    pub number: usize,
    pub name: String,
    pub started: Option<Instant>,
    /// When it began, by buildx's clock.
    pub began: Option<f64>,
    pub ended: bool,
    /// The last lines of its output.
    pub output: VecDeque<String>,
    /// Output without the end of its line.
    pub lines: Lines,
}

impl Work {
    pub fn new(number: usize, name: &str) -> Self {
        let (name, lines) = (text::step(&message::one_line(name)), Lines::default());
        let (started, began, ended, output) = (None, None, false, VecDeque::new());
        Work { number, name, started, began, ended, output, lines }
    }

    pub fn seconds(&self) -> f64 {
        self.started.map_or(0.0, |started| started.elapsed().as_secs_f64())
    }

    /// Keeps the last of `lines`, to show them if this fails.
    pub fn keep(&mut self, lines: &[String]) {
        self.output.extend(lines.iter().cloned());
        let surplus = self.output.len().saturating_sub(LAST_LINES);
        self.output.drain(..surplus);
    }

    pub fn is_running(&self) -> bool {
        self.started.is_some() && !self.ended
    }
}

/// How work ended.
pub enum End<'a> {
    Done(f64),
    Cached,
    /// A cache that is not there yet.
    Missing,
    /// Another target's equal step does the work.
    Canceled,
    Failed(&'a str),
}

impl<'a> End<'a> {
    pub fn of(vertex: &'a VertexEvent, seconds: f64) -> Self {
        match vertex.error.as_deref() {
            Some(error) if Cause::of(error) == Cause::Canceled => End::Canceled,
            Some(error) if buildkit::is_missing_cache(&vertex.name, error) => End::Missing,
            Some(error) => End::Failed(error),
            None if vertex.cached => End::Cached,
            None => End::Done(seconds),
        }
    }

    pub fn name(&self) -> String {
        match self {
            End::Done(seconds) => format!("DONE {seconds:.1}s"),
            End::Cached => "CACHED".to_owned(),
            End::Missing => "MISS".to_owned(),
            End::Canceled => "CANCELED".to_owned(),
            End::Failed(_) => "ERROR".to_owned(),
        }
    }
}
