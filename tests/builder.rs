//! What is missing is found before the build, and said with its remedy. These tests put a fake
//! `docker` on PATH: a real engine can't be made to lack a plugin, or to stop answering.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::fake::{FakeDocker, INSPECTED};
use crate::support::{Ended, Folder, Xtask, strings};

/// The build did not start, and one line says what is missing and what to do.
fn check_refused(fake: &FakeDocker, ended: &Ended, parts: &[&str]) {
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    for part in parts {
        assert!(ended.stderr.contains(part), "{} lacks {part:?}", ended.stderr);
    }
    assert!(fake.baked().is_none());
}

#[test]
fn no_docker() {
    let empty = Folder::new("no-docker");
    let args = ["image", "run", "--variant", "debian", "--", "--set", "*.args.A=it's", ""];
    let ended = Xtask::new(&args).env("PATH", &empty.0).end();
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""));
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    let typed = r"image run --variant debian -- --set '*.args.A=it'\''s' ''";
    let parts = ["docker", &format!("`cargo xtask engine -- cargo xtask {typed}`")];
    assert!(parts.iter().all(|part| ended.stderr.contains(part)), "{}", ended.stderr);
}

#[test]
fn no_buildx() {
    let unknown = "echo \"docker: unknown command: docker $1\" >&2; exit 1";
    let fake = FakeDocker::new("no-buildx", unknown);
    check_refused(&fake, &fake.build(&[]), &["docker-buildx", "xtask engine"]);
}

#[test]
fn no_engine() {
    let inspected = "Name: default\nError: Cannot connect to the Docker daemon. Is it running?\n";
    let fake = FakeDocker::with_builder("no-engine", inspected);
    check_refused(&fake, &fake.build(&[]), &["Cannot connect", "xtask engine"]);
}

#[test]
fn an_engine_that_stops_answering() {
    let fake = FakeDocker::new("hangs", "exec sleep 600");
    let ended = fake.call(&["image"]).end();
    check_refused(&fake, &ended, &["Docker"]);
}

#[test]
fn no_such_builder() {
    let script =
        "case \"$*\" in *version*) ;; *) echo 'ERROR: no builder \"x\" found' >&2; exit 1;; esac";
    let fake = FakeDocker::new("no-builder", script);
    check_refused(&fake, &fake.build(&["--builder=x"]), &["no builder \"x\" found", "buildx ls"]);
}

#[test]
fn a_platform_that_the_builder_does_not_run() {
    let fake = FakeDocker::with_builder("platform", INSPECTED);
    let ended = fake.build(&["--platforms=linux/amd64,linux/arm64"]);
    check_refused(&fake, &ended, &["linux/arm64", "linux/386", "QEMU"]);
    assert_eq!(fake.build(&["--platforms=linux/amd64"]).status, 0);
}

#[test]
fn a_builder_that_cannot_export_costs_the_export_and_not_the_image() {
    let inspected = INSPECTED.replace("Cache export: true", "Cache export: false");
    let fake = FakeDocker::with_builder("no-export", &inspected);
    let ended = fake.build(&[]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let warnings = ended.stderr.lines().filter(|line| line.starts_with("warning: "));
    let warnings = warnings.collect::<Vec<_>>();
    assert!(matches!(warnings[..], [one] if one.contains("containerd")), "{}", ended.stderr);
    let target = &fake.baked().unwrap()["target"]["debian"];
    assert!(strings(&target["cache-to"]).is_empty());
    assert!(!strings(&target["cache-from"]).is_empty());
}

#[test]
fn a_build_hands_over_what_print_shows_and_lists_the_tags() {
    let fake = FakeDocker::with_builder("same", INSPECTED);
    let print = Xtask::print(&["--variant=debian,java", "--push"]).definition();
    let call = fake.call(&["image", "--variant=debian,java", "--push", "--", "--no-cache"]);
    let ended = call.on("refs/heads/main").end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let mut baked = fake.baked().unwrap();
    for target in baked["target"].as_object_mut().unwrap().values_mut() {
        // It needs the digests of base images, which only a registry knows.
        let labels = target["labels"].as_object_mut().unwrap();
        assert!(labels.remove("dev.openhands.inputs").is_some());
    }
    assert_eq!(baked, print);
    let called = fs::read_to_string(fake.file("called")).unwrap();
    assert!(called.starts_with("buildx bake --file - ") && called.ends_with(" --no-cache\n"));
    let tags = ["debian", "java"].iter().flat_map(|name| strings(&print["target"][name]["tags"]));
    assert_eq!(ended.stdout.lines().collect::<Vec<_>>(), tags.collect::<Vec<_>>());
}

#[test]
fn a_build_that_fails_ends_with_1_and_lists_nothing() {
    let script = "case \"$*\" in *inspect*) cat inspected;; *) cat > baked; exit 17;; esac";
    let fake = FakeDocker::new("fails", script);
    fs::write(fake.file("inspected"), INSPECTED).unwrap();
    let ended = fake.build(&[]);
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""));
    let errors = ended.stderr.lines().filter(|line| line.starts_with("error: "));
    assert_eq!(errors.count(), 1, "{}", ended.stderr);
}

#[test]
fn a_signal_ends_the_build_and_leaves_no_file() {
    let script = "case \"$*\" in *inspect*) cat inspected;; *) cat > baked; exec sleep 600;; esac";
    let fake = FakeDocker::new("signal", script);
    fs::write(fake.file("inspected"), INSPECTED).unwrap();
    fs::create_dir(fake.file("tmp")).unwrap();
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let mut call = fake.call(&["image", "--variant=debian"]);
        let pipes = call.0.env("TMPDIR", fake.file("tmp")).stdout(Stdio::piped());
        let build = pipes.stderr(Stdio::piped()).spawn().unwrap();
        while fake.baked().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let pid = build.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        let ended = Ended::from(build.wait_with_output().unwrap());
        assert_eq!((ended.status, ended.stdout.as_str()), (status, ""), "{}", ended.stderr);
        assert_eq!(fs::read_dir(fake.file("tmp")).unwrap().count(), 0);
        fs::remove_file(fake.file("baked")).unwrap();
    }
}

#[test]
fn a_load_is_for_the_engines_own_platform() {
    let inspected = INSPECTED.replace("linux/amd64*, linux/386", "linux/amd64*, linux/arm64");
    let fake = FakeDocker::with_builder("load-platforms", &inspected);
    let platforms = ["image", "--variant=debian", "--platforms=linux/arm64,linux/amd64"];
    let ended = fake.call(&[&platforms[..], &["--load"]].concat()).end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(fake.baked().unwrap()["target"]["debian"]["platforms"], json!(["linux/amd64"]));
    let warning = ended.stderr.lines().find(|line| line.starts_with("warning: ")).unwrap();
    assert!(warning.contains("linux/amd64") && warning.contains("linux/arm64"), "{warning}");
}

#[test]
fn a_variants_name_on_another_base_is_pushed_with_a_warning() {
    let fake = FakeDocker::with_builder("other-base", INSPECTED);
    for (args, warns) in [(&["--base-image=debian:12", "--push"][..], true), (&["--push"], false)] {
        let ended = fake.call(&[&["image", "--variant=debian"], args].concat()).end();
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        let warning = ended.stderr.lines().find(|line| line.starts_with("warning: "));
        assert_eq!(warning.is_some_and(|line| line.contains("debian:12")), warns, "{warning:?}");
    }
}

#[test]
fn a_context_alone_is_not_made() {
    let said = Xtask::new(&["image", "--build-ctx-only"]).refused();
    assert!(said.contains("--build-ctx-only") && said.contains("--print"), "{said}");
}
