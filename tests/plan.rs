//! `cargo xtask image --print`: what is built, tagged and cached for every flag and variable.
//! No docker is needed, and none is called.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use crate::support::{Ended, Folder, SHA, Xtask, is_valid_tag, strings};
use serde_json::{Value, json};

const IMAGE: &str = "ghcr.io/openhands/agent-server";

/// The tags of a target without the repository.
fn tags(target: &Value) -> Vec<String> {
    let tag = |tag: &str| tag.strip_prefix(&format!("{IMAGE}:")).unwrap().to_owned();
    strings(&target["tags"]).into_iter().map(tag).collect()
}

/// The refs of cache entries without the repository; other entries as they are.
fn refs(entries: &Value) -> Vec<&str> {
    let head = format!("type=registry,ref={IMAGE}:");
    strings(entries)
        .into_iter()
        .map(|entry| entry.strip_prefix(&head).unwrap_or(entry))
        .map(|entry| entry.split(",mode=").next().unwrap())
        .collect()
}

fn debian(args: &[&str]) -> Xtask {
    Xtask::print(&[&["--variant", "debian"], args].concat())
}

const SLUG: &str = "debian_tag_trixie-slim";

#[test]
fn a_build_needs_nothing_but_its_name() {
    let definition = Xtask::print(&[]).definition();
    assert_eq!(definition["group"]["default"]["targets"], json!(["python"]));
    let python = &definition["target"]["python"];
    assert_eq!(python["target"], "binary");
    assert_eq!(python["platforms"], json!([]));
    assert_eq!(python["output"], json!(["type=docker"]));
    assert_eq!(python["args"]["BASE_IMAGE"], "example/python:3");
    assert_eq!(python["args"]["OPENHANDS_BUILD_GIT_SHA"], SHA);
    assert_eq!(
        tags(python),
        [
            "0123456-python",
            "0123456789abcdef0123456789abcdef01234567-python",
            "main-python",
            "0123456-example_s_python_tag_3",
        ]
    );
}

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
    assert!(debian(&["--cache-image=A"]).refused().contains("--cache-image"));
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
            .env("OPENHANDS_BUILDKIT_CACHE_MODE", mode)
            .env("OPENHANDS_SHARED_REGISTRY_CACHE_EXPORT", "1")
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
        debian(&["--load"])
            .env("BUILD_CACHE_DIR", "/cache")
            .env("OPENHANDS_BUILDKIT_CACHE_MODE", mode)
            .target()
    };
    assert_eq!(modes(&local("min")), ["min"]);
    assert_eq!(local("off")["cache-to"], json!([]));
    assert_eq!(local("off")["cache-from"], json!(["type=local,src=/cache"]));
}

#[test]
fn the_shared_cache_is_exported_on_demand_by_one_target() {
    let written = |shared: &str| {
        let call = Xtask::print(&["--push", "--variant=all", "--arch=arm64"]);
        let definition = call
            .env("SDK_REF", "x")
            .env("OPENHANDS_SHARED_REGISTRY_CACHE_EXPORT", shared)
            .definition();
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
                .env("OPENHANDS_SHARED_REGISTRY_CACHE_EXPORT", "1")
                .target();
            for written in strings(&target["cache-to"]) {
                assert!(!trusted.contains(&written.to_owned()), "{git_ref}: {written}");
                assert!(!written.contains("-main,"), "{git_ref}: {written}");
            }
        }
    }
}

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
    assert!(tagged("x", "unknown").is_empty());
    // Without a word on the version it is the one that the requirements pin.
    assert_eq!(tagged("x", ""), ["1-t", "1.2-t", "1.2.3-t"]);
}

#[test]
fn variants_and_base_images_multiply_to_targets() {
    let definition = Xtask::print(&["--variant", "python", "--variant=java,golang"]).definition();
    assert_eq!(definition["group"]["default"]["targets"], json!(["python", "java", "golang"]));

    let two = ["--base-image", "debian:12", "--base-image", "registry.example.com/a/b@sha256:0"];
    let definition = Xtask::print(&two).definition();
    let targets = strings(&definition["group"]["default"]["targets"]);
    assert_eq!(targets.len(), 2);
    assert_eq!(tags(&definition["target"][targets[0]]), ["0123456-debian_tag_12"]);

    let named = Xtask::print(&["--variant=java", "--base-image=debian:12"]).definition();
    assert_eq!(named["target"]["java"]["args"]["BASE_IMAGE"], "debian:12");
    assert_eq!(tags(&named["target"]["java"])[0], "0123456-java");
}

#[test]
fn one_tag_names_one_image() {
    let shared = ["--base-image=a", "--base-image=b", "--custom-tags=t"];
    assert!(Xtask::print(&shared).refused().contains("0123456-t"));
    let same_slug = ["--base-image=a/b", "--base-image=a_s_b"];
    let said = Xtask::print(&same_slug).refused();
    for part in ["0123456-a_s_b", " a/b ", " a_s_b "] {
        assert!(said.contains(part), "{said} lacks {part:?}");
    }
}

#[test]
fn one_target_has_one_name() {
    let targets = |bases: &[&str]| {
        let flags = bases.iter().map(|base| format!("--base-image={base}")).collect::<Vec<_>>();
        let flags = flags.iter().map(String::as_str).collect::<Vec<_>>();
        Xtask::print(&flags)
    };
    let names = |bases: &[&str]| {
        let definition = targets(bases).definition();
        let names = strings(&definition["group"]["default"]["targets"]);
        assert_eq!(names.len(), definition["target"].as_object().unwrap().len(), "{names:?}");
        assert!(names.iter().all(|name| !name.contains('.')), "{names:?}");
        for (name, base) in names.iter().zip(bases) {
            assert_eq!(definition["target"][name]["args"]["BASE_IMAGE"], *base);
        }
        names.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let alike = names(&["a.b", "a_b", "c.d"]);
    assert_eq!(alike[2], "python-c_d", "only what is alike needs a digest");
    assert_eq!(names(&["a_b", "c.d", "a.b"])[0], alike[1], "in any order");
    // Somebody who knows the digest can still make a name twice, but not lose an image so.
    let forged = alike[0].strip_prefix("python-").unwrap();
    assert!(targets(&["a.b", "a_b", forged]).refused().contains(&alike[0]));
}

#[test]
fn a_flag_beats_its_variable_and_the_variable_beats_the_default() {
    let image = |tag: &str| format!("{IMAGE}:{tag}");
    let cases = [
        ("--variant", "VARIANT", "debian", "java", "/args/BASE_IMAGE", "debian:trixie-slim"),
        ("--base-image", "BASE_IMAGE", "a:1", "b:1", "/args/BASE_IMAGE", "a:1"),
        ("--target", "TARGET", "source", "binary-minimal", "/target", "source"),
        ("--platforms", "PLATFORMS", "linux/arm64", "linux/amd64", "/platforms/0", "linux/arm64"),
        ("--image", "IMAGE", "r.io/a", "r.io/b", "/tags/0", "r.io/a:0123456-python"),
        ("--custom-tags", "CUSTOM_TAGS", "a", "b", "/tags/0", &image("0123456-a")),
        ("--arch", "ARCH", "a", "b", "/tags/0", &image("0123456-python-a")),
    ];
    for (flag, variable, wanted, other, place, expected) in cases {
        let value = |call: Xtask| call.target().pointer(place).cloned().unwrap_or_default();
        assert_eq!(value(Xtask::print(&[flag, wanted]).env(variable, other)), expected, "{flag}");
        assert_eq!(value(Xtask::print(&[]).env(variable, wanted)), expected, "{variable}");
        let default = value(Xtask::print(&[]));
        assert_eq!(value(Xtask::print(&[]).env(variable, "")), default, "{variable}");
        assert_ne!(default, expected, "{variable}");
    }
}

#[test]
fn delivery_follows_flag_then_variable_then_ci() {
    let output = |flags: &[&str], variables: &[(&str, &str)]| {
        let call = variables.iter().fold(Xtask::print(flags), |call, (k, v)| call.env(k, v));
        strings(&call.target()["output"])[0].to_owned()
    };
    let (push, load) = ("type=registry", "type=docker");
    assert_eq!(output(&[], &[]), load);
    assert_eq!(output(&[], &[("CI", "true")]), push);
    assert_eq!(output(&[], &[("CI", "woodpecker")]), push);
    assert_eq!(output(&[], &[("GITHUB_ACTIONS", "true")]), push);
    for off in ["false", "0", "No", " off "] {
        assert_eq!(output(&[], &[("CI", off)]), load, "{off:?}");
    }
    assert_eq!(output(&[], &[("CI", "true"), ("LOAD", "1")]), load);
    assert_eq!(output(&[], &[("CI", "true"), ("PUSH", "0")]), load);
    assert_eq!(output(&[], &[("PUSH", "1")]), push);
    assert_eq!(output(&["--load"], &[("PUSH", "1")]), load);
    assert_eq!(output(&["--push"], &[("LOAD", "1")]), push);
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

fn refs_of(target: &Value) -> Vec<String> {
    ["cache-from", "cache-to"]
        .iter()
        .flat_map(|key| refs(&target[key]))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_hostile_ref_reaches_bake_as_text() {
    let hostile = "x\"\n$(touch /tmp/pwned) ${HOME} %{ if true }";
    let target = debian(&[]).env("SDK_REF", hostile).target();
    assert_eq!(
        target["args"]["OPENHANDS_BUILD_GIT_REF"],
        "x\"\n$(touch /tmp/pwned) $${HOME} %%{ if true }",
        "bake reads strings as templates"
    );
}

#[test]
fn the_hosts_bundle_and_proxies_reach_run_steps_by_secret_and_argument() {
    let folder = Folder::new("bundle");
    let bundle = folder.0.join("bundle.crt");
    std::fs::write(&bundle, "").unwrap();
    let call = debian(&[]).env("SSL_CERT_FILE", &bundle);
    let target = call.env("HTTPS_PROXY", "http://proxy:3128").target();
    let secret = format!("type=file,id=ca-certificates,src={}", bundle.display());
    assert_eq!(target["secret"], json!([secret]));
    assert_eq!(target["args"]["HTTPS_PROXY"], "http://proxy:3128");
    assert!(debian(&[]).env("SSL_CERT_FILE", "/no/such").target().get("secret").is_none());
}

#[test]
fn a_wrong_request_is_refused_with_what_is_accepted() {
    let refused = |args: &[&str], name: &str, value: &str| {
        let call = Xtask::new(args);
        if name.is_empty() { call.refused() } else { call.env(name, value).refused() }
    };
    let mode = "OPENHANDS_BUILDKIT_CACHE_MODE";
    let shared = "OPENHANDS_SHARED_REGISTRY_CACHE_EXPORT";
    let cases: &[(&[&str], &str, &str, &[&str])] = &[
        (&["image"], mode, "maximum", &["maximum", "off", "min", "max"]),
        (&["image"], shared, "maybe", &["maybe", "true", "yes", "on", "false", "no", "off"]),
        (&["image"], "PUSH", "y", &["PUSH", "\"y\""]),
        (&["image"], "VERSIONED_TAG", "2", &["VERSIONED_TAG", "\"2\""]),
        (
            &["image", "--variant", "pyton"],
            "",
            "",
            &["pyton", "debian", "golang", "java", "python"],
        ),
        (&["image"], "VARIANT", "ruby", &["ruby", "debian", "golang", "java", "python"]),
        (&["image", "--target", "bin"], "", "", &["\"bin\"", "binary-minimal", "source"]),
        (&["image", "--platforms", "linux/arm"], "", "", &["linux/arm\"", "linux/arm64"]),
        (&["image", "--image", "ghcr.io/Me/x"], "", "", &["ghcr.io/Me/x"]),
        (&["image", "--image", "r.io/x:tag"], "", "", &["r.io/x:tag"]),
        (&["image", "--base-image", "a b"], "", "", &["a b", "debian:trixie-slim"]),
        (&["image", "--base-image", "-rm"], "", "", &["-rm"]),
        (&["image", "--arch", "arm/64"], "", "", &["arm/64", "arm64"]),
        (&["image", "--push", "--load"], "", "", &["--push", "--load"]),
        (&["image", "--prebuilt-sdist", "/nowhere"], "", "", &["/nowhere", ".tar.gz", ".whl"]),
        (&["image", "--frob"], "", "", &["--frob", "--help"]),
        (&["image", "--targte", "x"], "", "", &["--targte", "did you mean --target?"]),
        (&["image", "--print", "--port=1"], "", "", &["--port=1", "`cargo xtask image run`"]),
        (&["image", "--arch=a", "--arch=b"], "", "", &["--arch=b", "twice"]),
        (&["image", "matrix", "--", "--pull"], "", "", &["--pull", "image matrix --help"]),
        (&["image"], "OPENHANDS_BUILDKIT_CACHE_TIMEOUT", "10mm", &["10mm", "10m"]),
        (&["image"], "OPENHANDS_BUILDKIT_CACHE_TIMEOUT", "+5m", &["+5m", "10m"]),
        (&["image", "--jobs", "+5"], "", "", &["+5", "1 or more"]),
        (&["image", "--image-flavor", "slm"], "", "", &["slm", "did you mean slim?", "minimal"]),
        (&["image"], "INSTALL_CAPABILITIES", "vscode,vim", &["\"vim\"", "vscode, browser, docker"]),
        (
            &["image", "--install-acp-providers=x"],
            "",
            "",
            &["\"x\"", "claude-code, codex, gemini-cli"],
        ),
        (&["image", "--check", "none"], "", "", &["none", "first, all, off"]),
        (&["image", "--base-images", "/dev/full"], "", "", &["/dev/full", "64 MiB"]),
        (&["image", "--prebuilt-sdist", "/dev/full"], "", "", &["/dev/full"]),
        (&["image", "--target"], "", "", &["--target"]),
        (&["image", "bild"], "", "", &["bild"]),
        (&["image", "merg"], "", "", &["merg", "did you mean merge?"]),
        (&["image", "help", "merg"], "", "", &["merg", "did you mean merge?"]),
        (&["help", "imge"], "", "", &["imge", "did you mean image?"]),
        (&["image", "run", "--port", "x"], "", "", &["\"x\"", "65535"]),
        (&["image", "run", "--variant", "all"], "", "", &["one"]),
        (&["imag"], "", "", &["\"imag\"", "image", "engine"]),
        (&["--frob"], "", "", &["--frob"]),
    ];
    for (args, name, value, parts) in cases {
        let said = refused(args, name, value);
        for part in *parts {
            assert!(said.contains(part), "{args:?} {name}={value}: {said} lacks {part:?}");
        }
    }
}

#[test]
fn help_fits_a_terminal_and_is_of_the_subcommand() {
    let said = |args: &[&str]| {
        let ended = Xtask::new(args).end();
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{args:?}");
        assert!(ended.stdout.lines().all(|line| line.len() <= 80), "{}", ended.stdout);
        ended.stdout
    };
    assert_eq!(said(&["--version"]), "xtask 0.1.0\n");
    assert_eq!(said(&["image", "--version"]), "xtask 0.1.0\n");
    for args in [&[][..], &["--help"], &["help"]] {
        assert_eq!(said(args), said(&["-h"]));
    }
    let build = said(&["image", "--help"]);
    assert!(
        ["  run ", "--target NAME", "--print", "SDK_VERSION"].iter().all(|w| build.contains(w))
    );
    assert!(!build.contains("--port"));
    assert_eq!(said(&["help", "image"]), build);
    assert_eq!(said(&["image", "help"]), build);
    let run = said(&["image", "run", "--help"]);
    assert!(run.contains("--port NUMBER") && !run.contains("--print"), "{run}");
    assert_eq!(said(&["image", "help", "run"]), run);
    assert_eq!(said(&["image", "--help", "run"]), run);
    let merge = said(&["image", "merge", "--help"]);
    assert!(merge.contains("--allow-partial") && !merge.contains("--target"), "{merge}");
}

#[test]
fn capabilities_and_providers_are_arguments() {
    let arg = |call: Xtask, name: &str| call.target()["args"][name].as_str().unwrap().to_owned();
    let cases = [
        (
            "--install-capabilities",
            "INSTALL_CAPABILITIES",
            "vscode,browser,docker",
            "docker,vscode",
            "vscode,docker",
        ),
        (
            "--install-acp-providers",
            "INSTALL_ACP_PROVIDERS",
            "claude-code,codex,gemini-cli",
            " codex ,codex",
            "codex",
        ),
    ];
    for (flag, variable, default, list, expected) in cases {
        assert_eq!(arg(debian(&[]), variable), default);
        assert_eq!(arg(debian(&[flag, list]), variable), expected);
        assert_eq!(arg(debian(&[]).env(variable, list), variable), expected);
        assert_eq!(arg(debian(&[]).env(variable, ""), variable), "", "an empty variable is none");
        assert_eq!(arg(debian(&[&format!("{flag}=")]).env(variable, list), variable), "");
    }
    assert_eq!(arg(debian(&[]), "IMAGE_FLAVOR"), "default");
    for flavor in ["slim", "minimal"] {
        let call = || debian(&[]).env("IMAGE_FLAVOR", flavor);
        assert_eq!(arg(call(), "IMAGE_FLAVOR"), flavor);
        assert_eq!(arg(call(), "INSTALL_ACP_PROVIDERS"), "");
        assert_eq!(tags(&call().target())[0], format!("0123456-debian-{flavor}"));
    }
}

#[test]
fn tags_that_move_have_one_owner() {
    // A commit can be any word, or digits alone.
    let of = |sha: &str| tags(&debian(&[]).env("SDK_REF", "x").env("SDK_SHA", sha).target());
    assert_eq!(of("12345671234567")[0], "1234567-debian");
    for word in ["main", "latest", "1"] {
        assert!(!of(word).contains(&format!("{word}-debian")), "{word}");
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
    assert!(tags("12-fix", &[]).contains(&"12-fix-debian".to_owned()));
    assert!(tags("refs/tags/1.58.0", &["--versioned-tag"]).contains(&"1-debian".to_owned()));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut print = Xtask::print(&[]);
    let mut print = print.0.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(print.stdout.take());
    let ended = Ended::from(print.wait_with_output().unwrap());
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
}

#[test]
fn a_broken_bake_file_is_named_with_the_place() {
    let folder = Folder::checkout("broken");
    let file = folder.0.join("agent-server-image/docker-bake.json");
    let said = |content: &str| {
        std::fs::write(&file, content).unwrap();
        let said = Xtask::within(&folder.0, &["image", "--print"]).refused();
        assert!(said.contains("agent-server-image/docker-bake.json"), "{said}");
        said
    };
    assert!(said("{\n \"target\": }").contains("line 2 column 12"));
    assert!(said("{}").contains("\"target\""));
    assert!(said(r#"{"target": {"a": {}}}"#).contains("target.a.args.BASE_IMAGE"));
    let cycle = r#"{"target": {"a": {"inherits": ["b"]}, "b": {"inherits": ["a"]}}}"#;
    assert!(said(cycle).contains("inherits"));
    std::fs::remove_file(&file).unwrap();
    let said = Xtask::within(&folder.0, &["image", "--print"]).refused();
    assert!(said.contains("docker-bake.json"), "{said}");
}

#[test]
fn commit_and_branch_come_from_variables_then_git_then_nowhere() {
    let folder = Folder::checkout("git");
    let args = |call: Xtask| call.target()["args"].clone();
    let print = || Xtask::within(&folder.0, &["image", "--print", "--variant=debian"]);
    let source = |args: &Value| {
        let text = |key: &str| args[key].as_str().unwrap().to_owned();
        (text("OPENHANDS_BUILD_GIT_SHA"), text("OPENHANDS_BUILD_GIT_REF"))
    };
    let unknown = ("unknown".to_owned(), "unknown".to_owned());
    assert_eq!(source(&args(print())), unknown, "no repository");

    let git = |args: &[&str]| {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"];
        let git = Command::new("git").args(identity).args(args).current_dir(&folder.0).output();
        let git = git.unwrap();
        assert!(git.status.success(), "{git:?}");
        String::from_utf8(git.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "--initial-branch", "feat/x"]);
    let (sha, git_ref) = source(&args(print()));
    assert_eq!((sha.as_str(), git_ref.as_str()), ("unknown", "refs/heads/feat/x"), "no commit yet");
    git(&["commit", "--allow-empty", "--message", "one"]);
    let head = git(&["rev-parse", "HEAD"]);
    assert_eq!(source(&args(print())), (head.clone(), "refs/heads/feat/x".to_owned()));
    git(&["checkout", "--detach"]);
    assert_eq!(source(&args(print())), (head, "unknown".to_owned()), "detached HEAD");

    let github = || print().env("GITHUB_SHA", "b").env("GITHUB_REF", "refs/tags/v1");
    assert_eq!(source(&args(github())), ("b".to_owned(), "refs/tags/v1".to_owned()));
    let sdk = github().env("SDK_SHA", "a").env("SDK_REF", "main");
    assert_eq!(source(&args(sdk)), ("a".to_owned(), "main".to_owned()));
    let empty = github().env("SDK_SHA", "").env("SDK_REF", "");
    assert_eq!(source(&args(empty)), ("b".to_owned(), "refs/tags/v1".to_owned()));
}

#[test]
fn list_says_what_there_is_and_what_it_is_called() {
    let args = ["image", "list", "--variant=java", "--target=source-minimal", "--push"];
    let ended = Xtask::shipped(&args).on("refs/heads/main").env("PATH", "").end();
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
    let parts = [
        "python     nikolaik/python-nodejs:python3.13-nodejs22 (linux/amd64, linux/arm64, the default)",
        "  source-minimal, chosen here",
        "  overlay\n",
        "  java on eclipse-temurin:17-jdk:",
        "    ghcr.io/openhands/agent-server:0123456-java-source-minimal",
    ];
    for part in parts {
        assert!(ended.stdout.contains(part), "{part:?} is not in {}", ended.stdout);
    }
}

#[test]
fn a_layer_stands_on_the_image_of_the_same_bake() {
    let folder = Folder::new("thin");
    let path = folder.0.to_str().unwrap();
    let layer = format!("--layer={path}");
    assert!(debian(&[&layer]).refused().contains("Dockerfile"));
    std::fs::write(folder.0.join("Dockerfile"), "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n").unwrap();
    let definition = debian(&[&layer, "--layer-tag=eval", "--push"]).definition();
    assert_eq!(definition["group"]["default"]["targets"], json!(["debian", "debian_layer"]));
    let (image, layer_target) =
        (&definition["target"]["debian"], &definition["target"]["debian_layer"]);
    let expected = tags(image).iter().map(|tag| format!("{tag}-eval")).collect::<Vec<_>>();
    assert_eq!(tags(layer_target), expected);
    assert_eq!(layer_target["context"], path);
    assert_eq!(layer_target["output"], image["output"]);
    let base = layer_target["args"]["BASE_IMAGE"].as_str().unwrap();
    assert_eq!(layer_target["contexts"][base], "target:debian");
    let by_folder = debian(&[&layer]).definition()["target"]["debian_layer"].clone();
    let name = folder.0.file_name().unwrap().to_str().unwrap();
    assert!(tags(&by_folder).iter().all(|tag| tag.ends_with(&format!("-{name}"))));
    assert!(debian(&["--layer-tag=eval"]).refused().contains("--layer"));
    assert!(debian(&[&layer, "--layer-tag=a b"]).refused().contains("a b"));
}
