//! Batches on a real engine: what images share, and a layer on each.

use std::fs;

use crate::engine::{bases, checkout};
use crate::support::engine::{Engine, docker};
use crate::support::{CACHE_MODE, Folder, Xtask, records, strings};

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn what_images_share_is_made_once() {
    let engine = Engine::get();
    let list = bases(&engine, 6);
    let image = engine.image("shared");
    let checkout = checkout(
        "shared",
        "ARG BASE_IMAGE\nFROM debian:trixie-slim AS common\n\
         RUN : SALT; head -c 16 /dev/urandom | base64 >/common\n\
         FROM ${BASE_IMAGE} AS base-image\nFROM base-image AS binary\nCOPY --from=common /common /\n",
    );
    let bases = list.iter().flat_map(|base| ["--base-image", base]).collect::<Vec<_>>();
    for delivery in ["--push", "--load"] {
        let always = ["image", "--variant=debian", delivery, "--image", &image];
        let call = Xtask::within(&checkout.0, &[&always[..], &bases].concat()).in_engine(&engine);
        let ended = call.env(CACHE_MODE, "off").on("x").succeed();
        let made = ended.stdout.lines().map(|tag| docker(&["run", "--rm", tag, "cat", "/common"]));
        let mut made = made.collect::<Vec<_>>();
        made.dedup();
        assert_eq!(made.len(), 1, "{made:?}");
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_layer_is_built_on_the_image_of_this_bake() {
    let engine = Engine::get();
    let checkout = checkout(
        "thin-layer",
        "ARG BASE_IMAGE\nFROM ${BASE_IMAGE} AS binary\nRUN : SALT; pwd >/built\n",
    );
    let base = bases(&engine, 6).remove(0);
    let layer = Folder::new("thin-layer-on-top");
    let dockerfile = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN cat /built >/on-top\n";
    fs::write(layer.0.join("Dockerfile"), dockerfile).unwrap();
    let layer = format!("--layer={}", layer.0.display());
    let image = engine.image("thin-layer");
    let args = ["image", "--variant=debian", "--push", "--layer-tag=thin", "--base-image", &base];
    let args = [&args[..], &["--image", &image, &layer, "--records=records"]].concat();
    let mut call = Xtask::within(&checkout.0, &args).in_engine(&engine);
    call.0.current_dir(&checkout.0);
    let ended = call.env(CACHE_MODE, "off").on("x").succeed();
    let [record] = &records(&checkout.0.join("records"))[..] else { panic!("not one record") };
    let thin = ended.stdout.lines().filter(|tag| tag.ends_with("-thin")).collect::<Vec<_>>();
    assert_eq!(thin.len() * 2, engine.tags("thin-layer").len(), "{}", ended.stdout);
    assert_eq!(strings(&record["layer"]["tags"]), thin);
    let tag = thin[0].rsplit(':').next().unwrap();
    assert_eq!(record["layer"]["digest"], engine.digest("thin-layer", tag));
    assert_eq!(docker(&["run", "--rm", thin[0], "cat", "/on-top"]), "/b0");
}
