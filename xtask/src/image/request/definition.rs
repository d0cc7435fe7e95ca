//! What can be built: `agent-server-image/docker-bake.json` (variants), the `Dockerfile` beside
//! it (targets) and the pinned requirements (version). Read here, written by people.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};
use xshell::Shell;

use super::content;
use super::workspace::{PACKAGES, Package};
use base::error::usage;

/// The folder of the image, below the repository's root. Bakes run in it.
pub const FOLDER: &str = "agent-server-image";
const BAKE_FILE: &str = "agent-server-image/docker-bake.json";
pub const DOCKERFILE: &str = "agent-server-image/Dockerfile";
const REQUIREMENTS: &str = "agent-server-image/requirements.txt";

/// How the Dockerfile writes that a stage stands on the base image.
const BASE_IMAGE: &str = "${BASE_IMAGE}";

/// The stage that starts the server of the target that the argument `CHECK` names, on the stage
/// `check-TARGET`.
pub const CHECK: &str = "check";

/// What `agent-server-image/` offers.
pub struct Definition {
    /// By name; the bake file's targets but for those that begin with `_`.
    pub variants: BTreeMap<String, Variant>,
    /// The variants that are built when none is named: the bake file's default group.
    pub default_variants: Vec<String>,
    /// The Dockerfile's stages, each of which is a target.
    pub stages: Vec<Stage>,
    /// Those of them that the Dockerfile has a check for.
    pub checkable: Vec<String>,
    /// A digest of the folder's files, but for the bake file.
    pub files: String,
}

/// A stage of the Dockerfile.
pub struct Stage {
    pub name: String,
    /// The image or stage that it stands on, as the Dockerfile writes it.
    base: String,
    /// Whether it has RUN steps.
    has_steps: bool,
}

/// One bake target, its `inherits` resolved.
pub struct Variant {
    pub base_image: String,
    pub platforms: Vec<String>,
    /// Everything the bake file says of it.
    pub bake: Map<String, Value>,
}

impl Definition {
    /// Reads the image's folder below the shell's directory.
    /// Errors: a usage error for a file that is missing or broken, with the place in it.
    pub fn read(sh: &Shell) -> Result<Self> {
        let read = |path| sh.read_file(path).with_context(|| format!("{path} can't be read"));
        let definition = read(BAKE_FILE).and_then(|bake| {
            let dockerfile = read(DOCKERFILE)?;
            let folder = sh.current_dir().join(FOLDER);
            let files = content::digest(&folder, &["docker-bake.json", "README.md"])?;
            Ok(Definition { files, ..Self::parse(&bake, &dockerfile).context(BAKE_FILE)? })
        });
        definition.map_err(|error| usage(format!("{error:#}")))
    }

    /// Reads the texts of the bake file and of the Dockerfile.
    pub fn parse(bake: &str, dockerfile: &str) -> Result<Self> {
        let mut bake: Value = serde_json::from_str(bake).context("it is not JSON")?;
        let Some(Value::Object(targets)) = bake.get_mut("target").map(Value::take) else {
            bail!("\"target\" must be an object of targets.");
        };
        let mut variants = BTreeMap::new();
        for name in targets.keys().filter(|name| !name.starts_with('_')) {
            variants.insert(name.clone(), Variant::read(&targets, name)?);
        }
        let default_variants = strings(&bake["group"]["default"]["targets"])
            .filter(|names| !names.is_empty() && names.iter().all(|n| variants.contains_key(n)))
            .context("\"group.default.targets\" must list targets of this file.")?;
        let stages = stages(dockerfile);
        let names = stages.iter().map(|stage| &stage.name);
        let checks = names.filter_map(|name| name.strip_prefix(CHECK)?.strip_prefix('-'));
        let checkable = checks.map(str::to_owned).collect();
        Ok(Definition { variants, default_variants, stages, checkable, files: String::new() })
    }

    /// The stage below `target` that runs the last steps on the base image which are not the
    /// target's own.
    pub fn stage_below(&self, target: &str) -> Option<&str> {
        let stage = |name: &str| self.stages.iter().find(|stage| stage.name == name);
        let (mut at, mut found) = (stage(target)?, None);
        while at.base != BASE_IMAGE {
            // A condition chooses among stages whose names differ in their ends.
            at = stage(at.base.split("${").next()?)?;
            found = found.or(at.has_steps.then_some(at.name.as_str()));
        }
        found
    }
}

impl Variant {
    fn read(targets: &Map<String, Value>, name: &str) -> Result<Self> {
        let bake = resolve(targets, name, 0)?;
        let base_image = bake.get("args").and_then(|args| args["BASE_IMAGE"].as_str());
        let base_image = base_image.filter(|image| !image.is_empty()).map(str::to_owned);
        let base_image = base_image
            .with_context(|| format!("\"target.{name}.args.BASE_IMAGE\" must name an image."))?;
        let platforms = bake
            .get("platforms")
            .and_then(strings)
            .with_context(|| format!("\"target.{name}.platforms\" must list platforms."))?;
        Ok(Variant { base_image, platforms, bake })
    }
}

/// The lists that bake appends to those of a parent. It replaces all others.
const APPENDED: [&str; 6] =
    ["annotations", "attest", "cache-from", "entitlements", "secret", "ssh"];

/// The target `name` with what it inherits, as bake merges it: later parents over earlier ones, its
/// own attributes over all. It is resolved here, so that what `--print` shows has one target for
/// each image and no others.
fn resolve(targets: &Map<String, Value>, name: &str, depth: usize) -> Result<Map<String, Value>> {
    let Some(own) = targets.get(name).and_then(Value::as_object) else {
        bail!("\"target.{name}\" is inherited from but is no object.");
    };
    if depth > targets.len() {
        bail!("\"target.{name}\" inherits from itself.");
    }
    let mut own = own.clone();
    let mut resolved = Map::new();
    if let Some(parents) = own.remove("inherits") {
        let parents = strings(&parents)
            .with_context(|| format!("\"target.{name}.inherits\" must list targets."))?;
        for parent in parents {
            merge(&mut resolved, resolve(targets, &parent, depth + 1)?);
        }
    }
    merge(&mut resolved, own);
    Ok(resolved)
}

/// Lays `over` over `under`. Maps such as `args` are merged key by key.
fn merge(under: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Object(under)), Value::Object(over)) => under.extend(over),
            (Some(Value::Array(under)), Value::Array(over)) if APPENDED.contains(&key.as_str()) => {
                under.extend(over);
            }
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

/// The stages that a Dockerfile names, but for empty ones (`FROM scratch AS …`), which only hold
/// a place for a named context.
fn stages(dockerfile: &str) -> Vec<Stage> {
    let mut stages = Vec::<Stage>::new();
    for line in dockerfile.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [from, .., base, r#as, name]
                if from.eq_ignore_ascii_case("FROM")
                    && r#as.eq_ignore_ascii_case("AS")
                    && base != "scratch" =>
            {
                let (name, base) = (name.to_owned(), base.to_owned());
                stages.push(Stage { name, base, has_steps: false });
            }
            [run, ..] if run.eq_ignore_ascii_case("RUN") && line.starts_with(run) => {
                if let Some(stage) = stages.last_mut() {
                    stage.has_steps = true;
                }
            }
            _ => {}
        }
    }
    stages
}

/// The packages of the server, with the versions that the requirements pin.
pub fn pinned_packages(sh: &Shell) -> Vec<Package> {
    let requirements = sh.read_file(REQUIREMENTS).unwrap_or_default();
    let version = |name: &str| {
        requirements.lines().find_map(|line| {
            // Extras may stand between, as in `openhands-sdk[boto3]==1.58.2`.
            let (extras, pin) = line.strip_prefix(name)?.split_once("==")?;
            let is_own = extras.is_empty() || extras.starts_with('[');
            pin.split_whitespace().next().filter(|_| is_own).map(str::to_owned)
        })
    };
    let package = |name: &str| Package { name: name.to_owned(), version: version(name) };
    PACKAGES.into_iter().map(package).collect()
}
