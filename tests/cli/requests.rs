//! Help, whatever way it is asked for, and requests that cannot be read.

use std::fs;
use std::process::Stdio;

use crate::support::{Ended, Folder, Xtask, expected};

#[test]
fn help_is_the_same_whatever_way_it_is_asked_for() {
    let help = |args: &[&str]| {
        let ended = Xtask::new(args).end();
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{args:?}");
        assert!(ended.stdout.lines().all(|line| line.len() <= 80), "{}", ended.stdout);
        ended.stdout
    };
    for args in [&[][..], &["--help"], &["help"]] {
        assert_eq!(help(args), help(&["-h"]));
    }
    let image = help(&["image", "--help"]);
    for args in [&["help", "image"][..], &["image", "help"]] {
        assert_eq!(help(args), image);
    }
    for task in ["run", "list", "doctor", "matrix", "probe", "smoke", "api", "merge", "summary"] {
        let own = help(&["image", task, "--help"]);
        assert_ne!(own, image);
        for args in [
            &["help", "image", task][..],
            &["image", "help", task],
            &["image", "--help", task],
            &["image", task, "-h"],
        ] {
            assert_eq!(help(args), own, "{args:?}");
        }
    }
    assert!(help(&["image", "-h"]).lines().count() <= 40);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut print = Xtask::print(&[]);
    let mut print = print.0.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(print.stdout.take());
    let ended = Ended::from(print.wait_with_output().unwrap());
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
}

#[test]
fn a_broken_bake_file_is_named_with_the_place() {
    let folder = Folder::checkout("broken");
    let file = folder.0.join("agent-server-image/docker-bake.json");
    let refused = || {
        let said = Xtask::within(&folder.0, &["image", "--print"]).refused();
        expected::steady(&said, &folder.0)
    };
    let mut text = String::new();
    for content in [
        "{\n \"target\": }",
        "{}",
        r#"{"target": {"a": {}}}"#,
        r#"{"target": {"a": {"inherits": ["b"]}, "b": {"inherits": ["a"]}}}"#,
    ] {
        fs::write(&file, content).unwrap();
        text += &format!("# {}\n{}\n", content.replace('\n', " "), refused());
    }
    fs::remove_file(&file).unwrap();
    text += &format!("# none\n{}", refused());
    expected::check("cli/expected/broken_bake_files.txt", &text);
}
