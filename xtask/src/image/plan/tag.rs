//! Tags: what an image is called. The names are those of design section 5, which other tools
//! compute too; every tag that leaves here is one that a registry takes.

use crate::digest::sha256;
use crate::image::request::source::UNKNOWN;
use crate::image::request::without_repeats;

/// The most characters that a registry takes in a tag.
const MAX_LENGTH: usize = 128;
/// The most characters of a base image's slug.
const MAX_SLUG: usize = 64;
/// Hex digits of a digest that closes a name, 48 bits.
const DIGEST_LENGTH: usize = 12;

/// The ref of the branch main.
pub const MAIN: &str = "refs/heads/main";

/// What the tags of one image are made of.
pub struct Naming<'a> {
    pub sha: &'a str,
    pub git_ref: &'a str,
    /// Set when release tags are asked for: the version, which may be [`UNKNOWN`].
    pub version: Option<&'a str>,
    pub base_image: &'a str,
    pub custom_tags: &'a [String],
    pub arch: Option<&'a str>,
    pub target: &'a str,
}

impl Naming<'_> {
    /// All tags of the image in the order of design section 5, each once.
    pub fn tags(&self) -> Vec<String> {
        let mut tags = Vec::new();
        let short = short_sha(self.sha);
        for custom in self.custom_tags {
            tags.push(self.tag(short, custom, self.sha));
            tags.push(self.tag(self.sha, custom, self.sha));
            if is_branch(self.git_ref) {
                tags.push(self.branch_tag(custom));
            }
        }
        tags.push(self.tag(short, &slug(self.base_image), self.base_image));
        tags.extend(self.release_tags());
        without_repeats(tags)
    }

    /// The tag that moves with the branch. A branch `Main` has main's name in lower case, but must
    /// not move the tag that main's users pull.
    fn branch_tag(&self, custom: &str) -> String {
        let name = ref_name(self.git_ref);
        let tag = self.tag(&name, custom, self.git_ref);
        if name == "main" && !is_main(self.git_ref) { closed(&tag, self.git_ref) } else { tag }
    }

    /// The release tags alone; none unless they were asked for and a version is known.
    pub fn release_tags(&self) -> Vec<String> {
        let mut tags = Vec::new();
        if let Some(version) = self.release() {
            for custom in self.custom_tags {
                for alias in release_aliases(version) {
                    tags.push(self.tag(&alias, custom, version));
                }
            }
        }
        without_repeats(tags)
    }

    /// The version that release tags tell. A git tag that is no `X.Y.Z` is used as it is.
    fn release(&self) -> Option<&str> {
        let version = self.version?;
        let known = Some(version).filter(|&version| version != UNKNOWN);
        match self.git_ref.strip_prefix("refs/tags/") {
            Some(tag) if semver(tag).is_some() => known.or(Some(tag.trim_start_matches('v'))),
            Some(tag) => Some(tag),
            None => known,
        }
    }

    /// `head-tail` with the suffixes for architecture and target. `raw` is the input that `head`
    /// or `tail` was made from, so that a digest can tell two inputs apart.
    fn tag(&self, head: &str, tail: &str, raw: &str) -> String {
        let mut tag = format!("{head}-{tail}");
        if let Some(arch) = self.arch {
            tag = format!("{tag}-{arch}");
        }
        if self.target != "binary" {
            tag = format!("{tag}-{}", self.target);
        }
        valid(tag, raw)
    }
}

/// The first seven characters of a commit.
pub fn short_sha(sha: &str) -> &str {
    sha.char_indices().nth(7).map_or(sha, |(end, _)| &sha[..end])
}

/// Is `git_ref` the branch main itself?
pub fn is_main(git_ref: &str) -> bool {
    ["main", MAIN].contains(&git_ref)
}

/// Is `git_ref` a branch: a ref under `refs/heads/`, or a bare name?
fn is_branch(git_ref: &str) -> bool {
    git_ref != UNKNOWN && (git_ref.starts_with("refs/heads/") || !git_ref.starts_with("refs/"))
}

/// `{ref-name}` of design section 5, which is the `{branch}` of cache scopes too.
pub fn ref_name(git_ref: &str) -> String {
    let name = git_ref.strip_prefix("refs/heads/").unwrap_or(git_ref);
    squeeze(name, |c| c.is_ascii_alphanumeric() || ".-".contains(c)).to_ascii_lowercase()
}

/// The short name of a base image: at most 64 characters, not yet fit for a tag where the
/// reference holds a digest.
pub fn slug(base_image: &str) -> String {
    const TAG: &str = "_tag_";
    let slug = base_image.replace('/', "_s_").replace(':', TAG);
    if slug.chars().count() <= MAX_SLUG {
        return slug;
    }
    let (path, tag) = slug.rsplit_once(TAG).unwrap_or((&slug, ""));
    let repository = path.rsplit("_s_").next().unwrap_or(path);
    let tag = if tag.is_empty() { String::new() } else { format!("{TAG}{tag}") };
    let room = MAX_SLUG - DIGEST_LENGTH - 1;
    let room_for_repository = room.saturating_sub(tag.chars().count());
    format!("{}{}-{}", cut(repository, room_for_repository), cut(&tag, room), digest(&slug))
}

/// `X`, `X.Y` and `X.Y.Z` of a release; any other version as it is, cleaned.
fn release_aliases(version: &str) -> Vec<String> {
    match semver(version) {
        Some([major, minor, _]) => {
            vec![major.to_owned(), format!("{major}.{minor}"), version.to_owned()]
        }
        None => {
            let cleaned = squeeze(version, is_tag_character);
            let cleaned = cleaned.trim_matches(['.', '-']);
            vec![if cleaned.is_empty() { UNKNOWN } else { cleaned }.to_owned()]
        }
    }
}

/// The three numbers of `X.Y.Z`, the first with its `v` if it has one. Leading zeros and
/// pre-releases are no release.
fn semver(version: &str) -> Option<[&str; 3]> {
    let numbers = version.split('.').collect::<Vec<_>>();
    let &[major, minor, patch] = numbers.as_slice() else {
        return None;
    };
    let is_number = |number: &str| {
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        digits && (number == "0" || !number.starts_with('0'))
    };
    let all_numbers =
        is_number(major.strip_prefix('v').unwrap_or(major)) && is_number(minor) && is_number(patch);
    all_numbers.then_some([major, minor, patch])
}

/// `name` where a registry takes it; else cleaned or cut, and closed with a digest.
pub fn valid(name: String, raw: &str) -> String {
    let starts_well = !name.starts_with(['.', '-']);
    if starts_well && name.len() <= MAX_LENGTH && name.chars().all(is_tag_character) {
        name
    } else {
        closed(&name, raw)
    }
}

/// `name`, cleaned, cut to fit and closed with a digest of it and of `raw`, the input that it was
/// made from: two inputs that clean to the same name still differ.
pub fn closed(name: &str, raw: &str) -> String {
    let cleaned = squeeze(name, is_tag_character);
    let cleaned = cut(cleaned.trim_start_matches(['.', '-']), MAX_LENGTH - DIGEST_LENGTH - 1);
    let digest = digest(&format!("{raw}\n{name}"));
    if cleaned.is_empty() { digest } else { format!("{cleaned}-{digest}") }
}

fn is_tag_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.-".contains(c)
}

/// `text` with every run of characters that are not `kept` replaced by one `-`.
fn squeeze(text: &str, kept: impl Fn(char) -> bool) -> String {
    let mut squeezed = String::new();
    let mut in_run = false;
    for c in text.chars() {
        if kept(c) {
            squeezed.push(c);
        } else if !in_run {
            squeezed.push('-');
        }
        in_run = !kept(c);
    }
    squeezed
}

fn cut(text: &str, length: usize) -> String {
    text.chars().take(length).collect()
}

/// The first hex digits of the SHA-256 of `text`.
fn digest(text: &str) -> String {
    cut(&sha256(text), DIGEST_LENGTH)
}
