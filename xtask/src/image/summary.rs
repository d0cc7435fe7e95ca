//! `cargo xtask image summary`: what was built, as Markdown for a job's page or a pull request.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::Result;
use pico_args::Arguments;

use crate::error::usage;
use crate::image::build::registry;
use crate::image::report::build_info::{BuildInfo, Kind};
use crate::image::report::github::{self, fenced};
use crate::image::report::text::bytes;
use crate::image::request;
use crate::output;

const START: &str = "<!-- AGENT_SERVER_IMAGES_START -->";
const END: &str = "<!-- AGENT_SERVER_IMAGES_END -->";

/// Prints the summary of the files that are named, puts it into the file of `--update`, and
/// appends it to the page of a GitHub job. A usage error for files that can't be read.
pub fn main(mut args: Arguments) -> Result<()> {
    let update = request::flags::UPDATE.text(&mut args)?.map(PathBuf::from);
    let infos = request::files(args, request::flags::Subcommand::Summary)?;
    let infos = infos.iter().map(|path| BuildInfo::read(path)).collect::<Result<Vec<_>>>()?;
    let summary = summary(&infos);
    if let Some(path) = update {
        output::save(&path, replaced(&content(&path)?, &summary))?;
    }
    github::write_page(&summary)?;
    output::write(summary)
}

/// What the file of `--update` holds. A device or a FIFO is only written to.
fn content(path: &Path) -> Result<Vec<u8>> {
    let name = path.to_string_lossy();
    let read = |path| match fs::metadata(path)? {
        file if file.is_file() => output::load(path),
        folder if folder.is_dir() => Err(ErrorKind::IsADirectory.into()),
        _ => Ok(Vec::new()),
    };
    read(path).map_err(|error: io::Error| usage(format!("--update {name:?}: {error}.")))
}

/// The summary with its markers.
fn summary(infos: &[BuildInfo]) -> String {
    let (images, manifests): (Vec<_>, Vec<_>) =
        infos.iter().partition(|info| info.kind == Kind::Image);
    let mut lines = vec![START.to_owned(), "## Agent server images".to_owned(), String::new()];
    let repository = infos.first().map_or("", |info| &info.image);
    lines.push(format!("**Package:** {}", link(repository, package_page(repository))));
    for server in infos.iter().filter_map(|info| info.server.as_ref()).collect::<BTreeSet<_>>() {
        lines.extend([String::new(), format!("**Server:** {}", plain(server))]);
    }
    lines.extend(table(&images));
    lines.push(String::new());

    let all_tags = |infos: &[&BuildInfo]| -> Vec<String> {
        infos.iter().flat_map(|info| &info.tags).map(|tag| plain(tag)).collect()
    };
    let (image_tags, manifest_tags) = (all_tags(&images), all_tags(&manifests));
    let mut block = |title: &str, language: &str, code: &str| {
        lines.extend([format!("**{title}**"), fenced(language, code), String::new()]);
    };
    if let Some(tag) = manifest_tags.first().or(image_tags.first()) {
        block("Pull", "bash", &format!("docker pull {tag}"));
        let run = [
            "export SESSION_API_KEY=$(openssl rand -hex 16)",
            "docker run --rm -p 127.0.0.1:8000:8000 -e SESSION_API_KEY \\",
            &format!("  {tag}"),
        ];
        block("Run", "bash", &run.join("\n"));
    }
    block("All tags", "", &[image_tags, manifest_tags].concat().join("\n"));
    lines.push(
        "Tags without an architecture are multi-architecture manifests: docker pulls the image \
         that fits the machine. Tags that name an architecture hold that one alone."
            .to_owned(),
    );
    lines.push(END.to_owned());
    lines.join("\n")
}

/// A table of the variants and their base images, with the architectures of each and their
/// compressed sizes.
fn table(images: &[&BuildInfo]) -> Vec<String> {
    let mut rows: BTreeMap<(&str, &str), BTreeSet<String>> = BTreeMap::new();
    for info in images {
        let variant = info.variant.as_deref().unwrap_or_default();
        let arches = rows.entry((variant, &info.base_image)).or_default();
        let size = info.bytes.map(|size| format!(" {}", bytes(size))).unwrap_or_default();
        arches.extend(info.arches.iter().map(|arch| format!("{}{size}", code(arch))));
    }
    let head = ["", "| Variant | Architectures | Base image |", "|---|---|---|"];
    let rows = rows.into_iter().map(|((variant, base_image), arches)| {
        let arches = arches.into_iter().collect::<Vec<_>>().join(", ");
        let base_image = link(base_image, package_page(base_image));
        format!("| {} | {arches} | {base_image} |", code(variant))
    });
    head.into_iter().map(String::from).chain(rows).collect()
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

/// The page on which a registry shows a repository to people, if it has one.
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
    let (site, path) = match (host, path.strip_prefix("library/").unwrap_or(path)) {
        ("docker.io" | "index.docker.io", name) if name.contains('/') => ("hub.docker.com/r", name),
        ("docker.io" | "index.docker.io", name) => ("hub.docker.com/_", name),
        ("ghcr.io", _) => ("ghcr.io", path),
        ("quay.io", _) => ("quay.io/repository", path),
        ("public.ecr.aws", _) => ("gallery.ecr.aws", path),
        ("mcr.microsoft.com", _) => ("mcr.microsoft.com/artifact/mar", path),
        _ => return None,
    };
    Some(format!("https://{site}/{path}"))
}

/// `old` with the part between the markers replaced, or with the summary appended; every other
/// byte as it was.
fn replaced(old: &[u8], summary: &str) -> Vec<u8> {
    let find = |text: &[u8], marker: &str| {
        text.windows(marker.len()).position(|window| window == marker.as_bytes())
    };
    // The last start before the first end, so that a start without an end removes no text.
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
