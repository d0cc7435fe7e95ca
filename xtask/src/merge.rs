//! `cargo xtask image merge` makes multi-architecture manifests of images that were built one architecture
//! at a time; `matrix` and `probe` are what a CI run calls before that. Everything is checked before
//! anything is pushed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use base::error::{Interrupted, usage};
use base::{message, output};
use serde_json::json;

use crate::docker::{self, Docker};
use crate::github;
use outcome::record::{self, Kind, Record, Status};
use request::bases::{is_digest, is_repository};
use request::cli::Args;
use request::definition::{Definition, check_name};
use request::names;
use request::plan::arch;

/// The runners that build an architecture natively.
const RUNNERS: [(&str, &str); 2] = [("amd64", "ubuntu-24.04"), ("arm64", "ubuntu-24.04-arm")];

/// Prints the jobs of a CI run as one line of JSON for `fromJSON`, one for every platform of the variants, and
/// makes it an output of the GitHub Actions step, if this is one.
/// Errors: a usage error for an unknown variant or platform.
pub fn matrix(root: &Path, args: &Args) -> Result<()> {
    let definition = Definition::read(root)?;
    let all = ["all".to_owned()];
    let asked = if args.variant.is_empty() { &all } else { args.variant.as_slice() };
    let mut include = Vec::new();
    for (name, variant) in definition.chosen(asked)? {
        let asked = if args.platforms.is_empty() { &variant.platforms } else { &args.platforms };
        for platform in asked {
            check_name("platform", platform, variant.platforms.iter().map(String::as_str))?;
            let arch = arch(platform);
            let Some((_, runner)) = RUNNERS.iter().find(|(name, _)| *name == arch) else {
                bail!(
                    "no runner is known for {platform:?} of the variant {name:?}\nhint: add one in \
                     xtask/src/merge.rs"
                );
            };
            include.push(json!({
                "variant": name,
                "arch": arch,
                "platform": platform,
                "base_image": variant.base_image,
                "runner": runner,
            }));
        }
    }
    let matrix = json!({ "include": include }).to_string();
    output::write(&matrix)?;
    github::write_outputs(&[("matrix", matrix)])
}

/// Pushes an image of a few bytes, to find out whether the repository takes one: before a build, not after.
pub fn probe(root: &Path, args: &Args) -> Result<()> {
    let docker = Docker::new(root, args.builder.as_deref());
    docker.probe(&args.image).with_context(|| format!("{} can't be pushed to", args.image))?;
    message::say(&format!("{} can be pushed to", args.image));
    Ok(())
}

/// Pushes the manifests of the images in records, reads them back, records them and prints their tags.
/// Errors: a usage error for images that do not go together, or for a wrong value; the registry refuses.
pub fn merge(root: &Path, args: &Args) -> Result<()> {
    let docker = Docker::new(root, args.builder.as_deref());
    let definition = Definition::read(root)?;
    let mut groups: BTreeMap<_, Vec<Record>> = BTreeMap::new();
    for record in record::read(&args.words)? {
        // An earlier merge may have left its own records among its inputs, and a batch those of failures.
        if record.kind == Kind::Image && record.status.is_there() {
            let Record { variant, base_image, target, flavor, .. } = record.clone();
            groups.entry((variant, base_image, target, flavor)).or_default().push(record);
        }
    }
    if groups.is_empty() {
        return Err(usage(
            "no image in these files was built\nhint: name the files that --records wrote",
        ));
    }
    let (mut seen, mut manifests) = (BTreeSet::new(), Vec::new());
    for images in groups.values_mut() {
        images.sort_by(|a, b| a.platforms.cmp(&b.platforms));
        let manifest = manifest(images, args, &definition)?;
        if let Some(tag) = manifest.tags.iter().find(|tag| !seen.insert((*tag).clone())) {
            return Err(usage(format!(
                "two of the manifests would be {tag}\nhint: merge them apart"
            )));
        }
        manifests.push(manifest);
    }
    let records = args.records.as_deref().map(record::open).transpose()?;
    // A problem of one manifest is not a reason to keep back the others.
    let mut errors = Vec::new();
    for (mut manifest, images) in manifests.into_iter().zip(groups.values()) {
        let digests = images.iter().filter_map(|record| record.digest.as_ref());
        let sources = digests.map(|digest| format!("{}@{digest}", manifest.image));
        let pushed = docker.create(&manifest.tags, &sources.collect::<Vec<_>>());
        let pushed = pushed.with_context(|| format!("{:?} is not merged", manifest.shown()));
        let told = pushed.and_then(|()| {
            // What was pushed is told, whatever comes of reading it back.
            let read = read_back(&docker, &manifest);
            let read = read.with_context(|| {
                format!("{:?} was pushed, but not found as it should be", manifest.shown())
            });
            manifest.digest = read.as_ref().ok().cloned().flatten();
            let recorded = records.as_ref().map_or(Ok(()), |file| record::append(file, &manifest));
            let printed = manifest.tags.iter().try_for_each(output::write);
            message::ended_by(
                [read.map(drop), recorded, printed].into_iter().filter_map(Result::err),
            )
        });
        match told {
            Err(error) if error.is::<Interrupted>() => {
                errors.insert(0, error);
                break;
            }
            told => errors.extend(told.err()),
        }
    }
    message::ended_by(errors)
}

/// Checks what docker gets of `record` and the `tags` of its manifest: to it, `-f` would be a flag.
fn check_values(record: &Record, tags: &[String]) -> Result<()> {
    let Record { image, digest, name, .. } = record;
    let is_of_image = |reference: &&String| {
        let tag = reference.strip_prefix(image.as_str()).and_then(|tag| tag.strip_prefix(':'));
        tag.is_some_and(|tag| !tag.is_empty() && names::valid(tag.to_owned(), "") == tag)
    };
    let what = if !is_repository(image) {
        format!("the image {image:?} is not a repository")
    } else if let Some(tag) = tags.iter().find(|tag| !is_of_image(tag)) {
        format!("the manifest tag {tag:?} is not one of the image {image:?}")
    } else {
        match digest {
            Some(digest) if is_digest(digest) && record.pushed => return Ok(()),
            Some(digest) if is_digest(digest) => "it was not pushed".to_owned(),
            Some(digest) => format!("{digest:?} is not a digest"),
            None => "the image's digest is not known".to_owned(),
        }
    };
    Err(usage(format!("the record of {name:?}: {what}\nhint: build it again")))
}

/// The record of the manifest of `images`: one variant on one base image, sorted by platform.
/// Errors: they do not go together, or some are missing.
fn manifest(images: &[Record], args: &Args, definition: &Definition) -> Result<Record> {
    let Some(first) = images.first() else { bail!("there is no image") };
    let name = first.shown();
    let variant = first.variant.as_ref().and_then(|name| definition.variants.get_key_value(name));
    let mut tags = first.manifest_tags.clone();
    if let Some((variant, own)) = variant {
        let suffix = names::suffix(first.flavor.as_deref(), None, Some(&first.target));
        let tag = |head| format!("{}:{head}-{variant}{suffix}", first.image);
        // Another base image or custom tag makes another image than the one that users pull.
        if first.base_image == own.base_image && tags.contains(&tag("main")) {
            tags.push(tag("latest"));
        }
    }
    let mut missing = match variant {
        Some((_, own)) if args.platforms.is_empty() => own.platforms.clone(),
        _ => args.platforms.clone(),
    };
    let mut platforms: Vec<String> = Vec::new();
    for record in images {
        check_values(record, &tags)?;
        for (key, one, other) in [
            ("image", &first.image, &record.image),
            ("sha", &first.sha, &record.sha),
            ("git_ref", &first.git_ref, &record.git_ref),
            ("manifest_tags", &first.manifest_tags.join(", "), &record.manifest_tags.join(", ")),
        ] {
            if one != other {
                return Err(usage(format!(
                    "the images of {name:?} differ in {key:?}: {one:?} and {other:?}\nhint: merge what one run \
                     built"
                )));
            }
        }
        for platform in &record.platforms {
            if platforms.contains(platform) {
                return Err(usage(format!(
                    "{name:?} has two images for {platform}\nhint: name one"
                )));
            }
            missing.retain(|wanted| wanted != platform);
            platforms.push(platform.clone());
        }
    }
    if !missing.is_empty() {
        let lacking = format!("{name:?} lacks an image for {}", missing.join(", "));
        let hint = "build it, or allow that with --allow-partial";
        ensure!(args.allow_partial, usage(format!("{lacking}\nhint: {hint}")));
        message::warn(&format!("{lacking}: its tags will hold the others alone"));
    }
    // Only what names it: what its images took, and from where, is in their records.
    let first = first.clone();
    Ok(Record {
        kind: Kind::Manifest,
        status: Status::Built,
        name: first.name,
        variant: first.variant,
        flavor: first.flavor,
        target: first.target,
        base_image: first.base_image,
        image: first.image,
        git_ref: first.git_ref,
        sha: first.sha,
        short_sha: first.short_sha,
        platforms,
        arches: images.iter().flat_map(|record| record.arches.clone()).collect(),
        missing,
        tags,
        manifest_tags: first.manifest_tags,
        release_tags: first.release_tags,
        pushed: true,
        server: first.server,
        ..Record::default()
    })
}

/// The digest of `manifest`, whose tags hold what they should.
fn read_back(docker: &Docker, manifest: &Record) -> Result<Option<String>> {
    let expected = manifest.platforms.iter().collect::<BTreeSet<_>>();
    for tag in &manifest.tags {
        let platforms = docker.platforms(tag)?;
        let found = platforms.iter().collect::<BTreeSet<_>>();
        if found != expected || platforms.len() != expected.len() {
            bail!("{tag} holds images for {found:?}, but {expected:?} were put in it");
        }
    }
    let pushed = manifest.tags.first().and_then(|tag| docker.manifest(tag));
    Ok(pushed.map(|manifest| docker::digest(&manifest)))
}
