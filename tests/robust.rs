//! What hangs, and what killed runs have left.

use std::fs;

use crate::support::fake::{FakeDocker, INSPECTED};
use crate::support::{Ended, Folder};
use serde_json::json;

const MODE: &str = "OPENHANDS_BUILDKIT_CACHE_MODE";

/// A `docker` whose first bake of `b1` hangs in a step, after those of other images.
fn hanging(name: &str) -> FakeDocker {
    let script =
        "case \"$*\" in *du) exit;; *imagetools*) exit 1;; *inspect*) cat inspected; exit;; esac
         cat > baked
         echo \"$(grep -o '\"debian[^\"]*\":' baked | sort -u | tr -d '\\n')\" >> bakes
         grep -q 'debian-b1\":\\|debian\":' baked || exit 0
         cat events >&2
         exec sleep 600";
    let fake = FakeDocker::new(name, script);
    fs::write(fake.file("inspected"), INSPECTED).unwrap();
    fake
}

fn vertex(name: &str, completed: bool) -> String {
    let time = "2026-11-24T10:51:39Z";
    let mut vertex = json!({ "digest": name, "name": name, "started": time });
    if completed {
        vertex["completed"] = json!(time);
    }
    format!("{}\n", json!({ "vertexes": [vertex] }))
}

fn run(fake: &FakeDocker, args: &[&str]) -> Ended {
    let always = ["image", "--variant=debian", "--push", "--timeout=1"];
    fake.call(&[&always[..], args].concat()).env(MODE, "off").on("x").end()
}

#[test]
fn a_build_that_hangs_is_ended_with_the_step_and_the_limit() {
    let fake = hanging("hangs");
    fs::write(fake.file("events"), vertex("[one 1/2] RUN sleep", false)).unwrap();
    let ended = run(&fake, &[]);
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
    let last = ended.stderr.lines().last().unwrap();
    for part in ["RUN sleep", "not done within 1 s", "--timeout"] {
        assert!(last.contains(part), "{}", ended.stderr);
    }
}

#[test]
fn of_a_batch_only_the_image_that_hangs_is_lost() {
    let fake = hanging("hangs-batch");
    let events = vertex("[debian-b1 one 1/2] RUN sleep", false)
        + &vertex("[debian-b2 one 1/2] RUN true", true);
    fs::write(fake.file("events"), events).unwrap();
    let bases = ["b0", "b1", "b2", "b3"].map(|base| format!("--base-image={base}"));
    let bases = bases.each_ref().map(String::as_str);
    let ended = run(&fake, &[&bases[..], &["--jobs=2"]].concat());
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let built = ["b0", "b2", "b3"].map(|name| format!("0123456-{name}"));
    assert!(ended.stdout.lines().zip(&built).all(|(tag, name)| tag.ends_with(name)));
    assert_eq!(ended.stdout.lines().count(), 3, "{}", ended.stderr);
    assert!(ended.stderr.contains("RUN sleep: not done within 1 s"), "{}", ended.stderr);
}

#[test]
fn what_killed_runs_have_left_stops_no_build() {
    let fake = FakeDocker::with_builder("leavings", INSPECTED);
    let folder = Folder::new("leavings-tmp");
    for number in 0..1100 {
        fs::create_dir(folder.0.join(format!("xshell-tmp-dir-{number}"))).unwrap();
    }
    let call = fake.call(&["image", "--variant=debian", "--base-image=b0", "--push"]);
    let ended = call.env(MODE, "off").env("TMPDIR", &folder.0).on("x").end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1100);
}
