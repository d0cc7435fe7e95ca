//! `--tag-by content`: names that stay while what goes into an image does.

use std::fs;

use serde_json::Value;

use crate::support::fake::{FakeDocker, INSPECTED};
use crate::support::{Folder, Xtask, strings};

#[test]
fn tags_hold_the_inputs_where_the_commit_stood() {
    let checkout = Folder::checkout("content-print");
    let tags = |sha: &str, args: &[&str]| {
        let always = ["image", "--print", "--variant=debian", "--tag-by=content"];
        let call = Xtask::within(&checkout.0, &[&always[..], args].concat());
        let target = call.env("SDK_SHA", sha).env("SDK_REF", "refs/heads/feat/x").target();
        strings(&target["tags"]).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let (one, two) = ("1".repeat(40), "2".repeat(40));
    let first = tags(&one, &[]);
    let [short, long, branch, slug] = first.as_slice() else { panic!("{first:?}") };
    let image = "ghcr.io/openhands/agent-server:";
    let digest = long.strip_prefix(image).unwrap().strip_suffix("-debian").unwrap();
    assert!(digest.len() == 40 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{long}");
    assert_eq!(*short, format!("{image}{}-debian", &digest[..7]));
    assert_eq!(*branch, format!("{image}feat-x-debian"));
    assert_eq!(*slug, format!("{image}{}-debian_tag_trixie-slim", &digest[..7]));

    // Neither the commit, nor whether and where the image goes, is an input.
    for args in [&[][..], &["--push"], &["--load"], &["--push", "--cache-image=r.io/c"]] {
        assert_eq!(tags(&two, args), first, "{args:?}");
    }
    for args in [["--install-capabilities="], ["--base-image=debian:12"], ["--image-flavor=slim"]] {
        assert_ne!(tags(&one, &args)[0], first[0], "{args:?}");
    }
    fs::write(checkout.0.join("agent-server-image/requirements.txt"), "other==1").unwrap();
    assert_ne!(tags(&one, &[])[0], first[0]);
}

#[test]
fn tags_are_by_commit_unless_said_and_by_nothing_else() {
    let default = Xtask::print(&["--variant=debian"]).target();
    let commit = Xtask::print(&["--variant=debian", "--tag-by=commit"]).target();
    assert_eq!(default["tags"], commit["tags"]);
    let said = Xtask::print(&["--tag-by=contents"]).refused();
    assert!(
        said.contains("Did you mean \"content\"?") || said.contains("commit, content"),
        "{said}"
    );
}

/// A registry whose manifests are files, beside a builder that pushes all that it is given.
const REGISTRY: &str = r#"
    last() { for last; do :; done; echo "$last" | tr '/:' '__'; }
    case "$*" in
    *rawjson*) cat >> baked; touch built;;
    *"imagetools create"*) echo "$*" >> created;;
    *raw*) echo "$*" >> asked; name=$(last "$@")
        [ -f "m_$name" ] && cat "m_$name" && exit; echo 'ERROR: not found' >&2; exit 1;;
    *"image inspect"*) exit 1;;
    *inspect*) cat inspected;;
    esac"#;

struct Registry(FakeDocker);

impl Registry {
    fn new(name: &str) -> Self {
        let fake = FakeDocker::new(name, REGISTRY);
        fs::write(fake.file("inspected"), INSPECTED.replace("386", "arm64")).unwrap();
        let registry = Registry(fake);
        for base in ["a", "b", "debian:trixie-slim"] {
            registry.put(base, "base 1");
        }
        registry
    }

    fn put(&self, reference: &str, manifest: &str) {
        let name = reference.replace(['/', ':'], "_");
        fs::write(self.0.file(&format!("m_{name}")), manifest).unwrap();
    }

    /// Builds for a commit and a branch, and returns what was said. The files `built`, `asked` and
    /// `created` are of this call alone.
    fn build(&self, sha: &str, branch: &str, args: &[&str]) -> String {
        for file in ["built", "asked", "created", "baked"] {
            let _ = fs::remove_file(self.0.file(file));
        }
        let always = ["image", "--push", "--variant=debian", "--tag-by=content", "--check=off"];
        let bases = ["--skip-existing", "--base-image=a", "--base-image=b"];
        let call = self.0.call(&[&always[..], &bases, args].concat());
        let ended = call.env("SDK_SHA", sha.repeat(40)).env("SDK_REF", branch).end();
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        ended.stderr
    }

    /// Has the registry keep what the last call built, and returns the tags.
    fn keep(&self) -> Vec<String> {
        let baked = fs::read_to_string(self.0.file("baked")).unwrap();
        let mut kept = Vec::new();
        for bake in serde_json::Deserializer::from_str(&baked).into_iter::<Value>() {
            for (name, target) in bake.unwrap()["target"].as_object().unwrap() {
                for tag in target["tags"].as_array().into_iter().flatten() {
                    let tag = tag.as_str().unwrap().to_owned();
                    self.put(&tag, name);
                    kept.push(tag);
                }
            }
        }
        kept
    }

    fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.0.file(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn is_built(&self) -> bool {
        self.0.file("built").exists()
    }
}

#[test]
fn a_new_commit_with_the_same_inputs_builds_nothing_and_a_changed_base_is_not_missed() {
    let registry = Registry::new("content-skip");
    let said = registry.build("1", "refs/heads/x", &[]);
    assert!(registry.is_built(), "{said}");
    assert_eq!(registry.keep().len(), 2);

    let said = registry.build("2", "refs/heads/y", &[]);
    assert!(!registry.is_built() && said.contains("2 of 2 images are in the registry"), "{said}");
    assert!(registry.lines("created").is_empty());
    // Three base images, two images, and the probe of one cache; by digest, what the table shows.
    let mut asked = registry.lines("asked");
    asked.retain(|line| !line.contains('@'));
    assert_eq!(asked.len(), 6, "{asked:#?}");

    registry.put("a", "base 2");
    let said = registry.build("2", "refs/heads/y", &[]);
    assert!(registry.is_built() && said.contains("1 of 2 images are in the registry"), "{said}");
    registry.keep();
    registry.build("2", "refs/heads/y", &[]);
    assert!(!registry.is_built());
}

#[test]
fn an_image_on_a_base_that_is_not_known_is_built() {
    let registry = Registry::new("content-unknown");
    fs::remove_file(registry.0.file("m_a")).unwrap();
    registry.build("1", "x", &[]);
    registry.keep();
    let said = registry.build("1", "x", &[]);
    assert!(registry.is_built() && said.contains("1 of 2 images are in the registry"), "{said}");
    assert!(said.contains("the digest of the base image a is not known"), "{said}");
}

#[test]
fn the_tags_that_move_are_pointed_to_the_image_that_is_there() {
    let registry = Registry::new("content-move");
    let list = registry.0.file("list");
    fs::write(&list, "c one\n").unwrap();
    registry.put("c", "base 1");
    let list = format!("--base-images={}", list.display());
    registry.build("1", "refs/heads/x", &[&list]);
    let tags = registry.keep();
    assert!(tags.contains(&"ghcr.io/openhands/agent-server:x-one".to_owned()), "{tags:?}");
    let said = registry.build("2", "refs/heads/x", &[&list]);
    assert!(!registry.is_built() && registry.lines("created").is_empty(), "{said}");

    let said = registry.build("2", "refs/heads/y", &[&list]);
    assert!(!registry.is_built() && said.contains("1 tags were moved"), "{said}");
    let created = registry.lines("created");
    let digest = crate::support::sha256(b"debian-c");
    let image = "ghcr.io/openhands/agent-server";
    let expected = format!("buildx imagetools create --tag {image}:y-one {image}@{digest}");
    assert_eq!(created, [expected]);

    // A list that buildx made of that image is the image too.
    registry.put(&format!("{image}:y-one"), &format!("{{\"digest\": \"{digest}\"}}"));
    registry.build("3", "refs/heads/y", &[&list]);
    assert!(!registry.is_built() && registry.lines("created").is_empty());
}

#[test]
fn the_architectures_of_a_manifest_have_one_name() {
    let registry = Registry::new("content-arch");
    let path = format!("{}/info/", registry.0.0.0.display());
    let names = ["amd64", "arm64"].map(|arch| {
        let args = [&format!("--arch={arch}"), &format!("--platforms=linux/{arch}")];
        let args = [&args.map(String::as_str)[..], &["--build-info", &path]].concat();
        registry.build("1", "x", &args);
        registry.keep().into_iter().map(|tag| tag.replace(&format!("-{arch}"), "")).collect()
    });
    let [one, other]: [Vec<String>; 2] = names;
    assert_eq!(one, other);
}
