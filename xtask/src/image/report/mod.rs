//! The report of a run: what its caches cost and what they saved. JSON for programs, a few lines
//! for people. What is not known is `null`, never 0.

pub mod build_info;
pub mod cache_read;
pub mod ended;
pub mod failed;
pub mod failure;
pub mod github;
pub mod image;
pub mod last_build;
pub mod log;
pub mod manifest;
pub mod openapi;
pub mod progress;
pub mod screen;
pub mod table;
pub mod text;
mod timings;
mod totals;

use anyhow::Result;
use serde_json::{Map, Value, json};
use xshell::Shell;

use self::image::{ImageReport, Report};
use self::text::rounded;
use self::totals::Totals;
use super::build::images::ImagesBaked;
use super::request::source::Source;
use base::error::Interrupted;
use base::message;
use base::output;

/// The version of the report for programs.
const SCHEMA: u64 = 1;

/// Shows the report on standard error and on the page of a GitHub job, writes the files of
/// `--report` and `--timings`, and keeps what the next builds are compared with.
pub fn publish(sh: &Shell, report: &Report) -> Result<()> {
    for warning in table::warnings(report) {
        message::warn(&warning);
    }
    if report.request.explain {
        for image in &report.images {
            let Some(build) = &image.build else { continue };
            let steps = image.steps();
            for line in last_build::explain(&image.row.target.name, steps.as_deref(), build) {
                message::say(&line);
            }
        }
    }
    let table = table::table(report);
    // Whoever stops a batch is told how to continue it, and no more.
    let is_stopped = matches!(report.ended, Err(error) if error.is::<Interrupted>());
    if !(is_stopped && report.request.is_batch()) {
        table.lines().for_each(|line| message::say(&screen::fit(line)));
    }
    github::write_page(&format!("### {}\n\n{}", title(report), github::fenced("text", &table)))?;
    if let Some(path) = &report.request.report {
        output::save(path, message::without_credentials(&format!("{:#}\n", json(report))))?;
    }
    if let Some(path) = &report.request.timings {
        timings::save(sh, report, path)?;
    }
    let done = report.images.iter().filter(|image| image.row.image.is_there());
    let mut builds = done.filter_map(|image| image.build.as_ref());
    builds.try_for_each(|build| build.now.save(&build.path))
}

/// What a run made, as a heading: the first tag of one image, else how many of them are there.
fn title(report: &Report) -> String {
    match report.images.as_slice() {
        [ImageReport { row, .. }] if row.image.is_there() => {
            let name = row.target.tags.first().unwrap_or(&row.target.name);
            format!("Image `{name}`")
        }
        [ImageReport { row, .. }] => format!("`{}` is not built", row.target.name),
        images => {
            let done = images.iter().filter(|image| image.row.image.is_there()).count();
            format!("{done} of {} images", images.len())
        }
    }
}

/// The report for programs.
fn json(report: &Report) -> Value {
    let target =
        |image: &ImageReport| (image.row.target.name.clone(), image.json(&report.contents));
    let targets = report.images.iter().map(target);
    let Source { sha, git_ref, is_dirty, server, packages, .. } = report.source;
    let packages = packages.iter().map(|package| (package.name.clone(), json!(package.version)));
    let images = report.built.bakes.iter().map(ImagesBaked::context_bytes);
    let exports = report.built.exports.bakes.iter().map(|bake| bake.trace.context_bytes());
    let context_bytes = images.chain(exports).flatten();
    json!({
        "schema": SCHEMA,
        "result": match report.ended {
            Ok(()) => "done",
            Err(error) if error.is::<Interrupted>() => "interrupted",
            Err(_) => "failed",
        },
        "seconds": rounded(report.seconds),
        "cache_mode": report.request.cache_mode.name(),
        "builder": report.builder.name,
        "builder_was_empty": report.builder.was_empty,
        "context_bytes": context_bytes.reduce(|sum, bytes| sum + bytes),
        "server": {
            "from": server.name(),
            "commit": sha,
            "ref": git_ref,
            "dirty": is_dirty,
            "packages": packages.collect::<Map<_, _>>(),
        },
        "totals": Totals::of(report).json(),
        "targets": targets.collect::<Map<_, _>>(),
        "summary": table::summary(report),
    })
}
