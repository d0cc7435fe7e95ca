//! `debian:trixie-slim`, made from Debian's packages: a layer for each architecture, kept with the
//! downloads, and one image of them for an engine that does not have it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use base::digest::sha256;
use serde_json::{Value, json};

use crate::daemons::Daemons;
use crate::data::Data;
use crate::packages::{Apt, RELEASE};
use crate::sandbox::{Programs, private, run, run_with};
use crate::shared::{once, progress, timed};

pub const NAME: &str = "debian:trixie-slim";

/// What it has, dependencies aside: as Debian's own image.
pub const PACKAGES: &str = "?essential ?priority(required) apt";

const MAKING: &str = "making debian:trixie-slim";

const SCRIPT: &str = include_str!("base.sh");

/// The time of all files, and of the image itself, so that the same packages give the same image.
const EPOCH: &str = "1754697600";
const CREATED: &str = "2025-08-09T00:00:00Z";

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The layer for `arch`: a folder with what [`SCRIPT`] makes.
pub fn layer(downloads: &Path, arch: &str) -> PathBuf {
    let recipe = sha256([PACKAGES, SCRIPT, EPOCH].concat());
    downloads.join(format!("debian-{RELEASE}-{arch}-{}", &recipe[..8]))
}

/// Makes the layer for `arch`, unless `downloads` has it.
pub fn get(downloads: &Path, arch: &str) -> Result<()> {
    once(&layer(downloads, arch), |scratch| {
        let apt = Apt::new(scratch.join("apt"), RELEASE, arch)?;
        make(scratch, Path::new(""), &apt.fetch(PACKAGES)?)
    })
}

/// Makes a layer of the packages `archives`, in `scratch`. Its `/usr` is copied to the folder
/// `programs`, unless that is empty.
pub fn make(scratch: &Path, programs: &Path, archives: &[PathBuf]) -> Result<PathBuf> {
    let folder = scratch.join("layer");
    fs::create_dir_all(folder.join("root"))?;
    let mut script = private("sh");
    script.args(["-c", SCRIPT, "base.sh"]).arg(&folder).arg(programs).args(archives);
    script.env("SOURCE_DATE_EPOCH", EPOCH).env("LC_ALL", "C.UTF-8");
    timed(MAKING, || {
        let mut done = 0;
        run_with(MAKING, &mut script, |written| {
            done += String::from_utf8_lossy(written).matches("Setting up").count();
            progress(MAKING, &format!("{done}/{}", archives.len()));
        })
    })?;
    fs::remove_dir(folder.join("root"))?;
    Ok(folder)
}

/// Loads the image for `architectures` into the engine, unless it is there.
pub fn load(
    downloads: &Path,
    architectures: &[&str],
    programs: &Programs,
    data: &Data,
    daemons: &Daemons,
) -> Result<()> {
    let layout = data.path("layout");
    let _ = fs::remove_dir_all(&layout);
    let digest = write_layout(&layout, downloads, architectures)?;
    let image = daemons.ask("GET", &format!("/images/{NAME}/json"))?;
    if image.status != 200 || !image.body.contains(&digest) {
        let mut load = Command::new("sh");
        load.args(["-c", r#"tar -chf - -C "$1" . | "$2" --host "$3" load"#, "sh"]);
        load.arg(&layout).arg(programs.folder.join("path/docker"));
        load.arg(format!("unix://{}", daemons.socket.display()));
        timed("loading debian:trixie-slim", || run("loading debian:trixie-slim", &mut load))?;
    }
    Ok(fs::remove_dir_all(layout)?)
}

/// Writes an OCI image layout to the folder `layout` and returns the digest of its image.
fn write_layout(layout: &Path, downloads: &Path, architectures: &[&str]) -> Result<String> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let mut manifests = Vec::new();
    for arch in architectures {
        let folder = layer(downloads, arch);
        let digests = fs::read_to_string(folder.join("digests"))?;
        let mut digests = digests.lines().filter_map(|line| line.split(' ').next());
        let (diff_id, digest) = digests.next().zip(digests.next()).context("no digests")?;
        let archive = folder.join("layer.tar.gz");
        let size = fs::metadata(&archive)?.len();
        symlink(archive.canonicalize()?, blobs.join(digest))?;
        let variant = if *arch == "arm64" { "v8" } else { "" };
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let config = json!({
            "architecture": arch, "variant": variant, "os": "linux", "created": CREATED,
            "config": {"Cmd": ["bash"], "Env": [path]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
            "history": [{"created": CREATED, "created_by": "Debian's packages"}],
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": write_blob(&blobs, "application/vnd.oci.image.config.v1+json", &config)?,
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", digest, size)],
        });
        let mut manifest = write_blob(&blobs, MANIFEST, &manifest)?;
        manifest["platform"] = json!({"architecture": arch, "variant": variant, "os": "linux"});
        manifests.push(manifest);
    }
    let index = |manifests: &[Value]| json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let mut image = write_blob(&blobs, INDEX, &index(&manifests))?;
    image["annotations"] = json!({"io.containerd.image.name": format!("docker.io/library/{NAME}")});
    let digest = image["digest"].as_str().unwrap_or_default().to_owned();
    fs::write(layout.join("index.json"), index(&[image]).to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#)?;
    Ok(digest)
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
