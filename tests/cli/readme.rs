//! What the READMEs say holds.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Xtask, root};

const READMES: [&str; 4] =
    ["README.md", "agent-server-image/README.md", "xtask/README.md", "xtask/benches/README.md"];

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
        let readers = ["list.txt", "--base-images", "--port", "9000"];
        let args = args.filter(|word| !readers.contains(word));
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
        assert!(!links.is_empty() || path.contains("benches"), "{path}");
        for link in links {
            let file = root().join(Path::new(path).parent().unwrap()).join(link);
            assert!(file.exists(), "{path}: {link}");
        }
    }
}

#[test]
fn they_are_short() {
    let words = |path: &str| readme(path).split_whitespace().count();
    let [main, image, tasks] = [READMES[0], READMES[1], READMES[2]].map(words);
    assert!(main <= 350 && tasks <= 1200 && main + image + tasks <= 2600, "{main} {tasks} {image}");
}

#[test]
fn every_key_of_a_record_is_documented() {
    let readme = readme("xtask/README.md");
    let (_, section) = readme.split_once("\n## Records\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let path = root().join("tests/fake/expected/record.json");
    let record: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let mut values = vec![&record];
    while let Some(value) = values.pop() {
        values.extend(value.as_array().into_iter().flatten());
        for (key, value) in value.as_object().into_iter().flatten() {
            assert!(section.contains(&format!("`{key}`")), "xtask/README.md lacks `{key}`");
            // Its keys are names of packages.
            if key != "packages" {
                values.push(value);
            }
        }
    }
}

#[test]
fn their_flags_and_variables_exist() {
    let mut helps = String::new();
    for name in ["", "run", "list", "doctor", "matrix", "probe", "smoke", "api", "merge", "summary"]
    {
        let call = ["image", name, "--help"];
        let call = call.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>();
        helps += &Xtask::new(&call).succeed().stdout;
    }
    helps += &Xtask::new(&["engine", "--help"]).succeed().stdout;
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let known = helps.split(|c: char| !is_name(c)).collect::<Vec<_>>();
    // Behind `--`, of another program, or no flag.
    let others = [
        "--",
        "--sbom",
        "--provenance",
        "--allow",
        "--debug",
        "--all",
        "--sdist",
        "--help",
        "--include-ignored",
    ];
    let text = readme("xtask/README.md");
    for code in text.split('`').skip(1).step_by(2) {
        for word in code.split(|c: char| !is_name(c)).filter(|word| word.starts_with("--")) {
            assert!(known.contains(&word) || others.contains(&word), "{word}");
        }
    }
}
