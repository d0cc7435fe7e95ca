//! The events of a build: the JSON objects of `--progress rawjson`, which buildx 0.13 and later
//! write to standard error, mixed with plain lines.

use serde_json::{Deserializer, Value};

/// What an object of buildx can hold.
const KINDS: [&str; 4] = ["vertexes", "statuses", "logs", "warnings"];

/// Something that happened in a build.
#[derive(Debug)]
pub enum Event {
    Vertex(VertexEvent),
    Status(Status),
    Log(Log),
    /// Advice of `BuildKit`.
    Warning(String),
    /// A line that is no event, meant for people.
    Text(String),
}

/// A vertex of the build: a step, or other work that buildx reports like one.
#[derive(Debug)]
pub struct VertexEvent {
    /// Identifies the vertex in all other events.
    pub digest: String,
    pub name: String,
    /// The name of the step that this is a part of, where a step has several.
    pub group: Option<String>,
    /// The part of its step that does the work.
    pub weak: bool,
    /// Seconds since 1970, as all times here.
    pub started: Option<f64>,
    pub completed: Option<f64>,
    pub cached: bool,
    pub error: Option<String>,
}

/// A part of a vertex's work, such as a layer that is pushed.
#[derive(Debug)]
pub struct Status {
    /// The vertex's digest.
    pub vertex: String,
    pub id: String,
    /// How much of it is done, in bytes.
    pub current: Option<u64>,
    /// How much there is of it, in bytes; 0 where that is not known.
    pub total: Option<u64>,
    pub started: Option<f64>,
    pub completed: Option<f64>,
}

/// Output of a vertex.
#[derive(Debug)]
pub struct Log {
    /// The vertex's digest.
    pub vertex: String,
    pub text: String,
}

/// Cuts a stream of bytes into events.
#[derive(Default)]
pub struct Reader {
    rest: Vec<u8>,
}

impl Reader {
    /// The events that are complete with `bytes`, in their order.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.rest.extend_from_slice(bytes);
        self.take(false)
    }

    /// What is left when the stream has ended.
    pub fn end(&mut self) -> Vec<Event> {
        self.take(true)
    }

    fn take(&mut self, ended: bool) -> Vec<Event> {
        let mut events = Vec::new();
        let mut rest = self.rest.as_slice();
        while !rest.is_empty() {
            // Blanks between two objects mean nothing, those of a plain line are its own.
            let object = rest.trim_ascii_start();
            let mut values = Deserializer::from_slice(object).into_iter::<Value>();
            match if object.starts_with(b"{") { values.next() } else { None } {
                Some(Ok(value)) => {
                    take_object(&value, &mut events);
                    rest = &object[values.byte_offset()..];
                }
                Some(Err(error)) if error.is_eof() && !ended => break,
                _ => {
                    let end = rest.iter().position(|&byte| byte == b'\n');
                    if end.is_none() && !ended {
                        break;
                    }
                    let (line, others) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
                    let line = String::from_utf8_lossy(line);
                    if !line.trim().is_empty() {
                        events.push(Event::Text(line.trim_end().to_owned()));
                    }
                    rest = others;
                }
            }
        }
        self.rest = rest.to_vec();
        events
    }
}

/// The events in an object; an object of another kind is a line for people.
fn take_object(value: &Value, events: &mut Vec<Event>) {
    let list = |key: &str| value[key].as_array().into_iter().flatten();
    // Work that ends does so after its parts.
    let (ended, others): (Vec<_>, Vec<_>) =
        list("vertexes").map(vertex).partition(|vertex| vertex.completed.is_some());
    events.extend(others.into_iter().map(Event::Vertex));
    events.extend(list("statuses").map(|value| Event::Status(status(value))));
    let decoded =
        |value: &Value, key: &str| String::from_utf8_lossy(&base64(&text(value, key))).into_owned();
    events.extend(list("logs").map(|value| {
        Event::Log(Log { vertex: text(value, "vertex"), text: decoded(value, "data") })
    }));
    events.extend(list("warnings").map(|value| Event::Warning(decoded(value, "short"))));
    events.extend(ended.into_iter().map(Event::Vertex));
    let is_event = KINDS.iter().any(|kind| value.get(kind).is_some());
    if !is_event && value.as_object().is_some_and(|object| !object.is_empty()) {
        events.push(Event::Text(value.to_string()));
    }
}

fn vertex(value: &Value) -> VertexEvent {
    let group = &value["progressGroup"];
    VertexEvent {
        digest: text(value, "digest"),
        name: text(value, "name"),
        group: group["name"].as_str().map(str::to_owned),
        weak: group["weak"] == true,
        started: time(&value["started"]),
        completed: time(&value["completed"]),
        cached: value["cached"] == true,
        error: value["error"].as_str().filter(|error| !error.is_empty()).map(without_state),
    }
}

fn status(value: &Value) -> Status {
    Status {
        vertex: text(value, "vertex"),
        id: text(value, "id"),
        current: value["current"].as_u64(),
        total: value["total"].as_u64(),
        started: time(&value["started"]),
        completed: time(&value["completed"]),
    }
}

/// An error without what a registry adds to the address of an upload, which is noise.
fn without_state(error: &str) -> String {
    let Some((before, state)) = error.split_once("?_state=") else { return error.to_owned() };
    let end = state.find(['"', ' ', ':']).unwrap_or(state.len());
    format!("{before}{}", &state[end..])
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// A time as Go writes it, such as `2026-11-24T10:51:39.100266446Z` or with `+01:00`, in seconds
/// since 1970.
fn time(value: &Value) -> Option<f64> {
    const DAYS_TO_1970: f64 = 719_468.0;
    let text = value.as_str()?;
    let number = |text: &str| text.parse::<f64>().ok();
    let part = |from, to| number(text.get(from..to)?);
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let zone = 19 + text.get(19..)?.find(['Z', '+', '-'])?;
    let clock = part(11, 13)? * 3600.0 + part(14, 16)? * 60.0 + part(17, zone)?;
    let ahead = || Some(part(zone + 1, zone + 3)? * 3600.0 + part(zone + 4, zone + 6)? * 60.0);
    let offset = match text.as_bytes()[zone] {
        b'+' => ahead()?,
        b'-' => -ahead()?,
        _ => 0.0,
    };
    // Years begin in March here, so that the day that some have more comes last.
    let year = if month > 2.0 { year } else { year - 1.0 };
    let month = (month + 9.0) % 12.0;
    let leaps = (year / 4.0).floor() - (year / 100.0).floor() + (year / 400.0).floor();
    let days = year * 365.0 + leaps + ((month * 153.0 + 2.0) / 5.0).floor() + day - 1.0;
    Some((days - DAYS_TO_1970) * 86400.0 + clock - offset)
}

/// The bytes that `text` encodes in base 64, as JSON has them; up to the first that is no digit.
fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.chars().map_while(|c| u32::try_from(DIGITS.find(c)?).ok());
    let group = |digits: &[u32]| -> Vec<u8> {
        let bits = digits.iter().fold(0, |bits, digit| bits << 6 | digit);
        let bits = bits << (6 * (4 - digits.len()));
        bits.to_be_bytes()[1..digits.len()].to_vec()
    };
    digits.collect::<Vec<_>>().chunks(4).flat_map(group).collect()
}
