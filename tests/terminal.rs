//! What is on a terminal while images are built: a fake docker plays what buildx would say, and
//! waits where the test looks.

use std::fs;

use crate::support::fake::{FakeDocker, INSPECTED};
use crate::support::terminal::{self, Screen, Terminal};
use crate::support::{Xtask, base64};
use serde_json::{Value, json};

const WIDTHS: [usize; 3] = [80, 120, 200];
const STEP: &str = "[builder 2/3] RUN --mount=type=tmpfs,target=/tmp <<'EOF' (# install it...)";
const EXIT: &str = "process \"/bin/sh -c x\" did not complete successfully: exit code: 2";

/// Plays a bake by its number: lines of events, `wait NAME` until there is such a file, and
/// `exit STATUS`.
const PLAYER: &str =
    "case \"$*\" in *imagetools*) exit 1;; *inspect*) cat inspected; exit;; *bake*) ;; *) exit;; esac
n=1; while [ -f baked$n ]; do n=$((n + 1)); done; cat > baked$n
[ -f events$n ] || exit 0
while read -r line; do
    case \"$line\" in
    wait*) while [ ! -f \"${line#wait }\" ]; do sleep 0.02; done;;
    exit*) exit \"${line#exit }\";;
    *) printf '%s\\n' \"$line\" >&2;;
    esac
done < events$n";

fn player(name: &str, bakes: &[(usize, &str)]) -> FakeDocker {
    let fake = FakeDocker::new(name, PLAYER);
    fs::write(fake.file("inspected"), INSPECTED).unwrap();
    for (number, events) in bakes {
        fs::write(fake.file(&format!("events{number}")), events).unwrap();
    }
    fake
}

/// The call of a user at a terminal who builds these base images.
fn call(fake: &FakeDocker, bases: usize) -> Xtask {
    let bases = (0..bases).map(|n| format!("--base-image=b{n}")).collect::<Vec<_>>();
    let bases = bases.iter().map(String::as_str).collect::<Vec<_>>();
    let args = [&["image", "--push", "--jobs=2"], &bases[..]].concat();
    fake.call(&args).env("OPENHANDS_BUILDKIT_CACHE_MODE", "off").on("x")
}

/// An event of a step that begins, or has ended by `error` if it is no empty one.
fn vertex(name: &str, started: bool, error: Option<&str>) -> String {
    let mut vertex = json!({ "digest": name, "name": name });
    if started {
        vertex["started"] = json!("2026-11-24T10:51:00Z");
    }
    if let Some(error) = error {
        vertex["completed"] = json!("2026-11-24T10:51:09Z");
        vertex["error"] =
            Some(error).filter(|error| !error.is_empty()).map_or(Value::Null, Value::from);
    }
    format!("{}\n", json!({ "vertexes": [vertex] }))
}

fn output(name: &str, text: &str) -> String {
    format!("{}\n", json!({ "logs": [{ "vertex": name, "data": base64(text.as_bytes()) }] }))
}

/// The lines below the one on the server, without what depends on the time.
fn below_server(screen: &Screen) -> Vec<String> {
    // It may take two lines.
    let is_server = |line: &String| line.starts_with("server: ") || line.ends_with("erver 1.2.3");
    screen.lines().into_iter().skip_while(is_server).map(|line| timeless(&line)).collect()
}

/// `line` with `T` for each number of seconds, of minutes, or of images an hour.
fn timeless(line: &str) -> String {
    let words = line.split(' ').collect::<Vec<_>>();
    let timeless = words.iter().enumerate().map(|(at, word)| {
        let (number, comma) = word.strip_suffix(',').map_or((*word, ""), |word| (word, ","));
        let unit = words.get(at + 1).is_some_and(|unit| ["s", "an", "min"].contains(unit));
        let is_time = number.strip_suffix('s').or(unit.then_some(number));
        let is_time = is_time.is_some_and(|time| time.parse::<f64>().is_ok());
        if is_time { format!("T{comma}") } else { (*word).to_owned() }
    });
    timeless.collect::<Vec<_>>().join(" ")
}

/// Nothing but a message that has to be read whole is longer than a line.
fn assert_fits(screen: &Screen) {
    let whole = ["server: ", "error: ", "log: "];
    let is_whole = |line: &String| whole.iter().any(|start| line.starts_with(start));
    let wrapped = screen.wrapped.iter().filter(|line| !is_whole(line)).collect::<Vec<_>>();
    assert!(wrapped.is_empty(), "{wrapped:#?}");
}

/// These lines as a terminal of so many columns shows them, of which the last is left free.
fn cut(lines: &[&str], columns: usize) -> Vec<String> {
    let cut = |line: &&str| {
        let is_cut = line.chars().count() >= columns;
        let shown = if is_cut { columns - 2 } else { columns };
        timeless(&line.chars().take(shown).chain(is_cut.then_some('…')).collect::<String>())
    };
    lines.iter().map(cut).collect()
}

#[test]
fn what_runs_is_drawn_below_what_has_ended() {
    let pull = format!("[builder 1/3] FROM r.io/{}:1@sha256:0", "base/".repeat(20));
    let part =
        json!({ "vertex": pull, "id": "sha256:1", "current": 10_000_000, "total": 40_000_000 });
    let long = format!("Collecting {}", "b".repeat(300));
    let make = "[builder 3/3] RUN make";
    let events = vertex(STEP, false, None)
        + &vertex(make, false, None)
        + &vertex(&pull, true, None)
        + &format!("{}\n", json!({ "statuses": [part] }))
        + &vertex(STEP, true, None)
        + &output(STEP, &format!("Collecting a\n{long}\n"))
        + "wait go\n"
        + &vertex(STEP, true, Some(""))
        + &vertex(make, true, None)
        + &output(make, "cc -o \x1b[31ma\n")
        + "wait end\n"
        + &vertex(make, true, Some(EXIT))
        + "exit 1\n";
    let pull = format!(" =>    0.0s {pull}");
    let bytes = "            10 MB of 40 MB";
    for columns in WIDTHS {
        let fake = player("terminal-one", &[(1, &events)]);
        let mut terminal = Terminal::start(&call(&fake, 1), columns);
        let screen = terminal.see(&["10 MB of 40 MB", "Collecting bbb"]);
        let step = " =>    0.0s [1/2] builder: install it";
        let last = format!("{:12}{long}", "");
        let expected = ["[+] 0.0s, 2 running", &pull, bytes, step, &last];
        assert_eq!(below_server(&screen), cut(&expected, columns));

        fs::write(fake.file("go"), "").unwrap();
        let screen = terminal.see(&["[2/2] builder: RUN make", "cc -o a"]);
        let done = "=> DONE 9.0s   [1/2] builder: install it";
        let step = " =>    0.0s [2/2] builder: RUN make";
        let expected = [done, "[+] 0.0s, 2 running", &pull, bytes, step, "            cc -o a"];
        assert_eq!(below_server(&screen), cut(&expected, columns));

        fs::write(fake.file("end"), "").unwrap();
        let (status, screen) = terminal.end();
        let shown = below_server(&screen);
        let reason = format!("   {EXIT}");
        let expected = [done, "   cc -o a", "=> ERROR       [2/2] builder: RUN make", &reason];
        assert_eq!((status, &shown[..4]), (1, &cut(&expected, columns)[..]), "{shown:#?}");
        let from = shown.iter().position(|line| line.starts_with("failed: ")).unwrap();
        let place = "failed: [builder 3/3] RUN make (agent-server-image/Dockerfile)";
        assert_eq!(shown[from..from + 2], [place, "  | cc -o a"]);
        let rest = shown[from + 2..].concat();
        assert!(rest.contains("b0.log") && rest.contains("exit code: 2"), "{shown:#?}");
        assert_fits(&screen);
    }
}

#[test]
fn a_batch_is_a_line_for_each_image_and_one_that_moves() {
    let name = |image: &str| STEP.replace("[builder", &format!("[python-{image} builder"));
    let events = [vertex(&name("b1"), true, None), vertex(&name("b2"), true, None)].concat()
        + &output(&name("b2"), "make: *** [all] Error 2\n")
        + "wait go\n"
        + &vertex(&name("b2"), true, Some(EXIT))
        + "exit 1\n";
    let last = vertex(&name("b4"), true, None) + "wait end\n";
    let built =
        |n: usize| format!("built  python-b{n} as ghcr.io/openhands/agent-server:0123456-b{n}");
    for columns in WIDTHS {
        let fake = player("terminal-batch", &[(2, &events), (4, &last)]);
        let mut terminal = Terminal::start(&call(&fake, 5), columns);
        let screen = terminal.see(&["1 of 5 done", "python-b1 builder"]);
        let moving = "1 of 5 done, 0 failed, 2 running; 0 s [python-b1 builder 2/3] install it";
        assert_eq!(below_server(&screen), cut(&[&built(0), moving], columns));

        fs::write(fake.file("go"), "").unwrap();
        let screen = terminal.see(&["2 of 5 done", "s [python-b4"]);
        assert_fits(&screen);
        let shown = below_server(&screen);
        let why = "failed python-b2 on b2: [builder 2/3] install it ended with exit code: 2";
        assert_eq!(shown[1], why);
        assert_eq!(shown[3], "  | make: *** [all] Error 2");
        assert_eq!(shown[shown.len() - 2], built(1));
        let moving = "2 of 5 done, 1 failed, 2 running; T an hour, T min left; T s [python-b4";
        assert!(shown.last().unwrap().starts_with(moving), "{shown:#?}");

        terminal.type_in("\x03");
        let (status, screen) = terminal.end();
        let ended = below_server(&screen);
        assert_eq!(status, 130, "{ended:#?}");
        // Whatever it takes, one message stands where the line was that moved.
        assert_eq!(ended[..shown.len() - 1], shown[..shown.len() - 1]);
        let message = ended[shown.len() - 1..].concat().replace(' ', "");
        let bases =
            "--base-image=b0 --base-image=b1 --base-image=b2 --base-image=b3 --base-image=b4";
        let command = format!("cargo xtask image --push --jobs=2 {bases} --skip-existing");
        let expected = format!("error: `{command}` continues this batch: stopped by signal 2");
        assert_eq!(message, expected.replace(' ', ""));
    }
}

#[test]
fn thirty_images_are_one_screen_with_colours_unless_they_are_refused() {
    for (refused, colour) in [("", "\x1b[32mbuilt\x1b[0m"), ("1", "built")] {
        let fake = player("terminal-thirty", &[(1, &vertex(STEP, true, Some("")))]);
        let call = call(&fake, 30).env("NO_COLOR", refused);
        let mut terminal = Terminal::start(&call, 120);
        let (status, screen) = terminal.end();
        let lines = screen.lines();
        assert!(status == 0 && lines.len() <= terminal::ROWS, "{lines:#?}");
        assert_eq!(lines.iter().filter(|line| line.starts_with("built  python-b")).count(), 30);
        assert_eq!(terminal.raw.matches(&format!("{colour}  python-b")).count(), 30);
        assert_eq!(terminal.raw.contains("\x1b[32m"), refused.is_empty());
    }
}

#[test]
fn the_log_of_a_job_folds_why_images_failed_and_shows_nothing_of_others() {
    let failed = |image: &str| {
        let name = STEP.replace("[builder", &format!("[python-{image} builder"));
        let output = output(&name, &format!("no {image}\n"));
        vertex(&name, true, None) + &output + &vertex(&name, true, Some(EXIT)) + "exit 1\n"
    };
    let fake = player("terminal-none", &[(2, &failed("b2")), (4, &failed("b3"))]);
    let ended = call(&fake, 30).env("GITHUB_ACTIONS", "true").end();
    let lines = ended.stderr.lines().collect::<Vec<_>>();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let mut folded = 0;
    for image in ["b2", "b3"] {
        let title = format!("::group::why python-{image} failed");
        let from = lines.iter().position(|line| *line == title).unwrap();
        let length = lines[from..].iter().position(|line| *line == "::endgroup::").unwrap();
        let output = format!("  | no {image}");
        assert!(lines[from..from + length].contains(&output.as_str()), "{}", ended.stderr);
        folded += length;
    }
    assert_eq!(ended.stderr.matches("::group::").count(), 2);
    assert!(lines.len() - folded <= 45, "{}", ended.stderr);
}
