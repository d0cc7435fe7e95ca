//! A cache that cannot be written costs the image nothing, unless `--strict-cache` is given.

use crate::support::events::{self, ended};
use crate::support::fake::FakeDocker;
use crate::support::{CACHE_TIMEOUT, Ended, IMAGE, expected};
use serde_json::{Value, json};

const CACHE: &str = "buildcache-binary-debian_tag_trixie-slim-x";

/// A push with caches, and the record of its image.
fn push(fake: &FakeDocker, args: &[&str]) -> (Ended, Value) {
    let always = ["image", "--variant=debian", "--push", "--check=off", "--records=records"];
    let call = fake.call(&[&always[..], args].concat()).on("x");
    let ended = call.env(CACHE_TIMEOUT, "1").end();
    let mut records = fake.records();
    assert_eq!(records.len(), 1, "{}", ended.stderr);
    (ended, records.remove(0))
}

fn text(ended: &Ended, fake: &FakeDocker) -> String {
    expected::steady(&ended.stderr, &fake.0.0)
}

#[test]
fn an_export_that_fails_is_a_warning_and_an_error_only_where_caches_are_strict() {
    for (args, status, name) in
        [(&[][..], 0, "cache_export_failed"), (&["--strict-cache"], 1, "cache_export_strict")]
    {
        let fake = FakeDocker::new("exports-failed");
        let error = "error writing layer blob: 403 Forbidden";
        // It does not fail the bake: `ignore-error` is set.
        let export = "exporting cache to registry";
        fake.play("debian.cache", &ended(export, (0.0, 9.0), &json!({ "error": error })));
        fake.write("override.sh", "case \"$*\" in *' bake '*) export NO_CACHE=1;; esac\n");
        let (ended, record) = push(&fake, args);
        assert_eq!(ended.status, status, "{}", ended.stderr);
        assert!(ended.stdout.starts_with(&format!("{IMAGE}:0123456-debian\n")), "{}", ended.stdout);
        let written = &record["cache_written"][0];
        assert_eq!(written["ref"], format!("{IMAGE}:{CACHE}"));
        let found = ["mode", "result", "error"].map(|key| written[key].as_str().unwrap());
        assert_eq!(found, ["max", "failed", error]);
        assert_eq!(record["status"], "built");
        expected::check(&format!("fake/expected/{name}.txt"), &text(&ended, &fake));
    }
}

#[test]
fn an_export_that_takes_too_long_is_stopped() {
    let fake = FakeDocker::new("exports-slow");
    fake.play("debian.cache", "wait never\n");
    let (ended, record) = push(&fake, &[]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(record["cache_written"][0]["result"], "timed out");
    expected::check("fake/expected/cache_export_slow.txt", &text(&ended, &fake));
}

#[test]
fn a_cache_that_was_written_is_said_with_its_time() {
    let fake = FakeDocker::new("exports-done");
    fake.play("debian.cache", &events::done("exporting cache to registry", (9.0, 11.0)));
    let (ended, record) = push(&fake, &[]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let written = &record["cache_written"][0];
    assert_eq!((&written["result"], &written["seconds"]), (&json!("done"), &json!(2.0)));
    // This registry cannot be asked.
    assert_eq!(written["bytes_uploaded"], Value::Null);
}

#[test]
fn what_the_caches_of_a_batch_have_in_common_is_sent_once() {
    let fake = FakeDocker::new("exports-batch");
    fake.play("all.cache", &events::done("exporting cache to registry", (9.0, 11.0)));
    // The registry has the images, and their caches once these are written.
    let layer = |digit: &str, size: u64| json!({ "digest": format!("sha256:{}", digit.repeat(64)), "size": size });
    let manifest = json!({ "layers": [layer("a", 5)] });
    let cache = json!({ "layers": [layer("a", 5), layer("b", 70)] });
    let script = format!(
        "case \"$*\" in *--raw*@sha256:*) echo '{manifest}'; exit;; *--raw*buildcache*) echo '{cache}'; exit;; esac\n"
    );
    fake.write("override.sh", &script);
    let args = ["image", "--variant=debian", "--base-image=a", "--base-image=b", "--push"];
    let args = [&args[..], &["--check=off", "--jobs=1", "--records=records"]].concat();
    fake.call(&args).on("x").succeed();
    let sent = |record: &Value| record["cache_written"][0]["bytes_uploaded"].as_u64();
    let sent = fake.records().iter().map(sent).collect::<Vec<_>>();
    assert_eq!(sent, [Some(70), Some(0)]);
}
