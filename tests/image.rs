//! The real server, built by a real engine, pushed to a real registry, and run.
//! These tests need `cargo xtask engine -- cargo test`.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::engine::{Engine, Step, docker, http, run_steps};
use crate::support::server::free_port;
use crate::support::{Ended, SHA, Xtask};
use serde_json::Value;

const MODE: &str = "OPENHANDS_BUILDKIT_CACHE_MODE";
const CACHE: &str = "buildcache-source-minimal-debian_tag_trixie-slim";
const SHARED: &str = "buildcache-shared-source-minimal";

/// A build of `source-minimal`, which is the quickest target with the whole server in it.
fn build(engine: &Engine, name: &str, args: &[&str]) -> Xtask {
    let image = engine.image(name);
    let always = ["image", "--variant=debian", "--target=source-minimal", "--image", &image];
    let call = Xtask::shipped(&[&always[..], args, &["--", "--progress=plain"]].concat());
    // ACP providers have tests of their own.
    call.in_engine().on("refs/heads/x").env("INSTALL_ACP_PROVIDERS", "")
}

fn succeed(call: Xtask) -> Ended {
    let ended = call.end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    ended
}

fn assert_all_cached(ended: &Ended) {
    // An image of another commit is started anew.
    let mut steps = run_steps(&ended.stderr);
    steps.retain(|step| !step.name.contains("] check"));
    assert!(steps.len() >= 4, "{steps:#?}");
    assert!(steps.iter().all(|step| step.cached), "{steps:#?}");
}

/// Digests and sizes of the layers that a cache holds.
fn layers(engine: &Engine, name: &str, tag: &str) -> BTreeSet<(String, u64)> {
    let manifest = engine.manifest(name, tag);
    let layer = |layer: &Value| {
        (layer["digest"].as_str().unwrap().to_owned(), layer["size"].as_u64().unwrap())
    };
    manifest["layers"].as_array().unwrap().iter().map(layer).collect()
}

fn caches(engine: &Engine, name: &str) -> BTreeSet<String> {
    engine.tags(name).into_iter().filter(|tag| tag.starts_with("buildcache-")).collect()
}

#[test]
fn a_number_in_progress_is_of_the_vertex_that_it_named_last() {
    let steps = run_steps(
        "#1 [1/2] a: make\n#2 [2/2] a: test\n#1 [1/2] a: make\n#2 CACHED\n#1 DONE 1.0s\n\
         #1 [1/1] b: pack\n#1 CACHED\n",
    );
    let cached = steps.iter().map(|step| (step.name.as_str(), step.cached)).collect::<Vec<_>>();
    let expected = [("[1/2] a: make", false), ("[2/2] a: test", true), ("[1/1] b: pack", true)];
    assert_eq!(cached, expected);
}

#[test]
fn the_mode_decides_what_is_exported_and_never_what_is_read() {
    let Some(engine) = Engine::get("the cache modes") else { return };
    let scope = |branch: &str| format!("{CACHE}-{branch}");
    Engine::empty();

    // `min` comes first: an engine that has exported its builder's layers once keeps them at hand
    // and adds them to every later export.
    let first = succeed(build(&engine, "modes", &["--push"]).env(MODE, "min").env("SDK_REF", "y"));
    assert!(run_steps(&first.stderr).iter().any(|step| !step.cached));
    assert_eq!(caches(&engine, "modes"), BTreeSet::from([scope("y")]));

    let second = succeed(build(&engine, "modes", &["--push"]).env(MODE, "max"));
    let tags =
        ["0123456-debian", &format!("{SHA}-debian"), "x-debian", "0123456-debian_tag_trixie-slim"];
    let tags = tags.map(|tag| format!("{}:{tag}-source-minimal", engine.image("modes")));
    assert_eq!(second.stdout.lines().collect::<Vec<_>>(), tags);
    assert_eq!(caches(&engine, "modes"), BTreeSet::from([scope("x"), scope("y")]));
    let (max, min) = (layers(&engine, "modes", &scope("x")), layers(&engine, "modes", &scope("y")));
    assert!(min.is_subset(&max) && min.len() < max.len(), "{min:#?} {max:#?}");

    let shared = "OPENHANDS_SHARED_REGISTRY_CACHE_EXPORT";
    let third = succeed(build(&engine, "modes", &["--push"]).env(shared, "1"));
    let with_shared = BTreeSet::from([scope("x"), scope("y"), format!("{SHARED}-x")]);
    assert_eq!(caches(&engine, "modes"), with_shared, "{}", third.stderr);

    Engine::empty();
    let after = succeed(build(&engine, "modes", &["--push"]).env(MODE, "off"));
    assert_all_cached(&after);
    succeed(build(&engine, "modes", &["--push"]).env(MODE, "off").env("SDK_REF", "z"));
    assert!(engine.tags("modes").contains("z-debian-source-minimal"));
    assert!(caches(&engine, "modes").iter().all(|tag| !tag.ends_with("-z")));
}

#[test]
fn a_new_commit_runs_no_step_again() {
    let Some(engine) = Engine::get("a new commit") else { return };
    succeed(build(&engine, "commit", &["--load"]));
    let ended = succeed(build(&engine, "commit", &["--load"]).env("SDK_SHA", "f".repeat(40)));
    assert_all_cached(&ended);
    let image = ended.stdout.lines().next().unwrap();
    let revision = docker(&[
        "inspect",
        "--format",
        "{{index .Config.Labels \"org.opencontainers.image.revision\"}}",
        image,
    ]);
    assert_eq!(revision, "f".repeat(40));
    assert!(engine.tags("commit").is_empty(), "--load must leave nothing in the registry");
}

#[test]
fn common_stages_run_once_for_all_targets_of_a_run() {
    let Some(engine) = Engine::get("common stages") else { return };
    let bases = ["one", "two", "three"].map(|name| engine.image(&format!("base/{name}")));
    for base in &bases {
        docker(&["tag", "debian:trixie-slim", base]);
        docker(&["push", "--quiet", base]);
    }
    Engine::prune();
    let flags = bases.each_ref().map(|base| format!("--base-image={base}"));
    let flags = flags.each_ref().map(String::as_str);
    let call = build(&engine, "stages", &[&flags[..], &["--push"]].concat());
    let ended = succeed(call.env(MODE, "off"));
    let steps = run_steps(&ended.stderr);
    let is_run = |step: &&Step| step.name.contains("install what the server's") && !step.cached;
    assert_eq!(steps.iter().filter(is_run).count(), 1, "{steps:#?}");
    assert_eq!(engine.tags("stages").iter().filter(|tag| tag.starts_with("0123456-")).count(), 3);
}

#[test]
fn two_runs_at_once_both_work() {
    let Some(engine) = Engine::get("two runs at once") else { return };
    let start = |name: &str| {
        let mut call = build(&engine, name, &["--push"]);
        call.0.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let runs = [start("twin-a"), start("twin-b")];
    for (run, name) in runs.into_iter().zip(["twin-a", "twin-b"]) {
        let ended = Ended::from(run.wait_with_output().unwrap());
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        assert!(engine.tags(name).contains("x-debian-source-minimal"));
    }
}

#[test]
fn the_image_serves_with_a_key_as_its_own_user_and_tells_no_secret() {
    let Some(engine) = Engine::get("the image") else { return };
    let image = engine.image("serves");
    let args = ["image", "--variant=debian", "--push", "--image", &image];
    let call = Xtask::shipped(&args).in_engine().env("HTTPS_PROXY", "");
    let ended = succeed(call.env("SDK_SHA", SHA).env(MODE, "off"));
    let image = ended.stdout.lines().next().unwrap();
    docker(&["rmi", "--force", image]);
    let publish = ["run", "--detach", "--publish=127.0.0.1::8000", "--env=SESSION_API_KEY=secret"];
    let container = Removed(docker(&[&publish[..], &[image]].concat()));
    let address = docker(&["port", &container.0, "8000/tcp"]).parse().unwrap();
    wait_for_health(address);

    let path = "/api/conversations/count";
    assert_eq!(http(address, path, &[]).unwrap().0, 401);
    assert_eq!(http(address, path, &[("X-Session-API-Key", "wrong")]).unwrap().0, 401);
    assert_eq!(http(address, path, &[("X-Session-API-Key", "secret")]).unwrap().0, 200);
    assert_eq!(docker(&["exec", &container.0, "id", "-u"]), "10001");
    let first = docker(&["exec", &container.0, "cat", "/proc/1/comm"]);
    assert_eq!(first, "tini");
    let history = docker(&["history", "--no-trunc", image]);
    assert!(!history.contains("BEGIN CERTIFICATE") && !history.contains("/etc/ssl/certs/ca-"));
}

#[test]
fn without_a_key_the_server_stays_on_loopback() {
    let Some(engine) = Engine::get("loopback") else { return };
    let ended = succeed(build(&engine, "loopback", &["--load"]));
    let image = ended.stdout.lines().next().unwrap();
    let container = Removed(docker(&["run", "--detach", "--publish=127.0.0.1::8000", image]));
    let inside = "exec 3<>/dev/tcp/127.0.0.1/8000 && printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3 && head -1 <&3";
    let deadline = Instant::now() + Duration::from_secs(90);
    let answers = || {
        let exec = ["exec", &container.0, "bash", "-c", inside];
        let output = Command::new("docker").args(exec).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains(" 200 ")
    };
    while !answers() {
        assert!(Instant::now() < deadline, "{}", docker(&["logs", &container.0]));
        std::thread::sleep(Duration::from_millis(200));
    }
    let address = docker(&["port", &container.0, "8000/tcp"]).parse().unwrap();
    assert_ne!(http(address, "/health", &[]).map_or(0, |answer| answer.0), 200);
}

#[test]
fn run_starts_the_server_and_removes_it_on_a_signal() {
    let Some(engine) = Engine::get("image run") else { return };
    let image = engine.image("run");
    for signal in ["TERM", "INT"] {
        let port = free_port();
        let args = ["image", "run", "--variant=debian", "--target=source-minimal", "--port", &port];
        let mut call = Xtask::shipped(&[&args[..], &["--image", &image]].concat()).in_engine();
        let mut run = call.0.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(run.stdout.take().unwrap()).lines().map(Result::unwrap);
        let address = lines.next().unwrap();
        assert_eq!(address, format!("address: http://127.0.0.1:{port}"));
        let key = lines.next().unwrap().replace("key:", "").trim().to_owned();
        let curl = lines.next().unwrap();
        assert!(curl.contains("curl") && curl.contains(&key), "{curl}");

        let address = format!("127.0.0.1:{port}").parse().unwrap();
        let count = |key: &str| {
            let headers = [("X-Session-API-Key", key)];
            http(address, "/api/conversations/count", &headers).unwrap().0
        };
        assert_eq!((count(&key), count("x")), (200, 401));
        let filter = format!("publish={port}");
        let containers = || docker(&["ps", "--all", "--quiet", "--filter", &filter]);
        assert!(!containers().is_empty());
        let pid = run.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        assert_eq!(run.wait().unwrap().code(), Some(0));
        assert!(containers().is_empty());
    }
}

#[test]
fn run_says_why_a_server_does_not_come_up() {
    let Some(engine) = Engine::get("a server that fails") else { return };
    let image = engine.image("fails");
    let args = ["image", "run", "--variant=debian", "--target=base-image-minimal", "--port"];
    let call = Xtask::shipped(&[&args[..], &[&free_port(), "--image", &image]].concat());
    let ended = call.in_engine().end();
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
    let errors = ended.stderr.lines().filter(|line| line.starts_with("error: "));
    assert_eq!(errors.count(), 1, "{}", ended.stderr);
    let ancestor = ["ps", "--all", "--quiet", "--filter", "name=agent-server-"];
    assert_eq!(docker(&ancestor), "");
}

#[test]
fn a_port_in_use_is_said_before_the_build() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let said = Xtask::new(&["image", "run", "--variant=debian", "--port", &port]).refused();
    assert!(said.contains(&port) && said.contains("--port"), "{said}");
}

/// A container that is removed with whatever it still does.
struct Removed(String);

impl Drop for Removed {
    fn drop(&mut self) {
        docker(&["rm", "--force", "--volumes", &self.0]);
    }
}

fn wait_for_health(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while http(address, "/health", &[]).map_or(0, |answer| answer.0) != 200 {
        assert!(Instant::now() < deadline, "no health at {address}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
