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
    let always = ["image", "--variant=debian", "--push"];
    fake.call(&[&always[..], args].concat()).env(MODE, "off").on("x").end()
}

#[test]
fn a_build_that_hangs_is_ended_with_the_step_and_the_limit() {
    let fake = hanging("hangs");
    fs::write(fake.file("events"), vertex("[one 1/2] RUN sleep", false)).unwrap();
    let ended = run(&fake, &["--timeout=5"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
    let last = ended.stderr.lines().last().unwrap();
    for part in ["RUN sleep", "not done within 5 s", "--timeout"] {
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
    let ended = run(&fake, &[&bases[..], &["--jobs=2", "--timeout=5"]].concat());
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let built = ["b0", "b2", "b3"].map(|name| format!("0123456-{name}"));
    assert!(ended.stdout.lines().zip(&built).all(|(tag, name)| tag.ends_with(name)));
    assert_eq!(ended.stdout.lines().count(), 3, "{}", ended.stderr);
    assert!(ended.stderr.contains("RUN sleep: not done within 5 s"), "{}", ended.stderr);
}

#[test]
fn a_batch_cuts_the_cache_of_a_full_disk_where_that_is_wanted() {
    let batch = |name: &str, threshold: &str, free: &str| {
        let script = "case \"$*\" in
             *du) exit;; *imagetools*) exit 1;; *inspect*) cat inspected; exit;;
             info*) printf '{\"DockerRootDir\":\"/\",\"Name\":\"%s\"}' \"$(uname -n)\"; exit;;
             *prune*--help) echo --max-used-space; exit;;
             *prune*) echo \"$*\" >> calls; exit;;
             esac
             cat > /dev/null
             echo bake >> calls";
        let fake = FakeDocker::new(name, script);
        fs::write(fake.file("inspected"), INSPECTED).unwrap();
        fake.program("df", &format!("echo Free; echo /dev/x 90000000 1000 {free} 70% /"));
        let args = ["image", "--variant=debian", "--base-image=b0,b1", "--push"];
        let call = fake.call(&args).env(MODE, "off").env("BUILDKIT_PRUNE_THRESHOLD_PCT", threshold);
        let ended = call.env("BUILDKIT_PRUNE_KEEP_GB", if threshold.is_empty() { "" } else { "7" });
        let ended = ended.on("x").end();
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        let is_little = ended.stderr.contains("the engine's disk has 4.1 GB free");
        assert_eq!(is_little, free == "4000000", "{}", ended.stderr);
        calls(&fake)
    };
    let (little, enough) = ("4000000", "50000000");
    let prune = "buildx prune --all --force --max-used-space=7gb\n";
    assert_eq!(batch("disk-full", "70", little), format!("{prune}bake\n{prune}bake\n"));
    assert_eq!(batch("disk-free", "71", enough), "bake\nbake\n");
    assert_eq!(batch("disk-own", "", little), "bake\nbake\n");
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

/// A `docker` whose first bake of the image fails as `error` says, after which its builder, of that
/// driver, has what `broken` says. `calls` lists what it was asked.
fn failing(name: &str, driver: &str, error: &str) -> FakeDocker {
    let script = "case \"$*\" in
         *du|*version|info*) exit;; *imagetools*) exit 1;;
         *'buildx stop'*|*prune*) echo \"$*\" >> calls; rm -f broken; exit;;
         *inspect*) [ -e broken ] && { echo 'ERROR: no answer' >&2; exit 1; }; cat inspected; exit;;
         esac
         cat > /dev/null
         echo bake >> calls
         [ \"$(grep -c bake calls)\" = 1 ] || exit 0
         [ -e breaks ] && touch broken
         cat events >&2
         exit 1";
    let fake = FakeDocker::new(name, script);
    fs::write(fake.file("inspected"), INSPECTED.replace("docker\n", &format!("{driver}\n")))
        .unwrap();
    fs::write(fake.file("events"), error).unwrap();
    fake
}

fn calls(fake: &FakeDocker) -> String {
    fs::read_to_string(fake.file("calls")).unwrap()
}

#[test]
fn buildxs_own_builder_that_breaks_is_restarted_once() {
    let fake = failing("restart", "docker-container", "ERROR: failed to receive status\n");
    fs::write(fake.file("breaks"), "").unwrap();
    let ended = run(&fake, &["--base-image=b0", "--base-image=b1"]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("\"default\" stopped answering; restarting"), "{}", ended.stderr);
    assert_eq!(calls(&fake).lines().filter(|line| *line == "buildx stop default").count(), 1);
}

#[test]
fn an_engine_that_breaks_ends_the_run_with_what_to_do() {
    let fake = failing("gone", "docker", "ERROR: failed to receive status\n");
    fs::write(fake.file("breaks"), "").unwrap();
    let ended = run(&fake, &[]);
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("Restart Docker"), "{}", ended.stderr);
    assert_eq!(calls(&fake), "bake\n");
}

#[test]
fn a_connection_that_is_lost_is_retried_whatever_step_it_hits() {
    let fake = failing("lost", "docker", "ERROR: frontend grpc server closed unexpectedly\n");
    let ended = run(&fake, &[]);
    assert_eq!((ended.status, calls(&fake).as_str()), (0, "bake\nbake\n"), "{}", ended.stderr);
    assert!(ended.stderr.contains("retrying in 2 s"), "{}", ended.stderr);
}

#[test]
fn a_builder_without_space_gets_room_once() {
    let mut vertex: serde_json::Value =
        serde_json::from_str(&vertex("[one 1/2] RUN true", true)).unwrap();
    vertex["vertexes"][0]["error"] = json!("mkdir /x: no space left on device");
    let fake = failing("space", "docker", &format!("{vertex}\n"));
    let ended = run(&fake, &[]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(calls(&fake), "bake\nbuildx prune --force\nbake\n");
    assert!(ended.stderr.contains("removing its build cache"), "{}", ended.stderr);
}

#[test]
fn a_step_that_lost_the_network_is_retried_and_no_other() {
    // "E: Failed to fetch http://a/b  503  Service Unavailable [IP: 1]"
    let network =
        "RTogRmFpbGVkIHRvIGZldGNoIGh0dHA6Ly9hL2IgIDUwMyAgU2VydmljZSBVbmF2YWlsYWJsZSBbSVA6IDFd";
    // "E: Unable to locate package nothing"
    let package = "RTogVW5hYmxlIHRvIGxvY2F0ZSBwYWNrYWdlIG5vdGhpbmc=";
    for (output, status, bakes) in [(network, 0, 2), (package, 1, 1)] {
        let name = "[one 1/2] RUN apt-get install";
        let log = json!({ "logs": [{ "vertex": name, "data": output }] });
        let mut failed = serde_json::from_str::<serde_json::Value>(&vertex(name, true)).unwrap();
        failed["vertexes"][0]["error"] =
            json!("process \"x\" did not complete successfully: exit code: 100");
        let fake =
            failing("network", "docker", &format!("{}{log}\n{failed}\n", vertex(name, false)));
        let ended = run(&fake, &[]);
        assert_eq!(
            (ended.status, calls(&fake).lines().count()),
            (status, bakes),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn a_warning_of_the_dockerfile_is_shown_once() {
    // "Legacy"
    let events = json!({ "warnings": [{ "vertex": "x", "level": 1, "short": "TGVnYWN5" }] });
    let script = "case \"$*\" in *du|*imagetools*) exit;; *inspect*) cat inspected; exit;; esac
         cat > /dev/null; echo bake >> calls; cat events >&2";
    let fake = FakeDocker::new("warns", script);
    fs::write(fake.file("inspected"), INSPECTED).unwrap();
    fs::write(fake.file("events"), format!("{events}\n")).unwrap();
    let ended = fake.call(&["image", "--variant=debian", "--push", "--check=off"]).on("x").end();
    assert!(calls(&fake).lines().count() > 1, "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("Legacy").count(), 1, "{}", ended.stderr);
}
