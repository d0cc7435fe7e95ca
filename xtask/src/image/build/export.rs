//! Cache exports: a bake of their own after that of the images, so that no image waits for a
//! cache or is lost with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};
use xshell::Shell;

use crate::error::Interrupted;
use crate::image::build::builder::{self, Builder};
use crate::image::build::cache_dir::Staging;
use crate::image::build::images::{self, Baked, End};
use crate::image::build::observer::Observer;
use crate::image::build::registry::{self, Content};
use crate::image::plan::Target;
use crate::image::plan::bake_file::literal;
use crate::image::plan::cache::Place;
use crate::image::request::Request;

/// What became of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed,
    TimedOut,
    /// Everything in it came from there.
    Skipped,
    /// Nobody told.
    Unknown,
}

impl Outcome {
    /// The names in a report; an unknown outcome has none.
    const NAMES: [(&str, Outcome); 4] = [
        ("done", Outcome::Done),
        ("failed", Outcome::Failed),
        ("timed out", Outcome::TimedOut),
        ("skipped", Outcome::Skipped),
    ];

    pub fn name(self) -> Option<&'static str> {
        Self::NAMES.iter().find(|(_, outcome)| *outcome == self).map(|(name, _)| *name)
    }
}

/// A cache that was to be written.
pub struct Written {
    /// The target whose cache it is.
    pub target: String,
    /// A reference or a folder.
    pub place: String,
    pub outcome: Outcome,
    pub error: Option<String>,
    pub seconds: Option<f64>,
    /// Bytes of layers that were sent, and of those that the registry had already.
    pub uploaded: Option<u64>,
    pub present: Option<u64>,
}

/// An export that is to be made.
struct Export<'a> {
    target: &'a Target,
    place: &'a Place,
    /// The name of its target in its bake: each has one of its own, because `BuildKit` tells of
    /// one export only.
    name: String,
    /// Whether all base images share it.
    is_shared: bool,
}

/// All exports of a run, and the bakes that made them.
#[derive(Default)]
pub struct Exports {
    pub written: Vec<Written>,
    pub bakes: Vec<Baked>,
    /// What the registry held before them, of what was read or pushed.
    pub known: BTreeMap<String, Content>,
}

impl Exports {
    /// Takes in those of another wave.
    pub fn add(&mut self, other: Exports) {
        self.written.extend(other.written);
        self.bakes.extend(other.bakes);
        self.known.extend(other.known);
    }

    /// # Errors
    /// A signal, or an engine that is gone.
    pub fn check_end(&self, request: &Request, observer: &dyn Observer) -> Result<()> {
        match self.bakes.last().map(|bake| bake.end) {
            Some(End::Stopped(signal)) => Err(Interrupted(signal).into()),
            Some(End::Failed(_)) if !builder::answers(request, observer) => {
                bail!("the engine stopped answering while the caches were exported.")
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// With `--strict-cache`, any export that did not end well.
    pub fn check(&self, request: &Request) -> Result<()> {
        let well = [Outcome::Done, Outcome::Skipped];
        let rest = self.written.iter().filter(|written| !well.contains(&written.outcome)).count();
        if request.strict_cache && rest > 0 {
            bail!("{rest} of {} caches were not written (--strict-cache).", self.written.len());
        }
        Ok(())
    }

    /// Those that are known not to have ended well.
    pub fn lost(&self) -> impl Iterator<Item = &Written> {
        let lost = [Outcome::Failed, Outcome::TimedOut];
        self.written.iter().filter(move |written| lost.contains(&written.outcome))
    }
}

/// May the caches be exported by a second bake? Not where buildx was told things that would make
/// it run the steps again, or write somewhere else.
pub fn are_apart(request: &Request) -> bool {
    const HARMLESS: [&str; 4] = ["--allow", "--debug", "--provenance", "--sbom"];
    request.bake_args.iter().all(|arg| {
        let arg = arg.to_string_lossy();
        HARMLESS.contains(&arg.split('=').next().unwrap_or_default())
    })
}

/// Exports the caches of `image`, the bake that made the images from `definition`, and waits no
/// longer for that than the request allows.
///
/// # Errors
/// A docker that can't be started, or a folder that can't be written. An export that fails is no
/// error: see [`Exports::lost`].
pub fn write(
    sh: &Shell,
    request: &Request,
    builder: &Builder,
    targets: &[&Target],
    definition: &Value,
    image: &Baked,
) -> Result<Exports> {
    if !are_apart(request) {
        let exports = targets.iter().flat_map(|target| {
            target.cache_written.iter().map(|place| {
                let (outcome, error) = told(image, &target.name);
                Written { outcome, error, ..Written::new(target, place) }
            })
        });
        return Ok(Exports { written: exports.collect(), ..Exports::default() });
    }
    let exports = exports(targets);
    let asked = before(&exports, image);
    let known = registry::contents(&asked);
    let is_needless = |export: &Export| is_needless(export, image, &known);
    let (skipped, exports): (Vec<_>, Vec<_>) = exports.into_iter().partition(is_needless);
    let mut written = skipped
        .iter()
        .map(|skipped| Written {
            outcome: Outcome::Skipped,
            ..Written::new(skipped.target, skipped.place)
        })
        .collect::<Vec<_>>();
    // A cache that broke the image's bake would break this one.
    let mut definition = definition.clone();
    images::leave_out(&mut definition, &image.unread);
    let (bakes, mut made) = make(sh, request, builder, &exports, definition, image)?;
    // Of a registry that did not tell everything it had, nobody knows what was new to it.
    if known.len() == asked.len() {
        count_bytes(&mut made, &known);
    }
    written.append(&mut made);
    Ok(Exports { written, bakes, known })
}

/// Makes `exports` in as many bakes as it takes; gives these, and how each export went.
fn make(
    sh: &Shell,
    request: &Request,
    builder: &Builder,
    exports: &[Export],
    mut definition: Value,
    image: &Baked,
) -> Result<(Vec<Baked>, Vec<Written>)> {
    let deadline = Instant::now().checked_add(request.cache_timeout);
    let (mut bakes, mut made) = (Vec::new(), Vec::new());
    // The shared cache comes last: a registry may refuse one of two that push the same bytes at
    // once, as these two do.
    let (mut later, mut now): (Vec<_>, Vec<_>) = exports.iter().partition(|e| e.is_shared);
    let mut tried = BTreeSet::new();
    while !now.is_empty() || !later.is_empty() {
        if now.is_empty() {
            now = std::mem::take(&mut later);
        }
        let (ended, outcomes) = bake(sh, request, builder, &definition, &now, deadline)?;
        let is_over = ended.end != End::Done;
        for (export, written) in now.into_iter().zip(outcomes) {
            let is_broken = written.error.as_deref().is_some_and(images::is_of_broken);
            // Once more, where that may help: eight runs at once push to one registry, and a
            // layer that BuildKit built itself may still be looked for in a broken cache.
            if !is_over && (is_passing(&written) || is_broken) && tried.insert(&export.name) {
                if is_broken {
                    let hits = image.trace.hits().map(|name| (name.to_owned(), String::new()));
                    images::leave_out(&mut definition, &hits.collect());
                }
                later.push(export);
            } else {
                made.push(written);
            }
        }
        bakes.push(ended);
        now = Vec::new();
        if is_over {
            made.extend(later.drain(..).map(|export| Written {
                outcome: Outcome::Failed,
                ..Written::new(export.target, export.place)
            }));
        }
    }
    Ok((bakes, made))
}

/// Exports in one bake; gives how each of `exports` went.
fn bake(
    sh: &Shell,
    request: &Request,
    builder: &Builder,
    definition: &Value,
    exports: &[&Export],
    deadline: Option<Instant>,
) -> Result<(Baked, Vec<Written>)> {
    let mut stagings = Vec::new();
    let definition = apart(exports, definition, request, &mut stagings)?;
    let baked = images::bake(sh, request, builder, &definition, &[], deadline)?;
    let made = exports.iter().map(|export| outcome(export, &baked)).collect::<Vec<_>>();
    for staging in stagings {
        let is_done = |made: &Written| {
            staging.folder() == Path::new(&made.place) && made.outcome == Outcome::Done
        };
        if made.iter().any(is_done) {
            staging.keep()?;
        }
    }
    Ok((baked, made))
}

/// Has an export failed by something that passes? `BuildKit` itself tries the layers again.
fn is_passing(written: &Written) -> bool {
    let error = written.error.as_deref().unwrap_or_default();
    written.outcome == Outcome::Failed && error.contains("manifest") && registry::is_passing(error)
}

/// What a run is to export, each under a name of its own.
fn exports<'a>(targets: &[&'a Target]) -> Vec<Export<'a>> {
    let mut exports: Vec<Export> = Vec::new();
    for target in targets {
        for (number, place) in target.cache_written.iter().enumerate() {
            let mut name = target.name.clone();
            if number > 0 {
                name.push_str("-shared");
            }
            let is_taken =
                |name: &String| number > 0 && targets.iter().any(|target| target.name == *name);
            while is_taken(&name) {
                name.push('_');
            }
            exports.push(Export { target, place, name, is_shared: number > 0 });
        }
    }
    exports
}

/// The same targets, of which nothing is kept but their caches.
fn apart(
    exports: &[&Export],
    definition: &Value,
    request: &Request,
    stagings: &mut Vec<Staging>,
) -> Result<Value> {
    let mut targets = Map::new();
    for export in exports {
        let entry = match export.place {
            // It takes a third of the time of gzip, in which the image's own layers are already:
            // only builders read the rest.
            Place::Registry(_) => {
                format!("{},compression=zstd", export.place.write_entry(request.cache_mode))
            }
            Place::Folder(folder) => {
                let staging = Staging::new(folder)?;
                let place = Place::Folder(staging.path());
                stagings.push(staging);
                place.write_entry(request.cache_mode)
            }
        };
        let mut target = definition["target"][&export.target.name].clone();
        target["cache-to"] = json!([literal(&entry)]);
        target["output"] = json!(["type=cacheonly"]);
        target["tags"] = json!([]);
        targets.insert(export.name.clone(), target);
    }
    let names = targets.keys().cloned().collect::<Vec<_>>();
    Ok(json!({ "group": { "default": { "targets": names } }, "target": targets }))
}

/// Every cache that was read and every image that was pushed: a registry has their layers before
/// anything is exported. Without exports, only caches that gave nothing are looked at.
fn before(exports: &[Export], image: &Baked) -> BTreeSet<String> {
    if exports.is_empty() && image.trace.has_cached_steps() {
        return BTreeSet::new();
    }
    let read = image.trace.hits().filter(|name| !name.starts_with("local:")).map(str::to_owned);
    let pushed = exports.iter().filter_map(|export| {
        let digest = image.metadata[&export.target.name]["containerimage.digest"].as_str()?;
        Some(format!("{}@{digest}", registry::repository(export.target.tags.first()?)))
    });
    read.chain(pushed).collect()
}

/// Did everything come from the very cache that would be written? Only an engine that was empty
/// can't have had it from elsewhere, nor from a cache of which this one has all layers.
fn is_needless(export: &Export, image: &Baked, known: &BTreeMap<String, Content>) -> bool {
    let Place::Registry(reference) = export.place else { return false };
    let all_cached = image
        .trace
        .steps(&export.target.name)
        .is_some_and(|steps| steps.iter().all(|step| step.cached == Some(true)));
    if !all_cached || image.builder_was_empty != Some(true) {
        return false;
    }
    let Some(own) = known.get(reference) else { return false };
    let read = export.target.cache_read.iter().map(Place::name);
    let mut others = read.filter_map(|other| known.get(other));
    others.all(|other| other.layers.keys().all(|digest| own.layers.contains_key(digest)))
}

/// What buildx tells of the one export of the target `name` in `baked`.
fn told(baked: &Baked, name: &str) -> (Outcome, Option<String>) {
    let exports = baked.trace.exports(name);
    let error = exports.iter().find_map(|export| export.error.clone());
    let has_manifest = baked.metadata[name]["cache.manifest"].is_string();
    let is_complete = !exports.is_empty()
        && exports.iter().all(|export| export.completed.is_some() && export.error.is_none());
    let is_canceled = error.as_ref().is_none_or(|error| error.contains("context canceled"));
    let outcome = match baked.end {
        _ if is_complete => Outcome::Done,
        End::TimedOut if is_canceled => Outcome::TimedOut,
        _ if error.is_some() => Outcome::Failed,
        End::Done if has_manifest => Outcome::Done,
        // buildx tells of one that failed by not telling of it.
        End::Done if baked.metadata.is_null() => Outcome::Unknown,
        _ => Outcome::Failed,
    };
    (outcome, error)
}

fn outcome(export: &Export, baked: &Baked) -> Written {
    let (outcome, error) = told(baked, &export.name);
    let exports = baked.trace.exports(&export.name);
    let seconds = match exports.first() {
        Some(told) => told.completed.map(|completed| completed - told.started),
        None => None,
    };
    let stopped = (outcome == Outcome::TimedOut).then_some(baked.seconds);
    let seconds = seconds.or(stopped);
    Written { outcome, error, seconds, ..Written::new(export.target, export.place) }
}

/// Tells for each cache that was written what was new of it to the registry.
fn count_bytes(written: &mut [Written], known: &BTreeMap<String, Content>) {
    let done = written.iter().filter(|written| written.outcome == Outcome::Done);
    let caches = registry::contents(&done.map(|written| written.place.clone()).collect());
    for written in written {
        let Some(Content { layers, .. }) = caches.get(&written.place) else { continue };
        let is_known = |digest: &String| known.values().any(|had| had.layers.contains_key(digest));
        let (present, uploaded): (Vec<_>, Vec<_>) =
            layers.iter().partition(|(digest, _)| is_known(digest));
        let sum = |layers: Vec<(&String, &u64)>| layers.into_iter().map(|(_, size)| size).sum();
        (written.present, written.uploaded) = (Some(sum(present)), Some(sum(uploaded)));
    }
}

impl Written {
    fn new(target: &Target, place: &Place) -> Self {
        Written {
            target: target.name.clone(),
            place: place.name().to_owned(),
            outcome: Outcome::Unknown,
            error: None,
            seconds: None,
            uploaded: None,
            present: None,
        }
    }
}
