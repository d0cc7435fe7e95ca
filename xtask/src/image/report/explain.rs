//! Why did a step run? Only what is certain: the first step that no cache had, and what of the
//! things that a build is made of differs from the last one that is recorded.

use std::collections::BTreeMap;

use crate::image::build::trace::Step;
use crate::image::report::last_build::{OF_COMMIT, Record};
use crate::image::report::text::shown;

/// Says it for the build of `target` that `now` records, whose steps were `steps`.
pub fn explain(
    target: &str,
    steps: Option<&[Step]>,
    now: &Record,
    last: Option<&Record>,
) -> Vec<String> {
    let Some(steps) = steps else {
        return vec![format!("{target}: buildx told of no step, so nothing is known.")];
    };
    // They come in the order in which they began.
    let Some(first) = steps.iter().find(|step| step.cached == Some(false)) else {
        return vec![format!("{target}: every step came from a cache.")];
    };
    let mut lines = vec![format!("{target}: the first step that ran is {}", shown(&first.name))];
    let Some(last) = last else {
        lines.push("  no earlier build of it is recorded here to compare with.".to_owned());
        return lines;
    };
    let found = differences(&first.name, now, last);
    if found.is_empty() {
        lines.push(
            "  nothing that a build is made of differs from the last one: no cache that was read \
             holds the step any more, or it never did. Which, BuildKit does not tell."
                .to_owned(),
        );
    }
    lines.extend(found.into_iter().map(|line| format!("  {line}")));
    lines
}

/// What differs, and where that is certain, whether the step named `step` reads it.
fn differences(step: &str, now: &Record, last: &Record) -> Vec<String> {
    let mut found = Vec::new();
    for (name, was, is) in changes(&last.bases, &now.bases) {
        found.push(format!("base image {name}: {} before, now {}", or_none(was), or_none(is)));
    }
    for (name, was, is) in changes(&last.args, &now.args) {
        if !OF_COMMIT.contains(&name) {
            found.push(format!("build argument {name}: {} before, now {}", value(was), value(is)));
        }
    }
    for (name, was, is) in changes(&last.files, &now.files) {
        let how = match (was, is) {
            (None, _) => "is new",
            (_, None) => "is gone",
            _ => "has changed",
        };
        let read = if step.contains(name) { "which this step reads, " } else { "" };
        found.push(format!("the file {name}, {read}{how}"));
    }
    if let Some((number, line)) = first_line(&last.dockerfile.text, &now.dockerfile.text) {
        found.push(format!("Dockerfile line {number}, the first that differs: {line}"));
    }
    found
}

/// The entries that are not the same in both, with their old and new values.
fn changes<'a>(
    last: &'a BTreeMap<String, String>,
    now: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = (&'a str, Option<&'a String>, Option<&'a String>)> {
    let gone = last.keys().filter(|name| !now.contains_key(*name));
    let names = now.keys().chain(gone);
    names
        .map(|name| (name.as_str(), last.get(name), now.get(name)))
        .filter(|(_, was, is)| was != is)
}

fn or_none(text: Option<&String>) -> &str {
    text.map_or("none", String::as_str)
}

fn value(text: Option<&String>) -> String {
    text.map_or("none".to_owned(), |text| format!("{text:?}"))
}

/// The number and text of the first line in which `now` is not as it `was`.
fn first_line<'a>(was: &str, now: &'a str) -> Option<(usize, &'a str)> {
    let mut old = was.lines();
    let mut count = 0;
    for line in now.lines() {
        count += 1;
        if old.next() != Some(line) {
            return Some((count, line.trim()));
        }
    }
    old.next().map(|_| (count + 1, "the end"))
}
