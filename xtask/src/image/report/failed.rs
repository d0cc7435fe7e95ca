//! Images of a run that were not built: an error, and a list to build them from.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use xshell::Shell;

use crate::image::build::batch::Built;
use crate::image::plan::Plan;
use crate::image::report::text::shortened;
use crate::image::request::Request;
use crate::output;

/// Fails if an image was not built, and lists the base images of those in `failed.txt`, beside
/// the report, for `--base-images`. An older list is removed where all images were built.
///
/// # Errors
/// An image that was not built; a list that can't be written or removed.
pub fn check(sh: &Shell, request: &Request, plan: &Plan, built: &Built) -> Result<()> {
    let missing = built.missing();
    let beside = request.report.as_ref().and_then(|report| Some(report.parent()?.to_owned()));
    let folder = beside.unwrap_or_else(|| sh.current_dir().join("target/image"));
    let list = folder.join("failed.txt");
    if missing.is_empty() {
        return remove(&list);
    }
    if let (1, Some(bake)) = (plan.targets.len(), built.bake(0)) {
        return bake.check();
    }
    let mut text = String::new();
    for (number, error) in &missing {
        let error = shortened(error.unwrap_or("not reached"));
        text.push_str(&format!("# {error}\n{}\n", plan.targets[*number].base_image));
    }
    output::save(&list, text)?;
    bail!(
        "{} of {} images were not built. Their base images are in {}, which --base-images takes.",
        missing.len(),
        plan.targets.len(),
        list.display()
    )
}

fn remove(list: &PathBuf) -> Result<()> {
    match fs::remove_file(list) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} can't be removed", list.display()))
        }
        _ => Ok(()),
    }
}
