//! `cargo xtask image merge`: makes multi-architecture manifests of images that were built one
//! architecture at a time. Everything is checked before anything is pushed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use pico_args::Arguments;
use xshell::Shell;

use crate::image::build::buildx::Docker;
use crate::image::build::registry;
use crate::image::plan::tag;
use crate::image::report::build_info::{BuildInfo, Kind};
use crate::image::request;
use crate::image::request::definition::Definition;
use base::error::{Interrupted, usage};
use base::message;
use base::output;
use base::process;

/// The images that become one manifest: a variant on a base image, in several architectures.
struct Group {
    /// Sorted by platform, at least one.
    images: Vec<BuildInfo>,
    /// Platforms without an image.
    missing: Vec<String>,
    /// References.
    tags: Vec<String>,
    /// Where the manifest's build information goes: beside that of the first image.
    file: PathBuf,
}

/// Reads the build information that is named, pushes the manifests, and reads them back. A usage
/// error for files that do not go together, or hold what is no reference or digest.
pub fn main(sh: &Shell, mut args: Arguments) -> Result<()> {
    process::catch_signals();
    let allow_partial = request::flags::ALLOW_PARTIAL.is_given(&mut args);
    let asked = request::flags::PLATFORMS.list(&mut args)?;
    let docker = Docker::new(sh, request::flags::BUILDER.text(&mut args)?.as_deref());
    let definition = Definition::read(sh)?;
    let mut groups = groups(&request::files(args, request::flags::Subcommand::Merge)?)?;
    for group in &mut groups {
        group.check(allow_partial, &asked, &definition)?;
    }
    check_tags(&groups)?;
    // What one lacks is no reason to keep back the others.
    let mut ended = Ok(());
    for group in &groups {
        match group.push(&docker) {
            Ok(()) => group.tags.iter().try_for_each(output::write)?,
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => {
                let error = error.context(format!("{} is not merged", group.name()));
                if let Err(earlier) = std::mem::replace(&mut ended, Err(error)) {
                    message::warn(&format!("{earlier:#}"));
                }
            }
        }
    }
    ended
}

/// Fails if the repository takes no image from this user: before a build, not after it.
pub fn probe(sh: &Shell, mut args: Arguments) -> Result<()> {
    process::catch_signals();
    let image = request::image(&mut args)?;
    let docker = Docker::new(sh, request::flags::BUILDER.text(&mut args)?.as_deref());
    request::flags::finish(args, request::flags::Subcommand::Probe)?;
    registry::probe(&docker, &image).with_context(|| format!("{image} can't be pushed to"))?;
    message::say(&format!("{image} can be pushed to."));
    Ok(())
}

/// Groups the files by variant, base image, target and flavor.
fn groups(files: &[PathBuf]) -> Result<Vec<Group>> {
    let mut groups: BTreeMap<[String; 4], Group> = BTreeMap::new();
    for file in files {
        let info = BuildInfo::read(file)?;
        // An earlier merge left its own record among its inputs.
        if info.kind == Kind::Manifest {
            continue;
        }
        let tags = manifest_tags(&info);
        check_values(file, &info, &tags)?;
        let variant = info.variant.clone().unwrap_or_default();
        let flavor = info.flavor.clone().unwrap_or_default();
        let key = [variant, info.base_image.clone(), info.target.clone(), flavor];
        let name = key.iter().filter(|part| !part.is_empty()).map(|part| tag::slug(part));
        let name = name.collect::<Vec<_>>().join("-").replace(['/', '@'], "-");
        let file = file.parent().unwrap_or(Path::new("")).join(format!("{name}.manifest.json"));
        let group = groups.entry(key).or_insert(Group {
            images: Vec::new(),
            missing: Vec::new(),
            tags,
            file,
        });
        group.images.push(info);
    }
    let mut groups = groups.into_values().collect::<Vec<_>>();
    for group in &mut groups {
        group.images.sort_by(|a, b| a.platforms.cmp(&b.platforms));
    }
    Ok(groups)
}

/// The tags without architecture, and on main `latest-{variant}`.
fn manifest_tags(info: &BuildInfo) -> Vec<String> {
    let mut tags = info.manifest_tags.clone();
    if let Some(variant) = info.variant.as_ref().filter(|_| tag::is_main(&info.git_ref)) {
        let flavor = info.flavor.as_ref().map(|flavor| format!("-{flavor}")).unwrap_or_default();
        let target = tag::target_suffix(&info.target, &flavor);
        tags.push(format!("{}:latest-{variant}{flavor}{target}", info.image));
    }
    tags
}

/// Checks what docker gets of a file: a value such as `-f` would be a flag to it.
fn check_values(file: &Path, info: &BuildInfo, tags: &[String]) -> Result<()> {
    let BuildInfo { image, digest, .. } = info;
    let name = file.to_string_lossy();
    let wrong = |what: String| Err(usage(format!("{name:?}: {what}: build it again.")));
    if !request::is_repository(image) {
        return wrong(format!("the image {image:?} is no repository"));
    }
    let is_of_image = |reference: &&String| {
        let tag = reference.strip_prefix(image.as_str()).and_then(|tag| tag.strip_prefix(':'));
        tag.is_some_and(|tag| !tag.is_empty() && tag::valid(tag.to_owned(), "") == tag)
    };
    if let Some(tag) = tags.iter().find(|tag| !is_of_image(tag)) {
        return wrong(format!("the manifest tag {tag:?} is none of the image {image:?}"));
    }
    match digest {
        Some(digest) if registry::is_digest(digest) => Ok(()),
        Some(digest) => wrong(format!("{digest:?} is no digest")),
        None => wrong("the image's digest is not known".to_owned()),
    }
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
    /// Checks that the images go together, and finds out which are missing.
    fn check(
        &mut self,
        allow_partial: bool,
        asked: &[String],
        definition: &Definition,
    ) -> Result<()> {
        let (name, first) = (self.name(), &self.images[0]);
        let tags = |info: &BuildInfo| info.manifest_tags.join(", ");
        for info in &self.images {
            for (key, first, other) in [
                ("image", &first.image, &info.image),
                ("sha", &first.sha, &info.sha),
                ("git_ref", &first.git_ref, &info.git_ref),
                ("manifest_tags", &tags(first), &tags(info)),
            ] {
                if first != other {
                    return Err(usage(format!(
                        "the images of {name} differ in {key:?}: {first:?} and {other:?}. Merge \
                         what one run built."
                    )));
                }
            }
        }
        let variant = first.variant.as_ref().and_then(|name| definition.variants.get(name));
        let mut missing = match (asked, variant) {
            ([], Some(variant)) => variant.platforms.clone(),
            _ => asked.to_vec(),
        };
        let mut platforms = BTreeSet::new();
        for platform in self.images.iter().map(|info| info.platforms.join(",")) {
            missing.retain(|asked| *asked != platform);
            if let Some(platform) = platforms.replace(platform) {
                return Err(usage(format!("{name} has two images for {platform}: name one.")));
            }
        }
        let platforms = missing.join(", ");
        match (missing.is_empty(), allow_partial) {
            (true, _) => {}
            (false, true) => message::warn(&format!(
                "{name} lacks an image for {platforms}: its tags will hold the others alone"
            )),
            (false, false) => {
                return Err(usage(format!(
                    "{name} lacks an image for {platforms}: build it, or allow that with \
                     --allow-partial."
                )));
            }
        }
        self.missing = missing;
        Ok(())
    }

    fn name(&self) -> String {
        let BuildInfo { variant, base_image, .. } = &self.images[0];
        format!("{:?}", variant.as_ref().unwrap_or(base_image))
    }

    /// Pushes the manifest and writes its record once it has been read back.
    fn push(&self, docker: &Docker) -> Result<()> {
        let first = &self.images[0];
        let digests = self.images.iter().filter_map(|info| info.digest.as_ref());
        let sources = digests.map(|digest| format!("{}@{digest}", first.image));
        registry::create(docker, &self.tags, &sources.collect::<Vec<_>>())?;

        let expected =
            self.images.iter().map(|info| info.platforms.join(",")).collect::<BTreeSet<_>>();
        for tag in &self.tags {
            let manifests = registry::manifests(docker, tag)?;
            let found = manifests.iter().map(|m| m.platform.clone()).collect::<BTreeSet<_>>();
            if found != expected || manifests.len() != expected.len() {
                bail!("{tag} holds images for {found:?}, but {expected:?} were put in it.");
            }
        }
        let tag = self.tags.iter().take(1).cloned().collect();
        let digests = registry::digests(docker, &tag);
        let info = BuildInfo {
            kind: Kind::Manifest,
            platforms: self.images.iter().flat_map(|info| info.platforms.clone()).collect(),
            arches: self.images.iter().flat_map(|info| info.arches.clone()).collect(),
            tags: self.tags.clone(),
            digest: digests.into_values().next(),
            missing: self.missing.clone(),
            ..first.clone()
        };
        info.save(&self.file)
    }
}
