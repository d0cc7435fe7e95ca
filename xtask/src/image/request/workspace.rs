//! The SDK's uv workspace: its parts and their versions, and whether its lock fits them. Read as
//! text, because only some lines of TOML matter and uv itself reads the rest.

use std::collections::BTreeSet;

use anyhow::Result;

use base::error::usage;

/// The packages that an image holds, each a folder of the workspace.
pub const PACKAGES: [&str; 4] =
    ["openhands-sdk", "openhands-tools", "openhands-workspace", "openhands-agent-server"];
/// The package whose version is the image's.
pub const SDK: &str = PACKAGES[0];

/// A package and its version, where that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: Option<String>,
}

/// The packages of the workspace called `name`, whose files `read` returns by path.
/// Errors: a usage error for a part that is missing, or for a lock that does not fit a manifest.
pub fn packages(name: &str, read: impl Fn(&str) -> Option<String>) -> Result<Vec<Package>> {
    let part = |path: &str| {
        read(path).ok_or_else(|| {
            usage(format!(
                "{name} has no {path}: an SDK checkout has uv.lock, pyproject.toml and the \
                 folders {}.",
                PACKAGES.join(", ")
            ))
        })
    };
    part("pyproject.toml")?;
    let lock = part("uv.lock")?;
    let mut packages = Vec::new();
    for package in PACKAGES {
        let path = format!("{package}/pyproject.toml");
        let manifest = part(&path)?;
        if let Some(difference) = difference(package, &manifest, &lock) {
            return Err(usage(format!(
                "{name}: uv.lock does not fit {path}: {difference}. Run `uv lock` there."
            )));
        }
        let version = value(section(&manifest, "[project]"), "version");
        packages.push(Package { name: package.to_owned(), version });
    }
    Ok(packages)
}

/// How the entry of `package` in `lock` differs from its manifest, if it does. A version or a list
/// that the manifest leaves to its build is not compared.
fn difference(package: &str, manifest: &str, lock: &str) -> Option<String> {
    let name = format!("name = \"{package}\"");
    let mut entries = lock.split("[[package]]");
    let Some(entry) = entries.find(|entry| entry.trim_start().starts_with(&name)) else {
        return Some(format!("it has no {package}"));
    };
    let project = section(manifest, "[project]");
    if let (Some(here), Some(there)) = (value(project, "version"), value(entry, "version"))
        && here != there
    {
        return Some(format!("the version is {here} here and {there} in the lock"));
    }
    let wanted = list(project, "dependencies")?.into_iter().map(wanted).collect::<BTreeSet<_>>();
    let lines = list(entry, "requires-dist").into_iter().flatten();
    let locked = lines.filter(|line| !line.contains("extra ==")).map(locked).collect();
    let other = wanted.symmetric_difference(&locked).next()?;
    let place = if wanted.contains(other) { "manifest" } else { "lock" };
    Some(format!("{other} is only in the {place}"))
}

/// A requirement in one form, so that two of them can be compared: the name as `PyPI` compares it,
/// and the parts of the specifier sorted, without blanks.
fn requirement(name: &str, specifier: &str) -> String {
    let name = normalized(name);
    // A package of the workspace is locked without a specifier.
    let specifier = if PACKAGES.contains(&name.as_str()) { "" } else { specifier };
    let specifier = specifier.replace(' ', "");
    let mut parts = specifier.split(',').collect::<Vec<_>>();
    parts.sort_unstable();
    name + &parts.join(",")
}

/// Reads a line of a manifest, such as `"httpx[socks] >= 0.27; python_version < '4'"`.
fn wanted(line: &str) -> String {
    let text = line.split(';').next().unwrap_or_default();
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)));
    let (name, rest) = text.split_at(end.unwrap_or(text.len()));
    let specifier = rest.split_once(']').map_or(rest, |(_, specifier)| specifier);
    // An address is locked as such.
    requirement(name, if specifier.trim_start().starts_with('@') { "" } else { specifier })
}

/// Reads a line of the lock, such as `{ name = "httpx", specifier = ">=0.27" }`.
fn locked(line: &str) -> String {
    let field = |key: &str| {
        let (_, rest) = line.split_once(&format!("{key} = \""))?;
        rest.split('"').next()
    };
    requirement(field("name").unwrap_or_default(), field("specifier").unwrap_or_default())
}

/// A package's name as `PyPI` compares it: in lower case, with `-` for every run of `-`, `_`, `.`.
pub fn normalized(name: &str) -> String {
    let parts = name.split(['-', '_', '.']).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-").to_ascii_lowercase()
}

/// The lines of `text` from `header` to the next one.
fn section<'a>(text: &'a str, header: &str) -> &'a str {
    let Some((_, rest)) = text.split_once(header) else { return "" };
    rest.split("\n[").next().unwrap_or_default()
}

fn value(section: &str, key: &str) -> Option<String> {
    let value =
        section.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_prefix('='))?;
    Some(value.split('#').next()?.trim().trim_matches(['"', '\'']).to_owned())
}

/// The items of the list that `key` is set to: texts without their quotes, tables without braces.
fn list<'a>(section: &'a str, key: &str) -> Option<Vec<&'a str>> {
    let start = section.lines().find(|line| {
        line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
    })?;
    let (_, mut rest) = section[section.find(start)?..].split_once('[')?;
    let mut items = Vec::new();
    while let Some(at) = rest.find(['"', '\'', '{', '#', ']']) {
        let (mark, after) = rest[at..].split_at(1);
        let end = match mark {
            "]" => break,
            "#" => "\n",
            "{" => "}",
            quote => quote,
        };
        let (item, after) = after.split_once(end)?;
        if mark != "#" {
            items.push(item);
        }
        rest = after;
    }
    Some(items)
}

#[cfg(test)]
#[path = "../../../../tests/unit/workspace.rs"]
mod tests;
