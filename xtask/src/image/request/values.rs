//! The values that flags and variables take: what each can be, and how it is read from text. The
//! error of each reader is the end of a sentence that begins with the flag and its value.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base::similar::suggestion;

/// Makes an enum whose values have names: the one table for reading and errors.
macro_rules! choice {
    ($(#[$doc:meta])* $type:ident { $($(#[$about:meta])* $value:ident $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type { $($(#[$about])* $value,)* }

        impl $type {
            pub const NAMED: &[(&str, $type)] = &[$(($name, $type::$value)),*];

            pub fn name(self) -> &'static str {
                match self { $($type::$value => $name,)* }
            }
        }
    };
}

/// Where a finished image goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    Push,
    Load,
}

choice! {
    /// How much of the build cache is exported.
    Mode {
        Off "off",
        /// The layers of the image itself.
        Min "min",
        /// The layers of every stage.
        Max "max",
    }
}

choice! {
    /// What an image is made for, which is part of its name.
    Flavor {
        Default "default",
        /// Without ACP providers.
        Slim "slim",
        /// Without ACP providers, and usually the target `binary-minimal`.
        Minimal "minimal",
    }
}

/// What the tags that stay at one image begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagBy {
    Commit,
    /// A digest of what goes into the image.
    Content,
}

impl TagBy {
    pub const NAMED: &[(&str, TagBy)] = &[("commit", TagBy::Commit), ("content", TagBy::Content)];
}

/// The parts of the full base image that can be left out.
pub const CAPABILITIES: &[&str] = &["vscode", "browser", "docker"];
/// The programs that speak the Agent Client Protocol.
pub const ACP_PROVIDERS: &[&str] = &["claude-code", "codex", "gemini-cli"];

/// Which images are started in the build before they get a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The first one of each variant and target.
    First,
    All,
    Off,
}

impl Check {
    pub const NAMED: &[(&str, Check)] =
        &[("first", Check::First), ("all", Check::All), ("off", Check::Off)];
}

impl Flavor {
    /// What it adds to the names of tags and caches: the default adds nothing, so that images
    /// without a flavor keep the names they always had.
    pub fn suffix(self) -> String {
        if self == Flavor::Default { String::new() } else { format!("-{}", self.name()) }
    }
}

/// How progress is shown, by buildx's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Style {
    /// As it fits standard error.
    Auto,
    /// Lines, at a terminal too.
    Plain,
    /// By buildx itself, which then reports no events.
    Buildx(String),
}

pub const SWITCH: &[(&str, bool)] = &[
    ("1", true),
    ("true", true),
    ("yes", true),
    ("on", true),
    ("0", false),
    ("false", false),
    ("no", false),
    ("off", false),
];

/// The value in `table` that `name` names; case and surrounding blanks do not matter.
pub fn choose<T: Copy>(name: &str, table: &[(&str, T)]) -> Result<T, String> {
    let wanted = name.trim().to_ascii_lowercase();
    let found = table.iter().find(|(name, _)| *name == wanted);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names = table.iter().map(|(name, _)| *name);
        let suggestion = suggestion(&wanted, names.clone());
        let names = names.collect::<Vec<_>>().join(", ");
        format!("is not accepted:{suggestion} Use one of {names}.")
    })
}

/// A number of digits alone: `parse` would take `+5` too.
pub fn number(text: &str) -> Option<u64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// A time in seconds, or in one unit: `600`, `600s`, `10m`, `1h`; not none at all.
pub fn time(text: &str) -> Result<Duration, String> {
    const UNITS: [(char, u64); 3] = [('s', 1), ('m', 60), ('h', 3600)];
    let text = text.trim();
    let unit = UNITS.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(*unit)?, *seconds)));
    let (digits, unit) = unit.unwrap_or((text, 1));
    let seconds = number(digits).and_then(|number| number.checked_mul(unit));
    let time = seconds.filter(|&seconds| seconds > 0).map(Duration::from_secs);
    time.ok_or_else(|| {
        "is not a time: use whole seconds, as in 600, or a unit, as in 10m.".to_owned()
    })
}

pub fn jobs(text: &str) -> Result<usize, String> {
    let jobs = number(text).and_then(|jobs| usize::try_from(jobs).ok()).filter(|&jobs| jobs > 0);
    jobs.ok_or_else(|| "is not a number of images: use 1 or more, as in 8.".to_owned())
}

/// A file for timings; empty for the default.
pub fn timings(path: &str) -> Result<PathBuf, String> {
    let extension = Path::new(path).extension();
    let is_known = path.is_empty() || extension.is_some_and(|e| e == "html" || e == "json");
    let hint = "is neither a page nor a trace: name a file that ends in .html or .json.";
    if is_known { Ok(path.into()) } else { Err(hint.to_owned()) }
}

/// The items of a comma list, without blanks around them and without empty ones.
pub fn split(items: &str) -> Vec<String> {
    items.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// `items` in their order, each once.
pub fn without_repeats(items: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    items.into_iter().filter(|item| seen.insert(item.clone())).collect()
}

/// An absolute path, since bake runs in another folder than the caller.
pub fn absolute(path: &str) -> Result<String, String> {
    let path = std::path::absolute(path).map_err(|error| format!("has no place: {error}."))?;
    Ok(path.to_string_lossy().into_owned())
}

/// A suffix for the architecture, which becomes a part of tags.
pub fn arch(text: &str) -> Result<String, String> {
    if text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
        return Ok(text.to_owned());
    }
    Err("can't be part of a tag: use letters, digits, '_', '.' and '-', as in arm64.".to_owned())
}

pub fn repository(text: &str) -> Result<String, String> {
    let hint = "is not a repository: write it in lower case and without a tag, as in \
                ghcr.io/openhands/agent-server.";
    if is_repository(text) { Ok(text.to_owned()) } else { Err(hint.to_owned()) }
}

/// Is `image` a repository by the registries' own grammar?
pub fn is_repository(image: &str) -> bool {
    let mut segments = image.split('/').collect::<Vec<_>>();
    if let [host, _, ..] = segments[..]
        && let Some((name, port)) = host.split_once(':')
    {
        if number(port).is_none() {
            return false;
        }
        segments[0] = name;
    }
    let is_segment = |segment: &str| {
        let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let mut separators = segment.split(alphanumeric).filter(|part| !part.is_empty());
        segment.starts_with(alphanumeric)
            && segment.ends_with(alphanumeric)
            && separators.all(|separator| {
                [".", "_", "__"].contains(&separator) || separator.bytes().all(|b| b == b'-')
            })
    };
    image.len() <= 255 && segments.into_iter().all(is_segment)
}
