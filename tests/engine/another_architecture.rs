//! Another architecture than the machine's. It keeps one core busy for minutes, so it is the first test by
//! its name, and in an engine of its own: `BuildKit` repeats steps beside an emulated build.

use std::process::Stdio;

use serde_json::json;

use crate::engine::{FEWER, give};
use crate::support::engine::Engine;
use crate::support::{CACHE_MODE, Folder, Xtask, records, strings};

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn one_run_builds_both_architectures_under_one_tag() {
    let engine = Engine::emulating();
    let folder = Folder::new("both");
    let file = folder.0.join("records");
    let image = engine.image("both");
    let args = ["image", "--variant=debian", "--push", "--platforms=linux/amd64,linux/arm64"];
    let rest =
        ["--target=base-image-minimal", "--image", &image, "--records", file.to_str().unwrap()];
    let base = engine.image("base");
    let platforms = ["--platform=linux/amd64,linux/arm64", "--provenance=false", "--push"];
    let build = [&["buildx", "build", "--tag", &base, "-"], &platforms[..]].concat();
    // Emulated, npm would take many minutes, and the certificates one.
    let dockerfile = "FROM debian:trixie-slim\nRUN cd /usr/sbin && \
        dpkg-divert --add --rename --divert /none $PWD/update-ca-certificates && \
        ln -s /bin/true update-ca-certificates\n";
    give(engine.command(&build).stderr(Stdio::piped()), dockerfile);
    let args = [&args[..], &rest, &FEWER, &["--base-image", &base]].concat();
    let call = Xtask::shipped(&args).in_engine(&engine);
    let ended = call.on("x").env(CACHE_MODE, "off").succeed();
    let tag = ended.stdout.lines().next().unwrap().strip_prefix(&format!("{image}:")).unwrap();
    let [record] = &records(&file)[..] else { panic!("not one record") };
    assert_eq!(record["digest"], engine.digest("both", tag));
    assert_eq!(record["platforms"], json!(["linux/amd64", "linux/arm64"]));
    assert_eq!(strings(&record["tags"]), ended.stdout.lines().collect::<Vec<_>>());
    let manifest = engine.manifest("both", tag);
    let platforms = manifest["manifests"].as_array().unwrap().iter();
    let platforms = platforms.map(|entry| entry["platform"]["architecture"].clone());
    assert_eq!(platforms.collect::<Vec<_>>(), ["amd64", "arm64"]);
}
