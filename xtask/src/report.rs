//! What a run says of its images: a line or some for people, the files of GitHub, and the error that ends
//! it. All of it comes from records.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use base::error::Interrupted;
use base::message::{self, cut, one_line};

use crate::build::{Ctx, Ended};
use crate::docker::Docker;
use crate::github;
use crate::progress::columns;
use crate::timings;
use outcome::cause::{self, Cause};
use outcome::record::{CacheWritten, Record, Status, Steps};
use outcome::text::{self, bytes, shortened};
use outcome::trace::Failure;
use outcome::vertex::{self, Phase};
use request::cli::{Args, quoted};
use request::definition::FOLDER;
use request::names;
use request::plan::Image;
use request::source::Source;
use serde_json::Value;

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
pub fn image_delivered(ctx: &Ctx, image: &Image) {
    let tag = image.tags.first().and_then(|tag| tag.rsplit(':').next()).unwrap_or_default();
    let name = shortened(&image.shown, width() - 20);
    let room = width().saturating_sub(name.chars().count() + 9);
    ctx.progress.end(false, &format!("built  {name}  {}", cut(tag, room)));
}

/// Says why an image failed, if it did.
pub fn image_ended(ctx: &Ctx, image: &Image, ended: &Ended) {
    if ended.record.status != Status::Failed {
        return;
    }
    let name = shortened(&image.shown, width() - 30);
    let room = width().saturating_sub(name.chars().count() + 9);
    let line = format!("failed {name}: {}", shortened(&why(ended), room));
    let is_first = ctx.progress.end(true, &line);
    if ctx.images.len() > 1 {
        message::folded(&format!("why {} failed", image.shown), is_first, || show_failure(ended));
    }
}

/// Why an image is missing: where a step gives no reason, how it ended.
fn why(ended: &Ended) -> String {
    if let Some(failure) = &ended.failure
        && failure.reason().is_none()
        && let Some(end) = cause::step_end(&failure.error)
    {
        return format!("{} ended with {end}", text::title(&failure.name));
    }
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
/// are compared with. Returns the error that ends the run, if there is one; others are warned of.
pub fn publish(ctx: &Ctx, ended: &[Ended], errors: Vec<anyhow::Error>, seconds: f64) -> Result<()> {
    let is_batch = ctx.images.len() > 1;
    let mut later = errors;
    let error = (!later.is_empty()).then(|| later.remove(0));
    let is_stopped = error.as_ref().is_some_and(anyhow::Error::is::<Interrupted>);
    for warning in warnings(ctx, ended) {
        message::warn(&warning);
    }
    if ctx.args.explain {
        let all = ctx.images.iter().zip(ended);
        for (image, ended) in all.filter(|(_, ended)| ended.record.attempts.is_some()) {
            ctx.last.explain(image, ended).iter().for_each(|line| message::say(line));
        }
    }
    let table = table(ctx, ended, seconds);
    // Whoever stops a batch is told how to continue it, and no more.
    if !(is_stopped && is_batch) {
        for line in &table {
            message::say(&shortened(line, columns()));
        }
    }
    let records = ended.iter().map(|ended| &ended.record).collect::<Vec<_>>();
    later.extend(write_outputs(ctx.args, &ctx.facts.source, &records).err());
    let title = match records.as_slice() {
        [one] if one.status.is_there() => {
            format!("Image `{}`", one.tags.first().map_or(one.shown(), String::as_str))
        }
        [one] => format!("`{}` is not built", one.shown()),
        all => {
            let done = all.iter().filter(|record| record.status.is_there()).count();
            format!("{done} of {} images", all.len())
        }
    };
    let page = format!("### {title}\n\n{}", github::fenced("text", &table.join("\n")));
    later.extend(github::write_page(&page).err());
    if let Some(path) = &ctx.args.timings {
        later.extend(timings::save(ctx, ended, path, seconds).err());
    }
    let mut built = ctx.images.iter().zip(ended).filter(|(_, e)| e.record.status == Status::Built);
    // Only the next build's comparisons need it.
    if let Some(error) = built.find_map(|(image, e)| ctx.last.save(image, e).err()) {
        message::warn(&format!("{error:#}"));
    }
    let failed = ended.iter().filter(|ended| !ended.record.status.is_there()).collect::<Vec<_>>();
    let first = match (error, failed.as_slice()) {
        (Some(error), _) if is_stopped => {
            if is_batch && ctx.args.push {
                message::say(&format!("`{}` continues this batch", retry(ctx.args, &failed)));
            }
            Some(error)
        }
        (Some(error), []) => {
            let tags = records.iter().filter_map(|record| Some(record.tags.first()?.as_str()));
            let tags = shortened(&tags.collect::<Vec<_>>().join(", "), 200);
            let how = if ctx.args.push { "pushed" } else { "loaded" };
            Some(error.context(format!("{tags}: {how}, but a later step failed")))
        }
        (None, []) => {
            let written = records.iter().flat_map(|record| &record.cache_written);
            let is_kept =
                |w: &CacheWritten| matches!(w.result.as_deref(), Some("done" | "skipped"));
            let (all, lost) = (written.clone().count(), written.filter(|w| !is_kept(w)).count());
            (ctx.args.strict_cache && lost > 0)
                .then(|| anyhow!("{lost} of {all} caches were not written (--strict-cache)"))
        }
        (error, [one]) if !is_batch => {
            later.extend(error);
            show_failure(one);
            let is_check = one.failure.as_ref().is_some_and(Failure::is_check);
            let hint = match (one.cause, &one.record.log) {
                _ if is_check => "see the server's output above",
                (Some(Cause::Other), Some(log)) => &format!("the log says more: {log}"),
                (cause, _) => cause.and_then(Cause::hint).unwrap_or_default(),
            };
            let hint = if hint.is_empty() { String::new() } else { format!("\nhint: {hint}") };
            let (name, why) = (one.record.shown(), shortened(&why(one), 400));
            Some(anyhow!("{name} was not built: {why}{hint}"))
        }
        (error, failed) => {
            later.extend(error);
            let is_skipped = |ended: &&&Ended| ended.record.status == Status::Skipped;
            let skipped = failed.iter().filter(is_skipped).count();
            let (mut stopped, mut hint) = (String::new(), "retry them with ".to_owned());
            if let Some(first) = failed.iter().find(is_skipped) {
                let told = first.record.error.as_ref().map(|why| format!(": {why}"));
                stopped = told.unwrap_or_else(|| format!(", {skipped} skipped"));
                if let Some(last) = failed.iter().rev().find(|ended| !is_skipped(ended)) {
                    stopped += &format!("; the last error: {}", shortened(&why(last), 100));
                    if let Some(known) = last.cause.and_then(Cause::hint) {
                        hint = format!("{known}, then run ");
                    }
                }
            }
            Some(anyhow!(
                "{} of {} images failed{stopped}\nhint: {hint}`{}`",
                failed.len() - skipped,
                ctx.images.len(),
                retry(ctx.args, failed)
            ))
        }
    };
    message::ended_by(first.into_iter().chain(later))
}

/// The command that builds what has failed, and nothing else: for a push the one that was typed, with
/// `--skip-existing`; else the one that was typed, for the variants or base images that failed. Where
/// images have names of their own, these are in the list alone, so all of it is built again.
fn retry(args: &Args, failed: &[&Ended]) -> String {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let words = words.collect::<Vec<_>>();
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let (flags, behind) = words.split_at(end);
    let failed = failed.iter().map(|ended| &ended.record).collect::<Vec<_>>();
    let variants = failed.iter().filter_map(|record| record.variant.clone()).collect::<Vec<_>>();
    let has_own_tags = |record: &&Record| {
        let mut listed = args.base_images.iter().filter(|base| !base.custom_tags.is_empty());
        listed.any(|base| base.reference == record.base_image)
    };
    let list = args.base_images_file.as_deref().unwrap_or_default();
    let mut is_piped = list == "-";
    let mut kept = flags.to_vec();
    if args.push {
        // Elsewhere than in CI it is not the default.
        if !flags.iter().any(|word| word == "--push") {
            kept.push("--push".to_owned());
        }
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
        for record in failed {
            kept.extend(["--base-image".to_owned(), record.base_image.clone()]);
        }
    }
    let words = kept.iter().chain(behind).map(|word| quoted(word)).collect::<Vec<_>>();
    let mut words = words.join(" ");
    // A list that was read from standard input, or of a shell's `<(…)`, is gone.
    if list.starts_with("/dev/") {
        words = words.replace(list, "LIST");
    }
    format!("cargo xtask {words}{}", if is_piped { " < LIST" } else { "" })
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

/// Writes the outputs of the GitHub Actions step, if this is one.
/// Errors: the file can't be written.
pub fn write_outputs(args: &Args, source: &Source, records: &[&Record]) -> Result<()> {
    let (mut tags, mut releases) = (Vec::new(), Vec::new());
    let (mut slugs, mut digests) = (Vec::new(), Vec::new());
    for record in records.iter().filter(|record| record.status.is_there()) {
        tags.extend(record.all_tags().map(String::as_str));
        releases.extend(record.release_tags.iter().map(String::as_str));
        slugs.push(names::slug(&record.base_image));
        digests.push(record.digest.as_deref().unwrap_or_default());
    }
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
    if ended.len() <= SHOWN {
        for ended in ended.iter().filter(|ended| !ended.record.step_list.is_empty()) {
            add_image(&ended.record, &mut lines);
        }
        // The images of a batch have most layers in common.
        let built = ended.iter().find(|ended| ended.record.status == Status::Built);
        let reference = built.and_then(|ended| ended.record.reference());
        lines.extend(reference.and_then(|reference| size(ctx.docker, &reference)));
    }
    if ended.len() > 1 {
        lines.push(totals(ctx, ended, seconds));
    }
    lines.push(summary(ctx, ended));
    lines
}

fn add_image(record: &Record, lines: &mut Vec<String>) {
    let seconds = Value::from(record.seconds.clone());
    let mut phases = Vec::new();
    for name in Phase::ALL.iter().map(|phase| phase.name()) {
        let seconds = seconds[name].as_f64().map_or("?".to_owned(), |known| format!("{known:.1}"));
        // With those that took no time, the line would not fit a terminal.
        if seconds != "0.0" {
            phases.push(format!("{} {seconds}", name.replace('_', " ")));
        }
    }
    if !phases.is_empty() {
        lines.push(format!("{}: {} (seconds)", record.shown(), phases.join(", ")));
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
        let (seconds, to) = (or_unknown(written.seconds), &written.r#ref);
        lines.push(format!("  write {how:<9} {seconds:>7}  {to} ({}{sent})", written.mode));
    }
}

/// The compressed size of an image, and what most of it is.
fn size(docker: &Docker, reference: &str) -> Option<String> {
    let parts = docker.parts(reference)?;
    let all = bytes(parts.iter().map(|(size, _)| size).sum());
    let shown = |(size, by): &(u64, String)| format!("{} {}", bytes(*size), cut(by, LONGEST_PART));
    let largest = parts.iter().take(LARGEST).map(shown).collect::<Vec<_>>().join("; ");
    Some(format!("  size  {all} compressed in {} layers: {largest}", parts.len()))
}

/// What a run of several images comes to.
fn totals(ctx: &Ctx, ended: &[Ended], seconds: f64) -> String {
    let count = |status| ended.iter().filter(|ended| ended.record.status == status).count();
    let (built, present) = (count(Status::Built), count(Status::Present));
    let (failed, skipped) = (count(Status::Failed), count(Status::Skipped));
    let mut line = format!("{built} built, {present} present, {failed} failed");
    if skipped > 0 {
        line += &format!(", {skipped} skipped");
    }
    let retried = ended.iter().filter(|ended| ended.record.attempts > Some(1)).count();
    if retried > 0 {
        line += &format!("; {retried} retried");
    }
    if let (Ok(built @ 1..), true) = (u32::try_from(built), seconds > 0.0) {
        line += &format!("; {:.0} images an hour", f64::from(built) * 3600.0 / seconds);
    }
    let all = ctx.images.iter().zip(ended);
    let taken = all.filter_map(|(image, ended)| Some((ended.record.total_seconds()?, image)));
    if let Some((seconds, image)) = taken.max_by_key(|(seconds, _)| *seconds) {
        line += &format!("; slowest: {} {seconds} s", shortened(&image.shown, 24));
    }
    line
}

/// The one line to act on: how many steps were cached, and what exports cost.
fn summary(ctx: &Ctx, ended: &[Ended]) -> String {
    let exported = export_summary(ctx, ended);
    let is_alone = ended.len() == 1;
    let is_counted = |status| status == Status::Built || status == Status::Failed && is_alone;
    let counted = ended.iter().filter(|ended| is_counted(ended.record.status));
    let counted = counted.map(|ended| &ended.record.steps).collect::<Vec<_>>();
    if counted.is_empty() {
        return format!("cache: no image was built; {exported}");
    }
    let sum = |number: fn(&Steps) -> Option<u64>| {
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

/// What to say of caches that could not be read or written; of many that have the same reason, once.
fn warnings(ctx: &Ctx, ended: &[Ended]) -> Vec<String> {
    // Reasons without the caches that they name, and what is said of each cache.
    let mut warnings: Vec<(String, BTreeMap<&str, String>)> = Vec::new();
    for record in ended.iter().map(|ended| &ended.record) {
        let mut found = Vec::new();
        for read in &record.cache_read {
            if let (Some("refused" | "failed"), Some(why)) = (read.result.as_deref(), &read.error) {
                let (cache, why) = (&read.r#ref, one_line(why));
                let text = format!("the cache {cache} can't be read, and is not used: {why}");
                found.push((cache, format!("read {why}"), text));
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
            let (shown, cache) = (record.shown(), &lost.r#ref);
            let text = format!(
                "the image of {shown:?} is complete, but its cache was not written to {cache}: {why}"
            );
            found.push((cache, format!("write {why}"), text));
        }
        for (cache, why, text) in found {
            let tag = cache.rsplit(':').next().unwrap_or_default();
            let reason = why.replace(cache, "").replace(tag, "");
            match warnings.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, texts)) => drop(texts.insert(cache, text)),
                None => warnings.push((reason, BTreeMap::from([(cache.as_str(), text)]))),
            }
        }
    }
    let mut told = Vec::new();
    for (_, texts) in warnings {
        let count = texts.len();
        let mut texts = texts.into_values();
        match texts.next() {
            Some(first) if count > SHOWN => {
                told.push(format!("{first}; the same for {} other caches", count - 1));
            }
            first => told.extend(first.into_iter().chain(texts)),
        }
    }
    told
}

/// Seconds as people write them.
fn or_unknown(seconds: Option<f64>) -> String {
    seconds.map_or("? s".to_owned(), |seconds| format!("{seconds:.1} s"))
}
