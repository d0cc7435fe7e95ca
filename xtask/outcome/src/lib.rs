//! From what `BuildKit` and buildx say of a bake to the record of an image: events, the trace that they
//! make, the names of work, the causes of errors.

pub mod cause;
pub mod events;
pub mod record;
pub mod text;
pub mod trace;
pub mod vertex;
