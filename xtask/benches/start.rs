//! From a fresh clone to a healthy server without Docker: this commit and another one, side by side in
//! one run. As root: `cargo bench --bench start`, or `cargo bench --bench start -- COMMIT`.
//!
//! Each clone runs the command of its own README.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use common::{load, machine, run, words};

/// The commit that issue 21 measured.
const OTHER: &str = "5180baa";
const STAGES: [&str; 8] =
    ["compile", "download", "unpack", "base", "steps", "export", "start", "all"];
/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Seconds of each stage. Stages that overlap add up to more than `all`.
type Times = [f64; STAGES.len()];

/// A line that the command wrote, and when.
struct Line {
    at: f64,
    text: String,
}

fn main() {
    let words = words();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let commit = |name: &str| {
        let mut git = Command::new("git");
        git.arg("-C").arg(root).args(["rev-parse", "--short", &format!("{name}^{{commit}}")]);
        String::from_utf8(run(&mut git).stdout).unwrap().trim().to_owned()
    };
    let commits = [commit(words.first().map_or(OTHER, String::as_str)), commit("HEAD")];
    let before = load();
    let clones = root.join("target/bench-start");
    let [other, this] = commits.each_ref().map(|commit| measure(root, &clones, commit));
    // Not before: where many files were removed, ext4 without a journal is slow for five minutes.
    fs::remove_dir_all(&clones).unwrap();
    println!("\n| stage | {} | {} | ratio |\n|---|---:|---:|---:|", commits[0], commits[1]);
    for (number, stage) in STAGES.iter().enumerate() {
        let (old, new) = (other[number], this[number]);
        println!("| {stage} | {old:.1} | {new:.1} | {:.2} |", new / old);
    }
    println!("\nSeconds. {}; load {before} at the start, {} at the end.", machine(), load());
}

/// Clones `commit`, starts a server there, and ends it.
fn measure(root: &Path, clones: &Path, commit: &str) -> Times {
    let clone = clones.join(commit);
    let _ = fs::remove_dir_all(&clone);
    let mut git = Command::new("git");
    run(git.args(["clone", "--quiet", "--no-checkout"]).arg(root).arg(&clone));
    run(Command::new("git").arg("-C").arg(&clone).args(["checkout", "--quiet", commit]));
    let readme = fs::read_to_string(clone.join("README.md")).unwrap();
    let mut commands = readme.lines().map(str::trim);
    let command =
        commands.find(|line| line.starts_with("cargo xtask engine -- cargo xtask image run"));
    let command = command.expect("the README's command without Docker");
    eprintln!("{commit}: {command}");

    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec {command}")]).current_dir(&clone);
    // What cargo says to this benchmark is not meant for the clone.
    for (name, _) in std::env::vars_os() {
        let is_kept =
            ["CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"].contains(&&*name.to_string_lossy());
        if name.to_string_lossy().starts_with("CARGO") && !is_kept {
            shell.env_remove(name);
        }
    }
    let mut child =
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (begun, (sender, receiver)) = (Instant::now(), mpsc::channel());
    read(child.stdout.take().unwrap(), begun, sender.clone());
    read(child.stderr.take().unwrap(), begun, sender);
    let mut lines = Vec::<Line>::new();
    while let Ok(line) = receiver.recv_timeout(PATIENCE.saturating_sub(begun.elapsed())) {
        eprintln!("{:7.1}  {}", line.at, line.text);
        let is_up = line.text.starts_with("address:");
        lines.push(line);
        if is_up {
            break;
        }
    }
    // Cargo became the engine, which ends all that it started.
    run(Command::new("kill").args(["-INT", &child.id().to_string()]));
    // Its last lines must not block it.
    thread::spawn(move || receiver.into_iter().for_each(drop));
    child.wait().unwrap();
    times(&lines)
}

/// Sends each line of `output` when it comes.
fn read(output: impl Read + Send + 'static, begun: Instant, sender: Sender<Line>) {
    thread::spawn(move || {
        for text in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = sender.send(Line { at: begun.elapsed().as_secs_f64(), text });
        }
    });
}

/// The stages, by what the engine and the build say of them.
fn times(lines: &[Line]) -> Times {
    let at = |is_it: &dyn Fn(&str) -> bool| lines.iter().find(|line| is_it(&line.text));
    let engine = |word: &str| at(&|text| text.starts_with(&format!("engine: {word}")));
    let compiled = at(&|text| text.starts_with("engine: ") || text.contains("/debug/engine"));
    let ready = engine("ready in").expect("an engine that is ready");
    let built = at(&|text| text.ends_with(" (seconds)")).expect("the seconds of each phase");
    let up = at(&|text| text.starts_with("address:")).expect("a server that is healthy");

    // `ready in 50.1 s (downloading 9.1, making debian:trixie-slim 30.2), registry …`
    let mut stages =
        ready.text.split_once('(').map_or("", |(_, rest)| rest.split(')').next().unwrap());
    let sum = |list: &str, word: &str| -> f64 {
        let items = list.split(", ").filter(|item| item.starts_with(word));
        items.filter_map(|item| item.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    // Up to 5180baa, the engine says when each stage begins.
    let said;
    if stages.is_empty() {
        let marks = [engine("downloading"), engine("unpacking"), engine("making"), Some(ready)];
        let marks = marks.into_iter().flatten().collect::<Vec<_>>();
        let items = marks.windows(2).map(|pair| {
            let name = pair[0].text.trim_start_matches("engine: ");
            format!("{} {}", name.split(' ').next().unwrap(), pair[1].at - pair[0].at)
        });
        said = items.collect::<Vec<_>>().join(", ");
        stages = &said;
    }
    let phases = built.text.split_once(": ").map_or("", |(_, phases)| phases);
    let phases = phases.trim_end_matches(" (seconds)");
    [
        compiled.map_or(0.0, |line| line.at),
        sum(stages, "downloading"),
        sum(stages, "unpacking"),
        sum(stages, "making"),
        sum(phases, "steps"),
        sum(phases, "image export"),
        up.at - built.at,
        up.at,
    ]
}
