//! Failures, each as a builder reports it: the last lines on the screen say what failed, where, why
//! and what to do.

use std::fs;

use crate::support::fake::{FakeDocker, INSPECTED};
use crate::support::{Ended, SHA, base64};
use serde_json::{Value, json};

const STEP: &str = "[builder 2/3] RUN --mount=type=tmpfs,target=/tmp <<'EOF' (# install it...)";
const DOCKERFILE: &str = "\
ARG BASE_IMAGE
FROM ${BASE_IMAGE} AS other
RUN <<'EOF'
# install it
EOF
FROM ${BASE_IMAGE} AS builder
RUN --mount=type=tmpfs,target=/tmp <<'EOF'
# install it
EOF
COPY requirements.txt missing.txt \\
    /
FROM builder AS binary
";

/// How a build ends whose vertex `name` printed `output` and failed by `error`.
fn end(name: &str, output: &[u8], error: &str, runner: &str) -> Ended {
    let fake = FakeDocker::new(
        "failures",
        "case \"$*\" in *du) echo 'Total: 0B';; *inspect*) cat inspected;;
         *bake*) cat > /dev/null; cat events >&2; exit 1;; esac",
    );
    fs::write(fake.file("inspected"), INSPECTED).unwrap();
    fs::write(fake.file("agent-server-image/Dockerfile"), DOCKERFILE).unwrap();
    let (started, completed) = ("2026-11-24T10:51:00Z", "2026-11-24T10:51:09Z");
    let mut events = Vec::new();
    if !name.is_empty() {
        let vertex = json!({ "digest": name, "name": name, "started": started });
        let mut ended = vertex.clone();
        ended["completed"] = json!(completed);
        ended["error"] = json!(error);
        let log = json!({ "vertex": name, "data": base64(output) });
        events.push(json!({ "vertexes": [vertex] }));
        events.push(json!({ "logs": [log] }));
        events.push(json!({ "vertexes": [ended] }));
    }
    let events = events.iter().map(|event: &Value| format!("{event}\n")).collect::<String>();
    let excerpt = "Dockerfile:3\n--------------------\n   3 | >>> RUN <<'EOF'\n";
    let error = format!("ERROR: target debian: failed to solve: {error}\n");
    fs::write(fake.file("events"), events + excerpt + &error).unwrap();
    let call = fake
        .call(&["image", "--variant=debian", "--load", "--explain"])
        .env("GITHUB_ACTIONS", runner);
    call.env("SDK_SHA", SHA).env("SDK_REF", "x").end()
}

#[test]
fn the_last_lines_name_the_cause_and_what_to_do() {
    let ended = |code: u8| {
        format!("process \"/bin/sh -c x\" did not complete successfully: exit code: {code}")
    };
    let no_memory = ended(1).replace("exit code: 1", "cannot allocate memory");
    let hash = "THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n  Got 12ab";
    let missing = "failed to calculate checksum of ref a::b: \"/missing.txt\": not found";
    let copy = "[builder 3/3] COPY requirements.txt missing.txt     /";
    let server = "ImportError: cannot import name 'lte'\nThe server ended with status 1";
    let metadata = "[internal] load metadata for r.io/a:1";
    let cases: [(&str, &str, &str, &[&str]); 13] = [
        (STEP, hash, &ended(1), &["12ab", "install it", "Dockerfile:7", "exit code: 1"]),
        (copy, "", missing, &["missing.txt", "Dockerfile:10", ".dockerignore"]),
        ("", "", "dockerfile parse error on line 3: unknown instruction: RNU", &["line 3", "RNU"]),
        (STEP, "curl: (6) Could not resolve host: a", &ended(6), &["resolve host: a", "network"]),
        ("exporting to image", "", "push r.io/a: 403 Forbidden", &["403 Forbidden", "login"]),
        (STEP, "tar: x: No space left on device", &ended(2), &["No space left", "prune"]),
        (STEP, "Killed", &ended(137), &["137", "memory", "install it"]),
        (STEP, "FATAL: JavaScript heap out of memory", &ended(134), &["out of memory", "--jobs"]),
        (STEP, "", &no_memory, &["allocate memory", "--jobs"]),
        (STEP, "exec /bin/sh: exec format error", &ended(255), &["exec format", "--platforms"]),
        ("[check 1/1] RUN [\"x\"]", server, &ended(1), &["'lte'", "status 1", "--check=off"]),
        (metadata, "", "r.io/a:1: not found", &["r.io/a:1: not found"]),
        (STEP, "make: *** [all] Error 2", &ended(2), &["Error 2", "Dockerfile:7", "install it"]),
    ];
    for (name, output, error, parts) in cases {
        let failed = end(name, output.as_bytes(), error, "");
        assert_eq!((failed.status, failed.stdout.as_str()), (1, ""), "{}", failed.stderr);
        let lines = failed.stderr.lines().collect::<Vec<_>>();
        let last = lines[lines.len().saturating_sub(12)..].join("\n");
        for part in parts {
            assert!(last.contains(part), "{part:?} is not in:\n{last}");
        }
        assert!(lines.last().unwrap().starts_with("error: debian"), "{last}");
        let explained = "debian: the first step that ran is [builder 2/3] install it\n";
        assert_eq!(failed.stderr.contains(explained), name == STEP, "{}", failed.stderr);
        assert!(!failed.stderr.contains("exited with status"), "{}", failed.stderr);
        assert_eq!(failed.stderr.contains(">>>"), name.is_empty(), "{}", failed.stderr);
    }
}

#[test]
fn ten_lines_of_output_are_shown_whatever_they_hold() {
    let output = (1..=30).map(|n| format!("line {n} \x1b[31m::error::x\n")).collect::<String>();
    let failed = end(STEP, output.as_bytes(), "exit code: 1", "true");
    let lines = failed.stderr.lines().collect::<Vec<_>>();
    let shown = lines.iter().filter(|line| line.starts_with("  | line "));
    assert_eq!(shown.count(), 10, "{}", failed.stderr);
    let [.., last, log, _] = lines.as_slice() else { panic!("{}", failed.stderr) };
    assert!(last.starts_with("  | line 30"), "{}", failed.stderr);
    assert!(log.ends_with("target/image/logs/debian.log"), "{}", failed.stderr);
    let command = "::error file=agent-server-image/Dockerfile,line=7::[builder 2/3] install it";
    assert!(lines.contains(&command), "{}", failed.stderr);
    assert_eq!(failed.stderr.matches("::error").count(), 1, "{}", failed.stderr);
}
