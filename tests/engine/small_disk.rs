//! A batch whose images are larger than the engine's disk.

use std::fs;
use std::process::Command;

use crate::support::engine::{Engine, docker};
use crate::support::{CACHE_MODE, Ended, Folder, engine_program, root};

/// What the disk holds, and what an image has of its own, in MB.
const DISK: usize = 500;
const OWN: usize = 125;
const IMAGES: usize = 20;

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_batch_five_times_as_large_as_the_disk_is_pushed_whole() {
    let engine = Engine::get();
    let checkout = Folder::checkout("disk");
    let dockerfile = format!(
        "ARG BASE_IMAGE\nFROM ${{BASE_IMAGE}} AS binary\nRUN head -c {OWN}M /dev/urandom > /own\n"
    );
    fs::write(checkout.0.join("agent-server-image/Dockerfile"), dockerfile).unwrap();
    let base = engine.image("base");
    let bases = (0..IMAGES).map(|number| {
        let name = format!("{base}:{number}");
        docker(&["tag", "debian:trixie-slim", &name]);
        docker(&["push", "--quiet", &name]);
        docker(&["rmi", &name]);
        name + "\n"
    });
    fs::write(checkout.0.join("list"), bases.collect::<String>()).unwrap();
    // The mount goes with the namespace.
    let script = r#"
        mkdir -p "$1/target/engine/fresh"
        ln -s "$2" "$1/target/engine/downloads"
        mount -t tmpfs -o "size=$4M" tmpfs "$1/target/engine/fresh"
        export CARGO_MANIFEST_DIR="$1/xtask/engine"
        exec "$6" --fresh -- env CARGO_MANIFEST_DIR="$1/xtask" "$3" image --variant=debian --push \
            --jobs=1 --check=off --image="$5" --base-images="$1/list""#;
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-ec", script, "sh"]).arg(&checkout.0);
    unshare.arg(root().join("target/engine/downloads")).arg(env!("CARGO_BIN_EXE_xtask"));
    unshare.args([&DISK.to_string(), &engine.image("disk")]).arg(engine_program());
    for (name, value) in [
        (CACHE_MODE, "off"),
        ("BUILDKIT_PRUNE_THRESHOLD_PCT", "50"),
        ("BUILDKIT_PRUNE_KEEP_GB", "0"),
        ("SDK_SHA", "0123456789"),
        ("SDK_REF", "x"),
    ] {
        unshare.env(name, value);
    }
    let ended = Ended::from(unshare.output().unwrap());
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(engine.tags("disk").len(), IMAGES, "{}", ended.stderr);
    assert!(ended.stderr.contains("pruning its build cache"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("no space left"), "{}", ended.stderr);
}
