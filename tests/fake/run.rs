//! `image run`: what an earlier run left at its port, and a run that goes on.

use std::fs;
use std::net::TcpListener;

use crate::support::fake::FakeDocker;

#[test]
fn a_container_that_a_killed_run_left_is_removed() {
    let script = "case \"$1\" in rm) echo \"$4\"; exit;; esac";
    let fake = FakeDocker::with_override("run-left", script);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let run = || fake.call(&["image", "run", "--variant=debian", "--port", &port]).end();
    let ended = run();
    let name = format!("agent-server-{port}-");
    assert!(ended.stderr.contains(&format!("removed the container {name}")), "{}", ended.stderr);
    let removed = format!("rm --force --volumes {name}");
    assert!(fake.lines("calls")[0].starts_with(&removed), "{:?}", fake.lines("calls"));
    // The port is still this test's.
    assert!(ended.status == 2 && ended.stderr.contains(&port), "{}", ended.stderr);

    // Nothing is taken from a run that goes on.
    fs::remove_file(fake.file("calls")).unwrap();
    let lock = fake.file(&format!("target/image/run-{port}.lock"));
    let lock = fs::File::options().write(true).open(lock).unwrap();
    lock.try_lock().unwrap();
    let ended = run();
    assert!(ended.stderr.contains("another `cargo xtask image run`"), "{}", ended.stderr);
    assert!(ended.status == 2 && !fake.file("calls").exists());
}
