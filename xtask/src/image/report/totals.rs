//! What a run of several images comes to: how many ended how, how fast, and which were slow.

use serde_json::{Value, json};

use super::image::Report;
use super::text::rounded;
use crate::image::build::image::Image;

/// How many of the slowest images are named.
const SLOWEST: usize = 3;

/// The images of a run, counted.
pub struct Totals<'a> {
    built: usize,
    present: usize,
    /// Those that the run did not reach are among them.
    failed: usize,
    /// Those that were built more than once, however that ended.
    retried: usize,
    /// Of those that were built.
    images_per_hour: Option<f64>,
    /// The images that took longest, with the seconds in which something was done for them.
    slowest: Vec<(&'a str, f64)>,
}

impl<'a> Totals<'a> {
    pub fn of(report: &'a Report) -> Self {
        let all = report.built;
        let built = all.count(|image| matches!(image, Image::Done { .. }));
        let hours = report.seconds / 3600.0;
        let slow = all.rows.iter().filter(|row| matches!(row.image, Image::Done { .. }));
        let slow = slow.filter_map(|row| {
            let name = row.target.name.as_str();
            Some((name, all.bake(row)?.seconds(name)?))
        });
        let mut slowest = slow.collect::<Vec<_>>();
        slowest.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        slowest.truncate(SLOWEST);
        Totals {
            built,
            present: all.count(|image| matches!(image, Image::Present { .. })),
            failed: all.missing().len(),
            retried: all.rows.iter().filter(|row| row.retries > 0).count(),
            images_per_hour: u32::try_from(built)
                .ok()
                .filter(|&built| built > 0 && hours > 0.0)
                .map(|built| f64::from(built) / hours),
            slowest,
        }
    }

    /// As one line for people.
    pub fn line(&self) -> String {
        let Totals { built, present, failed, retried, .. } = self;
        let mut line = format!("{built} built, {present} present, {failed} failed");
        if *retried > 0 {
            line += &format!("; {retried} retried");
        }
        if let Some(images) = self.images_per_hour {
            line += &format!("; {images:.0} images an hour");
        }
        let slowest = self.slowest.iter().map(|(name, seconds)| format!("{name} {seconds:.0} s"));
        let slowest = slowest.collect::<Vec<_>>();
        if !slowest.is_empty() {
            line += &format!("; slowest: {}", slowest.join(", "));
        }
        line
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let slowest = self.slowest.iter();
        let slowest =
            slowest.map(|(name, seconds)| json!({ "target": name, "seconds": rounded(*seconds) }));
        json!({
            "built": self.built,
            "present": self.present,
            "failed": self.failed,
            "retried": self.retried,
            "images_per_hour": self.images_per_hour.map(rounded),
            "slowest": slowest.collect::<Vec<_>>(),
        })
    }
}
