//! The last build of an image: what it was made of and how long its steps took, kept below
//! `target/`. The next build is compared with it: what did a cache save, and why did a step run?

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};
use xshell::Shell;

use crate::image::build::span::Span;
use crate::image::build::trace::{Step, Trace};
use crate::image::plan::Target;
use crate::image::report::text::shown;
use crate::image::request::Request;
use crate::image::request::definition::FOLDER;
use base::digest::sha256;
use base::message::without_credentials;
use base::output;

/// The last build of a target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    pub dockerfile: String,
    /// Build arguments with their values.
    pub args: BTreeMap<String, String>,
    /// Files that steps can read, by name, each with a digest of its content.
    pub files: BTreeMap<String, String>,
    /// Base images, each with the digest that it had.
    pub bases: BTreeMap<String, String>,
    /// When each step last ran. Those of one build may overlap.
    pub steps: BTreeMap<String, Span>,
}

/// In bytes.
const LARGE: u64 = 16 << 20;

/// Arguments that change with every commit, and that no step reads.
pub const OF_COMMIT: [&str; 2] = ["OPENHANDS_BUILD_GIT_SHA", "OPENHANDS_BUILD_GIT_REF"];

/// A build, and the one before it.
pub struct Build {
    /// Where its record is kept.
    pub path: PathBuf,
    pub now: Record,
    pub last: Option<Record>,
    /// The last build on another base image, where there is none on this one.
    pub other: Option<Record>,
}

impl Record {
    /// What all builds are made of; [`Record::add`] adds what one target is made of.
    pub fn inputs(sh: &Shell, prebuilt: Option<&Path>) -> Self {
        let folder = sh.current_dir().join(FOLDER);
        let mut files = digests(&folder);
        files.remove("Dockerfile");
        let dockerfile = fs::read_to_string(folder.join("Dockerfile")).unwrap_or_default();
        files.extend(prebuilt.map(digests).unwrap_or_default());
        Record { dockerfile, files, ..Record::default() }
    }

    /// Adds what `target` is made of, and the steps in `trace`. A cached step last ran when it did
    /// in the build before.
    pub fn add(&mut self, target: &Target, trace: &Trace, last: Option<&Record>) {
        self.args = target.args().into_iter().map(without_user).collect();
        self.bases = trace.bases(&target.name);
        for step in trace.steps(&target.name).unwrap_or_default() {
            let span = match step.cached {
                Some(false) => step.span(),
                _ => last.and_then(|last| last.steps.get(&step.name).copied()),
            };
            self.steps.extend(span.map(|span| (step.name, span)));
        }
    }

    /// The record of the last build, if there is one that this version can read.
    pub fn load(path: &Path) -> Option<Self> {
        let value: Value = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
        let texts = |key: &str| -> Option<BTreeMap<String, String>> {
            let entries = value[key].as_object()?.iter();
            entries.map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned()))).collect()
        };
        let span = |times: &Value| {
            Some(Span { from: times.get(0)?.as_f64()?, to: times.get(1)?.as_f64()? })
        };
        let steps = value["steps"].as_object()?.iter();
        let steps = steps.map(|(name, times)| Some((name.clone(), span(times)?)));
        Some(Record {
            dockerfile: value["dockerfile"].as_str()?.to_owned(),
            args: texts("args")?,
            files: texts("files")?,
            bases: texts("bases")?,
            steps: steps.collect::<Option<_>>()?,
        })
    }

    /// Keeps this as the last build.
    pub fn save(&self, path: &Path) -> Result<()> {
        let steps = self.steps.iter().map(|(name, span)| (name, [span.from, span.to]));
        let record = json!({
            "dockerfile": self.dockerfile,
            "args": self.args,
            "files": self.files,
            "bases": self.bases,
            "steps": steps.collect::<BTreeMap<_, _>>(),
        });
        output::save(path, without_credentials(&format!("{record:#}\n")))
    }
}

/// Where the record of `target` is kept. The name begins alike for all base images.
pub fn path(sh: &Shell, request: &Request, target: &Target) -> PathBuf {
    let arch = request.arch.as_deref().unwrap_or_default();
    let platforms = request.platforms.join(",");
    let flavor = request.flavor.name();
    let alike = [&request.image, &request.target, &target.built_as, flavor, arch, &platforms];
    let own = [target.name.as_str(), &target.base_image];
    let digest = |key: &[&str]| sha256(key.join("\n")).split_off(48);
    let name = format!("{}-{}-{}.json", request.target, digest(&alike), digest(&own));
    sh.current_dir().join("target/image").join(name)
}

/// The newest record of a build that differs from that at `path` by its base image. Its steps are
/// others, so their times mean nothing here.
pub fn on_another_base(path: &Path) -> Option<Record> {
    let name = path.file_name()?.to_str()?;
    let (alike, _) = name.rsplit_once('-')?;
    let entries = fs::read_dir(path.parent()?).ok()?.flatten();
    let is_alike = |entry: &fs::DirEntry| {
        let other = entry.file_name().to_string_lossy().into_owned();
        let stem = other.strip_suffix(".json").and_then(|stem| stem.rsplit_once('-'));
        stem.is_some_and(|(head, _)| head == alike)
    };
    let entries = entries.filter(is_alike);
    let newest = entries.max_by_key(|entry| entry.metadata().and_then(|file| file.modified()).ok());
    Some(Record { steps: BTreeMap::new(), ..Record::load(&newest?.path())? })
}

/// A build argument as it may be kept: a proxy's address, which needs no scheme, may hold a
/// password.
fn without_user((name, value): (String, String)) -> (String, String) {
    let user = value.rfind('@').filter(|_| name.to_ascii_lowercase().ends_with("_proxy"));
    let value = user.map_or(without_credentials(&value), |at| format!("***{}", &value[at..]));
    (name, value)
}

/// The digests of the files in `folder` itself; only the sizes of large ones, which would take too
/// long to read.
fn digests(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let digest = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.metadata().ok()? {
            file if file.len() > LARGE => Some((name, format!("{} bytes", file.len()))),
            file if file.is_file() => Some((name, sha256(fs::read(entry.path()).ok()?))),
            _ => None,
        }
    };
    entries.filter_map(digest).collect()
}

/// Explains why the first step ran in `build` of `target`, whose steps were `steps`. Only what is
/// certain: that step, and what differs from the last build.
pub fn explain(target: &str, steps: Option<&[Step]>, build: &Build) -> Vec<String> {
    let Some(steps) = steps else {
        return vec![format!("{target}: buildx reported no step, so nothing is known.")];
    };
    // They come in the order in which they began.
    let has_run = |step: &&Step| step.cached == Some(false) || step.error.is_some();
    let Some(first) = steps.iter().find(has_run) else {
        return vec![format!("{target}: every step was cached.")];
    };
    let mut lines = vec![format!("{target}: the first step that ran is {}", shown(&first.name))];
    let Some(last) = build.last.as_ref().or(build.other.as_ref()) else {
        lines.push("  no earlier build of it is recorded here to compare with.".to_owned());
        return lines;
    };
    if build.last.is_none() {
        let base = last.args.get("BASE_IMAGE").map_or("another base image", String::as_str);
        lines.push(format!("  it is compared with the last build, which was on {base}:"));
    }
    let found = differences(&first.name, &build.now, last);
    if found.is_empty() {
        lines.push(
            "  nothing differs from the last build: no cache that was read has the step, or not any \
             more. BuildKit does not say which."
                .to_owned(),
        );
    }
    lines.extend(found.into_iter().map(|line| format!("  {line}")));
    lines
}

/// What differs, and where that is certain, whether the step named `step` reads it.
fn differences(step: &str, now: &Record, last: &Record) -> Vec<String> {
    let mut found = Vec::new();
    for (name, was, is) in changes(&last.bases, &now.bases) {
        let [was, is] = [was, is].map(|digest| digest.map_or("none", String::as_str));
        found.push(format!("base image {name}: {was} before, now {is}"));
    }
    for (name, was, is) in changes(&last.args, &now.args) {
        let [was, is] =
            [was, is].map(|v| v.map_or("none".to_owned(), |value| format!("{value:?}")));
        if !OF_COMMIT.contains(&name) {
            found.push(format!("build argument {name}: {was} before, now {is}"));
        }
    }
    for (name, was, is) in changes(&last.files, &now.files) {
        let how = match (was, is) {
            (None, _) => "is new",
            (_, None) => "is gone",
            _ => "has changed",
        };
        let read = if step.contains(name) { "which this step reads, " } else { "" };
        found.push(format!("the file {name}, {read}{how}"));
    }
    if let Some((number, line)) = first_line(&last.dockerfile, &now.dockerfile) {
        found.push(format!("Dockerfile line {number}, the first that differs: {line}"));
    }
    found
}

/// The entries that are not the same in both, with their old and new values.
fn changes<'a>(
    last: &'a BTreeMap<String, String>,
    now: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = (&'a str, Option<&'a String>, Option<&'a String>)> {
    let gone = last.keys().filter(|name| !now.contains_key(*name));
    let all = now.keys().chain(gone).map(|name| (name.as_str(), last.get(name), now.get(name)));
    all.filter(|(_, was, is)| was != is)
}

/// The number and text of the first line in which `now` is not as it `was`.
fn first_line<'a>(was: &str, now: &'a str) -> Option<(usize, &'a str)> {
    let same = was.lines().zip(now.lines()).take_while(|(old, new)| old == new).count();
    let is_equal = same == was.lines().count() && same == now.lines().count();
    (!is_equal).then(|| (same + 1, now.lines().nth(same).map_or("the end", str::trim)))
}
