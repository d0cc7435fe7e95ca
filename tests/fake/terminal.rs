//! What is on a terminal while images are built: docker plays what buildx would say, and waits where
//! the test looks. The screens are in `expected`, a file for each width.

use crate::support::events::{begun, ended, failed_step, known, output, progress, run};
use crate::support::expected;
use crate::support::fake::FakeDocker;
use crate::support::terminal::{self, Screen, Terminal};
use serde_json::json;

const WIDTHS: [usize; 3] = [80, 120, 200];

/// A screen under a title, without what depends on the time.
fn screen(title: &str, screen: &Screen, fake: &FakeDocker) -> String {
    // How fast it goes is cut at different places.
    let steady = |line: &String| match line.split_once(" running; ") {
        Some((line, rest)) => format!("{line} running; … {}", rest.rsplit("; ").next().unwrap()),
        None => line.clone(),
    };
    let lines = screen.lines().iter().map(steady).collect::<Vec<_>>();
    let text = expected::steady(&(lines.join("\n") + "\n"), &fake.0.0);
    format!("# {title}\n{}\n", text.trim_end())
}

/// Nothing but a message that has to be read whole is longer than a line.
fn assert_fits(screen: &Screen) {
    let whole = ["server: ", "error: ", "hint: ", "log: "];
    let is_whole = |line: &String| whole.iter().any(|start| line.starts_with(start));
    let wrapped = screen.wrapped.iter().filter(|line| !is_whole(line)).collect::<Vec<_>>();
    assert!(wrapped.is_empty(), "{wrapped:#?}");
}

#[test]
fn what_runs_is_drawn_below_what_has_ended() {
    let pull = format!("[builder 1/3] FROM r.io/{}:1@sha256:0", "base/".repeat(20));
    let (first, second) = (run("builder 2/3", "python.sh"), run("builder 3/3", "make.sh"));
    let long = format!("Collecting {}", "b".repeat(300));
    let error = "process \"/bin/sh -c x\" did not complete successfully: exit code: 2";
    let play = known(&first)
        + &known(&second)
        + &begun(&pull)
        + &progress(&pull, "sha256:1", 10_000_000, 40_000_000)
        + &begun(&first)
        + &output(&first, &format!("Collecting a\n{long}\n"))
        + "wait go\n"
        + &ended(&first, (0.0, 9.0), &json!({}))
        + &begun(&second)
        + &output(&second, "cc -o \x1b[31ma\n")
        + "wait end\n"
        + &ended(&second, (0.0, 9.0), &json!({ "error": error }))
        + "exit 1\n";
    for columns in WIDTHS {
        let fake = FakeDocker::new("terminal-one");
        fake.play("debian.image", &play);
        let mut terminal = Terminal::start(&fake.push(&["--check=off"]), columns);
        let seen = terminal.see(&["10 MB of 40 MB", "Collecting bbb"]);
        let mut text = screen("a pull and a step run", &seen, &fake);
        fake.write("go", "");
        let seen = terminal.see(&["make", "cc -o a"]);
        text += &screen("the step has ended, and another runs", &seen, &fake);
        fake.write("end", "");
        let (status, seen) = terminal.end();
        assert_eq!(status, 1);
        assert_fits(&seen);
        text += &screen("it has failed", &seen, &fake);
        expected::check(&format!("fake/expected/terminal_{columns}.txt"), &text);
    }
}

#[test]
fn a_batch_is_a_line_for_each_image_and_one_that_moves() {
    let step = run("builder 2/3", "python.sh");
    for columns in WIDTHS {
        let fake = FakeDocker::new("terminal-batch");
        let failing = format!("{}wait go\n{}", begun(&step), failed_step(&step, "no\n", 2));
        fake.play("debian-b1.image", &failing);
        fake.play("debian-b2.image", &(begun(&step) + "wait never\n"));
        let bases = (0..4).map(|number| format!("--base-image=b{number}")).collect::<Vec<_>>();
        let bases = bases.iter().map(String::as_str).collect::<Vec<_>>();
        let args = [&["--check=off", "--jobs=1", "--target=overlay"], &bases[..]].concat();
        let mut terminal = Terminal::start(&fake.push(&args), columns);
        let seen = terminal.see(&["1 of 4 done", "python"]);
        let mut text = screen("the first is built, and the second runs", &seen, &fake);
        fake.write("go", "");
        let seen = terminal.see(&["1 failed", "b2: python"]);
        assert_fits(&seen);
        text += &screen("it has failed, and the third runs", &seen, &fake);
        terminal.type_in("\x03");
        let (status, seen) = terminal.end();
        assert_eq!(status, 130);
        text += &screen("Ctrl-C", &seen, &fake);
        expected::check(&format!("fake/expected/terminal_batch_{columns}.txt"), &text);
    }
}

#[test]
fn thirty_images_are_one_screen_with_colours_unless_they_are_refused() {
    for (refused, colour) in [("", "\x1b[32mbuilt\x1b[0m"), ("1", "built")] {
        let fake = FakeDocker::new("terminal-thirty");
        let bases = (0..30).map(|number| format!("--base-image=b{number}")).collect::<Vec<_>>();
        let bases = bases.iter().map(String::as_str).collect::<Vec<_>>();
        let call = fake.push(&[&["--check=off"], &bases[..]].concat()).env("NO_COLOR", refused);
        let mut terminal = Terminal::start(&call, 120);
        let (status, seen) = terminal.end();
        let lines = seen.lines();
        assert!(status == 0 && lines.len() <= terminal::ROWS, "{lines:#?}");
        assert_eq!(lines.iter().filter(|line| line.starts_with("built  b")).count(), 30);
        assert_eq!(terminal.raw.matches(&format!("{colour}  b")).count(), 30);
        assert_eq!(terminal.raw.contains("\x1b[32m"), refused.is_empty());
    }
}
