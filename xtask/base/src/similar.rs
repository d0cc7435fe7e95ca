//! Finds the word that somebody who mistyped another may have meant.

/// `"; did you mean …?"` with the one of `known` that is nearest to `word`; empty if none is near.
pub fn suggestion<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    // After three edits two words still look like one mistyped, but short ones are all that near.
    let limit = 3.min(word.trim_start_matches('-').chars().count() / 2);
    let ranked = known.map(|known| (distance(word, known), known));
    let nearest = ranked.filter(|(edits, _)| (1..=limit).contains(edits)).min();
    nearest.map(|(_, known)| format!("; did you mean {known}?")).unwrap_or_default()
}

/// The hint for `word`, which is none of `known` and should be.
pub fn use_one_of(word: &str, known: &[&str]) -> String {
    format!("use one of {}{}", known.join(", "), suggestion(word, known.iter().copied()))
}

/// How many characters must be inserted, removed or replaced to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let b = b.chars().collect::<Vec<_>>();
    let mut row = (0..=b.len()).collect::<Vec<_>>();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
