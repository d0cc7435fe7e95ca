//! `cargo xtask image doctor`: a line for each thing that a build needs. A fake `docker` lacks what
//! a real engine can't be made to lack.

use std::fs;

use serde_json::{Value, json};

use crate::support::engine::Engine;
use crate::support::fake::{FakeDocker, INSPECTED};
use crate::support::{Ended, Folder, Xtask};

const SCRIPT: &str = "case \"$*\" in
info*) cat info;;
*version) cat version;;
*inspect*) cat inspected;;
*) echo \"$*\" > unexpected;;
esac";

/// A `docker` that is well, on this machine, with 50 GB of disk.
fn healthy(name: &str) -> FakeDocker {
    let fake = FakeDocker::new(name, SCRIPT);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let info = json!({
        "ClientInfo": {"Version": "28.5.1"},
        "ServerVersion": "28.4.0",
        "OperatingSystem": "Debian",
        "Architecture": "x86_64",
        "DockerRootDir": "/",
        "Name": host.trim(),
    });
    fs::write(fake.file("info"), info.to_string()).unwrap();
    fs::write(fake.file("version"), "github.com/docker/buildx v0.29.1 abc\n").unwrap();
    fs::write(fake.file("inspected"), INSPECTED).unwrap();
    fake.program("cargo", "echo cargo 1.95.0");
    disk(&fake, 50_000_000);
    fake
}

fn disk(fake: &FakeDocker, free: u64) {
    fake.program("df", &format!("echo Free; echo /dev/x 90000000 1000 {free} 1% /"));
}

fn change(fake: &FakeDocker, changes: &Value) {
    let mut info: Value = serde_json::from_slice(&fs::read(fake.file("info")).unwrap()).unwrap();
    for (name, value) in changes.as_object().unwrap() {
        info[name] = value.clone();
    }
    fs::write(fake.file("info"), info.to_string()).unwrap();
}

fn doctor(fake: &FakeDocker, args: &[&str]) -> Ended {
    doctor_for(fake, "r.example/a/b", args)
}

fn doctor_for(fake: &FakeDocker, image: &str, args: &[&str]) -> Ended {
    let call = fake.call(&[&["image", "doctor"], args].concat()).env("IMAGE", image);
    let ended = call.env("DOCKER_CONFIG", &fake.0.0).end();
    assert!(!fake.file("unexpected").exists(), "{ended:?}");
    ended
}

/// The line of `subject` begins with `state` and has all `parts`.
fn check(ended: &Ended, state: &str, subject: &str, parts: &[&str]) {
    let start = format!("{state}  {subject}: ");
    let line = ended.stdout.lines().find(|line| line.starts_with(&start));
    let line = line.unwrap_or_else(|| panic!("no {start:?} in {}", ended.stdout));
    assert!(parts.iter().all(|part| line.contains(part)), "{line} lacks some of {parts:?}");
}

#[test]
fn all_is_well() {
    let fake = healthy("doctor");
    let ended = doctor(&fake, &[]);
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{}", ended.stdout);
    let config = fake.file("config.json");
    let release = ended.stdout.lines().last().unwrap();
    assert!(release.starts_with("ok  server: the pinned release: openhands-sdk "), "{release}");
    let expected = format!(
        "ok  Rust: cargo 1.95.0\nok  docker: 28.5.1\nok  engine: 28.4.0 (Debian, x86_64)\n\
         ok  disk: 51.2 GB free in /\nok  buildx: v0.29.1\nok  builder: default, driver docker\n\
         ok  cache export: caches can be written\nok  platforms: linux/amd64, linux/386\n\
         ok  login: none for r.example in {}, which only a push may need\n{release}\n",
        config.display()
    );
    assert_eq!(ended.stdout, expected);
}

#[test]
fn no_docker() {
    let empty = Folder::new("doctor-no-docker");
    let ended = Xtask::new(&["image", "doctor", "--variant", "java"]).env("PATH", &empty.0).end();
    assert_eq!(ended.status, 1);
    check(&ended, "!!", "Rust", &["rustup.rs"]);
    let engine = "`cargo xtask engine -- cargo xtask image doctor --variant java`";
    check(&ended, "!!", "docker", &["is not installed", engine]);
    check(&ended, "ok", "server", &[]);
    assert_eq!(ended.stdout.lines().count(), 4, "{}", ended.stdout);
    assert!(ended.stderr.contains("can't be built here"), "{}", ended.stderr);
}

#[test]
fn an_engine_that_is_down_stops_a_load_but_not_a_builder_elsewhere() {
    let fake = healthy("doctor-engine");
    change(
        &fake,
        &json!({"ServerVersion": "", "DockerRootDir": "", "ServerErrors": ["No \x1b[1mway."]}),
    );
    for (args, status) in [(&[][..], 1), (&["--push"], 0)] {
        let ended = doctor(&fake, args);
        assert_eq!(ended.status, status, "{}", ended.stdout);
        check(&ended, "!!", "engine", &["No way. Start Docker", "cargo xtask engine -- "]);
        check(&ended, "ok", "builder", &[]);
        assert!(!ended.stdout.contains("  disk: "), "{}", ended.stdout);
    }
    // Docker 28 says it on standard error.
    change(&fake, &json!({"ServerErrors": null}));
    let info = SCRIPT.replace("info*) cat info", "info*) cat info; echo Not there. >&2; exit 1");
    fake.program("docker", &format!("cd {}\n{info}", fake.0.0.display()));
    check(&doctor(&fake, &[]), "!!", "engine", &["Not there. Start Docker"]);
}

#[test]
fn a_plugin_that_is_too_old_or_not_there() {
    let fake = healthy("doctor-buildx");
    fs::write(fake.file("version"), "github.com/docker/buildx v0.12.1 abc\n").unwrap();
    let ended = doctor(&fake, &[]);
    assert_eq!(ended.status, 1);
    check(&ended, "!!", "buildx", &["v0.12.1", "0.13"]);
    fs::remove_file(fake.file("version")).unwrap();
    let ended = doctor(&fake, &[]);
    assert_eq!(ended.status, 1);
    check(&ended, "!!", "buildx", &["docker-buildx"]);
    assert!(!ended.stdout.contains("  builder: "), "{}", ended.stdout);
}

#[test]
fn what_the_builder_lacks() {
    let fake = healthy("doctor-builder");
    let inspected = INSPECTED.replace("export: true", "export: false");
    fs::write(fake.file("inspected"), inspected).unwrap();
    let ended = doctor(&fake, &[]);
    assert_eq!(ended.status, 0, "caches are not needed");
    check(&ended, "!!", "cache export", &["containerd", "docker buildx create"]);
    let ended = doctor(&fake, &["--platforms=linux/arm64"]);
    assert_eq!(ended.status, 1);
    let engine = "cargo xtask engine --emulate -- cargo xtask image doctor";
    check(&ended, "!!", "platforms", &["linux/arm64", "QEMU", engine]);
}

#[test]
fn a_disk_that_is_full_counts_where_the_engine_is_local() {
    let fake = healthy("doctor-disk");
    disk(&fake, 2_000_000);
    let ended = doctor(&fake, &[]);
    assert_eq!(ended.status, 1);
    check(&ended, "!!", "disk", &["2.0 GB free in /", "docker system prune"]);
    change(&fake, &json!({"Name": "elsewhere"}));
    let ended = doctor(&fake, &[]);
    assert_eq!(ended.status, 0);
    assert!(!ended.stdout.contains("  disk: "), "{}", ended.stdout);
}

#[test]
fn logins_are_found_where_docker_keeps_them() {
    let fake = healthy("doctor-login");
    let found = |image: &str, config: Value| {
        fs::write(fake.file("config.json"), config.to_string()).unwrap();
        let ended = doctor_for(&fake, image, &["--push"]);
        assert_eq!(ended.status, 0, "{}", ended.stdout);
        ended.stdout.contains("ok  login: ")
    };
    let auth = json!({"auth": "c2VjcmV0"});
    assert!(found("r.example/a", json!({"auths": {"r.example": auth}})));
    assert!(found("r.example/a", json!({"auths": {"https://r.example/v1/": auth}})));
    assert!(found("me/a", json!({"auths": {"https://index.docker.io/v1/": auth}})));
    assert!(found("r.example/a", json!({"credHelpers": {"r.example": "x"}})));
    let entry = json!({"r.example": {}});
    assert!(found("r.example/a", json!({"auths": entry, "credsStore": "x"})));
    assert!(!found("r.example/a", json!({"auths": entry})));
    assert!(!found("r.example/a", json!({"auths": {"other.example": auth}})));
    let ended = doctor(&fake, &["--push"]);
    check(&ended, "!!", "login", &["docker login r.example", "image probe"]);
    assert!(!ended.stdout.contains("c2VjcmV0"));
}

#[test]
fn a_checkout_that_cannot_be_built() {
    let fake = healthy("doctor-checkout");
    let ended = doctor(&fake, &["--sdk-project-root=missing"]);
    assert_eq!(ended.status, 1);
    check(&ended, "!!", "server", &["missing", "SDK checkout"]);
}

#[test]
fn a_real_engine() {
    let Some(_engine) = Engine::get("a_real_engine") else { return };
    let ended = Xtask::new(&["image", "doctor"]).in_engine().end();
    assert_eq!(ended.status, 0, "{ended:?}");
    for subject in ["docker", "engine", "disk", "buildx", "builder", "cache export", "platforms"] {
        check(&ended, "ok", subject, &[]);
    }
}
