//! What each cache mode costs and gives back, and what exporting a cache after its image costs.
//!
//! `cargo xtask engine --fresh -- cargo bench --bench cache` prints two tables. After another `--`,
//! `modes` or `bakes` makes one of them, and `--runs N` says how often the second measures.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "edit/machine.rs"]
mod machine;
#[path = "../../tests/support/mod.rs"]
// A part of it is enough here.
#[allow(dead_code)]
mod support;

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use machine::{load, machine};
use serde_json::Value;
use support::engine::{Engine, docker};
use support::{Ended, Folder, SHA, Xtask};

const MODE: &str = "OPENHANDS_BUILDKIT_CACHE_MODE";
const SHARED: &str = "OPENHANDS_SHARED_REGISTRY_CACHE_EXPORT";

/// A name, and the values of the two variables. `off` is what the others are compared with. `min`
/// comes before `max`: an engine that exported layers once might keep them at hand.
const MODES: [(&str, &str, &str); 4] = [
    ("`off`", "off", "0"),
    ("`min`", "min", "0"),
    ("`max`", "max", "0"),
    ("`max` + shared", "max", "1"),
];

/// The engine, and copies of the checkout to build from.
struct Bench {
    engine: Engine,
    checkout: Folder,
    /// With one line more.
    changed: Folder,
}

fn main() {
    let mut args = pico_args::Arguments::from_env();
    // Cargo says so to every benchmark.
    args.contains("--bench");
    let runs = args.opt_value_from_str("--runs").unwrap().unwrap_or(2);
    let only = args.opt_free_from_str::<String>().unwrap();
    assert!(args.finish().is_empty() && only.iter().all(|only| only == "modes" || only == "bakes"));
    let engine = Engine::get("the benchmark").expect("an engine: `cargo xtask engine --fresh --`");
    let [checkout, changed] = ["bench-same", "bench-changed"].map(Folder::shipped);
    let bench = Bench { engine, checkout, changed };
    // Real commits change a line of the pinned requirements. A comment makes the same steps run
    // again as a new pin does, without other packages to download: those that install the server
    // do, those that prepare the builder and the base image do not.
    let requirements = bench.changed.0.join("agent-server-image/requirements.txt");
    let pins = fs::read_to_string(&requirements).unwrap();
    fs::write(&requirements, format!("# One line more.\n{pins}")).unwrap();

    let before = load();
    if only.as_deref() != Some("bakes") {
        bench.modes();
    }
    if only.as_deref() != Some("modes") {
        bench.bakes(runs);
    }
    println!("{}; load {before} at the start, {} at the end.", machine(), load());
}

/// A call for the quickest target with the whole server in it. It fails if a cache is lost.
fn call(checkout: &Folder, image: &str, args: &[&str]) -> Xtask {
    let always = ["image", "--variant=debian", "--target=source-minimal", "--push"];
    let call = [&always[..], &["--strict-cache", "--image", image], args].concat();
    let call = Xtask::within(&checkout.0, &call).in_engine();
    call.on("refs/heads/bench")
}

fn succeed(ended: &Ended) {
    assert_eq!(ended.status, 0, "{}", ended.stderr);
}

/// Runs what `work` does, and tells how long that took.
fn timed(name: &str, work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    let seconds = begun.elapsed().as_secs_f64();
    eprintln!("{seconds:6.1} s  {name} (load {})", load());
    seconds
}

/// The number at `path` in a report. A cell that can't be known must not look like one that can.
fn number(report: &Value, path: &str) -> f64 {
    let number = report.pointer(path).and_then(Value::as_f64);
    number.unwrap_or_else(|| panic!("no {path} in {report:#}"))
}

impl Bench {
    /// What the modes cost, and what they give on an empty engine.
    fn modes(&self) {
        println!(
            "| mode | first build | image pushed | export | sent | again | cached \
             | line changed | cached |\n|---|{}",
            "---:|".repeat(8)
        );
        // Every commit has another SHA, which is to run no step again.
        let [second, third] = ["e", "f"].map(|digit| digit.repeat(40));
        let mut off = None;
        for (name, mode, shared) in MODES {
            let build = |checkout, sha| self.build(checkout, mode, shared, sha);
            let (first, told) = build(&self.checkout, SHA);
            assert_eq!(told["steps"]["cached"], 0, "{told:#}");
            let (same, told_same) = build(&self.checkout, &second);
            let (changed, told_changed) = build(&self.changed, &third);

            let export = number(&told, "/seconds/cache_export");
            let written = told["cache_written"].as_array().unwrap();
            let sent = written.iter().map(|written| number(written, "/bytes_uploaded") / 1e6);
            let sent = sent.fold(0.0, |sum, megabytes| sum + megabytes);
            // With `off`, all three are the same build from nothing.
            let off = *off.get_or_insert_with(|| median(&mut [first, same, changed]));
            let cell = |seconds: f64| format!("{seconds:.0} s ×{:.2}", seconds / off);
            let pushed = cell(number(&told, "/seconds/wall") - export);
            let [first, same, changed] = [first, same, changed].map(cell);
            // An empty engine has none of its own.
            let [cached, cached_changed] = [told_same, told_changed].map(|told| {
                let steps = ["from_registry", "total"].map(|name| told["steps"][name].as_u64());
                let [Some(cached), Some(total)] = steps else { panic!("{told:#}") };
                format!("{cached}/{total}")
            });
            println!(
                "| {name} | {first} | {pushed} | {export:.1} s | {sent:.0} MB | {same} | {cached} \
                 | {changed} | {cached_changed} |"
            );
        }
        println!();
    }

    /// The seconds that a build on an empty engine takes, and what it tells of its one target.
    fn build(&self, checkout: &Folder, mode: &str, shared: &str, sha: &str) -> (f64, Value) {
        Engine::empty();
        let image = self.engine.image(&format!("mode-{mode}-{shared}"));
        let file = checkout.0.join("report.json");
        let call = call(checkout, &image, &["--report", file.to_str().unwrap()]);
        let call = call.env(MODE, mode).env(SHARED, shared).env("SDK_SHA", sha);
        let seconds = timed(&format!("{mode}, shared {shared}, {sha:.7}"), || succeed(&call.end()));
        let report: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        assert_eq!(report["builder_was_empty"], true, "{report:#}");
        (seconds, report["targets"]["debian"].clone())
    }

    /// What two bakes cost, one for the images and one for their caches, instead of one for both.
    fn bakes(&self, runs: usize) {
        println!("| | one bake | two bakes | growth |\n|---|---:|---:|---:|");
        let other = self.other_base();
        let bases = ["--base-image=debian:trixie-slim", &format!("--base-image={other}")];
        for (count, args) in [(1, &bases[..1]), (2, &bases[..])] {
            // Seconds by case and way.
            let mut seconds = [[(); 2]; 3].map(|ways| ways.map(|()| Vec::new()));
            for run in 0..runs {
                // By turns, so that what slows the machine down for a while slows both ways.
                for way in [run % 2, (run + 1) % 2] {
                    let taken = self.in_way(way, &format!("bakes-{count}-{way}-{run}"), args);
                    for (case, taken) in taken.into_iter().enumerate() {
                        seconds[case][way].push(taken);
                    }
                }
            }
            let cases = ["from nothing", "all on the engine", "all in the registry"];
            for (case, [one, two]) in cases.into_iter().zip(&mut seconds) {
                let growth = (median(two) / median(one) - 1.0) * 100.0;
                let [one, two] = [one, two].map(|all| {
                    format!("{:.1} s ({:.1} to {:.1})", median(all), all[0], all[all.len() - 1])
                });
                let images = if count == 1 { "1 image" } else { "2 images" };
                println!("| {images}, {case} | {one} | {two} | {growth:+.1} % |");
            }
        }
        println!("\nMedians of {runs} runs, with the least and the most.\n");
    }

    /// A base image with a layer of its own: one that is merely named otherwise shares its steps.
    fn other_base(&self) -> String {
        let (folder, image) = (Folder::new("bench-base"), self.engine.image("base"));
        let dockerfile = "FROM debian:trixie-slim\nRUN echo other >/etc/base\n";
        fs::write(folder.0.join("Dockerfile"), dockerfile).unwrap();
        docker(&["buildx", "build", "--push", "--tag", &image, folder.0.to_str().unwrap()]);
        image
    }

    /// The seconds of the three cases in one bake, or in two.
    fn in_way(&self, way: usize, name: &str, args: &[&str]) -> [f64; 3] {
        let image = self.engine.image(name);
        ["from nothing", "all on the engine", "all in the registry"].map(|case| {
            if case != "all on the engine" {
                Engine::empty();
            }
            let seconds = timed(&format!("{name}, {case}"), || {
                let call = call(&self.checkout, &image, args).env(MODE, "max");
                succeed(&if way == 0 { self.one_bake(&image, args) } else { call.end() });
            });
            // One bake says nothing of a cache that it could not write.
            let tags = self.engine.tags(name).into_iter();
            let caches = tags.filter(|tag| tag.starts_with("buildcache-")).count();
            assert_eq!(caches, args.len(), "{name}: caches");
            seconds
        })
    }

    /// The images and their caches in one bake of the very same definition.
    fn one_bake(&self, image: &str, args: &[&str]) -> Ended {
        let print = call(&self.checkout, image, &[args, &["--print"]].concat()).env(MODE, "max");
        let definition = print.definition().to_string();
        let mut docker = Command::new("docker");
        docker.args(["buildx", "bake", "--file", "-", "--progress", "rawjson"]);
        // As the task pushes: what that saves has nothing to do with the number of bakes.
        docker.args(["--set", "*.output=type=image,push=,store=false"]);
        docker.current_dir(self.checkout.0.join("agent-server-image"));
        docker.env("BUILDX_BAKE_ENTITLEMENTS_FS", "0").env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1");
        docker.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = docker.spawn().unwrap();
        child.stdin.take().unwrap().write_all(definition.as_bytes()).unwrap();
        Ended::from(child.wait_with_output().unwrap())
    }
}

/// The middle of `all`, which this sorts.
fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    f64::midpoint(all[(all.len() - 1) / 2], all[all.len() / 2])
}
