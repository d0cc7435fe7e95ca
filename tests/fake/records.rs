//! `--records`: a line of each image when it has ended, with what is known of it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt as _, symlink};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::support::events::{self, begun, cached, done, ended, failed, import, output};
use crate::support::fake::{FakeDocker, INSPECTED};
use crate::support::{CACHE_MODE, Ended, IMAGE, Xtask, expected, make_device, root, sha256};
use serde_json::{Value, json};

const CACHE: &str = "buildcache-binary-debian_tag_trixie-slim";

/// A push of `debian` with caches and records.
fn push(fake: &FakeDocker, args: &[&str]) -> Ended {
    let always = ["image", "--variant=debian", "--push", "--records=records"];
    fake.call(&[&always[..], args].concat()).on("x").end()
}

/// The one record of a run.
fn record(fake: &FakeDocker) -> Value {
    let [record] = &fake.records()[..] else { panic!("{:#?}", fake.records()) };
    record.clone()
}

#[test]
fn a_record_holds_what_buildx_told_and_null_for_the_rest() {
    let fake = FakeDocker::new("records-told");
    fake.put("debian:trixie-slim", "the base");
    let context = "[internal] load build context";
    let sent = |bytes: u64| events::progress(context, "transferring context:", bytes, bytes);
    let one = events::run("builder 2/3", "python.sh");
    let miss = format!("{IMAGE}:buildcache-shared-binary-x: not found");
    let play = import(&format!("{IMAGE}:{CACHE}-x"), "")
        + &import(&format!("{IMAGE}:{CACHE}-main"), "unexpected status: 403 Forbidden")
        + &import(&format!("{IMAGE}:buildcache-shared-binary-x"), &miss)
        + &done(context, (0.0, 1.0))
        // Of one transfer that was told of twice.
        + &sent(3)
        + &sent(540)
        + "a line for people\n"
        + &done("[builder 1/3] FROM docker.io/library/debian@sha256:aa", (0.5, 1.0))
        + &cached(&one)
        + &done("[builder 3/3] COPY requirements.txt /", (1.0, 5.0))
        + &done("exporting to image", (5.0, 8.0));
    fake.play("debian.image", &play);
    fake.play("debian.cache", &done("exporting cache to registry", (9.0, 11.0)));
    let ended = push(&fake, &["--check=off"]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);

    let mut record = record(&fake);
    let finished = record["finished"].as_u64().unwrap();
    assert!(record["started"].as_u64().unwrap() <= finished, "{record:#}");
    for key in ["started", "finished"] {
        record[key] = json!(0);
    }
    let log = fs::read_to_string(record["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("a line for people"), "{log}");
    record["log"] = Value::Null;
    let steps = record["step_list"].as_array().unwrap();
    assert_eq!(
        steps.iter().map(|step| step["name"].as_str().unwrap()).collect::<Vec<_>>(),
        [one.as_str(), "[builder 3/3] COPY requirements.txt /",]
    );
    expected::check("fake/expected/record.json", &format!("{record:#}\n"));
}

#[test]
fn every_field_is_in_the_readme() {
    let fake = FakeDocker::new("records-documented");
    push(&fake, &["--check=off"]);
    let readme = fs::read_to_string(root().join("xtask/README.md")).unwrap();
    let missing =
        fields(&record(&fake)).into_iter().filter(|key| !readme.contains(&format!("`{key}`")));
    assert_eq!(missing.collect::<Vec<_>>(), [""; 0]);
}

/// The keys of a value's objects, but for those that name something.
fn fields(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(object) => {
            let inner = object.iter().filter(|(key, _)| *key != "packages");
            let inner = inner.flat_map(|(_, value)| fields(value));
            object.keys().cloned().chain(inner).collect()
        }
        Value::Array(list) => list.iter().flat_map(fields).collect(),
        _ => BTreeSet::new(),
    }
}

#[test]
fn a_line_is_there_as_soon_as_its_image_has_ended_and_earlier_lines_stay() {
    let script = "case \"$*\" in *' bake '*) cp records seen$(ls bakes 2>/dev/null | wc -l);; esac";
    let fake = FakeDocker::with_override("records-flushed", script);
    fake.write("records", "{\"name\": \"of an earlier run\"}\n");
    fake.play("debian-b1.image", &failed("[one 1/2] RUN x", "exit code: 2"));
    let bases = ["--base-image=b0", "--base-image=b1", "--base-image=b2"];
    let args = ["--check=off", "--jobs=1", "--target=overlay"];
    let call = fake.push(&[&["--records=records"], &bases[..], &args].concat());
    assert_eq!(call.end().status, 1);
    let seen = [0, 1, 2].map(|number| fake.lines(&format!("seen{number}")).len());
    assert_eq!(seen, [1, 2, 3]);
    let told = fake.records().into_iter().skip(1).map(|record| {
        let text = |key: &str| record[key].as_str().map(str::to_owned);
        (text("base_image").unwrap(), text("status").unwrap(), text("error").is_some())
    });
    let expected = [("b0", "built", false), ("b1", "failed", true), ("b2", "built", false)];
    let expected =
        expected.map(|(base, status, error)| (base.to_owned(), status.to_owned(), error));
    assert_eq!(told.collect::<Vec<_>>(), expected);
}

#[test]
fn a_failed_build_is_recorded_with_its_step_and_a_log() {
    let fake = FakeDocker::new("records-failed");
    let step = events::run("builder 1/2", "make.sh");
    let error = "process \"x\" did not complete successfully: exit code: 2";
    fake.play("debian.image", &(begun(&step) + &output(&step, "hello\n") + &failed(&step, error)));
    let ended = push(&fake, &["--check=off"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""));
    let record = record(&fake);
    assert_eq!((&record["status"], &record["pushed"]), (&json!("failed"), &json!(false)));
    assert_eq!((&record["digest"], &record["context_bytes"]), (&Value::Null, &Value::Null));
    assert_eq!(record["step_list"][0]["error"], error);
    assert_eq!(record["seconds"]["steps"], 9.0);
    assert_eq!(record["cache_written"], json!([]));
    let log = fs::read_to_string(record["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("hello") && log.contains(error), "{log}");
}

#[test]
fn the_builds_error_is_shown_also_where_records_cannot_be_written() {
    let fake = FakeDocker::new("records-full");
    fake.play("debian.image", &failed("exporting to image", "push: 403 Forbidden"));
    let full = fake.file("full");
    if !make_device(&full, "7") {
        return;
    }
    let args = ["image", "--variant=debian", "--push", "--check=off", "--records=full"];
    let ended = fake.call(&args).on("x").end();
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
    let errors = ended.stderr.lines().filter(|line| line.starts_with("error: "));
    let errors = errors.collect::<Vec<_>>();
    assert!(errors.iter().any(|error| error.contains("403 Forbidden")), "{}", ended.stderr);
    assert!(ended.stderr.contains("docker login"), "{}", ended.stderr);
    assert!(ended.stderr.contains("records"), "{}", ended.stderr);
    assert!(fs::symlink_metadata(&full).unwrap().file_type().is_char_device());
}

#[test]
fn the_builds_error_and_status_come_before_those_of_the_output() {
    let fake = FakeDocker::new("records-stdout");
    fake.play("debian-b1.image", &failed("[one 1/2] RUN x", "exit code: 2"));
    let bases = ["--base-image=b0", "--base-image=b1", "--check=off", "--jobs=1"];
    let ended = |args: &[&str]| {
        let mut call = fake.push(&[args, &["--target=overlay"]].concat());
        call.0.stdout(File::options().write(true).open("/dev/full").unwrap());
        call.end()
    };
    let said = ended(&bases);
    assert_eq!(said.status, 1);
    let is_error = |line: &&str| line.starts_with("error: ");
    let error = said.stderr.lines().find(is_error).unwrap();
    assert!(!error.contains("standard output"), "{}", said.stderr);
    assert!(said.stderr.contains("warning: cannot write to standard output"), "{}", said.stderr);
    let said = ended(&bases[..1]);
    assert!(said.stderr.contains("error: cannot write to standard output"), "{}", said.stderr);
}

#[test]
fn records_that_cannot_be_written_are_found_out_before_the_build() {
    let fake = FakeDocker::new("records-unwritable");
    let call = fake.push(&["--records=/proc/nope/x"]);
    assert_ne!(call.end().status, 0);
    assert!(fake.begun().is_empty());
}

#[test]
fn records_go_through_links_and_to_standard_output() {
    let fake = FakeDocker::new("records-places");
    symlink("real", fake.file("link")).unwrap();
    for count in 1..3 {
        fake.push(&["--records=link"]).succeed();
        assert_eq!(fake.lines("real").len(), count);
        assert!(fs::symlink_metadata(fake.file("link")).unwrap().is_symlink());
    }
    // A link of the test's own: a program that replaces it must not replace the machine's.
    symlink("/proc/self/fd/1", fake.file("stdout")).unwrap();
    let ended = fake.push(&["--records=stdout"]).succeed();
    let (record, tags) = ended.stdout.split_once('\n').unwrap();
    let record: Value = serde_json::from_str(record).unwrap();
    assert_eq!(record["tags"][0], tags.lines().next().unwrap());
}

#[test]
fn a_run_that_is_stopped_records_what_it_had() {
    let fake = FakeDocker::new("records-stopped");
    fake.play("debian-b1.image", "sleep 600\n");
    let args = ["--records=records", "--check=off", "--base-image=b0", "--base-image=b1"];
    let mut call = fake.push(&args);
    let mut child = call.0.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !fake.file("bakes/debian-b1.image.1").exists() {
        thread::sleep(Duration::from_millis(10));
    }
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let records = fake.records();
    assert_eq!((&records[0]["base_image"], &records[0]["status"]), (&json!("b0"), &json!("built")));
    assert!(records[1..].iter().all(|record| record["status"] != "built"), "{records:#?}");
}

#[test]
fn parallel_steps_save_the_time_that_they_cover() {
    let fake = FakeDocker::new("records-saved");
    let names = [events::run("builder 1/2", "one.sh"), events::run("other 1/2", "two.sh")];
    // 4 s each, of which 3 s at once.
    let slow = done(&names[0], (1.0, 5.0)) + &done(&names[1], (2.0, 6.0));
    fake.play("debian.image.1", &slow);
    fake.play("debian.image", &(cached(&names[0]) + &cached(&names[1])));
    for _ in 0..3 {
        push(&fake, &["--check=off"]);
    }
    // A build between must not lose what it has from the cache.
    let saved = fake.records().into_iter().map(|record| record["steps"]["saved_seconds"].clone());
    assert_eq!(saved.collect::<Vec<_>>(), [Value::Null, json!(5.0), json!(5.0)]);
}

#[test]
fn a_masked_address_in_quotes_leaves_a_record_json() {
    let fake = FakeDocker::new("records-signed");
    let error = "failed to push: Get \"https://s3/b?X-Amz-Signature=0123\": access denied";
    let step = events::run("builder 1/2", "x.sh");
    fake.play("debian.image", &(failed(&step, error) + "exit 1\n"));
    assert_eq!(push(&fake, &["--check=off"]).status, 1);
    let expected = "x.sh: failed to push: Get \"https://s3/b\": access denied";
    assert_eq!(record(&fake)["error"], expected);
}

#[test]
fn passwords_of_proxies_are_neither_kept_nor_shown() {
    let fake = FakeDocker::new("records-proxy");
    let mut said = String::new();
    for (number, proxy) in ["http://me:hush1@p:1", "me:hu/sh2@p:1"].into_iter().enumerate() {
        let error = format!("can't reach http://me:hush{number}@p:1");
        let step = events::run("builder 1/2", "x.sh");
        fake.play("debian.image", &ended(&step, (1.0, 1.0), &json!({ "error": error })));
        let args = ["image", "--variant=debian", "--push", "--explain", "--records=records"];
        let ended = fake.call(&args).on("x").env("HTTP_PROXY", proxy).end();
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        said += &ended.stderr;
    }
    said += &fake.lines("records").concat();
    let files = |folder: &str| fs::read_dir(fake.file(folder)).unwrap();
    let kept = files("target/image").chain(files("target/image/logs"));
    let kept = kept.map(|file| file.unwrap().path()).filter(|path| path.is_file());
    let kept = kept.map(|path| fs::read_to_string(path).unwrap()).collect::<String>();
    assert!(kept.contains("***@p:1") && said.contains("***@p:1"), "{kept}\n{said}");
    for part in ["hush", "sh2", "me:"] {
        assert!(!kept.contains(part) && !said.contains(part), "{part}: {kept}\n{said}");
    }
}

#[test]
fn a_thousand_images_take_little_memory_and_are_recorded_up_to_a_kill() {
    // A quicker docker, which keeps nothing.
    let script = "case \"$*\" in *' bake '*) cat >/dev/null; exit;; *imagetools*) exit 1;; esac";
    let fake = FakeDocker::with_override("records-thousand", script);
    fake.program(
        "docker",
        &format!(
            "#!/bin/sh\ncd {} || exit\n{}\ncase \"$*\" in *inspect*) cat inspected;; esac\n",
            fake.0.0.display(),
            script,
        ),
    );
    fake.write("inspected", INSPECTED);
    let list = (0..1000).map(|number| format!("b{number} n{number}\n")).collect::<String>();
    fake.write("list", &list);
    let mut call = fake.push(&["--base-images=list", "--records=records", "--target=overlay"]);
    let log = File::create(fake.file("log")).unwrap();
    let mut child = call.0.stdout(Stdio::null()).stderr(log).spawn().unwrap();
    while fake.lines("records").len() < 250 {
        assert!(child.try_wait().unwrap().is_none(), "{}", fake.lines("log").join("\n"));
        thread::sleep(Duration::from_millis(50));
    }
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let memory = memory.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
    assert!(memory < 50_000, "{memory} kB");

    let records = fake.records();
    let bases = records.iter().map(|record| record["base_image"].as_str().unwrap().to_owned());
    assert_eq!(bases.collect::<BTreeSet<_>>().len(), records.len());
    for record in &records {
        assert_eq!(record["status"], "built");
        let number = record["base_image"].as_str().unwrap().strip_prefix('b').unwrap();
        let tag = record["tags"][0].as_str().unwrap();
        assert!(tag.ends_with(&format!("-n{number}-overlay")), "{record}");
    }
    // What ended last may have been shown and not recorded, by each of the four jobs.
    let shown = fake.lines("log").iter().filter(|line| line.starts_with("built  b")).count();
    assert!(shown.abs_diff(records.len()) <= 4, "{shown} of {}", records.len());
}

#[test]
fn sizes_are_asked_of_the_registry() {
    let layers = |size: u64| {
        let small = json!({ "digest": "sha256:1", "size": 2 });
        json!({ "layers": [small, { "digest": "sha256:2", "size": size - 2 }] }).to_string()
    };
    let fake = FakeDocker::new("records-sizes");
    let reference = format!("{IMAGE}@{}", sha256(b"debian"));
    fake.put(&reference, &layers(7));
    fake.put(&format!("{IMAGE}:main-debian-a"), &layers(5));
    let built = |git_ref: &str| -> Value {
        let args = ["image", "--variant=debian", "--arch=a", "--push", "--records=records"];
        fake.call(&args).on(git_ref).env(CACHE_MODE, "off").succeed();
        fake.records().pop().unwrap()
    };
    let record = built("topic");
    assert_eq!((&record["bytes"], &record["main_bytes"]), (&json!(7), &json!(5)));
    assert_eq!(built("refs/heads/main")["main_bytes"], Value::Null, "main's image is this one");
}

#[test]
fn names_of_files_command_no_terminal() {
    let name = "/no/\u{1b}]0;owned\u{7}\n::add-mask::x\u{1b}[31m";
    for args in [
        &["image", "summary", name][..],
        &["image", "merge", name],
        &["image", "smoke", name],
        &["image", "summary", "--update", name, "/dev/null"],
        &["image", "--print", "--base-images", name],
        &["image", "--print", "--prebuilt-sdist", name],
        &["image", "--print", "--sdk-project-root", name],
        &["image", "--load", "--records", name, name],
        &["image", name],
        &[name],
    ] {
        let ended = Xtask::new(args).end();
        assert_eq!((ended.status, ended.stdout.as_str()), (2, ""), "{args:?}: {}", ended.stderr);
        let is_safe = ended.stderr.lines().all(|line| !line.contains(|c: char| c.is_control()));
        assert!(is_safe && !ended.stderr.contains("::add-mask::"), "{args:?}: {}", ended.stderr);
    }
}

#[test]
fn the_first_image_that_is_built_finds_the_builder_as_it_was() {
    let fake = FakeDocker::new("records-first-built");
    let push = |bases: &[&str]| {
        let bases = bases.iter().map(|base| format!("--base-image={base}")).collect::<Vec<_>>();
        let bases = bases.iter().map(String::as_str).collect::<Vec<_>>();
        let args = ["--check=off", "--skip-existing", "--records=records"];
        fake.push(&[&args[..], &bases].concat()).succeed();
    };
    push(&["a"]);
    fake.keep();
    push(&["a", "b"]);
    let records = fake.records();
    let found = records.iter().map(|record| json!([record["status"], record["builder_was_empty"]]));
    let expected = [json!(["built", true]), json!(["present", null]), json!(["built", true])];
    assert_eq!(found.collect::<Vec<_>>(), expected);
}

#[test]
fn an_image_whose_bake_cannot_start_has_failed() {
    let fake = FakeDocker::new("records-no-start");
    // The folder for temporary files is gone once the image was checked.
    let script =
        "case \"$*\" in *' bake '*) mv target/image/tmp tmp-was; echo >target/image/tmp;; esac\n";
    fake.write("override.sh", script);
    let ended = fake.push(&["--check=all", "--records=records"]).end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let record = &fake.records()[0];
    assert_eq!(record["status"], "failed", "{}", ended.stderr);
    assert!(record["error"].as_str().unwrap().contains("target/image/tmp"), "{record:#}");
    assert!(ended.stderr.contains("target/image/tmp"), "{}", ended.stderr);
}
