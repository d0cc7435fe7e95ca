//! The data folder of an engine, which has one owner at a time, and how much stays in it. What was
//! unused for longest goes first, and nothing that the last run used. `BuildKit` limits its cache.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use base::error::usage;
use base::process;

use crate::daemons::{Daemons, REGISTRY_LOG};
use crate::host::Claim;
use crate::image;
use crate::packages::RELEASE;
use crate::sandbox::{Programs, run};
use crate::shared::{Folder, say};

/// Files in it: the registry's port, written when a run begins; that time as Docker writes it, and
/// below it the images that the run started.
pub const PORT: &str = "port";
pub const USED: &str = "used";

/// Where one engine keeps images, build cache, the registry's content, and its logs.
pub struct Data {
    folder: Folder,
    pub fresh: bool,
    /// Whether it is on an overlay itself, as is everything in a container but its volumes.
    /// Overlays do not stack, so layers have to be copies there.
    pub on_overlay: bool,
    /// How many MB of build cache, images and the registry's content stay in it.
    pub keep: u64,
}

impl Data {
    /// The first data folder below `engine` that no other engine owns; a `fresh` one is removed in
    /// the end. Each `release` has its own: an older one may not read a newer one's data.
    pub fn take(engine: &Path, release: &str, fresh: bool) -> Result<Data> {
        let keep = match env::var("XTASK_ENGINE_KEEP_MB") {
            Ok(value) if !value.is_empty() => value.parse().map_err(|_| {
                let hint = "such as 20000";
                usage(format!("XTASK_ENGINE_KEEP_MB={value:?} is not a number\nhint: {hint}"))
            })?,
            _ => 20_000,
        };
        let fresh_ones = engine.join("fresh");
        Folder::abandoned(&fresh_ones).iter().for_each(Folder::remove);
        // This removes an empty folder only.
        let _ = fs::remove_dir(&fresh_ones);
        let parent = match release {
            _ if fresh => fresh_ones,
            RELEASE => engine.join("data"),
            _ => engine.join(format!("data-{release}")),
        };
        let mut folders =
            (0_u32..).map(|number| Folder::try_take(&parent.join(number.to_string())));
        let folder = folders.find_map(Result::transpose).context("too many engines")??;
        if !fresh && !folder.path.ends_with("0") {
            let path = folder.path.display();
            say(format_args!(
                "another engine has the images of this checkout; these are in {path}"
            ));
        }
        let mut stat = Command::new("stat");
        stat.args(["--file-system", "--format=%T"]).arg(&folder.path);
        let on_overlay = run("stat", &mut stat)?.trim() == "overlayfs";
        if on_overlay {
            let path = engine.display();
            say(format_args!("{path} is on an overlay; a volume there would be faster"));
        }
        Ok(Data { folder, fresh, on_overlay, keep })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path.join(name)
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if self.fresh {
            self.folder.remove();
            // Only the last fresh engine can remove it.
            let _ = self.folder.path.parent().map(fs::remove_dir);
        }
    }
}

/// Removes all data folders below `engine` that no running engine owns.
/// Errors: those of the file system; a folder in use, after the others were removed.
pub fn prune(engine: &Path) -> Result<()> {
    let (mut freed, mut used) = (0, Vec::new());
    for entry in fs::read_dir(engine).into_iter().flatten().flatten() {
        let (parent, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name != "fresh" && name != "data" && !name.starts_with("data-") {
            continue;
        }
        for folder in Folder::abandoned(&parent) {
            freed += size(&folder.path)?;
            fs::remove_dir_all(&folder.path)
                .with_context(|| format!("cannot remove {}", folder.path.display()))?;
        }
        if fs::remove_dir(&parent).is_err() {
            used.push(parent.display().to_string());
        }
    }
    say(format_args!("removed {freed} MB"));
    if !used.is_empty() {
        bail!(
            "engines are running with data in {}\nhint: end them, then prune again",
            used.join(", ")
        );
    }
    Ok(())
}

/// The MB that the content of `folder` takes on the disk.
fn size(folder: &Path) -> Result<u64> {
    let mut du = Command::new("du");
    let size = run("du", du.args(["--summarize", "--block-size=1M"]).arg(folder))?;
    size.split_whitespace().next().and_then(|size| size.parse().ok()).context("du reports no size")
}

/// Removes the oldest images. New is what the last run built, pulled, tagged or ran.
pub fn prune_images(daemons: &Daemons, data: &Data) -> Result<()> {
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

/// Removes the oldest tags of the registry, which is stopped. New is what the last run used.
pub fn prune_registry(programs: &Programs, data: &Data, claim: &Claim) -> Result<()> {
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

/// Removes what `old` finds until three tenths of what `data` keeps are left: an eighth at a time,
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
