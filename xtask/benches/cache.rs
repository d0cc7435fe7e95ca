//! What each cache mode costs and gives back: `cargo xtask engine --fresh -- cargo bench --bench cache`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
mod common;
#[path = "../../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

use std::fs;
use std::time::Instant;

use common::{load, machine, number, take_records};
use serde_json::Value;
use support::engine::Engine;
use support::{CACHE_MODE, Folder, SHA, SHARED_CACHE, Xtask};

/// A name, and the values of the two variables. `off` is what the others are compared with. `min`
/// comes before `max`: an engine that exported layers once might keep them at hand.
const MODES: [(&str, &str, &str); 4] = [
    ("`off`", "off", "0"),
    ("`min`", "min", "0"),
    ("`max`", "max", "0"),
    ("`max` + shared", "max", "1"),
];

fn main() {
    let engine = Engine::get();
    let [checkout, changed] =
        ["bench-same", "bench-changed"].map(|name| Folder::copy(name, &support::root()));
    // Real commits change a line of the pinned requirements. A comment makes the same steps run
    // again as a new pin does, without other packages to download.
    let requirements = changed.0.join("agent-server-image/lock/requirements.txt");
    let pins = fs::read_to_string(&requirements).unwrap();
    fs::write(&requirements, format!("# One line more.\n{pins}")).unwrap();

    let before = load();
    println!(
        "| mode | first build | image pushed | export | sent | again | cached | line changed | cached \
         |\n|---|{}",
        "---:|".repeat(8)
    );
    // Every commit has another SHA, which must not run any step again.
    let [second, third] = ["e", "f"].map(|digit| digit.repeat(40));
    let mut off = None;
    for (name, mode, shared) in MODES {
        let build = |checkout, sha| build(&engine, checkout, mode, shared, sha);
        let (first, record) = build(&checkout, SHA);
        assert_eq!(record["steps"]["cached"], 0, "{record:#}");
        let (same, record_same) = build(&checkout, &second);
        let (changed, record_changed) = build(&changed, &third);

        let export = if mode == "off" { 0.0 } else { number(&record, "/seconds/cache_export") };
        let written = record["cache_written"].as_array().unwrap();
        let sent: f64 = written.iter().map(|cache| number(cache, "/bytes_uploaded") / 1e6).sum();
        // With `off`, all three are the same build from nothing.
        let off = *off.get_or_insert_with(|| {
            let mut all = [first, same, changed];
            all.sort_by(f64::total_cmp);
            all[1]
        });
        let cell = |seconds: f64| format!("{seconds:.0} s ×{:.2}", seconds / off);
        let [first, pushed, same, changed] = [first, first - export, same, changed].map(cell);
        // An empty engine has no cached steps of its own.
        let [cached, cached_changed] = [record_same, record_changed].map(|record| {
            let [cached, total] =
                ["/steps/from_registry", "/steps/total"].map(|at| number(&record, at));
            format!("{cached}/{total}")
        });
        println!(
            "| {name} | {first} | {pushed} | {export:.1} s | {sent:.0} MB | {same} | {cached} | {changed} \
             | {cached_changed} |"
        );
    }
    println!("\n{}; load {before} at the start, {} at the end.", machine(), load());
}

/// Builds the quickest target with the whole server, on an empty engine: its seconds and its record.
fn build(engine: &Engine, checkout: &Folder, mode: &str, shared: &str, sha: &str) -> (f64, Value) {
    engine.empty();
    let (image, file) =
        (engine.image(&format!("mode-{mode}-{shared}")), checkout.0.join("records"));
    let args = ["image", "--variant=debian", "--target=source-minimal", "--push", "--strict-cache"];
    let rest = ["--image", &image, "--records", file.to_str().unwrap()];
    let call = Xtask::within(&checkout.0, &[&args[..], &rest].concat()).in_engine(engine);
    let call = call.on("refs/heads/bench").env("SDK_SHA", sha);
    let begun = Instant::now();
    call.env(CACHE_MODE, mode).env(SHARED_CACHE, shared).succeed();
    let seconds = begun.elapsed().as_secs_f64();
    eprintln!("{seconds:6.1} s  {mode}, shared {shared}, {sha:.7} (load {})", load());
    let record = take_records(&file).remove(0);
    assert_eq!(record["builder_was_empty"], true, "{record:#}");
    (seconds, record)
}
