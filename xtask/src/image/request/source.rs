//! Which commit and ref an image is built from.

/// The word for a commit, ref or version that is not known.
pub const UNKNOWN: &str = "unknown";

/// The commit and the ref (`refs/heads/…`, `refs/tags/…` or a bare branch name) of a build.
pub struct Source {
    pub sha: String,
    pub git_ref: String,
}
