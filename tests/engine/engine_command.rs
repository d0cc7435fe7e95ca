//! Engines that are really started: what a command finds, what stays, and that nothing is left.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use crate::support::engine::{Engine, alone};
use crate::support::{Ended, Folder, Xtask, engine_program, processes, root};

const MARK: &str = "XTASK_TEST";

/// A checkout of its own, so that the engines of these tests share nothing but the downloads with
/// those that the developer has.
/// Nor do they run at once: each looks at what the host has before and after it.
struct Checkout(Folder, #[expect(dead_code)] (Engine, MutexGuard<'static, ()>));

impl Checkout {
    fn get(test: &str) -> Self {
        let alone = alone();
        let turn = Engine::get();
        let folder = Folder::new(&format!("engine-{test}"));
        let (downloads, ours) =
            (root().join("target/engine/downloads"), folder.0.join("target/engine"));
        fs::create_dir_all(&downloads).unwrap();
        fs::create_dir_all(&ours).unwrap();
        symlink(downloads, ours.join("downloads")).unwrap();
        Checkout(folder, (turn, alone))
    }

    fn engine(&self, args: &[&str]) -> Xtask {
        // All its processes inherit the variable, so that they can be told from others'.
        let call = Xtask::within(&self.0.0, &[&["engine"], args].concat());
        // What docker keeps of a build that is stopped goes with the folder.
        call.env(MARK, &self.0.0).env("TMPDIR", &self.0.0)
    }

    /// Runs `script` in an engine, to its end.
    fn run(&self, args: &[&str], script: &str) -> Ended {
        self.engine(&[args, &["--", "sh", "-ec", script]].concat()).end()
    }

    /// Starts `script` in an engine, and waits until it has made the file `up`.
    fn start(&self, args: &[&str], script: &str) -> Child {
        let up = self.path("up");
        let _ = fs::remove_file(&up);
        let script = format!("{script}\ntouch {}\nexec sleep 600", up.display());
        let mut engine = self.engine(&[args, &["--", "sh", "-ec", &script]].concat());
        let child = engine.0.spawn().unwrap();
        wait_for("the command", || up.exists().then_some(()));
        child
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.0.join(name)
    }

    fn data(&self) -> BTreeSet<String> {
        names(&self.path("target/engine"), |_| true)
    }
}

fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = ready() {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(300), "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn send(signal: &str, child: &Child) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn names(folder: &Path, wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| wanted(name))
        .collect()
}

impl Checkout {
    /// The number of the engine that runs for this checkout.
    fn number(&self) -> Option<String> {
        let engines = names(Path::new("/run/xtask-engine"), |_| true);
        engines.into_iter().find(|number| {
            let config = format!("/run/xtask-engine/{number}/docker.json");
            let config = fs::read_to_string(config).unwrap_or_default();
            config.contains(self.0.0.to_str().unwrap())
        })
    }

    /// What the host still has of the engine with this number, which has ended.
    fn left(&self, number: &str) -> Vec<String> {
        let path = self.0.0.to_str().unwrap();
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let groups = mounts.lines().filter_map(|mount| {
            let mut fields = mount.split(' ').skip(1);
            let path = fields.next()?;
            fields.next()?.starts_with("cgroup").then(|| format!("{path}/xtask-engine-{number}"))
        });
        let paths = groups.chain([
            format!("/run/xtask-engine/{number}"),
            format!("/sys/class/net/xtask-{number}"),
            format!("{path}/target/engine/fresh"),
        ]);
        let mounts = mounts.lines().filter(|mount| mount.contains(path));
        let rules = rules();
        let rules = rules.lines().filter(|table| table.ends_with(&format!("_{number}")));
        paths
            .filter(|path| Path::new(path).exists())
            .chain(mounts.chain(rules).map(Into::into))
            .chain(self.processes())
            .collect()
    }

    /// The processes that were started for this checkout, by number and name.
    fn processes(&self) -> Vec<String> {
        let processes = processes(MARK, &self.0.0).into_iter();
        processes.map(|(pid, name)| format!("{pid} {name}")).collect()
    }
}

/// What all engines of the host share.
fn shared() -> (String, BTreeSet<String>) {
    let forward = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    (forward, names(Path::new("/proc/sys/fs/binfmt_misc"), |_| true))
}

/// The tables of nftables, by the engine's own program and with its own libraries.
fn rules() -> String {
    let downloads = root().join("target/engine/downloads");
    let programs = names(&downloads, |name| name.starts_with("programs-"));
    let Some(usr) = programs.last().map(|name| downloads.join(name).join("usr")) else {
        return String::new();
    };
    let arch = std::env::consts::ARCH;
    let loader = [usr.join("lib64"), usr.join("lib")].into_iter().find_map(|folder| {
        names(&folder, |name| name.starts_with("ld-linux-")).pop_first().map(|ld| folder.join(ld))
    });
    let output = Command::new(loader.unwrap())
        .arg("--library-path")
        .arg(usr.join("lib").join(format!("{arch}-linux-gnu")))
        .arg(usr.join("sbin/nft"))
        .args(["list", "tables"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn the_command_finds_an_engine_and_its_status_is_passed_on() {
    let checkout = Checkout::get("environment");
    let mut engine = checkout.engine(&[
        "--",
        "sh",
        "-ec",
        "pwd
         command -v docker
         docker version --format '{{.Server.Os}}'
         docker buildx version | cut -d ' ' -f 1
         docker --debug buildx inspect | grep 'Cache export'
         test -s \"$XTASK_ENGINE_LOG\"
         grep -c /v2/ \"$XTASK_REGISTRY_LOG\" > /dev/null
         test -d \"$DOCKER_CONFIG\"
         echo \"$DOCKER_HOST$BUILDX_BUILDER$DOCKER_CONTEXT\"
         echo \"$XTASK_REGISTRY\"
         exit 7",
    ]);
    engine.0.current_dir("/var").envs([("BUILDX_BUILDER", "other"), ("DOCKER_CONTEXT", "other")]);
    let ended = engine.end();
    assert_eq!(ended.status, 7, "{}", ended.stderr);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines[0], "/var");
    let downloads = checkout.path("target/engine/downloads");
    assert!(lines[1].starts_with(downloads.to_str().unwrap()), "{}", lines[1]);
    assert_eq!(lines[2..4], ["linux", "github.com/docker/buildx"]);
    assert!(lines[4].contains("true"), "{}", lines[4]);
    assert!(lines[5].starts_with("unix:///run/xtask-engine/"), "{}", lines[5]);
    assert!(lines[6].starts_with("127.0.0.1:"), "{}", lines[6]);
    assert_eq!(lines.len(), 7, "only the command writes to standard output");
    assert!(ended.stderr.lines().any(|line| line.starts_with("engine: ")), "{}", ended.stderr);

    let said = checkout.engine(&["--", "no-such-command"]).refused();
    assert!(said.contains("no-such-command"), "{said}");
    let killed = checkout.run(&[], "kill -9 $$");
    assert_eq!(killed.status, 128 + 9, "{}", killed.stderr);
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn what_one_call_made_the_next_one_has() {
    let checkout = Checkout::get("kept");
    // A step with network, in a build that has a registry cache as well.
    let build = "printf 'FROM debian:trixie-slim\nRUN getent hosts deb.debian.org > /found\n' |
         docker buildx build --progress plain --tag $XTASK_REGISTRY/kept:1 --push \
             --cache-to type=registry,ref=$XTASK_REGISTRY/kept:cache,mode=max - 2>&1";
    let first =
        checkout.run(&[], &format!("{build}\ndocker run --name once debian:trixie-slim true"));
    assert_eq!(first.status, 0, "{}{}", first.stdout, first.stderr);
    assert!(!first.stdout.contains("CACHED"), "{}", first.stdout);
    let second = checkout.run(
        &[],
        &format!(
            "docker run --rm --name once $XTASK_REGISTRY/kept:1 test -s /found
             docker buildx imagetools inspect $XTASK_REGISTRY/kept:cache > /dev/null
             {build}"
        ),
    );
    assert_eq!(second.status, 0, "{}{}", second.stdout, second.stderr);
    assert!(second.stdout.contains("CACHED"), "{}", second.stdout);
    let fresh = checkout.run(&["--fresh"], "docker images --quiet | wc -l; docker ps -aq");
    assert_eq!((fresh.status, fresh.stdout.trim()), (0, "1"), "{}", fresh.stderr);
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn of_more_than_is_kept_the_oldest_goes() {
    let checkout = Checkout::get("pruned");
    let push = |name: &str| {
        let script = format!(
            "printf 'FROM scratch\nCOPY data /\n' >Dockerfile && head -c 60M /dev/urandom >data
             docker build --quiet --push --tag $XTASK_REGISTRY/{name} .
             docker pull --quiet $XTASK_REGISTRY/{name}"
        );
        let folder = Folder::new("pruned-context");
        let mut engine = checkout.engine(&["--", "sh", "-ec", &script]);
        engine.0.current_dir(&folder.0);
        engine.succeed();
    };
    push("first");
    push("second");
    // Of these, 90 MB are for images, and as many for the registry.
    let left = "docker images --format '{{.Repository}}' | grep -v debian
                for name in first second; do
                    docker buildx imagetools inspect $XTASK_REGISTRY/$name >/dev/null || echo no $name
                done";
    let ended =
        checkout.engine(&["--", "sh", "-ec", left]).env("XTASK_ENGINE_KEEP_MB", "300").end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let lines = ended.stdout.lines().map(|line| line.rsplit('/').next().unwrap());
    assert_eq!(lines.collect::<Vec<_>>(), ["second", "no first"], "{}", ended.stderr);
    let said = |what: &str| format!("removed 1 of the oldest {what}: ");
    for what in ["images", "tags of the registry"] {
        assert!(ended.stderr.contains(&said(what)), "{}", ended.stderr);
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn two_run_at_once_and_their_ports_are_reached_from_outside() {
    let checkout = Checkout::get("two");
    let ports: Vec<u16> = [(); 2]
        .map(|()| TcpListener::bind("127.0.0.1:0").unwrap())
        .map(|listener| listener.local_addr().unwrap().port())
        .to_vec();
    let serve = |port: &u16| {
        let perl = r#"my $s = IO::Socket::INET->new(LocalPort => 8000, Listen => 5);
            while (my $c = $s->accept) { print $c "it is $ARGV[0]"; close $c }"#;
        checkout.start(
            &[],
            &format!(
                "docker run --detach --publish 127.0.0.1:{port}:8000 debian:trixie-slim \
                     perl -MIO::Socket::INET -e '{perl}' {port}"
            ),
        )
    };
    let mut engines: Vec<Child> = ports.iter().map(serve).collect();
    assert_eq!(names(&checkout.path("target/engine/data"), |_| true).len(), 2);
    for port in ports {
        let said = wait_for("an answer", || {
            let mut answer = String::new();
            TcpStream::connect(("127.0.0.1", port)).ok()?.read_to_string(&mut answer).ok()?;
            (!answer.is_empty()).then_some(answer)
        });
        assert_eq!(said, format!("it is {port}"));
    }
    for engine in &engines {
        send("-TERM", engine);
    }
    for engine in &mut engines {
        assert_eq!(engine.wait().unwrap().code(), Some(128 + 15));
    }
}

/// Containers, a network, and processes that outlive the command that started them.
const BUSY: &str = "docker network create other
     docker run --detach --network other debian:trixie-slim sleep 600
     docker run --detach --publish 127.0.0.1::80 debian:trixie-slim sleep 600
     setsid sleep 600 &
     ls -d /sys/class/net/br-* | tail -n 1";

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn fresh_leaves_nothing() {
    let checkout = Checkout::get("fresh");
    let before = shared();
    let script = format!("{BUSY}\nbasename $(dirname $DOCKER_HOST)\nexit 1");
    let ended = checkout.run(&["--fresh"], &script);
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let mut lines = ended.stdout.lines().rev();
    let (number, bridge) = (lines.next().unwrap(), lines.next().unwrap());
    assert_eq!(checkout.left(number), [""; 0]);
    assert!(!Path::new(bridge).exists(), "{bridge}");
    assert_eq!(shared(), before);
    assert_eq!(checkout.data(), BTreeSet::from(["downloads".to_owned()]));
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_signal_ends_the_command_and_leaves_nothing() {
    let checkout = Checkout::get("signals");
    let before = shared();
    for (signal, number) in [("-INT", 2), ("-TERM", 15), ("-HUP", 1)] {
        let mut engine = checkout.start(&[], BUSY);
        let running = checkout.number().unwrap();
        assert_ne!(checkout.left(&running), [""; 0]);
        let sent = Instant::now();
        send(signal, &engine);
        assert_eq!(engine.wait().unwrap().code(), Some(128 + number), "{signal}");
        assert!(sent.elapsed() < Duration::from_secs(60), "{signal}: {:?}", sent.elapsed());
        assert_eq!(checkout.left(&running), [""; 0], "{signal}");
    }
    // While it starts, too.
    let mut engine = checkout.engine(&["--fresh", "--", "true"]).0.spawn().unwrap();
    let running = wait_for("the daemon's configuration", || checkout.number());
    send("-TERM", &engine);
    assert_eq!(engine.wait().unwrap().code(), Some(128 + 15));
    assert_eq!(checkout.left(&running), [""; 0]);
    assert_eq!(shared(), before);
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn the_next_start_cleans_up_after_a_killed_one() {
    let checkout = Checkout::get("killed");
    let before = shared();
    let mut engine = checkout.start(&["--fresh"], BUSY);
    let running = checkout.number().unwrap();
    send("-KILL", &engine);
    assert_eq!(engine.wait().unwrap().signal(), Some(9));
    // The process that went into a session of its own is nobody's any more.
    wait_for("the daemons' end", || {
        checkout.processes().iter().all(|process| process.contains(" sleep")).then_some(())
    });
    let next = checkout.run(&["--fresh"], "docker ps --all --quiet");
    assert_eq!((next.status, next.stdout.as_str()), (0, ""), "{}", next.stderr);
    let mut left = checkout.left(&running);
    left.retain(|left| !left.contains(" sleep"));
    assert_eq!(left, [""; 0]);
    assert_eq!(shared(), before);
    for process in checkout.processes() {
        let pid = process.split(' ').next().unwrap();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn both_architectures_run_with_emulation() {
    let checkout = Checkout::get("emulation");
    let before = shared();
    let ended = checkout.run(
        &["--fresh", "--emulate"],
        // By its status: what a container writes can be lost on a busy machine.
        "is() { docker run --rm --platform linux/$1 $2 sh -c \"$3\"; }
         is amd64 debian:trixie-slim 'test $(uname -m) = x86_64'
         is arm64 debian:trixie-slim 'test $(uname -m) = aarch64'
         printf 'FROM debian:trixie-slim\nRUN dpkg --print-architecture > /arch\n' |
             docker buildx build --quiet --platform linux/amd64,linux/arm64 \
                 --tag $XTASK_REGISTRY/both:1 --push - > /dev/null
         for arch in amd64 arm64; do
             docker pull --quiet --platform linux/$arch $XTASK_REGISTRY/both:1
             is $arch $XTASK_REGISTRY/both:1 \"grep -x $arch /arch\"
         done",
    );
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(shared(), before);
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn an_engine_on_an_overlay_builds_and_runs() {
    let _turn = Engine::get();
    let folder = Folder::new("engine-overlay");
    let downloads = root().join("target/engine/downloads");
    fs::create_dir_all(&downloads).unwrap();
    // As in a container without a volume. The mounts go with the namespace.
    let script = r#"
        mount -t tmpfs tmpfs "$1"
        mkdir "$1/lower" "$1/upper" "$1/work" "$1/checkout"
        mount -t overlay overlay \
            -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" "$1/checkout"
        mkdir -p "$1/checkout/target/engine"
        ln -s "$2" "$1/checkout/target/engine/downloads"
        CARGO_MANIFEST_DIR="$1/checkout/xtask/engine" exec "$3" --fresh -- sh -ec '
            docker info --format "{{.Driver}}"
            printf "FROM debian:trixie-slim\nRUN echo built > /file\n" |
                docker build --quiet --tag built - > /dev/null
            docker run --rm built grep -x built /file >&2'"#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", script, "sh"]).arg(&folder.0).arg(downloads);
    command.arg(engine_program());
    let ended = Ended::from(command.output().unwrap());
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(ended.stdout, "native\n", "{}", ended.stderr);
}
