//! Many base images: the way it is done today, one `docker buildx build` an image and four at a
//! time, against one call of `cargo xtask image`. In the engine:
//! `cargo xtask engine --fresh -- cargo bench --bench batch -- 8`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_precision_loss)]

mod cost;
mod crane;
#[path = "../../../tests/support/mod.rs"]
// A part of it is enough here.
#[allow(dead_code)]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cost::{descendants, each, peak, run, transferred, watched};
use crane::Crane;
use serde_json::{Value, json};
use support::engine::Engine;
use support::fake::{FakeDocker, INSPECTED};
use support::proxy::Proxy;
use support::{Folder, SHA, Xtask};

const MODE: &str = "OPENHANDS_BUILDKIT_CACHE_MODE";
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Bytes that every base image has of its own.
const OWN: usize = 3 << 20;

fn main() {
    let args = std::env::args().skip(1).filter(|arg| arg != "--bench").collect::<Vec<_>>();
    let count = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(8);
    let wants = |part: &str| {
        args.iter().all(|arg| arg.parse::<usize>().is_ok()) || args.iter().any(|arg| arg == part)
    };
    if wants("alone") {
        alone();
    }
    let Some(engine) = Engine::get("a batch") else { return };
    let bench = Bench::new(&engine);
    if wants("ways") {
        bench.ways(count);
    }
    if wants("hundred") {
        bench.hundred();
    }
    if wants("crane") {
        bench.crane(count);
    }
    if wants("present") {
        bench.present(433);
    }
    // Only on demand: it is for whoever chooses the default.
    if args.iter().any(|arg| arg == "jobs") {
        bench.jobs(count);
    }
}

/// What a run took.
#[derive(Default)]
struct Cost {
    seconds: f64,
    pushed: u64,
    context: u64,
    /// Bytes of memory, the most that its processes had together.
    memory: u64,
}

struct Bench<'a> {
    engine: &'a Engine,
    /// Images go to the registry through here, base images come from it without.
    proxy: Proxy,
    /// A checkout, and files of base images.
    folder: Folder,
}

impl Bench<'_> {
    fn new(engine: &Engine) -> Bench<'_> {
        let folder = Folder::shipped("bench");
        Bench { engine, proxy: Proxy::start(&engine.registry), folder }
    }

    /// Today's way and ours, side by side.
    fn ways(&self, count: usize) {
        let further = count.div_ceil(2);
        let bases = self.bases("way", count + further, OWN);
        println!(
            "\n| way | target | mode | s | images/h | s per further image | MB pushed per \
                  image | MB context | MB memory |\n|---|---|---|---|---|---|---|---|---|"
        );
        let mut costs = BTreeMap::new();
        let rows = [("today", "source-minimal"), ("xtask", "source-minimal"), ("xtask", "overlay")];
        for (mode, (way, target)) in ["off", "max"].into_iter().flat_map(|m| rows.map(|r| (m, r))) {
            Engine::empty();
            let name = format!("{way}-{target}-{mode}");
            let build = |bases: &[String]| match way {
                "today" => self.today(&name, target, mode, bases),
                _ => self.ours(self.call(&name, target, &[], bases), mode),
            };
            let cost = build(&bases[..count]);
            // Everything is there that images have in common.
            let each = build(&bases[count..]).seconds / further as f64;
            let megabytes = |bytes: u64| bytes as f64 / 1e6;
            println!(
                "| {way} | `{target}` | `{mode}` | {:.1} | {:.0} | {each:.2} | {:.1} | {:.2} | \
                 {:.0} |",
                cost.seconds,
                count as f64 / cost.seconds * 3600.0,
                megabytes(cost.pushed) / count as f64,
                megabytes(cost.context),
                megabytes(cost.memory),
            );
            costs.insert((way, target, mode), (cost, each));
        }
        println!();
        for mode in ["off", "max"] {
            let (today, today_each) = &costs[&("today", "source-minimal", mode)];
            for target in ["source-minimal", "overlay"] {
                let (ours, each) = &costs[&("xtask", target, mode)];
                println!(
                    "xtask `{target}`, `{mode}`, against today's `source-minimal`: {:.2} times as \
                     fast, a further image at 1/{:.1} of the time, 1/{:.1} of the bytes pushed, \
                     1/{:.1} of those sent as context.",
                    today.seconds / ours.seconds,
                    today_each / each,
                    today.pushed as f64 / ours.pushed as f64,
                    today.context as f64 / ours.context as f64,
                );
            }
        }
    }

    /// One `docker buildx build` an image, each with a context of its own, four at a time.
    fn today(&self, name: &str, target: &str, mode: &str, bases: &[String]) -> Cost {
        let image = format!("{}/bench/{name}", self.proxy.address);
        let context = AtomicU64::new(0);
        let build = |base: &str| {
            let tag = base.rsplit(':').next().unwrap();
            let folder = Folder::new(&format!("context-{name}-{tag}"));
            let source = self.folder.0.join("agent-server-image/.");
            run(Command::new("cp").arg("-r").arg(source).arg(&folder.0));
            let dockerfile = fs::read_to_string(folder.0.join("Dockerfile")).unwrap();
            let dockerfile = dockerfile.replace("COPY --link ", "COPY ");
            fs::write(folder.0.join("Dockerfile"), dockerfile).unwrap();
            let cache = format!("type=registry,ref={image}:buildcache-{tag}");
            let mut docker = Command::new("docker");
            docker.args(["buildx", "build", "--push", "--progress", "rawjson"]);
            docker.args(["--target", target, "--tag", &format!("{image}:{tag}")]);
            docker.args(["--build-arg", &format!("BASE_IMAGE={base}")]);
            docker.args(["--build-arg", "BUILDER_IMAGE=debian:trixie-slim"]);
            docker.args(["--build-arg", "INSTALL_ACP_PROVIDERS="]);
            docker.args(["--cache-from", &cache]);
            if mode == "max" {
                docker.args(["--cache-to", &format!("{cache},mode=max")]);
            }
            if Path::new(BUNDLE).exists() {
                docker.args(["--secret", &format!("id=ca-certificates,src={BUNDLE}")]);
            }
            let output = run(docker.arg(&folder.0).env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1"));
            context.fetch_add(transferred(&output.stderr), Ordering::SeqCst);
        };
        let mut cost = self.watch(|| _ = each(bases, 4, build));
        cost.context = context.into_inner();
        cost
    }

    /// One call.
    fn ours(&self, mut call: Xtask, mode: &str) -> Cost {
        let report = self.folder.0.join("report.json");
        call.0.arg("--report").arg(&report).env(MODE, mode);
        let mut cost = self.watch(|| {
            run(&mut call.0);
        });
        let report: Value = serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap();
        cost.context = report["context_bytes"].as_u64().unwrap();
        cost
    }

    fn call(&self, name: &str, target: &str, args: &[&str], bases: &[String]) -> Xtask {
        let list = self.folder.0.join("list");
        fs::write(&list, bases.join("\n")).unwrap();
        let image = format!("{}/bench/{name}", self.proxy.address);
        let always = ["image", "--variant=debian", "--push", "--target", target, "--image", &image];
        let list = ["--base-images", list.to_str().unwrap()];
        // Neither way has them.
        let none = ["--install-acp-providers=", "--install-capabilities="];
        let args = [&always[..], &list, &none, args].concat();
        let call = Xtask::within(&self.folder.0, &args).in_engine();
        call.on("x")
    }

    /// What `work` takes, which starts processes and waits for them.
    fn watch(&self, work: impl FnOnce()) -> Cost {
        let (before, over) = (self.proxy.requests().len(), AtomicBool::new(false));
        let begun = Instant::now();
        let (seconds, memory) = thread::scope(|scope| {
            let memory = scope.spawn(|| {
                let mut most = 0;
                while !over.load(Ordering::SeqCst) {
                    most = most.max(descendants().into_iter().map(peak).sum());
                    thread::sleep(Duration::from_millis(100));
                }
                most
            });
            work();
            over.store(true, Ordering::SeqCst);
            (begun.elapsed().as_secs_f64(), memory.join().unwrap())
        });
        let requests = self.proxy.requests();
        let pushed = requests[before..].iter().filter(|request| request.writes());
        let pushed = pushed.map(|request| request.body).sum();
        Cost { seconds, memory, pushed, context: 0 }
    }

    /// New base images, each with so many bytes of its own, in the registry.
    fn bases(&self, name: &str, count: usize, own: usize) -> Vec<String> {
        let folder = self.folder.0.join("bases");
        fs::create_dir_all(&folder).unwrap();
        let tags = (0..count).map(|number| format!("{name}{number}")).collect::<Vec<_>>();
        let tagged = |tag: &String| format!("{}/bench/base:{tag}", self.engine.registry);
        for tags in tags.chunks(16) {
            let target = |tag: &String| {
                let file = fs::File::open("/dev/urandom").unwrap();
                let mut file = std::io::Read::take(file, own as u64);
                let mut copy = fs::File::create(folder.join(tag)).unwrap();
                std::io::copy(&mut file, &mut copy).unwrap();
                let dockerfile = format!("FROM debian:trixie-slim\nCOPY {tag} /own\n");
                let target = json!({ "context": ".", "dockerfile-inline": dockerfile,
                                     "tags": [tagged(tag)], "output": ["type=registry"] });
                (tag.clone(), target)
            };
            let targets = tags.iter().map(target).collect::<serde_json::Map<_, _>>();
            let bake = json!({ "group": { "default": { "targets": tags } }, "target": targets });
            fs::write(folder.join("bake.json"), bake.to_string()).unwrap();
            let mut docker = Command::new("docker");
            docker.args(["buildx", "bake", "--file", "bake.json"]).current_dir(&folder);
            run(docker.env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1"));
        }
        tags.iter().map(tagged).collect()
    }

    /// A hundred base images, five of which are broken, each in another way.
    fn hundred(&self) {
        let good = self.bases("good", 95, 1 << 10);
        let (_registry, broken) = support::bad::bases(&self.engine.registry, &good[0]);
        let mut bases = good.clone();
        for (number, base) in broken.iter().enumerate() {
            bases.insert(number * 20 + 7, base.clone());
        }
        let report = self.folder.0.join("hundred/report.json");
        let args = ["--report", report.to_str().unwrap()];
        let call = self.call("hundred", "overlay", &args, &bases).env(MODE, "off");
        let begun = Instant::now();
        let ended = call.end();
        let seconds = begun.elapsed().as_secs_f64();
        assert_eq!(ended.status, 1, "{}", ended.stderr);
        assert_eq!(ended.stdout.lines().count(), good.len(), "{}", ended.stderr);
        for base in &good {
            let end = format!("{}-overlay\n", slug(base));
            assert!(ended.stdout.contains(&end), "{}", ended.stdout);
        }
        let path = format!("/v2/bench/hundred/tags/list?n={}", bases.len());
        let address = self.engine.registry.parse().unwrap();
        let (_, tags) = support::engine::http(address, &path, &[]).unwrap();
        let tags = serde_json::from_str::<Value>(&tags).unwrap()["tags"].as_array().unwrap().len();
        assert_eq!(tags, good.len());
        let failed = fs::read_to_string(report.with_file_name("failed.txt")).unwrap();
        let named = failed.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>();
        assert_eq!(named, broken.iter().map(String::as_str).collect::<Vec<_>>());
        println!(
            "\n100 base images, 5 of them broken, `overlay`: {tags} pushed in {seconds:.1} s, and \
             the others named:\n\n```text\n{failed}```"
        );
    }

    /// Further `overlay` images, against `crane` on the same layers and base images.
    fn crane(&self, count: usize) {
        let folder = self.folder.0.join("crane");
        let crane = Crane::get(&folder);
        let bases = self.bases("crane", 2 * count + 1, 1 << 10);
        let (first, others) = bases.split_first().unwrap();
        let (bases, others) = others.split_at(count);
        let call = |check: &str, bases: &[String]| {
            let args = [&format!("--check={check}")[..]];
            self.ours(self.call("crane", "overlay", &args, bases), "off")
        };
        call("off", std::slice::from_ref(first));
        let image = |base: &str| {
            let (sha, slug) = (&SHA[..7], slug(base));
            format!("{}/bench/crane:{sha}-{slug}-overlay", self.proxy.address)
        };
        let parts = crane.parts(&image(first), first, &folder);
        let tag = |base: &str| image(base).replace("/crane:", "/craned:");
        let append = |base: &str| crane.append(&parts, base, &tag(base));
        let rebase = |base: &str| crane.rebase(&image(first), first, base, &tag(base));
        let by_crane = |at_once: usize, work: &(dyn Fn(&str) + Sync)| {
            self.watch(|| _ = each(bases, at_once, work))
        };
        println!(
            "\n{count} further `overlay` images:\n\n| way | s | s per image | kB pushed per image \
             |\n|---|---|---|---|"
        );
        for (way, Cost { seconds, pushed, .. }) in [
            ("xtask, `--check off`", call("off", bases)),
            ("xtask", call("first", others)),
            ("`crane append` and `mutate`", by_crane(1, &append)),
            ("the same, 8 at once", by_crane(8, &append)),
            ("`crane rebase`", by_crane(1, &rebase)),
            ("the same, 8 at once", by_crane(8, &rebase)),
        ] {
            let kilobytes = pushed as f64 / 1e3 / count as f64;
            println!("| {way} | {seconds:.1} | {:.3} | {kilobytes:.1} |", seconds / count as f64);
        }
    }

    /// A nightly batch of which nothing has changed.
    fn present(&self, count: usize) {
        let bases = self.bases("present", count, 1 << 10);
        let args = ["--tag-by=content", "--skip-existing"];
        let call = || self.call("present", "overlay", &args, &bases).env(MODE, "off");
        let built = call().end();
        assert_eq!(built.status, 0, "{}", built.stderr);
        let begun = Instant::now();
        let ended = call().end();
        let seconds = begun.elapsed().as_secs_f64();
        assert!(ended.stderr.contains(&format!("{count} of {count} images")), "{}", ended.stderr);
        println!("\n{count} images, all present by `--tag-by content`: {seconds:.1} s");
    }

    /// What the number of images in a bake makes of the time, where all common stages are there.
    fn jobs(&self, count: usize) {
        let targets = ["source-minimal", "overlay"];
        for target in targets {
            self.ours(self.call("jobs-first", target, &[], &self.bases("first", 1, OWN)), "off");
        }
        println!("\n| images | jobs | s `source-minimal` | s `overlay` |\n|---|---|---|---|");
        for count in [count, 2 * count] {
            for jobs in [1, 4, 8, 16] {
                let name = format!("jobs-{count}-{jobs}");
                let bases = self.bases(&name, count, OWN);
                let jobs = format!("--jobs={jobs}");
                let [source, overlay] = targets.map(|target| {
                    let call = self.call(&name, target, &[&jobs], &bases);
                    self.ours(call, "off").seconds
                });
                println!("| {count} | {jobs} | {source:.1} | {overlay:.1} |");
            }
        }
    }
}

/// A base image as tags name it.
fn slug(base: &str) -> String {
    base.replace('/', "_s_").replace(':', "_tag_")
}

/// xtask by itself: without any buildx, and with one that answers at once, twice: the second build
/// compares itself with the first.
fn alone() {
    let script = "case \"$*\" in *inspect*) cat inspected;; *bake*) cat >/dev/null;; esac";
    let (folder, fake) = (Folder::checkout("alone"), FakeDocker::new("alone-docker", script));
    fs::write(fake.file("inspected"), INSPECTED).unwrap();
    println!("\n| base images | `--print`, s | MB | build, s | MB | again, s | MB |");
    println!("|---|---|---|---|---|---|---|");
    for count in [1, 100, 1000] {
        let bases = (0..count).map(|n| format!("registry.example/eval/instance-{n}:v1\n"));
        fs::write(folder.0.join("list"), bases.collect::<String>()).unwrap();
        let costs = [&["--print"][..], &[], &[]].map(|args| {
            let list = folder.0.join("list");
            let always = ["image", "--variant=debian", "--push", "--target=overlay"];
            let list = ["--base-images", list.to_str().unwrap()];
            let call = Xtask::within(&folder.0, &[&always[..], &list, args].concat());
            let mut call = call.env("PATH", fake.path()).env(MODE, "off").env("SDK_SHA", SHA);
            call.0.stdout(Stdio::null()).stderr(Stdio::null());
            let begun = Instant::now();
            let most = watched(&mut call.0.spawn().unwrap());
            format!("{:.3} | {:.1}", begun.elapsed().as_secs_f64(), most as f64 / 1e6)
        });
        println!("| {count} | {} |", costs.join(" | "));
    }
}
