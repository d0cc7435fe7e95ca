//! The workflow file: what it calls, and what a pull request of it may write.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::support::{SHARED_CACHE, Xtask, root, strings, workflow_steps};

#[test]
fn what_a_pull_request_writes_does_not_reach_main() {
    let written = |git_ref: &str, sha: &str| -> BTreeSet<String> {
        let call = Xtask::print(&["--push", "--variant=python", "--arch=amd64"]);
        let call = call.env("SDK_REF", git_ref).env("SDK_SHA", sha);
        let target = call.env(SHARED_CACHE, "1").target();
        let reference = |entry: &str| entry.split(',').nth(1).unwrap().replace("ref=", "");
        let caches = strings(&target["cache-to"]).into_iter().map(reference);
        let tags = strings(&target["tags"]).into_iter().map(str::to_owned);
        tags.chain(caches).collect()
    };
    let main = written("refs/heads/main", &"a".repeat(40));
    for git_ref in
        ["refs/pull/7/merge", "refs/heads/Main", "refs/heads/main-python", "refs/tags/main"]
    {
        let theirs = written(git_ref, &"b".repeat(40));
        let both = main.intersection(&theirs).collect::<Vec<_>>();
        assert!(both.is_empty(), "{git_ref} writes main's {both:?}");
    }
}

#[test]
fn the_login_follows_the_image() {
    for (repository, host) in [
        ("ghcr.io/me/agent-server", "ghcr.io"),
        ("Registry.Example:5000/team/a", "registry.example:5000"),
        ("localhost/a", "localhost"),
        ("[::1]:5000/a", "[::1]:5000"),
        ("me/agent-server", "docker.io"),
        ("agent-server", "docker.io"),
    ] {
        let output = Command::new(root().join(".ci/registry")).arg(repository).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{host}\n"), "{repository}");
    }
}

#[test]
fn the_workflow_calls_the_task_and_pins_its_actions() {
    let workflow = fs::read_to_string(root().join(".github/workflows/image.yml")).unwrap();
    assert!(workflow.lines().count() < 200);
    let names = workflow_steps().iter().map(|step| step[1].clone()).collect::<Vec<_>>();
    assert_eq!(names, ["matrix", "probe", "--records", "smoke", "merge", "summary"]);
    let mut timeouts = 0;
    let workflows = fs::read_dir(root().join(".github/workflows")).unwrap();
    let files = workflows.map(|file| file.unwrap().path());
    for file in files.chain([root().join(".github/actions/xtask/action.yml")]) {
        let text = fs::read_to_string(file).unwrap();
        timeouts += text.matches("timeout-minutes:").count();
        timeouts -= text.matches("runs-on:").count();
        let uses =
            text.lines().filter(|line| line.contains("uses: ") && !line.contains("uses: ./"));
        for line in uses {
            let (_, pin) = line.split_once('@').unwrap();
            let (sha, version) = pin.split_once(" # v").unwrap();
            assert!(sha.len() == 40 && version.contains('.'), "{line}");
        }
    }
    assert_eq!(timeouts, 0, "a job has no limit");
}
