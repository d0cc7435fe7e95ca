//! Failures, each as a builder reports it: what failed, where, why, and what to do. Look at
//! `expected/failures.txt` for how they read.

use crate::support::events::{self, begun, failed, output, refused};
use crate::support::fake::FakeDocker;
use crate::support::{SHA, expected};

const DOCKERFILE: &str = "\
ARG BASE_IMAGE
FROM ${BASE_IMAGE} AS other
RUN --mount=type=bind,from=steps,source=lib.sh,target=/run/lib.sh [\"/bin/sh\", \"/run/make.sh\"]
FROM ${BASE_IMAGE} AS builder
COPY lock/requirements.txt missing.txt \\
    /
RUN --mount=type=bind,from=steps,source=lib.sh,target=/run/lib.sh [\"/bin/sh\", \"/run/make.sh\"]
FROM builder AS binary
FROM binary AS check
";

/// What a build of one image says that fails by `events`.
fn said(events: &str, runner: &str) -> String {
    let fake = FakeDocker::new("failures");
    fake.write("agent-server-image/Dockerfile", DOCKERFILE);
    fake.play("debian.image", events);
    // Pauses before further tries would take most of the time.
    let args = ["image", "--variant=debian", "--load"];
    let call = fake.call(&args).env("GITHUB_ACTIONS", runner);
    let ended = call.env("SDK_SHA", SHA).env("SDK_REF", "x").end();
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
    expected::steady(&ended.stderr, &fake.0.0)
}

#[test]
fn each_says_what_failed_where_and_what_to_do() {
    let make = &events::run("builder 3/3", "make.sh");
    let end = |how: &str| {
        format!("process \"/bin/sh /run/make.sh\" did not complete successfully: {how}")
    };
    let step = |text: &str, how: &str| begun(make) + &output(make, text) + &failed(make, &end(how));
    let push = |verb: &str, path: &str, status: &str| {
        let to =
            format!("unexpected status from {verb} request to https://r.io/v2/i/{path}: {status}");
        failed("exporting to image", &format!("failed to push r.io/i:t: {to}"))
    };
    let base = |error: &str| failed("[internal] load metadata for r.io/a:1", error);
    let hash = "THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n  Got 12ab\n";
    let server = "ImportError: cannot import name 'lte'\nThe server ended with status 1\n";
    let check = "[check 1/1] RUN [\"/bin/sh\", \"/run/check.sh\"]";
    let missing = "failed to calculate checksum of ref a::b: \"/missing.txt\": not found";
    let copy = "[builder 2/3] COPY lock/requirements.txt missing.txt     /";
    let insecure = "failed to do request: Head \"https://r.io/v2/\": http: server gave HTTP response to \
                    HTTPS client";
    let cases = [
        ("a step", step("make: *** [all] Error 2\n", "exit code: 2")),
        ("a step with a reason", step("error: uv.lock takes x from git\n", "exit code: 1")),
        ("a hash", step(hash, "exit code: 1")),
        ("a step without memory", step("Killed\n", "exit code: 137")),
        (
            "a program without memory",
            step("FATAL: JavaScript heap out of memory\n", "exit code: 134"),
        ),
        ("a step on a full disk", step("tar: x: No space left on device\n", "exit code: 2")),
        ("a step of another machine", step("exec /bin/sh: exec format error\n", "exit code: 255")),
        ("a file that is not there", failed(copy, missing)),
        ("a Dockerfile", refused("dockerfile parse error on line 3: unknown instruction: RNU")),
        (
            "an old engine",
            refused("failed to parse stage name: unsupported modifier (#) in substitution"),
        ),
        (
            "a server that does not start",
            begun(check) + &output(check, server) + &failed(check, &end("exit code: 1")),
        ),
        ("a base image that is not there", base("r.io/a:1: not found")),
        ("a base image of another machine", base("no match for platform in manifest: not found")),
        (
            "a private base image",
            base(
                "pull access denied, repository does not exist or may require \
                                       authorization: server message: insufficient_scope: authorization failed",
            ),
        ),
        (
            "a host that is not known",
            base(
                "failed to do request: Head \"https://nowhere.invalid/v2/\": dial \
                                           tcp: lookup nowhere.invalid on 1.1.1.1:53: no such host",
            ),
        ),
        ("a registry without TLS", base(insecure)),
        (
            "a certificate",
            base(
                "tls: failed to verify certificate: x509: certificate signed by unknown authority",
            ),
        ),
        (
            "a host that the engine's proxy refuses",
            base("failed to do request: Head \"https://r.io/v2/a/manifests/1\": Forbidden"),
        ),
        ("no login", push("HEAD", "blobs/sha256:0", "401 Unauthorized")),
        ("no right to push", push("POST", "blobs/uploads/", "403 Forbidden")),
        (
            "a layer that is too large",
            push("PATCH", "blobs/uploads/u", "413 Request Entity Too Large"),
        ),
        (
            "a step that does not trust",
            step("Caused by: invalid peer certificate: UnknownIssuer\n", "exit code: 2"),
        ),
        (
            "a mirror that wants a login",
            step("User for pypi.corp: \nEOFError: EOF when reading a line\n", "exit code: 2"),
        ),
        (
            "a base image without a shell",
            step(
                "runc run failed: exec: \"/bin/sh\": stat /bin/sh: no such file or directory\n",
                "exit code: 127",
            ),
        ),
        (
            "a program for logins that is not there",
            base("error getting credentials - err: exec: \"docker-credential-desktop\": not found"),
        ),
        (
            "a base image that may not be seen",
            base("failed to fetch anonymous token: unexpected status: 403 Forbidden"),
        ),
        (
            "a certificate that is over",
            base("tls: x509: certificate has expired or is not yet valid: current time is 2026"),
        ),
        (
            "a certificate for another name",
            base("tls: x509: certificate is valid for other.io, not r.io"),
        ),
        (
            "a registry with TLS after all",
            base("400 Bad Request: Client sent an HTTP request to an HTTPS server."),
        ),
        (
            "a file that can't be read",
            refused("error from sender: open /a/steps/apt.sh: permission denied"),
        ),
        (
            "a registry with a quota",
            push(
                "POST",
                "blobs/uploads/",
                "403 Forbidden - Server message: denied: quota exceeded",
            ),
        ),
        ("a full registry", push("PUT", "blobs/uploads/u", "507 Insufficient Storage")),
        ("something new", refused("something new")),
    ];
    let text = cases.map(|(name, events)| format!("# {name}\n{}\n", said(&events, "")));
    expected::check("fake/expected/failures.txt", &text.concat());
}

#[test]
fn of_long_output_the_last_lines_are_shown_whatever_they_hold() {
    let make = &events::run("builder 3/3", "make.sh");
    let lines = (1..=30).map(|n| format!("line {n} \x1b[31m::error::x\n")).collect::<String>();
    let events = begun(make) + &output(make, &lines) + &failed(make, "exit code: 1");
    expected::check("fake/expected/failure_in_job.txt", &said(&events, "true"));
}
