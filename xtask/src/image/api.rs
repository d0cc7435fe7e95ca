//! `cargo xtask image api`: compares the REST API of an image with an earlier one.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use pico_args::Arguments;
use serde_json::Value;
use xshell::Shell;

use super::build::buildx::Docker;
use super::report::github;
use super::report::openapi::Comparison;
use super::request;
use super::request::flags::{self, Subcommand};
use super::run::{Container, container_name};
use base::error::usage;
use base::message::one_line;
use base::{http, output, process};

/// Prints what differs, as Markdown. Fails if something breaks clients and the minor version is the
/// same. A usage error for a request without two documents, or with what is no document.
pub fn main(sh: &Shell, mut args: Arguments) -> Result<()> {
    process::catch_signals();
    let openapi = flags::OPENAPI.text(&mut args)?;
    let baseline = flags::BASELINE.text(&mut args)?;
    let mut words = request::free(args, Subcommand::Api)?.into_iter();
    let image = words.next().map(|image| image.to_string_lossy().into_owned());
    if let Some(word) = words.next() {
        return Err(flags::unexpected(&word.to_string_lossy(), Subcommand::Api));
    }
    let (Some(baseline), Some(new)) = (baseline, openapi.xor(image)) else {
        return Err(usage(
            "name an image or --openapi FILE, and --baseline with what it is compared with.",
        ));
    };
    let [old, new] = [baseline, new].map(|name| document(sh, &name));
    let (old, new) = (old?, new?);
    let comparison = Comparison::of(&old, &new);
    let [was, is] = [&old, &new].map(version);
    let (lines, breaking) = (comparison.lines(), comparison.breaking());
    let head = format!("### REST API of {} against {}", one_line(is), one_line(was));
    let text = match lines.len() {
        0 => format!("{head}\n\nNothing has changed."),
        all => format!(
            "{head}\n\n{breaking} of {all} changes break clients.\n\n{}",
            github::fenced("text", &lines.join("\n"))
        ),
    };
    output::write(&text)?;
    github::write_page(&text)?;
    if breaking > 0 && minor(was) == minor(is) {
        bail!(
            "{breaking} changes of the API break clients, and {} has the minor version of {}: \
             keep what clients use, or raise the minor version.",
            one_line(is),
            one_line(was)
        );
    }
    Ok(())
}

/// The `OpenAPI` document in the file of that name, or else of the image.
fn document(sh: &Shell, name: &str) -> Result<Value> {
    let path = Path::new(name);
    let is_file = path.is_file() || path.extension().is_some_and(|extension| extension == "json");
    let wrong = |why: String| usage(format!("{name:?}: {why}"));
    let text = if is_file {
        let text = output::load(path).map_err(|error| wrong(format!("{error}.")))?;
        String::from_utf8_lossy(&text).into_owned()
    } else {
        of_image(sh, name).with_context(|| format!("the API of {name:?} can't be read"))?
    };
    let document: Value = serde_json::from_str(&text)
        .map_err(|error| wrong(format!("it is no OpenAPI document: {error}.")))?;
    if !document["paths"].is_object() {
        return Err(wrong("it is no OpenAPI document: it has no \"paths\".".to_owned()));
    }
    Ok(document)
}

/// What the server of `image` says of its API.
fn of_image(sh: &Shell, image: &str) -> Result<String> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let docker = Docker::new(sh, None);
    let container = Container::start(docker, container_name(sh, port), image, port)?;
    container.wait_until_healthy()?;
    let answer = http::get(container.address, "/openapi.json", Duration::from_secs(30))?;
    if answer.status != 200 {
        bail!("its server answers /openapi.json with status {}.", answer.status);
    }
    Ok(answer.body)
}

fn version(document: &Value) -> &str {
    document["info"]["version"].as_str().unwrap_or("unknown")
}

/// The first two numbers of a version; all of one that has other parts.
fn minor(version: &str) -> &str {
    version.match_indices('.').nth(1).map_or(version, |(at, _)| &version[..at])
}
