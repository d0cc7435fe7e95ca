//! The table of flags, and what is made of it.

#[test]
fn the_readme_has_the_table() {
    let readme = include_str!("../../README.md");
    let table = super::markdown();
    assert!(readme.contains(&table), "put this into README.md:\n\n{table}");
}
