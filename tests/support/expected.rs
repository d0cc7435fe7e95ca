//! Whole outputs, compared with files beside the tests. `UPDATE_EXPECTED=1 cargo test` rewrites them.

use std::fs;
use std::path::Path;

use super::root;

/// Fails unless `text` is what the file `tests/NAME` holds.
#[track_caller]
pub fn check(name: &str, text: &str) {
    let path = root().join("tests").join(name);
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == expected,
        "tests/{name} (UPDATE_EXPECTED=1 rewrites it):\n{}",
        difference(&expected, text)
    );
}

/// The lines that differ: `-` what was expected, `+` what came, with the lines around them.
fn difference(expected: &str, text: &str) -> String {
    let (old, new) = (expected.lines().collect::<Vec<_>>(), text.lines().collect::<Vec<_>>());
    let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let rest = old[same..].iter().rev().zip(new[same..].iter().rev());
    let tail = rest.take_while(|(a, b)| a == b).count();
    let mut lines = Vec::new();
    lines.extend(old[same.saturating_sub(3)..same].iter().map(|line| format!("  {line}")));
    lines.extend(old[same..old.len() - tail].iter().map(|line| format!("- {line}")));
    lines.extend(new[same..new.len() - tail].iter().map(|line| format!("+ {line}")));
    lines.extend(new[new.len() - tail..].iter().take(3).map(|line| format!("  {line}")));
    lines.join("\n")
}

/// `text` with `FOLDER` for the path of a folder, and `T` for each time that passed.
pub fn steady(text: &str, folder: &Path) -> String {
    let text = text.replace(&folder.display().to_string(), "FOLDER");
    let text = text.replace(&root().display().to_string(), "ROOT");
    text.split_inclusive('\n').map(timeless).collect()
}

/// `line` with `T` for each number of seconds, of minutes, or of images an hour.
fn timeless(line: &str) -> String {
    let words = line.split(' ').collect::<Vec<_>>();
    let timeless = words.iter().enumerate().map(|(at, word)| {
        let (number, comma) = word.strip_suffix(',').map_or((*word, ""), |word| (word, ","));
        let next = words.get(at + 1);
        let next = next.map(|unit| unit.trim_end_matches([',', ';', '.', ')', '\n']));
        let is_unit = next.is_some_and(|unit| ["s", "an", "min"].contains(&unit));
        let is_time = number.strip_suffix('s').or(is_unit.then_some(number));
        let is_time = is_time.is_some_and(|time| time.parse::<f64>().is_ok());
        if is_time { format!("T{comma}") } else { (*word).to_owned() }
    });
    timeless.collect::<Vec<_>>().join(" ")
}
