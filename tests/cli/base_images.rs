//! Many base images in one run: the lists that name them, and what is planned for them. No docker
//! is needed, and none is called.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Ended, Folder, SHA, SHARED_CACHE, Xtask, expected, is_valid_tag, strings};
use serde_json::{Value, json};

/// A folder with the file `list`, and the path of that.
fn file(name: &str, content: impl AsRef<[u8]>) -> (Folder, String) {
    let folder = Folder::new(name);
    let path = folder.0.join("list");
    fs::write(&path, content).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

/// The names of a definition's targets.
fn names(definition: &Value) -> Vec<&str> {
    strings(&definition["group"]["default"]["targets"])
}

/// The base images of a definition's targets, in the order of the targets.
fn base_images(definition: &Value) -> Vec<String> {
    let targets = names(definition).into_iter().map(|name| &definition["target"][name]);
    targets.map(|target| target["args"]["BASE_IMAGE"].as_str().unwrap().to_owned()).collect()
}

/// How a call ended that was given `input`.
fn with_input(mut call: Xtask, input: &str) -> Ended {
    let pipes = call.0.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Ended::from(child.wait_with_output().unwrap())
}

/// References of all kinds, each unlike the others.
fn many() -> Vec<String> {
    let long = "x".repeat(100);
    let mut many = (0..820)
        .map(|i| format!("docker.io/swebench/sweb.eval.x86_64.django_1776_django-{i}:latest"))
        .collect::<Vec<_>>();
    for i in 0..30 {
        many.extend([
            format!("r{i}.io/a@sha256:{i:064x}"),
            format!("r.io/a:1@sha256:{i:064x}"),
            // Too long for a slug, and alike up to the end or from the beginning on.
            format!("r.io/{long}/b{i}"),
            format!("r.io/{long}:{long}{i}"),
            format!("r{i}.io/{long}:1.0+c"),
            // Alike where a dot can't be.
            format!("a.{i}"),
            format!("a_{i}"),
            // Alike but for the case.
            format!("B{i}/c"),
            format!("b{i}/c"),
        ]);
    }
    many
}

#[test]
fn a_list_names_one_base_image_a_line() {
    let content = "\u{feff}# All of them.\r\n\r\n  debian:12\t# the old one\r\n\
        a/b:1\r\n#c\n   # d\ndebian:12\nr.io/e@sha256:0 #f #g\n\u{a0}debian:13";
    let expected = ["debian:12", "a/b:1", "r.io/e@sha256:0", "debian:13"];
    let (_folder, path) = file("list", content);
    for flags in [&["--base-images", &path][..], &[&format!("--base-images={path}")]] {
        assert_eq!(base_images(&Xtask::print(flags).definition()), expected);
    }
    let ended = with_input(Xtask::print(&["--base-images", "-"]), content);
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
    assert_eq!(base_images(&serde_json::from_str(&ended.stdout).unwrap()), expected);
}

#[test]
fn a_list_adds_to_the_flags_and_beats_the_variable() {
    let (_folder, path) = file("adds", "c\na\nd\n");
    let flags = ["--base-images", &path, "--base-image", "b", "--base-image=c"];
    let definition = Xtask::print(&flags).env("BASE_IMAGE", "z").definition();
    assert_eq!(base_images(&definition), ["b", "c", "a", "d"]);
    let definition = Xtask::print(&flags).env("BASE_IMAGE", "b,c").definition();
    assert_eq!(base_images(&definition), ["b", "c", "a", "d"], "what is typed stays");
    let definition = Xtask::print(&flags[..2]).env("BASE_IMAGE", "z").definition();
    assert_eq!(base_images(&definition), ["c", "a", "d"]);
}

#[test]
fn a_path_is_the_callers() {
    let (folder, _) = file("callers", "debian:12");
    let mut call = Xtask::print(&["--base-images", "list"]);
    call.0.current_dir(&folder.0);
    assert_eq!(base_images(&call.definition()), ["debian:12"]);
}

#[test]
fn tags_are_those_of_one_base_image_or_of_several() {
    let tags = |content: &str, args: &[&str]| {
        let (_folder, path) = file("tags", content);
        let call = Xtask::print(&[&["--base-images", &path], args].concat());
        let definition = call.definition();
        let targets = names(&definition).into_iter().map(|name| &definition["target"][name]);
        let tag = |tag: &str| tag.rsplit_once(':').unwrap().1.to_owned();
        targets.flat_map(|target| strings(&target["tags"]).into_iter().map(tag)).collect::<Vec<_>>()
    };
    assert_eq!(tags("a:1\nb:1", &[]), ["0123456-a_tag_1", "0123456-b_tag_1"]);
    assert_eq!(tags("a:1\nb:1", &["--variant=java"]), ["0123456-a_tag_1", "0123456-b_tag_1"]);
    assert_eq!(tags("a:1", &[]), ["0123456-a_tag_1"]);
    assert_eq!(tags("a:1", &["--variant=java"])[0], "0123456-java");
    assert_eq!(tags("a:1", &["--custom-tags=t"])[0], "0123456-t");
}

#[test]
fn an_image_gets_the_names_that_its_line_gives_it() {
    let content = "a:1 one,two  # both\n{\"base_image\": \"b:1\", \"custom_tags\": [\"three\"]}\nc:1\n\
        {\"base_image\": \"d:1\"}\na:1\tfour\n{\"base_image\": \"e:1\", \"custom_tags\": \"five, six\"}";
    let (_folder, path) = file("named", content);
    let args = ["--base-images", &path, "--target=source-minimal", "--arch=amd64"];
    let definition = Xtask::print(&args).on("refs/heads/x").definition();
    assert_eq!(base_images(&definition), ["a:1", "b:1", "c:1", "d:1", "e:1"]);
    let short = |name: &str| {
        let tags = strings(&definition["target"][name]["tags"]);
        let tags = tags.into_iter().filter_map(|tag| {
            tag.rsplit_once(":0123456-")?.1.strip_suffix("-amd64-source-minimal")
        });
        tags.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(short("python-a_tag_1"), ["one", "two", "four", "a_tag_1"]);
    assert_eq!(short("python-b_tag_1"), ["three", "b_tag_1"]);
    assert_eq!(short("python-c_tag_1"), ["c_tag_1"]);
    assert_eq!(short("python-d_tag_1"), ["d_tag_1"]);
    assert_eq!(short("python-e_tag_1"), ["five", "six", "e_tag_1"]);
    let tags = strings(&definition["target"]["python-b_tag_1"]["tags"]);
    let image = "ghcr.io/openhands/agent-server";
    let expected = [format!("{SHA}-three"), "x-three".to_owned()];
    assert_eq!(tags[1..3], expected.map(|tag| format!("{image}:{tag}-amd64-source-minimal")));
}

#[test]
fn a_broken_list_is_refused_with_the_place() {
    let mut text = String::new();
    let lists: [&[u8]; 16] = [
        b"",
        b"\xef\xbb\xbf\n# debian:12\n",
        b"debian:12\n\n-rf\n",
        b"debian:12 debian:13",
        b"debian:12,debian:13",
        b"a\ndebian:12#old",
        b"a\nb\n\xff\xfe\n",
        // What an editor calls Unicode.
        b"\xff\xfea\0\n\0",
        "a\ndébian".as_bytes(),
        b"a:1 b c",
        b"a:1 b,c:d",
        b"a:1 b/c",
        b"{\"base_image\": 1}",
        b"{}",
        b"{",
        b"a:1 t\n\na:1 t\nb:1 u,t",
    ];
    for content in lists {
        let (folder, path) = file("broken-list", content);
        let said = Xtask::print(&["--base-images", &path, "--base-image=a"]).refused();
        let said = expected::steady(&said, &folder.0);
        text += &format!("# {}\n{said}\n", content.escape_ascii());
    }
    for path in ["/", "", "-"] {
        let said = Xtask::print(&[&format!("--base-images={path}")]).refused();
        text += &format!("# the file {path:?}\n{said}\n");
    }
    expected::check("cli/expected/broken_lists.txt", &text);
}

#[test]
fn a_signal_ends_the_wait_for_a_list() {
    let mut call = Xtask::print(&["--base-images", "-"]);
    let mut child = call.0.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    thread::sleep(Duration::from_millis(200));
    let kill = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let deadline = Instant::now() + Duration::from_secs(10);
    let ended = loop {
        match child.try_wait().unwrap() {
            None if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            ended => break ended,
        }
    };
    let _ = child.kill();
    assert_eq!(ended.and_then(|status| status.signal()), Some(15));
}

#[test]
fn a_thousand_base_images_are_a_thousand_targets() {
    let many = many();
    assert!(many.len() > 1000);
    let (_folder, path) = file("thousand", many.join("\n"));
    let printed = Xtask::print(&["--base-images", &path, "--push", "--arch=arm64"]).end();
    assert_eq!((printed.status, printed.stderr.as_str()), (0, ""));
    // Each has a part of its own, which is no larger than that of a single one.
    assert!(printed.stdout.len() < many.len() * 3000, "{}", printed.stdout.len());
    let definition: Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(base_images(&definition), many);
    let targets = definition["target"].as_object().unwrap();
    assert_eq!(targets.len(), many.len());
    // Bake's own rule for names.
    let fits = |name: &&str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    assert!(names(&definition).iter().all(fits));
    let mut tags = BTreeSet::new();
    let mut written = BTreeSet::new();
    for target in targets.values() {
        let [tag] = strings(&target["tags"])[..] else { panic!("{target:#}") };
        assert!(is_valid_tag(tag.rsplit_once(':').unwrap().1), "{tag}");
        tags.insert(tag);
        written.extend(strings(&target["cache-to"]));
    }
    assert_eq!((tags.len(), written.len()), (many.len(), many.len()));
}

/// What `--print` gives for each of `of` shards of the base images in the file `path`.
fn shards(path: &str, of: usize, args: &[&str]) -> Vec<Value> {
    let shard = |number| {
        let shard = format!("--shard={number}/{of}");
        Xtask::print(&[&["--base-images", path, &shard], args].concat())
            .env(SHARED_CACHE, "1")
            .definition()
    };
    (1..=of).map(shard).collect()
}

#[test]
fn shards_are_disjoint_complete_and_balanced() {
    let many = many().into_iter().step_by(31).collect::<Vec<_>>();
    for (count, of) in [(many.len(), 7), (many.len(), 1), (10, 3), (9, 9), (1, 2), (5, 8)] {
        let (_folder, path) = file("shards", many[..count].join("\n"));
        let whole = Xtask::print(&["--base-images", &path, "--push"]);
        let whole = whole.env(SHARED_CACHE, "1").definition();
        let shards = shards(&path, of, &["--push"]);
        let mut all = BTreeSet::new();
        for shard in &shards {
            let size = names(shard).len();
            assert!((count / of..=count.div_ceil(of)).contains(&size), "{size} of {count} / {of}");
            assert_eq!(shard["target"].as_object().unwrap().len(), size);
            // In the order of the whole, and each target just as it is there.
            let order = names(&whole).into_iter().filter(|name| names(shard).contains(name));
            assert_eq!(order.collect::<Vec<_>>(), names(shard));
            for name in names(shard) {
                assert_eq!(shard["target"][name], whole["target"][name]);
                assert!(all.insert(name), "{name} is in two shards");
            }
        }
        assert_eq!(all.len(), count);
    }
}

#[test]
fn a_cut_is_the_same_in_any_order() {
    let mut bases = many().into_iter().step_by(31).collect::<Vec<_>>();
    let cut = |bases: &[String]| {
        let (_folder, path) = file("cut", bases.join("\n"));
        let sorted = |shard: &Value| base_images(shard).into_iter().collect::<BTreeSet<_>>();
        shards(&path, 4, &[]).iter().map(sorted).collect::<Vec<_>>()
    };
    let first = cut(&bases);
    assert_eq!(cut(&bases), first);
    bases.reverse();
    assert_eq!(cut(&bases), first);
}

#[test]
fn of_all_shards_one_writes_the_shared_cache() {
    // Jobs that list the same base images in different orders agree on it, too.
    let (_folder, path) = file("writer", "d\nc\nb\na\ne");
    let (_other, reversed) = file("writer-reversed", "e\na\nb\nc\nd");
    let writers = |shard: &Value| {
        let targets = shard["target"].as_object().unwrap().values();
        let shared = |entry: &&str| entry.contains("buildcache-shared-");
        let writers = targets.filter(|target| strings(&target["cache-to"]).iter().any(shared));
        writers.map(|target| target["args"]["BASE_IMAGE"].clone()).collect::<Vec<_>>()
    };
    for path in [path, reversed] {
        let shards = shards(&path, 3, &["--push"]);
        assert_eq!(shards.iter().flat_map(writers).collect::<Vec<_>>(), ["a"]);
    }
}

#[test]
fn a_shard_has_the_tags_and_the_cache_folders_of_the_whole() {
    // A shard of one image is no run with one base image.
    let (_folder, path) = file("whole", "a:1\nb:1");
    for shard in shards(&path, 2, &["--variant=java"]) {
        let [target] = shard["target"].as_object().unwrap().values().collect::<Vec<_>>()[..] else {
            panic!("{shard:#}")
        };
        assert_eq!(strings(&target["tags"]).len(), 1);
        assert!(strings(&target["tags"])[0].ends_with("_tag_1"));
    }
    let folder = Xtask::print(&["--base-images", &path, "--shard=1/2"]);
    let target = folder.env("BUILD_CACHE_DIR", "/cache").target();
    assert_eq!(target["cache-from"], json!(["type=local,src=/cache/python-a_tag_1"]));
    let variants = Xtask::print(&["--variant=all", "--shard=2/3"]).definition();
    assert_eq!(names(&variants), ["golang"]);
}

#[test]
fn a_wrong_request_is_refused_by_every_shard() {
    for shard in ["--shard=1/3", "--shard=3/3"] {
        let args =
            ["image", "--push", "--base-image=a", "--base-image=b", "--custom-tags=x", shard];
        let said = Xtask::new(&args).on("x").refused();
        assert!(said.contains("would both be"), "{said}");
    }
}

#[test]
fn a_shard_may_be_one_of_very_many() {
    let far = format!("--shard={0}/{0}", usize::MAX);
    assert_eq!(names(&Xtask::print(&[&far]).definition()), [""; 0]);
}
