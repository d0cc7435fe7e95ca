//! What a plan is made of besides the request: what this machine has, and what docker and registries answered.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, bail, ensure};
use base::error::usage;
use base::message;

use crate::cli::{Args, TagBy, in_engine};
use crate::definition::{self, Definition, FOLDER, check_name};
use crate::host::Host;
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
        check_name("target", &args.target, definition::targets())?;
        let has_inputs = args.push || args.tag_by != TagBy::Commit;
        let mut needed = BTreeSet::new();
        for (_, variant) in definition.chosen(&args.variant)? {
            for platform in &args.platforms {
                let platforms = variant.platforms.iter().map(String::as_str);
                check_name("platform", platform, platforms)?;
            }
            let given = [
                ("BASE_IMAGE", args.base_images.first().map(|base| &base.reference)),
                ("BUILDER_IMAGE", args.builder_image.as_ref()),
                ("TOOLS_IMAGE", args.tools_image.as_ref()),
            ];
            for (name, given) in given.into_iter().take(if has_inputs { 3 } else { 1 }) {
                let own = || variant.bake["args"][name].as_str().map(str::to_owned);
                needed.extend(given.cloned().or_else(own));
            }
        }
        needed.extend(args.base_images.iter().map(|base| base.reference.clone()));
        let source = Source::resolve(root, args)?;
        let host = Host::read(root, source.folder.as_deref())?;
        let (mut files, mut layer_files) = (String::new(), None);
        if let Some(folder) = &args.layer {
            let why =
                format!("--layer {:?}: there is no Dockerfile in it", folder.to_string_lossy());
            ensure!(folder.join("Dockerfile").exists(), usage(why));
            layer_files = has_inputs.then(|| source::digest(folder, None, true)).transpose()?;
        }
        if has_inputs {
            // All that the build reads, whose modes the Dockerfile sets.
            let read = [".dockerignore", "Dockerfile", "steps", "runtime", "lock"];
            files = source::digest(&root.join(FOLDER), Some(&read), false)?;
        }
        let (builder, bases) = (None, BTreeMap::new());
        Ok(Facts { definition, source, host, needed, files, layer_files, builder, bases })
    }

    /// Names the base images whose triggers will run.
    pub fn warn_of_triggers(&self) {
        for (reference, _) in self.bases.iter().filter(|(_, base)| base.has_triggers) {
            let what = "has ONBUILD triggers: they run in this build, on the image's own files";
            message::warn(&format!("the base image {reference} {what}"));
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
        let other = platforms.iter().find(|platform| !self.runs.contains(platform));
        // Some builders do not say.
        let Some(other) = other.filter(|_| !self.runs.is_empty()) else { return Ok(()) };
        bail!(
            "the builder {:?} does not run {other:?}, only {}\nhint: build it on such a machine, install \
             QEMU's binfmt support, or run {}",
            self.name,
            self.runs.join(", "),
            in_engine("--emulate ")
        )
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
