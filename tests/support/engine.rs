//! The engine and the registry that `cargo xtask engine -- cargo test` gives, and what they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::panic::Location;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Folder, Xtask, processes, root};

/// How many tests use engines at once: two cores are soon busy, and many tests only wait.
const AT_ONCE: usize = 4;
static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// One of the tests that use engines at once.
struct Turn(Instant);

impl Turn {
    fn take() -> Self {
        begin();
        Turn(Instant::now())
    }
}

/// Waits until a test may use engines.
fn begin() {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut running = ENDED.wait_while(running, |running| *running == AT_ONCE).unwrap();
    *running += 1;
}

/// Lets another test use engines.
fn end() {
    *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
    ENDED.notify_one();
}

/// Gets what `make` makes once for all tests. Those that wait for it let others run, and so does the one that
/// makes it.
pub fn once<T>(cell: &'static OnceLock<T>, make: impl FnOnce() -> T) -> &'static T {
    /// Takes the turn back, also after a panic.
    struct Aside;
    impl Drop for Aside {
        fn drop(&mut self) {
            begin();
        }
    }
    let _aside = cell.get().is_none().then(|| {
        end();
        Aside
    });
    cell.get_or_init(make)
}

impl Drop for Turn {
    fn drop(&mut self) {
        end();
        // A line with the seconds that a test took, in the file that this names.
        let Some(path) = std::env::var_os("TEST_TIMES") else { return };
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(file, "{:8.1} {test}", self.0.elapsed().as_secs_f64()).unwrap();
    }
}

/// An engine, and a registry on a loopback port.
pub struct Engine {
    pub registry: String,
    /// The test's file, whose repositories are its own.
    subject: String,
    /// What leads to the engine.
    variables: Vec<(String, String)>,
    /// The engine's process, where it is a test's own.
    own: Option<Own>,
    _turn: Option<Turn>,
}

impl Engine {
    /// The engine that these tests run in. All tests share it, and what one has built is there for
    /// others.
    #[track_caller]
    pub fn get() -> Self {
        let subject = subject(Location::caller());
        let Ok(registry) = std::env::var("XTASK_REGISTRY") else {
            panic!(
                "this test needs an engine: cargo xtask engine -- cargo test -- --include-ignored"
            );
        };
        let names = ["DOCKER_HOST", "DOCKER_CONFIG"];
        let variables = names.map(|name| (name.to_owned(), std::env::var(name).unwrap()));
        Engine {
            registry,
            subject,
            variables: variables.to_vec(),
            own: None,
            _turn: Some(Turn::take()),
        }
    }

    /// An engine of the test's own, which has nothing; the registry is that of all tests.
    #[track_caller]
    pub fn fresh() -> Self {
        Self::own(&[])
    }

    /// The same with the other architecture, whose base image takes minutes of one core to be made.
    #[track_caller]
    pub fn emulating() -> Self {
        Self::own(&["--emulate"])
    }

    #[track_caller]
    fn own(flags: &[&str]) -> Self {
        let alone = flags.contains(&"--emulate").then(alone);
        let engine = Self::get();
        let mut own = Own::start(flags);
        own.alone = alone;
        Engine { variables: own.variables.clone(), own: Some(own), ..engine }
    }

    /// The same engine with another registry.
    #[track_caller]
    pub fn with_registry(&self, registry: String) -> Self {
        let subject = subject(Location::caller());
        Engine { registry, subject, variables: self.variables.clone(), own: None, _turn: None }
    }

    /// Another fresh engine for the same test.
    pub fn another(&self) -> Self {
        let (registry, subject, own) =
            (self.registry.clone(), self.subject.clone(), Own::start(&[]));
        Engine { registry, subject, variables: own.variables.clone(), own: Some(own), _turn: None }
    }

    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A call of docker for this engine.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut docker = Command::new("docker");
        docker.args(args).envs(self.variables());
        docker
    }

    /// What docker writes to standard output for this engine.
    pub fn docker(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "docker {args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Kills the daemon of the test's own engine.
    pub fn kill(&self) {
        let own = self.own.as_ref().unwrap();
        let processes = processes(OWN_MARK, &own.folder.0);
        for (process, _) in processes.iter().filter(|(_, name)| name == "dockerd") {
            signal("KILL", *process);
        }
    }

    /// A repository of the calling file in this run: a registry may hold what earlier runs left.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{}", self.registry, self.repository(name))
    }

    fn repository(&self, name: &str) -> String {
        format!("test-{}/{}/{name}", std::process::id(), self.subject)
    }

    /// The tags of a repository, none if there is no such repository.
    pub fn tags(&self, name: &str) -> BTreeSet<String> {
        let name = self.repository(name);
        let (status, body) = self.ask(&format!("/v2/{name}/tags/list"), "*/*");
        if status == 404 {
            return BTreeSet::new();
        }
        let list: Value = serde_json::from_str(&body).unwrap();
        list["tags"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|tag| tag.as_str().unwrap().into())
            .collect()
    }

    /// The manifest of a tag.
    pub fn manifest(&self, name: &str, tag: &str) -> Value {
        serde_json::from_str(&self.raw_manifest(name, tag)).unwrap()
    }

    /// The digest of what a tag names.
    pub fn digest(&self, name: &str, tag: &str) -> String {
        super::sha256(self.raw_manifest(name, tag).as_bytes())
    }

    /// The tags of a repository, each with the digest of its image; some versions of buildx add a
    /// tag to an image by an index of that one.
    pub fn pushed(&self, name: &str) -> BTreeMap<String, String> {
        let image = |tag: &String| {
            let manifest = self.manifest(name, tag);
            let in_index = manifest["manifests"][0]["digest"].as_str().map(str::to_owned);
            in_index.unwrap_or_else(|| self.digest(name, tag))
        };
        self.tags(name).into_iter().map(|tag| (tag.clone(), image(&tag))).collect()
    }

    /// Fails unless the registry has everything that the manifest of a tag names.
    pub fn check_complete(&self, name: &str, tag: &str) {
        let manifest = self.manifest(name, tag);
        let layers = manifest["layers"].as_array().unwrap();
        for blob in layers.iter().chain([&manifest["config"]]) {
            let digest = blob["digest"].as_str().unwrap();
            let path = format!("/v2/{}/blobs/{digest}", self.repository(name));
            let registry = self.registry.parse().unwrap();
            let (status, _) = send(registry, "HEAD", &path, &[], "").unwrap();
            assert_eq!(status, 200, "{name}:{tag} lacks {digest}");
        }
    }

    /// Removes a blob from a repository, and leaves the manifests that name it.
    pub fn remove_blob(&self, name: &str, digest: &str) {
        let path = format!("/v2/{}/blobs/{digest}", self.repository(name));
        let registry = self.registry.parse().unwrap();
        let (status, body) = send(registry, "DELETE", &path, &[], "").unwrap();
        assert_eq!(status, 202, "{body}");
    }

    pub fn raw_manifest(&self, name: &str, tag: &str) -> String {
        let name = self.repository(name);
        let accept = "application/vnd.oci.image.index.v1+json, \
                      application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json, \
                      application/vnd.docker.distribution.manifest.v2+json";
        let (status, body) = self.ask(&format!("/v2/{name}/manifests/{tag}"), accept);
        assert_eq!(status, 200, "{name}:{tag}: {body}");
        body
    }

    fn ask(&self, path: &str, accept: &str) -> (u16, String) {
        http(self.registry.parse().unwrap(), path, &[("Accept", accept)]).unwrap()
    }

    /// Forgets everything that this engine, a test's own or a benchmark's, has built and pulled, but for
    /// `debian:trixie-slim`. Returns whether its build cache is empty: a step that was canceled in
    /// the moment that it ended stays in the engine of Docker 26 until that is restarted.
    pub fn empty(&self) -> bool {
        let mut is_empty = false;
        // What a build that has just ended still holds is left out.
        for _ in 0..20 {
            self.docker(&["buildx", "prune", "--all", "--force"]);
            let usage = self.docker(&["buildx", "du"]);
            is_empty = usage.lines().any(|line| line.split_whitespace().eq(["Total:", "0B"]));
            if is_empty {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let images = self.docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
        let is_named = |image: &&str| *image != "debian:trixie-slim" && !image.contains("<none>");
        for image in images.lines().filter(is_named) {
            self.docker(&["rmi", "--force", image]);
        }
        self.docker(&["image", "prune", "--force"]);
        is_empty
    }
}

/// The processes of an engine of a test's own are known by this variable.
const OWN_MARK: &str = "XTASK_TEST_ENGINE";

/// Held by tests that change what all engines of the host share, or compare it before and after them.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An engine of a test's own.
struct Own {
    process: Child,
    folder: Folder,
    variables: Vec<(String, String)>,
    /// Kept for one that emulates.
    alone: Option<MutexGuard<'static, ()>>,
}

impl Own {
    fn start(flags: &[&str]) -> Self {
        let folder = Folder::new("own-engine");
        fs::create_dir_all(folder.0.join("target/engine")).unwrap();
        let downloads = root().join("target/engine/downloads");
        symlink(downloads, folder.0.join("target/engine/downloads")).unwrap();
        let file = folder.0.join("variables");
        let script = "env >$0.partial && mv $0.partial $0 && exec sleep 3600";
        let command = ["--", "sh", "-ec", script, file.to_str().unwrap()];
        let args = [&["engine", "--fresh"], flags, &command].concat();
        let call = Xtask::within(&folder.0, &args).env(OWN_MARK, &folder.0);
        let mut call = call.env("TMPDIR", &folder.0);
        call.0.stdout(Stdio::null()).stderr(Stdio::null());
        let process = call.0.spawn().unwrap();
        let started = Instant::now();
        while !file.exists() {
            assert!(started.elapsed() < Duration::from_secs(900), "no engine came");
            std::thread::sleep(Duration::from_millis(20));
        }
        let text = fs::read_to_string(file).unwrap();
        let variables = text.lines().filter(|line| line.starts_with("DOCKER_"));
        let variables = variables.filter_map(|line| line.split_once('='));
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Own { process, variables: variables.collect(), folder, alone: None }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        signal("TERM", self.process.id());
        self.process.wait().unwrap();
    }
}

pub fn signal(signal: &str, process: u32) {
    let status = Command::new("kill").args(["-s", signal, &process.to_string()]).status();
    assert!(status.unwrap().success());
}

/// The name of a test's file, in which no name of a repository is used twice.
fn subject(caller: &Location) -> String {
    let name = Path::new(caller.file()).file_stem().unwrap();
    name.to_string_lossy().into_owned()
}

/// What `docker` writes to standard output for the engine of all tests.
pub fn docker(args: &[&str]) -> String {
    let written = || {
        let output = Command::new("docker").args(args).output().unwrap();
        assert!(output.status.success(), "docker {args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let text = written();
    // Docker drops what nobody has read two seconds after a container ended: on a busy machine all.
    if text.is_empty() && args.starts_with(&["run", "--rm"]) { written() } else { text }
}

/// The status and the body that a server gives for `path`.
pub fn http(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
) -> std::io::Result<(u16, String)> {
    send(address, "GET", path, headers, "")
}

/// The same for a request of another method, with a body.
pub fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let headers = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    let headers = headers.collect::<String>();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {length}\r\n\
         {headers}\r\n{body}"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    Ok((status.unwrap_or(0), body.to_owned()))
}
