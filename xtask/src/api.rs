//! `cargo xtask image api`: compares the REST API of an image with an earlier one.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use base::error::usage;
use base::message::{self, one_line};
use base::output;
use serde_json::Value;

use crate::serve::Container;
use crate::{github, openapi};
use request::cli::Args;

/// Prints what differs, as Markdown.
/// Errors: a change breaks clients within a minor version; a usage error for anything but two documents.
pub fn main(root: &Path, args: &Args) -> Result<()> {
    let new = args.openapi.iter().map(Into::into);
    let new = new.chain(args.words.iter().map(|word| word.to_string_lossy())).collect::<Vec<_>>();
    let (Some(baseline), [new]) = (&args.baseline, &new[..]) else {
        return Err(usage(
            "there are not two documents to compare\nhint: name one image or --openapi FILE, and with \
             --baseline an earlier image or file",
        ));
    };
    let (old, new) = (document(root, baseline)?, document(root, new)?);
    let (was, is) = (version(&old), version(&new));
    let lines = Vec::from_iter(openapi::compare(&old, &new));
    let count = lines.iter().filter(|line| line.starts_with(openapi::BREAKING)).count();
    let changes = match lines.len() {
        0 => "Nothing has changed.".to_owned(),
        all => format!(
            "{count} of {all} changes break clients.\n\n{}",
            github::fenced("text", &lines.join("\n"))
        ),
    };
    let text = format!("### REST API of {is} against {was}\n\n{changes}");
    let breaks = (count > 0 && minor(&was) == minor(&is)).then(|| {
        anyhow!(
            "{count} changes of the API break clients, and {is} has the minor version of {was}\nhint: keep \
             what clients use, or raise the minor version"
        )
    });
    let told = [output::write(&text), github::write_page(&text)];
    message::ended_by(breaks.into_iter().chain(told.into_iter().filter_map(Result::err)))
}

/// The `OpenAPI` document in the file of that name, or else of the image.
fn document(root: &Path, name: &str) -> Result<Value> {
    let path = Path::new(name);
    // Whatever a shell's `<(…)` gives is read, too.
    let is_file = path.exists() && !path.is_dir()
        || path.extension().is_some_and(|extension| extension == "json");
    let wrong = |why: String| usage(format!("{name:?}: {why}"));
    let text = if is_file {
        let text = output::load(path).map_err(|error| wrong(format!("{error}")))?;
        String::from_utf8_lossy(&text).into_owned()
    } else {
        let answer = Container::pull(root, name).and_then(|server| server.fetch("/openapi.json"));
        answer.with_context(|| format!("the API of {name:?} can't be read"))?
    };
    let document: Value = serde_json::from_str(&text)
        .map_err(|error| wrong(format!("it is not an OpenAPI document ({error})")))?;
    if !document["paths"].is_object() {
        return Err(wrong("it is not an OpenAPI document: it has no \"paths\"".to_owned()));
    }
    Ok(document)
}

fn version(document: &Value) -> String {
    one_line(document["info"]["version"].as_str().unwrap_or("unknown"))
}

/// The first two numbers of a version; all of one that has other parts.
fn minor(version: &str) -> &str {
    version.match_indices('.').nth(1).map_or(version, |(at, _)| &version[..at])
}
