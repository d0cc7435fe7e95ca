//! A checkout with changes that are not committed.

use crate::support::fake::FakeDocker;
use crate::support::workspace::Workspace;
use crate::support::{Ended, expected};
use serde_json::json;

#[test]
fn changes_that_are_not_committed_are_pushed_only_when_allowed() {
    let workspace = Workspace::new("dirty", "1.43.1");
    let fake = FakeDocker::new("dirty-docker");
    let build = |args: &[&str]| -> Ended {
        let root = ["image", "--variant=debian", "--sdk-project-root", workspace.path()];
        fake.call(&[&root[..], &["--records=records", "--check=off"], args].concat()).end()
    };
    assert_eq!(build(&["--push"]).status, 0);
    workspace.write("openhands-sdk/code.py", "answer = 43\n");
    let refused = build(&["--push"]);
    assert_eq!((refused.status, refused.stdout.as_str()), (2, ""), "{}", refused.stderr);
    let text = |ended: &Ended| {
        let sha = workspace.git(&["rev-parse", "HEAD"]);
        let text = ended.stderr.replace(&sha, "SHA").replace(&sha[..7], "SHA7");
        expected::steady(&text, &workspace.0.0)
    };
    let mut said = text(&refused);
    for args in [&["--push", "--allow-dirty"][..], &["--load"]] {
        let ended = build(args);
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        said += &format!("# {}\n{}", args.join(" "), text(&ended));
        let bakes = fake.bakes();
        let image = bakes.iter().rfind(|bake| bake.kind == "image").unwrap();
        assert_eq!(image.target("debian")["labels"]["dev.openhands.dirty"], "true");
    }
    expected::check("fake/expected/dirty_checkout.txt", &said);
    let dirty = fake.records().into_iter().map(|record| record["server"]["dirty"].clone());
    assert_eq!(dirty.collect::<Vec<_>>(), [json!(false), json!(true), json!(true)]);
    let server = fake.records()[0]["server"].clone();
    assert_eq!(
        (&server["from"], &server["ref"]),
        (&json!("checkout"), &json!("refs/heads/feat/x"))
    );
    assert_eq!(server["packages"]["openhands-sdk"], "1.43.1");
}

#[test]
fn a_checkout_is_not_clean_because_git_does_not_say() {
    let fake = FakeDocker::new("git-says-nothing");
    let workspace = Workspace::new("git-says-nothing", "1.43.1");
    let git =
        "#!/bin/sh\ncase \"$*\" in *' status '*) echo 'fatal: index file corrupt' >&2; exit 128; esac
        PATH=${PATH#*:} exec git \"$@\"\n";
    fake.program("git", git);
    let root = format!("--sdk-project-root={}", workspace.path());
    for args in [&["--push"][..], &["--load"], &["--push", "--allow-dirty"]] {
        let mut call = fake.call(&["image", "--variant=debian", "--check=off"]);
        call.0.args(args).arg(&root);
        let said = call.refused();
        assert!(
            said.contains("(fatal: index file corrupt)\nhint: make `git status` work"),
            "{said}"
        );
    }
}
