//! The workflow file, played on a real engine and registry: matrix, a build for each job, merge,
//! summary. The other architecture is emulated.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::engine::{Engine, docker};
use crate::support::proxy::{Answer, Proxy};
use crate::support::{Ended, Folder, SHA, Xtask, root, strings};
use serde_json::{Value, json};

const MODE: &str = "OPENHANDS_BUILDKIT_CACHE_MODE";
/// The quickest target that an agent could work in.
const TARGET: &str = "base-image-minimal";

/// The commands of the workflow's steps that call the task, in their order, as arguments.
fn steps() -> Vec<Vec<String>> {
    let workflow = fs::read_to_string(root().join(".github/workflows/image.yml")).unwrap();
    let run = |line: &str| {
        let line = line.trim().trim_start_matches("- ");
        let command = line.strip_prefix("run: ")?.strip_prefix("cargo xtask ")?;
        Some(command.split(' ').map(str::to_owned).collect())
    };
    workflow.lines().filter_map(run).collect()
}

/// A checkout whose bake file has two variants: debian, and one on a base of this test.
fn checkout(engine: &Engine) -> Folder {
    let folder = Folder::shipped("pipeline");
    let base = engine.image("base");
    docker(&["tag", "debian:trixie-slim", &base]);
    docker(&["push", "--quiet", &base]);
    let file = folder.0.join("agent-server-image/docker-bake.json");
    let mut definition: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let targets = definition["target"].as_object_mut().unwrap();
    targets.retain(|name, _| ["_common", "debian"].contains(&name.as_str()));
    let mut second = targets["debian"].clone();
    second["args"]["BASE_IMAGE"] = json!(base);
    targets.insert("second".to_owned(), second);
    definition["group"]["default"]["targets"] = json!(["debian"]);
    fs::write(file, definition.to_string()).unwrap();
    folder
}

/// A pipeline's run: a checkout, and the folder that its jobs pass on.
struct Pipeline<'a> {
    engine: &'a Engine,
    checkout: &'a Folder,
    steps: Vec<Vec<String>>,
}

impl Pipeline<'_> {
    fn infos(&self) -> PathBuf {
        self.checkout.0.join("build-info")
    }

    /// The files of the folder, as a shell's `*.json` gives them.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.infos()).unwrap();
        let mut files = entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        files.sort();
        files.into_iter().map(|file| file.to_str().unwrap().to_owned()).collect()
    }

    /// The step that starts with `words`, as the workflow calls it.
    fn step(&self, words: &str) -> Xtask {
        let step = self.steps.iter().find(|step| step.join(" ").starts_with(words)).unwrap();
        let mut args = Vec::new();
        for word in step {
            match word.strip_prefix("build-info/") {
                Some("*.json") => args.extend(self.files()),
                Some(_) => args.push(format!("{}/", self.infos().display())),
                // The shell's: empty, where nothing is asked for.
                None if word.starts_with('$') => {}
                None => args.push(word.clone()),
            }
        }
        let args = args.iter().map(String::as_str).collect::<Vec<_>>();
        let call = Xtask::within(&self.checkout.0, &args).in_engine();
        call.env("CI", "true")
            .env("PUSH", "true")
            .env("IMAGE", self.engine.image("pipeline"))
            .env("TARGET", TARGET)
            // Emulated, npm would take many minutes.
            .env("INSTALL_ACP_PROVIDERS", "")
            .env("SDK_SHA", SHA)
            .env("GITHUB_REF", "refs/heads/main")
            .env("VERSIONED_TAG", "true")
            .env("SDK_VERSION", "1.2.3")
            .env(MODE, "off")
    }

    fn run(&self) -> Ended {
        let matrix = succeed(self.step("image matrix"));
        let matrix: Value = serde_json::from_str(&matrix.stdout).unwrap();
        let jobs = matrix["include"].as_array().unwrap();
        assert_eq!(jobs.len(), 4);
        for job in jobs {
            let text = |key: &str| job[key].as_str().unwrap();
            let outputs = self.checkout.0.join("outputs");
            let _ = fs::remove_file(&outputs);
            let build = self.step("image --build-info").env("GITHUB_OUTPUT", &outputs);
            let build = build.env("VARIANT", text("variant")).env("ARCH", text("arch"));
            let ended = succeed(build.env("PLATFORMS", text("platform")));
            let outputs = outputs_of(&outputs);
            assert_eq!(outputs["tags"], ended.stdout.trim_end());
            assert_eq!(outputs["tags_csv"], outputs["tags"].replace('\n', ","));
            assert_eq!(outputs["short_sha"], "0123456");
            assert!(outputs["digest"].starts_with("sha256:"));
            assert_eq!(outputs["versioned_tags_csv"].split(',').count(), 3);
        }
        let started = succeed(self.step("image smoke"));
        // The target has no server, and nothing that could start.
        assert_eq!(started.stdout, "");
        let merged = succeed(self.step("image merge"));
        let summary = succeed(self.step("image summary"));
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

fn succeed(call: Xtask) -> Ended {
    let ended = call.end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    ended
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
fn the_workflow_ends_with_what_its_summary_lists() {
    let Some(engine) = Engine::get("the workflow") else { return };
    let checkout = checkout(&engine);
    let pipeline = Pipeline { engine: &engine, checkout: &checkout, steps: steps() };
    let summary = pipeline.run();
    let registry = pipeline.registry();
    let image = engine.image("pipeline");
    let head = format!("{image}:");
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
    for (platform, machine) in [("linux/amd64", "x86_64"), ("linux/arm64", "aarch64")] {
        let reference = format!("{image}:latest-debian-{TARGET}");
        let said = docker(&["run", "--rm", "--platform", platform, &reference, "uname", "-m"]);
        assert_eq!(said, machine);
        docker(&["rmi", "--force", &reference]);
    }

    pipeline.run();
    assert_eq!(pipeline.registry(), registry, "a second run changes nothing");
    check_refusals(&pipeline);
    assert_eq!(pipeline.registry(), registry, "what was refused has pushed nothing");
}

/// Merges files that do not go together, one change at a time.
fn check_refusals(pipeline: &Pipeline) {
    let files = pipeline.files();
    let [amd64, arm64] = ["amd64", "arm64"].map(|arch| {
        let file = files.iter().find(|file| file.ends_with(&format!("debian-{arch}.json")));
        let text = fs::read_to_string(file.unwrap()).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    });
    let folder = Folder::new("refusals");
    let merge = |infos: &[&Value], flags: &[&str]| {
        let write = |(n, info): (usize, &&Value)| {
            let file = folder.0.join(format!("{n}.json"));
            fs::write(&file, info.to_string()).unwrap();
            file.to_str().unwrap().to_owned()
        };
        let files = infos.iter().enumerate().map(write).collect::<Vec<_>>();
        let files = files.iter().map(String::as_str);
        let args = ["image", "merge"].into_iter().chain(flags.iter().copied()).chain(files);
        Xtask::within(&pipeline.checkout.0, &args.collect::<Vec<_>>()).in_engine()
    };
    let changed = |key: &str, value: Value| {
        let mut info = arm64.clone();
        info[key] = value;
        info
    };
    for (other, word) in [
        (changed("sha", json!("f".repeat(40))), "sha"),
        (changed("image", json!("r.example.com/other")), "image"),
        (changed("platform", json!("linux/amd64")), "linux/amd64"),
        (changed("schema", json!(2)), "schema"),
        (changed("digest", json!("")), "digest"),
    ] {
        let said = merge(&[&amd64, &other], &[]).refused();
        assert!(said.contains(word), "{said} lacks {word}");
    }
    let said = merge(&[&amd64], &[]).refused();
    assert!(said.contains("linux/arm64") && said.contains("--allow-partial"), "{said}");
}

#[test]
fn one_run_builds_both_architectures_under_one_tag() {
    let Some(engine) = Engine::get("both architectures") else { return };
    let folder = Folder::new("both");
    let place = format!("{}/", folder.0.display());
    let image = engine.image("both");
    let args = ["image", "--variant=debian", "--push", "--platforms=linux/amd64,linux/arm64"];
    let rest = ["--target", TARGET, "--image", &image, "--build-info", &place];
    let fewer = ["--install-acp-providers="];
    let call = Xtask::shipped(&[&args[..], &rest, &fewer].concat()).in_engine();
    let ended = succeed(call.on("x").env(MODE, "off"));
    let tag = ended.stdout.lines().next().unwrap().strip_prefix(&format!("{image}:")).unwrap();
    let manifest = engine.manifest("both", tag);
    for (entry, arch) in manifest["manifests"].as_array().unwrap().iter().zip(["amd64", "arm64"]) {
        let info = fs::read_to_string(folder.0.join(format!("debian-{arch}.json"))).unwrap();
        let info: Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["digest"], entry["digest"]);
        assert_eq!(info["platform"], format!("linux/{arch}"));
        assert_eq!(strings(&info["tags"]), ended.stdout.lines().collect::<Vec<_>>());
    }
}

#[test]
fn a_busy_registry_is_asked_again_and_a_refusal_is_final() {
    let Some(engine) = Engine::get("a busy registry") else { return };
    let name = engine.image("busy");
    let args = ["image", "--variant=debian", "--push", "--platforms=linux/amd64", "--arch=amd64"];
    let folder = Folder::new("busy");
    let file = folder.0.join("debian.json");
    let rest = ["--target", TARGET, "--image", &name, "--build-info", file.to_str().unwrap()];
    let call = Xtask::shipped(&[&args[..], &rest].concat()).in_engine().env(MODE, "off");
    succeed(call.on("x"));
    let info = fs::read_to_string(&file).unwrap();

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
        fs::write(&file, info.replace(&engine.registry, &proxy.address)).unwrap();
        let args = ["image", "merge", "--platforms=linux/amd64", file.to_str().unwrap()];
        let ended = Xtask::new(&args).in_engine().end();
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

#[test]
fn what_a_pull_request_writes_does_not_reach_main() {
    let written = |git_ref: &str, sha: &str| -> BTreeSet<String> {
        let call = Xtask::print(&["--push", "--variant=python", "--arch=amd64"]);
        let call = call.env("SDK_REF", git_ref).env("SDK_SHA", sha);
        let target = call.env("OPENHANDS_SHARED_REGISTRY_CACHE_EXPORT", "1").target();
        let reference = |entry: &str| entry.split(',').nth(1).unwrap().replace("ref=", "");
        let caches = strings(&target["cache-to"]).into_iter().map(reference);
        let tags = strings(&target["tags"]).into_iter().map(str::to_owned);
        tags.chain(caches).collect()
    };
    let main = written("refs/heads/main", &"a".repeat(40));
    for git_ref in
        ["refs/pull/7/merge", "refs/heads/Main", "refs/heads/main-python", "refs/tags/main"]
    {
        let theirs = written(git_ref, &"b".repeat(40));
        let both = main.intersection(&theirs).collect::<Vec<_>>();
        assert!(both.is_empty(), "{git_ref} writes main's {both:?}");
    }
}

#[test]
fn the_workflow_calls_the_task_and_pins_its_actions() {
    let workflow = fs::read_to_string(root().join(".github/workflows/image.yml")).unwrap();
    assert!(workflow.lines().count() < 200);
    let names = steps().iter().map(|step| step[1].clone()).collect::<Vec<_>>();
    assert_eq!(names, ["matrix", "probe", "--build-info", "smoke", "merge", "summary"]);
    let mut timeouts = 0;
    for file in fs::read_dir(root().join(".github/workflows")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        timeouts += text.matches("timeout-minutes:").count();
        timeouts -= text.matches("runs-on:").count();
        for line in text.lines().filter(|line| line.contains("uses: ")) {
            let (_, pin) = line.split_once('@').unwrap();
            let (sha, version) = pin.split_once(" # v").unwrap();
            assert!(sha.len() == 40 && version.contains('.'), "{line}");
        }
    }
    assert_eq!(timeouts, 0, "a job has no limit");
}
