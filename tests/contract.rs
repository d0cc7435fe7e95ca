//! What clients may lean on in every image of a server, a test a line of the contract. These tests
//! need `cargo xtask engine -- cargo test`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::support::container::Container;
use crate::support::engine::{Engine, docker, http, send};
use crate::support::{Xtask, root};
use serde_json::Value;

pub const TARGETS: [&str; 3] = ["source-minimal", "binary-minimal", "overlay"];

const SERVER: &str = "/usr/local/bin/openhands-agent-server";
const PYTHON: &str = "/agent-server/.venv/bin/python";
const KEY: &str = "SESSION_API_KEY=secret";

/// The image of each target on `debian:trixie-slim`, built once for all tests.
pub fn images(engine: &Engine) -> [(&'static str, &'static str); 3] {
    static IMAGES: OnceLock<[String; 3]> = OnceLock::new();
    let images = IMAGES.get_or_init(|| TARGETS.map(|target| build(engine, target, "default")));
    [0, 1, 2].map(|number| (TARGETS[number], images[number].as_str()))
}

/// The image of `target` in that flavor on `debian:trixie-slim`.
pub fn build(engine: &Engine, target: &str, flavor: &str) -> String {
    let image = engine.image("server");
    let args = ["image", "--variant=debian", "--target", target, "--push", "--image", &image];
    let args = [&args[..], &["--image-flavor", flavor]].concat();
    let call = Xtask::shipped(&args).in_engine().on("refs/heads/x");
    let ended = call.env("OPENHANDS_BUILDKIT_CACHE_MODE", "off").end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    ended.stdout.lines().next().unwrap().to_owned()
}

/// What a program of the image writes.
fn run(options: &[&str], image: &str, program: &str, args: &[&str]) -> String {
    let entrypoint = format!("--entrypoint={program}");
    docker(&[&["run", "--rm", &entrypoint], options, &[image], args].concat())
}

#[test]
fn the_entry_point_is_the_server_under_tini_as_its_own_user() {
    let Some(engine) = Engine::get("the entry point") else { return };
    for (target, image) in images(&engine) {
        let publish = "--publish=127.0.0.1::60000";
        let args = ["--host", "0.0.0.0", "--port", "60000"];
        let container = Container::start(&[publish], image, &args);
        container.serve(60000);
        let names = container.exec(&["cat", "/proc/1/comm"]);
        assert_eq!(names, "tini", "{target}");
        let ids = container.exec(&["sh", "-c", "id -u; id -g"]);
        assert_eq!(ids, "10001\n10001", "{target}");
    }
}

#[test]
fn the_health_check_asks_port_8000_and_logs_are_json() {
    let Some(engine) = Engine::get("the health check") else { return };
    for (target, image) in images(&engine) {
        let container = Container::start(&["--publish=127.0.0.1::8000", "--env", KEY], image, &[]);
        container.serve(8000);
        let health = ["inspect", "--format", "{{.State.Health.Status}}", &container.0];
        container.wait(|| docker(&health) == "healthy");
        let logs = container.logs();
        let is_json = |line: &str| serde_json::from_str::<Value>(line).is_ok();
        assert!(logs.lines().any(is_json), "{target}: {logs}");
    }
}

/// How clients that don't use the entry point start the server, as a remote runtime does.
#[test]
fn the_server_starts_by_its_path_and_as_a_module() {
    let Some(engine) = Engine::get("other ways to start") else { return };
    for (_, image) in images(&engine) {
        for command in [SERVER, &format!("{PYTHON} -m openhands.agent_server")] {
            let (program, args) = command.split_once(' ').unwrap_or((command, ""));
            let entrypoint = format!("--entrypoint={program}");
            let options = [&entrypoint, "--publish=127.0.0.1::60000", "--env", KEY, "--workdir=/"];
            let args = args.split_whitespace().chain(["--port", "60000"]).collect::<Vec<_>>();
            Container::start(&options, image, &args).serve(60000);
        }
    }
}

/// On a base with the C library that the server was built for, and nothing that an image adds.
#[test]
fn the_server_of_a_source_target_runs_where_it_is_copied_to() {
    let Some(engine) = Engine::get("a copied server") else { return };
    let source = images(&engine)[0].1;
    let dockerfile = format!(
        "FROM debian:trixie-slim\nRUN useradd other\n\
         COPY --from={source} /agent-server /agent-server\nWORKDIR /tmp\nUSER other\n"
    );
    let copy = engine.image("copy");
    let mut build = Command::new("docker");
    build.args(["build", "--quiet", "--tag", &copy, "-"]).stdout(Stdio::null());
    let mut build = build.stdin(Stdio::piped()).spawn().unwrap();
    build.stdin.take().unwrap().write_all(dockerfile.as_bytes()).unwrap();
    assert!(build.wait().unwrap().success());
    let options = ["--publish=127.0.0.1::8000", "--env", KEY, "--entrypoint", PYTHON];
    let container = Container::start(&options, &copy, &["-m", "openhands.agent_server"]);
    container.serve(8000);
}

#[test]
fn anybody_may_write_to_the_workspace_and_new_volumes() {
    let Some(engine) = Engine::get("the workspace") else { return };
    let script = "pwd && cd /workspace && echo a >a && cd project && echo a >a && echo a >~/a";
    for (target, image) in images(&engine) {
        for user in ["--user=10001:10001", "--user=4321:4321"] {
            assert_eq!(run(&[user], image, "sh", &["-c", script]), "/", "{target} {user}");
        }
        let home = run(&[], image, "sh", &["-c", "echo ~"]);
        for folder in ["/workspace", "/workspace/project", &format!("{home}/.openhands")] {
            let volume = format!("--volume={folder}");
            run(&[&volume], image, "sh", &["-c", &format!("echo a >{folder}/a")]);
        }
    }
}

#[test]
fn variables_are_set_for_utf8_and_commands_that_nobody_watches() {
    let Some(engine) = Engine::get("the variables") else { return };
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
            // VS Code's, where it is installed, waits only in a terminal of VS Code.
            let editor = variable(name);
            assert!(["true", "code", "code --wait"].contains(&editor.as_str()), "{target} {name}");
        }
    }
}

/// A client's own tools lie in a folder that the server is started with.
#[test]
fn custom_tools_may_import_every_module() {
    let Some(engine) = Engine::get("imports") else { return };
    let tools = root().join("tests/clients/custom");
    let volume = format!("--volume={}:/tools:ro", tools.display());
    for (target, image) in images(&engine) {
        let args = ["--import-modules=every_module"];
        let options = ["--rm", &volume, "--env=OH_EXTRA_PYTHON_PATH=/tools"];
        let said = docker(&[&["run"], &options[..], &[image], &args].concat());
        assert_eq!(said.lines().last(), Some("failed: none"), "{target}: {said}");
    }
}

#[test]
fn a_session_key_rules_every_path_but_the_health_checks() {
    // What the server tells anybody of itself.
    const OPEN: [&str; 5] = ["/", "/alive", "/health", "/ready", "/server_info"];
    let Some(engine) = Engine::get("the session key") else { return };
    for (target, image) in images(&engine) {
        let container = Container::start(&["--publish=127.0.0.1::8000", "--env", KEY], image, &[]);
        let address = container.serve(8000);
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
        let headers = [("X-Session-API-Key", "secret")];
        assert_eq!(http(address, "/api/conversations/count", &headers).unwrap().0, 200);
    }
}

/// With a key, or by `--host`, the other tests reach it through a published port.
#[test]
fn without_a_key_or_a_host_the_server_listens_on_loopback_only() {
    let Some(engine) = Engine::get("where the server listens") else { return };
    for (target, image) in images(&engine) {
        let container = Container::start(&[], image, &[]);
        let sockets = || container.try_exec(&["cat", "/proc/net/tcp", "/proc/net/tcp6"]);
        container.wait(|| sockets().is_some_and(|sockets| sockets.contains(":1F40 ")));
        let sockets = sockets().unwrap();
        let places = sockets.lines().filter_map(|line| line.split_whitespace().nth(1));
        let places = places.filter(|place| place.ends_with(":1F40")).collect::<BTreeSet<_>>();
        assert_eq!(places, BTreeSet::from(["0100007F:1F40"]), "{target}");
    }
}
