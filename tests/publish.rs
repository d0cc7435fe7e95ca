//! Before and after a push: the right to push, a start of what was pushed, attestations, and the
//! caches of a branch that is closed.

use std::fs;

use crate::support::engine::Engine;
use crate::support::fake::FakeDocker;
use crate::support::proxy::{Answer, Proxy};
use crate::support::{SHA, Xtask};
use serde_json::json;

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
    assert!(called.contains(&format!("name={IMAGE},push-by-digest=true,push=true")), "{called}");
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
fn a_probe_asks_a_real_registry_and_leaves_no_tag() {
    let Some(engine) = Engine::get("a probe") else { return };
    let probe = |image: &str| Xtask::new(&["image", "probe", "--image", image]).in_engine().end();
    let proxy = Proxy::start(&engine.registry);
    let image = format!("{}/probed", proxy.address);
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
    assert!(engine.tags("probed").is_empty());
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

    fs::write(fake.file("dead"), "").unwrap();
    fs::write(fake.file("running"), "false").unwrap();
    let ended = smoke();
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("ended before it was healthy"), "{}", ended.stderr);
}
