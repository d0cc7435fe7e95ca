//! A line for each image of a batch when it ends, and how far the batch is. The first image that
//! fails shows why at once.

use std::cell::Cell;
use std::time::Instant;

use xshell::Shell;

use super::text::cut;
use super::{failure, screen};
use crate::image::build::builder;
use crate::image::build::built::{Built, Row};
use crate::image::build::image::Image;
use crate::image::request::Request;
use base::message;

/// What was shown of the images that have ended.
#[derive(Default)]
pub struct Ended {
    has_failed: Cell<bool>,
    batch: Cell<Batch>,
}

/// How far a batch is.
#[derive(Clone, Copy, Default)]
pub struct Batch {
    done: usize,
    failed: usize,
    /// How many are neither.
    pub left: usize,
    pace: Option<Pace>,
}

/// When the first images ended, which make what all share, and how many were left then.
#[derive(Clone, Copy)]
struct Pace {
    since: Instant,
    left: usize,
}

impl Ended {
    /// Says which of the images `ended` have been built or have failed.
    pub fn say(&self, sh: &Shell, request: &Request, ended: &[&Row], built: &Built) {
        for row in ended {
            let (name, base) = (&row.target.name, &row.target.base_image);
            match &row.image {
                Image::Waiting | Image::Present { .. } => {}
                Image::Done { digest, .. } => {
                    let tag = row.target.tags.first().map_or("", String::as_str);
                    let digest = digest.iter().map(|digest| format!("@{digest}"));
                    let line = format!("built  {name} as {tag}{}", digest.collect::<String>());
                    message::say(&cut(&line, screen::width().unwrap_or(usize::MAX)));
                }
                Image::Failed { .. } => {
                    let why = failure::why(built, row);
                    message::say(&screen::fit(&format!("failed {name} on {base}: {why}")));
                    let is_first = !self.has_failed.replace(true);
                    let show = || failure::show(sh, request, built, row);
                    message::folded(&format!("why {name} failed"), is_first, show);
                }
            }
        }
        let left = built.waiting();
        let now = Pace { since: Instant::now(), left };
        let is_new = ended.iter().any(|row| !matches!(row.image, Image::Present { .. }));
        let pace = self.batch.get().pace.or_else(|| is_new.then_some(now));
        let done = built.count(Image::is_there);
        self.batch.set(Batch { done, failed: built.rows.len() - done - left, left, pace });
    }

    /// How far the batch is.
    pub fn batch(&self) -> Batch {
        self.batch.get()
    }
}

impl Batch {
    /// In one line, with `running` images, and the time that is left where that is known.
    pub fn line(&self, running: usize) -> String {
        let Batch { done, failed, left, pace } = self;
        let all = done + failed + left;
        let line = format!("{done} of {all} done, {failed} failed, {running} running");
        let built = pace.map_or(0, |pace| pace.left - left);
        let (Some(pace), Ok(built @ 1..), Ok(left)) =
            (pace, u32::try_from(built), u32::try_from(*left))
        else {
            return line;
        };
        let each = pace.since.elapsed().as_secs_f64() / f64::from(built);
        let minutes = each * f64::from(left) / 60.0;
        format!("{line}; {:.0} an hour, {minutes:.0} min left", 3600.0 / each)
    }
}

/// The command as it was typed, made to go on with what a run that was stopped has left.
pub fn to_continue() -> String {
    let typed = builder::typed();
    let (flags, bake_args) = typed.split_at(typed.find(" -- ").unwrap_or(typed.len()));
    let flag = if flags.contains(" --skip-existing") { "" } else { " --skip-existing" };
    format!("{flags}{flag}{bake_args}")
}
