//! `--prebuilt-sdist`: the archive of a workspace is built like a checkout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::workspace::Workspace;
use crate::support::{Folder, Xtask, expected, strings};

fn print(path: &Path) -> Xtask {
    Xtask::print(&["--variant=debian", "--prebuilt-sdist", path.to_str().unwrap()])
}

#[test]
fn an_archive_is_unpacked_and_built_as_a_checkout() {
    let checkout = Workspace::new("archives", "1.43.1");
    // The first lock in the archive is not the workspace's.
    checkout.write("examples/uv.lock", "version = 1\n");
    let mut call = print(&checkout.archive("unknown-0.0.0"));
    call.0.args(["--versioned-tag", "--image=r.io/i", "--custom-tags=t"]);
    let target = call.env("SDK_REF", "x").target();
    assert_eq!(target["args"]["SERVER"], "checkout");
    let context = Path::new(target["contexts"]["sdk"].as_str().unwrap());
    assert!(context.to_str().unwrap().contains("/target/"), "{}", context.display());
    for file in ["pyproject.toml", "uv.lock", "openhands-sdk/code.py"] {
        assert_eq!(fs::read_to_string(context.join(file)).unwrap(), checkout.read(file), "{file}");
    }
    // Release tags have the version that goes into the image.
    let tags = strings(&target["tags"]);
    assert!(
        ["1", "1.43", "1.43.1"]
            .iter()
            .all(|version| tags.contains(&&*format!("r.io/i:{version}-t")))
    );
}

#[test]
fn anything_but_a_workspaces_archive_is_refused() {
    let folder = Folder::new("sdist");
    let write = |name: &str| -> PathBuf {
        fs::write(folder.0.join(name), "").unwrap();
        folder.0.join(name)
    };
    let pipe = folder.0.join("pipe.tar.gz");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let part = Workspace::new("sdist-part", "1.43.1");
    fs::remove_dir_all(part.0.0.join("openhands-tools")).unwrap();
    let mut text = String::new();
    for path in [
        write("a.txt"),
        write("openhands_sdk-1.2.3-py3-none-any.whl"),
        write("empty.tar.gz"),
        folder.0.join("none.tar.gz"),
        folder.0.clone(),
        pipe,
        part.archive("unknown-0.0.0"),
    ] {
        let said = print(&path).refused();
        let name = path.file_name().unwrap().to_string_lossy();
        let said =
            said.replace(part.path(), "PART").replace(&*folder.0.to_string_lossy(), "FOLDER");
        text += &format!("# {}\n{said}\n", if path == folder.0 { ".".into() } else { name });
    }
    expected::check("cli/expected/prebuilt_sdists.txt", &text);
}
