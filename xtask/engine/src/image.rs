//! `debian:trixie-slim`, made from Debian's packages: a layer for each architecture, kept with the
//! downloads, and one image of them for an engine that does not have it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base::digest::sha256;
use serde_json::{Value, json};

use crate::host::Claim;
use crate::packages::{Apt, RELEASE};
use crate::sandbox::{private, run};
use crate::shared::once;

const NAME: &str = "debian:trixie-slim";

/// What it has, dependencies aside: as Debian's own image.
pub const PACKAGES: &str = "?essential ?priority(required) apt";

const SCRIPT: &str = include_str!("base.sh");

/// The time of all files, and of the image itself, so that the same packages give the same image.
const EPOCH: &str = "1754697600";
const CREATED: &str = "2025-08-09T00:00:00Z";

const OCI: &str = "application/vnd.oci.image.";

/// The layer for `arch`: a folder with what [`SCRIPT`] makes.
fn layer(downloads: &Path, arch: &str) -> PathBuf {
    let recipe = sha256([PACKAGES, SCRIPT, EPOCH].concat());
    downloads.join(format!("debian-{RELEASE}-{arch}-{}", &recipe[..8]))
}

/// Makes the layer for `arch` unless `downloads` has it. Of packages that were `fetched`, `/usr` is copied
/// to a folder of programs.
pub fn get(downloads: &Path, arch: &str, fetched: Option<(Vec<PathBuf>, &Path)>) -> Result<()> {
    once(&layer(downloads, arch), |scratch| {
        let (archives, programs) = match fetched {
            Some(fetched) => fetched,
            None => (Apt::new(scratch.join("apt"), RELEASE, arch)?.fetch(PACKAGES)?, Path::new("")),
        };
        let folder = scratch.join("layer");
        fs::create_dir_all(folder.join("root"))?;
        let mut script = private("sh");
        script.args(["-c", SCRIPT, "base.sh"]).arg(&folder).arg(programs).args(archives);
        script.env("SOURCE_DATE_EPOCH", EPOCH).env("LC_ALL", "C.UTF-8");
        run("making debian:trixie-slim", &mut script)?;
        fs::remove_dir(folder.join("root"))?;
        Ok(folder)
    })
}

/// Loads the image for `architectures` into the engine, unless it is there.
pub fn load(downloads: &Path, architectures: &[&str], claim: &Claim) -> Result<()> {
    const LOAD: &str = r#"docker image inspect --format {{.Id}} "$1" | grep -qxF "$2" ||
        tar -ch -C /run/layout . | docker load"#;
    let digest = write_layout(&claim.folder.join("layout"), downloads, architectures)?;
    let mut load = claim.command("sh");
    run("loading debian:trixie-slim", load.args(["-c", LOAD, "sh", NAME, &digest])).map(drop)
}

/// Writes an OCI image layout to the folder `layout` and returns the digest of its image.
fn write_layout(layout: &Path, downloads: &Path, architectures: &[&str]) -> Result<String> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let descriptor = |kind: &str, digest: &str, size: usize| json!({"mediaType": format!("{OCI}{kind}"), "digest": format!("sha256:{digest}"), "size": size});
    let write_blob = |kind: &str, content: &Value| -> Result<Value> {
        let content = content.to_string();
        let digest = sha256(&content);
        fs::write(blobs.join(&digest), &content)?;
        Ok(descriptor(kind, &digest, content.len()))
    };
    let index = |manifests: &[Value]| json!({"schemaVersion": 2, "mediaType": format!("{OCI}index.v1+json"), "manifests": manifests});
    let mut manifests = Vec::new();
    for arch in architectures {
        let folder = layer(downloads, arch);
        let digests = fs::read_to_string(folder.join("digests"))?;
        let mut digests = digests.lines().filter_map(|line| line.split(' ').next());
        let (diff_id, digest) = digests.next().zip(digests.next()).context("no digests")?;
        let archive = folder.join("layer.tar.gz").canonicalize()?;
        let size = usize::try_from(fs::metadata(&archive)?.len())?;
        symlink(archive, blobs.join(digest))?;
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let config = json!({
            "architecture": arch, "os": "linux", "created": CREATED,
            "config": {"Cmd": ["bash"], "Env": [path]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
            "history": [{"created": CREATED, "created_by": "Debian's packages"}],
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": format!("{OCI}manifest.v1+json"),
            "config": write_blob("config.v1+json", &config)?,
            "layers": [descriptor("layer.v1.tar+gzip", digest, size)],
        });
        let mut manifest = write_blob("manifest.v1+json", &manifest)?;
        manifest["platform"] = json!({"architecture": arch, "os": "linux"});
        manifests.push(manifest);
    }
    let mut image = write_blob("index.v1+json", &index(&manifests))?;
    image["annotations"] = json!({"io.containerd.image.name": format!("docker.io/library/{NAME}")});
    fs::write(layout.join("index.json"), index(&[image.clone()]).to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#)?;
    Ok(image["digest"].as_str().unwrap_or_default().to_owned())
}
