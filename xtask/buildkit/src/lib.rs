//! What `BuildKit` and buildx say of a bake: its events, put together to a trace, the names of work and
//! the causes of errors.

pub mod cause;
pub mod text;
pub mod trace;
pub mod vertex;
