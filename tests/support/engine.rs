//! The engine and the registry that `cargo xtask engine -- cargo test` gives, and what they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::panic::Location;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

/// Tests that build take turns: they empty the engine's cache, and two cores are soon busy.
static TURN: Mutex<()> = Mutex::new(());

/// A registry on a loopback port, and the turn to use the engine with it.
pub struct Engine {
    pub registry: String,
    /// The test's file, whose repositories are its own.
    subject: String,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Engine {
    /// The engine, if these tests run in one. Outside CI a test may do without and says so.
    #[track_caller]
    pub fn get(test: &str) -> Option<Self> {
        let subject = subject(Location::caller());
        let Ok(registry) = std::env::var("XTASK_REGISTRY") else {
            assert!(std::env::var_os("CI").is_none(), "CI must not skip {test}");
            // Past the test harness, which shows nothing of a test that passes.
            let line = format!("skipped {test}: run `cargo xtask engine -- cargo test`\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return None;
        };
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Engine { registry, subject, _turn: Some(turn) })
    }

    /// The engine, which a test has already, with another registry.
    #[track_caller]
    pub fn with_registry(registry: String) -> Self {
        Engine { registry, subject: subject(Location::caller()), _turn: None }
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

    /// The tags of a repository, each with the digest of what it names.
    pub fn pushed(&self, name: &str) -> BTreeMap<String, String> {
        self.tags(name).into_iter().map(|tag| (tag.clone(), self.digest(name, &tag))).collect()
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

    /// Empties the build cache. Returns whether it is empty: a step that was canceled in the moment
    /// that it ended stays in the engine of Docker 26 until that is restarted.
    pub fn prune() -> bool {
        // What a build that has just ended still holds is left out.
        for _ in 0..20 {
            docker(&["buildx", "prune", "--all", "--force"]);
            let usage = docker(&["buildx", "du"]);
            if usage.lines().any(|line| line.split_whitespace().eq(["Total:", "0B"])) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        false
    }

    /// Forgets everything that was built and pulled, but for `debian:trixie-slim`. Returns what
    /// [`Engine::prune`] does.
    pub fn empty() -> bool {
        let is_empty = Self::prune();
        let images = docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
        let is_named = |image: &&str| *image != "debian:trixie-slim" && !image.contains("<none>");
        for image in images.lines().filter(is_named) {
            docker(&["rmi", "--force", image]);
        }
        docker(&["image", "prune", "--force"]);
        is_empty
    }
}

/// The name of a test's file, in which no name of a repository is used twice.
fn subject(caller: &Location) -> String {
    let name = Path::new(caller.file()).file_stem().unwrap();
    name.to_string_lossy().into_owned()
}

/// What `docker` writes to standard output.
pub fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().unwrap();
    assert!(output.status.success(), "docker {args:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
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
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
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

/// A RUN step of a build, by what buildx's plain progress says of it.
#[derive(Debug, PartialEq)]
pub struct Step {
    pub name: String,
    pub cached: bool,
}

/// The RUN steps in buildx's plain progress.
pub fn run_steps(progress: &str) -> Vec<Step> {
    let mut steps = Vec::<Step>::new();
    // Each bake of a run numbers its vertices anew, so a number is of the vertex that it named last.
    let mut places = BTreeMap::<&str, usize>::new();
    let lines = progress.lines().filter_map(|line| line.strip_prefix('#')?.split_once(' '));
    for (number, text) in lines {
        let place = places.get(number).copied();
        if let ("CACHED", Some(place)) = (text, place) {
            steps[place].cached = true;
        } else if text.starts_with('[') && place.is_none_or(|place| steps[place].name != text) {
            places.remove(number);
            if is_run(text) {
                places.insert(number, steps.len());
                steps.push(Step { name: text.to_owned(), cached: false });
            }
        }
    }
    steps
}

/// Is `[stage 1/2] RUN …` in a line of progress, or a step with a name: `[3/9] stage: title`?
fn is_run(text: &str) -> bool {
    const OTHERS: [&str; 5] = ["FROM ", "COPY ", "ADD ", "WORKDIR ", "ONBUILD "];
    let step = text.strip_prefix('[').and_then(|text| text.split_once("] "));
    step.is_some_and(|(place, step)| {
        let step = step.split_once(": ").map_or(step, |(_, step)| step);
        place.contains('/') && !OTHERS.iter().any(|other| step.starts_with(other))
    })
}
