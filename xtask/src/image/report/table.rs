//! The report for people: some lines for each image, and one line to act on.

use super::cache_read::Read;
use super::failure;
use super::image::{Count, ImageReport, Report};
use super::text::{bytes, cut, or_unknown};
use super::totals::Totals;
use crate::image::build::export::Outcome;
use crate::image::build::image::Image;
use crate::image::build::phase::Phase;
use crate::image::build::registry::Part;
use crate::image::build::span::covered;
use base::message::one_line;

/// With more images than this, only what went wrong is shown.
pub const SHOWN: usize = 8;

/// How many layers are named, and by how much of what made them.
const LARGEST: usize = 4;
const LONGEST_PART: usize = 50;

/// The report, without the end of its last line.
pub fn table(report: &Report) -> String {
    let mut lines = Vec::new();
    if report.images.len() <= SHOWN {
        for image in report.images.iter().filter(|image| image.steps().is_some()) {
            add_image(image, &mut lines);
            let reference = image.reference();
            let parts = reference.and_then(|reference| report.parts.get(&reference));
            lines.extend(parts.map(|parts| size(parts)));
        }
    }
    if report.images.len() > 1 {
        for row in report.built.missing() {
            let (name, base) = (&row.target.name, &row.target.base_image);
            if row.image.error().is_some() {
                let why = failure::why(report.built, row);
                lines.push(format!("{name} on {base} is not built: {why}"));
            }
        }
        lines.push(Totals::of(report).line());
    }
    lines.push(summary(report));
    lines.join("\n")
}

fn add_image(image: &ImageReport, lines: &mut Vec<String>) {
    // With those that took no time, the line would not fit a terminal.
    let phases = Phase::ALL.into_iter().filter_map(|(phase, name)| {
        let seconds =
            image.seconds(phase).map_or("?".to_owned(), |seconds| format!("{seconds:.1}"));
        (seconds != "0.0").then(|| format!("{} {seconds}", name.replace('_', " ")))
    });
    let phases = phases.collect::<Vec<_>>();
    lines.push(format!("{}: {} (seconds)", image.row.target.name, phases.join(", ")));
    for read in image.reads() {
        let how = read.read.map_or("unknown", Read::name);
        let seconds = or_unknown(read.seconds);
        lines.push(format!("  read  {how:<9} {seconds:>7}  {}", read.place));
    }
    for written in image.written() {
        let how = written.outcome.name().unwrap_or("unknown");
        let sent = match (written.uploaded, written.present) {
            (Some(new), Some(old)) => format!(", {} sent, {} reused", bytes(new), bytes(old)),
            _ => String::new(),
        };
        let seconds = or_unknown(written.seconds);
        let mode = image.request.cache_mode.name();
        lines.push(format!("  write {how:<9} {seconds:>7}  {} ({mode}{sent})", written.place));
    }
}

/// The compressed size of an image, and what most of it is.
fn size(parts: &[Part]) -> String {
    let all = bytes(parts.iter().map(|part| part.bytes).sum());
    let largest = parts
        .iter()
        .take(LARGEST)
        .map(|part| format!("{} {}", bytes(part.bytes), cut(&part.made_by, LONGEST_PART)));
    let largest = largest.collect::<Vec<_>>().join("; ");
    format!("  size  {all} compressed in {} layers: {largest}", parts.len())
}

/// The one line to act on.
pub fn summary(report: &Report) -> String {
    let is_counted = |image: &&ImageReport| match image.row.image {
        Image::Done { .. } => true,
        Image::Failed { .. } => report.images.len() == 1,
        Image::Waiting | Image::Present { .. } => false,
    };
    let images = report.images.iter().filter(is_counted).collect::<Vec<_>>();
    let exported = export_summary(report);
    match images.iter().map(|image| image.count()).collect::<Option<Vec<_>>>() {
        None => format!("cache: unknown which steps were cached; {exported}"),
        Some(counts) if counts.is_empty() => format!("cache: no image was built; {exported}"),
        Some(counts) => format!("cache: {}; {exported}", cached(&images, &counts)),
    }
}

/// How many steps were cached, where they are from, and what that saved.
fn cached(images: &[&ImageReport], counts: &[Count]) -> String {
    let total = counts.iter().map(|count| count.total).sum::<usize>();
    let cached = counts.iter().map(|count| count.cached).sum::<usize>();
    let source = images.first().map_or("registry", |image| image.import_source());
    let builder = counts.iter().map(|count| count.from_builder).sum::<Option<usize>>();
    let import = counts.iter().map(|count| count.from_import).sum::<Option<usize>>();
    let from = match (builder, import) {
        _ if cached == 0 => "cache".to_owned(),
        (Some(_), Some(0)) => "builder".to_owned(),
        (Some(0), Some(_)) => source.to_owned(),
        _ => format!("builder or {source}"),
    };
    let saved = images.iter().map(|image| image.saved()).collect::<Option<Vec<_>>>();
    let saved = saved.filter(|_| cached > 0).map(|spans| covered(spans.concat()));
    let saved = saved.map(|seconds| format!(", saved about {seconds:.0} s"));
    format!("{cached} of {total} steps from {from}{}", saved.unwrap_or_default())
}

fn export_summary(report: &Report) -> String {
    let written = &report.built.exports.written;
    let mode = report.request.cache_mode.name();
    if written.is_empty() {
        return format!("nothing exported ({mode})");
    }
    if written.iter().all(|written| written.outcome == Outcome::Skipped) {
        return format!("export skipped, nothing is new ({mode})");
    }
    let seconds = match report.built.exports.bakes.as_slice() {
        [] => written.iter().map(|written| written.seconds).sum::<Option<f64>>(),
        bakes => Some(bakes.iter().map(|bake| bake.seconds).sum()),
    };
    let sent = written.iter().filter_map(|written| written.uploaded).reduce(|sum, b| sum + b);
    let sent = sent.map(|sent| format!(", {}", bytes(sent))).unwrap_or_default();
    let lost = match report.built.exports.lost().count() {
        0 => String::new(),
        lost => format!(", {lost} of {} LOST", written.len()),
    };
    format!("export {}{sent} ({mode}){lost}", or_unknown(seconds))
}

/// What to say of caches that could not be read or written, each once.
pub fn warnings(report: &Report) -> Vec<String> {
    let mut warnings: Vec<String> = Vec::new();
    let mut add = |warning: String| {
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    };
    for image in &report.images {
        for read in image.reads() {
            let is_bad = matches!(read.read, Some(Read::Refused | Read::Failed));
            if let (true, Some(error)) = (is_bad, read.error) {
                let error = one_line(error);
                add(format!("the cache {} can't be read, and is not used: {error}", read.place));
            }
        }
    }
    for lost in report.built.exports.lost() {
        let why = match (&lost.error, lost.outcome) {
            (_, Outcome::TimedOut) => format!(
                "it was not done within {} s (OPENHANDS_BUILDKIT_CACHE_TIMEOUT)",
                report.request.cache_timeout.as_secs()
            ),
            (Some(error), _) => one_line(error),
            (None, _) => "buildx does not say why".to_owned(),
        };
        add(format!(
            "the image of {:?} is complete, but its cache was not written to {}: {why}",
            lost.target, lost.place
        ));
    }
    warnings
}
