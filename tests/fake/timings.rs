//! `--timings`: the page shows what was done, whatever it is called and however it ended.

use std::fs;
use std::path::Path;

use crate::support::events::{self, cached, done, ended, output};
use crate::support::fake::FakeDocker;
use serde_json::{Value, json};

const HOSTILE: &str = "</script><script>alert(1)</script><!--\u{1b}[31m DATA";

/// A build that fails by a step with a hostile name, which printed the same, with its page in `flag`.
fn failed(name: &str, flag: &str) -> FakeDocker {
    let fake = FakeDocker::new(name);
    let bad = format!("[builder 3/3] RUN {HOSTILE}");
    let end = ended(&bad, (10.0, 19.0), &json!({ "error": "exit code: 1" }));
    let (begun, end) = end.split_once('\n').unwrap();
    let output = output(&bad, "</script> last line\n");
    let events = cached("[builder 1/3] RUN a")
        + &done("[builder 2/3] RUN b", (5.0, 12.0))
        + &format!("{begun}\n{output}{end}exit 1\n");
    fake.play("debian.image", &events);
    let call = fake.call(&["image", flag, "--variant=debian", "--load"]).on("x");
    assert_eq!(call.end().status, 1);
    fake
}

/// The data within a page, which must be all that lies there.
fn data(page: &Path) -> Value {
    let page = fs::read_to_string(page).unwrap();
    let (head, rest) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    let (data, rest) = rest.split_once("</script>").unwrap();
    for text in [head, data, rest] {
        assert!(!text.contains("http:") && !text.contains("https:") && !text.contains(" src="));
    }
    assert!(!data.contains('<') && !data.contains('\u{1b}'), "{data}");
    assert_eq!(page.matches("</script>").count(), 2);
    serde_json::from_str(data).unwrap()
}

#[test]
fn the_page_has_what_was_done_also_when_the_build_failed() {
    let fake = failed("timings-page", "--timings");
    let data = data(&fake.file("target/image/timings.html"));
    let image = &data["images"][0];
    assert_eq!(image["result"], "failed");
    assert_eq!(image["failure"]["output"], json!(["</script> last line"]));
    let names = image["bars"].as_array().unwrap().iter().map(|bar| {
        let index = usize::try_from(bar[1].as_u64().unwrap()).unwrap();
        data["names"][index].as_str().unwrap()
    });
    let hostile = "builder: RUN </script><script>alert(1)</script><!-- DATA";
    let expected = ["builder: RUN a", "builder: RUN b", hostile];
    assert_eq!(names.collect::<Vec<_>>(), expected);
    // Those that ran at once are in lanes of their own.
    let places = image["bars"].as_array().unwrap().iter();
    let places = places.map(|bar| json!([bar[2], bar[3], bar[4], bar[5]])).collect::<Vec<_>>();
    let expected = [json!([0.0, 0.0, 0, 1]), json!([4.0, 11.0, 0, 0]), json!([9.0, 18.0, 1, 2])];
    assert_eq!(places, expected);
    // What ended after the last one had begun was not waited for.
    let critical = image["bars"].as_array().unwrap().iter().map(|bar| bar[6].as_u64().unwrap());
    assert_eq!(critical.collect::<Vec<_>>(), [1, 0, 1]);
    let totals = data["totals"].as_array().unwrap();
    assert!(totals.contains(&json!(["steps", 14.0, null, 3, 1])), "{totals:?}");
    assert!(totals.contains(&json!(["stage builder", 14.0, null, 3, 1])), "{totals:?}");
}

#[test]
fn a_page_is_written_where_it_is_asked_for() {
    let fake = failed("timings-file", "--timings=deep/page.html");
    assert_eq!(data(&fake.file("deep/page.html"))["images"][0]["result"], "failed");
}

#[test]
fn the_last_build_is_beside_and_every_phase_is_there() {
    let fake = FakeDocker::new("timings-last");
    let one = events::run("builder 2/3", "one.sh");
    let before = done("[internal] load build context", (0.0, 1.0))
        + &done("[builder 1/3] FROM docker.io/library/debian@sha256:aa", (0.5, 1.0));
    let after = done("[builder 3/3] COPY requirements.txt /", (1.0, 5.0))
        + &done("exporting to image", (5.0, 8.0));
    fake.play("debian.image.1", &(before.clone() + &done(&one, (1.0, 1.0)) + &after));
    fake.play("debian.image.2", &(before + &cached(&one) + &after));
    for _ in 0..2 {
        let args = ["image", "--variant=debian", "--push", "--check=off", "--timings"];
        fake.call(&args).on("x").succeed();
    }
    let totals = data(&fake.file("target/image/timings.html"))["totals"].clone();
    let row = |name: &str| totals.as_array().unwrap().iter().find(|row| row[0] == name).unwrap();
    assert_eq!(row("stage builder"), &json!(["stage builder", 4.0, 4.0, 2, 1]));
    assert_eq!(row("image export")[1], 3.0);
    assert_eq!(row("pull")[1], 0.5);
    assert_eq!(row("context")[1], 1.0);
}

/// The pages of a build that failed and of 1,000 images, for a browser.
pub fn pages() -> [(&'static str, Vec<u8>); 2] {
    let one = failed("timings-one", "--timings");
    let one = fs::read(one.file("target/image/timings.html")).unwrap();
    // Each image has one step, of half a minute in a minute of its own.
    let script = r#"case "$*" in *imagetools*) exit 1;; *' bake '*) ;; *inspect*) cat inspected; exit;; *) exit;; esac
        name=$(grep -o '"targets":\["debian-b[0-9]*' | cut -d '"' -f 4)
        minute=2026-11-24T10:$((${name#debian-b} % 50 + 10))
        printf '{"vertexes":[{"digest":"%s","name":"[builder 1/2] RUN make","started":"%s:00Z",' \
            "$name" "$minute" >&2
        printf '"completed":"%s:30Z"}]}\n' "$minute" >&2
        exit"#;
    let fake = FakeDocker::with_override("timings-thousand", script);
    fake.write("list", &(0..1000).map(|number| format!("b{number}\n")).collect::<String>());
    let args = ["--check=off", "--jobs=8", "--target=overlay", "--timings", "--base-images=list"];
    fake.push(&args).succeed();
    [("one", one), ("thousand", fs::read(fake.file("target/image/timings.html")).unwrap())]
}
