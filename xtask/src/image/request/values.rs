//! The values that flags and variables take: what each can be, and how it is read from text.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::Result;

use crate::error::usage;
use crate::similar::suggestion;

/// Makes an enum whose values have names: the one table for reading, help and errors.
macro_rules! choice {
    ($(#[$doc:meta])* $type:ident { $($(#[$about:meta])* $value:ident $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type { $($(#[$about])* $value,)* }

        impl $type {
            pub const ALL: &[$type] = &[$($type::$value),*];

            pub fn name(self) -> &'static str {
                match self { $($type::$value => $name,)* }
            }
        }
    };
}

/// Where a finished image goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// To its registry.
    Push,
    /// Into the local engine.
    Load,
}

choice! {
    /// How much of the build cache is exported.
    Mode {
        /// Nothing.
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

choice! {
    /// A part of the full base image that can be left out.
    Capability {
        VsCode "vscode",
        Browser "browser",
        Docker "docker",
    }
}

choice! {
    /// A program that speaks the Agent Client Protocol.
    AcpProvider {
        ClaudeCode "claude-code",
        Codex "codex",
        GeminiCli "gemini-cli",
    }
}

choice! {
    /// Which images are started in the build before they get a name.
    Check {
        /// The first one of each variant and target.
        First "first",
        All "all",
        Off "off",
    }
}

impl Flavor {
    /// What it adds to the names of tags and caches: the default adds nothing, so that images
    /// without a flavor keep the names they always had.
    pub fn suffix(self) -> String {
        if self == Flavor::Default { String::new() } else { format!("-{}", self.name()) }
    }

    pub fn has_acp_providers(self) -> bool {
        self == Flavor::Default
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

impl Style {
    pub fn named(name: &str) -> Self {
        match name {
            "auto" => Style::Auto,
            "plain" => Style::Plain,
            name => Style::Buildx(name.to_owned()),
        }
    }

    /// Takes `--progress` out of bake's arguments, since this program shows the progress. Without
    /// it, `variable` decides, which is what buildx reads as well.
    pub fn take(bake_args: &mut Vec<OsString>, variable: Option<String>) -> Self {
        let mut style = variable;
        while let Some(at) = bake_args.iter().position(|arg| {
            arg.to_str().is_some_and(|arg| arg == "--progress" || arg.starts_with("--progress="))
        }) {
            let flag = bake_args.remove(at).to_string_lossy().into_owned();
            style = match flag.split_once('=') {
                Some((_, value)) => Some(value.to_owned()),
                None if at < bake_args.len() => {
                    Some(bake_args.remove(at).to_string_lossy().into_owned())
                }
                None => style,
            };
        }
        style.as_deref().map_or(Style::Auto, Style::named)
    }
}

/// The one of `all` that has the name `value`; case and surrounding blanks do not matter. `by` is
/// the flag or variable, for the error.
///
/// # Errors
/// A usage error that lists all names.
pub fn choose<T: Copy>(by: &str, value: &str, all: &[T], name: fn(T) -> &'static str) -> Result<T> {
    let wanted = value.trim().to_ascii_lowercase();
    let chosen = all.iter().find(|choice| name(**choice) == wanted);
    chosen.copied().ok_or_else(|| {
        let names = all.iter().map(|choice| name(*choice));
        usage(format!(
            "{by} {value:?} is not accepted:{} Use one of {}.",
            suggestion(&wanted, names.clone()),
            names.collect::<Vec<_>>().join(", ")
        ))
    })
}

/// Those of `all` that the comma list `value` names, in the order of `all`, so that the same set
/// is always the same build argument.
///
/// # Errors
/// As [`choose`].
pub fn choose_set<T: Copy + PartialEq>(
    by: &str,
    value: &str,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<Vec<T>> {
    let chosen =
        split(value).iter().map(|item| choose(by, item, all, name)).collect::<Result<Vec<_>>>()?;
    Ok(all.iter().copied().filter(|choice| chosen.contains(choice)).collect())
}

const ON: [&str; 4] = ["1", "true", "yes", "on"];
const OFF: [&str; 4] = ["0", "false", "no", "off"];

/// A switch, by any of its words; case and surrounding blanks do not matter.
///
/// # Errors
/// A usage error that lists the words.
pub fn switch(by: &str, value: &str) -> Result<bool> {
    let wanted = value.trim().to_ascii_lowercase();
    match (ON.contains(&wanted.as_str()), is_off(value)) {
        (true, _) => Ok(true),
        (_, true) => Ok(false),
        _ => Err(usage(format!(
            "{by} {value:?} is not accepted: use one of {}.",
            [ON, OFF].concat().join(", ")
        ))),
    }
}

/// Is `value` one of the words for off? CI systems set `CI` to their own name as well as to
/// `true`, so there anything else is on.
pub fn is_off(value: &str) -> bool {
    OFF.contains(&value.trim().to_ascii_lowercase().as_str())
}

/// A number of digits alone: `parse` would take `+5` too.
pub fn number(value: &str) -> Option<u64> {
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| is_number)
}

/// A time in seconds, or in one unit: `600`, `600s`, `10m`, `1h`.
///
/// # Errors
/// A usage error for anything else, and for no time at all.
pub fn time(by: &str, value: &str) -> Result<Duration> {
    const UNITS: [(char, u64); 3] = [('s', 1), ('m', 60), ('h', 3600)];
    let text = value.trim();
    let unit = UNITS.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(*unit)?, *seconds)));
    let (digits, unit) = unit.unwrap_or((text, 1));
    let seconds = number(digits).and_then(|number| number.checked_mul(unit));
    seconds.filter(|&seconds| seconds > 0).map(Duration::from_secs).ok_or_else(|| {
        usage(format!(
            "{by} {value:?} is not a time: use whole seconds, as in 600, or a unit, as in 10m."
        ))
    })
}

/// How many images go into one bake: at least one.
///
/// # Errors
/// A usage error for anything else.
pub fn jobs(value: &str) -> Result<usize> {
    let jobs = number(value).and_then(|jobs| usize::try_from(jobs).ok());
    jobs.filter(|&jobs| jobs > 0).ok_or_else(|| {
        usage(format!("--jobs {value:?} is not a number of images: use 1 or more, as in 8."))
    })
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

/// A suffix for the architecture, which becomes a part of tags.
///
/// # Errors
/// A usage error for characters that no tag may have.
pub fn arch(arch: String) -> Result<String> {
    if arch.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
        Ok(arch)
    } else {
        Err(usage(format!(
            "the architecture suffix {arch:?} can't be part of a tag: use letters, digits, \
             '_', '.' and '-', as in arm64."
        )))
    }
}

/// A repository, by the registries' own grammar.
///
/// # Errors
/// A usage error for anything else, such as upper case or a tag.
pub fn repository(image: String) -> Result<String> {
    if is_repository(&image) {
        Ok(image)
    } else {
        Err(usage(format!(
            "the image {image:?} is not a repository: write it in lower case and without a tag, \
             as in ghcr.io/openhands/agent-server."
        )))
    }
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
        let separators = segment.split(alphanumeric).filter(|part| !part.is_empty());
        segment.starts_with(alphanumeric)
            && segment.ends_with(alphanumeric)
            && separators.into_iter().all(|separator| {
                [".", "_", "__"].contains(&separator) || separator.bytes().all(|b| b == b'-')
            })
    };
    image.len() <= 255 && segments.into_iter().all(is_segment)
}
