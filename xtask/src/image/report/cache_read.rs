//! What became of the caches that were read: there, not there, or refused.

use std::collections::BTreeMap;

use crate::image::build::images::Baked;
use crate::image::build::registry::Content;
use crate::image::build::trace::{Trace, is_miss};
use crate::image::plan::cache::Place;

/// How reading a cache went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The cache is there and could be read.
    Hit,
    Miss,
    Refused,
    Failed,
}

impl Read {
    const NAMES: [(&str, Read); 4] = [
        ("hit", Read::Hit),
        ("miss", Read::Miss),
        ("refused", Read::Refused),
        ("failed", Read::Failed),
    ];

    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, read)| *read == self).map_or("", |(name, _)| name)
    }
}

/// What a registry says when it refuses or fails, with the status that this is.
const SIGNS: [(&str, Option<u64>, Read); 11] = [
    ("401 Unauthorized", Some(401), Read::Refused),
    ("403 Forbidden", Some(403), Read::Refused),
    ("429 Too Many Requests", Some(429), Read::Refused),
    ("toomanyrequests", Some(429), Read::Refused),
    ("authorization failed", None, Read::Refused),
    ("access denied", None, Read::Refused),
    ("500 Internal Server Error", Some(500), Read::Failed),
    ("502 Bad Gateway", Some(502), Read::Failed),
    ("503 Service Unavailable", Some(503), Read::Failed),
    ("504 Gateway Timeout", Some(504), Read::Failed),
    ("507 Insufficient Storage", Some(507), Read::Failed),
];

/// A cache that was read, or was to be.
pub struct CacheRead<'a> {
    pub place: &'a str,
    /// `None` where nobody told.
    pub read: Option<Read>,
    pub status: Option<u64>,
    pub error: Option<&'a str>,
    pub seconds: Option<f64>,
}

/// How `place` was read by `bake`; `known` is what a registry holds under some references.
pub fn read<'a>(
    place: &'a Place,
    bake: &'a Baked,
    known: &BTreeMap<String, Content>,
) -> CacheRead<'a> {
    let told = told(place, bake.reading());
    let is_no_cache = known.get(place.name()).is_some_and(|content| !content.is_cache);
    match bake.unread.get(place.name()) {
        Some(error) => CacheRead { read: Some(Read::Failed), error: Some(error), ..told },
        // BuildKit takes any image for a cache of nothing.
        None if told.read == Some(Read::Hit) && is_no_cache => CacheRead {
            read: Some(Read::Failed),
            error: Some("what is there is no build cache"),
            ..told
        },
        None => told,
    }
}

/// How `place` was read, as far as events tell.
fn told<'a>(place: &'a Place, trace: &'a Trace) -> CacheRead<'a> {
    let imports = trace.imports();
    let told = match place {
        Place::Registry(reference) => imports.get(reference.as_str()),
        // buildx names a folder by the digest of its index.
        Place::Folder(_) => {
            imports.iter().find(|(name, _)| name.starts_with("local:")).map(|(_, told)| told)
        }
    };
    let told = told.filter(|told| told.completed.is_some());
    let error = told.and_then(|told| told.error.as_deref());
    let sign = error.and_then(|error| SIGNS.iter().find(|(sign, ..)| error.contains(sign)));
    let read = told.map(|_| match (error, sign) {
        (None, _) => Read::Hit,
        (_, Some((.., read))) => *read,
        (Some(error), _) if is_miss(place.name(), error) => Read::Miss,
        _ => Read::Failed,
    });
    CacheRead {
        place: place.name(),
        read,
        status: sign.and_then(|(_, status, _)| *status),
        error: error.filter(|_| read != Some(Read::Miss)),
        seconds: told.and_then(|told| Some(told.completed? - told.started)),
    }
}
