//! A batch in which everything goes wrong: bases that cannot be built on, two runs that are killed,
//! and a registry that is away for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::engine::{bases, checkout};
use crate::support::engine::{Engine, send};
use crate::support::proxy::{Answer, Proxy};
use crate::support::{CACHE_MODE, Folder, Xtask, bad, records};
use serde_json::Value;

const GOOD: usize = 12;
/// How long the registry is away.
const AWAY: Duration = Duration::from_secs(3);

/// As many base images in the registry, which differ by name.
fn good_bases(engine: &Engine) -> Vec<String> {
    let first = bases(engine, 1).remove(0);
    let manifest = engine.raw_manifest("base/b0", "latest");
    let kind = serde_json::from_str::<Value>(&manifest).unwrap()["mediaType"].clone();
    let (registry, path) = first.split_once('/').unwrap();
    let tag = |number: usize| {
        let path = format!("/v2/{path}/manifests/{number}");
        let headers = [("Content-Type", kind.as_str().unwrap())];
        let (status, answer) =
            send(registry.parse().unwrap(), "PUT", &path, &headers, &manifest).unwrap();
        assert_eq!(status, 201, "{answer}");
        format!("{first}:{number}")
    };
    (0..GOOD).map(tag).collect()
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_batch_that_was_killed_twice_ends_as_an_unbroken_one() {
    let engine = Engine::get();
    let checkout = checkout(
        "broken-batch",
        "ARG BASE_IMAGE\nFROM ${BASE_IMAGE} AS binary\nCOPY docker-bake.json /built\n",
    );
    let good = good_bases(&engine);
    let (_registry, broken) = bad::bases(&engine.registry, &good[0]);
    let mut list = good.clone();
    for (number, base) in broken.iter().enumerate() {
        list.insert(number * 3 + 2, base.clone());
    }
    let lines = list.iter().enumerate().map(|(number, base)| format!("{base} eval-{number}\n"));
    fs::write(checkout.0.join("list"), lines.collect::<String>()).unwrap();
    let door = Proxy::start(&engine.registry);
    let scratch = Folder::new("broken-batch-scratch");
    let call = |address: &str, name: &str, args: &[&str]| {
        let image = engine.image(name).replace(&engine.registry, address);
        let always = ["image", "--variant=debian", "--push", "--check=off", "--image", &image];
        let files = ["--base-images=list", &format!("--records={name}")];
        let mut call = Xtask::within(&checkout.0, &[&always[..], &files, args].concat());
        call.0.current_dir(&checkout.0);
        let call = call.in_engine(&engine).env("TMPDIR", &scratch.0);
        call.env(CACHE_MODE, "off").on("x")
    };

    let whole = call(&engine.registry, "whole", &[]).end();
    assert_eq!(whole.status, 1, "{}", whole.stderr);
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
    let expected = engine.pushed("whole");
    let count = expected.keys().filter(|tag| tag.starts_with("0123456-eval-")).count();
    assert_eq!(count, GOOD, "{expected:?}");

    for (images, args) in [(3, &[][..]), (7, &["--skip-existing"])] {
        let mut killed = call(&door.address, "broken", args);
        let mut child = killed.0.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let is_named = |tag: &String| tag.starts_with("0123456-eval-");
        while engine.tags("broken").into_iter().filter(is_named).count() < images {
            assert!(child.try_wait().unwrap().is_none(), "ended before it was killed");
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let mut away_since = None;
    door.obey(move |request| {
        let since = request.writes().then(Instant::now);
        away_since = away_since.or(since);
        let is_away = away_since.is_some_and(|since| since.elapsed() < AWAY);
        if is_away { Answer::Close } else { Answer::Pass }
    });
    let ended = call(&door.address, "broken", &["--skip-existing"]).end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    assert_eq!(ended.stdout.lines().count(), GOOD * 4, "{}", ended.stdout);
    let pushed = engine.pushed("broken");
    let other = expected.iter().filter(|(tag, image)| pushed.get(*tag) != Some(image));
    assert_eq!(other.collect::<Vec<_>>(), [], "{}", ended.stderr);
    assert_eq!(pushed.len(), expected.len());
    check_records(&records(&checkout.0.join("broken")), &good, &broken, &expected);
}

/// Fails unless `records` have all images, those on `good` bases as they are in the registry: `pushed`,
/// tags with their digests.
fn check_records(
    records: &[Value],
    good: &[String],
    broken: &[String],
    pushed: &BTreeMap<String, String>,
) {
    // Later lines are truer than earlier ones.
    let by_base = records.iter().map(|record| (record["base_image"].as_str().unwrap(), record));
    let records = by_base.collect::<BTreeMap<_, _>>();
    assert_eq!(records.len(), good.len() + broken.len());
    for base in good {
        let record = &records[base.as_str()];
        assert!(["built", "present"].contains(&record["status"].as_str().unwrap()), "{record}");
        let tag = record["tags"][0].as_str().unwrap().rsplit(':').next().unwrap();
        assert_eq!(record["digest"], pushed[tag].as_str(), "{record}");
    }
    let failed = records.values().filter(|record| record["status"] == "failed");
    let failed = failed.map(|record| record["base_image"].as_str().unwrap());
    assert_eq!(failed.collect::<BTreeSet<_>>(), broken.iter().map(String::as_str).collect());
}
