//! `image run`: the name of its container, and a server out of reach.

use std::net::TcpListener;

use crate::support::fake::FakeDocker;

#[test]
fn a_run_that_cannot_start_removes_its_own_container_alone() {
    let fake = FakeDocker::with_override("run-name", "case \"$1\" in run) exit 125;; esac");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let names = [(); 2].map(|()| {
        let run = fake.call(&["image", "run", "--variant=debian", "--port", &port]).on("x").end();
        assert_eq!(run.status, 1, "{}", run.stderr);
        let removed = fake.lines("calls").pop().unwrap();
        removed
            .strip_prefix(&format!("rm --force --volumes agent-server-{port}-"))
            .unwrap()
            .to_owned()
    });
    assert_ne!(names[0], names[1]);
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
