//! How reading a cache went: hit, miss, refused or failed.

use std::collections::BTreeMap;

use crate::image::build::buildkit::{self, Cause};
use crate::image::build::images::ImagesBaked;
use crate::image::build::registry::Content;
use crate::image::build::trace::{Outcome, Trace};
use crate::image::plan::cache::Place;

/// How reading a cache went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The cache exists and could be read.
    Hit,
    Miss,
    Refused,
    Failed,
}

impl Read {
    pub fn name(self) -> &'static str {
        match self {
            Read::Hit => "hit",
            Read::Miss => "miss",
            Read::Refused => "refused",
            Read::Failed => "failed",
        }
    }

    fn of(place: &str, error: &str) -> Self {
        match Cause::of(error) {
            _ if buildkit::is_miss(place, error) => Read::Miss,
            Cause::Denied | Cause::Busy | Cause::Limited => Read::Refused,
            _ => Read::Failed,
        }
    }
}

/// A cache that was read, or was to be.
pub struct CacheRead<'a> {
    pub place: &'a str,
    /// `None` where that is not known.
    pub read: Option<Read>,
    pub status: Option<u64>,
    pub error: Option<&'a str>,
    pub seconds: Option<f64>,
}

/// How `place` was read by `bake`; `known` is what a registry holds under some references.
pub fn read<'a>(
    place: &'a Place,
    bake: &'a ImagesBaked,
    known: &BTreeMap<String, Content>,
) -> CacheRead<'a> {
    let reported = reported(place, bake.reading());
    let is_no_cache = known.get(place.name()).is_some_and(|content| !content.is_cache);
    let error = match bake.unread.get(place.name()) {
        Some(error) => error,
        // BuildKit reads any image as a cache of nothing.
        None if reported.read == Some(Read::Hit) && is_no_cache => "this is no build cache",
        None => return reported,
    };
    CacheRead { read: Some(Read::Failed), error: Some(error), ..reported }
}

/// How `place` was read, as far as events report it.
fn reported<'a>(place: &'a Place, trace: &'a Trace) -> CacheRead<'a> {
    let imports = trace.imports();
    let import = imports.iter().find(|(name, _)| place.is_read_as(name));
    let outcome = import.map(|(_, outcome)| *outcome);
    let outcome = outcome.filter(|outcome| outcome.completed.is_some());
    let error = outcome.and_then(|outcome| outcome.error.as_deref());
    let read = outcome.map(|_| error.map_or(Read::Hit, |error| Read::of(place.name(), error)));
    CacheRead {
        place: place.name(),
        read,
        status: error.and_then(buildkit::http_status).filter(|_| read != Some(Read::Miss)),
        error: error.filter(|_| read != Some(Read::Miss)),
        seconds: outcome.and_then(Outcome::seconds),
    }
}
