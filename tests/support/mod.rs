//! Calls the tasks as a user does: the program, its environment, what it prints.

pub mod bad;
pub mod container;
pub mod engine;
pub mod events;
pub mod expected;
pub mod fake;
pub mod proxy;
pub mod record;
pub mod sdk;
pub mod server;
pub mod terminal;
pub mod workspace;

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

/// A call of `cargo xtask`, with nothing of the caller's environment but what is named here.
pub struct Xtask(pub Command);

/// How a call ended.
#[derive(Debug)]
pub struct Ended {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Xtask {
    /// A call in the checkout of the fixture, where it must not write: it is part of this one.
    pub fn new(args: &[&str]) -> Self {
        Self::within(&fixture(), args)
    }

    /// A call in this checkout, for the image that is shipped.
    pub fn shipped(args: &[&str]) -> Self {
        Self::within(&root(), args)
    }

    /// A call of the tasks as if the checkout were at `root`.
    pub fn within(root: &Path, args: &[&str]) -> Self {
        // `cargo xtask engine` becomes another program, which cargo would look for in `root`.
        let (program, args, folder) = match args {
            ["engine", args @ ..] => (engine_program(), args, "xtask/engine"),
            args => (Path::new(env!("CARGO_BIN_EXE_xtask")), args, "xtask"),
        };
        let mut command = Command::new(program);
        command.args(args).env_clear().env("CARGO_MANIFEST_DIR", root.join(folder));
        for name in ["PATH", "HOME"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.stdin(Stdio::null());
        Xtask(command)
    }

    /// `cargo xtask image --print` with `args`, for a commit of main.
    pub fn print(args: &[&str]) -> Self {
        Self::new(&[&["image", "--print"], args].concat()).on("refs/heads/main")
    }

    /// Names the commit, and the ref that it is built for.
    pub fn on(self, git_ref: &str) -> Self {
        self.env("SDK_SHA", SHA).env("SDK_REF", git_ref)
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Passes on what leads to an engine.
    pub fn in_engine(mut self, engine: &engine::Engine) -> Self {
        for name in ["SSL_CERT_FILE", "TMPDIR"] {
            self.0.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        self.0.envs(engine.variables());
        self
    }

    pub fn end(mut self) -> Ended {
        Ended::from(self.0.output().expect("xtask starts"))
    }

    /// Runs a call that has to succeed.
    #[track_caller]
    pub fn succeed(self) -> Ended {
        let ended = self.end();
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        ended
    }

    /// The definition that `--print` gives.
    pub fn definition(self) -> Value {
        let ended = self.end();
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{}", ended.stdout);
        serde_json::from_str(&ended.stdout).expect("one JSON object on standard output")
    }

    /// The one target of the definition that `--print` gives.
    pub fn target(self) -> Value {
        let definition = self.definition();
        let targets = definition["target"].as_object().expect("targets");
        assert_eq!(targets.len(), 1, "{definition:#}");
        targets.values().next().expect("a target").clone()
    }

    /// What is said of a request that is wrong: one line or one and a hint, status 2, no result.
    pub fn refused(self) -> String {
        let ended = self.end();
        assert_eq!((ended.status, ended.stdout.as_str()), (2, ""), "{}", ended.stderr);
        let mut lines = ended.stderr.lines().skip(1);
        assert!(lines.next().is_none_or(|line| line.starts_with("hint: ")), "{}", ended.stderr);
        assert!(lines.next().is_none(), "{}", ended.stderr);
        ended.stderr
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Ended {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The repository where none is named.
pub const IMAGE: &str = "ghcr.io/openhands/agent-server";

pub const CACHE_MODE: &str = "OPENHANDS_BUILDKIT_CACHE_MODE";
pub const CACHE_TIMEOUT: &str = "OPENHANDS_BUILDKIT_CACHE_TIMEOUT";
pub const SHARED_CACHE: &str = "OPENHANDS_SHARED_REGISTRY_CACHE_EXPORT";

/// A commit for tests that need one.
pub const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

/// The program that `cargo xtask engine` becomes, compiled if need be.
pub fn engine_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "engine"]).current_dir(root());
        assert!(build.status().expect("cargo starts").success());
        Path::new(env!("CARGO_BIN_EXE_xtask")).with_file_name("engine")
    })
}

/// The checkout that is tested.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

/// A small checkout whose variants are the tests' own.
fn fixture() -> PathBuf {
    root().join("tests/fixture")
}

/// The records in a file; none if there is no file.
pub fn records(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

/// The strings of a JSON list.
pub fn strings(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|item| item.as_str().expect("a string")).collect()
}

/// The words of a command, as a shell takes it apart; quotes are single ones.
pub fn shell_words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), None::<String>, false);
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            '\\' if !is_quoted => word.get_or_insert_default().extend(chars.next()),
            ' ' if !is_quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The digest of `bytes`, as registries write it.
pub fn sha256(bytes: &[u8]) -> String {
    let mut sha256sum = Command::new("sha256sum");
    let sha256sum = sha256sum.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = sha256sum.spawn().expect("sha256sum");
    child.stdin.take().expect("a pipe").write_all(bytes).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    format!("sha256:{}", &String::from_utf8_lossy(&output.stdout)[..64])
}

/// `bytes` as buildx writes the output of a step.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let bits = group.iter().fold(0_usize, |bits, &byte| bits << 8 | usize::from(byte));
        let bits = bits << (8 * (3 - group.len()));
        let digit = |n: usize| char::from(DIGITS[bits >> (18 - 6 * n) & 63]);
        (0..=group.len()).map(digit).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

/// The processes that were started with a variable of this value, by number and name.
pub fn processes(variable: &str, value: &Path) -> Vec<(u32, String)> {
    let mark = format!("{variable}={}", value.display());
    let entries = std::fs::read_dir("/proc").expect("processes").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let marked = pids.filter(|pid| {
        let variables = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        variables.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
    });
    let name = |pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    marked.map(|pid| (pid, name(pid).trim().to_owned())).collect()
}

/// A new folder that is removed when this is dropped.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        // Tests of one process may use a name twice.
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(format!("xtask-{process}-{count}-{name}"));
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    /// A copy of the fixture, without git.
    pub fn checkout(name: &str) -> Self {
        Self::copy(name, &fixture())
    }

    /// A copy of what a checkout's image is made of, without git.
    pub fn copy(name: &str, checkout: &Path) -> Self {
        let folder = Self::new(name);
        let mut cp = Command::new("cp");
        cp.arg("-r").arg(checkout.join("agent-server-image")).arg(&folder.0);
        assert!(cp.status().expect("cp").success());
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes a device like `/dev/null` (3) or `/dev/full` (7), which only root can.
pub fn make_device(device: &Path, minor: &str) -> bool {
    let made = Command::new("mknod").arg(device).args(["c", "1", minor]).output();
    made.is_ok_and(|output| output.status.success())
}

/// The commands of the workflow's steps that call the task, in their order, as arguments.
pub fn workflow_steps() -> Vec<Vec<String>> {
    let path = root().join(".github/workflows/image.yml");
    let workflow = std::fs::read_to_string(path).expect("a workflow");
    let run = |line: &str| {
        let line = line.trim().trim_start_matches("- ");
        let command = line.strip_prefix("run: ")?.strip_prefix("xtask ")?;
        Some(command.split(' ').map(str::to_owned).collect())
    };
    workflow.lines().filter_map(run).collect()
}

/// The rule of every registry for a tag.
pub fn is_valid_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}
