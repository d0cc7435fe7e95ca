//! What the shipped `agent-server-image/` must offer. All other plans are tested on the fixture, so
//! that a variant more breaks no test.

use std::process::Command;

use crate::support::{Folder, Xtask, root};
use serde_json::Value;

#[test]
fn it_offers_the_variants_and_the_targets_that_clients_name() {
    let matrix = Xtask::shipped(&["image", "matrix"]).end();
    let matrix: Value = serde_json::from_str(&matrix.stdout).unwrap();
    let jobs = matrix["include"].as_array().unwrap();
    for (variant, base_image) in [
        ("python", "nikolaik/python-nodejs:python3.13-nodejs22"),
        ("java", "eclipse-temurin:17-jdk"),
        ("golang", "golang:1.21-bookworm"),
        ("debian", "debian:trixie-slim"),
    ] {
        let jobs = jobs.iter().filter(|job| job["variant"] == variant).collect::<Vec<_>>();
        assert!(jobs.iter().all(|job| job["base_image"] == base_image), "{jobs:#?}");
        let architectures = jobs.iter().map(|job| job["arch"].as_str().unwrap());
        assert_eq!(architectures.collect::<Vec<_>>(), ["amd64", "arm64"], "{variant}");
    }
    for target in [
        "builder",
        "binary-builder",
        "base-image-minimal",
        "source-minimal",
        "binary-minimal",
        "base-image",
        "source",
        "binary",
        "overlay",
    ] {
        let print = Xtask::shipped(&["image", "--print", "--target", target]).definition();
        assert_eq!(print["target"]["python"]["target"], target, "python is the default");
    }
}

/// Shells take a CR for part of a word, and so do digests.
#[test]
fn a_clone_with_line_ends_of_windows_has_none() {
    if !root().join(".git").exists() {
        return;
    }
    let clone = Folder::new("autocrlf");
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(&clone.0).args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let from = root();
    git(&["clone", "-q", "-c", "core.autocrlf=true", from.to_str().unwrap(), "."]);
    let files = git(&["ls-files", "--eol"]);
    let bad = files.lines().filter(|line| line.contains("w/crlf") || line.contains("w/mixed"));
    assert_eq!(bad.collect::<Vec<_>>(), [""; 0]);
    assert!(files.contains("w/lf"));
}
