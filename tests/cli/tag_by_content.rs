//! `--tag-by content`: names that stay while what goes into an image does.

use std::fs;

use crate::support::{Folder, Xtask, strings};

#[test]
fn tags_hold_the_inputs_where_the_commit_stood() {
    let checkout = Folder::checkout("content-print");
    let tags = |sha: &str, args: &[&str]| {
        let always = ["image", "--print", "--variant=debian", "--tag-by=content"];
        let call = Xtask::within(&checkout.0, &[&always[..], args].concat());
        let target = call.env("SDK_SHA", sha).env("SDK_REF", "refs/heads/feat/x").target();
        strings(&target["tags"]).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let (one, two) = ("1".repeat(40), "2".repeat(40));
    let first = tags(&one, &[]);
    let [short, long, branch, slug] = first.as_slice() else { panic!("{first:?}") };
    let image = "ghcr.io/openhands/agent-server:";
    let digest = long.strip_prefix(image).unwrap().strip_suffix("-debian").unwrap();
    assert!(digest.len() == 40 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{long}");
    assert_eq!(*short, format!("{image}{}-debian", &digest[..7]));
    assert_eq!(*branch, format!("{image}feat-x-debian"));
    assert_eq!(*slug, format!("{image}{}-debian_tag_trixie-slim", &digest[..7]));

    // Neither the commit, nor whether and where the image goes, is an input.
    for args in [&[][..], &["--push"], &["--load"], &["--push", "--cache-image=r.io/c"]] {
        assert_eq!(tags(&two, args), first, "{args:?}");
    }
    for args in [["--install-capabilities="], ["--base-image=debian:12"], ["--image-flavor=slim"]] {
        assert_ne!(tags(&one, &args)[0], first[0], "{args:?}");
    }
    // Of the words for bake, only those that add to the image, however they are written.
    assert_eq!(tags(&one, &["--", "--debug", "--allow", "network.host"]), first);
    let with = tags(&one, &["--", "--provenance=false"]);
    assert_eq!(tags(&one, &["--", "--debug", "--provenance", "false"]), with);
    assert_ne!(with, first);
    fs::write(checkout.0.join("agent-server-image/lock/requirements.txt"), "other==1").unwrap();
    assert_ne!(tags(&one, &[])[0], first[0]);
}

#[test]
fn tags_are_by_commit_unless_said_and_by_nothing_else() {
    let default = Xtask::print(&["--variant=debian"]).target();
    let commit = Xtask::print(&["--variant=debian", "--tag-by=commit"]).target();
    assert_eq!(default["tags"], commit["tags"]);
}
