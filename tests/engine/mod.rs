//! A real engine and a registry: `cargo xtask engine -- cargo test -- --include-ignored`.

mod another_architecture;
mod bases;
mod batch;
mod broken_batch;
mod cache_failures;
mod caches;
mod capabilities;
mod clients;
mod contract;
mod doctor;
mod engine_command;
mod overlay;
mod publish;
mod registry_failures;
mod run;
mod sdk_checkout;
mod shards;
mod small_disk;
mod workflow;

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use serde_json::{Map, json};

use crate::support::engine::{Engine, once};
use crate::support::{CACHE_MODE, Folder, Xtask};

/// The targets that start a server on their own.
const TARGETS: [&str; 3] = ["source-minimal", "binary-minimal", "overlay"];

/// The capabilities and ACP providers are some GB, which few tests need.
const FEWER: [&str; 2] = ["--install-capabilities=", "--install-acp-providers="];

/// The image of each target on `debian:trixie-slim`, built once for all tests.
fn images(engine: &Engine) -> [(&'static str, &'static str); 3] {
    static IMAGES: OnceLock<[String; 3]> = OnceLock::new();
    // Each test starts their servers.
    let args = ["image", "--variant=debian", "--image-flavor=minimal", "--load", "--check=off"];
    let image = |target: &str| {
        let rest = ["--target", target, "--image", &engine.image("server")];
        let call = Xtask::shipped(&[&args[..], &rest, &FEWER].concat()).in_engine(engine);
        let ended = call.on("refs/heads/x").env(CACHE_MODE, "off").succeed();
        ended.stdout.lines().next().unwrap().to_owned()
    };
    let images = once(&IMAGES, || TARGETS.map(image));
    [0, 1, 2].map(|number| (TARGETS[number], images[number].as_str()))
}

/// Built in two seconds. What `builder` makes is in no image, so only a cache has it. What was built
/// once is in an engine for good, so every checkout needs another `SALT`.
const DOCKERFILE: &str = "
ARG BASE_IMAGE=scratch
FROM ${BASE_IMAGE} AS builder
RUN : SALT; head -c 8M /dev/urandom >/random
FROM ${BASE_IMAGE} AS binary
ARG BASE_IMAGE
RUN --mount=from=builder,target=/builder sha256sum /builder/random >/sum && echo $BASE_IMAGE >/base
ARG OPENHANDS_BUILD_GIT_SHA
LABEL org.opencontainers.image.revision=${OPENHANDS_BUILD_GIT_SHA}
";

/// A checkout of the fixture whose image is made of this Dockerfile.
fn checkout(name: &str, dockerfile: &str) -> Folder {
    let folder = Folder::checkout(name);
    write_dockerfile(&folder, dockerfile);
    folder
}

fn write_dockerfile(checkout: &Folder, text: &str) {
    let salt = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let text = text.replace("SALT", &format!("{} {salt}", checkout.0.display()));
    fs::write(checkout.0.join("agent-server-image/Dockerfile"), text).unwrap();
}

/// As many base images in the registry, in whose working directories `/b0` and so on their names are.
fn bases(engine: &Engine, count: usize) -> Vec<String> {
    /// How many there are, by the tests that share them.
    static MADE: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let name = |number: usize| engine.image(&format!("base/b{number}"));
    let all = made.entry(engine.image("base")).or_default();
    if *all >= count {
        return (0..count).map(name).collect();
    }
    let mut targets = Map::new();
    for number in 0..count {
        let dockerfile = format!("FROM debian:trixie-slim\nWORKDIR /b{number}\n");
        let output = "type=image,push=true";
        let target = json!({ "dockerfile-inline": dockerfile, "tags": [name(number)],
                             "output": [output] });
        targets.insert(format!("b{number}"), target);
    }
    let names = targets.keys().cloned().collect::<Vec<_>>();
    let definition = json!({ "group": { "default": { "targets": names } }, "target": targets });
    let context = Folder::new("bases");
    let mut bake = engine.command(&["buildx", "bake", "--file", "-"]);
    // With an attestation, a manifest would be a list.
    bake.env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1").current_dir(&context.0);
    give(bake.stderr(Stdio::piped()), &definition.to_string());
    *all = count;
    (0..count).map(name).collect()
}

/// Runs a command that has to succeed with that standard input.
fn give(command: &mut Command, input: &str) {
    use std::io::Write as _;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A base image like `debian:trixie-slim` in a repository of the test's own.
fn own_base(engine: &Engine, name: &str) -> String {
    let base = engine.image(name);
    engine.docker(&["tag", "debian:trixie-slim", &base]);
    engine.docker(&["push", "--quiet", &base]);
    base
}
