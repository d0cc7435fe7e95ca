//! The events of a build: the JSON objects of `--progress rawjson`, which buildx 0.13 and later
//! write to standard error, mixed with plain lines.

use crate::trace::{Event, Run, VertexEvent};
use serde_json::{Deserializer, Map, Value};

/// The events that are complete with `bytes`, in their order; all where the stream `has_ended`. The `rest` is
/// kept for the next call: a line may hold several objects, and in buildx 0.13 an object has several lines.
pub fn read(rest: &mut Vec<u8>, bytes: &[u8], has_ended: bool) -> Vec<Event> {
    rest.extend_from_slice(bytes);
    let mut events = Vec::new();
    let mut left = rest.as_slice();
    while !left.is_empty() {
        // Blanks between two objects mean nothing, those of a plain line are its own.
        let start = left.trim_ascii_start();
        let mut objects = Deserializer::from_slice(start).into_iter::<Map<String, Value>>();
        match if start.starts_with(b"{") { objects.next() } else { None } {
            Some(Ok(object)) => {
                left = &start[objects.byte_offset()..];
                add_events(object, &mut events);
            }
            Some(Err(error)) if error.is_eof() && !has_ended => break,
            _ => {
                let end = left.iter().position(|&byte| byte == b'\n');
                if end.is_none() && !has_ended {
                    break;
                }
                let (line, others) = left.split_at(end.map_or(left.len(), |end| end + 1));
                let line = String::from_utf8_lossy(line);
                if !line.trim().is_empty() {
                    events.push(Event::Text(line.trim_end().to_owned()));
                }
                left = others;
            }
        }
    }
    *rest = left.to_vec();
    events
}

/// Adds the events in `object`; an object of another kind is a line for people.
fn add_events(object: Map<String, Value>, events: &mut Vec<Event>) {
    let list = |key: &str| object.get(key).and_then(Value::as_array).into_iter().flatten();
    let (ended, others): (Vec<_>, Vec<_>) =
        list("vertexes").partition(|vertex| vertex["completed"].is_string());
    events.extend(others.into_iter().map(vertex));
    for value in list("statuses") {
        events.push(Event::Status {
            vertex: text(&value["vertex"]),
            id: text(&value["id"]),
            current: value["current"].as_u64(),
            total: value["total"].as_u64(),
            started: time(&value["started"]),
            completed: time(&value["completed"]),
        });
    }
    for value in list("logs") {
        events.push(Event::Log { vertex: text(&value["vertex"]), text: decoded(&value["data"]) });
    }
    events.extend(list("warnings").map(|value| Event::Warning(decoded(&value["short"]))));
    // Work that ends does so after its parts.
    events.extend(ended.into_iter().map(vertex));
    let kinds = ["vertexes", "statuses", "logs", "warnings"];
    if !object.is_empty() && !kinds.iter().any(|kind| object.contains_key(*kind)) {
        events.push(Event::Text(Value::from(object).to_string()));
    }
}

fn vertex(value: &Value) -> Event {
    let group = &value["progressGroup"];
    let error = value["error"].as_str().filter(|error| !error.is_empty());
    Event::Vertex(VertexEvent {
        digest: text(&value["digest"]),
        name: text(&value["name"]),
        group: group["name"].as_str().map(str::to_owned),
        weak: group["weak"] == true,
        run: time(&value["started"]).map(|started| Run {
            started,
            completed: time(&value["completed"]),
            cached: value["cached"] == true,
            error: error.map(without_noise),
        }),
    })
}

/// An error without what hides its reason: the queries of addresses, and the page of HTML that a proxy
/// answers with.
fn without_noise(error: &str) -> String {
    let page =
        ["<html", "<HTML", "<!doctype", "<!DOCTYPE"].iter().filter_map(|sign| error.find(sign));
    let error = page.min().map_or(error, |at| error[..at].trim_end_matches([' ', ':']));
    let words = error.split(' ').map(|word| match word.split_once('?') {
        Some((address, _)) if address.contains("://") => {
            let end = word.trim_end_matches(['"', ':', ',']).len();
            format!("{address}{}", &word[end..])
        }
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A time as Go writes it, such as `2026-11-24T10:51:39.1002Z` or with `+01:00`, in seconds since 1970.
fn time(value: &Value) -> Option<f64> {
    const DAYS_TO_1970: f64 = 719_468.0;
    let (date, clock) = value.as_str()?.split_once('T')?;
    let (clock, zone) = clock.split_at(clock.find(['Z', '+', '-'])?);
    let seconds = |clock: &str| {
        let parts = clock.split(':').zip([3600.0, 60.0, 1.0]);
        parts.map(|(part, unit)| Some(part.parse::<f64>().ok()? * unit)).sum::<Option<f64>>()
    };
    let offset = match zone.split_at(1) {
        ("+", ahead) => seconds(ahead)?,
        ("-", behind) => -seconds(behind)?,
        _ => 0.0,
    };
    let mut date = date.split('-').map_while(|part| part.parse::<f64>().ok());
    let (year, month, day) = (date.next()?, date.next()?, date.next()?);
    // Years begin in March here, so that the day that some have more comes last.
    let year = if month > 2.0 { year } else { year - 1.0 };
    let month = (month + 9.0) % 12.0;
    let leaps = (year / 4.0).floor() - (year / 100.0).floor() + (year / 400.0).floor();
    let days = year * 365.0 + leaps + ((month * 153.0 + 2.0) / 5.0).floor() + day - 1.0;
    Some((days - DAYS_TO_1970) * 86400.0 + seconds(clock)? - offset)
}

/// The text that `value` encodes in base 64, up to the first character that is not a digit of it.
fn decoded(value: &Value) -> String {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = value.as_str().unwrap_or_default();
    let digits = text.chars().map_while(|c| u32::try_from(DIGITS.find(c)?).ok());
    let mut bytes = Vec::new();
    for group in digits.collect::<Vec<_>>().chunks(4) {
        let bits = group.iter().fold(0, |bits, digit| bits << 6 | digit);
        let bits = bits << (6 * (4 - group.len()));
        bytes.extend(&bits.to_be_bytes()[1..group.len()]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
