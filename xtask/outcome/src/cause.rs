//! Why something failed: the words of `BuildKit`, buildx, registries and the programs in steps, known here only.

use crate::text;

const COMMON: bool = true;
const OWN: bool = false;

/// Makes the causes: how often to try again, whether all further images fail alike, and what to do.
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

            /// True where every further image of a run will fail alike.
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
    /// The command of a step failed for a reason that only its output tells.
    Step 0 OWN ""
    /// A network or a server that may work again in a moment.
    Transient 4 COMMON "check the network and the registry, then run the command again"
    StepNetwork 4 OWN "check the network of the builder, HTTPS_PROXY, and mirrors"
    /// A step, or buildx, which fetches tokens, does not trust a server's certificate.
    StepCertificate 0 OWN "set SSL_CERT_FILE to the CA that signed it, as of a proxy or mirror"
    NoShell 0 OWN "the base image has no /bin/sh: choose another, or `--target overlay`"
    Limited 1 COMMON "`docker login` to the registry, or wait until its limit is over"
    Killed 0 OWN "give the builder more memory, or build fewer images at once by --jobs"
    WrongPlatform 0 OWN "choose another base image, --platforms, or `cargo xtask engine --emulate`"
    Syntax 0 OWN "fix the Dockerfile, or update Docker to 26 (BuildKit 0.13) or newer"
    MissingFile 0 OWN "check the name in the Dockerfile, and .dockerignore"
    Trigger 0 OWN "the step is an ONBUILD trigger of the base image: choose one without triggers"
    UnreadableFile 0 OWN "make that file readable for the user who builds"
    /// A layer that a cache promised can't be had.
    BrokenCache 0 OWN ""
    /// Another build loaded the same tag, or shared a step, at the same moment.
    Raced 2 OWN ""
    CredentialHelper 0 COMMON "install that credential helper, or remove credsStore and credHelpers from \
        Docker's config.json (~/.docker/config.json)"
    Denied 0 COMMON "`docker login` to the registry as a user who may do this"
    /// The registry does not take a blob or a manifest: some do so for a moment.
    PushRefused 3 OWN "check that the repository exists and who may push to it"
    TagTaken 0 OWN "use another tag, or --skip-existing: the registry lets nobody change this one"
    NoRepository 0 OWN "create the repository, and check who may push to it"
    TooLarge 0 OWN "raise the limit for bodies in the proxy before the registry"
    RegistryFull 0 COMMON "make room in the registry, or raise its quota"
    PlainHttp 0 OWN "name the registry in insecure-registries of the engine's daemon.json, or with http \
        = true in the builder's buildkitd.toml"
    NotPlainHttp 0 OWN "the registry speaks HTTPS: remove it from insecure-registries of the engine's \
        daemon.json, or http = true from the builder's buildkitd.toml"
    Certificate 0 OWN "give the engine the registry's CA (/etc/docker/certs.d/HOST/ca.crt), or the \
        builder in its buildkitd.toml"
    Clock 0 OWN "check the clock of the builder: if it is right, what the server has is out of date"
    CertificateName 0 OWN "use a name of the server that its certificate is for"
    /// A resolver may say so for a moment.
    NoHost 2 COMMON "check the name of the host, and the network of the builder"
    /// The engine or the builder is away; perhaps it starts again.
    NoEngine 4 COMMON "start Docker, or the builder's machine"
    /// The engine's proxy wants a login, or refuses the host.
    EngineProxy 0 COMMON "allow the host in the engine's proxy, or name the proxy with its user and \
        password in the engine's daemon.json, or by `--driver-opt env.HTTPS_PROXY=` of the builder"
    /// The same of the proxy of a step, or of buildx.
    ProxyLogin 0 COMMON "add the proxy's user and password to HTTPS_PROXY and HTTP_PROXY, or allow the host \
        in the proxy"
    MirrorLogin 0 OWN "put the mirror's user and password into its address, .netrc or .npmrc"
    NoSpace 0 COMMON "make room: `docker buildx prune`, or `cargo xtask engine --prune`"
    NotFound 0 OWN "check the name of the image; a private one needs `docker login`"
    Other 0 OWN ""
}

/// Words of an error, any of which means a cause, with `|` between them. The first row that fits counts.
type Signs = &'static [(Cause, &'static str)];

/// What `BuildKit`, buildx and registries say. Of a missing file of COPY, too, they say "compute cache key".
const SIGNS: Signs = &[
    (Cause::Canceled, "context canceled"),
    (Cause::NoShell, "stat /bin/sh: no such file or directory|no matching entries in passwd file"),
    (Cause::Step, "did not complete successfully"),
    (Cause::Syntax, "dockerfile parse error|failed to parse stage|unsupported modifier"),
    (Cause::WrongPlatform, "no match for platform|exec format error"),
    (Cause::NoSpace, "no space left on device|disk quota exceeded"),
    (Cause::MissingFile, "failed to calculate checksum of ref"),
    (Cause::UnreadableFile, "error from sender: "),
    (Cause::BrokenCache, "failed to compute cache key"),
    (Cause::TagTaken, " immutab|tag invalid|does not allow updating|operation is disallowed"),
    (Cause::Raced, ": already exists|inconsistent graph state|lease \"| locked for "),
    // Something was removed while it was used.
    (Cause::Raced, "content digest sha256:| does not exist: not found"),
    (Cause::NoEngine, "Cannot connect to the Docker daemon|failed to connect to the docker API"),
    (Cause::NoEngine, "failed to list workers|no such job|client connection is closing"),
    (Cause::NoEngine, "error reading from server: EOF|failed to receive status| is not running"),
    (Cause::NoEngine, "replicas to be ready|no running buildkit pods"),
    // A registry's own answer has a number.
    (Cause::EngineProxy, "Proxy Authentication Required|\": Forbidden"),
    // Registries say this as they refuse a login.
    (Cause::Other, "is not allowed access|read only mode"),
    (Cause::NoRepository, "may not exist)|repo does not exist|does not exist in the registry"),
    (Cause::NoRepository, "unauthorized: project |NAME_UNKNOWN|name unknown"),
    (Cause::Denied, "too many failed login attempts"),
    (Cause::Limited, "toomanyrequests|pull rate limit"),
    (Cause::PlainHttp, "server gave HTTP response"),
    (Cause::NotPlainHttp, "Client sent an HTTP request to an HTTPS server"),
    (Cause::Clock, "x509: certificate has expired"),
    (Cause::CertificateName, "x509: cannot validate certificate|relies on legacy Common Name"),
    (Cause::CertificateName, "x509: certificate is valid for|x509: certificate is not valid for"),
    (Cause::Certificate, "x509: "),
    (Cause::CredentialHelper, "error getting credentials"),
    (Cause::Other, "executable file not found|secret "),
    (Cause::NotFound, "pull access denied"),
    // Docker 28 gives no status of an answer that has a text.
    (Cause::Denied, ": denied: |unauthorized: |authorization failed|insufficient_scope"),
    (Cause::Denied, "access denied|access to the resource is denied|no basic auth credentials"),
    (Cause::PushRefused, "unknown blob|blob upload unknown|blob unknown to registry"),
    (Cause::NoHost, "no such host"),
    (Cause::BrokenCache, "httpReadSeeker|unexpected commit digest|expected number of bytes"),
];

/// What the programs in a step print, in lower case.
const STEP_SIGNS: Signs = &[
    (Cause::NoShell, "stat /bin/sh: no such file or directory"),
    (Cause::WrongPlatform, "exec format error|invalid elf image"),
    // Node has the same code for it as for a full disk.
    (Cause::Step, "number of file watchers"),
    (Cause::NoSpace, "no space left on device|disk quota exceeded|enospc"),
    (Cause::Killed, "annot allocate memory|out of memory|memoryerror|bad_alloc|killed signal"),
    (Cause::Killed, "compiler error: killed|signal: 9|signal sigkill"),
    (Cause::ProxyLogin, "proxy authentication required|proxy authorization required"),
    (Cause::ProxyLogin, "response 407|statuscode=407|code 407 from proxy"),
    // pip asks for the user.
    (Cause::MirrorLogin, "eoferror: eof when reading a line|  401  unauthorized|  403  forbidden"),
    (Cause::MirrorLogin, "client error (401 |client error (403 |code e401|code e403"),
    (Cause::Clock, "certificate has expired|certificate: expired|uses expired certificate"),
    (Cause::Clock, "not yet valid|not valid yet|cert_has_expired"),
    (Cause::CertificateName, "hostname mismatch"),
    (Cause::StepCertificate, "certificate verify failed|certificate_verify_failed"),
    (Cause::StepCertificate, "certificate verification failed|certificate is not trusted"),
    (Cause::StepCertificate, "invalid peer certificate|certificate problem|self_signed_cert"),
    (Cause::StepCertificate, "certificate in certificate chain|unable to get local issuer"),
    (Cause::StepCertificate, "certificate encountered|unable to verify the first certificate"),
];

/// Words, in lower case, of a network that does not carry, or of a server that has too much to do. A shorter
/// word such as `timeout` is in the names of packages, and compilers say `unexpected EOF` of sources.
const NETWORK: &[&str] = &[
    "connection aborted|connection broken|connection closed|connection refused|connection reset",
    "too many requests|internal server error|bad gateway|service unavailable|gateway time",
    // Go
    "closed network connection|closed idle connection|on closed pipe|write: broken pipe|: eof",
    "failed commit on ref|timeout exceeded|deadline exceeded|awaiting response headers|desc = eof",
    "temporary failure|server misbehaving|network is unreachable|no route to host|bad record mac",
    "http2: |stream error|code = unavailable|request must be retried|grpc server closed",
    // curl and git
    "could not resolve host|failed to connect to|connect tunnel failed, response 5|early eof",
    "empty reply from server|transfer closed with|not closed cleanly|timeout was reached",
    "ssl_error_syscall|gnutls recv error|ssl routines::unexpected eof|http2 framing layer",
    "operation too slow|operation timed out|returned error: 5|returned error: 429",
    // apt
    "could not resolve '|unable to connect to|connection failed [|hash sum mismatch|mirror sync in",
    // uv
    "dns error|error sending request|error reading a body|close_notify|server error (5",
    // Python
    "name or service not known|remote end closed|incompleteread|timeouterror|timeout: timed out",
    "timeout error|eof occurred| server error: |http error 5|http error 429",
    // npm, and the step that looks for what it left out
    "enotfound|eai_again|econnreset|econnrefused|etimedout|socket_timeout|premature close",
    "code e5|code e429|was not fetched",
];

/// What is slow as `read timed out` or `read timeout`.
const SLOW: &str =
    "connect connection handshake i/o idle network read request resolving response socket";

const ENGINE_HINTS: &[(&str, &str)] = &[
    ("permission denied while trying to connect", "join the group docker, or use sudo"),
    ("/buildx: permission denied", "`sudo chown -R $USER ~/.docker`, or set DOCKER_CONFIG"),
    (
        "unable to upgrade to h2c",
        "this engine is not Docker's (Podman has no BuildKit): unset DOCKER_HOST, or create a builder in \
         a container by `docker buildx create --use`",
    ),
    ("Permission denied (", "give ssh a key that the engine's machine accepts"),
    ("is too new. Maximum", "set DOCKER_API_VERSION to that maximum, or update the engine"),
    ("HTTP request to an HTTPS server", "set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH"),
    ("Host key verification failed", "`ssh` to the engine's machine once, to accept its key"),
    ("x509: ", "set DOCKER_CERT_PATH, or the builder's --driver-opt cacert=, to the engine's CA"),
];

/// True where `text` has one of `words`.
fn has(text: &str, words: &str) -> bool {
    words.split('|').any(|word| text.contains(word))
}

fn find(signs: Signs, text: &str) -> Option<Cause> {
    signs.iter().find(|(_, words)| has(text, words)).map(|(cause, _)| *cause)
}

impl Cause {
    /// The cause that `error` names.
    pub fn of(error: &str) -> Self {
        // What the registry says, without the names of images.
        let marks = ["denied: ", "toomanyrequests: ", "erver message: ", "unknown: "];
        let said = marks.iter().find_map(|mark| error.split_once(mark));
        let said = said.map_or_else(String::new, |(_, said)| said.to_lowercase());
        // Some registries count requests a second or a minute.
        if has(&said, "per second|per minute|rate exceeded|retry-after: ") {
            return Cause::Transient;
        }
        let full = "quota|exceed the configured|limit is |maximum allowed|no space left|disk usage";
        if has(&said, full) && !error.contains("toomanyrequests") {
            return Cause::RegistryFull;
        }
        match find(SIGNS, error) {
            // Who pushes has logged in: this passes.
            Some(Cause::Limited) if is_of_push(error) => Cause::Transient,
            // buildx itself fetches tokens, on this machine.
            Some(Cause::EngineProxy) if error.contains(" token: ") => Cause::ProxyLogin,
            Some(Cause::Certificate) if error.contains(" token: ") => Cause::StepCertificate,
            Some(cause) => cause,
            None => Self::of_request(error),
        }
    }

    /// The cause that the answer to a request has, or that it got none.
    pub fn of_request(error: &str) -> Self {
        let is_push = is_of_push(error);
        let is_read = has(error, "from GET request|from HEAD request|pulling from host ");
        // Newer versions name no status, and six kinds of refusals.
        let is_unknown = error.contains(": unknown: ") || error.ends_with(": unknown");
        match http_status(error) {
            Some(401 | 403) => Cause::Denied,
            Some(413) => Cause::TooLarge,
            Some(429) if is_read && !is_push => Cause::Limited,
            Some(501 | 505) => Cause::Other,
            Some(507) => Cause::RegistryFull,
            Some(408 | 425 | 429 | 499..) => Cause::Transient,
            Some(_) if is_push || error.contains("blobs/upload") => Cause::PushRefused,
            Some(404) => Cause::NotFound,
            _ if is_push && is_unknown && has(error, "not found|not known") => Cause::NoRepository,
            _ if is_push && is_unknown => Cause::PushRefused,
            // A name may hold any word.
            _ if error.ends_with(": not found") => Cause::NotFound,
            _ if is_network(&error.to_lowercase()) => Cause::Transient,
            _ if has(error, "not found|manifest unknown") => Cause::NotFound,
            _ => Cause::Other,
        }
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
        // What is further up, or was tried again since then, is not why it failed.
        let mut lines = text::last_lines(output, 20);
        lines.retain(|line| !line.contains("Retry(total=") || line.contains("Retry(total=0"));
        let output = lines.join("\n").to_lowercase();
        match find(STEP_SIGNS, &output) {
            Some(cause) => cause,
            None if is_network(&output) => Cause::StepNetwork,
            None => Cause::Step,
        }
    }
}

/// True where `error` is of a request that sends something, or belongs to that.
fn is_of_push(error: &str) -> bool {
    !error.contains(" token: ")
        && has(error, "PUT request|POST request|PATCH request|failed to push|error writing ")
}

/// True where `text`, in lower case, tells of a network or a server that may work again.
fn is_network(text: &str) -> bool {
    // Such as apt's `E: Failed to fetch http://a/b  522  Origin Connection Time-out`.
    let is_status = |word: &str| word.len() == 3 && word.parse().is_ok_and(|n: u32| n / 100 == 4);
    // Not as in `thread timed out`.
    let word = |at: usize| text[..at].rsplit(|c: char| !c.is_alphabetic() && c != '/').next();
    let is_slow = |at| word(at).is_some_and(|word| SLOW.split(' ').any(|slow| slow == word));
    let mut ends = [" timed out", " timeout"].iter().flat_map(|end| text.match_indices(end));
    NETWORK.iter().any(|words| has(text, words))
        || ends.any(|(at, _)| is_slow(at))
        || text.lines().any(|line| {
            line.ends_with("unexpected eof")
                || line.contains("e: failed to fetch http") && !line.split("  ").any(is_status)
        })
}

/// The HTTP status in `error`, as in `…: 503 Service Unavailable` or `error parsing HTTP 413 response body`.
pub fn http_status(error: &str) -> Option<u64> {
    [": ", "HTTP "].iter().flat_map(|mark| error.split(mark).skip(1)).find_map(|rest| {
        let word = rest.split([' ', ':', ',', '"']).next()?;
        word.parse().ok().filter(|status| (400..600).contains(status))
    })
}

/// What to do where an engine or a builder can't be reached; `None` where that is not known.
pub fn engine_hint(error: &str) -> Option<&'static str> {
    ENGINE_HINTS.iter().find(|(sign, _)| error.contains(sign)).map(|(_, hint)| *hint)
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
