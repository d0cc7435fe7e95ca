//! The certificates, proxies and mirrors of this machine, for build steps. None enters a layer or a cache key.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use base::digest::sha256;
use base::error::usage;
use base::{message, output};
use serde_json::Value;

use crate::cli::{quoted, switch_variable, variable};
use crate::names::csv_field;

/// In upper case; the lower case of each counts too.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Where systems keep their CA bundle: Debian, Fedora, SUSE, RHEL 7, Alpine and macOS.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Variables that name files of certificates: a bundle in place of these, and what single programs add.
const CERTIFICATES: &str = "SSL_CERT_FILE REQUESTS_CA_BUNDLE PIP_CERT NODE_EXTRA_CA_CERTS \
                            CURL_CA_BUNDLE NPM_CONFIG_CAFILE npm_config_cafile";

/// The variables by which pip, uv, npm and apt know mirrors, besides those that begin with `UV_INDEX`.
const MIRRORS: &str = "APT_MIRROR UBUNTU_MIRROR PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST \
                       UV_DEFAULT_INDEX UV_EXTRA_INDEX_URL UV_INSECURE_HOST NPM_CONFIG_REGISTRY NPM_CONFIG_STRICT_SSL \
                       NPM_TOKEN NODE_AUTH_TOKEN";

/// The secret for each program's configuration, and its files, those that override others last. Some begin with
/// a variable. The last variable replaces the user's own files.
const CONFIGURATIONS: [&str; 3] = [
    "pip.conf: /etc/xdg/pip/pip.conf /etc/pip.conf HOME/.pip/pip.conf HOME/.config/pip/pip.conf \
     XDG_CONFIG_HOME/pip/pip.conf VIRTUAL_ENV/pip.conf PIP_CONFIG_FILE",
    "uv.toml: /etc/uv/uv.toml /etc/xdg/uv/uv.toml HOME/.config/uv/uv.toml XDG_CONFIG_HOME/uv/uv.toml \
     UV_CONFIG_FILE",
    "npmrc: /etc/npmrc /usr/etc/npmrc /usr/local/etc/npmrc NPM_CONFIG_PREFIX/etc/npmrc \
     NPM_CONFIG_GLOBALCONFIG HOME/.npmrc NPM_CONFIG_USERCONFIG",
];

/// What of this machine enters steps.
pub struct Host {
    /// Build arguments that `BuildKit` knows.
    pub proxies: BTreeMap<String, String>,
    /// The `secret` entries of a bake target.
    pub secrets: Vec<String>,
    /// The variables of secrets. They may hold passwords, so only docker gets them.
    pub variables: BTreeMap<String, String>,
}

impl Host {
    /// Reads the environment and the configuration of docker, pip, uv and npm, and warns of what steps can't use,
    /// such as this machine's loopback. The lock of the server's `workspace` may name indexes too.
    /// Errors: a usage error for a variable that is not text, or a named CA bundle that can't be used.
    pub fn read(root: &Path, workspace: Option<&Path>) -> Result<Self> {
        let (mut secrets, mut variables, mut refused) = (Vec::new(), BTreeMap::new(), Vec::new());
        if let Some(path) = certificates(root)? {
            let source = csv_field(&format!("src={}", path.display()));
            secrets.push(format!("type=file,id=ca-certificates,{source}"));
        }
        let proxies = proxies(&mut refused)?;
        let mut texts = vec![("settings", settings(&mut refused)?)];
        for (secret, places) in CONFIGURATIONS.iter().filter_map(|line| line.split_once(": ")) {
            texts.push((secret, configuration(secret, places, &mut refused)));
        }
        if let Some(logins) = netrc(&texts, workspace) {
            texts[0].1 +=
                &format!("export NETRC=/run/tmp/netrc\nprintf %s {} >$NETRC\n", quoted(&logins));
        }
        for (id, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            let variable = format!("XTASK_SECRET_{}", id.replace('.', "_").to_uppercase());
            secrets.push(format!("type=env,id={id},env={variable}"));
            variables.insert(variable, text);
        }
        if !refused.is_empty() {
            let why = "which can't reach this machine's own loopback or use SOCKS";
            let names = refused.join(", ");
            message::warn(&format!("not handed on to build steps, {why}: {names}"));
        }
        Ok(Host { proxies, secrets, variables })
    }
}

/// Docker's own configuration, with its path; `Null` where there is none.
pub fn docker_config() -> (PathBuf, Value) {
    let path = named_or_home("DOCKER_CONFIG", ".docker").join("config.json");
    let text = output::load(&path).unwrap_or_default();
    (path, serde_json::from_slice(&text).unwrap_or_default())
}

/// What the variable `name` names, else the place `own` in the user's home.
fn named_or_home(name: &str, own: &str) -> PathBuf {
    let named = env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    named.unwrap_or_else(|| env::home_dir().unwrap_or_default().join(own))
}

/// The proxies of the environment that steps can use. The others are added to `refused`.
fn proxies(refused: &mut Vec<String>) -> Result<BTreeMap<String, String>> {
    let mut proxies = BTreeMap::<String, String>::new();
    let (path, docker) = docker_config();
    let engine = docker["proxies"].get(env::var("DOCKER_HOST").unwrap_or_default());
    let dockers = engine.unwrap_or(&docker["proxies"]["default"]);
    for upper in PROXIES {
        let is_refused = |value: &str| {
            let is_socks = value.to_ascii_lowercase().starts_with("socks");
            upper != "NO_PROXY" && (is_socks || is_loopback(value))
        };
        for name in [upper.to_owned(), upper.to_lowercase()] {
            match variable(&name)? {
                Some(value) if is_refused(&value) => refused.push(name),
                Some(value) => drop(proxies.insert(name, value)),
                None => {}
            }
        }
        let key = upper.to_lowercase().replace("_proxy", "Proxy");
        if dockers[&key].as_str().is_some_and(is_refused) {
            // buildx adds it where no argument has this name, old ones in this case.
            let given = proxies.iter().find(|(name, _)| name.eq_ignore_ascii_case(upper));
            if given.is_none() {
                refused.push(format!("{key} in {}", path.display()));
            }
            let value = given.map(|(_, value)| value.clone()).unwrap_or_default();
            proxies.insert(upper.to_owned(), value);
        }
    }
    Ok(proxies)
}

/// A part of a shell script that sets the variables of mirrors. Those on loopback are added to `refused`.
fn settings(refused: &mut Vec<String>) -> Result<String> {
    let mut settings = String::new();
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.collect::<BTreeSet<_>>() {
        let upper = name.to_ascii_uppercase();
        // npm's in any case.
        let known = if upper.starts_with("NPM_CONFIG") { &upper } else { &name };
        let is_index = name.starts_with("UV_INDEX")
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_index && !MIRRORS.split(' ').any(|mirror| mirror == known) {
            continue;
        }
        let Some(value) = variable(&name)? else { continue };
        if on_loopback(&value).next().is_some() {
            refused.push(name);
        } else {
            settings.push_str(&format!("export {name}={}\n", quoted(&value)));
        }
    }
    Ok(settings)
}

/// The files of one program, each with a form feed behind it. Lines with loopback are added to `refused`.
fn configuration(secret: &str, places: &str, refused: &mut Vec<String>) -> String {
    let is_uvs = secret == "uv.toml";
    let value = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    // npm's in lower case too.
    let value = |name: &str| value(name).or_else(|| value(&name.to_lowercase()));
    let named = places.rsplit(' ').next().and_then(value);
    // So people turn all of them off.
    if named.as_deref() == Some("/dev/null")
        || is_uvs && matches!(switch_variable("UV_NO_CONFIG"), Ok(Some(true)))
    {
        return String::new();
    }
    let mut configuration = String::new();
    for place in places.split(' ') {
        let path = match place.split_once('/') {
            None => value(place),
            // All of uv's.
            Some(_) if named.is_some() && is_uvs => None,
            Some(("HOME" | "XDG_CONFIG_HOME", _)) if named.is_some() => None,
            Some(("", _)) => Some(place.to_owned()),
            Some((name, rest)) => value(name).map(|folder| format!("{folder}/{rest}")),
        };
        let Some(path) = path.map(PathBuf::from).filter(|path| path.is_file()) else { continue };
        let text = output::load(&path).unwrap_or_default();
        // No variable can hold a NUL.
        let mut text = String::from_utf8_lossy(&text).replace('\0', "");
        if secret == "npmrc" {
            text = expanded(&text);
        }
        for (number, line) in text.lines().enumerate() {
            // Comments may name anything.
            let code = line.split(" #").next().unwrap_or_default();
            if code.trim_start().starts_with(['#', ';']) {
                continue;
            }
            let mut kept = line.to_owned();
            for address in on_loopback(code) {
                refused.push(format!("line {} of {}", number + 1, path.display()));
                kept = kept.replace(address, "");
            }
            configuration.push_str(&format!("{kept}\n"));
        }
        configuration.push_str("\x0c\n");
    }
    let names_mirrors = ["//", "host"].iter().any(|part| configuration.contains(part));
    if names_mirrors { configuration } else { String::new() }
}

/// An .npmrc with the value of NAME for each `${NAME}` or `${NAME?}` that is set here: no step has it.
fn expanded(text: &str) -> String {
    let names = text.split("${").skip(1).filter_map(|part| Some(part.split_once('}')?.0));
    names.fold(text.to_owned(), |text, name| {
        let Ok(value) = env::var(name.trim_end_matches('?')) else { return text };
        // npm would take these for the end of a value or an escape.
        let escape = |value: String, c: &&str| value.replace(c, &format!(r"\{c}"));
        let value = [r"\", ";", "#"].iter().fold(value, escape);
        text.replace(&format!("${{{name}}}"), &value)
    })
}

/// The words of `text` with an address on the loopback of whoever uses it; NAME=URL is one.
fn on_loopback(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| c.is_whitespace() || ",\"'".contains(c));
    words.filter(|word| word.contains("://") && is_loopback(word))
}

fn is_loopback(address: &str) -> bool {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let place = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = place.rsplit('@').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(host) => host.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let is_own = |ip: IpAddr| ip.to_canonical().is_loopback() || ip.to_canonical().is_unspecified();
    host.parse().is_ok_and(is_own)
        // Short for addresses.
        || host == "0"
        || host.starts_with("127.")
        || host == "localhost"
        || host.ends_with(".localhost")
}

/// The logins in .netrc, which pip and uv read, for the hosts in `texts` and in the lock of the `workspace`.
fn netrc(texts: &[(&str, String)], workspace: Option<&Path>) -> Option<String> {
    let text = String::from_utf8(output::load(&named_or_home("NETRC", ".netrc")).ok()?).ok()?;
    let lock = workspace.and_then(|folder| fs::read_to_string(folder.join("uv.lock")).ok());
    let is_end = |c: char| !(c.is_ascii_alphanumeric() || "-._".contains(c));
    let texts = texts.iter().map(|(_, text)| text).chain(&lock);
    let named = texts.flat_map(|text| text.split(is_end)).collect::<BTreeSet<_>>();
    let (mut kept, mut is_kept) = (String::new(), false);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        while let Some(key) = words.next().filter(|key| !key.starts_with('#')) {
            let value = words.next().unwrap_or_default();
            if ["machine", "default", "macdef"].contains(&key) {
                is_kept = key == "machine" && named.contains(value);
            }
            if is_kept {
                kept.push_str(&format!("{key} {value}\n"));
            }
        }
    }
    Some(kept).filter(|kept| !kept.is_empty())
}

/// A file of the certificates that this machine trusts, below `target`.
fn certificates(root: &Path) -> Result<Option<PathBuf>> {
    let mut text = String::new();
    for name in CERTIFICATES.split(' ') {
        let is_bundle = name == "SSL_CERT_FILE";
        let mut path = variable(name)?.map(PathBuf::from);
        if is_bundle && !path.as_ref().is_some_and(|path| path.is_file()) {
            if let Some(path) = path {
                let path = path.display();
                message::warn(&format!("{name}={path} is no file: took the system's certificates"));
            }
            path = BUNDLES.map(PathBuf::from).into_iter().find(|path| path.is_file());
        }
        let Some(path) = path else { continue };
        let Err(why) = add_certificates(&mut text, &path) else { continue };
        let why = format!("the certificates in {name}={} are not handed on: {why}", path.display());
        // cargo sets it to the system's, by any name, where nobody has set it.
        let names = [path.canonicalize().unwrap_or_default(), path];
        let hint = "set SSL_CERT_FILE to a smaller bundle, or to a readable one of PEM certificates; \
                    `openssl x509 -inform der -in FILE -out FILE.pem` converts one";
        let is_systems =
            names.iter().any(|name| BUNDLES.iter().any(|known| name == Path::new(known)));
        ensure!(!is_bundle || is_systems, usage(format!("{why}\nhint: {hint}")));
        message::warn(&why);
    }
    let file = root.join(format!("target/image/ca-{:.16}.pem", sha256(&text)));
    if !text.is_empty() && !file.is_file() {
        output::save(&file, &text)?;
    }
    Ok(Some(file).filter(|_| !text.is_empty()))
}

/// Adds the certificates in the file `path` to `text`, which has no repeats, comments and private keys.
/// Errors: why they can't be used.
fn add_certificates(text: &mut String, path: &Path) -> Result<()> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let file = output::load(path)?;
    let file = String::from_utf8_lossy(&file);
    ensure!(file.contains(BEGIN) || file.trim().is_empty(), "it holds no PEM certificate");
    let all = format!("{text}{file}");
    let blocks = all.split(BEGIN).skip(1).filter_map(|block| Some(block.split_once(END)?.0));
    let blocks = blocks.collect::<BTreeSet<_>>().into_iter();
    let all = blocks.map(|block| format!("{BEGIN}{block}{END}\n")).collect::<String>();
    ensure!(all.len() <= 500 << 10, "all have more than 500 KiB, and BuildKit takes 500");
    *text = all;
    Ok(())
}
