//! Spans of time, and what they cover.

/// A time from one moment to another, each in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub from: f64,
    pub to: f64,
}

/// Seconds that `spans` cover together.
pub fn covered(mut spans: Vec<Span>) -> f64 {
    spans.sort_by(|a, b| a.from.total_cmp(&b.from));
    let (mut sum, mut until) = (0.0, f64::MIN);
    for span in spans {
        sum += (span.to - span.from.max(until)).max(0.0);
        until = until.max(span.to);
    }
    sum
}
