//! What a registry or an engine that fails may cost: a cache, but never the image, and nothing
//! goes unsaid or is left behind.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::engine::{DOCKERFILE, bases, checkout, write_dockerfile};
use crate::support::engine::{Engine, http, signal};
use crate::support::proxy::{Answer, Proxy, Request};
use crate::support::{
    CACHE_MODE, CACHE_TIMEOUT, Ended, Folder, SHARED_CACHE, Xtask, processes, records, sha256,
};
use serde_json::{Value, json};

/// Processes of a call are known by this variable.
const MARK: &str = "XTASK_TEST_CALL";

/// Longer than any call of these tests takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

const TAGS: [&str; 4] = [
    "0123456-debian",
    "0123456789abcdef0123456789abcdef01234567-debian",
    "0123456-debian_tag_trixie-slim",
    "x-debian",
];
const CACHE: &str = "buildcache-binary-debian_tag_trixie-slim-x";
const READ: [&str; 4] = [
    CACHE,
    "buildcache-binary-debian_tag_trixie-slim-main",
    "buildcache-shared-binary-x",
    "buildcache-shared-binary-main",
];
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image of its own content in a repository of its own, and a door to that.
struct Case<'a> {
    engine: &'a Engine,
    name: String,
    folder: Folder,
    proxy: Proxy,
}

impl<'a> Case<'a> {
    fn new(engine: &'a Engine, name: &str) -> Self {
        let folder = checkout(&format!("failure-{name}"), DOCKERFILE);
        fs::create_dir_all(folder.0.join("tmp")).unwrap();
        Case { engine, name: name.to_owned(), proxy: Proxy::start(&engine.registry), folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }

    /// The repository, as it is named behind the door.
    fn image(&self) -> String {
        let image = self.engine.image(&self.name);
        image.replace(&self.engine.registry, &self.proxy.address)
    }

    fn call(&self, args: &[&str]) -> Xtask {
        let (image, records) = (self.image(), self.path("records"));
        let always = ["image", "--variant=debian", "--image", &image, "--records"];
        let args = [&always[..], &[records.to_str().unwrap()], args].concat();
        let call = Xtask::within(&self.folder.0, &args).in_engine(self.engine);
        let call = call.on("x");
        call.env("TMPDIR", self.path("tmp")).env(MARK, &self.folder.0)
    }

    /// Runs a call to its end, and looks for what it has left.
    fn end(&self, call: Xtask) -> Ended {
        let ended = Running::start(call).end();
        self.check_clean();
        ended
    }

    fn check_clean(&self) {
        let left = fs::read_dir(self.path("tmp")).unwrap().flatten().map(|entry| entry.path());
        assert_eq!(left.collect::<Vec<_>>(), [] as [PathBuf; 0]);
        // A docker that is killed while it starts may leave its question to a plugin, which ends by itself.
        let started = Instant::now();
        while !processes(MARK, &self.folder.0).is_empty() && started.elapsed() < LIMIT / 10 {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(processes(MARK, &self.folder.0), []);
    }

    /// The record of the last call.
    fn record(&self) -> Value {
        let records = records(&self.path("records"));
        fs::remove_file(self.path("records")).unwrap();
        records.last().unwrap().clone()
    }

    /// Fails unless every tag of the image is in the registry, complete, and runs.
    fn check_image(&self, record: &Value) {
        let tags = self.engine.tags(&self.name);
        for tag in TAGS {
            assert!(tags.contains(tag), "{}: {tags:?} {record:#}", self.name);
            self.engine.check_complete(&self.name, tag);
        }
        assert_eq!(record["pushed"], true, "{record:#}");
        assert_eq!(record["digest"], self.engine.digest(&self.name, TAGS[0]), "{record:#}");
        assert_eq!(record["tags"].as_array().unwrap().len(), TAGS.len());
        let image = format!("{}:{}", self.engine.image(&self.name), TAGS[0]);
        self.engine.docker(&["run", "--rm", "--pull=always", &image, "test", "-s", "/sum"]);
        self.engine.docker(&["rmi", "--force", &image]);
    }

    /// The caches that are in the registry.
    fn caches(&self) -> BTreeSet<String> {
        let tags = self.engine.tags(&self.name).into_iter();
        tags.filter(|tag| tag.starts_with("buildcache-")).collect()
    }
}

/// The warnings on standard error, each of which may be there once.
fn warnings(ended: &Ended) -> Vec<&str> {
    let is_warning = |line: &&str| line.starts_with("warning: ") || line.starts_with("::warning::");
    let lines = ended.stderr.lines().filter(is_warning);
    let warnings = lines.collect::<Vec<_>>();
    let once = warnings.iter().collect::<BTreeSet<_>>();
    assert_eq!(once.len(), warnings.len(), "{}", ended.stderr);
    warnings
}

/// Does a request belong to an export? The image has all its tags before that begins.
fn exports(request: &Request) -> bool {
    request.pushed >= TAGS.len() && request.writes()
}

/// What a registry does to an export, and what the record has to say of it.
struct Fault {
    name: &'static str,
    answer: Answer,
    /// Whether caches can't be read either.
    reading: bool,
    result: &'static str,
    error: &'static str,
}

impl Fault {
    fn refusal(name: &'static str, status: &'static str, error: &'static str) -> Self {
        Fault { name, answer: Answer::Status(status), reading: true, result: "failed", error }
    }

    fn of_writing(name: &'static str, answer: Answer, error: &'static str) -> Self {
        Fault { name, answer, reading: false, result: "failed", error }
    }

    fn rule(&self) -> impl FnMut(&Request) -> Answer + Send + 'static {
        let (answer, reading) = (self.answer.clone(), self.reading);
        move |request| {
            let is_meant = exports(request) || reading && request.names_cache();
            if is_meant { answer.clone() } else { Answer::Pass }
        }
    }

    fn check(&self, engine: &Engine, strict: bool) {
        let name = if strict { format!("{}-strict", self.name) } else { self.name.to_owned() };
        let case = Case::new(engine, &name);
        case.proxy.obey(self.rule());
        let args = if strict { &["--push", "--strict-cache"][..] } else { &["--push"] };
        let call = case.call(args);
        let call = if self.result == "timed out" { call.env(CACHE_TIMEOUT, "20") } else { call };
        let ended = case.end(call);
        assert_eq!(ended.status, i32::from(strict), "{name}: {}", ended.stderr);
        let record = case.record();
        case.check_image(&record);
        assert_eq!(case.caches(), BTreeSet::new(), "{name}");

        let [written] = &record["cache_written"].as_array().unwrap()[..] else {
            panic!("{record:#}")
        };
        let reference = format!("{}:{CACHE}", case.image());
        assert_eq!(written["ref"], reference.as_str());
        assert_eq!((&written["mode"], &written["result"]), (&json!("max"), &json!(self.result)));
        let error = written["error"].as_str().unwrap_or_default();
        assert!(error.contains(self.error), "{name}: {written:#}");
        self.check_reads(&record, &case);
        let warnings = warnings(&ended);
        let named = |tag: &str| {
            let reference = format!("{}:{tag}", case.image());
            let words = |line: &str| line.split([' ', ':', ',']).any(|_| line.contains(&reference));
            warnings.iter().filter(|line| words(line)).count()
        };
        // Of the cache that is to be written, both is said: it could be neither read nor written.
        assert_eq!(named(CACHE), 1 + usize::from(self.reading), "{name}: {}", ended.stderr);
        assert_eq!(named(READ[3]), usize::from(self.reading), "{name}: {}", ended.stderr);
    }

    fn check_reads(&self, record: &Value, case: &Case) {
        let reads = record["cache_read"].as_array().unwrap();
        let refs = READ.map(|tag| json!(format!("{}:{tag}", case.image())));
        assert_eq!(reads.iter().map(|read| read["ref"].clone()).collect::<Vec<_>>(), refs);
        for read in reads {
            match self.answer {
                Answer::Status(status) if self.reading => {
                    let (code, _) = status.split_once(' ').unwrap();
                    let result = if code == "500" { "failed" } else { "refused" };
                    assert_eq!(read["result"], result, "{read:#}");
                    assert_eq!(read["status"], code.parse::<u16>().unwrap(), "{read:#}");
                    assert!(read["error"].as_str().unwrap_or_default().contains(code), "{read:#}");
                }
                _ => assert_eq!((&read["result"], &read["error"]), (&json!("miss"), &Value::Null)),
            }
        }
    }
}

fn faults() -> [Fault; 9] {
    [
        Fault::of_writing("read-only", Answer::Status("405 Method Not Allowed"), "405"),
        Fault::refusal("unauthorized", "401 Unauthorized", "401"),
        Fault::refusal("forbidden", "403 Forbidden", "403"),
        Fault::refusal("busy", "429 Too Many Requests", "429"),
        Fault::refusal("broken", "500 Internal Server Error", "500"),
        Fault::of_writing("full-storage", Answer::Status("507 Insufficient Storage"), "507"),
        // Longer than any manifest, and shorter than the one layer that has to be sent.
        Fault::of_writing("cut", Answer::Cut(100_000), "blob"),
        Fault::of_writing("stopped", Answer::Stop, "refused"),
        Fault { result: "timed out", ..Fault::of_writing("hangs", Answer::Hang, "") },
    ]
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn an_export_that_fails_costs_no_image_and_is_told() {
    let engine = Engine::get();
    let (engine, faults) = (&engine, faults());
    // They wait for retries most of the time.
    thread::scope(|scope| {
        for fault in &faults {
            scope.spawn(move || fault.check(engine, false));
        }
        scope.spawn(|| faults[0].check(engine, true));
    });
}

/// What a registry holds in place of a good cache.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Broken {
    Truncated,
    OtherType,
    Image,
    NoConfig,
    NoLayers,
}

impl Broken {
    const ALL: [Broken; 5] =
        [Broken::Truncated, Broken::OtherType, Broken::Image, Broken::NoConfig, Broken::NoLayers];

    /// Spoils the cache that `case` has written. What a registry would refuse to store, it is made
    /// to give.
    fn spoil(self, case: &Case) {
        let manifest = case.engine.raw_manifest(&case.name, CACHE);
        let parsed = case.engine.manifest(&case.name, CACHE);
        let instead = match self {
            Broken::Truncated => Some((OCI_MANIFEST, &manifest[..manifest.len() / 2])),
            Broken::OtherType => Some(("application/octet-stream", manifest.as_str())),
            _ => None,
        };
        let blobs = match self {
            Broken::Image => {
                let image = format!("{}:{}", case.engine.image(&case.name), TAGS[0]);
                let cache = format!("{}:{CACHE}", case.engine.image(&case.name));
                case.engine.docker(&["buildx", "imagetools", "create", "--tag", &cache, &image]);
                vec![]
            }
            Broken::NoConfig => vec![&parsed["config"]],
            Broken::NoLayers => parsed["layers"].as_array().unwrap().iter().collect(),
            _ => vec![],
        };
        for blob in blobs {
            case.engine.remove_blob(&case.name, blob["digest"].as_str().unwrap());
        }
        if let Some((kind, bytes)) = instead {
            let bytes = bytes.as_bytes().to_vec();
            let digest = sha256(&bytes);
            case.proxy.obey(move |request| {
                let is_meant = |name| name == CACHE || name == digest;
                if !request.writes() && request.manifest().is_some_and(is_meant) {
                    Answer::Content(kind, bytes.clone())
                } else {
                    Answer::Pass
                }
            });
        }
    }

    fn check(self, case: &Case) {
        let ended = case.end(case.call(&["--push", "--strict-cache"]));
        assert_eq!(ended.status, 0, "{self:?}: {}", ended.stderr);
        let record = case.record();
        case.check_image(&record);
        assert_eq!(record["steps"]["cached"], 0, "{self:?}: {record:#}");
        let reads = record["cache_read"].as_array().unwrap();
        // BuildKit may notice by itself that layers are gone; it runs the steps then, and says
        // nothing.
        let is_silent = self == Broken::NoLayers && reads[0]["result"] == "hit";
        if !is_silent {
            assert_eq!(reads[0]["result"], "failed", "{self:?}: {record:#}");
            assert!(
                !reads[0]["error"].as_str().unwrap_or_default().is_empty(),
                "{self:?}: {record:#}"
            );
        }
        assert!(reads[1..].iter().all(|read| read["result"] == "miss"), "{self:?}: {record:#}");
        assert_eq!(record["cache_written"][0]["result"], "done", "{self:?}: {record:#}");
        let warnings = warnings(&ended);
        let reference = format!("{}:{CACHE}", case.image());
        let named = warnings.iter().filter(|line| line.contains(&reference)).count();
        assert_eq!(named, usize::from(!is_silent), "{self:?}: {}", ended.stderr);
        // What the export has written is a good cache again.
        case.engine.check_complete(&case.name, CACHE);
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_broken_cache_costs_no_image_and_is_mended() {
    let engine = Engine::fresh();
    let cases = Broken::ALL.map(|broken| Case::new(&engine, &format!("{broken:?}").to_lowercase()));
    let each = |act: fn(Broken, &Case)| {
        thread::scope(|scope| {
            for (broken, case) in Broken::ALL.into_iter().zip(&cases) {
                scope.spawn(move || act(broken, case));
            }
        });
    };
    each(|broken, case| {
        let ended = case.end(case.call(&["--push"]));
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        assert_eq!(warnings(&ended), [] as [&str; 0]);
        broken.spoil(case);
    });
    engine.empty();
    each(Broken::check);
}

/// A call that goes on, and what it has written to standard error so far.
struct Running {
    child: Child,
    stderr: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Running {
    fn start(mut call: Xtask) -> Self {
        let mut child = call.0.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let stderr = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&stderr);
        let reader = thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *written.lock().unwrap() += &format!("{line}\n");
            }
        });
        Running { child, stderr, reader }
    }

    /// Waits until `is_there` finds the sign in what was written, or elsewhere.
    fn wait_for(&mut self, is_there: impl Fn(&str) -> bool) {
        let started = Instant::now();
        while !is_there(&self.stderr.lock().unwrap()) {
            let said = || self.stderr.lock().unwrap().clone();
            assert!(self.child.try_wait().unwrap().is_none(), "it ended too soon: {}", said());
            assert!(started.elapsed() < LIMIT, "the sign did not come: {}", said());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end, but not for good: what hangs is to fail its test and no other.
    fn end(mut self) -> Ended {
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if started.elapsed() > LIMIT {
                signal("INT", self.child.id());
                panic!("it has not ended: {}", self.stderr.lock().unwrap());
            }
            thread::sleep(Duration::from_millis(10));
        }
        let status = self.child.wait().unwrap();
        self.reader.join().unwrap();
        let stderr = self.stderr.lock().unwrap().clone();
        Ended { status: status.code().unwrap_or(-1), stdout: String::new(), stderr }
    }
}

/// Interrupts `call` when the sign is there, and says what is left then: `pushed` tags of the image
/// and no cache.
fn check_interrupt(case: &Case, call: Xtask, is_there: impl Fn(&str) -> bool, pushed: &[&str]) {
    let mut running = Running::start(call);
    running.wait_for(is_there);
    let begun = Instant::now();
    signal("INT", running.child.id());
    let ended = running.end();
    let name = &case.name;
    assert_eq!(ended.status, 130, "{name}: {}", ended.stderr);
    assert!(begun.elapsed() < Duration::from_secs(60), "{name}: {:?}", begun.elapsed());
    case.check_clean();
    let tags = case.engine.tags(&case.name);
    let wanted = pushed.iter().map(|tag| (*tag).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(tags, wanted, "{name}: {}", ended.stderr);
    let records = records(&case.path("records"));
    let built = records.iter().filter(|record| record["status"] == "built").collect::<Vec<_>>();
    assert_eq!(built.len(), usize::from(!pushed.is_empty()), "{name}: {records:#?}");
    for record in built {
        assert_ne!(record["cache_written"][0]["result"], "done", "{name}: {record:#}");
        case.check_image(record);
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn an_interrupt_leaves_nothing_half_done() {
    let engine = Engine::get();
    let engine = &engine;
    thread::scope(|scope| {
        scope.spawn(|| {
            let case = Case::new(engine, "in-context");
            write_dockerfile(&case.folder, &format!("{DOCKERFILE}COPY large /\n"));
            let large = fs::File::create(case.path("agent-server-image/large")).unwrap();
            large.set_len(1 << 29).unwrap();
            let has_begun = |_: &str| {
                let all = processes(MARK, &case.folder.0);
                all.iter().any(|(_, name)| name.contains("buildx"))
            };
            let is_there = |said: &str| {
                let has_begun = has_begun(said);
                thread::sleep(Duration::from_millis(if has_begun { 300 } else { 0 }));
                has_begun
            };
            check_interrupt(&case, case.call(&["--push"]), is_there, &[]);
        });
        scope.spawn(|| {
            let case = Case::new(engine, "in-step");
            let slow = DOCKERFILE.replace("head", "echo begun; sleep 600; head");
            write_dockerfile(&case.folder, &slow);
            let call = case.call(&["--push"]).env("BUILDKIT_PROGRESS", "plain");
            // BuildKit does not end a step that it is told to give up while it starts it.
            let has_begun = |said: &str| said.lines().any(|line| line.ends_with(" begun"));
            check_interrupt(&case, call, has_begun, &[]);
        });
        scope.spawn(|| {
            let case = Case::new(engine, "in-push");
            let is_push = |request: &Request| request.writes() && request.manifest().is_none();
            let stuck = move |r: &Request| if is_push(r) { Answer::Hang } else { Answer::Pass };
            case.proxy.obey(stuck);
            let call = case.call(&["--push"]);
            check_interrupt(&case, call, |_| case.proxy.requests().iter().any(is_push), &[]);
        });
        scope.spawn(|| {
            let case = Case::new(engine, "in-export");
            let stuck = |r: &Request| if exports(r) { Answer::Hang } else { Answer::Pass };
            case.proxy.obey(stuck);
            let call = case.call(&["--push"]);
            check_interrupt(&case, call, |_| case.proxy.requests().iter().any(exports), &TAGS);
        });
    });
}

/// A registry of a test's own, on a file system of so many bytes that nobody else sees.
struct SmallRegistry {
    process: Child,
    address: String,
}

impl SmallRegistry {
    fn start(folder: &Path, size: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let data = folder.join("registry");
        fs::create_dir_all(&data).unwrap();
        let config = json!({
            "version": 0.1,
            "storage": { "filesystem": { "rootdirectory": data } },
            "http": { "addr": address },
        });
        let file = folder.join("registry.yml");
        fs::write(&file, config.to_string()).unwrap();
        // The engine's own is beside its docker, which is the first of the path.
        let path = std::env::var_os("PATH").unwrap();
        let program =
            std::env::split_paths(&path).map(|bin| bin.join("../usr/bin/docker-registry"));
        let program = program.into_iter().find(|program| program.exists()).unwrap();
        let script = r#"mount -t tmpfs -o "size=$1" none "$2" && exec "$3" serve "$4""#;
        let mut unshare = Command::new("setpriv");
        unshare.args(["--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", script, "sh", size]);
        unshare.args([&data, &program, &file]).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = SmallRegistry { process: unshare.spawn().unwrap(), address };
        let started = Instant::now();
        while http(registry.address.parse().unwrap(), "/v2/", &[]).is_err() {
            assert!(started.elapsed() < Duration::from_secs(60), "no small registry");
            thread::sleep(Duration::from_millis(20));
        }
        registry
    }
}

impl Drop for SmallRegistry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_full_registry_costs_no_image() {
    let all = Engine::get();
    let folder = Folder::new("small-registry");
    // The base image's layer takes 29 MB of it, and the builder's would take 8.
    let registry = SmallRegistry::start(&folder.0, "34m");
    let engine = all.with_registry(registry.address.clone());
    let case = Case::new(&engine, "full");
    for (args, status) in [(&["--push"][..], 0), (&["--push", "--strict-cache"], 1)] {
        let ended = case.end(case.call(args));
        assert_eq!(ended.status, status, "{}", ended.stderr);
        let record = case.record();
        case.check_image(&record);
        assert_eq!(case.caches(), BTreeSet::new());
        let written = &record["cache_written"][0];
        assert_eq!(written["result"], "failed", "{record:#}");
        assert!(written["error"].as_str().unwrap_or_default().contains("500"), "{record:#}");
        let warnings = warnings(&ended);
        assert!(matches!(warnings[..], [said] if said.contains(CACHE)), "{}", ended.stderr);
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_registry_that_is_not_reached_for_reading_costs_nothing() {
    let engine = Engine::get();
    let mut case = Case::new(&engine, "nowhere");
    // Nothing listens there any more.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    case.proxy.address = address;
    let ended = case.end(case.call(&["--load", "--strict-cache"]).env("CI", "true"));
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let record = case.record();
    assert_eq!(record["pushed"], false, "{record:#}");
    assert_eq!(record["cache_written"], json!([]), "{record:#}");
    let warnings = warnings(&ended);
    for (read, tag) in record["cache_read"].as_array().unwrap().iter().zip(READ) {
        assert_eq!(read["result"], "failed", "{record:#}");
        assert!(
            read["error"].as_str().unwrap_or_default().contains("connection refused"),
            "{record:#}"
        );
        let said = warnings.iter().filter(|line| line.contains(&format!(":{tag}")));
        assert_eq!(said.count(), 1, "{tag}: {}", ended.stderr);
    }
    let image = format!("{}:{}", case.image(), TAGS[0]);
    engine.docker(&["run", "--rm", "--pull=never", &image, "test", "-s", "/sum"]);
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_registry_that_hangs_while_reading_costs_only_patience() {
    let engine = Engine::get();
    let case = Case::new(&engine, "hangs-reading");
    case.proxy.obey(|request| {
        let is_read = request.names_cache() && request.pushed == 0;
        if is_read { Answer::Hang } else { Answer::Pass }
    });
    let ended = case.end(case.call(&["--push", "--strict-cache"]).env(CACHE_TIMEOUT, "10"));
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let record = case.record();
    case.check_image(&record);
    let seconds = |key: &str| record[key].as_u64().unwrap();
    assert!(seconds("finished") - seconds("started") < 50, "{record:#}");
    let warnings = warnings(&ended);
    for (read, tag) in record["cache_read"].as_array().unwrap().iter().zip(READ) {
        assert_eq!(read["result"], "failed", "{record:#}");
        assert!(!read["error"].as_str().unwrap_or_default().is_empty(), "{record:#}");
        let said = warnings.iter().filter(|line| line.contains(&format!(":{tag}")));
        assert_eq!(said.count(), 1, "{tag}: {}", ended.stderr);
    }
    let written = &record["cache_written"][0];
    assert_eq!(written["result"], "done", "{record:#}");
    case.engine.check_complete(&case.name, CACHE);
    // Besides the layers, an export sends what describes them.
    let sent = case.proxy.requests().iter().filter(|r| exports(r)).map(|r| r.body).sum::<u64>();
    let told = written["bytes_uploaded"].as_u64().unwrap();
    assert!((told..told + 10_000).contains(&sent), "{sent} sent: {written:#}");
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn an_engine_that_is_killed_during_an_export_costs_no_image() {
    let engine = Engine::fresh();
    let case = Case::new(&engine, "killed");
    case.proxy.obey(|request| if exports(request) { Answer::Hang } else { Answer::Pass });
    let mut running = Running::start(case.call(&["--push"]));
    running.wait_for(|_| case.proxy.requests().iter().any(exports));
    let begun = Instant::now();
    engine.kill();
    let ended = running.end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert!(begun.elapsed() < Duration::from_secs(90), "{}", ended.stderr);
    case.check_clean();
    let warnings = warnings(&ended);
    assert!(matches!(warnings[..], [said] if said.contains(CACHE)), "{}", ended.stderr);
    let record = case.record();
    assert_eq!(record["status"], "built", "{record:#}");
    let written = &record["cache_written"][0];
    assert_eq!(written["result"], "failed", "{record:#}");
    let tags = engine.tags(&case.name);
    assert!(TAGS.iter().all(|tag| tags.contains(*tag)), "{tags:?}");
    assert_eq!(case.caches(), BTreeSet::new());
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn eight_runs_at_once_write_only_whole_caches() {
    let engine = Engine::fresh();
    let case = Case::new(&engine, "eight");
    let bases = bases(&engine, 8);
    let run_all = |mode: &str| -> Vec<Value> {
        let start = |(number, base): (usize, &String)| {
            let file = case.path(&number.to_string());
            let args = ["--push", "--base-image", base, "--records", file.to_str().unwrap()];
            let image = case.image();
            // Without a variant's name, no two of them push the same tag.
            let args = [&["image", "--image", &image][..], &args].concat();
            let call = Xtask::within(&case.folder.0, &args).in_engine(&engine);
            let call = call.on("x").env(CACHE_MODE, mode);
            let call = call.env(SHARED_CACHE, "1").env("TMPDIR", case.path("tmp"));
            (Running::start(call.env(MARK, &case.folder.0)), file)
        };
        let runs = bases.iter().enumerate().map(start).collect::<Vec<_>>();
        let end = |(running, file): (Running, PathBuf)| {
            let ended = running.end();
            assert_eq!(ended.status, 0, "{}", ended.stderr);
            records(&file).pop().unwrap()
        };
        runs.into_iter().map(end).collect()
    };
    let built = run_all("max");
    case.check_clean();
    let caches = case.caches();
    for (record, base) in built.iter().zip(&bases) {
        let tags = record["tags"].as_array().unwrap();
        let tag = |tag: &Value| tag.as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
        for tag in tags.iter().map(tag) {
            assert_eq!(record["digest"], engine.digest(&case.name, &tag));
        }
        let tag = tag(&tags[0]);
        case.engine.check_complete(&case.name, &tag);
        let image = format!("{}:{tag}", engine.image(&case.name));
        // Its status tells, whatever becomes of its output.
        engine.docker(&["run", "--rm", "--pull=always", &image, "grep", "-Fqx", base, "/base"]);
        let written = record["cache_written"].as_array().unwrap();
        assert_eq!(written.len(), 2, "{record:#}");
        for cache in written.iter().filter(|cache| cache["result"] == "done") {
            let (_, tag) = cache["ref"].as_str().unwrap().rsplit_once(':').unwrap();
            assert!(caches.contains(tag), "{caches:?} lack {tag}");
        }
    }
    for cache in &caches {
        engine.check_complete(&case.name, cache);
    }
    assert_eq!(caches.len(), bases.len() + 1, "{caches:?}");

    engine.empty();
    for record in run_all("off") {
        assert_eq!(record["steps"]["cached"], record["steps"]["total"], "{record:#}");
        assert_eq!(record["cache_read"][0]["result"], "hit", "{record:#}");
    }
}
