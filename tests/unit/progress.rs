//! What a log shows of a long build.

use serde_json::{Value, json};

use super::*;
use crate::image::build::events::Reader;

fn progress(is_silent: bool) -> Progress {
    let begun = Instant::now();
    let (spoke, works) = (is_silent.then_some(begun), HashMap::new());
    let (screen, steps_were_shown, counted, has_failed) = (None, false, 0, false);
    Progress {
        screen,
        spoke,
        steps_were_shown,
        works,
        counted,
        begun,
        has_failed,
        batch: None,
        images: 1,
        parts: Vec::new(),
    }
}

fn begin(progress: &mut Progress, name: &str) {
    let event = VertexEvent {
        digest: name.to_owned(),
        name: name.to_owned(),
        group: None,
        weak: false,
        started: Some(1.0),
        completed: None,
        cached: false,
        error: None,
    };
    progress.show(&Event::Vertex(event));
}

#[test]
fn a_silent_minute_ends_with_what_runs() {
    let after = |seconds| Instant::now() + Duration::from_secs(seconds);
    let mut progress = progress(true);
    assert_eq!(progress.heartbeat(after(50)), None);
    let said =
        |progress: &Progress, seconds| progress.heartbeat(after(seconds)).unwrap_or_default();
    assert_eq!(said(&progress, 61), "still running: docker buildx bake (1 min)");
    begin(&mut progress, "[builder 3/6] install the server's packages");
    let one = "still running: [builder 3/6] install the server's packages (3 min)";
    assert_eq!(said(&progress, 181), one);
    begin(&mut progress, "[base 2/3] RUN b");
    begin(&mut progress, "[base 2/4] RUN c");
    assert_eq!(said(&progress, 181), format!("{one}, and 2 more"));
}

#[test]
fn a_line_starts_the_minute_anew() {
    let mut progress = progress(true);
    let begun = Instant::now().checked_sub(2 * SILENCE);
    progress.spoke = begun;
    assert!(progress.heartbeat(Instant::now()).is_some());
    progress.tick();
    assert_eq!(progress.heartbeat(Instant::now()), None);
    progress.spoke = begun;
    begin(&mut progress, "[builder 1/2] RUN a");
    assert_eq!(progress.heartbeat(Instant::now()), None);
}

#[test]
fn what_shows_progress_needs_no_heartbeat() {
    let later = Instant::now() + 2 * SILENCE;
    assert_eq!(progress(false).heartbeat(later), None);
}

#[test]
fn what_runs_is_drawn_with_its_last_output_or_its_bytes() {
    let mut progress = progress(false);
    let step = "[builder 2/3] RUN <<'EOF' (# install it...)";
    let pull = "[builder 1/3] FROM a:1@sha256:0";
    let vertex = |name: &str, started: Option<&str>| json!({ "vertexes": [{ "digest": name, "name": name, "started": started }] });
    let part = |id: &str, current: u64| json!({ "vertex": pull, "id": id, "current": current, "total": 40_000_000 });
    let events = [
        vertex(step, None),
        vertex("[2/2] RUN y", None),
        vertex(pull, Some("2026-11-24T10:51:00Z")),
        vertex(step, Some("2026-11-24T10:51:00Z")),
        // `first` and `second`, each with the end of its line.
        json!({ "logs": [{ "vertex": step, "data": "Zmlyc3QKc2Vjb25kCg==" }] }),
        json!({ "statuses": [part("sha256:1", 10_000_000), part("sha256:2", 20_000_000)] }),
    ];
    let events = events.iter().map(Value::to_string).collect::<String>();
    Reader::default().read(events.as_bytes()).iter().for_each(|event| progress.show(event));
    let lines = |room| {
        let lines = progress.frame(room).into_iter().skip(1);
        lines.map(|line| line.replace(" =>    0.0s ", "")).collect::<Vec<_>>()
    };
    let (bytes, title) = ("30 MB of 80 MB", "[1/2] builder: install it");
    let below = |state| format!("{:12}{state}", "");
    assert_eq!(lines(13), [pull, &below(bytes), title, &below("second")]);
    let beside = [format!("{pull}  {bytes}"), format!("{title}  second")];
    assert_eq!(lines(3), beside);
}
