//! `cargo xtask image list`: what can be built, and what a request would name it.

use anyhow::Result;
use pico_args::Arguments;
use xshell::Shell;

use super::job::Job;
use crate::image::request::Request;
use crate::image::request::definition::Definition;
use crate::image::request::flags::{self, Subcommand};
use base::output;

/// Prints the variants, the targets, and the tags of the request in `args`, for people. Needs
/// neither Docker nor a network.
pub fn main(sh: &Shell, mut args: Arguments) -> Result<()> {
    let request = Request::read(&mut args, Vec::new())?;
    flags::finish(args, Subcommand::List)?;
    let definition = Definition::read(sh)?;
    let mut text = "Variants (--variant), on their base images:\n".to_owned();
    for (name, variant) in &definition.variants {
        let is_default = definition.default_variants.contains(name);
        let mark = if is_default { ", the default" } else { "" };
        let platforms = variant.platforms.join(", ");
        text += &format!("  {name:<10} {} ({platforms}{mark})\n", variant.base_image);
    }
    text += "\nTargets (--target) with the server:\n";
    for name in &definition.checkable {
        let mark = if *name == request.target { ", chosen here" } else { "" };
        text += &format!("  {name}{mark}\n");
    }
    text +=
        "Any other stage of agent-server-image/Dockerfile is one too.\n\nTags of this request:\n";
    for target in Job::new(sh, request)?.plan.targets {
        text += &format!("  {} on {}:\n", target.name, target.base_image);
        text.extend(target.all_tags().map(|tag| format!("    {tag}\n")));
    }
    output::write(text.trim_end())
}
