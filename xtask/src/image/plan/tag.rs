//! Tags: what an image is called. Other tools compute the same names, so their form is fixed; every
//! tag that leaves here is one that a registry takes.

use crate::image::request::source::UNKNOWN;
use crate::image::request::{Flavor, without_repeats};
use base::digest::sha256;

const MAX_LENGTH: usize = 128;
const MAX_SLUG: usize = 64;
/// Hex digits of a digest that closes a name, 48 bits.
const DIGEST_LENGTH: usize = 12;

pub const MAIN: &str = "refs/heads/main";

/// What the tags and the cache names of one image are made of.
pub struct Naming<'a> {
    /// The repository of the caches.
    pub cache_image: &'a str,
    pub sha: &'a str,
    pub git_ref: &'a str,
    /// Set when release tags are asked for: the version, which may be [`UNKNOWN`].
    pub version: Option<&'a str>,
    pub base_image: &'a str,
    pub custom_tags: &'a [String],
    pub flavor: Flavor,
    pub arch: Option<&'a str>,
    pub target: &'a str,
}

impl Naming<'_> {
    /// All tags of the image, each once: for each custom tag those of the commit and of the branch,
    /// then that of the base image, then the release tags.
    pub fn tags(&self) -> Vec<String> {
        let mut tags = Vec::new();
        let short = short_sha(self.sha);
        for custom in self.custom_tags {
            tags.push(self.commit_tag(short, custom));
            tags.push(self.commit_tag(self.sha, custom));
            if is_branch(self.git_ref) {
                let is_own = is_main(self.git_ref);
                tags.push(self.moving_tag(&ref_name(self.git_ref), custom, self.git_ref, is_own));
            }
        }
        tags.push(self.tag(short, &slug(self.base_image), self.base_image));
        tags.extend(self.release_tags());
        without_repeats(tags)
    }

    /// What main calls this image; `None` on main, and for an image that may be of several
    /// architectures, which are not compared.
    pub fn main_tag(&self) -> Option<String> {
        let custom = self.custom_tags.first().filter(|_| self.arch.is_some())?;
        (!is_main(self.git_ref)).then(|| self.tag("main", custom, MAIN))
    }

    /// The release tags alone; none unless they were asked for and a version is known.
    pub fn release_tags(&self) -> Vec<String> {
        let mut tags = Vec::new();
        if let Some(version) = self.release() {
            let is_own = semver(version).is_some();
            // Not the digest of a branch that is called like it.
            let raw = format!("version\n{version}");
            for custom in self.custom_tags {
                for alias in release_aliases(version) {
                    tags.push(self.moving_tag(&alias, custom, &raw, is_own));
                }
            }
        }
        without_repeats(tags)
    }

    /// `head` is the commit, or its start. What is no commit can be any word.
    fn commit_tag(&self, head: &str, custom: &str) -> String {
        let is_commit = self.sha.len() >= 7 && self.sha.bytes().all(|b| b.is_ascii_hexdigit());
        self.moving_tag(head, custom, self.sha, is_commit)
    }

    /// A tag that may move from image to image. Unless `is_own`, a head that main or a release
    /// writes is closed with a digest: users pull `main-…`, `latest-…` and `1.58.0-…` in trust of
    /// who wrote them, whatever others call their branches and git tags.
    fn moving_tag(&self, head: &str, custom: &str, raw: &str, is_own: bool) -> String {
        let tag = self.tag(head, custom, raw);
        if is_own || !is_reserved(head) { tag } else { closed(&tag, raw) }
    }

    /// The version that release tags name. A git tag that is no `X.Y.Z` is used as it is.
    fn release(&self) -> Option<&str> {
        let version = self.version?;
        let known = Some(version).filter(|&version| version != UNKNOWN);
        match self.git_ref.strip_prefix("refs/tags/") {
            Some(tag) if semver(tag).is_some() => known.or(Some(tag.trim_start_matches('v'))),
            Some(tag) => Some(tag),
            None => known,
        }
    }

    /// `head-tail` with the suffixes for flavor, architecture and target. `raw` is the input that
    /// `head` or `tail` was made from, so that a digest can tell two inputs apart.
    fn tag(&self, head: &str, tail: &str, raw: &str) -> String {
        let mut tag = format!("{head}-{tail}{}", self.flavor.suffix());
        if let Some(arch) = self.arch {
            tag = format!("{tag}-{arch}");
        }
        valid(tag + &target_suffix(self.target, &self.flavor.suffix()), raw)
    }
}

/// What ends a tag of `target`, in the flavor with the suffix `flavor`: nothing for `binary`, nor
/// where the flavor's name already says that the minimal binary is meant.
pub fn target_suffix(target: &str, flavor: &str) -> String {
    match (target, flavor) {
        ("binary", _) | ("binary-minimal", "-minimal") => String::new(),
        _ => format!("-{target}"),
    }
}

/// Is `head` what main's tags or a release's begin with? The releases are `X`, `X.Y` and `X.Y.Z`,
/// with a `v` if their version has one.
fn is_reserved(head: &str) -> bool {
    let numbers = head.strip_prefix('v').unwrap_or(head).split('.').collect::<Vec<_>>();
    let is_release = numbers.len() <= 3 && numbers.into_iter().all(is_release_number);
    ["main", "latest"].contains(&head) || is_release
}

/// The first seven characters of a commit.
pub fn short_sha(sha: &str) -> &str {
    sha.char_indices().nth(7).map_or(sha, |(end, _)| &sha[..end])
}

pub fn is_main(git_ref: &str) -> bool {
    ["main", MAIN].contains(&git_ref)
}

/// Is `git_ref` a branch: a ref under `refs/heads/`, or a bare name?
fn is_branch(git_ref: &str) -> bool {
    git_ref != UNKNOWN && (git_ref.starts_with("refs/heads/") || !git_ref.starts_with("refs/"))
}

/// A ref as a part of tags and of cache scopes.
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
    if let Some([major, minor, _]) = semver(version) {
        return vec![major.to_owned(), format!("{major}.{minor}"), version.to_owned()];
    }
    let cleaned = squeeze(version, is_tag_character);
    let cleaned = cleaned.trim_matches(['.', '-']);
    vec![if cleaned.is_empty() { UNKNOWN } else { cleaned }.to_owned()]
}

/// The three numbers of `X.Y.Z`, the first with its `v` if it has one. Leading zeros and
/// pre-releases are no release.
fn semver(version: &str) -> Option<[&str; 3]> {
    let numbers = <[&str; 3]>::try_from(version.split('.').collect::<Vec<_>>()).ok()?;
    let [major, minor, patch] = numbers;
    let number = major.strip_prefix('v').unwrap_or(major);
    [number, minor, patch].into_iter().all(is_release_number).then_some(numbers)
}

fn is_release_number(number: &str) -> bool {
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number && (number == "0" || !number.starts_with('0'))
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

fn digest(text: &str) -> String {
    cut(&sha256(text), DIGEST_LENGTH)
}
