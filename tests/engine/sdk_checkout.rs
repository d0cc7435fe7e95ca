//! The SDK as people edit it, built by a real engine and run: a checkout, its archive, wheels.
//! These tests need `cargo xtask engine -- cargo test`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::engine::FEWER;
use crate::support::engine::{Engine, docker, http, signal};
use crate::support::sdk::Sdk;
use crate::support::server::{Server, free_port};
use crate::support::workspace::{PACKAGES, Workspace};
use crate::support::{CACHE_MODE, Ended, Folder, Xtask, records, root};
use serde_json::json;

const TARGETS: [&str; 3] = ["source-minimal", "binary-minimal", "overlay"];
const PYTHON: &str = "/agent-server/.venv/bin/python";
/// What `/server_info` is made of.
const DETAILS: &str = "openhands-agent-server/openhands/agent_server/server_details_router.py";
const TITLE: &str = "\"OpenHands Agent Server\"";

/// A build of what `args` name.
fn call(engine: &Engine, name: &str, target: &str, args: &[&str]) -> Xtask {
    let image = engine.image(name);
    let always = ["image", "--variant=debian", "--target", target, "--image", &image];
    Xtask::shipped(&[&always[..], &FEWER, args].concat()).in_engine(engine)
}

/// A build that succeeded.
struct Built {
    image: String,
    stderr: String,
    /// The stages in which commands ran, but for the start of the server.
    ran: BTreeSet<String>,
}

fn build(engine: &Engine, name: &str, target: &str, args: &[&str]) -> Built {
    let folder = Folder::new("records");
    let file = folder.0.join("records");
    let mut call = call(engine, name, target, args);
    call.0.arg("--records").arg(&file);
    let ended = call.succeed();
    let [record] = &records(&file)[..] else { panic!("not one record") };
    let steps = record["step_list"].as_array().unwrap();
    assert!(steps.len() > 5, "{record:#}");
    let ran = steps.iter().filter(|step| step["cached"] != true);
    let ran = ran.map(|step| step["name"].as_str().unwrap()).filter(|name| name.contains("] RUN "));
    let stages = ran.map(|name| name.trim_start_matches('[').split(' ').next().unwrap());
    let ran = stages.filter(|stage| *stage != "check").map(str::to_owned).collect();
    let image = ended.stdout.lines().next().unwrap().to_owned();
    Built { image, stderr: ended.stderr, ran }
}

/// The version that the requirements pin.
fn pinned(package: &str) -> String {
    let requirements = root().join("agent-server-image/lock/requirements.txt");
    let requirements = fs::read_to_string(requirements).unwrap();
    let line = requirements.lines().find_map(|line| line.strip_prefix(&format!("{package}==")));
    line.unwrap().split(' ').next().unwrap().to_owned()
}

/// The version of each package, by the server's own word and by Python's.
fn check_versions(server: &Server, expected: [(&str, &str); 4]) {
    let info = server.get("/server_info");
    for (package, version) in expected {
        let key = match package.trim_start_matches("openhands-") {
            "agent-server" => "version".to_owned(),
            name => format!("{name}_version"),
        };
        assert_eq!(info[&key], version, "{info:#}");
        assert_eq!(version_of(server, package), version);
    }
}

/// The version of an installed package.
fn version_of(server: &Server, package: &str) -> String {
    python(server, &format!("import importlib.metadata as m; print(m.version('{package}'))"))
}

/// What the server's Python prints.
fn python(server: &Server, code: &str) -> String {
    server.container.exec(&[PYTHON, "-c", code])
}

/// A label of an image in the engine.
fn label(image: &str, name: &str) -> String {
    docker(&["inspect", "--format", &format!("{{{{index .Config.Labels \"{name}\"}}}}"), image])
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn an_edit_is_in_every_target_and_builds_one_package_again() {
    let engine = Engine::get();
    let sdk = Sdk::get(&engine);
    let checkout = sdk.checkout("edit");
    let root = ["--sdk-project-root", checkout.path(), "--load"];
    let sha = checkout.git(&["rev-parse", "HEAD"]);
    let version = pinned("openhands-sdk");
    for target in TARGETS {
        let built = build(&engine, "edit", target, &root);
        assert_eq!(label(&built.image, "dev.openhands.dirty"), "false");
        let server = Server::start(&built.image, &[]);
        check_versions(&server, PACKAGES.map(|package| (package, version.as_str())));
        let info = server.get("/server_info");
        assert_eq!(info["build_git_sha"], sha.as_str());
        assert_eq!(info["build_git_ref"], "refs/heads/feat/x");
        // The checkout's lock decides, not ours.
        assert_ne!(pinned("wsproto"), "1.2.0");
        assert_eq!(version_of(&server, "wsproto"), "1.2.0");
        check_conversation(&server);
        check_sources(&server);
    }

    // It imports a module of Python and an installed one, neither of which it had before.
    // The commit makes it an edit that no earlier run has built.
    let edited = format!("f\"edited {{colorsys.__name__}} {{wsproto.__version__}} at {sha}\"");
    checkout.edit(DETAILS, "import asyncio\n", "import asyncio\nimport colorsys\nimport wsproto\n");
    checkout.edit(DETAILS, TITLE, &edited);
    for target in TARGETS {
        let built = build(&engine, "edit", target, &[&root[..], &["--check=off"]].concat());
        // The first target's build is there for the others.
        let only = BTreeSet::from(["package-agent-server".to_owned()]);
        let expected = if target == TARGETS[0] { only } else { BTreeSet::new() };
        assert_eq!(built.ran, expected, "{target}");
        assert!(built.stderr.contains("uncommitted"), "{}", built.stderr);
        assert_eq!(label(&built.image, "dev.openhands.dirty"), "true");
        let info = Server::start(&built.image, &[]).get("/server_info");
        assert_eq!(info["title"], format!("edited colorsys 1.2.0 at {sha}"), "{info:#}");
    }
    check_refusals(&engine, &checkout);
}

/// An agent uses its tools.
fn check_conversation(server: &Server) {
    let file = json!({"command": "create", "path": "/workspace/made", "file_text": "by an agent"});
    let tasks = json!({"command": "view"});
    let read = json!({"command": "cat /workspace/made"});
    let calls = vec![("file_editor", file), ("task_tracker", tasks), ("terminal", read)];
    let observations = server.converse(calls);
    assert_eq!(observations.len(), 3, "{observations:#?}");
    let text = observations[2]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("by an agent"), "{observations:#?}");
}

/// Tracebacks show the lines of the packages.
fn check_sources(server: &Server) {
    let code = "import inspect, openhands.sdk, openhands.agent_server.server_details_router as s
print(inspect.getsource(s.build_server_info), inspect.getsource(openhands.sdk.get_logger))";
    let lines = python(server, code);
    assert!(["build_server_info", "get_logger"].into_iter().all(|name| lines.contains(name)));
}

/// What is not pushed: uncommitted changes that nobody allowed, and what the lock does not have.
fn check_refusals(engine: &Engine, checkout: &Workspace) {
    let root = ["--sdk-project-root", checkout.path()];
    let push = |args: &[&str]| {
        let args = [&root[..], &["--push"], args].concat();
        call(engine, "refusals", "binary-minimal", &args).env(CACHE_MODE, "off")
    };
    let said = push(&[]).refused();
    assert!(said.contains("--allow-dirty"), "{said}");
    assert!(engine.tags("refusals").is_empty());
    let ended = push(&["--allow-dirty"]).end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);

    let manifest = "openhands-tools/pyproject.toml";
    checkout.edit(manifest, "    \"cachetools\",\n", "    \"cachetools>=1\",\n    \"humanize\",\n");
    checkout.commit();
    let ended = push(&[]).end();
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("uv lock"), "{}", ended.stderr);
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_server_that_does_not_start_is_not_pushed() {
    let engine = Engine::get();
    let checkout = Sdk::get(&engine).checkout("broken");
    checkout.edit(DETAILS, "import asyncio\n", "import asyncio\nimport no_such_module\n");
    let push = |args: &[&str]| -> Ended {
        let root = ["--sdk-project-root", checkout.path(), "--allow-dirty", "--push"];
        call(&engine, "old", "binary-minimal", &[&root[..], args].concat())
            .env(CACHE_MODE, "off")
            .end()
    };
    let failed = push(&[]);
    assert_eq!((failed.status, failed.stdout.as_str()), (1, ""), "{}", failed.stderr);
    assert!(failed.stderr.contains("No module named 'no_such_module'"), "{}", failed.stderr);
    assert!(engine.tags("old").is_empty(), "{:?}", engine.tags("old"));
    let unchecked = push(&["--check=off"]);
    assert_eq!(unchecked.status, 0, "{}", unchecked.stderr);
    assert!(!engine.tags("old").is_empty());
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn run_serves_the_edit() {
    let engine = Engine::get();
    let checkout = Sdk::get(&engine).checkout("run");
    checkout.edit(DETAILS, TITLE, "\"Edited and running\"");
    let image = engine.image("run");
    let args = ["image", "run", "--variant=debian", "--target=source-minimal"];
    let port = free_port();
    let rest = ["--port", &port, "--image", &image, "--sdk-project-root", checkout.path()];
    let mut call = Xtask::shipped(&[&args[..], &FEWER, &rest].concat()).in_engine(&engine);
    let mut run = call.0.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address = lines.next().unwrap().replace("address: http://", "").parse().unwrap();
    let key = lines.next().unwrap().replace("key:", "");
    let info = http(address, "/server_info", &[("X-Session-API-Key", key.trim())]).unwrap();
    assert!(info.1.contains("Edited and running"), "{info:?}");
    signal("TERM", run.id());
    assert_eq!(run.wait().unwrap().code(), Some(0));
    let filter = format!("publish={port}");
    assert_eq!(docker(&["ps", "--all", "--quiet", "--filter", &filter]), "");
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn the_archive_has_its_checkouts_layers_and_a_cache_has_all_steps() {
    let engine = Engine::get();
    let sdk = Sdk::get(&engine);
    let checkout = sdk.checkout("layers");
    let root = ["--sdk-project-root", checkout.path(), "--push"];
    let from_checkout = build(&engine, "checkout", "binary-minimal", &root);
    let archive = ["--prebuilt-sdist", &sdk.archive(), "--push"];
    let from_archive = build(&engine, "archive", "binary-minimal", &archive);
    let layers = |name: &str, image: &str| {
        let tag = image.rsplit(':').next().unwrap();
        let manifest = engine.manifest(name, tag);
        let layers = manifest["layers"].as_array().unwrap().iter();
        layers.map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let of_checkout = layers("checkout", &from_checkout.image);
    assert_eq!(of_checkout, layers("archive", &from_archive.image));
    let server = Server::start(&from_archive.image, &[]);
    let version = pinned("openhands-sdk");
    check_versions(&server, PACKAGES.map(|package| (package, version.as_str())));

    // What the cache lacks would have to be run on an engine that has nothing.
    let other = engine.another();
    let again = build(&other, "checkout", "binary-minimal", &root);
    assert_eq!(again.ran, BTreeSet::new());
    assert_eq!(layers("checkout", &again.image), of_checkout);
}
