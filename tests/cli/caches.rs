//! Caches that `--print` shows: which are read and written, and in which mode.

use super::{SLUG, debian, refs};
use crate::support::{CACHE_MODE, CACHE_TIMEOUT, IMAGE, SHARED_CACHE, Xtask, strings};
use serde_json::{Value, json};

#[test]
fn push_reads_the_scopes_in_order_and_writes_the_images_own() {
    let target = debian(&["--push"]).env("SDK_REF", "refs/heads/feat/x").target();
    assert_eq!(target["output"], json!(["type=registry"]));
    assert_eq!(
        refs(&target["cache-from"]),
        [
            format!("buildcache-binary-{SLUG}-feat-x"),
            format!("buildcache-binary-{SLUG}-main"),
            "buildcache-shared-binary-feat-x".to_owned(),
            "buildcache-shared-binary-main".to_owned(),
        ]
    );
    let write = format!(
        "type=registry,ref={IMAGE}:buildcache-binary-{SLUG}-feat-x,mode=max,image-manifest=true,\
         oci-mediatypes=true,ignore-error=true"
    );
    assert_eq!(target["cache-to"], json!([write]));
}

#[test]
fn caches_have_the_repository_that_they_are_given() {
    let own = debian(&["--push"]).target();
    let flag = debian(&["--push", "--cache-image=r.io/c"]).target();
    let variable = debian(&["--push"]).env("OPENHANDS_CACHE_IMAGE", "r.io/c").target();
    for apart in [flag, variable] {
        assert_eq!(apart["tags"], own["tags"]);
        for key in ["cache-from", "cache-to"] {
            let entries = strings(&own[key]).into_iter();
            let moved =
                entries.map(|e| e.replace("ref=ghcr.io/openhands/agent-server:", "ref=r.io/c:"));
            assert_eq!(strings(&apart[key]), moved.collect::<Vec<_>>());
        }
    }
    let folder = debian(&["--load", "--cache-image=r.io/c"]).env("BUILD_CACHE_DIR", "/a").target();
    assert!(!folder["cache-from"].to_string().contains("r.io"));
}

#[test]
fn main_reads_no_branch_and_each_ref_once() {
    for main in ["main", "refs/heads/main"] {
        let target = debian(&["--push"]).env("SDK_REF", main).target();
        let expected =
            [format!("buildcache-binary-{SLUG}-main"), "buildcache-shared-binary-main".to_owned()];
        assert_eq!(refs(&target["cache-from"]), expected);
        assert_eq!(refs(&target["cache-to"]), expected[..1]);
    }
}

#[test]
fn the_mode_rules_every_export_and_no_import() {
    let branch = |mode: &str| {
        debian(&["--push"])
            .env("SDK_REF", "x")
            .env(CACHE_MODE, mode)
            .env(SHARED_CACHE, "1")
            .target()
    };
    let modes = |target: &Value| -> Vec<String> {
        let mode = |entry: &str| entry.split("mode=").nth(1).unwrap()[..3].to_owned();
        strings(&target["cache-to"]).into_iter().map(mode).collect()
    };
    assert_eq!(modes(&branch("max")), ["max", "max"]);
    assert_eq!(modes(&branch("")), ["max", "max"]);
    assert_eq!(modes(&branch(" MIN ")), ["min", "min"]);
    assert!(modes(&branch("off")).is_empty());
    assert_eq!(branch("off")["cache-from"], branch("max")["cache-from"]);

    let local = |mode: &str| {
        debian(&["--load"]).env("BUILD_CACHE_DIR", "/cache").env(CACHE_MODE, mode).target()
    };
    assert_eq!(modes(&local("min")), ["min"]);
    assert_eq!(local("off")["cache-to"], json!([]));
    assert_eq!(local("off")["cache-from"], json!(["type=local,src=/cache"]));
}

#[test]
fn the_shared_cache_is_exported_on_demand_by_one_target() {
    let written = |shared: &str| {
        let call = Xtask::print(&["--push", "--variant=all", "--arch=arm64"]);
        let definition = call.env("SDK_REF", "x").env(SHARED_CACHE, shared).definition();
        let targets = definition["target"].as_object().unwrap().clone();
        assert_eq!(targets.len(), 4);
        targets.values().flat_map(|target| refs(&target["cache-to"])).fold(0, |count, written| {
            count + usize::from(written == "buildcache-shared-binary-arm64-x")
        })
    };
    for on in ["1", "true", "YES", "on"] {
        assert_eq!(written(on), 1, "{on}");
    }
    for off in ["", "0", "false", "no", "off"] {
        assert_eq!(written(off), 0, "{off}");
    }
}

#[test]
fn all_base_images_share_one_cache_in_every_scope() {
    let long = "x".repeat(200);
    for git_ref in ["x", "main", "refs/heads/Main", "foo/main", &long] {
        let written = |base: &str| {
            let call = Xtask::print(&["--push", "--base-image", base]).env("SDK_REF", git_ref);
            let target = call.env(SHARED_CACHE, "1").target();
            refs(&target["cache-to"]).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let (one, other) = (written("debian:12"), written("debian:13"));
        assert_ne!(one[0], other[0], "{git_ref}");
        assert_eq!(one[1], other[1], "{git_ref}");
    }
}

#[test]
fn a_forks_pull_request_reads_caches_and_writes_none() {
    let fork = debian(&["--load"]).env("CI", "true").env("SDK_REF", "refs/pull/7/merge");
    let target = fork.env("BUILD_CACHE_DIR", "/cache").target();
    assert_eq!(
        refs(&target["cache-from"])[0],
        format!("buildcache-binary-{SLUG}-refs-pull-7-merge")
    );
    assert_eq!(strings(&target["cache-from"]).len(), 4);
    assert_eq!(target["cache-to"], json!([]));
}

#[test]
fn a_local_build_has_the_folder_that_it_was_given_or_none() {
    let target = debian(&["--load"]).target();
    assert_eq!((&target["cache-from"], &target["cache-to"]), (&json!([]), &json!([])));
    let target = debian(&["--load"]).env("BUILD_CACHE_DIR", "/a,b").target();
    assert_eq!(target["cache-from"], json!([r#"type=local,"src=/a,b""#]));
    assert!(strings(&target["cache-to"])[0].starts_with(r#"type=local,"dest=/a,b",mode=max"#));
}

#[test]
fn several_targets_never_share_a_cache_folder() {
    let definition =
        Xtask::print(&["--variant=debian,python"]).env("BUILD_CACHE_DIR", "/cache").definition();
    let folder = |name: &str| strings(&definition["target"][name]["cache-to"])[0].to_owned();
    assert!(folder("debian").starts_with("type=local,dest=/cache/debian,"));
    assert!(folder("python").starts_with("type=local,dest=/cache/python,"));
}

#[test]
fn caches_of_architectures_are_apart() {
    let target = debian(&["--push", "--arch", "arm64"]).env("SDK_REF", "x").target();
    assert_eq!(refs(&target["cache-to"]), [format!("buildcache-binary-{SLUG}-arm64-x")]);
    assert_eq!(refs(&target["cache-from"])[3], "buildcache-shared-binary-arm64-main");
}

#[test]
fn nothing_but_main_reads_as_main() {
    let others = [
        "Main",
        "refs/heads/MAIN",
        "refs/tags/main",
        "refs/heads/refs/heads/main",
        "refs/pull/main",
        "slim-main",
        "unknown",
        "main-python",
        "ma in",
    ];
    let mains = |base: &str| {
        let target = Xtask::print(&["--push", "--base-image", base]).target();
        strings(&target["cache-to"])[0].to_owned()
    };
    let trusted = ["debian:trixie", "debian:trixie-slim", "debian:trixie-main"].map(mains);
    for git_ref in others {
        for base in ["debian:trixie", "debian:trixie-slim", "debian:trixie-main"] {
            let target = Xtask::print(&["--push", "--base-image", base])
                .env("SDK_REF", git_ref)
                .env(SHARED_CACHE, "1")
                .target();
            for written in strings(&target["cache-to"]) {
                assert!(!trusted.contains(&written.to_owned()), "{git_ref}: {written}");
                assert!(!written.contains("-main,"), "{git_ref}: {written}");
            }
        }
    }
}

#[test]
fn a_timeout_is_a_number_of_seconds_or_has_a_unit() {
    for value in ["", "90", "5m", "1h", " 30s "] {
        Xtask::print(&["--variant=debian"]).env(CACHE_TIMEOUT, value).definition();
    }
}
