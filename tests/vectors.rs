//! The cases that the Python helper computed. Tags and caches must be the same, but where two
//! different inputs would get one name there, or a name that no registry takes.

use crate::support::{Xtask, is_valid_tag, strings};
use serde_json::Value;

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
        .env("OPENHANDS_BUILDKIT_CACHE_MODE", text("cache_mode"))
        .env("OPENHANDS_SHARED_REGISTRY_CACHE_EXPORT", text("shared_export"))
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
    let cases = include_str!("flavors.jsonl").lines().collect::<Vec<_>>();
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
    let cases = include_str!("upstream.jsonl").lines().collect::<Vec<_>>();
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
