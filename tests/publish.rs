//! Before and after a push: the right to push, a start of what was pushed, attestations, and the
//! caches of a branch that is closed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::support::engine::{Engine, docker};
use crate::support::fake::FakeDocker;
use crate::support::proxy::{Answer, Proxy};
use crate::support::{Ended, Folder, SHA, Xtask, root};
use serde_json::{Value, json};

const IMAGE: &str = "ghcr.io/me/agent-server";

/// Build information of a pushed image, in a file of `fake`.
fn info(fake: &FakeDocker, target: &str) -> String {
    let info = json!({
        "schema": 1, "kind": "image", "target": target, "arch": "amd64", "platform": "linux/amd64",
        "base_image": "debian:1", "image": IMAGE, "git_ref": "x", "sha": SHA, "short_sha": "0",
        "digest": format!("sha256:{}", "0".repeat(64)),
    });
    let file = fake.file(&format!("{target}.json"));
    fs::write(&file, info.to_string()).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_push_that_cannot_work_is_found_out_by_a_probe() {
    let script = "echo \"$*\" > called; for folder; do :; done; cat $folder/Dockerfile > built
                  [ ! -f refusal ] || { cat refusal >&2; exit 1; }";
    let fake = FakeDocker::new("probe", script);
    let probe = || fake.call(&["image", "probe", "--image", IMAGE]).end();
    let ended = probe();
    assert_eq!((ended.status, ended.stdout.as_str()), (0, ""), "{}", ended.stderr);
    let called = fs::read_to_string(fake.file("called")).unwrap();
    assert!(called.contains(&format!("--tag {IMAGE}:probe --push")), "{called}");
    assert!(fs::read_to_string(fake.file("built")).unwrap().starts_with("FROM scratch\n"));
    assert!(probe().status == 0 && fs::read_to_string(fake.file("called")).unwrap() != called);

    fs::write(fake.file("refusal"), "ERROR: failed to push x: 403 Forbidden\n").unwrap();
    let ended = probe();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    for part in [IMAGE, "403 Forbidden", "docker login"] {
        assert!(ended.stderr.contains(part), "{part:?} is not in {}", ended.stderr);
    }
    assert!(fake.call(&["image", "probe", "--push"]).refused().contains("--push"));
}

#[test]
fn a_probe_pushes_to_a_real_registry() {
    let Some(engine) = Engine::get("a probe") else { return };
    let probe = |image: &str| Xtask::new(&["image", "probe", "--image", image]).in_engine().end();
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
fn what_was_pushed_is_started_by_its_digest() {
    // Its server is Python's, for a folder with a file `health`.
    let script = "echo \"$*\" >> called; case \"$*\" in *State.Running*) cat running;;
        run*) [ -f dead ] || { python3 -m http.server $(echo \"$*\" | sed 's/.*0.1:\\([0-9]*\\):8.*/\\1/') \
        --bind 127.0.0.1 > /dev/null 2>&1 & echo $! > pid; };;
        stop*) [ -f dead ] || kill $(cat pid);; esac";
    let fake = FakeDocker::new("smoke", script);
    for (file, text) in [("health", ""), ("running", "true")] {
        fs::write(fake.file(file), text).unwrap();
    }
    let dockerfile = fake.file("agent-server-image/Dockerfile");
    let stages = fs::read_to_string(&dockerfile).unwrap() + "FROM binary AS check-binary\n";
    fs::write(dockerfile, stages).unwrap();
    let (binary, base) = (info(&fake, "binary"), info(&fake, "base-image"));

    let smoke = || fake.call(&["image", "smoke", &base, &binary]).end();
    let ended = smoke();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(ended.stdout, format!("{IMAGE}@sha256:{}\n", "0".repeat(64)));
    assert!(ended.stderr.contains("\"base-image\" has no server"), "{}", ended.stderr);
    let called = fs::read_to_string(fake.file("called")).unwrap();
    assert!(called.lines().last().unwrap().starts_with("rm --force"), "{called}");

    let bad = fs::read_to_string(&binary).unwrap().replace("sha256:", "-f");
    let file = fake.file("bad.json");
    fs::write(&file, bad).unwrap();
    let said = fake.call(&["image", "smoke", file.to_str().unwrap()]).refused();
    assert!(said.contains("bad.json") && said.contains("digest"), "{said}");

    fs::write(fake.file("dead"), "").unwrap();
    fs::write(fake.file("running"), "false").unwrap();
    let ended = smoke();
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("ended before it was healthy"), "{}", ended.stderr);
}

#[test]
fn a_closed_pull_request_loses_its_own_caches_and_no_others() {
    let fake = FakeDocker::new("closed", "");
    // `gh` lists four versions, and notes what it is to delete.
    let scripts = [
        ("cargo", "shift; exec \"$XTASK\" \"$@\""),
        ("gh", "case \"$*\" in *DELETE*) echo \"$4\" >> deleted;; *) cat versions;; esac"),
    ];
    for (name, script) in scripts {
        let file = fake.file(name);
        let script = format!("#!/bin/sh\ncd {}\n{script}\n", fake.0.0.display());
        fs::write(&file, script).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let own = "buildcache-binary-debian_tag_trixie-slim-amd64-fix-1";
    let shared = "buildcache-shared-binary-arm64-fix-1";
    let main = "buildcache-binary-debian_tag_trixie-slim-amd64-main";
    let other = "buildcache-binary-debian_tag_trixie-slim-amd64-my-fix-1";
    let versions = format!("1\t{own}\n2\t{main}\n3\t{own}\t{main}\n4\t{other}\n5\n6\t{shared}\n");
    fs::write(fake.file("versions"), versions).unwrap();
    let mut script = Command::new(root().join(".ci/delete-caches"));
    script.env_clear().env("PATH", fake.path()).env("XTASK", env!("CARGO_BIN_EXE_xtask"));
    script.env("CARGO_MANIFEST_DIR", fake.file("xtask"));
    script.env("GITHUB_REPOSITORY_OWNER", "Me").env("OWNERS", "users");
    script.env("SDK_SHA", SHA).env("SDK_REF", "refs/heads/Fix/1");
    let ended = Ended::from(script.output().unwrap());
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let versions = "/users/Me/packages/container/agent-server/versions";
    let deleted = fs::read_to_string(fake.file("deleted")).unwrap();
    assert_eq!(deleted, format!("{versions}/1\n{versions}/6\n"));
}

#[test]
fn attestations_reach_the_merged_tag() {
    let Some(engine) = Engine::get("attestations") else { return };
    let checkout = Folder::checkout("attested");
    let base = engine.image("attested-base");
    docker(&["tag", "debian:trixie-slim", &base]);
    docker(&["push", "--quiet", &base]);
    let image = engine.image("attested");
    let info = checkout.0.join("info.json");
    let args = ["image", "--push", "--variant=debian", "--target=base-image-minimal"];
    let rest =
        ["--platforms=linux/amd64", "--arch=amd64", "--image", &image, "--base-image", &base];
    let place = ["--build-info", info.to_str().unwrap(), "--", "--provenance=mode=max"];
    let call = Xtask::within(&checkout.0, &[&args[..], &rest, &place].concat()).in_engine().on("x");
    let ended = call.env("OPENHANDS_BUILDKIT_CACHE_MODE", "off").end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let args = ["image", "merge", "--platforms=linux/amd64", info.to_str().unwrap()];
    let ended = Xtask::within(&checkout.0, &args).in_engine().end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let manifest = engine.manifest("attested", "x-debian-base-image-minimal");
    let manifests = manifest["manifests"].as_array().unwrap();
    let kind = |entry: &Value| entry["annotations"]["vnd.docker.reference.type"].clone();
    let kinds = manifests.iter().map(kind).collect::<Vec<_>>();
    assert_eq!(kinds, [Value::Null, json!("attestation-manifest")], "{manifest}");
    let about = &manifests[1]["annotations"]["vnd.docker.reference.digest"];
    assert_eq!(*about, manifests[0]["digest"]);
}
