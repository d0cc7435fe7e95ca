//! A run of many images: a process for each, several at once, past those that fail, and what is said
//! of them.

use std::fs;
use std::process::Stdio;

use crate::support::events::{self, failed, failed_step};
use crate::support::fake::FakeDocker;
use crate::support::{CACHE_MODE, Ended, IMAGE, Xtask, expected, shell_words};
use serde_json::{Value, json};

/// `--base-image` for `b0` and so on.
fn bases(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("--base-image=b{number}")).collect()
}

/// A push of that many base images, with records.
fn push(fake: &FakeDocker, count: usize, args: &[&str]) -> Xtask {
    let bases = bases(count);
    let bases = bases.iter().map(String::as_str).collect::<Vec<_>>();
    fake.push(&[&bases[..], &["--check=off", "--records=records"], args].concat())
}

/// The error of a base image that no registry has.
fn no_base(base: &str) -> String {
    let error = format!("docker.io/library/{base}:latest: not found");
    failed(&format!("[internal] load metadata for docker.io/library/{base}:latest"), &error)
}

/// What the records say of each image: its base image and its status.
fn statuses(fake: &FakeDocker) -> Vec<(String, String)> {
    let text = |record: &Value, key: &str| record[key].as_str().unwrap().to_owned();
    let records = fake.records().into_iter();
    records.map(|record| (text(&record, "base_image"), text(&record, "status"))).collect()
}

/// The base images whose records have that status, sorted: images end in any order.
fn with_status(fake: &FakeDocker, status: &str) -> Vec<String> {
    let statuses = statuses(fake).into_iter().filter(|(_, found)| found == status);
    let mut bases = statuses.map(|(base, _)| base).collect::<Vec<_>>();
    bases.sort();
    bases
}

#[test]
fn the_first_image_goes_alone_and_then_four_are_built_at_once() {
    let fake = FakeDocker::new("batch-jobs");
    // Each of these ends only when all of them have begun.
    let all = (1..5).map(|number| format!("wait bakes/debian-b{number}.image.1\n"));
    let all = all.collect::<String>();
    for number in 1..5 {
        fake.play(&format!("debian-b{number}.image"), &all);
    }
    let ended = push(&fake, 9, &[]).succeed();
    assert_eq!(ended.stdout.lines().count(), 9);
    assert_eq!(fake.most_at_once("image"), 4);
    let mut order = fake.lines("order");
    order.retain(|line| line.contains(".image."));
    assert_eq!(order[..2], ["begin debian-b0.image.1", "end debian-b0.image.1"]);
    for bake in fake.bakes().iter().filter(|bake| bake.kind == "image") {
        assert_eq!(bake.targets(), [&bake.name]);
    }
}

#[test]
fn an_image_is_pushed_unchecked_only_after_another_of_its_system_has_started() {
    let fake = FakeDocker::new("batch-systems");
    for base in ["b0", "b1", "b2", "b3"] {
        fake.put(base, r#"{ "layers": [{ "digest": "sha256:a" }] }"#);
    }
    let refused = failed_step("[check 1/1] RUN [\"/bin/sh\", \"/run/check.sh\"]", "no\n", 1);
    fake.play("debian-b0.check", &refused);
    let bases = bases(4);
    let bases = bases.iter().map(String::as_str).collect::<Vec<_>>();
    let ended = fake.push(&[&bases[..], &["--jobs=1", "--records=records"]].concat()).end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let begun = ["b0.check.1", "b1.check.1", "b1.image.1", "b2.image.1", "b3.image.1"];
    assert_eq!(fake.begun(), begun.map(|bake| format!("debian-{bake}")));
    assert_eq!(with_status(&fake, "failed"), ["b0"]);
    // Every job of a run starts one itself: what another finds comes too late.
    for shard in ["--shard=1/2", "--shard=2/2"] {
        let fake = FakeDocker::new("batch-systems-shard");
        for base in ["b0", "b1", "b2", "b3"] {
            fake.put(base, r#"{ "layers": [{ "digest": "sha256:a" }] }"#);
        }
        fake.push(&[&bases[..], &[shard]].concat()).succeed();
        let checks = fake.begun().iter().filter(|bake| bake.contains(".check.")).count();
        assert_eq!(checks, 1, "{shard}");
    }
}

#[test]
fn jobs_says_how_many_are_built_at_once() {
    for jobs in [1, 2] {
        let fake = FakeDocker::new("batch-jobs-flag");
        fake.play("all.image", "sleep 0.2\n");
        push(&fake, 6, &[&format!("--jobs={jobs}")]).succeed();
        assert_eq!(fake.most_at_once("image"), jobs);
    }
}

#[test]
fn standard_output_has_the_tags_in_the_order_of_the_request() {
    let fake = FakeDocker::new("batch-order");
    fake.play("debian-b1.image", "wait bakes/debian-b3.image.1\n");
    let ended = push(&fake, 4, &[]).succeed();
    let tag = |n: usize| format!("ghcr.io/openhands/agent-server:0123456-b{n}");
    assert_eq!(ended.stdout.lines().collect::<Vec<_>>(), [0, 1, 2, 3].map(tag));
}

#[test]
fn steps_on_the_next_bases_run_one_at_a_time_while_the_first_image_goes_alone() {
    let fake = FakeDocker::new("batch-ahead");
    fake.play("debian-b0.image", "wait bakes/debian-b2.base.1\n");
    fake.play("all.base", "sleep 0.1\n");
    push(&fake, 4, &[]).succeed();
    assert_eq!(fake.most_at_once("base"), 1);
    let order = fake.lines("order");
    let at = |line: &str| order.iter().position(|found| found == line).unwrap();
    assert!(at("end debian-b1.base.1") < at("end debian-b0.image.1"), "{order:#?}");
    let bakes = fake.bakes();
    let ahead = bakes.iter().find(|bake| bake.kind == "base").unwrap();
    let target = ahead.target("debian-b1");
    assert_eq!(
        (&target["target"], &target["args"]["BASE_IMAGE"]),
        (&json!("base-image"), &json!("b1"))
    );
    assert_eq!((&target["tags"], &target["cache-to"]), (&json!([]), &json!([])));
    assert_eq!(target["output"], json!(["type=cacheonly"]));
}

#[test]
fn a_target_without_steps_on_its_base_has_nothing_to_run_ahead() {
    let fake = FakeDocker::new("batch-overlay");
    fake.play("debian-b0.image", "sleep 0.5\n");
    push(&fake, 3, &["--target=overlay"]).succeed();
    assert_eq!(fake.most_at_once("base"), 0);
}

#[test]
fn failed_images_cost_no_others_and_the_end_says_how_to_go_on() {
    let fake = FakeDocker::new("batch-failed");
    fake.play("debian-b1.image", &no_base("b1"));
    let step = events::run("builder 2/3", "python.sh");
    fake.play("debian-b3.image", &failed_step(&step, "make: *** [all] Error 2\n", 2));
    let ended = push(&fake, 5, &["--jobs=1"]).end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let built = ["b0", "b2", "b4"];
    let tags = built.map(|name| format!("ghcr.io/openhands/agent-server:0123456-{name}"));
    assert_eq!(ended.stdout.lines().collect::<Vec<_>>(), tags);
    let expected_status = ["built", "failed", "built", "failed", "built"];
    let statuses = statuses(&fake);
    let found = statuses.iter().map(|(_, status)| status.as_str());
    assert_eq!(found.collect::<Vec<_>>(), expected_status);
    expected::check("fake/expected/batch_failed.txt", &expected::steady(&ended.stderr, &fake.0.0));
}

#[test]
fn a_failing_layer_costs_its_image() {
    let fake = FakeDocker::new("batch-layer");
    fake.write("layer/Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n");
    let error = "process \"pip\" did not complete successfully: exit code: 1";
    fake.play("debian-b2.image", &failed("[debian-b2_layer 2/2] RUN pip", error));
    let ended = push(&fake, 3, &["--layer=layer", "--layer-tag=thin"]).end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let thin = ended.stdout.lines().filter(|tag| tag.ends_with("-thin")).count();
    assert_eq!((thin, ended.stdout.lines().count()), (2, 4), "{}", ended.stdout);
    assert_eq!(with_status(&fake, "failed"), ["b2"]);
}

/// Runs the command of the last hint.
fn follow_hint(fake: &FakeDocker, ended: &Ended) -> Ended {
    let mut hints = ended.stderr.lines().filter_map(|line| line.strip_prefix("hint: "));
    let hint = hints.next_back().unwrap_or_else(|| panic!("{}", ended.stderr));
    let (_, command) = hint.split_once("`cargo xtask ").unwrap_or_else(|| panic!("{hint}"));
    let words = shell_words(command.split('`').next().unwrap());
    let words = words.iter().map(String::as_str).collect::<Vec<_>>();
    fs::remove_file(fake.file("begun")).unwrap();
    fs::remove_dir_all(fake.file("bakes")).unwrap();
    fs::remove_dir_all(fake.file("play")).unwrap();
    fake.call(&words).on("x").env(CACHE_MODE, "off").end()
}

#[test]
fn the_advice_after_a_failed_load_builds_exactly_the_failed_images() {
    let fake = FakeDocker::new("batch-advice-load");
    fake.play("java.image", &no_base("java"));
    fake.play("golang.image", &failed("[one 1/2] RUN x", "exit code: 1"));
    let args = ["image", "--variant=debian,java,golang", "--load", "--image-flavor=slim"];
    let rest = ["--target=source", "--image=r.io/i", "--arch=arm64", "--jobs", "1"];
    let ended = fake.call(&[&args[..], &rest].concat()).on("x").env(CACHE_MODE, "off").end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let first = fake.bakes();
    let ended = follow_hint(&fake, &ended);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let mut again = fake.bakes();
    again.retain(|bake| bake.kind != "base");
    assert_eq!(fake.begun(), ["java.image.1", "golang.image.1"]);
    for bake in &again {
        let before = first.iter().find(|first| first.name == bake.name && first.kind == "image");
        assert_eq!(bake.definition, before.unwrap().definition);
    }
}

#[test]
fn the_advice_after_a_failed_load_on_base_images_builds_exactly_these() {
    for named in [&["--variant=debian"][..], &[]] {
        let fake = FakeDocker::new("batch-advice-bases");
        for name in ["debian-b1", "python-b1"] {
            fake.play(&format!("{name}.image"), &no_base("b1"));
        }
        let bases = bases(3);
        let bases = bases.iter().map(String::as_str).collect::<Vec<_>>();
        let args = [&["image", "--load"], named, &bases].concat();
        let ended = fake.call(&args).on("x").end();
        assert_eq!(ended.status, 1, "{}", ended.stderr);
        let first = fake.bakes();
        let ended = follow_hint(&fake, &ended);
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        let [again] = &fake.bakes()[..] else { panic!("{:?}", fake.begun()) };
        let before = first.iter().find(|bake| bake.name.ends_with("-b1")).unwrap();
        let tags = |bake: &crate::support::fake::Bake| bake.target(&bake.name)["tags"].clone();
        assert_eq!(tags(again), tags(before), "{named:?}");
    }
}

#[test]
fn the_advice_after_a_failed_load_of_a_shard_builds_what_failed_there() {
    let list = ["--base-images=list", "--shard=2/2"];
    let apart = ["--base-images", "list", "--shard", "2/2", "--base-image=b0"];
    let piped = ["--shard=2/2", "--base-images=-"];
    let variants = ["--variant=all", "--shard=2/2"];
    for (args, name) in [
        (&list[..], "python-b1"),
        (&apart, "python-b1"),
        (&piped, "python-b1"),
        (&variants, "golang"),
    ] {
        let fake = FakeDocker::new("batch-advice-shard");
        fake.write("list", "b0\nb1\nb2 two\nb3\n");
        fake.play(&format!("{name}.image"), &no_base("b1"));
        let mut call = fake.call(&[&["image", "--load"], args].concat()).on("x");
        call.0.stdin(fs::File::open(fake.file("list")).unwrap());
        let ended = call.end();
        assert_eq!(ended.status, 1, "{}", ended.stderr);
        let first = fake.bakes();
        let before = first.iter().find(|bake| bake.name == name).unwrap();
        let again = follow_hint(&fake, &ended);
        assert_eq!(again.status, 0, "{}\n{}", ended.stderr, again.stderr);
        let [bake] = &fake.bakes()[..] else { panic!("{:?}", fake.begun()) };
        assert_eq!(bake.target(&bake.name)["tags"], before.target(name)["tags"], "{args:?}");
    }
}

#[test]
fn the_advice_asks_for_a_list_that_was_piped_where_it_is_needed() {
    for (delivery, rest) in [("--push", " --skip-existing"), ("--load", "")] {
        let fake = FakeDocker::new("batch-advice-piped");
        fake.write("list", "b0\nb1 one\nb2\n");
        fake.play("python-b1.image", &no_base("b1"));
        let mut call = fake.call(&["image", delivery, "--check=off", "--base-images=-"]).on("x");
        call.0.stdin(fs::File::open(fake.file("list")).unwrap());
        let ended = call.end();
        let command = format!("image {delivery} --check=off --base-images=-{rest} < LIST`");
        assert!(ended.stderr.contains(&command), "{}", ended.stderr);
    }
}

#[test]
fn unknown_errors_are_the_same_only_where_their_words_are() {
    for (errors, tried) in [(["strange thing"; 4], 3), (["odd", "queer", "weird", "fishy"], 4)] {
        let fake = FakeDocker::new("batch-unknown");
        for (number, error) in errors.iter().enumerate() {
            fake.play(
                &format!("debian-b{number}.image"),
                &events::refused(&format!("{error}: b{number}:1 @3")),
            );
        }
        let ended = push(&fake, 4, &["--jobs=1"]).end();
        assert_eq!(
            (ended.status, with_status(&fake, "failed").len()),
            (1, tried),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn an_image_whose_bake_cannot_start_says_why() {
    let fake = FakeDocker::new("batch-no-folder");
    let folder = fake.file("target/image/tmp");
    let folder = folder.display();
    let script = format!("case \"$*\" in *bake*) rm -r {folder}; : >{folder};; esac");
    fake.write("override.sh", &script);
    let ended = push(&fake, 2, &["--jobs=1"]).end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let line = "failed b1: cannot write to ";
    assert!(ended.stderr.lines().any(|said| said.starts_with(line)), "{}", ended.stderr);
}

#[test]
fn the_advice_after_a_failed_push_leaves_out_what_is_there() {
    let fake = FakeDocker::new("batch-advice-push");
    fake.write("list", "b0 one\nb1 two # the second\nb2 three\n");
    fake.play("debian-b1.image", &no_base("b1"));
    let args = ["--base-images=list", "--check=off", "--target=source", "--image=r.io/i"];
    let ended = fake.push(&args).end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    // The registry has what was built.
    fs::write(
        fake.file("begun"),
        fake.lines("begun")
            .iter()
            .filter(|line| !line.contains("-b1."))
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
    )
    .unwrap();
    assert_eq!(fake.keep().len(), 8);
    let ended = follow_hint(&fake, &ended);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(fake.begun(), ["debian-b1.image.1"]);
    assert_eq!(ended.stdout.lines().filter(|tag| tag.contains("-two-")).count(), 3);
}

#[test]
fn the_advice_of_a_ci_run_pushes_anywhere_and_names_no_pipe() {
    let fake = FakeDocker::new("batch-advice-ci");
    fake.play("debian-b1.image", &no_base("b1"));
    fake.write("list", "b0\nb1\n");
    let args = ["image", "--variant=debian", "--base-images=/dev/fd/0", "--check=off"];
    let mut call = fake.call(&args).on("x").env("CI", "true").env(CACHE_MODE, "off");
    call.0.stdin(fs::File::open(fake.file("list")).unwrap());
    let ended = call.end();
    let advice = "`cargo xtask image --variant=debian --base-images=LIST --check=off --push --skip-existing`";
    assert!(ended.status == 1 && ended.stderr.contains(advice), "{}", ended.stderr);
}

#[test]
fn the_first_three_that_fail_by_one_cause_end_the_run_whatever_they_are_called() {
    let fake = FakeDocker::new("batch-alike");
    for number in 0..60 {
        fake.play(&format!("debian-b{number}.image"), &no_base(&format!("b{number}")));
    }
    let ended = push(&fake, 60, &["--jobs=1"]).end();
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
    let tried = ["debian-b0.image.1", "debian-b1.image.1", "debian-b2.image.1"];
    assert_eq!(fake.begun(), tried);
    assert_eq!(with_status(&fake, "failed"), ["b0", "b1", "b2"]);
    expected::check("fake/expected/batch_alike.txt", &expected::steady(&ended.stderr, &fake.0.0));
}

#[test]
fn steps_that_give_different_reasons_do_not_fail_alike() {
    let fake = FakeDocker::new("batch-reasons");
    let step = events::run("minimal 2/3", "minimal.sh");
    let fail = |number: usize, why: &str| {
        let text = format!("error: an earlier one\n{why}\nmake: *** Error 1\n");
        fake.play(&format!("debian-b{number}.image"), &failed_step(&step, &text, 1));
    };
    for number in 0..3 {
        fail(number, &format!("error: no apt-get {number}"));
    }
    for number in 3..7 {
        fail(number, "error: no bash");
    }
    let ended = push(&fake, 7, &["--jobs=1"]).end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    assert_eq!(with_status(&fake, "failed"), ["b0", "b1", "b2", "b3", "b4", "b5"]);
    assert_eq!(fake.records()[0]["error"], "minimal.sh: no apt-get 0");
    expected::check("fake/expected/batch_reasons.txt", &expected::steady(&ended.stderr, &fake.0.0));
}

#[test]
fn fewer_than_three_or_others_that_fail_end_nothing() {
    let fake = FakeDocker::new("batch-not-alike");
    for number in [0, 1, 3, 4, 5] {
        fake.play(&format!("debian-b{number}.image"), &no_base(&format!("b{number}")));
    }
    let ended = push(&fake, 8, &["--jobs=1"]).end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    assert_eq!(with_status(&fake, "built"), ["b2", "b6", "b7"]);
    assert_eq!(with_status(&fake, "failed"), ["b0", "b1", "b3", "b4", "b5"]);
}

#[test]
fn a_lost_login_ends_a_run_at_any_point_after_three_in_a_row() {
    let fake = FakeDocker::new("batch-login");
    for number in 2..9 {
        let error = "unexpected status from POST request to https://r.io/v2/i/blobs/uploads/: \
                     403 Forbidden";
        fake.play(&format!("debian-b{number}.image"), &failed("exporting to image", error));
    }
    let ended = push(&fake, 9, &["--jobs=1"]).end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    assert_eq!(with_status(&fake, "built"), ["b0", "b1"]);
    assert_eq!(with_status(&fake, "failed"), ["b2", "b3", "b4"]);
    assert_eq!(fake.begun().len(), 5);
    expected::check("fake/expected/batch_login.txt", &expected::steady(&ended.stderr, &fake.0.0));
}

#[test]
fn lines_of_a_batch_have_the_names_that_people_gave_and_fit() {
    let fake = FakeDocker::new("batch-lines");
    let name =
        |n: usize| format!("docker.io/swebench/sweb.eval.x86_64.project_1776_project-{n}:latest");
    let list = (430..435).map(|n| format!("{} eval-{n}\n", name(n))).collect::<String>();
    fake.write("list", &list);
    // The third of them fails.
    let script = "case \"$*\" in *' bake '*)
        [ \"$(ls bakes | wc -l)\" != 2 ] || { cat >bakes/third; cat events >&2; exit 1; };; esac";
    fake.write("override.sh", script);
    fs::create_dir(fake.file("bakes")).unwrap();
    let step = events::run("builder 2/3", "python.sh");
    fake.write("events", &failed_step(&step, "no\n", 2).replace("exit 1\n", ""));
    let ended =
        fake.push(&["--base-images=list", "--check=off", "--jobs=1", "--target=overlay"]).end();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let lines = ended.stderr.lines();
    let long = lines.clone().filter(|line| line.chars().count() > 100).collect::<Vec<_>>();
    // Paths, references and commands are whole.
    let whole = ["hint: ", "log: ", "  read ", "server: "];
    let is_whole = |line: &str| whole.iter().any(|start| line.starts_with(start));
    assert!(long.iter().all(|line| is_whole(line)), "{long:#?}");
    for n in 430..435 {
        let shown = lines.clone().filter(|line| line.contains(&format!("project-{n}"))).count();
        assert!(shown > 0, "{n} is not in\n{}", ended.stderr);
    }
    expected::check("fake/expected/batch_lines.txt", &expected::steady(&ended.stderr, &fake.0.0));
}

#[test]
fn thirty_images_are_one_screen_of_a_log_unless_every_line_is_wanted() {
    let fake = FakeDocker::new("batch-thirty");
    fake.play("all.image", &events::done(&events::run("one 1/2", "apt.sh"), (1.0, 2.0)));
    let call = |progress| push(&fake, 30, &[]).env("BUILDKIT_PROGRESS", progress).env("CI", "1");
    let ended = call("").succeed();
    assert_eq!(ended.stdout.lines().count(), 30);
    let lines = ended.stderr.lines().collect::<Vec<_>>();
    assert!(lines.len() <= 45, "{}", ended.stderr);
    assert_eq!(lines.iter().filter(|line| line.starts_with("built  b")).count(), 30);
    let steps = |ended: &Ended| ended.stderr.matches(" apt.sh\n").count();
    assert_eq!(steps(&ended), 0);
    assert!(steps(&call("plain").succeed()) >= 30);
}

#[test]
fn the_log_of_a_job_folds_why_images_failed() {
    let fake = FakeDocker::new("batch-folded");
    for image in ["b2", "b3"] {
        let step = events::run("builder 2/3", "python.sh");
        fake.play(
            &format!("debian-{image}.image"),
            &failed_step(&step, &format!("no {image}\n"), 2),
        );
    }
    let ended = push(&fake, 30, &["--jobs=1"]).env("GITHUB_ACTIONS", "true").env("CI", "1").end();
    assert_eq!(ended.status, 1);
    let groups = ended.stderr.matches("::group::").count();
    assert_eq!((groups, ended.stderr.matches("::endgroup::").count()), (2, 2), "{}", ended.stderr);
    for image in ["b2", "b3"] {
        let (before, _) = ended.stderr.split_once(&format!("no {image}\n")).unwrap();
        assert_eq!(before.matches("::group::").count(), before.matches("::endgroup::").count() + 1);
    }
}

#[test]
fn an_empty_shard_writes_the_outputs_of_a_job() {
    let fake = FakeDocker::new("batch-empty-shard");
    let outputs = fake.file("outputs");
    let call = push(&fake, 1, &["--shard=2/2"]).env("PATH", "/nowhere");
    let ended = call.env("GITHUB_OUTPUT", &outputs).end();
    assert_eq!((ended.status, ended.stdout.as_str()), (0, ""), "{}", ended.stderr);
    assert_eq!(fs::read_to_string(fake.file("records")).unwrap(), "");
    expected::check("fake/expected/empty_shard.txt", &fs::read_to_string(outputs).unwrap());
}

#[test]
fn a_run_deletes_no_file_that_it_did_not_write() {
    let fake = FakeDocker::new("batch-files");
    for file in ["failed.txt", "notes/failed.txt", "target/image/failed.txt"] {
        fake.write(file, "mine");
    }
    push(&fake, 2, &[]).succeed();
    fake.push(&["--records=notes/records"]).succeed();
    fake.call(&["image", "--variant=java", "--load"]).on("x").succeed();
    for file in ["failed.txt", "notes/failed.txt", "target/image/failed.txt"] {
        assert_eq!(fs::read_to_string(fake.file(file)).unwrap(), "mine", "{file}");
    }
}

#[test]
fn two_runs_of_one_name_have_a_log_each() {
    let fake = FakeDocker::new("batch-two-logs");
    fake.play("debian.image.1", "wait go\n");
    let mut first = fake.push(&["--check=off"]);
    let mut running = first.0.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while fake.begun().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    fake.push(&["--check=off"]).succeed();
    fake.write("go", "");
    assert!(running.wait().unwrap().success());
    let logs = fake.file("target/image/logs");
    assert!(logs.join("debian.log").exists() && logs.join("debian-2.log").exists());
}

#[test]
fn what_many_caches_have_in_common_is_said_once() {
    let fake = FakeDocker::new("batch-caches");
    let why = |cache: &str| {
        format!(
            "unexpected status from HEAD request to https://r.io/v2/i/manifests/{cache}: 403 Forbidden"
        )
    };
    for number in 0..10 {
        let cache = format!("buildcache-binary-b{number}-x");
        let read = events::import(&format!("{IMAGE}:{cache}"), &why(&cache));
        fake.play(&format!("debian-b{number}.image"), &read);
    }
    let bases = bases(10);
    let args = bases.iter().map(String::as_str).chain(["--check=off"]).collect::<Vec<_>>();
    let ended = fake.push(&args).succeed();
    assert_eq!(ended.stderr.matches("can't be read").count(), 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("; the same for 9 other caches\n"), "{}", ended.stderr);
}
