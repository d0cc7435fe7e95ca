//! A registry that answers with an error: which are tried again, and what is said of the others.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::engine::{bases, checkout};
use crate::support::engine::{Engine, send};
use crate::support::proxy::{Answer, Proxy, Request};
use crate::support::{CACHE_MODE, Folder, Xtask, expected, records};
use serde_json::{Value, json};

/// A request of a push, or of reading a base image.
#[derive(Clone, Copy, Debug)]
enum Place {
    AskForBlob,
    StartUpload,
    Upload,
    PutManifest,
    ReadBase,
}

use Place::{AskForBlob, PutManifest, ReadBase, StartUpload, Upload};

const PLACES: [Place; 5] = [AskForBlob, StartUpload, Upload, PutManifest, ReadBase];

impl Place {
    fn is(self, request: &Request) -> bool {
        let (method, part) = match self {
            AskForBlob => ("HEAD", "/blobs/"),
            StartUpload => ("POST", "/blobs/uploads/"),
            Upload => ("PUT", "/blobs/uploads/"),
            PutManifest => ("PUT", "/manifests/"),
            ReadBase => ("GET", "/manifests/"),
        };
        request.method == method && request.path.contains(part)
    }
}

/// How long the registry answers so.
#[derive(Clone, Copy, Debug)]
enum Long {
    Times(usize),
    Seconds(u64),
    Forever,
}

use Long::{Forever, Seconds, Times};

type Case = (Place, &'static str, Long);

const PASSING: [&str; 11] = [
    "408 Request Timeout",
    "425 Too Early",
    "429 Too Many Requests",
    "499 Client Closed Request",
    "500 Internal Server Error",
    "502 Bad Gateway",
    "503 Service Unavailable",
    "504 Gateway Timeout",
    "520 Unknown Error",
    "522 Connection Timed Out",
    "524 A Timeout Occurred",
];

fn all(statuses: &[&'static str], places: &[Place], long: Long) -> Vec<Case> {
    let of = |place: &Place| statuses.iter().map(|status| (*place, *status, long)).collect();
    places.iter().flat_map(|place| -> Vec<Case> { of(place) }).collect()
}

/// The engine, a checkout whose image is one small file, and a manifest of a base image.
struct Given {
    engine: Engine,
    checkout: Folder,
    base: Value,
}

impl Given {
    fn get(engine: Engine, name: &str) -> Self {
        let dockerfile = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE} AS binary\nCOPY docker-bake.json /\n";
        bases(&engine, 1);
        let base = engine.manifest("base/b0", "latest");
        Given { engine, checkout: checkout(name, dockerfile), base }
    }

    /// A base image that no engine has.
    fn base(&self, tag: &str) -> String {
        let mut manifest = self.base.clone();
        manifest["annotations"] = json!({ "case": tag });
        let image = self.engine.image("base/b0");
        let (registry, path) = image.split_once('/').unwrap();
        let path = format!("/v2/{path}/manifests/{tag}");
        let kind = manifest["mediaType"].as_str().unwrap();
        let headers = [("Content-Type", kind)];
        let text = manifest.to_string();
        let (status, answer) =
            send(registry.parse().unwrap(), "PUT", &path, &headers, &text).unwrap();
        assert_eq!(status, 201, "{answer}");
        format!("{image}:{tag}")
    }

    /// Pushes to a registry that answers so; gives how often it was tried, and the error.
    fn push(&self, (place, status, long): Case) -> (u64, String) {
        let name = format!("{place:?}-{}-{long:?}", &status[..3]).to_lowercase();
        let name = name.replace(['(', ')'], "");
        let proxy = Proxy::start(&self.engine.registry);
        let behind = |name: &str| name.replace(&self.engine.registry, &proxy.address);
        let (image, base) = (behind(&self.engine.image(&name)), behind(&self.base(&name)));
        let (mut refused, mut since) = (0, None);
        proxy.obey(move |request| {
            if !place.is(request) {
                return Answer::Pass;
            }
            refused += 1;
            let since = *since.get_or_insert_with(Instant::now);
            let is_refused = match long {
                Times(times) => refused <= times,
                Seconds(seconds) => since.elapsed() < Duration::from_secs(seconds),
                Forever => true,
            };
            if is_refused { Answer::Status(status) } else { Answer::Pass }
        });
        let args = ["image", "--push", "--check=off", "--target=binary", "--image", &image];
        let args = [&args[..], &["--variant=debian", "--base-image", &base]].concat();
        let file = self.checkout.0.join(&name);
        let args = [&args[..], &["--records", file.to_str().unwrap()]].concat();
        let call = Xtask::within(&self.checkout.0, &args).in_engine(&self.engine).on("x");
        let ended = call.env(CACHE_MODE, "off").end();
        let refused = proxy.requests().iter().filter(|request| place.is(request)).count();
        assert!(refused > 0, "{name}: {}", ended.stderr);
        let last = ended.stderr.lines().skip_while(|line| !line.starts_with("error: "));
        let mut last = last.map(|line| format!("{line}\n")).collect::<String>();
        last = last.replace(&proxy.address, "REGISTRY").replace(&name, "IMAGE");
        let tries = records(&file)[0]["attempts"].as_u64().unwrap();
        assert_eq!(ended.status == 0, last.is_empty(), "{}", ended.stderr);
        (tries, last.replace(&self.engine.registry, "REGISTRY"))
    }

    /// Pushes to all these registries, some at once: most of the time is pauses.
    fn push_all(&self, cases: &[Case]) -> Vec<(Case, u64, String)> {
        let (next, ended) = (Mutex::new(cases.iter().enumerate()), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    loop {
                        let Some((number, case)) = next.lock().unwrap().next() else { break };
                        let (tries, error) = self.push(*case);
                        ended.lock().unwrap().push((number, (*case, tries, error)));
                    }
                });
            }
        });
        let mut ended = ended.into_inner().unwrap();
        ended.sort_by_key(|(number, _)| *number);
        ended.into_iter().map(|(_, ended)| ended).collect()
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_registry_that_is_busy_for_a_while_is_asked_again() {
    let given = Given::get(Engine::get(), "registry-busy");
    // Each in two places, and in each place some.
    let twice = PASSING.iter().zip(0..).flat_map(|(status, n)| [(status, n), (status, n + 2)]);
    let once = twice.map(|(status, n)| (PLACES[n % PLACES.len()], *status, Times(1)));
    let mut cases = once.collect::<Vec<_>>();
    let lost_uploads = ["400 Bad Request", "404 Not Found"];
    cases.extend(all(&lost_uploads, &[StartUpload, Upload], Times(1)));
    cases.extend(all(&["404 Not Found"], &[StartUpload, Upload, PutManifest], Times(3)));
    cases.extend(all(&["503 Service Unavailable"], &PLACES, Times(3)));
    cases.extend(all(&["502 Bad Gateway"], &PLACES, Seconds(10)));
    let failed = given.push_all(&cases).into_iter().filter(|(_, _, error)| !error.is_empty());
    let failed = failed.map(|(case, _, error)| format!("{case:?}: {error}")).collect::<String>();
    assert_eq!(failed, "");
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_registry_that_refuses_is_asked_once_and_what_helps_is_said() {
    let given = Given::get(Engine::get(), "registry-refuses");
    let refusals = ["401 Unauthorized", "403 Forbidden", "413 Content Too Large"];
    let mut cases = all(&refusals, &PLACES, Forever);
    cases.extend(all(&["503 Service Unavailable"], &[Upload], Forever));
    cases.extend(all(&["404 Not Found"], &[Upload], Forever));
    let mut text = String::new();
    for ((place, answer, _), tries, error) in given.push_all(&cases) {
        // Between these, and behind `for`, are names of this run.
        let (what, rest) = error.split_once(": failed to ").unwrap();
        let (_, rest) = rest.split_once(answer).unwrap();
        // Newer engines add the text of the answer.
        let rest = rest.replace(": refused by the test", "");
        let what = what.split(" for ").next().unwrap();
        writeln!(text, "{place:?}, tried {tries} times:\n{what}: … {answer}{rest}").unwrap();
    }
    expected::check("engine/expected/registry_failures.txt", &text);
}
