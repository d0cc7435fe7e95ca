//! A run of many base images: in waves, past those that are bad, and on from where it stopped.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use crate::support::engine::{Engine, docker};
use crate::support::fake::{FakeDocker, INSPECTED};
use crate::support::{Ended, Folder, Xtask, strings};
use serde_json::{Value, json};

const MODE: &str = "OPENHANDS_BUILDKIT_CACHE_MODE";

/// A `docker` that keeps what every bake was given, and tells `events` and fails by number.
fn fake(name: &str, bad: &[(usize, &str)]) -> FakeDocker {
    let script =
        "case \"$*\" in *du) exit;; *imagetools*|info*) exit 1;;
         *inspect*) cat inspected; exit;; esac
         n=1; while [ -f baked$n ]; do n=$((n + 1)); done
         cat > baked$n
         while [ $# -gt 0 ]; do case \"$2\" in */inputs.json) cat \"$2\" > inputs$n; esac; shift; done
         [ ! -f events$n ] || { cat events$n >&2; exit 1; }";
    let fake = FakeDocker::new(name, script);
    fs::write(fake.file("inspected"), INSPECTED).unwrap();
    for (number, events) in bad {
        fs::write(fake.file(&format!("events{number}")), events).unwrap();
    }
    fake
}

/// A vertex that failed.
fn failed(name: &str, error: &str) -> String {
    let time = "2026-11-24T10:51:39Z";
    let vertex = json!({ "digest": name, "name": name, "started": time, "completed": time,
                         "error": error });
    format!("{}\n", json!({ "vertexes": [vertex] }))
}

/// A run of the base images `b0` to `b4`, by two a bake; gives the targets of every bake.
fn run(fake: &FakeDocker, args: &[&str]) -> (Ended, Vec<Vec<String>>) {
    let report = fake.file("report.json");
    let flags = (0..5).map(|n| format!("--base-image=b{n}")).collect::<Vec<_>>();
    let always = ["image", "--variant=debian", "--push", "--jobs=2", "--report"];
    let always = [&always[..], &[report.to_str().unwrap()], args].concat();
    let flags = flags.iter().map(String::as_str).collect::<Vec<_>>();
    let args = [&always[..5], &flags, &always[5..]].concat();
    let call = fake.call(&args).env(MODE, "off");
    let ended = call.on("x").end();
    let bakes = (1..).map_while(|n| fs::read_to_string(fake.file(&format!("baked{n}"))).ok());
    let targets = bakes.map(|bake| {
        let bake: Value = serde_json::from_str(&bake).unwrap();
        let names = strings(&bake["group"]["default"]["targets"]);
        names.iter().map(|name| name.replace("debian-", "")).collect()
    });
    (ended, targets.collect())
}

/// The numbers in a line.
fn numbers(line: &str) -> Vec<usize> {
    let digits = line.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    digits.map(|digits| digits.parse().unwrap()).collect()
}

/// The one line that says why a run has failed.
fn error_line(ended: &Ended) -> &str {
    let mut errors = ended.stderr.lines().filter(|line| line.starts_with("error: "));
    let (Some(error), None) = (errors.next(), errors.next()) else { panic!("{}", ended.stderr) };
    error
}

#[test]
fn the_first_image_goes_ahead_and_then_a_wave_is_one_bake() {
    let fake = fake("waves-all", &[]);
    fs::write(fake.file("failed.txt"), "of an older run").unwrap();
    let (ended, bakes) = run(&fake, &[]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(bakes, [vec!["b0"], vec!["b1", "b2"], vec!["b3", "b4"]]);
    assert_eq!(ended.stdout.lines().count(), 5);
    assert!(!fake.file("failed.txt").exists());
}

#[test]
fn the_folder_is_sent_once_for_all_images_of_a_bake() {
    let fake = fake("waves-inputs", &[]);
    let (ended, _) = run(&fake, &[]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let target = |fake: &FakeDocker, number: usize| -> Value {
        let baked = fs::read_to_string(fake.file(&format!("baked{number}"))).unwrap();
        serde_json::from_str::<Value>(&baked).unwrap()["target"].clone()
    };
    let targets = target(&fake, 2);
    assert_eq!(targets["_inputs"]["context"], ".");
    for name in ["debian-b1", "debian-b2"] {
        assert_eq!(targets[name]["contexts"]["inputs"], "target:_inputs");
    }
    assert_eq!(target(&fake, 1)["_inputs"], Value::Null, "one image needs no such thing");
    for (name, inspected, args) in [
        ("waves-cluster", INSPECTED.replace("Driver: docker", "Driver: kubernetes"), &[][..]),
        ("waves-told", INSPECTED.to_owned(), &["--", "--set=*.output=type=oci,dest=x"]),
    ] {
        let fake = self::fake(name, &[]);
        fs::write(fake.file("inspected"), inspected).unwrap();
        assert_eq!(run(&fake, args).0.status, 0);
        assert_eq!(target(&fake, 2)["_inputs"], Value::Null, "{name}");
    }
}

#[test]
fn a_bad_base_image_costs_one_image() {
    let bad = failed("[debian-b1 internal] load metadata for b1", "b1: not found")
        + &failed("[debian-b2 one 1/2] RUN x", "context canceled: context canceled");
    // Nobody tells which target it was.
    let fake = fake("waves-bad", &[(2, &bad), (4, "no event\n"), (5, "no event\n")]);
    let (ended, bakes) = run(&fake, &[]);
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let expected: [&[&str]; 6] = [&["b0"], &["b1", "b2"], &["b2"], &["b3", "b4"], &["b3"], &["b4"]];
    assert_eq!(bakes, expected);
    let built = ["b0", "b2", "b4"].map(|name| format!("0123456-{name}"));
    assert!(ended.stdout.lines().zip(&built).all(|(tag, name)| tag.ends_with(name)));
    assert_eq!(ended.stdout.lines().count(), 3);
    let list = fs::read_to_string(fake.file("failed.txt")).unwrap();
    let listed = list.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>();
    assert_eq!(listed, ["b1", "b3"]);
    let reason = list.lines().take_while(|line| *line != "b1").last().unwrap();
    assert!(reason.starts_with('#') && reason.contains("b1: not found"), "{list}");
    let report = fs::read_to_string(fake.file("report.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let results = ["b0", "b1", "b4"].map(|name| {
        report["targets"][format!("debian-{name}")]["image"]["result"].as_str().unwrap().to_owned()
    });
    assert_eq!(results, ["done", "failed", "done"]);
    assert_eq!(numbers(error_line(&ended))[..2], [2, 5]);

    // The list is taken as it is.
    let list = fake.file("failed.txt");
    let args = ["--variant=debian", "--base-images", list.to_str().unwrap()];
    let names = Xtask::print(&args).definition()["group"]["default"]["targets"].clone();
    assert_eq!(strings(&names), ["debian-b1", "debian-b3"]);
}

#[test]
fn what_passes_is_tried_again_and_what_does_not_is_not() {
    let busy = failed("[debian-b1] exporting to image", "push: 429 Too Many Requests");
    let refused = failed("[debian-b3 internal] load metadata for b3", "403 Forbidden");
    // A step's own text may hold anything.
    let step = "process \"cat <<EOF\" did not complete successfully: exit code: 1";
    let step = failed("[debian-b4 one 1/2] RUN x", step);
    let fake = fake("waves-busy", &[(2, &busy), (4, &(refused + &step))]);
    let (ended, bakes) = run(&fake, &[]);
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    assert_eq!(bakes, [vec!["b0"], vec!["b1", "b2"], vec!["b1", "b2"], vec!["b3", "b4"]]);
    let is_retry = |line: &str| line.contains("429 Too Many Requests") && line.contains(" 2 s");
    assert!(ended.stderr.lines().any(is_retry), "{}", ended.stderr);
}

#[test]
fn a_step_that_the_builder_has_lost_runs_again() {
    let lost = "failed to commit x to y during finalize: failed to stat active key during commit: \
                snapshot x does not exist: not found";
    let fake = fake("waves-lost", &[(2, &failed("[debian-b2] exporting to image", lost))]);
    let (ended, bakes) = run(&fake, &[]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(bakes[1..3], [["b1", "b2"], ["b1", "b2"]]);
    let again = fs::read(fake.file("baked3")).unwrap();
    let again = serde_json::from_slice::<Value>(&again).unwrap()["target"].clone();
    let is_anew = ["debian-b1", "debian-b2"].map(|name| again[name]["no-cache"].clone());
    assert_eq!(is_anew, [Value::Null, json!(true)]);
}

#[test]
fn a_wave_that_fails_alike_ends_the_run() {
    let error = "process \"false\" did not complete successfully: exit code: 1";
    let first = failed("[builder 1/2] RUN false", error);
    let both = failed("[debian-b1 builder 1/2] RUN false", error)
        + &failed("[debian-b2 builder 1/2] RUN false ", error).replace("false \"", "false\"");
    let fake = fake("waves-common", &[(1, &first), (2, &both)]);
    let (ended, bakes) = run(&fake, &[]);
    assert_eq!((ended.status, bakes.len()), (1, 2), "{}", ended.stderr);
    assert!(numbers(error_line(&ended)).contains(&2), "{}", ended.stderr);
}

#[test]
fn a_failing_layer_costs_its_image() {
    let bad = failed("[debian-b2_layer 2/2] RUN pip", "process \"pip\" did not complete: 1");
    let fake = fake("waves-layer", &[(2, &bad)]);
    fs::write(fake.file("Dockerfile"), "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n").unwrap();
    let layer = format!("--layer={}", fake.0.0.display());
    let (ended, bakes) = run(&fake, &[&layer, "--layer-tag=thin"]);
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    assert_eq!(bakes[1], ["b1", "b1_layer", "b2", "b2_layer"]);
    assert_eq!(bakes[2], ["b1", "b1_layer"]);
    assert_eq!(ended.stdout.lines().filter(|tag| tag.ends_with("-thin")).count(), 4);
    assert!(ended.stderr.contains("RUN pip"), "{}", ended.stderr);
}

#[test]
fn numbers_of_jobs_that_are_none_are_refused() {
    for jobs in ["0", "-1", "x", "", "1.5", "99999999999999999999"] {
        let said = Xtask::print(&[&format!("--jobs={jobs}")]).refused();
        assert!(said.contains(&format!("{jobs:?}")) && said.contains("--jobs"), "{said}");
    }
    let said = Xtask::print(&["--load", "--skip-existing"]).refused();
    assert!(said.contains("--push"), "{said}");
}

/// Base images that differ, and a checkout whose image takes a second on each.
pub fn bases(engine: &Engine, folder: &Folder, count: usize) -> Vec<String> {
    let dockerfile =
        "ARG BASE_IMAGE\nFROM ${BASE_IMAGE} AS binary\nRUN sleep 0.3; cat /id > /built\n";
    fs::write(folder.0.join("agent-server-image/Dockerfile"), dockerfile).unwrap();
    let base = |number: usize| {
        let name = engine.image(&format!("base/b{number}"));
        let context = Folder::new(&format!("base-{number}"));
        fs::write(context.0.join("id"), number.to_string()).unwrap();
        let dockerfile = "FROM debian:trixie-slim\nCOPY id /id\n";
        fs::write(context.0.join("Dockerfile"), dockerfile).unwrap();
        docker(&["build", "--quiet", "--push", "--tag", &name, context.0.to_str().unwrap()]);
        name
    };
    (0..count).map(base).collect()
}

/// How many of nine images were in the registry before the run, by the first line that counts them.
fn skipped(ended: &Ended) -> usize {
    let line = ended.stderr.lines().find(|line| line.contains(" of 9 ")).unwrap();
    line.split(" of 9 ").next().unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_batch_that_was_killed_goes_on_where_it_stopped() {
    let Some(engine) = Engine::get("a batch") else { return };
    let checkout = Folder::checkout("batch");
    let mut list = bases(&engine, &checkout, 7);
    list.insert(3, engine.image("base/none"));
    list.insert(5, "nowhere.invalid/base lost,gone".to_owned());
    let file = checkout.0.join("list");
    fs::write(&file, list.join("\n")).unwrap();
    let call = |name: &str, args: &[&str]| {
        let image = engine.image(name);
        let always = ["image", "--variant=debian", "--push", "--jobs=2", "--base-images"];
        let always = [&always[..], &[file.to_str().unwrap(), "--image", &image], args].concat();
        let call = Xtask::within(&checkout.0, &always).in_engine().env(MODE, "off");
        call.on("x")
    };
    let scratch = Folder::new("batch-scratch");
    let whole = call("batch-whole", &[]).env("TMPDIR", &scratch.0).end();
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
    assert_eq!(whole.status, 1, "{}", whole.stderr);
    assert_eq!(engine.tags("batch-whole").len(), 7);
    let list = fs::read_to_string(checkout.0.join("target/image/failed.txt")).unwrap();
    let lines = ["base/none\n", "\nnowhere.invalid/base lost,gone\n"];
    assert!(lines.iter().all(|line| list.contains(line)), "{list}");

    let mut killed = call("batch", &[]);
    let mut child = killed.0.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while engine.tags("batch").is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let ended = call("batch", &["--skip-existing"]).end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    assert!(skipped(&ended) > 0, "{}", ended.stderr);
    assert_eq!(ended.stdout.lines().count(), 7, "{}", ended.stdout);
    assert_eq!(engine.pushed("batch"), engine.pushed("batch-whole"));

    let again = call("batch", &["--skip-existing"]).end();
    assert_eq!(skipped(&again), 7, "{}", again.stderr);
}

#[test]
fn steps_on_base_images_run_one_at_a_time_beside_the_image_ahead() {
    let Some(engine) = Engine::get("steps ahead") else { return };
    let checkout = Folder::checkout("steps-ahead");
    let list = bases(&engine, &checkout, 4);
    let image = engine.image("steps-ahead");
    // Nothing is cached of an earlier run: the image's name is new.
    let dockerfile = format!(
        "ARG BASE_IMAGE\n\
        FROM debian:trixie-slim AS common\nRUN sleep 8; echo {image} > /common\n\
        FROM ${{BASE_IMAGE}} AS below\nRUN sleep 1; [ $(cat /id) != 2 ] && echo {image} > /below\n\
        FROM below${{NOTHING:+-else}} AS binary\nCOPY --from=common /common /\n"
    );
    fs::write(checkout.0.join("agent-server-image/Dockerfile"), dockerfile).unwrap();
    let bases = list.iter().flat_map(|base| ["--base-image", base]).collect::<Vec<_>>();
    let always = ["image", "--variant=debian", "--push", "--image", &image, "--timings=trace.json"];
    let mut call = Xtask::within(&checkout.0, &[&always[..], &bases].concat()).in_engine();
    call.0.current_dir(&checkout.0).arg("--report=report.json");
    let ended = call.env(MODE, "off").on("x").end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let failed = fs::read_to_string(checkout.0.join("failed.txt")).unwrap();
    assert_eq!(
        failed.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>(),
        [&list[2]]
    );
    assert_eq!(engine.tags("steps-ahead").len(), 3);

    let json = |file: &str| -> Value {
        serde_json::from_slice(&fs::read(checkout.0.join(file)).unwrap()).unwrap()
    };
    let report = json("report.json");
    let is_below = |step: &&Value| step["name"].as_str().unwrap().contains("[below");
    for (name, target) in report["targets"].as_object().unwrap() {
        let steps = target["step_list"].as_array().unwrap();
        let below = steps.iter().find(is_below).unwrap_or_else(|| panic!("{name}: {target}"));
        assert_ne!(below["cached"], true, "{name}: {below}");
    }
    let trace = json("trace.json");
    let spans = |part: &str| {
        let events = trace["traceEvents"].as_array().unwrap().iter();
        let is_it = |event: &&Value| event["name"].as_str().unwrap().contains(part);
        let spans = events.filter(|event| event["ph"] == "X").filter(is_it).map(|event| {
            let from = event["ts"].as_f64().unwrap();
            (event["pid"].as_u64().unwrap(), from, from + event["dur"].as_f64().unwrap())
        });
        spans.collect::<Vec<_>>()
    };
    let end = spans("[common").iter().map(|(_, _, end)| *end).fold(0.0, f64::max);
    let mut others = spans("[below").split_off(1);
    others.sort_by(|a, b| a.1.total_cmp(&b.1));
    assert!(others[0].2 < end, "{trace}");
    assert!(others.windows(2).all(|pair| pair[0].2 <= pair[1].1), "{others:?}");
}

#[test]
fn a_layer_is_built_on_the_image_of_this_bake() {
    let Some(engine) = Engine::get("a layer") else { return };
    let checkout = Folder::checkout("thin-layer");
    let base = bases(&engine, &checkout, 1).remove(0);
    let layer = Folder::new("thin-layer-on-top");
    let dockerfile = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN cat /built > /on-top\n";
    fs::write(layer.0.join("Dockerfile"), dockerfile).unwrap();
    let layer = format!("--layer={}", layer.0.display());
    let image = engine.image("thin-layer");
    let args = ["image", "--variant=debian", "--push", "--layer-tag=thin", "--base-image", &base];
    let args = [&args[..], &["--image", &image, &layer, "--manifest=record"]].concat();
    let mut call = Xtask::within(&checkout.0, &args).in_engine().env(MODE, "off").on("x");
    call.0.current_dir(&checkout.0);
    let ended = call.end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let record = fs::read(checkout.0.join("record")).unwrap();
    let record = serde_json::from_slice::<Value>(&record).unwrap()["layer"].clone();
    let thin = ended.stdout.lines().filter(|tag| tag.ends_with("-thin")).collect::<Vec<_>>();
    assert_eq!(thin.len() * 2, engine.tags("thin-layer").len(), "{}", ended.stdout);
    assert_eq!(strings(&record["tags"]), thin);
    let tag = thin[0].rsplit(':').next().unwrap();
    assert_eq!(record["digest"], engine.digest("thin-layer", tag));
    assert_eq!(docker(&["run", "--rm", thin[0], "cat", "/on-top"]).trim(), "0");
}

#[test]
fn thirty_images_are_one_screen_of_a_log() {
    let fake = fake("waves-thirty", &[]);
    let step = json!({ "digest": "a", "name": "[one 1/2] RUN x", "started": "2026-11-24T10:51:39Z",
                       "completed": "2026-11-24T10:51:40Z" });
    let script = fs::read_to_string(fake.file("docker")).unwrap();
    let events = format!("echo '{}' >&2", json!({ "vertexes": [step] }));
    fs::write(fake.file("docker"), format!("{script}\n{events}\n")).unwrap();
    let bases = (0..30).map(|n| format!("--base-image=b{n}")).collect::<Vec<_>>();
    let bases = bases.iter().map(String::as_str).collect::<Vec<_>>();
    let args = [&["image", "--variant=debian", "--push"], &bases[..]].concat();
    let call = |progress| {
        let call = fake.call(&args).env(MODE, "off").env("BUILDKIT_PROGRESS", progress);
        call.env("CI", "1").on("x").end()
    };
    let ended = call("");
    assert_eq!((ended.status, ended.stdout.lines().count()), (0, 30), "{}", ended.stderr);
    let lines = ended.stderr.lines().collect::<Vec<_>>();
    assert!(lines.len() <= 45, "{}: {}", lines.len(), ended.stderr);
    assert_eq!(lines.iter().filter(|line| line.starts_with("built  debian-b")).count(), 30);
    assert!(!ended.stderr.contains("RUN x") && call("plain").stderr.contains("RUN x"));
}
