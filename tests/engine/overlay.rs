//! `overlay` on root file systems of many kinds: built by a real engine on bases in a real
//! registry, and run. These tests need `cargo xtask engine -- cargo test`.

use std::env;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::engine::{FEWER, clients, give};
use crate::support::engine::{Engine, docker, http, once};
use crate::support::server::{KEY, Server};
use crate::support::{CACHE_MODE, SHA, Xtask};
use serde_json::json;

/// A base image, and what the server's commands are to find on it.
struct Base {
    name: &'static str,
    /// A target of `bases.Dockerfile`, and Debian's suite where it needs one. The other tests have
    /// Debian 13.
    target: &'static str,
    suite: &'static str,
    /// What `cat` loads its C library from: nothing where it needs none.
    libc: &'static str,
    git: &'static str,
    /// What the agent's terminal runs.
    shell: &'static str,
    library_path: &'static str,
}

const OURS: Base = Base {
    name: "bare",
    target: "bare",
    suite: "",
    libc: "",
    git: "/agent-server/tools/bin/git",
    shell: "/agent-server/tools/bin/bash",
    library_path: "",
};
const GLIBC: Base = Base { libc: "-linux-gnu/libc", shell: "/bin/bash", ..OURS };

const BASES: [Base; 5] = [
    // Its glibc is older than the builder's.
    Base { name: "debian-11", target: "debian", suite: "bullseye", ..GLIBC },
    Base {
        name: "ubuntu-like",
        target: "ubuntu-like",
        git: "/usr/bin/git",
        library_path: "/opt/lib",
        ..GLIBC
    },
    Base { name: "fedora-like", target: "fedora-like", libc: "/usr/lib64/libc", ..GLIBC },
    Base { name: "alpine-like", target: "alpine-like", ..OURS },
    OURS,
];

/// Those on which the real client works as well: an older glibc, and musl.
const CLIENT_ON: [&str; 2] = ["debian-11", "alpine-like"];

/// What came of the one build of all images, and what the registry was asked for in it.
struct Built {
    images: Vec<String>,
    requests: String,
}

/// The images of all bases, made by one call on an engine that has nothing of them.
fn built(engine: &Engine) -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    once(&BUILT, || {
        // Made elsewhere: this engine has nothing of them.
        let other = engine.another();
        let references = BASES.map(|base| make(&other, &base));
        let asked_before = requests().len();
        let image = engine.image("overlay");
        let args = ["image", "--variant=debian", "--target=overlay", "--push", "--image", &image];
        let bases = references.map(|reference| format!("--base-image={reference}"));
        // An image that is started needs its base's layers.
        let args = args
            .into_iter()
            .chain(FEWER)
            .chain(["--check=off"])
            .chain(bases.iter().map(String::as_str));
        let args = args.collect::<Vec<_>>();
        let call =
            Xtask::shipped(&args).in_engine(engine).env("SDK_SHA", SHA).env("HTTPS_PROXY", "");
        let ended = call.env(CACHE_MODE, "off").end();
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        let images = ended.stdout.lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(images.len(), BASES.len(), "{images:?}");
        Built { images, requests: requests()[asked_before..].to_owned() }
    })
}

/// Makes a base image in the registry, and gives its reference.
fn make(engine: &Engine, base: &Base) -> String {
    let reference = engine.image(base.name);
    let suite = format!("SUITE={}", base.suite);
    let how = ["build", "--quiet", "--provenance=false", "--push", "--target", base.target];
    let mut build = engine.command(&how);
    build.args(["--build-arg", &suite, "--tag", &reference, "-"]).stderr(Stdio::piped());
    give(&mut build, include_str!("../support/bases.Dockerfile"));
    reference
}

fn requests() -> String {
    fs::read_to_string(env::var_os("XTASK_REGISTRY_LOG").unwrap()).unwrap()
}

/// The digests of an image's layers, from the lowest.
fn layers(engine: &Engine, name: &str, tag: &str) -> Vec<String> {
    let mut manifest = engine.manifest(name, tag);
    if let Some(manifests) = manifest["manifests"].as_array() {
        let image = manifests.iter().find(|image| image["platform"]["os"] == "linux").unwrap();
        manifest = engine.manifest(name, image["digest"].as_str().unwrap());
    }
    let layers = manifest["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

fn tag(image: &str) -> &str {
    image.rsplit(':').next().unwrap()
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn every_base_gets_the_same_layers_on_top_of_its_own() {
    let engine = Engine::get();
    let built = built(&engine);
    let mut added = Vec::new();
    for (base, image) in BASES.iter().zip(&built.images) {
        let own = layers(&engine, base.name, "latest");
        let all = layers(&engine, "overlay", tag(image));
        assert_eq!(all[..own.len()], own, "{}", base.name);
        added.push(all[own.len()..].to_vec());
    }
    assert_eq!(added[0].len(), 6);
    assert!(added.iter().all(|layers| *layers == added[0]), "{added:#?}");

    // What is in them shows on the base that has nothing.
    let bare = docker(&["create", built.images.last().unwrap()]);
    let export = format!("docker export {bare} | tar --list");
    let files = Command::new("sh").args(["-c", &export]).output().unwrap();
    docker(&["rm", &bare]);
    let dockers = [".dockerenv", "data/", "dev/", "etc/", "proc/", "sys/"];
    for file in String::from_utf8(files.stdout).unwrap().lines() {
        let launcher = "usr/local/bin/openhands-agent-server";
        let folders = ["agent-server/", "workspace/"];
        let ours = launcher.starts_with(file) || folders.iter().any(|ours| file.starts_with(ours));
        assert!(ours || dockers.iter().any(|start| file.starts_with(start)), "{file}");
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_build_needs_no_layer_of_its_bases() {
    let engine = Engine::get();
    let built = built(&engine);
    let done = built.requests.lines().filter(|line| line.contains(" HTTP/1.1\" 20"));
    let done = done.collect::<Vec<_>>();
    let asked = |what: &str| done.iter().filter(|line| line.contains(what)).count();
    let mounted = |layer: &str| asked(&format!("overlay/blobs/uploads/?mount={layer}"));
    for base in &BASES {
        for layer in layers(&engine, base.name, "latest") {
            assert_eq!(asked(&format!("/{}/blobs/{layer}", base.name)), 0, "{}", base.name);
            // The engine itself has the layers of `debian:trixie-slim`.
            assert!(mounted(&layer) == 1 || base.name == "ubuntu-like", "{}", base.name);
        }
    }
    for layer in layers(&engine, "overlay", tag(&built.images[0])).iter().rev().take(3) {
        let pushed = asked(&format!("digest={}", layer.replace(':', "%3A")));
        // An earlier test may have left it in another repository, from where it is mounted.
        assert_eq!(pushed + mounted(layer), 1, "{layer}");
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn the_server_and_its_tools_work_on_every_base() {
    let engine = Engine::get();
    let built = built(&engine);
    for (base, image) in BASES.iter().zip(&built.images) {
        let server = Server::start(image, &[]);
        check_server(&server, base);
        check_commands(&server, base);
        check_files(&server, base);
        check_agent(&server, base);
        if CLIENT_ON.contains(&base.name) {
            clients::run("agent.py", image, "overlay");
        }
        server.container.wait_until_healthy();
    }
    // Our programs can't load this, and the agent's commands keep it.
    let musl = BASES.iter().position(|base| base.name == "alpine-like").unwrap();
    let server = Server::start(&built.images[musl], &["--env=LD_PRELOAD=/lib/preloaded.so"]);
    let said = server.run("echo $LD_PRELOAD && git --version | cut -c -4 && tmux -V | cut -c -5");
    assert_eq!(said, "/lib/preloaded.so\ngit \ntmux");
    let observations = server.converse(vec![("terminal", json!({"command": "echo $LD_PRELOAD"}))]);
    assert!(observations[0].to_string().contains("/lib/preloaded.so"), "{observations:#?}");
    // A user whom nobody knows there.
    let server = Server::start(&built.images[0], &["--user=4321:4321"]);
    assert_eq!(server.run("id -u && touch /workspace/made"), "4321");
}

fn check_server(server: &Server, base: &Base) {
    let count = |headers: &[(&str, &str)]| {
        http(server.address, "/api/conversations/count", headers).unwrap().0
    };
    assert_eq!(count(&[]), 401, "{}", base.name);
    assert_eq!(count(&[KEY]), 200, "{}", base.name);
    assert_eq!(server.run("id -u; cat /proc/1/comm"), "10001\ntini", "{}", base.name);
}

/// What is the base's own comes first and runs with the base's libraries.
fn check_commands(server: &Server, base: &Base) {
    let versions = server.run("git --version; tmux -V");
    assert!(versions.starts_with("git version ") && versions.contains("\ntmux "), "{versions}");
    assert_eq!(server.run("command -v git"), base.git, "{}", base.name);
    let loaded = server.run("cat /proc/self/maps");
    let libc = loaded.lines().find(|line| line.contains("/libc")).unwrap_or_default();
    assert!(libc.contains(base.libc) && libc.is_empty() == base.libc.is_empty(), "{loaded}");
    assert!(!loaded.contains("/agent-server/tools/lib"), "{}: {loaded}", base.name);
    assert_eq!(server.run("echo $LD_LIBRARY_PATH"), base.library_path, "{}", base.name);
}

fn check_files(server: &Server, base: &Base) {
    let commit = "git -c user.name=a -c user.email=a@b commit --quiet --allow-empty --message c";
    server.run(&format!("cd /workspace && git init --quiet r && cd r && {commit} && echo y >new"));
    let get = |path: &str| http(server.address, path, &[KEY]).unwrap();
    let (status, changes) = get("/api/git/changes?path=/workspace/r");
    assert!(status == 200 && changes.contains("new"), "{}: {changes}", base.name);
    assert_eq!(get("/api/file/download?path=/workspace/r/new"), (200, "y\n".to_owned()));
    server.post("/api/file/create_directory?path=/workspace/made", &json!({}));
    assert_eq!(server.run("stat -c %F /workspace/made"), "directory", "{}", base.name);
}

/// An agent's terminal and editor, by a conversation with a model that only knows this one.
fn check_agent(server: &Server, base: &Base) {
    let shell = json!({"command": "echo \"$BASH ü\" && type -p git && pwd"});
    let file = json!({"command": "create", "path": "/workspace/text", "file_text": "text"});
    let read = json!({"command": "cat /workspace/text"});
    let calls = vec![("terminal", shell), ("file_editor", file), ("terminal", read)];
    let observations = server.converse(calls);
    let said = |number: usize| observations[number]["content"][0]["text"].as_str().unwrap();
    assert_eq!(observations.len(), 3, "{}: {observations:#?}", base.name);
    let expected = format!("{} ü\n{}\n/workspace", base.shell, base.git);
    assert!(said(0).contains(&expected), "{}: {observations:#?}", base.name);
    assert!(said(2).contains("text"), "{}: {observations:#?}", base.name);
}
