//! The events of a build: the JSON objects of `--progress rawjson`, which buildx 0.13 and later
//! write to standard error, mixed with plain lines.

use serde_json::{Deserializer, Value};

/// Something that happened in a build.
#[derive(Debug)]
pub enum Event {
    Vertex(VertexEvent),
    Status(Status),
    Log(Log),
    Warning(Warning),
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

/// Advice of `BuildKit`.
#[derive(Debug)]
pub struct Warning {
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
        let mut at = 0;
        loop {
            // Blanks between two objects mean nothing, those of a plain line are its own.
            let rest = &self.rest[at..];
            let blank = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let used = if rest.get(blank) == Some(&b'{') {
                match object(&rest[blank..]) {
                    Object::Whole(value, length) => {
                        take_object(&value, &mut events);
                        Some(blank + length)
                    }
                    Object::Part if !ended => None,
                    _ => line(rest, ended, &mut events),
                }
            } else {
                line(rest, ended, &mut events)
            };
            match used {
                Some(used) => at += used,
                None => break,
            }
        }
        self.rest.drain(..at);
        events
    }
}

enum Object {
    /// The object, and the length of its text.
    Whole(Value, usize),
    /// The beginning of one.
    Part,
    Other,
}

fn object(text: &[u8]) -> Object {
    let mut values = Deserializer::from_slice(text).into_iter::<Value>();
    match values.next() {
        Some(Ok(value)) => Object::Whole(value, values.byte_offset()),
        Some(Err(error)) if error.is_eof() => Object::Part,
        _ => Object::Other,
    }
}

/// Takes one line that is no event; returns its length, including its end.
fn line(text: &[u8], ended: bool, events: &mut Vec<Event>) -> Option<usize> {
    let end = text.iter().position(|&byte| byte == b'\n');
    let (length, used) = match end {
        Some(end) => (end, end + 1),
        None if ended && !text.is_empty() => (text.len(), text.len()),
        None => return None,
    };
    let line = String::from_utf8_lossy(&text[..length]);
    if !line.trim().is_empty() {
        events.push(Event::Text(line.trim_end().to_owned()));
    }
    Some(used)
}

/// The events in an object; an object of another kind is a line for people.
fn take_object(value: &Value, events: &mut Vec<Event>) {
    let list = |key: &str| value[key].as_array().into_iter().flatten();
    // Work that ends does so after its parts.
    let (ended, others): (Vec<_>, Vec<_>) =
        list("vertexes").map(vertex).partition(|vertex| vertex.completed.is_some());
    events.extend(others.into_iter().map(Event::Vertex));
    events.extend(list("statuses").map(|value| Event::Status(status(value))));
    events.extend(list("logs").map(|value| {
        let text = String::from_utf8_lossy(&base64(&text(value, "data"))).into_owned();
        Event::Log(Log { vertex: self::text(value, "vertex"), text })
    }));
    events.extend(list("warnings").map(|value| {
        let text = String::from_utf8_lossy(&base64(&text(value, "short"))).into_owned();
        Event::Warning(Warning { text })
    }));
    events.extend(ended.into_iter().map(Event::Vertex));
    let keys = ["vertexes", "statuses", "logs", "warnings"];
    if value.as_object().is_some_and(|object| {
        !object.is_empty() && !object.keys().any(|key| keys.contains(&key.as_str()))
    }) {
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
    let (date, clock) = value.as_str()?.split_once('T')?;
    let number = |text: &str| text.parse::<f64>().ok();
    let mut date = date.split('-').map(number);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let zone = clock.find(['Z', '+', '-'])?;
    let (clock, zone) = clock.split_at(zone);
    let seconds = |clock: &str| {
        clock.split(':').map(number).try_fold((0.0, 3600.0), |(sum, unit), part| {
            part.map(|part| (sum + part * unit, unit / 60.0))
        })
    };
    let offset = match zone.split_at(1) {
        ("+", ahead) => seconds(ahead)?.0,
        ("-", behind) => -seconds(behind)?.0,
        _ => 0.0,
    };
    // Years begin in March here, so that the day that some have more comes last.
    let year = if month > 2.0 { year } else { year - 1.0 };
    let month = (month + 9.0) % 12.0;
    let leaps = (year / 4.0).floor() - (year / 100.0).floor() + (year / 400.0).floor();
    let days = year * 365.0 + leaps + ((month * 153.0 + 2.0) / 5.0).floor() + day - 1.0;
    Some((days - DAYS_TO_1970) * 86400.0 + seconds(clock)?.0 - offset)
}

/// The bytes that `text` encodes in base 64, as JSON has them; up to the first that is no digit.
fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u8> = text.bytes().map_while(digit).collect();
    let group = |digits: &[u8]| -> Vec<u8> {
        let bits = digits.iter().fold(0_u32, |bits, &digit| bits << 6 | u32::from(digit));
        let bits = bits << (6 * (4 - digits.len()));
        bits.to_be_bytes()[1..digits.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}
