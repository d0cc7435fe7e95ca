//! The real client, of the Python package index, with the server of our images and a model that
//! plays a script. These tests need `cargo xtask engine -- cargo test`, and Python 3.12 or newer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::engine::images;
use crate::support::engine::Engine;
use crate::support::root;

const PACKAGES: [&str; 3] = ["openhands-sdk", "openhands-tools", "openhands-workspace"];

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn the_client_works_with_every_target() {
    let engine = Engine::get();
    let [source, binary, _] = images(&engine);
    // `overlay`'s tests do it on other bases.
    for (target, image) in [source, binary] {
        run("agent.py", image, target);
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn conversations_outlive_their_container_on_a_volume() {
    let engine = Engine::get();
    let [_, (target, image), _] = images(&engine);
    run("restart.py", image, target);
}

/// Runs a script of `tests/clients` for the image of a target.
pub fn run(script: &str, image: &str, target: &str) {
    let path = root().join("tests/clients").join(script);
    let mut python = Command::new(client().join("bin/python"));
    let output = python.arg("-B").arg(path).args([image, target]).output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{script} {image}: {}\n{}", text[0], text[1]);
}

/// The virtual environment with the client's packages, of the versions that the image has. It is
/// made once and kept below `target`.
fn client() -> &'static Path {
    static CLIENT: OnceLock<PathBuf> = OnceLock::new();
    CLIENT.get_or_init(|| {
        let folder = root().join("target/clients");
        let (venv, made) = (folder.join("venv"), folder.join("made"));
        let pins = PACKAGES.map(|package| pin("requirements.txt", package)).join(" ");
        if fs::read_to_string(&made).is_ok_and(|text| text == pins) {
            return venv;
        }
        let _ = fs::remove_file(&made);
        succeed(Command::new(python()).args(["-m", "venv", "--clear"]).arg(&venv));
        let (uv, program) = (pin("build-requirements.txt", "uv"), venv.join("bin/python"));
        succeed(Command::new(&program).args(["-m", "pip", "install", "--quiet", &uv]));
        let mut install = Command::new(venv.join("bin/uv"));
        install.args(["pip", "install", "--quiet", "--compile-bytecode", "--python"]).arg(program);
        succeed(install.args(pins.split(' ')));
        fs::write(made, pins).unwrap();
        venv
    })
}

/// The requirement of a package as the image pins it in one of its lists.
fn pin(list: &str, package: &str) -> String {
    let path = root().join("agent-server-image/lock").join(list);
    let start = format!("{package}==");
    let lines = fs::read_to_string(path).unwrap();
    let line = lines.lines().find(|line| line.starts_with(&start)).unwrap();
    line.split(' ').next().unwrap().to_owned()
}

/// A Python that the client runs on: of PATH, or of pyenv, which offers it under its own path only.
fn python() -> PathBuf {
    let names = ["python3.14", "python3.13", "python3.12", "python3"].map(PathBuf::from);
    let pyenv = Path::new(&std::env::var_os("HOME").unwrap()).join(".pyenv/versions");
    let versions = fs::read_dir(pyenv).into_iter().flatten().flatten();
    let versions = versions.map(|version| version.path().join("bin/python3"));
    let fits = |python: &PathBuf| {
        let check = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))";
        Command::new(python).args(["-c", check]).output().is_ok_and(|ended| ended.status.success())
    };
    let found = names.into_iter().chain(versions).find(fits);
    found.expect("the client needs Python 3.12 or newer with its module venv in PATH")
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}
