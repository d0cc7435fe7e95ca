//! Where the time of a run went (`--timings`): a page for any browser, or a trace for Perfetto.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use xshell::Shell;

use super::image::{ImageReport, Report};
use super::text::{self, rounded};
use crate::image::build::buildkit::Vertex;
use crate::image::build::phase::Phase;
use crate::image::build::span::{Span, covered};
use base::message;
use base::output;

/// A page that draws the data it holds, without anything from elsewhere.
const PAGE: &str = include_str!("timings.html");
/// What the data takes the place of.
const PLACE: &str = "DATA";
/// How many lines of a failed step's output are shown.
const LINES: usize = 20;

/// How much work may overlap, by its times, with what waits for it, in seconds.
const SLACK: f64 = 0.02;

/// Something that was done for an image, which the page and the trace show as a bar.
struct Bar {
    phase: usize,
    name: String,
    span: Span,
    /// Bars of one lane do not overlap.
    lane: usize,
    how: How,
    /// Whether the end of the image waited for it.
    is_critical: bool,
}

/// In the order of the page's `HOW`.
#[derive(Clone, Copy, PartialEq)]
enum How {
    Ran,
    Cached,
    Failed,
    /// It did not end before the run did.
    Stopped,
}

/// Writes the timings of `report` to `path`: a Chrome trace if that ends in `.json`, else a page.
/// An empty path is the default.
pub fn save(sh: &Shell, report: &Report, path: &Path) -> Result<()> {
    let default = sh.current_dir().join("target/image/timings.html");
    let path = if path.as_os_str().is_empty() { &default } else { path };
    let mut bars = report.images.iter().map(bars).collect::<Vec<_>>();
    let starts = bars.iter().flatten().map(|bar| bar.span.from);
    let start = starts.min_by(f64::total_cmp).unwrap_or_default();
    for Bar { span, .. } in bars.iter_mut().flatten() {
        *span = Span { from: rounded(span.from - start), to: rounded(span.to - start) };
    }
    for bars in &mut bars {
        lay_out(bars);
        mark_critical(bars);
    }
    let content = if path.extension().is_some_and(|extension| extension == "json") {
        trace(report, &bars).to_string()
    } else {
        // No text can end the element that holds it.
        PAGE.replacen(PLACE, &data(report, &bars).to_string().replace('<', "\\u003c"), 1)
    };
    output::save(path, content)?;
    message::say(&format!("timings: {}", path.display()));
    Ok(())
}

/// What was done for `image`.
fn bars(image: &ImageReport) -> Vec<Bar> {
    let name = &image.row.target.name;
    let Some(bake) = image.built.bake(image.row) else { return Vec::new() };
    let end = bake.bake.trace.whole().map_or(0.0, |whole| whole.to);
    let failed = image.built.failure(image.row).map(|failure| Phase::of(Vertex::of(failure.name)));
    let mut bars = Vec::new();
    for (index, (phase, title)) in Phase::ALL.into_iter().enumerate() {
        let mut add = |name, span, how| {
            bars.push(Bar { phase: index, name, span, lane: 0, how, is_critical: false });
        };
        if phase == Phase::Steps {
            for step in image.steps().unwrap_or_default() {
                let Some(from) = step.started else { continue };
                let how = match (&step.error, step.cached, step.seconds) {
                    (Some(_), ..) => How::Failed,
                    (_, Some(true), _) => How::Cached,
                    (_, _, None) => How::Stopped,
                    _ => How::Ran,
                };
                let to = step.seconds.map_or(end, |seconds| from + seconds).max(from);
                add(message::one_line(&text::step(&step.name)), Span { from, to }, how);
            }
            continue;
        }
        let mut spans = bake.spans(name, phase).unwrap_or_default();
        if phase == Phase::CacheExport {
            for bake in &image.built.exports.bakes {
                let own = [name.clone(), format!("{name}-shared")];
                spans.extend(own.iter().filter_map(|n| bake.trace.spans(n, phase)).flatten());
            }
        }
        let last = spans.len().saturating_sub(1);
        for (place, span) in spans.into_iter().enumerate() {
            let is_failed = place == last && failed == Some(phase);
            let how = if is_failed { How::Failed } else { How::Ran };
            add(title.replace('_', " "), span, how);
        }
    }
    bars
}

/// Gives each of `bars`, in the order of time, the first lane that is free.
fn lay_out(bars: &mut [Bar]) {
    bars.sort_by(|a, b| a.span.from.total_cmp(&b.span.from));
    let mut ends: Vec<f64> = Vec::new();
    for bar in bars {
        bar.lane = ends.iter().position(|end| *end <= bar.span.from).unwrap_or(ends.len());
        match ends.get_mut(bar.lane) {
            Some(end) => *end = bar.span.to,
            None => ends.push(bar.span.to),
        }
    }
}

/// Marks the last of `bars`, and before it each time the one that ended last when the other began:
/// the chain that the end waited for, as far as times tell.
fn mark_critical(bars: &mut [Bar]) {
    let mut until = f64::MAX;
    loop {
        let before = bars.iter_mut().filter(|bar| !bar.is_critical && bar.span.to <= until);
        let last = before.max_by(|a, b| a.span.to.total_cmp(&b.span.to));
        let Some(bar) = last else { return };
        bar.is_critical = true;
        until = bar.span.from + SLACK;
    }
}

/// The data of the page.
fn data(report: &Report, bars: &[Vec<Bar>]) -> Value {
    // Images have most steps in common, so a name is kept once.
    let mut names = BTreeMap::new();
    for bar in bars.iter().flatten() {
        let next = names.len();
        names.entry(bar.name.as_str()).or_insert(next);
    }
    let mut table = vec![""; names.len()];
    for (name, index) in &names {
        table[*index] = name;
    }
    let image = |(image, bars): (&ImageReport, &Vec<Bar>)| {
        let failure = image.built.failure(image.row).map(|failure| {
            json!({
                "step": message::one_line(&text::step(failure.name)),
                "output": text::last_lines(failure.output, LINES),
            })
        });
        let bar = |bar: &Bar| {
            let (name, span) = (names.get(bar.name.as_str()), bar.span);
            let is_critical = u8::from(bar.is_critical);
            json!([bar.phase, name, span.from, span.to, bar.lane, bar.how as u8, is_critical])
        };
        json!({
            "name": image.row.target.name,
            "base": message::one_line(&image.row.target.base_image),
            "result": image.result(),
            "error": image.row.image.error().map(text::shortened),
            "failure": failure,
            "bars": bars.iter().map(bar).collect::<Vec<_>>(),
        })
    };
    json!({
        "seconds": rounded(report.seconds),
        "phases": Phase::ALL.map(|(_, name)| name.replace('_', " ")),
        "totals": totals(report, bars),
        "names": table,
        "images": report.images.iter().zip(bars).map(image).collect::<Vec<_>>(),
    })
}

/// What is summed up in a row of the totals.
#[derive(Default)]
struct Total {
    now: Vec<Span>,
    /// When the steps last ran in a build before.
    last: Vec<Span>,
    steps: usize,
    cached: usize,
}

/// Rows of a name, seconds, those before, steps and cached steps: for each phase, then for each
/// stage of the Dockerfile. Time in which several things were done counts once.
fn totals(report: &Report, bars: &[Vec<Bar>]) -> Vec<Value> {
    let phases = Phase::ALL.map(|(phase, name)| (phase, name.replace('_', " ")));
    let mut by_phase = phases.map(|(phase, name)| (phase, name, Total::default()));
    let mut by_stage = BTreeMap::<&str, Total>::new();
    for bar in bars.iter().flatten() {
        let Some((phase, _, total)) = by_phase.get_mut(bar.phase) else { continue };
        total.now.push(bar.span);
        if *phase == Phase::Steps {
            let of_stage = by_stage.entry(stage(&bar.name)).or_default();
            of_stage.now.push(bar.span);
            for total in [of_stage, total] {
                total.steps += 1;
                total.cached += usize::from(bar.how == How::Cached);
            }
        }
    }
    let last = report.images.iter().filter_map(|image| image.build.as_ref()?.last.as_ref());
    for (name, span) in last.flat_map(|last| &last.steps) {
        let of_stage = by_stage.get_mut(stage(name));
        let phase = by_phase.iter_mut().find(|(phase, ..)| *phase == Phase::Steps);
        for total in of_stage.into_iter().chain(phase.map(|(_, _, total)| total)) {
            total.last.push(*span);
        }
    }
    let row = |name: String, Total { now, last, steps, cached }| {
        let last = (!last.is_empty()).then(|| rounded(covered(last)));
        json!([name, rounded(covered(now)), last, steps, cached])
    };
    let stages = by_stage.into_iter().map(|(name, total)| row(format!("stage {name}"), total));
    let rows = by_phase.into_iter().map(|(_, name, total)| row(name, total));
    rows.chain(stages.collect::<Vec<_>>()).collect()
}

/// The stage of the Dockerfile that the step `name` is in.
fn stage(name: &str) -> &str {
    let head = name.trim_start_matches('[').split(']').next().unwrap_or_default();
    head.rsplit_once(' ').map_or(head, |(stage, _)| stage)
}

/// The bars in the format of Chrome's tracing, in which an image is a process and a lane a thread.
/// Perfetto has other uses for those of number 0.
fn trace(report: &Report, bars: &[Vec<Bar>]) -> Value {
    let mut events = Vec::new();
    for (pid, (image, bars)) in report.images.iter().zip(bars).enumerate() {
        let name = json!({ "name": format!("{} ({})", image.row.target.name, image.result()) });
        events.push(json!({ "name": "process_name", "ph": "M", "pid": pid + 1, "args": name }));
        let failure = image.built.failure(image.row);
        for Bar { phase, name, span, lane, how, is_critical } in bars {
            let category = Phase::ALL.get(*phase).map(|(_, name)| *name);
            let failed = failure.filter(|_| *how == How::Failed);
            let output = failed.map(|failure| text::lines(failure.output).join("\n"));
            let error = failed.map(|failure| text::shortened(failure.error));
            events.push(json!({
                "name": name, "cat": category, "ph": "X", "pid": pid + 1, "tid": lane + 1,
                "ts": (span.from * 1e6).round(), "dur": ((span.to - span.from) * 1e6).round(),
                "args": {
                    "cached": *how == How::Cached, "stopped": *how == How::Stopped,
                    "critical": is_critical,
                    "error": error, "output": output,
                },
            }));
        }
    }
    json!({ "traceEvents": events, "displayTimeUnit": "ms" })
}
