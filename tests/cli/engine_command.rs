use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::support::{Ended, Folder, Xtask, engine_program};

#[test]
fn help_and_wrong_requests_need_no_engine() {
    let help = Xtask::new(&["engine", "--help"]).end();
    assert_eq!(help.status, 0, "{}", help.stderr);
    assert!(help.stdout.contains("--fresh") && help.stdout.lines().count() < 24, "{}", help.stdout);
    let said = Xtask::new(&["engine", "--frehs", "--", "true"]).refused();
    assert!(said.contains("--frehs") && said.contains("--fresh"), "{said}");
    let said = Xtask::new(&["engine", "docker", "version"]).refused();
    assert!(said.contains("\"docker\"") && said.contains("`--`"), "{said}");
}

#[test]
fn a_user_who_is_not_root_is_told_what_to_do() {
    let folder = Folder::new("engine-user");
    let engine = folder.0.join("engine");
    // By another program: a file that this one has open for writing can't be run.
    let copied = Command::new("cp").arg(engine_program()).arg(&engine).status();
    assert!(copied.unwrap().success());
    let mut command = Command::new(engine);
    command.args(["--", "true"]).current_dir("/");
    if Command::new("id").arg("-u").output().unwrap().stdout == b"0\n" {
        command.uid(65534).gid(65534);
    }
    let ended = Ended::from(command.output().unwrap());
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("Docker"), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 2, "{}", ended.stderr);
}

#[test]
fn prune_removes_all_data_that_no_engine_uses() {
    let folder = Folder::new("engine-prune");
    let engine = folder.0.join("target/engine");
    let folders = ["data/0", "data/1", "data-forky/0", "fresh/3", "downloads"];
    for name in folders {
        fs::create_dir_all(engine.join(name)).unwrap();
        fs::write(engine.join(name).join("file"), vec![1; 1_500_000]).unwrap();
    }
    let left = || folders.map(|name| engine.join(name).exists());
    let running = File::open(engine.join("data/1")).unwrap();
    running.lock().unwrap();
    let ended = Xtask::within(&folder.0, &["engine", "--prune"]).end();
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("target/engine/data"), "{}", ended.stderr);
    assert_eq!(left(), [false, true, false, false, true]);
    // A child that another test starts at this moment has the file too, until it is a program.
    running.unlock().unwrap();
    let ended = Xtask::within(&folder.0, &["engine", "--prune"]).end();
    assert_eq!((ended.status, ended.stdout.as_str()), (0, ""), "{}", ended.stderr);
    assert_eq!(left(), [false, false, false, false, true]);
}

#[test]
fn wrong_requests_start_nothing() {
    let folder = Folder::new("engine-colon:here");
    let said = Xtask::within(&folder.0, &["engine", "--", "true"]).refused();
    assert!(said.contains("colon:here") && said.contains("':'"), "{said}");
    for name in ["../trixie", "Forky", ""] {
        let said = Xtask::within(&folder.0, &["engine", "--release", name, "--", "true"]).refused();
        assert!(said.contains(&format!("{name:?}")) && said.contains("forky"), "{said}");
    }
    let said = Xtask::within(&folder.0, &["engine", "--prune", "--", "true"]).refused();
    assert!(said.contains("--prune"), "{said}");
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
}
