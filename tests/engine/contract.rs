//! What clients may lean on in every image of a server, a test a line of the contract. These tests
//! need `cargo xtask engine -- cargo test`.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::sync::OnceLock;

use crate::engine::{give, images};
use crate::support::container::Container;
use crate::support::engine::{Engine, docker, http, once, send};
use crate::support::{Folder, Xtask, root};
use serde_json::{Value, json};

const SERVER: &str = "/usr/local/bin/openhands-agent-server";
const PYTHON: &str = "/agent-server/.venv/bin/python";
const KEY: &str = "SESSION_API_KEY=secret";

/// A running server of each target with a key, started once for all tests.
fn servers(engine: &Engine) -> &'static [(&'static str, &'static str, Container); 3] {
    static SERVERS: OnceLock<[(&str, &str, Container); 3]> = OnceLock::new();
    let images = images(engine);
    once(&SERVERS, || {
        let options = ["--publish=127.0.0.1::8000", "--env", KEY];
        let start = |(target, image)| (target, image, Container::start(&options, image, &[]));
        let servers = images.map(start);
        for (_, _, server) in &servers {
            server.serve(8000);
        }
        servers
    })
}

/// What a program of the image writes.
fn run(options: &[&str], image: &str, program: &str, args: &[&str]) -> String {
    let entrypoint = format!("--entrypoint={program}");
    docker(&[&["run", "--rm", &entrypoint], options, &[image], args].concat())
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn the_entry_point_is_the_server_under_tini_as_its_own_user() {
    let engine = Engine::get();
    for (target, _, container) in servers(&engine) {
        assert_eq!(container.exec(&["cat", "/proc/1/comm"]), "tini", "{target}");
        assert_eq!(container.exec(&["sh", "-c", "id -u; id -g"]), "10001\n10001", "{target}");
    }
    // All targets have one entry point.
    let args = ["--host", "0.0.0.0", "--port", "60000"];
    let options = ["--publish=127.0.0.1::60000"];
    let container = Container::start(&options, images(&engine)[0].1, &args);
    container.serve(60000);
    container.wait_until_healthy();
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn the_health_check_asks_port_8000_and_logs_are_json() {
    let engine = Engine::get();
    for (target, _, container) in servers(&engine) {
        container.wait_until_healthy();
        let logs = container.logs();
        let is_json = |line: &str| serde_json::from_str::<Value>(line).is_ok();
        assert!(logs.lines().any(is_json), "{target}: {logs}");
    }
}

/// How clients that don't use the entry point start the server, as a remote runtime does. With a key, or by
/// `--host`, the other tests reach it through a published port.
#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn the_server_starts_by_its_path_and_without_a_key_or_a_host_is_on_loopback_only() {
    let engine = Engine::get();
    let entrypoint = format!("--entrypoint={SERVER}");
    let args = ["--port", "60000"];
    let start = |(target, image)| (target, Container::start(&[&entrypoint], image, &args));
    let wait = "cd /proc/net && for try in $(seq 600); do \
                grep -h ':EA60 ' tcp tcp6 && break; sleep 0.2; done";
    for (target, container) in &images(&engine).map(start) {
        let sockets = container.exec(&["sh", "-c", wait]);
        let places = sockets.lines().filter_map(|line| line.split_whitespace().nth(1));
        let places = places.filter(|place| place.ends_with(":EA60")).collect::<BTreeSet<_>>();
        assert_eq!(places, BTreeSet::from(["0100007F:EA60"]), "{target}");
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn the_server_starts_as_a_module() {
    let engine = Engine::get();
    let entrypoint = format!("--entrypoint={PYTHON}");
    let options = [&entrypoint, "--publish=127.0.0.1::60000", "--env", KEY, "--workdir=/"];
    let args = ["-m", "openhands.agent_server", "--port", "60000"];
    Container::start(&options, images(&engine)[0].1, &args).serve(60000);
}

/// Waits for the server that it starts, within a step: an image of it would first be compressed.
const SERVE: &str = r#"
import subprocess, sys, time, urllib.request
server = subprocess.Popen([sys.executable, "-m", "openhands.agent_server"])
while server.poll() is None:
    try:
        sys.exit(urllib.request.urlopen("http://127.0.0.1:8000/health").status != 200)
    except OSError:
        time.sleep(0.1)
sys.exit("the server has ended")
"#;

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn the_server_of_a_source_target_runs_where_it_is_copied_to() {
    let engine = Engine::get();
    let source = images(&engine)[0].1;
    let dockerfile = format!(
        "FROM debian:trixie-slim\nRUN useradd other\n\
         COPY --from={source} /agent-server /agent-server\nWORKDIR /tmp\nUSER other\n\
         RUN {PYTHON} - <<'END'{SERVE}END\n"
    );
    let mut build = engine.command(&["build", "--output=type=cacheonly", "-"]);
    give(build.stderr(Stdio::piped()), &dockerfile);
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn anybody_may_write_to_the_workspace_and_new_volumes() {
    let engine = Engine::get();
    let script = "pwd && cd /workspace && echo a >a && cd project && echo a >a && echo a >~/a";
    for (target, image) in images(&engine) {
        for user in ["--user=10001:10001", "--user=4321:4321"] {
            assert_eq!(run(&[user], image, "sh", &["-c", script]), "/", "{target} {user}");
        }
        let git = "cd /workspace && git init -q a && chown -R 1:1 a && git -C a status --short";
        assert_eq!(run(&["--user=0"], image, "sh", &["-c", git]), "", "{target}");
        let home = run(&[], image, "sh", &["-c", "echo ~"]);
        for folder in ["/workspace", "/workspace/project", &format!("{home}/.openhands")] {
            let volume = format!("--volume={folder}");
            run(&[&volume], image, "sh", &["-c", &format!("echo a >{folder}/a")]);
        }
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn variables_are_set_for_utf8_and_commands_that_nobody_watches() {
    let engine = Engine::get();
    for (target, image) in images(&engine) {
        let lines = run(&[], image, "env", &[]);
        let variable = |name: &str| {
            let value =
                |line: &'_ str| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned());
            lines.lines().find_map(value).unwrap_or_default()
        };
        for name in ["LANG", "LC_ALL"] {
            assert_eq!(variable(name), "C.UTF-8", "{target} {name}");
        }
        assert_eq!(variable("LOG_JSON"), "true", "{target}");
        for name in ["PAGER", "GIT_PAGER", "GH_PAGER", "MANPAGER", "SYSTEMD_PAGER"] {
            assert_eq!(variable(name), "cat", "{target} {name}");
        }
        for name in ["EDITOR", "GIT_EDITOR", "VISUAL"] {
            assert_eq!(variable(name), "true", "{target} {name}");
        }
    }
}

/// A client's own tools lie in a folder that the server is started with.
#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn custom_tools_may_import_every_module() {
    let engine = Engine::get();
    let tools = root().join("tests/clients/custom");
    let volume = format!("--volume={}:/tools:ro", tools.display());
    for (target, image) in images(&engine) {
        let args = ["--import-modules=every_module"];
        // The SDK's documentation has images with this one.
        let place = if target == "overlay" { "PYTHONPATH" } else { "OH_EXTRA_PYTHON_PATH" };
        let options = ["--rm", &volume, &format!("--env={place}=/tools")];
        let said = docker(&[&["run"], &options[..], &[image], &args].concat());
        assert_eq!(said.lines().last(), Some("failed: none"), "{target}: {said}");
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_session_key_rules_every_path_but_the_health_checks() {
    // What the server tells anybody of itself.
    const OPEN: [&str; 5] = ["/", "/alive", "/health", "/ready", "/server_info"];
    let engine = Engine::get();
    for (target, image, container) in servers(&engine) {
        let address = container.serve(8000);
        let history = docker(&["history", "--no-trunc", image]);
        assert!(!history.contains("BEGIN CERTIFICATE") && !history.contains("/etc/ssl/certs/ca-"));
        let paths = http(address, "/openapi.json", &[]).unwrap().1;
        let paths: Value = serde_json::from_str(&paths).unwrap();
        let paths = paths["paths"].as_object().unwrap();
        assert!(paths.len() > 50, "{paths:#?}");
        for (path, methods) in paths {
            for method in methods.as_object().unwrap().keys() {
                let path = path.replace(['{', '}'], "");
                let (status, answer) =
                    send(address, &method.to_uppercase(), &path, &[], "").unwrap();
                // Of servers that wait for their configuration, which ours does not.
                let is_off = path == "/api/init" && status == 404;
                let expected = if OPEN.contains(&path.as_str()) { 200 } else { 401 };
                assert!(
                    is_off || status == expected,
                    "{target}: {method} {path}: {status} {answer}"
                );
            }
        }
        let about = http(address, "/server_info", &[]).unwrap().1;
        assert!(about.contains("\"terminal\""), "{target}: {about}");
        for (key, expected) in [("secret", 200), ("wrong", 401)] {
            let headers = [("X-Session-API-Key", key)];
            let status = http(address, "/api/conversations/count", &headers).unwrap().0;
            assert_eq!(status, expected, "{target}: {key}");
        }
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn the_api_of_an_image_is_read_from_its_server() {
    let engine = Engine::get();
    let [(_, image), ..] = images(&engine);
    let folder = Folder::new("api-image");
    let old = folder.0.join("old.json");
    fs::write(
        &old,
        json!({ "info": { "version": "0.1.0" }, "paths": { "/items": { "post": {} } } })
            .to_string(),
    )
    .unwrap();
    let args = ["image", "api", image, "--baseline", old.to_str().unwrap()];
    let ended = Xtask::new(&args).in_engine(&engine).end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("POST /items: gone"), "{}", ended.stdout);
    assert!(ended.stdout.contains("GET /health: new"), "{}", ended.stdout);
}
