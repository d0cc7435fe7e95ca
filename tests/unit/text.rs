//! Text that fits its line.

use super::*;

#[test]
fn lines_fit_their_width_and_errors_keep_their_reason() {
    for (text, columns, expected) in
        [("abcdef", 6, "abcdef"), ("abcdef", 5, "abcd…"), ("日本語", 2, "日…"), ("", 0, "")]
    {
        assert_eq!(cut(text, columns), expected);
    }
    let long = format!("{}reason", "x".repeat(1000));
    let short = shortened(&long);
    assert_eq!(short.chars().count(), LONGEST);
    assert!(short.ends_with("reason"));
}

#[test]
fn a_step_is_named_by_the_first_comment_of_its_heredoc() {
    for (name, expected) in [
        (
            "[builder 4/6] RUN --mount=type=tmpfs,target=/x <<'EOF' (# install it...)",
            "[builder 4/6] install it",
        ),
        ("[a b 1/2] RUN <<EOF (# only (one) line)", "[a b 1/2] only (one) line"),
        ("[a 1/2] RUN <<EOF (. /run/steps.sh...)", "[a 1/2] RUN <<EOF (. /run/steps.sh...)"),
        ("[a 1/2] RUN <<EOF (#!/bin/bash...)", "[a 1/2] RUN <<EOF (#!/bin/bash...)"),
        ("[a 1/2] RUN --mount=type=x   echo (# b)", "[a 1/2] RUN echo (# b)"),
        ("exporting to image", "exporting to image"),
    ] {
        assert_eq!(step(name), expected);
    }
}

#[test]
fn output_is_cut_into_lines_and_the_last_needs_no_end() {
    let mut lines = Lines::default();
    assert!(lines.add("h\u{e9}".as_bytes().split_at(2).0).is_empty());
    assert_eq!(lines.add(b"\xa9llo\r\n10%\r50%\r100%\n\nlast"), ["h\u{e9}llo", "100%", ""]);
    assert_eq!(lines.end().as_deref(), Some("last"));
    assert_eq!(lines.end(), None);
    assert_eq!(lines.add(&vec![b'x'; LONGEST_REST + 1]).len(), 1, "output without end");
}
