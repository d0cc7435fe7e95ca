//! Two versions of a REST API, compared by their `OpenAPI` 3 documents: what changed for clients, and
//! which changes break them. Another kind of value in a response breaks nobody: clients skip what they
//! don't know.

use std::collections::{BTreeMap, BTreeSet};

use base::message::one_line;
use serde_json::Value;

/// Whether an operation, a parameter, a body or a property is required, and its types, named schemas,
/// constants or media types, sorted.
type Field = (bool, BTreeSet<String>);

/// What clients send, or what they get.
struct Api<'a> {
    document: &'a Value,
    is_request: bool,
    /// By what their places begin with, such as `GET /health ` or `ServerInfo.`, and by name.
    fields: BTreeMap<String, BTreeMap<String, Field>>,
}

/// What begins the line of a change that breaks clients.
pub const BREAKING: &str = "BREAKING ";

/// The changes from `old` to `new`, a line each, those that break clients first.
pub fn compare(old: &Value, new: &Value) -> BTreeSet<String> {
    let mut changes = BTreeSet::new();
    for is_request in [true, false] {
        let [old, new] = [old, new].map(|document| Api::of(document, is_request));
        for (parent, was) in &old.fields {
            // Whatever lacks as a whole is a change in another field.
            let Some(is) = new.fields.get(parent) else { continue };
            let mut add = |is_breaking, name: &str, what: &str| {
                let mark = if is_breaking { BREAKING } else { "changed  " };
                changes.insert(format!("{mark}{}", one_line(&format!("{parent}{name}: {what}"))));
            };
            for (name, (is_required, _)) in is.iter().filter(|(name, _)| !was.contains_key(*name)) {
                let is_breaking = is_request && *is_required;
                add(is_breaking, name, if is_breaking { "new and required" } else { "new" });
            }
            for (name, (was_required, before)) in was {
                let Some((is_required, now)) = is.get(name) else {
                    add(!is_request, name, "gone");
                    continue;
                };
                match (is_request, was_required, is_required) {
                    (true, false, true) => add(true, name, "required now"),
                    (false, true, false) => add(true, name, "may be missing now"),
                    _ => {}
                }
                let fits = if is_request {
                    before.iter().all(|kind| takes(now, kind))
                } else {
                    before.iter().any(|kind| takes(now, kind))
                        || now.iter().any(|kind| takes(before, kind))
                };
                if before != now {
                    let kinds = [before, now].map(|kinds| Vec::from_iter(kinds.clone()));
                    let [was, is] = kinds.map(|kinds| kinds.join(" or "));
                    add(!fits, name, &format!("was {was}, now {is}"));
                }
            }
        }
    }
    changes
}

/// True where a value of this `kind` is also one of these `kinds`.
fn takes(kinds: &BTreeSet<String>, kind: &str) -> bool {
    let is_number = kind == "integer" && kinds.contains("number");
    is_number || kinds.contains(kind) || kinds.contains("any")
}

impl<'a> Api<'a> {
    fn of(document: &'a Value, is_request: bool) -> Self {
        let mut api = Api { document, is_request, fields: BTreeMap::new() };
        for (path, item) in entries(&document["paths"]) {
            // Whatever else describes a path is a text or a list.
            for (method, operation) in entries(item).filter(|(_, value)| value.is_object()) {
                api.add_operation(&format!("{} {path}", method.to_uppercase()), operation);
            }
        }
        api
    }

    fn add_operation(&mut self, name: &str, operation: &'a Value) {
        let within = format!("{name} ");
        self.fields.entry(within.clone()).or_default();
        if !self.is_request {
            self.add("", name, true, BTreeSet::new());
            for (status, body) in entries(&operation["responses"]) {
                if status.starts_with('2') {
                    self.add_body(&within, status, true, body);
                }
            }
            return;
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let parameter = self.resolved(parameter);
            let text = |key: &str| parameter[key].as_str().unwrap_or_default();
            let name = format!("{} {}", text("in"), text("name"));
            self.add_schema(&within, &name, parameter["required"] == true, &parameter["schema"]);
        }
        if let Some(body) = operation.get("requestBody") {
            self.add_body(&within, "request", body["required"] == true, body);
        }
    }

    fn add_body(&mut self, within: &str, name: &str, is_required: bool, body: &'a Value) {
        let mut kinds = BTreeSet::new();
        for (kind, content) in entries(&body["content"]) {
            kinds.insert(kind.clone());
            self.add_schema(within, &format!("{name} {kind}"), false, &content["schema"]);
        }
        self.add(within, name, is_required, kinds);
    }

    fn add_schema(&mut self, within: &str, name: &str, is_required: bool, schema: &'a Value) {
        let place = format!("{within}{name}");
        let inside = format!("{place}.");
        self.fields.entry(inside.clone()).or_default();
        let mut kinds = BTreeSet::new();
        // A schema and the members of its unions.
        let mut parts = vec![schema];
        while let Some(part) = parts.pop() {
            if let Some(reference) = part["$ref"].as_str() {
                let short = reference.rsplit('/').next().unwrap_or(reference);
                // FastAPI adds this where both sides differ.
                let short = short.trim_end_matches("-Input").trim_end_matches("-Output");
                kinds.insert(short.to_owned());
                if !self.fields.contains_key(short) {
                    self.fields.insert(short.to_owned(), BTreeMap::new());
                    self.add_schema(short, "", false, self.resolved(part));
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
                self.add_schema(&inside, name, required.contains(name), schema);
            }
            for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
                if part[key].is_object() {
                    self.add_schema(&place, mark, false, &part[key]);
                }
            }
        }
        self.add(within, name, is_required, kinds);
    }

    fn add(&mut self, within: &str, name: &str, is_required: bool, kinds: BTreeSet<String>) {
        let fields = self.fields.entry(within.to_owned()).or_default();
        fields.insert(name.to_owned(), (is_required, kinds));
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
