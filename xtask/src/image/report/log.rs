//! The log of an image: a file of its own, with what was done for it and what its steps printed last.

use std::path::PathBuf;

use xshell::Shell;

use super::text::{self, last_lines};
use crate::image::build::built::{Built, Row};
use crate::image::build::images::ImagesBaked;
use crate::image::build::trace::Work;
use crate::image::plan::tag;
use crate::image::request::Request;
use base::message::{self, one_line};
use base::output;

/// Where the log of the image of `row` is; `None` where nothing is known of its build.
pub fn path(sh: &Shell, request: &Request, built: &Built, row: &Row) -> Option<PathBuf> {
    let name = &row.target.name;
    works(built.bake(row)?, name).next()?;
    let flavor = request.flavor.suffix();
    let arch = request.arch.as_ref().map(|arch| format!("-{arch}")).unwrap_or_default();
    let target = tag::target_suffix(&request.target, &flavor);
    let file = format!("{name}{flavor}{arch}{target}.log");
    Some(sh.current_dir().join("target/image/logs").join(file))
}

/// Writes the log of the image of `row`, and returns where it is. One that can't be written costs
/// a warning, not the image.
pub fn save(sh: &Shell, request: &Request, built: &Built, row: &Row) -> Option<PathBuf> {
    let path = path(sh, request, built, row)?;
    let log = works(built.bake(row)?, &row.target.name).flat_map(|work| lines(&work));
    let log = log.map(|line| line + "\n").collect::<String>();
    let saved = output::save(&path, log);
    saved.inspect_err(|error| message::warn(&format!("{error:#}"))).ok().map(|()| path)
}

fn works<'a>(bake: &'a ImagesBaked, target: &'a str) -> impl Iterator<Item = Work<'a>> {
    bake.traces().flat_map(move |trace| trace.works(target))
}

fn lines(work: &Work) -> Vec<String> {
    let how = match (&work.outcome.error, work.outcome.seconds()) {
        (Some(_), _) => "ERROR".to_owned(),
        (None, _) if work.outcome.cached => "CACHED".to_owned(),
        (None, Some(seconds)) => format!("DONE {seconds:.1}s"),
        (None, None) => "STOPPED".to_owned(),
    };
    let name = one_line(&text::step(work.name));
    let output = last_lines(work.output, usize::MAX);
    let printed = output.iter().map(String::as_str).chain(work.outcome.error.as_deref());
    let printed = printed.map(|line| format!("   {}", one_line(line)));
    [format!("=> {how:<11} {name}")].into_iter().chain(printed).collect()
}
