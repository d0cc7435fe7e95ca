//! `cargo xtask image doctor`: a line for each thing that a build needs.

use std::fs;

use crate::support::fake::{FakeDocker, INSPECTED};
use crate::support::{CACHE_MODE, Ended, Folder, Xtask, expected};
use serde_json::{Value, json};

const SCRIPT: &str = "case \"$*\" in info*) cat info; exit;; *'buildx version') cat version; exit;;
    --version) echo Docker version 28.5.1, build abc; exit;;
    version*) [ ! -e down ] || { cat down >&2; exit 1; }; echo '28.4.0 (linux, amd64)'; exit;; esac";

/// A `docker` that is well, on this machine, with 50 GB of disk.
fn healthy(name: &str) -> FakeDocker {
    let fake = FakeDocker::with_override(name, SCRIPT);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    fake.write("info", &format!("{} /", host.trim()));
    fake.write("version", "github.com/docker/buildx v0.29.1 abc\n");
    fake.program("cargo", "#!/bin/sh\necho cargo 1.95.0\n");
    disk(&fake, 50_000_000);
    fake
}

fn disk(fake: &FakeDocker, free: u64) {
    let free = format!("#!/bin/sh\necho Free; echo /dev/x 90000000 1000 {free} 1% /\n");
    fake.program("df", &free);
}

fn doctor(fake: &FakeDocker, image: &str, args: &[&str]) -> Ended {
    let call = fake.call(&[&["image", "doctor"], args].concat()).env("IMAGE", image);
    call.env("DOCKER_CONFIG", &fake.0.0).end()
}

/// What it writes under a title, and its status where that is not 0.
fn told(title: &str, fake: &FakeDocker, args: &[&str]) -> String {
    let Ended { status, stdout, stderr } = doctor(fake, "r.example/a/b", args);
    let status = if status == 0 { String::new() } else { format!("[{status}]\n") };
    expected::steady(&format!("# {title}\n{stdout}{stderr}{status}\n"), &fake.0.0)
}

#[test]
fn every_need_is_a_line_and_what_is_missing_says_what_to_do() {
    let fake = healthy("doctor");
    let mut text = told("all is well", &fake, &[]);

    let fake = healthy("doctor-engine");
    fake.write("info", "");
    fake.write("down", "No \x1b[1mway.\n");
    text += &told("no engine, for a load", &fake, &[]);
    text += &told("no engine, but a builder elsewhere", &fake, &["--push"]);

    let fake = healthy("doctor-buildx");
    fake.write("version", "github.com/docker/buildx v0.12.1 abc\n");
    text += &told("an old buildx", &fake, &[]);
    let fake = healthy("doctor-no-buildx");
    fake.write("override.sh", "case \"$*\" in info*) cat info; exit;; *) exit 1;; esac");
    text += &told("no buildx", &fake, &[]);

    let fake = healthy("doctor-builder");
    fake.write("inspected", &INSPECTED.replace("export: true", "export: false"));
    text += &told("no export of caches, which are not needed", &fake, &[]);
    text += &told("a platform that it does not run", &fake, &["--platforms=linux/arm64"]);

    let fake = healthy("doctor-disk");
    disk(&fake, 2_000_000);
    text += &told("a full disk", &fake, &[]);
    fake.write("info", "elsewhere /");
    text += &told("an engine elsewhere", &fake, &[]);

    let fake = healthy("doctor-checkout");
    text += &told("no such checkout", &fake, &["--sdk-project-root=missing"]);
    text += &told("no login", &fake, &["--push"]);
    expected::check("fake/expected/doctor.txt", &text);
}

#[test]
fn a_request_without_caches_is_told_nothing_of_them() {
    let fake = healthy("doctor-cache-off");
    fake.write("inspected", &INSPECTED.replace("export: true", "export: false"));
    let ended = fake.call(&["image", "doctor"]).env(CACHE_MODE, "off").succeed();
    assert!(!ended.stdout.contains("cache export"), "{}", ended.stdout);
}

#[test]
fn without_docker_the_rest_is_told() {
    let empty = Folder::new("doctor-no-docker");
    let ended = Xtask::new(&["image", "doctor", "--variant", "java"]).env("PATH", &empty.0).end();
    assert_eq!(ended.status, 1);
    let text = expected::steady(&(ended.stdout + &ended.stderr), &empty.0);
    expected::check("fake/expected/doctor_no_docker.txt", &text);
}

#[test]
fn logins_are_found_where_docker_keeps_them() {
    let fake = healthy("doctor-login");
    let found = |image: &str, config: Value| {
        fake.write("config.json", &config.to_string());
        let ended = doctor(&fake, image, &["--push"]);
        assert_eq!(ended.status, 0, "{}", ended.stdout);
        assert!(!ended.stdout.contains("c2VjcmV0"));
        ended.stdout.lines().any(|line| line.starts_with("ok  login: "))
    };
    let auth = json!({"auth": "c2VjcmV0"});
    assert!(found("r.example/a", json!({"auths": {"r.example": auth}})));
    assert!(found("r.example/a", json!({"auths": {"https://r.example/v1/": auth}})));
    assert!(found("me/a", json!({"auths": {"https://index.docker.io/v1/": auth}})));
    assert!(found("r.example/a", json!({"credHelpers": {"r.example": "x"}})));
    let entry = json!({"r.example": {}});
    assert!(found("r.example/a", json!({"auths": entry, "credsStore": "x"})));
    assert!(found("r.example/a", json!({"credsStore": "ecr-login"})));
    assert!(!found("r.example/a", json!({"auths": entry})));
    assert!(!found("r.example/a", json!({"auths": {"other.example": auth}})));
}
