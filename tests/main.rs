//! The tests of the tasks, by what they need. `cargo test` runs those that need nothing;
//! `cargo xtask engine -- cargo test -- --include-ignored` runs all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cli;
mod engine;
mod fake;
mod support;
