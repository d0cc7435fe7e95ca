//! How much stays for the next run. What was unused for longest goes first, and nothing goes that
//! the last run used. `BuildKit` limits its cache itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use base::process;

use crate::daemons::{Daemons, REGISTRY_LOG};
use crate::data::{Data, PORT, USED, size};
use crate::host::Claim;
use crate::image;
use crate::sandbox::{Programs, run};
use crate::shared::say;

/// Removes the oldest images. New is what was built, pulled or tagged since the last run began, and
/// what it ran.
pub fn images(daemons: &Daemons, data: &Data) -> Result<()> {
    let size = || -> Result<u64> {
        let usage = daemons.get("/system/df?type=image")?;
        Ok(usage["LayersSize"].as_u64().unwrap_or(0) / 1_000_000)
    };
    let old = || -> Result<Old> {
        let used = fs::read_to_string(data.path(USED)).unwrap_or_default();
        let (last_start, used) = used.split_once('\n').unwrap_or_default();
        let mut old = Vec::new();
        for image in daemons.get("/images/json")?.as_array().into_iter().flatten() {
            let id = image["Id"].as_str().unwrap_or_default();
            let image = daemons.get(&format!("/images/{id}/json"))?;
            let tagged = image["Metadata"]["LastTagTime"].as_str().unwrap_or_default();
            let ran = |name: &str| {
                let latest = format!("{name}:latest");
                let mut names = image["RepoTags"].as_array().into_iter().flatten();
                id.contains(name) || names.any(|own| *own == *name || *own == latest)
            };
            if tagged < last_start && !used.lines().chain([image::NAME]).any(ran) {
                old.push((tagged.to_owned(), id.to_owned()));
            }
        }
        Ok(old)
    };
    remove_oldest("images", data, size, old, |some| {
        for (_, id) in some {
            process::check_signals()?;
            daemons.ask("DELETE", &format!("/images/{id}?force=1"))?;
        }
        Ok(())
    })
}

/// Removes the oldest tags of the registry, which is not running. New is what was pushed since the
/// last run began, and what it pulled.
pub fn registry(programs: &Programs, data: &Data, claim: &Claim) -> Result<()> {
    let root = data.path("registry/docker/registry/v2");
    if !root.exists() {
        return Ok(());
    }
    let repositories = root.join("repositories");
    let old = || -> Result<Old> {
        let log = fs::read_to_string(data.path(REGISTRY_LOG)).unwrap_or_default();
        let mut find = Command::new("find");
        find.arg(&repositories).args(["-path", "*/_manifests/tags/*/current/link", "!", "-newer"]);
        find.arg(data.path(PORT)).args(["-printf", "%T@ %P\\n"]);
        let mut old = Vec::new();
        // Such as `1764380000.1 a/image/_manifests/tags/main/current/link`.
        for (time, path) in run("find", &mut find)?.lines().filter_map(|line| line.split_once(' '))
        {
            let name =
                path.replace("/_manifests/tags/", "/manifests/").replace("/current/link", "");
            let digest = fs::read_to_string(repositories.join(path)).unwrap_or_default();
            if !log.contains(&format!("/v2/{name} ")) && !log.contains(&format!("@{digest} ")) {
                old.push((time.to_owned(), path.to_owned()));
            }
        }
        Ok(old)
    };
    remove_oldest(
        "tags of the registry",
        data,
        || size(&root),
        old,
        |some| {
            for (_, path) in some {
                let link = repositories.join(path);
                if let Some(tag) = link.ancestors().nth(2) {
                    fs::remove_dir_all(tag)?;
                    forget_manifests(&root, tag.ancestors().nth(2).unwrap_or(tag))?;
                }
            }
            let mut collect = programs.daemon(&claim.path(""), "docker-registry");
            run("docker-registry", collect.args(["garbage-collect", "/run/registry.yml"])).map(drop)
        },
    )
}

/// Removes the manifests that no tag leads to from the folder `manifests` of a repository. The
/// registry's own `--delete-untagged` would also remove those that an index names.
fn forget_manifests(root: &Path, manifests: &Path) -> Result<()> {
    let mut named = String::new();
    for tag in fs::read_dir(manifests.join("tags"))? {
        let digest = fs::read_to_string(tag?.path().join("current/link"))?;
        let hex = digest.trim_start_matches("sha256:");
        let blob = root.join("blobs/sha256").join(&hex[..2.min(hex.len())]).join(hex).join("data");
        named += &format!("{hex}\n{}\n", fs::read_to_string(blob).unwrap_or_default());
    }
    for revision in fs::read_dir(manifests.join("revisions/sha256"))? {
        let path = revision?.path();
        let hex = path.file_name().context("a digest")?.to_string_lossy();
        if !named.contains(&*hex) {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

/// When something was new, and its name.
type Old = Vec<(String, String)>;

/// Removes what `old` finds until three tenths of what stays in `data` are left: an eighth at a time,
/// because each look at the size is a look at everything. Says what went.
fn remove_oldest(
    what: &str,
    data: &Data,
    size: impl Fn() -> Result<u64>,
    old: impl FnOnce() -> Result<Old>,
    mut remove: impl FnMut(&[(String, String)]) -> Result<()>,
) -> Result<()> {
    let (keep, before) = (data.keep / 10 * 3, size()?);
    if before <= keep {
        return Ok(());
    }
    let mut old = old()?;
    old.sort();
    // An image with two names is listed twice.
    old.dedup();
    let (mut left, mut removed) = (before, 0);
    for some in old.chunks(old.len().div_ceil(8).max(1)) {
        if left <= keep {
            break;
        }
        remove(some)?;
        removed += some.len();
        left = size()?;
    }
    let freed = before.saturating_sub(left);
    say(format_args!("removed {removed} of the oldest {what}: {freed} MB"));
    if left > keep {
        say(format_args!("{left} MB stay, more than {keep}, as the last run used these {what}"));
    }
    Ok(())
}
