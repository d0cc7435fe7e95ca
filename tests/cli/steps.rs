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
        ("a%20b:100%", "login a b password 100%"),
    ] {
        let folder = Folder::new("steps-apt");
        let script = step("apt.sh").replace("/etc/apt", "/no/apt");
        let script = format!("APT_MIRROR=https://{login}@apt.corp/debian\n{script}\ncopy_sources");
        assert_eq!(run(&folder.0, &["/run/tmp"], &script), (0, String::new()));
        let auth = fs::read_to_string(folder.0.join("run/tmp/apt/auth")).unwrap();
        assert_eq!(auth, format!("machine https://apt.corp/debian {expected}\n"));
    }
}
