//! An engine whose disk is full.

use crate::support::events::failed;
use crate::support::fake::FakeDocker;

/// A docker whose disk has so many kB free.
fn with_free(name: &str, free: &str) -> FakeDocker {
    let script = "case \"$*\" in
        info*) echo \"$(uname -n) /\"; exit;;
        *prune*) echo \"$*\" >> order; exit;;
        esac";
    let fake = FakeDocker::with_override(name, script);
    fake.program("df", &format!("#!/bin/sh\necho Free; echo /dev/x 90000000 1000 {free} 70% /\n"));
    fake
}

/// How often a batch of seventeen pruned the cache, which is to be done from that percentage on.
fn prunes(name: &str, free: &str, threshold: &str, keep: &str) -> Vec<String> {
    let fake = with_free(name, free);
    let bases = (0..17).map(|number| format!("b{number}")).collect::<Vec<_>>().join(",");
    let args = [&format!("--base-image={bases}"), "--check=off", "--target=overlay"];
    let call = fake.push(&args).env("BUILDKIT_PRUNE_THRESHOLD_PCT", threshold);
    call.env("BUILDKIT_PRUNE_KEEP_GB", keep).succeed();
    let mut lines = fake.lines("order");
    lines.retain(|line| line.contains("prune"));
    lines
}

#[test]
fn a_batch_prunes_the_build_cache_where_that_is_wanted() {
    let (little, enough) = ("4000000", "50000000");
    let prune = "buildx prune --all --force --keep-storage=7gb";
    assert_eq!(prunes("disk-full", little, "70", "7"), [prune, prune]);
    assert_eq!(prunes("disk-free", enough, "71", "7"), [""; 0]);
    assert_eq!(prunes("disk-own", little, "", ""), [""; 0]);
}

#[test]
fn a_disk_without_space_fails_the_image_and_says_what_to_do() {
    let fake = with_free("disk-no-space", "50000000");
    fake.play("debian.image", &failed("[one 1/2] RUN x", "mkdir /x: no space left on device"));
    let ended = fake.push(&["--check=off"]).end();
    assert_eq!((ended.status, fake.begun().len()), (1, 1), "{}", ended.stderr);
    // Nobody asked for a prune of a cache that others may use.
    assert!(!fake.lines("order").iter().any(|line| line.contains("prune")));
    assert!(ended.stderr.contains("\nhint: make room: `docker buildx prune`"), "{}", ended.stderr);
}
