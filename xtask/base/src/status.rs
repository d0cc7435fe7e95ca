//! One line on standard error that says how far a run is. At a terminal it is drawn again in place;
//! elsewhere it is printed every ten seconds.

use std::io::{self, IsTerminal as _, Write as _};
use std::mem;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{message, process};

/// When the last line was shown, and whether it is at the bottom of the terminal, without an end.
static LINE: Mutex<(Option<Instant>, bool)> = Mutex::new((None, false));

/// Shows `text`, cut to the width of the terminal, unless the last line was shown only just now.
/// Safe to call from several threads, and often.
pub fn show(text: &str) {
    let mut line = LINE.lock().unwrap_or_else(PoisonError::into_inner);
    let columns = process::terminal_size().filter(|_| io::stderr().is_terminal());
    let pause = Duration::from_millis(if columns.is_some() { 100 } else { 10_000 });
    if line.0.is_some_and(|shown| shown.elapsed() < pause) {
        return;
    }
    *line = (Some(Instant::now()), columns.is_some());
    let text = message::one_line(text);
    let drawn = match columns {
        // Without line wrap: some characters are two columns wide.
        Some((columns, _)) => {
            let text: String = text.chars().take(columns - 1).collect();
            format!("\r\x1b[?7l\x1b[2K{text}\x1b[?7h")
        }
        None => text + "\n",
    };
    // Nobody may be there to read it.
    let _ = io::stderr().write_all(drawn.as_bytes());
}

/// Takes the line away. [`crate::output::note`], through which all messages go, does this.
pub fn clear() {
    let mut line = LINE.lock().unwrap_or_else(PoisonError::into_inner);
    if mem::take(&mut line.1) {
        let _ = io::stderr().write_all(b"\r\x1b[2K");
    }
}
