//! How reading a cache went: hit, miss, refused or failed.

use std::collections::BTreeMap;

use crate::image::build::buildkit::{self, Cause};
use crate::image::build::images::ImagesBaked;
use crate::image::build::registry::Content;
use crate::image::build::trace::Outcome;
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
    let name = place.name();
    let import = bake.reading().imports().into_iter().find(|(name, _)| place.is_read_as(name));
    let outcome = import.map(|(_, outcome)| outcome).filter(|outcome| outcome.completed.is_some());
    let is_no_cache = known.get(name).is_some_and(|content| !content.is_cache);
    let reported = outcome.map(|outcome| match outcome.error.as_deref() {
        // BuildKit reads any image as a cache of nothing.
        None if is_no_cache => (Read::Failed, Some("this is no build cache")),
        None => (Read::Hit, None),
        Some(error) if buildkit::is_miss(name, error) => (Read::Miss, None),
        Some(error) => match Cause::of(error) {
            Cause::Denied | Cause::Busy | Cause::Limited => (Read::Refused, Some(error)),
            _ => (Read::Failed, Some(error)),
        },
    });
    let unread = bake.unread.get(name).map(|why| (Read::Failed, Some(why.as_str())));
    CacheRead {
        place: name,
        read: unread.or(reported).map(|(read, _)| read),
        status: reported.and_then(|(_, error)| buildkit::http_status(error?)),
        error: unread.or(reported).and_then(|(_, error)| error),
        seconds: outcome.and_then(Outcome::seconds),
    }
}
