//! The JSON objects of `--progress rawjson`, which buildx writes to standard error, mixed with plain lines.

use crate::trace::Run;
use serde_json::{Deserializer, Value};

/// The objects, and as strings the plain lines, that are complete with `bytes`; the `rest` is kept for the next
/// call. A line may hold several objects, and in buildx 0.13 an object has several lines.
pub fn read(rest: &mut Vec<u8>, bytes: &[u8], has_ended: bool) -> Vec<Value> {
    rest.extend_from_slice(bytes);
    let mut values = Vec::new();
    let mut left = rest.as_slice();
    while !left.is_empty() {
        // Blanks between two objects mean nothing, those of a plain line are its own.
        let start = left.trim_ascii_start();
        let mut objects = Deserializer::from_slice(start).into_iter::<Value>();
        match if start.starts_with(b"{") { objects.next() } else { None } {
            Some(Ok(object)) => {
                left = &start[objects.byte_offset()..];
                values.push(object);
            }
            Some(Err(error)) if error.is_eof() && !has_ended => break,
            _ => {
                let end = left.iter().position(|&byte| byte == b'\n').map(|end| end + 1);
                let Some(end) = end.or(has_ended.then_some(left.len())) else { break };
                let (line, others) = left.split_at(end);
                let line = String::from_utf8_lossy(line).trim_end().to_owned();
                if !line.is_empty() {
                    values.push(line.into());
                }
                left = others;
            }
        }
    }
    *rest = left.to_vec();
    values
}

/// How a vertex went once, or a part of its work, as far as `value` says so; `None` until it starts.
pub fn run(value: &Value) -> Option<Run> {
    let error = value["error"].as_str().filter(|error| !error.is_empty());
    Some(Run {
        started: time(&value["started"])?,
        completed: time(&value["completed"]),
        cached: value["cached"] == true,
        error: error.map(without_noise),
    })
}

/// An error without the queries of addresses, and without the page that a proxy answers with.
fn without_noise(error: &str) -> String {
    let lower = error.to_ascii_lowercase();
    let page = ["<html", "<!doctype"].iter().filter_map(|sign| lower.find(sign)).min();
    let error = page.map_or(error, |at| error[..at].trim_end_matches([' ', ':']));
    let words = error.split(' ').map(|word| match word.split_once('?') {
        Some((address, _)) if address.contains("://") => {
            let end = word.trim_end_matches(['"', ':', ',']).len();
            format!("{address}{}", &word[end..])
        }
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A time as Go writes it, such as `2026-11-24T10:51:39.1002Z` or with `+01:00`, in seconds since 1970.
fn time(value: &Value) -> Option<f64> {
    let (date, clock) = value.as_str()?.split_once('T')?;
    let (clock, zone) = clock.split_at(clock.find(['Z', '+', '-'])?);
    let seconds = |clock: &str| {
        let parts = clock.split(':').zip([3600.0, 60.0, 1.0]);
        parts.map(|(part, unit)| Some(part.parse::<f64>().ok()? * unit)).sum::<Option<f64>>()
    };
    let ahead = seconds(&zone[1..]).unwrap_or_default();
    let offset = if zone.starts_with('-') { -ahead } else { ahead };
    let mut date = date.split('-').map_while(|part| part.parse::<u16>().ok()).map(i32::from);
    let (year, month, day) = (date.next()?, date.next()?, date.next()?);
    // Years begin in March here, so that the day that some have more comes last.
    let (year, month) = if month > 2 { (year, month) } else { (year - 1, month + 12) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month - 457) / 5 + day;
    Some(f64::from(days - 719_469) * 86400.0 + seconds(clock)? - offset)
}

/// The text that `value` encodes in base 64, up to the first character that is not a digit of it.
pub fn decoded(value: &Value) -> String {
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
