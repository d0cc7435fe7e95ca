//! What processes take, and what buildx tells of the bytes that it sent.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Deserializer, Value};

/// The most memory that a process had, which this waits for.
pub fn watched(child: &mut Child) -> u64 {
    let mut most = 0;
    loop {
        most = most.max(peak(child.id()));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return most;
        }
        thread::sleep(Duration::from_micros(500));
    }
}

/// The most memory that a process has had so far.
pub fn peak(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

/// The processes below this one.
pub fn descendants() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let all = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = |process: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The name before may hold anything.
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let parents = all.filter_map(|process| Some((process, parent(process)?)));
    let parents = parents.collect::<Vec<_>>();
    let mut found = vec![std::process::id()];
    let mut at = 0;
    while at < found.len() {
        let below = parents.iter().filter(|(_, parent)| *parent == found[at]);
        let below = below.map(|(process, _)| *process).collect::<Vec<_>>();
        found.extend(below);
        at += 1;
    }
    found.split_off(1)
}

/// Bytes of all Dockerfiles and contexts that were sent, by what buildx told.
pub fn transferred(events: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(events);
    let (mut rest, mut transfers) = (&*text, BTreeMap::new());
    while let Some(at) = rest.find('{') {
        let mut values = Deserializer::from_str(&rest[at..]).into_iter::<Value>();
        let event = values.next().and_then(Result::ok);
        // A line for people may have a bracket too.
        let used = if event.is_some() { values.byte_offset() } else { 1 };
        for status in event.iter().filter_map(|event| event["statuses"].as_array()).flatten() {
            if status["id"].as_str().is_some_and(|id| id.starts_with("transferring ")) {
                let key = ["vertex", "id"].map(|key| status[key].to_string());
                let bytes = transfers.entry(key).or_insert(0);
                *bytes = status["current"].as_u64().unwrap_or(0).max(*bytes);
            }
        }
        rest = &rest[at + used..];
    }
    transfers.values().sum()
}

/// Runs `command` to its end, which has to be a good one.
pub fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output
}

/// The seconds that `work` takes for all of `bases`, as many as `at_once` at a time.
pub fn each(bases: &[String], at_once: usize, work: impl Fn(&str) + Sync) -> f64 {
    let (begun, next) = (Instant::now(), Mutex::new(bases.iter()));
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let base = next.lock().unwrap().next();
                    let Some(base) = base else { break };
                    work(base);
                }
            });
        }
    });
    begun.elapsed().as_secs_f64()
}
