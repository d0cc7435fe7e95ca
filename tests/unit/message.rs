//! Messages that are safe to show.

use super::*;

#[test]
fn what_others_wrote_commands_neither_terminal_nor_runner() {
    for (text, safe) in [
        ("plain text, 10% :: done", "plain text, 10% :: done"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("\x1b(Bascii\x1bcreset", "asciireset"),
        ("\u{9b}2Jclear", "clear"),
        ("a\rb\nc\td\u{202e}e", "a b c d e"),
        ("::add-mask::x", ": :add-mask::x"),
        ("x ::set-output name=a::b", "x : :set-output name=a::b"),
        ("::\x1b[0madd-mask::x", ": :add-mask::x"),
        (":\x1b[0m:add-mask::x", ": :add-mask::x"),
        ("x ##[stop-commands]y", "x # #[stop-commands]y"),
        ("###[error]", "## #[error]"),
        ("##vso[task.complete]", "# #vso[task.complete]"),
        ("## [1] and fe80::1", "## [1] and fe80::1"),
    ] {
        assert_eq!(one_line(text), safe, "{text:?}");
        assert_eq!(one_line(safe), safe, "a second time");
    }
}

#[test]
fn credentials_of_urls_are_cut_out() {
    let cut = |text: &str, expected: &str| assert_eq!(one_line(text), expected, "{text}");
    cut("by http://me:p%40ss@proxy:3128/ failed", "by http://***@proxy:3128/ failed");
    cut("http://me:p@ss/w@rd@proxy", "http://***@proxy");
    cut("http://me:p/ss@proxy \"https://a@b/c\"", "http://***@proxy \"https://***@b/c\"");
    for url in ["https://a.io/@b/c", "http://a:80/b@c", "docker-image://a@sha256:bb", "a@b.c"] {
        cut(url, url);
    }
}
