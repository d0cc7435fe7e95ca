//! Does the registry answer at all? `BuildKit` waits forever for a cache, and so does whatever it
//! builds after that.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::buildx::Docker;
use super::images::Unread;
use super::registry::{self, SHORT_PATIENCE};
use crate::image::plan::Plan;
use crate::image::plan::cache::Place;

/// Finds out, in the background, what `plan` must not read because the registry has not answered
/// within `limit`. One cache is asked for and stands for all: they are in one repository.
pub fn start(docker: &Docker, plan: &Plan, limit: Duration) -> JoinHandle<Unread> {
    let limit = limit.min(SHORT_PATIENCE);
    let (docker, names) = (docker.clone(), references(plan).cloned().collect::<Vec<_>>());
    thread::spawn(move || {
        let answer = names.first().map(|name| registry::inspect(&docker, name, limit));
        if !matches!(answer, Some(Ok(None))) {
            return Unread::new();
        }
        let why = format!("no answer within {} s", limit.as_secs());
        names.into_iter().map(|name| (name, why.clone())).collect()
    })
}

fn references(plan: &Plan) -> impl Iterator<Item = &String> {
    let places = plan.targets.iter().flat_map(|target| &target.cache_read);
    places.filter_map(|place| match place {
        Place::Registry(reference) => Some(reference),
        Place::Folder(_) => None,
    })
}
