//! One bake of everything that was planned.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use xshell::Shell;

use super::builder::builder_flag;
use super::definition::FOLDER;
use super::export;
use super::request::Request;
use crate::process;

/// Builds everything in one bake, and sees to it that no cache is lost unseen. Gives buildx's
/// metadata: for each target, what came of it.
///
/// # Errors
/// A build that failed, after buildx has said why; a signal that stopped it.
pub fn build(sh: &Shell, request: &Request, definition: &Value) -> Result<Value> {
    let metadata = bake(sh, request, definition)?;
    let mut lost = export::lost(definition, &metadata);
    if let Some(again) = export::again(definition, &lost) {
        let exported = bake(sh, request, &again);
        process::check_signals()?;
        if exported.is_ok() {
            lost =
                lost.into_iter().map(|(name, exports)| (name, export::missing(exports))).collect();
            lost.retain(|_, exports| !exports.is_empty());
        }
    }
    export::warn(&lost);
    Ok(metadata)
}

/// Hands the definition to one `docker buildx bake`, on standard input, in the image's folder.
/// buildx shows its own progress on standard error.
fn bake(sh: &Shell, request: &Request, definition: &Value) -> Result<Value> {
    let scratch = sh.create_temp_dir()?;
    let metadata = scratch.path().join("metadata.json");
    let mut docker = Command::new("docker");
    docker
        .arg("buildx")
        .args(builder_flag(request))
        .args(["bake", "--file", "-", "--metadata-file"])
        .arg(&metadata)
        .args(&request.bake_args)
        .current_dir(sh.current_dir().join(FOLDER))
        // The definition comes from here and not from a stranger: it may name the CA bundle and
        // the prebuilt packages, which lie outside the folder. Older versions have no `--allow`.
        .env("BUILDX_BAKE_ENTITLEMENTS_FS", "0")
        // An attestation tells the time of the build, so the same image would get another digest
        // every time. `-- --provenance=true` adds it where it is wanted.
        .env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1")
        .stdin(Stdio::piped());
    let mut child = docker.spawn().context("docker can't be started")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A bake that ends before it has read everything tells why by itself.
        let _ = stdin.write_all(definition.to_string().as_bytes());
    }
    let status = process::wait(&mut child)?;
    process::check_signals()?;
    if !status.success() {
        bail!(
            "the build failed: `docker buildx bake` ended with status {}.",
            process::exit_code(status)
        );
    }
    // An engine that tells nothing has built all the same.
    let metadata = sh.read_file(&metadata).unwrap_or_default();
    Ok(serde_json::from_str(&metadata).unwrap_or_default())
}
