//! Parts of the steps in `agent-server-image/steps` that run without an image.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Folder, root};

/// What a shell prints that runs `script`, with `paths` of an image in `folder`.
fn run(folder: &Path, paths: &[&str], script: &str) -> (i32, String) {
    let lib = root().join("agent-server-image/steps/lib.sh");
    let mut script = script.replace("/run/lib.sh", &lib.display().to_string());
    for path in paths {
        script = script.replace(path, &folder.join(&path[1..]).display().to_string());
    }
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn step(name: &str) -> String {
    fs::read_to_string(root().join("agent-server-image/steps").join(name)).unwrap()
}

#[test]
fn apt_gets_the_login_of_its_mirror_as_it_is() {
    for (login, expected) in [
        ("me:p%40ss%2f%25%3A1", "login me password p@ss/%:1"),
        ("me:p@ss", "login me password p@ss"),
        ("a%20b:100%", "login a b password 100%"),
    ] {
        let folder = Folder::new("steps-apt");
        fs::create_dir_all(folder.0.join("etc/apt")).unwrap();
        let source = "deb http://deb.debian.org/debian trixie main\n";
        fs::write(folder.0.join("etc/apt/sources.list"), source).unwrap();
        let mirror = format!("APT_MIRROR='https://{login}@apt.corp/a&b,c'");
        let script = format!("{mirror}\n{}\ncopy_sources", step("apt.sh"));
        assert_eq!(run(&folder.0, &["/run/tmp", "/etc/apt"], &script), (0, String::new()));
        let read =
            |name: &str| fs::read_to_string(folder.0.join("run/tmp/apt").join(name)).unwrap();
        // Older versions of apt know no scheme there.
        let machine = |name: &str| format!("machine {name} {expected}\n");
        assert_eq!(read("auth"), machine("https://apt.corp/a&b,c") + &machine("apt.corp/a&b,c"));
        assert_eq!(read("sources.list"), "deb https://apt.corp/a&b,c trixie main\n");
    }
}

#[test]
fn a_mirror_that_replaces_nothing_is_told() {
    let folder = Folder::new("steps-mirror");
    fs::create_dir_all(folder.0.join("etc/apt")).unwrap();
    let source = "deb http://archive.ubuntu.com/ubuntu noble main\n";
    fs::write(folder.0.join("etc/apt/sources.list"), source).unwrap();
    let script = format!("APT_MIRROR=https://apt.corp/debian\n{}\ncopy_sources", step("apt.sh"));
    let (status, said) = run(&folder.0, &["/run/tmp", "/etc/apt"], &script);
    assert_eq!(status, 0, "{said}");
    assert!(said.starts_with("warning: APT_MIRROR is not used"), "{said}");
}

#[test]
fn indexes_keep_the_names_that_any_manifest_gives_them() {
    let folder = Folder::new("steps-indexes");
    let write = |name: &str, text: &str| {
        fs::create_dir_all(folder.0.join(name).parent().unwrap()).unwrap();
        fs::write(folder.0.join(name), text).unwrap();
    };
    let hosts = ["pypi.org/simple", "root/simple", "uv/simple", "member/simple", "nameless/simple"];
    let package =
        |host: &&str| format!("[[package]]\nsource = {{ registry = \"https://{host}\" }}\n");
    write("uv.lock", &hosts.iter().map(package).collect::<String>());
    let index = |name: &str, url: &str| format!("index]]\nname = \"{name}\"\nurl = \"{url}\"\n");
    let [root_index, uv, member] = [
        index("a", "https://me@root/simple/"),
        index("b", "https://uv/simple"),
        index("c", "https://me:pw@member/simple"),
    ];
    write("pyproject.toml", &format!("[[tool.uv.{root_index}"));
    write("uv.toml", &format!("[[{uv}"));
    write("sdk/pyproject.toml", &format!("[[tool.uv.{member}"));
    let mut python = Command::new("python3");
    python.arg(root().join("agent-server-image/steps/indexes.py")).current_dir(&folder.0);
    let output = python.output().unwrap();
    let expected = "c=https://member/simple\nhttps://nameless/simple\na=https://root/simple\n\
                    b=https://uv/simple\n";
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        expected,
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_package_from_git_is_named() {
    for (line, expected) in [
        ("a==1 --hash=sha256:0", (0, "")),
        (
            "dep-x @ git+https://h/x@541e ; sys_platform == 'linux'",
            (
                1,
                "error: uv.lock takes dep-x from git, which gives no hashes: name a release or the \
                 URL of an archive\n",
            ),
        ),
    ] {
        let folder = Folder::new("steps-git");
        fs::create_dir_all(folder.0.join("run/manifests/openhands-sdk")).unwrap();
        fs::write(folder.0.join("run/manifests/openhands-sdk/pyproject.toml"), "").unwrap();
        let script = step("requirements-checkout.sh").replace("/opt/build/bin/python", ":");
        let script = format!("uv() {{ echo \"{line}\" >/requirements/others.txt; }}\n{script}");
        let (status, text) = run(&folder.0, &["/requirements", "/run/manifests"], &script);
        assert_eq!((status, text.as_str()), expected);
    }
}
