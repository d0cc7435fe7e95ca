//! Two engines of this machine as the nodes of one batch, by a shard each.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Stdio};

use crate::engine::{Checkout, send, wait_for};
use crate::support::{Ended, Folder, Xtask};
use crate::waves::bases;
use serde_json::Value;

/// A batch of eight base images. Each of its machines has a checkout; one registry is for all.
struct Batch {
    node: Checkout,
    machines: [Folder; 2],
    bases: Vec<String>,
}

impl Batch {
    fn new(node: Checkout) -> Self {
        let machines = ["nodes-a", "nodes-b"].map(Folder::checkout);
        let bases = bases(&node.1, &machines[0], 8);
        let [a, b] = machines.each_ref().map(|it| it.0.join("agent-server-image"));
        fs::copy(a.join("Dockerfile"), b.join("Dockerfile")).unwrap();
        // Each engine makes its own `debian:trixie-slim`, which differs where one emulates.
        let bake = fs::read_to_string(a.join("docker-bake.json")).unwrap();
        let bake = bake.replace("debian:trixie-slim", &bases[0]);
        for folder in [a, b] {
            fs::write(folder.join("docker-bake.json"), &bake).unwrap();
        }
        fs::write(node.path("list"), bases.join("\n")).unwrap();
        Batch { node, machines, bases }
    }

    fn call(&self, machine: usize, shard: &str, args: &[&str]) -> Xtask {
        let image = self.node.1.image("nodes");
        let [list, manifest] = ["list", "manifest"].map(|name| self.node.path(name));
        let manifest = format!("{}{machine}", manifest.display());
        let files = ["--base-images", list.to_str().unwrap(), "--manifest", &manifest];
        let always = ["image", "--variant=debian", "--push", "--jobs=1", "--image", &image];
        let args = [&always[..], &files, &["--shard", shard], args].concat();
        let call = Xtask::within(&self.machines[machine].0, &args).in_engine().on("x");
        call.env("OPENHANDS_BUILDKIT_CACHE_MODE", "min")
            .env("OPENHANDS_SHARED_REGISTRY_CACHE_EXPORT", "1")
    }

    /// The base images whose records in the manifest of `machine` have this status.
    fn recorded(&self, machine: usize, status: &str) -> Vec<String> {
        let file = self.node.path(&format!("manifest{machine}"));
        let lines = fs::read_to_string(file).unwrap_or_default();
        let records = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let records = records.filter(|record| record["status"] == status);
        records.map(|record| record["base_image"].as_str().unwrap().to_owned()).collect()
    }

    /// The tags in the registry, each with what it names.
    fn pushed(&self) -> BTreeSet<(String, String)> {
        self.node.1.pushed("nodes").into_iter().collect()
    }
}

fn start(mut call: Xtask) -> Child {
    call.0.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_node_that_is_lost_costs_no_image_and_none_is_built_twice() {
    let Some(node) = Checkout::get("nodes") else { return };
    let batch = Batch::new(node);
    let file = batch.node.path("host");
    let script = format!("printenv DOCKER_HOST > {}", file.display());
    let mut engine = batch.node.start(&["--fresh"], &script);
    let host = fs::read_to_string(file).unwrap();

    let on_a = start(batch.call(0, "1/2", &[]));
    let on_b = start(batch.call(1, "2/2", &[]).env("DOCKER_HOST", host.trim()));
    // With the second image, the caches of the first are written.
    wait_for("two images of b", || (batch.recorded(1, "built").len() == 2).then_some(()));
    send("-TERM", &engine);
    engine.wait().unwrap();
    let [on_a, on_b] = [on_a, on_b].map(|run| Ended::from(run.wait_with_output().unwrap()));
    assert_eq!((on_a.status, on_b.status), (0, 1), "{}\n{}", on_a.stderr, on_b.stderr);
    let before = batch.pushed();
    let is_image = |tag: &str| !tag.starts_with("buildcache-");
    let images = before.iter().filter(|(tag, _)| is_image(tag)).count();
    assert!((6..8).contains(&images), "{before:?}\n{}", on_b.stderr);

    let again = batch.call(0, "2/2", &["--skip-existing"]).end();
    assert_eq!(again.status, 0, "{}", again.stderr);
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
    let lost = again.stderr.lines().filter(|line| line.contains("its cache was not written to"));
    assert_eq!(caches + lost.count(), 8, "{after:?}\n{}", again.stderr);
    let log = fs::read_to_string(std::env::var_os("XTASK_REGISTRY_LOG").unwrap()).unwrap();
    let shared = format!("{}/manifests/buildcache-shared-", batch.node.1.image("nodes"));
    let (_, shared) = shared.split_once('/').unwrap();
    let written = log.lines().filter(|line| line.contains(&format!("\"PUT /v2/{shared}")));
    assert_eq!(written.count(), 1);
}
