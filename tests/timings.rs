//! `--timings`: the page and the trace show what was done, whatever it is called and however it
//! ended.

use std::fs;
use std::path::Path;

use crate::report::{EXPORTED, PUSHED, fake, steps};
use crate::support::fake::{FakeDocker, INSPECTED};
use crate::support::{Ended, SHA, Xtask};
use serde_json::{Value, json};

const HOSTILE: &str = "</script><script>alert(1)</script><!--\u{1b}[31m DATA";

fn vertex(name: &str, seconds: (u32, u32), more: &Value) -> Value {
    let time = |second: u32| format!("2026-11-24T10:51:{second:02}Z");
    let (started, completed) = (time(seconds.0), time(seconds.1));
    let mut vertex = json!({ "digest": name, "name": name, "started": started,
                             "completed": completed });
    vertex.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    vertex
}

/// A build that fails by a step with a hostile name, which printed the same.
fn failed(name: &str, file: &str) -> (FakeDocker, Ended) {
    let fake = FakeDocker::new(
        name,
        "case \"$*\" in *du) echo 'Total: 0B';; *inspect*) echo 'Driver: docker';;
         *bake*) cat > /dev/null; cat events >&2; exit 1;; esac",
    );
    let bad = format!("[builder 3/3] RUN {HOSTILE}");
    let ended = vertex(&bad, (10, 19), &json!({ "error": "exit code: 1" }));
    let events = [
        json!({ "vertexes": [vertex("[builder 1/3] RUN a", (0, 0), &json!({ "cached": true }))] }),
        json!({ "vertexes": [vertex("[builder 2/3] RUN b", (5, 12), &json!({}))] }),
        json!({ "vertexes": [vertex(&bad, (10, 10), &json!({ "completed": null }))] }),
        json!({ "logs": [{ "vertex": bad, "data": "PC9zY3JpcHQ+IGxhc3QgbGluZQo=" }] }),
        json!({ "vertexes": [ended] }),
    ];
    let events = events.iter().map(|event| format!("{event}\n")).collect::<String>();
    fs::write(fake.file("events"), events).unwrap();
    let flag = if file.is_empty() {
        "--timings".to_owned()
    } else {
        format!("--timings={}", fake.file(file).display())
    };
    let call = fake.call(&["image", &flag, "--variant=debian", "--load"]);
    let ended = call.env("SDK_SHA", SHA).env("SDK_REF", "x").end();
    (fake, ended)
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
    let (fake, ended) = failed("timings-page", "");
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let data = data(&fake.file("target/image/timings.html"));
    let image = &data["images"][0];
    assert_eq!(image["result"], "failed");
    assert_eq!(image["failure"]["output"], json!(["</script> last line"]));
    let names = image["bars"].as_array().unwrap().iter().map(|bar| {
        let index = usize::try_from(bar[1].as_u64().unwrap()).unwrap();
        data["names"][index].as_str().unwrap()
    });
    let hostile = "[builder 3/3] RUN </script><script>alert(1)</script><!-- DATA";
    let expected = ["[builder 1/3] RUN a", "[builder 2/3] RUN b", hostile];
    assert_eq!(names.collect::<Vec<_>>(), expected);
    // Those that ran at once are in lanes of their own.
    let places = image["bars"].as_array().unwrap().iter();
    let places = places.map(|bar| json!([bar[2], bar[3], bar[4], bar[5]])).collect::<Vec<_>>();
    let expected = [json!([0.0, 0.0, 0, 1]), json!([5.0, 12.0, 0, 0]), json!([10.0, 19.0, 1, 2])];
    // What ended after the last one had begun was not waited for.
    let critical = image["bars"].as_array().unwrap().iter().map(|bar| bar[6].as_u64().unwrap());
    assert_eq!(critical.collect::<Vec<_>>(), [1, 0, 1]);
    assert_eq!(places, expected);
    let totals = data["totals"].as_array().unwrap();
    assert!(totals.contains(&json!(["steps", 14.0, null, 3, 1])), "{totals:?}");
    assert!(totals.contains(&json!(["stage builder", 14.0, null, 3, 1])), "{totals:?}");
}

/// The pages of a build that failed and of 1,000 images, for a browser.
pub fn pages() -> [(&'static str, Vec<u8>); 2] {
    let (failed, _) = failed("timings-one", "");
    let one = fs::read(failed.file("target/image/timings.html")).unwrap();
    let fake = FakeDocker::new(
        "timings-thousand",
        r#"case "$*" in *du|info*) exit;; *imagetools*) exit 1;; *inspect*) cat inspected; exit;; esac
        day=2026-11-24T10
        grep -o '"debian-b[0-9]*":{' | cut -d '"' -f 2 | while read -r name; do
            minute=$((${name#debian-b} % 50 + 10))
            printf '{"vertexes":[{"digest":"%s","name":"[%s builder 1/2] RUN make",' $name $name
            printf '"started":"%s:%s:00Z","completed":"%s:%s:30Z"}]}\n' $day $minute $day $minute
        done >&2"#,
    );
    fs::write(fake.file("inspected"), INSPECTED).unwrap();
    let bases = (0..1000).map(|number| format!("b{number}\n")).collect::<String>();
    fs::write(fake.file("list"), bases).unwrap();
    let list = fake.file("list");
    let args = ["image", "--variant=debian", "--push", "--check=off", "--jobs=1000", "--timings"];
    let list = ["--base-images", list.to_str().unwrap()];
    let call = fake.call(&[&args[..], &list].concat());
    let ended = call.env("OPENHANDS_BUILDKIT_CACHE_MODE", "off").on("x").end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    [("one", one), ("thousand", fs::read(fake.file("target/image/timings.html")).unwrap())]
}

#[test]
fn the_trace_has_the_spans() {
    let (fake, ended) = failed("timings-trace", "deep/trace.json");
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let trace = fs::read_to_string(fake.file("deep/trace.json")).unwrap();
    let trace: Value = serde_json::from_str(&trace).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let spans = events.iter().filter(|event| event["ph"] == "X").collect::<Vec<_>>();
    let times = spans.iter().map(|span| json!([span["ts"], span["dur"], span["tid"]]));
    let expected = [json!([0.0, 0.0, 1]), json!([5e6, 7e6, 1]), json!([1e7, 9e6, 2])];
    assert_eq!(times.collect::<Vec<_>>(), expected);
    assert_eq!(spans[0]["args"]["cached"], true);
    assert_eq!(spans[2]["args"]["error"], "exit code: 1");
    assert_eq!(spans[2]["args"]["output"], "</script> last line");
}

#[test]
fn the_last_build_is_beside_and_every_phase_is_there() {
    let first = fake("timings-first", &[(&steps(false), PUSHED), ("", EXPORTED)], ":");
    let again = fake("timings-again", &[(&steps(true), PUSHED), ("", EXPORTED)], ":");
    let checkout = &first.0.0;
    for fake in [&first, &again] {
        let args = ["image", "--variant=debian", "--push", "--check=off", "--timings"];
        let call = Xtask::within(checkout, &args).on("x").env("PATH", fake.path());
        let ended = call.end();
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        assert!(ended.stderr.contains("timings.html"), "{}", ended.stderr);
    }
    let totals = data(&checkout.join("target/image/timings.html"))["totals"].clone();
    let row = |name: &str| totals.as_array().unwrap().iter().find(|row| row[0] == name).unwrap();
    assert_eq!(row("stage builder"), &json!(["stage builder", 4.0, 4.0, 2, 1]));
    assert_eq!(row("image export")[1], 3.0);
    assert_eq!(row("pull")[1], 0.5);
    assert_eq!(row("context")[1], 1.0);
}

#[test]
fn the_flag_takes_a_file_or_nothing() {
    for flag in ["--timings", "--timings=", "--timings=x.json", "--timings=x.html"] {
        let ended = Xtask::new(&["image", flag, "--print"]).end();
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{flag}");
    }
    let refused = Xtask::new(&["image", "--timings=x.txt", "--print"]).refused();
    assert!(refused.contains("\"x.txt\"") && refused.contains(".html or .json"), "{refused}");
    let refused = Xtask::new(&["image", "--timings", "x.html", "--print"]).refused();
    assert!(refused.contains("unexpected argument \"x.html\""), "{refused}");
    let refused = Xtask::new(&["image", "matrix", "--timings"]).refused();
    assert!(refused.contains("it belongs to"), "{refused}");
}
