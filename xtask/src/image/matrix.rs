//! `cargo xtask image matrix`: the jobs of a CI run, as one line of JSON for `fromJSON`.

use anyhow::{Context as _, Result};
use pico_args::Arguments;
use serde_json::{Value, json};
use xshell::Shell;

use crate::image::plan::{arch, check_name, variants};
use crate::image::report::github;
use crate::image::request;
use crate::image::request::definition::Definition;
use base::output;

/// The runners that build an architecture natively.
const RUNNERS: [(&str, &str); 2] = [("amd64", "ubuntu-24.04"), ("arm64", "ubuntu-24.04-arm")];

/// Prints the matrix, and makes it an output of the GitHub Actions step, if this is one.
pub fn main(sh: &Shell, mut args: Arguments) -> Result<()> {
    let variants = request::flags::VARIANT.list(&mut args)?;
    let platforms = request::flags::PLATFORMS.list(&mut args)?;
    request::flags::finish(args, request::flags::Subcommand::Matrix)?;
    let matrix = matrix(&Definition::read(sh)?, &variants, &platforms)?.to_string();
    output::write(&matrix)?;
    github::write_outputs(&[("matrix", matrix)])
}

/// A job for every platform of the variants that are `asked` for, or of all; `platforms` narrows
/// them unless it is empty. A usage error for an unknown variant or platform.
fn matrix(definition: &Definition, asked: &[String], platforms: &[String]) -> Result<Value> {
    let all = ["all".to_owned()];
    let mut include = Vec::new();
    for name in variants(if asked.is_empty() { &all } else { asked }, definition)? {
        let variant = &definition.variants[name];
        let narrowed = if platforms.is_empty() { &variant.platforms } else { platforms };
        for platform in narrowed {
            check_name("platform", platform, variant.platforms.iter())?;
            let arch = arch(platform);
            let runner = RUNNERS.iter().find(|(name, _)| *name == arch).with_context(|| {
                format!(
                    "no runner is known for {platform:?} of the variant {name:?}: add one in \
                     xtask/src/image/matrix.rs."
                )
            })?;
            include.push(json!({
                "variant": name,
                "arch": arch,
                "platform": platform,
                "base_image": variant.base_image,
                "runner": runner.1,
            }));
        }
    }
    Ok(json!({ "include": include }))
}
