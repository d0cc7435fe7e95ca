//! What people see of one image while it is built, where there is no terminal, and what is safe of it.

use crate::support::events::{self, begun, cached, done, ended, output};
use crate::support::expected;
use crate::support::fake::FakeDocker;
use serde_json::json;

/// The steps of an image: scripts, a COPY of two parts, and a pull. buildx names all of them first.
fn steps(is_cached: bool) -> String {
    let link = "[base-image-minimal 3/3] COPY --link --from=builder /server /server";
    let pull = "[base-image-minimal 1/3] FROM docker.io/library/debian:trixie-slim@sha256:0";
    let steps = [
        (events::run("builder 2/3", "python.sh"), (2.5, 9.0)),
        (events::run("builder 3/3", "node.sh"), (2.5, 5.0)),
        (events::run("base-image-minimal 2/3", "apt.sh"), (2.5, 12.0)),
        (link.to_owned(), (12.0, 12.2)),
        (format!("merging {link}"), (12.2, 12.4)),
    ];
    let names = steps.iter().map(|(name, _)| events::known(name)).collect::<String>();
    let step =
        |(name, times): &(String, _)| if is_cached { cached(name) } else { done(name, *times) };
    let ends = steps.iter().map(step).collect::<String>();
    done("[internal] load build definition from Dockerfile", (0.0, 0.1))
        + &events::known(pull)
        + &names
        + &done(pull, (0.5, 2.5))
        + &ends
}

#[test]
fn each_step_is_one_line_and_numbers_do_not_start_again() {
    // Older versions of buildx write each event over several lines.
    for style in [str::to_owned, events::indented] {
        let fake = FakeDocker::new("progress-steps");
        let check = events::run("check 1/1", "check.sh");
        let checked = events::known(&check) + &steps(false) + &done(&check, (13.0, 17.0));
        fake.play("debian.check", &style(&checked));
        let push = done("exporting to image", (18.0, 20.0))
            + &done("pushing r.io/i:t with docker", (20.0, 21.0));
        fake.play("debian.image", &style(&(steps(true) + &push)));
        fake.play("debian.cache", &style(&done("exporting cache to registry", (21.0, 30.0))));
        let ended = fake.call(&["image", "--variant=debian", "--push"]).on("x").succeed();
        let text = expected::steady(&ended.stderr, &fake.0.0);
        expected::check("fake/expected/progress_steps.txt", &text);
    }
}

#[test]
fn an_unchanged_build_shows_no_step() {
    let fake = FakeDocker::new("progress-cached");
    fake.play("debian.image", &steps(true));
    let ended = fake.call(&["image", "--variant=debian", "--load"]).on("x").succeed();
    expected::check(
        "fake/expected/progress_cached.txt",
        &expected::steady(&ended.stderr, &fake.0.0),
    );
}

#[test]
fn every_line_is_shown_where_that_is_wanted() {
    let fake = FakeDocker::new("progress-plain");
    let step = events::run("builder 2/3", "python.sh");
    // The last line of a step needs no end.
    let lines = output(&step, "first\nno ") + &output(&step, "newline");
    fake.play("debian.image", &(begun(&step) + &lines + &done(&step, (1.0, 6.0))));
    let call = fake.call(&["image", "--variant=debian", "--load"]).on("x");
    let ended = call.env("BUILDKIT_PROGRESS", "plain").succeed();
    expected::check(
        "fake/expected/progress_plain.txt",
        &expected::steady(&ended.stderr, &fake.0.0),
    );
}

#[test]
fn whatever_docker_calls_progress_is_taken() {
    let fake = FakeDocker::new("progress-names");
    for name in ["tty", "quiet", "none", "rawjson"] {
        let call = fake.call(&["image", "list", "--variant=debian"]);
        call.env("BUILDKIT_PROGRESS", name).succeed();
    }
}

#[test]
fn what_steps_warn_of_is_said_once() {
    let fake = FakeDocker::new("progress-warned");
    let step = events::run("builder 2/3", "apt.sh");
    let lines = output(&step, "warning: skipped a\nwarning: skipped b\nwarning: skipped a\n");
    fake.play("debian.image", &(begun(&step) + &lines + &done(&step, (1.0, 6.0))));
    let ended = fake.call(&["image", "--variant=debian", "--load"]).on("x").succeed();
    let text = expected::steady(&ended.stderr, &fake.0.0);
    expected::check("fake/expected/progress_warned.txt", &text);
}

#[test]
fn a_run_goes_on_where_standard_error_takes_nothing() {
    let fake = FakeDocker::new("progress-full");
    fake.play("debian.image", &steps(false));
    let mut call = fake.push(&["--records=records"]);
    call.0.stderr(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let output = call.0.stdout(std::process::Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout.split(|&byte| byte == b'\n').count(), 5);
    assert_eq!(fake.records().len(), 1);
}

#[test]
fn no_line_that_others_wrote_commands_a_terminal_or_a_runner() {
    let name = "[a 1/2] RUN \u{1b}]0;x\u{7}\n::set-output name=a::b";
    let error = "no\n::error::such\r\n::stop-commands::file";
    let play = begun(name)
        + &output(name, "::add-mask::x\na ##[stop-commands]b\n")
        + &events::warning("100%\n::error::x")
        + &ended("[a 2/2] RUN y", (0.0, 5.0), &json!({ "error": error }))
        + "::stop-commands::x\n\x1b[2J##[group]y\n";
    for (runner, file) in [("", "hostile_text"), ("true", "hostile_text_in_job")] {
        let fake = FakeDocker::new("progress-hostile");
        fake.play("debian.image", &play);
        let ended = fake.push(&["--check=off"]).env("GITHUB_ACTIONS", runner).end();
        let said = &ended.stderr;
        for command in ["::add-mask", "::set-output", "::stop-commands", "##[", "\x1b"] {
            assert!(!said.contains(command), "{command:?} is in {said}");
        }
        let is_ours = |line: &str| line.starts_with("::warning::") || line.starts_with("::error::");
        let commands = said.lines().filter(|line| line.starts_with("::"));
        assert!(commands.clone().all(is_ours), "{said}");
        assert_eq!(commands.count() > 0, runner == "true", "{said}");
        expected::check(&format!("fake/expected/{file}.txt"), &expected::steady(said, &fake.0.0));
    }
}
