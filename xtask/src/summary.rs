//! `cargo xtask image summary`: what was built, as Markdown for a job's page or a pull request.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Result;
use base::error::usage;
use base::{message, output};

use crate::github::{self, fenced};
use outcome::record::{self, Kind, Record, Status};
use outcome::text::bytes;
use request::bases;
use request::cli::Args;
use request::definition::Definition;

const START: &str = "<!-- AGENT_SERVER_IMAGES_START -->";
const END: &str = "<!-- AGENT_SERVER_IMAGES_END -->";

/// Prints a summary of records, puts it into the file of `--update`, and adds it to the page of a GitHub job.
pub fn summary(root: &Path, args: &Args) -> Result<()> {
    let mut records = record::read(&args.words)?;
    records.retain(|record| record.status.is_there());
    // Somebody may sum up what another checkout built.
    let default = Definition::read(root).map(|found| found.default_variants).unwrap_or_default();
    let summary = text_of(&records, &default, github::repository_and_run()?);
    if let Some(path) = &args.update {
        let old = match fs::metadata(path) {
            // A device or a FIFO is only written to.
            Ok(found) if !found.is_file() && !found.is_dir() => Ok(Vec::new()),
            _ => output::load(path),
        };
        let name = path.to_string_lossy();
        let old = old.map_err(|error| usage(format!("--update {name:?}: {error}")))?;
        output::save(path, replaced(&old, &summary))?;
    }
    let told = [github::write_page(&summary), output::write(summary)];
    message::ended_by(told.into_iter().filter_map(Result::err))
}

/// The summary with its markers. Its commands name an image of the variants `default`, if there is one.
fn text_of(records: &[Record], default: &[String], run: Option<(String, String)>) -> String {
    let (images, manifests): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| record.kind == Kind::Image);
    let mut text = format!("{START}\n## Agent server images\n\n");
    if let Some(first) = records.first() {
        let commit = run.as_ref().filter(|_| first.sha.len() == 40);
        let commit = commit.map(|(repository, _)| format!("{repository}/commit/{}", first.sha));
        let (package, commit) = (package(&first.image), link(&first.short_sha, commit));
        text += &format!("**Package:** {package}, **commit:** {commit}");
        if let Some((repository, run)) = run {
            text += &format!(", built by [this run]({repository}/actions/runs/{run})");
        }
    }
    text.push('\n');
    let servers = records.iter().filter_map(|record| record.server["description"].as_str());
    for server in servers.collect::<BTreeSet<_>>() {
        text += &format!("\n**Server:** {}\n", plain(server));
    }

    let mut rows: BTreeMap<_, (BTreeSet<String>, &str)> = BTreeMap::new();
    for record in &images {
        let tag = record.manifest_tags.first().and_then(|tag| tag.rsplit(':').next());
        let target = Some(record.target.as_str()).filter(|target| *target != "binary");
        let kind = [record.variant.as_deref(), record.flavor.as_deref(), target];
        let kind = kind.into_iter().flatten().collect::<Vec<_>>().join(" ");
        let row = (kind, &record.base_image);
        let (arches, _) = rows.entry(row).or_insert((BTreeSet::new(), tag.unwrap_or_default()));
        arches.extend(record.arches.iter().map(|arch| code(arch)));
    }
    text += "\n| Variant | Architectures | Base image | Tag |\n|---|---|---|---|\n";
    for ((kind, base_image), (arches, tag)) in rows {
        let arches = arches.into_iter().collect::<Vec<_>>().join(", ");
        let (kind, base_image, tag) = (code(&kind), package(base_image), code(tag));
        text += &format!("| {kind} | {arches} | {base_image} | {tag} |\n");
    }
    for record in manifests.iter().filter(|record| !record.missing.is_empty()) {
        let (name, missing) = (code(record.shown()), code(&record.missing.join(", ")));
        text += &format!("\n**Missing:** {name} has no image for {missing}.\n");
    }

    text.push('\n');
    let all = || manifests.iter().chain(&images);
    let is_default =
        |record: &&&Record| record.variant.as_ref().is_some_and(|name| default.contains(name));
    if let Some(record) = all().find(is_default).or_else(|| all().next()) {
        // People paste it into a shell.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@+[]".contains(c);
        let tag = record.tags.first().map_or("", String::as_str);
        let tag = message::one_line(tag).replace(|c| !is_plain(c), "?");
        if record.pushed {
            let pull = fenced("bash", &format!("docker pull {tag}"));
            text += &format!("**Pull**\n{pull}\n\n");
        }
        let run = format!(
            "export SESSION_API_KEY=$(openssl rand -hex 16)\n\
             docker run --detach --rm -p 127.0.0.1:8000:8000 -e SESSION_API_KEY \\\n  {tag}\n\
             curl --retry 30 --retry-all-errors -H \"X-Session-API-Key: $SESSION_API_KEY\" \\\n  \
             http://127.0.0.1:8000/api/conversations/count"
        );
        text += &format!("**Run**\n{}\n\n", fenced("bash", &run));
    }
    let tags = all().flat_map(|record| record.all_tags()).map(|tag| plain(tag)).collect::<Vec<_>>();
    let title = format!("All tags ({})", tags.len());
    text += &folded(&title, &fenced("", &tags.join("\n")));
    let rows = all().map(|record| row(record)).collect::<String>();
    let facts = format!(
        "\n| Image | Digest | Compressed | Seconds | Steps from cache |\n\
         |---|---|---|---|---|{rows}"
    );
    text += &folded("Digests, sizes, times", &facts);
    if !manifests.is_empty() {
        text += "Tags without an architecture are multi-architecture manifests.\n";
    }
    text + END
}

/// A row of what is known of an image or a manifest.
fn row(record: &Record) -> String {
    let known = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let (name, arches) = (code(record.shown()), code(&record.arches.join(", ")));
    let digest = code(record.digest.as_deref().unwrap_or_default());
    let main = record.main_bytes.map(|main| format!(" (main: {})", bytes(main)));
    let size = known(record.bytes.map(bytes)) + &main.unwrap_or_default();
    let times = record.finished.zip(record.started).filter(|_| record.status == Status::Built);
    let seconds = known(times.map(|(to, from)| to.saturating_sub(from).to_string()));
    let cached = record.steps.cached.zip(record.steps.total);
    let cached = known(cached.map(|(cached, all)| format!("{cached} of {all}")));
    format!("\n| {name} {arches} | {digest} | {size} | {seconds} | {cached} |")
}

/// What is shown on demand.
fn folded(title: &str, content: &str) -> String {
    format!("<details><summary>{title}</summary>\n\n{content}\n\n</details>\n\n")
}

/// `value` on one line, without what could start HTML, end this summary or command a runner.
fn plain(value: &str) -> String {
    message::one_line(value).replace(['<', '>'], "?")
}

/// `value` as code in a cell of a table; a dash for none.
fn code(value: &str) -> String {
    let harmless = plain(value).replace(['`', '|'], "?");
    if harmless.is_empty() { "–".to_owned() } else { format!("`{harmless}`") }
}

/// `name` as code, which leads to `page` if nothing in that can end the link.
fn link(name: &str, page: Option<String>) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
    match page.filter(|page| page.chars().all(is_safe)) {
        Some(page) => format!("[{}]({page})", code(name)),
        None => code(name),
    }
}

/// A repository with a link to its page for people, if its registry is known to have one.
fn package(reference: &str) -> String {
    let (host, path) = bases::host_and_path(bases::repository(reference));
    let path = path.strip_prefix("library/").unwrap_or(path);
    let site = match host {
        "docker.io" if path.contains('/') => Some("hub.docker.com/r"),
        "docker.io" => Some("hub.docker.com/_"),
        "ghcr.io" => Some("ghcr.io"),
        "quay.io" => Some("quay.io/repository"),
        _ => None,
    };
    link(reference, site.map(|site| format!("https://{site}/{path}")))
}

/// `old` with the part between the markers replaced, or with the summary appended.
fn replaced(old: &[u8], summary: &str) -> Vec<u8> {
    let end = old.windows(END.len()).position(|part| part == END.as_bytes());
    // The last start before the first end, so that a start without an end removes no text.
    let before = &old[..end.unwrap_or(0)];
    let start = before.windows(START.len()).rposition(|part| part == START.as_bytes());
    match start.zip(end) {
        Some((start, end)) => [&old[..start], summary.as_bytes(), &old[end + END.len()..]].concat(),
        None if old.is_empty() => format!("{summary}\n").into_bytes(),
        None => [old, b"\n\n", summary.as_bytes(), b"\n"].concat(),
    }
}
