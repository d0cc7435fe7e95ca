//! `image run` with the real server.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::engine::FEWER;
use crate::support::Xtask;
use crate::support::engine::{Engine, docker, http, signal};
use crate::support::server::free_port;

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn run_starts_the_server_and_removes_it_on_a_signal() {
    let engine = Engine::get();
    let image = engine.image("run");
    let port = free_port();
    let args = ["image", "run", "--variant=debian", "--target=source-minimal", "--port", &port];
    let mut call =
        Xtask::shipped(&[&args[..], &["--image", &image], &FEWER].concat()).in_engine(&engine);
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
    signal("INT", run.id());
    assert_eq!(run.wait().unwrap().code(), Some(0));
    assert!(containers().is_empty());
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn run_says_why_a_server_does_not_come_up() {
    let engine = Engine::get();
    let image = engine.image("fails");
    let args = ["image", "run", "--variant=debian", "--target=base-image-minimal", "--port"];
    let port = free_port();
    let call = Xtask::shipped(&[&args[..], &[&port, "--image", &image]].concat());
    let ended = call.in_engine(&engine).end();
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
    let errors = ended.stderr.lines().filter(|line| line.starts_with("error: "));
    assert_eq!(errors.count(), 1, "{}", ended.stderr);
    let filter = format!("name=agent-server-{port}-");
    assert_eq!(docker(&["ps", "--all", "--quiet", "--filter", &filter]), "");
}
