//! What `BuildKit` and buildx call things and how they word errors. Nothing else in this program
//! knows these words: a new version that changes one of them is met here.

/// What the name of a vertex says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vertex<'a> {
    /// Reading the cache of this name: a reference, or `local:` and a digest.
    CacheImport(&'a str),
    CacheExport,
    /// Exporting the image: making its layers, and sending them.
    ImageExport,
    /// Sending the manifest of an image.
    Push,
    /// Finding or pulling a base image.
    Base {
        reference: &'a str,
        digest: &'a str,
    },
    /// An instruction of the Dockerfile.
    Step,
    /// Reading the Dockerfile, the context and the like.
    Internal,
}

impl<'a> Vertex<'a> {
    /// Reads the name of a vertex, without the name of its target.
    pub fn of(name: &'a str) -> Self {
        if let Some(cache) = name.strip_prefix("importing cache manifest from ") {
            Vertex::CacheImport(cache)
        } else if name.starts_with("exporting cache") {
            Vertex::CacheExport
        } else if name.starts_with("pushing ") {
            Vertex::Push
        } else if name.starts_with("exporting ") || name.starts_with("importing to ") {
            Vertex::ImageExport
        } else {
            Self::instruction(name).unwrap_or(Vertex::Internal)
        }
    }

    /// Instructions have a number in their stage, as in `[builder 2/6] RUN make`.
    fn instruction(name: &'a str) -> Option<Self> {
        let (place, instruction) = name.strip_prefix('[')?.split_once("] ")?;
        if let Some(base) = instruction.strip_prefix("FROM ") {
            let (reference, digest) = base.split_once('@').unwrap_or((base, ""));
            return Some(Vertex::Base { reference, digest });
        }
        let number = place.rsplit_once(' ').map_or(place, |(_, number)| number);
        let (number, of) = number.split_once('/')?;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        (is_number(number) && is_number(of)).then_some(Vertex::Step)
    }
}

/// A vertex of one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetVertex {
    /// The number of the target.
    pub target: usize,
    /// The name of the vertex without that of its target.
    pub name: String,
}

/// Finds the target that the vertex `name` belongs to. With several targets, buildx puts the
/// target's name into the brackets that a vertex's name starts with, or before it in brackets of
/// its own.
pub fn split_target(targets: &[String], name: &str) -> Option<TargetVertex> {
    if targets.len() == 1 {
        return Some(TargetVertex { target: 0, name: name.to_owned() });
    }
    targets.iter().enumerate().find_map(|(target, prefix)| {
        let rest = name.strip_prefix('[')?.strip_prefix(prefix.as_str())?;
        let own = rest.strip_prefix("] ").map(str::to_owned);
        let name = own.or_else(|| rest.strip_prefix(' ').map(|rest| format!("[{rest}")))?;
        Some(TargetVertex { target, name })
    })
}

/// Is a part of an image's export, called `status`, the sending of its layers?
pub fn is_push(status: &str) -> bool {
    status.starts_with("pushing ")
}

/// Is the part of a vertex called `status` the sending of a Dockerfile or a context to the builder?
pub fn is_transfer(status: &str) -> bool {
    status.starts_with("transferring ")
}

/// Why something failed, as far as its error says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Something else failed first, or an equal step of another target does the work.
    Canceled,
    /// The command of a step failed.
    Step,
    /// The command of a step could not fetch something.
    StepNetwork,
    /// The command of a step was killed, or got no memory.
    Killed,
    /// The base image, or what a step starts, is for another machine.
    WrongPlatform,
    /// The Dockerfile can't be read.
    Syntax,
    /// COPY or a mount names a file that is not there.
    MissingFile,
    /// A layer that a cache promised can't be had.
    BrokenCache,
    /// What a step made can't be had, because the step was canceled in the moment that it ended.
    /// The engine of Docker 26 keeps it like that for good.
    LostStep,
    /// Another run loaded the same tag at the same time.
    TagTaken,
    /// The registry does not let this user do it.
    Denied,
    /// The registry has too much to do.
    Busy,
    /// The registry allows this user no more for now, which lasts hours.
    Limited,
    /// The registry itself failed.
    RegistryError,
    /// The registry has no room.
    RegistryFull,
    /// A connection was lost or refused.
    Connection,
    /// The name of a host is not known.
    NoHost,
    /// The builder has no room.
    NoSpace,
    NotFound,
    Other,
}

/// The first row that an error contains is its cause. "failed to compute cache key" is also what
/// `BuildKit` says of a file that COPY does not find, so that comes before.
const SIGNS: [(&str, Cause); 35] = [
    ("context canceled", Cause::Canceled),
    ("did not complete successfully", Cause::Step),
    ("during finalize: failed to stat active key", Cause::LostStep),
    ("dockerfile parse error", Cause::Syntax),
    ("no match for platform", Cause::WrongPlatform),
    ("exec format error", Cause::WrongPlatform),
    ("failed to calculate checksum of ref", Cause::MissingFile),
    ("failed to compute cache key", Cause::BrokenCache),
    ("failed to read expected number of bytes", Cause::BrokenCache),
    ("httpReadSeeker", Cause::BrokenCache),
    ("unexpected commit digest", Cause::BrokenCache),
    (": already exists", Cause::TagTaken),
    ("401 Unauthorized", Cause::Denied),
    ("403 Forbidden", Cause::Denied),
    ("authorization failed", Cause::Denied),
    ("access denied", Cause::Denied),
    ("429 Too Many Requests", Cause::Busy),
    ("toomanyrequests", Cause::Limited),
    ("500 Internal Server Error", Cause::RegistryError),
    ("502 Bad Gateway", Cause::RegistryError),
    ("503 Service Unavailable", Cause::RegistryError),
    ("504 Gateway Timeout", Cause::RegistryError),
    ("507 Insufficient Storage", Cause::RegistryFull),
    ("no space left on device", Cause::NoSpace),
    ("connection reset by peer", Cause::Connection),
    ("connection refused", Cause::Connection),
    ("broken pipe", Cause::Connection),
    ("i/o timeout", Cause::Connection),
    ("TLS handshake timeout", Cause::Connection),
    ("frontend grpc server closed unexpectedly", Cause::Connection),
    // What images share, such as the folder, is read by the client of one of them, which ends when
    // that one fails.
    ("code = Unavailable", Cause::Connection),
    ("EOF", Cause::Connection),
    ("no such host", Cause::NoHost),
    ("404 Not Found", Cause::NotFound),
    ("not found", Cause::NotFound),
];

/// The same for what a step's command printed last: what curl, apt, uv, pip and npm say of a
/// network that does not carry them, or of a server that has too much to do.
const OUTPUT_SIGNS: [(&str, Cause); 33] = [
    ("exec format error", Cause::WrongPlatform),
    ("No space left on device", Cause::NoSpace),
    ("no space left on device", Cause::NoSpace),
    ("ENOSPC", Cause::NoSpace),
    ("annot allocate memory", Cause::Killed),
    ("out of memory", Cause::Killed),
    ("MemoryError", Cause::Killed),
    ("Temporary failure", Cause::StepNetwork),
    ("Could not resolve host", Cause::StepNetwork),
    ("dns error", Cause::StepNetwork),
    ("EAI_AGAIN", Cause::StepNetwork),
    ("Unable to connect to", Cause::StepNetwork),
    ("was not fetched", Cause::StepNetwork),
    ("Connection timed out", Cause::StepNetwork),
    ("Connection reset", Cause::StepNetwork),
    ("Connection refused", Cause::StepNetwork),
    ("connection closed", Cause::StepNetwork),
    ("Network is unreachable", Cause::StepNetwork),
    ("error sending request", Cause::StepNetwork),
    ("operation timed out", Cause::StepNetwork),
    ("timed out", Cause::StepNetwork),
    ("ECONNRESET", Cause::StepNetwork),
    ("ECONNREFUSED", Cause::StepNetwork),
    ("ETIMEDOUT", Cause::StepNetwork),
    ("Too Many Requests", Cause::StepNetwork),
    ("Internal Server Error", Cause::StepNetwork),
    ("Bad Gateway", Cause::StepNetwork),
    ("Service Unavailable", Cause::StepNetwork),
    ("Gateway Time", Cause::StepNetwork),
    ("returned error: 429", Cause::StepNetwork),
    ("returned error: 5", Cause::StepNetwork),
    ("HTTP error 429", Cause::StepNetwork),
    ("HTTP error 5", Cause::StepNetwork),
];

impl Cause {
    /// The cause that `error` names first in the table.
    pub fn of(error: &str) -> Self {
        signs(error).next().map_or(Cause::Other, |(_, cause)| *cause)
    }

    /// The same for a step, whose command printed `output` last.
    pub fn of_step(error: &str, output: &str) -> Self {
        let cause = Self::of(error);
        if cause != Cause::Step {
            return cause;
        }
        // A process that got a signal ends with 128 and its number.
        if error.ends_with("exit code: 137") || error.ends_with("cannot allocate memory") {
            return Cause::Killed;
        }
        let sign = OUTPUT_SIGNS.iter().find(|(sign, _)| output.contains(sign));
        sign.map_or(Cause::Step, |(_, cause)| *cause)
    }

    /// Is another try worth its time?
    pub fn is_passing(self) -> bool {
        matches!(
            self,
            Cause::Busy
                | Cause::RegistryError
                | Cause::Connection
                | Cause::StepNetwork
                | Cause::LostStep
        )
    }

    /// What to do about it, to go on.
    pub fn remedy(self) -> &'static str {
        match self {
            Cause::Denied => "`docker login` to the registry as a user who may write there",
            Cause::NotFound => "check that the image was pushed and not deleted since",
            Cause::Limited => "`docker login` to the registry, or wait until its limit is over",
            Cause::RegistryFull => "make room in the registry",
            Cause::NoHost => "check the name of the host, and the network of the builder",
            Cause::NoSpace => "make room: `docker buildx prune`, or `cargo xtask engine --prune`",
            Cause::StepNetwork => "check the network and HTTPS_PROXY, and try again",
            Cause::Killed => "give the builder more memory, or build fewer at once by --jobs",
            Cause::WrongPlatform => {
                "choose another base image, or --platforms; `cargo xtask engine --emulate` runs others"
            }
            Cause::MissingFile => "check the name in the Dockerfile, and .dockerignore",
            Cause::Syntax => "mend the Dockerfile",
            Cause::Step => "mend the step or what it reads; the last lines of its output say why",
            _ => "try again later",
        }
    }
}

fn signs(error: &str) -> impl Iterator<Item = &'static (&'static str, Cause)> {
    SIGNS.iter().filter(move |(sign, _)| error.contains(sign))
}

/// The HTTP status that `error` contains.
pub fn http_status(error: &str) -> Option<u64> {
    signs(error).find_map(|(sign, cause)| match cause {
        Cause::Limited => Some(429),
        _ => sign.split(' ').next()?.parse().ok(),
    })
}

/// Is another try worth its time after `error`, which may name several causes? Not after a step's
/// own command, whatever that may have printed.
pub fn is_passing(error: &str) -> bool {
    Cause::of(error) != Cause::Step && signs(error).any(|(_, cause)| cause.is_passing())
}

/// How the command of a step ended, such as `exit code: 1`, where that is the error.
pub fn step_end(error: &str) -> Option<&str> {
    error.rsplit_once("did not complete successfully: ").map(|(_, end)| end)
}

/// The host in `error` whose name is not known.
pub fn unknown_host(error: &str) -> Option<&str> {
    let (before, _) = error.split_once(": no such host")?;
    let lookup = before.rsplit_once("lookup ")?.1;
    lookup.split(' ').next()
}

/// Does `error` say that the registry has no cache called `reference`? Every first build sees this.
pub fn is_miss(reference: &str, error: &str) -> bool {
    error.ends_with(&format!("{reference}: not found"))
}

/// Is the vertex called `name`, of any target, the reading of a cache that is not there?
pub fn is_missing_cache(name: &str, error: &str) -> bool {
    let reference = name.rsplit(' ').next().unwrap_or_default();
    name.contains("importing cache") && is_miss(reference, error)
}

/// Does the vertex called `name`, of any target, read or write a cache?
pub fn is_cache(name: &str) -> bool {
    name.contains("importing cache") || name.contains("exporting cache")
}

/// Is the vertex called `name`, of any target, a part of every build, such as reading the
/// Dockerfile?
pub fn is_internal(name: &str) -> bool {
    name.starts_with("[internal] ") || name.contains(" internal] ")
}

/// Does the vertex called `name`, of any target, hand on what steps made: an image or a cache?
pub fn is_delivery(name: &str) -> bool {
    let own = name.strip_prefix('[').and_then(|name| name.split_once("] "));
    let own = own.map_or(name, |(_, own)| own);
    ["exporting ", "importing to ", "pushing "].iter().any(|start| own.starts_with(start))
}

#[cfg(test)]
#[path = "../../../../tests/unit/buildkit.rs"]
mod tests;
