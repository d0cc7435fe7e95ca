//! Why something failed: the words of `BuildKit`, buildx, registries and the programs in steps, each with
//! its cause. Nothing else knows these words: a new version that changes one of them is met here.

use crate::text;

/// How many lines of a step's output, from the end, may say why it failed.
const LAST_LINES: usize = 20;

/// By such a cause every further image of a run will fail alike, whatever the first ones did.
const COMMON: bool = true;
/// Such a one says nothing of the others.
const OWN: bool = false;

/// Makes the causes. Behind each stand how often it is worth to try again, whether all images have it, and
/// what to do about it; empty where that is not known.
macro_rules! causes {
    ($($(#[$doc:meta])* $cause:ident $retries:literal $is_common:ident $hint:literal)*) => {
        /// Why something failed, as far as its error says so.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Cause { $($(#[$doc])* $cause),* }

        impl Cause {
            /// How often it is worth to try again.
            pub fn retries(self) -> usize {
                match self { $(Cause::$cause => $retries),* }
            }

            /// True where it is [`COMMON`].
            pub fn is_common(self) -> bool {
                match self { $(Cause::$cause => $is_common),* }
            }

            /// What to do about it, where that is known.
            pub fn hint(self) -> Option<&'static str> {
                Some(match self { $(Cause::$cause => $hint),* }).filter(|hint| !hint.is_empty())
            }
        }
    };
}

causes! {
    /// Something else failed first, or an equal step of another target does the work.
    Canceled 2 OWN ""
    /// The command of a step failed.
    Step 0 OWN ""
    /// A network or a server that may work again in a moment.
    Transient 4 COMMON "check the network and the registry, then run the command again"
    /// The same, for what the command of a step fetches.
    StepNetwork 4 OWN "check the network of the builder, HTTPS_PROXY, and mirrors"
    /// The command of a step, or buildx, which fetches tokens, does not trust a server's certificate.
    StepCertificate 0 OWN "name the file of the CA that signed it, as of a proxy or mirror, by \
        SSL_CERT_FILE"
    /// The base image has no shell to run a step with.
    NoShell 0 OWN "the base image has no /bin/sh: choose another, or `--target overlay`, which runs \
        nothing on it"
    /// The registry allows this user no more for now.
    Limited 1 COMMON "`docker login` to the registry, or wait until its limit is over"
    /// The command of a step was killed, or got no memory.
    Killed 0 OWN "give the builder more memory, or build fewer images at once by --jobs"
    /// The base image, or what a step starts, is for another machine.
    WrongPlatform 0 OWN "choose another base image, or --platforms; `cargo xtask engine --emulate` runs \
        others"
    /// The Dockerfile can't be read.
    Syntax 0 OWN "fix the Dockerfile, or update Docker: it needs BuildKit 0.13, which is Docker 26 or \
        newer"
    /// COPY or a mount names a file that is not there.
    MissingFile 0 OWN "check the name in the Dockerfile, and .dockerignore"
    /// An ONBUILD trigger of the base image failed.
    Trigger 0 OWN "the step is an ONBUILD trigger of the base image: choose one without triggers"
    /// A file of a context can't be read.
    UnreadableFile 0 OWN "make that file readable for the user who builds"
    /// A layer that a cache promised can't be had.
    BrokenCache 0 OWN ""
    /// Another build came between: it loaded the same tag, or shared a step, at the same moment.
    Raced 2 OWN ""
    /// Docker's configuration names a program for logins that is not there, or fails.
    CredentialHelper 0 COMMON "install that credential helper, or remove credsStore and credHelpers from \
        Docker's config.json (~/.docker/config.json)"
    /// The registry does not know this user, or does not let it do this.
    Denied 0 COMMON "`docker login` to the registry as a user who may do this"
    /// The registry does not take a blob or a manifest: some do so for a moment.
    PushRefused 3 OWN "check that the repository exists and who may push to it"
    /// The registry lets nobody change this tag.
    TagTaken 0 OWN "use another tag, or --skip-existing: the registry lets nobody change this one"
    /// The registry has no such repository, and makes none.
    NoRepository 0 OWN "create the repository, and check who may push to it"
    /// A proxy before the registry takes no body as large as a layer.
    TooLarge 0 OWN "raise the limit for bodies in the proxy before the registry"
    /// The registry has no room.
    RegistryFull 0 COMMON "make room in the registry, or raise its quota"
    /// The registry speaks HTTP.
    PlainHttp 0 OWN "name the registry in insecure-registries of the engine's daemon.json, or with http \
        = true in the builder's buildkitd.toml"
    /// The registry speaks HTTPS, and the builder was told that it does not.
    NotPlainHttp 0 OWN "the registry speaks HTTPS: remove it from insecure-registries of the engine's \
        daemon.json, or http = true from the builder's buildkitd.toml"
    /// The builder does not trust the registry's certificate.
    Certificate 0 OWN "give the engine the registry's CA (/etc/docker/certs.d/HOST/ca.crt), or the \
        builder in its buildkitd.toml"
    /// A certificate or a list of packages is for another time.
    Clock 0 OWN "check the clock of the builder: if it is right, what the server has is out of date"
    /// The server's certificate is for another name.
    CertificateName 0 OWN "use a name of the server that its certificate is for"
    /// The name of a host is not known. A resolver may answer so for a moment.
    NoHost 2 COMMON "check the name of the host, and the network of the builder"
    /// The engine or the builder is away; perhaps it starts again.
    NoEngine 4 COMMON "start Docker, or the builder's machine"
    /// The engine's proxy wants a login, or refuses the host.
    EngineProxy 0 COMMON "allow the host in the engine's proxy, or name the proxy with its user and \
        password in the engine's daemon.json, or by `--driver-opt env.HTTPS_PROXY=` of the builder"
    /// The proxy of a step, or of buildx, wants a login, or refuses the host.
    ProxyLogin 0 COMMON "add the proxy's user and password to HTTPS_PROXY and HTTP_PROXY, or allow the host \
        in the proxy"
    /// A mirror that a step fetches from wants a login.
    MirrorLogin 0 OWN "put the mirror's user and password into its address, .netrc or .npmrc"
    /// The builder has no room.
    NoSpace 0 COMMON "make room: `docker buildx prune`, or `cargo xtask engine --prune`"
    NotFound 0 OWN "check the name of the image; a private one needs `docker login`"
    Other 0 OWN ""
}

/// Words of an error with their cause. The first row that an error contains counts. "failed to compute
/// cache key" is also what `BuildKit` says of a file that COPY does not find, so that comes before.
/// Docker Hub says of an image that there is not that the user may not see it.
const SIGNS: &[(&str, Cause)] = &[
    ("context canceled", Cause::Canceled),
    ("stat /bin/sh: no such file or directory", Cause::NoShell),
    ("no matching entries in passwd file", Cause::NoShell),
    ("did not complete successfully", Cause::Step),
    ("dockerfile parse error", Cause::Syntax),
    ("failed to parse stage", Cause::Syntax),
    ("unsupported modifier", Cause::Syntax),
    ("no match for platform", Cause::WrongPlatform),
    ("exec format error", Cause::WrongPlatform),
    ("no space left on device", Cause::NoSpace),
    ("disk quota exceeded", Cause::NoSpace),
    ("failed to calculate checksum of ref", Cause::MissingFile),
    ("error from sender: open ", Cause::UnreadableFile),
    ("error from sender: lstat ", Cause::UnreadableFile),
    ("error from sender: failed to xattr ", Cause::UnreadableFile),
    ("failed to compute cache key", Cause::BrokenCache),
    (" immutab", Cause::TagTaken),
    ("tag invalid", Cause::TagTaken),
    ("does not allow updating", Cause::TagTaken),
    ("operation is disallowed", Cause::TagTaken),
    (": already exists", Cause::Raced),
    ("inconsistent graph state", Cause::Raced),
    // Something was removed while it was used.
    ("content digest sha256:", Cause::Raced),
    (" does not exist: not found", Cause::Raced),
    ("lease \"", Cause::Raced),
    (" locked for ", Cause::Raced),
    ("Cannot connect to the Docker daemon", Cause::NoEngine),
    ("failed to connect to the docker API", Cause::NoEngine),
    ("failed to list workers", Cause::NoEngine),
    ("no such job", Cause::NoEngine),
    ("client connection is closing", Cause::NoEngine),
    ("error reading from server: EOF", Cause::NoEngine),
    ("failed to receive status", Cause::NoEngine),
    ("replicas to be ready", Cause::NoEngine),
    ("no running buildkit pods", Cause::NoEngine),
    (" is not running", Cause::NoEngine),
    ("Proxy Authentication Required", Cause::EngineProxy),
    // A registry's own answer has a number.
    ("\": Forbidden", Cause::EngineProxy),
    // What only its words tell from a login that lacks something.
    ("is not allowed access", Cause::Other),
    ("read only mode", Cause::Other),
    ("Datastore disk usage", Cause::RegistryFull),
    ("may not exist)", Cause::NoRepository),
    ("repo does not exist", Cause::NoRepository),
    ("does not exist in the registry", Cause::NoRepository),
    ("unauthorized: project ", Cause::NoRepository),
    ("too many failed login attempts", Cause::Denied),
    ("toomanyrequests", Cause::Limited),
    ("pull rate limit", Cause::Limited),
    ("NAME_UNKNOWN", Cause::NoRepository),
    ("name unknown", Cause::NoRepository),
    ("server gave HTTP response", Cause::PlainHttp),
    ("Client sent an HTTP request to an HTTPS server", Cause::NotPlainHttp),
    ("x509: certificate has expired", Cause::Clock),
    ("x509: cannot validate certificate", Cause::CertificateName),
    ("x509: certificate is valid for", Cause::CertificateName),
    ("x509: certificate is not valid for", Cause::CertificateName),
    ("relies on legacy Common Name", Cause::CertificateName),
    ("x509: ", Cause::Certificate),
    ("error getting credentials", Cause::CredentialHelper),
    ("executable file not found", Cause::Other),
    ("secret ", Cause::Other),
    ("push access denied", Cause::Denied),
    ("repository does not exist or may require", Cause::NotFound),
    ("insufficient_scope", Cause::Denied),
    ("requested access to the resource is denied", Cause::Denied),
    // Docker 28 gives no status of an answer that has a text.
    (": denied: ", Cause::Denied),
    (": unauthorized: ", Cause::Denied),
    ("authorization failed", Cause::Denied),
    ("unauthorized: authentication required", Cause::Denied),
    ("no basic auth credentials", Cause::Denied),
    ("access denied", Cause::Denied),
    ("unknown blob", Cause::PushRefused),
    ("blob upload unknown", Cause::PushRefused),
    ("blob unknown to registry", Cause::PushRefused),
    ("no such host", Cause::NoHost),
    ("failed to read expected number of bytes", Cause::BrokenCache),
    ("httpReadSeeker", Cause::BrokenCache),
    ("unexpected commit digest", Cause::BrokenCache),
    ("exporter option \"rewrite-timestamp\"", Cause::Other),
];

/// What breaks as `connection reset`, and what is slow as `read timed out` or `read timeout`.
const BROKEN: &str = "aborted broken closed refused reset";
const SLOW: &str =
    "connect connection handshake i/o idle network read request resolving response socket";

/// Other words, in lower case, of a network that does not carry, or of a server that has too much to do: what
/// Go, curl, apt, uv, pip and npm say. A shorter word such as `timeout` is in the names of packages, and
/// compilers say `unexpected EOF` of sources.
const NETWORK: &[&str] = &[
    "operation timed out",
    "closed network connection",
    "on closed pipe",
    "failed commit on ref",
    "closed idle connection",
    "write: broken pipe",
    "connection failed [",
    "remote end closed connection",
    "remotedisconnected",
    "timeout: timed out",
    "socket_timeout",
    "timeout exceeded",
    "timeout awaiting",
    "timeout was reached",
    "timeouterror",
    "timeout error",
    "deadline exceeded",
    "awaiting response headers",
    "temporary failure",
    "could not resolve host",
    "could not resolve '",
    "name or service not known",
    "enotfound",
    "server misbehaving",
    "dns error",
    "eai_again",
    "network is unreachable",
    "no route to host",
    "unable to connect to",
    "failed to connect to",
    "couldn't connect to server",
    "could not connect to server",
    "connect tunnel failed, response 5",
    "empty reply from server",
    "transfer closed with",
    "not closed cleanly",
    "premature close",
    "premature_close",
    "incompleteread",
    "end of file before message length",
    "error reading a body from connection",
    "close_notify",
    "ssl_error_syscall",
    "gnutls recv error",
    "bad record mac",
    "mirror sync in progress",
    "hash sum mismatch",
    "error sending request",
    "was not fetched",
    "request must be retried",
    "econnreset",
    "econnrefused",
    "etimedout",
    "http2: ",
    "stream error",
    ": eof",
    "desc = eof",
    "ssl routines::unexpected eof",
    "http2 framing layer",
    "operation too slow",
    " server error: ",
    "early eof",
    "eof occurred",
    "socket hang up",
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
    "status server error (5",
    "code e5",
    "code e429",
];

/// The same for memory, disk and certificates, in what a step's command printed.
const STEP_SIGNS: &[(&str, Cause)] = &[
    ("stat /bin/sh: no such file or directory", Cause::NoShell),
    ("exec format error", Cause::WrongPlatform),
    ("invalid elf image", Cause::WrongPlatform),
    ("no space left on device", Cause::NoSpace),
    ("disk quota exceeded", Cause::NoSpace),
    // Node has the same code for it.
    ("number of file watchers", Cause::Step),
    ("enospc", Cause::NoSpace),
    ("annot allocate memory", Cause::Killed),
    ("out of memory", Cause::Killed),
    ("memoryerror", Cause::Killed),
    ("bad_alloc", Cause::Killed),
    ("killed signal", Cause::Killed),
    ("compiler error: killed", Cause::Killed),
    ("signal: 9", Cause::Killed),
    ("signal sigkill", Cause::Killed),
    ("http error 429", Cause::StepNetwork),
    ("proxy authentication required", Cause::ProxyLogin),
    ("proxy authorization required", Cause::ProxyLogin),
    ("response 407", Cause::ProxyLogin),
    ("statuscode=407", Cause::ProxyLogin),
    ("code 407 from proxy", Cause::ProxyLogin),
    // pip asks for the user.
    ("eoferror: eof when reading a line", Cause::MirrorLogin),
    ("status client error (401 ", Cause::MirrorLogin),
    ("status client error (403 ", Cause::MirrorLogin),
    ("code e401", Cause::MirrorLogin),
    ("code e403", Cause::MirrorLogin),
    ("  401  unauthorized", Cause::MirrorLogin),
    ("  403  forbidden", Cause::MirrorLogin),
    ("(invalid for another ", Cause::Clock),
    ("certificate has expired", Cause::Clock),
    ("not yet valid", Cause::Clock),
    ("not valid yet", Cause::Clock),
    ("certificate: expired", Cause::Clock),
    ("uses expired certificate", Cause::Clock),
    ("cert_has_expired", Cause::Clock),
    ("hostname mismatch", Cause::CertificateName),
    ("invalid peer certificate", Cause::StepCertificate),
    ("certificate_verify_failed", Cause::StepCertificate),
    ("certificate verify failed", Cause::StepCertificate),
    ("certificate verification failed", Cause::StepCertificate),
    ("certificate is not trusted", Cause::StepCertificate),
    ("self_signed_cert", Cause::StepCertificate),
    ("certificate problem", Cause::StepCertificate),
    ("self-signed certificate in", Cause::StepCertificate),
    ("self signed certificate in", Cause::StepCertificate),
    ("self-signed certificate encountered", Cause::StepCertificate),
    ("unable_to_verify_leaf_signature", Cause::StepCertificate),
    ("unable to verify the first certificate", Cause::StepCertificate),
    ("unable_to_get_issuer_cert", Cause::StepCertificate),
    ("unable to get local issuer certificate", Cause::StepCertificate),
];

impl Cause {
    /// The cause that `error` names.
    pub fn of(error: &str) -> Self {
        // What the registry says, without the names of images.
        let said =
            ["denied: ", "toomanyrequests: ", "Server message: ", "server message: ", "unknown: "];
        let said = said.iter().find_map(|mark| error.split_once(mark)).map(|(_, said)| said);
        let said = said.unwrap_or_default().to_lowercase();
        let says = |signs: &[&str]| signs.iter().any(|sign| said.contains(sign));
        // Some registries count requests a second or a minute.
        if says(&["per second", "per minute", "rate exceeded", "retry-after: "]) {
            return Cause::Transient;
        }
        let is_full = [
            "quota",
            "exceed the configured",
            "limit is ",
            "maximum allowed number",
            "no space left",
        ];
        if !error.contains("toomanyrequests") && says(&is_full) {
            return Cause::RegistryFull;
        }
        match SIGNS.iter().find(|(sign, _)| error.contains(sign)) {
            // Who pushes has logged in: this passes.
            Some((_, Cause::Limited)) if is_of_push(error) => Cause::Transient,
            // buildx itself fetches tokens, on this machine.
            Some((_, Cause::EngineProxy)) if error.contains(" token: ") => Cause::ProxyLogin,
            Some((_, Cause::Certificate)) if error.contains(" token: ") => Cause::StepCertificate,
            Some((_, cause)) => *cause,
            None => Self::of_request(error),
        }
    }

    /// The cause that the answer to a request has, or that it got none.
    pub fn of_request(error: &str) -> Self {
        let is_upload = error.contains("/blobs/uploads/") || error.contains("blobs/upload");
        let is_by = |verb: &&str| error.contains(&format!("from {verb} request"));
        let is_write = is_of_push(error);
        let is_read = ["GET", "HEAD"].iter().any(is_by) || error.contains("pulling from host ");
        if let Some(status) = http_status(error) {
            match status {
                401 | 403 => return Cause::Denied,
                413 => return Cause::TooLarge,
                429 if is_read && !is_write => return Cause::Limited,
                507 => return Cause::RegistryFull,
                501 | 505 => return Cause::Other,
                408 | 425 | 429 | 499 | 500..=599 => return Cause::Transient,
                _ if is_write || is_upload => return Cause::PushRefused,
                404 => return Cause::NotFound,
                _ => {}
            }
        }
        // Newer versions name no status, and six kinds of refusals.
        if is_write && (error.contains(": unknown: ") || error.ends_with(": unknown")) {
            let is_missing = error.contains("not found") || error.contains("not known to registry");
            return if is_missing { Cause::NoRepository } else { Cause::PushRefused };
        }
        // A name may hold any word.
        if error.ends_with(": not found") {
            return Cause::NotFound;
        }
        if is_network(error) {
            return Cause::Transient;
        }
        let is_missing = error.contains("not found") || error.contains("manifest unknown");
        if is_missing { Cause::NotFound } else { Cause::Other }
    }

    /// The same for a step, whose command printed `output` last.
    pub fn of_step(error: &str, output: &[u8]) -> Self {
        let cause = Self::of(error);
        if cause != Cause::Step {
            return cause;
        }
        // A process that got a signal ends with 128 and its number.
        if error.ends_with("exit code: 137") || error.ends_with("cannot allocate memory") {
            return Cause::Killed;
        }
        // What was tried again since then is not why it failed.
        let mut lines = text::last_lines(output, LAST_LINES);
        lines.retain(|line| !line.contains("Retry(total=") || line.contains("Retry(total=0"));
        let output = lines.join("\n").to_lowercase();
        let sign = STEP_SIGNS.iter().find(|(sign, _)| output.contains(sign));
        match sign {
            Some((_, cause)) => *cause,
            None if is_network(&output) => Cause::StepNetwork,
            None => Cause::Step,
        }
    }
}

/// True where `error` is of a request that sends something, or belongs to that.
fn is_of_push(error: &str) -> bool {
    let signs = [
        "from PUT request",
        "from POST request",
        "from PATCH request",
        "failed to push",
        "error writing ",
    ];
    !error.contains(" token: ") && signs.iter().any(|sign| error.contains(sign))
}

fn is_network(text: &str) -> bool {
    let text = text.to_lowercase();
    // Such as apt's `E: Failed to fetch http://a/b  522  Origin Connection Time-out`.
    let is_status = |word: &str| word.len() == 3 && word.parse().is_ok_and(|n: u32| n / 100 == 4);
    // Not as in `thread timed out`.
    let is_word = |at: usize| !text[..at].ends_with(|c: char| c.is_ascii_alphabetic());
    let says = |words: String| text.match_indices(&words).any(|(at, _)| is_word(at));
    BROKEN.split(' ').any(|how| says(format!("connection {how}")))
        || SLOW
            .split(' ')
            .any(|what| says(format!("{what} timed out")) || says(format!("{what} timeout")))
        || NETWORK.iter().any(|sign| text.contains(sign))
        || text.lines().any(|line| {
            line.ends_with("unexpected eof")
                || line.contains("e: failed to fetch http") && !line.split("  ").any(is_status)
        })
}

/// The HTTP status of a failed request in `error`, as in `…: 503 Service Unavailable` or `error parsing
/// HTTP 413 response body`.
pub fn http_status(error: &str) -> Option<u64> {
    for (at, mark) in [": ", "HTTP "].iter().flat_map(|mark| error.match_indices(mark)) {
        let rest = &error[at + mark.len()..];
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

/// What to do where an engine or a builder can't be reached; `None` where that is not known.
pub fn engine_hint(error: &str) -> Option<&'static str> {
    let hints = [
        ("permission denied while trying to connect", "join the group docker, or use sudo"),
        (
            "/buildx: permission denied",
            "make Docker's folder yours (`sudo chown -R $USER ~/.docker`), or set DOCKER_CONFIG",
        ),
        (
            "unable to upgrade to h2c",
            "this engine is not Docker's (Podman has no BuildKit): unset DOCKER_HOST, or create a \
             builder in a container by `docker buildx create --use`",
        ),
        ("Permission denied (", "give ssh a key that the engine's machine accepts"),
        ("is too new. Maximum", "set DOCKER_API_VERSION to that maximum, or update the engine"),
        (
            "Client sent an HTTP request to an HTTPS server",
            "set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to the folder of its certificates",
        ),
        (
            "Host key verification failed",
            "connect by ssh to the engine's machine once, to accept its key",
        ),
        (
            "x509: ",
            "set DOCKER_CERT_PATH, or the builder's --driver-opt cacert=, to the engine's CA",
        ),
    ];
    hints.iter().find(|(sign, _)| error.contains(sign)).map(|(_, hint)| *hint)
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
    fn the_cause_of_an_error() {
        let write = |verb: &str, path: &str, status: &str| {
            format!(
                "failed to push: unexpected status from {verb} request to https://r.io/v2/x/{path}: {status}"
            )
        };
        let read =
            |status: &str| write("HEAD", "manifests/t", status).replace("failed to push: ", "");
        for (error, cause) in [
            (write("POST", "blobs/uploads/", "404 Not Found"), Cause::PushRefused),
            (write("PUT", "blobs/uploads/u", "400 Bad Request"), Cause::PushRefused),
            (write("PUT", "manifests/t", "400 Bad Request"), Cause::PushRefused),
            (write("PUT", "manifests/t", "413 Request Entity Too Large"), Cause::TooLarge),
            (write("POST", "blobs/uploads/", "520 "), Cause::Transient),
            (write("POST", "blobs/uploads/", "499 status code 499"), Cause::Transient),
            (write("POST", "blobs/uploads/", "408 Request Timeout"), Cause::Transient),
            (write("POST", "blobs/uploads/", "403 Forbidden"), Cause::Denied),
            (write("HEAD", "manifests/t", "401 Unauthorized"), Cause::Denied),
            (write("PUT", "manifests/t", "404 Not Found"), Cause::PushRefused),
            (write("POST", "blobs/uploads/", "403 Forbidden - Server message: denied: storage quota exceeded"), Cause::RegistryFull),
            (write("PUT", "manifests/t", "429 Too Many Requests"), Cause::Transient),
            (write("PUT", "manifests/t", "429 Too Many Requests - Server message: toomanyrequests: busy"), Cause::Transient),
            (write("HEAD", "blobs/sha256:0", "429 Too Many Requests"), Cause::Transient),
            (read("429 Too Many Requests - Server message: toomanyrequests: pull"), Cause::Limited),
            (read("429 Too Many Requests - Server message: toomanyrequests: Rate exceeded"), Cause::Transient),
            (read("429 Too Many Requests"), Cause::Limited),
            (read("400 Bad Request - Server message: Client sent an HTTP request to an HTTPS server."), Cause::NotPlainHttp),
            (read("404 Not Found"), Cause::NotFound),
            (write("GET", "manifests/t", "404 Not Found"), Cause::PushRefused),
            ("failed to push r.io/x: denied: permission_denied: write_package".to_owned(), Cause::Denied),
            ("failed to push r.io/x: unknown: The repository with name 'x' does not exist in the registry".to_owned(), Cause::NoRepository),
            ("failed to push r.io/x: unknown: Project 'x' not found or deleted.".to_owned(), Cause::NoRepository),
            ("failed to push r.io/x: unknown: unknown error".to_owned(), Cause::PushRefused),
            ("failed to push r.io/x: unknown".to_owned(), Cause::PushRefused),
            ("error writing manifest blob: unknown: unknown error".to_owned(), Cause::PushRefused),
            ("failed to push r.io/x: unknown: will exceed the configured upper limit".to_owned(), Cause::RegistryFull),
            ("denied: Permission \"uploadArtifacts\" denied on resource \"x\" (or it may not exist)".to_owned(), Cause::NoRepository),
            ("denied: client with IP '1.2.3.4' is not allowed access.".to_owned(), Cause::Other),
            ("denied: The system is in read only mode.".to_owned(), Cause::Other),
            ("failed to fetch oauth token: unexpected status from POST request to https://a/token: 400".to_owned(), Cause::Other),
            ("failed to fetch anonymous token: Get \"https://a/token\": tls: x509: unknown authority".to_owned(), Cause::StepCertificate),
            ("failed to do request: Head \"https://r.io/v2/\": Proxy Authentication Required".to_owned(), Cause::EngineProxy),
            ("failed to do request: Head \"https://r.io/v2/\": Forbidden".to_owned(), Cause::EngineProxy),
            ("failed to fetch anonymous token: Get \"https://a/token\": Forbidden".to_owned(), Cause::ProxyLogin),
            ("failed to connect to the docker API at unix:///var/run/docker.sock".to_owned(), Cause::NoEngine),
            ("failed to receive status: rpc error: code = Unavailable desc = transport is closing".to_owned(), Cause::NoEngine),
            (write("PUT", "blobs/uploads/u", "507 Insufficient Storage"), Cause::RegistryFull),
            ("failed to do request: Head \"https://r.io/v2/\": http: server gave HTTP response to HTTPS client".to_owned(), Cause::PlainHttp),
            ("tls: failed to verify certificate: x509: certificate signed by unknown authority".to_owned(), Cause::Certificate),
            ("dial tcp: lookup nowhere on 127.0.0.1:53: no such host".to_owned(), Cause::NoHost),
            ("read tcp 1.2.3.4: connection reset by peer".to_owned(), Cause::Transient),
            ("http2: server sent GOAWAY and closed the connection".to_owned(), Cause::Transient),
            ("docker.io/library/x:1: not found".to_owned(), Cause::NotFound),
            ("Error response from daemon: manifest unknown".to_owned(), Cause::NotFound),
            ("failed to calculate checksum of ref a: \"/x\": not found".to_owned(), Cause::MissingFile),
        ] {
            assert_eq!(Cause::of(&error), cause, "{error}");
        }
        let hidden = "repository does not exist or may require authorization: server message: \
                      insufficient_scope: authorization failed";
        for (error, cause) in [
            (&*format!("docker.io/library/x:1: pull access denied, {hidden}"), Cause::NotFound),
            (&*format!("failed to push x: push access denied, {hidden}"), Cause::Denied),
            ("server message: insufficient_scope: authorization failed", Cause::Denied),
            ("denied: requested access to the resource is denied", Cause::Denied),
            ("unauthorized: authentication required", Cause::Denied),
            ("no basic auth credentials", Cause::Denied),
            (
                "failed to authorize: error getting credentials - err: exec: \"docker-credential-desktop\": \
                 executable file not found in $PATH, out: ``",
                Cause::CredentialHelper,
            ),
            ("error parsing HTTP 413 response body: invalid character '<'", Cause::TooLarge),
            ("error parsing HTTP 408 response body: invalid character '<'", Cause::Transient),
            ("tag invalid: The image tag 'x' already exists", Cause::TagTaken),
            ("cannot be overwritten because the tag is immutable.", Cause::TagTaken),
            ("Failed to process request due to 'x:1' configured as immutable.", Cause::TagTaken),
            ("toomanyrequests: retry-after: 207.041µs, allowed: 44000/minute", Cause::Transient),
            ("toomanyrequests: too many failed login attempts for username", Cause::Denied),
            (
                "denied: Quota exceeded for quota metric 'Write' and limit 'per minute'",
                Cause::Transient,
            ),
            (
                "denied: adding 29.0 MiB, which will exceed the configured upper limit of 10.0 MiB",
                Cause::RegistryFull,
            ),
            ("denied: registry contains 1 repositories, limit is 1", Cause::RegistryFull),
            (
                "denied: The repository already has the maximum allowed number of images",
                Cause::RegistryFull,
            ),
            (
                "429 Too Many Requests\ntoomanyrequests: Quota exceeded for limit 'per minute per region'",
                Cause::Transient,
            ),
            ("toomanyrequests: You have reached your pull rate limit", Cause::Limited),
            ("failed to mount x: snapshot x does not exist: not found", Cause::Raced),
            (
                "failed commit on ref \"layer-sha256:a\": unexpected commit size 1, expected 2",
                Cause::Transient,
            ),
            ("failed commit on ref \"a\": unexpected status: 403 Forbidden", Cause::Denied),
            ("failed to push x: failed to copy: io: read/write on closed pipe", Cause::Transient),
            ("unknown blob", Cause::PushRefused),
            (
                "failed to compute cache key: write /x/ingest: no space left on device",
                Cause::NoSpace,
            ),
            (
                "500: unknown: Server message: mkdir /x: no space left on device",
                Cause::RegistryFull,
            ),
            ("mkdir /var/lib/docker/x: no space left on device", Cause::NoSpace),
            ("write /x: disk quota exceeded", Cause::NoSpace),
            ("failed to push ghcr.io/acme/quota-service:1: 403 Forbidden", Cause::Denied),
            ("Cannot connect to the Docker daemon at unix:///x. Is it running?", Cause::NoEngine),
            ("failed to list workers: Unavailable: connection error", Cause::NoEngine),
            ("rpc error: desc = error reading from server: EOF", Cause::NoEngine),
            ("content digest sha256:aa: not found", Cause::Raced),
            ("exec: \"newuidmap\": executable file not found in $PATH: not found", Cause::Other),
            ("secret npmrc: not found", Cause::Other),
            ("x509: certificate relies on legacy Common Name field", Cause::CertificateName),
            ("local error: tls: bad record MAC", Cause::Transient),
            ("docker.io/library/goaway:1: media type is no longer supported", Cause::Other),
            ("httpReadSeeker: failed open: 404 Not Found", Cause::BrokenCache),
            ("failed to push r.io/x:1: denied: no", Cause::Denied),
            ("failed to push r.io/x:1: unauthorized: no", Cause::Denied),
            // Docker 28 says so of a registry that it reaches by HTTP, whatever fails there.
            ("tls: first record does not look like a TLS handshake", Cause::Other),
            ("x509: certificate has expired or is not yet valid: current time", Cause::Clock),
            (
                "x509: cannot validate certificate for 10.0.0.1 because it doesn't contain any IP SANs",
                Cause::CertificateName,
            ),
            ("x509: certificate is valid for a, not b", Cause::CertificateName),
            (
                "failed to load: error from sender: open /a: permission denied",
                Cause::UnreadableFile,
            ),
            (
                "pulling from host r.io failed with status code [manifests 1]: 429 Too Many Requests",
                Cause::Limited,
            ),
            ("error from sender: lstat /a/x: operation not permitted", Cause::UnreadableFile),
            ("error from sender: failed to xattr /a/x: permission denied", Cause::UnreadableFile),
            (
                "process \"sh\" did not complete successfully: unable to find user root: no matching entries in passwd file",
                Cause::NoShell,
            ),
            ("http: server closed idle connection", Cause::Transient),
            ("Put \"https://r.io/v2/\": EOF", Cause::Transient),
            ("copy: unexpected EOF", Cause::Transient),
            ("net/http: TLS handshake timeout", Cause::Transient),
            (
                "context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                Cause::Transient,
            ),
            ("docker.io/geoffrey/timeout:1: unknown", Cause::Other),
            ("docker.io/library/x:http2: not found", Cause::NotFound),
            ("docker.io/goaway/x:1: not found", Cause::NotFound),
            ("something new", Cause::Other),
        ] {
            assert_eq!(Cause::of(error), cause, "{error}");
        }
        let step = "process \"sh\" did not complete successfully: exit code: 1";
        for (output, cause) in [
            ("curl: (6) Could not resolve host: x", Cause::StepNetwork),
            ("E: Could not resolve 'deb.debian.org'", Cause::StepNetwork),
            ("Error reading from server. Remote end closed connection", Cause::StepNetwork),
            ("npm error code ENOTFOUND", Cause::StepNetwork),
            ("curl: (56) CONNECT tunnel failed, response 503", Cause::StepNetwork),
            ("407  Proxy Authentication Required", Cause::ProxyLogin),
            ("User for pypi.corp: EOFError: EOF when reading a line", Cause::MirrorLogin),
            ("Caused by: HTTP status client error (401 Unauthorized) for url", Cause::MirrorLogin),
            ("Caused by: HTTP status client error (403 Forbidden) for url", Cause::MirrorLogin),
            ("Caused by: HTTP status client error (404 Not Found) for url", Cause::Step),
            ("npm error code E401", Cause::MirrorLogin),
            ("npm error code E403", Cause::MirrorLogin),
            ("E: Failed to fetch http://a/b  401  Unauthorized [IP: 1]", Cause::MirrorLogin),
            ("E: The repository 'x' is not signed.\n  403  Forbidden", Cause::MirrorLogin),
            ("curl: (56) CONNECT tunnel failed, response 407", Cause::ProxyLogin),
            (
                "E: Release file for http://a is not valid yet (invalid for another 2h 56min)",
                Cause::Clock,
            ),
            ("curl: (60) SSL certificate problem: certificate has expired", Cause::Clock),
            ("invalid peer certificate: Expired", Cause::Clock),
            (
                "ssl.SSLCertVerificationError: Hostname mismatch, certificate is not valid for 'a'",
                Cause::CertificateName,
            ),
            ("fatal error: Killed signal terminated program cc1plus", Cause::Killed),
            (
                "WARNING: Retrying (Retry(total=4, connect=None)): ReadTimeoutError\nfailed-wheel-build",
                Cause::Step,
            ),
            ("bash: unexpected EOF while looking for matching", Cause::Step),
            ("SyntaxError: unexpected EOF while parsing", Cause::Step),
            ("x.c: while ((c = getc(f)) != EOF)", Cause::Step),
            ("yes: standard output: Broken pipe\nmake: *** Error 2", Cause::Step),
            ("subprocess.TimeoutExpired: Command timed out after 5 seconds", Cause::Step),
            ("Generating a self-signed certificate for dovecot...", Cause::Step),
            ("ENOSPC: System limit for number of file watchers reached", Cause::Step),
            ("curl: (28) Timeout was reached", Cause::StepNetwork),
            ("curl: (28) SSL connection timeout", Cause::StepNetwork),
            (
                "E: Failed to fetch http://a/b  522  Origin Connection Time-out [IP: 1]",
                Cause::StepNetwork,
            ),
            ("E: Failed to fetch http://a/b  404  Not Found [IP: 1]", Cause::Step),
            ("E: Failed to fetch http://a/b  Undetermined Error [IP: 1]", Cause::StepNetwork),
            (
                "curl: (35) OpenSSL SSL_connect: error:0A000126:SSL routines::unexpected eof while reading",
                Cause::StepNetwork,
            ),
            ("fatal: unable to access 'x': Error in the HTTP2 framing layer", Cause::StepNetwork),
            ("HTTPError: 503 Server Error: Backend is unhealthy for url: x", Cause::StepNetwork),
            (".buildkit_qemu_emulator: /bin/sh: Invalid ELF image", Cause::WrongPlatform),
            (
                "Failed to download distribution due to network timeout. Try increasing UV_HTTP_TIMEOUT",
                Cause::StepNetwork,
            ),
            ("Caused by: HTTP status server error (520 <unknown status code>)", Cause::StepNetwork),
            ("pip._vendor.urllib3.exceptions.ReadTimeoutError: x", Cause::StepNetwork),
            ("npm error code E520", Cause::StepNetwork),
            ("npm error code ERR_SOCKET_TIMEOUT", Cause::StepNetwork),
            ("npm error network timeout at: https://registry.npmjs.org/x", Cause::StepNetwork),
            ("x.c:1: error: invalid application of 'sizeof' to typeof", Cause::Step),
            ("error: the option --timeout needs a number", Cause::Step),
            ("make: *** [all] Error 1", Cause::Step),
            ("      --timeout duration   operation timeout (default 30s)", Cause::Step),
            ("FAIL test_pool: worker thread timed out", Cause::Step),
            (
                "error sending request: invalid peer certificate: UnknownIssuer",
                Cause::StepCertificate,
            ),
            ("Connection broken: [SSL: CERTIFICATE_VERIFY_FAILED]", Cause::StepCertificate),
            ("npm error code SELF_SIGNED_CERT_IN_CHAIN", Cause::StepCertificate),
            ("curl: (60) SSL: unable to get local issuer certificate", Cause::StepCertificate),
            ("The certificate is NOT trusted.  Could not handshake", Cause::StepCertificate),
            ("exec: \"/bin/sh\": stat /bin/sh: no such file or directory: unknown", Cause::NoShell),
        ] {
            assert_eq!(Cause::of_step(step, output.as_bytes()), cause, "{output}");
        }
        assert_eq!(Cause::of_step(&step.replace(": 1", ": 137"), b""), Cause::Killed);
    }
}
