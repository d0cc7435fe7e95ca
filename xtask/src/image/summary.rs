//! `cargo xtask image summary`: what was built, as Markdown for a job's page or a pull request.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use pico_args::Arguments;
use serde_json::Value;

use crate::error::usage;
use crate::image::build::registry;
use crate::image::report::build_info::{self, text, texts};
use crate::image::report::github;
use crate::image::request;
use crate::output;

const START: &str = "<!-- AGENT_SERVER_IMAGES_START -->";
const END: &str = "<!-- AGENT_SERVER_IMAGES_END -->";

/// Prints the summary of the files that are named, puts it into the file of `--update`, and
/// appends it to the page of a GitHub job.
///
/// # Errors
/// A usage error for files that can't be read; a file that can't be written.
pub fn main(mut args: Arguments) -> Result<()> {
    let update = request::flags::UPDATE.value(&mut args)?.map(PathBuf::from);
    let infos = request::files(args, request::flags::Command::Summary)?;
    let infos = infos.iter().map(|path| build_info::read(path)).collect::<Result<Vec<_>>>()?;
    let summary = summary(&infos);
    if let Some(path) = update {
        let old = fs::read(&path)
            .map_err(|error| usage(format!("--update {}: {error}.", path.display())))?;
        output::save(&path, replaced(&old, &summary))?;
    }
    github::write_page(&summary)?;
    output::write(summary)
}

/// The summary with its markers.
fn summary(infos: &[Value]) -> String {
    let (images, manifests): (Vec<_>, Vec<_>) =
        infos.iter().partition(|info| info["kind"] == build_info::IMAGE);
    let mut lines = vec![START.to_owned(), "## Agent server images".to_owned(), String::new()];
    let repository = infos.first().map_or("", |info| text(info, "image"));
    lines.push(format!("**Package:** {}", link(repository, package_page(repository))));
    lines.extend(
        ["", "| Variant | Architectures | Base image |", "|---|---|---|"].map(String::from),
    );
    let mut rows: BTreeMap<[&str; 2], Vec<&str>> = BTreeMap::new();
    for info in &images {
        let row = rows.entry(["variant", "base_image"].map(|key| text(info, key))).or_default();
        row.push(text(info, "arch"));
    }
    for ([variant, base_image], mut arches) in rows {
        arches.sort_unstable();
        let arches = arches.into_iter().map(code).collect::<Vec<_>>().join(", ");
        let base_image = link(base_image, package_page(base_image));
        lines.push(format!("| {} | {arches} | {base_image} |", code(variant)));
    }
    lines.push(String::new());

    let all_tags = |infos: &[&Value]| -> Vec<String> {
        infos.iter().flat_map(|info| texts(info, "tags")).map(plain).collect()
    };
    let (image_tags, manifest_tags) = (all_tags(&images), all_tags(&manifests));
    if let Some(tag) = manifest_tags.first().or(image_tags.first()) {
        lines.push("**Pull**".to_owned());
        lines.extend(fenced("bash", &[format!("docker pull {tag}")]));
        lines.push("**Run**".to_owned());
        let run = [
            "export SESSION_API_KEY=$(openssl rand -hex 16)".to_owned(),
            "docker run --rm -p 127.0.0.1:8000:8000 -e SESSION_API_KEY \\".to_owned(),
            format!("  {tag}"),
        ];
        lines.extend(fenced("bash", &run));
    }
    lines.push("**All tags**".to_owned());
    lines.extend(fenced("", &[image_tags, manifest_tags].concat()));
    lines.push(
        "Tags without an architecture are multi-architecture manifests: docker pulls the image \
         that fits the machine. Tags that name an architecture hold that one alone."
            .to_owned(),
    );
    lines.push(END.to_owned());
    lines.join("\n")
}

/// A block of code, in a fence that is longer than anything in it.
fn fenced(language: &str, lines: &[String]) -> Vec<String> {
    let longest = lines.iter().map(|line| longest_run(line, '`')).max().unwrap_or(0);
    let fence = "`".repeat(3.max(longest + 1));
    let mut block = vec![format!("{fence}{language}")];
    block.extend(lines.iter().cloned());
    block.extend([fence, String::new()]);
    block
}

fn longest_run(text: &str, wanted: char) -> usize {
    text.split(|c| c != wanted).map(str::len).max().unwrap_or(0)
}

/// `value` on one line, without what could start HTML or end this summary.
fn plain(value: &str) -> String {
    let harmless = |c: char| !c.is_control() && !"<>\u{2028}\u{2029}".contains(c);
    value.chars().map(|c| if harmless(c) { c } else { '?' }).collect()
}

/// `value` as code in a cell of a table; a dash for none.
fn code(value: &str) -> String {
    let harmless = plain(value).replace(['`', '|'], "?");
    if harmless.is_empty() { "–".to_owned() } else { format!("`{harmless}`") }
}

fn link(name: &str, page: Option<String>) -> String {
    match page {
        Some(page) => format!("[{}]({page})", code(name)),
        None => code(name),
    }
}

/// Where a registry shows a repository to people, where it does so.
fn package_page(reference: &str) -> Option<String> {
    let untagged = registry::repository(reference);
    let safe = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
    if untagged.is_empty() || !untagged.chars().all(safe) {
        return None;
    }
    let (host, path) = match untagged.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => ("docker.io", untagged),
    };
    match host {
        "docker.io" | "index.docker.io" => {
            let path = path.strip_prefix("library/").unwrap_or(path);
            let kind = if path.contains('/') { "r" } else { "_" };
            Some(format!("https://hub.docker.com/{kind}/{path}"))
        }
        "ghcr.io" => Some(format!("https://ghcr.io/{path}")),
        "quay.io" => Some(format!("https://quay.io/repository/{path}")),
        "public.ecr.aws" => Some(format!("https://gallery.ecr.aws/{path}")),
        "mcr.microsoft.com" => Some(format!("https://mcr.microsoft.com/artifact/mar/{path}")),
        _ => None,
    }
}

/// `old` with the part between the markers replaced, or with the summary appended; every other
/// byte as it was.
fn replaced(old: &[u8], summary: &str) -> Vec<u8> {
    let find = |text: &[u8], marker: &str| {
        text.windows(marker.len()).position(|window| window == marker.as_bytes())
    };
    // The last start before the first end, so that a start without an end costs nobody's text.
    let part = find(old, END).and_then(|end| {
        let start =
            old[..end].windows(START.len()).rposition(|window| window == START.as_bytes())?;
        Some((start, end + END.len()))
    });
    match part {
        Some((start, end)) => [&old[..start], summary.as_bytes(), &old[end..]].concat(),
        None if old.is_empty() => format!("{summary}\n").into_bytes(),
        None => [old, b"\n\n", summary.as_bytes(), b"\n"].concat(),
    }
}
