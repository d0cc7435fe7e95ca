//! What the last build of an image was made of and how long its steps took, kept below `target/`:
//! so that the next one can tell what a cache saved, and why a step ran.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Result;
use serde_json::{Map, Value, json};
use xshell::Shell;

use crate::digest::sha256;
use crate::image::build::trace::{Step, Trace};
use crate::image::plan::Target;
use crate::image::request::Request;
use crate::image::request::definition::FOLDER;
use crate::output;

/// The last build of a target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    pub dockerfile: Rc<Dockerfile>,
    /// Build arguments with their values.
    pub args: BTreeMap<String, String>,
    /// Files that steps can read, by name, each with a digest of its content.
    pub files: BTreeMap<String, String>,
    /// Base images, each with the digest that it had.
    pub bases: BTreeMap<String, String>,
    /// Seconds that each step took when it last ran.
    pub steps: BTreeMap<String, f64>,
}

/// A Dockerfile, which the thousand records of a batch share, in memory and on the disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dockerfile {
    pub digest: String,
    pub text: String,
}

/// In bytes.
const LARGE: u64 = 16 << 20;

/// Arguments that change with every commit, and that no step before the last labels reads.
pub const OF_COMMIT: [&str; 2] = ["OPENHANDS_BUILD_GIT_SHA", "OPENHANDS_BUILD_GIT_REF"];

/// A build that is done, and the one before it.
pub struct Build {
    /// Where its record is kept.
    pub path: PathBuf,
    pub now: Record,
    pub last: Option<Record>,
}

impl Record {
    /// What all builds are made of; what is a target's own comes with [`Record::add`].
    pub fn inputs(sh: &Shell, prebuilt: Option<&Path>) -> Self {
        let folder = sh.current_dir().join(FOLDER);
        let mut files = digests(&folder);
        let dockerfile = Dockerfile {
            digest: files.remove("Dockerfile").unwrap_or_default(),
            text: fs::read_to_string(folder.join("Dockerfile")).unwrap_or_default(),
        };
        files.extend(prebuilt.map(digests).unwrap_or_default());
        Record { dockerfile: dockerfile.into(), files, ..Record::default() }
    }

    /// Adds what `trace` tells of `target`. A step that came from a cache takes as long as it last
    /// took.
    pub fn add(&mut self, target: &Target, trace: &Trace, last: Option<&Record>) {
        self.args = target.args();
        self.bases = trace.bases(&target.name);
        for Step { name, cached, seconds, .. } in trace.steps(&target.name).unwrap_or_default() {
            let seconds = match cached {
                Some(false) => seconds,
                _ => last.and_then(|last| last.steps.get(&name).copied()),
            };
            self.steps.extend(seconds.map(|seconds| (name, seconds)));
        }
    }

    /// The record of the last build, if there is one that this version can read.
    pub fn load(path: &Path, now: &Record) -> Option<Self> {
        let value: Value = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
        let texts = |key: &str| -> Option<BTreeMap<String, String>> {
            let entries = value[key].as_object()?.iter();
            entries.map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned()))).collect()
        };
        let steps = value["steps"].as_object()?.iter();
        let digest = value["dockerfile"].as_str()?.to_owned();
        let dockerfile = if digest == now.dockerfile.digest {
            Rc::clone(&now.dockerfile)
        } else {
            let text = fs::read_to_string(beside(path, &digest)).ok()?;
            Rc::new(Dockerfile { digest, text })
        };
        Some(Record {
            dockerfile,
            args: texts("args")?,
            files: texts("files")?,
            bases: texts("bases")?,
            steps: steps
                .map(|(name, s)| Some((name.clone(), s.as_f64()?)))
                .collect::<Option<_>>()?,
        })
    }

    /// Keeps this as the last build.
    ///
    /// # Errors
    /// A disk that does not take it.
    pub fn save(&self, path: &Path) -> Result<()> {
        let Dockerfile { digest, text } = &*self.dockerfile;
        let dockerfile = beside(path, digest);
        if !dockerfile.exists() {
            output::save(&dockerfile, text)?;
        }
        let steps = self.steps.iter().map(|(name, seconds)| (name.clone(), json!(seconds)));
        let record = json!({
            "dockerfile": digest,
            "args": self.args,
            "files": self.files,
            "bases": self.bases,
            "steps": steps.collect::<Map<_, _>>(),
        });
        output::save(path, format!("{record:#}\n"))
    }
}

/// Where the record of `target` is kept.
pub fn path(sh: &Shell, request: &Request, target: &Target) -> PathBuf {
    let arch = request.arch.as_deref().unwrap_or_default();
    let platforms = request.platforms.join(",");
    let key = [&request.image, &request.target, &target.name, &target.base_image, arch, &platforms];
    let name = &sha256(key.join("\n"))[..16];
    sh.current_dir().join("target/image").join(format!("{}-{name}.json", request.target))
}

/// Where the text of the Dockerfile of a record at `path` is kept.
fn beside(path: &Path, digest: &str) -> PathBuf {
    path.with_file_name(format!("{digest}.Dockerfile"))
}

/// The digests of the files that lie in `folder` itself; of large ones only the sizes, because
/// reading them would take longer than what it tells is worth.
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
