//! Caches in a registry and in a folder: what is exported by mode, what is read, and when nothing is
//! written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::engine::{DOCKERFILE, FEWER, checkout, images, own_base};
use crate::support::engine::{Engine, docker};
use crate::support::{CACHE_MODE, Ended, Folder, SHA, SHARED_CACHE, Xtask, records, root};
use serde_json::Value;

const CACHE: &str = "buildcache-binary-debian_tag_trixie-slim";

/// A push of the small image in `checkout`, and its record.
fn push(engine: &Engine, checkout: &Folder, name: &str, variables: &[(&str, &str)]) -> Value {
    let (image, file) = (engine.image(name), checkout.0.join("records"));
    let args = ["image", "--variant=debian", "--push", "--check=off", "--image", &image];
    let args = [&args[..], &["--records", file.to_str().unwrap()]].concat();
    let call = Xtask::within(&checkout.0, &args).in_engine(engine).on("refs/heads/x");
    variables.iter().fold(call, |call, (name, value)| call.env(name, value)).succeed();
    records(&file).pop().unwrap()
}

/// Digests and sizes of the layers that a tag names.
fn layers(engine: &Engine, name: &str, tag: &str) -> BTreeMap<String, u64> {
    let manifest = engine.manifest(name, tag);
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|l| (l["digest"].to_string(), l["size"].as_u64().unwrap())).collect()
}

fn caches(engine: &Engine, name: &str) -> BTreeSet<String> {
    engine.tags(name).into_iter().filter(|tag| tag.starts_with("buildcache-")).collect()
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn the_mode_decides_what_is_exported_and_never_what_is_read() {
    let engine = Engine::fresh();
    let checkout = checkout("modes", DOCKERFILE);
    let push = |variables: &[(&str, &str)]| push(&engine, &checkout, "modes", variables);
    let scope = |branch: &str| format!("{CACHE}-{branch}");

    // `min` comes first: an engine that has exported its builder's layers once keeps them at hand
    // and adds them to every later export.
    let first = push(&[(CACHE_MODE, "min"), ("SDK_REF", "y")]);
    assert_eq!(first["steps"]["cached"], 0, "{first:#}");
    assert_eq!(caches(&engine, "modes"), BTreeSet::from([scope("y")]));

    push(&[(CACHE_MODE, "max")]);
    assert_eq!(caches(&engine, "modes"), BTreeSet::from([scope("x"), scope("y")]));
    let (max, min) = (layers(&engine, "modes", &scope("x")), layers(&engine, "modes", &scope("y")));
    let is_part = min.keys().all(|layer| max.contains_key(layer));
    assert!(is_part && min.len() < max.len(), "{min:#?} {max:#?}");

    push(&[(SHARED_CACHE, "1")]);
    let shared = "buildcache-shared-binary-x".to_owned();
    assert_eq!(caches(&engine, "modes"), BTreeSet::from([scope("x"), scope("y"), shared]));

    engine.empty();
    let after = push(&[(CACHE_MODE, "off")]);
    assert_eq!(after["steps"]["cached"], after["steps"]["total"], "{after:#}");
    push(&[(CACHE_MODE, "off"), ("SDK_REF", "z")]);
    assert!(engine.tags("modes").contains("z-debian"));
    assert!(caches(&engine, "modes").iter().all(|tag| !tag.ends_with("-z")));
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn what_is_in_the_cache_already_is_not_exported_and_still_serves() {
    let engine = Engine::fresh();
    let checkout = checkout("needless", DOCKERFILE);
    let push = || push(&engine, &checkout, "needless", &[("SDK_REF", "main")]);
    let first = push();
    assert_eq!(first["steps"]["cached"], 0, "{first:#}");
    let reads = first["cache_read"].as_array().unwrap();
    assert!(reads.iter().all(|read| read["result"] == "miss"), "{first:#}");
    let written = &first["cache_written"][0];
    assert_eq!(written["result"], "done", "{written:#}");
    // The base's layer was pushed with the image, the builder's with the cache.
    assert!(written["bytes_present"].as_u64() > Some(10_000_000), "{written:#}");
    assert!(written["bytes_uploaded"].as_u64() > Some(8_000_000), "{written:#}");

    let tag = format!("{CACHE}-main");
    let mut had = layers(&engine, "needless", &tag);
    had.extend(layers(&engine, "needless", "main-debian"));
    // On this engine everything is there, and the cache is written again: no layer of it is new, but
    // perhaps those of stages that only hold input files, which BuildKit does not always find again.
    let second = push();
    assert_eq!(second["steps"]["cached"], second["steps"]["total"]);
    let new = layers(&engine, "needless", &tag);
    let new = new.into_iter().filter(|(digest, _)| !had.contains_key(digest));
    let new = new.map(|(_, size)| size).sum::<u64>();
    assert_eq!(second["cache_written"][0]["bytes_uploaded"], new, "{second:#}\n{first:#}");
    assert!(new < 1_000_000, "{new}");

    let digest = engine.digest("needless", &tag);
    // Whoever pulls the image may know gzip alone; what only builders read is quicker to make.
    let has_zstd =
        |tag: &str| engine.manifest("needless", tag)["layers"].to_string().contains("zstd");
    assert!(has_zstd(&tag) && !has_zstd("main-debian"));
    for _ in 0..2 {
        let is_empty = engine.empty();
        let record = push();
        // Only of an empty builder it is certain that it had nothing.
        let total = record["steps"]["total"].as_u64().filter(|_| is_empty);
        assert_eq!(record["steps"]["from_registry"].as_u64(), total, "{record:#}");
        assert_eq!(record["steps"]["cached"], record["steps"]["total"], "{record:#}");
        assert!(record["steps"]["saved_seconds"].as_f64() > Some(0.0), "{record:#}");
        let result = if is_empty { "skipped" } else { "done" };
        assert_eq!(record["cache_written"][0]["result"], result, "{record:#}");
        assert!(!is_empty || engine.digest("needless", &tag) == digest);
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_cache_folder_does_not_grow_and_two_builds_may_use_it() {
    let engine = Engine::fresh();
    let cache = Folder::new("cache-folder");
    let folder = cache.0.join("at, \"home\"");
    let checkout = checkout(
        "cache-folder-checkout",
        "FROM debian:trixie-slim AS binary\nARG N\n\
         RUN : SALT; echo $N; head -c 3000000 /dev/urandom >/data\n",
    );
    let bake = checkout.0.join("agent-server-image/docker-bake.json");
    let plain = fs::read_to_string(&bake).unwrap();
    let image = engine.image("folder");
    let call = |number: usize, records: &str| {
        let argument = format!("\"args\": {{ \"N\": \"{number}\", ");
        fs::write(&bake, plain.replace("\"args\": { ", &argument)).unwrap();
        let args = ["image", "--variant=debian", "--load", "--image", &image, "--records", records];
        let mut call = Xtask::within(&checkout.0, &args).in_engine(&engine);
        call.0.current_dir(&checkout.0);
        call.env("BUILD_CACHE_DIR", &folder)
    };
    let blobs = || {
        let files = fs::read_dir(folder.join("blobs/sha256")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>()
    };
    call(0, "records").succeed();
    let size = blobs();
    // As a run that was killed leaves it.
    fs::create_dir_all(folder.join("ingest/0")).unwrap();
    for number in 1..6 {
        call(number, "records").succeed();
    }
    assert!(size > 3_000_000 && blobs() < size + 100_000, "{size} grew to {}", blobs());
    let left = fs::read_dir(&folder).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(left.into_iter().all(|name| name != "ingest"));

    engine.empty();
    let start =
        |mut call: Xtask| call.0.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Both are made before either starts, as that writes the file that they read.
    let twins = [call(5, "one"), call(5, "other")].map(start);
    for twin in twins.map(|twin| Ended::from(twin.wait_with_output().unwrap())) {
        assert_eq!(twin.status, 0, "{}", twin.stderr);
    }
    engine.empty();
    call(5, "last").succeed();
    let [record] = &records(&checkout.0.join("last"))[..] else { panic!("not one record") };
    assert_eq!(record["steps"]["cached"], record["steps"]["total"], "{record:#}");
    assert_eq!(record["cache_read"][0]["result"], "hit", "{record:#}");
}

/// A build of the shipped `source-minimal`, and its record in `file`.
fn build(engine: &Engine, args: &[&str], file: &Path) -> (Ended, Value) {
    let always = ["image", "--variant=debian", "--target=source-minimal", "--check=off"];
    let rest = ["--records", file.to_str().unwrap()];
    let call = Xtask::shipped(&[&always[..], &FEWER, &rest, args].concat()).in_engine(engine);
    let ended = call.on("refs/heads/x").env("SDK_SHA", OTHER_SHA).succeed();
    (ended, records(file).pop().unwrap())
}

/// Another commit than that of the other tests.
const OTHER_SHA: &str = "ffffffffffffffffffffffffffffffffffffffff";

/// The steps that ran.
fn ran(record: &Value) -> Vec<&str> {
    let steps = record["step_list"].as_array().unwrap();
    assert!(steps.len() >= 4, "{record:#}");
    let ran = steps.iter().filter(|step| step["cached"] != true);
    ran.map(|step| step["name"].as_str().unwrap()).collect()
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_new_commit_runs_no_step_of_the_shipped_image_again() {
    let engine = Engine::get();
    images(&engine);
    let folder = Folder::new("commit");
    let image = engine.image("commit");
    let args = ["--load", "--image", &image];
    let (ended, record) = build(&engine, &args, &folder.0.join("records"));
    assert_eq!(ran(&record), [""; 0]);
    let image = ended.stdout.lines().next().unwrap();
    let revision = "{{index .Config.Labels \"org.opencontainers.image.revision\"}}";
    assert_ne!(SHA, OTHER_SHA);
    assert_eq!(docker(&["inspect", "--format", revision, image]), OTHER_SHA);
    assert!(engine.tags("commit").is_empty(), "--load must leave nothing in the registry");
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_checkout_of_other_modes_owner_times_and_place_is_the_same_image() {
    let engine = Engine::get();
    images(&engine);
    let strict = Folder::copy("strict", &root());
    let script = "chmod -R u=rwX,go= . && chown -R 1234:1234 . && \
                  find . -exec touch --date=2001-02-03 {} +";
    let sh = Command::new("sh").args(["-c", script]).current_dir(&strict.0).status().unwrap();
    assert!(sh.success());
    let image = engine.image("strict");
    let build = |checkout: &Path, name: &str, variables: &[(&str, &str)]| {
        let file = strict.0.join(name);
        let args = ["image", "--variant=debian", "--target=overlay", "--push", "--check=off"];
        let rest = ["--image", &image, "--records", file.to_str().unwrap()];
        let args = [&args[..], &FEWER, &rest].concat();
        let call = Xtask::within(checkout, &args).in_engine(&engine).on("refs/heads/x");
        let call = call.env("SDK_SHA", OTHER_SHA).env(CACHE_MODE, "off");
        variables.iter().fold(call, |call, (name, value)| call.env(name, value)).succeed();
        records(&file).pop().unwrap()
    };
    let here = build(&root(), "here", &[]);
    let elsewhere = [("TZ", "Asia/Tokyo"), ("LC_ALL", "tr_TR.UTF-8"), ("USER", "someone")];
    let there = build(&strict.0, "there", &elsewhere);
    // Files of other modes are copied again, and are the same then.
    let ran = ran(&there).into_iter().filter(|step| !step.starts_with("[files "));
    assert_eq!(ran.collect::<Vec<_>>(), [""; 0]);
    assert_eq!((&there["tags"], &there["digest"]), (&here["tags"], &here["digest"]));
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn on_another_base_only_the_steps_on_it_run() {
    let engine = Engine::get();
    images(&engine);
    let folder = Folder::new("another-base");
    // Another file system, so that nothing on it is known.
    let base = own_base(&engine, "other-base");
    let dockerfile = format!("FROM {base}\nRUN date +%s.%N >/made\n");
    fs::write(folder.0.join("Dockerfile"), dockerfile).unwrap();
    docker(&["build", "--quiet", "--push", "--tag", &base, folder.0.to_str().unwrap()]);
    let image = engine.image("another-base");
    let args = ["--load", "--image", &image, "--base-image", &base];
    let (_, record) = build(&engine, &args, &folder.0.join("records"));
    let ran = ran(&record).into_iter().filter(|name| name.contains("] RUN "));
    let stages = ran.map(|name| name.trim_start_matches('[').split(' ').next().unwrap());
    assert_eq!(stages.collect::<BTreeSet<_>>(), BTreeSet::from(["minimal"]), "{record:#}");
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn two_runs_at_once_both_work() {
    let engine = Engine::get();
    let checkout = checkout("twins", DOCKERFILE);
    let start = |name: &str| {
        let args = ["image", "--variant=debian", "--push", "--image", &engine.image(name)];
        let mut call = Xtask::within(&checkout.0, &args).in_engine(&engine).on("refs/heads/x");
        call.0.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let runs = [start("twin-a"), start("twin-b")];
    for (run, name) in runs.into_iter().zip(["twin-a", "twin-b"]) {
        let ended = Ended::from(run.wait_with_output().unwrap());
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        assert!(engine.tags(name).contains("x-debian"));
    }
}
