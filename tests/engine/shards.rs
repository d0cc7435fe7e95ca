//! Two engines of this machine build one batch, by a shard each.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::engine::{bases, checkout};
use crate::support::engine::Engine;
use crate::support::{CACHE_MODE, Ended, Folder, SHARED_CACHE, Xtask, records};

/// A batch of eight base images on two machines, each with an engine and a checkout; one registry is
/// for all.
struct Batch {
    engines: [Engine; 2],
    machines: [Folder; 2],
    bases: Vec<String>,
}

impl Batch {
    fn new() -> Self {
        let one = Engine::fresh();
        let bases = bases(&one, 8);
        // What common steps need is the same on both, too.
        let dockerfile =
            "ARG BASE_IMAGE\nFROM ${BASE_IMAGE} AS binary\nRUN sleep 0.5; pwd >/built\n";
        let machines = ["shard-a", "shard-b"].map(|name| checkout(name, dockerfile));
        for machine in &machines {
            let file = machine.0.join("agent-server-image/docker-bake.json");
            let bake = fs::read_to_string(&file).unwrap();
            fs::write(file, bake.replace("debian:trixie-slim", &bases[0])).unwrap();
            fs::write(machine.0.join("list"), bases.join("\n")).unwrap();
        }
        let other = one.another();
        Batch { engines: [one, other], machines, bases }
    }

    fn call(&self, machine: usize, shard: &str, args: &[&str]) -> Xtask {
        let image = self.engines[machine].image("shards");
        let always = ["image", "--variant=debian", "--push", "--jobs=1", "--image", &image];
        let files = ["--base-images=list", "--records=records", "--shard", shard];
        let folder = &self.machines[machine].0;
        let mut call = Xtask::within(folder, &[&always[..], &files, args].concat());
        call.0.current_dir(folder);
        let call = call.in_engine(&self.engines[machine]).on("x");
        call.env(CACHE_MODE, "min").env(SHARED_CACHE, "1")
    }

    /// The base images whose records of `machine` have this status.
    fn recorded(&self, machine: usize, status: &str) -> Vec<String> {
        let records = records(&self.machines[machine].0.join("records")).into_iter();
        let records = records.filter(|record| record["status"] == status);
        records.map(|record| record["base_image"].as_str().unwrap().to_owned()).collect()
    }

    /// The tags in the registry, each with what it names.
    fn pushed(&self) -> BTreeSet<(String, String)> {
        self.engines[0].pushed("shards").into_iter().collect()
    }
}

fn start(mut call: Xtask) -> Child {
    call.0.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_machine_that_is_lost_costs_no_image_and_none_is_built_twice() {
    let batch = Batch::new();
    let on_a = start(batch.call(0, "1/2", &[]));
    let on_b = start(batch.call(1, "2/2", &[]));
    let started = Instant::now();
    while batch.recorded(1, "built").len() < 2 {
        assert!(started.elapsed() < Duration::from_secs(300), "no two images of b");
        std::thread::sleep(Duration::from_millis(20));
    }
    batch.engines[1].kill();
    let [on_a, on_b] = [on_a, on_b].map(|run| Ended::from(run.wait_with_output().unwrap()));
    assert_eq!((on_a.status, on_b.status), (0, 1), "{}\n{}", on_a.stderr, on_b.stderr);
    let before = batch.pushed();
    let is_image = |tag: &str| !tag.starts_with("buildcache-");
    let images = before.iter().filter(|(tag, _)| is_image(tag)).count();
    assert!((6..8).contains(&images), "{before:?}\n{}", on_b.stderr);

    let again = batch.call(0, "2/2", &["--skip-existing"]).succeed();
    let after = batch.pushed();
    assert!(after.is_superset(&before), "{before:?}\n{after:?}");
    assert_eq!(after.iter().filter(|(tag, _)| is_image(tag)).count(), 8, "{after:?}");
    let mut built = [0, 1].map(|machine| batch.recorded(machine, "built")).concat();
    built.sort();
    let is_twice = built.windows(2).any(|pair| pair[0] == pair[1]);
    assert!(!is_twice, "{built:?}");
    let all = built.into_iter().chain(batch.recorded(0, "present")).collect::<BTreeSet<_>>();
    assert_eq!(all, batch.bases.iter().cloned().collect());

    // A cache that went with the engine is named.
    let is_cache = |tag: &str| !is_image(tag) && !tag.starts_with("buildcache-shared-");
    let caches = after.iter().filter(|(tag, _)| is_cache(tag)).count();
    let lost = again.stderr.lines().filter(|line| line.contains("was not written, though"));
    assert_eq!(caches + lost.count(), 8, "{after:?}\n{}", again.stderr);
    let log = fs::read_to_string(std::env::var_os("XTASK_REGISTRY_LOG").unwrap()).unwrap();
    let shared = format!("{}/manifests/buildcache-shared-", batch.engines[0].image("shards"));
    let (_, shared) = shared.split_once('/').unwrap();
    let written = log.lines().filter(|line| line.contains(&format!("\"PUT /v2/{shared}")));
    assert_eq!(written.count(), 1);
}
