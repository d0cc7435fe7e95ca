//! From the words of a command line to a plan of images. Nothing here calls docker.

pub mod bases;
pub mod cli;
pub mod definition;
pub mod facts;
pub mod host;
pub mod names;
pub mod plan;
pub mod source;
