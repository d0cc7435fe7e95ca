//! What of the caller's machine enters the steps of a build: certificates, proxies and mirrors. None of
//! it enters a layer or a cache key.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::mem;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base::digest::sha256;
use base::error::usage;
use base::{message, output};

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
/// Names that systems give their loopback.
const LOOPBACK: &str = "localhost localhost4 localhost6 localhost.localdomain \
                        localhost4.localdomain4 localhost6.localdomain6 ip6-localhost ip6-loopback";
/// The largest secret that `BuildKit` takes, in bytes.
const LARGEST_SECRET: usize = 500 * 1024;

/// The variables by which pip, uv, npm and apt know mirrors, besides those that begin with `UV_INDEX`.
const MIRRORS: &str = "APT_MIRROR PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST UV_DEFAULT_INDEX \
                       UV_EXTRA_INDEX_URL UV_INSECURE_HOST NPM_CONFIG_REGISTRY NPM_CONFIG_STRICT_SSL \
                       NPM_TOKEN NODE_AUTH_TOKEN";

/// A program's configuration, of which the lines that name indexes are handed on.
struct Configuration {
    secret: &'static str,
    /// The variable that names its file.
    variable: &'static str,
    /// Its usual places, of which the first with such lines counts; below the user's configuration.
    places: &'static [&'static str],
    /// True for a key, in a section, that is handed on with its value.
    keeps: fn(&str, &str) -> bool,
}

const CONFIGURATIONS: [Configuration; 3] = [
    Configuration {
        secret: "pip.conf",
        variable: "PIP_CONFIG_FILE",
        places: &["pip/pip.conf", "~/.pip/pip.conf", "/etc/pip.conf"],
        keeps: |_, key| {
            let key = key.split(':').next().unwrap_or_default().trim().replace('_', "-");
            ["index-url", "extra-index-url", "trusted-host"].contains(&key.as_str())
        },
    },
    Configuration {
        secret: "uv.toml",
        variable: "UV_CONFIG_FILE",
        places: &["uv/uv.toml", "/etc/uv/uv.toml"],
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
        places: &["~/.npmrc"],
        keeps: |_, key| key.ends_with("registry") || key.starts_with("//") || key == "strict-ssl",
    },
];

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
    /// Reads the environment and the configuration of pip, uv and npm. Addresses on loopback mean another
    /// machine within a step: they are not handed on, which is said.
    /// Errors: a usage error for a variable that is not text, or a named CA bundle that can't be used.
    pub fn read(root: &Path) -> Result<Self> {
        let mut host = Host { certificates: certificates(root)?, ..Host::default() };
        let mut refused = Vec::new();
        let mut has_proxy = false;
        for name in PROXIES.iter().flat_map(|name| [(*name).to_owned(), name.to_lowercase()]) {
            let Ok(Some(value)) = variable(&name) else { continue };
            let is_proxy = !name.eq_ignore_ascii_case("no_proxy");
            let is_socks = value.to_ascii_lowercase().starts_with("socks");
            if is_proxy && (is_socks || is_loopback(&value)) {
                refused.push(name);
            } else {
                has_proxy |= is_proxy;
                host.proxies.push((name, value));
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
            if is_loopback(&value) {
                refused.push(name);
            } else {
                settings.push_str(&format!("export {name}={}\n", quoted(&value)));
            }
        }
        for configuration in CONFIGURATIONS {
            let Some((path, text)) = configuration.read() else { continue };
            if text.lines().any(is_loopback) {
                refused.push(path.display().to_string());
            } else {
                host.texts.push((configuration.secret, text));
            }
        }
        let configurations = host.texts.iter().map(|(_, text)| text.as_str());
        if let Some(logins) = netrc(&configurations.chain([settings.as_str()]).collect::<String>())
        {
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

/// The logins in .netrc, which pip and uv read, for the hosts that `settings` name.
fn netrc(settings: &str) -> Option<String> {
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".netrc"));
    let path = env::var_os("NETRC").filter(|path| !path.is_empty()).map(PathBuf::from).or(home)?;
    let text = String::from_utf8(output::load(&path).ok()?).ok()?;
    let is_end = |c: char| !(c.is_ascii_alphanumeric() || "-._".contains(c));
    let named = settings.split(is_end).collect::<BTreeSet<_>>();
    let (mut kept, mut is_kept) = (String::new(), false);
    let mut words = text.split_whitespace();
    while let Some(key) = words.next() {
        let value = if key == "default" { "" } else { words.next()? };
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
        })
    })
}

/// The CA bundle that this machine trusts, without comments, repeats and private keys, below `target`:
/// the one that programs use by `SSL_CERT_FILE`, else the first in a system's place that holds any. An empty
/// file that the variable names stands for none.
fn certificates(root: &Path) -> Result<Option<PathBuf>> {
    let named = variable("SSL_CERT_FILE")?.map(PathBuf::from).filter(|path| path.is_file());
    let bundles = BUNDLES.map(PathBuf::from).to_vec();
    for path in named.clone().map_or(bundles, |path| vec![path]) {
        let bundle = match fs::read(&path) {
            Err(error) if named.is_some() => {
                let path = path.display();
                return Err(usage(format!("SSL_CERT_FILE={path} can't be read ({error})")));
            }
            bundle => bundle.unwrap_or_default(),
        };
        let text = pem_certificates(&String::from_utf8_lossy(&bundle));
        if text.is_empty() {
            if named.is_some() && !bundle.trim_ascii().is_empty() {
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
            if named.is_some() {
                return Err(usage(format!("{why}\nhint: set SSL_CERT_FILE to a smaller bundle")));
            }
            message::warn(&format!("{why}: not handed on; SSL_CERT_FILE can name a smaller one"));
            return Ok(None);
        }
        let file = root.join(format!("target/image/ca-{}.pem", &sha256(&text)[..16]));
        if !file.is_file() {
            output::save(&file, &text)
                .context("the certificates for build steps can't be written")?;
        }
        return Ok(Some(file));
    }
    Ok(None)
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
    /// The file that the variable names, or else the first usual one, with what is kept from it.
    fn read(&self) -> Option<(PathBuf, String)> {
        let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let users = env::var_os("XDG_CONFIG_HOME").filter(|folder| !folder.is_empty());
        let users = users.map_or(home.join(".config"), PathBuf::from);
        let places = self.places.iter().map(|place| match place.strip_prefix("~/") {
            Some(path) => home.join(path),
            None => users.join(place),
        });
        if self.secret == "uv.toml" && matches!(switch_variable("UV_NO_CONFIG"), Ok(Some(true))) {
            return None;
        }
        // npm's in lower case too.
        let named = [self.variable.to_owned(), self.variable.to_lowercase()].map(env::var_os);
        let named = named.into_iter().flatten().find(|path| !path.is_empty());
        let places = named.map_or_else(|| places.collect(), |path| vec![PathBuf::from(path)]);
        places.into_iter().filter(|path| path.is_file()).find_map(|path| {
            let text = self.kept(&String::from_utf8_lossy(&output::load(&path).ok()?));
            let text = if self.secret == "npmrc" { expanded(&text) } else { text };
            Some((path, text)).filter(|(_, text)| !text.is_empty())
        })
    }

    /// The lines of the configuration `text` with the keys that are handed on, under their sections,
    /// without comments. A value goes on until its brackets are closed, or where there are none in
    /// lines that are indented more than its key.
    fn kept(&self, text: &str) -> String {
        let is_toml = self.secret == "uv.toml";
        let mut kept = String::new();
        let (mut section, mut heading, mut is_kept) = ("", String::new(), false);
        let (mut open, mut indent) = (0, usize::MAX);
        for line in text.lines() {
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
                continue;
            }
            let column = line.len() - line.trim_start().len();
            let goes_on = if is_toml { open > 0 } else { column > indent };
            if !goes_on && trimmed.starts_with('[') {
                section = trimmed.split(['#', ';']).next().unwrap_or_default().trim_end();
                (heading, is_kept, indent) = (format!("{section}\n"), false, usize::MAX);
                continue;
            }
            if !goes_on {
                let key = trimmed.split('=').next().unwrap_or_default().trim();
                (is_kept, open, indent) = ((self.keeps)(section, key), 0, column);
            }
            open += opened(trimmed);
            if is_kept {
                kept.push_str(&mem::take(&mut heading));
                kept.push_str(&format!("{line}\n"));
            }
        }
        kept
    }
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
    use super::{CONFIGURATIONS, expanded, is_loopback, pem_certificates};

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
            CONFIGURATIONS.map(|configuration| move |text: &str| configuration.kept(text));
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
            CONFIGURATIONS.map(|configuration| move |text: &str| configuration.kept(text));
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
    fn only_certificates_are_taken_from_a_bundle() {
        let block = |kind: &str| format!("-----BEGIN {kind}-----\nAA\n-----END {kind}-----\n");
        let [key, trusted] = ["PRIVATE KEY", "TRUSTED CERTIFICATE"].map(block);
        let certificate = block("CERTIFICATE");
        let bundle = format!("# x\n{certificate}{key}{trusted}{certificate}");
        assert_eq!(pem_certificates(&bundle), certificate);
        assert_eq!(pem_certificates(&format!("{key}-----BEGIN CERTIFICATE-----\nA")), "");
    }
}
