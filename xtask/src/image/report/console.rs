//! What people see of a run on standard error.

use super::github;
use super::progress::Progress;
use super::text::one_line;
use crate::image::build::observer::{Observer, Watcher};
use crate::image::request::{Request, Style};
use crate::output;

/// Standard error, in the style that was asked for.
#[derive(Default)]
pub struct Console {
    /// Whether progress is shown as lines on a terminal too. The log of a CI job keeps every frame
    /// that a terminal would draw over.
    plain: bool,
}

impl Console {
    pub fn new(request: &Request) -> Self {
        Console { plain: request.ci || request.progress == Style::Plain }
    }
}

impl Observer for Console {
    fn warn(&self, text: &str) {
        output::note(github::warning(text));
    }

    fn say(&self, text: &str) {
        output::note(one_line(text));
    }

    fn watch(&self, is_export: bool) -> Box<dyn Watcher> {
        Box::new(Progress::new(self.plain, is_export))
    }
}
