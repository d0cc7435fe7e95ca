//! The shell of an engine, without the engine.

use super::*;
use crate::scratch::Scratch;

/// The prompt of `name` for a user whose own file is `bashrc`.
fn prompt(name: &str, bashrc: &str) -> Result<String> {
    let folder = Scratch::new()?;
    fs::write(folder.0.join(".bashrc"), bashrc)?;
    let words = shell(OsStr::new(name), &folder.0.join("new/bashrc"))?;
    let mut command = Command::new("env");
    command.args(words).args(["-i", "-c", "printf %s \"$PS1\""]);
    let output = command.env("HOME", &folder.0).env("PS1", PROMPT).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_prompt_says_that_one_is_in_an_engine() -> Result<()> {
    assert_eq!(prompt("sh", "PS1='not read '")?, PROMPT);
    assert_eq!(prompt("/bin/bash", "PS1='mine> '")?, "(engine) mine> ");
    // Debian's file for all users may set one first.
    let unset = prompt("bash", "A=1")?;
    assert!(unset.starts_with("(engine) ") && unset.matches("(engine)").count() == 1, "{unset}");
    Ok(())
}
