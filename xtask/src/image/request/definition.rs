//! What can be built: `agent-server-image/docker-bake.json` (variants), the `Dockerfile` beside
//! it (targets) and the pinned requirements (version). Read here, written by people.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};
use xshell::Shell;

use crate::error::usage;

/// The folder of the image, below the repository's root. Bakes run in it.
pub const FOLDER: &str = "agent-server-image";
const BAKE_FILE: &str = "agent-server-image/docker-bake.json";
const DOCKERFILE: &str = "agent-server-image/Dockerfile";
const REQUIREMENTS: &str = "agent-server-image/requirements.txt";
/// The package whose pinned version is the image's version.
const SERVER: &str = "openhands-agent-server";

/// What `agent-server-image/` offers.
pub struct Definition {
    /// By name; the bake file's targets but for those that begin with `_`.
    pub variants: BTreeMap<String, Variant>,
    /// The variants that are built when none is named: the bake file's default group.
    pub default_variants: Vec<String>,
    /// The Dockerfile's stages, each of which is a target.
    pub targets: Vec<String>,
}

/// One bake target, its `inherits` resolved.
pub struct Variant {
    pub base_image: String,
    /// The platforms that it is published for.
    pub platforms: Vec<String>,
    /// Everything the bake file says of it.
    pub bake: Map<String, Value>,
}

impl Definition {
    /// Reads the image's folder below the shell's directory.
    ///
    /// # Errors
    /// A usage error for a file that is missing or broken, with the place in it.
    pub fn read(sh: &Shell) -> Result<Self> {
        Self::try_read(sh).map_err(|error| usage(format!("{error:#}")))
    }

    fn try_read(sh: &Shell) -> Result<Self> {
        let text = sh.read_file(BAKE_FILE).with_context(|| format!("{BAKE_FILE} can't be read"))?;
        let bake: Value =
            serde_json::from_str(&text).with_context(|| format!("{BAKE_FILE} is not JSON"))?;
        let targets = bake["target"]
            .as_object()
            .with_context(|| format!("{BAKE_FILE}: \"target\" must be an object of targets."))?;
        let mut variants = BTreeMap::new();
        for name in targets.keys().filter(|name| !name.starts_with('_')) {
            variants.insert(name.clone(), Variant::read(targets, name)?);
        }
        let default_variants = strings(&bake["group"]["default"]["targets"])
            .filter(|names| !names.is_empty() && names.iter().all(|n| variants.contains_key(n)))
            .with_context(|| {
                format!("{BAKE_FILE}: \"group.default.targets\" must list targets of this file.")
            })?;
        let dockerfile =
            sh.read_file(DOCKERFILE).with_context(|| format!("{DOCKERFILE} can't be read"))?;
        Ok(Definition { variants, default_variants, targets: stages(&dockerfile) })
    }
}

impl Variant {
    fn read(targets: &Map<String, Value>, name: &str) -> Result<Self> {
        let bake = resolve(targets, name, 0)?;
        let base_image = bake
            .get("args")
            .and_then(|args| args["BASE_IMAGE"].as_str())
            .filter(|base_image| !base_image.is_empty())
            .with_context(|| {
                format!("{BAKE_FILE}: \"target.{name}.args.BASE_IMAGE\" must name an image.")
            })?
            .to_owned();
        let platforms = bake.get("platforms").and_then(strings).with_context(|| {
            format!("{BAKE_FILE}: \"target.{name}.platforms\" must list platforms.")
        })?;
        Ok(Variant { base_image, platforms, bake })
    }
}

/// The target `name` with what it inherits, as bake merges it: later parents over earlier ones,
/// its own attributes over all; maps key by key.
fn resolve(targets: &Map<String, Value>, name: &str, depth: usize) -> Result<Map<String, Value>> {
    let Some(own) = targets.get(name).and_then(Value::as_object) else {
        bail!("{BAKE_FILE}: \"target.{name}\" is inherited from but is no object.");
    };
    if depth > targets.len() {
        bail!("{BAKE_FILE}: \"target.{name}\" inherits from itself.");
    }
    let mut resolved = Map::new();
    if let Some(parents) = own.get("inherits") {
        let parents = strings(parents).with_context(|| {
            format!("{BAKE_FILE}: \"target.{name}.inherits\" must list targets.")
        })?;
        for parent in parents {
            overlay(&mut resolved, resolve(targets, &parent, depth + 1)?);
        }
    }
    overlay(&mut resolved, own.clone());
    resolved.remove("inherits");
    Ok(resolved)
}

fn overlay(under: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Object(under)), Value::Object(over)) => under.extend(over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// The list of strings that `value` is, if it is one.
fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

/// The stages that a Dockerfile names, but for empty ones (`FROM scratch AS …`), which only hold
/// a place for a named context.
fn stages(dockerfile: &str) -> Vec<String> {
    let mut stages = Vec::new();
    for line in dockerfile.lines() {
        let words = line.split_whitespace().collect::<Vec<_>>();
        if let [from, .., base, r#as, name] = words[..]
            && from.eq_ignore_ascii_case("FROM")
            && r#as.eq_ignore_ascii_case("AS")
            && base != "scratch"
        {
            stages.push(name.to_owned());
        }
    }
    stages
}

/// The server's version as the requirements pin it.
///
/// # Errors
/// A requirements file that is missing or pins no version of the server.
pub fn pinned_version(sh: &Shell) -> Result<String> {
    let requirements =
        sh.read_file(REQUIREMENTS).with_context(|| format!("{REQUIREMENTS} can't be read"))?;
    requirements
        .lines()
        .find_map(|line| line.strip_prefix(SERVER)?.strip_prefix("=="))
        .and_then(|pin| pin.split_whitespace().next())
        .map(str::to_owned)
        .with_context(|| format!("{REQUIREMENTS} has no line {SERVER}==VERSION."))
}
