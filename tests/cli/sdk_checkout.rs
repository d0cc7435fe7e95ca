//! Which server an image gets: an SDK checkout, an archive of one, or the pinned release.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::SystemTime;

use crate::support::workspace::Workspace;
use crate::support::{Folder, Xtask, expected, strings};
use serde_json::Value;

/// The folder that the build gets as the context `sdk`.
fn context(target: &Value) -> &Path {
    Path::new(target["contexts"]["sdk"].as_str().unwrap())
}

fn print(workspace: &Workspace) -> Xtask {
    let root = ["--sdk-project-root", workspace.path()];
    Xtask::new(&[&["image", "--print", "--variant=debian", "--image=r.io/i"][..], &root].concat())
}

#[test]
fn a_checkout_says_commit_branch_and_version() {
    let workspace = Workspace::new("facts", "1.43.1");
    let mut call = print(&workspace);
    call.0.arg("--versioned-tag");
    let target = call.target();
    let sha = workspace.git(&["rev-parse", "HEAD"]);
    let tags = ["1", "1.43", "1.43.1", "feat-x", &sha, &sha[..7]];
    for tag in tags.map(|tag| format!("r.io/i:{tag}-debian")) {
        assert!(strings(&target["tags"]).contains(&tag.as_str()), "{tag}: {target:#}");
    }
    assert_eq!(target["args"]["SERVER"], "checkout");
    assert_eq!(target["args"]["OPENHANDS_BUILD_GIT_SHA"], sha.as_str());
    let labels = &target["labels"];
    assert_eq!(labels["org.opencontainers.image.version"], "1.43.1");
    assert_eq!(labels["org.opencontainers.image.revision"], sha.as_str());
    let packages = labels["dev.openhands.packages"].as_str().unwrap();
    assert!(packages.contains("openhands-tools 1.43.1"), "{packages}");
    // Variables beat git.
    let target = print(&workspace).env("SDK_SHA", "0123456789").env("SDK_REF", "y").target();
    assert!(strings(&target["tags"]).contains(&"r.io/i:y-debian"), "{target:#}");
    assert!(strings(&target["tags"]).contains(&"r.io/i:0123456-debian"), "{target:#}");
}

#[test]
fn in_a_hook_of_another_repository_git_says_the_same() {
    let (workspace, other) = (Workspace::new("hook", "1.43.1"), Workspace::new("hooked", "1.0.0"));
    let git = other.0.0.join(".git");
    let target = print(&workspace).env("GIT_DIR", git.to_str().unwrap()).target();
    let sha = workspace.git(&["rev-parse", "HEAD"]);
    assert_eq!(target["args"]["OPENHANDS_BUILD_GIT_SHA"], sha.as_str());
    assert!(strings(&target["tags"]).contains(&"r.io/i:feat-x-debian"), "{target:#}");
}

/// Its commit is not the checkout's, and says nothing of its files.
#[test]
fn a_repository_around_a_checkout_does_not_name_it() {
    let (outer, inner) = (Workspace::new("outer", "1.0.0"), Workspace::new("inner", "1.43.1"));
    fs::remove_dir_all(inner.0.0.join(".git")).unwrap();
    let vendored = outer.0.0.join("vendored");
    fs::rename(&inner.0.0, &vendored).unwrap();
    let head = outer.git(&["rev-parse", "HEAD"]);
    let root = ["image", "--print", "--variant=debian", "--image=r.io/i", "--sdk-project-root"];
    let call = || {
        let call = Xtask::new(&[&root[..], &[vendored.to_str().unwrap()]].concat());
        call.env("GITHUB_SHA", &head).env("GITHUB_REF", "refs/heads/main")
    };
    let target = call().target();
    assert_eq!(strings(&target["tags"])[0], "r.io/i:unknown-debian", "{target:#}");
    assert!(context(&target).join("uv.lock").is_file());
    fs::write(outer.0.0.join(".gitignore"), "vendored\n").unwrap();
    let said = call().refused();
    assert!(said.contains("`git init` it"), "{said}");
}

#[test]
fn names_by_content_depend_on_what_is_built_alone() {
    let checkout = Folder::checkout("by-content");
    let print = || {
        let args = ["image", "--print", "--variant=debian", "--tag-by=content"];
        let target = Xtask::within(&checkout.0, &args).target();
        strings(&target["tags"])[0].to_owned()
    };
    let tag = print();
    let image = checkout.0.join("agent-server-image");
    fs::create_dir_all(image.join("steps/__pycache__")).unwrap();
    fs::write(image.join("steps/__pycache__/x.pyc"), "").unwrap();
    fs::create_dir_all(image.join("runtime/empty")).unwrap();
    fs::write(image.join(".DS_Store"), "").unwrap();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(image.join("Dockerfile"), mode).unwrap();
    assert_eq!(print(), tag);
    fs::create_dir_all(image.join("steps")).unwrap();
    fs::write(image.join("steps/new.sh"), "").unwrap();
    assert_ne!(print(), tag);
}

#[test]
fn the_files_that_git_would_commit_are_built_and_no_others() {
    let workspace = Workspace::new("files", "1.43.1");
    workspace.write("secret.txt", "ignored");
    workspace.write(".venv/bin/python", "ignored");
    workspace.write("openhands-sdk/new.py", "not tracked, not ignored");
    workspace.write("openhands-sdk/run.sh", "#!/bin/sh\n");
    let script = workspace.0.0.join("openhands-sdk/run.sh");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o777)).unwrap();
    symlink("code.py", workspace.0.0.join("openhands-sdk/link.py")).unwrap();
    fs::remove_file(workspace.0.0.join("openhands-tools/code.py")).unwrap();

    let target = print(&workspace).target();
    let copy = context(&target);
    let has = |path: &str| copy.join(path).symlink_metadata().is_ok();
    assert!(["uv.lock", "openhands-sdk/new.py", "openhands-sdk/link.py"].into_iter().all(has));
    let without = ["secret.txt", ".venv", ".git", "openhands-tools/code.py"];
    assert!(!without.into_iter().any(has), "{}", copy.display());
    let mode = copy.join("openhands-sdk/run.sh").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);

    // A file that is as it was is not copied again, and keeps its time, by which buildx knows it.
    let unchanged = || {
        let metadata = copy.join("openhands-sdk/code.py").metadata().unwrap();
        (metadata.ino(), metadata.modified().unwrap())
    };
    let before = unchanged();
    workspace.write("openhands-tools/code.py", "answer = 43\n");
    fs::remove_file(&script).unwrap();
    let target = print(&workspace).target();
    assert_eq!(context(&target), copy);
    assert!(!has("openhands-sdk/run.sh"));
    assert_eq!(fs::read_to_string(copy.join("openhands-tools/code.py")).unwrap(), "answer = 43\n");
    assert_eq!(unchanged(), before);

    // A file becomes a folder, a link a file, and all of it the other way round.
    let (new, link) = ("openhands-sdk/new.py", "openhands-sdk/link.py");
    let read = |path: &str| fs::read_to_string(copy.join(path)).unwrap_or_default();
    fs::remove_file(workspace.0.0.join(new)).unwrap();
    workspace.write("openhands-sdk/new.py/inner.py", "in a folder");
    fs::remove_file(workspace.0.0.join(link)).unwrap();
    workspace.write(link, "no link");
    print(&workspace).target();
    assert_eq!(read("openhands-sdk/new.py/inner.py"), "in a folder");
    assert!(!copy.join(link).is_symlink());
    assert_eq!(read(link), "no link");
    fs::remove_dir_all(workspace.0.0.join(new)).unwrap();
    workspace.write(new, "a file");
    fs::remove_file(workspace.0.0.join(link)).unwrap();
    symlink("new.py", workspace.0.0.join(link)).unwrap();
    print(&workspace).target();
    assert_eq!(read(new), "a file");
    assert!(copy.join(link).is_symlink());
    assert_eq!(unchanged(), before);
}

#[test]
fn a_file_of_the_same_size_and_time_is_copied_where_its_content_differs() {
    let workspace = Workspace::new("same-time", "1.43.1");
    let code = |text: &str| {
        workspace.write("openhands-sdk/code.py", text);
        let file = fs::File::open(workspace.0.0.join("openhands-sdk/code.py")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let copy = context(&print(&workspace).target()).join("openhands-sdk/code.py");
        (fs::read_to_string(&copy).unwrap(), copy.metadata().unwrap().modified().unwrap())
    };
    let [one, two] = ["one", "two"].map(code);
    assert_eq!([one.0.as_str(), two.0.as_str()], ["one", "two"]);
    assert_ne!(one.1, two.1, "buildx compares it as well");
    assert_eq!(code("two"), two);
}

#[test]
fn a_checkout_is_found_around_the_caller_or_around_this_repository() {
    let workspace = Workspace::new("around", "1.43.1");
    let inner = workspace.0.0.join("openhands-sdk");
    let mut call = Xtask::print(&["--variant=debian"]);
    call.0.current_dir(&inner);
    assert_eq!(call.target()["args"]["SERVER"], "checkout");

    // This repository in a folder of the checkout.
    let folder = Folder::checkout("around-tool");
    let tool = workspace.0.0.join("tool");
    fs::rename(folder.0.join("agent-server-image"), {
        fs::create_dir(&tool).unwrap();
        tool.join("agent-server-image")
    })
    .unwrap();
    let mut call = Xtask::within(&tool, &["image", "--print", "--variant=debian"]);
    call.0.current_dir("/");
    let target = call.target();
    assert_eq!(target["args"]["SERVER"], "checkout");
    assert_eq!(target["labels"]["dev.openhands.dirty"], "false", "it is no change of the checkout");
    assert!(context(&target).join("uv.lock").exists() && !context(&target).join("tool").exists());

    let mut call = Xtask::print(&["--variant=debian"]);
    call.0.current_dir("/");
    assert_eq!(call.target()["args"]["SERVER"], "release");
}

#[test]
fn a_checkout_that_lacks_a_part_is_refused() {
    let workspace = |change: fn(&Workspace)| {
        let workspace = Workspace::new("lacks", "1.43.1");
        change(&workspace);
        let said = print(&workspace).refused();
        format!("{}\n", expected::steady(&said, &workspace.0.0))
    };
    let text = workspace(|w| fs::remove_file(w.0.0.join("uv.lock")).unwrap())
        + &workspace(|w| fs::remove_dir_all(w.0.0.join("openhands-tools")).unwrap())
        + &workspace(|w| fs::remove_dir_all(w.0.0.join(".git")).unwrap());
    expected::check("cli/expected/broken_checkouts.txt", &text);
}

#[test]
fn git_that_refuses_a_repository_is_told_with_what_helps() {
    let workspace = Workspace::new("refused", "1.43.1");
    let path = workspace.path();
    let said = |call: Xtask, parts: &[&str]| {
        // Nothing of this machine's configuration, which may trust all folders.
        let ended = call.env("HOME", "/nowhere").end();
        let (_, error) = ended.stderr.split_once("error: ").unwrap_or_default();
        assert!(ended.status == 2 && parts.iter().all(|part| error.contains(part)), "{ended:?}");
    };
    let trust = format!("\nhint: `git config --global --add safe.directory {path}`\n");
    let stranger = print(&workspace).env("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1");
    said(stranger, &["dubious ownership", &trust]);

    let tree = Folder::new("worktree");
    let add = ["worktree", "add", "--force", "--quiet", "--detach", tree.0.to_str().unwrap()];
    workspace.git(&add);
    let git = |name: &str| workspace.0.0.join(".git").join(name);
    fs::rename(git("worktrees"), git("elsewhere")).unwrap();
    let root = format!("--sdk-project-root={}", tree.0.display());
    let call = Xtask::new(&["image", "--print", "--variant=debian", &root]);
    said(call, &["not a git repository", "\nhint: it is a worktree or a submodule; use a clone"]);

    let helps = "\nhint: make `git status` work there without warnings, or clone it again\n";
    let index = fs::read(git("index")).unwrap();
    fs::write(git("index"), "no index").unwrap();
    said(print(&workspace), &["index file", helps]);
    fs::write(git("index"), index).unwrap();
    let head = fs::read(git("HEAD")).unwrap();
    fs::remove_file(git("HEAD")).unwrap();
    said(print(&workspace), &["not a git repository", helps]);
    fs::write(git("HEAD"), head).unwrap();
    workspace.git(&["config", "core.repositoryFormatVersion", "1"]);
    workspace.git(&["config", "extensions.ofTomorrow", "1"]);
    said(print(&workspace), &["repository extension", "oftomorrow)", helps]);
    // A signal is no answer of git's.
    let programs = Folder::new("git-of-a-signal");
    let git = programs.0.join("git");
    fs::write(&git, "#!/bin/sh\nkill -INT $PPID; sleep 1; exit 128\n").unwrap();
    fs::set_permissions(&git, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", programs.0.display());
    for args in [&["list"][..], &["--print"], &["--push"]] {
        let root = ["--sdk-project-root", workspace.path()];
        let ended = Xtask::new(&[&["image"], args, &root].concat()).env("PATH", &path).end();
        let said = (ended.status, ended.stdout.as_str(), ended.stderr.as_str());
        assert_eq!(said, (130, "", "error: stopped by signal 2\n"), "{args:?}");
    }
    // What git says at the edge of a mount, for which root would be needed.
    let mount =
        "#!/bin/sh\necho 'fatal: not a git repository (or any parent up to mount point /mnt)' >&2
echo 'Stopping at filesystem boundary (GIT_DISCOVERY_ACROSS_FILESYSTEM not set).' >&2\nexit 128\n";
    let programs = Folder::new("git-of-a-mount");
    let git = programs.0.join("git");
    fs::write(&git, mount).unwrap();
    fs::set_permissions(&git, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", programs.0.display());
    said(print(&workspace).env("PATH", path), &["(GIT_DISCOVERY_ACROSS_FILESYSTEM not set)"]);
}
