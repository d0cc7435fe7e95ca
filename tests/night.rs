//! A night's batch: sixty images with names of their own, of which five can't be built, two runs that
//! are killed, and a registry that is away for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::bad;
use crate::support::engine::{Engine, send};
use crate::support::proxy::{Answer, Proxy};
use crate::support::{Folder, Xtask};
use serde_json::Value;

const GOOD: usize = 55;
/// How long the registry is away.
const AWAY: Duration = Duration::from_secs(3);

/// As many base images in the registry, which differ by name.
fn bases(engine: &Engine) -> Vec<String> {
    let (first, context) = (engine.image("base:0"), Folder::new("night-base"));
    fs::write(context.0.join("Dockerfile"), "FROM debian:trixie-slim\nWORKDIR /night\n").unwrap();
    let mut build = Command::new("docker");
    build.args(["buildx", "build", "--quiet", "--push", "--tag", &first]).arg(&context.0);
    // With one, its manifest is a list.
    build.env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1");
    assert!(build.status().unwrap().success());
    let manifest = engine.raw_manifest("base", "0");
    let kind = serde_json::from_str::<Value>(&manifest).unwrap()["mediaType"].clone();
    let (registry, path) = first.split_once('/').unwrap();
    let path = path.strip_suffix(":0").unwrap();
    let tag = |number: usize| {
        let path = format!("/v2/{path}/manifests/{number}");
        let headers = [("Content-Type", kind.as_str().unwrap())];
        let (status, answer) =
            send(registry.parse().unwrap(), "PUT", &path, &headers, &manifest).unwrap();
        assert_eq!(status, 201, "{answer}");
        format!("{}:{number}", engine.image("base"))
    };
    (0..GOOD).map(tag).collect()
}

#[test]
fn a_batch_with_all_that_goes_wrong_in_a_night_ends_as_an_unbroken_one() {
    let Some(engine) = Engine::get("a night's batch") else { return };
    let checkout = Folder::checkout("night");
    let dockerfile = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE} AS binary\nCOPY docker-bake.json /built\n";
    fs::write(checkout.0.join("agent-server-image/Dockerfile"), dockerfile).unwrap();
    let good = bases(&engine);
    let (_registry, broken) = bad::bases(&engine.registry, &good[0]);
    let mut list = good.clone();
    for (number, base) in broken.iter().enumerate() {
        list.insert(number * 12 + 7, base.clone());
    }
    let lines = list.iter().enumerate().map(|(number, base)| format!("{base} eval-{number}\n"));
    fs::write(checkout.0.join("list"), lines.collect::<String>()).unwrap();
    let door = Proxy::start(&engine.registry);
    // What a run that is killed leaves goes with this.
    let scratch = Folder::new("night-scratch");
    let call = |address: &str, name: &str, args: &[&str]| {
        let image = engine.image(name).replace(&engine.registry, address);
        let always = ["image", "--variant=debian", "--push", "--check=off", "--image", &image];
        let files = ["--base-images=list", &format!("--manifest={name}.jsonl")];
        let mut call = Xtask::within(&checkout.0, &[&always[..], &files, args].concat());
        call.0.current_dir(&checkout.0);
        let call = call.in_engine().env("TMPDIR", &scratch.0);
        call.env("OPENHANDS_BUILDKIT_CACHE_MODE", "off").on("x")
    };

    let whole = call(&engine.registry, "whole", &[]).end();
    assert_eq!(whole.status, 1, "{}", whole.stderr);
    let expected = engine.pushed("whole");
    let count = expected.keys().filter(|tag| tag.starts_with("0123456-eval-")).count();
    assert_eq!(count, GOOD, "{expected:?}");

    for (images, args) in [(15, &[][..]), (35, &["--skip-existing"])] {
        let mut killed = call(&door.address, "night", args);
        let mut child = killed.0.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let is_named = |tag: &String| tag.starts_with("0123456-eval-");
        while engine.tags("night").into_iter().filter(is_named).count() < images {
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
    let ended = call(&door.address, "night", &["--skip-existing"]).end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    assert_eq!(engine.pushed("night"), expected, "{}", ended.stderr);

    let record = fs::read_to_string(checkout.0.join("night.jsonl")).unwrap();
    check_record(&record, &good, &broken, &expected);
    let named = fs::read_to_string(checkout.0.join("target/image/failed.txt")).unwrap();
    assert!(broken.iter().all(|base| named.contains(base.as_str())), "{named}");
}

/// Fails unless the `record` has all images, those on `good` bases as they are in the registry:
/// `pushed`, tags with their digests.
fn check_record(
    record: &str,
    good: &[String],
    broken: &[String],
    pushed: &BTreeMap<String, String>,
) {
    // Later lines are truer than earlier ones.
    let records = record.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let records = records.map(|record| (record["base_image"].as_str().unwrap().to_owned(), record));
    let records = records.collect::<BTreeMap<_, _>>();
    assert_eq!(records.len(), good.len() + broken.len());
    for base in good {
        let record = &records[base];
        assert!(["built", "present"].contains(&record["status"].as_str().unwrap()), "{record}");
        let tag = record["tags"][0].as_str().unwrap().rsplit(':').next().unwrap();
        assert_eq!(record["digest"], pushed[tag].as_str(), "{record}");
    }
    let failed = records.values().filter(|record| record["status"] == "failed");
    let failed = failed.map(|record| record["base_image"].as_str().unwrap());
    assert_eq!(failed.collect::<BTreeSet<_>>(), broken.iter().map(String::as_str).collect());
}
