//! From what `BuildKit` and buildx say of a bake to the record of an image.

pub mod cause;
pub mod events;
pub mod record;
pub mod text;
pub mod trace;
pub mod vertex;
