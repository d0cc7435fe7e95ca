//! What a run says of its images: a line or some for people, the files of GitHub, and the error that ends
//! it. All of it comes from records.

use anyhow::{Result, anyhow};
use base::error::Interrupted;
use base::message::{self, one_line};

use crate::build::{Ctx, Ended};
use crate::docker::Docker;
use crate::github;
use crate::progress::columns;
use crate::record::{CacheWritten, Record, Status};
use crate::timings;
use buildkit::cause::{self, Cause};
use buildkit::text::{self, bytes, cut, shortened};
use buildkit::trace::Failure;
use buildkit::vertex::{self, Phase};
use request::cli::{Args, quoted};
use request::definition::FOLDER;
use request::names;
use request::plan::Image;
use request::source::Source;

/// With more images than this, only what went wrong is shown.
const SHOWN: usize = 8;
/// How many lines of a step's output are shown.
const LINES: usize = 10;
/// How many layers are named, and by how much of what made them.
const LARGEST: usize = 4;
const LONGEST_PART: usize = 50;

/// The width of a line of a batch.
fn width() -> usize {
    columns().min(100)
}

/// Says that an image is where it belongs.
pub fn image_delivered(ctx: &Ctx, number: usize, image: &Image, record: &Record) {
    let tag = record.tags.first().and_then(|tag| tag.rsplit(':').next()).unwrap_or_default();
    let name = shortened(&image.shown, width() - 20);
    let room = width().saturating_sub(name.chars().count() + 9);
    ctx.progress.end(number, false, &format!("built  {name}  {}", cut(tag, room)));
}

/// Says why an image of `count` images failed.
pub fn image_ended(ctx: &Ctx, count: usize, image: &Image, ended: &Ended) {
    if ended.record.status != Status::Failed {
        return;
    }
    let name = shortened(&image.shown, width() - 30);
    let room = width().saturating_sub(name.chars().count() + 9);
    let line = format!("failed {name}: {}", shortened(&why(ended), room));
    let is_first = ctx.progress.end(ended.number, true, &line);
    if count > 1 {
        message::folded(&format!("why {} failed", image.shown), is_first, || show_failure(ended));
    }
}

/// Why an image is missing: the step and how it ended, where that is known.
fn why(ended: &Ended) -> String {
    let error = ended.record.error.as_deref().unwrap_or("not tried");
    match ended
        .failure
        .as_ref()
        .and_then(|failure| Some((failure, cause::step_end(&failure.error)?)))
    {
        Some((failure, end)) => format!("{} ended with {end}", text::title(&failure.name)),
        None => one_line(error),
    }
}

/// Shows the step that an image failed by, if it was one, its file and its last output.
fn show_failure(ended: &Ended) {
    if let Some(failure) =
        ended.failure.as_ref().filter(|failure| Phase::of(&failure.name) == Phase::Steps)
    {
        let script = vertex::script(&failure.name);
        let file = script.as_ref().and_then(|script| script.split(' ').next());
        let file = match file {
            Some(file) if file.ends_with(".py") => format!("{FOLDER}/runtime/{file}"),
            Some(file) => format!("{FOLDER}/steps/{file}"),
            None => format!("{FOLDER}/Dockerfile"),
        };
        message::failed(&text::title(&failure.name), &file, None);
        for line in text::last_lines(&failure.output, LINES) {
            message::say(&format!("  | {}", shortened(&line, columns() - 4)));
        }
    }
    if let Some(log) = &ended.record.log {
        message::say(&format!("log: {log}"));
    }
}

/// Shows what came of a run, writes the files of GitHub and of `--timings`, and keeps what the next builds
/// are compared with. Returns the error that ends the run, if there is one; others are warned of.
pub fn publish(
    ctx: &Ctx,
    images: &[Image],
    ended: &[Ended],
    error: Option<anyhow::Error>,
    seconds: f64,
) -> Result<()> {
    let is_stopped = error.as_ref().is_some_and(anyhow::Error::is::<Interrupted>);
    for warning in warnings(ctx, ended) {
        message::warn(&warning);
    }
    if ctx.args.explain {
        for ended in ended.iter().filter(|ended| ended.record.attempts.is_some()) {
            let lines = images.get(ended.number).map(|image| ctx.last.explain(image, ended));
            lines.into_iter().flatten().for_each(|line| message::say(&line));
        }
    }
    let table = table(ctx, images, ended, seconds);
    // Whoever stops a batch is told how to continue it, and no more.
    if !(is_stopped && images.len() > 1) {
        for line in &table {
            message::say(&shortened(line, columns()));
        }
    }
    let mut later = Vec::new();
    let records = ended.iter().map(|ended| &ended.record).collect::<Vec<_>>();
    later.extend(write_outputs(ctx.args, ctx.source, &records).err());
    let page = format!("### {}\n\n{}", title(&records), github::fenced("text", &table.join("\n")));
    later.extend(github::write_page(&page).err());
    if let Some(path) = &ctx.args.timings {
        later.extend(timings::save(ctx, images, ended, path, seconds).err());
    }
    for ended in ended.iter().filter(|ended| ended.record.status == Status::Built) {
        if let Some(image) = images.get(ended.number) {
            later.extend(ctx.last.save(image, ended).err());
        }
    }
    let failed = ended.iter().filter(|ended| !ended.record.status.is_there()).collect::<Vec<_>>();
    let first = match (error, failed.as_slice()) {
        (Some(error), _) if is_stopped => {
            if images.len() > 1 && ctx.args.push() {
                message::say(&format!(
                    "`{}` continues this batch",
                    retry(ctx.args, images, &failed)
                ));
            }
            Some(error)
        }
        (error, []) => {
            let error = error.map(|error| error.context(delivered(ctx, &records)));
            error.or_else(|| strict(ctx, &records))
        }
        (error, [one]) if images.len() == 1 => {
            later.extend(error);
            show_failure(one);
            Some(one_failed(one))
        }
        (error, failed) => {
            later.extend(error);
            let skipped = failed.iter().find(|ended| ended.record.status == Status::Skipped);
            let stopped = skipped.and_then(|ended| ended.record.error.as_ref());
            let stopped = stopped.map(|why| format!(": {why}")).unwrap_or_default();
            let cause = failed.iter().rev().find(|ended| ended.record.status == Status::Failed);
            let why =
                cause.map(|ended| format!("; the last error: {}", shortened(&why(ended), 100)));
            let hint = cause.and_then(|ended| ended.cause?.hint()).filter(|_| skipped.is_some());
            let hint = hint.map_or_else(
                || "build the others with ".to_owned(),
                |hint| format!("{hint}, then run "),
            );
            Some(anyhow!(
                "{} of {} images failed{stopped}{}\nhint: {hint}`{}`",
                failed.len(),
                images.len(),
                why.filter(|_| skipped.is_some()).unwrap_or_default(),
                retry(ctx.args, images, failed)
            ))
        }
    };
    let mut later = later.into_iter();
    let last = first.or_else(|| later.next());
    for other in later {
        message::warn(&format!("{other:#}"));
    }
    last.map_or(Ok(()), Err)
}

/// Why the only image of a run was not built, and what to do.
fn one_failed(ended: &Ended) -> anyhow::Error {
    let record = &ended.record;
    let is_check = ended.failure.as_ref().is_some_and(Failure::is_check);
    let log = record.log.as_ref().map(|log| format!("the log says more: {log}"));
    let hint = match ended.cause {
        _ if is_check => {
            Some("the server does not start on this base image; its output is above".to_owned())
        }
        Some(Cause::Other) => log,
        Some(cause) => cause.hint().map(str::to_owned),
        None => None,
    };
    let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    anyhow!("{} was not built: {}{hint}", record.name, shortened(&why(ended), 400))
}

/// The command that builds what has failed, and nothing else: for a push the one that was typed, with
/// `--skip-existing`; else the one that was typed, for the variants or base images that failed. Where
/// images have names of their own, these are in the list alone, so all of it is built again.
fn retry(args: &Args, images: &[Image], failed: &[&Ended]) -> String {
    let words = std::env::args().skip(1).collect::<Vec<_>>();
    let (flags, behind) = match words.iter().position(|word| word == "--") {
        Some(at) => words.split_at(at),
        None => (words.as_slice(), [].as_slice()),
    };
    let failed = failed.iter().filter_map(|ended| images.get(ended.number)).collect::<Vec<_>>();
    let variants = failed.iter().filter_map(|image| image.variant.clone()).collect::<Vec<_>>();
    let has_own_tags = |image: &&Image| {
        let mut listed = args.base_images.iter().filter(|base| !base.custom_tags.is_empty());
        listed.any(|base| base.reference == image.base_image)
    };
    let mut is_piped = args.base_images_file.as_deref() == Some("-");
    let mut kept = flags.to_vec();
    if args.push() {
        if !flags.iter().any(|word| word == "--skip-existing") {
            kept.push("--skip-existing".to_owned());
        }
    } else if variants.len() == failed.len() {
        kept = without_flags(&kept, &["--shard", "--variant"]);
        kept.extend(["--variant".to_owned(), variants.join(",")]);
    } else if !failed.iter().any(has_own_tags) {
        kept = without_flags(&kept, &["--shard", "--base-images", "--base-image"]);
        is_piped = false;
        // A named variant on one base image alone would have the variant's tags.
        if failed.len() == 1 && args.custom_tags.is_none() {
            kept.push("--custom-tags=".to_owned());
        }
        for image in failed {
            kept.extend(["--base-image".to_owned(), image.base_image.clone()]);
        }
    }
    kept.extend(behind.iter().cloned());
    let words = kept.iter().map(|word| quoted(word)).collect::<Vec<_>>();
    // A list that was read from standard input is gone.
    format!("cargo xtask {}{}", words.join(" "), if is_piped { " < LIST" } else { "" })
}

/// `words` without the flags `names` and their values.
fn without_flags(words: &[String], names: &[&str]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if names.contains(&word.as_str()) {
            words.next();
        } else if !names.iter().any(|name| word.starts_with(&format!("{name}="))) {
            kept.push(word.clone());
        }
    }
    kept
}

/// Says that the images are where they belong.
fn delivered(ctx: &Ctx, records: &[&Record]) -> String {
    let tags = records.iter().filter_map(|record| record.tags.first());
    let tags = tags.map(String::as_str).collect::<Vec<_>>().join(", ");
    let how = if ctx.args.push() { "pushed" } else { "loaded" };
    format!("{}: {how}, but a later step failed", shortened(&tags, 200))
}

/// With `--strict-cache`, the error for caches that were not written.
fn strict(ctx: &Ctx, records: &[&Record]) -> Option<anyhow::Error> {
    let written = records.iter().flat_map(|record| &record.cache_written);
    let is_kept = |w: &&CacheWritten| matches!(w.result.as_deref(), Some("done" | "skipped"));
    let (all, kept) = (written.clone().count(), written.filter(is_kept).count());
    let lost = all - kept;
    (ctx.args.strict_cache && lost > 0)
        .then(|| anyhow!("{lost} of {all} caches were not written (--strict-cache)"))
}

/// What a run made, as a heading: the first tag of one image, else how many of them are there.
fn title(records: &[&Record]) -> String {
    match records {
        [record] if record.status.is_there() => {
            format!("Image `{}`", record.tags.first().unwrap_or(&record.name))
        }
        [record] => format!("`{}` is not built", record.name),
        records => {
            let done = records.iter().filter(|record| record.status.is_there()).count();
            format!("{done} of {} images", records.len())
        }
    }
}

/// Writes the outputs of the GitHub Actions step, if this is one.
/// Errors: the file can't be written.
pub fn write_outputs(args: &Args, source: &Source, records: &[&Record]) -> Result<()> {
    let done = || records.iter().filter(|record| record.status.is_there());
    let tags = done().flat_map(|record| record.all_tags()).cloned().collect::<Vec<_>>();
    let releases = done().flat_map(|record| &record.release_tags).cloned().collect::<Vec<_>>();
    let slugs = done().map(|record| names::slug(&record.base_image)).collect::<Vec<_>>();
    let digests =
        done().map(|record| record.digest.clone().unwrap_or_default()).collect::<Vec<_>>();
    github::write_outputs(&[
        ("image", args.image.clone()),
        ("short_sha", names::short_sha(&source.sha).to_owned()),
        ("tags", tags.join("\n")),
        ("tags_csv", tags.join(",")),
        ("versioned_tags_csv", releases.join(",")),
        ("base_image_slug", slugs.join(",")),
        ("digest", digests.join("\n")),
    ])
}

/// The lines for people: of some images what they took, of many how they ended, and a line to act on.
fn table(ctx: &Ctx, images: &[Image], ended: &[Ended], seconds: f64) -> Vec<String> {
    let mut lines = Vec::new();
    if images.len() <= SHOWN {
        for ended in ended.iter().filter(|ended| !ended.record.step_list.is_empty()) {
            add_image(&ended.record, &mut lines);
        }
    }
    // The images of a batch have most layers in common.
    let pushed = ended.iter().filter(|ended| ended.record.status == Status::Built).take(1);
    for ended in pushed.filter(|_| images.len() <= SHOWN) {
        lines.extend(ended.record.reference().and_then(|reference| size(ctx.docker, &reference)));
    }
    if images.len() > 1 {
        lines.push(totals(ended, images, seconds));
    }
    lines.push(summary(ctx, ended));
    lines
}

fn add_image(record: &Record, lines: &mut Vec<String>) {
    let seconds = &record.seconds;
    let phases = [
        ("context", seconds.context),
        ("cache import", seconds.cache_import),
        ("pull", seconds.pull),
        ("steps", seconds.steps),
        ("image export", seconds.image_export),
        ("push", seconds.push),
        ("cache export", seconds.cache_export),
    ];
    let phases = phases.iter().filter_map(|(name, seconds)| {
        let seconds = seconds.map_or("?".to_owned(), |seconds| format!("{seconds:.1}"));
        // With those that took no time, the line would not fit a terminal.
        (seconds != "0.0").then(|| format!("{name} {seconds}"))
    });
    let phases = phases.collect::<Vec<_>>();
    if !phases.is_empty() {
        lines.push(format!("{}: {} (seconds)", record.name, phases.join(", ")));
    }
    for read in &record.cache_read {
        let Some(how) = &read.result else { continue };
        lines.push(format!("  read  {how:<9} {:>7}  {}", or_unknown(read.seconds), read.r#ref));
    }
    for written in &record.cache_written {
        let how = written.result.as_deref().unwrap_or("unknown");
        let sent = match (written.bytes_uploaded, written.bytes_present) {
            (Some(new), Some(old)) => format!(", {} sent, {} reused", bytes(new), bytes(old)),
            _ => String::new(),
        };
        let seconds = or_unknown(written.seconds);
        lines.push(format!(
            "  write {how:<9} {seconds:>7}  {} ({}{sent})",
            written.r#ref, written.mode
        ));
    }
}

/// The compressed size of an image, and what most of it is.
fn size(docker: &Docker, reference: &str) -> Option<String> {
    let parts = docker.parts(reference)?;
    let all = bytes(parts.iter().map(|part| part.bytes).sum());
    let largest = parts.iter().take(LARGEST);
    let largest =
        largest.map(|part| format!("{} {}", bytes(part.bytes), cut(&part.made_by, LONGEST_PART)));
    let largest = largest.collect::<Vec<_>>().join("; ");
    Some(format!("  size  {all} compressed in {} layers: {largest}", parts.len()))
}

/// What a run of several images comes to.
fn totals(ended: &[Ended], images: &[Image], seconds: f64) -> String {
    let count = |status| ended.iter().filter(|ended| ended.record.status == status).count();
    let built = count(Status::Built);
    let mut line = format!(
        "{built} built, {} present, {} failed",
        count(Status::Present),
        count(Status::Failed)
    );
    if count(Status::Skipped) > 0 {
        line += &format!(", {} skipped", count(Status::Skipped));
    }
    let retried = ended.iter().filter(|ended| ended.record.attempts > Some(1)).count();
    if retried > 0 {
        line += &format!("; {retried} retried");
    }
    if let (Ok(built @ 1..), true) = (u32::try_from(built), seconds > 0.0) {
        line += &format!("; {:.0} images an hour", f64::from(built) * 3600.0 / seconds);
    }
    let mut slowest =
        ended.iter().filter_map(|ended| Some((ended.record.total_seconds()?, ended.number)));
    let mut slowest = slowest.by_ref().collect::<Vec<_>>();
    slowest.sort_by(|a, b| b.cmp(a));
    let named = slowest.iter().take(1).filter_map(|(seconds, number)| {
        Some(format!("{} {seconds} s", shortened(&images.get(*number)?.shown, 24)))
    });
    let named = named.collect::<Vec<_>>();
    if !named.is_empty() {
        line += &format!("; slowest: {}", named.join(", "));
    }
    line
}

/// The one line to act on: how many steps were cached, and what exports cost.
fn summary(ctx: &Ctx, ended: &[Ended]) -> String {
    let exported = export_summary(ctx, ended);
    let is_alone = ended.len() == 1;
    let counted = ended.iter().filter(|ended| {
        ended.record.status == Status::Built || ended.record.status == Status::Failed && is_alone
    });
    let counted = counted.map(|ended| &ended.record.steps).collect::<Vec<_>>();
    if counted.is_empty() {
        return format!("cache: no image was built; {exported}");
    }
    let sum = |number: fn(&crate::record::Steps) -> Option<u64>| {
        counted.iter().map(|steps| number(steps)).sum::<Option<u64>>()
    };
    let (Some(total), Some(cached)) = (sum(|steps| steps.total), sum(|steps| steps.cached)) else {
        return format!("cache: unknown which steps were cached; {exported}");
    };
    let from = match (sum(|s| s.from_builder), sum(|s| s.from_registry), sum(|s| s.from_folder)) {
        _ if cached == 0 => "cache",
        (Some(0), Some(_), _) => "registry",
        (Some(0), _, Some(_)) => "folder",
        (Some(_), ..) => "builder",
        _ => "builder or registry",
    };
    // Steps that images share would be saved several times.
    let saved =
        counted.first().and_then(|steps| steps.saved_seconds).filter(|_| cached > 0 && is_alone);
    let saved = saved.map(|seconds| format!(", saved about {seconds:.0} s")).unwrap_or_default();
    format!("cache: {cached} of {total} steps from {from}{saved}; {exported}")
}

fn export_summary(ctx: &Ctx, ended: &[Ended]) -> String {
    let written = || ended.iter().flat_map(|ended| &ended.record.cache_written);
    let mode = ctx.args.cache_mode.name();
    let all = written().count();
    if all == 0 {
        return format!("nothing exported ({mode})");
    }
    if written().all(|written| written.result.as_deref() == Some("skipped")) {
        return format!("export skipped, nothing is new ({mode})");
    }
    let seconds = ended.iter().map(|ended| ended.record.seconds.cache_export).sum::<Option<f64>>();
    let sent = written().filter_map(|written| written.bytes_uploaded).reduce(|sum, b| sum + b);
    let sent = sent.map(|sent| format!(", {}", bytes(sent))).unwrap_or_default();
    let lost = match written().filter(|written| written.is_lost()).count() {
        0 => String::new(),
        lost => format!(", {lost} of {all} LOST"),
    };
    format!("export {}{sent} ({mode}){lost}", or_unknown(seconds))
}

/// What to say of caches that could not be read or written, each once.
fn warnings(ctx: &Ctx, ended: &[Ended]) -> Vec<String> {
    let mut warnings: Vec<String> = Vec::new();
    for record in ended.iter().map(|ended| &ended.record) {
        for read in &record.cache_read {
            let is_bad = matches!(read.result.as_deref(), Some("refused" | "failed"));
            if let (true, Some(error)) = (is_bad, &read.error) {
                warnings.push(format!(
                    "the cache {} can't be read, and is not used: {}",
                    read.r#ref,
                    one_line(error)
                ));
            }
        }
        for lost in record.cache_written.iter().filter(|written| written.is_lost()) {
            let limit = ctx.args.cache_timeout.as_secs();
            let why = match (&lost.error, lost.result.as_deref()) {
                (_, Some("timed out")) => {
                    format!("not done within {limit} s (OPENHANDS_BUILDKIT_CACHE_TIMEOUT)")
                }
                (Some(error), _) => one_line(error),
                (None, _) => "buildx does not say why".to_owned(),
            };
            warnings.push(format!(
                "the image of {:?} is complete, but its cache was not written to {}: {why}",
                record.name, lost.r#ref
            ));
        }
    }
    request::cli::without_repeats(warnings)
}

/// Seconds as people write them.
fn or_unknown(seconds: Option<f64>) -> String {
    seconds.map_or("? s".to_owned(), |seconds| format!("{seconds:.1} s"))
}
