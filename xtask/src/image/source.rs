//! Which commit and ref an image is built from.

use xshell::{Shell, cmd};

use super::tag::UNKNOWN;

/// The commit and the ref (`refs/heads/…`, `refs/tags/…` or a bare branch name) of a build.
pub struct Source {
    pub sha: String,
    pub git_ref: String,
}

impl Source {
    /// What is known already, and git's word for the rest; `unknown` where git has none, such as
    /// in an unpacked archive, or for the ref on a detached HEAD.
    pub fn find(sh: &Shell, sha: Option<String>, git_ref: Option<String>) -> Self {
        let git = |command: xshell::Cmd| command.quiet().ignore_stderr().read().ok();
        let unknown = || UNKNOWN.to_owned();
        Source {
            sha: sha
                .or_else(|| git(cmd!(sh, "git rev-parse --verify HEAD")))
                .unwrap_or_else(unknown),
            git_ref: git_ref
                .or_else(|| git(cmd!(sh, "git symbolic-ref --quiet HEAD")))
                .unwrap_or_else(unknown),
        }
    }
}
