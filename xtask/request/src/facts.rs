//! What a plan is made of besides the request: what the repository, the caller's variables and git tell, and
//! what docker and registries answered.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use base::error::usage;
use base::message;

use crate::cli::{Args, TagBy, in_engine};
use crate::definition::{self, Definition, FOLDER, check_name};
use crate::host::Host;
use crate::plan::choices;
use crate::source::{self, Source};

/// What was found out before planning. `--print` has neither a builder nor a registry to ask.
pub struct Facts {
    pub definition: Definition,
    pub source: Source,
    pub host: Host,
    /// The base images that the images are built of.
    pub needed: BTreeSet<String>,
    /// A digest of the image's folder, and one of the layer's, where names or labels need them.
    pub files: String,
    pub layer_files: Option<String>,
    pub builder: Option<Builder>,
    /// Base images that a registry or the engine knows, by reference.
    pub bases: BTreeMap<String, Base>,
}

impl Facts {
    /// What is known without docker and without a network.
    /// Errors: a usage error for a target, variant, platform or layer that there is not; what can't be read.
    pub fn read(root: &Path, args: &Args) -> Result<Self> {
        let definition = Definition::read(root)?;
        check_name("target", &args.target, definition::TARGETS.into_iter())?;
        let has_inputs = args.push || args.tag_by != TagBy::Commit;
        let mut needed = BTreeSet::new();
        for choice in choices(args, &definition)? {
            for platform in &args.platforms {
                let platforms = choice.variant.platforms.iter().map(String::as_str);
                check_name("platform", platform, platforms)?;
            }
            needed.insert(choice.base_image.to_owned());
            let given =
                [("BUILDER_IMAGE", &args.builder_image), ("TOOLS_IMAGE", &args.tools_image)];
            for (name, given) in given.into_iter().filter(|_| has_inputs) {
                let own = choice.variant.bake["args"][name].as_str();
                needed.extend(given.as_deref().or(own).map(str::to_owned));
            }
        }
        let source = Source::resolve(root, args)?;
        let host = Host::read(root, source.folder.as_deref())?;
        if let Some(folder) = &args.layer
            && let Err(error) = fs::metadata(folder.join("Dockerfile"))
        {
            ensure!(error.kind() == ErrorKind::NotFound, source::unreadable(folder, &error));
            let name = folder.to_string_lossy();
            return Err(usage(format!("--layer {name:?}: there is no Dockerfile in it")));
        }
        let (mut files, mut layer_files) = (String::new(), None);
        if has_inputs {
            // All that the build reads, whose modes the Dockerfile sets.
            let read = [".dockerignore", "Dockerfile", "steps", "runtime", "lock"];
            files = source::digest(&root.join(FOLDER), Some(&read), false)?;
            let digest = |folder| source::digest(folder, None, true);
            layer_files = args.layer.as_deref().map(digest).transpose()?;
        }
        let (builder, bases) = (None, BTreeMap::new());
        Ok(Facts { definition, source, host, needed, files, layer_files, builder, bases })
    }

    /// Names the base images whose triggers will run.
    pub fn warn_of_triggers(&self) {
        for (reference, _) in self.bases.iter().filter(|(_, base)| base.has_triggers) {
            message::warn(&format!(
                "the base image {reference} has ONBUILD triggers: they run in this build, on the image's own \
                 files"
            ));
        }
    }
}

/// What a builder can do.
#[derive(Clone)]
pub struct Builder {
    pub name: String,
    pub driver: String,
    pub exports_cache: bool,
    /// The platforms that it can build for, its own first.
    pub runs: Vec<String>,
}

impl Builder {
    /// Errors: it does not build for one of `platforms`.
    pub fn check_platforms(&self, platforms: &[String]) -> Result<()> {
        // Some builders do not say.
        let does_not_run =
            |platform: &&String| !self.runs.is_empty() && !self.runs.contains(platform);
        if let Some(other) = platforms.iter().find(does_not_run) {
            bail!(
                "the builder {:?} does not run {other:?}, only {}\nhint: build it on such a machine, \
                 install QEMU's binfmt support, or run {}",
                self.name,
                self.runs.join(", "),
                in_engine("--emulate ")
            );
        }
        Ok(())
    }

    /// Errors: it can't write a cache.
    pub fn check_cache_export(&self) -> Result<()> {
        ensure!(
            self.exports_cache,
            "the builder {:?} can't export a cache, so none is written\nhint: turn on the engine's \
             containerd image store, or use another builder: `docker buildx create --driver \
             docker-container --use`",
            self.name
        );
        Ok(())
    }
}

/// A base image.
#[derive(Clone)]
pub struct Base {
    pub digest: String,
    /// The digest of its lowest layer: images that share it stand on one system.
    pub system: Option<String>,
    /// True where it has ONBUILD triggers, which run in a build on it.
    pub has_triggers: bool,
}
