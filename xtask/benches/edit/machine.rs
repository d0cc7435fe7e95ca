//! The machine that a benchmark runs on.

use std::fs;

/// How busy it is.
pub fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap().split(' ').next().unwrap().to_owned()
}

/// What it has.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().unwrap();
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let kilobytes = memory.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    format!("{cores} cores, {} GB of memory, Linux {}", kilobytes / 1_000_000, kernel.trim())
}
