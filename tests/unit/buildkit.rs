//! The words of `BuildKit`.

use super::*;

#[test]
fn vertex_names_say_what_a_vertex_is() {
    let import = "importing cache manifest from r:5000/a:b";
    let base = Vertex::Base { reference: "docker.io/library/a:1", digest: "sha256:0" };
    let table = [
        (import, Vertex::CacheImport("r:5000/a:b")),
        ("exporting cache to registry", Vertex::CacheExport),
        ("exporting to image", Vertex::ImageExport),
        ("importing to docker", Vertex::ImageExport),
        ("pushing r:5000/a:b with docker", Vertex::Push),
        ("[builder 1/6] FROM docker.io/library/a:1@sha256:0", base),
        ("[builder 2/6] RUN make", Vertex::Step),
        ("[2/6] COPY a b", Vertex::Step),
        ("[internal] load build definition from Dockerfile", Vertex::Internal),
        ("[auth] a/b:pull token for r", Vertex::Internal),
    ];
    for (name, vertex) in table {
        assert_eq!(Vertex::of(name), vertex, "{name}");
    }
}

#[test]
fn targets_are_split_from_vertex_names() {
    let targets = ["a".to_owned(), "a-b".to_owned()];
    let split = |name: &str| split_target(&targets, name).map(|found| (found.target, found.name));
    assert_eq!(split("[a builder 2/6] RUN x"), Some((0, "[builder 2/6] RUN x".to_owned())));
    assert_eq!(split("[a-b] exporting to image"), Some((1, "exporting to image".to_owned())));
    assert_eq!(split("exporting to image"), None);
}

#[test]
fn errors_have_one_cause() {
    let missing = "failed to compute cache key: failed to calculate checksum of ref \
                   a::b: \"/x\": not found";
    let table = [
        (
            "process \"/bin/sh -c curl\" did not complete successfully: exit code: 22",
            Cause::Step,
            false,
        ),
        (missing, Cause::MissingFile, false),
        (
            "failed to compute cache key: failed to copy: httpReadSeeker: 404",
            Cause::BrokenCache,
            false,
        ),
        (
            "failed to compute cache key: GET /v2/: 503 Service Unavailable",
            Cause::BrokenCache,
            true,
        ),
        ("image \"a:b\": already exists", Cause::TagTaken, false),
        ("unexpected status: 403 Forbidden", Cause::Denied, false),
        ("failed to push: 429 Too Many Requests", Cause::Busy, true),
        ("toomanyrequests: you have reached your pull rate limit", Cause::Limited, false),
        ("unexpected status: 502 Bad Gateway", Cause::RegistryError, true),
        ("write: broken pipe", Cause::Connection, true),
        ("docker.io/a/b:c: not found", Cause::NotFound, false),
        ("dial tcp 127.0.0.1:5000: connect: connection refused", Cause::Connection, true),
        ("frontend grpc server closed unexpectedly", Cause::Connection, true),
        (
            "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while \
             dialing: only one connection allowed\"",
            Cause::Connection,
            true,
        ),
        ("lookup a.invalid on 1.1.1.1:53: no such host", Cause::NoHost, false),
        ("mkdir /x: no space left on device", Cause::NoSpace, false),
        ("dockerfile parse error on line 3: unknown instruction: RNU", Cause::Syntax, false),
        ("a:1: no match for platform in manifest: not found", Cause::WrongPlatform, false),
        ("rpc error: context canceled", Cause::Canceled, false),
        ("something new", Cause::Other, false),
    ];
    for (error, cause, passing) in table {
        assert_eq!((Cause::of(error), is_passing(error)), (cause, passing), "{error}");
    }
}

#[test]
fn the_cause_of_a_failed_step_is_in_its_output() {
    let ended = |code: u8| {
        format!("process \"/bin/sh -c x\" did not complete successfully: exit code: {code}")
    };
    let table = [
        (100, "E: Unable to locate package nothing", Cause::Step),
        (1, "THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", Cause::Step),
        (22, "curl: (22) The requested URL returned error: 404", Cause::Step),
        (100, "E: Failed to fetch http://a/b  Temporary failure resolving 'a'", Cause::StepNetwork),
        (
            2,
            "error: Failed to fetch: `https://a/b`\n  Caused by: operation timed out",
            Cause::StepNetwork,
        ),
        (1, "npm error code ECONNRESET", Cause::StepNetwork),
        (1, "npm error 503 Service Unavailable - GET https://a/b", Cause::StepNetwork),
        (
            100,
            "E: Failed to fetch http://a/b  503  Service Unavailable [IP: 1]",
            Cause::StepNetwork,
        ),
        (100, "E: Failed to fetch http://a/b  404  Not Found [IP: 1]", Cause::Step),
        (22, "curl: (22) The requested URL returned error: 500", Cause::StepNetwork),
        (1, "ERROR: HTTP error 502 while getting https://a/b", Cause::StepNetwork),
        (1, "HTTP status server error (500 Internal Server Error) for url", Cause::StepNetwork),
        (255, "exec /bin/sh: exec format error", Cause::WrongPlatform),
        (2, "tar: x: Cannot write: No space left on device", Cause::NoSpace),
        (137, "Killed", Cause::Killed),
    ];
    for (code, output, cause) in table {
        assert_eq!(Cause::of_step(&ended(code), output), cause, "{output}");
    }
    let error = "lookup a.invalid on 1.1.1.1:53: no such host";
    assert_eq!(unknown_host(error), Some("a.invalid"));
}
