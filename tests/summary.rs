//! `image matrix` and `image summary`: JSON and Markdown for CI. Neither needs docker.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::fake::{FakeDocker, INSPECTED};
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
        "| `debian` | `amd64`, `arm64` | [`debian:trixie-slim`](https://hub.docker.com/_/debian) | \
         `0123456-debian` |",
        "docker pull ghcr.io/openhands/agent-server:0123456-debian\n",
        "-p 127.0.0.1:8000:8000 -e SESSION_API_KEY",
        "-H \"X-Session-API-Key: $SESSION_API_KEY\"",
        "<details><summary>All tags (3)</summary>\n\n```\n",
        "0123456-debian-amd64\nghcr.io/openhands/agent-server:0123456-debian-arm64\n\
         ghcr.io/openhands/agent-server:0123456-debian\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn the_commands_name_the_default_variant() {
    let folder = Folder::new("default");
    let files = ["golang", "java", "python"]
        .map(|name| write(&folder, &format!("{name}.json"), &info(name, "amd64", "debian:1")));
    let text = summary(&files.each_ref().map(String::as_str));
    assert!(text.contains("docker pull ghcr.io/openhands/agent-server:0123456-python-amd64\n"));
    let text = summary(&[&files[1], &files[0]]);
    assert!(text.contains("docker pull ghcr.io/openhands/agent-server:0123456-java-amd64\n"));
}

#[test]
fn a_summary_says_how_large_how_fast_and_where_from() {
    let folder = Folder::new("facts");
    let mut image = info("debian", "amd64", "debian:1");
    for (key, value) in [
        ("bytes", 410_000_000),
        ("main_bytes", 398_000_000),
        ("seconds", 95),
        ("steps", 17),
        ("cached_steps", 14),
    ] {
        image[key] = json!(value);
    }
    let mut manifest = image.clone();
    manifest["kind"] = json!("manifest");
    manifest["missing"] = json!(["linux/arm64"]);
    let [image, manifest] =
        [("a.json", image), ("b.json", manifest)].map(|(name, info)| write(&folder, name, &info));
    let call = Xtask::new(&["image", "summary", &image, &manifest]);
    let call = call.env("GITHUB_SERVER_URL", "https://example.com").env("GITHUB_RUN_ID", "7");
    let text = call.env("GITHUB_REPOSITORY", "me/fork").end().stdout;
    let digest = format!("sha256:{}", "0".repeat(64));
    for part in [
        format!("| `debian` `amd64` | `{digest}` | 410 MB (+12 MB) | 95 | 14 of 17 |"),
        format!("[`0123456`](https://example.com/me/fork/commit/{SHA})"),
        "[this run](https://example.com/me/fork/actions/runs/7)".to_owned(),
        format!("| `debian` – | `{digest}` | – | – | – |"),
        "**Missing:** `debian` has no image for `linux/arm64`.".to_owned(),
    ] {
        assert!(text.contains(&part), "{part:?} is not in {text}");
    }
    assert!(!summary(&[&image]).contains("this run"), "nobody knows the run's page here");
}

#[test]
fn build_information_holds_what_a_summary_needs() {
    let layers = |size: u64| {
        let small = json!({ "digest": "sha256:1", "size": 2 });
        json!({ "layers": [small, { "digest": "sha256:2", "size": size - 2 }] })
    };
    let config = json!({ "history": [
        { "created_by": "# debian.sh" },
        { "created_by": "ENV A=b", "empty_layer": true },
        { "created_by": "RUN |1 A=b /bin/sh -c # install it\nset -e\n # buildkit" },
    ]});
    let script = "case \"$*\" in *.Image*) cat config;; *du) echo 'Total: 0B';; *--raw*:main-debian-a*) cat main;; \
                  *--raw*@sha256*) cat own;; *--raw*) echo 'x: not found' >&2; exit 1;; \
                  *inspect*) cat inspected;; *bake*) cat > /dev/null; cat events >&2; \
                  while [ $1 != --metadata-file ]; do shift; done; cp metadata $2;; esac";
    let fake = FakeDocker::new("facts", script);
    let vertex = |digest: &str, cached: bool| {
        let name = format!("[builder {digest}/2] RUN true");
        let (from, to) = ("2026-11-24T10:51:00Z", "2026-11-24T10:51:07Z");
        json!({ "vertexes": [
            { "digest": digest, "name": name, "started": from, "completed": to, "cached": cached }
        ]})
    };
    let digest = format!("sha256:{}", "1".repeat(64));
    for (file, text) in [
        ("main", layers(5).to_string()),
        ("own", layers(7).to_string()),
        ("config", config.to_string()),
        ("inspected", INSPECTED.to_owned()),
        ("events", format!("{}\n{}\n", vertex("1", true), vertex("2", false))),
        ("metadata", json!({ "debian": { "containerimage.digest": digest } }).to_string()),
    ] {
        fs::write(fake.file(file), text).unwrap();
    }
    let page = fake.file("page.md");
    let built = |git_ref: &str| -> Value {
        let place = format!("{}/", fake.file("info").display());
        let args = ["image", "--variant=debian", "--arch=a", "--push", "--build-info", &place];
        let call = fake.call(&args).on(git_ref).env("OPENHANDS_BUILDKIT_CACHE_MODE", "off");
        let ended = call.env("GITHUB_STEP_SUMMARY", &page).end();
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        let info = fs::read_to_string(fake.file("info/debian-a.json")).unwrap();
        serde_json::from_str(&info).unwrap()
    };
    let info = built("topic");
    let facts = ["bytes", "main_bytes", "seconds", "steps", "cached_steps"].map(|key| &info[key]);
    assert_eq!(facts, [7, 5, 7, 2, 1]);
    assert_eq!(built("refs/heads/main")["main_bytes"], Value::Null, "main's image is this one");
    let page = fs::read_to_string(page).unwrap();
    let heading = "### Image `ghcr.io/openhands/agent-server:0123456-debian-a`\n\n```text\n";
    assert!(page.starts_with(heading), "{page}");
    let size = "  size  7 B compressed in 2 layers: 5 B install it; 2 B # debian.sh\n";
    assert!(page.contains(size), "{page}");
}

#[test]
fn a_variant_that_is_not_merged_costs_no_other_and_what_is_missing_is_said() {
    let folder = Folder::new("merge-others");
    let script = "case \"$*\" in *create*debian*) exit 1;; *--raw*) cat list;; esac";
    let fake = FakeDocker::new("merge-others", script);
    let list = json!({ "manifests": [
        { "platform": { "os": "linux", "architecture": "amd64" }, "digest": "sha256:1" },
        { "platform": { "os": "unknown", "architecture": "unknown" }, "digest": "sha256:2" },
    ]});
    fs::write(fake.file("list"), list.to_string()).unwrap();
    let files = ["debian", "python"]
        .map(|name| write(&folder, &format!("{name}.json"), &info(name, "amd64", "debian:1")));
    let args = ["image", "merge", "--allow-partial", &files[0], &files[1]];
    let ended = Xtask::new(&args).env("PATH", fake.path()).end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("\"debian\" is not merged"), "{}", ended.stderr);
    assert!(ended.stderr.contains("\"python\" lacks an image for linux/arm64"), "{}", ended.stderr);
    let image = "ghcr.io/openhands/agent-server";
    assert_eq!(ended.stdout, format!("{image}:0123456-python\n{image}:latest-python\n"));
    let merged = folder.0.join("python-debian_tag_1-binary.manifest.json");
    let merged: Value = serde_json::from_str(&fs::read_to_string(merged).unwrap()).unwrap();
    assert_eq!(merged["missing"], json!(["linux/arm64"]));
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
    assert_eq!(row.matches('|').count(), 5, "{row}");
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
