//! Two versions of a REST API, compared by their `OpenAPI` 3 documents: what changed for clients, and
//! which changes break them. Another kind of value in a response breaks nobody: clients skip what they
//! don't know.

use std::collections::{BTreeMap, BTreeSet};

use base::message::one_line;
use serde_json::Value;

/// Who writes a value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Request,
    Response,
}

/// An operation, a parameter, a body or a property.
struct Field {
    is_required: bool,
    /// Its types, named schemas, constants or media types, sorted.
    kinds: Vec<String>,
}

/// What fields are part of: what their places begin with, such as `GET /health ` or `ServerInfo.`.
type Within = (Side, String);

struct Api<'a> {
    document: &'a Value,
    fields: BTreeMap<Within, BTreeMap<String, Field>>,
}

/// What begins the line of a change that breaks clients.
pub const BREAKING: &str = "BREAKING ";

/// The changes from `old` to `new`, a line each, those that break clients first.
pub fn compare(old: &Value, new: &Value) -> BTreeSet<String> {
    let mut changes = BTreeSet::new();
    let (old, new) = (Api::of(old), Api::of(new));
    for (key @ (side, parent), was) in &old.fields {
        // Whatever lacks as a whole is a change in another field.
        let Some(is) = new.fields.get(key) else { continue };
        let is_request = *side == Side::Request;
        let mut add = |is_breaking, name: &str, what: &str| {
            let mark = if is_breaking { BREAKING } else { "changed  " };
            changes.insert(format!("{mark}{}", one_line(&format!("{parent}{name}: {what}"))));
        };
        for (name, now) in is {
            if !was.contains_key(name) {
                let is_breaking = is_request && now.is_required;
                add(is_breaking, name, if is_breaking { "new and required" } else { "new" });
            }
        }
        for (name, before) in was {
            let Some(now) = is.get(name) else {
                add(!is_request, name, "gone");
                continue;
            };
            match (side, before.is_required, now.is_required) {
                (Side::Request, false, true) => add(true, name, "required now"),
                (Side::Response, true, false) => add(true, name, "may be missing now"),
                _ => {}
            }
            let (before, now) = (&before.kinds, &now.kinds);
            if before != now {
                let fits = if is_request {
                    before.iter().all(|kind| takes(now, kind))
                } else {
                    before.iter().any(|kind| takes(now, kind))
                        || now.iter().any(|kind| takes(before, kind))
                };
                let (was, is) = (before.join(" or "), now.join(" or "));
                add(!fits, name, &format!("was {was}, now {is}"));
            }
        }
    }
    changes
}

/// True where a value of this `kind` is also one of these `kinds`.
fn takes(kinds: &[String], kind: &str) -> bool {
    kinds.iter().any(|one| one == kind || one == "any" || one == "number" && kind == "integer")
}

impl<'a> Api<'a> {
    fn of(document: &'a Value) -> Self {
        let mut api = Api { document, fields: BTreeMap::new() };
        for (path, item) in entries(&document["paths"]) {
            // Whatever else describes a path is a text or a list.
            for (method, operation) in entries(item).filter(|(_, value)| value.is_object()) {
                api.add_operation(&format!("{} {path}", method.to_uppercase()), operation);
            }
        }
        api
    }

    fn add_operation(&mut self, name: &str, operation: &'a Value) {
        let [request, response] = [Side::Request, Side::Response].map(|side| {
            let within = (side, format!("{name} "));
            self.fields.entry(within.clone()).or_default();
            within
        });
        self.add(&(Side::Response, String::new()), name, true, Vec::new());
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let parameter = self.resolved(parameter);
            let text = |key: &str| parameter[key].as_str().unwrap_or_default();
            let name = format!("{} {}", text("in"), text("name"));
            self.add_schema(&request, &name, parameter["required"] == true, &parameter["schema"]);
        }
        if let Some(body) = operation.get("requestBody") {
            self.add_body(&request, "request", body["required"] == true, body);
        }
        for (status, body) in entries(&operation["responses"]) {
            if status.starts_with('2') {
                self.add_body(&response, status, true, body);
            }
        }
    }

    fn add_body(&mut self, within: &Within, name: &str, is_required: bool, body: &'a Value) {
        let mut kinds = Vec::new();
        for (kind, content) in entries(&body["content"]) {
            kinds.push(kind.clone());
            self.add_schema(within, &format!("{name} {kind}"), false, &content["schema"]);
        }
        self.add(within, name, is_required, kinds);
    }

    fn add_schema(&mut self, within: &Within, name: &str, is_required: bool, schema: &'a Value) {
        let (side, parent) = within;
        let place = (*side, format!("{parent}{name}"));
        let inside = (*side, format!("{parent}{name}."));
        self.fields.entry(inside.clone()).or_default();
        let mut kinds = Vec::new();
        // A schema and the members of its unions.
        let mut parts = vec![schema];
        while let Some(part) = parts.pop() {
            if let Some(reference) = part["$ref"].as_str() {
                let short = reference.rsplit('/').next().unwrap_or(reference);
                // FastAPI adds this where both sides differ.
                let short = short.trim_end_matches("-Input").trim_end_matches("-Output");
                kinds.push(short.to_owned());
                let named = (*side, short.to_owned());
                if !self.fields.contains_key(&named) {
                    self.fields.insert(named.clone(), BTreeMap::new());
                    self.add_schema(&named, "", false, self.resolved(part));
                }
                continue;
            }
            let members = ["anyOf", "oneOf", "allOf"].map(|key| part[key].as_array());
            let members = members.into_iter().flatten().flatten().collect::<Vec<_>>();
            let own = ["const", "enum", "type"].map(|key| texts(&part[key]));
            match own.into_iter().find(|texts| !texts.is_empty()) {
                Some(texts) => kinds.extend(texts),
                None if members.is_empty() => kinds.push("any".to_owned()),
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

    fn add(&mut self, within: &Within, name: &str, is_required: bool, mut kinds: Vec<String>) {
        kinds.sort();
        kinds.dedup();
        let fields = self.fields.entry(within.clone()).or_default();
        fields.insert(name.to_owned(), Field { is_required, kinds });
    }

    /// What `schema` refers to, if it does.
    fn resolved(&self, mut schema: &'a Value) -> &'a Value {
        // A reference may lead to another one, but not for ever.
        for _ in 0..10 {
            let pointer = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
            let Some(next) = pointer.and_then(|at| self.document.pointer(at)) else { break };
            schema = next;
        }
        schema
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
