//! `image matrix` and `image summary`: JSON and Markdown for CI. Neither needs docker.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::{Folder, SHA, Xtask};
use serde_json::{Value, json};

const START: &str = "<!-- AGENT_SERVER_IMAGES_START -->";
const END: &str = "<!-- AGENT_SERVER_IMAGES_END -->";

fn info(variant: &str, arch: &str, base_image: &str) -> Value {
    let image = "ghcr.io/openhands/agent-server";
    json!({
        "schema": 1,
        "kind": "image",
        "variant": variant,
        "target": "binary",
        "arch": arch,
        "platform": format!("linux/{arch}"),
        "base_image": base_image,
        "image": image,
        "git_ref": "refs/heads/main",
        "sha": SHA,
        "short_sha": &SHA[..7],
        "tags": [format!("{image}:0123456-{variant}-{arch}")],
        "manifest_tags": [format!("{image}:0123456-{variant}")],
        "digest": format!("sha256:{}", "0".repeat(64)),
        "cache_read": [],
        "cache_written": [],
    })
}

fn write(folder: &Folder, name: &str, info: &Value) -> String {
    let path = folder.0.join(name);
    fs::write(&path, info.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn summary(args: &[&str]) -> String {
    let ended = Xtask::new(&[&["image", "summary"], args].concat()).env("PATH", "/nowhere").end();
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
    ended.stdout
}

#[test]
fn the_matrix_is_one_line_of_variants_times_platforms() {
    let matrix = |args: &[&str]| -> Value {
        let call = Xtask::new(&[&["image", "matrix"], args].concat()).env("PATH", "/nowhere");
        let ended = call.end();
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
        assert_eq!(ended.stdout.lines().count(), 1);
        serde_json::from_str(&ended.stdout).unwrap()
    };
    let all = matrix(&[]);
    assert_eq!(all["include"].as_array().unwrap().len(), 8);
    let debian = matrix(&["--variant", "debian"]);
    let job = |arch: &str, runner: &str| {
        json!({
            "variant": "debian",
            "arch": arch,
            "platform": format!("linux/{arch}"),
            "base_image": "debian:trixie-slim",
            "runner": runner,
        })
    };
    let jobs = [job("amd64", "ubuntu-24.04"), job("arm64", "ubuntu-24.04-arm")];
    assert_eq!(debian, json!({ "include": jobs }));
    assert!(Xtask::new(&["image", "matrix", "--variant=ruby"]).refused().contains("ruby"));
}

#[test]
fn a_summary_tells_variants_pull_run_and_all_tags() {
    let folder = Folder::new("summary");
    let amd64 = write(&folder, "a.json", &info("debian", "amd64", "debian:trixie-slim"));
    let arm64 = write(&folder, "b.json", &info("debian", "arm64", "debian:trixie-slim"));
    let mut manifest = info("debian", "amd64", "debian:trixie-slim");
    manifest["kind"] = json!("manifest");
    manifest["tags"] = json!(["ghcr.io/openhands/agent-server:0123456-debian"]);
    let merged = write(&folder, "c.json", &manifest);
    let text = summary(&[&amd64, &arm64, &merged]);
    assert!(text.starts_with(START) && text.trim_end().ends_with(END), "{text}");
    for part in [
        "[`ghcr.io/openhands/agent-server`](https://ghcr.io/openhands/agent-server)",
        "| `debian` | `amd64`, `arm64` | [`debian:trixie-slim`](https://hub.docker.com/_/debian) |",
        "docker pull ghcr.io/openhands/agent-server:0123456-debian\n",
        "-p 127.0.0.1:8000:8000 -e SESSION_API_KEY",
        "0123456-debian-amd64\nghcr.io/openhands/agent-server:0123456-debian-arm64\n\
         ghcr.io/openhands/agent-server:0123456-debian\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn base_images_link_to_where_their_registry_shows_them() {
    let folder = Folder::new("links");
    for (base_image, cell) in [
        ("debian:trixie-slim", "](https://hub.docker.com/_/debian)"),
        ("docker.io/library/debian", "](https://hub.docker.com/_/debian)"),
        ("nikolaik/python-nodejs:a", "](https://hub.docker.com/r/nikolaik/python-nodejs)"),
        ("ghcr.io/a/b@sha256:00", "](https://ghcr.io/a/b)"),
        ("quay.io/a/b", "](https://quay.io/repository/a/b)"),
        ("localhost:5000/a", "| `localhost:5000/a` |"),
        ("r.example.com/a:1", "| `r.example.com/a:1` |"),
    ] {
        let file = write(&folder, "a.json", &info("debian", "amd64", base_image));
        let text = summary(&[&file]);
        assert!(text.contains(cell), "{cell:?} is not in {text}");
    }
}

#[test]
fn no_value_breaks_the_table_or_adds_html() {
    let folder = Folder::new("escape");
    let hostile = format!("a|b`c\n{END}\n<script>x</script> ]({START})");
    let mut info = info("debian", "amd64", &hostile);
    for key in ["variant", "arch", "image"] {
        info[key] = json!(hostile);
    }
    info["tags"] = json!([format!("x:{hostile}\n```\n# h"), "y:````"]);
    let text = summary(&[&write(&folder, "a.json", &info)]);
    assert_eq!((text.matches(START).count(), text.matches(END).count()), (1, 1), "{text}");
    assert!(!text.contains("<script"), "{text}");
    let row = text.lines().find(|line| line.starts_with("| `a")).unwrap();
    assert_eq!(row.matches('|').count(), 4, "{row}");
    let fences = text.lines().filter(|line| line.starts_with("```")).collect::<Vec<_>>();
    assert_eq!(fences.len(), 6, "{text}");
    assert!(fences[4].starts_with("`````"), "{text}");
}

#[test]
fn an_update_replaces_its_part_and_leaves_every_other_byte() {
    let folder = Folder::new("update");
    let info = write(&folder, "a.json", &info("debian", "amd64", "debian:trixie-slim"));
    let body = folder.0.join("body.md");
    let update = |old: &[u8]| {
        fs::write(&body, old).unwrap();
        summary(&["--update", body.to_str().unwrap(), &info]);
        fs::read(&body).unwrap()
    };
    let part = summary(&[&info]).trim_end().as_bytes().to_vec();
    let (before, after) = (b"Mine\r\n\xff\xfe \r\n", b"\r\nrest \t\n");
    let old = [&before[..], START.as_bytes(), b"old", END.as_bytes(), after].concat();
    let expected = [&before[..], &part, after].concat();
    assert_eq!(update(&old), expected);
    assert_eq!(update(&expected), expected, "twice is as once");
    assert_eq!(update(before), [&before[..], b"\n\n", &part, b"\n"].concat());
    let dangling = [b"text ".as_slice(), START.as_bytes(), b" more"].concat();
    let once = update(&dangling);
    assert!(once.starts_with(&dangling));
    assert_eq!(update(&once), once, "a start without an end costs nobody's text");
    let ended = Xtask::new(&["image", "summary", "--update", "/no/such", &info]);
    assert!(ended.refused().contains("/no/such"));
}

#[test]
fn a_jobs_page_gets_the_summary_too() {
    let folder = Folder::new("page");
    let info = write(&folder, "a.json", &info("debian", "amd64", "debian:trixie-slim"));
    let page = folder.0.join("page.md");
    fs::write(&page, "before\n").unwrap();
    let call = Xtask::new(&["image", "summary", &info]).env("GITHUB_STEP_SUMMARY", &page);
    let ended = call.end();
    assert_eq!(fs::read_to_string(&page).unwrap(), format!("before\n{}", ended.stdout));
}

#[test]
fn files_that_are_no_build_information_are_refused() {
    let folder = Folder::new("other");
    let mut other = info("debian", "amd64", "debian:trixie-slim");
    other["schema"] = json!(2);
    let other = write(&folder, "a.json", &other);
    for task in ["summary", "merge"] {
        let said = Xtask::new(&["image", task, &other]).refused();
        assert!(said.contains("a.json") && said.contains("schema") && said.contains('2'), "{said}");
        assert!(Xtask::new(&["image", task]).refused().contains("--build-info"));
        let said = Xtask::new(&["image", task, "/no/such.json"]).refused();
        assert!(said.contains("/no/such.json"), "{said}");
    }
    let text = folder.0.join("b.json");
    fs::write(&text, "{").unwrap();
    let said = Xtask::new(&["image", "summary", text.to_str().unwrap()]).refused();
    assert!(said.contains("b.json"), "{said}");
}

#[test]
fn a_hundred_files_are_summed_up_at_once() {
    let folder = Folder::new("hundred");
    let files = (0..100)
        .map(|n| write(&folder, &format!("{n}.json"), &info(&format!("v{n}"), "amd64", "debian:1")))
        .collect::<Vec<_>>();
    let start = Instant::now();
    let text = summary(&files.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(text.matches("docker.com/_/debian").count(), 100);
    // No limit on speed, only a sign that something is done a hundred times too often.
    assert!(start.elapsed() < Duration::from_secs(10));
}
