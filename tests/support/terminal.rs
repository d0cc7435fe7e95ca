//! A pseudo-terminal of a given width, and what is to be seen on it.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use super::Xtask;

/// How many lines it has.
pub const ROWS: usize = 40;
/// How long to wait for something to be seen.
const PATIENCE: Duration = Duration::from_secs(120);

/// A call that runs at a terminal.
pub struct Terminal {
    script: Child,
    bytes: Receiver<Vec<u8>>,
    /// All that was written to it.
    pub raw: String,
    columns: usize,
}

impl Terminal {
    /// Starts `call` at a terminal of so many `columns`.
    pub fn start(call: &Xtask, columns: usize) -> Self {
        let words = [call.0.get_program()].into_iter().chain(call.0.get_args());
        let words = words.map(|word| format!("'{}'", word.to_string_lossy()));
        let words = words.collect::<Vec<_>>().join(" ");
        let mut script = Command::new("script");
        let shell = format!("stty cols {columns} rows {ROWS} && exec {words}");
        script.args(["--quiet", "--return", "--command", &shell, "/dev/null"]).env_clear();
        script.envs(call.0.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = script.stdout.take().unwrap();
        let (sender, bytes) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                let _ = sender.send(buffer[..length].to_vec());
            }
        });
        Terminal { script, bytes, raw: String::new(), columns }
    }

    /// What is seen as soon as all of `texts` are.
    pub fn see(&mut self, texts: &[&str]) -> Screen {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Ok(bytes) = self.bytes.try_recv() {
                self.raw += &String::from_utf8_lossy(&bytes);
            }
            let screen = Screen::of(&self.raw, self.columns);
            let text = screen.text();
            // No frame that is half written.
            if self.raw.ends_with('\n') && texts.iter().all(|wanted| text.contains(wanted)) {
                return screen;
            }
            assert!(Instant::now() < deadline, "{texts:?} are not seen in:\n{text}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Types these characters.
    pub fn type_in(&mut self, keys: &str) {
        self.script.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for the end of the call. Returns its status and what is seen then.
    pub fn end(&mut self) -> (i32, Screen) {
        while let Ok(bytes) = self.bytes.recv_timeout(PATIENCE) {
            self.raw += &String::from_utf8_lossy(&bytes);
        }
        let status = self.script.wait().unwrap().code().unwrap();
        (status, Screen::of(&self.raw, self.columns))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // What runs there then gets SIGHUP.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

/// What is seen, with everything that has left the screen at its top.
#[derive(Default)]
pub struct Screen {
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// Beginnings of lines that were longer than the terminal is wide.
    pub wrapped: Vec<String>,
}

impl Screen {
    fn of(raw: &str, columns: usize) -> Self {
        let (mut screen, mut wraps) = (Screen::default(), true);
        let mut pieces = raw.split("\x1b[");
        screen.print(pieces.next().unwrap_or_default(), columns, wraps);
        for piece in pieces {
            let Some(end) = piece.find(|c: char| c.is_ascii_alphabetic()) else { break };
            match (&piece[..end], &piece[end..=end]) {
                ("?7", command) => wraps = command == "h",
                (rows, "A") => screen.row -= rows.parse::<usize>().unwrap(),
                ("0", "J") => {
                    screen.lines.truncate(screen.row + 1);
                    let column = screen.column;
                    screen.line().truncate(column);
                }
                (_, "m") => {}
                command => panic!("a command that no test knows: {command:?}"),
            }
            screen.print(&piece[end + 1..], columns, wraps);
        }
        screen
    }

    fn print(&mut self, text: &str, columns: usize, wraps: bool) {
        for c in text.chars() {
            match c {
                '\r' => self.column = 0,
                '\n' => self.row += 1,
                _ => {
                    if self.column == columns && wraps {
                        let line = self.line().iter().collect();
                        self.wrapped.push(line);
                        (self.row, self.column) = (self.row + 1, 0);
                    }
                    let column = self.column.min(columns - 1);
                    let line = self.line();
                    line.resize(line.len().max(column + 1), ' ');
                    line[column] = c;
                    self.column = column + 1;
                }
            }
        }
    }

    fn line(&mut self) -> &mut Vec<char> {
        let rows = self.lines.len().max(self.row + 1);
        self.lines.resize(rows, Vec::new());
        &mut self.lines[self.row]
    }

    /// The lines, without blanks at their ends.
    pub fn lines(&self) -> Vec<String> {
        let line = |line: &Vec<char>| line.iter().collect::<String>().trim_end().to_owned();
        self.lines.iter().map(line).collect()
    }

    fn text(&self) -> String {
        self.lines().join("\n")
    }
}
