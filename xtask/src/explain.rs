//! The last build of each image, kept below `target/`: what did a cache save, and why did a step run?

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use base::digest::sha256;
use base::message::{say, without_credentials};
use base::output;
use serde_json::{Value, json};

use crate::build::Ended;
use outcome::record::Step;
use outcome::text;
use outcome::trace::Span;
use request::cli::Args;
use request::definition::FOLDER;
use request::names;
use request::plan::Image;
use request::source::Source;

/// What the names of files begin with, among the parts of a build.
const FILE: &str = "the file ";

/// What a build is made of: base images with their digests, build arguments, files with their digests.
type Parts = BTreeMap<String, String>;

/// The builds of this machine, and what every image of this run is made of.
pub struct Last {
    folder: PathBuf,
    /// What the name of each file here ends with.
    suffix: String,
    files: Parts,
}

impl Last {
    pub fn new(root: &Path, args: &Args, source: &Source) -> Self {
        let mut files = Parts::new();
        add_files(&root.join(FOLDER), FOLDER, &mut files);
        for name in ["uv.lock", "pyproject.toml"] {
            source.folder.iter().for_each(|folder| add_files(&folder.join(name), name, &mut files));
        }
        let suffix = names::suffix(args.flavor.part(), args.arch.as_deref(), Some(&args.target));
        Last { folder: root.join("target/image/last"), suffix, files }
    }

    /// What the files of `image` are called.
    pub fn name(&self, image: &Image) -> String {
        format!("{}{}", image.name, self.suffix)
    }

    fn path(&self, image: &Image) -> PathBuf {
        self.folder.join(self.name(image) + ".json")
    }

    fn load(&self, image: &Image) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.path(image)).ok()?).ok()
    }

    /// When the steps of `image` last ran, where that is known. Those of one build may overlap.
    pub fn steps(&self, image: &Image) -> Option<BTreeMap<String, Span>> {
        let mut steps = BTreeMap::new();
        for (name, times) in self.load(image)?["steps"].as_object()? {
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
            steps.extend(span.map(|span| (&step.name, span)));
        }
        let build = json!({ "parts": self.parts(image, ended), "steps": steps });
        output::save(&self.path(image), without_credentials(&format!("{build}\n")))
    }

    fn parts(&self, image: &Image, ended: &Ended) -> Parts {
        let mut parts = self.files.clone();
        for (name, digest) in &ended.bases {
            parts.insert(format!("base image {name}"), digest.clone());
        }
        for (name, value) in image.build_args() {
            // No cache key holds a proxy.
            if !name.to_lowercase().ends_with("_proxy") {
                parts.insert(format!("build argument {name}"), format!("{value:?}"));
            }
        }
        parts
    }

    /// Says which step of `ended` ran first, and what differs from the last build.
    pub fn explain(&self, image: &Image, ended: &Ended) {
        // They come in the order in which they began.
        let has_run = |step: &&Step| step.cached == Some(false) || step.error.is_some();
        let Some(first) = ended.record.step_list.iter().find(has_run) else {
            return say(&format!("{}: no step ran", image.shown));
        };
        say(&format!("{}: the first step that ran is {}", image.shown, text::title(&first.name)));
        let Some(last) = self.load(image) else {
            return say("  no earlier build of it is recorded here to compare with");
        };
        let now = self.parts(image, ended);
        let known = last["parts"].as_object().into_iter().flatten().map(|(name, _)| name);
        let mut is_same = true;
        for name in now.keys().chain(known).collect::<BTreeSet<_>>() {
            let how = match (last["parts"][name].as_str(), now.get(name)) {
                (Some(was), Some(is)) if was == is => continue,
                (Some(_), Some(_)) if name.starts_with(FILE) => "has changed".to_owned(),
                (Some(was), Some(is)) => format!("has changed from {was} to {is}"),
                (None, _) => "is new".to_owned(),
                (_, None) => "is gone".to_owned(),
            };
            let word = name.rsplit(['/', ' ']).next();
            let is_read = word.is_some_and(|word| first.name.contains(word));
            let read = if is_read { ", which this step reads," } else { "" };
            say(&format!("  {name}{read} {how}"));
            is_same = false;
        }
        if is_same {
            say(
                "  nothing differs from the last build: no cache that was read has the step any more",
            );
        }
    }
}

/// Adds the file `path`, or the files below the folder `path`, whose `name` for people this is.
fn add_files(path: &Path, name: &str, files: &mut Parts) {
    // A FIFO may never end, and a link may lead anywhere.
    let Ok(kind) = fs::symlink_metadata(path) else { return };
    if kind.is_file() {
        let content = fs::read(path);
        files.extend(content.map(|content| (format!("{FILE}{name}"), sha256(content))));
    }
    for entry in fs::read_dir(path).into_iter().filter(|_| kind.is_dir()).flatten().flatten() {
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        add_files(&entry.path(), &name, files);
    }
}
