//! Records of pushed images, for the tasks that read them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{IMAGE, SHA};

/// The image of a variant for one architecture, pushed for main.
pub fn record(variant: &str, arch: &str, base_image: &str) -> Value {
    let packages = json!({ "openhands-agent-server": "1.2.3", "openhands-sdk": "1.2.3" });
    json!({
        "schema": 2,
        "kind": "image",
        "status": "built",
        "name": variant,
        "variant": variant,
        "flavor": null,
        "target": "binary",
        "base_image": base_image,
        "base_digest": null,
        "image": IMAGE,
        "git_ref": "refs/heads/main",
        "sha": SHA,
        "short_sha": &SHA[..7],
        "platforms": [format!("linux/{arch}")],
        "arches": [arch],
        "tags": [format!("{IMAGE}:0123456-{variant}-{arch}")],
        "manifest_tags": [format!("{IMAGE}:0123456-{variant}"), format!("{IMAGE}:main-{variant}")],
        "release_tags": [],
        "digest": format!("sha256:{}", "0".repeat(64)),
        "pushed": true,
        "bytes": null,
        "main_bytes": null,
        "layer": null,
        "server": { "from": "release", "commit": SHA, "ref": "refs/heads/main", "dirty": false,
                    "packages": packages,
                    "description": "the pinned release: openhands-sdk 1.2.3" },
        "builder": "default",
        "builder_was_empty": null,
        "cache_mode": "max",
        "attempts": 1,
        "started": 1_000_000_000,
        "finished": 1_000_000_095,
        "seconds": { "context": null, "cache_import": null, "pull": null, "steps": null,
                     "image_export": null, "push": null, "cache_export": null },
        "steps": { "total": null, "cached": null, "from_builder": null, "from_registry": null,
                   "saved_seconds": null },
        "step_list": [],
        "context_bytes": null,
        "cache_read": [],
        "cache_written": [],
        "error": null,
        "log": null,
    })
}

/// Writes a file of one record and returns its path.
pub fn write(path: &Path, record: &Value) -> String {
    fs::write(path, format!("{record}\n")).unwrap();
    path.to_str().unwrap().to_owned()
}
