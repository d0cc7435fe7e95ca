//! The steps of images on their base images, run while the first image of a batch is built: they
//! need nothing of it, and one at a time they take what it leaves of the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::buildx::{Buildx, Watcher};
use super::events::Event;
use super::images::{Unread, exports_apart};
use super::trace::Trace;
use crate::image::plan::bake_file::BakeFile;
use crate::image::plan::{Plan, Target};
use crate::image::request::{Request, Style};

/// Bakes in the background. They are stopped when this is dropped.
pub struct Ahead {
    /// Whether no further bake is to start.
    is_enough: Arc<AtomicBool>,
    /// Whether the bake that runs is to stop.
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Trace>>>,
}

impl Ahead {
    /// Starts with the first of `targets`. Returns `None` where they have no such steps, where these
    /// can't run apart, or where buildx shows its own progress. A step that fails is not reported:
    /// it fails again when its image is built.
    pub fn start(run: &Buildx, plan: &Plan, targets: &[&Target], unread: &Unread) -> Option<Self> {
        let request = run.request;
        if !exports_apart(request) || matches!(request.progress, Style::Buildx(_)) {
            return None;
        }
        let without = unread.keys().cloned().collect();
        let files = targets.iter().map(|target| plan.steps_on_base(target, &without));
        let files = files.collect::<Option<Vec<_>>>()?;
        let (is_enough, is_over) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let (sh, docker, request) = (run.sh.clone(), run.docker.clone(), request.clone());
        let flags = (is_enough.clone(), is_over.clone());
        let thread = thread::spawn(move || {
            let (is_enough, is_over) = flags;
            let watch = |_: &Request, _: &BakeFile| {
                Box::new(Silent { is_over: is_over.clone() }) as Box<dyn Watcher>
            };
            let run = Buildx { sh: &sh, docker: &docker, request: &request, watch: &watch };
            let mut traces = Vec::new();
            for file in files {
                if is_enough.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(baked) = run.bake(&file, Instant::now().checked_add(request.timeout)) else {
                    break;
                };
                traces.push(baked.trace);
            }
            traces
        });
        Some(Ahead { is_enough, is_over, thread: Some(thread) })
    }

    /// Starts no further bake. The one that runs goes on: the bake of its image waits for its steps
    /// and does not repeat them.
    pub fn start_no_more(&self) {
        self.is_enough.store(true, Ordering::SeqCst);
    }

    /// Does it start no further bake?
    pub fn starts_no_more(&self) -> bool {
        self.is_enough.load(Ordering::SeqCst)
    }

    /// Waits for the bake that runs, which the images of these steps have shared by then, and
    /// returns what happened in all of them.
    pub fn end(mut self) -> Vec<Trace> {
        self.start_no_more();
        self.join()
    }

    fn join(&mut self) -> Vec<Trace> {
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.start_no_more();
        self.is_over.store(true, Ordering::SeqCst);
        self.join();
    }
}

/// Shows nothing: the images of these steps are shown when they are built.
struct Silent {
    is_over: Arc<AtomicBool>,
}

impl Watcher for Silent {
    fn show(&mut self, _: &Event) {}

    fn tick(&mut self) {}

    fn end(&mut self) {}

    fn is_wanted(&self) -> bool {
        !self.is_over.load(Ordering::SeqCst)
    }
}
