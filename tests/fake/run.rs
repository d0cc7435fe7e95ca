//! `image run`: what an earlier run left at its port, and a run that goes on.

use std::net::TcpListener;

use crate::support::fake::FakeDocker;

#[test]
fn a_container_that_a_killed_run_left_is_removed_unless_it_runs() {
    let script = "case \"$*\" in *State.Status*) echo running healthy; exit;; esac";
    let fake = FakeDocker::with_override("run-left", script);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let run = || fake.call(&["image", "run", "--variant=debian", "--port", &port]).on("x").end();
    let ended = run();
    assert!(ended.status == 2 && ended.stderr.contains(&port), "{}", ended.stderr);
    drop(listener);
    run();
    let removed = format!("rm --volumes agent-server-{port}-");
    let calls = fake.lines("calls");
    let place = |start: &str| calls.iter().position(|call| call.starts_with(start));
    assert!(place(&removed).unwrap() < place("run ").unwrap(), "{calls:?}");
}

#[test]
fn a_server_out_of_reach_is_said_to_be_on_the_machine_of_the_engine() {
    let script = "case \"$*\" in *State.Status*) [ -f waited ] && echo exited || echo 'running healthy'; exit;;
        wait*) touch waited; exit;; esac";
    let fake = FakeDocker::with_override("run-far", script);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let ended = fake.call(&["image", "run", "--variant=debian", "--port", &port]).on("x").end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    assert!(ended.stdout.starts_with(&format!("address: http://127.0.0.1:{port}\n")));
    let warning = format!(
        "warning: the server is healthy, but out of reach from here: use 127.0.0.1:{port} on the machine of the \
         engine\n"
    );
    assert!(ended.stderr.contains(&warning), "{}", ended.stderr);
    // It is in the engine alone.
    assert!(fake.lines("calls").iter().all(|call| !call.starts_with("pull")));
}
