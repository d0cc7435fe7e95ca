//! The tags of images and of build caches. Other tools compute the same names, so their form is fixed. Every
//! tag that leaves here is one that a registry takes.

use base::digest::sha256;

use crate::cli::{Flavor, Mode, without_repeats};
use crate::source::UNKNOWN;

const MAX_LENGTH: usize = 128;
const MAX_SLUG: usize = 64;
/// Hex digits of a digest that closes a name.
const DIGEST_LENGTH: usize = 12;
const MAIN: &str = "refs/heads/main";

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
    /// All tags.
    pub fn tags(&self) -> Vec<String> {
        let mut tags = Vec::new();
        let short = short_sha(self.sha);
        // Any word can stand for a commit.
        let is_commit = self.sha.len() >= 7 && self.sha.bytes().all(|b| b.is_ascii_hexdigit());
        let (git_ref, is_head) = (self.git_ref, self.git_ref.starts_with("refs/heads/"));
        let is_branch = is_head || !git_ref.starts_with("refs/") && git_ref != UNKNOWN;
        for custom in self.custom_tags {
            for head in [short, self.sha] {
                tags.push(self.tag(head, custom, self.sha, is_commit));
            }
            if is_branch {
                tags.push(self.tag(&ref_name(git_ref), custom, git_ref, is_main(git_ref)));
            }
        }
        tags.push(self.tag(short, &slug(self.base_image), self.base_image, is_commit));
        tags.extend(self.release_tags());
        without_repeats(tags)
    }

    /// What main calls this image; `None` on main, and for what may be of several architectures.
    pub fn main_tag(&self) -> Option<String> {
        let custom = self.custom_tags.first().filter(|_| self.arch.is_some())?;
        (!is_main(self.git_ref)).then(|| self.tag("main", custom, MAIN, true))
    }

    /// The release tags alone; none unless they were asked for and a version is known.
    pub fn release_tags(&self) -> Vec<String> {
        let version = match (self.version, self.git_ref.strip_prefix("refs/tags/")) {
            (None, _) | (Some(UNKNOWN), None) => return Vec::new(),
            // A git tag that is no `X.Y.Z` is used as it is.
            (_, Some(tag)) if release(tag).len() != 3 => tag,
            (Some(UNKNOWN), Some(tag)) => tag.trim_start_matches('v'),
            (Some(version), _) => version,
        };
        let cleaned = squeeze(version, is_tag_character);
        let cleaned = cleaned.trim_matches(['.', '-']);
        let cleaned = if cleaned.is_empty() { UNKNOWN } else { cleaned };
        let (heads, is_own) = match release(version)[..] {
            [major, _, _] => {
                (vec![major, version.rsplit_once('.').unwrap_or_default().0, version], true)
            }
            // It may begin with a version, as `1.2.3-rc.1` does, but be none.
            _ => (vec![cleaned], !is_mains(cleaned) && release(cleaned).is_empty()),
        };
        // Not the digest of a branch that is called like it.
        let raw = format!("version\n{version}");
        let mut tags = Vec::new();
        for custom in self.custom_tags {
            tags.extend(heads.iter().map(|head| self.tag(head, custom, &raw, is_own)));
        }
        without_repeats(tags)
    }

    /// `head-tail` with its suffix. `raw` is what `head` or `tail` was made from. Unless `is_own`, a head of main
    /// or of a release is closed with a digest: users pull `main-…` in trust of who wrote it.
    fn tag(&self, head: &str, tail: &str, raw: &str, is_own: bool) -> String {
        let suffix = suffix(self.flavor.part(), self.arch, Some(self.target));
        let tag = valid(format!("{head}-{tail}{suffix}"), raw);
        if is_own || !is_reserved(head) { tag } else { with_digest(&tag, raw) }
    }

    /// The caches to read, in this order, each once.
    pub fn caches_read(&self) -> Vec<Cache> {
        let of = |base_image| [self.git_ref, MAIN].map(|git_ref| self.cache(base_image, git_ref));
        let mut caches = [of(self.base_image), of("")].concat();
        caches.dedup();
        caches
    }

    /// The caches to write: the image's, and where asked for the one that all base images share.
    pub fn caches_written(&self, with_shared: bool) -> Vec<Cache> {
        let shared = with_shared.then(|| self.cache("", self.git_ref));
        [self.cache(self.base_image, self.git_ref)].into_iter().chain(shared).collect()
    }

    /// The cache for `base_image`, or the shared one where that is empty, in the scope of `git_ref`. What others
    /// would end in `-main`, such as a branch `slim-main`, is closed with a digest: main trusts its own.
    fn cache(&self, base_image: &str, git_ref: &str) -> Cache {
        let suffix = suffix(self.flavor.part(), self.arch, None);
        let mut name = match base_image {
            "" => format!("buildcache-shared-{}{suffix}", self.target),
            _ => format!("buildcache-{}-{}{suffix}", self.target, slug(base_image)),
        };
        if git_ref != UNKNOWN {
            name += &format!("-{}", ref_name(git_ref));
        }
        let is_main = is_main(git_ref);
        let raw = format!("{base_image}\n{}", if is_main { MAIN } else { git_ref });
        let is_foreign = !is_main && name.ends_with("-main");
        let tag = if is_foreign { with_digest(&name, &raw) } else { valid(name, &raw) };
        Cache::Registry(format!("{}:{tag}", self.cache_image))
    }
}

/// What ends names: flavor, architecture and target, except `binary` and, in the flavor `minimal`, its own.
pub fn suffix(flavor: Option<&str>, arch: Option<&str>, target: Option<&str>) -> String {
    let target = match (target, flavor) {
        (Some("binary"), _) | (Some("binary-minimal"), Some("minimal")) => None,
        _ => target,
    };
    [flavor, arch, target].into_iter().flatten().map(|part| format!("-{part}")).collect()
}

/// True where main's tags begin as `head` does: a custom tag may be the rest of it.
fn is_mains(head: &str) -> bool {
    matches!(head.split('-').next(), Some("main" | "latest"))
}

/// True for what main's tags or a release begin with. One number alone is how branches name an issue.
fn is_reserved(head: &str) -> bool {
    let first = head.split('-').next().unwrap_or(head);
    let is_release = !release(first).is_empty() && (first == head || first.contains('.'));
    is_mains(head) || is_release
}

/// The first seven characters of a commit.
pub fn short_sha(sha: &str) -> &str {
    sha.char_indices().nth(7).map_or(sha, |(end, _)| &sha[..end])
}

fn is_main(git_ref: &str) -> bool {
    ["main", MAIN].contains(&git_ref)
}

/// A ref as a part of tags and of cache scopes.
fn ref_name(git_ref: &str) -> String {
    let name = git_ref.strip_prefix("refs/heads/").unwrap_or(git_ref);
    squeeze(name, |c| c.is_ascii_alphanumeric() || ".-".contains(c)).to_ascii_lowercase()
}

/// The short name of a base image; not yet fit for a tag where the reference holds a digest.
pub fn slug(base_image: &str) -> String {
    let slug = base_image.replace('/', "_s_").replace(':', "_tag_");
    if slug.chars().count() <= MAX_SLUG {
        return slug;
    }
    let (path, tag) = slug.split_at(slug.rfind("_tag_").unwrap_or(slug.len()));
    let tag = if tag == "_tag_" { "" } else { tag };
    // From the left: a segment may begin with `s_`.
    let repository = path.split("_s_").last().unwrap_or(path);
    let room = MAX_SLUG - DIGEST_LENGTH - 1;
    let room_for_repository = room.saturating_sub(tag.chars().count());
    format!("{repository:.room_for_repository$}{tag:.room$}-{}", digest(&slug))
}

/// The numbers of a release, `X`, `X.Y` or `X.Y.Z`, the first with its `v`; none of anything else.
fn release(version: &str) -> Vec<&str> {
    let is_number = |number: &str| {
        let are_digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        are_digits && (number == "0" || !number.starts_with('0'))
    };
    let is_release = version.strip_prefix('v').unwrap_or(version).split('.').all(is_number);
    let numbers = version.split('.').collect::<Vec<_>>();
    if is_release && numbers.len() <= 3 { numbers } else { Vec::new() }
}

/// `name` where a registry takes it; else cleaned or cut, and closed with a digest.
pub fn valid(name: String, raw: &str) -> String {
    let is_valid = name.len() <= MAX_LENGTH
        && !name.starts_with(['.', '-'])
        && name.chars().all(is_tag_character);
    if is_valid { name } else { with_digest(&name, raw) }
}

/// `name`, cleaned, cut to fit and closed with a digest of it and of `raw`, the input that it was made from.
pub fn with_digest(name: &str, raw: &str) -> String {
    let cleaned = squeeze(name, is_tag_character);
    let cleaned = cleaned.trim_start_matches(['.', '-']);
    let room = MAX_LENGTH - DIGEST_LENGTH - 1;
    let digest = digest(&format!("{raw}\n{name}"));
    if cleaned.is_empty() { digest } else { format!("{cleaned:.room$}-{digest}") }
}

pub fn is_tag_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.-".contains(c)
}

/// `text` with every run of characters that are not `kept` replaced by one `-`.
fn squeeze(text: &str, kept: impl Fn(char) -> bool) -> String {
    let chars = text.chars().collect::<Vec<_>>();
    let runs = chars.chunk_by(|&one, &other| kept(one) == kept(other));
    runs.map(|run| if kept(run[0]) { String::from_iter(run) } else { "-".to_owned() }).collect()
}

fn digest(text: &str) -> String {
    format!("{:.DIGEST_LENGTH$}", sha256(text))
}

/// Where a cache is kept: a reference or a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cache {
    Registry(String),
    Folder(String),
}

impl Cache {
    pub fn name(&self) -> &str {
        match self {
            Cache::Registry(name) | Cache::Folder(name) => name,
        }
    }

    /// True where `BuildKit`'s import of `read` reads this cache. It names folders by digests, so any may be.
    pub fn is_read_as(&self, read: &str) -> bool {
        match self {
            Cache::Registry(reference) => read == reference,
            Cache::Folder(_) => read.starts_with("local:"),
        }
    }

    /// The `cache-from` entry that reads it from `src`, or the beginning of one that writes it to `dest`.
    pub fn entry(&self, place: &str) -> String {
        match self {
            Cache::Registry(reference) => format!("type=registry,ref={reference}"),
            Cache::Folder(path) => format!("type=local,{}", csv_field(&format!("{place}={path}"))),
        }
    }

    /// The `cache-to` entry that writes it with an image.
    pub fn write_entry(&self, mode: Mode) -> String {
        // An export that fails must not cost the image; some registries take only an OCI image manifest.
        let options = "image-manifest=true,oci-mediatypes=true,ignore-error=true";
        format!("{},mode={},{options}", self.entry("dest"), mode.name())
    }

    /// The `cache-to` entry that writes it alone, after the image was delivered.
    pub fn export_entry(&self, mode: Mode) -> String {
        // The image's own layers are compressed already. For the rest zstd takes a third of the time of gzip.
        let is_sent = matches!(self, Cache::Registry(_));
        self.write_entry(mode) + if is_sent { ",compression=zstd" } else { "" }
    }
}

/// buildx reads these entries as comma-separated values, so a path may need quotes.
pub fn csv_field(field: &str) -> String {
    let is_plain = !field.contains([',', '"', '\n']);
    if is_plain { field.to_owned() } else { format!("\"{}\"", field.replace('"', "\"\"")) }
}
