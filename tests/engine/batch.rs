//! Batches on a real engine: steps that run ahead, what images share, and a layer on each.

use std::fs;

use crate::engine::{bases, checkout};
use crate::support::engine::{Engine, docker};
use crate::support::{CACHE_MODE, Folder, Xtask, records, strings};

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn steps_on_base_images_run_one_at_a_time_beside_the_first_image() {
    let engine = Engine::get();
    let list = bases(&engine, 6)[..4].to_vec();
    let image = engine.image("steps-ahead");
    // Each step notes when it ran. On the third base one fails, which costs that image alone.
    let checkout = checkout(
        "steps-ahead",
        "ARG BASE_IMAGE\n\
         FROM debian:trixie-slim AS common\n\
         RUN : SALT; date +%s.%N >/from; sleep 8; date +%s.%N >/to\n\
         FROM ${BASE_IMAGE} AS base-image\n\
         RUN : SALT; date +%s.%N >/from; sleep 1; date +%s.%N >/to; [ \"$(pwd)\" != /b2 ]\n\
         FROM base-image AS binary\nCOPY --from=common /from /to /common/\n",
    );
    let bases = list.iter().flat_map(|base| ["--base-image", base]).collect::<Vec<_>>();
    let always = ["image", "--variant=debian", "--push", "--image", &image, "--records=records"];
    let mut call = Xtask::within(&checkout.0, &[&always[..], &bases].concat()).in_engine(&engine);
    call.0.current_dir(&checkout.0);
    let ended = call.env(CACHE_MODE, "off").on("x").end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let records = records(&checkout.0.join("records"));
    let failed = records.iter().filter(|record| record["status"] == "failed");
    let failed = failed.map(|record| record["base_image"].as_str().unwrap());
    assert_eq!(failed.collect::<Vec<_>>(), [&list[2]]);
    assert_eq!(engine.tags("steps-ahead").len(), 3);

    let times = |tag: &str, folder: &str| {
        let files = [format!("{folder}/from"), format!("{folder}/to")];
        let text = docker(&["run", "--rm", tag, "cat", &files[0], &files[1]]);
        let times = text.lines().map(|line| line.parse::<f64>().unwrap()).collect::<Vec<_>>();
        (times[0], times[1])
    };
    let images = ended.stdout.lines().collect::<Vec<_>>();
    let common = times(images[0], "/common");
    let mut others = images[1..].iter().map(|tag| times(tag, "")).collect::<Vec<_>>();
    others.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert!(others[0].0 < common.1, "{others:?} {common:?}");
    assert!(others.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{others:?}");
}

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
