//! Images of a run that were not built: an error, and a list to build them from.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context as _, Result, bail};
use xshell::Shell;

use crate::image::build::built::Built;
use crate::image::report::text::shortened;
use crate::image::report::{failure, log};
use crate::image::request::Request;
use base::output;

/// Fails if an image is missing. The base images of those are listed in `failed.txt`, beside the
/// report, for `--base-images`; where nothing is missing, an older list is removed.
pub fn check(sh: &Shell, request: &Request, built: &Built) -> Result<()> {
    let missing = built.missing();
    let beside = request.report.as_ref().and_then(|report| Some(report.parent()?.to_owned()));
    let folder = beside.unwrap_or_else(|| sh.current_dir().join("target/image"));
    let list = folder.join("failed.txt");
    if missing.is_empty() {
        return match fs::remove_file(&list) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{} can't be removed", list.display()))
            }
            _ => Ok(()),
        };
    }
    if let [row] = built.rows.as_slice() {
        bail!("{}", failure::sentence(built, row));
    }
    let mut text = String::new();
    for row in &missing {
        let error = shortened(row.image.error().unwrap_or("not reached"));
        let (base_image, tags) = (&row.target.base_image, row.target.listed_tags.join(","));
        let log = log::path(sh, request, built, row);
        let log = log.map(|log| format!("# log: {}\n", log.display())).unwrap_or_default();
        let line = format!("{base_image} {tags}");
        text.push_str(&format!("{log}# {error}\n{}\n", line.trim_end()));
    }
    output::save(&list, text)?;
    bail!(
        "{} of {} images were not built. Their base images are in {}, which --base-images takes.",
        missing.len(),
        built.rows.len(),
        list.display()
    )
}
