//! The data folder of an engine, which has one owner at a time, and how much stays in it. `BuildKit`
//! limits its cache itself.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use base::error::usage;

use crate::daemons::REGISTRY_LOG;
use crate::host::Claim;
use crate::packages::RELEASE;
use crate::sandbox::{run, run_anyway};
use crate::shared::{Folder, say};

/// The first data folder below `engine` that no other engine owns; a `fresh` one is removed in the
/// end. Each `release` has its own: an older one may not read a newer one's data.
pub fn take(engine: &Path, release: &str, fresh: bool) -> Result<Folder> {
    let fresh_ones = engine.join("fresh");
    Folder::abandoned(&fresh_ones).iter().for_each(Folder::remove);
    // Only if it is empty.
    let _ = fs::remove_dir(&fresh_ones);
    let parent = match release {
        _ if fresh => fresh_ones,
        RELEASE => engine.join("data"),
        _ => engine.join(format!("data-{release}")),
    };
    let mut folders = (0_u32..).map(|number| Folder::try_take(&parent.join(number.to_string())));
    let mut folder = folders.find_map(Result::transpose).context("too many engines")??;
    folder.is_temporary = fresh;
    Ok(folder)
}

/// How many MB of build cache, images and the registry's content stay in a data folder.
pub fn keep() -> Result<u64> {
    let keep = env::var("XTASK_ENGINE_KEEP_MB").unwrap_or_default();
    if keep.is_empty() {
        return Ok(20_000);
    }
    keep.parse().map_err(|_| {
        usage(format!("XTASK_ENGINE_KEEP_MB={keep:?} is not a number\nhint: such as 20000"))
    })
}

/// Removes all data folders below `engine` that no running engine owns.
/// Errors: those of the file system; a folder in use, after the others were removed.
pub fn prune(engine: &Path) -> Result<()> {
    let (mut freed, mut used) = (0, Vec::new());
    for entry in fs::read_dir(engine).into_iter().flatten().flatten() {
        if entry.file_name() == "downloads" {
            continue;
        }
        for folder in Folder::abandoned(&entry.path()) {
            freed += size(&folder.path)?;
            folder.remove();
        }
        if fs::remove_dir(entry.path()).is_err() {
            used.push(entry.path().display().to_string());
        }
    }
    say(format_args!("removed {freed} MB"));
    if !used.is_empty() {
        let used = used.join(", ");
        bail!("engines are running with data in {used}\nhint: end them, then prune again");
    }
    Ok(())
}

/// The MB that the content of `folder` takes on the disk.
fn size(folder: &Path) -> Result<u64> {
    let mut du = Command::new("du");
    let size = run("du", du.args(["--summarize", "--block-size=1M"]).arg(folder))?;
    size.split_whitespace().next().and_then(|size| size.parse().ok()).context("du reports no size")
}

/// Prints how many MB all layers take.
const LAYERS_SIZE: &str = "docker system df --format '{{.Size}}' | head -n 1 | tr k K | tr -d B |
    numfmt --from=si --to-unit=M";
/// Prints when the last run began, and the images that it did not run: when each was built, pulled or tagged,
/// its digest, and its names. Docker's times are in quotes.
const IMAGES: &str = r#"date --utc --reference "$0/port" '+"%FT%T'
    docker images --quiet --no-trunc | sort --unique |
    xargs --no-run-if-empty docker image inspect --format \
        '{{json .Metadata.LastTagTime}} {{.Id}} {{.RepoTags}}' |
    grep -vF -e debian:trixie-slim -f "$0/used" || true"#;
/// Notes the images of the last containers that were made.
const NOTE_USED: &str = r#"docker events --since 0 --until "$(date +%s)" --filter event=create \
    --filter type=container --format '{{.Actor.Attributes.image}}' | sort --unique >"$0/used""#;

/// Notes what this run has used, for the next one's pruning.
pub fn note_used(claim: &Claim, data: &Folder) {
    run_anyway(claim.command("timeout").args(["20", "sh", "-c", NOTE_USED]).arg(&data.path));
}

/// Removes the oldest images if all layers, with those of the build cache, take more than seven
/// tenths of what is kept.
pub fn prune_images(claim: &Claim, data: &Folder) -> Result<()> {
    let docker =
        |script| run("asking for images", claim.command("sh").args(["-c", script]).arg(&data.path));
    let size: u64 = docker(LAYERS_SIZE)?.trim().parse().context("docker reports no size")?;
    if size > keep()? / 10 * 7 && data.join("used").exists() {
        let images = docker(IMAGES)?;
        let (start, images) = images.split_once('\n').unwrap_or_default();
        let old = images.lines().filter(|image| *image < start).collect();
        let old = older_half("images", old);
        let digests = old.iter().filter_map(|image| image.split(' ').nth(1));
        run_anyway(claim.command("docker").args(["rmi", "--force"]).args(digests));
    }
    Ok(())
}

/// Removes the oldest tags of the registry, which is stopped, if its content takes more than three
/// tenths of what is kept. Those that the last run pushed or pulled stay.
pub fn prune_registry(claim: &Claim, data: &Folder) -> Result<()> {
    let root = data.join("registry/docker/registry/v2");
    let repositories = root.join("repositories");
    if !repositories.exists() || size(&root)? <= keep()? / 10 * 3 {
        return Ok(());
    }
    let log = fs::read_to_string(data.join(REGISTRY_LOG)).unwrap_or_default();
    // Lists such as `1764380000.1 a/image/_manifests/tags/main/current/link`.
    let mut find = Command::new("find");
    find.arg(&repositories).args(["-path", "*/_manifests/tags/*/current/link", "!", "-newer"]);
    let tags = run("find", find.arg(data.join("port")).args(["-printf", "%T@ %P\n"]))?;
    let is_unused = |tag: &&str| {
        let path = tag.split(' ').nth(1).unwrap_or_default();
        let name = path.replace("/_manifests/tags/", "/manifests/").replace("/current/link", "");
        let digest = fs::read_to_string(repositories.join(path)).unwrap_or_default();
        !log.contains(&format!("/v2/{name} ")) && !log.contains(&format!("@{digest} "))
    };
    let old = older_half("tags of the registry", tags.lines().filter(is_unused).collect());
    for (_, path) in old.iter().filter_map(|tag| tag.split_once(' ')) {
        let link = repositories.join(path);
        if let Some(tag) = link.ancestors().nth(2) {
            fs::remove_dir_all(tag)?;
            forget_manifests(&root, tag.ancestors().nth(2).unwrap_or(tag))?;
        }
    }
    let mut collect = claim.command("docker-registry");
    run("docker-registry", collect.args(["garbage-collect", "/run/registry.yml"])).map(drop)
}

/// The older half of `lines`, which begin with a time. Says that `what` they stand for is removed.
fn older_half<'a>(what: &str, mut lines: Vec<&'a str>) -> Vec<&'a str> {
    lines.sort_unstable();
    lines.truncate(lines.len().div_ceil(2));
    let count = lines.len();
    if count > 0 {
        say(format_args!("removed {count} of the oldest {what}: XTASK_ENGINE_KEEP_MB limits them"));
    }
    lines
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
        let revision = revision?;
        if !named.contains(&*revision.file_name().to_string_lossy()) {
            fs::remove_dir_all(revision.path())?;
        }
    }
    Ok(())
}
