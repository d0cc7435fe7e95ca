//! A terminal whose last lines are drawn again and again, while others are printed above them.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::text;
use base::message;
use base::output;
use base::process;

/// How often the last lines are drawn again.
const REDRAW: Duration = Duration::from_millis(100);
/// How many lines are drawn at most.
const MOST: usize = 13;

/// Standard error, where it is a terminal.
pub struct Screen {
    /// How many lines at the bottom are to be drawn again.
    drawn: usize,
    last_draw: Option<Instant>,
}

impl Screen {
    /// `None` where standard error is no terminal, or one that does not know its size.
    pub fn of_stderr() -> Option<Self> {
        let is_terminal = io::stderr().is_terminal() && process::terminal_size().is_some();
        is_terminal.then_some(Screen { drawn: 0, last_draw: None })
    }

    /// Prints one line for good, as much of it as fits.
    pub fn print(&mut self, line: &str) {
        self.erase();
        message::say(&text::cut(line, size().0 - 1));
    }

    /// Prints all of a text for good, in as many lines as it takes.
    pub fn print_whole(&mut self, text: &str) {
        self.erase();
        output::note(text);
    }

    /// How many lines can be drawn now; `None` where the last ones are still fresh.
    pub fn room(&self) -> Option<usize> {
        let is_due = self.last_draw.is_none_or(|last| last.elapsed() >= REDRAW);
        is_due.then(|| MOST.min(size().1 - 1).max(2))
    }

    /// Draws `lines` in place of those that were drawn before.
    pub fn draw(&mut self, lines: &[String]) {
        self.last_draw = Some(Instant::now());
        self.erase();
        for line in lines {
            // Without line wrap: some characters are two columns wide.
            output::note(format_args!("\x1b[?7l{}\x1b[?7h", text::cut(line, size().0 - 1)));
        }
        self.drawn = lines.len();
    }

    /// Takes away the lines that were drawn.
    pub fn erase(&mut self) {
        if self.drawn > 0 {
            // Ctrl-C leaves its echo in the line below, and the cursor behind it.
            let _ = write!(io::stderr(), "\r\x1b[{}A\x1b[0J", self.drawn);
            self.drawn = 0;
        }
    }
}

/// How long a line for people may be: as wide as their terminal, or as the longest line of a log.
pub fn columns() -> usize {
    width().map_or(text::LONGEST, |columns| columns.clamp(40, text::LONGEST))
}

/// `line` with its middle left out where the terminal, if there is one, is not as wide.
pub fn fit(line: &str) -> String {
    width().map_or(line.to_owned(), |columns| text::shortened_to(line, columns))
}

/// How many columns of the terminal are used, if there is one.
pub fn width() -> Option<usize> {
    process::terminal_size().map(|(columns, _)| columns - 1)
}

/// The columns and rows, of which the last are not used: there, some terminals begin the next line.
fn size() -> (usize, usize) {
    process::terminal_size().unwrap_or((80, 24))
}
