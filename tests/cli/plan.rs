//! What `--print` shows: targets, platforms, arguments and outputs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::{debian, tags};
use crate::support::{Folder, IMAGE, SHA, Xtask, strings};
use serde_json::{Value, json};

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
        ("--builder-image", "BUILDER_IMAGE", "b:1", "c:1", "/args/BUILDER_IMAGE", "b:1"),
        ("--tools-image", "TOOLS_IMAGE", "b:1", "c:1", "/args/TOOLS_IMAGE", "b:1"),
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
fn the_helpers_default_base_image_is_the_variant_python() {
    let target = Xtask::print(&[]).env("BASE_IMAGE", "python-node-runtime").target();
    assert_eq!(target["args"]["BASE_IMAGE"], "example/python:3");
}

#[test]
fn platforms_have_all_names_that_docker_takes() {
    let names = [
        (
            "linux/arm64",
            &["arm64", "aarch64", "linux/arm64/v8", "linux/aarch64", "Linux/ARM64"][..],
        ),
        ("linux/amd64", &["amd64", "x86_64", "x86-64", "linux/x86_64", "linux/amd64/v1"]),
    ];
    for (platform, names) in names {
        for name in names {
            let list = format!("{name}, {platform}");
            for call in [
                debian(&["--platforms", &list]),
                debian(&[]).env("PLATFORMS", &list),
                debian(&[]).env("DOCKER_DEFAULT_PLATFORM", name),
            ] {
                assert_eq!(call.target()["platforms"], json!([platform]), "{name}");
            }
        }
    }
    let own = debian(&[]).env("DOCKER_DEFAULT_PLATFORM", "linux").target();
    assert_eq!(own["platforms"], json!([]));
}

#[test]
fn a_registry_may_have_any_case_and_address() {
    for host in ["r.io", "R.io", "HOST:5000", "localhost", "LOCALHOST:1", "[::1]", "[::1]:5000"] {
        let name = format!("{host}/x");
        let target = debian(&["--image", &name, "--base-image", &name]).target();
        assert_eq!(strings(&target["tags"])[0], format!("{name}:0123456-debian"));
        assert_eq!(target["args"]["BASE_IMAGE"], name);
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
    let checkout = Folder::checkout("bundle");
    let bundle = checkout.0.join("bundle.crt");
    let print = |text: &str| {
        fs::write(&bundle, text).unwrap();
        let call = Xtask::within(&checkout.0, &["image", "--print", "--variant=debian"]).on("x");
        call.env("SSL_CERT_FILE", &bundle).env("HTTPS_PROXY", "http://proxy:3128")
    };
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let built = print(&format!("# a comment\n{certificate}{key}{certificate}")).target();
    let [secret] = strings(&built["secret"])[..] else { panic!("{built:#}") };
    let (_, file) = secret.split_once("type=file,id=ca-certificates,src=").unwrap();
    assert_eq!(fs::read_to_string(file).unwrap(), certificate);
    assert_eq!(built["args"]["HTTPS_PROXY"], "http://proxy:3128");
    assert!(print("").target().get("secret").is_none_or(|secret| *secret == json!([])));
    let refused = print(key).refused();
    assert!(refused.contains(" holds no PEM certificate\nhint: "), "{refused}");
    let many = (0..10_000).map(|n| certificate.replace("AAAA", &format!("{n:08}")));
    let refused = print(&many.collect::<String>()).refused();
    let why = " KiB, and BuildKit takes 500\nhint: set SSL_CERT_FILE to a smaller bundle";
    assert!(refused.contains(why), "{refused}");
}

#[test]
fn what_programs_trust_besides_the_bundle_reaches_steps_too() {
    let folder = Folder::checkout("more-certificates");
    let certificate =
        |text: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    let path = |name: &str| folder.0.join(name);
    let write = |name: &str, text: &str| fs::write(path(name), text).unwrap();
    write("main", &certificate("1"));
    write("more", &(certificate("1") + &certificate("2")));
    write("node", &certificate("3"));
    write("large", &(0..10_000).map(|n| certificate(&format!("{n:08}"))).collect::<String>());
    let mut call = Xtask::within(&folder.0, &["image", "--print", "--variant=debian"]).on("x");
    let files = [
        ("SSL_CERT_FILE", "main"),
        ("REQUESTS_CA_BUNDLE", "more"),
        ("NODE_EXTRA_CA_CERTS", "node"),
        ("PIP_CERT", "none"),
        ("CURL_CA_BUNDLE", "large"),
    ];
    for (name, file) in files {
        call = call.env(name, path(file));
    }
    let ended = call.succeed();
    let file = fs::read_dir(path("target/image")).unwrap().next().unwrap().unwrap();
    let text = fs::read_to_string(file.path()).unwrap();
    assert_eq!(text, ["1", "2", "3"].map(certificate).concat());
    let said = ended.stderr.replace(folder.0.to_str().unwrap(), "FOLDER");
    let expected = "warning: the certificates in PIP_CERT=FOLDER/none are not handed on: No such file or \
                    directory (os error 2)\nwarning: the certificates in CURL_CA_BUNDLE=FOLDER/large are \
                    not handed on: all have more than 500 KiB, and BuildKit takes 500\n";
    assert_eq!(said, expected);
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
fn vertex_is_a_switch_that_becomes_an_argument() {
    let argument = |value: &str| {
        let target = debian(&[]).env("ENABLE_VERTEX", value).target();
        target["args"].get("ENABLE_VERTEX").cloned()
    };
    assert_eq!(argument("1"), Some(json!("1")));
    assert_eq!((argument(""), argument("0")), (None, None));
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
    // As people have it for all of their repositories.
    git(&["config", "color.ui", "always"]);
    git(&["config", "log.showSignature", "true"]);
    let gpg = folder.0.join("gpg");
    let script = "#!/bin/sh\ncase \"$*\" in *--verify*) echo Good signature >&2; exit;; esac
        cat >/dev/null; echo '[GNUPG:] SIG_CREATED ' >&2
        echo '-----BEGIN PGP SIGNATURE-----\n-----END PGP SIGNATURE-----'\n";
    fs::write(&gpg, script).unwrap();
    fs::set_permissions(&gpg, fs::Permissions::from_mode(0o755)).unwrap();
    git(&["config", "gpg.program", gpg.to_str().unwrap()]);
    git(&["commit", "--allow-empty", "--gpg-sign", "--message", "signed"]);
    let labels = print().target()["labels"].clone();
    let created = labels["org.opencontainers.image.created"].as_str().unwrap();
    assert!(created.starts_with("20") && created.len() < 30, "{created}");
    git(&["reset", "--quiet", &head]);
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
fn a_layer_stands_on_the_image_of_the_same_bake() {
    let folder = Folder::new("thin");
    let path = folder.0.to_str().unwrap();
    let layer = format!("--layer={path}");
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
}
