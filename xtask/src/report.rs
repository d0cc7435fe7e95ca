//! What a run says of its images: lines for people, the files of GitHub, and the error that ends it.

use anyhow::{Result, anyhow};
use base::error::Interrupted;
use base::message::{self, cut, one_line};
use base::process;

use crate::build::{Ctx, Ended};
use crate::github;
use crate::progress::columns;
use crate::timings;
use outcome::cause::Cause;
use outcome::record::{CacheWritten, Record, Status, Steps};
use outcome::text::{self, bytes, shortened};
use outcome::trace::Failure;
use outcome::vertex::{self, Phase};
use request::cli::{Args, quoted};
use request::definition::FOLDER;
use request::names;
use request::plan::Image;
use request::source::Source;

/// With more images than this, only what went wrong is shown.
const SHOWN: usize = 8;
/// How many lines of a step's output are shown.
const LINES: usize = 10;

/// The width of a line of a batch.
fn width() -> usize {
    columns().min(100)
}

/// Says in a batch that an image is where it belongs.
pub fn image_delivered(ctx: &Ctx, image: &Image) {
    let tag = image.tags.first().and_then(|tag| tag.rsplit(':').next()).unwrap_or_default();
    let name = shortened(&image.shown, width() - 20);
    let room = width().saturating_sub(name.chars().count() + 9);
    if ctx.is_batch() {
        message::say(&format!("built  {name}  {}", cut(tag, room)));
    }
}

/// Says in a batch why an image failed, if it did; of the first one more.
pub fn image_ended(ctx: &Ctx, image: &Image, ended: &Ended, is_first: bool) {
    if ctx.is_batch() && ended.record.status == Status::Failed {
        let name = shortened(&image.shown, width() - 30);
        let room = width().saturating_sub(name.chars().count() + 9);
        message::say(&format!("failed {name}: {}", shortened(&why(ended), room)));
        message::folded(&format!("why {} failed", image.shown), is_first, || show_failure(ended));
    }
}

/// Why an image is missing.
fn why(ended: &Ended) -> String {
    one_line(ended.record.error.as_deref().unwrap_or("not tried"))
}

/// Shows the step that an image failed by, if it was one, its file and its last output.
fn show_failure(ended: &Ended) {
    if let Some(failure) = &ended.failure
        && Phase::of(&failure.name) == Phase::Steps
    {
        let script = vertex::script(&failure.name);
        let file = script.as_ref().and_then(|script| script.split(' ').next());
        let file = match file {
            Some(file) if file.ends_with(".py") => format!("{FOLDER}/runtime/{file}"),
            Some(file) => format!("{FOLDER}/steps/{file}"),
            None => format!("{FOLDER}/Dockerfile"),
        };
        message::failed(&text::title(&failure.name), &file);
        for line in text::last_lines(&failure.output, LINES) {
            message::say(&format!("  | {}", shortened(&line, columns() - 4)));
        }
    }
    if let Some(log) = &ended.record.log {
        message::say(&format!("log: {log}"));
    }
}

/// Shows what came of a run, writes the files of GitHub and of `--timings`, and keeps what the next builds
/// are compared with. Returns the error that ends the run; others, as `error`, are warned of.
pub fn publish(
    ctx: &Ctx,
    ended: &[Ended],
    mut error: Option<anyhow::Error>,
    seconds: f64,
) -> Result<()> {
    let (signal, mut later) = (process::caught(), Vec::new());
    warn_of_caches(ctx, ended);
    let images = || ctx.images.iter().zip(ended);
    if ctx.args.explain {
        for (image, ended) in images().filter(|(_, ended)| ended.record.attempts.is_some()) {
            ctx.last.explain(image, ended);
        }
    }
    let table = table(ctx, ended, seconds);
    // Whoever stops a run is told of what is there, and how to continue a batch.
    let is_there = ended.len() == 1 && ended.iter().all(|ended| ended.record.status.is_there());
    if signal.is_none() || is_there {
        for line in &table {
            message::say(&shortened(line, columns()));
        }
    }
    let records = ended.iter().map(|ended| &ended.record).collect::<Vec<_>>();
    later.extend(write_outputs(ctx.args, &ctx.facts.source, &records).err());
    let done = records.iter().filter(|record| record.status.is_there()).count();
    let names = records.iter().map(|record| record.shown()).collect::<Vec<_>>().join(", ");
    let title = format!("{done} of {} images: `{}`", ended.len(), shortened(&names, 60));
    let page = format!("### {title}\n\n{}", github::fenced("text", &table.join("\n")));
    later.extend(github::write_page(&page).err());
    if let Some(path) = &ctx.args.timings {
        later.extend(timings::save(ctx, ended, path, seconds).err());
    }
    // Only the next build's comparisons need it.
    let mut built = images().filter(|(_, ended)| ended.record.status == Status::Built);
    if let Some(error) = built.find_map(|(image, ended)| ctx.last.save(image, ended).err()) {
        message::warn(&format!("{error:#}"));
    }
    let failed = ended.iter().filter(|ended| !ended.record.status.is_there()).collect::<Vec<_>>();
    let own = if let Some(signal) = signal {
        if ended.len() > 1 && ctx.args.push {
            message::say(&format!("`{}` continues this batch", retry(ctx.args, &failed)));
        }
        Some(Interrupted(signal).into())
    } else if failed.is_empty() {
        error = error.map(|error| error.context("all images are there, but a later step failed"));
        let written = records.iter().flat_map(|record| &record.cache_written);
        let lost = written.filter(|written| written.is_lost()).count();
        (ctx.args.strict_cache && lost > 0 && error.is_none())
            .then(|| anyhow!("{lost} caches were not written (--strict-cache)"))
    } else {
        failure(ctx, &failed)
    };
    message::ended_by(own.into_iter().chain(error).chain(later))
}

/// The error of a run that failed images.
fn failure(ctx: &Ctx, failed: &[&Ended]) -> Option<anyhow::Error> {
    let tried = failed.iter().filter(|ended| ended.record.status == Status::Failed);
    let last = tried.clone().next_back()?;
    let known = last.cause.and_then(Cause::hint);
    if ctx.images.len() == 1 {
        show_failure(last);
        let is_check = last.failure.as_ref().is_some_and(Failure::is_check);
        let hint = match (last.cause, &last.record.log) {
            _ if is_check => "see the server's output above",
            (Some(Cause::Other), Some(log)) => &format!("the log says more: {log}"),
            _ => known.unwrap_or_default(),
        };
        let hint = if hint.is_empty() { String::new() } else { format!("\nhint: {hint}") };
        let why = shortened(&why(last), 400);
        return Some(anyhow!("{} was not built: {why}{hint}", last.record.shown()));
    }
    let (count, all) = (tried.count(), ctx.images.len());
    let mut what = format!("{count} of {all} images failed");
    let mut hint = "retry them with".to_owned();
    if let Some(skipped) = failed.iter().find(|ended| ended.record.status == Status::Skipped) {
        what += &format!(": {}; the last error: {}", why(skipped), shortened(&why(last), 100));
        hint = known.map_or(hint, |known| format!("{known}, then run"));
    }
    Some(anyhow!("{what}\nhint: {hint} `{}`", retry(ctx.args, failed)))
}

/// The command that builds what has failed, and nothing else: the one that was typed, for a push with
/// `--skip-existing`, else for the variants or base images that failed, unless a list has tags of their own.
fn retry(args: &Args, failed: &[&Ended]) -> String {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let mut kept = words.collect::<Vec<_>>();
    let end = kept.iter().position(|word| word == "--").unwrap_or(kept.len());
    let behind = kept.split_off(end);
    let failed = failed.iter().map(|ended| &ended.record);
    let variants = failed.clone().map(|record| record.variant.as_deref());
    let mut listed = args.base_images.iter().filter(|base| !base.custom_tags.is_empty());
    let has_own_tags = listed.any(|base| failed.clone().any(|r| r.base_image == base.reference));
    let list = args.base_images_file.as_deref().unwrap_or_default();
    let mut is_piped = list == "-";
    if args.push {
        // Elsewhere than in CI, a push is not the default.
        for flag in ["--push", "--skip-existing"] {
            if !kept.iter().any(|word| word == flag) {
                kept.push(flag.to_owned());
            }
        }
    } else if let Some(variants) = variants.collect::<Option<Vec<_>>>() {
        drop_flags(&mut kept, &["--shard", "--variant"]);
        kept.extend(["--variant".to_owned(), variants.join(",")]);
    } else if !has_own_tags {
        drop_flags(&mut kept, &["--shard", "--base-images", "--base-image"]);
        is_piped = false;
        // A named variant on one base image alone would have the variant's tags.
        if failed.clone().count() == 1 && args.custom_tags.is_none() {
            kept.push("--custom-tags=".to_owned());
        }
        kept.extend(failed.flat_map(|r| ["--base-image".to_owned(), r.base_image.clone()]));
    }
    let words = kept.iter().chain(&behind).map(|word| quoted(word)).collect::<Vec<_>>();
    let mut words = words.join(" ");
    // A list that was read from standard input, or of a shell's `<(…)`, is gone.
    if list.starts_with("/dev/") {
        words = words.replace(list, "LIST");
    }
    format!("cargo xtask {words}{}", if is_piped { " < LIST" } else { "" })
}

/// Takes the flags `names` and their values out of `words`.
fn drop_flags(words: &mut Vec<String>, names: &[&str]) {
    let mut is_value = false;
    words.retain(|word| {
        let is_flag = !is_value && names.contains(&word.split('=').next().unwrap_or_default());
        let is_dropped = is_flag || is_value;
        is_value = is_flag && !word.contains('=');
        !is_dropped
    });
}

/// Writes the outputs of the GitHub Actions step, if this is one. Errors: the file can't be written.
pub fn write_outputs(args: &Args, source: &Source, records: &[&Record]) -> Result<()> {
    let there = || records.iter().filter(|record| record.status.is_there());
    let tags = there().flat_map(|r| r.all_tags().cloned()).collect::<Vec<_>>();
    let releases = there().flat_map(|r| r.release_tags.clone()).collect::<Vec<_>>();
    let slugs = there().map(|r| names::slug(&r.base_image)).collect::<Vec<_>>();
    let digests = there().map(|r| r.digest.clone().unwrap_or_default()).collect::<Vec<_>>();
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
fn table(ctx: &Ctx, ended: &[Ended], seconds: f64) -> Vec<String> {
    let mut lines = Vec::new();
    let is_shown = |record: &&Record| ended.len() <= SHOWN && !record.step_list.is_empty();
    for record in ended.iter().map(|ended| &ended.record).filter(is_shown) {
        // With the phases that took no time, the line would not fit a terminal.
        let phases = Phase::ALL.iter().filter_map(|phase| {
            let seconds =
                record.seconds[phase.name()].as_f64().filter(|seconds| *seconds >= 0.05)?;
            Some(format!("{} {seconds:.1}", phase.name().replace('_', " ")))
        });
        let phases = phases.collect::<Vec<_>>().join(", ");
        if !phases.is_empty() {
            lines.push(format!("{}: {phases} (seconds)", record.shown()));
        }
    }
    if ended.len() > 1 {
        let counts = Status::ALL.iter().filter_map(|status| {
            let count = ended.iter().filter(|ended| ended.record.status == *status).count();
            (count > 0).then(|| format!("{count} {}", status.name()))
        });
        let counts = counts.collect::<Vec<_>>().join(", ");
        lines.push(format!("{counts} in {seconds:.0} s"));
    }
    let asked = ended.iter().flat_map(|ended| &ended.record.cache_read);
    let results = asked.filter_map(|read| read.result.as_deref()).collect::<Vec<_>>();
    let hits = results.iter().filter(|result| **result == "hit").count();
    let read = match results.len() {
        0 => String::new(),
        all => format!("; {hits} of {all} caches read"),
    };
    lines.push(format!("cache: {}{read}; {}", steps(ended), exported(ctx, ended)));
    lines
}

/// How many steps came from a cache, and from which.
fn steps(ended: &[Ended]) -> String {
    let known = ended.iter().map(|ended| &ended.record.steps).filter(|steps| steps.total.is_some());
    let sum = |number: fn(&Steps) -> Option<u64>| known.clone().map(number).sum::<Option<u64>>();
    let (Some(total @ 1..), Some(cached)) = (sum(|steps| steps.total), sum(|steps| steps.cached))
    else {
        return "no step was reported".to_owned();
    };
    let from = match (sum(|steps| steps.from_builder), sum(|steps| steps.from_registry)) {
        _ if cached == 0 => "cache",
        (Some(0), Some(_)) => "registry",
        (Some(0), None) => "folder",
        (Some(_), _) => "builder",
        (None, _) => "builder or registry",
    };
    // Steps that images share would be saved several times.
    let alone = known.filter(|_| cached > 0 && ended.len() == 1);
    let saved = alone.filter_map(|steps| steps.saved_seconds);
    let saved = saved.map(|saved| format!(", saved about {saved:.0} s")).collect::<String>();
    format!("{cached} of {total} steps from {from}{saved}")
}

/// What exporting the caches cost.
fn exported(ctx: &Ctx, ended: &[Ended]) -> String {
    // A cache that is up to date is skipped.
    let is_new = |written: &&CacheWritten| written.result != "skipped";
    let written = ended.iter().flat_map(|ended| &ended.record.cache_written).filter(is_new);
    let (all, mode) = (written.clone().count(), ctx.args.cache_mode.name());
    if all == 0 {
        return format!("nothing exported ({mode})");
    }
    let seconds = ended
        .iter()
        .map(|ended| ended.record.seconds["cache_export"].as_f64())
        .sum::<Option<f64>>();
    let seconds = seconds.map_or("?".to_owned(), |seconds| format!("{seconds:.1}"));
    let sent =
        written.clone().filter_map(|written| written.bytes_uploaded).reduce(|sum, b| sum + b);
    let sent = sent.map(|sent| format!(", {} sent", bytes(sent))).unwrap_or_default();
    let lost = match written.filter(|written| written.is_lost()).count() {
        0 => String::new(),
        lost => format!(", {lost} of {all} LOST"),
    };
    format!("export {seconds} s{sent} ({mode}){lost}")
}

/// Warns of caches that could not be read or written; of many that have the same reason, once.
fn warn_of_caches(ctx: &Ctx, ended: &[Ended]) {
    let seconds = ctx.args.cache_timeout.as_secs();
    let timed_out = format!("not done within {seconds} s (OPENHANDS_BUILDKIT_CACHE_TIMEOUT)");
    let mut warnings = Vec::new();
    let mut add = |cache: &str, what: &str, why: &str| {
        let tag = cache.rsplit(':').next().unwrap_or_default();
        let reason = format!("{what} {}", why.replace(cache, "").replace(tag, ""));
        warnings.push((reason, format!("the cache {cache} {what}: {}", one_line(why))));
    };
    for record in ended.iter().map(|ended| &ended.record) {
        for read in &record.cache_read {
            if let Some(why) = &read.error {
                add(&read.r#ref, "can't be read, and is not used", why);
            }
        }
        for written in record.cache_written.iter().filter(|written| written.is_lost()) {
            let why = match written.result.as_str() {
                "timed out" => &timed_out,
                _ => written.error.as_deref().unwrap_or("buildx does not say why"),
            };
            add(&written.r#ref, "was not written, though its image is complete", why);
        }
    }
    warnings.sort();
    warnings.dedup();
    for alike in warnings.chunk_by(|(one, _), (other, _)| one == other) {
        match alike {
            [(_, first), others @ ..] if others.len() >= SHOWN => {
                message::warn(&format!("{first}; the same for {} other caches", others.len()));
            }
            all => all.iter().for_each(|(_, text)| message::warn(text)),
        }
    }
}
