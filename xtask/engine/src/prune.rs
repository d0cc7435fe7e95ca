//! How much stays for the next run. What was unused for longest goes first, and nothing goes that
//! the last run used. `BuildKit` limits its cache itself.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use base::error::usage;
use base::process;
use serde_json::Value;

use crate::daemons::{Daemons, REGISTRY_LOG};
use crate::data::{Data, PORT, USED, size};
use crate::host::Claim;
use crate::image;
use crate::sandbox::{Programs, run};
use crate::shared::say;

/// How many MB of build cache, of images and of the registry's content stay.
pub struct Keep {
    pub cache: u64,
    pub images: u64,
    pub registry: u64,
}

impl Keep {
    pub fn get() -> Result<Keep> {
        let all = match env::var("XTASK_ENGINE_KEEP_MB") {
            Ok(value) if !value.is_empty() => value.parse().map_err(|_| {
                usage(format!(
                    "XTASK_ENGINE_KEEP_MB={value:?} is not a number\nhint: such as 20000"
                ))
            })?,
            _ => 20_000,
        };
        Ok(Keep { cache: all / 5 * 2, images: all / 10 * 3, registry: all / 10 * 3 })
    }
}

/// Removes the oldest images until they have at most `keep` MB. New is what was built, pulled or
/// tagged since the last run began, and what it ran.
pub fn images(daemons: &Daemons, data: &Data, keep: u64) -> Result<()> {
    let size = || -> Result<u64> {
        let usage = daemons.get("/system/df?type=image")?;
        Ok(usage["LayersSize"].as_u64().unwrap_or(0) / 1_000_000)
    };
    let before = size()?;
    if before <= keep {
        return Ok(());
    }
    let used = fs::read_to_string(data.path(USED)).unwrap_or_default();
    let (last_start, used) = used.split_once('\n').unwrap_or_default();
    let mut old = Vec::new();
    for image in daemons.get("/images/json")?.as_array().into_iter().flatten() {
        let id = image["Id"].as_str().unwrap_or_default();
        let image = daemons.get(&format!("/images/{id}/json"))?;
        let tagged = image["Metadata"]["LastTagTime"].as_str().unwrap_or_default().to_owned();
        let names: Vec<&str> =
            image["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let ran = |name: &str| {
            id.contains(name)
                || names.contains(&name)
                || names.contains(&&*format!("{name}:latest"))
        };
        let is_base = names.contains(&image::NAME);
        if !is_base && tagged.as_str() < last_start && !used.lines().any(ran) {
            old.push((tagged, id.to_owned()));
        }
    }
    old.sort();
    // An image with two names is listed twice.
    old.dedup_by(|a, b| a.1 == b.1);
    remove_oldest("images", &old, [before, keep], size, |some| {
        for (_, id) in some {
            process::check_signals()?;
            daemons.ask("DELETE", &format!("/images/{id}?force=1"))?;
        }
        Ok(())
    })
}

/// Removes the oldest tags of the registry, which is not running, until it has at most `keep` MB.
/// New is what was pushed since the last run began, and what it pulled.
pub fn registry(programs: &Programs, data: &Data, claim: &Claim, keep: u64) -> Result<()> {
    let root = data.path("registry/docker/registry/v2");
    if !root.exists() {
        return Ok(());
    }
    let before = size(&root)?;
    if before <= keep {
        return Ok(());
    }
    let log = fs::read_to_string(data.path(REGISTRY_LOG)).unwrap_or_default();
    let repositories = root.join("repositories");
    let mut find = Command::new("find");
    find.arg(&repositories).args(["-path", "*/_manifests/tags/*/current/link", "!", "-newer"]);
    find.arg(data.path(PORT)).args(["-printf", "%T@ %P\\n"]);
    let mut old: Vec<String> = run("find", &mut find)?.lines().map(str::to_owned).collect();
    old.sort();
    old.retain(|line| {
        // Such as `1764380000.1 a/image/_manifests/tags/main/current/link`.
        let path = line.split_once(' ').map_or("", |(_, path)| path);
        let name = path.replace("/_manifests/tags/", "/manifests/").replace("/current/link", "");
        let digest = fs::read_to_string(repositories.join(path)).unwrap_or_default();
        !log.contains(&format!("/v2/{name} ")) && !log.contains(&format!("@{digest} "))
    });
    remove_oldest(
        "tags of the registry",
        &old,
        [before, keep],
        || size(&root),
        |some| {
            for line in some {
                let link = repositories.join(line.split_once(' ').map_or("", |(_, path)| path));
                if let Some(tag) = link.ancestors().nth(2) {
                    fs::remove_dir_all(tag)?;
                    forget_manifests(&root, tag.ancestors().nth(2).unwrap_or(tag))?;
                }
            }
            let mut collect = programs.daemon(&claim.path(""), "docker-registry");
            run("docker-registry", collect.args(["garbage-collect", "/run/registry.yml"]))?;
            Ok(())
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

/// Removes from `old`, which has the oldest first, until at most `keep` MB of what were `before` are left:
/// an eighth at a time, because each look at the size is a look at everything. Says what went.
fn remove_oldest<T>(
    what: &str,
    old: &[T],
    [before, keep]: [u64; 2],
    size: impl Fn() -> Result<u64>,
    mut remove: impl FnMut(&[T]) -> Result<()>,
) -> Result<()> {
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
