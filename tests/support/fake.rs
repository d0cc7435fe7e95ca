//! A `docker` on PATH that does what a real engine can't be made to do.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::Value;

use super::{Ended, Folder, Xtask};

/// A `docker` that runs `script`, in a folder to put on PATH, which is a checkout too.
pub struct FakeDocker(pub Folder);

/// What a builder tells of itself when all is well.
pub const INSPECTED: &str = "\
Name: default
Driver: docker

Nodes:
Name: default
Status: running
Platforms: linux/amd64*, linux/386
Features:
 Cache export: true
";

impl FakeDocker {
    pub fn new(name: &str, script: &str) -> Self {
        let fake = FakeDocker(Folder::checkout(name));
        fake.program("docker", &format!("cd {}\n{script}", fake.0.0.display()));
        fake
    }

    /// Another program beside it, that runs `script`.
    pub fn program(&self, name: &str, script: &str) {
        fs::write(self.file(name), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(self.file(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A `docker` whose builder says `inspected`, and whose bake keeps what it was given.
    pub fn with_builder(name: &str, inspected: &str) -> Self {
        let fake = Self::new(
            name,
            "case \"$*\" in *inspect*) cat inspected;; *bake*) echo \"$*\" > called; cat > baked;; esac",
        );
        fs::write(fake.file("inspected"), inspected).unwrap();
        fake
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.0.join(name)
    }

    pub fn path(&self) -> String {
        format!("{}:{}", self.0.0.display(), std::env::var("PATH").unwrap())
    }

    /// A call that finds this `docker`, in its own checkout.
    pub fn call(&self, args: &[&str]) -> Xtask {
        Xtask::within(&self.0.0, args).env("PATH", self.path())
    }

    pub fn build(&self, args: &[&str]) -> Ended {
        self.call(&[&["image", "--variant=debian", "--push"], args].concat()).end()
    }

    pub fn baked(&self) -> Option<Value> {
        let baked = fs::read_to_string(self.file("baked")).ok()?;
        serde_json::from_str(&baked).ok()
    }
}
