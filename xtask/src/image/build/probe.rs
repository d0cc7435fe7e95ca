//! Does the registry answer at all? Asked before the first build.

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::image::plan::Plan;
use crate::image::plan::cache::Place;

/// A reference that stands for all that `plan` reads: they are in one repository.
pub fn first(plan: &Plan) -> Option<String> {
    references(plan).next().cloned()
}

/// The references that `plan` reads.
fn references(plan: &Plan) -> impl Iterator<Item = &String> {
    let places = plan.targets.iter().flat_map(|target| &target.cache_read);
    places.filter_map(|place| match place {
        Place::Registry(reference) => Some(reference),
        Place::Folder(_) => None,
    })
}

/// What `plan` must not read if the registry did not answer, each with the reason. `BuildKit` waits
/// without end, and so does whatever it builds after that.
pub fn unread(plan: &Plan, probe: JoinHandle<Result<(), Duration>>) -> BTreeMap<String, String> {
    let Ok(Err(limit)) = probe.join() else { return BTreeMap::new() };
    let why = format!("no answer within {} s", limit.as_secs());
    references(plan).map(|reference| (reference.clone(), why.clone())).collect()
}
