//! The data folder of an engine, which has one owner at a time, and how much stays in it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use base::error::usage;

use crate::packages::RELEASE;
use crate::sandbox::run;
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
pub fn size(folder: &Path) -> Result<u64> {
    let mut du = Command::new("du");
    let size = run("du", du.args(["--summarize", "--block-size=1M"]).arg(folder))?;
    size.split_whitespace().next().and_then(|size| size.parse().ok()).context("du reports no size")
}
