//! Before and after a push: the right to push, a start of what was pushed, and the caches of a branch
//! that is closed.

use std::fs;
use std::process::Command;

use crate::support::fake::FakeDocker;
use crate::support::record::{record, write};
use crate::support::{Ended, IMAGE, SHA, expected, root};
use serde_json::json;

#[test]
fn a_push_that_cannot_work_is_found_out_by_a_probe() {
    let script = "case \"$*\" in *version*) exit 0;; esac; for folder; do :; done; cat \"$folder/Dockerfile\" > built
                  [ ! -f refusal ] || { cat refusal >&2; exit 1; }; exit";
    let fake = FakeDocker::with_override("probe", script);
    let probe = || fake.call(&["image", "probe", "--image", "ghcr.io/me/agent-server"]).end();
    for _ in 0..2 {
        let ended = probe();
        assert_eq!((ended.status, ended.stdout.as_str()), (0, ""), "{}", ended.stderr);
    }
    let mut calls = fake.lines("calls");
    calls.retain(|call| call.contains("--tag ghcr.io/me/agent-server:probe --push"));
    // Each image is another: what a registry has already is not pushed.
    assert!(calls.len() == 2 && calls[0] != calls[1], "{calls:?}");
    assert!(fs::read_to_string(fake.file("built")).unwrap().starts_with("FROM scratch\n"));

    fake.write("refusal", "ERROR: failed to push x: 403 Forbidden\n");
    let ended = probe();
    assert_eq!(ended.status, 1);
    expected::check("fake/expected/probe.txt", &ended.stderr);
}

#[test]
fn what_was_pushed_is_started_by_its_digest() {
    // Its server is Python's, for a folder with a file `health`.
    let script = "case \"$*\" in *.State.*) cat state; exit;;
        run*) [ -f dead ] || { python3 -m http.server \
            \"$(echo \"$*\" | sed 's/.*0.1:\\([0-9]*\\):8.*/\\1/')\" --bind 127.0.0.1 >/dev/null 2>&1 &
            echo $! >pid; }; exit;;
        rm*) [ ! -f pid ] || { kill \"$(cat pid)\"; rm pid; }; exit;; esac";
    let fake = FakeDocker::with_override("smoke", script);
    fake.write("health", "");
    fake.write("state", "running starting");
    let server = write(&fake.file("binary.jsonl"), &record("debian", "amd64", "debian:1"));
    let mut without = record("debian", "amd64", "debian:1");
    without["target"] = json!("base-image");
    let without = write(&fake.file("base.jsonl"), &without);
    let smoke = |file: &str| {
        let ended = fake.call(&["image", "smoke", &without, file]).end();
        (ended.status, ended.stdout, expected::steady(&ended.stderr, &fake.0.0))
    };
    let (status, stdout, mut text) = smoke(&server);
    assert_eq!(status, 0, "{text}");
    assert_eq!(stdout, format!("{IMAGE}@sha256:{}\n", "0".repeat(64)));
    assert!(fake.lines("calls").last().unwrap().starts_with("rm --force"), "{text}");

    let mut bad = record("debian", "amd64", "debian:1");
    bad["digest"] = json!("-f");
    let bad = write(&fake.file("bad.jsonl"), &bad);
    let (status, _, said) = smoke(&bad);
    assert_eq!(status, 2, "{said}");
    text += &said;

    fake.write("dead", "");
    fake.write("state", "exited unhealthy");
    let (status, stdout, said) = smoke(&server);
    assert_eq!((status, stdout.as_str()), (1, ""), "{said}");
    expected::check("fake/expected/smoke.txt", &(text + &said));
}

#[test]
fn an_image_that_cannot_be_pulled_leaves_nothing_behind_to_be_said() {
    let script = "case \"$*\" in pull*) [ ! -f pulled ] || exit 0; touch pulled
            echo 'Error response from daemon: received unexpected HTTP status: 503 Busy' >&2; exit 1;;
        run*) echo 'docker: no.' >&2; exit 125;;
        rm*|inspect*) echo 'Error: No such container' >&2; exit 1;; esac";
    let fake = FakeDocker::with_override("smoke-pull", script);
    let file = write(&fake.file("binary.jsonl"), &record("debian", "amd64", "debian:1"));
    let smoke = || fake.call(&["image", "smoke", &file]).end();
    let ended = smoke();
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""));
    let mut text = ended.stderr;
    fake.write(
        "override.sh",
        "case \"$*\" in pull*) echo 'ERROR: no basic auth credentials' >&2; exit 1;; esac",
    );
    text += &smoke().stderr;
    // Not that a container may be left behind: there was none.
    expected::check("fake/expected/smoke_pull.txt", &expected::steady(&text, &fake.0.0));
    // What the engine has is not asked for.
    fake.write("override.sh", &format!("case \"$*\" in image*) echo id; exit;; esac; {script}"));
    fs::remove_file(fake.file("calls")).unwrap();
    smoke();
    assert!(fake.lines("calls").iter().all(|call| !call.starts_with("pull")));
}

#[test]
fn a_closed_pull_request_loses_its_own_caches_and_no_others() {
    let fake = FakeDocker::new("closed");
    let start = format!("#!/bin/sh\ncd {} || exit\n", fake.0.0.display());
    fake.program("cargo", "#!/bin/sh\nshift; exec \"$XTASK\" \"$@\"\n");
    // It lists versions, and notes what it is to delete.
    let gh = "case \"$*\" in *DELETE*) echo \"$4\" >>deleted;; *) cat versions;; esac\n";
    fake.program("gh", &(start + gh));
    let own = "buildcache-binary-debian_tag_trixie-slim-amd64-fix-1";
    let shared = "buildcache-shared-binary-arm64-fix-1";
    let main = "buildcache-binary-debian_tag_trixie-slim-amd64-main";
    let other = "buildcache-binary-debian_tag_trixie-slim-amd64-my-fix-1";
    let versions = format!("1\t{own}\n2\t{main}\n3\t{own}\t{main}\n4\t{other}\n5\n6\t{shared}\n");
    fake.write("versions", &versions);
    let mut script = Command::new(root().join(".ci/delete-caches"));
    script.env_clear().env("PATH", fake.path()).env("XTASK", env!("CARGO_BIN_EXE_xtask"));
    script.env("CARGO_MANIFEST_DIR", fake.file("xtask"));
    script.env("GITHUB_REPOSITORY_OWNER", "Me").env("OWNERS", "users");
    script.env("SDK_SHA", SHA).env("SDK_REF", "refs/heads/Fix/1");
    let ended = Ended::from(script.output().unwrap());
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let versions = "/users/Me/packages/container/agent-server/versions";
    assert_eq!(fake.lines("deleted"), [format!("{versions}/1"), format!("{versions}/6")]);
}
