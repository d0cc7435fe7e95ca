//! What of the caller's machine enters the steps of a build: certificates, proxies and mirrors. None of
//! it enters a layer or a cache key.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Result;
use base::digest::sha256;
use base::error::usage;
use base::{message, output};
use serde_json::Value;

use crate::cli::{quoted, switch_variable, variable};
use crate::names::csv_field;

/// In upper case; the lower case of each counts too.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Where systems keep their CA bundle: Debian, Fedora, SUSE, `OpenELEC`, RHEL 7, Alpine and macOS.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Variables that name files of further certificates, for one program each.
const MORE_CERTIFICATES: &str = "REQUESTS_CA_BUNDLE PIP_CERT NODE_EXTRA_CA_CERTS CURL_CA_BUNDLE \
                                 NPM_CONFIG_CAFILE npm_config_cafile";
/// Names that systems give their loopback, besides those in this file.
const LOOPBACK: &str = "localhost localhost4 localhost6 localhost.localdomain \
                        localhost4.localdomain4 localhost6.localdomain6 ip6-localhost ip6-loopback";
const HOSTS: &str = "/etc/hosts";
/// The largest secret that `BuildKit` takes, in bytes.
const LARGEST_SECRET: usize = 500 * 1024;

/// The variables by which pip, uv, npm and apt know mirrors, besides those that begin with `UV_INDEX`.
const MIRRORS: &str = "APT_MIRROR UBUNTU_MIRROR PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST \
                       UV_DEFAULT_INDEX UV_EXTRA_INDEX_URL UV_INSECURE_HOST NPM_CONFIG_REGISTRY NPM_CONFIG_STRICT_SSL \
                       NPM_TOKEN NODE_AUTH_TOKEN";

/// A program's configuration, of which the keys that name indexes are handed on.
struct Configuration {
    secret: &'static str,
    /// The variable that names a file in place of the user's own: the places with these numbers.
    variable: &'static str,
    own: Range<usize>,
    /// Its usual places, those that override others first; below the user's configuration, or the folder or
    /// file that a variable names.
    places: &'static [&'static str],
    /// True for a key, in a section, that is handed on with its value.
    keeps: fn(&str, &str) -> bool,
}

const CONFIGURATIONS: [Configuration; 3] = [
    Configuration {
        secret: "pip.conf",
        variable: "PIP_CONFIG_FILE",
        own: 1..3,
        places: &[
            "$VIRTUAL_ENV/pip.conf",
            "pip/pip.conf",
            "~/.pip/pip.conf",
            "/etc/pip.conf",
            "/etc/xdg/pip/pip.conf",
        ],
        keeps: |_, key| ["index-url", "extra-index-url", "trusted-host"].contains(&key),
    },
    Configuration {
        secret: "uv.toml",
        variable: "UV_CONFIG_FILE",
        own: 0..3,
        places: &["uv/uv.toml", "/etc/xdg/uv/uv.toml", "/etc/uv/uv.toml"],
        keeps: |section, key| match section {
            "" | "[pip]" => {
                ["index-url", "extra-index-url", "index", "allow-insecure-host", "index-strategy"]
                    .contains(&key)
            }
            section => section == "[[index]]",
        },
    },
    Configuration {
        secret: "npmrc",
        variable: "NPM_CONFIG_USERCONFIG",
        own: 0..1,
        places: &[
            "~/.npmrc",
            "$NPM_CONFIG_GLOBALCONFIG",
            "$NPM_CONFIG_PREFIX/etc/npmrc",
            "/usr/local/etc/npmrc",
            "/usr/etc/npmrc",
            "/etc/npmrc",
        ],
        keeps: |_, key| key.ends_with("registry") || key.starts_with("//") || key == "strict-ssl",
    },
];

/// What pip and uv have alike: for each, its variables and its key. Steps use both, so where one of them has a
/// value and the other has none, the other gets it.
const ALIKE: [[(&str, &str); 2]; 2] = [
    [("PIP_INDEX_URL", "index-url"), ("UV_DEFAULT_INDEX UV_INDEX_URL", "index-url")],
    [("PIP_TRUSTED_HOST", "trusted-host"), ("UV_INSECURE_HOST", "allow-insecure-host")],
];

/// A key of a configuration with the lines of its value, or a whole table of a list.
struct Entry {
    section: String,
    key: String,
    lines: String,
}

/// What of this machine enters steps.
#[derive(Default)]
pub struct Host {
    /// Build arguments that `BuildKit` knows.
    pub proxies: Vec<(String, String)>,
    /// The file of certificates, below `target`.
    certificates: Option<PathBuf>,
    /// By the name of their secret. They may hold passwords: only docker gets them, by variables.
    texts: Vec<(&'static str, String)>,
}

impl Host {
    /// Reads the environment and the configuration of docker, pip, uv and npm. Addresses on loopback mean another
    /// machine within a step: they are not handed on, which is said. `workspace` is that of the server,
    /// whose lock may name indexes too.
    /// Errors: a usage error for a variable that is not text, or a named CA bundle that can't be used.
    pub fn read(root: &Path, workspace: Option<&Path>) -> Result<Self> {
        let mut host = Host { certificates: certificates(root)?, ..Host::default() };
        let mut refused = Vec::new();
        let mut has_proxy = false;
        let (path, docker) = docker_config();
        let engine = docker["proxies"].get(env::var("DOCKER_HOST").unwrap_or_default());
        let dockers = engine.unwrap_or(&docker["proxies"]["default"]);
        for upper in PROXIES {
            let is_proxy = upper != "NO_PROXY";
            let is_refused = |value: &str| {
                let is_socks = value.to_ascii_lowercase().starts_with("socks");
                is_proxy && (is_socks || is_loopback(value))
            };
            for name in [upper.to_owned(), upper.to_lowercase()] {
                let Ok(Some(value)) = variable(&name) else { continue };
                if is_refused(&value) {
                    refused.push(name);
                } else {
                    has_proxy |= is_proxy;
                    host.proxies.push((name, value));
                }
            }
            let key = upper.to_lowercase().replace("_proxy", "Proxy");
            if dockers[&key].as_str().is_some_and(is_refused) {
                // buildx adds it where no argument has this name, old ones in this case.
                let given = host.proxies.iter().find(|(name, _)| name.eq_ignore_ascii_case(upper));
                if given.is_none() {
                    refused.push(format!("{key} in {}", path.display()));
                }
                let value = given.map(|(_, value)| value.clone()).unwrap_or_default();
                has_proxy = true;
                host.proxies.push((upper.to_owned(), value));
            }
        }
        if !has_proxy {
            host.proxies.clear();
        }
        let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let mut settings = String::new();
        for name in names.collect::<BTreeSet<_>>() {
            let is_index = name.starts_with("UV_INDEX")
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            // npm's in any case.
            let is_npms =
                |known: &str| known.starts_with("NPM_CONFIG") && name.eq_ignore_ascii_case(known);
            let is_mirror = MIRRORS.split(' ').any(|known| known == name || is_npms(known));
            if !is_index && !is_mirror {
                continue;
            }
            let Some(value) = variable(&name)? else { continue };
            // Hosts that are trusted need not be there.
            let names_hosts = name.ends_with("_HOST");
            if !names_hosts && is_loopback(&value) {
                refused.push(name);
            } else {
                settings.push_str(&format!("export {name}={}\n", quoted(&value)));
            }
        }
        for configuration in CONFIGURATIONS {
            let text = configuration.read(&mut refused);
            host.texts.extend(text.map(|text| (configuration.secret, text)));
        }
        for [pip, uv] in ALIKE {
            let value = |configuration: &Configuration, (names, key): (&str, &str)| {
                let is_given = |name: &&str| !refused.iter().any(|refused| refused == name);
                let mut given = names.split(' ').filter(is_given);
                let text = host.texts.iter().find(|(secret, _)| *secret == configuration.secret);
                let configured =
                    || configuration.kept(&text?.1).iter().find_map(|entry| entry.value_of(key));
                given.find_map(|name| variable(name).ok()?).or_else(configured)
            };
            let [pips, uvs, _] = &CONFIGURATIONS;
            let (names, value) = match (value(pips, pip), value(uvs, uv)) {
                (Some(value), None) => (uv.0, value),
                // uv takes NAME=URL too, and its login from variables of that name.
                (None, Some(value)) => match value.split_once('=') {
                    Some((name, url)) if !name.contains('/') => (pip.0, with_login(name, url)),
                    _ => (pip.0, value),
                },
                _ => continue,
            };
            let name = names.split(' ').next().unwrap_or_default();
            settings.push_str(&format!("export {name}={}\n", quoted(&value)));
        }
        let configurations = host.texts.iter().map(|(_, text)| text.as_str());
        let named = configurations.chain([settings.as_str()]).collect::<String>();
        if let Some(logins) = netrc(&named, workspace) {
            settings.push_str(&format!(
                "printf %s {} >/run/tmp/netrc\nexport NETRC=/run/tmp/netrc\n",
                quoted(&logins)
            ));
        }
        if !settings.is_empty() {
            host.texts.push(("settings", settings));
        }
        if !refused.is_empty() {
            message::warn(&format!(
                "not handed on to build steps, which can't reach this machine's own loopback or use \
                 SOCKS: {}",
                refused.join(", ")
            ));
        }
        Ok(host)
    }

    /// The `secret` entries of a bake target.
    pub fn secrets(&self) -> Vec<String> {
        let mut secrets = Vec::new();
        if let Some(path) = &self.certificates {
            let source = csv_field(&format!("src={}", path.display()));
            secrets.push(format!("type=file,id=ca-certificates,{source}"));
        }
        for (name, _) in &self.texts {
            secrets.push(format!("type=env,id={name},env={}", secret_variable(name)));
        }
        secrets
    }

    /// The variables that hold the secrets, for docker.
    pub fn variables(&self) -> impl Iterator<Item = (String, &str)> {
        self.texts.iter().map(|(name, text)| (secret_variable(name), text.as_str()))
    }
}

/// The address of uv's index `name`, with the login that uv's variables have for it.
fn with_login(name: &str, url: &str) -> String {
    let name = name.to_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let part = |kind: &str| {
        let value = env::var(format!("UV_INDEX_{name}_{kind}")).ok()?;
        let encode = |byte: u8| {
            let is_plain = byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            if is_plain { char::from(byte).to_string() } else { format!("%{byte:02X}") }
        };
        Some(value.bytes().map(encode).collect::<String>())
    };
    let user = part("USERNAME").unwrap_or_default();
    match (url.split_once("://"), part("PASSWORD")) {
        (Some((scheme, rest)), Some(password)) if !rest.contains('@') => {
            format!("{scheme}://{user}:{password}@{rest}")
        }
        _ => url.to_owned(),
    }
}

/// Docker's own configuration, with its path; `Null` where there is none.
pub fn docker_config() -> (PathBuf, Value) {
    let folder = env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty());
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".docker"));
    let path = folder.map(PathBuf::from).or_else(home).unwrap_or_default().join("config.json");
    let text = output::load(&path).unwrap_or_default();
    (path, serde_json::from_slice(&text).unwrap_or_default())
}

/// The logins in .netrc, which pip and uv read, for the hosts that `settings` or the lock of the `workspace`
/// name.
fn netrc(settings: &str, workspace: Option<&Path>) -> Option<String> {
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".netrc"));
    let path = env::var_os("NETRC").filter(|path| !path.is_empty()).map(PathBuf::from).or(home)?;
    let text = String::from_utf8(output::load(&path).ok()?).ok()?;
    let is_end = |c: char| !(c.is_ascii_alphanumeric() || "-._".contains(c));
    let lock = workspace.map(|folder| fs::read_to_string(folder.join("uv.lock")));
    let lock = lock.and_then(Result::ok).unwrap_or_default();
    let named = settings.split(is_end).chain(lock.split(is_end)).collect::<BTreeSet<_>>();
    let (mut kept, mut is_kept) = (String::new(), false);
    let lines = text.lines().enumerate();
    let words = lines.flat_map(|(number, line)| line.split_whitespace().map(move |w| (number, w)));
    let mut words = words.peekable();
    while let Some((line, key)) = words.next() {
        if key.starts_with('#') {
            while words.next_if(|(number, _)| *number == line).is_some() {}
            continue;
        }
        let value = if key == "default" { "" } else { words.next()?.1 };
        if ["machine", "default", "macdef"].contains(&key) {
            is_kept = key == "machine" && named.contains(value);
        }
        if is_kept {
            kept.push_str(&format!("{key} {value}\n"));
        }
    }
    Some(kept).filter(|kept| !kept.is_empty())
}

fn secret_variable(name: &str) -> String {
    format!("XTASK_SECRET_{}", name.replace('.', "_").to_uppercase())
}

/// True where one of the addresses in `text` is on the loopback of whoever uses it.
fn is_loopback(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let mut addresses = text.split(|c: char| c.is_whitespace() || ",\"'=".contains(c));
    addresses.any(|address| {
        let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
        // A password may hold a `/`, and a path an `@`.
        let mut places = [rest, rest.rsplit('@').next().unwrap_or_default()].into_iter();
        places.any(|place| {
            let place = place.split('/').next().unwrap_or_default();
            let host = place.rsplit('@').next().unwrap_or_default();
            let host = match host.strip_prefix('[') {
                Some(host) => host.split(']').next().unwrap_or_default(),
                None => host.split(':').next().unwrap_or_default(),
            };
            let host = host.trim_end_matches('.');
            let ip = host.parse().map(|ip: IpAddr| ip.to_canonical());
            // `127.1` and `0` are short for addresses; `0` alone may be any setting.
            let is_v4 = host.bytes().all(|byte| byte == b'.' || byte.is_ascii_digit());
            ip.is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
                || is_v4 && (host.starts_with("127.") || host == "0" && address != "0")
                || host.ends_with(".localhost")
                || LOOPBACK.split(' ').any(|known| known == host)
                || own_names().contains(host)
        })
    })
}

/// The names that this machine's [`HOSTS`] gives its loopback, its own often among them.
fn own_names() -> &'static BTreeSet<String> {
    static NAMES: OnceLock<BTreeSet<String>> = OnceLock::new();
    NAMES.get_or_init(|| names_of_loopback(&fs::read_to_string(HOSTS).unwrap_or_default()))
}

fn names_of_loopback(hosts: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in hosts.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let ip = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        if ip.is_some_and(|ip| ip.is_loopback()) {
            names.extend(words.map(str::to_lowercase));
        }
    }
    names
}

/// The certificates that this machine trusts, without comments, repeats and private keys, below `target`:
/// its CA bundle, and the files that [`MORE_CERTIFICATES`] name.
fn certificates(root: &Path) -> Result<Option<PathBuf>> {
    let mut text = bundle()?;
    for name in MORE_CERTIFICATES.split(' ') {
        let Some(path) = variable(name)? else { continue };
        let why = match output::load(Path::new(&path)) {
            Err(error) => error.to_string(),
            Ok(more) => {
                let all = pem_certificates(&format!("{text}{}", String::from_utf8_lossy(&more)));
                if all.len() <= LARGEST_SECRET {
                    text = all;
                    continue;
                }
                "all have more than 500 KiB, and BuildKit takes 500".to_owned()
            }
        };
        message::warn(&format!("the certificates in {name}={path} are not handed on: {why}"));
    }
    let file = root.join(format!("target/image/ca-{}.pem", &sha256(&text)[..16]));
    if !text.is_empty()
        && !file.is_file()
        && let Err(error) = output::save(&file, &text)
    {
        message::warn(&format!("build steps get no certificates: {error:#}"));
        return Ok(None);
    }
    Ok(Some(file).filter(|_| !text.is_empty()))
}

/// The certificates in the CA bundle of this machine: the one that programs use by `SSL_CERT_FILE`, else the
/// first in a system's place that holds any. An empty file that the variable names stands for none.
fn bundle() -> Result<String> {
    let named = variable("SSL_CERT_FILE")?.map(PathBuf::from);
    if let Some(path) = named.as_ref().filter(|path| !path.exists() || path.is_dir()) {
        let path = path.display();
        message::warn(&format!("SSL_CERT_FILE={path} is no file: took the system's certificates"));
    }
    let named = named.filter(|path| path.is_file());
    let is_chosen = named.as_ref().is_some_and(|path| !is_systems(path));
    let systems = BUNDLES.map(PathBuf::from).into_iter().filter(|_| !is_chosen);
    for path in named.into_iter().chain(systems) {
        let bundle = match fs::read(&path) {
            Err(error) if is_chosen => {
                let path = path.display();
                return Err(usage(format!("SSL_CERT_FILE={path} can't be read ({error})")));
            }
            bundle => bundle.unwrap_or_default(),
        };
        let text = pem_certificates(&String::from_utf8_lossy(&bundle));
        if text.is_empty() {
            if is_chosen && !bundle.trim_ascii().is_empty() {
                return Err(usage(format!(
                    "SSL_CERT_FILE={} holds no PEM certificate\nhint: name a bundle of PEM certificates; \
                     `openssl x509 -inform der -in FILE -out FILE.pem` converts one",
                    path.display()
                )));
            }
            continue;
        }
        if text.len() > LARGEST_SECRET {
            let (path, size) = (path.display(), text.len() / 1024);
            let why = format!("the CA bundle {path} has {size} KiB, and BuildKit takes 500");
            if is_chosen {
                return Err(usage(format!("{why}\nhint: set SSL_CERT_FILE to a smaller bundle")));
            }
            message::warn(&format!("{why}: not handed on; SSL_CERT_FILE can name a smaller one"));
            break;
        }
        return Ok(text);
    }
    Ok(String::new())
}

/// True for a system's bundle by any name: cargo sets `SSL_CERT_FILE` to it where nobody has set it.
fn is_systems(path: &Path) -> bool {
    let path = path.canonicalize().ok();
    path.is_some() && BUNDLES.iter().any(|known| Path::new(known).canonicalize().ok() == path)
}

/// The certificates in `bundle`, sorted.
fn pem_certificates(bundle: &str) -> String {
    let blocks = bundle.split("-----BEGIN ").skip(1);
    let certificates = blocks.filter(|block| block.starts_with("CERTIFICATE-----"));
    let certificates = certificates
        .filter_map(|block| Some(block.split_once("-----END CERTIFICATE-----")?.0))
        .collect::<BTreeSet<_>>();
    let pem = |text| format!("-----BEGIN {text}-----END CERTIFICATE-----\n");
    certificates.into_iter().map(pem).collect()
}

impl Configuration {
    /// What is kept of all its files that count. An entry that names this machine's loopback is added to
    /// `refused` instead.
    fn read(&self, refused: &mut Vec<String>) -> Option<String> {
        if self.secret == "uv.toml" && matches!(switch_variable("UV_NO_CONFIG"), Ok(Some(true))) {
            return None;
        }
        // npm's in lower case too.
        let folder = |name: &str| {
            let value = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
            value(name).or_else(|| value(&name.to_lowercase())).map(PathBuf::from)
        };
        let home = folder("HOME");
        let users = folder("XDG_CONFIG_HOME");
        let users = users.or(home.as_ref().map(|home| home.join(".config")));
        let named = folder(self.variable);
        let places = self.places.iter().enumerate();
        let places = places.filter(|(number, _)| named.is_none() || !self.own.contains(number));
        let places = places.filter_map(|(_, place)| {
            let (first, path) = place.split_once('/').unwrap_or((place, ""));
            match (first, first.strip_prefix('$')) {
                (_, Some(name)) if path.is_empty() => folder(name),
                (_, Some(name)) => Some(folder(name)?.join(path)),
                ("~", _) => Some(home.as_ref()?.join(path)),
                // An absolute place stays as it is.
                _ => Some(users.clone().unwrap_or_default().join(place)),
            }
        });
        // So people turn all of them off.
        if named.as_ref().is_some_and(|path| path == Path::new("/dev/null")) {
            return None;
        }
        let mut entries = Vec::<Entry>::new();
        for path in named.clone().into_iter().chain(places).filter(|path| path.is_file()) {
            let Ok(text) = output::load(&path) else { continue };
            let text = String::from_utf8_lossy(&text);
            let known = entries.len();
            for entry in self.kept(&text) {
                let is_known = |other: &Entry| {
                    !entry.key.is_empty()
                        && (&other.section, &other.key) == (&entry.section, &entry.key)
                };
                if entry.is_loopback() {
                    let name = if entry.key.is_empty() { &entry.section } else { &entry.key };
                    refused.push(format!("{name} in {}", path.display()));
                } else if !entries[..known].iter().any(is_known) {
                    entries.push(entry);
                }
            }
        }
        let text = joined(entries);
        let text = if self.secret == "npmrc" { expanded(&text) } else { text };
        Some(text).filter(|text| !text.is_empty())
    }

    /// The entries of the configuration `text` that are handed on, without comments. A value goes on until
    /// its brackets are closed, or where there are none in lines that are indented more than its key.
    fn kept(&self, text: &str) -> Vec<Entry> {
        let (is_toml, is_ini) = (self.secret == "uv.toml", self.secret == "pip.conf");
        let mut entries = Vec::<Entry>::new();
        let mut section = String::new();
        let (mut open, mut indent) = (0, usize::MAX);
        let lines = text.lines().filter(|line| !line.trim_start().starts_with(['#', ';']));
        for line in lines.filter(|line| !line.trim().is_empty()) {
            let trimmed = line.trim();
            let column = line.len() - line.trim_start().len();
            let goes_on = if is_toml { open > 0 } else { column > indent };
            let is_heading = !goes_on && trimmed.starts_with('[');
            let mut key = String::new();
            if is_heading {
                let heading = trimmed.split(['#', ';']).next().unwrap_or_default();
                heading.trim_end().clone_into(&mut section);
                indent = usize::MAX;
            } else if !goes_on {
                let ends = if is_ini { &['=', ':'][..] } else { &['='] };
                trimmed.split(ends).next().unwrap_or_default().trim().clone_into(&mut key);
                if is_ini {
                    key = key.to_lowercase().replace('_', "-");
                }
                (open, indent) = (0, column);
            }
            let is_table = section.starts_with("[[");
            if is_heading && is_table || !is_heading && !goes_on && !is_table {
                entries.push(Entry { section: section.clone(), key, lines: String::new() });
            }
            if is_heading {
                continue;
            }
            open += opened(trimmed);
            if let Some(entry) = entries.last_mut() {
                entry.lines.push_str(&format!("{line}\n"));
            }
        }
        entries.retain(|entry| (self.keeps)(&entry.section, &entry.key));
        entries
    }
}

impl Entry {
    /// True where it needs an address on this machine's loopback. Hosts that are trusted need not be there.
    fn is_loopback(&self) -> bool {
        let names_hosts = ["trusted-host", "allow-insecure-host"].contains(&self.key.as_str());
        let mut values = self.lines.lines().map(|line| line.split(" #").next().unwrap_or_default());
        !names_hosts && values.any(is_loopback)
    }

    /// The value, or values with blanks between, if it is one for `key`; of uv's default index NAME=URL, if it
    /// has a name.
    fn value_of(&self, key: &str) -> Option<String> {
        let lines = self.lines.lines().map(|line| line.split(" #").next().unwrap_or_default());
        let text = lines.collect::<Vec<_>>().join("\n");
        if self.section == "[[index]]" || self.key == "index" {
            return default_index(&text).filter(|_| key == "index-url");
        }
        if self.key != key {
            return None;
        }
        let text = text.replace('\n', " ");
        let words = text.split_once(['=', ':'])?.1.split([' ', ',']);
        let words = words.map(|word| word.trim_matches(['[', ']', '"', '\'', '\t']));
        Some(words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "))
    }
}

/// The default one of uv's tables of indexes, as NAME=URL if it has a name.
fn default_index(tables: &str) -> Option<String> {
    tables.split('{').find_map(|table| {
        let value = |key: &str| {
            let mut pairs = table.split(['\n', ',', '}']).filter_map(|pair| pair.split_once('='));
            let value = pairs.find(|(name, _)| name.trim() == key)?.1;
            Some(value.trim().trim_matches(['"', '\'']))
        };
        let url = value("url").filter(|_| value("default") == Some("true"))?;
        Some(value("name").map_or(url.to_owned(), |name| format!("{name}={url}")))
    })
}

/// A configuration of `entries`, each section once.
fn joined(mut entries: Vec<Entry>) -> String {
    let (mut text, mut last) = (String::new(), String::new());
    entries.sort_by(|one, other| one.section.cmp(&other.section));
    for Entry { section, key, lines } in entries {
        if section != last || key.is_empty() {
            text.push_str(&format!("{section}\n"));
        }
        text.push_str(&lines);
        last = section;
    }
    text
}

/// How many brackets a line of TOML opens more than it closes, outside strings and comments.
fn opened(line: &str) -> i32 {
    let (mut opened, mut quote, mut is_escaped) = (0, None, false);
    for c in line.chars() {
        match quote {
            Some('"') if is_escaped || c == '\\' => is_escaped = !is_escaped,
            Some(end) if c == end => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == '#' => break,
            None if c == '[' || c == '{' => opened += 1,
            None if c == ']' || c == '}' => opened -= 1,
            _ => {}
        }
    }
    opened
}

/// The .npmrc `text` with the value of NAME for each `${NAME}` or `${NAME?}` that is set here, because no
/// step has it. npm would take what is escaped for the end of a value or an escape.
fn expanded(text: &str) -> String {
    let mut parts = text.split("${");
    let mut expanded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('}').unwrap_or_default();
        match env::var(name.trim_end_matches('?')) {
            Ok(value) => {
                let escape = |value: String, c: &&str| value.replace(c, &format!(r"\{c}"));
                let value = [r"\", ";", "#"].iter().fold(value, escape);
                expanded.push_str(&format!("{value}{rest}"));
            }
            Err(_) => expanded.push_str(&format!("${{{part}")),
        }
    }
    expanded
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{
        BUNDLES, CONFIGURATIONS, expanded, is_loopback, is_systems, joined, names_of_loopback,
        pem_certificates,
    };

    #[test]
    fn a_machine_gives_its_loopback_names() {
        let hosts = "127.0.0.1\tlocalhost\n# 127.0.0.1 no\n127.0.1.1 Box box.corp # own\n10.0.0.1 other\n::1 six\n";
        let names = names_of_loopback(hosts).into_iter().collect::<Vec<_>>();
        assert_eq!(names, ["box", "box.corp", "localhost", "six"]);
    }

    #[test]
    fn addresses_on_loopback() {
        for address in [
            "http://127.0.0.1:3128",
            "localhost:3128",
            "https://me:pw@localhost/simple",
            "127.9.9.9",
            "http://[::1]:80/",
            "0.0.0.0:1",
            "socks5h://127.0.0.1:1080",
            "name=http://localhost/x",
            "http://localhost.localdomain:3128",
            "http://IP6-localhost:8118",
            "http://ip6-loopback",
            "http://localhost6:1",
            "http://localhost.:3128",
            "http://[::ffff:127.0.0.1]:3128",
            "http://[::]:1",
            "http://0:3128",
            "http://127.1/",
            "http://u:a/b@127.0.0.1:3128",
            "http://localhost:4873/@scope",
            "https://a\nhttp://localhost",
        ] {
            assert!(is_loopback(address), "{address}");
        }
        for address in [
            "http://proxy:3128",
            "http://localhost.example.org",
            "10.0.0.1:80",
            "127.example.org",
            "http://u:a/b@proxy:3128",
            "[2001:db8::1]:80",
            "strict-ssl=0",
            "",
        ] {
            assert!(!is_loopback(address), "{address}");
        }
    }

    #[test]
    fn only_indexes_are_taken_from_configurations() {
        let [pip, uv, npm] =
            CONFIGURATIONS.map(|configuration| move |text: &str| joined(configuration.kept(text)));
        let text = "[global]\ncert = /x\nindex-url = https://a/simple\nextra-index-url =\n  https://b\n  \
                   https://c\n[install]\nuser = true\ntrusted-host = a\n";
        let expected = "[global]\nindex-url = https://a/simple\nextra-index-url =\n  https://b\n  https://c\n\
                    [install]\ntrusted-host = a\n";
        assert_eq!(pip(text), expected);
        let text = "cache-dir = \"/x\"\nextra-index-url = [\n  \"https://b\",\n]\nlink-mode = \"copy\"\n\
                  [[index]]\nurl = \"https://a\"\ndefault = true\n[pip]\nstrict = true\n";
        let expected = "extra-index-url = [\n  \"https://b\",\n]\n[[index]]\nurl = \"https://a\"\ndefault = true\n";
        assert_eq!(uv(text), expected);
        let text =
            "fund=false\nregistry=https://a/\n@me:registry=https://b/\n//b/:_authToken=${T}\n";
        assert_eq!(npm(text), text.replace("fund=false\n", ""));
    }

    #[test]
    fn a_value_ends_at_the_next_key_or_section() {
        let [pip, uv, _] =
            CONFIGURATIONS.map(|configuration| move |text: &str| joined(configuration.kept(text)));
        let text = "[global]\n  extra-index-url =\n    https://a\n\n# b's\n    https://b\n  \
                    cert = /x\n[install]\nindex-url: https://c\n";
        let expected = "[global]\n  extra-index-url =\n    https://a\n    https://b\n\
                        [install]\nindex-url: https://c\n";
        assert_eq!(pip(text), expected);
        let text = "extra-index-url = [ # [\n# ours\n'https://a/[',\n\n\"https://b/\\\"]\",\n]\n\
                    cache-keys = [\n\"x\",\n]\n[[index]] # \"c\"\nurl = \"https://c\"\n\
                    [pip]\nstrict = true\nindex-url = \"https://d\"\n[other]\nindex-url = 1\n";
        let expected = "extra-index-url = [ # [\n'https://a/[',\n\"https://b/\\\"]\",\n]\n\
                        [[index]]\nurl = \"https://c\"\n[pip]\nindex-url = \"https://d\"\n";
        assert_eq!(uv(text), expected);
    }

    #[test]
    fn variables_of_npm_are_expanded_where_they_are_set() {
        let path = std::env::var("PATH").unwrap_or_default();
        assert_eq!(expanded("a=${PATH}/${PATH?}\n"), format!("a={path}/{path}\n"));
        for text in ["a=${NOT_SET_4711}b", "${}", "${PATH", "${A=B}", "${${PATH"] {
            assert_eq!(expanded(text), text);
        }
    }

    #[test]
    fn a_systems_bundle_is_known_by_any_name() {
        let existing = BUNDLES.iter().filter(|path| Path::new(path).is_file());
        for path in existing {
            assert!(is_systems(Path::new(&format!("/etc/..{path}"))));
        }
        assert!(!is_systems(Path::new("/dev/null")) && !is_systems(Path::new("/nowhere")));
    }

    #[test]
    fn only_certificates_are_taken_from_a_bundle() {
        let block = |kind: &str| format!("-----BEGIN {kind}-----\nAA\n-----END {kind}-----\n");
        let [key, trusted] = ["PRIVATE KEY", "TRUSTED CERTIFICATE"].map(block);
        let certificate = block("CERTIFICATE");
        let bundle = format!("# x\n{certificate}{key}{trusted}{certificate}");
        assert_eq!(pem_certificates(&bundle), certificate);
        assert_eq!(pem_certificates(&format!("{key}-----BEGIN CERTIFICATE-----\nA")), "");
    }
}
