//! A `docker` on PATH that does what a real engine cannot be made to do.

mod bakes;
mod batch;
mod builder;
mod cache_exports;
mod ci_outputs;
mod disk;
mod doctor;
mod explain;
mod failures;
mod host;
mod merge;
mod progress;
mod publish;
mod records;
mod retries;
mod run;
mod sdk_checkout;
mod tag_by_content;
mod terminal;
pub mod timings;
