//! What is missing is found before the build, and said with what to do; and how a build ends.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::engine::signal;
use crate::support::events::failed;
use crate::support::fake::{FakeDocker, INSPECTED};
use crate::support::{Ended, Folder, Xtask, events, expected};
use serde_json::json;

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
    let down = "Name:          default\nDriver:        \nLast Activity: 2026-11-30 00:00:00 +0000 UTC\n\
                Error:         Cannot connect to the Docker daemon. Is it running?\n";
    add("no engine", &inspecting("builder-down", down), &["--load"]);
    let closed = down.replace(
        "Cannot connect to the Docker daemon. Is it running?",
        "permission denied while trying to connect to the docker API at unix:///var/run/docker.sock",
    );
    add("an engine of others", &inspecting("builder-closed", &closed), &["--load"]);
    let podmans = down.replace(
        "Cannot connect to the Docker daemon. Is it running?",
        "listing workers: failed to list workers: Unavailable: unable to upgrade to h2c, received 404",
    );
    add("podman's socket", &inspecting("builder-socket", &podmans), &["--load"]);
    let kube = "Name: kube\nDriver: kubernetes\n\nNodes:\nName: kube0\nEndpoint: kubernetes:///a\n\
                Status: running\n\nName: kube1\nEndpoint: kubernetes:///b\n";
    let lost = format!("{kube}Error: no answer\n");
    add("a node that is not there", &inspecting("builder-node", &lost), &["--push"]);
    let fake = inspecting("builder-start", &kube.replace("running", "inactive"));
    let script = "case \"$*\" in *--bootstrap*) echo 'ERROR: no pull' >&2; exit 1;; esac";
    fake.write("override.sh", script);
    add("a builder that does not start", &fake, &["--push"]);
    let fake = failing("builder-none", "*version*) exit 0;;", "ERROR: no builder \"x\" found");
    add("no such builder", &fake, &["--push", "--builder=x"]);
    let old = INSPECTED.replace("v0.13.2", "v0.11.7");
    add("an old engine", &inspecting("builder-old", &old), &["--push"]);
    let old = INSPECTED.replace("BuildKit version: v0.13.2", "Buildkit: v0.9.3");
    add("an older engine and buildx", &inspecting("builder-older", &old), &["--push"]);
    let debian_12 = INSPECTED.replace("v0.13.2", "v0.8+unknown");
    add("the engine of Debian 12", &inspecting("builder-debian-12", &debian_12), &["--push"]);
    let ubuntu = "*version*) echo github.com/docker/buildx 0.12.1 0.12.1-0ubuntu1; exit;;";
    let fake = failing("builder-old-buildx", ubuntu, "unknown flag: --debug");
    add("an old buildx", &fake, &["--push"]);
    let wsl = "echo \"The command 'docker' could not be found in this WSL 2 distro.\"; \
               echo 'We recommend to activate the WSL integration in Docker Desktop settings.'; exit 1";
    let fake = FakeDocker::with_override("builder-wsl", wsl);
    add("Docker Desktop that is not switched on here", &fake, &["--push"]);
    let roots = "ERROR: mkdir /home/me/.docker/buildx: permission denied";
    let known = "*version*) echo github.com/docker/buildx v0.29.1 abc; exit;;";
    let fake = failing("builder-roots", known, roots);
    add("a folder of Docker's that is root's", &fake, &["--push"]);
    let two = ["--push", "--platforms=linux/amd64,linux/arm64"];
    add("a platform that it does not run", &inspecting("builder-platform", INSPECTED), &two);
    expected::check("fake/expected/builder.txt", &text);
}

/// Each node has platforms of its own, and one that was stopped prints none.
#[test]
fn a_builder_of_several_nodes_builds_for_the_platforms_of_each() {
    let node = |name: &str, platform: &str| {
        format!("Name: {name}\nEndpoint: unix:///{name}\nStatus: running\nPlatforms: {platform}\n")
    };
    let (one, two) = (node("a", "linux/amd64*, linux/386"), node("b", "linux/arm64*"));
    let both = format!("Name: multi\nDriver: docker-container\n\nNodes:\n{one}\n{two}");
    let fake = inspecting("builder-nodes", &both);
    let args = ["image", "--variant=debian", "--push", "--platforms=linux/amd64,linux/arm64"];
    fake.call(&args).on("x").succeed();
    let stopped = both.replace("running\nPlatforms: linux/arm64*", "stopped");
    let script = format!("case \"$*\" in *--bootstrap*) printf '{both}'; exit;; esac");
    fake.write("inspected", &stopped);
    fake.write("override.sh", &script);
    fake.call(&args).on("x").succeed();
    fake.write("override.sh", "");
    let mute = both.lines().filter(|line| !line.starts_with("Platforms"));
    fake.write("inspected", &mute.map(|line| format!("{line}\n")).collect::<String>());
    fake.call(&args).on("x").succeed();
}

#[test]
fn a_buildx_that_does_not_know_the_flags_is_too_old() {
    let script = "case \"$*\" in *version) echo github.com/docker/buildx v0.12.1 abc; exit;; esac";
    let fake = FakeDocker::with_override("builder-buildx", script);
    fake.play("all.image", "ERROR: invalid progress mode rawjson\nexit 1\n");
    let ended = fake.push(&["--check=off"]).end();
    assert_eq!((ended.status, fake.begun().len()), (1, 1), "{}", ended.stderr);
    let error =
        "\nerror: debian was not built: buildx v0.12.1 is too old; install buildx 0.13 or newer\n";
    assert!(ended.stderr.contains(error), "{}", ended.stderr);
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
fn what_was_pushed_when_a_signal_comes_is_told() {
    let fake = FakeDocker::new("builder-pushed");
    let export = events::done("exporting to image", (1.0, 2.0));
    // It is stopped by the signal, and ends with an error.
    fake.play("debian.image", &format!("{export}sleep 600\n"));
    let mut call = fake.push(&["--check=off", "--records=records"]);
    let build = call.0.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let log = fake.file("target/image/logs/debian.log");
    while !fs::read_to_string(&log).is_ok_and(|log| log.contains("DONE")) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    signal("TERM", build.id());
    let ended = Ended::from(build.wait_with_output().unwrap());
    assert_eq!(ended.status, 143, "{}", ended.stderr);
    assert!(ended.stdout.contains("-debian\n"), "{}", ended.stderr);
    let record = &fake.records()[0];
    assert_eq!((&record["status"], &record["pushed"]), (&json!("built"), &json!(true)));
}

#[test]
fn docker_finds_its_folders_where_the_caller_stands() {
    let script = "echo \"$DOCKER_CONFIG $DOCKER_CERT_PATH $BUILDX_CONFIG\" >>folders";
    let fake = FakeDocker::with_override("builder-folders", script);
    fs::create_dir(fake.file("here")).unwrap();
    let call = fake.push(&["--check=off"]).env("DOCKER_CONFIG", "a").env("BUILDX_CONFIG", "../c");
    let mut call = call.env("DOCKER_CERT_PATH", "/b");
    call.0.current_dir(fake.file("here"));
    call.succeed();
    let here = fake.file("here").canonicalize().unwrap();
    let expected = format!("{0}/a /b {0}/../c", here.display());
    let folders = fake.lines("folders");
    assert!(!folders.is_empty() && folders.iter().all(|f| *f == expected), "{folders:?}");
}

/// buildx itself gives each node 20 s.
#[test]
fn a_builder_that_answers_late_is_waited_for() {
    let script = "case \"$*\" in *'buildx inspect') sleep 12;; esac";
    FakeDocker::with_override("builder-late", script).push(&["--check=off"]).succeed();
}

#[test]
fn onbuild_triggers_are_announced_and_named_where_one_fails() {
    let fake = FakeDocker::new("builder-triggers");
    fake.put("node:onbuild", "{}");
    fake.write("image_node_onbuild", r#"{ "config": { "OnBuild": ["COPY package.json /"] } }"#);
    let copy = "[base 2/2] COPY package.json /";
    let missing = "failed to calculate checksum of ref a::b: \"/package.json\": not found";
    fake.play("all.image", &failed(copy, missing));
    let ended = fake.push(&["--check=off", "--base-image=node:onbuild"]).end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let warning = "warning: the base image node:onbuild has ONBUILD triggers: ";
    assert!(ended.stderr.contains(warning), "{}", ended.stderr);
    let hint = "hint: the step is an ONBUILD trigger of the base image: ";
    assert!(ended.stderr.contains(hint), "{}", ended.stderr);
    let doctor = fake.call(&["image", "doctor", "--push", "--base-image=node:onbuild"]).end();
    assert!(doctor.stderr.contains(warning), "{}{}", doctor.stdout, doctor.stderr);
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
