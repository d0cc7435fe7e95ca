//! `cargo xtask image merge`: makes multi-architecture manifests of images that were built one
//! architecture at a time. Everything is checked before anything is pushed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use pico_args::Arguments;
use serde_json::{Value, json};
use xshell::Shell;

use crate::error::usage;
use crate::image::build::registry;
use crate::image::plan::tag;
use crate::image::report::build_info::{self, text, texts};
use crate::image::request;
use crate::image::request::definition::Definition;
use crate::output;
use crate::process;

/// The images that become one manifest: a variant on a base image, in several architectures.
struct Group {
    /// Sorted by platform.
    images: Vec<Value>,
    /// References.
    tags: Vec<String>,
    /// Beside the first of its images.
    file: PathBuf,
}

/// Reads the build information that is named, pushes the manifests, and reads them back.
///
/// # Errors
/// A usage error for files that do not go together; a registry that refuses; a manifest that does
/// not hold what was put in it.
pub fn main(sh: &Shell, mut args: Arguments) -> Result<()> {
    process::catch_signals();
    let allow_partial = request::flags::ALLOW_PARTIAL.is_given(&mut args);
    let asked = request::platforms(&mut args)?;
    let definition = Definition::read(sh)?;
    let groups = groups(&request::files(args, request::flags::Command::Merge)?)?;
    for group in &groups {
        group.check(allow_partial, &asked, &definition)?;
    }
    check_tags(&groups)?;
    for group in &groups {
        group.push()?;
        for tag in &group.tags {
            output::write(tag)?;
        }
    }
    Ok(())
}

/// Groups the files by variant, base image and target.
fn groups(files: &[PathBuf]) -> Result<Vec<Group>> {
    let mut groups: BTreeMap<[String; 3], Group> = BTreeMap::new();
    for file in files {
        let info = build_info::read(file)?;
        // An earlier merge left its own record among its inputs.
        if info["kind"] == build_info::MANIFEST {
            continue;
        }
        let key = ["variant", "base_image", "target"].map(|key| text(&info, key).to_owned());
        let name = key.iter().filter(|part| !part.is_empty()).map(|part| tag::slug(part));
        let name = name.collect::<Vec<_>>().join("-").replace(['/', '@'], "-");
        let file = file.parent().unwrap_or(Path::new("")).join(format!("{name}.manifest.json"));
        let group = groups.entry(key).or_insert_with(|| Group {
            images: Vec::new(),
            tags: manifest_tags(&info),
            file,
        });
        group.images.push(info);
    }
    let mut groups = groups.into_values().collect::<Vec<_>>();
    for group in &mut groups {
        group.images.sort_by(|a, b| text(a, "platform").cmp(text(b, "platform")));
    }
    Ok(groups)
}

/// The tags without architecture, and on main `latest-{variant}`.
fn manifest_tags(info: &Value) -> Vec<String> {
    let mut tags = texts(info, "manifest_tags").into_iter().map(str::to_owned).collect::<Vec<_>>();
    let variant = text(info, "variant");
    if tag::is_main(text(info, "git_ref")) && !variant.is_empty() {
        let target = text(info, "target");
        let suffix = if target == "binary" { String::new() } else { format!("-{target}") };
        tags.push(format!("{}:latest-{variant}{suffix}", text(info, "image")));
    }
    tags
}

/// Two manifests must not claim one tag.
fn check_tags(groups: &[Group]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for tag in groups.iter().flat_map(|group| &group.tags) {
        if !seen.insert(tag) {
            return Err(usage(format!("two of the manifests would be {tag}: merge them apart.")));
        }
    }
    Ok(())
}

impl Group {
    fn check(&self, allow_partial: bool, asked: &[String], definition: &Definition) -> Result<()> {
        let name = self.name();
        for key in ["image", "sha", "git_ref", "manifest_tags"] {
            if let Some(other) = self.images.iter().find(|info| info[key] != self.images[0][key]) {
                return Err(usage(format!(
                    "the images of {name} differ in {key:?}: {} and {}. Merge what one run built.",
                    self.images[0][key], other[key]
                )));
            }
        }
        let mut missing = match asked {
            [] => definition
                .variants
                .get(text(&self.images[0], "variant"))
                .map(|variant| variant.platforms.clone())
                .unwrap_or_default(),
            asked => asked.to_vec(),
        };
        let mut platforms = BTreeSet::new();
        for info in &self.images {
            let platform = text(info, "platform");
            if !platforms.insert(platform) {
                return Err(usage(format!("{name} has two images for {platform}: name one.")));
            }
            missing.retain(|asked| asked != platform);
            if !is_digest(text(info, "digest")) {
                return Err(usage(format!(
                    "{name} for {platform} has the digest {}: build it again.",
                    info["digest"]
                )));
            }
        }
        if !missing.is_empty() && !allow_partial {
            return Err(usage(format!(
                "{name} lacks an image for {}: build it, or allow that with --allow-partial.",
                missing.join(", ")
            )));
        }
        Ok(())
    }

    fn name(&self) -> String {
        let info = &self.images[0];
        match text(info, "variant") {
            "" => format!("{:?}", text(info, "base_image")),
            variant => format!("{variant:?}"),
        }
    }

    /// Pushes the manifest and writes its record once it has been read back.
    fn push(&self) -> Result<()> {
        let image = text(&self.images[0], "image");
        let source = |info: &Value| format!("{image}@{}", text(info, "digest"));
        let sources = self.images.iter().map(source).collect::<Vec<_>>();
        registry::create(&self.tags, &sources)?;

        let expected =
            self.images.iter().map(|info| text(info, "platform")).collect::<BTreeSet<_>>();
        for tag in &self.tags {
            let manifests = registry::manifests(tag)?;
            let found = manifests.iter().map(|m| m.platform.as_str()).collect::<BTreeSet<_>>();
            if found != expected || manifests.len() != expected.len() {
                bail!("{tag} holds images for {found:?}, but {expected:?} were put in it.");
            }
        }
        let shared = |key: &str| self.images[0][key].clone();
        let arches = self.images.iter().map(|info| info["arch"].clone()).collect::<Vec<_>>();
        let info = json!({
            "schema": build_info::SCHEMA,
            "kind": build_info::MANIFEST,
            "variant": shared("variant"),
            "target": shared("target"),
            "base_image": shared("base_image"),
            "image": shared("image"),
            "git_ref": shared("git_ref"),
            "sha": shared("sha"),
            "short_sha": shared("short_sha"),
            "arches": arches,
            "platforms": expected,
            "tags": self.tags,
        });
        output::save(&self.file, format!("{info:#}\n"))
    }
}

fn is_digest(digest: &str) -> bool {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}
