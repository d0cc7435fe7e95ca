//! What was asked for: flags and environment, read here, once, into plain types. A flag beats
//! its variable, and an empty variable counts as unset.

pub mod archive;
pub mod base_images;
pub mod definition;
pub mod prebuilt;
pub mod source;

use std::env::{self, VarError};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use pico_args::Arguments;

use self::base_images::{Shard, is_reference, read_list};
use crate::error::usage;

/// Where a finished image goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// To its registry.
    Push,
    /// Into the local engine.
    Load,
}

/// How much of the build cache is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    Off,
    /// The layers of the image itself.
    Min,
    /// The layers of every stage.
    Max,
}

impl Mode {
    /// The names that people and buildx use.
    pub const NAMES: [(&str, Mode); 3] =
        [("off", Mode::Off), ("min", Mode::Min), ("max", Mode::Max)];

    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }
}

/// How progress is shown, by buildx's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Style {
    /// As it fits standard error.
    Auto,
    /// Lines, at a terminal too.
    Plain,
    /// By buildx itself, which then tells no events.
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
}

/// A build as it was asked for; names are checked against what can be built later.
// Each of the switches is one of its own: no two make a state.
#[allow(clippy::struct_excessive_bools)]
pub struct Request {
    /// Empty when no variant was named.
    pub variants: Vec<String>,
    /// Replace the variants' own.
    pub base_images: Vec<String>,
    /// The part of the run to build; `None` for all of it.
    pub shard: Option<Shard>,
    /// `None` when custom tags were not mentioned.
    pub custom_tags: Option<Vec<String>>,
    /// The repository, without tag.
    pub image: String,
    pub target: String,
    /// Empty for the engine's own.
    pub platforms: Vec<String>,
    pub arch: Option<String>,
    pub delivery: Delivery,
    pub ci: bool,
    pub versioned_tag: bool,
    pub prebuilt_sdist: Option<PathBuf>,
    pub cache_mode: Mode,
    pub shared_export: bool,
    pub cache_dir: Option<String>,
    pub sha: Option<String>,
    pub git_ref: Option<String>,
    pub version: Option<String>,
    /// The host's own CA bundle, for RUN steps behind a proxy that intercepts TLS.
    pub ca_bundle: Option<String>,
    /// The host's proxy variables.
    pub proxies: Vec<(&'static str, String)>,
    /// A buildx builder other than the one that buildx would take.
    pub builder: Option<String>,
    /// Where build information is written.
    pub build_info: Option<String>,
    /// How many targets are built in one bake, at least 1.
    pub jobs: usize,
    /// Whether images that the registry has are left out.
    pub skip_existing: bool,
    /// How long cache exports may take.
    pub cache_timeout: Duration,
    /// Whether a cache that was not written fails the run.
    pub strict_cache: bool,
    /// Where the report goes, besides standard error.
    pub report: Option<PathBuf>,
    /// Whether to say why steps ran.
    pub explain: bool,
    pub progress: Style,
    /// What came after `--`, for bake, without `--progress`.
    pub bake_args: Vec<OsString>,
}

const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "all_proxy",
];

const SWITCHES: [(&str, bool); 8] = [
    ("1", true),
    ("true", true),
    ("yes", true),
    ("on", true),
    ("0", false),
    ("false", false),
    ("no", false),
    ("off", false),
];

impl Request {
    /// Takes the flags of a build out of `args`, and its variables from the environment.
    ///
    /// # Errors
    /// A usage error for a value that is not accepted. Flags that are left in `args` are the
    /// caller's, see [`finish`].
    pub fn read(args: &mut Arguments, mut bake_args: Vec<OsString>) -> Result<Self> {
        let ci = variable("CI")?.is_some_and(|ci| switch("CI", &ci).unwrap_or(false));
        let delivery = delivery(args, ci)?;
        let proxies = PROXIES
            .into_iter()
            .filter_map(|name| Some((name, variable(name).ok()??)))
            .collect::<Vec<_>>();
        Ok(Request {
            variants: variants(args)?,
            base_images: base_images(args)?,
            shard: value(args, "--shard")?.map(|shard| Shard::parse(&shard)).transpose()?,
            custom_tags: one(args, "--custom-tags", "CUSTOM_TAGS")?.map(|tags| split(&tags)),
            image: repository(one(args, "--image", "IMAGE")?)?,
            target: one(args, "--target", "TARGET")?.unwrap_or_else(|| "binary".to_owned()),
            platforms: platforms(args)?,
            arch: arch(one(args, "--arch", "ARCH")?.filter(|arch| !arch.is_empty()))?,
            delivery,
            ci,
            versioned_tag: args.contains("--versioned-tag")
                || switch_variable("VERSIONED_TAG")?.unwrap_or(false),
            prebuilt_sdist: one(args, "--prebuilt-sdist", "PREBUILT_SDIST")?.map(PathBuf::from),
            cache_mode: cache_mode(variable("OPENHANDS_BUILDKIT_CACHE_MODE")?)?,
            shared_export: switch_variable("OPENHANDS_SHARED_REGISTRY_CACHE_EXPORT")?
                .unwrap_or(false),
            cache_dir: path_variable("BUILD_CACHE_DIR")?,
            sha: first_of(["SDK_SHA", "GITHUB_SHA"])?,
            git_ref: first_of(["SDK_REF", "GITHUB_REF"])?,
            version: variable("SDK_VERSION")?,
            ca_bundle: ca_bundle()?,
            proxies,
            builder: value(args, "--builder")?,
            build_info: value(args, "--build-info")?,
            jobs: jobs(value(args, "--jobs")?)?,
            skip_existing: skip_existing(args, delivery)?,
            cache_timeout: cache_timeout(variable("OPENHANDS_BUILDKIT_CACHE_TIMEOUT")?)?,
            strict_cache: args.contains("--strict-cache"),
            report: value(args, "--report")?.map(PathBuf::from),
            explain: args.contains("--explain"),
            progress: style(&mut bake_args, variable("BUILDKIT_PROGRESS")?),
            bake_args,
        })
    }
}

/// Fails, naming it, if a flag or a word is left that nobody asked for.
///
/// # Errors
/// A usage error with the first word that is left.
pub fn finish(args: Arguments) -> Result<()> {
    match args.finish().first() {
        None => Ok(()),
        Some(left) => {
            let left = left.to_string_lossy();
            Err(usage(format!(
                "{left:?} is not expected, or is given twice: `cargo xtask image --help` lists \
                 the flags."
            )))
        }
    }
}

/// The value of `flag`, if it is given.
///
/// # Errors
/// A usage error when the flag has no value, or one that is not UTF-8.
pub fn value(args: &mut Arguments, flag: &'static str) -> Result<Option<String>> {
    args.opt_value_from_str(flag).map_err(|error| usage(format!("{error}.")))
}

/// The variants that are asked for; none if the request names none.
///
/// # Errors
/// A usage error for a flag without a value.
pub fn variants(args: &mut Arguments) -> Result<Vec<String>> {
    list(args, "--variant", "VARIANT")
}

/// The platforms that are asked for; none if the request names none.
///
/// # Errors
/// A usage error for a flag without a value.
pub fn platforms(args: &mut Arguments) -> Result<Vec<String>> {
    list(args, "--platforms", "PLATFORMS")
}

/// The files that are named where all flags have been taken out of `args`.
///
/// # Errors
/// A usage error for a flag that is left, or where no file is named.
pub fn files(args: Arguments) -> Result<Vec<PathBuf>> {
    let files = args.finish();
    match files.iter().find(|file| file.to_string_lossy().starts_with('-')) {
        Some(flag) => finish(Arguments::from_vec(vec![flag.clone()]))?,
        None if files.is_empty() => {
            return Err(usage("no file is named: name those that --build-info wrote."));
        }
        None => {}
    }
    Ok(files.into_iter().map(PathBuf::from).collect())
}

/// The value of the environment variable `name`, unless it is unset or empty.
///
/// # Errors
/// A usage error for a value that is not UTF-8.
pub fn variable(name: &str) -> Result<Option<String>> {
    match env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(value)) => {
            let value = value.to_string_lossy();
            Err(usage(format!("{name}={value:?} is not UTF-8: set it to text, or unset it.")))
        }
    }
}

/// The path that a variable holds, absolute: bake runs in another folder than the caller.
fn path_variable(name: &str) -> Result<Option<String>> {
    let path = variable(name)?.map(std::path::absolute).transpose()?;
    Ok(path.map(|path| path.to_string_lossy().into_owned()))
}

/// The file of certificates that the host trusts, if it has one: what programs are told to use,
/// else where Debian keeps it.
fn ca_bundle() -> Result<Option<String>> {
    let told = path_variable("SSL_CERT_FILE")?;
    let bundle = told.unwrap_or_else(|| "/etc/ssl/certs/ca-certificates.crt".to_owned());
    Ok(Some(bundle).filter(|bundle| Path::new(bundle).is_file()))
}

fn one(args: &mut Arguments, flag: &'static str, name: &str) -> Result<Option<String>> {
    Ok(value(args, flag)?.or(variable(name)?))
}

/// A list, given by repeating `flag` or with commas, each item once.
fn list(args: &mut Arguments, flag: &'static str, name: &str) -> Result<Vec<String>> {
    let items = flag_list(args, flag)?;
    let items = match items.as_slice() {
        [] => variable(name)?.map(|items| split(&items)).unwrap_or_default(),
        _ => items,
    };
    Ok(without_repeats(items))
}

/// The items of all `flag`s; none where it is not given.
fn flag_list(args: &mut Arguments, flag: &'static str) -> Result<Vec<String>> {
    let given: Vec<String> =
        args.values_from_str(flag).map_err(|error| usage(format!("{error}.")))?;
    let items = given.iter().flat_map(|items| split(items)).collect::<Vec<_>>();
    if items.is_empty() && !given.is_empty() {
        return Err(usage(format!("{flag} names nothing: give it a value, or leave it out.")));
    }
    Ok(items)
}

/// The items of a comma list, without blanks around them and without empty ones.
fn split(items: &str) -> Vec<String> {
    items.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// The first of the variables that is set.
fn first_of(names: [&str; 2]) -> Result<Option<String>> {
    for name in names {
        if let Some(value) = variable(name)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn switch_variable(name: &str) -> Result<Option<bool>> {
    variable(name)?.map(|value| switch(name, &value)).transpose()
}

fn switch(name: &str, value: &str) -> Result<bool> {
    let wanted = value.trim().to_ascii_lowercase();
    match SWITCHES.iter().find(|(word, _)| *word == wanted) {
        Some((_, on)) => Ok(*on),
        None => {
            let words = SWITCHES.map(|(word, _)| word).join(", ");
            Err(usage(format!("{name}={value:?} is not accepted: use one of {words}.")))
        }
    }
}

fn cache_mode(value: Option<String>) -> Result<Mode> {
    let Some(value) = value else {
        return Ok(Mode::Max);
    };
    let wanted = value.trim().to_ascii_lowercase();
    match Mode::NAMES.iter().find(|(name, _)| *name == wanted) {
        Some((_, mode)) => Ok(*mode),
        None => {
            let names = Mode::NAMES.map(|(name, _)| name).join(", ");
            Err(usage(format!(
                "OPENHANDS_BUILDKIT_CACHE_MODE={value:?} is no cache mode: use one of {names}."
            )))
        }
    }
}

fn skip_existing(args: &mut Arguments, delivery: Delivery) -> Result<bool> {
    let skip = args.contains("--skip-existing");
    if skip && delivery == Delivery::Load {
        return Err(usage("--skip-existing asks the registry, but nothing is pushed: add --push."));
    }
    Ok(skip)
}

/// How many targets go into one bake. On two cores 32 images by `overlay` took 9.1 s one by one,
/// 5.4 and 5.7 s by four, 4.8 and 6.3 by eight, 4.5 twice by 16, and 4.8 by 32: little is gained
/// beyond eight, and one that fails has the others of its bake begin again.
fn jobs(value: Option<String>) -> Result<usize> {
    const DEFAULT: usize = 8;
    let Some(value) = value else { return Ok(DEFAULT) };
    value.parse().ok().filter(|&jobs| jobs > 0).ok_or_else(|| {
        usage(format!("--jobs {value:?} is no number of targets: use 1 or more, as in {DEFAULT}."))
    })
}

/// A time in seconds, or in a unit that is named.
fn cache_timeout(value: Option<String>) -> Result<Duration> {
    const UNITS: [(char, u64); 3] = [('s', 1), ('m', 60), ('h', 3600)];
    let Some(value) = value else {
        return Ok(Duration::from_secs(600));
    };
    let trimmed = value.trim();
    let unit = UNITS.iter().find(|(unit, _)| trimmed.ends_with(*unit));
    let number = unit.map_or(trimmed, |(unit, _)| trimmed.trim_end_matches(*unit));
    let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit.map_or(1, |u| u.1)));
    seconds.filter(|&seconds| seconds > 0).map(Duration::from_secs).ok_or_else(|| {
        usage(format!(
            "OPENHANDS_BUILDKIT_CACHE_TIMEOUT={value:?} is no time: use whole seconds, as in 600, \
             or a unit, as in 10m."
        ))
    })
}

/// Takes `--progress` out of what bake is told, since it decides who shows the progress; the
/// variable `told` is buildx's own.
fn style(bake_args: &mut Vec<OsString>, told: Option<String>) -> Style {
    let mut style = told;
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

/// Flags beat variables, and a run that says nothing pushes in CI only.
fn delivery(args: &mut Arguments, ci: bool) -> Result<Delivery> {
    let both = || usage("--push and --load (or PUSH and LOAD) are both set: choose one.");
    match (args.contains("--push"), args.contains("--load")) {
        (true, true) => return Err(both()),
        (true, false) => return Ok(Delivery::Push),
        (false, true) => return Ok(Delivery::Load),
        (false, false) => {}
    }
    match (switch_variable("PUSH")?, switch_variable("LOAD")?) {
        (Some(true), Some(true)) => Err(both()),
        (Some(true), _) => Ok(Delivery::Push),
        (Some(false), _) | (_, Some(true)) => Ok(Delivery::Load),
        (None, _) => Ok(if ci { Delivery::Push } else { Delivery::Load }),
    }
}

/// Checks a repository by the registries' own grammar.
fn repository(image: Option<String>) -> Result<String> {
    let image = image.unwrap_or_else(|| "ghcr.io/openhands/agent-server".to_owned());
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
        let port_is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        if !port_is_number {
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

/// The base images that flags name, one by one and in a list; the variable's where none does.
fn base_images(args: &mut Arguments) -> Result<Vec<String>> {
    let listed = value(args, "--base-images")?;
    let mut references = match listed {
        None => list(args, "--base-image", "BASE_IMAGE")?,
        Some(_) => flag_list(args, "--base-image")?,
    };
    if let Some(reference) = references.iter().find(|reference| !is_reference(reference)) {
        return Err(usage(format!(
            "the base image {reference:?} is no image reference: write it as in \
             debian:trixie-slim."
        )));
    }
    if let Some(path) = listed {
        references.extend(read_list(&path)?);
    }
    Ok(without_repeats(references))
}

fn arch(arch: Option<String>) -> Result<Option<String>> {
    match arch {
        Some(arch) if !arch.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) => {
            Err(usage(format!(
                "the architecture suffix {arch:?} can't be part of a tag: use letters, digits, \
                 '_', '.' and '-', as in arm64."
            )))
        }
        arch => Ok(arch),
    }
}

/// `items` in their order, each once.
pub fn without_repeats(items: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    items.into_iter().filter(|item| seen.insert(item.clone())).collect()
}
