//! What is tried again, and how often; what is not; and what hangs.

use crate::support::events::{self, failed, failed_step, refused};
use crate::support::fake::FakeDocker;
use crate::support::{Ended, expected, strings};

/// A push of one image, without its check.
fn push(fake: &FakeDocker, args: &[&str]) -> Ended {
    fake.push(&[&["--check=off"], args].concat()).end()
}

/// How many bakes the image `debian` took, of which the first plays `events`, and how it ended.
fn tries(name: &str, events: &str) -> (i32, usize) {
    let fake = FakeDocker::new(name);
    fake.play("debian.image.1", events);
    let ended = push(&fake, &[]);
    assert_eq!(ended.status != 0, ended.stderr.contains("\nerror: "), "{}", ended.stderr);
    (ended.status, fake.begun().len())
}

#[test]
fn transient_errors_are_tried_again_and_no_others() {
    let push =
        |error: &str| failed("exporting to image", &format!("failed to push r.io/i: {error}"));
    for (events, expected) in [
        (push("unexpected status: 429 Too Many Requests"), (0, 2)),
        (push("unexpected status: 502 Bad Gateway"), (0, 2)),
        (push("write tcp 1.2.3.4: connection reset by peer"), (0, 2)),
        (refused("frontend grpc server closed unexpectedly"), (0, 2)),
        (push("unexpected status: 403 Forbidden"), (1, 1)),
        (push("unexpected status: 401 Unauthorized"), (1, 1)),
        (push("something new"), (1, 1)),
    ] {
        assert_eq!(tries("retries-transient", &events), expected, "{events}");
    }
}

#[test]
fn a_step_that_lost_the_network_is_tried_again_and_no_other() {
    let step = events::run("one 1/2", "apt.sh");
    for (output, expected) in [
        ("E: Failed to fetch http://a/b  503  Service Unavailable [IP: 1]\n", (0, 2)),
        ("curl: (6) Could not resolve host: a\n", (0, 2)),
        ("E: Unable to locate package nothing\n", (1, 1)),
    ] {
        assert_eq!(tries("retries-step", &failed_step(&step, output, 100)), expected, "{output}");
    }
}

#[test]
fn pauses_grow_and_every_try_is_said() {
    let fake = FakeDocker::new("retries-pauses");
    let busy = failed("exporting to image", "failed to push r.io/i: 503 Service Unavailable");
    for number in 1..3 {
        fake.play(&format!("debian.image.{number}"), &busy);
    }
    let ended = push(&fake, &[]);
    assert_eq!(fake.begun().len(), 3);
    expected::check("fake/expected/retries.txt", &ended.stderr);
}

#[test]
fn a_broken_cache_is_left_out_once() {
    let fake = FakeDocker::new("retries-cache");
    let reference = "ghcr.io/openhands/agent-server:buildcache-binary-debian_tag_trixie-slim-x";
    let error =
        format!("failed to compute cache key: failed to copy: httpReadSeeker: {reference}: 404");
    let error = events::import(reference, "") + &failed("[one 1/2] RUN x", &error);
    fake.play("debian.image.1", &error);
    assert_eq!(push(&fake, &[]).status, 0);
    let bakes = fake.bakes();
    let read = |number: usize| strings(&bakes[number].target("debian")["cache-from"]).len();
    assert_eq!((bakes.len(), read(0)), (2, 4));
    assert!(read(1) < 4, "{:#?}", bakes[1]);

    fake.play("debian.image.3", &error);
    fake.play("debian.image.4", &error);
    assert_eq!((push(&fake, &[]).status, fake.begun().len()), (1, 4));
}

#[test]
fn a_pull_limit_ends_a_batch_after_one_pause() {
    let fake = FakeDocker::new("retries-limit");
    // A layer of a base image is asked for as one of a cache is.
    let limit = "failed to copy: httpReadSeeker: failed open: unexpected status from GET request to \
                 https://r.io/v2/b1/blobs/sha256:0: 429 Too Many Requests - Server message: \
                 toomanyrequests: You have reached your unauthenticated pull rate limit.";
    fake.play("debian-b1.image", &failed("[builder 1/2] FROM docker.io/library/b1", limit));
    let bases = (0..6).map(|number| format!("--base-image=b{number}")).collect::<Vec<_>>();
    let bases = bases.iter().map(String::as_str).collect::<Vec<_>>();
    let ended = push(&fake, &[&bases[..], &["--jobs=1"]].concat());
    assert_eq!(ended.status, 1);
    assert_eq!(fake.begun(), ["debian-b0.image.1", "debian-b1.image.1", "debian-b1.image.2"]);
    expected::check("fake/expected/pull_limit.txt", &expected::steady(&ended.stderr, &fake.0.0));
}

#[test]
fn a_build_that_takes_too_long_is_ended_with_the_step_and_the_limit() {
    let fake = FakeDocker::new("retries-hangs");
    fake.play(
        "debian.image",
        &(events::begun(&events::run("one 1/2", "slow.sh")) + "wait never\n"),
    );
    let ended = push(&fake, &["--timeout=3"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
    expected::check("fake/expected/timeout.txt", &expected::steady(&ended.stderr, &fake.0.0));
}

#[test]
fn of_a_batch_only_the_image_that_hangs_is_lost() {
    let fake = FakeDocker::new("retries-hangs-batch");
    let slow = events::begun(&events::run("one 1/2", "slow.sh")) + "wait never\n";
    fake.play("debian-b1.image", &slow);
    let bases = ["b0", "b1", "b2", "b3"].map(|base| format!("--base-image={base}"));
    let bases = bases.each_ref().map(String::as_str);
    let ended = push(&fake, &[&bases[..], &["--timeout=3"]].concat());
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let built = ["b0", "b2", "b3"];
    let tags = built.map(|name| format!("ghcr.io/openhands/agent-server:0123456-{name}"));
    assert_eq!(ended.stdout.lines().collect::<Vec<_>>(), tags);
}

#[test]
fn a_builder_that_comes_back_builds_the_image() {
    let fake = FakeDocker::new("retries-back");
    let lost = "failed to receive status: rpc error: code = Unavailable desc = error reading from server: EOF";
    fake.play("debian.image.1", &refused(lost));
    assert_eq!((push(&fake, &[]).status, fake.begun().len()), (0, 2));
}

#[test]
fn a_warning_of_the_dockerfile_is_shown_once() {
    let fake = FakeDocker::new("retries-warning");
    for kind in ["check", "image", "cache"] {
        fake.play(&format!("all.{kind}"), &events::warning("LegacyKeyValueFormat"));
    }
    let ended = fake.call(&["image", "--variant=debian", "--push"]).on("x").succeed();
    assert_eq!(fake.begun().len(), 3);
    assert_eq!(ended.stderr.matches("LegacyKeyValueFormat").count(), 1, "{}", ended.stderr);
}

#[test]
fn folders_that_killed_runs_left_stop_no_build() {
    let fake = FakeDocker::new("retries-left");
    for number in 0..1100 {
        fake.write(&format!("tmp/xshell-tmp-dir-{number}/file"), "");
    }
    let call = fake.push(&["--check=off"]).env("TMPDIR", fake.file("tmp"));
    call.succeed();
    assert_eq!(std::fs::read_dir(fake.file("tmp")).unwrap().count(), 1100);
}
