//! Debian's `crane`: what a user would pick instead where no step has to run. It puts layers on a
//! base image, or moves an image to another base image, by requests to the registry alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::run;

/// Debian's next release, whose C library is newer than needed: only the program is taken.
const DOCKERFILE: &str = "\
FROM debian:trixie-slim AS fetched
WORKDIR /fetched
RUN echo 'deb [check-valid-until=no] http://deb.debian.org/debian forky main' \\
    >/etc/apt/sources.list.d/forky.list && \\
    apt-get -qq update && apt-get -qq download crane && dpkg-deb --extract crane_*.deb .
FROM scratch
COPY --from=fetched /fetched/usr/bin/crane /
";

pub struct Crane(PathBuf);

/// An image as `crane` makes it again: its layers, without those of its base, and what else it has.
pub struct Parts {
    layers: Vec<PathBuf>,
    /// The arguments of `crane mutate`.
    configuration: Vec<String>,
}

impl Crane {
    /// Fetches it to `folder`.
    pub fn get(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("Dockerfile"), DOCKERFILE).unwrap();
        let mut docker = Command::new("docker");
        docker.args(["buildx", "build", "--output", ".", "."]);
        run(docker.current_dir(folder));
        Crane(folder.join("crane"))
    }

    fn call(&self, args: &[&str]) -> Vec<u8> {
        run(Command::new(&self.0).args(args)).stdout
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_slice(&self.call(args)).unwrap()
    }

    /// Takes `image` apart, which stands on `base`; its layers go to files in `folder`.
    pub fn parts(&self, image: &str, base: &str, folder: &Path) -> Parts {
        let layers = |image| self.json(&["manifest", image])["layers"].as_array().unwrap().clone();
        let repository = image.rsplit_once(':').unwrap().0;
        let own = layers(image).split_off(layers(base).len());
        let own = own.iter().map(|layer| {
            let digest = layer["digest"].as_str().unwrap();
            let path = folder.join(format!("{digest}.tar.gz"));
            fs::write(&path, self.call(&["blob", &format!("{repository}@{digest}")])).unwrap();
            path
        });
        let configuration = self.json(&["config", image]);
        let configuration = &configuration["config"];
        let words = |name: &str| {
            let words = configuration[name].as_array().unwrap().iter();
            words.map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let variables = words("Env").into_iter().map(|variable| format!("--env={variable}"));
        let entrypoint = format!("--entrypoint={}", words("Entrypoint").join(","));
        let user = format!("--user={}", configuration["User"].as_str().unwrap());
        let rest = [entrypoint, user, "--workdir=/".to_owned()];
        Parts { layers: own.collect(), configuration: variables.chain(rest).collect() }
    }

    /// Makes an image of `parts` on `base`.
    pub fn append(&self, parts: &Parts, base: &str, tag: &str) {
        let mut crane = Command::new(&self.0);
        crane.args(["append", "--base", base, "--new_tag", tag]);
        for layer in &parts.layers {
            crane.arg("--new_layer").arg(layer);
        }
        run(&mut crane);
        run(Command::new(&self.0).args(["mutate", tag, "--tag", tag]).args(&parts.configuration));
    }

    /// Moves `image` from the base image `old` to `new`.
    pub fn rebase(&self, image: &str, old: &str, new: &str, tag: &str) {
        self.call(&["rebase", image, "--old_base", old, "--new_base", new, "--tag", tag]);
    }
}
