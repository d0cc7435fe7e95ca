//! The table of flags, and what is made of it.

use super::{Flag, TABLE};

/// The README's table of all flags and variables.
fn markdown() -> String {
    let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
    let row = |flag: &Flag| {
        let (name, variable) = (code(&flag.synopsis()), code(flag.variable));
        format!("| {name} | {variable} | {} | {} |\n", flag.default, flag.help)
            .replace("|  |", "| |")
    };
    let head = "| flag | variable | default | |\n|---|---|---|---|\n".to_owned();
    head + &TABLE.iter().map(row).collect::<String>()
}

#[test]
fn the_readme_has_the_table() {
    let readme = include_str!("../../xtask/README.md");
    let table = markdown();
    assert!(readme.contains(&table), "put this into xtask/README.md:\n\n{table}");
}
