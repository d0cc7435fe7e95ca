//! `debian:trixie-slim`, made from Debian's packages: a part for each architecture, kept with the
//! downloads, and one image of them for an engine that does not have it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::daemons::Daemons;
use crate::data::Data;
use crate::packages::network_settings;
use crate::sandbox::{Programs, run};
use crate::shared::{once, say};
use base::digest::sha256;

const NAME: &str = "debian:trixie-slim";
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];
const KEYS: &str = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
const MIRROR: &str = "http://deb.debian.org";

/// No file in the image is newer, and the image itself is of this day, so that the same packages
/// give the same image.
const EPOCH: &str = "1754697600";
const CREATED: &str = "2025-08-09T00:00:00Z";

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The parts of the image, by architecture: each a folder with its blobs, and `manifest.json` with
/// the descriptor of its manifest.
pub struct Base(BTreeMap<&'static str, PathBuf>);

impl Base {
    /// Makes the parts that `downloads` does not have; with `emulate` also that of the
    /// other architecture.
    pub fn get(downloads: &Path, programs: &Programs, emulate: bool) -> Result<Base> {
        if !ARCHITECTURES.contains(&programs.arch.as_str()) {
            bail!("the engine runs on amd64 and arm64; this machine is {}.", programs.arch);
        }
        let mut parts = BTreeMap::new();
        for arch in ARCHITECTURES.into_iter().filter(|arch| emulate || *arch == programs.arch) {
            let part = downloads.join(format!("debian-trixie-{arch}"));
            once(&part, |partial| {
                let time = if arch == programs.arch { "" } else { ", which takes two minutes" };
                say(format_args!("making {NAME} for {arch} from Debian's packages, once{time}"));
                make(programs, arch, partial)
            })?;
            parts.insert(arch, part);
        }
        Ok(Base(parts))
    }

    /// Loads the image into the engine, if it is not there for these architectures.
    pub fn load(&self, programs: &Programs, data: &Data, daemons: &Daemons) -> Result<()> {
        let loaded = data.path("base-image");
        let has = fs::read_to_string(&loaded).unwrap_or_default();
        let covered = self.0.keys().all(|arch| has.contains(arch));
        let image = daemons.ask("GET", &format!("/images/{NAME}/json"))?;
        if covered && image.status == 200 {
            return Ok(());
        }
        let layout = data.path("base-image.partial");
        let _ = fs::remove_dir_all(&layout);
        self.write_layout(&layout)?;
        let archive = layout.join("image.tar");
        let mut tar = Command::new("tar");
        tar.arg("--create").arg("--file").arg(&archive).arg("--directory").arg(&layout);
        tar.args(["oci-layout", "index.json", "blobs"]);
        for part in self.0.values() {
            tar.arg("--directory").arg(part).arg("blobs");
        }
        run("packing the base image", &mut tar)?;
        let mut docker = Command::new(programs.bin().join("docker"));
        docker.arg("--host").arg(format!("unix://{}", daemons.socket.display()));
        run("loading the base image", docker.args(["load", "--input"]).arg(&archive))?;
        fs::remove_dir_all(&layout)?;
        let architectures = self.0.keys().copied().collect::<Vec<_>>();
        Ok(fs::write(loaded, architectures.join(" "))?)
    }

    /// An OCI image layout in the folder `layout`, without the blobs of the parts.
    fn write_layout(&self, layout: &Path) -> Result<()> {
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        let mut manifests = Vec::new();
        for part in self.0.values() {
            let manifest = fs::read_to_string(part.join("manifest.json"))?;
            manifests.push(serde_json::from_str::<Value>(&manifest)?);
        }
        let mut index = write_blob(&blobs, INDEX, &index(&manifests))?;
        index["annotations"] =
            json!({"io.containerd.image.name": format!("docker.io/library/{NAME}")});
        fs::write(layout.join("index.json"), self::index(&[index]).to_string())?;
        Ok(fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#)?)
    }
}

fn index(manifests: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
}

/// Writes `content` under its digest, and returns its descriptor.
fn write_blob(blobs: &Path, media_type: &str, content: &Value) -> Result<Value> {
    let content = content.to_string();
    let digest = sha256(&content);
    fs::write(blobs.join(&digest), &content)?;
    Ok(descriptor(media_type, &digest, content.len() as u64))
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size})
}

fn make(programs: &Programs, arch: &str, partial: &Path) -> Result<PathBuf> {
    let part = partial.join("part");
    let blobs = part.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let tar = partial.join("layer.tar");
    bootstrap(programs, arch, partial, &tar)?;
    let diff_id = format!("sha256:{}", digest(&tar)?);
    // Without the name and time that would make each one different.
    run("compressing it", Command::new("gzip").arg("--no-name").arg(&tar))?;
    let layer = partial.join("layer.tar.gz");
    let layer_digest = digest(&layer)?;
    let size = fs::metadata(&layer)?.len();
    fs::rename(layer, blobs.join(&layer_digest))?;
    let variant = if arch == "arm64" { "v8" } else { "" };
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let config = json!({
        "architecture": arch,
        "variant": variant,
        "os": "linux",
        "created": CREATED,
        "config": {"Cmd": ["bash"], "Env": [path]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": CREATED, "created_by": "mmdebstrap trixie"}],
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": write_blob(&blobs, CONFIG, &config)?,
        "layers": [descriptor(LAYER, &layer_digest, size)],
    });
    let mut manifest = write_blob(&blobs, MANIFEST, &manifest)?;
    manifest["platform"] = json!({"architecture": arch, "variant": variant, "os": "linux"});
    fs::write(part.join("manifest.json"), manifest.to_string())?;
    Ok(part)
}

/// Makes `tar`, the root file system of Debian for `arch`.
fn bootstrap(programs: &Programs, arch: &str, partial: &Path, tar: &Path) -> Result<()> {
    let (scratch, network) = (partial.join("scratch"), partial.join("network"));
    fs::create_dir(&scratch)?;
    fs::write(&network, network_settings()?)?;
    let mut mmdebstrap = programs.command("mmdebstrap");
    mmdebstrap.env("TMPDIR", &scratch).env("SOURCE_DATE_EPOCH", EPOCH).env("LC_ALL", "C.UTF-8");
    mmdebstrap.args(["--mode=root", "--variant=minbase", &format!("--architectures={arch}")]);
    for unread in ["doc/*", "info/*", "locale/*", "man/*"] {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{unread}"));
    }
    mmdebstrap.arg("--dpkgopt=path-include=/usr/share/doc/*/copyright");
    // For mmdebstrap only: in the image they would be wrong elsewhere.
    mmdebstrap.arg(format!("--aptopt={}", network.display()));
    mmdebstrap.arg("--customize-hook=rm -f \"$1/etc/apt/apt.conf.d/99mmdebstrap\"");
    mmdebstrap.arg("trixie").arg(tar);
    for (path, suite) in
        [("debian", "trixie"), ("debian", "trixie-updates"), ("debian-security", "trixie-security")]
    {
        mmdebstrap.arg(format!("deb {KEYS} {MIRROR}/{path} {suite} main"));
    }
    run("making the base image's root", &mut mmdebstrap).map(drop)
}

/// The SHA-256 of a large file, by a program that was built with optimizations.
fn digest(file: &Path) -> Result<String> {
    let output = run("sha256sum", Command::new("sha256sum").arg("--binary").arg(file))?;
    Ok(output.split(' ').next().unwrap_or_default().trim_start_matches('\\').to_owned())
}
