//! What a run leaves of each of its images.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::support::fake::{FakeDocker, INSPECTED};
use serde_json::{Value, json};

/// The events of a step of three seconds that prints `hello` and fails.
fn failed(name: &str) -> String {
    let vertex = json!({ "digest": name, "name": name, "started": "2026-11-24T10:51:39Z" });
    let mut ended = vertex.clone();
    ended["completed"] = json!("2026-11-24T10:51:42Z");
    ended["error"] = json!("did not complete successfully: exit code: 2");
    let log = json!({ "vertex": name, "data": "aGVsbG8K" });
    [json!({ "vertexes": [vertex] }), json!({ "logs": [log], "vertexes": [ended] })]
        .map(|event| event.to_string())
        .join("\n")
}

#[test]
fn the_manifest_has_a_line_for_each_image_as_documented() {
    let script = "case \"$*\" in *du) exit;; *imagetools*) exit 1;; *inspect*) cat inspected;;
        *bake*) n=1; while [ -f baked$n ]; do n=$((n + 1)); done; cat > baked$n
        cp manifest seen$n; [ ! -f events$n ] || { cat events$n >&2; exit 1; };; esac";
    let fake = FakeDocker::new("manifest", script);
    fs::write(fake.file("inspected"), INSPECTED).unwrap();
    fs::write(fake.file("events2"), failed("[builder 1/2] RUN make")).unwrap();
    let old = "{\"base_image\": \"of an earlier run\"}\n";
    fs::write(fake.file("manifest"), old).unwrap();
    let path = fake.file("manifest");
    let bases = ["--base-image=b0", "--base-image=b1", "--base-image=b2", "--jobs=1"];
    let args = [&["--manifest", path.to_str().unwrap()], &bases[..]].concat();
    let call = [&["image", "--variant=debian", "--push", "--check=off"], &args[..]].concat();
    let ended = fake.call(&call).env("OPENHANDS_BUILDKIT_CACHE_MODE", "off").on("x").end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let read = |name: &str| fs::read_to_string(fake.file(name)).unwrap();
    // Each bake found what had ended before it.
    let seen = ["seen1", "seen2", "seen3"].map(|name| read(name).lines().count());
    assert_eq!(seen, [1, 2, 3]);
    let manifest = read("manifest");
    let lines = manifest.strip_prefix(old).unwrap().lines();
    let lines = lines.map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    let told = lines.iter().map(|line| (line["base_image"].as_str(), line["status"].as_str()));
    let expected = [("b0", "built"), ("b1", "failed"), ("b2", "built")];
    assert_eq!(told.collect::<Vec<_>>(), expected.map(|(base, how)| (Some(base), Some(how))));
    assert!(lines[0]["error"].is_null() && lines[1]["error"].is_string(), "{manifest}");
    assert!(lines[1]["started"].as_u64() <= lines[1]["finished"].as_u64(), "{manifest}");
    assert_eq!(lines[1]["seconds"]["steps"], 3.0);
    let log = lines[1]["log"].as_str().unwrap();
    assert!(lines[0]["log"].is_null(), "no event, no log: {manifest}");
    let logged = fs::read_to_string(log).unwrap();
    assert_eq!(
        logged.lines().map(str::trim).collect::<Vec<_>>(),
        [
            "=> ERROR       [builder 1/2] RUN make",
            "hello",
            "did not complete successfully: exit code: 2"
        ]
    );
    let listed = fs::read_to_string(fake.file("target/image/failed.txt")).unwrap();
    assert!(listed.contains(log) && ended.stderr.contains(log), "{listed}{}", ended.stderr);
    assert!(ended.stderr.contains("2 built, 0 present, 1 failed"), "{}", ended.stderr);

    let readme = include_str!("../xtask/README.md");
    let section = readme.split("\nA line of `--manifest`").nth(1).unwrap();
    let section = section.split("\n\n").next().unwrap();
    let documented = section.split('`').skip(1).step_by(2).collect::<BTreeSet<_>>();
    let fields = lines[1].as_object().unwrap().keys().map(String::as_str);
    let values = ["built", "present", "failed"];
    assert_eq!(documented, fields.chain(values).collect());
}

#[test]
fn a_thousand_images_are_recorded_up_to_the_last_before_a_kill() {
    let script = "case \"$*\" in *inspect*) cat inspected;; *bake*) cat > /dev/null;; esac";
    let fake = FakeDocker::new("thousand", script);
    fs::write(fake.file("inspected"), INSPECTED).unwrap();
    let list = (0..1000).map(|number| format!("b{number} n{number}\n")).collect::<String>();
    fs::write(fake.file("list"), list).unwrap();
    let [list, manifest, log] = ["list", "manifest", "log"].map(|name| fake.file(name));
    let args = ["image", "--variant=debian", "--push", "--base-images", list.to_str().unwrap()];
    let args = [&args[..], &["--manifest", manifest.to_str().unwrap()]].concat();
    let mut call = fake.call(&args).env("OPENHANDS_BUILDKIT_CACHE_MODE", "off").on("x");
    call.0.stdout(Stdio::null()).stderr(File::create(&log).unwrap());
    let mut child = call.0.spawn().unwrap();
    let record = || fs::read_to_string(&manifest).unwrap_or_default();
    while record().lines().count() < 500 {
        assert!(child.try_wait().unwrap().is_none(), "{}", fs::read_to_string(&log).unwrap());
        thread::sleep(Duration::from_millis(5));
    }
    let memory = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let memory = memory.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let memory = memory.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
    assert!(memory < 50_000, "{memory} kB");

    let record = record();
    for (number, line) in record.lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&line["base_image"], &line["status"]),
            (&json!(format!("b{number}")), &json!("built"))
        );
        assert!(line["tags"][0].as_str().unwrap().ends_with(&format!("-n{number}")), "{line}");
    }
    let log = fs::read_to_string(&log).unwrap();
    let is_own = |line: &&str| line.starts_with("built  debian-b");
    let (own, others): (Vec<_>, Vec<_>) = log.lines().partition(is_own);
    // What ended last may have been shown and not recorded.
    let jobs = 8;
    assert!((record.lines().count()..=record.lines().count() + jobs).contains(&own.len()), "{log}");
    assert!(others.len() < 3, "{others:?}");
}
