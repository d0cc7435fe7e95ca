//! What GitHub Actions reads from a step: its outputs and its page.

use std::fs::OpenOptions;
use std::io::Write as _;

use anyhow::{Context as _, Result};

use crate::digest::random;
use crate::image::request::variable;

/// Writes the outputs of this step, if this is one.
///
/// # Errors
/// A file of the runner's that can't be written.
pub fn write_outputs(outputs: &[(&str, String)]) -> Result<()> {
    let mut text = String::new();
    for (name, value) in outputs {
        // Nobody can guess the delimiter, so no value can end early and forge another output.
        let delimiter = random(16)?;
        text.push_str(&format!("{name}<<{delimiter}\n{value}\n{delimiter}\n"));
    }
    append("GITHUB_OUTPUT", &text)
}

/// Appends Markdown to the page of this step, if this is one.
///
/// # Errors
/// A file of the runner's that can't be written.
pub fn write_page(markdown: &str) -> Result<()> {
    append("GITHUB_STEP_SUMMARY", &format!("{markdown}\n"))
}

/// Appends `text` to the file that the runner names in `variable`, if it does.
fn append(name: &str, text: &str) -> Result<()> {
    let Some(file) = variable(name)? else {
        return Ok(());
    };
    let opened = OpenOptions::new().append(true).create(true).open(&file);
    opened
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("{name}: {file} can't be written"))
}
