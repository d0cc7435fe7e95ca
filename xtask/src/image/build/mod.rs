//! Execution: everything that starts buildx or asks a registry.

pub mod ahead;
pub mod batch;
pub mod builder;
pub mod buildkit;
pub mod buildx;
pub mod built;
pub mod cache_dir;
pub mod checkout;
pub mod disk;
pub mod events;
pub mod export;
pub mod image;
pub mod images;
pub mod phase;
pub mod present;
pub mod registry;
pub mod server;
pub mod span;
pub mod trace;
