//! `image summary`: Markdown of records, on its own or in place of an earlier one.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::process::{Command, Stdio};

use crate::support::record::{record, write};
use crate::support::{Ended, Folder, Xtask, make_device};
use serde_json::json;

const START: &str = "<!-- AGENT_SERVER_IMAGES_START -->";
const END: &str = "<!-- AGENT_SERVER_IMAGES_END -->";

fn summary(args: &[&str]) -> String {
    let ended = Xtask::new(&[&["image", "summary"], args].concat()).env("PATH", "/nowhere").end();
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
    ended.stdout
}

#[test]
fn no_value_breaks_the_table_or_adds_html() {
    let folder = Folder::new("escape");
    let hostile = format!("a|b`c\n{END}\n<script>x</script> ]({START})");
    let mut info = record("debian", "amd64", &hostile);
    for key in ["variant", "image"] {
        info[key] = json!(hostile);
    }
    info["arches"] = json!([hostile]);
    info["tags"] = json!([format!("x:{hostile}\n```\n# h"), "y:````"]);
    let text = summary(&[&write(&folder.0.join("a.jsonl"), &info)]);
    assert_eq!((text.matches(START).count(), text.matches(END).count()), (1, 1), "{text}");
    assert!(!text.contains("<script"), "{text}");
    let row = text.lines().find(|line| line.starts_with("| `a")).unwrap();
    assert_eq!(row.matches('|').count(), 5, "{row}");
    let commands = ["::add-mask::x", "##[stop-commands]z"];
    (info["tags"], info["server"]["description"]) = (json!([commands[0]]), json!(commands[1]));
    let other = summary(&[&write(&folder.0.join("b.jsonl"), &info)]);
    assert!(commands.iter().all(|command| !other.contains(command)), "{other}");
    let fences = text.lines().filter(|line| line.starts_with("```")).collect::<Vec<_>>();
    assert_eq!(fences.len(), 6, "{text}");
    assert!(fences[4].starts_with("`````"), "{text}");
}

#[test]
fn a_shard_may_be_empty_but_not_all_of_them() {
    let folder = Folder::new("empty-shard");
    let path = |name: &str| folder.0.join(name).to_str().unwrap().to_owned();
    let (empty, blank) = (path("empty"), path("blank"));
    fs::write(&empty, "").unwrap();
    fs::write(&blank, "\n").unwrap();
    let full = write(&folder.0.join("full"), &record("debian", "amd64", "debian:1"));
    assert_eq!(summary(&[&empty, &full, &blank]), summary(&[&full]));
    for command in ["summary", "smoke", "merge"] {
        let said = Xtask::new(&["image", command, &empty, &blank]).refused();
        assert!(said.contains(&empty) && said.contains(&blank), "{said}");
    }
}

#[test]
fn images_of_one_name_on_two_base_images_are_two() {
    let folder = Folder::new("alike");
    let files = ["r.io/a.b:1", "r.io/a_b:1"].map(|base| {
        let name = base.replace(['/', ':'], "-");
        write(&folder.0.join(name), &record("python-r_io_s_a_b_tag_1", "amd64", base))
    });
    let text = summary(&[&files[0], &files[1]]);
    assert!(text.contains("| `r.io/a.b:1` |") && text.contains("| `r.io/a_b:1` |"), "{text}");
}

#[test]
fn a_later_manifest_with_more_platforms_replaces_the_earlier_one() {
    let folder = Folder::new("remerged");
    let files = [("amd64", json!(["linux/arm64"])), ("arm64", json!([]))].map(|(name, missing)| {
        let mut manifest = record("debian", name, "debian:trixie-slim");
        (manifest["kind"], manifest["missing"]) = (json!("manifest"), missing);
        write(&folder.0.join(name), &manifest)
    });
    let text = summary(&[&files[0], &files[1]]);
    assert!(text.contains("All tags (1)") && !text.contains("**Missing:**"), "{text}");
}

#[test]
fn a_load_is_not_pulled_targets_have_rows_and_layers_their_tags() {
    let folder = Folder::new("loads");
    let files = ["binary", "source"].map(|target| {
        let mut loaded = record("debian", "amd64", "debian:trixie-slim");
        (loaded["target"], loaded["pushed"]) = (json!(target), json!(false));
        loaded["layer"] = json!({ "tags": [format!("{target}:layer")], "digest": null });
        write(&folder.0.join(target), &loaded)
    });
    let text = summary(&[&files[0], &files[1]]);
    assert!(text.contains("docker run") && !text.contains("docker pull"), "{text}");
    assert!(!text.contains("multi-architecture"), "{text}");
    assert!(text.contains("\n| `debian` |") && text.contains("\n| `debian source` |"), "{text}");
    assert!(text.contains("\nbinary:layer\n") && text.contains("\nsource:layer\n"), "{text}");
}

#[test]
fn an_update_replaces_its_part_and_leaves_every_other_byte() {
    let folder = Folder::new("update");
    let info = write(&folder.0.join("a.jsonl"), &record("debian", "amd64", "debian:trixie-slim"));
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
    let info = write(&folder.0.join("a.jsonl"), &record("debian", "amd64", "debian:trixie-slim"));
    let page = folder.0.join("page.md");
    fs::write(&page, "before\n").unwrap();
    let call = Xtask::new(&["image", "summary", &info]).env("GITHUB_STEP_SUMMARY", &page);
    let ended = call.end();
    assert_eq!(fs::read_to_string(&page).unwrap(), format!("before\n{}", ended.stdout));
    let call = Xtask::new(&["image", "summary", &info]).env("GITHUB_STEP_SUMMARY", &folder.0);
    let failed = call.end();
    assert_eq!((failed.status, &failed.stdout), (1, &ended.stdout), "{}", failed.stderr);
}

#[test]
fn an_update_of_a_device_neither_reads_for_ever_nor_replaces_it() {
    let folder = Folder::new("update-device");
    let info = write(&folder.0.join("a.jsonl"), &record("debian", "amd64", "debian:1"));
    // A program that reads without end gets no memory for it.
    let bounded = |args: &[&str]| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -v 4000000; exec \"$@\"", "sh"]);
        shell.arg(env!("CARGO_BIN_EXE_xtask")).args(["image", "summary"]).args(args);
        shell.env("CARGO_MANIFEST_DIR", crate::support::root().join("xtask"));
        Ended::from(shell.stdin(Stdio::null()).output().unwrap())
    };
    let full = folder.0.join("full");
    if make_device(&full, "7") {
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
