//! The report of a run: what its caches cost and what they saved. JSON for programs, a few lines
//! for people. What is not known is `null`, never 0.

pub mod build_info;
pub mod cache_read;
pub mod console;
pub mod failed;
pub mod github;
pub mod image;
pub mod last_build;
pub mod progress;
pub mod screen;
pub mod table;
pub mod text;
pub mod work;

use anyhow::Result;
use serde_json::{Map, Value, json};

use self::image::ImageReport;
use self::text::rounded;
use super::build::batch::Built;
use super::build::builder::Builder;
use super::build::images::ImagesBaked;
use super::build::observer::Observer;
use super::request::Request;
use crate::error::Interrupted;
use crate::output;

/// The version of the report for programs.
const SCHEMA: u64 = 1;

/// A run that has ended, or could not continue.
pub struct Report<'a> {
    pub request: &'a Request,
    pub builder: &'a Builder,
    pub built: &'a Built<'a>,
    pub images: Vec<ImageReport<'a>>,
    /// How the run ended.
    pub ended: &'a Result<()>,
    /// Of the whole run.
    pub seconds: f64,
}

impl Report<'_> {
    /// Shows the report on standard error and on the page of a GitHub job, and writes the file of
    /// `--report`.
    ///
    /// # Errors
    /// A file that can't be written.
    pub fn publish(&self, observer: &dyn Observer) -> Result<()> {
        for warning in table::warnings(self) {
            observer.warn(&warning);
        }
        if self.request.explain {
            for image in &self.images {
                let Some(build) = &image.build else { continue };
                let steps = image.steps();
                for line in last_build::explain(&image.row.target.name, steps.as_deref(), build) {
                    observer.say(&line);
                }
            }
        }
        let table = table::table(self);
        table.lines().for_each(|line| observer.say(line));
        github::write_page(&github::fenced("text", &table))?;
        match &self.request.report {
            Some(path) => output::save(path, format!("{:#}\n", self.json())),
            None => Ok(()),
        }
    }

    /// The report for programs.
    fn json(&self) -> Value {
        let targets = self.images.iter().map(|image| (image.row.target.name.clone(), image.json()));
        let images = self.built.bakes.iter().map(ImagesBaked::context_bytes);
        let exports = self.built.exports.bakes.iter().map(|bake| bake.trace.context_bytes());
        let context_bytes = images.chain(exports).flatten();
        json!({
            "schema": SCHEMA,
            "result": match self.ended {
                Ok(()) => "done",
                Err(error) if error.is::<Interrupted>() => "interrupted",
                Err(_) => "failed",
            },
            "seconds": rounded(self.seconds),
            "cache_mode": self.request.cache_mode.name(),
            "builder": self.builder.name,
            "builder_was_empty": self.builder.was_empty,
            "context_bytes": context_bytes.reduce(|sum, bytes| sum + bytes),
            "targets": targets.collect::<Map<_, _>>(),
            "summary": table::summary(self),
        })
    }
}
