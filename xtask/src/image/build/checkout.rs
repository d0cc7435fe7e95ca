//! What git says of a checkout.

use xshell::{Shell, cmd};

use crate::image::request::source::{Source, UNKNOWN};

/// The commit and ref that are known already, and git's word for the rest; `unknown` where git has
/// none, such as in an unpacked archive, or for the ref on a detached HEAD.
pub fn source(sh: &Shell, sha: Option<String>, git_ref: Option<String>) -> Source {
    let git = |command: xshell::Cmd| command.quiet().ignore_stderr().read().ok();
    let sha = sha.or_else(|| git(cmd!(sh, "git rev-parse --verify HEAD")));
    let git_ref = git_ref.or_else(|| git(cmd!(sh, "git symbolic-ref --quiet HEAD")));
    let unknown = || UNKNOWN.to_owned();
    Source { sha: sha.unwrap_or_else(unknown), git_ref: git_ref.unwrap_or_else(unknown) }
}
