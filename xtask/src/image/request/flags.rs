//! The table of flags and variables. Reading them, the help, the errors for unknown flags and the
//! README's table all come from it, so a flag is added in one place.

use anyhow::Result;
use pico_args::Arguments;

use base::error::usage;
use base::similar::suggestion;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subcommand {
    /// Without a name: builds.
    Build,
    Run,
    List,
    Doctor,
    Matrix,
    Probe,
    Smoke,
    Api,
    Merge,
    Summary,
}

impl Subcommand {
    /// Empty for the build, which has none.
    pub fn name(self) -> &'static str {
        match self {
            Subcommand::Build => "",
            Subcommand::Run => "run",
            Subcommand::List => "list",
            Subcommand::Doctor => "doctor",
            Subcommand::Matrix => "matrix",
            Subcommand::Probe => "probe",
            Subcommand::Smoke => "smoke",
            Subcommand::Api => "api",
            Subcommand::Merge => "merge",
            Subcommand::Summary => "summary",
        }
    }

    /// How it is called, without arguments.
    pub fn call(self) -> String {
        format!("cargo xtask image {}", self.name()).trim_end().to_owned()
    }
}

/// A flag with its variable, or either alone.
pub struct Flag {
    /// With its dashes; empty for a variable that no flag sets.
    pub name: &'static str,
    /// What its value is called; empty for a switch.
    pub value: &'static str,
    /// Empty where only the flag sets it.
    pub variable: &'static str,
    /// In words; with backticks around what can be typed.
    pub default: &'static str,
    pub help: &'static str,
    pub commands: &'static [Subcommand],
}

const BUILD: &[Subcommand] =
    &[Subcommand::Build, Subcommand::Run, Subcommand::List, Subcommand::Doctor];

/// Makes a constant of each row, and a list of all.
macro_rules! table {
    ($($id:ident $name:literal $value:literal $variable:literal $default:literal
       $commands:expr, $help:literal;)*) => {
        $(pub const $id: Flag = Flag {
            name: $name,
            value: $value,
            variable: $variable,
            default: $default,
            help: $help,
            commands: $commands,
        };)*
        const TABLE: &[Flag] = &[$($id),*];
    };
}

table! {
    VARIANT "--variant" "NAME" "VARIANT"
        "`python`" &[Subcommand::Build, Subcommand::Run, Subcommand::Matrix],
        "variants: repeat it, or `a,b`, or `all`, which is the default of `matrix`";
    BASE_IMAGE "--base-image" "REF" "BASE_IMAGE" "the variant's" BUILD,
        "what the image stands on; repeat it for several";
    BASE_IMAGES "--base-images" "FILE" "" "none" BUILD,
        "more, as `REF` or `REF TAG,TAG` a line, or as JSON; `-` is standard input";
    SHARD "--shard" "K/N" "" "all" BUILD, "builds only part `K` of `N`";
    CUSTOM_TAGS "--custom-tags" "A,B" "CUSTOM_TAGS" "the variant's name" BUILD,
        "what tags are made of; none by default with only a base image";
    TAG_BY "--tag-by" "WHAT" "" "`commit`" BUILD,
        "what tags begin with: `commit`, or `content`, a digest of what goes into the image";
    IMAGE "--image" "REPO" "IMAGE" "`ghcr.io/openhands/agent-server`"
        &[Subcommand::Build, Subcommand::Run, Subcommand::Probe], "the repository";
    CACHE_IMAGE "--cache-image" "REPO" "OPENHANDS_CACHE_IMAGE" "that of the image" BUILD,
        "the repository of caches in a registry";
    LAYER "--layer" "DIR" "" "none" BUILD,
        "builds the Dockerfile in `DIR` on each image too; where it fails, so has the image";
    LAYER_TAG "--layer-tag" "SUFFIX" "" "the folder's name" BUILD,
        "ends the tags of what `--layer` builds";
    IMAGE_FLAVOR "--image-flavor" "NAME" "IMAGE_FLAVOR" "`default`" BUILD,
        "`default`, `slim` or `minimal`; part of tags and cache names";
    TARGET "--target" "NAME" "TARGET" "`binary`" BUILD, "any stage of the Dockerfile";
    INSTALL_CAPABILITIES "--install-capabilities" "LIST" "INSTALL_CAPABILITIES"
        "`vscode,browser,docker`" BUILD,
        "what `base-image` has; an empty value is none";
    INSTALL_ACP_PROVIDERS "--install-acp-providers" "LIST" "INSTALL_ACP_PROVIDERS"
        "`claude-code,codex,gemini-cli`" BUILD,
        "ACP programs, but in `slim` and `minimal`; an empty value is none";
    SDK_PROJECT_ROOT "--sdk-project-root" "PATH" "SDK_PROJECT_ROOT" "as found, else none" BUILD,
        "an SDK checkout to build; by default one around the caller or this repository";
    PREBUILT_SDIST "--prebuilt-sdist" "PATH" "PREBUILT_SDIST" "none: the pinned release" BUILD,
        "the SDK's archive, or packages that replace pinned ones, or a folder of them";
    ALLOW_DIRTY "--allow-dirty" "" "" "off" BUILD, "pushes a checkout with uncommitted changes";
    PLATFORMS "--platforms" "LIST" "PLATFORMS" "the engine's own"
        &[Subcommand::Build, Subcommand::Run, Subcommand::Matrix, Subcommand::Merge],
        "such as `linux/amd64,linux/arm64`";
    ARCH "--arch" "SUFFIX" "ARCH" "none" BUILD, "ends tags and cache names";
    PUSH "--push" "" "PUSH" "on in CI" BUILD, "pushes the image";
    LOAD "--load" "" "LOAD" "on elsewhere" BUILD, "loads it into the engine";
    VERSIONED_TAG "--versioned-tag" "" "VERSIONED_TAG"
        "off" BUILD, "adds tags `X`, `X.Y` and `X.Y.Z`";
    CHECK "--check" "WHICH" "" "`first` of a push, else `off`" BUILD,
        "which images must start before they are named: `first`, `all` or `off`";
    BUILDER "--builder" "NAME" "BUILDX_BUILDER" "buildx's own choice"
        &[Subcommand::Build, Subcommand::Run, Subcommand::Probe, Subcommand::Merge], "the builder";
    JOBS "--jobs" "NUMBER" "" "`8`" BUILD, "how many images one bake builds";
    TIMEOUT "--timeout" "TIME" "OPENHANDS_DOCKER_COMMAND_TIMEOUT_SECONDS" "`2000s`" BUILD,
        "how long an image may take, for each platform; in a batch the others go on";
    SKIP_EXISTING "--skip-existing" "" "" "off" BUILD, "leaves out images that are pushed already";
    BUILD_INFO "--build-info" "PATH" ""
        "none" BUILD, "JSON on what was pushed, for `merge` and `summary`";
    REPORT "--report" "FILE" "" "none" BUILD, "what the cache cost and saved, as JSON";
    MANIFEST "--manifest" "FILE" ""
        "none" BUILD, "adds a JSON line for each image when it ends";
    TIMINGS "--timings" "[=FILE]" "" "off" BUILD,
        "a page on where the time went, or a trace if `FILE` ends in `.json`";
    STRICT_CACHE "--strict-cache" "" "" "off" BUILD, "fails if a cache was not written";
    EXPLAIN "--explain" "" "" "off" BUILD, "says why steps ran";
    PRINT "--print" "" ""
        "off" &[Subcommand::Build],
        "prints the bake definition and builds nothing; in `content`, bases count by name";
    PORT "--port" "NUMBER" ""
        "`8000`" &[Subcommand::Run], "`run`: where the server listens on 127.0.0.1";
    LOGS "--logs" "" "" "off" &[Subcommand::Run], "`run`: shows the server's log once it answers";
    ALLOW_PARTIAL "--allow-partial" "" ""
        "off" &[Subcommand::Merge], "`merge`: accepts missing platforms";
    UPDATE "--update" "FILE" ""
        "none" &[Subcommand::Summary], "`summary`: a file that holds the summary";
    OPENAPI "--openapi" "FILE" ""
        "that of the image" &[Subcommand::Api], "`api`: an OpenAPI document to check";
    BASELINE "--baseline" "REF" "" "none" &[Subcommand::Api],
        "`api`: what it is compared with: an image, or a file that ends in `.json`";
    SDK_SHA "" "" "SDK_SHA" "`GITHUB_SHA`, else git's, else `unknown`" BUILD, "the commit";
    SDK_REF "" "" "SDK_REF"
        "`GITHUB_REF`, else git's, else `unknown`" BUILD, "the branch or git tag";
    SDK_VERSION "" "" "SDK_VERSION"
        "that of the `openhands-sdk` in the image" BUILD, "the version for release tags";
    CACHE_MODE "" "" "OPENHANDS_BUILDKIT_CACHE_MODE"
        "`max`" BUILD, "what caches hold: `max`, `min` or `off`";
    SHARED_EXPORT "" "" "OPENHANDS_SHARED_REGISTRY_CACHE_EXPORT"
        "off" BUILD, "`1` exports the shared cache too";
    CACHE_TIMEOUT "" "" "OPENHANDS_BUILDKIT_CACHE_TIMEOUT"
        "`10m`" BUILD, "how long cache exports may take";
    CACHE_DIR "" "" "BUILD_CACHE_DIR" "none" BUILD, "a cache folder for builds that load";
    PRUNE_THRESHOLD "" "" "BUILDKIT_PRUNE_THRESHOLD_PCT" "`60` in CI, else never" BUILD,
        "percent of the engine's disk at which a batch cuts the build cache";
    PRUNE_KEEP "" "" "BUILDKIT_PRUNE_KEEP_GB" "`60`" BUILD, "how much of it is kept then";
    PROGRESS "" "" "BUILDKIT_PROGRESS" "`auto`" BUILD, "how progress is shown, by buildx's names";
    CERTIFICATES "" "" "SSL_CERT_FILE"
        "Debian's place for them" BUILD, "certificates that RUN steps trust";
    PROXY "" "" "HTTP_PROXY"
        "none" BUILD, "and `HTTPS_PROXY`, `NO_PROXY` etc.: proxies of RUN steps";
    CI "" "" "CI" "off" BUILD, "or `GITHUB_ACTIONS`: CI, unless `0`, `false`, `no` or `off`";
}

impl Flag {
    pub fn label(&self) -> String {
        match (self.name, self.variable) {
            ("", name) | (name, "") => name.to_owned(),
            (name, variable) => format!("{name} ({variable})"),
        }
    }

    fn synopsis(&self) -> String {
        // What may be left out follows its flag at once.
        format!("{} {}", self.name, self.value).replace(" [", "[").trim_end().to_owned()
    }
}

/// Fails with a usage error if an argument is left that nobody asked for.
pub fn finish(args: Arguments, command: Subcommand) -> Result<()> {
    match args.finish().first() {
        None => Ok(()),
        Some(left) => Err(unexpected(&left.to_string_lossy(), command)),
    }
}

/// The error for `word`, which `command` does not take: it says what was probably meant.
pub fn unexpected(word: &str, command: Subcommand) -> anyhow::Error {
    let name = word.split('=').next().unwrap_or_default();
    let known = || TABLE.iter().filter(|flag| !flag.name.is_empty());
    let own = known().filter(|flag| flag.commands.contains(&command));
    let reason = match known().find(|flag| flag.name == name) {
        None if name == "--build-ctx-only" => {
            " no context is made apart; `--print` shows what buildx would get.".to_owned()
        }
        Some(flag) if !flag.commands.contains(&command) => {
            format!(" it belongs to `{}`.", flag.commands[0].call())
        }
        Some(flag) if flag.value.is_empty() && name != word => " it takes no value.".to_owned(),
        Some(_) => " it is given twice.".to_owned(),
        None => suggestion(name, own.map(|flag| flag.name)),
    };
    let help = format!("`{} --help` lists what is accepted.", command.call());
    usage(format!("unexpected argument {word:?}:{reason} {help}"))
}

const WIDTH: usize = 80;
const INDENT: usize = 32;

/// The flags and variables of `command`, for its help.
pub fn help(command: Subcommand) -> String {
    let own = TABLE.iter().filter(|flag| flag.commands.contains(&command));
    let (flags, variables): (Vec<_>, Vec<_>) = own.partition(|flag| !flag.name.is_empty());
    let mut help = String::new();
    let options = flags.iter().map(|flag| help_row(&flag.synopsis(), flag.variable, flag));
    help.push_str("\nOptions, with [VARIABLE; default]:\n");
    help.extend(options);
    if !variables.is_empty() {
        help.push_str("\nVariables, with [default]:\n");
        help.extend(variables.iter().map(|flag| help_row(flag.variable, "", flag)));
    }
    help
}

/// `head` and beside it the explanation, which ends with `variable` and the default.
fn help_row(head: &str, variable: &str, flag: &Flag) -> String {
    let separator = if variable.is_empty() { "" } else { "; " };
    let text = format!("{} [{variable}{separator}{}]", flag.help, flag.default).replace('`', "");
    let mut row = format!("  {head:0$}", INDENT - 2);
    let mut column = if row.len() > INDENT { WIDTH } else { INDENT };
    for word in text.split(' ') {
        if column + word.len() > WIDTH {
            row = format!("{}\n{:INDENT$}", row.trim_end(), "");
            column = INDENT;
        }
        row.push_str(&format!("{word} "));
        column += word.len() + 1;
    }
    row.trim_end().to_owned() + "\n"
}

#[cfg(test)]
#[path = "../../../../tests/unit/flags.rs"]
mod tests;
