//! What processes take.

use std::fs;
use std::process::Child;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

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
fn peak(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
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
