//! What all benchmarks need: the machine they run on, processes, records.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// How busy the machine is.
pub fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap().split(' ').next().unwrap().to_owned()
}

/// What the machine has.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().unwrap();
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let kilobytes = memory.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    format!("{cores} cores, {} GB of memory, Linux {}", kilobytes / 1_000_000, kernel.trim())
}

/// The words behind `--` on the command line of cargo.
pub fn words() -> Vec<String> {
    std::env::args().skip(1).filter(|word| word != "--bench").collect()
}

/// Runs `command`, which must succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output
}

/// The records in `file`, which is removed.
pub fn take_records(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    fs::remove_file(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The number at `path` of a record. A cell that is not known must not look like one that is.
pub fn number(record: &Value, path: &str) -> f64 {
    let number = record.pointer(path).and_then(Value::as_f64);
    number.unwrap_or_else(|| panic!("no {path} in {record:#}"))
}
