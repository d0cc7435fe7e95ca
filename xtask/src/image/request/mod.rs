//! What was asked for: flags and environment, read here, once, into plain types.

mod arguments;
pub mod base_images;
pub mod content;
pub mod definition;
pub mod flags;
pub mod layer;
pub mod prebuilt;
pub mod source;
mod values;
pub mod workspace;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use pico_args::Arguments;

pub use self::arguments::{files, free, variable};
use self::base_images::{BaseImage, Shard, is_reference, joined, read_list};
use self::flags::Flag;
use self::layer::Layer;
use self::values::choose;
pub use self::values::{
    Check, Delivery, Flavor, Mode, Style, TagBy, is_repository, without_repeats,
};
use base::error::usage;

/// A build as it was asked for; names are checked against what can be built later.
// Each of the switches is one of its own: no two make a state.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone)]
pub struct Request {
    /// Empty when no variant was named.
    pub variants: Vec<String>,
    /// Replace the variants' own.
    pub base_images: Vec<BaseImage>,
    pub shard: Option<Shard>,
    /// `None` when custom tags were not mentioned.
    pub custom_tags: Option<Vec<String>>,
    pub tag_by: TagBy,
    pub image: String,
    /// The repository of caches, where it is another.
    pub cache_image: Option<String>,
    pub layer: Option<Layer>,
    /// When a batch cuts the build cache; `None` for never.
    pub prune: Option<Prune>,
    pub flavor: Flavor,
    pub target: String,
    pub capabilities: Vec<&'static str>,
    pub acp_providers: Vec<&'static str>,
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
    pub proxies: Vec<(&'static str, String)>,
    /// A buildx builder other than the one that buildx would take.
    pub builder: Option<String>,
    pub build_info: Option<String>,
    /// How many targets are built in one bake, at least 1.
    pub jobs: usize,
    /// How long a bake may take, for each platform.
    pub timeout: Duration,
    /// Whether images that the registry has are left out.
    pub skip_existing: bool,
    pub cache_timeout: Duration,
    pub strict_cache: bool,
    pub report: Option<PathBuf>,
    pub manifest: Option<PathBuf>,
    /// Empty for the default.
    pub timings: Option<PathBuf>,
    pub explain: bool,
    pub progress: Style,
    /// The arguments behind `--`, for bake, without `--progress`.
    pub bake_args: Vec<OsString>,
}

/// The repository that images are pushed to. A usage error for what is none.
pub fn image(args: &mut Arguments) -> Result<String> {
    let image = flags::IMAGE.read(args, values::repository)?;
    Ok(image.unwrap_or_else(|| "ghcr.io/openhands/agent-server".to_owned()))
}

const PROXIES: &str = "HTTP_PROXY HTTPS_PROXY FTP_PROXY NO_PROXY ALL_PROXY \
                       http_proxy https_proxy ftp_proxy no_proxy all_proxy";

/// How many targets go into one bake. On two cores 32 images by `overlay` took 9.1 s one by one,
/// 5.4 and 5.7 s by four, 4.8 and 6.3 by eight, 4.5 twice by 16, and 4.8 by 32: little is gained
/// beyond eight, and one that fails makes the others of its bake start over.
const JOBS: usize = 8;

const CACHE_TIMEOUT: Duration = Duration::from_secs(600);
/// What scripts of batches allow an image.
const TIMEOUT: Duration = Duration::from_secs(2000);

impl Request {
    /// Are there images on several base images?
    pub fn is_batch(&self) -> bool {
        self.base_images.len() > 1
    }

    /// Does a digest of what goes into its images stand in their label or names?
    pub fn names_inputs(&self) -> bool {
        self.delivery == Delivery::Push || self.tag_by == TagBy::Content
    }

    /// Takes the flags of a build out of `args`, and its variables from the environment.
    /// Errors: a usage error for a value that is not accepted. What is left is for the caller.
    pub fn read(args: &mut Arguments, bake_args: Vec<OsString>) -> Result<Self> {
        let ci = arguments::is_ci()?;
        let delivery = delivery(args, ci)?;
        let skip_existing = flags::SKIP_EXISTING.is_given(args);
        if skip_existing && delivery == Delivery::Load {
            let message = "--skip-existing asks the registry, but nothing is pushed: add --push.";
            return Err(usage(message));
        }
        let mode = flags::CACHE_MODE.read(args, |name| choose(name, Mode::NAMED))?;
        let flavor = flags::IMAGE_FLAVOR.read(args, |name| choose(name, Flavor::NAMED))?;
        let (progress, bake_args) = progress(args, bake_args)?;
        Ok(Request {
            variants: flags::VARIANT.list(args)?,
            base_images: base_images(args)?,
            shard: flags::SHARD.read(args, Shard::parse)?,
            custom_tags: flags::CUSTOM_TAGS.text(args)?.map(|tags| values::split(&tags)),
            tag_by: tag_by(args)?,
            image: image(args)?,
            cache_image: flags::CACHE_IMAGE.read(args, values::repository)?,
            layer: Layer::read(args)?,
            prune: prune(args, ci)?,
            flavor: flavor.unwrap_or(Flavor::Default),
            target: flags::TARGET.text(args)?.unwrap_or_else(|| "binary".to_owned()),
            capabilities: flags::INSTALL_CAPABILITIES.set(args, values::CAPABILITIES)?,
            acp_providers: flags::INSTALL_ACP_PROVIDERS.set(args, values::ACP_PROVIDERS)?,
            sdk_project_root: flags::SDK_PROJECT_ROOT.text(args)?.map(PathBuf::from),
            prebuilt_sdist: flags::PREBUILT_SDIST.text(args)?.map(PathBuf::from),
            allow_dirty: flags::ALLOW_DIRTY.is_given(args),
            platforms: flags::PLATFORMS.list(args)?,
            arch: flags::ARCH.read(args, values::arch)?.filter(|arch| !arch.is_empty()),
            delivery,
            ci,
            versioned_tag: flags::VERSIONED_TAG.is_given(args)
                || flags::VERSIONED_TAG.switch()? == Some(true),
            check: check(args, delivery)?,
            cache_mode: mode.unwrap_or(Mode::Max),
            shared_export: flags::SHARED_EXPORT.switch()? == Some(true),
            cache_dir: flags::CACHE_DIR.read(args, values::absolute)?,
            sha: flags::SDK_SHA.text(args)?.or(variable("GITHUB_SHA")?),
            git_ref: flags::SDK_REF.text(args)?.or(variable("GITHUB_REF")?),
            version: flags::SDK_VERSION.text(args)?,
            ca_bundle: ca_bundle(args)?,
            proxies: proxies(),
            builder: flags::BUILDER.text(args)?,
            build_info: flags::BUILD_INFO.text(args)?,
            jobs: flags::JOBS.read(args, values::jobs)?.unwrap_or(JOBS),
            timeout: flags::TIMEOUT.read(args, values::time)?.unwrap_or(TIMEOUT),
            skip_existing,
            cache_timeout: flags::CACHE_TIMEOUT.read(args, values::time)?.unwrap_or(CACHE_TIMEOUT),
            strict_cache: flags::STRICT_CACHE.is_given(args),
            report: flags::REPORT.text(args)?.map(PathBuf::from),
            manifest: flags::MANIFEST.text(args)?.map(PathBuf::from),
            timings: flags::TIMINGS.read(args, values::timings)?,
            explain: flags::EXPLAIN.is_given(args),
            progress,
            bake_args,
        })
    }
}

/// Which images are started: by default of a push alone, since whoever loads an image starts it
/// next.
fn check(args: &mut Arguments, delivery: Delivery) -> Result<Check> {
    let check = flags::CHECK.read(args, |name| choose(name, Check::NAMED))?;
    Ok(check.unwrap_or(match delivery {
        Delivery::Push => Check::First,
        Delivery::Load => Check::Off,
    }))
}

fn tag_by(args: &mut Arguments) -> Result<TagBy> {
    let named = flags::TAG_BY.read(args, |name| choose(name, TagBy::NAMED))?;
    Ok(named.unwrap_or(TagBy::Commit))
}

/// When the build cache of a batch is cut.
#[derive(Clone)]
pub struct Prune {
    /// Percent of the disk that are used.
    pub threshold: u64,
    /// GB that are kept.
    pub keep: u64,
}

/// A developer's own cache is cut only on request.
fn prune(args: &mut Arguments, ci: bool) -> Result<Option<Prune>> {
    let number = |text: &str| values::number(text).ok_or("is not a whole number.".to_owned());
    let threshold = flags::PRUNE_THRESHOLD.read(args, number)?;
    let keep = flags::PRUNE_KEEP.read(args, number)?;
    let is_wanted = ci || threshold.is_some() || keep.is_some();
    let limits = Prune { threshold: threshold.unwrap_or(60), keep: keep.unwrap_or(60) };
    Ok(is_wanted.then_some(limits))
}

/// The proxies of the host, for RUN steps. One that is no text can't be an address.
fn proxies() -> Vec<(&'static str, String)> {
    PROXIES.split(' ').filter_map(|name| Some((name, variable(name).ok()??))).collect()
}

/// How progress is shown, and `bake_args` without `--progress`, since this program shows it.
/// Otherwise the variable decides, which is what buildx reads as well.
fn progress(args: &mut Arguments, bake_args: Vec<OsString>) -> Result<(Style, Vec<OsString>)> {
    let mut bake_args = Arguments::from_vec(bake_args);
    let named = bake_args.values_from_str::<_, String>("--progress");
    let mut named = named.map_err(|error| usage(format!("{error}.")))?;
    let style = match named.pop().or(flags::PROGRESS.text(args)?) {
        None => Style::Auto,
        Some(name) if name == "auto" => Style::Auto,
        Some(name) if name == "plain" => Style::Plain,
        Some(name) => Style::Buildx(name),
    };
    Ok((style, bake_args.finish()))
}

/// The base images that flags name, one by one and in a list; the variable's where none does.
fn base_images(args: &mut Arguments) -> Result<Vec<BaseImage>> {
    let list = flags::BASE_IMAGES.text(args)?;
    let variable = if list.is_some() { "" } else { flags::BASE_IMAGE.variable };
    let references = Flag { variable, ..flags::BASE_IMAGE }.list(args)?;
    if let Some(reference) = references.iter().find(|reference| !is_reference(reference)) {
        return Err(usage(format!(
            "the base image {reference:?} is not an image reference: write it as in \
             debian:trixie-slim."
        )));
    }
    let named = references.into_iter();
    let named = named.map(|reference| BaseImage { reference, custom_tags: Vec::new() });
    let listed = list.map(|path| read_list(&path)).transpose()?.unwrap_or_default();
    Ok(joined(named.chain(listed).collect()))
}

/// Flags beat variables, and a run that asks for neither pushes in CI only.
fn delivery(args: &mut Arguments, ci: bool) -> Result<Delivery> {
    let (push, load) = match (flags::PUSH.is_given(args), flags::LOAD.is_given(args)) {
        (false, false) => (flags::PUSH.switch()?, flags::LOAD.switch()?),
        (push, load) => (Some(push), Some(load)),
    };
    match (push, load) {
        (Some(true), Some(true)) => {
            Err(usage("--push and --load (or PUSH and LOAD) are both set: choose one."))
        }
        (Some(true), _) => Ok(Delivery::Push),
        (Some(false), _) | (_, Some(true)) => Ok(Delivery::Load),
        (None, _) => Ok(if ci { Delivery::Push } else { Delivery::Load }),
    }
}

/// The file of certificates that the host trusts, if it has one: the one that programs use by
/// `SSL_CERT_FILE`, else the one in Debian's place.
fn ca_bundle(args: &mut Arguments) -> Result<Option<String>> {
    let bundle = flags::CERTIFICATES.read(args, values::absolute)?;
    let bundle = bundle.unwrap_or_else(|| "/etc/ssl/certs/ca-certificates.crt".to_owned());
    Ok(Some(bundle).filter(|bundle| Path::new(bundle).is_file()))
}
