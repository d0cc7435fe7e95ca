//! A probe, and attestations, on a real registry.

use crate::engine::own_base;
use crate::support::engine::Engine;
use crate::support::proxy::{Answer, Proxy};
use crate::support::{CACHE_MODE, Folder, Xtask};
use serde_json::{Value, json};

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_probe_pushes_to_a_real_registry() {
    let engine = Engine::get();
    let probe =
        |image: &str| Xtask::new(&["image", "probe", "--image", image]).in_engine(&engine).end();
    let proxy = Proxy::start(&engine.registry);
    let image = engine.image("probed").replace(&engine.registry, &proxy.address);
    for _ in 0..2 {
        let ended = probe(&image);
        assert_eq!(ended.status, 0, "{}", ended.stderr);
    }
    proxy.obey(
        |request| if request.writes() { Answer::Status("403 Forbidden") } else { Answer::Pass },
    );
    let ended = probe(&image);
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("docker login"), "{}", ended.stderr);
    assert_eq!(engine.tags("probed").len(), 1);
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn attestations_reach_the_merged_tag() {
    let engine = Engine::get();
    let checkout = Folder::checkout("attested");
    let base = own_base(&engine, "attested-base");
    let image = engine.image("attested");
    let args = ["image", "--push", "--variant=debian", "--target=base-image-minimal"];
    let rest =
        ["--platforms=linux/amd64", "--arch=amd64", "--image", &image, "--base-image", &base];
    let place = ["--records=records", "--", "--provenance=mode=max"];
    let mut call = Xtask::within(&checkout.0, &[&args[..], &rest, &place].concat());
    call.0.current_dir(&checkout.0);
    call.in_engine(&engine).on("x").env(CACHE_MODE, "off").succeed();
    let args = ["image", "merge", "--platforms=linux/amd64", "records"];
    let mut call = Xtask::within(&checkout.0, &args).in_engine(&engine);
    call.0.current_dir(&checkout.0);
    call.succeed();
    let manifest = engine.manifest("attested", "x-debian-base-image-minimal");
    let manifests = manifest["manifests"].as_array().unwrap();
    let kind = |entry: &Value| entry["annotations"]["vnd.docker.reference.type"].clone();
    let kinds = manifests.iter().map(kind).collect::<Vec<_>>();
    assert_eq!(kinds, [Value::Null, json!("attestation-manifest")], "{manifest}");
    let about = &manifests[1]["annotations"]["vnd.docker.reference.digest"];
    assert_eq!(*about, manifests[0]["digest"]);
}
