//! What the READMEs say holds.

use std::fs;
use std::path::Path;

use crate::support::{Xtask, root};

const READMES: [&str; 3] = ["README.md", "agent-server-image/README.md", "xtask/README.md"];

fn readme(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

#[test]
fn their_commands_are_understood() {
    let readmes = READMES.map(readme).concat();
    // A workflow's lines are a runner's to read.
    let lines = readmes.lines().filter(|line| line.starts_with("    ") && !line.contains("${{"));
    let commands = lines.filter_map(|line| line.split_once("cargo xtask ")).collect::<Vec<_>>();
    assert!(commands.len() >= 6);
    for (_, command) in commands {
        // Behind an engine stands a command of its own.
        let task = command.rsplit("cargo xtask ").next().unwrap().replace("image run", "image");
        let args = task.split(' ').take_while(|word| *word != "--");
        // Lists and running servers are the reader's.
        let args =
            args.filter(|word| !["list.txt", "--base-images", "--port", "9000"].contains(word));
        let args = args.collect::<Vec<_>>();
        let tried = [&args[..], &[if args[0] == "image" { "--print" } else { "--help" }]].concat();
        let ended = Xtask::new(&tried).end();
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{command}");
    }
}

#[test]
fn their_links_lead_somewhere() {
    for path in READMES {
        let text = readme(path);
        let links = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        let links = links.collect::<Vec<_>>();
        assert!(!links.is_empty());
        for link in links {
            let file = root().join(Path::new(path).parent().unwrap()).join(link);
            assert!(file.exists(), "{path}: {link}");
        }
    }
}
