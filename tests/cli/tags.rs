//! Names of images: valid, unlike for unlike inputs, and owned by one ref where they move; and the
//! cases that the Python helper computed. Tags and caches must be the same, but where two different
//! inputs would get one name there, or a name that no registry takes.

use std::collections::BTreeSet;

use super::{SLUG, debian, refs, tags};
use crate::support::{CACHE_MODE, SHA, SHARED_CACHE, Xtask, is_valid_tag, strings};
use serde_json::Value;

#[test]
fn release_tags_follow_the_version_and_the_git_tag() {
    let tagged = |git_ref: &str, version: &str| {
        let call = debian(&["--push", "--versioned-tag", "--custom-tags=t"]);
        let target = call.env("SDK_REF", git_ref).env("SDK_VERSION", version).target();
        let known = ["0123456-t", &format!("{SHA}-t"), "x-t", &format!("0123456-{SLUG}")];
        tags(&target).into_iter().filter(|tag| !known.contains(&tag.as_str())).collect::<Vec<_>>()
    };
    assert_eq!(tagged("x", "1.2.3"), ["1-t", "1.2-t", "1.2.3-t"]);
    assert_eq!(tagged("refs/tags/v9.9.9", "1.2.3"), ["1-t", "1.2-t", "1.2.3-t"]);
    assert_eq!(tagged("refs/tags/v9.8.7", "unknown"), ["9-t", "9.8-t", "9.8.7-t"]);
    assert_eq!(tagged("refs/tags/9.8.7", "unknown"), ["9-t", "9.8-t", "9.8.7-t"]);
    assert_eq!(tagged("refs/tags/v1.2.3-rc.1", "1.2.3"), ["v1.2.3-rc.1-t"]);
    assert_eq!(tagged("refs/tags/build-docker", "1.2.3"), ["build-docker-t"]);
    assert_eq!(tagged("x", "1.2.3rc1"), ["1.2.3rc1-t"]);
    assert_eq!(tagged("x", " 4.5.6 "), ["4-t", "4.5-t", "4.5.6-t"]);
    // As without a word.
    assert_eq!(tagged("x", " "), ["1-t", "1.2-t", "1.2.3-t"]);
    assert!(tagged("x", "unknown").is_empty());
    // Without a word on the version it is the one that the requirements pin.
    assert_eq!(tagged("x", ""), ["1-t", "1.2-t", "1.2.3-t"]);
}

#[test]
fn every_tag_is_valid_and_no_two_inputs_share_one() {
    let long = "x".repeat(200);
    // Each cleans to something that no registry takes, or to a name of its own.
    let refs = [
        "日本語",
        "中文",
        "-rf",
        "--help",
        "a\"b",
        "$(id)",
        "`id`",
        "${HOME}",
        "%{ if }",
        "..",
        ".",
        "_",
        "refs/heads/-",
        "é",
        "\u{202e}x",
        "'",
        "\n",
        "x\ny",
    ];
    let bases = [
        "debian:trixie-slim".to_owned(),
        format!("r.io/a@sha256:{}", "0".repeat(64)),
        format!("r.io/a:1@sha256:{}", "1".repeat(64)),
        "a@sha256:ee2f".to_owned(),
        "A/b:1.0+c".to_owned(),
        format!("r.io/{long}:{long}"),
        format!("r.io/{long}"),
    ];
    let customs = ["t", "a:b", "a/b", "é", "-x", &long];
    let mut all = BTreeSet::new();
    let mut count = 0;
    let mut check = |git_ref: &str, base: &str, custom: &str| {
        let args = ["--push", "--versioned-tag", "--arch=arm64", "--base-image", base];
        let target = Xtask::print(&[&args[..], &["--custom-tags", custom]].concat())
            .env("SDK_REF", git_ref)
            .env("SDK_VERSION", "1.2.3+local")
            .target();
        for tag in tags(&target) {
            assert!(is_valid_tag(&tag), "{tag:?} from {git_ref:?} {base:?} {custom:?}");
        }
        for cached in refs_of(&target) {
            assert!(is_valid_tag(&cached), "{cached:?} from {git_ref:?} {base:?} {custom:?}");
        }
        all.insert(tags(&target).join(" "));
        count += 1;
    };
    for git_ref in
        refs.iter().map(ToString::to_string).chain([format!("{long}a"), format!("{long}b")])
    {
        check(&git_ref, "debian:trixie-slim", "t");
    }
    for base in &bases[1..] {
        check("x", base, "t");
    }
    for custom in &customs[1..] {
        check("x", "debian:trixie-slim", custom);
    }
    assert_eq!(all.len(), count);
}

#[test]
fn a_long_name_keeps_its_last_segment() {
    let base =
        "registry.example.com/team-alpha/evaluation-images-2026/s_project-with-long-name:latest";
    let tags = tags(&Xtask::print(&["--base-image", base]).target());
    assert_eq!(tags, ["0123456-s_project-with-long-name_tag_latest-6ae0b05ce021"]);
}

fn refs_of(target: &Value) -> Vec<String> {
    ["cache-from", "cache-to"]
        .iter()
        .flat_map(|key| refs(&target[key]))
        .map(str::to_owned)
        .collect()
}

#[test]
fn tags_that_move_have_one_owner() {
    // A commit can be any word, or digits alone.
    let of = |sha: &str| tags(&debian(&[]).env("SDK_REF", "x").env("SDK_SHA", sha).target());
    assert_eq!(of("12345671234567")[0], "1234567-debian");
    for word in ["main", "latest", "1"] {
        let tags = of(word);
        for tail in ["debian", SLUG] {
            let tag = format!("{word}-{tail}");
            assert!(!tags.contains(&tag), "{tags:?}");
            assert!(tags.iter().any(|closed| closed.starts_with(&format!("{tag}-"))), "{tags:?}");
        }
    }
    let tags = |git_ref: &str, args: &[&str]| tags(&debian(args).env("SDK_REF", git_ref).target());
    for git_ref in ["main", "refs/heads/main"] {
        assert!(tags(git_ref, &[]).contains(&"main-debian".to_owned()));
    }
    // A commit can be any word, or digits alone.
    for name in ["main", "Main", "latest", "1", "v1", "1.58", "1.58.0", "v1.58.0"] {
        let head = format!("{}-debian", name.to_lowercase());
        if name != "main" {
            assert!(!tags(&format!("refs/heads/{name}"), &[]).contains(&head), "branch {name}");
        }
        let is_version = name.matches('.').count() == 2;
        let released = tags(&format!("refs/tags/{name}"), &["--versioned-tag"]);
        assert!(is_version || !released.contains(&head), "tag {name}: {released:?}");
    }
    // With other custom tags these would be main's, or a release's.
    for name in ["main-python", "main/x", "latest-python", "1.58.2-python", "v1.58-x"] {
        let tag = format!("{}-debian", name.replace('/', "-"));
        let closed = tags(&format!("refs/heads/{name}"), &[]);
        assert!(!closed.contains(&tag), "{closed:?}");
        assert!(closed.iter().any(|closed| closed.starts_with(&format!("{tag}-"))), "{closed:?}");
    }
    assert!(tags("12-fix", &[]).contains(&"12-fix-debian".to_owned()));
    let candidate = tags("refs/tags/1.58.0-rc.1", &["--versioned-tag"]);
    assert!(candidate.contains(&"1.58.0-rc.1-debian".to_owned()), "{candidate:?}");
    assert!(tags("refs/tags/1.58.0", &["--versioned-tag"]).contains(&"1-debian".to_owned()));
}

/// The call that stands for a case. The helper takes the whole state of a build; what is empty
/// there is not known here, since an empty variable counts as unset.
fn call(input: &Value) -> Xtask {
    let text = |key: &str| input[key].as_str().unwrap_or_default().to_owned();
    let known = |key: &str| Some(text(key)).filter(|s| !s.is_empty()).unwrap_or("unknown".into());
    let mut args = vec![
        "--push".to_owned(),
        format!("--base-image={}", text("base_image")),
        format!("--custom-tags={}", strings(&input["custom_tags"]).join(",")),
        format!("--image={}", text("image")),
        format!("--target={}", text("target")),
    ];
    args.extend(input["image_flavor"].as_str().map(|name| format!("--image-flavor={name}")));
    args.extend(input["arch"].as_str().map(|arch| format!("--arch={arch}")));
    args.extend(input["release"].as_bool().filter(|&on| on).map(|_| "--versioned-tag".to_owned()));
    Xtask::print(&args.iter().map(String::as_str).collect::<Vec<_>>())
        .env("SDK_SHA", known("git_sha"))
        .env("SDK_REF", known("git_ref"))
        .env("SDK_VERSION", known("sdk_version"))
        .env(CACHE_MODE, text("cache_mode"))
        .env(SHARED_CACHE, text("shared_export"))
}

/// Is `tag` `expected`, or, where a registry would refuse that, a valid tag closed by a digest?
fn same_tag(tag: &str, expected: &str) -> bool {
    let closed = || {
        let (head, digest) = tag.rsplit_once('-').unwrap_or_default();
        is_valid_tag(tag)
            && digest.len() == 12
            && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
            && expected.trim_start_matches('-').starts_with(&head[..1])
    };
    if is_valid_tag(expected) { tag == expected } else { closed() }
}

fn check_refs(case: &Value, refs: &[&str], expected: &[String]) {
    assert_eq!(refs.len(), expected.len(), "{case:#}\n{refs:#?}");
    for (reference, expected) in refs.iter().zip(expected) {
        let (image, tag) = reference.rsplit_once(':').unwrap();
        assert_eq!(image, case["input"]["image"], "{case:#}");
        assert!(same_tag(tag, expected), "{tag} is not {expected}: {case:#}");
    }
}

/// What the helper calls a cache, with the architecture that this tool adds before the scope.
fn with_arch(case: &Value, reference: &str) -> String {
    let tag = reference.rsplit_once(':').unwrap().1;
    let (target, slug) = (&case["input"]["target"], &case["expected"]["base_image_slug"]);
    let (target, slug) = (target.as_str().unwrap(), slug.as_str().unwrap());
    let caches = [format!("buildcache-shared-{target}"), format!("buildcache-{target}-{slug}")];
    let cache = caches.iter().find(|cache| tag.starts_with(*cache)).unwrap();
    let arch = case["input"]["arch"].as_str().map(|arch| format!("-{arch}")).unwrap_or_default();
    format!("{cache}{arch}{}", &tag[cache.len()..])
}

/// The value of `name` in each of the cache entries, such as `type=registry,ref=…,mode=max`.
fn attributes<'a>(entries: &[&'a str], name: &str) -> Vec<&'a str> {
    let value = |entry: &&'a str| {
        entry.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap()
    };
    entries.iter().map(value).collect()
}

fn check_caches(case: &Value, target: &Value) {
    // The helper's scope for an empty ref is `unknown`; here it is a ref that is not known.
    if case["input"]["git_ref"] == "" {
        return;
    }
    // Nothing but main may read as main, which is what the helper calls a branch `Main` too.
    let (from, to) = (strings(&target["cache-from"]), strings(&target["cache-to"]));
    let (read, written) = (attributes(&from, "ref"), attributes(&to, "ref"));
    if is_impostor(case) {
        assert_eq!(read.len(), 4, "{case:#}");
        assert!(written.iter().all(|written| !written.ends_with("-main")), "{written:#?}");
        return;
    }
    let expected = strings(&case["expected"]["cache_from"]);
    let expected = expected.iter().map(|from| with_arch(case, from)).collect::<Vec<_>>();
    check_refs(case, &read, &expected);
    let expected = case["expected"]["cache_to"].as_array().unwrap();
    let modes = expected.iter().map(|to| to["mode"].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(attributes(&to, "mode"), modes, "{case:#}");
    let expected = expected.iter().map(|to| with_arch(case, to["ref"].as_str().unwrap()));
    check_refs(case, &written, &expected.collect::<Vec<_>>());
}

/// Is it of a branch that is called like main, but for case?
fn is_impostor(case: &Value) -> bool {
    let git_ref = case["input"]["git_ref"].as_str().unwrap();
    git_ref != "refs/heads/main" && git_ref.eq_ignore_ascii_case("refs/heads/main")
}

/// The tags of the target. Those of a branch `Main` are closed by a digest, since they would move
/// main's own; they are compared without it.
fn tags_to_compare<'a>(case: &Value, target: &'a Value) -> Vec<&'a str> {
    let mut tags = strings(&target["tags"]);
    if is_impostor(case) {
        for tag in tags.iter_mut().filter(|tag| tag.contains(":main-")) {
            *tag = &tag[..tag.len() - 13];
        }
    }
    tags
}

/// The newest helper's cases with flavors. It has no shared cache any more, so only the image's own
/// is compared, and it reads main's scope twice on main.
#[test]
fn the_newest_helpers_cases_hold_with_flavors() {
    let cases = include_str!("../vectors/flavors.jsonl").lines().collect::<Vec<_>>();
    assert_eq!(cases.len(), 60);
    for case in cases {
        let mut case: Value = serde_json::from_str(case).unwrap();
        let image = case["input"]["image"].as_str().unwrap().to_owned();
        if image != image.to_lowercase() {
            assert!(call(&case["input"]).refused().contains(&image));
            continue;
        }
        let mut target = call(&case["input"]).target();
        let tag = |tag: &str| tag.strip_prefix(&format!("{image}:")).unwrap().to_owned();
        let mut expected =
            strings(&case["expected"]["tags"]).into_iter().map(tag).collect::<Vec<_>>();
        let mut seen = std::collections::BTreeSet::new();
        expected.retain(|tag| seen.insert(tag.clone()));
        check_refs(&case, &tags_to_compare(&case, &target), &expected);
        for key in ["cache-from", "cache-to"] {
            let is_own = |entry: &Value| !entry.as_str().unwrap().contains(":buildcache-shared-");
            target[key].as_array_mut().unwrap().retain(|entry| is_own(entry) || is_impostor(&case));
        }
        let read = case["expected"]["cache_from"].as_array_mut().unwrap();
        read.dedup();
        // The flavor ends the slug, before the architecture.
        let flavor = case["input"]["image_flavor"].as_str().unwrap();
        let flavor = if flavor == "default" { String::new() } else { format!("-{flavor}") };
        let slug = case["expected"]["base_image_slug"].as_str().unwrap().to_owned() + &flavor;
        case["expected"]["base_image_slug"] = slug.into();
        check_caches(&case, &target);
    }
}

#[test]
fn the_helpers_cases_hold() {
    let cases = include_str!("../vectors/upstream.jsonl").lines().collect::<Vec<_>>();
    assert_eq!(cases.len(), 60);
    for case in cases {
        let case: Value = serde_json::from_str(case).unwrap();
        let image = case["input"]["image"].as_str().unwrap();
        if image != image.to_lowercase() {
            assert!(call(&case["input"]).refused().contains(image));
            continue;
        }
        let target = call(&case["input"]).target();
        let expected = strings(&case["expected_tags_latest"])
            .into_iter()
            .map(|tag| tag.rsplit_once(&format!("{image}:")).unwrap().1.to_owned())
            .collect::<Vec<_>>();
        check_refs(&case, &tags_to_compare(&case, &target), &expected);
        check_caches(&case, &target);
    }
}
