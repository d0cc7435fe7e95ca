//! `image merge`: images of several architectures become one.

use std::fs::{self, File};
use std::process::Command;

use crate::support::fake::FakeDocker;
use crate::support::record::{record, write};
use crate::support::{Ended, IMAGE, expected, sha256};
use serde_json::{Value, json};

/// A docker whose registry gives every list this manifest.
fn fake(name: &str, script: &str, architectures: &[&str]) -> (FakeDocker, String) {
    let manifest = |arch: &&str| {
        let platform = json!({ "os": "linux", "architecture": arch });
        json!({ "platform": platform, "digest": format!("sha256:{arch}") })
    };
    let unknown = json!({ "platform": { "os": "unknown", "architecture": "unknown" } });
    let manifests = architectures.iter().map(manifest).chain([unknown]).collect::<Vec<_>>();
    let list = json!({ "manifests": manifests }).to_string();
    let script = format!("{script}\ncase \"$*\" in *--raw*) cat list; exit;; esac");
    let fake = FakeDocker::with_override(name, &script);
    fake.write("list", &list);
    (fake, list)
}

/// The records of a file.
fn lines(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn both_architectures_get_one_tag_and_the_manifest_a_record() {
    let (fake, list) = fake("merge", "", &["amd64", "arm64"]);
    let files = ["amd64", "arm64"].map(|arch| {
        write(&fake.file(&format!("{arch}.jsonl")), &record("debian", arch, "debian:trixie-slim"))
    });
    let merge = || fake.call(&["image", "merge", "--records=records", &files[0], &files[1]]);
    let ended = merge().succeed();
    let tags = ["0123456-debian", "main-debian", "latest-debian"];
    assert_eq!(ended.stdout, tags.map(|tag| format!("{IMAGE}:{tag}\n")).concat());
    let mut created = fake.lines("calls");
    created.retain(|call| call.contains("imagetools create"));
    let digest = format!("{IMAGE}@sha256:{}", "0".repeat(64));
    let tags = tags.map(|tag| format!("--tag {IMAGE}:{tag} ")).concat();
    assert_eq!(created, [format!("buildx imagetools create {tags}{digest} {digest}")]);

    assert_eq!((lines(&files[0]).len(), lines(&files[1]).len()), (1, 1));
    let [manifest] = &fake.records()[..] else { panic!("{:#?}", fake.records()) };
    assert_eq!((&manifest["kind"], &manifest["schema"]), (&json!("manifest"), &json!(2)));
    assert_eq!(manifest["digest"], sha256(list.as_bytes()));
    assert_eq!(manifest["arches"], json!(["amd64", "arm64"]));
    assert_eq!(manifest["platforms"], json!(["linux/amd64", "linux/arm64"]));
    assert_eq!(manifest["missing"], json!([]));
    assert_eq!(manifest["tags"], json!(ended.stdout.lines().collect::<Vec<_>>()));
    // It was not built: what its images took is in their records.
    for key in ["attempts", "cache_mode", "started", "finished", "builder"] {
        assert_eq!(manifest[key], Value::Null, "{key}");
    }
    assert_eq!((&manifest["pushed"], &manifest["variant"]), (&json!(true), &json!("debian")));
    merge().succeed();
    assert_eq!(fake.records().len(), 2);
    // Without the flag no file is written.
    fs::remove_file(fake.file("records")).unwrap();
    fake.call(&["image", "merge", &files[0], &files[1]]).succeed();
    assert!(!fake.file("records").exists());
}

#[test]
fn latest_is_mains_own_image_of_the_variant() {
    let (fake, _) = fake("merge-latest", "", &["amd64"]);
    let latest = |key: &str, value: Value| {
        let mut record = record("debian", "amd64", "debian:trixie-slim");
        record[key] = value;
        let file = write(&fake.file("amd64.jsonl"), &record);
        let merge = ["image", "merge", "--platforms=linux/amd64", &file];
        let tags = fake.call(&merge).succeed().stdout;
        tags.lines().filter(|tag| tag.contains(":latest-")).map(str::to_owned).collect::<Vec<_>>()
    };
    let tags =
        |names: &[&str]| json!(names.iter().map(|n| format!("{IMAGE}:{n}")).collect::<Vec<_>>());
    assert_eq!(latest("target", json!("binary")), [format!("{IMAGE}:latest-debian")]);
    for (key, value) in [
        ("base_image", json!("me/experiment:1")),
        ("manifest_tags", tags(&["main-mytag"])),
        ("manifest_tags", tags(&["x-debian", "main-debian-source"])),
        ("variant", json!("gone")),
        ("variant", Value::Null),
    ] {
        assert_eq!(latest(key, value.clone()), [""; 0], "{key} {value}");
    }
}

#[test]
fn a_file_of_several_records_is_read_whole_and_later_lines_replace_earlier_ones() {
    let (fake, _) = fake("merge-lines", "", &["amd64", "arm64"]);
    let mut failed = record("debian", "amd64", "debian:trixie-slim");
    (failed["status"], failed["digest"]) = (json!("failed"), Value::Null);
    let records = [
        failed,
        record("debian", "amd64", "debian:trixie-slim"),
        record("debian", "arm64", "debian:trixie-slim"),
        record("java", "amd64", "java:17"),
        record("java", "arm64", "java:17"),
    ];
    fake.write("records", &records.map(|record| format!("{record}\n")).concat());
    let ended = fake.call(&["image", "merge", "--records=records", "records"]).succeed();
    let tags = ["debian", "java"].map(|name| {
        ["0123456", "main", "latest"].map(|head| format!("{IMAGE}:{head}-{name}\n")).concat()
    });
    assert_eq!(ended.stdout, tags.concat());
    let manifests = lines(fake.file("records").to_str().unwrap()).into_iter();
    let manifests = manifests.filter(|record| record["kind"] == "manifest");
    let variants = manifests.map(|record| record["variant"].clone()).collect::<Vec<_>>();
    assert_eq!(variants, ["debian", "java"]);
}

#[test]
fn what_was_pushed_a_moment_ago_may_be_there_only_soon() {
    // The first request of each kind finds nothing.
    let script = "first() { [ ! -e \"$1\" ] && touch \"$1\"; }\ncase \"$*\" in\n\
                  *create*) first 1 && echo 'ERROR: r.io/i: not found' >&2 && exit 1;;\n\
                  *--raw*) first 2 && echo 'ERROR: r.io/i: not found' >&2 && exit 1;;\nesac";
    let (fake, _) = fake("merge-soon", script, &["amd64"]);
    let file = write(&fake.file("amd64.jsonl"), &record("debian", "amd64", "debian:1"));
    let args = ["image", "merge", "--platforms=linux/amd64", &file];
    let ended = fake.call(&args).succeed();
    assert_eq!(ended.stderr.matches("not found; retrying in 1 s").count(), 2, "{}", ended.stderr);
    // An image that is not there at all is not asked for for long.
    let script = |error: &str| {
        format!("case \"$*\" in *create*) echo 'ERROR: r.io/i: {error}' >&2; exit 1;; esac")
    };
    fake.write("override.sh", &script("not found"));
    let ended = fake.call(&args).end();
    assert_eq!((ended.status, ended.stderr.matches("; retrying").count()), (1, 3));
    let hint = "hint: the registry does not show it yet, or it was deleted\n";
    assert!(ended.stderr.ends_with(hint), "{}", ended.stderr);
    // It is buildx that asks, and not the engine.
    for error in ["x509: unknown authority", "http: server gave HTTP response to HTTPS client"] {
        fake.write("override.sh", &script(error));
        let stderr = fake.call(&args).end().stderr;
        assert!(stderr.contains("hint: buildx asks from this machine: "), "{stderr}");
    }
}

#[test]
fn a_variant_that_is_not_merged_costs_no_other_and_what_is_missing_is_said() {
    let script = "case \"$*\" in *create*debian*) echo 'ERROR: no' >&2; exit 1;; esac";
    let (fake, _) = fake("merge-others", script, &["amd64"]);
    let files = ["debian", "python"].map(|name| {
        write(&fake.file(&format!("{name}.jsonl")), &record(name, "amd64", "debian:1"))
    });
    let ended = fake
        .call(&["image", "merge", "--allow-partial", "--records=records", &files[0], &files[1]])
        .end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    assert_eq!(ended.stdout, format!("{IMAGE}:0123456-python\n{IMAGE}:main-python\n"));
    let manifest = fake.records().pop().unwrap();
    assert_eq!(
        (&manifest["variant"], &manifest["missing"]),
        (&json!("python"), &json!(["linux/arm64"]))
    );
    expected::check("fake/expected/merge_partial.txt", &expected::steady(&ended.stderr, &fake.0.0));
    // A manifest is recorded although its tags can't be printed, and neither error hides the other.
    fs::remove_file(fake.file("records")).unwrap();
    let args = ["image", "merge", "--allow-partial", "--records=records", &files[0], &files[1]];
    let mut merge = fake.call(&args);
    merge.0.stdout(File::options().write(true).open("/dev/full").unwrap());
    let said = merge.end().stderr;
    assert_eq!(fake.records().len(), 1, "{said}");
    assert!(said.contains("warning: cannot write to standard output"), "{said}");
    assert!(said.contains("error: \"debian\" is not merged"), "{said}");
    // That the records can't be written hides nothing.
    let full = ["image", "merge", "--allow-partial", "--records=/dev/full", &files[0], &files[1]];
    let said = fake.call(&full).end().stderr;
    assert!(said.contains("warning: the file of --records can't be written"), "{said}");
    assert!(said.contains("error: \"debian\" is not merged"), "{said}");
}

#[test]
fn a_full_disk_leaves_no_half_record() {
    let (fake, _) = fake("merge-full", "", &["amd64"]);
    let file = write(&fake.file("amd64.jsonl"), &record("debian", "amd64", "debian:1"));
    // The next record crosses the limit of 4 KiB.
    let earlier = format!("{}\n", "x".repeat(4000));
    fake.write("records", &earlier);
    let call = fake.call(&["image", "merge", "--allow-partial", "--records=records", &file]).0;
    let variables = call.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let mut limited = Command::new("bash");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$@\"", "bash"]).arg(call.get_program());
    limited.args(call.get_args()).env_clear().envs(variables).current_dir(&fake.0.0);
    let ended = Ended::from(limited.output().unwrap());
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("File too large"), "{}", ended.stderr);
    assert_eq!(fs::read_to_string(fake.file("records")).unwrap(), earlier);
}

#[test]
fn what_was_pushed_is_told_whatever_comes_of_reading_it_back() {
    let script = "case \"$*\" in *--raw*) echo ERROR: 401 Unauthorized >&2; exit 1;; esac";
    let fake = FakeDocker::with_override("merge-unread", script);
    let file = write(&fake.file("a.jsonl"), &record("debian", "amd64", "debian:trixie-slim"));
    let args = ["image", "merge", "--allow-partial", "--records=records", &file];
    let ended = fake.call(&args).end();
    assert_eq!((ended.status, ended.stdout.lines().count()), (1, 3), "{}", ended.stderr);
    let said = "error: \"debian\" was pushed, but not found as it should be: ";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    assert_eq!(fake.records()[0]["digest"], Value::Null);
}

#[test]
fn an_image_that_was_not_tried_again_keeps_its_record() {
    let (fake, _) = fake("merge-continued", "", &["amd64"]);
    let built = record("debian", "amd64", "debian:trixie-slim");
    let mut skipped = built.clone();
    (skipped["status"], skipped["pushed"], skipped["digest"]) =
        (json!("skipped"), json!(false), Value::Null);
    fake.write("records", &format!("{built}\n{skipped}\n"));
    let ended = fake.call(&["image", "merge", "--allow-partial", "records"]).succeed();
    assert_eq!(ended.stdout.lines().count(), 3);
}

#[test]
fn docker_gets_nothing_but_references_and_digests() {
    let fake = FakeDocker::new("merge-values");
    let mut text = String::new();
    for (key, value) in [
        ("image", json!("-f")),
        ("image", json!("Upper/case")),
        ("image", json!(5)),
        ("manifest_tags", json!(["-f"])),
        ("manifest_tags", json!([format!("{IMAGE}:-f")])),
        ("manifest_tags", json!(["other/image:tag"])),
        ("manifest_tags", json!("no list")),
        ("digest", json!("")),
        ("digest", json!("sha256:short")),
        ("digest", Value::Null),
        ("pushed", json!(false)),
        ("kind", json!("other")),
        ("status", json!("done")),
        ("schema", json!(1)),
    ] {
        let mut record = record("debian", "amd64", "debian:trixie-slim");
        record[key] = value.clone();
        let file = write(&fake.file("bad.jsonl"), &record);
        let said = fake.call(&["image", "merge", "--allow-partial", &file]).refused();
        text += &format!("# {key}: {value}\n{}\n", expected::steady(&said, &fake.0.0));
    }
    assert!(!fake.file("calls").exists(), "{:?}", fake.lines("calls"));
    expected::check("fake/expected/merge_values.txt", &text);
}

#[test]
fn images_that_do_not_go_together_are_refused() {
    let fake = FakeDocker::new("merge-apart");
    let amd64 = record("debian", "amd64", "debian:trixie-slim");
    let changed = |key: &str, value: Value| {
        let mut record = record("debian", "arm64", "debian:trixie-slim");
        record[key] = value;
        record
    };
    let mut text = String::new();
    for (title, records) in [
        ("another commit", vec![&amd64, &changed("sha", json!("f".repeat(40)))]),
        ("another repository", vec![&amd64, &changed("image", json!("r.example.com/other"))]),
        ("the same platform", vec![&amd64, &changed("platforms", json!(["linux/amd64"]))]),
        ("one is missing", vec![&amd64]),
    ] {
        let lines = records.iter().map(|record| format!("{record}\n"));
        fake.write("records", &lines.collect::<String>());
        let said = fake.call(&["image", "merge", "records"]).refused();
        text += &format!("# {title}\n{}\n", expected::steady(&said, &fake.0.0));
    }
    assert!(!fake.file("calls").exists(), "{:?}", fake.lines("calls"));
    expected::check("fake/expected/merge_apart.txt", &text);
}
