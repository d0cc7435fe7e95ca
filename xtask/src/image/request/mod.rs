//! What was asked for: flags and environment, read here, once, into plain types.

mod arguments;
pub mod base_images;
pub mod definition;
pub mod flags;
pub mod prebuilt;
pub mod source;
mod values;
pub mod workspace;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use pico_args::Arguments;

pub use self::arguments::{files, variable};
use self::base_images::{Shard, is_reference, read_list};
use self::flags::Flag;
pub use self::values::{
    AcpProvider, Capability, Check, Delivery, Flavor, Mode, Style, is_repository, without_repeats,
};
use crate::error::usage;

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
    pub flavor: Flavor,
    pub target: String,
    pub capabilities: Vec<Capability>,
    pub acp_providers: Vec<AcpProvider>,
    /// The SDK checkout that was named.
    pub sdk_project_root: Option<PathBuf>,
    pub prebuilt_sdist: Option<PathBuf>,
    /// Whether a checkout with uncommitted changes may be pushed.
    pub allow_dirty: bool,
    /// Empty for the engine's own.
    pub platforms: Vec<String>,
    pub arch: Option<String>,
    pub delivery: Delivery,
    pub ci: bool,
    pub versioned_tag: bool,
    pub check: Check,
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
    /// The arguments behind `--`, for bake, without `--progress`.
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

/// How many targets go into one bake. On two cores 32 images by `overlay` took 9.1 s one by one,
/// 5.4 and 5.7 s by four, 4.8 and 6.3 by eight, 4.5 twice by 16, and 4.8 by 32: little is gained
/// beyond eight, and one that fails makes the others of its bake start over.
const JOBS: usize = 8;

impl Request {
    /// Takes the flags of a build out of `args`, and its variables from the environment.
    ///
    /// # Errors
    /// A usage error for a value that is not accepted. Flags that are left in `args` are the
    /// caller's, see [`flags::finish`].
    pub fn read(args: &mut Arguments, mut bake_args: Vec<OsString>) -> Result<Self> {
        let ci = arguments::is_ci()?;
        let delivery = delivery(args, ci)?;
        let image = flags::IMAGE.text(args)?;
        let arch = flags::ARCH.text(args)?.filter(|arch| !arch.is_empty());
        let jobs = flags::JOBS.value(args)?.map(|jobs| values::jobs(&jobs));
        Ok(Request {
            variants: variants(args)?,
            base_images: base_images(args)?,
            shard: flags::SHARD.value(args)?.map(|shard| Shard::parse(&shard)).transpose()?,
            custom_tags: flags::CUSTOM_TAGS.text(args)?.map(|tags| values::split(&tags)),
            image: values::repository(
                image.unwrap_or_else(|| "ghcr.io/openhands/agent-server".to_owned()),
            )?,
            flavor: one(&flags::IMAGE_FLAVOR, args, Flavor::ALL, Flavor::name)?
                .unwrap_or(Flavor::Default),
            target: flags::TARGET.text(args)?.unwrap_or_else(|| "binary".to_owned()),
            capabilities: set(
                &flags::INSTALL_CAPABILITIES,
                args,
                Capability::ALL,
                Capability::name,
            )?,
            acp_providers: set(
                &flags::INSTALL_ACP_PROVIDERS,
                args,
                AcpProvider::ALL,
                AcpProvider::name,
            )?,
            sdk_project_root: flags::SDK_PROJECT_ROOT.text(args)?.map(PathBuf::from),
            prebuilt_sdist: flags::PREBUILT_SDIST.text(args)?.map(PathBuf::from),
            allow_dirty: flags::ALLOW_DIRTY.is_given(args),
            platforms: platforms(args)?,
            arch: arch.map(values::arch).transpose()?,
            delivery,
            ci,
            versioned_tag: flags::VERSIONED_TAG.is_given(args)
                || flags::VERSIONED_TAG.switch()?.unwrap_or(false),
            check: one(&flags::CHECK, args, Check::ALL, Check::name)?.unwrap_or(Check::First),
            cache_mode: one(&flags::CACHE_MODE, args, Mode::ALL, Mode::name)?.unwrap_or(Mode::Max),
            shared_export: flags::SHARED_EXPORT.switch()?.unwrap_or(false),
            cache_dir: flags::CACHE_DIR.path()?,
            sha: arguments::first_of([flags::SDK_SHA.variable, "GITHUB_SHA"])?,
            git_ref: arguments::first_of([flags::SDK_REF.variable, "GITHUB_REF"])?,
            version: variable(flags::SDK_VERSION.variable)?,
            ca_bundle: ca_bundle()?,
            proxies: proxies(),
            builder: flags::BUILDER.value(args)?,
            build_info: flags::BUILD_INFO.value(args)?,
            jobs: jobs.transpose()?.unwrap_or(JOBS),
            skip_existing: skip_existing(args, delivery)?,
            cache_timeout: cache_timeout()?,
            strict_cache: flags::STRICT_CACHE.is_given(args),
            report: flags::REPORT.value(args)?.map(PathBuf::from),
            explain: flags::EXPLAIN.is_given(args),
            progress: Style::take(&mut bake_args, variable(flags::PROGRESS.variable)?),
            bake_args,
        })
    }
}

/// The proxies of the host, for RUN steps. One that is no text can't be an address.
fn proxies() -> Vec<(&'static str, String)> {
    PROXIES.into_iter().filter_map(|name| Some((name, variable(name).ok()??))).collect()
}

/// The variants that are asked for; none if the request names none.
///
/// # Errors
/// A usage error for a flag without a value.
pub fn variants(args: &mut Arguments) -> Result<Vec<String>> {
    flags::VARIANT.list(args)
}

/// The platforms that are asked for; none if the request names none.
///
/// # Errors
/// A usage error for a flag without a value.
pub fn platforms(args: &mut Arguments) -> Result<Vec<String>> {
    flags::PLATFORMS.list(args)
}

/// The base images that flags name, one by one and in a list; the variable's where none does.
fn base_images(args: &mut Arguments) -> Result<Vec<String>> {
    let listed = flags::BASE_IMAGES.value(args)?;
    let mut references = match listed {
        None => flags::BASE_IMAGE.list(args)?,
        Some(_) => flags::BASE_IMAGE.items(args)?,
    };
    if let Some(reference) = references.iter().find(|reference| !is_reference(reference)) {
        return Err(usage(format!(
            "the base image {reference:?} is not an image reference: write it as in \
             debian:trixie-slim."
        )));
    }
    if let Some(path) = listed {
        references.extend(read_list(&path)?);
    }
    Ok(without_repeats(references))
}

/// Flags beat variables, and a run that asks for neither pushes in CI only.
fn delivery(args: &mut Arguments, ci: bool) -> Result<Delivery> {
    let both = || usage("--push and --load (or PUSH and LOAD) are both set: choose one.");
    match (flags::PUSH.is_given(args), flags::LOAD.is_given(args)) {
        (true, true) => return Err(both()),
        (true, false) => return Ok(Delivery::Push),
        (false, true) => return Ok(Delivery::Load),
        (false, false) => {}
    }
    match (flags::PUSH.switch()?, flags::LOAD.switch()?) {
        (Some(true), Some(true)) => Err(both()),
        (Some(true), _) => Ok(Delivery::Push),
        (Some(false), _) | (_, Some(true)) => Ok(Delivery::Load),
        (None, _) => Ok(if ci { Delivery::Push } else { Delivery::Load }),
    }
}

/// The set that `flag` names of `all`, or all of it; an empty value is none.
fn set<T: Copy + PartialEq>(
    flag: &Flag,
    args: &mut Arguments,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<Vec<T>> {
    match flag.text_or_empty(args)? {
        Some(list) => values::choose_set(&flag.label(), &list, all, name),
        None => Ok(all.to_vec()),
    }
}

/// The one of `all` that `flag` names, else its variable.
fn one<T: Copy>(
    flag: &Flag,
    args: &mut Arguments,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<Option<T>> {
    let text = if flag.name.is_empty() { variable(flag.variable)? } else { flag.text(args)? };
    text.map(|text| values::choose(&flag.label(), &text, all, name)).transpose()
}

fn cache_timeout() -> Result<Duration> {
    const DEFAULT: Duration = Duration::from_secs(600);
    let name = flags::CACHE_TIMEOUT.variable;
    let time = variable(name)?.map(|time| values::time(name, &time)).transpose()?;
    Ok(time.unwrap_or(DEFAULT))
}

fn skip_existing(args: &mut Arguments, delivery: Delivery) -> Result<bool> {
    let skip = flags::SKIP_EXISTING.is_given(args);
    if skip && delivery == Delivery::Load {
        return Err(usage("--skip-existing asks the registry, but nothing is pushed: add --push."));
    }
    Ok(skip)
}

/// The file of certificates that the host trusts, if it has one: the one that programs use by
/// `SSL_CERT_FILE`, else the one in Debian's place.
fn ca_bundle() -> Result<Option<String>> {
    let bundle = flags::CERTIFICATES.path()?;
    let bundle = bundle.unwrap_or_else(|| "/etc/ssl/certs/ca-certificates.crt".to_owned());
    Ok(Some(bundle).filter(|bundle| Path::new(bundle).is_file()))
}
