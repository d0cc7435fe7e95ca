//! `--tag-by content` and `--skip-existing`: images that the registry has already.

use std::fs;

use crate::support::fake::{FakeDocker, INSPECTED};
use crate::support::{Ended, IMAGE, expected, sha256};
use serde_json::{Value, json};

/// A registry that keeps what is built, and has base images.
struct Registry(FakeDocker);

impl Registry {
    fn new(name: &str, bases: &[&str]) -> Self {
        let script = "case \"$*\" in *'imagetools create'*) echo \"$*\" >>created; exit;; esac";
        let fake = FakeDocker::with_override(name, script);
        fake.write("inspected", &INSPECTED.replace("386", "arm64"));
        for base in [bases, &["debian:trixie-slim"]].concat() {
            fake.put(base, "base 1");
        }
        Registry(fake)
    }

    /// Pushes what is not there, and returns how that ended. What docker was asked is of this call alone.
    fn push(&self, args: &[&str]) -> Ended {
        for file in ["begun", "calls", "created", "order", "records"] {
            let _ = fs::remove_file(self.0.file(file));
        }
        let _ = fs::remove_dir_all(self.0.file("bakes"));
        let always = ["--check=off", "--skip-existing", "--records=records", "--target=overlay"];
        self.0.push(&[&always[..], args].concat()).end()
    }

    /// The same for a commit and a branch, by content, on the base images `a` and `b`.
    fn push_by_content(&self, sha: &str, branch: &str, args: &[&str]) -> Ended {
        for file in ["begun", "calls", "created", "order", "records"] {
            let _ = fs::remove_file(self.0.file(file));
        }
        let _ = fs::remove_dir_all(self.0.file("bakes"));
        let always = ["--tag-by=content", "--check=off", "--skip-existing", "--records=records"];
        let rest = ["--target=overlay", "--base-image=a", "--base-image=b"];
        let call = self.0.push(&[&always[..], &rest, args].concat());
        call.env("SDK_SHA", sha.repeat(40)).env("SDK_REF", branch).succeed()
    }

    /// Keeps what the last call built, and returns the tags.
    fn keep(&self) -> Vec<String> {
        self.0.keep()
    }

    /// The base images whose records have that status.
    fn with_status(&self, status: &str) -> Vec<String> {
        let records = self.0.records().into_iter().filter(|record| record["status"] == status);
        let mut bases = records.map(|record| record["base_image"].as_str().unwrap().to_owned());
        let mut bases = bases.by_ref().collect::<Vec<_>>();
        bases.sort();
        bases
    }
}

#[test]
fn a_new_commit_with_the_same_inputs_builds_nothing_and_a_changed_base_is_not_missed() {
    let registry = Registry::new("content-skip", &["a", "b"]);
    registry.push_by_content("1", "refs/heads/x", &[]);
    assert_eq!(registry.with_status("built"), ["a", "b"]);
    assert_eq!(registry.keep().len(), 2);

    let ended = registry.push_by_content("2", "refs/heads/y", &[]);
    assert_eq!(registry.with_status("present"), ["a", "b"], "{}", ended.stderr);
    assert_eq!(ended.stdout.lines().count(), 2);
    assert!(registry.0.lines("begun").is_empty() && registry.0.lines("created").is_empty());
    expected::check("fake/expected/present.txt", &expected::steady(&ended.stderr, &registry.0.0.0));

    registry.0.put("a", "base 2");
    registry.push_by_content("2", "refs/heads/y", &[]);
    assert_eq!(
        (registry.with_status("built"), registry.with_status("present")),
        (vec!["a".to_owned()], vec!["b".to_owned()])
    );
    registry.keep();
    registry.push_by_content("2", "refs/heads/y", &[]);
    assert!(registry.0.lines("begun").is_empty());
}

#[test]
fn a_registry_that_does_not_answer_is_not_one_without_images() {
    let script = "case \"$*\" in *--raw*) echo ERROR: 401 Unauthorized >&2; exit 1;; esac";
    let fake = FakeDocker::with_override("present-silent", script);
    let ended = fake.push(&["--check=off", "--skip-existing"]).succeed();
    let said = "does not say which images it has, so all are built: 401 Unauthorized";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    assert!(!ended.stderr.contains("are in the registry"), "{}", ended.stderr);
}

#[test]
fn an_image_on_a_base_that_is_not_known_is_built() {
    let registry = Registry::new("content-unknown", &["b"]);
    registry.push_by_content("1", "x", &[]);
    registry.keep();
    let ended = registry.push_by_content("1", "x", &[]);
    assert_eq!(registry.with_status("built"), ["a"]);
    let warning = ended.stderr.lines().find(|line| line.starts_with("warning: "));
    assert_eq!(
        warning,
        Some("warning: cannot resolve base image a; rebuilding images that use it")
    );
}

#[test]
fn the_tags_that_move_are_pointed_to_the_image_that_is_there() {
    let registry = Registry::new("content-move", &["a", "b", "c"]);
    registry.0.write("list", "c one\n");
    let list = ["--base-images=list"];
    registry.push_by_content("1", "refs/heads/x", &list);
    assert!(registry.keep().contains(&format!("{IMAGE}:x-one-overlay")));
    registry.push_by_content("2", "refs/heads/x", &list);
    assert!(registry.0.lines("begun").is_empty() && registry.0.lines("created").is_empty());

    registry.push_by_content("2", "refs/heads/y", &list);
    assert!(registry.0.lines("begun").is_empty());
    let digest = sha256(b"debian-c");
    let expected = format!("buildx imagetools create --tag {IMAGE}:y-one-overlay {IMAGE}@{digest}");
    assert_eq!(registry.0.lines("created"), [expected]);

    // A list that buildx made of that image is the image too.
    registry.0.put(&format!("{IMAGE}:y-one-overlay"), &json!({ "digest": digest }).to_string());
    registry.push_by_content("3", "refs/heads/y", &list);
    assert!(registry.0.lines("begun").is_empty() && registry.0.lines("created").is_empty());
}

#[test]
fn the_architectures_of_a_manifest_have_one_name() {
    let registry = Registry::new("content-arch", &["a", "b"]);
    let names = ["amd64", "arm64"].map(|arch| {
        let args = [format!("--arch={arch}"), format!("--platforms=linux/{arch}")];
        registry.push_by_content("1", "x", &args.each_ref().map(String::as_str));
        let tags = registry.keep().into_iter();
        tags.map(|tag| tag.replace(&format!("-{arch}"), "")).collect::<Vec<_>>()
    });
    assert!(!names[0].is_empty());
    assert_eq!(names[0], names[1]);
}

#[test]
fn an_image_is_present_if_its_inputs_are_the_same() {
    let registry = Registry::new("content-inputs", &["a", "b"]);
    let bases = ["--base-image=a", "--base-image=b"];
    let push = |args: &[&str]| registry.push(&[&bases[..], args].concat());
    assert_eq!(push(&[]).status, 0);
    registry.keep();
    // A base image, a file or an argument that is another makes another image.
    registry.0.put("a", "base 2");
    let ended = push(&[]);
    assert_eq!(registry.with_status("built"), ["a"], "{}", ended.stderr);
    registry.0.put("a", "base 1");
    push(&["--install-capabilities="]);
    assert_eq!(registry.with_status("built"), ["a", "b"]);
    let pins = "agent-server-image/lock/requirements.txt";
    let pinned = fs::read_to_string(registry.0.file(pins)).unwrap();
    registry.0.write(pins, "other==1");
    push(&[]);
    assert_eq!(registry.with_status("built"), ["a", "b"]);
    registry.0.write(pins, &pinned);

    let ended = push(&[]);
    assert_eq!(registry.with_status("present"), ["a", "b"], "{}", ended.stderr);
    let digests = registry.0.records().into_iter().map(|record| record["digest"].clone());
    let digests = digests.collect::<Vec<Value>>();
    assert_eq!(digests, [json!(sha256(b"debian-a")), json!(sha256(b"debian-b"))]);
}

#[test]
fn inputs_that_cannot_be_read_are_not_called_changed() {
    let registry = Registry::new("content-unread", &["a", "b"]);
    let push = || registry.push(&["--base-image=a", "--base-image=b"]);
    assert_eq!(push().status, 0);
    for tag in registry.keep() {
        let text = if tag.contains("-a-") { "" } else { "{}" };
        registry.0.write(&format!("image_{}", tag.replace(['/', ':'], "_")), text);
    }
    let stderr = push().stderr;
    assert!(
        stderr.contains("rebuilding a: cannot read the inputs of the image in the registry\n"),
        "{stderr}"
    );
    assert!(stderr.contains("rebuilding b: its inputs changed\n"), "{stderr}");
    assert_eq!(registry.with_status("built"), ["a", "b"]);
}

#[test]
fn a_cache_that_an_image_lacks_is_said_and_strict() {
    let registry = Registry::new("content-cache", &["a"]);
    let push = |args: &[&str]| {
        let _ = fs::remove_file(registry.0.file("records"));
        let always = ["image", "--variant=debian", "--push", "--base-image=a", "--check=off"];
        let rest = ["--skip-existing", "--records=records", "--target=overlay"];
        registry.0.call(&[&always[..], &rest, args].concat()).on("x").end()
    };
    assert_eq!(push(&[]).status, 0);
    registry.keep();
    let text = |ended: &Ended| expected::steady(&ended.stderr, &registry.0.0.0);
    let ended = push(&[]);
    assert_eq!((ended.status, registry.with_status("present")), (0, vec!["a".to_owned()]));
    expected::check("fake/expected/present_without_cache.txt", &text(&ended));
    let ended = push(&["--strict-cache"]);
    assert_eq!(ended.status, 1);
    expected::check("fake/expected/present_without_cache_strict.txt", &text(&ended));
}
