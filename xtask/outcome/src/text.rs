//! Text that fits its line, and numbers as people write them.

use base::message::{cut, one_line};

use crate::vertex::{self, Phase};

/// The longest line of a log.
pub const LONGEST: usize = 200;
const LONGEST_NAME: usize = 80;
/// The most output that may come without the end of a line, in bytes.
const LONGEST_REST: usize = 1 << 16;

/// `text` on one line of so many `columns`, without its middle: the reason of an error comes last.
pub fn shortened(text: &str, columns: usize) -> String {
    let line = one_line(text);
    let length = line.chars().count();
    if length <= columns {
        return line;
    }
    let tail = columns / 2;
    let head = line.chars().take(columns.saturating_sub(tail + 1));
    head.chain(['…']).chain(line.chars().skip(length - tail)).collect()
}

/// A vertex as people know it: a step by its script, or else by its stage and instruction without flags.
pub fn title(name: &str) -> String {
    let title = match (vertex::script(name), vertex::instruction(name)) {
        (Some(script), _) => script,
        (None, Some((place, instruction))) if Phase::of(name) == Phase::Steps => {
            let stage = place.rsplit_once(' ').map(|(stage, _)| format!("{stage}: "));
            let words = instruction.split_whitespace().filter(|word| !word.starts_with("--"));
            stage.unwrap_or_default() + &words.collect::<Vec<_>>().join(" ")
        }
        _ => name.to_owned(),
    };
    cut(&one_line(&title), LONGEST_NAME)
}

/// A number of bytes as people write it.
pub fn bytes(count: u64) -> String {
    #[allow(clippy::cast_precision_loss)]
    let count = count as f64;
    let mut units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")].into_iter();
    let (size, unit) = units.find(|(size, _)| count >= *size).unwrap_or((1.0, "B"));
    let digits = usize::from(size > 1.0 && count / size < 10.0);
    format!("{:.digits$} {unit}", count / size)
}

/// Cuts output that arrives in pieces into lines that are safe to show.
#[derive(Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// The lines that end within `bytes`.
    pub fn add(&mut self, bytes: &[u8]) -> Vec<String> {
        self.0.extend_from_slice(bytes);
        let end = match self.0.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => end + 1,
            None if self.0.len() > LONGEST_REST => self.0.len(),
            None => return Vec::new(),
        };
        let lines = self.0.drain(..end).collect::<Vec<_>>();
        String::from_utf8_lossy(&lines).lines().map(last_drawn).collect()
    }

    /// The last line, if its end is missing.
    pub fn end(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.0);
        (!rest.is_empty()).then(|| last_drawn(&String::from_utf8_lossy(&rest)))
    }
}

/// The last lines of `output`, so many at most, safe to show.
pub fn last_lines(output: &[u8], count: usize) -> Vec<String> {
    let mut lines = String::from_utf8_lossy(output).lines().map(last_drawn).collect::<Vec<_>>();
    lines.split_off(lines.len().saturating_sub(count))
}

/// What a terminal shows of a line that was drawn several times, as progress bars are.
fn last_drawn(line: &str) -> String {
    one_line(line.trim_end().rsplit('\r').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_what_people_know_a_step_by() {
        for (name, known) in [
            (
                "[python 2/5] RUN --mount=type=bind,from=steps,target=/run/lib.sh [\"/bin/sh\", \"/run/python.sh\"]",
                "python.sh",
            ),
            (
                "[package-sdk 3/3] RUN --network=none [\"/bin/sh\", \"/run/package.sh\", \"openhands-sdk\"]",
                "package.sh openhands-sdk",
            ),
            (
                "[check 1/1] RUN [\"/agent-server/.venv/bin/python\", \"-I\", \"/run/check.py\"]",
                "check.py",
            ),
            ("[binary 3/9] COPY --link --from=acp / /", "binary: COPY / /"),
            ("[2/3] RUN make all", "RUN make all"),
            ("exporting to image", "exporting to image"),
            ("[internal] load build definition", "[internal] load build definition"),
        ] {
            assert_eq!(title(name), known);
        }
    }

    #[test]
    fn output_is_cut_into_lines() {
        let mut lines = Lines::default();
        assert_eq!(lines.add(b"one\ntw"), ["one"]);
        assert_eq!(lines.add(b"o\r50 %\r100 %\nthree"), ["100 %"]);
        assert_eq!(lines.end().as_deref(), Some("three"));
        assert_eq!(last_lines(b"a\nb\nc", 2), ["b", "c"]);
        assert_eq!(shortened("0123456789", 5), "01…89");
        assert_eq!(
            (bytes(999), bytes(1_500), bytes(25_000_000)),
            ("999 B".into(), "1.5 kB".into(), "25 MB".into())
        );
    }
}
