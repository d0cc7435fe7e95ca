//! The real SDK as people edit it: put together by the engine from the sdists of the pinned
//! release, once, and kept below `target`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use super::engine::Engine;
use super::workspace::Workspace;
use super::{Folder, root, sha256};

const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
const DOCKERFILE: &[u8] = include_bytes!("sdk.Dockerfile");

/// The folder that `sdk.Dockerfile` makes.
pub struct Sdk(PathBuf);

impl Sdk {
    /// Makes it, if there is none of the pinned release.
    pub fn get(_engine: &Engine) -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let requirements =
            fs::read(root().join("agent-server-image/lock/requirements.txt")).unwrap();
        let recipe = sha256(&[DOCKERFILE, &requirements].concat()).replace("sha256:", "");
        let folder = root().join("target/tests");
        let made = folder.join(format!("sdk-{}", &recipe[..16]));
        if !made.is_dir() {
            let _ = fs::remove_dir_all(&folder);
            let partial = folder.join("partial");
            make(&partial);
            fs::rename(partial, &made).unwrap();
        }
        Sdk(made)
    }

    /// A checkout with everything committed. Its place is that of an earlier run's, so that the
    /// builder knows the files that have not changed.
    pub fn checkout(&self, name: &str) -> Workspace {
        let folder = Folder(self.0.with_file_name(name));
        let _ = fs::remove_dir_all(&folder.0);
        let mut cp = Command::new("cp");
        let status = cp.arg("-R").arg(self.0.join("checkout")).arg(&folder.0).status();
        assert!(status.unwrap().success());
        Workspace::commit_all(folder)
    }

    /// What `uv build --sdist` makes of the checkout.
    pub fn archive(&self) -> String {
        let files = fs::read_dir(self.0.join("archive")).unwrap().map(|file| file.unwrap().path());
        let mut archives = files.filter(|file| file.to_str().unwrap().ends_with(".tar.gz"));
        archives.next().unwrap().to_str().unwrap().to_owned()
    }
}

fn make(folder: &Path) {
    let mut docker = Command::new("docker");
    docker.args(["buildx", "build", "--quiet", "--output"]);
    docker.arg(format!("type=local,dest={}", folder.display()));
    docker.arg("--file").arg(root().join("tests/support/sdk.Dockerfile"));
    if Path::new(BUNDLE).exists() {
        docker.args(["--secret", &format!("id=ca-certificates,src={BUNDLE}")]);
    }
    let output = docker.arg(root().join("agent-server-image/lock")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
