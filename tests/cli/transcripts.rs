//! Calls with all that they write: each file in `expected` has commands behind `$`, and below each
//! of them its output, with the exit status in brackets where that is not 0. The calls find no
//! docker, stand in `files`, and are for a commit of main. `UPDATE_EXPECTED=1 cargo test` runs the
//! commands and rewrites what is below them.

use std::collections::BTreeSet;
use std::fs;

use crate::support::{Xtask, expected, root, shell_words};

macro_rules! transcripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

transcripts! {
    api
    bake_arguments
    engine
    flags
    help
    help_of_image
    help_of_subcommands
    lists_of_base_images
    old_flags
    plan
    shards
    subcommands
    summary
    values
    variables
}

#[test]
fn every_file_is_run() {
    let files = fs::read_dir(root().join("tests/cli/expected")).unwrap().map(Result::unwrap);
    let has_command = |path| fs::read_to_string(path).unwrap().lines().any(|l| l.starts_with("$ "));
    let files = files.filter(|file| has_command(file.path()));
    let files = files.map(|file| file.file_name().into_string().unwrap());
    let files = files.collect::<BTreeSet<_>>();
    assert_eq!(files, NAMES.iter().map(|name| format!("{name}.txt")).collect());
}

fn check(name: &str) {
    let file = format!("cli/expected/{name}.txt");
    let old = fs::read_to_string(root().join("tests").join(&file)).unwrap();
    let (mut new, mut is_output) = (String::new(), false);
    for line in old.lines() {
        is_output &= !line.starts_with("# ");
        if let Some(command) = line.strip_prefix("$ ") {
            new += &format!("{line}\n{}", output(command));
            is_output = true;
        } else if !is_output {
            new += &format!("{line}\n");
        }
    }
    expected::check(&file, &new);
}

/// What a command writes, to standard output and then to standard error, and its exit status. An
/// empty line ends it.
fn output(command: &str) -> String {
    let words = shell_words(command);
    let is_variable = |word: &&String| {
        word.split('=')
            .next()
            .unwrap()
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
    };
    let variables = words.iter().take_while(is_variable).collect::<Vec<_>>();
    let (cargo, args) = words[variables.len()..].split_at(2);
    assert_eq!(cargo, ["cargo", "xtask"], "{command}");
    let args = args.iter().map(String::as_str).collect::<Vec<_>>();
    let files = root().join("tests/cli/files");
    let mut call = Xtask::new(&args).on("refs/heads/main").env("PATH", "/nowhere");
    // Nothing of this machine's configuration: it has no certificates to hand on.
    call = call.env("HOME", "/nowhere").env("SSL_CERT_FILE", files.join("no-certificates.pem"));
    for variable in variables {
        let (name, value) = variable.split_once('=').unwrap();
        call = call.env(name, value);
    }
    call.0.current_dir(files);
    let ended = call.end();
    assert!(ended.status != 2 || ended.stdout.is_empty(), "{command}: {}", ended.stdout);
    let status = Some(ended.status).filter(|&status| status != 0);
    let status = status.map(|status| format!("[{status}]\n")).unwrap_or_default();
    let text = format!("{}{}{status}\n", ended.stdout, ended.stderr);
    text.replace(&root().display().to_string(), "ROOT")
}
