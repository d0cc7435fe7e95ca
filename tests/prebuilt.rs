//! `--prebuilt-sdist`: archives that are looked through before a build gets them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::engine::{Engine, docker};
use crate::support::{Folder, Xtask};

/// A tar entry: name, type, link, content.
type Entry<'a> = (&'a str, u8, &'a str, &'a [u8]);

fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, kind, link, content) in entries {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[148..156].fill(b' ');
        header[156] = *kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum = header.iter().map(|&byte| u32::from(byte)).sum::<u32>();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend(header);
        tar.extend(*content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let pipes = Command::new("gzip").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut gzip = pipes.unwrap();
    gzip.stdin.take().unwrap().write_all(content).unwrap();
    gzip.wait_with_output().unwrap().stdout
}

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

fn print(checkout: &Folder, path: &Path) -> Xtask {
    let args = ["image", "--print", "--variant=debian", "--prebuilt-sdist", path.to_str().unwrap()];
    Xtask::within(&checkout.0, &args)
}

#[test]
fn good_archives_reach_bake_as_a_context() {
    let (folder, checkout) = (Folder::new("good"), Folder::checkout("good-checkout"));
    let long = format!("p-1/{}", "x".repeat(90));
    let sdist = gzip(&tar(&[
        ("p-1/", b'5', "", b""),
        (&long, b'0', "", b"content"),
        ("p-1/a/b", b'2', "../c", b""),
    ]));
    for (name, content) in [
        ("p-1.tar.gz", sdist),
        ("p-1-py3-none-any.whl", zip(&[("p/__init__.py", ""), ("p-1.dist-info/METADATA", "x")])),
    ] {
        let target = print(&checkout, &write(&folder, name, &content)).target();
        let context = target["contexts"]["prebuilt"].as_str().unwrap();
        assert!(context.contains("/target/prebuilt/"), "{context}");
    }
    print(&checkout, &folder.0).target();
}

#[test]
fn what_is_no_archive_or_reaches_outside_is_refused() {
    let (folder, checkout) = (Folder::new("bad"), Folder::checkout("bad-checkout"));
    let file = (b'0', "", b"".as_slice());
    let entry = |name| gzip(&tar(&[(name, file.0, file.1, file.2)]));
    let link = |kind, to| gzip(&tar(&[("p-1/link", kind, to, b"")]));
    let good = entry("p-1/file");
    let cases: [(&str, Vec<u8>, &str); 13] = [
        ("a.tar.gz", b"no archive".to_vec(), "a.tar.gz"),
        ("a.tar.gz", Vec::new(), "a.tar.gz"),
        ("a.tar.gz", gzip(b"no archive"), "a.tar.gz"),
        ("a.tar.gz", good[..good.len() - 12].to_vec(), "a.tar.gz"),
        ("a.tar.gz", gzip(&[0; 1024]), "a.tar.gz"),
        ("a.tar.gz", entry("../evil"), "../evil"),
        ("a.tar.gz", entry("p/../../evil"), "p/../../evil"),
        ("a.tar.gz", entry("/etc/passwd"), "/etc/passwd"),
        ("a.tar.gz", link(b'2', "../../evil"), "p-1/link"),
        ("a.tar.gz", link(b'1', "/etc/passwd"), "p-1/link"),
        ("a.whl", b"no archive".to_vec(), "a.whl"),
        ("a.whl", zip(&[("../evil", "")]), "../evil"),
        ("a.txt", good.clone(), ".whl"),
    ];
    for (name, content, part) in cases {
        let path = write(&folder, name, &content);
        let said = print(&checkout, &path).refused();
        assert!(said.contains(part), "{name}: {said} lacks {part:?}");
        fs::remove_file(path).unwrap();
    }
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
