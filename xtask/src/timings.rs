//! Where the time of a run went (`--timings`): a page for any browser, without anything from elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use base::{message, output};
use serde_json::json;

use crate::build::{Ctx, Ended};
use outcome::record::Step;
use outcome::text::{self, rounded};
use outcome::trace::{Span, covered};
use outcome::vertex::Phase;

/// A page that draws the data it holds, which takes the place of the word `DATA`.
const PAGE: &str = include_str!("timings.html");
/// How many lines of a failed step's output are shown.
const LINES: usize = 20;
/// How much work may overlap, by its times, with what waits for it, in seconds.
const SLACK: f64 = 0.02;

/// Something that was done for an image.
struct Bar {
    /// The number of its phase.
    phase: usize,
    name: String,
    span: Span,
    /// Bars of one lane do not overlap.
    lane: usize,
    /// The number of a word in the page's `HOW`.
    how: u8,
    /// True where the end of the image waited for it.
    is_critical: bool,
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

/// By the number and name of a phase; the stages of the Dockerfile follow.
type Totals = BTreeMap<(usize, String), Total>;

/// Writes the page of a run to `path`; empty for the default.
pub fn save(ctx: &Ctx, ended: &[Ended], path: &Path, seconds: f64) -> Result<()> {
    let default = ctx.docker.root.join("target/image/timings.html");
    let path = if path.as_os_str().is_empty() { &default } else { path };
    let (mut totals, mut all) = (Totals::new(), Vec::new());
    for (image, ended) in ctx.images.iter().zip(ended) {
        let last = ctx.last.steps(image).unwrap_or_default();
        all.push(bars(ended, &last, &mut totals));
    }
    let start = all.iter().flatten().map(|bar| bar.span.from).fold(f64::MAX, f64::min);

    // Images have most steps in common, so a name is kept once.
    let (mut names, mut numbers) = (Vec::new(), BTreeMap::new());
    let mut rows = Vec::new();
    for ((image, ended), bars) in ctx.images.iter().zip(ended).zip(&mut all) {
        for Bar { span, .. } in bars.iter_mut() {
            *span = Span { from: rounded(span.from - start), to: rounded(span.to - start) };
        }
        lay_out(bars);
        mark_critical(bars);
        let mut drawn = Vec::new();
        for Bar { phase, name, span, lane, how, is_critical } in bars {
            let number = *numbers.entry(name.clone()).or_insert(names.len());
            if number == names.len() {
                names.push(name.clone());
            }
            let critical = u8::from(*is_critical);
            drawn.push(json!([phase, number, span.from, span.to, lane, how, critical]));
        }
        let failure = ended.failure.as_ref().map(|failure| {
            let output = text::last_lines(&failure.output, LINES);
            json!({ "step": text::title(&failure.name), "output": output })
        });
        rows.push(json!({
            "name": message::one_line(&image.shown),
            "base": message::one_line(&ended.record.base_image),
            "result": ended.record.status.name(),
            "error": ended.record.error.as_ref().map(|error| text::shortened(error, 200)),
            "failure": failure,
            "bars": drawn,
        }));
    }
    let mut sums = Vec::new();
    for ((_, name), Total { now, last, steps, cached }) in totals {
        let last = (!last.is_empty()).then(|| rounded(covered(last)));
        sums.push(json!([name, rounded(covered(now)), last, steps, cached]));
    }
    let data = json!({
        "seconds": rounded(seconds),
        "phases": Phase::ALL.iter().map(|phase| phase.name().replace('_', " ")).collect::<Vec<_>>(),
        "totals": sums,
        "names": names,
        "images": rows,
    });
    // No text can end the element that holds it.
    let page = PAGE.replacen("DATA", &data.to_string().replace('<', "\\u003c"), 1);
    output::save(path, page)?;
    message::say(&format!("timings: {}", path.display()));
    Ok(())
}

/// What was done for an image, in the order of time. Adds that to `totals`.
fn bars(ended: &Ended, last: &BTreeMap<String, Span>, totals: &mut Totals) -> Vec<Bar> {
    let mut bars = Vec::new();
    let mut add = |phase, name, span, how| {
        bars.push(Bar { phase, name, span, lane: 0, how, is_critical: false });
    };
    let all = ended.spans.iter().flat_map(|(_, spans)| spans);
    let end = all.map(|span| span.to).fold(0.0, f64::max);
    for (phase, spans) in ended.spans.iter().filter(|(phase, _)| *phase != Phase::Steps) {
        let number = *phase as usize;
        let name = phase.name().replace('_', " ");
        totals.entry((number, name.clone())).or_default().now.extend(spans);
        for span in spans {
            add(number, name.clone(), *span, 0);
        }
    }
    for step in &ended.record.step_list {
        let to = |from| step.seconds.map_or(end, |seconds| from + seconds).max(from);
        let span = step.started.map(|from| Span { from, to: to(from) });
        let stage = step.name.trim_start_matches('[').split(']').next().unwrap_or_default();
        let stage = stage.rsplit_once(' ').map_or(stage, |(stage, _)| stage);
        let stage = (usize::MAX, format!("stage {stage}"));
        for key in [(Phase::Steps as usize, "steps".to_owned()), stage] {
            let total = totals.entry(key).or_default();
            total.now.extend(span);
            total.last.extend(last.get(&step.name));
            total.steps += 1;
            total.cached += usize::from(step.cached == Some(true));
        }
        let how = match step {
            Step { error: Some(_), .. } => 2,
            Step { cached: Some(true), .. } => 1,
            // It did not end before the run did.
            Step { seconds: None, .. } => 3,
            _ => 0,
        };
        if let Some(span) = span {
            add(Phase::Steps as usize, text::title(&step.name), span, how);
        }
    }
    bars.sort_by(|a, b| a.span.from.total_cmp(&b.span.from));
    bars
}

/// Gives each of `bars` the first lane that is free.
fn lay_out(bars: &mut [Bar]) {
    let mut ends: Vec<f64> = Vec::new();
    for bar in bars {
        bar.lane = ends.iter().position(|end| *end <= bar.span.from).unwrap_or(ends.len());
        match ends.get_mut(bar.lane) {
            Some(end) => *end = bar.span.to,
            None => ends.push(bar.span.to),
        }
    }
}

/// Marks the last of `bars`, and before it each time the one that ended last when the other began: the
/// chain that the end waited for, as far as times tell.
fn mark_critical(bars: &mut [Bar]) {
    let mut until = f64::MAX;
    loop {
        let before = bars.iter_mut().filter(|bar| !bar.is_critical && bar.span.to <= until);
        let Some(bar) = before.max_by(|a, b| a.span.to.total_cmp(&b.span.to)) else { return };
        bar.is_critical = true;
        until = bar.span.from + SLACK;
    }
}
