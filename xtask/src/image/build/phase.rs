//! What a run spends its time on.

use super::buildkit::Vertex;

/// What a run spends its time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading the Dockerfile and the context, and asking registries for base images.
    Context,
    CacheImport,
    /// Finding or pulling base images.
    Pull,
    Steps,
    ImageExport,
    Push,
    CacheExport,
}

impl Phase {
    /// With the names in a report, in the order in which they happen.
    pub const ALL: [(Phase, &str); 7] = [
        (Phase::Context, "context"),
        (Phase::CacheImport, "cache_import"),
        (Phase::Pull, "pull"),
        (Phase::Steps, "steps"),
        (Phase::ImageExport, "image_export"),
        (Phase::Push, "push"),
        (Phase::CacheExport, "cache_export"),
    ];

    pub fn of(vertex: Vertex) -> Self {
        match vertex {
            Vertex::CacheImport(_) => Phase::CacheImport,
            Vertex::CacheExport => Phase::CacheExport,
            Vertex::ImageExport => Phase::ImageExport,
            Vertex::Push => Phase::Push,
            Vertex::Step => Phase::Steps,
            Vertex::Base { .. } => Phase::Pull,
            Vertex::Internal => Phase::Context,
        }
    }
}
