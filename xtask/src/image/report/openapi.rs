//! Two versions of a REST API, compared by their `OpenAPI` documents: what changed for clients, and
//! which of that breaks them. A union that gets another member breaks nobody: clients skip what
//! they don't know.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;

use serde_json::{Map, Value};

use base::message::one_line;

const METHODS: [&str; 8] = ["get", "put", "post", "delete", "patch", "options", "head", "trace"];

/// Who writes what a schema describes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Request,
    Response,
}

/// A change, at a place in an operation or in a schema.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    /// Breaking ones come first.
    is_harmless: bool,
    place: String,
    what: String,
}

/// Two documents, and what was found so far.
pub struct Comparison<'a> {
    old: &'a Value,
    new: &'a Value,
    /// With the operations that each was found in.
    changes: BTreeMap<Change, BTreeSet<String>>,
    /// The pairs of named schemas that were compared for this operation.
    seen: BTreeSet<(Side, String, String)>,
    operation: String,
}

impl<'a> Comparison<'a> {
    /// Compares `new`, a document of `OpenAPI` 3, with the earlier one `old`.
    pub fn of(old: &'a Value, new: &'a Value) -> Self {
        let (changes, seen, operation) = (BTreeMap::new(), BTreeSet::new(), String::new());
        let mut comparison = Comparison { old, new, changes, seen, operation };
        let [was, is] = [old, new].map(operations);
        for (name, old) in &was {
            comparison.operation.clone_from(name);
            comparison.seen.clear();
            match is.get(name) {
                None => comparison.add(true, name, "the operation is gone"),
                Some(new) => comparison.operation(old, new),
            }
        }
        for name in is.keys().filter(|name| !was.contains_key(*name)) {
            comparison.operation.clone_from(name);
            comparison.add(false, name, "the operation is new");
        }
        comparison
    }

    /// How many changes break clients.
    pub fn breaking(&self) -> usize {
        self.changes.keys().filter(|change| !change.is_harmless).count()
    }

    /// The changes, one a line, those that break clients first.
    pub fn lines(&self) -> Vec<String> {
        let line = |(change, operations): (&Change, &BTreeSet<String>)| {
            let how = if change.is_harmless { "changed" } else { "BREAKING" };
            let first = operations.first().map_or("", String::as_str);
            let within = match operations.len() {
                _ if change.place.starts_with(first) => String::new(),
                1 => format!(" ({first})"),
                count => format!(" ({first} and {} more)", count - 1),
            };
            one_line(&format!("{how:<8} {}: {}{within}", change.place, change.what))
        };
        self.changes.iter().map(line).collect()
    }

    fn add(&mut self, is_breaking: bool, place: &str, what: impl Into<String>) {
        let (place, what) = (place.to_owned(), what.into());
        let change = Change { is_harmless: !is_breaking, place, what };
        self.changes.entry(change).or_default().insert(self.operation.clone());
    }

    fn operation(&mut self, old: &'a Value, new: &'a Value) {
        let operation = self.operation.clone();
        let within = |part: &str| format!("{operation} {part}");
        let [was, is] = [(self.old, old), (self.new, new)].map(|(all, op)| parameters(all, op));
        for (name, old) in &was {
            let place = within(name);
            let Some(new) = is.get(name) else {
                self.add(false, &place, "the parameter is gone");
                continue;
            };
            if new["required"] == true && old["required"] != true {
                self.add(true, &place, "the parameter is required now");
            }
            self.schema(Side::Request, &place, &old["schema"], &new["schema"]);
        }
        for (name, new) in is.iter().filter(|(name, _)| !was.contains_key(*name)) {
            let is_required = new["required"] == true;
            let what = if is_required { "a new required parameter" } else { "a new parameter" };
            self.add(is_required, &within(name), what);
        }
        let [was, is] = [old, new].map(|operation| &operation["requestBody"]);
        if is["required"] == true && was["required"] != true {
            self.add(true, &within("request"), "a body is required now");
        }
        self.content(Side::Request, &within("request"), was, is);
        for (status, was) in object(&old["responses"]).filter(|(status, _)| status.starts_with('2'))
        {
            match &new["responses"][status] {
                Value::Null => self.add(true, &within(status), "the response is gone"),
                is => self.content(Side::Response, &within(status), was, is),
            }
        }
    }

    /// Compares bodies by their media types.
    fn content(&mut self, side: Side, place: &str, old: &'a Value, new: &'a Value) {
        for (kind, was) in object(&old["content"]) {
            match &new["content"][kind] {
                Value::Null => self.add(true, place, format!("{kind} is gone")),
                is => self.schema(side, place, &was["schema"], &is["schema"]),
            }
        }
    }

    fn schema(&mut self, side: Side, place: &str, old: &'a Value, new: &'a Value) {
        let names = [old, new].map(|schema| schema["$ref"].as_str().map(short));
        let mut place = place;
        if let [Some(was), Some(is)] = names {
            if !self.seen.insert((side, was.to_owned(), is.to_owned())) {
                return;
            }
            // What is said of a named schema is the same wherever that is used.
            place = is;
        }
        let (old, new) = (resolved(self.old, old), resolved(self.new, new));
        let [was, is] = [old, new].map(members);
        if was.is_some() || is.is_some() {
            let (was, is) = (was.unwrap_or(vec![old]), is.unwrap_or(vec![new]));
            return self.alternatives(side, place, was, is);
        }
        self.types(side, place, old, new);
        self.values(side, place, old, new);
        self.properties(side, place, old, new);
        for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
            if old[key].is_object() && new[key].is_object() {
                self.schema(side, &format!("{place}{mark}"), &old[key], &new[key]);
            }
        }
    }

    /// Compares the members of a union: those of one name or type, or what is left on both sides.
    fn alternatives(
        &mut self,
        side: Side,
        place: &str,
        mut was: Vec<&'a Value>,
        mut is: Vec<&'a Value>,
    ) {
        let mut pairs = Vec::new();
        was.retain(|old| {
            let found = is.iter().position(|new| member(old) == member(new));
            pairs.extend(found.map(|at| (*old, is.remove(at))));
            found.is_none()
        });
        if let ([old], [new]) = (was.as_slice(), is.as_slice()) {
            pairs.push((*old, *new));
            (was, is) = (Vec::new(), Vec::new());
        }
        for old in was {
            let what = format!("{} is no longer one of the kinds", member(old));
            self.add(side == Side::Request, place, what);
        }
        for new in is {
            self.add(false, place, format!("{} is one more kind", member(new)));
        }
        for (old, new) in pairs {
            self.schema(side, place, old, new);
        }
    }

    fn types(&mut self, side: Side, place: &str, old: &Value, new: &Value) {
        let [was, is] = [old, new].map(|schema| texts(&schema["type"]));
        // Without a type, anything is allowed.
        let covers = |wide: &BTreeSet<String>, narrow: &BTreeSet<String>| {
            let is_in =
                |kind: &String| wide.contains(kind) || kind == "integer" && wide.contains("number");
            wide.is_empty() || !narrow.is_empty() && narrow.iter().all(is_in)
        };
        if was == is {
            return;
        }
        let is_breaking = match side {
            Side::Request => !covers(&is, &was),
            Side::Response => !covers(&is, &was) && !covers(&was, &is),
        };
        self.add(is_breaking, place, format!("the type was {}, now {}", any(&was), any(&is)));
    }

    /// Compares what `enum` and `const` allow.
    fn values(&mut self, side: Side, place: &str, old: &Value, new: &Value) {
        let values = |schema: &Value| match &schema["const"] {
            Value::Null => texts(&schema["enum"]),
            value => texts(value),
        };
        let (was, is) = (values(old), values(new));
        if was == is {
            return;
        }
        let is_narrower = !is.is_empty() && (was.is_empty() || !was.is_subset(&is));
        let is_breaking = side == Side::Request && is_narrower;
        self.add(is_breaking, place, format!("the values were {}, now {}", any(&was), any(&is)));
    }

    fn properties(&mut self, side: Side, place: &str, old: &'a Value, new: &'a Value) {
        let [was, is] = [old, new].map(|schema| texts(&schema["required"]));
        let within = |name: &str| format!("{place}.{name}");
        for (name, old) in object(&old["properties"]) {
            let place = within(name);
            let Some(new) = new["properties"].get(name) else {
                self.add(side == Side::Response, &place, "the property is gone");
                continue;
            };
            match side {
                Side::Request if is.contains(name) && !was.contains(name) => {
                    self.add(true, &place, "the property is required now");
                }
                Side::Response if was.contains(name) && !is.contains(name) => {
                    self.add(true, &place, "the property may be missing now");
                }
                _ => {}
            }
            self.schema(side, &place, old, new);
        }
        for (name, _) in object(&new["properties"]) {
            if old["properties"].get(name).is_none() {
                let is_required = side == Side::Request && is.contains(name);
                let what = if is_required { "a new required property" } else { "a new property" };
                self.add(is_required, &within(name), what);
            }
        }
    }
}

/// The operations of a document, such as `GET /health`.
fn operations(document: &Value) -> BTreeMap<String, &Value> {
    let paths = object(&document["paths"]);
    let operations = paths.flat_map(|(path, item)| {
        let known = METHODS.iter().filter_map(|method| Some((*method, item.get(method)?)));
        known.map(move |(method, operation)| {
            (format!("{} {path}", method.to_uppercase()), operation)
        })
    });
    operations.collect()
}

/// The parameters of `operation`, such as `query limit`.
fn parameters<'a>(document: &'a Value, operation: &'a Value) -> BTreeMap<String, &'a Value> {
    let all = operation["parameters"].as_array().into_iter().flatten();
    let all = all.map(|parameter| resolved(document, parameter));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.map(|one| (format!("{} {}", text(&one["in"]), text(&one["name"])), one)).collect()
}

/// What `schema` refers to, if it does.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let pointer = |schema: &Value| Some(schema["$ref"].as_str()?.strip_prefix('#')?.to_owned());
    let next = |at: &&'a Value| document.pointer(&pointer(at)?);
    // A reference may lead to another one, but not for ever.
    iter::successors(Some(schema), next).take(10).last().unwrap_or(schema)
}

/// The members of a union, if it is one. A schema that `allOf` only wraps counts as its one member.
fn members(schema: &Value) -> Option<Vec<&Value>> {
    let lists = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| schema[key].as_array());
    Some(lists.flatten().collect::<Vec<_>>()).filter(|members| !members.is_empty())
}

/// What a member of a union is known by.
fn member(schema: &Value) -> String {
    let named = schema["$ref"].as_str().map(short).or(schema["title"].as_str());
    let kind = schema["type"].as_str().map(|kind| {
        let items = schema["items"]["$ref"].as_str().map(short).unwrap_or_default();
        format!("{kind} {items}").trim_end().to_owned()
    });
    named.map(str::to_owned).or(kind).unwrap_or_else(|| schema.to_string())
}

/// The last part of a reference.
fn short(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap_or(reference)
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// `value`, or the values of a list, as text; none of `null`.
fn texts(value: &Value) -> BTreeSet<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value {
        Value::Null => BTreeSet::new(),
        Value::Array(values) => values.iter().map(text).collect(),
        value => BTreeSet::from([text(value)]),
    }
}

fn any(values: &BTreeSet<String>) -> String {
    let all = values.iter().map(String::as_str).collect::<Vec<_>>();
    if all.is_empty() { "any".to_owned() } else { all.join(" or ") }
}
