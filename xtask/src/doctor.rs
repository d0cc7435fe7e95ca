//! `cargo xtask image doctor`: can a request be built here? `list`: what can be built, under which tags?

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use base::{message, output, process};
use serde_json::{Value, json};

use crate::docker::{AT_ONCE, Docker, PATIENCE, call, unusable};
use request::bases;
use request::cli::{Args, Mode, TagBy};
use request::definition::{self, has_server};
use request::facts::{Builder, Facts};
use request::host::docker_config;
use request::plan;

/// Prints a line for each thing that the request needs. Errors: one is missing.
pub fn doctor(root: &Path, args: &Args) -> Result<()> {
    let asked = Docker::new(root, args.builder.as_deref());
    let (mut works, builder) = match docker(&asked, args) {
        Ok((works, builder)) => (works, Some(builder)),
        Err(error) => (report("docker", Err(error))?, None),
    };
    report("login", login(args))?;
    let planned = Facts::read(root, args).and_then(|facts| {
        let mut facts = Facts { builder, ..facts };
        if works && facts.needed.len() <= AT_ONCE {
            facts.bases = asked.bases(&facts.needed, args.push, false);
            facts.warn_of_triggers();
        }
        let server = facts.source.check(args).map(|()| facts.source.describe());
        works &= report("server", server)?;
        // It warns of what can't be handed on to the steps.
        plan::plan(args, &facts)
    });
    // What is well there says nothing that the other lines do not say.
    if let Err(error) = planned {
        works = report("request", Err(error))?;
    }
    ensure!(works, "this request can't be built here\nhint: see the lines that begin with `!!`");
    Ok(())
}

/// Prints what was found: what is there, or what is wrong and what to do. Returns whether it is well.
fn report(subject: &str, found: Result<String>) -> Result<bool> {
    process::check_signals()?;
    let is_well = found.is_ok();
    let line = match found {
        Ok(text) => format!("ok  {subject}: {text}"),
        Err(error) => format!("!!  {subject}: {error:#}").replace("\nhint: ", "; "),
    };
    output::write(message::one_line(&line))?;
    Ok(is_well)
}

/// Prints what there is of docker. Returns whether it can build the request. Errors: it can build nothing.
fn docker(docker: &Docker, args: &Args) -> Result<(bool, Builder)> {
    let buildx = docker.version()?;
    report("docker", Ok(docker.output_of(&["--version"])))?;
    let format = "{{.Server.Version}} ({{.Server.Os}}, {{.Server.Arch}})";
    let engine = call(&mut docker.command(&["version", "--format", format]), PATIENCE);
    let engine = engine.map_err(|error| unusable("the engine", &error.to_string()));
    // A builder may be elsewhere, but an image is loaded here.
    let mut works = report("engine", engine)? || args.push;
    if let Some((folder, free, _)) = docker.disk() {
        let text = format!("{free:.1} GB free in {folder}");
        let least = "a first build needs 5 GB or more\nhint: make room, for example by `docker system prune`";
        let found = if free < 5.0 { Err(anyhow!("{text}, and {least}")) } else { Ok(text) };
        works &= report("disk", found)?;
    }
    report("buildx", Ok(buildx))?;
    let builder = docker.inspect()?;
    report("builder", Ok(format!("{}, driver {}", builder.name, builder.driver)))?;
    if args.cache_mode != Mode::Off {
        let export = builder.check_cache_export().map(|()| "caches can be written".to_owned());
        report("cache export", export)?;
    }
    let platforms = builder.check_platforms(&args.platforms);
    works &= report("platforms", platforms.map(|()| builder.runs.join(", ")))?;
    Ok((works, builder))
}

/// Whether docker knows a login for the registry of the image. Not every registry needs one.
fn login(args: &Args) -> Result<String> {
    let (host, _) = bases::host_and_path(&args.image);
    let (path, config) = docker_config();
    let path = path.display();
    let store = config["credsStore"].as_str().unwrap_or_default();
    // A store of credentials leaves the entry, and nothing in it.
    let is_login = |(key, entry): (&String, &Value)| {
        let key = key.trim_start_matches("https://").trim_start_matches("index.");
        key.split('/').next() == Some(host) && (!store.is_empty() || *entry != json!({}))
    };
    // A registry's own program needs no entry.
    let is_known = store.ends_with("-login")
        || store == "gcr"
        || config["credHelpers"][host].is_string()
        || config["auths"].as_object().into_iter().flatten().any(is_login);
    if is_known {
        return Ok(format!("{host}, in {path}"));
    }
    ensure!(
        !args.push,
        "not logged in to {host} ({path})\nhint: `docker login {host}`, unless it takes pushes without; \
         `cargo xtask image probe` tries one"
    );
    Ok(format!("not logged in to {host} (only needed to push)"))
}

/// Prints the variants, the targets, and the tags of the request. Needs neither Docker nor a network.
pub fn list(root: &Path, args: &Args) -> Result<()> {
    let facts = Facts::read(root, args)?;
    let images = plan::plan(args, &facts)?;
    let mut text = "Variants (--variant) and their base images:\n".to_owned();
    for (name, variant) in &facts.definition.variants {
        let is_default = facts.definition.default_variants.contains(name);
        let mark = if is_default { "; default" } else { "" };
        let platforms = variant.platforms.join(", ");
        text += &format!("  {name:<10} {} ({platforms}{mark})\n", variant.base_image);
    }
    text += "\nTargets (--target):\n";
    for name in definition::targets() {
        let server = if has_server(name) { "with the server" } else { "without the server" };
        let mark = if name == args.target { "; chosen here" } else { "" };
        text += &format!("  {name:<18} {server}{mark}\n");
    }
    text += "\nTags of this request:\n";
    if args.tag_by == TagBy::Content {
        message::warn(
            "a build's tags differ: they are made of digests of base images and platforms, too",
        );
    }
    for image in &images {
        text += &format!("  {}:\n", image.shown);
        text.extend(image.all_tags().map(|tag| format!("    {tag}\n")));
    }
    output::write(text.trim_end())
}
