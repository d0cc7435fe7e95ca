//! `merge` pushes multi-architecture manifests, after all is checked; CI calls `matrix` and `probe` before.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use base::digest::random;
use base::error::{Interrupted, usage};
use base::scratch::Scratch;
use base::{message, output, process};
use serde_json::json;

use crate::docker::{self, Docker};
use crate::github;
use outcome::cause::Cause;
use outcome::record::{self, Kind, Record, Status};
use request::bases::{is_digest, is_repository};
use request::cli::Args;
use request::definition::{Definition, check_name};
use request::names;
use request::plan::arch;

/// Prints the jobs of a CI run, one for every platform of the variants, as a line of JSON for `fromJSON`.
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
            // One that builds it natively.
            let runner = if arch == "arm64" { "ubuntu-24.04-arm" } else { "ubuntu-24.04" };
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

/// Pushes an image of a few bytes: a new one, for what a registry has is not pushed.
pub fn probe(root: &Path, args: &Args) -> Result<()> {
    let (docker, image) = (Docker::new(root, args.builder.as_deref()), &args.image);
    docker.version()?;
    let context = Scratch::within(&root.join("target/image/tmp"))?;
    fs::write(context.0.join("Dockerfile"), "FROM scratch\nWORKDIR /probe\n")?;
    let context = context.0.to_string_lossy();
    let label = format!("--label=dev.openhands.probe={}", random(16)?);
    let tag = format!("{image}:probe");
    let how = ["build", "--provenance=false", &label, "--tag", &tag, "--push", &context];
    let build = docker.buildx(&how);
    docker::request(build, docker::PUSH_PATIENCE, Cause::hint)
        .with_context(|| format!("{image} can't be pushed to"))?;
    message::say(&format!("{image} can be pushed to"));
    Ok(())
}

/// Pushes the manifests of the images in records, reads them back, records them and prints their tags.
/// Errors: a usage error for images that do not go together, or for a wrong value; the registry refuses.
pub fn merge(root: &Path, args: &Args) -> Result<()> {
    let definition = Definition::read(root)?;
    let mut groups: BTreeMap<_, Vec<Record>> = BTreeMap::new();
    for record in record::read(&args.words)? {
        // An earlier merge may have left its own records among its inputs, and a batch those of failures.
        if record.kind == Kind::Image && record.status.is_there() {
            let r = record.clone();
            let what = (r.variant, r.base_image, r.target, r.flavor);
            let key = (what, r.sha, r.git_ref, r.manifest_tags);
            groups.entry(key).or_default().push(record);
        }
    }
    if groups.is_empty() {
        let hint = "name the files that --records wrote";
        return Err(usage(format!("no image in these files was built\nhint: {hint}")));
    }
    let mut manifests: Vec<(Record, Vec<String>)> = Vec::new();
    for mut images in groups.into_values() {
        images.sort_by(|a, b| a.platforms.cmp(&b.platforms));
        let manifest = manifest(&images, args, &definition)?;
        let is_taken = |tag: &&String| manifests.iter().any(|(other, _)| other.tags.contains(tag));
        if let Some(tag) = manifest.tags.iter().find(is_taken) {
            let what = format!("two of the manifests would be {tag}");
            return Err(usage(format!("{what}\nhint: merge them apart")));
        }
        manifests.push((manifest, images.iter().filter_map(Record::reference).collect()));
    }
    let docker = Docker::new(root, args.builder.as_deref());
    docker.version()?;
    let records = args.records.as_deref().map(record::open).transpose()?;
    // A problem of one manifest is not a reason to keep back the others.
    let mut errors = Vec::new();
    for (mut manifest, sources) in manifests {
        let name = manifest.shown().to_owned();
        if let Err(error) = docker.create(&manifest.tags, &sources) {
            errors.push(error.context(format!("{name:?} is not merged")));
        } else {
            // What was pushed is told, whatever comes of reading it back.
            let tag = manifest.tags.first();
            let read = tag.map(|tag| docker.imagetools(&["inspect", "--raw", tag])).transpose();
            let what = format!("{name:?} was pushed, but not found as it should be");
            match read.context(what) {
                Ok(list) => manifest.digest = list.map(|list| docker::digest(&list)),
                Err(error) => errors.push(error),
            }
            let recorded = records.as_ref().map_or(Ok(()), |file| record::append(file, &manifest));
            errors.extend(recorded.err());
            errors.extend(manifest.tags.iter().try_for_each(output::write).err());
        }
        if let Some(signal) = process::caught() {
            errors.insert(0, Interrupted(signal).into());
            break;
        }
    }
    message::ended_by(errors)
}

/// Checks what docker gets of `record` and the `tags` of its manifest: to it, `-f` would be a flag.
pub fn check_values(record: &Record, tags: &[String]) -> Result<()> {
    let Record { image, name, .. } = record;
    let digest = record.digest.as_deref().unwrap_or_default();
    let is_own = |reference: &String| {
        let tag = reference.strip_prefix(image).and_then(|tag| tag.strip_prefix(':'));
        tag.is_some_and(|tag| !tag.is_empty() && names::valid(tag.to_owned(), "") == tag)
    };
    let mut values = vec![
        ("image", image.as_str(), is_repository(image)),
        ("digest", digest, is_digest(digest)),
        ("pushed", "false", record.pushed),
    ];
    values.extend(tags.iter().map(|tag| ("manifest_tags", tag.as_str(), is_own(tag))));
    let Some((key, value, _)) = values.iter().find(|(.., is_good)| !is_good) else { return Ok(()) };
    let what = format!("the record of {name:?} can't be used: its {key:?} is {value:?}");
    Err(usage(format!("{what}\nhint: build it again")))
}

/// The record of the manifest of `images`, sorted by platform. Errors: they do not go together.
fn manifest(images: &[Record], args: &Args, definition: &Definition) -> Result<Record> {
    let Some(first) = images.first() else { bail!("there is no image") };
    let name = first.shown();
    let variant = first.variant.as_ref().and_then(|name| definition.variants.get(name));
    let mut tags = first.manifest_tags.clone();
    // Another base image or custom tag makes another image than the one that users pull.
    if variant.is_some_and(|own| own.base_image == first.base_image) {
        let suffix = names::suffix(first.flavor.as_deref(), None, Some(&first.target));
        let tag = |head| format!("{}:{head}-{name}{suffix}", first.image);
        if tags.contains(&tag("main")) {
            tags.push(tag("latest"));
        }
    }
    let mut missing = match variant {
        Some(own) if args.platforms.is_empty() => own.platforms.clone(),
        _ => args.platforms.clone(),
    };
    let mut platforms: Vec<String> = Vec::new();
    for record in images {
        check_values(record, &tags)?;
        if let Some(platform) = record.platforms.iter().find(|name| platforms.contains(name)) {
            return Err(usage(format!("{name:?} has two images for {platform}\nhint: name one")));
        }
        platforms.extend(record.platforms.clone());
    }
    missing.retain(|wanted| !platforms.contains(wanted));
    if !missing.is_empty() {
        let (commit, missing) = (&first.short_sha, missing.join(", "));
        let lacking = format!("{name:?} of the commit {commit} lacks an image for {missing}");
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
