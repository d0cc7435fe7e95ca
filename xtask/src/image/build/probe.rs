//! Does the registry answer at all? Asked in the background before the first build, because
//! `BuildKit` waits forever for a cache, and so does whatever it builds after that.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::buildx::Docker;
use super::images::Unread;
use super::registry::{self, SHORT_PATIENCE};
use crate::image::plan::Plan;
use crate::image::plan::cache::Place;

/// A request that is under way.
pub struct Probe {
    /// How long the registry may take.
    limit: Duration,
    answered: JoinHandle<bool>,
}

impl Probe {
    /// Asks for one cache of `plan`, which stands for all: they are in one repository. The answer
    /// may take as long as `limit`.
    pub fn start(docker: &Docker, plan: &Plan, limit: Duration) -> Self {
        let limit = limit.min(SHORT_PATIENCE);
        let (docker, reference) = (docker.clone(), references(plan).next().cloned());
        let answered = thread::spawn(move || {
            let answer = reference.map(|name| registry::inspect(&docker, &name, limit));
            !matches!(answer, Some(Ok(None)))
        });
        Probe { limit, answered }
    }

    /// What `plan` must not read because the registry did not answer.
    pub fn unread(self, plan: &Plan) -> Unread {
        if self.answered.join().unwrap_or(true) {
            return Unread::new();
        }
        let why = format!("no answer within {} s", self.limit.as_secs());
        references(plan).map(|reference| (reference.clone(), why.clone())).collect()
    }
}

fn references(plan: &Plan) -> impl Iterator<Item = &String> {
    let places = plan.targets.iter().flat_map(|target| &target.cache_read);
    places.filter_map(|place| match place {
        Place::Registry(reference) => Some(reference),
        Place::Folder(_) => None,
    })
}
