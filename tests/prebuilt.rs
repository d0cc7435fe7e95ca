//! `--prebuilt-sdist`: archives that are named before a build gets them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::engine::{Engine, docker};
use crate::support::workspace::Workspace;
use crate::support::{Folder, Xtask, strings};

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

/// A zip archive of stored files.
fn zip(files: &[(&str, &str)]) -> Vec<u8> {
    let (mut zip, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let size = u32::try_from(content.len()).unwrap().to_le_bytes();
        let crc = crc32(content.as_bytes()).to_le_bytes();
        let length = u16::try_from(name.len()).unwrap().to_le_bytes();
        let common = [&[20, 0, 0, 0, 0, 0, 0, 0, 33, 0][..], &crc, &size, &size, &length, &[0, 0]];
        let offset = u32::try_from(zip.len()).unwrap().to_le_bytes();
        zip.extend([b"PK\x03\x04", &common.concat()[..], name.as_bytes()].concat());
        zip.extend(content.as_bytes());
        let rest = [&[0; 10][..], &offset].concat();
        directory.extend([b"PK\x01\x02\x14\x00", &common.concat()[..], &rest].concat());
        directory.extend(name.as_bytes());
    }
    let count = u16::try_from(files.len()).unwrap().to_le_bytes();
    let size = u32::try_from(directory.len()).unwrap().to_le_bytes();
    let offset = u32::try_from(zip.len()).unwrap().to_le_bytes();
    zip.extend(directory);
    zip.extend([b"PK\x05\x06\0\0\0\0", &count[..], &count, &size, &offset, &[0, 0]].concat());
    zip
}

fn write(folder: &Folder, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.0.join(name);
    fs::write(&path, content).unwrap();
    path
}

fn print(path: &std::path::Path) -> Xtask {
    Xtask::print(&["--variant=debian", "--prebuilt-sdist", path.to_str().unwrap()])
}

#[test]
fn archives_reach_bake_as_a_context() {
    let folder = Folder::new("good");
    let checkout = Workspace::new("archives", "1.43.1");
    // The first lock in the archive is not the workspace's.
    checkout.write("examples/uv.lock", "version = 1\n");
    let workspace = checkout.archive("unknown-0.0.0");
    let wheel = write(&folder, "openhands_sdk-1.2.3-py3-none-any.whl", b"");
    for (path, server) in [(&workspace, "archive"), (&wheel, "release"), (&folder.0, "release")] {
        let target = print(path).target();
        let context = target["contexts"]["prebuilt"].as_str().unwrap();
        assert!(context.contains("/target/prebuilt/"), "{context}");
        assert_eq!(target["args"]["SERVER"], server);
    }
}

#[test]
fn release_tags_have_the_version_that_goes_into_the_image() {
    let folder = Folder::new("version");
    let checkout = Workspace::new("version", "1.43.1");
    let archive = checkout.archive("unknown-0.0.0");
    let wheel = write(&folder, "openhands_sdk-1.43.2-py3-none-any.whl", b"");
    let sdist = write(&folder, "openhands-sdk-1.43.3.tar.gz", b"");
    let other = write(&folder, "openhands_tools-9-py3-none-any.whl", b"");
    for (path, version) in
        [(archive, "1.43.1"), (wheel, "1.43.2"), (sdist, "1.43.3"), (other, "1.2.3")]
    {
        let mut call = print(&path).env("SDK_REF", "x");
        call.0.args(["--versioned-tag", "--image=r.io/i", "--custom-tags=t"]);
        let target = call.target();
        let tags = strings(&target["tags"]);
        let released = tags.iter().find(|tag| tag.matches('.').count() == 3);
        assert_eq!(released.copied(), Some(format!("r.io/i:{version}-t").as_str()));
    }
}

#[test]
fn what_is_no_archive_or_is_there_twice_is_refused() {
    let folder = Folder::new("bad");
    let said = print(&write(&folder, "a.txt", b"")).refused();
    assert!(said.contains("a.txt") && said.contains(".tar.gz"), "{said}");
    let said = print(&folder.0).refused();
    assert!(said.contains(".whl"), "{said}");
    // PyPI takes these names for one.
    let names = ["openhands_sdk-1.2.3-py3-none-any.whl", "OpenHands.SDK-1.2.4.tar.gz"];
    for name in names {
        write(&folder, name, b"");
    }
    let said = print(&folder.0).refused();
    assert!(names.iter().all(|name| said.contains(name)), "{said}");
    let beside = Folder::new("beside");
    let workspace = Workspace::new("beside", "1.43.1");
    fs::copy(workspace.archive("unknown-0.0.0"), beside.0.join("unknown-0.0.0.tar.gz")).unwrap();
    write(&beside, names[0], b"");
    let said = print(&beside.0).refused();
    assert!(said.contains("unknown-0.0.0.tar.gz"), "{said}");
    let pipe = folder.0.join("pipe.tar.gz");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let said = print(&pipe).refused();
    assert!(said.contains("not a regular file"), "{said}");
}

#[test]
fn a_prebuilt_package_is_in_the_image() {
    let Some(engine) = Engine::get("a prebuilt package") else { return };
    let folder = Folder::new("wheel");
    let metadata = "Metadata-Version: 2.1\nName: xtask-probe\nVersion: 1.0\n";
    let wheel = "Wheel-Version: 1.0\nGenerator: xtask\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    let record = "xtask_probe.py,,\nxtask_probe-1.0.dist-info/METADATA,,\n\
                  xtask_probe-1.0.dist-info/WHEEL,,\nxtask_probe-1.0.dist-info/RECORD,,\n";
    let content = zip(&[
        ("xtask_probe.py", "answer = 42\n"),
        ("xtask_probe-1.0.dist-info/METADATA", metadata),
        ("xtask_probe-1.0.dist-info/WHEEL", wheel),
        ("xtask_probe-1.0.dist-info/RECORD", record),
    ]);
    let path = write(&folder, "xtask_probe-1.0-py3-none-any.whl", &content);
    let image = engine.image("prebuilt");
    let args = ["image", "--variant=debian", "--target=source-minimal", "--load"];
    let rest = ["--image", &image, "--prebuilt-sdist", path.to_str().unwrap()];
    let ended = Xtask::shipped(&[&args[..], &rest].concat()).in_engine().end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let image = ended.stdout.lines().next().unwrap();
    let python = ["run", "--rm", "--entrypoint=/agent-server/.venv/bin/python", image, "-c"];
    let said = docker(&[&python[..], &["import xtask_probe; print(xtask_probe.answer)"]].concat());
    assert_eq!(said, "42");
}
