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
