//! All that GitHub Actions reads of this program: a step's outputs, a job's page, and the lines of
//! a log that it takes for warnings.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;

use anyhow::{Context as _, Result};

use super::text::one_line;
use crate::digest::random;
use crate::image::request::variable;

/// Writes the outputs of this step, if this is one. Jobs search the file for `name=value`, so
/// only values of several lines are written in GitHub's other form.
///
/// # Errors
/// A file of the runner's that can't be written.
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
///
/// # Errors
/// A file of the runner's that can't be written.
pub fn write_page(markdown: &str) -> Result<()> {
    append("GITHUB_STEP_SUMMARY", &format!("{markdown}\n"))
}

/// A block of code in Markdown, in a fence that is longer than anything in `code`.
pub fn fenced(language: &str, code: &str) -> String {
    let longest = code.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(3.max(longest + 1));
    format!("{fence}{language}\n{code}\n{fence}")
}

/// A warning as GitHub shows it beside a job, or elsewhere as people read it in a log. What
/// others wrote in `text` commands neither a terminal nor a runner.
pub fn warning(text: &str) -> String {
    let text = one_line(text);
    if is_runner() { format!("::warning::{}", escaped(&text)) } else { format!("warning: {text}") }
}

/// Does a runner of GitHub Actions, or of what is compatible with it, read this log?
fn is_runner() -> bool {
    env::var_os("GITHUB_ACTIONS").is_some_and(|value| !value.is_empty() && value != "false")
}

/// The message of a command, which a runner reads to the end of the line.
fn escaped(message: &str) -> String {
    message.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Appends `text` to the file that the runner names in the variable `name`, if it does.
fn append(name: &str, text: &str) -> Result<()> {
    let Some(file) = variable(name)? else {
        return Ok(());
    };
    let opened = OpenOptions::new().append(true).create(true).open(&file);
    opened
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("{name}: {file:?} can't be written"))
}
