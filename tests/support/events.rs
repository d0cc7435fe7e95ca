//! What buildx writes of a bake with `--progress rawjson`, a line an event.

use serde_json::{Value, json};

use super::base64;

/// A script of the image as `BuildKit` names the step that runs it.
pub fn run(place: &str, script: &str) -> String {
    let mounts = "RUN --mount=type=bind,from=steps,source=lib.sh,target=/run/lib.sh";
    format!("[{place}] {mounts} [\"/bin/sh\", \"/run/{script}\"]")
}

fn time(second: f64) -> String {
    format!("2026-11-24T10:51:{second:06.3}Z")
}

/// A vertex that begins.
pub fn begun(name: &str) -> String {
    let vertex = json!({ "digest": name, "name": name, "started": time(0.0) });
    format!("{}\n", json!({ "vertexes": [vertex] }))
}

/// A vertex that is known, but has not begun.
pub fn known(name: &str) -> String {
    format!("{}\n", json!({ "vertexes": [{ "digest": name, "name": name }] }))
}

/// A vertex that begins and ends at these seconds of a minute, with `more` said of its end.
pub fn ended(name: &str, (from, to): (f64, f64), more: &Value) -> String {
    let mut vertex = json!({ "digest": name, "name": name, "started": time(from) });
    let begun = json!({ "vertexes": [vertex] });
    vertex["completed"] = time(to).into();
    vertex.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    format!("{begun}\n{}\n", json!({ "vertexes": [vertex] }))
}

pub fn done(name: &str, times: (f64, f64)) -> String {
    ended(name, times, &json!({}))
}

pub fn cached(name: &str) -> String {
    ended(name, (1.0, 1.0), &json!({ "cached": true }))
}

/// A vertex of nine seconds that fails, and the line in which buildx says so.
pub fn failed(name: &str, error: &str) -> String {
    let line = format!("ERROR: target x: failed to solve: {error}\nexit 1\n");
    ended(name, (0.0, 9.0), &json!({ "error": error })) + &line
}

/// A bake that fails before any vertex does.
pub fn refused(error: &str) -> String {
    format!("ERROR: {error}\nexit 1\n")
}

/// A step that prints `text` and ends with that status.
pub fn failed_step(name: &str, text: &str, status: u8) -> String {
    let error =
        format!("process \"/bin/sh /run/x.sh\" did not complete successfully: exit code: {status}");
    begun(name) + &output(name, text) + &failed(name, &error)
}

/// What a vertex prints.
pub fn output(name: &str, text: &str) -> String {
    let log = json!({ "vertex": name, "stream": 1, "data": base64(text.as_bytes()) });
    format!("{}\n", json!({ "logs": [log] }))
}

/// How far a vertex has come with one of its parts.
pub fn progress(name: &str, id: &str, current: u64, total: u64) -> String {
    let status = json!({ "vertex": name, "id": id, "current": current, "total": total });
    format!("{}\n", json!({ "statuses": [status] }))
}

pub fn warning(text: &str) -> String {
    let warning = json!({ "vertex": "x", "level": 1, "short": base64(text.as_bytes()) });
    format!("{}\n", json!({ "warnings": [warning] }))
}

/// The same events over several lines each.
pub fn indented(events: &str) -> String {
    let events = serde_json::Deserializer::from_str(events).into_iter::<Value>();
    events.map(|event| format!("{:#}\n", event.unwrap())).collect()
}

/// A read of a cache, which fails if there is an error.
pub fn import(reference: &str, error: &str) -> String {
    let name = format!("importing cache manifest from {reference}");
    ended(&name, (0.5, 0.75), &json!({ "error": error }))
}
