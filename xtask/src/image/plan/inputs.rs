//! What goes into an image: a digest of it is kept as a label, so that a later run knows whether the
//! image in the registry is the one that it would build.

use std::collections::BTreeMap;

use serde_json::json;

use super::tag::{self, Naming, short_sha};
use super::{Layer, Plan, Target, naming};
use crate::image::request::definition::Definition;
use crate::image::request::source::Source;
use crate::image::request::{Request, TagBy};
use base::digest::sha256;

/// The label that holds the digest.
pub const LABEL: &str = "dev.openhands.inputs";

/// What the bake file says that does not reach the image, or that a run decides.
const NO_INPUTS: [&str; 6] = ["cache-from", "cache-to", "output", "platforms", "tags", "target"];

/// Labels and arguments of the commit, which change without anything in the image.
const OF_COMMIT: [&str; 6] = [
    "OPENHANDS_BUILD_GIT_SHA",
    "OPENHANDS_BUILD_GIT_REF",
    "org.opencontainers.image.revision",
    "org.opencontainers.image.ref.name",
    "org.opencontainers.image.created",
    "dev.openhands.dirty",
];

impl Plan {
    /// Adds the label, and the tags that hold its digest. `bases` has the digests of base images
    /// that are known, and `platforms` is what is built for.
    pub fn add_inputs(
        &mut self,
        request: &Request,
        source: &Source,
        bases: &BTreeMap<String, String>,
        platforms: &[String],
    ) {
        // The images of one manifest need one name; that of each architecture stands behind it.
        let is_in_name = request.tag_by == TagBy::Content && request.arch.is_some();
        let platforms = if is_in_name { &[] } else { platforms };
        for target in &mut self.targets {
            let known = target.bases().into_iter().map(|base| (bases.get(&base).cloned(), base));
            let known = known.collect::<Vec<_>>();
            let inputs = json!([target.inputs, known, platforms]);
            target.inputs = sha256(inputs.to_string());
            let mut unknown = known.into_iter().filter(|(digest, _)| digest.is_none());
            target.unknown_base = unknown.next().map(|(_, base)| base);
            target.labels.push((LABEL, target.inputs.clone()));
            target.set_tags(request, source);
        }
    }
}

impl Target {
    /// A digest of all that goes into it by the request.
    pub fn digest(&self, request: &Request, definition: &Definition, source: &Source) -> String {
        let mut bake = self.variant_bake.clone();
        bake.retain(|key, _| !NO_INPUTS.contains(&key.as_str()));
        let is_input = |(name, _): &&(&str, String)| {
            !OF_COMMIT.contains(name) && !name.to_ascii_lowercase().ends_with("_proxy")
        };
        let args = self.args.iter().filter(is_input).collect::<Vec<_>>();
        let labels = self.labels.iter().filter(is_input).collect::<Vec<_>>();
        let bake_args = request.bake_args.iter().map(|arg| arg.to_string_lossy());
        let inputs = json!({
            "files": definition.files,
            "server": source.files,
            "layer": request.layer.as_ref().map(|layer| &layer.files),
            "bake": bake,
            "stage": request.target,
            "args": args,
            "labels": labels,
            "bake_args": bake_args.collect::<Vec<_>>(),
        });
        sha256(inputs.to_string())
    }

    /// Makes its tags, which hold the commit or a digest of its inputs.
    pub fn set_tags(&mut self, request: &Request, source: &Source) {
        let sha = match request.tag_by {
            TagBy::Commit => &source.sha,
            TagBy::Content => self.inputs.get(..40).unwrap_or_default(),
        };
        let naming = naming(request, source, sha, &self.base_image, &self.custom_tags);
        let references = |tags: Vec<String>| -> Vec<String> {
            tags.into_iter().map(|tag| format!("{}:{tag}", request.image)).collect()
        };
        self.layer = request.layer.as_ref().map(|layer| {
            let tag = |tag: String| tag::valid(format!("{tag}-{}", layer.suffix), &tag);
            let tags = references(naming.tags().into_iter().map(tag).collect());
            Layer { folder: layer.folder.clone(), tags }
        });
        let tags = references(naming.tags());
        self.manifest_tags = references(Naming { arch: None, ..naming }.tags());
        self.tags = tags;
    }

    /// Does `tag`, one of its own, begin with the digest of its inputs?
    pub fn names_content(&self, tag: &str) -> bool {
        tag.rsplit(':').next().is_some_and(|tag| tag.starts_with(short_sha(&self.inputs)))
    }

    /// The images that it is built from, as its arguments name them.
    pub fn bases(&self) -> Vec<String> {
        let args = self.args().into_iter();
        args.filter(|(name, _)| name.ends_with("_IMAGE")).map(|(_, base)| base).collect()
    }
}
