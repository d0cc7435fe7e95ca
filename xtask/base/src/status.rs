//! The last lines on standard error, which say how far a run is. At a terminal they are drawn again and
//! again in place; elsewhere a line comes where there was none for some time.

use std::io::{self, IsTerminal as _, Write as _};
use std::mem;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::{lock, message, process};

struct State {
    /// How many lines at the bottom are to be drawn again.
    drawn: usize,
    is_terminal: bool,
    /// When they were drawn; elsewhere, when a line was written.
    last: Option<Instant>,
}

static STATE: Mutex<State> = Mutex::new(State { drawn: 0, is_terminal: false, last: None });

/// True where lines can be drawn in place.
pub fn is_terminal() -> bool {
    io::stderr().is_terminal() && process::terminal_size().is_some()
}

/// True once lines are to be shown again: ten times a second where they are drawn in place, elsewhere after
/// that much `silence`.
pub fn is_due(is_terminal: bool, silence: Duration) -> bool {
    let pause = if is_terminal { Duration::from_millis(100) } else { silence };
    lock(&STATE).last.is_none_or(|last| last.elapsed() >= pause)
}

/// Shows `lines`, in place of those that were shown before if this `is_terminal`.
pub fn show(lines: &[String], is_terminal: bool) {
    let size = process::terminal_size().filter(|_| is_terminal);
    let mut text = String::new();
    for line in lines {
        let line = message::one_line(line);
        text += &match size {
            // Without line wrap: some characters are two columns wide.
            Some((columns, _)) => format!("\x1b[?7l{}\x1b[?7h\n", message::cut(&line, columns - 1)),
            None => line + "\n",
        };
    }
    let mut state = lock(&STATE);
    state.write(&text);
    state.last = Some(Instant::now());
    state.is_terminal = is_terminal;
    state.drawn = if is_terminal { lines.len() } else { 0 };
}

/// Takes the lines away.
pub fn clear() {
    write("");
}

/// Writes `text` in place of the lines, for good. Nobody may be there to read it.
pub(crate) fn write(text: &str) {
    lock(&STATE).write(text);
}

impl State {
    fn write(&mut self, text: &str) {
        // Ctrl-C leaves its echo in the line below, and the cursor behind it.
        let erase = match mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\r\x1b[{lines}A\x1b[0J"),
        };
        if !self.is_terminal && !text.is_empty() {
            self.last = Some(Instant::now());
        }
        // One call, so that lines of this program never mix with those of its children.
        let _ = io::stderr().write_all((erase + text).as_bytes());
    }
}
