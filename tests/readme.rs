//! What the README says holds.

use std::fs;

use crate::support::{Xtask, root};

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
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
fn its_links_lead_somewhere() {
    let readme = readme();
    let links = readme.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    let links = links.collect::<Vec<_>>();
    assert!(links.len() >= 4);
    for link in links {
        assert!(root().join(link).exists(), "{link}");
    }
}
