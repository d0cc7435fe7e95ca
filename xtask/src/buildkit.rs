//! How `BuildKit` and buildx name things and word errors. Nothing else in this program knows these words:
//! a new version that changes one of them is met here.

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
    /// Finding or pulling the base image REFERENCE@DIGEST.
    Base(&'a str),
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
            return Some(Vertex::Base(base));
        }
        let number = place.rsplit_once(' ').map_or(place, |(_, number)| number);
        let (number, of) = number.split_once('/')?;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        (is_number(number) && is_number(of)).then_some(Vertex::Step)
    }
}

/// The name of a vertex without that of its target, which is one of `targets`. With several targets,
/// buildx puts the target's name into the brackets that a vertex's name starts with, or before it in
/// brackets of its own.
pub fn without_target(targets: &[String], name: &str) -> String {
    for target in targets.iter().filter(|_| targets.len() > 1) {
        let Some(rest) = name.strip_prefix('[').and_then(|name| name.strip_prefix(target.as_str()))
        else {
            continue;
        };
        if let Some(own) = rest.strip_prefix("] ") {
            return own.to_owned();
        }
        if let Some(own) = rest.strip_prefix(' ') {
            return format!("[{own}");
        }
    }
    name.to_owned()
}

/// The script that a step runs and its arguments, as in `[node 2/3] RUN --mount=… ["/bin/sh", "/run/node.sh"]`:
/// the last file below `/run` in its name.
pub fn script(name: &str) -> Option<String> {
    let (_, command) = name.split_once("] RUN ")?;
    let (_, last) = command.rsplit_once("/run/")?;
    let words = last.split(|c: char| " \",[]".contains(c)).filter(|word| !word.is_empty());
    let words = words.collect::<Vec<_>>();
    let file = words.first().filter(|file| file.ends_with(".sh") || file.ends_with(".py"))?;
    Some([&[*file], &words[1..]].concat().join(" "))
}

/// True where the part `status` of an image's export is the sending of its layers.
pub fn is_push(status: &str) -> bool {
    status.starts_with("pushing ")
}

/// True where the part `status` of a vertex is the sending of a Dockerfile or a context to the builder.
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
    /// A network or a server that may work again in a moment.
    Transient,
    /// The same, for what the command of a step fetches.
    StepNetwork,
    /// The registry allows this user no more for now.
    Limited,
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
    /// Another build came between: it loaded the same tag, or shared a step, at the same moment.
    Raced,
    Unauthorized,
    Forbidden,
    /// The registry does not take an upload: some do so for a moment.
    UploadRefused,
    /// The registry does not take a manifest: the tag can't be changed, or it does so for a moment.
    ManifestRefused,
    /// The registry has no such repository, and makes none.
    NoRepository,
    /// A proxy before the registry takes no body as large as a layer.
    TooLarge,
    /// The registry has no room.
    RegistryFull,
    /// The registry speaks HTTP.
    PlainHttp,
    /// The builder does not trust the registry's certificate.
    Certificate,
    /// The name of a host is not known.
    NoHost,
    /// The builder has no room.
    NoSpace,
    NotFound,
    Other,
}

/// Words of an error with their cause. The first row that an error contains counts. "failed to compute
/// cache key" is also what `BuildKit` says of a file that COPY does not find, so that comes before.
const SIGNS: [(&str, Cause); 25] = [
    ("context canceled", Cause::Canceled),
    ("did not complete successfully", Cause::Step),
    ("dockerfile parse error", Cause::Syntax),
    ("failed to parse stage", Cause::Syntax),
    ("unsupported modifier", Cause::Syntax),
    ("no match for platform", Cause::WrongPlatform),
    ("exec format error", Cause::WrongPlatform),
    ("failed to calculate checksum of ref", Cause::MissingFile),
    ("failed to compute cache key", Cause::BrokenCache),
    ("failed to read expected number of bytes", Cause::BrokenCache),
    ("httpReadSeeker", Cause::BrokenCache),
    ("unexpected commit digest", Cause::BrokenCache),
    (": already exists", Cause::Raced),
    ("inconsistent graph state", Cause::Raced),
    ("toomanyrequests", Cause::Limited),
    ("NAME_UNKNOWN", Cause::NoRepository),
    ("name unknown", Cause::NoRepository),
    ("server gave HTTP response", Cause::PlainHttp),
    ("x509: ", Cause::Certificate),
    ("insufficient_scope", Cause::Forbidden),
    ("authorization failed", Cause::Unauthorized),
    ("access denied", Cause::Forbidden),
    ("no space left on device", Cause::NoSpace),
    ("no such host", Cause::NoHost),
    ("exporter option \"rewrite-timestamp\"", Cause::Other),
];

/// Words, in lower case, of a network that does not carry, or of a server that has too much to do: what
/// Go, curl, apt, uv, pip and npm say.
const NETWORK: [&str; 36] = [
    "connection reset",
    "connection refused",
    "connection closed",
    "closed network connection",
    "broken pipe",
    "timed out",
    "timeout",
    "deadline exceeded",
    "awaiting response headers",
    "temporary failure",
    "could not resolve host",
    "server misbehaving",
    "dns error",
    "eai_again",
    "network is unreachable",
    "no route to host",
    "unable to connect to",
    "error sending request",
    "was not fetched",
    "econnreset",
    "econnrefused",
    "etimedout",
    "goaway",
    "http2: ",
    "stream error",
    "eof",
    "grpc server closed unexpectedly",
    "code = unavailable",
    "too many requests",
    "internal server error",
    "bad gateway",
    "service unavailable",
    "gateway time",
    "returned error: 5",
    "returned error: 429",
    "http error 5",
];

/// The same for memory and disk, in what a step's command printed.
const STEP_SIGNS: [(&str, Cause); 7] = [
    ("exec format error", Cause::WrongPlatform),
    ("no space left on device", Cause::NoSpace),
    ("enospc", Cause::NoSpace),
    ("annot allocate memory", Cause::Killed),
    ("out of memory", Cause::Killed),
    ("memoryerror", Cause::Killed),
    ("http error 429", Cause::StepNetwork),
];

impl Cause {
    /// The cause that `error` names.
    pub fn of(error: &str) -> Self {
        if let Some((_, cause)) = SIGNS.iter().find(|(sign, _)| error.contains(sign)) {
            return *cause;
        }
        Self::of_request(error)
    }

    /// The cause that the answer to a request has, or that it got none.
    pub fn of_request(error: &str) -> Self {
        let is_upload = error.contains("/blobs/uploads/") || error.contains("blobs/upload");
        let is_write = ["PUT", "POST", "PATCH"]
            .iter()
            .any(|verb| error.contains(&format!("from {verb} request")));
        if let Some(status) = http_status(error) {
            match status {
                401 => return Cause::Unauthorized,
                403 => return Cause::Forbidden,
                413 => return Cause::TooLarge,
                507 => return Cause::RegistryFull,
                501 | 505 => return Cause::Other,
                408 | 425 | 429 | 499 | 500..=599 => return Cause::Transient,
                _ if is_write && error.contains("/manifests/") => return Cause::ManifestRefused,
                _ if is_write || is_upload => return Cause::UploadRefused,
                404 => return Cause::NotFound,
                _ => {}
            }
        }
        if is_network(error) {
            return Cause::Transient;
        }
        if error.contains("not found") { Cause::NotFound } else { Cause::Other }
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
        let output = output.to_lowercase();
        let sign = STEP_SIGNS.iter().find(|(sign, _)| output.contains(sign));
        match sign {
            Some((_, cause)) => *cause,
            None if is_network(&output) => Cause::StepNetwork,
            None => Cause::Step,
        }
    }

    /// How often it is worth to try again.
    pub fn retries(self) -> usize {
        match self {
            Cause::Transient | Cause::StepNetwork => 4,
            Cause::UploadRefused | Cause::ManifestRefused | Cause::Raced => 2,
            Cause::Limited => 1,
            _ => 0,
        }
    }

    /// True where every further image of a run will fail alike, whatever the first ones did.
    pub fn is_common(self) -> bool {
        matches!(
            self,
            Cause::Transient
                | Cause::Limited
                | Cause::Unauthorized
                | Cause::Forbidden
                | Cause::RegistryFull
                | Cause::NoHost
                | Cause::NoSpace
        )
    }

    /// What to do about it; `None` where that is not known.
    pub fn hint(self) -> Option<&'static str> {
        Some(match self {
            Cause::Unauthorized | Cause::Forbidden => {
                "`docker login` to the registry as a user who may do this"
            }
            Cause::NotFound => "check the name of the image; a private one needs `docker login`",
            Cause::Limited => "`docker login` to the registry, or wait until its limit is over",
            Cause::RegistryFull => "make room in the registry",
            Cause::UploadRefused => "check that the repository exists and who may push to it",
            Cause::ManifestRefused => {
                "the registry may not let a tag change: use another tag, or --skip-existing"
            }
            Cause::NoRepository => "create the repository, and check who may push to it",
            Cause::TooLarge => "raise the limit for bodies in the proxy before the registry",
            Cause::PlainHttp => {
                "name the registry in insecure-registries of the engine's daemon.json, or with http = true \
                 in the builder's buildkitd.toml"
            }
            Cause::Certificate => {
                "give the engine the registry's CA (/etc/docker/certs.d/HOST/ca.crt), or the builder in its \
                 buildkitd.toml"
            }
            Cause::NoHost => "check the name of the host, and the network of the builder",
            Cause::NoSpace => "make room: `docker buildx prune`, or `cargo xtask engine --prune`",
            Cause::StepNetwork => "check the network of the builder, HTTPS_PROXY, and mirrors",
            Cause::Transient => "check the network and the registry, then run the command again",
            Cause::Killed => {
                "give the builder more memory, or build fewer images at once by --jobs"
            }
            Cause::WrongPlatform => {
                "choose another base image, or --platforms; `cargo xtask engine --emulate` runs others"
            }
            Cause::MissingFile => "check the name in the Dockerfile, and .dockerignore",
            Cause::Syntax => {
                "fix the Dockerfile, or update Docker: it needs BuildKit 0.13, which is Docker 26 or newer"
            }
            _ => return None,
        })
    }
}

fn is_network(text: &str) -> bool {
    let text = text.to_lowercase();
    NETWORK.iter().any(|sign| text.contains(sign))
}

/// The HTTP status of a failed request in `error`, as in `…: 503 Service Unavailable`.
pub fn http_status(error: &str) -> Option<u64> {
    for (at, _) in error.match_indices(": ") {
        let rest = &error[at + 2..];
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        let ends = rest[digits.len()..].chars().next().is_none_or(|c| " :,\"".contains(c));
        if digits.len() == 3 && ends && digits.starts_with(['4', '5']) {
            return digits.parse().ok();
        }
    }
    None
}

/// The host that a failed request in `error` went to, where that is named.
pub fn host(error: &str) -> Option<&str> {
    if let Some((before, _)) = error.split_once(": no such host") {
        return before.rsplit_once("lookup ")?.1.split(' ').next();
    }
    let (_, rest) = error.split_once("://")?;
    rest.split(['/', '"', ' ']).next()
}

/// How the command of a step ended, such as `exit code: 1`, where that is the error.
pub fn step_end(error: &str) -> Option<&str> {
    error.rsplit_once("did not complete successfully: ").map(|(_, end)| end)
}

/// True where `error` says that the registry has no cache called `reference`. Every first build sees this.
pub fn is_miss(reference: &str, error: &str) -> bool {
    error.ends_with(&format!("{reference}: not found"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vertex_is_known_by_its_name() {
        for (name, vertex) in [
            ("importing cache manifest from r.io/i:c", Vertex::CacheImport("r.io/i:c")),
            ("exporting cache to registry", Vertex::CacheExport),
            ("exporting to image", Vertex::ImageExport),
            ("pushing r.io/i:t with docker", Vertex::Push),
            (
                "[builder 1/2] FROM docker.io/library/a@sha256:b",
                Vertex::Base("docker.io/library/a@sha256:b"),
            ),
            ("[builder 2/2] RUN make", Vertex::Step),
            ("[2/2] RUN make", Vertex::Step),
            ("[internal] load .dockerignore", Vertex::Internal),
        ] {
            assert_eq!(Vertex::of(name), vertex, "{name}");
        }
        let targets = ["a".to_owned(), "a_check".to_owned()];
        assert_eq!(without_target(&targets, "[a_check one 1/2] RUN x"), "[one 1/2] RUN x");
        assert_eq!(without_target(&targets, "[a] exporting to image"), "exporting to image");
        assert_eq!(without_target(&targets[..1], "[a 1/2] RUN x"), "[a 1/2] RUN x");
        let mounted =
            "[node 2/3] RUN --mount=target=/run/lib.sh [\"/bin/sh\", \"/run/node.sh\", \"22\"]";
        assert_eq!(script(mounted).as_deref(), Some("node.sh 22"));
        assert_eq!(script("[node 2/3] RUN make"), None);
    }

    #[test]
    fn the_cause_of_an_error() {
        let write = |verb: &str, path: &str, status: &str| {
            format!(
                "failed to push: unexpected status from {verb} request to https://r.io/v2/x/{path}: {status}"
            )
        };
        for (error, cause) in [
            (write("POST", "blobs/uploads/", "404 Not Found"), Cause::UploadRefused),
            (write("PUT", "blobs/uploads/u", "400 Bad Request"), Cause::UploadRefused),
            (write("PUT", "manifests/t", "400 Bad Request"), Cause::ManifestRefused),
            (write("PUT", "manifests/t", "413 Request Entity Too Large"), Cause::TooLarge),
            (write("POST", "blobs/uploads/", "520 "), Cause::Transient),
            (write("POST", "blobs/uploads/", "499 status code 499"), Cause::Transient),
            (write("POST", "blobs/uploads/", "408 Request Timeout"), Cause::Transient),
            (write("POST", "blobs/uploads/", "403 Forbidden"), Cause::Forbidden),
            (write("HEAD", "manifests/t", "401 Unauthorized"), Cause::Unauthorized),
            (write("HEAD", "manifests/t", "429 Too Many Requests - Server message: toomanyrequests: pull"), Cause::Limited),
            (write("GET", "manifests/t", "404 Not Found"), Cause::NotFound),
            (write("PUT", "blobs/uploads/u", "507 Insufficient Storage"), Cause::RegistryFull),
            ("failed to do request: Head \"https://r.io/v2/\": http: server gave HTTP response to HTTPS client".to_owned(), Cause::PlainHttp),
            ("tls: failed to verify certificate: x509: certificate signed by unknown authority".to_owned(), Cause::Certificate),
            ("dial tcp: lookup nowhere on 127.0.0.1:53: no such host".to_owned(), Cause::NoHost),
            ("read tcp 1.2.3.4: connection reset by peer".to_owned(), Cause::Transient),
            ("http2: server sent GOAWAY and closed the connection".to_owned(), Cause::Transient),
            ("docker.io/library/x:1: not found".to_owned(), Cause::NotFound),
            ("failed to calculate checksum of ref a: \"/x\": not found".to_owned(), Cause::MissingFile),
            ("something new".to_owned(), Cause::Other),
        ] {
            assert_eq!(Cause::of(&error), cause, "{error}");
        }
        let step = "process \"sh\" did not complete successfully: exit code: 1";
        assert_eq!(Cause::of_step(step, "curl: (6) Could not resolve host: x"), Cause::StepNetwork);
        assert_eq!(Cause::of_step(step, "make: *** [all] Error 1"), Cause::Step);
        assert_eq!(Cause::of_step(&step.replace(": 1", ": 137"), ""), Cause::Killed);
    }
}
