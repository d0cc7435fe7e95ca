//! What the README says holds.

use std::collections::BTreeSet;
use std::fs;

use crate::support::{Xtask, root};

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

/// The words of `text` that begin with `start`, as far as they are flags or variables.
fn words(text: &str, start: &str) -> BTreeSet<String> {
    let part = |c: char| !(c.is_ascii_alphanumeric() || "-_".contains(c));
    let words = text.split(part).filter(|word| word.starts_with(start) && word.len() > 3);
    words.map(str::to_owned).collect()
}

#[test]
fn its_commands_are_understood() {
    let commands = readme();
    let commands = commands.lines().filter_map(|line| line.strip_prefix("    cargo xtask "));
    let commands = commands.collect::<Vec<_>>();
    assert!(commands.len() >= 3);
    for command in commands {
        // Behind an engine stands a command of its own.
        let task = command.rsplit("cargo xtask ").next().unwrap().replace("image run", "image");
        let args = task.split(' ').take_while(|word| *word != "--").collect::<Vec<_>>();
        let tried = [&args[..], &[if args[0] == "image" { "--print" } else { "--help" }]].concat();
        let ended = Xtask::new(&tried).end();
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{command}");
    }
}

#[test]
fn its_table_is_the_helps() {
    let readme = readme();
    let table = readme.lines().filter(|line| line.starts_with("| ")).collect::<Vec<_>>();
    let help = Xtask::new(&["image", "--help"]).end().stdout;
    assert_eq!(words(&table.join("\n"), "--"), words(&help, "--"));
    for variable in ["OPENHANDS_", "BUILD_CACHE", "BUILDX_", "VARIANT", "PLATFORMS", "PREBUILT"] {
        assert_eq!(words(&table.join("\n"), variable), words(&help, variable));
    }
}

#[test]
fn its_links_lead_somewhere() {
    let readme = readme();
    let links = readme.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    let links = links.collect::<Vec<_>>();
    assert!(links.len() >= 4);
    for link in links {
        assert!(root().join(link).exists(), "{link}");
    }
}
