//! The comparison of REST APIs.

use std::fs;

use crate::contract::images;
use crate::support::engine::Engine;
use crate::support::{Ended, Folder, Xtask};
use serde_json::{Value, json};

/// A document of one operation, which takes and returns an `Item`.
fn document(version: &str) -> Value {
    let item = json!({ "$ref": "#/components/schemas/Item" });
    let body = json!({ "application/json": { "schema": item } });
    let operation = json!({
        "parameters": [{ "in": "query", "name": "limit", "schema": { "type": "integer" } }],
        "requestBody": { "content": body },
        "responses": { "200": { "content": body }, "422": {} },
    });
    json!({
        "openapi": "3.1.0",
        "info": { "title": "x", "version": version },
        "paths": { "/items": { "post": operation } },
        "components": { "schemas": { "Item": {
            "type": "object",
            "required": ["id"],
            "properties": {
                "id": { "type": "string" },
                "size": { "type": "number" },
                "color": { "enum": ["red", "blue"], "type": "string" },
                "parent": { "anyOf": [item, { "type": "null" }] },
                "about": { "allOf": [{ "type": "string" }] },
                "tags": { "type": "array", "items": { "type": "string" } },
            },
        } } },
    })
}

const OPERATION: &str = "/paths/~1items/post";
const PROPERTIES: &str = "/components/schemas/Item/properties";

/// How a document of that version with `value` at `place` compares with that of 1.2.3; null removes.
fn compare(version: &str, place: &str, value: Value) -> Ended {
    let folder = Folder::new("api");
    let mut new = document(version);
    if let Some((parent, key)) = place.rsplit_once('/') {
        let parent = new.pointer_mut(parent).unwrap();
        let key = key.replace("~1", "/");
        match (parent, value) {
            (Value::Array(list), value) => list.push(value),
            (parent, Value::Null) => drop(parent.as_object_mut().unwrap().remove(&key)),
            (parent, value) => parent[key] = value,
        }
    }
    let file = |name: &str, document: &Value| {
        let path = folder.0.join(name);
        fs::write(&path, document.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (old, new) = (file("old.json", &document("1.2.3")), file("new.json", &new));
    Xtask::new(&["image", "api", "--openapi", &new, "--baseline", &old]).end()
}

#[test]
fn what_breaks_clients_fails_unless_the_minor_version_says_so() {
    let schema = |change: &str| format!("{PROPERTIES}{change}");
    let of = |change: &str| format!("{OPERATION}{change}");
    let required = json!({ "in": "query", "name": "who", "required": true });
    for (place, value, said) in [
        ("/paths/~1items".to_owned(), Value::Null, "POST /items: the operation is gone"),
        (of("/parameters/-"), required, "POST /items query who: a new required parameter"),
        (of("/responses/200"), Value::Null, "POST /items 200: the response is gone"),
        (of("/requestBody/required"), json!(true), "POST /items request: a body is required now"),
        (schema("/size"), Value::Null, "Item.size: the property is gone"),
        (schema("/size/type"), json!("integer"), "Item.size: the type was number, now integer"),
        (schema("/id/type"), json!("integer"), "Item.id: the type was string, now integer"),
        (schema("/tags/items/type"), json!("null"), "Item.tags[]: the type was string, now null"),
        (
            schema("/about/allOf"),
            json!([{ "type": "integer" }]),
            "Item.about: the type was string, now integer",
        ),
        (schema("/color/enum"), json!(["red"]), "Item.color: the values were blue or red, now red"),
        (
            schema("/parent/anyOf"),
            json!([{ "type": "null" }]),
            "Item is no longer one of the kinds",
        ),
        (
            "/components/schemas/Item/required".to_owned(),
            json!(["id", "size"]),
            "Item.size: the property is required now",
        ),
        (
            "/components/schemas/Item/required".to_owned(),
            json!([]),
            "Item.id: the property may be missing now",
        ),
    ] {
        for (version, status) in [("1.2.4", 1), ("1.3.0", 0), ("2.2.0", 0)] {
            let ended = compare(version, &place, value.clone());
            assert_eq!(ended.status, status, "{said}: {}{}", ended.stdout, ended.stderr);
            let mut lines = ended.stdout.lines().filter(|line| line.starts_with("BREAKING"));
            assert!(lines.any(|line| line.contains(said)), "{said}: {}", ended.stdout);
        }
    }
}

#[test]
fn what_only_adds_breaks_nobody() {
    let schema = |change: &str| format!("{PROPERTIES}{change}");
    let operation = json!({ "responses": {} });
    let kinds = json!([{ "$ref": "#/components/schemas/Item" }, { "type": "null" },
                       { "type": "string" }]);
    for (place, value, said) in [
        ("/paths/~1new".to_owned(), json!({ "get": operation }), "GET /new: the operation is new"),
        (schema("/new"), json!({ "type": "string" }), "Item.new: a new property (POST /items)"),
        (schema("/parent/anyOf"), kinds, "Item.parent: string is one more kind"),
        (schema("/size/type"), json!(["number", "null"]), "now null or number"),
        (schema("/color/enum"), json!(["red", "blue", "green"]), "now blue or green or red"),
        (format!("{OPERATION}/parameters/-"), json!({ "in": "query", "name": "x" }), "parameter"),
    ] {
        let ended = compare("1.2.4", &place, value);
        assert_eq!(ended.status, 0, "{said}: {}{}", ended.stdout, ended.stderr);
        assert!(ended.stdout.contains("\n0 of 1 changes break clients."), "{}", ended.stdout);
        let line = ended.stdout.lines().find(|line| line.starts_with("changed")).unwrap();
        assert!(line.contains(said), "{line}");
    }
    let same = compare("1.2.4", "", Value::Null);
    assert_eq!((same.status, same.stderr.as_str()), (0, ""));
    assert!(same.stdout.ends_with("REST API of 1.2.4 against 1.2.3\n\nNothing has changed.\n"));
}

#[test]
fn a_wrong_request_for_a_comparison_is_refused() {
    let folder = Folder::new("api-wrong");
    let bad = folder.0.join("bad.json");
    let bad = bad.to_str().unwrap();
    let none = folder.0.join("none.json");
    for (text, args, said) in [
        ("{}", &["--openapi", bad, "--baseline", bad][..], "it has no \"paths\""),
        ("[", &["--openapi", bad, "--baseline", bad], "it is no OpenAPI document"),
        (r#"{"paths":{}}"#, &["--openapi", none.to_str().unwrap(), "--baseline", bad], "none.json"),
        ("{}", &["--openapi", bad], "--baseline"),
        ("{}", &["--baseline", bad], "--openapi FILE"),
        ("{}", &["x", "--openapi", bad, "--baseline", bad], "--openapi FILE"),
        ("{}", &["x", "y", "--baseline", bad], "\"y\""),
        ("{}", &["--unknown", "--openapi", bad, "--baseline", bad], "\"--unknown\""),
    ] {
        fs::write(bad, text).unwrap();
        let refused = Xtask::new(&[&["image", "api"], args].concat()).refused();
        assert!(refused.contains(said), "{args:?}: {refused}");
    }
}

#[test]
fn the_api_of_an_image_is_read_from_its_server() {
    let Some(engine) = Engine::get("the API of an image") else { return };
    let [(_, image), ..] = images(&engine);
    let folder = Folder::new("api-image");
    let old = folder.0.join("old.json");
    fs::write(&old, document("0.1.0").to_string()).unwrap();
    let args = ["image", "api", image, "--baseline", old.to_str().unwrap()];
    let ended = Xtask::new(&args).in_engine().end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("POST /items: the operation is gone"), "{}", ended.stdout);
    assert!(ended.stdout.contains("GET /health: the operation is new"), "{}", ended.stdout);
}
