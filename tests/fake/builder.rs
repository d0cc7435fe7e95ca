//! What is missing is found before the build, and said with what to do; and how a build ends.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::fake::{FakeDocker, INSPECTED};
use crate::support::{Ended, Folder, Xtask, expected};

/// A docker on which every call fails so, but for those in `script`.
fn failing(name: &str, script: &str, error: &str) -> FakeDocker {
    let script = format!("case \"$*\" in\n{script}\n*) echo '{error}' >&2; exit 1;;\nesac\n");
    FakeDocker::with_override(name, &script)
}

fn inspecting(name: &str, inspected: &str) -> FakeDocker {
    let fake = FakeDocker::new(name);
    fake.write("inspected", inspected);
    fake
}

#[test]
fn a_build_that_cannot_start_says_what_is_missing() {
    let mut text = String::new();
    let mut add = |title: &str, fake: &FakeDocker, args: &[&str]| {
        let call = fake.call(&[&["image", "--variant=debian"], args].concat());
        let Ended { status, stdout, stderr } = call.on("x").end();
        assert_eq!((status, stdout.as_str()), (1, ""), "{title}: {stderr}");
        assert!(fake.begun().is_empty(), "{title}");
        text += &format!("# {title}\n{}\n", expected::steady(&stderr, &fake.0.0));
    };
    let fake = failing("builder-no-buildx", "", "docker: unknown command: docker buildx");
    add("no buildx", &fake, &["--push"]);
    let podman = "*version*) echo 'podman version 5.4.2'; exit 125;;";
    let fake = failing("builder-podman", podman, "Error: unknown flag: --debug");
    add("podman", &fake, &["--push"]);
    let down = "Name: default\nDriver: docker\n\nNodes:\nName: default\nError: Cannot connect to the Docker \
                daemon. Is it running?\n";
    add("no engine", &inspecting("builder-down", down), &["--load"]);
    let fake = failing("builder-none", "*version*) exit 0;;", "ERROR: no builder \"x\" found");
    add("no such builder", &fake, &["--push", "--builder=x"]);
    let old = INSPECTED.replace("v0.13.2", "v0.11.7");
    add("an old engine", &inspecting("builder-old", &old), &["--push"]);
    let two = ["--push", "--platforms=linux/amd64,linux/arm64"];
    add("a platform that it does not run", &inspecting("builder-platform", INSPECTED), &two);
    expected::check("fake/expected/builder.txt", &text);
}

#[test]
fn what_was_typed_is_in_the_advice_as_a_shell_reads_it() {
    let empty = Folder::new("builder-typed");
    let args = ["image", "--variant", "debian", "--builder", "it's", "--target=source"];
    let ended = Xtask::new(&args).env("PATH", &empty.0).end();
    assert_eq!(ended.stdout, "");
    expected::check("fake/expected/typed.txt", &expected::steady(&ended.stderr, &empty.0));
}

#[test]
#[ignore = "waits a minute for an engine: cargo test -- --include-ignored"]
fn an_engine_that_stops_answering() {
    let fake = FakeDocker::with_override("builder-hangs", "exec sleep 600");
    let ended = fake.call(&["image"]).end();
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""));
    expected::check("fake/expected/builder_hangs.txt", &expected::steady(&ended.stderr, &fake.0.0));
}

#[test]
fn a_signal_ends_the_build_and_leaves_no_file() {
    let fake = FakeDocker::new("builder-signal");
    fake.play("debian.image", "sleep 600\n");
    fs::create_dir(fake.file("tmp")).unwrap();
    for (number, (signal, status)) in [("INT", 130), ("TERM", 143)].into_iter().enumerate() {
        let mut call = fake.call(&["image", "--variant=debian", "--load"]);
        let pipes = call.0.env("TMPDIR", fake.file("tmp")).stdout(Stdio::piped());
        let build = pipes.stderr(Stdio::piped()).spawn().unwrap();
        while fake.begun().len() == number {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let pid = build.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        let ended = Ended::from(build.wait_with_output().unwrap());
        assert_eq!((ended.status, ended.stdout.as_str()), (status, ""), "{}", ended.stderr);
        for folder in ["tmp", "target/image/tmp"] {
            let left = fs::read_dir(fake.file(folder)).map_or(0, Iterator::count);
            assert_eq!(left, 0, "{folder}");
        }
    }
}

#[test]
fn a_variants_name_on_another_base_is_pushed_with_a_warning() {
    let fake = FakeDocker::new("builder-other-base");
    for (args, expected) in
        [(&["--base-image=debian:12", "--check=off"][..], 1), (&["--check=off"], 0)]
    {
        let ended = fake.push(args).succeed();
        let warnings = ended.stderr.lines().filter(|line| line.starts_with("warning: "));
        let warnings = warnings.filter(|line| line.contains("debian:12"));
        assert_eq!(warnings.count(), expected, "{}", ended.stderr);
    }
}
