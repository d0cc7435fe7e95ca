//! What goes into an image: a digest of it is kept as a label, so that a later run knows whether the
//! image in the registry is the one that it would build.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Plan, Target};
use crate::digest::sha256;
use crate::image::request::Request;
use crate::image::request::definition::Definition;
use crate::image::request::source::Source;

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
    /// Adds the label. `bases` has the digests of base images that are known, and `platforms` is
    /// what is built for.
    pub fn add_inputs(&mut self, bases: &BTreeMap<String, String>, platforms: &[String]) {
        for target in &mut self.targets {
            let known = target.bases().into_iter().map(|base| (bases.get(&base).cloned(), base));
            let inputs = json!([target.inputs, known.collect::<Vec<_>>(), platforms]);
            target.inputs = sha256(inputs.to_string());
            target.labels.push((LABEL, target.inputs.clone()));
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
            "bake": bake,
            "stage": request.target,
            "args": args,
            "labels": labels,
            "bake_args": bake_args.collect::<Vec<_>>(),
        });
        sha256(inputs.to_string())
    }

    /// The images that it is built from, as its arguments name them.
    pub fn bases(&self) -> Vec<String> {
        let args = self.args().into_iter();
        args.filter(|(name, _)| name.ends_with("_IMAGE")).map(|(_, base)| base).collect()
    }
}
