//! Text that fits its line, and numbers as people write them.

use base::message::one_line;

/// The longest line of a log.
pub const LONGEST: usize = 200;
/// The longest name of a step within a sentence.
const LONGEST_NAME: usize = 150;
/// The most output that may come without the end of a line, in bytes.
const LONGEST_REST: usize = 1 << 16;

/// `text` up to `columns` of a terminal.
pub fn cut(text: &str, columns: usize) -> String {
    match text.char_indices().nth(columns) {
        None => text.to_owned(),
        Some(_) => text.chars().take(columns.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// An error on one line that can be read: the middle is left out of a long one, because a step's
/// name holds all of its commands, and the reason comes last.
pub fn shortened(error: &str) -> String {
    shortened_to(error, LONGEST)
}

/// As [`shortened`], to so many `columns`.
pub fn shortened_to(text: &str, columns: usize) -> String {
    let line = one_line(text);
    let length = line.chars().count();
    if length <= columns {
        return line;
    }
    let tail = columns / 2;
    let head = line.chars().take(columns.saturating_sub(tail + 1));
    head.chain(['…']).chain(line.chars().skip(length - tail)).collect()
}

/// A step as people know it: by the comment that its heredoc begins with, else by its
/// instruction without mounts, which make all steps look alike.
pub fn step(name: &str) -> String {
    if let Some((stage, title)) = titled(name) {
        return format!("{stage}] {title}");
    }
    let words = name.split(' ').filter(|word| !word.is_empty() && !word.starts_with("--mount="));
    words.collect::<Vec<_>>().join(" ")
}

/// A step of a stage, `name` as [`step`] has it, as the one of this `number` among `all`.
pub fn counted(name: &str, number: usize, all: usize) -> String {
    let place = name.strip_prefix('[').and_then(|name| name.split_once("] "));
    let (place, title) = place.unwrap_or(("", name));
    match place.rsplit_once(' ') {
        Some((stage, _)) => format!("[{number}/{all}] {stage}: {title}"),
        None => format!("[{number}/{all}] {title}"),
    }
}

/// The stage and the comment in `[stage 1/2] RUN <<EOF (# comment...)`, as `BuildKit` names the
/// step of a heredoc by its first line.
fn titled(name: &str) -> Option<(&str, &str)> {
    let (stage, instruction) = name.split_once("] RUN ")?;
    let (before, first_line) = instruction.strip_suffix(')')?.split_once(" (#")?;
    let title = first_line.trim_end_matches("...").trim();
    let is_title = before.contains("<<") && !title.is_empty() && !title.starts_with('!');
    is_title.then_some((stage, title))
}

/// A step's name as it fits into a sentence.
pub fn shown(name: &str) -> String {
    cut(&step(name), LONGEST_NAME)
}

/// Seconds with as many digits as mean something.
pub fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// Seconds as people write them.
pub fn or_unknown(seconds: Option<f64>) -> String {
    seconds.map_or("? s".to_owned(), |seconds| format!("{seconds:.1} s"))
}

/// A number of bytes as people write it.
pub fn bytes(count: u64) -> String {
    #[allow(clippy::cast_precision_loss)]
    let count = count as f64;
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match units.iter().find(|(size, _)| count >= *size) {
        Some((size, unit)) if count / size >= 10.0 => format!("{:.0} {unit}", count / size),
        Some((size, unit)) => format!("{:.1} {unit}", count / size),
        None => format!("{count:.0} B"),
    }
}

/// Cuts output that arrives in pieces into lines that are safe to show.
#[derive(Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// The lines that end within `bytes`.
    pub fn add(&mut self, bytes: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(bytes);
        let end = match self.rest.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => end + 1,
            None if self.rest.len() > LONGEST_REST => self.rest.len(),
            None => return Vec::new(),
        };
        let lines = self.rest.drain(..end).collect::<Vec<_>>();
        String::from_utf8_lossy(&lines).lines().map(last_drawn).collect()
    }

    /// The last line, if its end is missing.
    pub fn end(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.rest);
        (!rest.is_empty()).then(|| last_drawn(&String::from_utf8_lossy(&rest)))
    }
}

/// The last lines of `output`, so many at most, safe to show.
pub fn last_lines(output: &[u8], count: usize) -> Vec<String> {
    let mut lines = lines(output);
    lines.split_off(lines.len().saturating_sub(count))
}

/// The lines of `output`, safe to show.
pub fn lines(output: &[u8]) -> Vec<String> {
    let mut lines = Lines::default();
    let mut safe = lines.add(output);
    safe.extend(lines.end());
    safe
}

/// What a terminal shows of a line that was drawn several times, as progress bars are.
fn last_drawn(line: &str) -> String {
    one_line(line.trim_end().rsplit('\r').next().unwrap_or_default())
}

#[cfg(test)]
#[path = "../../../../tests/unit/text.rs"]
mod tests;
