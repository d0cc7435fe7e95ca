//! Messages on standard error. Nothing that others wrote in them commands a terminal or a CI
//! runner, and credentials in URLs are masked.

use std::env;
use std::io::{self, IsTerminal as _};

use anyhow::Result;

use crate::output;

/// Colours, by SGR number, for the beginnings of lines at a terminal: red, cyan, green.
const COLOURS: [(&str, u8); 5] =
    [("failed", 31), ("error:", 31), ("hint:", 36), ("=> DONE", 32), ("built", 32)];

/// Shows `text` as one line.
pub fn say(text: &str) {
    let line = one_line(text);
    let is_plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    match COLOURS.iter().find(|(start, _)| line.starts_with(start)) {
        Some((start, colour)) if !is_plain && io::stderr().is_terminal() => {
            let rest = &line[start.len()..];
            output::note(format_args!("\x1b[{colour}m{start}\x1b[0m{rest}"));
        }
        _ => output::note(line),
    }
}

/// Shows what ends this run: `error: ` and the chain of causes on one line, each hint on its own.
pub fn error(error: &anyhow::Error) {
    let mut start = "error: ";
    for line in format!("{error:#}").split("\nhint: ") {
        say(&format!("{start}{line}"));
        start = "hint: ";
    }
}

/// Shows something that is not an error, but has to be seen: on GitHub, also beside the job.
pub fn warn(text: &str) {
    let text = one_line(text);
    if is_github() {
        output::note(format_args!("::warning::{}", text.replace('%', "%25")));
    } else {
        output::note(format_args!("warning: {text}"));
    }
}

/// Shows which step of `file` failed: on GitHub, also beside that file.
pub fn failed(step: &str, file: &str) {
    let step = one_line(step);
    if is_github() {
        output::note(format_args!("::error file={file}::{}", step.replace('%', "%25")));
    }
    say(&format!("failed: {step} ({file})"));
}

/// Shows what `show` shows: on GitHub folded under `title`, elsewhere only if `is_needed`.
pub fn folded(title: &str, is_needed: bool, show: impl FnOnce()) {
    if is_github() {
        output::note(format_args!("::group::{}", one_line(title)));
        show();
        output::note("::endgroup::");
    } else if is_needed {
        show();
    }
}

/// The first of `errors`, to end a run by. The others are warned of, so that none hides another.
pub fn ended_by(errors: impl IntoIterator<Item = anyhow::Error>) -> Result<()> {
    let mut errors = errors.into_iter();
    let first = errors.next();
    errors.for_each(|other| warn(&format!("{other:#}")));
    first.map_or(Ok(()), Err)
}

/// True where GitHub Actions, or a runner compatible with it, reads this log.
fn is_github() -> bool {
    env::var_os("GITHUB_ACTIONS").is_some_and(|value| !value.is_empty() && value != "false")
}

/// `text` up to `columns` of a terminal.
pub fn cut(text: &str, columns: usize) -> String {
    match text.char_indices().nth(columns) {
        None => text.to_owned(),
        Some(_) => text.chars().take(columns.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// `text` as one line that is safe to show: a blank in place of each control character, nothing in
/// place of colours, runner commands broken by a blank, `***` for credentials.
pub fn one_line(text: &str) -> String {
    let mut line = String::new();
    let mut chars = text.trim_end().chars();
    while let Some(c) = chars.next() {
        // Colours are common in logs, and unreadable without their ESC.
        if c == '\x1b'
            && let Some((colour, rest)) = chars.as_str().split_once('m')
            && colour.starts_with('[')
            && !colour[1..].contains(|c: char| !c.is_ascii_digit() && c != ';')
        {
            chars = rest.chars();
            continue;
        }
        // A CI runner takes `##[name]`, `##vso[` and the like for a command,
        if c == '#' && line.ends_with('#') {
            line.push(' ');
        }
        // Line separators and changes of the writing direction are no control characters.
        let is_hidden = matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        line.push(if c.is_control() || is_hidden { ' ' } else { c });
    }
    // and `::name::`.
    let is_command = line.matches("::").count() > 1;
    without_credentials(&if is_command { line.replace("::", ": :") } else { line })
}

/// What stands before a token or a signature, in lower case.
const SECRETS: &str = "authorization: bearer |authorization: basic |_authtoken=|?token=|&token=|\
                       access_token=|signature=|&sig=|security-token=";

/// `text` with `***` in place of the user and password before the `@` of each URL, and of tokens.
pub fn without_credentials(text: &str) -> String {
    let mut text = without_users(text);
    let mut lower = text.to_ascii_lowercase();
    for sign in SECRETS.split('|') {
        let mut from = 0;
        while let Some(at) = lower[from..].find(sign) {
            from += at + sign.len();
            // In JSON, a backslash stands before a quotation mark.
            let ends = |c: char| c.is_whitespace() || "\\\"'<>&,;".contains(c);
            let end = text[from..].find(ends).map_or(text.len(), |end| from + end);
            for text in [&mut text, &mut lower] {
                text.replace_range(from..end, "***");
            }
        }
    }
    text
}

fn without_users(text: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn what_others_wrote_commands_neither_terminal_nor_runner() {
        for (text, safe) in [
            ("plain text, 10% :: done", "plain text, 10% :: done"),
            ("\x1b[1;31mred\x1b[0m \x1b[mplain", "red plain"),
            ("\x1b[2Jclear \x1b[1", " [2Jclear  [1"),
            ("\x1b]0;title\x07after", " ]0;title after"),
            ("\x1b]8;;http://x\x1b\\link", " ]8;;http://x \\link"),
            ("\u{9b}2Jclear", " 2Jclear"),
            ("a\rb\nc\td\u{202e}e", "a b c d e"),
            ("::add-mask::x", ": :add-mask: :x"),
            ("x ::set-output name=a::b", "x : :set-output name=a: :b"),
            ("::\x1b[0madd-mask::x", ": :add-mask: :x"),
            (":\x1b[0m:add-mask::x", ": :add-mask: :x"),
            ("\x1b[\x1b[0mm", " [m"),
            ("x ##[stop-commands]y", "x # #[stop-commands]y"),
            ("###[error]", "# # #[error]"),
            ("##vso[task.complete]", "# #vso[task.complete]"),
            ("## [1] and fe80::1", "# # [1] and fe80::1"),
        ] {
            assert_eq!(one_line(text), safe, "{text:?}");
            assert_eq!(one_line(safe), safe, "a second time");
        }
    }

    #[test]
    fn credentials_of_urls_are_cut_out() {
        for (text, safe) in [
            ("by http://me:p%40ss@proxy:3128/ failed", "by http://***@proxy:3128/ failed"),
            ("http://me:p@ss/w@rd@proxy", "http://***@proxy"),
            ("http://me:p/ss@proxy \"https://a@b/c\"", "http://***@proxy \"https://***@b/c\""),
            ("https://a.io/@b/c", "https://a.io/@b/c"),
            ("http://a:80/b@c", "http://a:80/b@c"),
            ("docker-image://a@sha256:bb", "docker-image://a@sha256:bb"),
            ("a@b.c", "a@b.c"),
            ("Authorization: Bearer ghp_0123456789", "Authorization: Bearer ***"),
            ("//npm.corp/:_authToken=npm_0123456789", "//npm.corp/:_authToken=***"),
            (
                r#"\"https://x?X-Amz-Signature=01\": EOF"#,
                r#"\"https://x?X-Amz-Signature=***\": EOF"#,
            ),
            (
                "\"https://x/b?X-Amz-Signature=0123456789&sig=0123456789\": EOF",
                "\"https://x/b?X-Amz-Signature=***&sig=***\": EOF",
            ),
        ] {
            assert_eq!(one_line(text), safe, "{text}");
        }
    }
}
