//! Many base images: the way it is done today, one `docker buildx build` an image and four at a
//! time, against one call of `cargo xtask image`. In the engine:
//! `cargo xtask engine --fresh -- cargo bench --bench batch -- 8`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_precision_loss)]

#[path = "../common/mod.rs"]
#[allow(dead_code)]
mod common;
mod cost;
mod crane;
#[path = "../../../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use common::{load, machine, run, words};
use cost::{each, watched};
use crane::Crane;
use serde_json::json;
use support::engine::Engine;
use support::fake::FakeDocker;
use support::proxy::Proxy;
use support::{CACHE_MODE, Folder, SHA, Xtask};

const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Bytes that every base image has of its own.
const OWN: usize = 3 << 20;

fn main() {
    let args = words();
    let count = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(8);
    let parts = args.iter().filter(|arg| arg.parse::<usize>().is_err()).collect::<Vec<_>>();
    let wants = |part: &str| parts.is_empty() || parts.iter().any(|other| *other == part);
    let before = load();
    if wants("alone") {
        alone();
    }
    if parts.is_empty() || parts.iter().any(|part| *part != "alone") {
        let engine = Engine::get();
        let bench = Bench::new(&engine);
        if wants("ways") {
            bench.ways(count);
        }
        if wants("by-hand") {
            bench.by_hand(64);
        }
        if wants("crane") {
            bench.crane(count);
        }
        if wants("present") {
            bench.present(433);
        }
    }
    println!("\n{}; load {before} at the start, {} at the end.", machine(), load());
}

/// What a run took.
struct Cost {
    seconds: f64,
    /// In bytes.
    pushed: u64,
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
        let folder = Folder::copy("bench", &support::root());
        Bench { engine, proxy: Proxy::start(&engine.registry), folder }
    }

    /// Today's way and ours, side by side.
    fn ways(&self, count: usize) {
        let further = count.div_ceil(2);
        let bases = self.bases("way", count + further, OWN);
        println!(
            "\n| way | target | mode | s | images/h | s per further image | MB pushed per image |\n\
             |---|---|---|---:|---:|---:|---:|"
        );
        let rows = [("today", "source-minimal"), ("xtask", "source-minimal"), ("xtask", "overlay")];
        for (mode, (way, target)) in ["off", "max"].into_iter().flat_map(|m| rows.map(|r| (m, r))) {
            self.engine.empty();
            let name = format!("{way}-{target}-{mode}");
            let build = |bases: &[String]| match way {
                "today" => self.watch(|| self.today(&name, target, mode, bases)),
                _ => self.ours(self.call(&name, target, &[], bases), mode),
            };
            let Cost { seconds, pushed } = build(&bases[..count]);
            // Everything that images have in common is there.
            let each = build(&bases[count..]).seconds / further as f64;
            println!(
                "| {way} | `{target}` | `{mode}` | {seconds:.1} | {:.0} | {each:.2} | {:.1} |",
                count as f64 / seconds * 3600.0,
                pushed as f64 / 1e6 / count as f64,
            );
        }
    }

    /// One `docker buildx build` an image, each with a context of its own, four at a time.
    fn today(&self, name: &str, target: &str, mode: &str, bases: &[String]) {
        let image = format!("{}/bench/{name}", self.proxy.address);
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
            docker.args(["buildx", "build", "--push"]);
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
            run(docker.arg(&folder.0).env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1"));
        };
        each(bases, 4, build);
    }

    /// One call.
    fn ours(&self, mut call: Xtask, mode: &str) -> Cost {
        call.0.env(CACHE_MODE, mode);
        self.watch(|| _ = run(&mut call.0))
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
        let call = Xtask::within(&self.folder.0, &args).in_engine(self.engine);
        call.on("x")
    }

    /// What `work` takes.
    fn watch(&self, work: impl FnOnce()) -> Cost {
        let (before, begun) = (self.proxy.requests().len(), Instant::now());
        work();
        let seconds = begun.elapsed().as_secs_f64();
        let requests = self.proxy.requests();
        let pushed = requests[before..].iter().filter(|request| request.writes());
        Cost { seconds, pushed: pushed.map(|request| request.body).sum() }
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

    /// Further `overlay` images, against the same bakes started by hand: one an image, four at once.
    fn by_hand(&self, count: usize) {
        let bases = self.bases("hand", 4 * count + 1, 1 << 10);
        let (first, others) = bases.split_first().unwrap();
        let check = ["--check=off"];
        self.ours(self.call("hand", "overlay", &check, std::slice::from_ref(first)), "off");
        println!(
            "\n{count} further `overlay` images:\n\n| way | s | s per image |\n|---|---:|---:|"
        );
        let mut fastest = [f64::INFINITY; 2];
        // By turns, so that what slows the machine down for a while slows both ways.
        for (turn, bases) in others.chunks(count).enumerate() {
            let seconds = if turn % 2 == 0 {
                self.ours(self.call("hand", "overlay", &check, bases), "off").seconds
            } else {
                self.bakes(bases)
            };
            let way = ["xtask, `--check off`", "the same bakes by hand, 4 at once"][turn % 2];
            println!("| {way} | {seconds:.1} | {:.3} |", seconds / count as f64);
            fastest[turn % 2] = seconds.min(fastest[turn % 2]);
        }
        println!("\nThe faster runs: xtask takes {:.2} times as long.", fastest[0] / fastest[1]);
    }

    /// The seconds of one `docker buildx bake` for each of `bases`, four at once.
    fn bakes(&self, bases: &[String]) -> f64 {
        let definition = self.call("hand", "overlay", &["--print"], bases).env(CACHE_MODE, "off");
        let definition = definition.definition();
        let targets = definition["target"].as_object().unwrap();
        let names = targets.keys().cloned().collect::<Vec<_>>();
        each(&names, 4, |name| {
            let one = json!({ "group": { "default": { "targets": [name] } },
                              "target": { name: targets[name] } });
            let mut docker = Command::new("docker");
            docker.args(["buildx", "bake", "--file", "-", "--progress", "rawjson"]);
            // As the task pushes: that is no work of its own.
            docker.arg(
                "--set=*.output=type=image,push=,store=false,compression=gzip,compression-level=4",
            );
            docker.current_dir(self.folder.0.join("agent-server-image"));
            docker
                .env("BUILDX_BAKE_ENTITLEMENTS_FS", "0")
                .env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1");
            docker.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = docker.spawn().unwrap();
            child.stdin.take().unwrap().write_all(one.to_string().as_bytes()).unwrap();
            assert!(child.wait().unwrap().success(), "{name}");
        })
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
        let call = || {
            let call = self.call("present", "overlay", &args, &bases).env(CACHE_MODE, "off");
            let begun = Instant::now();
            let ended = call.succeed();
            (begun.elapsed().as_secs_f64(), ended.stderr)
        };
        let (built, _) = call();
        let (present, said) = call();
        assert!(said.contains(&format!("{count} present")), "{said}");
        println!(
            "\n{count} `overlay` images: {built:.1} s to build, {present:.1} s when all are present by \
             `--tag-by content`"
        );
    }
}

/// A base image as tags name it.
fn slug(base: &str) -> String {
    base.replace('/', "_s_").replace(':', "_tag_")
}

/// xtask by itself: `--print`, and builds with a docker that answers at once.
fn alone() {
    let bake = "case \"$*\" in *' bake '*) cat >/dev/null
                while [ \"$1\" != --metadata-file ]; do shift; done
                echo '{}' >\"$2\"; exit;; esac";
    let fake = FakeDocker::with_override("alone", bake);
    println!("\n| base images | `--print`, s | MB | build, s | MB | again, s | MB |");
    println!("|---|---|---|---|---|---|---|");
    for count in [1, 100, 1000] {
        let bases = (0..count).map(|n| format!("registry.example/eval/instance-{n}:v1\n"));
        fake.write("list", &bases.collect::<String>());
        let costs = [&["--print"][..], &["--check=off"], &["--check=off"]].map(|args| {
            let always = ["image", "--variant=debian", "--push", "--base-images=list"];
            let mut call = fake.call(&[&always[..], args].concat()).on("x").env(CACHE_MODE, "off");
            call.0.stdout(Stdio::null()).stderr(Stdio::null());
            let begun = Instant::now();
            let most = watched(&mut call.0.spawn().unwrap());
            format!("{:.3} | {:.1}", begun.elapsed().as_secs_f64(), most as f64 / 1e6)
        });
        println!("| {count} | {} |", costs.join(" | "));
    }
}
