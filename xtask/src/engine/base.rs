//! `debian:trixie-slim`, made from Debian's packages: a root file system for each architecture,
//! kept with the downloads, and one image of them for an engine that does not have it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::daemons::Daemons;
use super::data::Data;
use super::sandbox::{Programs, run};
use super::shared::{once, say};
use crate::digest::sha256;

const NAME: &str = "debian:trixie-slim";
const KEYS: &str = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
const MIRROR: &str = "http://deb.debian.org";

/// No file in the image is newer, and the image itself is of this day, so that the same packages
/// give the same image.
const EPOCH: &str = "1754697600";
const CREATED: &str = "2025-08-09T00:00:00Z";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The root file systems that the image is to have, one an architecture.
pub struct Base {
    roots: Vec<PathBuf>,
    architectures: Vec<&'static str>,
}

impl Base {
    /// Makes the root file systems that `downloads` does not have; with `emulate` also that of the
    /// other architecture.
    ///
    /// # Errors
    /// If one can't be made; `Interrupted` on a signal.
    pub fn get(downloads: &Path, programs: &Programs, emulate: bool) -> Result<Base> {
        let mut architectures = vec!["amd64", "arm64"];
        if !architectures.contains(&programs.arch.as_str()) {
            bail!("the engine runs on amd64 and arm64; this machine is {}.", programs.arch);
        }
        architectures.retain(|&arch| emulate || arch == programs.arch);
        let mut roots = Vec::new();
        for &arch in &architectures {
            let root = downloads.join(format!("debian-trixie-slim-{arch}"));
            once(&root, |partial| {
                let time = if arch == programs.arch { "" } else { ", which takes two minutes" };
                say(format_args!("making {NAME} for {arch} from Debian's packages, once{time}"));
                make_root(programs, arch, partial)
            })?;
            roots.push(root);
        }
        Ok(Base { roots, architectures })
    }

    /// Loads the image into the engine, if it is not there for these architectures.
    ///
    /// # Errors
    /// If it can't be loaded; `Interrupted` on a signal.
    pub fn load(&self, programs: &Programs, data: &Data, daemons: &Daemons) -> Result<()> {
        let loaded = data.path("base-image");
        let architectures = self.architectures.join(" ");
        let has = fs::read_to_string(&loaded).unwrap_or_default();
        let covered = self.architectures.iter().all(|arch| has.split(' ').any(|had| had == *arch));
        let image = daemons.ask("GET", &format!("/images/{NAME}/json"))?;
        if covered && image.status == 200 {
            return Ok(());
        }
        let layout = data.path("base-image.partial");
        let _ = fs::remove_dir_all(&layout);
        self.write_layout(&layout)?;
        let archive = layout.join("image.tar");
        let mut tar = Command::new("tar");
        tar.arg("--directory").arg(&layout).arg("--create").arg("--file").arg(&archive);
        run("packing the base image", tar.args(["oci-layout", "index.json", "blobs"]))?;
        let mut docker = Command::new(programs.bin().join("docker"));
        docker.arg("--host").arg(format!("unix://{}", daemons.socket.display()));
        run("loading the base image", docker.args(["load", "--input"]).arg(&archive))?;
        fs::remove_dir_all(&layout)?;
        Ok(fs::write(loaded, architectures)?)
    }

    /// An OCI image layout of all architectures, in the folder `layout`.
    fn write_layout(&self, layout: &Path) -> Result<()> {
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        let mut manifests = Vec::new();
        for (root, arch) in self.roots.iter().zip(&self.architectures) {
            let info: Value = serde_json::from_str(&fs::read_to_string(root.join("layer.json"))?)?;
            let digest = info["layer"]["digest"].as_str().unwrap_or_default();
            let blob = blobs.join(digest.trim_start_matches("sha256:"));
            fs::copy(root.join("layer.tar.gz"), blob).context("can't copy the base image")?;
            let mut platform = json!({"architecture": arch, "os": "linux"});
            if *arch == "arm64" {
                platform["variant"] = "v8".into();
            }
            let config = write_blob(
                &blobs,
                "application/vnd.oci.image.config.v1+json",
                &config(&platform, &info["diff_id"]),
            )?;
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": config,
                "layers": [info["layer"]],
            });
            let mut manifest = write_blob(&blobs, MANIFEST, &manifest)?;
            manifest["platform"] = platform;
            manifests.push(manifest);
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let mut index = write_blob(&blobs, INDEX, &index)?;
        index["annotations"] =
            json!({"io.containerd.image.name": format!("docker.io/library/{NAME}")});
        let top = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [index]});
        fs::write(layout.join("index.json"), top.to_string())?;
        fs::write(layout.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
        Ok(())
    }
}

fn config(platform: &Value, diff_id: &Value) -> Value {
    let mut config = platform.clone();
    config["created"] = CREATED.into();
    config["config"] = json!({
        "Cmd": ["bash"],
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    });
    config["rootfs"] = json!({"type": "layers", "diff_ids": [diff_id]});
    config["history"] = json!([{"created": CREATED, "created_by": "mmdebstrap trixie"}]);
    config
}

/// Writes `content` under its digest, and returns its descriptor.
fn write_blob(blobs: &Path, media_type: &str, content: &Value) -> Result<Value> {
    let content = content.to_string();
    let digest = sha256(&content);
    fs::write(blobs.join(&digest), &content)?;
    let digest = format!("sha256:{digest}");
    Ok(json!({"mediaType": media_type, "digest": digest, "size": content.len()}))
}

/// Makes a folder with the root file system as an image's layer, and its entry in a manifest.
fn make_root(programs: &Programs, arch: &str, partial: &Path) -> Result<PathBuf> {
    let (root, scratch) = (partial.join("root"), partial.join("scratch"));
    fs::create_dir(&root)?;
    fs::create_dir(&scratch)?;
    let tar = root.join("layer.tar");
    let mut mmdebstrap = programs.command("mmdebstrap");
    mmdebstrap.env("TMPDIR", &scratch).env("SOURCE_DATE_EPOCH", EPOCH).env("LC_ALL", "C.UTF-8");
    mmdebstrap.args(["--mode=root", "--variant=minbase", &format!("--architectures={arch}")]);
    for unread in ["doc/*", "info/*", "locale/*", "man/*"] {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{unread}"));
    }
    mmdebstrap.arg("--dpkgopt=path-include=/usr/share/doc/*/copyright");
    if let Some(proxies) = proxies(partial)? {
        // For mmdebstrap only: in the image they would be wrong elsewhere.
        mmdebstrap.arg(format!("--aptopt={}", proxies.display()));
        mmdebstrap.arg("--customize-hook=rm -f \"$1/etc/apt/apt.conf.d/99mmdebstrap\"");
    }
    mmdebstrap.arg("trixie").arg(&tar);
    for (path, suite) in
        [("debian", "trixie"), ("debian", "trixie-updates"), ("debian-security", "trixie-security")]
    {
        mmdebstrap.arg(format!("deb {KEYS} {MIRROR}/{path} {suite} main"));
    }
    run("making the base image's root", &mut mmdebstrap)?;
    let diff_id = format!("sha256:{}", digest(&tar)?);
    // Without the name and time that would make each one different.
    run("compressing it", Command::new("gzip").arg("--no-name").arg(&tar))?;
    let layer = root.join("layer.tar.gz");
    let layer = json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": format!("sha256:{}", digest(&layer)?),
        "size": fs::metadata(&layer)?.len(),
    });
    let info = json!({"diff_id": diff_id, "layer": layer});
    fs::write(root.join("layer.json"), info.to_string())?;
    Ok(root)
}

/// A file with the proxies that the host's apt is configured to use, if any.
fn proxies(partial: &Path) -> Result<Option<PathBuf>> {
    let mut dump = Command::new("apt-config");
    dump.args(["dump", "--no-empty", "--format", "%F \"%v\";%n"]);
    let settings = run("apt-config", dump.args(["Acquire::http", "Acquire::https"]))?;
    let proxies = settings.lines().filter(|line| line.to_lowercase().contains("proxy"));
    let proxies: Vec<&str> = proxies.collect();
    if proxies.is_empty() {
        return Ok(None);
    }
    let file = partial.join("proxies");
    fs::write(&file, proxies.join("\n") + "\n")?;
    Ok(Some(file))
}

/// The SHA-256 of a large file, by a program that was built with optimizations.
fn digest(file: &Path) -> Result<String> {
    let output = run("sha256sum", Command::new("sha256sum").arg("--binary").arg(file))?;
    Ok(output.split(' ').next().unwrap_or_default().trim_start_matches('\\').to_owned())
}
