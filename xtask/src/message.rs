//! Messages on standard error that are safe to show: what others wrote in them commands neither a
//! terminal nor a CI runner.

use std::env;
use std::io::{self, IsTerminal as _};
use std::iter::Peekable;
use std::str::Chars;

use crate::output;

/// How lines that begin so are shown at a terminal: what failed in red, what is done in green, and
/// what was done before dim.
const COLOURS: [(&str, u8); 6] = [
    ("failed", 31),
    ("error:", 31),
    ("=> ERROR", 31),
    ("=> DONE", 32),
    ("built", 32),
    ("=> CACHED", 2),
];

/// Shows how far a run is.
pub fn say(text: &str) {
    let line = one_line(text);
    let colour =
        COLOURS.iter().find_map(|(start, colour)| Some((line.strip_prefix(start)?, colour, start)));
    match colour {
        Some((rest, colour, start)) if has_colours() => {
            output::note(format_args!("\x1b[{colour}m{start}\x1b[0m{rest}"));
        }
        _ => output::note(line),
    }
}

/// Is standard error a terminal, whose user does not refuse colours?
fn has_colours() -> bool {
    let is_refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !is_refused
}

/// Shows what `show` does, on GitHub folded under `title`, elsewhere only if `is_needed`.
pub fn folded(title: &str, is_needed: bool, show: impl FnOnce()) {
    if is_runner() {
        output::note(format_args!("::group::{}", one_line(title)));
        show();
        output::note("::endgroup::");
    } else if is_needed {
        show();
    }
}

/// Shows something that is no error, but has to be seen: as GitHub shows it beside a job, or
/// elsewhere as people read it in a log.
pub fn warn(text: &str) {
    let text = one_line(text);
    if is_runner() {
        output::note(format_args!("::warning::{}", text.replace('%', "%25")));
    } else {
        output::note(format_args!("warning: {text}"));
    }
}

/// Shows which step failed, and in which line of `file`: GitHub shows that beside the line.
pub fn failed(step: &str, file: &str, line: Option<usize>) {
    let step = one_line(step);
    let at = line.map(|line| format!(":{line}")).unwrap_or_default();
    if is_runner() {
        let at = line.map(|line| format!(",line={line}")).unwrap_or_default();
        output::note(format_args!("::error file={file}{at}::{}", step.replace('%', "%25")));
    }
    say(&format!("failed: {step} ({file}{at})"));
}

/// Does a runner of GitHub Actions, or of what is compatible with it, read this log?
fn is_runner() -> bool {
    env::var_os("GITHUB_ACTIONS").is_some_and(|value| !value.is_empty() && value != "false")
}

/// `text` without commands to a terminal or a CI runner and without credentials, as one line.
pub fn one_line(text: &str) -> String {
    let mut line = String::new();
    let mut chars = text.trim_end().chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => skip_command(&mut chars),
            // The 8-bit CSI.
            '\u{9b}' => skip_to_final(&mut chars),
            // Separators of lines, and what changes the direction of writing.
            c if c.is_control()
                || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                line.push(' ');
            }
            c => line.push(c),
        }
    }
    without_credentials(&without_runner_commands(&line))
}

/// `text` with `***` for what stands before the `@` of a URL: a user, and mostly a password.
pub fn without_credentials(text: &str) -> String {
    let mut parts = text.split("://");
    let mut safe = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let ends = |c: char| c.is_whitespace() || "\"'<>".contains(c);
        let url = &part[..part.find(ends).unwrap_or(part.len())];
        let host = url.split('/').next().unwrap_or_default();
        // A password may hold what should have been escaped, such as a slash.
        let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let has_user = host.contains('@') || !host.split(':').skip(1).all(is_port);
        let cut = url.rfind('@').filter(|_| has_user);
        // An image's digest stands behind such a sign as well.
        let cut = cut.filter(|&at| !url[at..].starts_with("@sha256:"));
        safe.push_str("://");
        safe.push_str(&cut.map_or(part.to_owned(), |at| format!("***{}", &part[at..])));
    }
    safe
}

/// Skips the rest of a terminal's command, after its ESC.
fn skip_command(chars: &mut Peekable<Chars>) {
    match chars.next() {
        Some('[') => skip_to_final(chars),
        // These hold text, such as a window's title, up to BEL or to ESC and a backslash.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(c) = chars.next_if(|&c| c != '\n') {
                match c {
                    '\x07' | '\u{9c}' => break,
                    '\x1b' => {
                        chars.next_if_eq(&'\\');
                        break;
                    }
                    _ => {}
                }
            }
        }
        // An escape of several characters, which ends like a CSI but earlier.
        Some(' '..='/') => {
            while chars.next_if(|c| (' '..='/').contains(c)).is_some() {}
            chars.next_if(|c| ('0'..='~').contains(c));
        }
        _ => {}
    }
}

/// Skips the parameters of a control sequence and the character that ends it.
fn skip_to_final(chars: &mut Peekable<Chars>) {
    while chars.next_if(|c| (' '..='?').contains(c)).is_some() {}
    chars.next_if(|c| ('@'..='~').contains(c));
}

/// `line` with a blank in what a CI runner would take for a command: GitHub `::name::` and
/// `::name key=value::` at the start and `##[name]` anywhere, others `##vso[` and the like.
fn without_runner_commands(line: &str) -> String {
    let mut safe = String::new();
    for (at, c) in line.char_indices() {
        safe.push(c);
        if is_runner_command(&line[at..]) {
            safe.push(' ');
        }
    }
    safe
}

/// Does `text` begin with what a CI runner takes for a command?
fn is_runner_command(text: &str) -> bool {
    let name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if let Some(text) = text.strip_prefix("::") {
        return text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.contains("::");
    }
    text.strip_prefix("##").is_some_and(|text| text.trim_start_matches(name).starts_with('['))
}

#[cfg(test)]
#[path = "../../tests/unit/message.rs"]
mod tests;
