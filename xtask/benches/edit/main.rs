//! From an edit of the SDK to an image and to a server that answers: the way it is done today, which
//! is an sdist of the checkout and a Dockerfile that copies all of it first, against
//! `cargo xtask image`.
//!
//! `cargo xtask engine --fresh -- cargo bench --bench edit` prints a table. After another `--`, names
//! of targets and of changes make only those rows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
#[allow(dead_code)]
mod common;
#[path = "../../../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use common::{load, machine, run, words};
use support::engine::Engine;
use support::sdk::Sdk;
use support::server::Server;
use support::workspace::Workspace;
use support::{Folder, Xtask, root};

const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// What `/server_info` is made of.
const DETAILS: &str = "openhands-agent-server/openhands/agent_server/server_details_router.py";
const TARGETS: [&str; 3] = ["source-minimal", "binary-minimal", "overlay"];

/// What was done to the checkout since the build before.
type Change = fn(&Sdk, &Workspace);

/// By name, in this order.
const CHANGES: [(&str, Change); 4] = [
    ("first", |_, _| ()),
    ("nothing", |_, _| ()),
    ("edit", |_, checkout| checkout.edit(DETAILS, "OpenHands Agent Server", "An edited server")),
    ("import", |_, checkout| {
        checkout.edit(
            DETAILS,
            "import asyncio\n",
            "import asyncio\nimport colorsys\nimport wsproto\n",
        );
    }),
];

/// Seconds from the command.
#[derive(Clone, Copy)]
struct Times {
    image: f64,
    health: f64,
}

fn main() {
    let args = words();
    let changes = CHANGES.map(|(name, _)| name);
    let known = |arg: &String| TARGETS.contains(&arg.as_str()) || changes.contains(&arg.as_str());
    assert!(args.iter().all(known), "targets are {TARGETS:?}, changes {changes:?}");
    let wanted = |names: &[&'static str]| {
        let named = names.iter().copied().filter(|name| args.iter().any(|arg| arg == name));
        let named = named.collect::<Vec<_>>();
        if named.is_empty() { names.to_vec() } else { named }
    };
    let engine = Engine::get();
    let bench = Bench { sdk: Sdk::get(&engine), engine, tools: tools() };
    let changes = wanted(&changes);
    println!("\n| target | change | way | image, s | healthy, s | times as fast |");
    println!("|---|---|---|---|---|---|");
    let before = load();
    let mut today = BTreeMap::new();
    for target in wanted(&TARGETS) {
        for way in ["today", "xtask"] {
            // Today's way has no such target.
            if (way, target) == ("today", "overlay") {
                continue;
            }
            for (change, Times { image, health }) in bench.measure(way, target, &changes) {
                if way == "today" {
                    today.insert((target, change), image);
                }
                // `overlay` is compared with what is nearest to it.
                let other = if target == "overlay" { "binary-minimal" } else { target };
                let ratio =
                    today.get(&(other, change)).map(|other| format!("{:.1}", other / image));
                let ratio = ratio.unwrap_or_default();
                println!("| `{target}` | {change} | {way} | {image:.1} | {health:.1} | {ratio} |");
            }
        }
    }
    println!("\n{}; load {before} at the start, {} at the end.", machine(), load());
}

struct Bench {
    sdk: Sdk,
    engine: Engine,
    /// A virtual environment with uv.
    tools: PathBuf,
}

impl Bench {
    /// The first build, and one after each of `changes`.
    fn measure(&self, way: &str, target: &str, changes: &[&str]) -> Vec<(&'static str, Times)> {
        self.engine.empty();
        let checkout = self.sdk.checkout("bench");
        let mut all = Vec::new();
        for (name, change) in CHANGES {
            if name != "first" && !changes.contains(&name) {
                continue;
            }
            change(&self.sdk, &checkout);
            let begun = Instant::now();
            let image = match way {
                "today" => self.today(target, &checkout),
                _ => ours(&self.engine, target, &checkout),
            };
            let seconds = begun.elapsed().as_secs_f64();
            let server = Server::start(&image, &[]);
            let times = Times { image: seconds, health: begun.elapsed().as_secs_f64() };
            check(&server, &checkout);
            all.push((name, times));
        }
        all
    }

    /// An sdist of the checkout, unpacked, beside the Dockerfile.
    fn today(&self, target: &str, checkout: &Workspace) -> String {
        let folder = Folder::new("context");
        let image = "bench/today".to_owned();
        let mut uv = Command::new(self.tools.join("bin/uv"));
        uv.args(["build", "--quiet", "--sdist", "--python"]).arg(self.tools.join("bin/python"));
        uv.arg("--out-dir").arg(&folder.0);
        run(uv.arg(checkout.path()));
        let context = folder.0.join("context");
        fs::create_dir(&context).unwrap();
        let mut tar = Command::new("tar");
        tar.args(["-xzf", "unknown-0.0.0.tar.gz", "--strip-components=1", "-C", "context"]);
        run(tar.current_dir(&folder.0));
        let requirements = root().join("agent-server-image/lock/build-requirements.txt");
        fs::copy(requirements, context.join("build-requirements.txt")).unwrap();
        let mut docker = Command::new("docker");
        docker.args(["buildx", "build", "--quiet", "--load", "--target", target, "--tag", &image]);
        docker.arg("--file").arg(root().join("xtask/benches/edit/today.Dockerfile"));
        if Path::new(BUNDLE).exists() {
            docker.args(["--secret", &format!("id=ca-certificates,src={BUNDLE}")]);
        }
        run(docker.arg(&context).env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1"));
        image
    }
}

/// One call. Today's way has no ACP providers.
fn ours(engine: &Engine, target: &str, checkout: &Workspace) -> String {
    let args = ["image", "--variant=debian", "--load", "--image=bench/xtask", "--target", target];
    let root = checkout.path();
    let rest = ["--sdk-project-root", root, "--install-acp-providers="];
    let ended = Xtask::shipped(&[&args[..], &rest].concat()).in_engine(engine).succeed();
    ended.stdout.lines().next().unwrap().to_owned()
}

/// The server is that of the checkout as it is now.
fn check(server: &Server, checkout: &Workspace) {
    let info = server.get("/server_info");
    let title = info["title"].as_str().unwrap();
    assert!(checkout.read(DETAILS).contains(&format!("\"{title}\"")), "{title}");
}

/// A virtual environment with the uv that the image is built by.
fn tools() -> PathBuf {
    let tools = root().join("target/bench-tools");
    let requirements = root().join("agent-server-image/lock/build-requirements.txt");
    run(Command::new("python3").args(["-m", "venv"]).arg(&tools));
    let mut pip = Command::new(tools.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    run(pip.arg(requirements));
    tools
}
