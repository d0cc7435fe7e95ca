//! Requests and documents made at random: whatever they hold, a call ends with one of its statuses,
//! and standard output has nothing but results. `FUZZ=100` tries a hundred times as many.

use std::fs;
use std::process::Stdio;

use crate::support::record::record;
use crate::support::{CACHE_MODE, CACHE_TIMEOUT, Ended, Folder, Xtask, is_valid_tag, strings};
use serde_json::{Value, json};

const REQUESTS: u64 = 200;
const DOCUMENTS: u64 = 120;

/// Flags and variables of a build.
const FLAGS: [&str; 24] = [
    "--variant",
    "--base-image",
    "--shard",
    "--custom-tags",
    "--tag-by",
    "--image",
    "--cache-image",
    "--image-flavor",
    "--target",
    "--install-capabilities",
    "--install-acp-providers",
    "--platforms",
    "--arch",
    "--push",
    "--load",
    "--versioned-tag",
    "--check",
    "--jobs",
    "--timeout",
    "--records",
    "--timings",
    "--strict-cache",
    "--layer",
    "--unknown",
];
const VARIABLES: [&str; 16] = [
    "VARIANT",
    "BASE_IMAGE",
    "CUSTOM_TAGS",
    "IMAGE",
    "IMAGE_FLAVOR",
    "TARGET",
    "PLATFORMS",
    "ARCH",
    "PUSH",
    "VERSIONED_TAG",
    "SDK_SHA",
    "SDK_REF",
    "SDK_VERSION",
    "CI",
    CACHE_MODE,
    CACHE_TIMEOUT,
];
const VALUES: [&str; 32] = [
    "",
    " ",
    "-",
    "--",
    "a",
    "A",
    "a,b",
    "debian",
    "python",
    "all",
    "binary",
    "r.io/x/y",
    "debian:trixie-slim",
    "x@sha256:0123",
    "linux/amd64",
    "amd64",
    "1",
    "0",
    "1/2",
    "2/1",
    "-1",
    "18446744073709551616",
    "1h",
    "max",
    "main",
    "refs/heads/main",
    "refs/tags/v1.2.3",
    "latest",
    "\u{1b}]0;x\u{7}\n::error::x",
    "${HOME}%{x}",
    "é_ß/ü:ñ",
    "../../../etc/passwd",
];

/// Numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// One of the values, or two joined, or a long one.
    fn value(&mut self) -> String {
        let value = self.of(&VALUES);
        match self.below(8) {
            0 => format!("{value}{}", self.of(&VALUES)),
            1 => value.repeat(150),
            _ => value.to_owned(),
        }
    }
}

fn times(count: u64) -> u64 {
    count * std::env::var("FUZZ").map_or(1, |times| times.parse::<u64>().unwrap())
}

/// Calls `try_one` with a seed and with what it made, on two threads.
fn each(count: u64, try_one: impl Fn(&mut Random) + Sync) {
    let (count, try_one) = (times(count), &try_one);
    std::thread::scope(|scope| {
        for part in 0..2 {
            scope.spawn(move || {
                for seed in (1..=count).filter(|seed| seed % 2 == part) {
                    try_one(&mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
                }
            });
        }
    });
}

/// Checks how a call ended, which stops no terminal and no runner.
fn check(ended: &Ended, what: &str) {
    assert!([0, 1, 2].contains(&ended.status), "{what}: {ended:?}");
    assert!(!ended.stderr.contains("panicked"), "{what}: {ended:?}");
    assert!(!ended.stderr.contains('\u{1b}'), "{what}: {ended:?}");
    assert!(!ended.stderr.lines().any(|line| line.starts_with("::error")), "{what}: {ended:?}");
}

#[test]
fn requests_of_any_kind_end_with_a_plan_or_an_error() {
    each(REQUESTS, |random| {
        let mut call = Xtask::new(&["image", "--print"]);
        let mut what = String::new();
        for _ in 0..random.below(4) {
            let (flag, value) = (random.of(&FLAGS), random.value());
            what += &format!("{flag} {value:?} ");
            call.0.args([flag, &value]);
        }
        for _ in 0..random.below(4) {
            let (name, value) = (random.of(&VARIABLES), random.value());
            what += &format!("{name}={value:?} ");
            call.0.env(name, value);
        }
        let is_closed = random.below(2) == 0;
        if is_closed {
            // Nothing can be written there.
            call.0.stderr(fs::File::open("/dev/null").unwrap());
        }
        let output = call.0.stdout(Stdio::piped()).output().unwrap();
        let ended = Ended::from(output);
        check(&ended, &what);
        if ended.status != 0 {
            assert!(ended.stdout.is_empty(), "{what}: {ended:?}");
            assert!(is_closed || ended.stderr.lines().count() > 0, "{what}: {ended:?}");
            return;
        }
        let plan: Value = serde_json::from_str(&ended.stdout).expect(&what);
        for target in plan["target"].as_object().expect(&what).values() {
            for reference in strings(&target["tags"]) {
                let tag = reference.rsplit(':').next().unwrap();
                assert!(is_valid_tag(tag), "{what}: {reference}");
            }
        }
    });
}

/// A document with a part of it cut, doubled or replaced.
fn mutated(random: &mut Random, document: &str) -> Vec<u8> {
    let mut bytes = document.as_bytes().to_vec();
    for _ in 0..=random.below(3) {
        let (from, length) = (random.below(bytes.len()), random.below(12));
        let to = (from + length).min(bytes.len());
        let part = match random.below(5) {
            0 => Vec::new(),
            1 => bytes[from..to].repeat(2),
            2 => random.value().into_bytes(),
            3 => {
                random.of(&["null", "[]", "{}", "-1e999", "\"\\ud800\"", "\0", "\u{1b}[2J"]).into()
            }
            _ => vec![u8::try_from(random.below(256)).unwrap()],
        };
        bytes.splice(from..to, part);
        if bytes.is_empty() {
            return bytes;
        }
    }
    bytes
}

#[test]
fn documents_of_any_kind_are_read_or_refused() {
    let checkout = Folder::checkout("fuzz");
    let bake_path = checkout.0.join("agent-server-image/docker-bake.json");
    let bake = fs::read_to_string(&bake_path).unwrap();
    let info = record("debian", "amd64", "debian:trixie-slim");
    let list = "debian:trixie-slim a,b\n{\"base_image\": \"x\", \"custom_tags\": [\"c\"]}\n# no\n";
    let api = json!({ "info": { "version": "1.2.3" }, "paths": { "/x": { "get": {
        "parameters": [{ "in": "query", "name": "a", "schema": { "$ref": "#/s" } }],
        "responses": { "200": { "content": { "x": { "schema": { "$ref": "#/s" } } } } },
    } } }, "s": { "type": "object", "properties": { "a": { "anyOf": [{ "$ref": "#/s" }] } } } });
    let documents = [
        (bake.as_str(), &["--print"][..]),
        (list, &["--print", "--base-images"]),
        (&info.to_string(), &["summary"]),
        (&info.to_string(), &["merge"]),
        (&api.to_string(), &["api", "--baseline=old.json", "--openapi"]),
    ];
    fs::write(checkout.0.join("old.json"), api.to_string()).unwrap();
    each(DOCUMENTS, |random| {
        let folder = Folder::new("fuzz-document");
        for (number, (document, args)) in documents.iter().enumerate() {
            let bytes = mutated(random, document);
            let file = folder.0.join(format!("{number}.json"));
            fs::write(&file, &bytes).unwrap();
            let (root, file) = if number == 0 {
                fs::create_dir_all(folder.0.join("agent-server-image")).unwrap();
                fs::create_dir_all(folder.0.join("agent-server-image/lock")).unwrap();
                for name in ["Dockerfile", "lock/requirements.txt"] {
                    let name = format!("agent-server-image/{name}");
                    fs::copy(checkout.0.join(&name), folder.0.join(&name)).unwrap();
                }
                fs::write(folder.0.join("agent-server-image/docker-bake.json"), &bytes).unwrap();
                (&folder.0, None)
            } else {
                (&checkout.0, file.to_str())
            };
            let args = ["image"].iter().chain(*args).copied().chain(file).collect::<Vec<_>>();
            let mut call = Xtask::within(root, &args).on("x").env("PATH", "/nowhere");
            call.0.current_dir(&checkout.0);
            let what = String::from_utf8_lossy(&bytes).into_owned();
            let ended = call.end();
            check(&ended, &what);
            if args[1] == "--print" && ended.status == 0 {
                serde_json::from_str::<Value>(&ended.stdout).expect(&what);
            }
        }
    });
}
