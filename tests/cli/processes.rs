//! Programs that are run for their output, here and in an engine: what they leave running, or that they
//! go on and on, delays nothing. These tests wait for seconds, so they stand among others that do.

use std::process::Command;
use std::time::{Duration, Instant};

use base::process::output;

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

#[test]
fn a_process_that_keeps_the_pipe_delays_nothing() {
    let started = Instant::now();
    let script = "echo out; echo err >&2; sleep 20 & exit 3";
    let output = output(&mut sh(script), Duration::from_secs(60)).unwrap().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!((output.stdout, output.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[test]
fn a_process_that_writes_on_and_on_delays_nothing() {
    let started = Instant::now();
    let script = "(while sleep 0.05; do echo more; done) & sleep 0.1";
    assert!(output(&mut sh(script), Duration::from_secs(60)).unwrap().is_some());
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[test]
fn a_limit_is_kept_and_large_output_is_whole() {
    let started = Instant::now();
    assert!(output(&mut sh("sleep 20; true"), Duration::from_millis(100)).unwrap().is_none());
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    let all = output(&mut sh("head -c 9000000 /dev/zero"), Duration::from_secs(60)).unwrap();
    assert_eq!(all.map(|output| output.stdout.len()), Some(9_000_000));
}
