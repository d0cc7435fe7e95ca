//! What was typed: flags and variables, read once into [`Args`]. A flag is a row of the table below,
//! which makes its field, its reader, its help and the error for where it does not belong.
//!
//! A flag overrides its variable, and an empty variable counts as unset, but for the two `INSTALL_`
//! variables, where empty means none.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use base::error::usage;
use base::message;
use base::similar::{suggestion, use_one_of};
use pico_args::Arguments;

use crate::bases::{self, BaseImage, Shard};
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
    /// How progress is shown, as docker calls it: `Plain` is all lines, at a terminal too; the others are
    /// the same here.
    Progress {
        Auto = "auto", Plain = "plain", Tty = "tty", Quiet = "quiet", Silent = "none",
        RawJson = "rawjson",
    }
}

impl Flavor {
    /// Its name in tags and cache names, which others that have no flavors compute without one.
    pub fn part(self) -> Option<&'static str> {
        Some(self.name()).filter(|_| self != Flavor::Default)
    }
}

/// A flag with its variable, or either alone: the other is empty then.
#[derive(Clone, Copy, Default)]
struct Flag {
    heading: &'static str,
    name: &'static str,
    /// What its value is called; empty for a switch.
    value: &'static str,
    variable: &'static str,
    default: &'static str,
    help: &'static str,
    commands: &'static [Command],
}

/// Makes [`Args`] and its reader, and the list of all flags.
macro_rules! options {
    ($($heading:literal { $(
        $field:ident: $type:ty = $read:ident $(($parse:expr))?,
        $name:literal $value:literal $variable:literal [$default:literal] $commands:expr,
        $help:literal;
    )* })*) => {
        /// What was typed.
        // Each of the switches stands for itself: no two of them make a state.
        #[allow(clippy::struct_excessive_bools)]
        pub struct Args {
            $($(pub $field: $type,)*)*
            /// True in a CI system's run.
            pub ci: bool,
            /// The base images that replace the variants' own, listed ones included.
            pub base_images: Vec<BaseImage>,
            /// Words that are not flags: files or an image, for the subcommands that take some.
            pub words: Vec<OsString>,
            /// The arguments behind `--`, for bake, each with its value in one word.
            pub bake_args: Vec<String>,
        }

        const TABLE: &[Flag] = &[$($(Flag {
            heading: $heading,
            name: $name,
            value: $value,
            variable: $variable,
            default: $default,
            help: $help,
            commands: $commands,
        },)*)*];

        impl Args {
            fn read_flags(command: Command, words: &mut Arguments) -> Result<Self> {
                // Another command's flag is not looked for, which leaves its default.
                let mut rows = TABLE.iter().map(|row| {
                    let is_own = row.commands.contains(&command);
                    if is_own { *row } else { Flag { name: "", variable: "", ..*row } }
                });
                Ok(Args {
                    // Rows come in the order of the fields.
                    $($($field: rows.next().unwrap_or_default().$read(words $(, $parse)?)?,)*)*
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

/// What the helper that this program replaces calls its default base image.
const HELPERS_DEFAULT: &str = "python-node-runtime";

/// The subcommands that take a request for images.
const REQUEST: &[Command] = &[Build, Run, List, Doctor];
/// Those of them that name images.
const NAMING: &[Command] = &[Build, List, Doctor];
/// Those of them that build.
const BUILDING: &[Command] = &[Build, Run];
/// Those, and the one that says whether they can.
const CHECKING: &[Command] = &[Build, Run, Doctor];

options! {
    "What to build" {
        variant: Vec<String> = list, "--variant" "NAME" "VARIANT" ["python"]
            &[Build, Run, List, Doctor, Matrix],
            "variants: repeat it, or a,b, or all (matrix: default all)";
        base_image: Vec<String> = typed, "--base-image" "REF" "BASE_IMAGE" ["the variant's base image"]
            REQUEST, "build on this image; repeat it for several";
        base_images_file: Option<String> = text, "--base-images" "FILE" "" ["none"]
            NAMING,
            "build on each image of a list: REF or REF TAG,TAG a line, or JSON; - reads standard input";
        shard: Option<Shard> = one(Shard::parse), "--shard" "K/N" "" ["all"]
            NAMING, "build only part K of N";
        target: String = word, "--target" "NAME" "TARGET" ["binary"]
            REQUEST, "the stage to build; `image list` names all";
        flavor: Flavor = value(choice), "--image-flavor" "NAME" "IMAGE_FLAVOR" ["default"]
            REQUEST, "default, slim or minimal; part of tags and cache names";
        capabilities: Vec<Capability> = set(choice),
            "--install-capabilities" "LIST" "INSTALL_CAPABILITIES" ["vscode,browser,docker"]
            REQUEST, "install these in base-image; an empty value installs none";
        acp_providers: Vec<String> = set(provider),
            "--install-acp-providers" "LIST" "INSTALL_ACP_PROVIDERS" ["claude-code,codex,gemini-cli"]
            REQUEST, "install these ACP programs; an empty value installs none";
        sdk_project_root: Option<PathBuf> = one(path),
            "--sdk-project-root" "PATH" "SDK_PROJECT_ROOT" ["the checkout around you, or none"]
            REQUEST, "build this SDK checkout";
        prebuilt_sdist: Option<PathBuf> = one(path),
            "--prebuilt-sdist" "FILE" "PREBUILT_SDIST" ["none: the pinned release"]
            REQUEST, "build the SDK workspace in this archive (uv build --sdist)";
        platforms: Vec<String> = list, "--platforms" "LIST" "PLATFORMS" ["the engine's; matrix, merge: the variant's"]
            &[Build, Run, List, Doctor, Matrix, Merge], "such as linux/amd64,linux/arm64";
        builder_image: Option<String> = one(reference),
            "--builder-image" "REF" "BUILDER_IMAGE" ["as in docker-bake.json"]
            REQUEST, "build the server's files on this image";
        tools_image: Option<String> = one(reference),
            "--tools-image" "REF" "TOOLS_IMAGE" ["as in docker-bake.json"]
            REQUEST, "take Docker and Chromium from this Debian image";
        vertex: bool = switch, "" "" "ENABLE_VERTEX" ["off"]
            REQUEST, "1 installs what Vertex AI models need";
        upgrade_packages: bool = switch, "" "" "UPGRADE_PACKAGES" ["off"]
            REQUEST, "1 upgrades all Debian packages of the base image";
    }
    "Names" {
        image: String = value(repository), "--image" "REPO" "IMAGE" ["ghcr.io/openhands/agent-server"]
            &[Build, Run, List, Doctor, Probe], "the repository";
        custom_tags: Option<String> = text,
            "--custom-tags" "A,B" "CUSTOM_TAGS" ["the variant's name"]
            NAMING, "make tags of these; with only a base image, none by default";
        tag_by: TagBy = value(choice), "--tag-by" "WHAT" "" ["commit"]
            NAMING, "begin tags with commit, or with content: a digest of what goes into the image";
        arch: Option<String> = one(arch), "--arch" "SUFFIX" "ARCH" ["none"]
            NAMING, "end tags and cache names with this";
        versioned_tag: bool = switch, "--versioned-tag" "" "VERSIONED_TAG" ["off"]
            NAMING, "add the tags X, X.Y and X.Y.Z";
        sha: Option<String> = text, "" "" "SDK_SHA" ["from git, else unknown"]
            NAMING, "the commit";
        git_ref: Option<String> = text, "" "" "SDK_REF" ["from git, else unknown"]
            NAMING, "the branch or git tag";
        version: Option<String> = text, "" "" "SDK_VERSION" ["openhands-sdk's in the image"]
            NAMING, "the version of release tags";
    }
    "Where to" {
        push: bool = switch, "--push" "" "" ["default in CI"]
            NAMING, "push the image; PUSH=1 too";
        load_flag: bool = switch, "--load" "" "" ["default outside CI"]
            NAMING, "load the image into the engine; LOAD=1 too";
        allow_dirty: bool = switch, "--allow-dirty" "" "" ["off"]
            &[Build, Doctor], "push a checkout with uncommitted changes";
        check: Option<Check> = one(choice),
            "--check" "WHICH" "" ["first for a push, else off"]
            &[Build], "start images and wait for /health before pushing: first, all or off";
        layer: Option<PathBuf> = one(path), "--layer" "DIR" "" ["none"]
            &[Build, List], "also build DIR/Dockerfile on top of each image";
        layer_tag: Option<String> = one(tag_part), "--layer-tag" "SUFFIX" "" ["the folder's name"]
            &[Build, List], "end the tags of what --layer builds with this";
        builder: Option<String> = text, "--builder" "NAME" "BUILDX_BUILDER" ["buildx's own choice"]
            &[Build, Run, List, Doctor, Probe, Merge], "the buildx builder";
        port: u16 = value(port), "--port" "NUMBER" "" ["8000"]
            &[Run], "listen here on 127.0.0.1";
        logs: bool = switch, "--logs" "" "" ["off"]
            &[Run], "show the server's log once it answers";
    }
    "Cache" {
        cache_mode: Mode = value(choice), "" "" "OPENHANDS_BUILDKIT_CACHE_MODE" ["max"]
            CHECKING, "what caches hold: max (every stage), min (the image's layers), off";
        shared_export: bool = switch, "" "" "OPENHANDS_SHARED_REGISTRY_CACHE_EXPORT" ["off"]
            CHECKING, "1 exports the cache shared by all base images too";
        cache_image: Option<String> = one(repository),
            "--cache-image" "REPO" "OPENHANDS_CACHE_IMAGE" ["same as --image"]
            CHECKING, "the repository of caches";
        cache_timeout: Duration = value(time), "" "" "OPENHANDS_BUILDKIT_CACHE_TIMEOUT" ["10m"]
            CHECKING, "time limit for cache exports";
        cache_dir: Option<PathBuf> = one(path), "" "" "BUILD_CACHE_DIR" ["none"]
            CHECKING, "a local cache folder, for builds that load";
        strict_cache: bool = switch, "--strict-cache" "" "" ["off"]
            &[Build], "fail if a cache was not written";
        prune_threshold: Option<u64> = one(percent),
            "" "" "BUILDKIT_PRUNE_THRESHOLD_PCT" ["60 in CI, else never"]
            &[Build, Doctor], "percent of the engine's disk at which a batch prunes the build cache";
        prune_keep: Option<u64> = one(number), "" "" "BUILDKIT_PRUNE_KEEP_GB" ["60"]
            &[Build, Doctor], "how much of the build cache to keep then";
    }
    "Batch" {
        jobs: usize = value(jobs), "--jobs" "NUMBER" "" ["4"]
            &[Build], "how many images to build at once";
        skip_existing: bool = switch, "--skip-existing" "" "" ["off"]
            &[Build], "skip images that the registry has already";
        timeout: Duration = value(time),
            "--timeout" "TIME" "OPENHANDS_DOCKER_COMMAND_TIMEOUT_SECONDS" ["2000s"]
            CHECKING, "time limit per image and platform";
    }
    "Reports" {
        print: bool = switch, "--print" "" "" ["off"]
            &[Build], "print the bake definition and build nothing";
        records: Option<PathBuf> = one(path), "--records" "FILE" "" ["none"]
            &[Build, Merge], "append a JSON line for each image when it ends";
        timings: Option<PathBuf> = one(page), "--timings" "[=FILE]" "" ["off"]
            &[Build], "write a page on where the time went";
        explain: bool = switch, "--explain" "" "" ["off"]
            BUILDING, "say why steps ran";
        progress: Option<Progress> = one(choice), "" "" "BUILDKIT_PROGRESS" ["auto"]
            BUILDING, "auto or plain (all lines)";
        allow_partial: bool = switch, "--allow-partial" "" "" ["off"]
            &[Merge], "accept missing platforms";
        update: Option<PathBuf> = one(path), "--update" "FILE" "" ["none"]
            &[Summary], "replace the summary in this file";
        openapi: Option<String> = text, "--openapi" "FILE" "" ["the image's own document"]
            &[Api], "the OpenAPI document to check";
        baseline: Option<String> = text, "--baseline" "REF" "" ["none"]
            &[Api], "compare with this image, or with a file that ends in .json";
    }
}

/// Flags of earlier versions, with what is used now.
const GONE: [(&str, &str); 5] = [
    ("--report", "use --records FILE"),
    ("--manifest", "use --records FILE"),
    ("--build-info", "use --records FILE"),
    ("--progress", "set BUILDKIT_PROGRESS=plain"),
    ("--build-ctx-only", "--print shows what buildx would get"),
];

impl Args {
    /// Reads the flags of `command` and their variables. `words` is what was typed behind its name.
    /// Errors: a usage error for a value that is not accepted, and for a flag of another command.
    pub fn read(command: Command, words: Vec<OsString>) -> Result<Self> {
        let (mut words, bake_args) = split_at_dashes(words)?;
        let mut args = Args::read_flags(command, &mut words)?;
        args.arch = args.arch.filter(|arch| !arch.is_empty());
        args.words = words.finish();
        let takes_words = matches!(command, Command::Smoke | Api | Merge | Summary);
        for word in &args.words {
            let word = word.to_string_lossy();
            if word.starts_with('-') || !takes_words {
                return Err(unexpected(&word, command));
            }
        }
        args.bake_args = read_bake_args(bake_args, command)?;
        for name in ["CI", "GITHUB_ACTIONS"] {
            args.ci |= variable(name)?.is_some_and(|word| on_or_off(&word) != Ok(false));
        }
        if NAMING.contains(&command) {
            args.settle_delivery()?;
        }
        if args.skip_existing && !args.push {
            return Err(usage("--skip-existing is for a push\nhint: add --push"));
        }
        if args.layer_tag.is_some() && args.layer.is_none() {
            return Err(usage("--layer-tag is for a layer\nhint: add --layer"));
        }
        if REQUEST.contains(&command) {
            args.read_base_images()?;
        }
        // A name that is not known here may still be a variant's.
        let named = args.platforms.into_iter();
        let named = named.map(|name| platform(&name).map_or(name, str::to_owned));
        args.platforms = without_repeats(named.collect());
        // What `docker run` starts is what a load has to build.
        if CHECKING.contains(&command) && args.platforms.is_empty() && !args.push {
            let names = split(&variable("DOCKER_DEFAULT_PLATFORM")?.unwrap_or_default());
            // The system alone leaves the architecture to docker.
            for name in names.into_iter().filter(|name| !name.eq_ignore_ascii_case("linux")) {
                let known = platform(&name).ok_or_else(|| {
                    let hint = "set it to linux/amd64 or linux/arm64, or use --platforms";
                    usage(format!("DOCKER_DEFAULT_PLATFORM {name:?} is not accepted\nhint: {hint}"))
                })?;
                args.platforms.push(known.to_owned());
            }
        }
        Ok(args)
    }

    /// Flags override variables, and a request without either pushes in CI only. Without `push` it loads.
    fn settle_delivery(&mut self) -> Result<()> {
        let (push, load) = match (self.push, self.load_flag) {
            (false, false) => (switch_variable("PUSH")?, switch_variable("LOAD")?),
            (push, load) => (Some(push), Some(load)),
        };
        if push == Some(true) && load == Some(true) {
            let both = "--push and --load (or PUSH and LOAD) are both set\nhint: choose one";
            return Err(usage(both));
        }
        self.push = push.unwrap_or(self.ci) && load != Some(true);
        Ok(())
    }

    /// The base images that flags name, one by one and in a list; the variable's where none does.
    fn read_base_images(&mut self) -> Result<()> {
        if let Some(path) = &self.base_images_file {
            self.base_images = bases::read_list(path)?;
        } else if self.base_image.is_empty() {
            self.base_image = split(&variable("BASE_IMAGE")?.unwrap_or_default());
        }
        if self.base_image == [HELPERS_DEFAULT] && self.variant.iter().all(|name| name == "python")
        {
            message::say(&format!("base image {HELPERS_DEFAULT}: building the variant python"));
            self.base_image.clear();
        }
        let mut named = Vec::new();
        for name in &self.base_image {
            if name == HELPERS_DEFAULT {
                return Err(usage(format!(
                    "the base image {HELPERS_DEFAULT} is the variant python\nhint: build that by a run of its own, \
                     with --variant python"
                )));
            }
            let reference =
                reference(name).map_err(|why| usage(format!("the base image {name:?} {why}")))?;
            named.push(BaseImage { reference, custom_tags: Vec::new() });
        }
        named.append(&mut self.base_images);
        self.base_images = bases::joined(named);
        Ok(())
    }

    /// A load is not checked by default: whoever loads an image starts it next.
    pub fn check(&self) -> Check {
        self.check.unwrap_or(if self.push { Check::First } else { Check::Off })
    }
}

/// Reads a value. An error is the end of a sentence that begins with the flag and the value.
type Parse<T> = fn(&str) -> Result<T, String>;

impl Flag {
    /// True where the flag is given, or its variable is on.
    fn switch(&self, words: &mut Arguments) -> Result<bool> {
        let given = !self.name.is_empty() && words.contains(self.name);
        Ok(switch_variable(self.variable)? == Some(true) || given)
    }

    /// What was typed behind the flag, else its variable unless that is empty.
    fn text(&self, words: &mut Arguments) -> Result<Option<String>> {
        if !self.name.is_empty()
            && let Some(given) = words.opt_value_from_str(self.name).map_err(unread)?
        {
            return Ok(Some(given));
        }
        variable(self.variable)
    }

    /// What [`Flag::text`] finds, else the default.
    fn word(&self, words: &mut Arguments) -> Result<String> {
        Ok(self.text(words)?.unwrap_or_else(|| self.default.to_owned()))
    }

    /// What [`Flag::word`] finds, as `parse` reads it.
    fn value<T>(&self, words: &mut Arguments, parse: Parse<T>) -> Result<T> {
        self.parse(&self.word(words)?, parse)
    }

    /// What [`Flag::text`] finds, as `parse` reads it.
    fn one<T>(&self, words: &mut Arguments, parse: Parse<T>) -> Result<Option<T>> {
        self.text(words)?.map(|text| self.parse(&text, parse)).transpose()
    }

    /// The items of the flag, which may be repeated, else of its variable; each once.
    fn list(&self, words: &mut Arguments) -> Result<Vec<String>> {
        let typed = self.typed(words)?;
        if !typed.is_empty() {
            return Ok(typed);
        }
        Ok(without_repeats(split(&variable(self.variable)?.unwrap_or_default())))
    }

    /// The items of the flag alone.
    fn typed(&self, words: &mut Arguments) -> Result<Vec<String>> {
        if self.name.is_empty() {
            return Ok(Vec::new());
        }
        let given: Vec<String> = words.values_from_str(self.name).map_err(unread)?;
        let items = without_repeats(split(&given.join(",")));
        if items.is_empty() && !given.is_empty() {
            return Err(usage(format!("{} needs a value", self.name)));
        }
        Ok(items)
    }

    /// A sorted set of names: the same set is the same build argument. An empty variable counts.
    fn set<T: Ord>(&self, words: &mut Arguments, parse: Parse<T>) -> Result<Vec<T>> {
        let text = match self.text(words)? {
            None if env::var_os(self.variable).is_some() => String::new(),
            text => text.unwrap_or_else(|| self.default.to_owned()),
        };
        let names = split(&text).into_iter().map(|name| self.parse(&name, parse));
        Ok(names.collect::<Result<BTreeSet<_>>>()?.into_iter().collect())
    }

    fn parse<T>(&self, text: &str, parse: Parse<T>) -> Result<T> {
        let label = match (self.name, self.variable) {
            ("", name) | (name, "") => name.to_owned(),
            (name, variable) => format!("{name} ({variable})"),
        };
        parse(text).map_err(|why| usage(format!("{label} {text:?} {why}")))
    }
}

/// The error of a flag whose value can't be read.
fn unread(error: pico_args::Error) -> anyhow::Error {
    match error {
        pico_args::Error::OptionWithoutAValue(name) => usage(format!("{name} needs a value")),
        error => usage(error.to_string()),
    }
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
    on_or_off(&word).map(Some).map_err(|why| usage(format!("{name} {word:?} {why}")))
}

/// The flags before `--`, and the arguments behind it. An empty value, as in `--arch=`, is a value.
/// `--timings` needs none, which reads as an empty one.
/// Errors: a usage error for a flag in place of a value, as an unquoted empty variable leaves it.
fn split_at_dashes(words: Vec<OsString>) -> Result<(Arguments, Vec<OsString>)> {
    let mut flags: Vec<OsString> = Vec::new();
    let mut rest = words.into_iter();
    for word in rest.by_ref().take_while(|word| word != "--") {
        let text = word.to_string_lossy().into_owned();
        if let Some(last) = flags.last()
            && let Some(flag) = TABLE.iter().find(|flag| last == flag.name)
            && !flag.value.is_empty()
            && text.starts_with("--")
        {
            let name = flag.name;
            return Err(usage(format!(
                "{name} needs a value, and {text} is a flag\nhint: write {name}=VALUE where a value begins \
                 with dashes"
            )));
        }
        match text.split_once('=') {
            _ if text == "--timings" => flags.extend([word, OsString::new()]),
            Some((name, "")) if name.starts_with("--") => {
                flags.extend([name.into(), OsString::new()]);
            }
            _ => flags.push(word),
        }
    }
    Ok((Arguments::from_vec(flags), rest.collect()))
}

/// Behind `--`, only what changes nothing that is delivered: anything else would make the image, its
/// check and its cache three different builds.
fn read_bake_args(words: Vec<OsString>, command: Command) -> Result<Vec<String>> {
    let mut words = words.into_iter().map(|word| word.to_string_lossy().into_owned());
    let mut args = Vec::new();
    while let Some(word) = words.next() {
        if !BUILDING.contains(&command) {
            return Err(unexpected(&word, command));
        }
        match word.split_once('=').map_or((&*word, None), |(name, value)| (name, Some(value))) {
            ("--provenance" | "--sbom" | "--allow", Some(_))
            | ("--debug", None | Some("1" | "true" | "0" | "false")) => args.push(word),
            (name @ ("--provenance" | "--sbom" | "--allow"), None) => {
                let value = words.next().filter(|value| !value.starts_with('-'));
                let value =
                    value.ok_or_else(|| usage(format!("{name} behind `--` needs a value")))?;
                args.push(format!("{name}={value}"));
            }
            _ => {
                return Err(usage(format!(
                    "{word:?} behind `--` is not accepted\nhint: use --provenance, --sbom, --allow or \
                     --debug; other settings have flags of their own"
                )));
            }
        }
    }
    Ok(args)
}

/// The error for `word`, which `command` does not take: it says what was probably meant.
fn unexpected(word: &str, command: Command) -> anyhow::Error {
    let name = word.split('=').next().unwrap_or_default();
    let mut flags = TABLE.iter().filter(|flag| !flag.name.is_empty());
    let own = flags.clone().filter(|flag| flag.commands.contains(&command));
    let suggestion = suggestion(name, own.map(|flag| flag.name));
    let mut hint = format!("`{} --help` lists what is accepted", call(command));
    let mut reason = "";
    match flags.find(|flag| flag.name == name) {
        Some(flag) if !flag.commands.contains(&command) => {
            hint = format!("it belongs to `{}`", call(flag.commands[0]));
        }
        Some(flag) if flag.value.is_empty() && name != word => reason = ": it takes no value",
        Some(_) => reason = ": it is given twice",
        None if let Some((_, instead)) = GONE.iter().find(|(gone, _)| *gone == name) => {
            (reason, hint) = (": there is no such flag any more", (*instead).to_owned());
        }
        None if suggestion.is_empty() => {}
        None => suggestion.trim_start_matches("; ").clone_into(&mut hint),
    }
    usage(format!("unexpected argument {word:?}{reason}\nhint: {hint}"))
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
    let own = TABLE.iter().filter(|flag| flag.commands.contains(&command)).collect::<Vec<_>>();
    let mut help = String::new();
    if !short && !own.is_empty() {
        help += "\nOptions and variables, with [VARIABLE; default]:\n";
    }
    for group in own.chunk_by(|one, other| one.heading == other.heading) {
        let heading = group[0].heading;
        if short {
            let name = |flag: &&Flag| if flag.name.is_empty() { flag.variable } else { flag.name };
            let names = group.iter().map(name).collect::<Vec<_>>().join(" ");
            help += &wrapped(&format!("{heading}:"), 16, &names);
            continue;
        }
        help += &format!("\n{heading}:\n");
        for Flag { name, value, variable, default, help: about, .. } in group {
            let (head, source) = match (*name, *variable) {
                ("", variable) => (variable.to_owned(), String::new()),
                (_, "") => (format!("{name} {value}"), String::new()),
                _ => (format!("{name} {value}"), format!("{variable}; ")),
            };
            // What may be left out follows its flag at once.
            let head = format!("  {}", head.replace(" [", "[").trim_end());
            help += &wrapped(&head, 32, &format!("{about} [{source}{default}]"));
        }
    }
    help
}

/// `head`, and beside it from the column `indent` on `text`, in lines that fit a terminal.
fn wrapped(head: &str, indent: usize, text: &str) -> String {
    const WIDTH: usize = 80;
    let mut rows = format!("{head:indent$}");
    let mut column = if rows.len() > indent { WIDTH } else { indent };
    for word in text.split(' ') {
        if column + word.len() > WIDTH {
            rows = format!("{}\n{:indent$}", rows.trim_end(), "");
            column = indent;
        }
        rows.push_str(&format!("{word} "));
        column += word.len() + 1;
    }
    rows.trim_end().to_owned() + "\n"
}

/// The value that is meant; case and surrounding blanks do not matter.
fn choice<T: FromStr<Err = String>>(name: &str) -> Result<T, String> {
    let value = name.trim().to_ascii_lowercase().parse();
    value.map_err(|hint| format!("is not accepted\nhint: {hint}"))
}

fn on_or_off(word: &str) -> Result<bool, String> {
    let known = ["1", "true", "yes", "on", "0", "false", "no", "off"];
    let word = word.trim().to_ascii_lowercase();
    let place = known
        .iter()
        .position(|known| *known == word)
        .ok_or_else(|| format!("is not accepted\nhint: {}", use_one_of(&word, &known)))?;
    Ok(place < 4)
}

/// A number of digits alone: `parse` would take `+5` too.
pub fn digits(text: &str) -> Option<u64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

fn number(text: &str) -> Result<u64, String> {
    Ok(digits(text).ok_or("is not a whole number")?)
}

fn percent(text: &str) -> Result<u64, String> {
    Ok(digits(text).filter(|&part| part <= 100).ok_or("is not a whole number from 0 to 100")?)
}

/// A time in seconds, or in one unit: `600`, `600s`, `10m`, `1h`; more than 0.
fn time(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let number = text.trim_end_matches(['s', 'm', 'h']);
    let unit = match &text[number.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    let seconds = digits(number).and_then(|number| number.checked_mul(unit)).filter(|&s| s > 0);
    let why = "is not a time\nhint: use whole seconds, as in 600, or a unit, as in 10m";
    Ok(Duration::from_secs(seconds.ok_or(why)?))
}

fn jobs(text: &str) -> Result<usize, String> {
    let jobs = digits(text).and_then(|jobs| usize::try_from(jobs).ok()).filter(|&jobs| jobs > 0);
    Ok(jobs.ok_or("is not a number of images\nhint: use 1 or more, as in 4")?)
}

fn port(text: &str) -> Result<u16, String> {
    let port = digits(text).and_then(|port| u16::try_from(port).ok()).filter(|&port| port > 0);
    Ok(port.ok_or("is not a port\nhint: use a number from 1 to 65535")?)
}

/// An absolute path, since bake runs in another folder than the caller; `~` is the home folder.
fn path(text: &str) -> Result<PathBuf, String> {
    let path = match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let home = env::var_os("HOME").filter(|home| !home.is_empty());
            let home = home.ok_or("begins with ~, but HOME is not set")?;
            PathBuf::from(home).join(rest.trim_start_matches('/'))
        }
        _ => PathBuf::from(text),
    };
    std::path::absolute(path).map_err(|error| format!("is not a path ({error})"))
}

/// `text`, where it `fits`.
fn accepted(text: &str, fits: bool, why: &str) -> Result<String, String> {
    if fits { Ok(text.to_owned()) } else { Err(why.to_owned()) }
}

/// The page of `--timings`; empty for the default one.
fn page(text: &str) -> Result<PathBuf, String> {
    let is_page = text.is_empty() || text.ends_with(".html");
    accepted(text, is_page, "is not a page\nhint: name a file that ends in .html")
        .map(PathBuf::from)
}

/// The platform that docker takes `name` for, if it is one of those that images are usually for.
fn platform(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    match name.strip_prefix("linux/").unwrap_or(&name) {
        "amd64" | "amd64/v1" | "x86_64" | "x86-64" => Some("linux/amd64"),
        "arm64" | "arm64/v8" | "aarch64" | "aarch64/v8" => Some("linux/arm64"),
        _ => None,
    }
}

/// Empty for none, as scripts write it: `--arch "$ARCH"`.
fn arch(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { tag_part(text) }
}

/// A suffix that becomes a part of tags.
fn tag_part(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.chars().all(is_tag_character);
    let hint = "use letters, digits, '_', '.' and '-', as in arm64";
    accepted(text, fits, &format!("can't be part of a tag\nhint: {hint}"))
}

fn reference(text: &str) -> Result<String, String> {
    let why = "is not an image reference\nhint: write it as in debian:trixie-slim";
    accepted(text, bases::is_reference(text), why)
}

fn repository(text: &str) -> Result<String, String> {
    let hint = "write it in lower case and without a tag, as in ghcr.io/openhands/agent-server";
    accepted(text, bases::is_repository(text), &format!("is not a repository\nhint: {hint}"))
}

/// The catalog of the server that goes into the image says which providers there are.
fn provider(name: &str) -> Result<String, String> {
    let fits = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    accepted(&name.to_ascii_lowercase(), fits, "is not the name of an ACP provider")
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
