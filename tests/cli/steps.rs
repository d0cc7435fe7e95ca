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
        let script = format!("{}\n{mirror}\ncopy_sources", step("apt.sh"));
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
    let script = format!("{}\nAPT_MIRROR=https://apt.corp/debian\ncopy_sources", step("apt.sh"));
    let (status, said) = run(&folder.0, &["/run/tmp", "/etc/apt"], &script);
    assert_eq!(status, 0, "{said}");
    assert!(said.starts_with("warning: APT_MIRROR is not used"), "{said}");
}

#[test]
fn ubuntu_has_a_mirror_of_its_own() {
    let folder = Folder::new("steps-ubuntu");
    fs::create_dir_all(folder.0.join("etc/apt")).unwrap();
    let sources = "deb http://de.archive.ubuntu.com/ubuntu/ noble main
deb http://security.ubuntu.com/ubuntu noble-security main
deb http://ports.ubuntu.com/ubuntu-ports noble main
";
    fs::write(folder.0.join("etc/apt/sources.list"), sources).unwrap();
    let mirrors = "APT_MIRROR=http://a/debian UBUNTU_MIRROR=http://u/mirror/";
    let script = format!("{}\n{mirrors}\ncopy_sources\ncat $apt/sources.list", step("apt.sh"));
    let expected = "deb http://u/mirror/ noble main
deb http://u/mirror noble-security main
deb http://u/mirror-ports noble main
";
    assert_eq!(run(&folder.0, &["/run/tmp", "/etc/apt"], &script), (0, expected.to_owned()));
    // Debian keeps its own.
    fs::write(folder.0.join("etc/apt/sources.list"), "deb http://deb.debian.org/debian sid main\n")
        .unwrap();
    let expected = "deb http://a/debian sid main\n".to_owned();
    assert_eq!(run(&folder.0, &["/run/tmp", "/etc/apt"], &script), (0, expected));
}

/// What `script` prints with the functions of `apt.sh`, where apt has left `errors`.
fn with_errors(name: &str, errors: &str, script: &str) -> String {
    let folder = Folder::new(name);
    fs::create_dir_all(folder.0.join("run/tmp/apt/sources")).unwrap();
    fs::write(folder.0.join("run/tmp/apt/errors"), errors).unwrap();
    let (status, said) =
        run(&folder.0, &["/run/tmp"], &format!("{}\ncd $apt\n{script}", step("apt.sh")));
    assert_eq!(status, 0, "{said}");
    said.replace(folder.0.to_str().unwrap(), "")
}

#[test]
fn a_release_that_left_any_mirror_comes_from_the_archive() {
    let error = "E: The repository 'http://mirrors.example/debian buster Release' does not have a \
                 Release file.\n";
    let script = "cat >sources.list <<'END'
deb http://mirrors.example/debian buster main
deb https://security.debian.org/ buster/updates main
deb http://mirrors.example/ubuntu/ bionic main
deb http://ports.ubuntu.com/ubuntu-ports bionic main
deb https://download.docker.example/linux/debian buster stable
END
update_lists() { :; }
use_archive && cat sources.list";
    let expected = "deb http://archive.debian.org/debian buster main
deb http://archive.debian.org/debian-security buster/updates main
deb http://old-releases.ubuntu.com/ubuntu bionic main
deb http://old-releases.ubuntu.com/ubuntu bionic main
deb https://download.docker.example/linux/debian buster stable\n";
    assert_eq!(with_errors("steps-archive", error, script), expected);
}

#[test]
fn of_sources_the_wrong_lines_alone_are_skipped() {
    let lines = ("a.list", "one\ntwo\nthree\n", "one\n#two\nthree\n");
    let stanzas = ("a.sources", "# a\n\none\n\n#b\ntwo\ntwo\n\nthree\n", "one\n\nthree\n\n");
    for (error, (name, text, rest)) in [
        ("Malformed entry 2 in list file FILE (Component)", lines),
        ("Malformed line 2 in source list FILE (type)", lines),
        ("Type '-e' is not known on line 2 in source list FILE", lines),
        ("Malformed entry 2 in sources file FILE (URI parse)", stanzas),
        ("Malformed stanza 2 in source list FILE (type)", stanzas),
        ("Type 'x' is not known on stanza 2 in source list FILE", stanzas),
    ] {
        // The second reading of the lists finds no fault.
        let script = format!(
            "printf %s '{text}' >sources/{name}
mv errors first
run_apt() {{ [ ! -f first ] || {{ sed \"s,FILE,$apt/sources/{name},\" first >&2; rm first; }}; }}
update_lists 2>&1 | grep -v ^E: ; cat sources/{name}"
        );
        let error = format!("E: {error}\nE: The list of sources could not be read.\n");
        let skipped =
            format!("warning: skipped the package source /etc/apt/sources.list.d/{name}\n");
        let expected = format!("{skipped}{rest}");
        assert_eq!(with_errors("steps-wrong", &error, &script), expected, "{error}");
    }
}

#[test]
fn sources_that_do_not_go_together_are_skipped_until_they_do() {
    let error = "E: Conflicting values set for option Signed-By regarding source X\n\
                 E: The list of sources could not be read.\n";
    // Apt finds no fault once those of the distribution are alone.
    let script =
        "for name in debian.sources debian-more.list corp.list; do echo x >sources/$name; done
echo x >sources.list
run_apt() { [ -z \"$(grep -l '^x' sources.list sources/*.list)\" ] || cat first >&2; }
mv errors first
update_lists 2>&1 | grep -v ^E:; grep -h . sources.list sources/*";
    let skipped = ["list.d/corp.list", "list.d/debian-more.list", "list"];
    let skipped =
        skipped.map(|n| format!("warning: skipped the package source /etc/apt/sources.{n}\n"));
    let expected = format!("{}#x\n#x\n#x\nx\n", skipped.concat());
    assert_eq!(with_errors("steps-conflict", error, script), expected);
}

#[test]
fn a_python_that_is_no_package_is_not_replaced() {
    for (name, has_lsb) in [("usr/bin/python3", false), ("usr/bin/other", true)] {
        let folder = Folder::new("steps-tools");
        fs::create_dir_all(folder.0.join("usr/bin")).unwrap();
        fs::create_dir(folder.0.join("run")).unwrap();
        fs::write(folder.0.join(name), "").unwrap();
        let stub = "warn() { :; }; apt_install() { echo $*; exit; }";
        fs::write(folder.0.join("run/apt.sh"), stub).unwrap();
        let (_, said) = run(&folder.0, &["/run/apt.sh", "/usr/bin/python3"], &step("tools.sh"));
        assert!(said.starts_with("build-essential "), "{said}");
        assert_eq!(said.contains(" lsb-release "), has_lsb, "{said}");
    }
}

#[test]
fn indexes_keep_the_names_that_any_manifest_gives_them() {
    let folder = Folder::new("steps-indexes");
    let write = |name: &str, text: &str| {
        fs::create_dir_all(folder.0.join(name).parent().unwrap()).unwrap();
        fs::write(folder.0.join(name), text).unwrap();
    };
    let hosts = ["pypi.org/simple", "root/simple", "uv/simple", "member/simple", "nameless/simple"];
    let hosts = [&hosts[..], &["flat/wheels", "links/page"]].concat();
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
    let flat = "[[index]]\nname = \"f\"\nurl = \"https://flat/wheels/\"\nformat = \"flat\"\n";
    write("uv.toml", &format!("find-links = [\"https://links/page\"]\n[[{uv}{flat}"));
    write("sdk/pyproject.toml", &format!("[[tool.uv.{member}"));
    let mut python = Command::new("python3");
    python.arg(root().join("agent-server-image/steps/indexes.py")).current_dir(&folder.0);
    let output = python.output().unwrap();
    let expected = "--find-links https://flat/wheels/\n--find-links https://links/page\n\
                    --index c=https://me:pw@member/simple\n--index https://nameless/simple\n\
                    --index a=https://me@root/simple/\n--index b=https://uv/simple\n";
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

#[test]
fn what_a_lock_has_besides_the_four_packages_is_named_where_uv_refuses_it() {
    let members =
        "[manifest]\nmembers = [\n    \"all\",\n    \"openhands-sdk\",\n    \"MORE\",\n]\n";
    for (lock, expected) in [
        (
            members.replace("MORE", "openhands-cli"),
            "workspace with openhands-cli, and the server's",
        ),
        (
            "source = { path = \"vendor/a.whl\" }\n".to_owned(),
            "takes packages from vendor/a.whl, but only manifests",
        ),
        (members.replace("    \"MORE\",\n", ""), ""),
    ] {
        let folder = Folder::new("steps-lock");
        let manifests = folder.0.join("run/manifests");
        fs::create_dir_all(manifests.join("openhands-sdk")).unwrap();
        fs::write(manifests.join("openhands-sdk/pyproject.toml"), "").unwrap();
        fs::write(manifests.join("pyproject.toml"), "[project]\nname = \"all\"\n").unwrap();
        fs::write(manifests.join("uv.lock"), lock).unwrap();
        let script = step("requirements-checkout.sh").replace("/opt/build/bin/python", ":");
        let script = format!("uv() {{ return 1; }}\n{script}");
        let (status, text) = run(&folder.0, &["/requirements", "/run/manifests"], &script);
        assert!(
            status == 1 && text.contains(expected) && text.is_empty() == expected.is_empty(),
            "{text}"
        );
    }
}
