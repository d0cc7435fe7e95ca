//! What became of the cache exports of a bake. A lost one costs no image, but it must be seen.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::registry;

/// By target, the `cache-to` entries that were to be written and were not.
pub type Lost<'a> = BTreeMap<&'a str, Vec<&'a str>>;

/// Finds the exports to a registry that did not end well, by buildx's metadata.
pub fn lost<'a>(definition: &'a Value, metadata: &Value) -> Lost<'a> {
    let mut lost = Lost::new();
    for (name, target) in definition["target"].as_object().into_iter().flatten() {
        let exports = exports(target);
        // buildx tells of one export by its manifest, and of one that failed not at all.
        let missing = match &metadata[name] {
            Value::Object(told) if !told.contains_key("cache.manifest") => exports,
            Value::Object(_) if exports.len() > 1 => missing(exports),
            _ => Vec::new(),
        };
        if !missing.is_empty() {
            lost.insert(name, missing);
        }
    }
    lost
}

/// Those of `exports` that their registry does not have.
pub fn missing(mut exports: Vec<&str>) -> Vec<&str> {
    exports.retain(|export| !reference(export).is_some_and(registry::has));
    exports
}

/// A bake that exports again what was lost beside another export of the same target, if there is
/// any: `BuildKit` writes all caches of a target at once, and a race in that may lose one. Where
/// all failed, a second try would fail as well.
pub fn again(definition: &Value, lost: &Lost) -> Option<Value> {
    let mut targets = Map::new();
    for (name, missing) in lost {
        let mut target = definition["target"][name].clone();
        if missing.len() < exports(&target).len() {
            target["cache-to"] = json!(missing);
            target["output"] = json!(["type=cacheonly"]);
            target["tags"] = json!([]);
            targets.insert((*name).to_owned(), target);
        }
    }
    let names = targets.keys().cloned().collect::<Vec<_>>();
    let group = json!({ "default": { "targets": names } });
    (!names.is_empty()).then(|| json!({ "group": group, "target": targets }))
}

/// Says which caches are not there.
pub fn warn(lost: &Lost) {
    for (name, exports) in lost {
        let references = exports.iter().filter_map(|export| reference(export));
        eprintln!(
            "warning: the image of {name:?} is complete, but its cache was not written to {}; the \
             export's error is above.",
            references.collect::<Vec<_>>().join(" and ")
        );
    }
}

/// The entries of a target's `cache-to` that go to a registry.
fn exports(target: &Value) -> Vec<&str> {
    let entries = target["cache-to"].as_array().into_iter().flatten().filter_map(Value::as_str);
    entries.filter(|entry| reference(entry).is_some()).collect()
}

fn reference(export: &str) -> Option<&str> {
    let (reference, _) = export.strip_prefix("type=registry,ref=")?.split_once(',')?;
    Some(reference)
}
