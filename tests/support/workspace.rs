//! A small SDK checkout: the layout of the real one, without its code.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::Folder;

pub const PACKAGES: [&str; 4] =
    ["openhands-sdk", "openhands-tools", "openhands-workspace", "openhands-agent-server"];

/// A uv workspace in a git repository, with everything committed.
pub struct Workspace(pub Folder);

impl Workspace {
    /// All packages have this version.
    pub fn new(name: &str, version: &str) -> Self {
        let workspace = Workspace(Folder::new(name));
        workspace.write("pyproject.toml", "[tool.uv.workspace]\nmembers = [\"openhands-*\"]\n");
        workspace.write(".gitignore", ".venv\nsecret.txt\n");
        let mut lock = "version = 1\n".to_owned();
        for package in PACKAGES {
            let manifest = format!(
                "[project]\nname = \"{package}\"\nversion = \"{version}\"\ndependencies = [\n    \
                 \"httpx[socks]>=0.27, <1\",  # the client\n]\n"
            );
            workspace.write(&format!("{package}/pyproject.toml"), &manifest);
            workspace.write(&format!("{package}/code.py"), "answer = 42\n");
            lock.push_str(&format!(
                "\n[[package]]\nname = \"{package}\"\nversion = \"{version}\"\nsource = {{ editable \
                 = \"{package}\" }}\n\n[package.metadata]\nrequires-dist = [\n    {{ name = \"httpx\", \
                 extras = [\"socks\"], specifier = \">=0.27,<1\" }},\n]\n"
            ));
        }
        workspace.write("uv.lock", &lock);
        workspace.init()
    }

    /// The workspace in `folder`, which git does not know yet.
    pub fn commit_all(folder: Folder) -> Self {
        Workspace(folder).init()
    }

    fn init(self) -> Self {
        self.git(&["init", "--quiet", "--initial-branch=feat/x"]);
        self.commit();
        self
    }

    pub fn write(&self, path: &str, content: &str) {
        let path = self.0.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.0.join(path)).unwrap()
    }

    /// Replaces the first `old` in a file.
    pub fn edit(&self, path: &str, old: &str, new: &str) {
        let text = self.read(path);
        assert!(text.contains(old), "{path} lacks {old:?}");
        self.write(path, &text.replacen(old, new, 1));
    }

    pub fn path(&self) -> &str {
        self.0.0.to_str().unwrap()
    }

    /// Commits all changes.
    pub fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message=x"]);
    }

    /// What git prints.
    pub fn git(&self, args: &[&str]) -> String {
        let mut git = Command::new("git");
        git.args(["-C", self.path(), "-c", "user.name=x", "-c", "user.email=x@example.org"]);
        let output = git.args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// An archive of the whole workspace in the folder `name`, as `uv build --sdist` makes it.
    pub fn archive(&self, name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("{}-sdist", self.path()));
        let path = folder.join(format!("{name}.tar.gz"));
        fs::create_dir_all(&folder).unwrap();
        let mut tar = Command::new("tar");
        tar.arg("-czf").arg(&path).args(["--exclude=.git", "--sort=name", "--transform"]);
        let status = tar.arg(format!("s,^\\.,{name},")).args(["-C", self.path(), "."]).status();
        assert!(status.unwrap().success());
        path
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(format!("{}-sdist", self.path()));
    }
}
