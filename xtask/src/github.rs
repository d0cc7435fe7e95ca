//! The files that GitHub Actions reads: a step's outputs, and a job's page.

use std::fs::OpenOptions;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use base::digest::random;
use request::cli::variable;

/// Writes the outputs of this step, if this is one: those of several lines in GitHub's other form.
pub fn write_outputs(outputs: &[(&str, String)]) -> Result<()> {
    let mut text = String::new();
    for (name, value) in outputs {
        if value.contains(['\n', '\r']) {
            // Nobody can guess the delimiter, so no value can end early and forge another output.
            let delimiter = random(16)?;
            text.push_str(&format!("{name}<<{delimiter}\n{value}\n{delimiter}\n"));
        } else {
            text.push_str(&format!("{name}={value}\n"));
        }
    }
    append("GITHUB_OUTPUT", &text)
}

/// Appends Markdown to the page of this job, if this is one.
pub fn write_page(markdown: &str) -> Result<()> {
    append("GITHUB_STEP_SUMMARY", &format!("{markdown}\n"))
}

/// The address of the repository and the number of this run, if GitHub runs this.
pub fn repository_and_run() -> Result<Option<(String, String)>> {
    let repository = variable("GITHUB_SERVER_URL")?.zip(variable("GITHUB_REPOSITORY")?);
    let repository = repository.map(|(server, name)| format!("{server}/{name}"));
    Ok(repository.zip(variable("GITHUB_RUN_ID")?))
}

/// A block of code in Markdown, in a fence that is longer than anything in `code`.
pub fn fenced(language: &str, code: &str) -> String {
    let longest = code.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(3.max(longest + 1));
    format!("{fence}{language}\n{code}\n{fence}")
}

/// Appends `text` to the file that the runner names in the variable `name`, if it does.
fn append(name: &str, text: &str) -> Result<()> {
    let Some(file) = variable(name)? else { return Ok(()) };
    let opened = OpenOptions::new().append(true).create(true).open(&file);
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("{name}: {file:?} can't be written"))
}
