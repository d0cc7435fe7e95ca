//! `cargo xtask image api`: what changed in the REST API of an image, and which changes break clients.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use base::error::usage;
use base::message::{self, one_line};
use base::output;
use serde_json::Value;

use crate::github;
use crate::serve::Container;
use request::cli::Args;

/// Prints what differs. Errors: a change breaks clients within a minor version; a usage error for anything but two documents.
pub fn main(root: &Path, args: &Args) -> Result<()> {
    let new = args.openapi.iter().map(Into::into);
    let new = new.chain(args.words.iter().map(|word| word.to_string_lossy())).collect::<Vec<_>>();
    let (Some(baseline), [new]) = (&args.baseline, &new[..]) else {
        let hint = "name one image or --openapi FILE, and with --baseline an earlier image or file";
        return Err(usage(format!("there are not two documents to compare\nhint: {hint}")));
    };
    let (old, new) = (document(root, baseline)?, document(root, new)?);
    let [was, is] = [&old, &new].map(|document| &document["info"]["version"]);
    let [was, is] = [was, is].map(|version| one_line(version.as_str().unwrap_or("unknown")));
    let lines = Vec::from_iter(compare(&old, &new));
    let count = lines.iter().filter(|line| line.starts_with(BREAKING)).count();
    let (all, list) = (lines.len(), github::fenced("text", &lines.join("\n")));
    let changes = match all {
        0 => "Nothing has changed.".to_owned(),
        _ => format!("{count} of {all} changes break clients.\n\n{list}"),
    };
    let text = format!("### REST API of {is} against {was}\n\n{changes}");
    let hint = "keep what clients use, or raise the minor version";
    let what = format!("{count} changes of the API break clients");
    let breaks = (count > 0 && minor(&was) == minor(&is))
        .then(|| anyhow!("{what}, and {is} has the minor version of {was}\nhint: {hint}"));
    let told = [output::write(&text), github::write_page(&text)];
    message::ended_by(breaks.into_iter().chain(told.into_iter().filter_map(Result::err)))
}

/// The `OpenAPI` document in the file of that name, or else of the image.
fn document(root: &Path, name: &str) -> Result<Value> {
    let path = Path::new(name);
    // Whatever a shell's `<(…)` gives is read, too.
    let is_file = path.exists() && !path.is_dir()
        || path.extension().is_some_and(|extension| extension == "json");
    let wrong = |why: String| usage(format!("{name:?}: {why}"));
    let text = if is_file {
        let text = output::load(path).map_err(|error| wrong(format!("{error}")))?;
        String::from_utf8_lossy(&text).into_owned()
    } else {
        let answer =
            Container::pull(root, name).and_then(|server| server.fetch("/openapi.json", 30));
        answer.with_context(|| format!("the API of {name:?} can't be read"))?
    };
    let document: Value = serde_json::from_str(&text)
        .map_err(|error| wrong(format!("it is not an OpenAPI document ({error})")))?;
    if !document["paths"].is_object() {
        return Err(wrong("it is not an OpenAPI document: it has no \"paths\"".to_owned()));
    }
    Ok(document)
}

/// The first two numbers of a version; all of one that has other parts.
fn minor(version: &str) -> &str {
    version.match_indices('.').nth(1).map_or(version, |(at, _)| &version[..at])
}

const BREAKING: &str = "BREAKING ";

/// An operation, a parameter, a body, a property or a named schema.
struct Field {
    /// Where this place is new or gone, or the field's own, the field is no change of its own.
    parent: String,
    is_required: bool,
    /// Its types, named schemas, constants or media types.
    kinds: BTreeSet<String>,
}

/// What clients send, or what they get: fields by place, such as `GET /health 200` or `ServerInfo.title`.
struct Api<'a> {
    document: &'a Value,
    is_request: bool,
    fields: BTreeMap<String, Field>,
}

/// The changes from `old` to `new`, a line each, those that break clients first.
fn compare(old: &Value, new: &Value) -> BTreeSet<String> {
    let mut changes = BTreeSet::new();
    let mut add = |is_breaking, place: &str, what: &str| {
        let mark = if is_breaking { BREAKING } else { "changed  " };
        changes.insert(format!("{mark}{}", one_line(&format!("{place}: {what}"))));
    };
    for is_request in [true, false] {
        let [old, new] = [old, new].map(|document| Api::of(document, is_request).fields);
        for (place, is) in &new {
            let is_breaking = is_request && is.is_required;
            if !old.contains_key(place) && old.contains_key(&is.parent) {
                add(is_breaking, place, if is_breaking { "new and required" } else { "new" });
            }
        }
        for (place, was) in &old {
            let Some(is) = new.get(place) else {
                if new.contains_key(&was.parent) {
                    add(!is_request, place, "gone");
                }
                continue;
            };
            match (is_request, was.is_required, is.is_required) {
                (true, false, true) => add(true, place, "required now"),
                (false, true, false) => add(true, place, "may be missing now"),
                _ => {}
            }
            let fits = if is_request {
                was.kinds.iter().all(|kind| is.takes(kind))
            } else {
                was.kinds.iter().any(|kind| is.takes(kind))
                    || is.kinds.iter().any(|kind| was.takes(kind))
            };
            if was.kinds != is.kinds {
                let kinds = [was, is].map(|field| Vec::from_iter(field.kinds.clone()));
                let [was, is] = kinds.map(|kinds| kinds.join(" or "));
                add(!fits, place, &format!("was {was}, now {is}"));
            }
        }
    }
    changes
}

impl Field {
    /// True where it may have a value of this `kind`.
    fn takes(&self, kind: &String) -> bool {
        let is_number = kind == "integer" && self.kinds.contains("number");
        is_number || self.kinds.contains(kind) || self.kinds.contains("any")
    }
}

impl<'a> Api<'a> {
    fn of(document: &'a Value, is_request: bool) -> Self {
        let mut api = Api { document, is_request, fields: BTreeMap::new() };
        api.add("", "", false, BTreeSet::new());
        for (path, item) in entries(&document["paths"]) {
            // Whatever else describes a path is a text or a list.
            for (method, operation) in entries(item).filter(|(_, value)| value.is_object()) {
                api.add_operation(&format!("{} {path}", method.to_uppercase()), operation);
            }
        }
        api
    }

    fn add_operation(&mut self, place: &str, operation: &'a Value) {
        // It is new or gone on one side alone.
        let parent = if self.is_request { place } else { "" };
        self.add(parent, place, true, BTreeSet::new());
        let answers =
            entries(&operation["responses"]).filter(|(status, _)| status.starts_with('2'));
        if !self.is_request {
            answers.for_each(|(status, body)| self.add_body(place, status, true, body));
            return;
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let parameter = self.resolved(parameter);
            let text = |key: &str| parameter[key].as_str().unwrap_or_default();
            let name = format!("{place} {} {}", text("in"), text("name"));
            self.add_schema(place, &name, parameter["required"] == true, &parameter["schema"]);
        }
        if let Some(body) = operation.get("requestBody") {
            self.add_body(place, "request", body["required"] == true, body);
        }
    }

    fn add_body(&mut self, parent: &str, name: &str, is_required: bool, body: &'a Value) {
        let mut kinds = BTreeSet::new();
        for (kind, content) in entries(&body["content"]) {
            kinds.insert(kind.clone());
            self.add_schema(parent, &format!("{parent} {name} {kind}"), false, &content["schema"]);
        }
        self.add(parent, &format!("{parent} {name}"), is_required, kinds);
    }

    fn add_schema(&mut self, parent: &str, place: &str, is_required: bool, schema: &'a Value) {
        // Not after what it refers to, which may be itself.
        self.add(parent, place, is_required, BTreeSet::new());
        let mut kinds = BTreeSet::new();
        // A schema and the members of its unions.
        let mut parts = vec![schema];
        while let Some(part) = parts.pop() {
            if let Some(reference) = part["$ref"].as_str() {
                let name = reference.rsplit('/').next().unwrap_or(reference);
                // FastAPI adds this where both sides differ.
                let name = name.trim_end_matches("-Input").trim_end_matches("-Output");
                kinds.insert(name.to_owned());
                if !self.fields.contains_key(name) {
                    self.add_schema(name, name, false, self.resolved(part));
                }
                continue;
            }
            let members = ["anyOf", "oneOf", "allOf"].map(|key| part[key].as_array());
            let members = members.into_iter().flatten().flatten().collect::<Vec<_>>();
            let own = ["const", "enum", "type"].map(|key| texts(&part[key]));
            match own.into_iter().find(|texts| !texts.is_empty()) {
                Some(texts) => kinds.extend(texts),
                None if members.is_empty() => drop(kinds.insert("any".to_owned())),
                None => {}
            }
            parts.extend(members);
            let required = texts(&part["required"]);
            for (name, schema) in entries(&part["properties"]) {
                let is_required = required.contains(name);
                self.add_schema(place, &format!("{place}.{name}"), is_required, schema);
            }
            for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
                if part[key].is_object() {
                    let place = format!("{place}{mark}");
                    self.add_schema(&place, &place, false, &part[key]);
                }
            }
        }
        self.add(parent, place, is_required, kinds);
    }

    fn add(&mut self, parent: &str, place: &str, is_required: bool, kinds: BTreeSet<String>) {
        let field = Field { parent: parent.to_owned(), is_required, kinds };
        self.fields.insert(place.to_owned(), field);
    }

    /// What `value` refers to, if it does.
    fn resolved(&self, value: &'a Value) -> &'a Value {
        let pointer = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
        pointer.and_then(|pointer| self.document.pointer(pointer)).unwrap_or(value)
    }
}

fn entries(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

/// `value`, or the values of a list, as text; none of `null`.
fn texts(value: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value {
        Value::Null => Vec::new(),
        Value::Array(values) => values.iter().map(text).collect(),
        value => vec![text(value)],
    }
}
