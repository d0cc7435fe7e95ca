//! The last build of each image: what it was made of and when its steps ran, kept below `target/`. The
//! next build is compared with it: what did a cache save, and why did a step run (`--explain`)?

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use base::digest::sha256;
use base::message::without_credentials;
use base::output;
use serde_json::{Value, json};

use crate::build::Ended;
use outcome::record::Step;
use outcome::text;
use outcome::trace::Span;
use request::cli::Args;
use request::definition::FOLDER;
use request::plan::Image;
use request::source::Source;

/// In bytes: of larger files only the size is compared, since reading them would take too long.
const LARGE: u64 = 16 << 20;

/// What the names of files begin with, among the parts of a build.
const FILE: &str = "the file ";

/// What a build is made of: base images with their digests, build arguments, files with their digests.
type Parts = BTreeMap<String, String>;

/// The builds of this machine, and what every image of this run is made of.
pub struct Last {
    folder: PathBuf,
    /// What makes the record of an image another one, besides its base image.
    alike: String,
    target: String,
    files: Parts,
}

impl Last {
    pub fn new(root: &Path, args: &Args, source: &Source) -> Self {
        let mut files = Parts::new();
        add_files(&root.join(FOLDER), FILE, &mut files);
        for name in ["uv.lock", "pyproject.toml"] {
            let content =
                source.folder.as_ref().and_then(|folder| fs::read(folder.join(name)).ok());
            files.extend(content.map(|content| (format!("{FILE}{name}"), sha256(content))));
        }
        let arch = args.arch.as_deref().unwrap_or_default();
        let platforms = args.platforms.join(",");
        let alike = [args.image.as_str(), &args.target, args.flavor.name(), arch, &platforms];
        Last {
            folder: root.join("target/image/last"),
            alike: alike.join("\n"),
            target: args.target.clone(),
            files,
        }
    }

    /// Where the record of `image` is kept. The name begins alike for all base images.
    fn path(&self, image: &Image) -> PathBuf {
        let digest = |key: &str| sha256(key).split_off(48);
        let alike = digest(&format!("{}\n{}", self.alike, image.built_as));
        let own = digest(&format!("{}\n{}", image.name, image.base_image));
        self.folder.join(format!("{}-{alike}-{own}.json", self.target))
    }

    /// When the steps of `image` last ran, where that is known. Those of one build may overlap.
    pub fn steps(&self, image: &Image) -> Option<BTreeMap<String, Span>> {
        let mut steps = BTreeMap::new();
        for (name, times) in load(&self.path(image))?["steps"].as_object()? {
            steps.insert(name.clone(), Span { from: times[0].as_f64()?, to: times[1].as_f64()? });
        }
        Some(steps)
    }

    /// Keeps `ended` as the last build of `image`. A cached step last ran when it did before.
    pub fn save(&self, image: &Image, ended: &Ended) -> Result<()> {
        let before = self.steps(image).unwrap_or_default();
        let mut steps = BTreeMap::new();
        for step in &ended.record.step_list {
            let span = match step.cached {
                Some(false) => step.started.zip(step.seconds).map(|(from, s)| [from, from + s]),
                _ => before.get(&step.name).map(|span| [span.from, span.to]),
            };
            steps.extend(span.map(|span| (step.name.clone(), span)));
        }
        let (base_image, parts) = (&image.base_image, self.parts(image, ended));
        let build = json!({ "base_image": base_image, "parts": parts, "steps": steps });
        output::save(&self.path(image), without_credentials(&format!("{build}\n")))
    }

    /// What `image` was made of: the arguments as they may be kept, so without passwords.
    fn parts(&self, image: &Image, ended: &Ended) -> Parts {
        let mut parts = self.files.clone();
        for (name, digest) in &ended.bases {
            parts.insert(format!("base image {name}"), digest.clone());
        }
        for (name, mut value) in image.build_args() {
            // A proxy's address needs no scheme.
            if let Some(at) = value.rfind('@').filter(|_| name.to_lowercase().ends_with("_proxy")) {
                value.replace_range(..at, "***");
            }
            let value = format!("{:?}", without_credentials(&value));
            parts.insert(format!("build argument {name}"), value);
        }
        parts
    }

    /// Why the first step of `ended` ran. Only what is certain: that step, and what differs from the last
    /// build, or where there is none, from the last one on another base image.
    pub fn explain(&self, image: &Image, ended: &Ended) -> Vec<String> {
        let (shown, steps) = (&image.shown, &ended.record.step_list);
        if steps.is_empty() {
            return vec![format!("{shown}: buildx reported no step, so nothing is known")];
        }
        // They come in the order in which they began.
        let has_run = |step: &&Step| step.cached == Some(false) || step.error.is_some();
        let Some(first) = steps.iter().find(has_run) else {
            return vec![format!("{shown}: every step was cached")];
        };
        let title = text::title(&first.name);
        let mut lines = vec![format!("{shown}: the first step that ran is {title}")];
        let path = self.path(image);
        let Some(last) = load(&path).or_else(|| on_another_base(&path)) else {
            lines.push("  no earlier build of it is recorded here to compare with".to_owned());
            return lines;
        };
        if let Some(base) = last["base_image"].as_str().filter(|base| *base != image.base_image) {
            lines.push(format!("  compared with the last build, which was on {base}:"));
        }
        let now = self.parts(image, ended);
        let before = lines.len();
        let known = last["parts"].as_object().into_iter().flatten().map(|(name, _)| name);
        for name in now.keys().chain(known).collect::<BTreeSet<_>>() {
            let (was, is) = (last["parts"][name].as_str(), now.get(name).map(String::as_str));
            if was == is {
                continue;
            }
            let Some(path) = name.strip_prefix(FILE) else {
                let (was, is) = (was.unwrap_or("none"), is.unwrap_or("none"));
                lines.push(format!("  {name}: {was} before, now {is}"));
                continue;
            };
            let is_read = first.name.contains(path.rsplit('/').next().unwrap_or(path));
            let read = if is_read { ", which this step reads," } else { "" };
            let how = match (was, is) {
                (None, _) => "is new",
                (_, None) => "is gone",
                _ => "has changed",
            };
            lines.push(format!("  {name}{read} {how}"));
        }
        if lines.len() == before {
            lines.push(
                "  nothing differs from the last build: no cache that was read has the step, or not any more"
                    .to_owned(),
            );
        }
        lines
    }
}

fn load(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The newest record of a build that differs from that at `path` by its base image.
fn on_another_base(path: &Path) -> Option<Value> {
    let (alike, _) = path.file_name()?.to_str()?.rsplit_once('-')?;
    let entries = fs::read_dir(path.parent()?).ok()?.flatten().filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.rsplit_once('-').is_some_and(|(head, _)| head == alike)
    });
    let newest = entries.max_by_key(|entry| entry.metadata().ok()?.modified().ok());
    load(&newest?.path())
}

/// Adds the files below `folder`, whose names begin with `prefix`.
fn add_files(folder: &Path, prefix: &str, files: &mut Parts) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.metadata() {
            Ok(file) if file.is_dir() => add_files(&entry.path(), &format!("{name}/"), files),
            Ok(file) if file.len() > LARGE => {
                files.insert(name, format!("{} bytes", file.len()));
            }
            Ok(file) if file.is_file() => {
                files.extend(fs::read(entry.path()).map(|content| (name, sha256(content))));
            }
            _ => {}
        }
    }
}
