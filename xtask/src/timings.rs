//! Where the time of a run went (`--timings`): a page for any browser, without anything from elsewhere.

use std::path::Path;

use anyhow::Result;
use base::message::{self, without_credentials};
use base::output;
use serde_json::json;

use crate::build::{Ctx, Ended};
use outcome::record::Step;
use outcome::text;
use outcome::trace::Span;
use outcome::vertex::{self, Phase};

/// A page that sums up and draws the data it holds, which takes the place of the word `DATA`.
const PAGE: &str = include_str!("timings.html");
/// How many lines of a failed step's output are shown.
const LINES: usize = 20;

/// Writes the page of a run to `path`; empty for the default.
pub fn save(ctx: &Ctx, ended: &[Ended], path: &Path, seconds: f64) -> Result<()> {
    let default = ctx.docker.root.join("target/image/timings.html");
    let path = if path.as_os_str().is_empty() { &default } else { path };
    let phases = Phase::ALL.iter().map(|phase| phase.name().replace('_', " ")).collect::<Vec<_>>();
    let mut images = Vec::new();
    for (image, ended) in ctx.images.iter().zip(ended) {
        let mut bars = Vec::new();
        for (phase, spans) in ended.spans.iter().filter(|(phase, _)| *phase != Phase::Steps) {
            let number = *phase as usize;
            bars.extend(spans.iter().map(|Span { from, to }| {
                json!({ "phase": number, "name": phases[number], "from": from, "to": to })
            }));
        }
        let last = ctx.last.steps(image).unwrap_or_default();
        for step in &ended.record.step_list {
            let Some(from) = step.started else { continue };
            let place = vertex::instruction(&step.name).map_or("", |(place, _)| place);
            let how = match step {
                Step { error: Some(_), .. } => "failed",
                Step { cached: Some(true), .. } => "cached",
                // It did not end before the run did.
                Step { seconds: None, .. } => "stopped",
                _ => "",
            };
            bars.push(json!({
                "phase": Phase::Steps as usize,
                "name": text::title(&step.name),
                "stage": place.rsplit_once(' ').map_or(place, |(stage, _)| stage),
                "from": from,
                "to": step.seconds.map(|seconds| from + seconds),
                "how": how,
                "last": last.get(&step.name).map(|Span { from, to }| json!({ "from": from, "to": to })),
            }));
        }
        images.push(
            json!({
                "name": image.shown,
                "base": ended.record.base_image,
                "result": ended.record.status.name(),
                "error": ended.record.error.as_ref().map(|error| text::shortened(error, 200)),
                "failure": ended.failure.as_ref().map(|failure| json!({
                    "step": text::title(&failure.name),
                    "output": text::last_lines(&failure.output, LINES),
                })),
                "bars": bars,
            })
            .to_string(),
        );
    }
    let (phases, images) = (json!(phases), images.join(","));
    let data = format!("{{\"seconds\":{seconds},\"phases\":{phases},\"images\":[{images}]}}");
    // No text can end the element that holds it.
    let data = without_credentials(&data).replace('<', "\\u003c");
    output::save(path, PAGE.replacen("DATA", &data, 1))?;
    message::say(&format!("timings: {}", path.display()));
    Ok(())
}
