//! The workflow file, played on a real engine and registry: matrix, a build for each job, merge,
//! summary. The other architecture is emulated.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::engine::{checkout, own_base};
use crate::support::engine::Engine;
use crate::support::proxy::{Answer, Proxy};
use crate::support::{CACHE_MODE, Ended, Folder, SHA, Xtask, workflow_steps};
use serde_json::{Value, json};

/// Without a server, so that nothing has to start on the other architecture.
const TARGET: &str = "base-image-minimal";

/// A checkout of a small image with two variants: debian, and one on a base of this test.
fn two_variants(engine: &Engine) -> Folder {
    let folder = checkout(
        "workflow",
        "ARG BASE_IMAGE\nFROM ${BASE_IMAGE} AS base-image-minimal\nRUN : SALT; uname -m >/machine\n",
    );
    let file = folder.0.join("agent-server-image/docker-bake.json");
    let mut definition: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let targets = definition["target"].as_object_mut().unwrap();
    targets.retain(|name, _| ["_common", "debian"].contains(&name.as_str()));
    let mut second = targets["debian"].clone();
    second["args"]["BASE_IMAGE"] = json!(own_base(engine, "base"));
    targets.insert("second".to_owned(), second);
    definition["group"]["default"]["targets"] = json!(["debian"]);
    fs::write(file, definition.to_string()).unwrap();
    fs::create_dir(folder.0.join("records")).unwrap();
    folder
}

/// A pipeline's run in a checkout, below which the jobs pass on their records.
struct Pipeline<'a> {
    engine: &'a Engine,
    checkout: &'a Folder,
    steps: Vec<Vec<String>>,
}

impl Pipeline<'_> {
    /// The files of records, as a shell's `records/*.jsonl` gives them.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.checkout.0.join("records")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut files = names.map(|name| format!("records/{name}")).collect::<Vec<_>>();
        files.sort();
        files
    }

    /// The step that starts with `words`, as the workflow calls it in the job `name`.
    fn step(&self, words: &str, name: &str) -> Xtask {
        let step = self.steps.iter().find(|step| step.join(" ").starts_with(words)).unwrap();
        let mut args = Vec::new();
        for word in step {
            if word.contains("records/*") {
                args.extend(self.files());
            } else if let Some((flag, _)) = word.split_once("records/") {
                args.push(format!("{flag}records/{name}.jsonl"));
            } else if !word.starts_with('$') {
                // A word that begins so is the shell's: empty, where nothing is asked for.
                args.push(word.clone());
            }
        }
        let args = args.iter().map(String::as_str).collect::<Vec<_>>();
        let mut call = Xtask::within(&self.checkout.0, &args).in_engine(self.engine);
        call.0.current_dir(&self.checkout.0);
        call.env("CI", "true")
            .env("PUSH", "true")
            .env("IMAGE", self.engine.image("pipeline"))
            .env("TARGET", TARGET)
            .env("SDK_SHA", SHA)
            .env("GITHUB_REF", "refs/heads/main")
            .env("VERSIONED_TAG", "true")
            .env("SDK_VERSION", "1.2.3")
            .env(CACHE_MODE, "off")
    }

    fn run(&self) -> Ended {
        let matrix = self.step("image matrix", "").succeed();
        let matrix: Value = serde_json::from_str(&matrix.stdout).unwrap();
        let jobs = matrix["include"].as_array().unwrap();
        assert_eq!(jobs.len(), 4);
        for job in jobs {
            let text = |key: &str| job[key].as_str().unwrap();
            let outputs = self.checkout.0.join("outputs");
            let _ = fs::remove_file(&outputs);
            let name = format!("{}-{}", text("variant"), text("arch"));
            let build = self.step("image --records", &name).env("GITHUB_OUTPUT", &outputs);
            let build = build.env("VARIANT", text("variant")).env("ARCH", text("arch"));
            let ended = build.env("PLATFORMS", text("platform")).succeed();
            let outputs = outputs_of(&outputs);
            assert_eq!(outputs["tags"], ended.stdout.trim_end());
            assert_eq!(outputs["tags_csv"], outputs["tags"].replace('\n', ","));
            assert_eq!(outputs["short_sha"], "0123456");
            assert!(outputs["digest"].starts_with("sha256:"));
            assert_eq!(outputs["versioned_tags_csv"].split(',').count(), 3);
        }
        let started = self.step("image smoke", "").succeed();
        // The target has no server, and nothing that could start.
        assert_eq!(started.stdout, "");
        let merged = self.step("image merge", "merged").succeed();
        let summary = self.step("image summary", "").succeed();
        for tag in merged.stdout.lines() {
            assert!(summary.stdout.contains(&format!("\n{tag}\n")), "{tag} {}", summary.stdout);
        }
        summary
    }

    /// Every tag in the registry, with the digest of what it names.
    fn registry(&self) -> BTreeMap<String, String> {
        let digest = |tag: &String| self.engine.digest("pipeline", tag);
        let tags = self.engine.tags("pipeline");
        tags.into_iter().map(|tag| (tag.clone(), digest(&tag))).collect()
    }
}

/// The outputs of a step, read as the runner reads them.
fn outputs_of(file: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(file).unwrap();
    let mut lines = text.lines();
    let mut outputs = BTreeMap::new();
    while let Some(line) = lines.next() {
        if let Some((name, value)) = line.split_once('=') {
            outputs.insert(name.to_owned(), value.to_owned());
            continue;
        }
        let (name, delimiter) = line.split_once("<<").unwrap();
        let value = lines.by_ref().take_while(|line| *line != delimiter).collect::<Vec<_>>();
        outputs.insert(name.to_owned(), value.join("\n"));
    }
    outputs
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn the_workflow_ends_with_what_its_summary_lists() {
    let engine = Engine::emulating();
    let checkout = two_variants(&engine);
    let pipeline = Pipeline { engine: &engine, checkout: &checkout, steps: workflow_steps() };
    check_pipeline(&pipeline, &pipeline.run());
    let image = engine.image("pipeline");
    for (platform, machine) in [("linux/amd64", "x86_64"), ("linux/arm64", "aarch64")] {
        let reference = format!("{image}:latest-debian-{TARGET}");
        let said =
            engine.docker(&["run", "--rm", "--platform", platform, &reference, "cat", "/machine"]);
        assert_eq!(said, machine);
        engine.docker(&["rmi", "--force", &reference]);
    }
    // Again, as of a job that is started anew.
    check_pipeline(&pipeline, &pipeline.run());
}

/// The registry has what the summary lists, and each list the images of both architectures.
fn check_pipeline(pipeline: &Pipeline, summary: &Ended) {
    let engine = pipeline.engine;
    let registry = pipeline.registry();
    let head = format!("{}:", engine.image("pipeline"));
    let listed = summary.stdout.lines().filter_map(|line| line.strip_prefix(&head));
    let listed = listed.map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(registry.keys().cloned().collect::<BTreeSet<_>>(), listed);
    for tag in ["latest-debian", "main-second", "1-debian", "1.2.3-second", "0123456-debian"] {
        let tag = format!("{tag}-{TARGET}");
        let manifest = engine.manifest("pipeline", &tag);
        let found = manifest["manifests"].as_array().unwrap().iter().map(|entry| {
            let arch = entry["platform"]["architecture"].as_str().unwrap().to_owned();
            (arch, entry["digest"].as_str().unwrap().to_owned())
        });
        let variant = if tag.contains("debian") { "debian" } else { "second" };
        let single = |arch: &str| {
            (arch.to_owned(), registry[&format!("0123456-{variant}-{arch}-{TARGET}")].clone())
        };
        assert_eq!(found.collect::<BTreeSet<_>>(), BTreeSet::from(["amd64", "arm64"].map(single)));
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_merge_asks_a_busy_registry_again_and_takes_a_refusal() {
    let engine = Engine::get();
    let name = engine.image("busy");
    let checkout = two_variants(&engine);
    let args = ["image", "--variant=debian", "--push", "--platforms=linux/amd64", "--arch=amd64"];
    let file = checkout.0.join("busy");
    let rest = ["--target", TARGET, "--image", &name, "--records", file.to_str().unwrap()];
    let call = Xtask::within(&checkout.0, &[&args[..], &rest].concat()).in_engine(&engine);
    call.env(CACHE_MODE, "off").on("x").succeed();
    let record = fs::read_to_string(&file).unwrap();

    // The first `times` requests are refused; without a status, the connection is closed.
    let merge = |status: &'static str, times: usize| {
        let proxy = Proxy::start(&engine.registry);
        let refused = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&refused);
        proxy.obey(move |_| {
            if count.load(Ordering::SeqCst) == times {
                return Answer::Pass;
            }
            count.fetch_add(1, Ordering::SeqCst);
            if status.is_empty() { Answer::Close } else { Answer::Status(status) }
        });
        fs::write(&file, record.replace(&engine.registry, &proxy.address)).unwrap();
        let args = ["image", "merge", "--platforms=linux/amd64", file.to_str().unwrap()];
        let ended = Xtask::new(&args).in_engine(&engine).end();
        (ended, refused.load(Ordering::SeqCst))
    };
    for passing in ["429 Too Many Requests", "503 Service Unavailable", ""] {
        let (ended, refused) = merge(passing, 2);
        assert_eq!((ended.status, refused), (0, 2), "{passing}: {}", ended.stderr);
        // After a 429, buildx makes the same request again by itself.
        let is_retry = |line: &str| line.starts_with("warning: ") && line.contains(" 1 s");
        let is_reported = ended.stderr.lines().any(is_retry);
        assert!(is_reported || passing.starts_with("429"), "{}", ended.stderr);
        assert!(engine.tags("busy").contains(&format!("x-debian-{TARGET}")));
    }
    for (fatal, remedy) in [("401 Unauthorized", "docker login"), ("403 Forbidden", "docker login")]
    {
        let (ended, _) = merge(fatal, 1000);
        assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
        assert!(ended.stderr.contains(remedy), "{}", ended.stderr);
        assert!(!ended.stderr.contains("warning: "), "{}", ended.stderr);
    }
}
