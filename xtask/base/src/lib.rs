//! What `cargo xtask image` and `cargo xtask engine` share. Each is a program of its own, so that
//! neither compiles the other.

pub mod digest;
pub mod error;
pub mod http;
pub mod message;
mod named;
pub mod output;
pub mod process;
pub mod scratch;
pub mod similar;
pub mod status;
