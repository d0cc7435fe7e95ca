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

/// How long a bar is, in seconds.
fn seconds(bar: &Value) -> Value {
    json!(bar["to"].as_f64().unwrap() - bar["from"].as_f64().unwrap())
}

#[test]
fn the_page_has_what_was_done_also_when_the_build_failed() {
    let fake = failed("timings-page", "--timings");
    let data = data(&fake.file("target/image/timings.html"));
    let image = &data["images"][0];
    assert_eq!(image["result"], "failed");
    assert_eq!(image["failure"]["output"], json!(["</script> last line"]));
    let hostile = "builder: RUN </script><script>alert(1)</script><!-- DATA";
    let expected = [
        json!(["builder: RUN a", "builder", 0.0, "cached"]),
        json!(["builder: RUN b", "builder", 7.0, ""]),
        json!([hostile, "builder", 9.0, "failed"]),
    ];
    let bars = image["bars"].as_array().unwrap().iter();
    let bars = bars.map(|bar| json!([bar["name"], bar["stage"], seconds(bar), bar["how"]]));
    assert_eq!(bars.collect::<Vec<_>>(), expected);
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
    let data = data(&fake.file("target/image/timings.html"));
    let bars = data["images"][0]["bars"].as_array().unwrap();
    let bar = |name: &str| bars.iter().find(|bar| bar["name"] == name).unwrap();
    for (name, expected) in
        [("context", 1.0), ("pull", 0.5), ("one.sh", 0.0), ("image export", 3.0)]
    {
        assert_eq!(seconds(bar(name)), expected, "{name}");
    }
    assert_eq!(bar("one.sh")["how"], "cached");
    assert_eq!(seconds(&bar("builder: COPY requirements.txt /")["last"]), 4.0);
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
