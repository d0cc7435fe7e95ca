//! Is there a builder, and can it do what the plan needs? Found out before anything is built.

use std::env;
use std::io;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};

use super::buildx::{Buildx, Docker, End};
use crate::image::plan::Plan;
use crate::image::request::{Delivery, Request};
use base::error::Interrupted;
use base::message;
use base::process;

/// How long docker may take to describe a builder, which takes it a tenth of a second.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// A builder in a container or a cluster pulls its image first.
const START_PATIENCE: Duration = Duration::from_secs(300);

/// What a builder can do, as `docker buildx inspect` prints it.
pub struct Builder {
    pub name: String,
    pub driver: String,
    /// What this run builds for.
    pub platforms: Vec<String>,
    /// Whether it had no build cache before this run; `None` where that is not known.
    pub was_empty: Option<bool>,
    /// Whether it is the engine's own, which keeps what it builds in the engine's image store.
    pub stores_images: bool,
    exports_cache: bool,
    /// The platforms that it can build for, its own first.
    pub runs: Vec<String>,
}

impl Builder {
    /// Fails, with the remedy, if it can't export caches.
    pub fn check_export(&self) -> Result<()> {
        ensure!(
            self.exports_cache,
            "the builder {:?} can't export a cache, so none is written. Turn on the engine's \
             containerd image store, or take another builder: `docker buildx create --driver \
             docker-container --use`.",
            self.name
        );
        Ok(())
    }

    /// Fails, with the remedy, for a platform that it does not run.
    pub fn check_platforms(&self, platforms: &[String]) -> Result<()> {
        let Some(other) = platforms.iter().find(|platform| !self.runs.contains(platform)) else {
            return Ok(());
        };
        bail!(
            "the builder {:?} does not run {other:?}, only {}. Build it on such a machine, or \
             emulate it: install QEMU's binfmt support, or run {}.",
            self.name,
            self.runs.join(", "),
            in_engine("--emulate ")
        )
    }

    /// May it take another machine for every target of a bake?
    pub fn is_cluster(&self) -> bool {
        self.driver == "kubernetes"
    }

    /// Did buildx start it, so that it can be restarted?
    fn is_buildx_own(&self) -> bool {
        self.driver == "docker-container" || self.is_cluster()
    }
}

/// Finds the builder and fits the plan to it: without caches to write, and with a warning, where
/// the builder can't export any. An error names what is missing, and the remedy.
pub fn check(buildx: &Buildx, plan: &mut Plan) -> Result<Builder> {
    let mut builder = inspect(buildx.docker, buildx.request)?;
    builder.check_platforms(&buildx.request.platforms)?;
    // An engine runs its own platform, and older ones can't load another.
    if let (Delivery::Load, [_, _, ..], Some(own)) =
        (buildx.request.delivery, builder.platforms.as_slice(), builder.runs.first().cloned())
    {
        message::warn(&format!(
            "only the image for {own}, the engine's own platform, is loaded; a push has all of {}",
            builder.platforms.join(", ")
        ));
        plan.narrow(&own);
        builder.platforms = vec![own];
    }
    if let Err(error) = builder.check_export()
        && plan.drop_exports()
    {
        message::warn(&error.to_string());
    }
    if plan.targets.iter().any(|target| !target.cache_read.is_empty()) {
        // Not every version says how much a builder holds.
        let usage = process::output(&mut buildx.docker.buildx(&["du"]), PATIENCE)?;
        let usage = usage.filter(|output| output.status.success());
        let usage = usage.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        builder.was_empty = usage.and_then(|usage| Some(field(&usage, "Total")? == "0B"));
    }
    Ok(builder)
}

/// What was done to a builder in trouble: each once in a run.
#[derive(Default)]
pub struct Repairs {
    restarted: bool,
    pruned: bool,
}

impl Repairs {
    /// Asks the builder whether it still answers after a bake that ended as `end`, and restarts it
    /// where buildx runs it; returns whether that was done. Fails if a signal ended the bake, and
    /// if the builder stays gone.
    pub fn restart(&mut self, run: &Buildx, builder: &Builder, end: End) -> Result<bool> {
        if let End::Stopped(signal) = end {
            return Err(Interrupted(signal).into());
        }
        if end == End::Done {
            return Ok(false);
        }
        let Err(error) = inspect(run.docker, run.request) else { return Ok(false) };
        process::check_signals()?;
        let name = builder.name.as_str();
        if !builder.is_buildx_own() {
            bail!(
                "the engine stopped answering during the build. Restart Docker, or what runs the \
                 builder {name:?}, and build again."
            );
        }
        if std::mem::replace(&mut self.restarted, true) {
            bail!(
                "the builder {name:?} stopped answering again after a restart: {error} \
                 `docker buildx rm {name}` removes it."
            );
        }
        message::warn(&format!("the builder {name:?} stopped answering; restarting it"));
        // One that is gone already can't be stopped; whether it starts is what counts.
        process::output(&mut run.docker.command(&["buildx", "stop", name]), START_PATIENCE)?;
        ask(run.docker, &["inspect", "--bootstrap"], START_PATIENCE)?;
        Ok(true)
    }

    /// Removes the build cache of a builder that has no room; returns whether that was done.
    pub fn make_room(&mut self, docker: &Docker) -> Result<bool> {
        if std::mem::replace(&mut self.pruned, true) {
            return Ok(false);
        }
        message::warn("the builder has no space left; removing its build cache");
        let pruned = process::output(&mut docker.buildx(&["prune", "--force"]), START_PATIENCE)?;
        Ok(pruned.is_some_and(|output| output.status.success()))
    }
}

/// The builder that `request` would take, which is started for it. An error names what is missing,
/// and the remedy.
pub fn inspect(docker: &Docker, request: &Request) -> Result<Builder> {
    let mut text = ask(docker, &["inspect"], PATIENCE)?;
    // A builder in a container or a cluster has no features to print until it runs.
    if field(&text, "Status").is_some_and(|status| status == "inactive") {
        text = ask(docker, &["inspect", "--bootstrap"], START_PATIENCE)?;
    }
    if let Some(error) = field(&text, "Error") {
        bail!("the engine does not answer: {error} Start Docker, or run {}.", in_engine(""));
    }
    let platforms = field(&text, "Platforms").unwrap_or_default();
    // A buildx that does not print it is taken at its best: bake itself would still complain.
    let exports_cache = field(&text, "Cache export").is_none_or(|can| can == "true");
    let runs = platforms.split(", ").map(|name| name.trim_end_matches('*').to_owned());
    let runs = runs.collect::<Vec<_>>();
    let driver = field(&text, "Driver").unwrap_or_default();
    Ok(Builder {
        name: field(&text, "Name").unwrap_or_default().to_owned(),
        platforms: match request.platforms.as_slice() {
            [] => runs.iter().take(1).cloned().collect(),
            asked => asked.to_vec(),
        },
        was_empty: None,
        // Only with containerd's image store can this builder export caches, or push by itself.
        stores_images: exports_cache && driver == "docker",
        driver: driver.to_owned(),
        exports_cache,
        runs,
    })
}

/// The value of the first line `name: value` in buildx's text.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

/// What `docker buildx` prints.
fn ask(docker: &Docker, args: &[&str], patience: Duration) -> Result<String> {
    let output = answer(&mut docker.debug_buildx(args), patience)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    version(docker)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let error = stderr.lines().find_map(|line| line.strip_prefix("ERROR: "));
    bail!(
        "the builder can't be used: {}. `docker buildx ls` lists the builders.",
        error.unwrap_or_else(|| stderr.lines().last().unwrap_or_default())
    )
}

/// What buildx says of its version. An error names the remedy where docker has none.
pub fn version(docker: &Docker) -> Result<String> {
    let output = answer(&mut docker.command(&["buildx", "version"]), PATIENCE)?;
    ensure!(
        output.status.success(),
        "docker has no buildx plugin. Install docker-buildx-plugin (Debian's docker-buildx), or \
         run {}.",
        in_engine("")
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What the call `docker` ends with. An error names the remedy where there is no docker, or no
/// answer within `patience`.
pub fn answer(docker: &mut Command, patience: Duration) -> Result<Output> {
    let output = process::output(docker, patience).map_err(|error| {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if kind != Some(io::ErrorKind::NotFound) {
            return error;
        }
        anyhow!("docker is not installed. Install Docker with buildx, or run {}.", in_engine(""))
    });
    output?.ok_or_else(|| {
        let seconds = patience.as_secs();
        let engine = in_engine("");
        anyhow!("the engine has not answered for {seconds} s. Restart Docker, or run {engine}.")
    })
}

/// How to run what was typed in a throw-away engine, with `options` for that.
pub fn in_engine(options: &str) -> String {
    format!("`cargo xtask engine {options}-- {}`, as root on Debian or Ubuntu", typed())
}

/// The command that started this run, as a shell reads it.
pub fn typed() -> String {
    let words = env::args_os().skip(1).map(|word| {
        let word = word.to_string_lossy().into_owned();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
        let is_plain = !word.is_empty() && word.chars().all(is_plain);
        if is_plain { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
    });
    format!("cargo xtask {}", words.collect::<Vec<_>>().join(" "))
}
