//! What can be built: the stages of the `Dockerfile`, and the variants in `docker-bake.json` beside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use base::error::usage;
use base::similar::use_one_of;
use serde_json::{Map, Value, json};

/// The folder of the image, below the repository's root. Bakes run in it.
pub const FOLDER: &str = "agent-server-image";
const BAKE_FILE: &str = "agent-server-image/docker-bake.json";

/// The stages that can be built for use, with the server and without.
const SERVERS: [&str; 5] = ["binary", "binary-minimal", "source", "source-minimal", "overlay"];
const OTHERS: [&str; 4] = ["base-image", "base-image-minimal", "builder", "binary-builder"];

/// The stage that starts the server of the target that the argument `TARGET` names.
pub const CHECK: &str = "check";

/// What `agent-server-image/` offers.
pub struct Definition {
    /// By name; the bake file's targets but for those that begin with `_`.
    pub variants: BTreeMap<String, Variant>,
    /// The variants that are built when none is named: the bake file's default group.
    pub default_variants: Vec<String>,
    /// True where the Dockerfile has the stage [`CHECK`].
    pub has_check: bool,
}

/// One bake target, its `inherits` resolved.
pub struct Variant {
    pub base_image: String,
    pub platforms: Vec<String>,
    /// Everything the bake file says of it.
    pub bake: Value,
}

impl Definition {
    /// Reads the bake file below `root`.
    /// Errors: a usage error where it is missing or broken, with the place in it.
    pub fn read(root: &Path) -> Result<Self> {
        let bake = fs::read_to_string(root.join(BAKE_FILE))
            .map_err(|error| usage(format!("{BAKE_FILE} can't be read: {error}")))?;
        let dockerfile = fs::read_to_string(root.join(FOLDER).join("Dockerfile"));
        let has_check = dockerfile.is_ok_and(|dockerfile| dockerfile.contains(" AS check\n"));
        Self::parse(&bake, has_check).map_err(|error| usage(format!("{BAKE_FILE}: {error:#}")))
    }

    fn parse(bake: &str, has_check: bool) -> Result<Self> {
        let bake: Value = serde_json::from_str(bake).context("it is not JSON")?;
        let targets =
            bake["target"].as_object().context("\"target\" must be an object of targets")?;
        let mut variants = BTreeMap::new();
        for name in targets.keys().filter(|name| !name.starts_with('_')) {
            let bake = resolve(targets, name, 0)?;
            let base_image = bake["args"]["BASE_IMAGE"].as_str().map(str::to_owned);
            let base_image = base_image
                .with_context(|| format!("\"target.{name}.args.BASE_IMAGE\" must name an image"))?;
            let platforms = strings(&bake["platforms"])
                .with_context(|| format!("\"target.{name}.platforms\" must list platforms"))?;
            variants.insert(name.clone(), Variant { base_image, platforms, bake });
        }
        let default_variants = strings(&bake["group"]["default"]["targets"])
            .filter(|names| !names.is_empty() && names.iter().all(|n| variants.contains_key(n)))
            .context("\"group.default.targets\" must list targets of this file")?;
        Ok(Definition { variants, default_variants, has_check })
    }

    /// The variants that `asked` names, one by one or as `all`; the default ones where it names none.
    /// Errors: a usage error for a name that there is not.
    pub fn chosen(&self, asked: &[String]) -> Result<Vec<(&String, &Variant)>> {
        for name in asked.iter().filter(|name| *name != "all") {
            check_name("variant", name, self.variants.keys().map(String::as_str))?;
        }
        if asked.iter().any(|name| name == "all") {
            return Ok(self.variants.iter().collect());
        }
        let named = if asked.is_empty() { &self.default_variants } else { asked };
        Ok(named.iter().filter_map(|name| self.variants.get_key_value(name)).collect())
    }
}

/// The names of all targets.
pub fn targets() -> impl Iterator<Item = &'static str> {
    SERVERS.into_iter().chain(OTHERS)
}

/// True where images of `target` have the server.
pub fn has_server(target: &str) -> bool {
    SERVERS.contains(&target)
}

/// The stage below `target` that runs the last steps on the base image; `None` where there is none.
pub fn stage_below(target: &str) -> Option<&'static str> {
    match target {
        "binary" | "source" => Some("base-image"),
        "binary-minimal" | "source-minimal" | "base-image" => Some("base-image-minimal"),
        _ => None,
    }
}

/// Errors: a usage error unless `name`, which should be that of a `kind`, is one of `known`.
pub fn check_name<'a>(kind: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Result<()> {
    let known = known.collect::<Vec<_>>();
    let why = || format!("unknown {kind} {name:?}\nhint: {}", use_one_of(name, &known));
    if known.contains(&name) { Ok(()) } else { Err(usage(why())) }
}

/// The lists that bake appends to those of a parent. It replaces all others.
const APPENDED: [&str; 6] =
    ["annotations", "attest", "cache-from", "entitlements", "secret", "ssh"];

/// The target `name` with what it inherits: later parents over earlier ones, its own attributes over all.
fn resolve(targets: &Map<String, Value>, name: &str, depth: usize) -> Result<Value> {
    ensure!(depth <= targets.len(), "\"target.{name}\" inherits from itself");
    let own = targets.get(name).and_then(Value::as_object).cloned();
    let mut own =
        own.with_context(|| format!("\"target.{name}\" is inherited from but is not an object"))?;
    let parents = strings(&own.remove("inherits").unwrap_or(json!([])))
        .with_context(|| format!("\"target.{name}.inherits\" must list targets"))?;
    let mut resolved = json!({});
    for parent in parents {
        merge(&mut resolved, resolve(targets, &parent, depth + 1)?);
    }
    merge(&mut resolved, Value::Object(own));
    Ok(resolved)
}

/// Puts the attributes of a target `over` those of `under`, as bake does.
pub fn merge(under: &mut Value, over: Value) {
    let Value::Object(over) = over else { return };
    for (key, value) in over {
        match (&mut under[&key], value) {
            // Maps such as `args` are merged key by key.
            (Value::Object(under), Value::Object(over)) => under.extend(over),
            (Value::Array(under), Value::Array(over)) if APPENDED.contains(&key.as_str()) => {
                under.extend(over);
            }
            (under, value) => *under = value,
        }
    }
}

/// A list of strings, and nothing else.
pub fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}
