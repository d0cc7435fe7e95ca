//! From the words of a command line to a plan: what was typed, what it is built from, and how each
//! image is named, cached and delivered. Nothing here calls docker.

pub mod bases;
pub mod cli;
pub mod definition;
pub mod facts;
pub mod host;
pub mod names;
pub mod plan;
pub mod source;
