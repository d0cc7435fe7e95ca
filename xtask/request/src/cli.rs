//! What was typed: flags and variables, read once into [`Args`]. A flag is a row of the table below,
//! which makes its field, its reader, its help and the error for where it does not belong.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, ensure};
use base::error::usage;
use base::similar::suggestion;

use crate::bases::{self, BaseImage};
use crate::names::is_tag_character;

base::named! {
    /// The subcommands; a build has no name.
    Command {
        Build = "", Run = "run", List = "list", Doctor = "doctor", Matrix = "matrix",
        Probe = "probe", Smoke = "smoke", Api = "api", Merge = "merge", Summary = "summary",
    }
    /// What caches hold: `Min` is the layers of the image itself, `Max` those of every stage.
    Mode { Off = "off", Min = "min", Max = "max" }
    /// What an image is made for. `Slim` and `Minimal` are without ACP providers.
    Flavor { Default = "default", Slim = "slim", Minimal = "minimal" }
    /// What can be installed, in the order of the helper, which is not the alphabet's.
    #[derive(PartialOrd, Ord)]
    Capability { Vscode = "vscode", Browser = "browser", Docker = "docker" }
    /// What the tags that stay at one image begin with: `Content` is a digest of what goes into it.
    TagBy { Commit = "commit", Content = "content" }
    /// Which images are started before a push: `First` is one of each variant and base system.
    Check { First = "first", All = "all", Off = "off" }
}

impl Flavor {
    /// Its name in tags and cache names, which others that have no flavors compute without one.
    pub fn part(self) -> Option<&'static str> {
        Some(self.name()).filter(|_| self != Flavor::Default)
    }
}

/// A flag with its variable, or either alone. Empty variables count as unset, except in [`Flag::set`].
#[derive(Clone, Copy, Default)]
struct Flag {
    heading: &'static str,
    /// As the help shows them: `--flag`, `--flag VALUE` or `--flag[=VALUE]`, then the variable.
    names: &'static [&'static str],
    commands: &'static [Command],
    help: &'static str,
    default: &'static str,
}

/// Makes [`Args`] and its reader, and the list of all flags.
macro_rules! options {
    ($($heading:literal $(
        $field:ident: $type:ty = $read:ident $(($parse:expr))?,
        $($name:literal)+, $commands:expr, $help:literal, $default:literal;
    )+)+) => {
        /// What was typed.
        // Each of the switches stands for itself: no two of them make a state.
        #[allow(clippy::struct_excessive_bools)]
        pub struct Args {
            $($(pub $field: $type,)+)+
            /// True in a CI system's run.
            pub ci: bool,
            /// The base images that replace the variants' own, listed ones included.
            pub base_images: Vec<BaseImage>,
            /// Files or an image, for the subcommands that take some.
            pub words: Vec<OsString>,
            /// The arguments behind `--`, for bake, each with its value in one word.
            pub bake_args: Vec<String>,
        }

        const TABLE: &[Flag] = &[$($(Flag {
            heading: $heading,
            names: &[$($name),+],
            commands: $commands,
            help: $help,
            default: $default,
        },)+)+];

        impl Args {
            fn read_flags(command: Command, typed: &Typed) -> Result<Self> {
                // Another command's flag is not looked for, which leaves its default.
                let mut rows = TABLE.iter().map(|row| {
                    if row.commands.contains(&command) { *row } else { Flag { names: &[], ..*row } }
                });
                Ok(Args {
                    // Rows come in the order of the fields.
                    $($($field: rows.next().unwrap_or_default().$read(typed $(, $parse)?)?,)+)+
                    ci: false,
                    base_images: Vec::new(),
                    words: Vec::new(),
                    bake_args: Vec::new(),
                })
            }
        }
    };
}

use Command::{Api, Build, Doctor, List, Matrix, Merge, Probe, Run, Summary};

/// The subcommands that take a request, name images, build, and do or check what a build needs.
const REQUEST: &[Command] = &[Build, Run, List, Doctor];
const NAMING: &[Command] = &[Build, List, Doctor];
const BUILDING: &[Command] = &[Build, Run];
const CHECKING: &[Command] = &[Build, Run, Doctor];

options! {
    "What to build"
    variant: Vec<String> = list(name), "--variant NAME" "VARIANT", &[Build, Run, List, Doctor, Matrix],
        "variants: repeat it, or a,b, or all (matrix: default all)", "python";
    base_image: Vec<String> = list(reference), "--base-image REF" "BASE_IMAGE",
        REQUEST, "build on this image; repeat it for several", "the variant's base image";
    base_images_file: Option<String> = text, "--base-images FILE",
        NAMING, "build on each image of a list: REF or REF TAG,TAG a line, or JSON; - is stdin", "none";
    shard: Option<(usize, usize)> = one(shard), "--shard K/N", NAMING, "build only part K of N", "all";
    target: String = value(name), "--target NAME" "TARGET",
        REQUEST, "the stage to build; `image list` names all", "binary";
    flavor: Flavor = value(choice), "--image-flavor NAME" "IMAGE_FLAVOR",
        REQUEST, "default, slim or minimal; part of tags and cache names", "default";
    capabilities: Vec<Capability> = set(choice), "--install-capabilities LIST" "INSTALL_CAPABILITIES",
        REQUEST, "install these in base-image; an empty value installs none", "vscode,browser,docker";
    acp_providers: Vec<String> = set(name), "--install-acp-providers LIST" "INSTALL_ACP_PROVIDERS",
        REQUEST, "install these ACP programs; an empty value installs none",
        "claude-code,codex,gemini-cli";
    sdk_project_root: Option<PathBuf> = one(path), "--sdk-project-root PATH" "SDK_PROJECT_ROOT",
        REQUEST, "build this SDK checkout", "the checkout around you, or none";
    prebuilt_sdist: Option<PathBuf> = one(path), "--prebuilt-sdist FILE" "PREBUILT_SDIST", REQUEST,
        "build the SDK workspace in this archive (uv build --sdist)", "none: the pinned release";
    platforms: Vec<String> = list(|name| Ok(platform(name))), "--platforms LIST" "PLATFORMS",
        &[Build, Run, List, Doctor, Matrix, Merge], "such as linux/amd64,linux/arm64",
        "the engine's; matrix, merge: the variant's";
    builder_image: Option<String> = one(reference), "--builder-image REF" "BUILDER_IMAGE",
        REQUEST, "build the server's files on this image", "as in docker-bake.json";
    tools_image: Option<String> = one(reference), "--tools-image REF" "TOOLS_IMAGE",
        REQUEST, "take Docker and Chromium from this Debian image", "as in docker-bake.json";
    vertex: bool = switch, "ENABLE_VERTEX", REQUEST, "1 installs what Vertex AI models need", "off";
    upgrade_packages: bool = switch, "UPGRADE_PACKAGES",
        REQUEST, "1 upgrades all Debian packages of the base image", "off";
    "Names"
    image: String = value(repository), "--image REPO" "IMAGE",
        &[Build, Run, List, Doctor, Probe], "the repository", "ghcr.io/openhands/agent-server";
    custom_tags: Option<String> = text, "--custom-tags A,B" "CUSTOM_TAGS",
        NAMING, "make tags of these; with only a base image, none by default", "the variant's name";
    tag_by: TagBy = value(choice), "--tag-by WHAT", NAMING,
        "begin tags with commit, or with content: a digest of what goes into the image", "commit";
    arch: Option<String> = one(|text| if text.is_empty() { Ok(String::new()) } else { name(text) }),
        "--arch SUFFIX" "ARCH", NAMING, "end tags and cache names with this", "none";
    versioned_tag: bool = switch, "--versioned-tag" "VERSIONED_TAG",
        NAMING, "add the tags X, X.Y and X.Y.Z", "off";
    sha: Option<String> = text, "SDK_SHA", NAMING, "the commit", "from git, else unknown";
    git_ref: Option<String> = text, "SDK_REF", NAMING, "the branch or git tag", "from git, else unknown";
    version: Option<String> = text, "SDK_VERSION",
        NAMING, "the version of release tags", "openhands-sdk's in the image";
    "Where to"
    push: bool = switch, "--push", NAMING, "push the image; PUSH=1 too", "default in CI";
    load_flag: bool = switch, "--load",
        NAMING, "load the image into the engine; LOAD=1 too", "default outside CI";
    allow_dirty: bool = switch, "--allow-dirty",
        &[Build, Doctor], "push a checkout with uncommitted changes", "off";
    check: Option<Check> = one(choice), "--check WHICH",
        &[Build], "start images and wait for /health before pushing: first, all or off",
        "first for a push, else off";
    layer: Option<PathBuf> = one(path), "--layer DIR",
        &[Build, List], "also build DIR/Dockerfile on top of each image", "none";
    layer_tag: Option<String> = one(name), "--layer-tag SUFFIX",
        &[Build, List], "end the tags of what --layer builds with this", "the folder's name";
    builder: Option<String> = text, "--builder NAME" "BUILDX_BUILDER",
        &[Build, Run, List, Doctor, Probe, Merge], "the buildx builder", "buildx's own choice";
    port: u16 = value(|text| number(text, 1..=65535)), "--port NUMBER",
        &[Run], "listen here on 127.0.0.1", "8000";
    logs: bool = switch, "--logs", &[Run], "show the server's log once it answers", "off";
    "Cache"
    cache_mode: Mode = value(choice), "OPENHANDS_BUILDKIT_CACHE_MODE",
        CHECKING, "what caches hold: max (every stage), min (the image's layers), off", "max";
    shared_export: bool = switch, "OPENHANDS_SHARED_REGISTRY_CACHE_EXPORT",
        CHECKING, "1 exports the cache shared by all base images too", "off";
    cache_image: Option<String> = one(repository), "--cache-image REPO" "OPENHANDS_CACHE_IMAGE",
        CHECKING, "the repository of caches", "same as --image";
    cache_timeout: Duration = value(time), "OPENHANDS_BUILDKIT_CACHE_TIMEOUT",
        CHECKING, "time limit for cache exports", "10m";
    cache_dir: Option<PathBuf> = one(path), "BUILD_CACHE_DIR",
        CHECKING, "a local cache folder, for builds that load", "none";
    strict_cache: bool = switch, "--strict-cache", &[Build], "fail if a cache was not written", "off";
    prune_threshold: Option<u64> = one(|text| number(text, 0..=100)), "BUILDKIT_PRUNE_THRESHOLD_PCT",
        &[Build, Doctor], "percent of the engine's disk at which a batch prunes the build cache",
        "60 in CI, else never";
    prune_keep: u64 = value(|text| number(text, 0..=1_000_000)), "BUILDKIT_PRUNE_KEEP_GB",
        &[Build, Doctor], "how much of the build cache to keep then", "60";
    "Batch"
    jobs: usize = value(|text| number(text, 1..=1000)), "--jobs NUMBER",
        &[Build], "how many images to build at once", "4";
    skip_existing: bool = switch, "--skip-existing",
        &[Build], "skip images that the registry has already", "off";
    timeout: Duration = value(time), "--timeout TIME" "OPENHANDS_DOCKER_COMMAND_TIMEOUT_SECONDS",
        CHECKING, "time limit per image and platform", "2000s";
    "Reports"
    print: bool = switch, "--print", &[Build], "print the bake definition and build nothing", "off";
    records: Option<PathBuf> = one(path), "--records FILE",
        &[Build, Merge], "append a JSON line for each image when it ends", "none";
    timings: Option<PathBuf> = one(page), "--timings[=FILE]",
        &[Build], "write a page on where the time went", "off";
    explain: bool = switch, "--explain", BUILDING, "say why steps ran", "off";
    progress: Option<String> = text, "BUILDKIT_PROGRESS", BUILDING, "auto or plain (all lines)", "auto";
    allow_partial: bool = switch, "--allow-partial", &[Merge], "accept missing platforms", "off";
    update: Option<PathBuf> = one(path), "--update FILE",
        &[Summary], "replace the summary in this file", "none";
    openapi: Option<String> = text, "--openapi FILE",
        &[Api], "the OpenAPI document to check", "the image's own document";
    baseline: Option<String> = text, "--baseline REF",
        &[Api], "compare with this image, or with a file that ends in .json", "none";
}

impl Args {
    /// Reads the flags of `command` and their variables. `words` is what was typed behind its name.
    /// Errors: a usage error for a value that is not accepted, and for a flag of another command.
    pub fn read(command: Command, words: &[OsString]) -> Result<Self> {
        let (typed, words, bake_args) = sorted(command, words)?;
        let mut args = Args::read_flags(command, &typed)?;
        (args.words, args.bake_args) = (words, bake_args);
        // Scripts write `--arch "$ARCH"`.
        args.arch = args.arch.filter(|arch| !arch.is_empty());
        for name in ["CI", "GITHUB_ACTIONS"] {
            args.ci |= variable(name)?.is_some_and(|word| on_or_off(&word) != Ok(false));
        }
        // Flags override variables, and a request without either pushes in CI only.
        let (mut push, mut load) = (Some(args.push), Some(args.load_flag));
        if NAMING.contains(&command) && !args.push && !args.load_flag {
            (push, load) = (switch_variable("PUSH")?, switch_variable("LOAD")?);
        }
        args.push = push.unwrap_or(args.ci) && load != Some(true);
        let both = "--push and --load (or PUSH and LOAD) are both set\nhint: choose one";
        ensure!((push, load) != (Some(true), Some(true)), usage(both));
        let no_push = "--skip-existing is for a push\nhint: add --push";
        ensure!(args.push || !args.skip_existing, usage(no_push));
        let no_layer = "--layer-tag is for a layer\nhint: add --layer";
        ensure!(args.layer.is_some() || args.layer_tag.is_none(), usage(no_layer));
        // A load builds what `docker run` starts. The system alone leaves the architecture to docker.
        if CHECKING.contains(&command) && args.platforms.is_empty() && !args.push {
            let name = variable("DOCKER_DEFAULT_PLATFORM")?;
            let name = name.filter(|name| !name.eq_ignore_ascii_case("linux"));
            args.platforms.extend(name.map(|name| platform(&name)));
        }
        let listed = args.base_images_file.as_deref().map(bases::read_list).transpose()?;
        // A list overrides the variable.
        args.base_image.retain(|_| listed.is_none() || typed.contains_key("--base-image"));
        // What the helper that this program replaces calls its default base image.
        let is_default = args.base_image == ["python-node-runtime"];
        if is_default && args.variant.iter().all(|name| name == "python") {
            args.base_image.clear();
        }
        let named = args.base_image.iter().cloned();
        let named = named.map(|reference| BaseImage { reference, custom_tags: Vec::new() });
        args.base_images = bases::joined(named.chain(listed.into_iter().flatten()));
        Ok(args)
    }

    /// A load is not checked by default: whoever loads an image starts it next.
    pub fn check(&self) -> Check {
        self.check.unwrap_or(if self.push { Check::First } else { Check::Off })
    }
}

/// The values of each flag that was typed.
type Typed = BTreeMap<&'static str, Vec<String>>;

/// Flags with their values, other words, and the arguments for bake.
/// Errors: a usage error for what `command` does not take, and for a flag in place of a value.
fn sorted(command: Command, words: &[OsString]) -> Result<(Typed, Vec<OsString>, Vec<String>)> {
    let not_text = |word: &&OsString| word.to_str().is_none();
    if let Some(word) = words.iter().find(not_text) {
        return Err(usage(format!("the argument {:?} is not UTF-8", word.to_string_lossy())));
    }
    let mut words = words.iter().filter_map(|word| word.to_str());
    let takes_words = matches!(command, Command::Smoke | Api | Merge | Summary);
    let (mut typed, mut others, mut bake_args) = (Typed::new(), Vec::new(), Vec::new());
    while let Some(word) = words.next() {
        if word == "--" && BUILDING.contains(&command) {
            bake_args = read_bake_args(words)?;
            break;
        }
        if takes_words && !word.starts_with('-') {
            others.push(word.into());
            continue;
        }
        let name = word.split('=').next().unwrap_or_default();
        let flag = flags_of(command).find(|flag| flag.name() == name && name.starts_with('-'));
        let flag = flag.ok_or_else(|| unexpected(word, command))?;
        let value = match word.split_once('=') {
            Some(_) if flag.names[0] == name => {
                return Err(usage(format!("{name} takes no value, got {word:?}")));
            }
            Some((_, value)) => value,
            None if flag.names[0] == name => "1",
            None if flag.names[0].contains('[') => "",
            // An unquoted empty variable leaves another flag in place of the value.
            None => words.next().filter(|next| !next.starts_with("--")).ok_or_else(|| {
                let hint = format!("write {name}=VALUE where a value begins with dashes");
                usage(format!("{name} needs a value\nhint: {hint}"))
            })?,
        };
        typed.entry(flag.name()).or_default().push(value.to_owned());
    }
    Ok((typed, others, bake_args))
}

fn flags_of(command: Command) -> impl Iterator<Item = &'static Flag> {
    TABLE.iter().filter(move |flag| flag.commands.contains(&command))
}

/// Reads a value. An error is the hint on what is accepted.
type Parse<T> = fn(&str) -> Result<T, String>;

impl Flag {
    /// As it is typed; the variable's where there is no flag.
    fn name(&self) -> &'static str {
        self.names.first().and_then(|name| name.split([' ', '[']).next()).unwrap_or_default()
    }

    fn variable(&self) -> &'static str {
        self.names.last().filter(|name| !name.starts_with('-')).unwrap_or(&"")
    }

    /// True where the flag is given, or its variable is on.
    fn switch(&self, typed: &Typed) -> Result<bool> {
        Ok(self.one(typed, on_or_off)? == Some(true))
    }

    /// What was typed behind the flag, else its variable unless that is empty.
    fn text(&self, typed: &Typed) -> Result<Option<String>> {
        match typed.get(self.name()).map(Vec::as_slice) {
            None => variable(self.variable()),
            Some([value]) => Ok(Some(value.clone())),
            Some(_) => Err(usage(format!("{} is given twice\nhint: give it once", self.name()))),
        }
    }

    /// What [`Flag::text`] finds, or the default, as `parse` reads it.
    fn value<T>(&self, typed: &Typed, parse: Parse<T>) -> Result<T> {
        self.parse(self.text(typed)?.as_deref().unwrap_or(self.default), parse)
    }

    fn one<T>(&self, typed: &Typed, parse: Parse<T>) -> Result<Option<T>> {
        self.text(typed)?.map(|text| self.parse(&text, parse)).transpose()
    }

    /// The items of the flag, which may be repeated, else of its variable; each once.
    fn list(&self, typed: &Typed, parse: Parse<String>) -> Result<Vec<String>> {
        let text = match typed.get(self.name()) {
            Some(values) => values.join(","),
            None => variable(self.variable())?.unwrap_or_default(),
        };
        let items = split(&text).iter().map(|item| self.parse(item, parse)).collect::<Result<_>>();
        let items = without_repeats(items?);
        let is_wrong = items.is_empty() && typed.contains_key(self.name());
        ensure!(!is_wrong, usage(format!("{} needs a value", self.name())));
        Ok(items)
    }

    /// A sorted set of names: the same set is the same build argument. An empty variable counts.
    fn set<T: Ord>(&self, typed: &Typed, parse: Parse<T>) -> Result<Vec<T>> {
        let text = match self.text(typed)? {
            None if env::var_os(self.variable()).is_some() => String::new(),
            text => text.unwrap_or_else(|| self.default.to_owned()),
        };
        let names = split(&text).into_iter().map(|name| self.parse(&name, parse));
        Ok(names.collect::<Result<BTreeSet<_>>>()?.into_iter().collect())
    }

    fn parse<T>(&self, text: &str, parse: Parse<T>) -> Result<T> {
        let variable = self.names.get(1).map(|variable| format!(" ({variable})"));
        let label = self.name().to_owned() + &variable.unwrap_or_default();
        parse(text).map_err(|hint| refused(&label, text, &hint))
    }
}

/// The error of a value that is not accepted.
fn refused(label: &str, text: &str, hint: &str) -> anyhow::Error {
    usage(format!("{label} {text:?} is not accepted\nhint: {hint}"))
}

/// The value of the environment variable `name`, unless it is unset or empty.
/// Errors: a usage error for a value that is not UTF-8.
pub fn variable(name: &str) -> Result<Option<String>> {
    let Some(value) = env::var_os(name) else { return Ok(None) };
    let value = value.into_string().map_err(|value| {
        let value = value.to_string_lossy();
        usage(format!("{name}={value:?} is not UTF-8\nhint: set it to text, or unset it"))
    })?;
    // Files of variables that Windows wrote end their lines in \r.
    Ok(Some(value.trim().to_owned()).filter(|value| !value.is_empty()))
}

pub(crate) fn switch_variable(name: &str) -> Result<Option<bool>> {
    let Some(word) = variable(name)? else { return Ok(None) };
    on_or_off(&word).map(Some).map_err(|hint| refused(name, &word, &hint))
}

/// Only what changes nothing that is delivered, or the image, its check and its cache would differ.
fn read_bake_args<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<Vec<String>> {
    let mut args = Vec::new();
    while let Some(word) = words.next() {
        let name = word.split('=').next().unwrap_or_default();
        let is_known = ["--provenance", "--sbom", "--allow", "--debug"].contains(&name);
        let hint =
            "use --provenance, --sbom, --allow or --debug; other settings have flags of their own";
        ensure!(is_known, usage(format!("{word:?} behind `--` is not accepted\nhint: {hint}")));
        let mut arg = word.to_owned();
        if name == word && name != "--debug" {
            let value = words.next().filter(|value| !value.starts_with('-'));
            arg += "=";
            arg += value.ok_or_else(|| usage(format!("{name} behind `--` needs a value")))?;
        }
        args.push(arg);
    }
    Ok(args)
}

/// The error for `word`, which `command` does not take: it says what was probably meant.
fn unexpected(word: &str, command: Command) -> anyhow::Error {
    let name = word.split('=').next().unwrap_or_default();
    let suggestion = suggestion(name, flags_of(command).map(Flag::name));
    let other = TABLE.iter().find(|flag| flag.name() == name && name.starts_with('-'));
    let hint = match (name, other) {
        (_, Some(other)) => &format!("it belongs to `{}`", call(other.commands[0])),
        ("--report" | "--manifest" | "--build-info", _) => "use --records FILE",
        ("--progress", _) => "set BUILDKIT_PROGRESS=plain",
        // The helper has this flag.
        ("--build-ctx-only", _) => "--print shows what buildx would get",
        _ if !suggestion.is_empty() => suggestion.trim_start_matches("; "),
        _ => &format!("`{} --help` lists what is accepted", call(command)),
    };
    usage(format!("unexpected argument {word:?}\nhint: {hint}"))
}

/// How `command` is called, without arguments.
pub fn call(command: Command) -> String {
    format!("cargo xtask image {}", command.name()).trim_end().to_owned()
}

/// How to run what was typed in a throw-away engine, with `options` for that.
pub fn in_engine(options: &str) -> String {
    let words = env::args_os().skip(1).map(|word| quoted(&word.to_string_lossy()));
    let typed = words.collect::<Vec<_>>().join(" ");
    format!("`cargo xtask engine {options}-- cargo xtask {typed}`, as root on Debian or Ubuntu")
}

/// `word` as a shell reads it.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The flags and variables of `command`, for its help; only their names where it is to be `short`.
pub fn help(command: Command, short: bool) -> String {
    let mut help = String::new();
    let own = flags_of(command).collect::<Vec<_>>();
    for group in own.chunk_by(|one, other| one.heading == other.heading) {
        let heading = group[0].heading;
        if short {
            let names = group.iter().map(|flag| flag.name()).collect::<Vec<_>>().join(" ");
            help += &wrapped(&format!("{heading}:"), 16, &names);
            continue;
        }
        help += &format!("\n{heading}:\n");
        for flag in group {
            let source = [&flag.names[1..], &[flag.default]].concat().join("; ");
            help +=
                &wrapped(&format!("  {}", flag.names[0]), 32, &format!("{} [{source}]", flag.help));
        }
    }
    help
}

/// `head`, and beside it from the column `indent` on `text`, in lines that fit a terminal.
fn wrapped(head: &str, indent: usize, text: &str) -> String {
    let (mut rows, mut row) = (String::new(), format!("{head:<0$} ", indent - 1));
    for word in text.split(' ') {
        if row.len() + word.len() > 80 {
            rows += &format!("{}\n", row.trim_end());
            row = " ".repeat(indent);
        }
        row += &format!("{word} ");
    }
    format!("{rows}{}\n", row.trim_end())
}

/// The value that is meant; case and surrounding blanks do not matter.
fn choice<T: FromStr<Err = String>>(name: &str) -> Result<T, String> {
    name.trim().to_ascii_lowercase().parse()
}

fn on_or_off(word: &str) -> Result<bool, String> {
    match &*word.to_ascii_lowercase() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("use one of 1, true, yes, on, 0, false, no, off".to_owned()),
    }
}

/// A number of digits alone: `parse` would take `+5` too.
fn digits(text: &str) -> Option<u64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

fn number<T: TryFrom<u64>>(text: &str, range: RangeInclusive<u64>) -> Result<T, String> {
    let number = digits(text).filter(|number| range.contains(number));
    let number = number.and_then(|number| number.try_into().ok());
    number.ok_or_else(|| format!("use a whole number from {} to {}", range.start(), range.end()))
}

/// A time in seconds, or in one unit: `600`, `600s`, `10m`, `1h`; more than 0.
fn time(text: &str) -> Result<Duration, String> {
    let units = [("", 1), ("s", 1), ("m", 60), ("h", 3600)];
    let read = |(unit, seconds)| digits(text.strip_suffix(unit)?)?.checked_mul(seconds);
    let seconds = units.into_iter().find_map(read).filter(|&seconds| seconds > 0);
    let hint = "use whole seconds, as in 600, or a unit, as in 10m";
    Ok(Duration::from_secs(seconds.ok_or(hint)?))
}

/// An absolute path, since bake runs in another folder than the caller.
fn path(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| format!("name a path: {error}"))
}

/// `text`, where it `fits`.
fn accepted(text: &str, fits: bool, hint: &str) -> Result<String, String> {
    if fits { Ok(text.to_owned()) } else { Err(hint.to_owned()) }
}

/// The page of `--timings`; empty for the default one.
fn page(text: &str) -> Result<PathBuf, String> {
    let is_page = text.is_empty() || text.ends_with(".html");
    accepted(text, is_page, "name a file that ends in .html").map(PathBuf::from)
}

/// What docker takes `name` for. A name that is not known here may still be a variant's.
fn platform(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let known = match lower.strip_prefix("linux/").unwrap_or(&lower) {
        "amd64" | "amd64/v1" | "x86_64" | "x86-64" => "linux/amd64",
        "arm64" | "arm64/v8" | "aarch64" | "aarch64/v8" => "linux/arm64",
        _ => name,
    };
    known.to_owned()
}

/// `K/N`, the part of a run and how many there are.
fn shard(text: &str) -> Result<(usize, usize), String> {
    let part = |text| usize::try_from(digits(text)?).ok();
    let parts = text.split_once('/').and_then(|(k, n)| Some((part(k)?, part(n)?)));
    let hint = "write K/N, the part and how many there are, as in 1/4 up to 4/4";
    parts.filter(|(number, of)| (1..=*of).contains(number)).ok_or(hint.to_owned())
}

/// A name that may become a part of tags.
pub fn name(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.chars().all(is_tag_character);
    accepted(text, fits, "use letters, digits, '_', '.' and '-'")
}

fn reference(text: &str) -> Result<String, String> {
    accepted(text, bases::is_reference(text), "write it as in debian:trixie-slim")
}

fn repository(text: &str) -> Result<String, String> {
    let hint = "write it in lower case and without a tag, as in ghcr.io/openhands/agent-server";
    accepted(text, bases::is_repository(text), hint)
}

/// The items of a comma list, without blanks around them and without empty ones.
pub fn split(items: &str) -> Vec<String> {
    items.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// `items` in their order, each once.
pub fn without_repeats(mut items: Vec<String>) -> Vec<String> {
    let mut known = BTreeSet::new();
    items.retain(|item| known.insert(item.clone()));
    items
}
