//! Why an image was not built, as the last thing on the screen: the step, its place in the
//! Dockerfile, the end of its output, and what to try.

use xshell::Shell;

use super::text::{last_lines, shortened, shortened_to, shown};
use super::{log, screen};
use crate::image::build::buildkit::{self, Cause, Vertex};
use crate::image::build::built::{Built, Row};
use crate::image::request::Request;
use crate::image::request::definition::DOCKERFILE;
use base::message;

/// How many lines of a step's output are shown.
const LINES: usize = 10;
/// The width of what stands around the name of a step: the file, a line's number, and words.
const PLACE: usize = DOCKERFILE.len() + 16;
/// The width of what marks a line of output.
const MARK: usize = 4;

/// Shows the step that the image of `row` failed by, if it was one, and where more of its output is.
pub fn show(sh: &Shell, request: &Request, built: &Built, row: &Row) {
    let Some(failure) = built.failure(row) else { return };
    if Vertex::of(failure.name) != Vertex::Step {
        return;
    }
    let dockerfile = sh.read_file(DOCKERFILE).unwrap_or_default();
    let line = place(&dockerfile, failure.name);
    let room = screen::columns().saturating_sub(PLACE);
    message::failed(&shortened_to(&shown(failure.name), room), DOCKERFILE, line);
    for line in last_lines(failure.output, LINES) {
        message::say(&format!("  | {}", shortened_to(&line, screen::columns() - MARK)));
    }
    if let Some(log) = log::path(sh, request, built, row) {
        message::say(&format!("log: {}", log.display()));
    }
}

/// Why the image of `row` is missing: the step and how it ended, where that is known.
pub fn why(built: &Built, row: &Row) -> String {
    let Some(failure) = built.failure(row) else {
        return shortened(row.image.error().unwrap_or("not reached"));
    };
    match buildkit::step_end(failure.error) {
        Some(why) => format!("{} ended with {why}", shown(failure.name)),
        None => format!("{}: {}", shown(failure.name), shortened(failure.error)),
    }
}

/// Why the image of `row` is missing, and what to try, in one line.
pub fn sentence(built: &Built, row: &Row) -> String {
    let (name, why) = (&row.target.name, why(built, row));
    let Some(failure) = built.failure(row) else {
        let cause = row.image.error().map(Cause::of);
        let remedy = cause.map(|cause| format!("; {}", cause.remedy()));
        return format!("{name} was not built: {why}{}", remedy.unwrap_or_default());
    };
    let remedy = if failure.name.starts_with("[check ") {
        "the server does not start: its log is above; --check=off builds it all the same"
    } else {
        failure.cause().remedy()
    };
    format!("{name} was not built: {why}. To go on: {remedy}.")
}

/// The number of the line in which the step called `name` begins, by the comment that names it, or
/// by its first words.
fn place(dockerfile: &str, name: &str) -> Option<usize> {
    let (stage, step) = name.strip_prefix('[')?.split_once("] ")?;
    let title = shown(name);
    let (_, title) = title.split_once("] ")?;
    let stage = stage.rsplit_once(' ').map_or("", |(stage, _)| stage);
    let is_stage = |line: &str| line.to_lowercase().ends_with(&format!(" as {stage}"));
    let lines = dockerfile.lines().map(str::trim).enumerate();
    let mut lines = lines.skip_while(|(_, line)| !stage.is_empty() && !is_stage(line));
    let found = lines.find(|(_, line)| {
        let words = line.trim_end_matches('\\').trim_end();
        line.strip_prefix("# ") == Some(title) || words.contains(' ') && step.starts_with(words)
    });
    found.map(|(index, _)| index + 1)
}
