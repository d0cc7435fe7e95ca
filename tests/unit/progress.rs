//! What a log shows of a long build.

use super::*;

fn progress(is_silent: bool) -> Progress {
    let begun = Instant::now();
    let (spoke, works) = (is_silent.then_some(begun), HashMap::new());
    Progress { screen: None, spoke, steps_were_shown: false, works, begun, has_failed: false }
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
