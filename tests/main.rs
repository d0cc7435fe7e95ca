//! All tests of the tasks, a module a subject: one program is built once. Those that need an engine
//! skip themselves outside one; `cargo xtask engine -- cargo test` runs them all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod batch;
mod builder;
mod capabilities;
mod checkout;
mod clients;
mod content;
mod contract;
mod disk;
mod doctor;
mod engine;
mod engine_data;
mod failures;
mod faults;
mod fuzz;
mod image;
mod night;
mod nodes;
mod outputs;
mod overlay;
mod pipeline;
mod plan;
mod prebuilt;
mod publish;
mod readme;
mod records;
mod report;
mod robust;
mod server;
mod shipped;
mod state;
mod summary;
mod support;
mod terminal;
mod timings;
mod vectors;
mod waves;
