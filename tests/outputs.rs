//! What a run writes: progress and messages, files of results, outputs for CI; and build
//! information that is not to be trusted.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::fake::{FakeDocker, INSPECTED};
use crate::support::{Ended, Folder, SHA, Xtask};
use serde_json::{Value, json};

const IMAGE: &str = "ghcr.io/openhands/agent-server";

/// A `docker` whose bake writes `events` to standard error and ends with `status`.
fn fake(name: &str, events: &[Value], status: u8) -> FakeDocker {
    let script = format!(
        "case \"$*\" in *du) echo 'Total: 0B';; *inspect*) cat inspected;;
         *bake*) cat > /dev/null; cat events >&2; exit {status};; esac"
    );
    let fake = FakeDocker::new(name, &script);
    fs::write(fake.file("inspected"), INSPECTED).unwrap();
    let events = events.iter().map(|event| format!("{event}\n")).collect::<String>();
    fs::write(fake.file("events"), events).unwrap();
    fake
}

fn call(fake: &FakeDocker, checkout: &Path, args: &[&str]) -> Xtask {
    let args = [&["image", "--variant=debian", "--push"], args].concat();
    let call = Xtask::within(checkout, &args).env("OPENHANDS_BUILDKIT_CACHE_MODE", "off");
    call.env("PATH", fake.path()).env("SDK_SHA", SHA).env("SDK_REF", "x")
}

/// A vertex that begins, or that has ended.
fn vertex(name: &str, completed: Option<&str>) -> Value {
    let mut vertex = json!({ "digest": name, "name": name, "started": "2026-11-24T10:51:00Z" });
    if let Some(second) = completed {
        vertex["completed"] = json!(format!("2026-11-24T10:51:{second}Z"));
    }
    json!({ "vertexes": [vertex] })
}

/// Output of a vertex; the text in base 64.
fn log(vertex: &str, base64: &str) -> Value {
    json!({ "logs": [{ "vertex": vertex, "data": base64 }] })
}

const STEP: &str = "[builder 2/3] RUN --mount=type=tmpfs,target=/tmp <<'EOF' (# install it...)";

#[test]
fn the_last_line_of_a_step_needs_no_end() {
    // `first` with the end of its line, then `no newline` without.
    let events = [
        vertex(STEP, None),
        log(STEP, "Zmlyc3QKbm8g"),
        log(STEP, "bmV3bGluZQ=="),
        vertex(STEP, Some("05")),
    ];
    let checkout = Folder::checkout("last-line");
    let ended = call(&fake("last-line-docker", &events, 0), &checkout.0, &[]).end();
    let lines = ended.stderr.lines().collect::<Vec<_>>();
    let at = lines.iter().position(|line| *line == "#1 [builder 2/3] install it");
    let at = at.unwrap_or_else(|| panic!("{}", ended.stderr));
    assert!(lines[at + 1].ends_with(" first") && lines[at + 2].ends_with(" no newline"));
    assert_eq!(lines[at + 3], "#1 DONE 5.0s");
}

#[test]
fn a_build_that_is_cut_off_shows_its_last_line_too() {
    let events = [vertex(STEP, None), log(STEP, "bm8gbmV3bGluZQ==")];
    let checkout = Folder::checkout("cut-off");
    let ended = call(&fake("cut-off-docker", &events, 1), &checkout.0, &[]).end();
    assert!(ended.stderr.contains(" no newline\n"), "{}", ended.stderr);
}

#[test]
fn a_run_goes_on_where_standard_error_takes_nothing() {
    let fake = fake("full", &[vertex(STEP, Some("05"))], 0);
    let checkout = Folder::checkout("full-checkout");
    let report = checkout.0.join("report.json");
    let mut call = call(&fake, &checkout.0, &["--report", report.to_str().unwrap()]);
    call.0.stderr(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let ended = Ended::from(call.0.stdout(Stdio::piped()).output().unwrap());
    assert_eq!(ended.status, 0);
    assert!(ended.stdout.starts_with(IMAGE), "{}", ended.stdout);
    assert!(report.is_file());
}

#[test]
fn no_line_that_others_wrote_commands_a_runner() {
    // `::add-mask::x` and `a ##[stop-commands]b`, each with its end.
    let logs = "OjphZGQtbWFzazo6eAphICMjW3N0b3AtY29tbWFuZHNdYgo=";
    let name = "[a 1/2] RUN \u{1b}]0;x\u{7}\n::set-output name=a::b";
    let mut failed = vertex("[a 2/2] RUN y", Some("05"));
    failed["vertexes"][0]["error"] = json!("no\n::error::such\r\n::stop-commands::file");
    let warning = json!({ "warnings": [{ "short": "MTAwJQo6OmVycm9yOjp4" }] });
    let events = [vertex(name, None), log(name, logs), warning, failed];
    let fake = fake("hostile", &events, 0);
    let mut bytes = fs::read(fake.file("events")).unwrap();
    bytes.extend(b"::stop-commands::x\n\x1b[2J##[group]y\n");
    fs::write(fake.file("events"), bytes).unwrap();
    let checkout = Folder::checkout("hostile-checkout");
    for (runner, start) in [("", "warning: 100% : :error::x"), ("true", "::warning::100%25 : :")] {
        let ended = call(&fake, &checkout.0, &[]).env("GITHUB_ACTIONS", runner).end();
        let said = &ended.stderr;
        for command in ["::add-mask", "::set-output", "::stop-commands", "::error", "##[", "\x1b"] {
            assert!(!said.contains(command), "{command:?} is in {said}");
        }
        assert!(said.lines().any(|line| line.starts_with(start)), "{said}");
        assert_eq!(said.contains("::warning::"), runner == "true", "{said}");
        let ours =
            ["server: ", "#", "buildx: ", "warning: ", "::warning::", "debian: ", "  ", "cache: "];
        for line in said.lines() {
            assert!(ours.iter().any(|start| line.starts_with(start)), "{line:?} of {said}");
        }
    }
}

#[test]
fn outputs_of_one_line_can_be_searched_for() {
    let fake = fake("outputs", &[], 0);
    let checkout = Folder::checkout("outputs-checkout");
    let file = fake.file("outputs");
    let ended = call(&fake, &checkout.0, &[]).env("GITHUB_OUTPUT", &file).end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let outputs = fs::read_to_string(file).unwrap();
    let csv = ended.stdout.trim_end().replace('\n', ",");
    assert!(outputs.lines().any(|line| line == format!("tags_csv={csv}")), "{outputs}");
    assert!(outputs.lines().any(|line| line == format!("image={IMAGE}")), "{outputs}");
    let (_, tags) = outputs.split_once("\ntags<<").unwrap();
    let (delimiter, tags) = tags.split_once('\n').unwrap();
    assert!(tags.starts_with(&format!("{}{delimiter}\n", ended.stdout)), "{outputs}");
}

#[test]
fn jobs_find_what_the_helper_gave_them() {
    let fake = fake("helper-outputs", &[], 0);
    let checkout = Folder::checkout("helper-outputs-checkout");
    let file = fake.file("outputs");
    let args = ["--versioned-tag", "--arch=arm64", "--target=source"];
    let call = call(&fake, &checkout.0, &args).env("SDK_VERSION", "1.58.2");
    let ended = call.env("GITHUB_OUTPUT", &file).end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let outputs = fs::read_to_string(file).unwrap();
    let lines = outputs.lines().collect::<Vec<_>>();
    assert!(lines.contains(&"versioned_tags_csv=1-debian,1.58-debian,1.58.2-debian"), "{outputs}");
    assert!(lines.contains(&"base_image_slug=debian_tag_trixie-slim"), "{outputs}");
}

#[test]
fn results_are_written_to_what_is_no_file_and_through_links() {
    let fake = fake("places", &[], 0);
    let checkout = Folder::checkout("places-checkout");
    let report = |place: &str| {
        let ended = call(&fake, &checkout.0, &["--report", place]).end();
        assert_eq!(ended.status, 0, "{place}: {}", ended.stderr);
        ended
    };
    let is_report = |path: &Path| fs::read_to_string(path).unwrap().starts_with("{\n");

    // A link of the test's own: a program that replaces it must not replace the machine's.
    let dev_stdout = fake.file("dev-stdout");
    symlink("/proc/self/fd/1", &dev_stdout).unwrap();
    let dev_stdout = dev_stdout.to_str().unwrap();
    for place in [dev_stdout, "/proc/self/fd/1"] {
        assert!(report(place).stdout.contains("\n  \"schema\": 1"), "{place}");
    }
    // A file that a shell opened keeps what is written before and after.
    let stdout = fake.file("stdout");
    let mut shared = call(&fake, &checkout.0, &["--report", dev_stdout]);
    shared.0.stdout(fs::File::create(&stdout).unwrap()).stderr(Stdio::null());
    assert!(shared.0.status().unwrap().success());
    let text = fs::read_to_string(&stdout).unwrap();
    assert!(text.starts_with("{\n") && text.contains(&format!("}}\n{IMAGE}:")), "{text}");

    let device = fake.file("null");
    if is_made(&device, "3") {
        report(device.to_str().unwrap());
        assert!(fs::symlink_metadata(&device).unwrap().file_type().is_char_device());
    }

    let (real, link) = (fake.file("real.json"), fake.file("link.json"));
    symlink("real.json", &link).unwrap();
    for _ in 0..2 {
        report(link.to_str().unwrap());
        assert!(is_report(&real) && fs::symlink_metadata(&link).unwrap().is_symlink());
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).unwrap();
    }
    report(real.to_str().unwrap());
    assert!(is_report(&real));
    assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o600);
    let left = fs::read_dir(&fake.0.0).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().contains("partial")));
}

/// Makes a device like `/dev/null` (3) or `/dev/full` (7), which only root can.
fn is_made(device: &Path, minor: &str) -> bool {
    let made = Command::new("mknod").arg(device).args(["c", "1", minor]).output();
    made.is_ok_and(|output| output.status.success())
}

fn info(arch: &str) -> Value {
    json!({
        "schema": 1, "kind": "image", "variant": "debian", "target": "binary", "arch": arch,
        "platform": format!("linux/{arch}"), "base_image": "debian:trixie-slim", "image": IMAGE,
        "git_ref": "refs/heads/x", "sha": SHA, "short_sha": &SHA[..7],
        "tags": [format!("{IMAGE}:x-debian-{arch}")],
        "manifest_tags": [format!("{IMAGE}:x-debian")],
        "digest": format!("sha256:{}", "0".repeat(64)), "cache_read": [], "cache_written": [],
    })
}

fn write(path: &Path, info: &Value) -> String {
    fs::write(path, info.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_update_of_a_device_neither_reads_for_ever_nor_replaces_it() {
    let folder = Folder::new("update-device");
    let info = write(&folder.0.join("a.json"), &info("amd64"));
    // A program that reads without end gets no memory for it.
    let bounded = |args: &[&str]| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -v 4000000; exec \"$@\"", "sh"]);
        shell.arg(env!("CARGO_BIN_EXE_xtask")).args(["image", "summary"]).args(args);
        shell.env("CARGO_MANIFEST_DIR", crate::support::root().join("xtask"));
        Ended::from(shell.stdin(Stdio::null()).output().unwrap())
    };
    let full = folder.0.join("full");
    if is_made(&full, "7") {
        let ended = bounded(&["--update", full.to_str().unwrap(), &info]);
        assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
        assert!(ended.stderr.contains("full"), "{}", ended.stderr);
        assert!(fs::symlink_metadata(&full).unwrap().file_type().is_char_device());
    }
    let large = folder.0.join("large.md");
    fs::File::create(&large).unwrap().set_len(1 << 40).unwrap();
    let ended = bounded(&["--update", large.to_str().unwrap(), &info]);
    assert_eq!(ended.status, 2, "{}", ended.stderr);
    let ended = bounded(&["/dev/zero"]);
    assert!(ended.status == 2 && ended.stderr.contains("/dev/zero"), "{}", ended.stderr);
}

#[test]
fn merge_passes_docker_nothing_but_references_and_digests() {
    let fake = FakeDocker::new("merge-values", "echo \"$*\" >> called; exit 1");
    for (key, value) in [
        ("image", json!("-f")),
        ("image", json!("Upper/case")),
        ("image", json!(5)),
        ("manifest_tags", json!(["-f"])),
        ("manifest_tags", json!([format!("{IMAGE}:-f")])),
        ("manifest_tags", json!(["other/image:tag"])),
        ("manifest_tags", json!("no list")),
        ("digest", json!("")),
        ("digest", Value::Null),
        ("digest", json!("sha256:short")),
        ("variant", json!("a b")),
        ("kind", json!("other")),
    ] {
        let mut info = info("amd64");
        // On main the variant becomes a part of a tag.
        info["git_ref"] = json!("refs/heads/main");
        info[key] = value.clone();
        let file = write(&fake.file("bad.json"), &info);
        let call = Xtask::new(&["image", "merge", "--allow-partial", &file]);
        let said = call.env("PATH", fake.path()).refused();
        let value = value.as_array().map_or(value.clone(), |list| list[0].clone());
        assert!(said.contains("bad.json"), "{said}");
        assert!(said.contains(value.to_string().trim_matches('"')) || value.is_null(), "{said}");
    }
    assert!(!fake.file("called").exists());
}

#[test]
fn a_merged_manifest_is_known_by_its_digest() {
    let list = json!({ "manifests": [
        { "platform": { "os": "linux", "architecture": "amd64" }, "digest": "sha256:1" },
        { "platform": { "os": "linux", "architecture": "arm64" }, "digest": "sha256:2" },
    ]});
    let fake = FakeDocker::new("merge-digest", "case \"$*\" in *--raw*) cat list;; esac");
    fs::write(fake.file("list"), list.to_string()).unwrap();
    let files =
        ["amd64", "arm64"].map(|arch| write(&fake.file(&format!("{arch}.json")), &info(arch)));
    let call = Xtask::new(&["image", "merge", &files[0], &files[1]]);
    let ended = call.env("PATH", fake.path()).end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let file = fake.file("debian-debian_tag_trixie-slim-binary.manifest.json");
    let merged: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(merged["digest"], crate::support::sha256(list.to_string().as_bytes()));
    assert_eq!(merged["arches"], json!(["amd64", "arm64"]));
    assert_eq!(merged["platforms"], json!(["linux/amd64", "linux/arm64"]));
}

#[test]
fn an_unknown_digest_is_null() {
    let fake = fake("no-digest", &[], 0);
    let checkout = Folder::checkout("no-digest-checkout");
    let file = fake.file("info.json");
    let ended = call(&fake, &checkout.0, &["--build-info", file.to_str().unwrap()]).end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let info: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!((&info["digest"], &info["kind"]), (&Value::Null, &json!("image")));
}

#[test]
fn a_container_that_a_killed_run_left_is_removed() {
    let script = "echo \"$*\" >> called; case \"$1\" in rm) echo \"$4\";; esac";
    let fake = FakeDocker::new("left-over", script);
    let checkout = Folder::checkout("left-over-checkout");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let args = ["image", "run", "--variant=debian", "--port", &port];
    let run = || Xtask::within(&checkout.0, &args).env("PATH", fake.path()).end();
    let ended = run();
    let name = format!("agent-server-{port}-");
    assert!(ended.stderr.contains(&format!("removed the container {name}")), "{}", ended.stderr);
    let called = fs::read_to_string(fake.file("called")).unwrap();
    assert!(called.starts_with(&format!("rm --force --volumes {name}")), "{called}");
    // The port is still this test's.
    assert!(ended.status == 2 && ended.stderr.contains(&port), "{}", ended.stderr);

    // Nothing is taken from a run that goes on.
    fs::remove_file(fake.file("called")).unwrap();
    let lock = checkout.0.join(format!("target/image/run-{port}.lock"));
    let lock = fs::File::options().write(true).open(lock).unwrap();
    lock.try_lock().unwrap();
    let ended = run();
    assert!(ended.stderr.contains("another `cargo xtask image run`"), "{}", ended.stderr);
    assert!(ended.status == 2 && !fake.file("called").exists());
}
