//! Where an engine keeps its data: on an overlay too, removed by `--prune`, and at no path that its
//! programs can't use.

use std::fs::{self, File};
use std::process::Command;

use crate::support::engine::Engine;
use crate::support::{Ended, Folder, Xtask, engine_program, root};

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
    drop(running);
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

#[test]
fn an_engine_on_an_overlay_builds_and_runs() {
    let Some(_turn) = Engine::get("an engine on an overlay") else { return };
    let folder = Folder::new("engine-overlay");
    let downloads = root().join("target/engine/downloads");
    fs::create_dir_all(&downloads).unwrap();
    // As in a container without a volume. The mounts go with the namespace.
    let script = r#"
        mount -t tmpfs tmpfs "$1"
        mkdir "$1/lower" "$1/upper" "$1/work" "$1/checkout"
        mount -t overlay overlay \
            -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" "$1/checkout"
        mkdir -p "$1/checkout/target/engine"
        ln -s "$2" "$1/checkout/target/engine/downloads"
        CARGO_MANIFEST_DIR="$1/checkout/xtask/engine" exec "$3" --fresh -- sh -ec '
            docker info --format "{{.Driver}}"
            printf "FROM debian:trixie-slim\nRUN echo built > /file\n" |
                docker build --quiet --tag built - > /dev/null
            docker run --rm built cat /file'"#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", script, "sh"]).arg(&folder.0).arg(downloads);
    command.arg(engine_program());
    let ended = Ended::from(command.output().unwrap());
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(ended.stdout, "native\nbuilt\n", "{}", ended.stderr);
}
