//! What a run tells of its cache: the report, its lines for people, and what a lost cache costs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::support::engine::Engine;
use crate::support::fake::{FakeDocker, INSPECTED};
use crate::support::{Ended, Folder, Xtask};
use serde_json::{Value, json};

const TIMEOUT: &str = "OPENHANDS_BUILDKIT_CACHE_TIMEOUT";
const IMAGE: &str = "ghcr.io/openhands/agent-server";
const CACHE: &str = "buildcache-binary-debian_tag_trixie-slim";

/// A vertex as buildx tells of it when it has ended; times are seconds of one minute.
pub fn vertex(name: &str, (from, to): (f64, f64), more: &Value) -> String {
    let time = |second: f64| format!("2026-11-24T10:51:{second:06.3}Z");
    let mut vertex = json!({ "digest": name, "name": name, "started": time(from) });
    let begun = json!({ "vertexes": [vertex] });
    vertex["completed"] = time(to).into();
    vertex.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    format!("{begun}\n{}\n", json!({ "vertexes": [vertex] }))
}

fn import(tag: &str, error: &str) -> String {
    let name = format!("importing cache manifest from {IMAGE}:{tag}");
    vertex(&name, (0.5, 0.75), &json!({ "error": error }))
}

pub fn steps(cached: bool) -> String {
    let ran = |name: &str, times| vertex(name, times, &json!({}));
    let first = vertex("[builder 2/3] RUN one", (1.0, 1.0), &json!({ "cached": cached }));
    let from = ran("[builder 1/3] FROM debian:trixie-slim@sha256:aa", (0.5, 1.0));
    [ran("[internal] load build context", (0.0, 1.0)), from, first].concat()
        + &ran("[builder 3/3] COPY requirements.txt /", (1.0, 5.0))
        + &ran("exporting to image", (5.0, 8.0))
}

/// A `docker` whose bakes tell `events` and `metadata`, the first entry at the first bake.
pub fn fake(name: &str, bakes: &[(&str, &str)], ending: &str) -> FakeDocker {
    let script = format!(
        "case \"$*\" in *du) echo 'Total: 0B'; exit;; info*) exit 1;;
         *inspect*) [ ! -f gone ] || exit 1
         cat inspected; exit;; esac
         cat > /dev/null
         n=1; while [ -f done$n ]; do n=$((n + 1)); done; touch done$n
         cat events$n >&2
         while [ \"$1\" != --metadata-file ]; do shift; done
         cat metadata$n > \"$2\"
         [ $n = 1 ] || {{ {ending}; }}"
    );
    let fake = FakeDocker::new(name, &script);
    fs::write(fake.file("inspected"), INSPECTED).unwrap();
    for (number, (events, metadata)) in (1..).zip(bakes) {
        fs::write(fake.file(&format!("events{number}")), events).unwrap();
        fs::write(fake.file(&format!("metadata{number}")), metadata).unwrap();
    }
    fake
}

pub const PUSHED: &str = r#"{"debian": {"containerimage.digest": "sha256:dd"}}"#;
pub const EXPORTED: &str = r#"{"debian": {"cache.manifest": "{}"}}"#;

/// Builds in a checkout of its own, which remembers nothing of other builds.
pub fn build(fake: &FakeDocker, checkout: &Path, args: &[&str]) -> (Ended, Value) {
    let file = fake.file("report/report.json");
    let always = ["image", "--variant=debian", "--push", "--report", file.to_str().unwrap()];
    let call = Xtask::within(checkout, &[&always[..], args].concat());
    let call = call.on("x").env(TIMEOUT, "1");
    let ended = call.env("CI", "true").env("GITHUB_ACTIONS", "true").env("PATH", fake.path()).end();
    let report = fs::read_to_string(file).unwrap();
    (ended, serde_json::from_str(&report).unwrap())
}

/// How many warnings have all these parts.
fn warnings(ended: &Ended, parts: &[&str]) -> usize {
    let warnings = ended.stderr.lines().filter(|line| line.starts_with("::warning::"));
    warnings.filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

#[test]
fn the_report_holds_what_buildx_told_and_null_for_the_rest() {
    let checkout = Folder::checkout("report");
    let reads = import(&format!("{CACHE}-x"), "")
        + &import(&format!("{CACHE}-main"), "unexpected status: 403 Forbidden")
        + &import(
            "buildcache-shared-binary-x",
            &format!(
                "failed to configure registry cache importer: {IMAGE}:buildcache-shared-binary-x: \
                 not found"
            ),
        );
    let sent = |name: &str, bytes: u64| {
        let status = json!({ "vertex": name, "id": "transferring context:", "current": bytes });
        format!("{}\n", json!({ "statuses": [status] }))
    };
    // Of one transfer that was told of twice, and of another.
    let sent = sent("a", 3) + &sent("a", 500) + &sent("b", 40);
    let events = format!("a line for people\n{reads}{sent}{}{{\"half\": \n", steps(true));
    let export = vertex("exporting cache to registry", (9.0, 11.0), &json!({}));
    let fake = fake("report-told", &[(&events, PUSHED), (&export, EXPORTED)], "true");
    let (ended, report) = build(&fake, &checkout.0, &[]);

    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(report["result"], "done");
    assert_eq!(report["context_bytes"], 540);
    let target = &report["targets"]["debian"];
    assert_eq!(target["image"]["digest"], "sha256:dd");
    let steps = json!({ "total": 2, "cached": 1, "from_builder": 0, "from_registry": 1,
                        "saved_seconds": null });
    assert_eq!(target["steps"], steps);
    let seconds = &target["seconds"];
    let before = [("context", 1.0), ("cache_import", 0.25), ("pull", 0.5), ("steps", 4.0)];
    let after = [("image_export", 3.0), ("push", 0.0), ("cache_export", 2.0)];
    for (phase, expected) in before.into_iter().chain(after) {
        assert_eq!(seconds[phase], expected, "{phase}: {seconds:#}");
    }
    let reads = target["cache_read"].as_array().unwrap();
    let results = reads.iter().map(|read| (read["result"].as_str(), read["status"].as_u64()));
    let expected = [(Some("hit"), None), (Some("refused"), Some(403)), (Some("miss"), None)];
    assert_eq!(results.collect::<Vec<_>>(), [&expected[..], &[(None, None)]].concat());
    let written = &target["cache_written"][0];
    assert_eq!((&written["result"], &written["seconds"]), (&json!("done"), &json!(2.0)));
    assert_eq!(written["bytes_uploaded"], Value::Null, "this registry can't be asked");

    assert!(ended.stderr.contains("a line for people\n"), "{}", ended.stderr);
    assert!(ended.stderr.contains("{\"half\":"), "{}", ended.stderr);
    assert_eq!(warnings(&ended, &[&format!("{IMAGE}:{CACHE}-main")]), 1, "{}", ended.stderr);
    assert_eq!(warnings(&ended, &["buildcache-shared"]), 0, "{}", ended.stderr);
    assert!(ended.stderr.ends_with(&format!("{}\n", report["summary"].as_str().unwrap())));
    assert!(report["summary"].as_str().unwrap().contains("1 of 2"), "{report:#}");
}

#[test]
fn an_export_that_fails_costs_the_image_nothing_but_is_strict_when_asked() {
    let checkout = Folder::checkout("lost");
    let error = "error writing layer blob: 403 Forbidden";
    let failed = vertex("exporting cache to registry", (9.0, 11.0), &json!({ "error": error }));
    for (args, status) in [(&[][..], 0), (&["--strict-cache"][..], 1)] {
        let bakes = [(&*steps(false), PUSHED), (&*failed, r#"{"debian": {}}"#)];
        let fake = fake("report-lost", &bakes, "true");
        let (ended, report) = build(&fake, &checkout.0, args);
        assert_eq!(ended.status, status, "{}", ended.stderr);
        let tag = format!("{IMAGE}:0123456-debian");
        assert!(ended.stdout.starts_with(&tag), "the image is there: {}", ended.stdout);
        let written = &report["targets"]["debian"]["cache_written"][0];
        assert_eq!((&written["result"], &written["error"]), (&json!("failed"), &json!(error)));
        let parts = [&format!("{IMAGE}:{CACHE}-x"), error];
        assert_eq!(warnings(&ended, &parts), 1, "{}", ended.stderr);
        assert!(report["summary"].as_str().unwrap().contains("1 of 1"), "{report:#}");
    }
}

#[test]
fn an_export_that_takes_too_long_is_stopped() {
    let checkout = Folder::checkout("slow");
    let bakes = [(&*steps(false), PUSHED), ("", "")];
    let fake = fake("report-slow", &bakes, "exec sleep 600");
    let (ended, report) = build(&fake, &checkout.0, &[]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(report["targets"]["debian"]["cache_written"][0]["result"], "timed out");
    let parts = [&format!("{IMAGE}:{CACHE}-x"), " 1 s"];
    assert_eq!(warnings(&ended, &parts), 1, "{}", ended.stderr);
}

#[test]
fn an_engine_that_goes_away_while_exporting_is_an_error_that_names_the_image() {
    let checkout = Folder::checkout("gone");
    let bakes = [(&*steps(false), PUSHED), ("", "")];
    let fake = fake("report-gone", &bakes, "touch gone; exit 1");
    let (ended, _) = build(&fake, &checkout.0, &[]);
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let error = ended.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert!(error.contains(&format!("{IMAGE}:0123456-debian")), "{error}");
    assert!(error.contains("engine"), "{error}");
}

#[test]
fn a_build_that_fails_is_reported_too() {
    let checkout = Folder::checkout("failed");
    let error = json!({ "error": "process \"false\" did not complete successfully" });
    let events = vertex("[builder 2/3] RUN false", (0.0, 1.0), &error);
    let fake = fake("report-failed", &[(&events, "")], "true");
    let script = fs::read_to_string(fake.file("docker")).unwrap();
    fs::write(fake.file("docker"), format!("{script}\n[ $n != 1 ] || exit 1\n")).unwrap();
    let (ended, report) = build(&fake, &checkout.0, &[]);
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""));
    assert_eq!(report["result"], "failed");
    assert_eq!(report["targets"]["debian"]["image"]["pushed"], false);
    assert!(report["context_bytes"].is_null(), "nobody told of any");
    assert_eq!(report["targets"]["debian"]["step_list"][0]["error"], error["error"]);
}

#[test]
fn explain_says_what_differs_from_the_last_build_and_what_it_saved() {
    let checkout = Folder::checkout("explain");
    let explain = |events: &str| {
        let fake = fake("report-explain", &[(events, PUSHED), ("", EXPORTED)], "true");
        let (ended, _) = build(&fake, &checkout.0, &["--explain"]);
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        // The progress names all steps.
        let said = ended.stderr.lines().filter(|line| !line.starts_with('#'));
        said.collect::<Vec<_>>().join("\n")
    };
    let has = |said: &str, parts: &[&str]| {
        said.lines().any(|line| parts.iter().all(|part| line.contains(part)))
    };
    let said = explain(&steps(false));
    assert!(has(&said, &["[builder 2/3] RUN one"]), "{said}");

    // Nothing has changed.
    let said = explain(&steps(true));
    assert!(has(&said, &["[builder 3/3] COPY"]), "{said}");
    for part in ["sha256:", "BUILDER_IMAGE", "Dockerfile"] {
        assert!(!said.contains(part), "{said} has {part}");
    }

    let folder = checkout.0.join("agent-server-image");
    fs::write(folder.join("requirements.txt"), "openhands-agent-server==2\n").unwrap();
    let dockerfile = fs::read_to_string(folder.join("Dockerfile")).unwrap();
    fs::write(folder.join("Dockerfile"), format!("{dockerfile}RUN new\n")).unwrap();
    let bake = fs::read_to_string(folder.join("docker-bake.json")).unwrap();
    let argument = "\"BUILDER_IMAGE\": \"debian:other\"";
    let bake = bake.replace("\"BUILDER_IMAGE\": \"debian:trixie-slim\"", argument);
    fs::write(folder.join("docker-bake.json"), bake).unwrap();
    let said = explain(&steps(true).replace("sha256:aa", "sha256:bb"));
    let line = dockerfile.lines().count() + 1;
    for parts in [
        &["debian:trixie-slim", "sha256:aa", "sha256:bb"][..],
        &["BUILDER_IMAGE", "\"debian:trixie-slim\"", "\"debian:other\""],
        &["Dockerfile", &line.to_string(), "RUN new"],
    ] {
        assert!(has(&said, parts), "{said} lacks {parts:?}");
    }
    // In the step's name, and as what has changed.
    assert_eq!(said.matches("requirements.txt").count(), 2, "{said}");
}

#[test]
fn a_timeout_is_a_number_of_seconds_or_has_a_unit() {
    for value in ["", "90", "5m", "1h", " 30s "] {
        Xtask::print(&["--variant=debian"]).env(TIMEOUT, value).definition();
    }
    for value in ["0", "-1", "5 minutes", "m", "1.5", "99999999999999999999", "9999999999999999h"] {
        let said = Xtask::print(&["--variant=debian"]).env(TIMEOUT, value).refused();
        assert!(said.contains(value) && said.contains("10m"), "{said}");
    }
}

/// A build of a small target on the engine.
fn push(engine: &Engine, name: &str, folder: &Folder) -> (Ended, Value) {
    let (image, file) = (engine.image(name), folder.0.join("report.json"));
    let args =
        ["image", "--variant=debian", "--target=base-image-minimal", "--push", "--check=off"];
    let file_args = ["--report", file.to_str().unwrap(), "--image", &image];
    let call = Xtask::shipped(&[&args[..], &file_args].concat());
    let call = call.in_engine().on("refs/heads/main");
    let ended = call.end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    (ended, serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap())
}

#[test]
fn what_is_in_the_cache_already_is_not_exported_and_still_serves() {
    let Some(engine) = Engine::get("a needless export") else { return };
    let folder = Folder::new("needless");
    Engine::empty();
    let (_, first) = push(&engine, "needless", &folder);
    let target = &first["targets"]["debian"];
    assert_eq!(target["steps"]["cached"], 0);
    assert!(target["cache_read"].as_array().unwrap().iter().all(|read| read["result"] == "miss"));
    let written = &target["cache_written"][0];
    assert_eq!(written["result"], "done", "{written:#}");
    assert!(written["bytes_present"].as_u64() > Some(10_000_000), "{written:#}");

    let tag = "buildcache-base-image-minimal-debian_tag_trixie-slim-main";
    let layers = |tag: &str| -> BTreeMap<String, u64> {
        let manifest = engine.manifest("needless", tag);
        let layers = manifest["layers"].as_array().unwrap().iter();
        layers.map(|l| (l["digest"].to_string(), l["size"].as_u64().unwrap())).collect()
    };
    let mut had = layers(tag);
    had.extend(layers("main-debian-base-image-minimal"));

    // On this engine everything is there, and the cache is written again: no layer of it is new,
    // but perhaps those of the stages that only hold input files, which BuildKit does not always
    // find again. Every step's own layer has many megabytes.
    let (_, second) = push(&engine, "needless", &folder);
    let target = &second["targets"]["debian"];
    assert_eq!(target["steps"]["cached"], target["steps"]["total"]);
    let new = layers(tag).into_iter().filter(|(digest, _)| !had.contains_key(digest));
    let new = new.map(|(_, size)| size).sum::<u64>();
    assert_eq!(target["cache_written"][0]["bytes_uploaded"], new, "{target:#}\n{first:#}");
    assert!(new < 1_000_000, "{new}");

    let digest = engine.digest("needless", tag);
    // Whoever pulls the image may know gzip alone; what only builders read is quicker to make.
    let has_zstd =
        |tag: &str| engine.manifest("needless", tag)["layers"].to_string().contains("zstd");
    assert!(has_zstd(tag) && !has_zstd("main-debian-base-image-minimal"));
    for _ in 0..2 {
        let is_empty = Engine::empty();
        let (_, report) = push(&engine, "needless", &folder);
        let target = &report["targets"]["debian"];
        // Only of an empty builder it is certain that it had nothing.
        let total = target["steps"]["total"].as_u64().filter(|_| is_empty);
        assert_eq!(target["steps"]["from_registry"].as_u64(), total, "{target:#}");
        assert_eq!(target["steps"]["cached"], target["steps"]["total"], "{target:#}");
        assert!(target["steps"]["saved_seconds"].as_f64() > Some(1.0), "{target:#}");
        let result = if is_empty { "skipped" } else { "done" };
        assert_eq!(target["cache_written"][0]["result"], result, "{target:#}");
        assert!(!is_empty || engine.digest("needless", tag) == digest);
    }
}

#[test]
fn a_cache_folder_does_not_grow_and_two_builds_may_use_it() {
    let Some(engine) = Engine::get("a cache folder") else { return };
    let (cache, checkout) =
        (Folder::new("cache-folder"), Folder::checkout("cache-folder-checkout"));
    let dockerfile = "FROM debian:trixie-slim AS binary\nARG N\n\
                      RUN echo $N; head -c 3000000 /dev/urandom > /data\n";
    fs::write(checkout.0.join("agent-server-image/Dockerfile"), dockerfile).unwrap();
    let bake = checkout.0.join("agent-server-image/docker-bake.json");
    let plain = fs::read_to_string(&bake).unwrap();
    let image = engine.image("folder");
    let call = |number: usize| {
        let argument = format!("\"args\": {{ \"N\": \"{number}\", ");
        fs::write(&bake, plain.replace("\"args\": { ", &argument)).unwrap();
        let args = ["image", "--variant=debian", "--load", "--image", &image];
        let call = Xtask::within(&checkout.0, &args).in_engine();
        call.env("BUILD_CACHE_DIR", cache.0.join("at, \"home\""))
    };
    let blobs = || {
        let files = fs::read_dir(cache.0.join("at, \"home\"/blobs/sha256")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>()
    };
    assert_eq!(call(0).end().status, 0);
    let size = blobs();
    // As a run that was killed leaves it.
    fs::create_dir_all(cache.0.join("at, \"home\"/.partial-1-0/blobs")).unwrap();
    for number in 1..10 {
        let ended = call(number).end();
        assert_eq!(ended.status, 0, "{}", ended.stderr);
    }
    assert!(size > 3_000_000 && blobs() < size + 100_000, "{size} grew to {}", blobs());
    let left = fs::read_dir(cache.0.join("at, \"home\"")).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(left.into_iter().all(|name| !name.starts_with(".partial")));

    Engine::empty();
    let start =
        |mut call: Xtask| call.0.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Both are made before either starts, as that writes the file that they read.
    let twins = [call(9), call(9)].map(start);
    for twin in twins.map(|twin| Ended::from(twin.wait_with_output().unwrap())) {
        assert_eq!(twin.status, 0, "{}", twin.stderr);
    }
    Engine::empty();
    let ended = call(9).end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let step = ended.stderr.lines().find(|line| line.contains("] RUN echo ")).unwrap();
    let cached = format!("{} CACHED", step.split(' ').next().unwrap());
    assert!(ended.stderr.lines().any(|line| line == cached), "{}", ended.stderr);
}
