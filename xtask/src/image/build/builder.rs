//! Is there a builder, and can it do what the plan asks for? Found out before anything is built.

use std::io;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use super::observer::Observer;
use crate::image::plan::Plan;
use crate::image::request::Request;
use crate::process;

/// How long docker may take to tell of itself, which takes it a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// What to do on a machine without Docker.
const ENGINE: &str = "`cargo xtask engine -- cargo xtask image`, as root on Debian or Ubuntu";

/// What a builder can do, as `docker buildx inspect` tells it.
pub struct Builder<'a> {
    pub observer: &'a dyn Observer,
    pub name: String,
    /// What this run builds for.
    pub platforms: Vec<String>,
    /// Whether it had no build cache before this run; `None` where it does not tell.
    pub was_empty: Option<bool>,
    /// Whether it is the engine's own, which keeps what it builds in the engine's image store.
    pub stores_images: bool,
    /// Whether it may take another machine for every target of a bake.
    pub is_cluster: bool,
    exports_cache: bool,
    runs: Vec<String>,
}

/// Finds the builder and fits the plan to it: without caches to write, and with a warning, where
/// the builder can't export any.
///
/// # Errors
/// What is missing, and the remedy: docker, buildx, an engine that answers, a platform.
pub fn check<'a>(
    request: &Request,
    plan: &mut Plan,
    observer: &'a dyn Observer,
) -> Result<Builder<'a>> {
    let mut builder = Builder::inspect(request, observer)?;
    for platform in &request.platforms {
        if !builder.runs.contains(platform) {
            bail!(
                "the builder {:?} does not run {platform:?}, only {}. Build it on such a machine, \
                 or emulate that: install QEMU's binfmt support, or use `cargo xtask engine \
                 --emulate`.",
                builder.name,
                builder.runs.join(", ")
            );
        }
    }
    if !builder.exports_cache && plan.drop_exports() {
        let name = &builder.name;
        observer.warn(&format!(
            "the builder {name:?} can't export a cache, so none is written. Turn on the engine's \
             containerd image store, or take another builder: `docker buildx create --driver \
             docker-container --use`."
        ));
    }
    if plan.targets.iter().any(|target| !target.cache_read.is_empty()) {
        builder.was_empty = is_empty(request)?;
    }
    Ok(builder)
}

/// Has the builder no build cache? `None` where it does not tell.
fn is_empty(request: &Request) -> Result<Option<bool>> {
    let mut docker = Command::new("docker");
    docker.args(["buildx"]).args(builder_flag(request)).arg("du");
    let told = process::output(&mut docker, PATIENCE)?.filter(|output| output.status.success());
    let told = told.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    Ok(told.and_then(|told| field(&told, "Total").map(|total| total == "0B")))
}

impl<'a> Builder<'a> {
    fn inspect(request: &Request, observer: &'a dyn Observer) -> Result<Self> {
        let mut told = ask(request, &["inspect"])?;
        // A builder in a container or a cluster tells nothing of itself until it runs.
        if field(&told, "Status").is_some_and(|status| status == "inactive") {
            told = ask(request, &["inspect", "--bootstrap"])?;
        }
        if let Some(error) = field(&told, "Error") {
            bail!("the engine does not answer: {error} Start Docker, or run {ENGINE}.");
        }
        let platforms = field(&told, "Platforms").unwrap_or_default();
        // A buildx that does not tell is taken at its best: bake itself would still say so.
        let exports_cache = field(&told, "Cache export").is_none_or(|can| can == "true");
        let runs = platforms.split(", ").map(|name| name.trim_end_matches('*').to_owned());
        let runs = runs.collect::<Vec<_>>();
        Ok(Builder {
            observer,
            name: field(&told, "Name").unwrap_or_default().to_owned(),
            platforms: match request.platforms.as_slice() {
                [] => runs.iter().take(1).cloned().collect(),
                asked => asked.to_vec(),
            },
            was_empty: None,
            // Only with containerd's image store can this builder export caches, or push by itself.
            stores_images: exports_cache && field(&told, "Driver") == Some("docker"),
            is_cluster: field(&told, "Driver") == Some("kubernetes"),
            exports_cache,
            runs,
        })
    }
}

/// Does the engine still answer?
pub fn answers(request: &Request, observer: &dyn Observer) -> bool {
    Builder::inspect(request, observer).is_ok()
}

/// The value of the first line `name: value` in buildx's text.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

/// What `docker buildx` says to `args`. Only with `--debug` does it tell of features.
fn ask(request: &Request, args: &[&str]) -> Result<String> {
    let mut docker = Command::new("docker");
    docker.args(["--debug", "buildx"]).args(builder_flag(request)).args(args);
    let patience = if args.contains(&"--bootstrap") { PATIENCE * 30 } else { PATIENCE };
    match process::output(&mut docker, patience) {
        Err(error) => match error.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::NotFound) => {
                bail!("docker is not installed. Install Docker with buildx, or run {ENGINE}.")
            }
            _ => Err(error),
        },
        Ok(None) => bail!(
            "the engine has not answered for {} s. Restart Docker, or run {ENGINE}.",
            patience.as_secs()
        ),
        Ok(Some(output)) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(Some(output)) => {
            let version =
                process::output(Command::new("docker").args(["buildx", "version"]), PATIENCE)?;
            if !version.is_some_and(|version| version.status.success()) {
                bail!(
                    "docker has no buildx plugin. Install docker-buildx-plugin (Debian's \
                     docker-buildx), or run {ENGINE}."
                );
            }
            let said = String::from_utf8_lossy(&output.stderr);
            let error = said.lines().find_map(|line| line.strip_prefix("ERROR: "));
            bail!(
                "the builder can't be used: {}. `docker buildx ls` lists the builders.",
                error.unwrap_or_else(|| said.lines().last().unwrap_or_default())
            )
        }
    }
}

/// The builder that was asked for, as a flag of buildx.
pub fn builder_flag(request: &Request) -> impl Iterator<Item = &str> {
    request.builder.iter().flat_map(|name| ["--builder", name])
}
