//! `cargo xtask image summary`: what was built, as Markdown for a job's page or a pull request.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::Result;
use pico_args::Arguments;
use xshell::Shell;

use crate::image::build::registry;
use crate::image::report::build_info::{BuildInfo, Kind};
use crate::image::report::github::{self, Pages, fenced};
use crate::image::report::text::bytes;
use crate::image::request;
use crate::image::request::definition::Definition;
use base::error::usage;
use base::output;

const START: &str = "<!-- AGENT_SERVER_IMAGES_START -->";
const END: &str = "<!-- AGENT_SERVER_IMAGES_END -->";

/// Prints the summary of the files that are named, puts it into the file of `--update`, and
/// appends it to the page of a GitHub job. A usage error for files that can't be read.
pub fn main(sh: &Shell, mut args: Arguments) -> Result<()> {
    let update = request::flags::UPDATE.text(&mut args)?.map(PathBuf::from);
    let infos = request::files(args, request::flags::Subcommand::Summary)?;
    let infos = infos.iter().map(|path| BuildInfo::read(path)).collect::<Result<Vec<_>>>()?;
    // Somebody may sum up what another checkout built.
    let default = Definition::read(sh).map(|found| found.default_variants).unwrap_or_default();
    let summary = summary(&infos, &default, Pages::find()?.as_ref());
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

/// The summary with its markers. Its commands name an image of the variants `default`, if there is
/// one; `pages` are what it links to.
fn summary(infos: &[BuildInfo], default: &[String], pages: Option<&Pages>) -> String {
    let (images, manifests): (Vec<_>, Vec<_>) =
        infos.iter().partition(|info| info.kind == Kind::Image);
    let mut lines = vec![START.to_owned(), "## Agent server images".to_owned(), String::new()];
    lines.push(origin(infos, pages));
    for server in infos.iter().filter_map(|info| info.server.as_ref()).collect::<BTreeSet<_>>() {
        lines.extend([String::new(), format!("**Server:** {}", plain(server))]);
    }
    lines.extend(variants(&images));
    for info in manifests.iter().filter(|info| !info.missing.is_empty()) {
        let [variant, missing] = [name(info), &info.missing.join(", ")].map(code);
        lines
            .extend([String::new(), format!("**Missing:** {variant} has no image for {missing}.")]);
    }
    lines.push(String::new());

    let is_default =
        |info: &&&BuildInfo| info.variant.as_ref().is_some_and(|v| default.contains(v));
    let first = |infos: &[&BuildInfo]| {
        let info = infos.iter().find(is_default).or(infos.first())?;
        info.tags.first().map(|tag| plain(tag))
    };
    if let Some(tag) = first(&manifests).or_else(|| first(&images)) {
        lines.extend(commands(&tag));
    }
    let tags = images.iter().chain(&manifests).flat_map(|info| &info.tags);
    let tags = tags.map(|tag| plain(tag)).collect::<Vec<_>>();
    lines.extend(folded(&format!("All tags ({})", tags.len()), &fenced("", &tags.join("\n"))));
    lines.extend(folded("Digests, sizes, times", &facts(&images, &manifests).join("\n")));
    lines.push(
        "Tags without an architecture are multi-architecture manifests: docker pulls the image \
         that fits the machine. Tags that name an architecture hold that one alone."
            .to_owned(),
    );
    lines.push(END.to_owned());
    lines.join("\n")
}

/// Where the images are, and what made them.
fn origin(infos: &[BuildInfo], pages: Option<&Pages>) -> String {
    let Some(first) = infos.first() else { return String::new() };
    let is_commit = first.sha.len() == 40 && first.sha.bytes().all(|b| b.is_ascii_hexdigit());
    let commit = pages.filter(|_| is_commit).map(|pages| pages.commit(&first.sha));
    let run =
        pages.map(|pages| format!(", built by [this run]({})", pages.run)).unwrap_or_default();
    let package = link(&first.image, package_page(&first.image));
    format!("**Package:** {package}, **commit:** {}{run}", link(&first.short_sha, commit))
}

/// How to pull the image `tag`, to run it, and to ask its server something.
fn commands(tag: &str) -> Vec<String> {
    let run = [
        "export SESSION_API_KEY=$(openssl rand -hex 16)",
        "docker run --detach --rm -p 127.0.0.1:8000:8000 -e SESSION_API_KEY \\",
        &format!("  {tag}"),
        "curl --retry 30 --retry-all-errors -H \"X-Session-API-Key: $SESSION_API_KEY\" \\",
        "  http://127.0.0.1:8000/api/conversations/count",
    ];
    let block =
        |title: &str, code: &str| [format!("**{title}**"), fenced("bash", code), String::new()];
    [block("Pull", &format!("docker pull {tag}")), block("Run", &run.join("\n"))].concat()
}

/// What is shown on demand.
fn folded(title: &str, content: &str) -> [String; 4] {
    let head = format!("<details><summary>{title}</summary>");
    [head, String::new(), format!("{content}\n\n</details>"), String::new()]
}

/// What an image is called: its variant, else its base image.
fn name(info: &BuildInfo) -> &str {
    info.variant.as_deref().unwrap_or(&info.base_image)
}

/// A table of the variants and their base images, with the architectures of each, its first tag,
/// and the compressed sizes.
fn variants(images: &[&BuildInfo]) -> Vec<String> {
    let mut rows: BTreeMap<(&str, &str), (BTreeSet<String>, &BuildInfo)> = BTreeMap::new();
    for info in images {
        let variant = info.variant.as_deref().unwrap_or_default();
        let row = rows.entry((variant, &info.base_image)).or_insert((BTreeSet::new(), info));
        let size = info.bytes.map(|size| format!(" {}", bytes(size))).unwrap_or_default();
        row.0.extend(info.arches.iter().map(|arch| format!("{}{size}", code(arch))));
    }
    let rows = rows.into_iter().map(|((variant, base_image), (arches, info))| {
        let arches = arches.into_iter().collect::<Vec<_>>().join(", ");
        let base_image = link(base_image, package_page(base_image));
        let tag = info.manifest_tags.first().map_or("", |tag| tag_of(tag));
        format!("| {} | {arches} | {base_image} | {} |", code(variant), code(tag))
    });
    table("| Variant | Architectures | Base image | Tag |", rows)
}

/// A table of what is known of each image and manifest.
fn facts(images: &[&BuildInfo], manifests: &[&BuildInfo]) -> Vec<String> {
    let dash = || "–".to_owned();
    let rows = images.iter().chain(manifests).map(|info| {
        let name = [name(info), &info.arches.join(", ")].map(code).join(" ");
        let digest = code(info.digest.as_deref().unwrap_or_default());
        let size = info.bytes.map_or_else(dash, bytes);
        let seconds = info.seconds.map_or_else(dash, |seconds| seconds.to_string());
        let cached = info.cached_steps.zip(info.steps);
        let cached = cached.map_or_else(dash, |(cached, all)| format!("{cached} of {all}"));
        format!("| {name} | {digest} | {size}{} | {seconds} | {cached} |", change(info))
    });
    let head = "| Image | Digest | Compressed, and against main | Seconds | Steps from cache |";
    table(head, rows)
}

/// By how much an image is larger than main's, where that is known.
fn change(info: &BuildInfo) -> String {
    let (Some(own), Some(main)) = (info.bytes, info.main_bytes) else { return String::new() };
    let sign = if own < main { "−" } else { "+" };
    format!(" ({sign}{})", bytes(own.abs_diff(main)))
}

/// A table behind an empty line, with a line for its columns.
fn table(head: &str, rows: impl Iterator<Item = String>) -> Vec<String> {
    let line = "|---".repeat(head.matches('|').count() - 1) + "|";
    [String::new(), head.to_owned(), line].into_iter().chain(rows).collect()
}

/// The tag of a reference that has one.
fn tag_of(reference: &str) -> &str {
    reference
        .strip_prefix(registry::repository(reference))
        .unwrap_or_default()
        .trim_start_matches(':')
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
    let (host, path) = registry::host_and_path(untagged);
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
