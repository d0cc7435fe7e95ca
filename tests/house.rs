//! The house of `xtask/src`: which file may import which, where processes start, and how long files
//! and functions are. Rust itself would let any two modules import each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::Path;

use crate::support::root;

const FILE_LINES: usize = 400;
const FUNCTION_LINES: usize = 60;
/// The rooms of `image/` from the lowest: a file imports those of its own room and of lower ones.
/// What is in none of them is a subcommand, or the table of these.
const ROOMS: [&str; 5] = ["request", "plan", "build", "report", "job"];
/// The one file that may start docker.
const DOCKER: &str = "image/build/buildx.rs";

type Module = Vec<String>;

struct Source {
    /// Below `xtask/src`.
    file: String,
    text: String,
    /// The text with blanks for comments, literals and modules of tests, byte by byte.
    code: String,
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let imports = imports(&sources());
    let mut circles = BTreeSet::new();
    for file in imports.keys() {
        let is_back = |other: &&String| reachable(&imports, other).contains(file);
        let circle = reachable(&imports, file).into_iter().collect::<BTreeSet<_>>();
        let circle = circle.iter().filter(is_back).cloned().collect::<Vec<_>>();
        circles.insert(circle.join(", "));
    }
    circles.remove("");
    assert!(circles.is_empty(), "circles: {circles:#?}");
}

#[test]
fn imports_lead_to_lower_rooms() {
    let mut wrong = Vec::new();
    for (file, imported) in imports(&sources()) {
        let Some(own) = room(&file) else { continue };
        let above = imported.iter().filter(|other| room(other).is_some_and(|room| room > own));
        wrong.extend(above.map(|above| format!("{file} imports {above}")));
    }
    assert!(wrong.is_empty(), "a lower room imports a higher one: {wrong:#?}");
}

#[test]
fn requests_and_plans_start_no_process() {
    let low = |source: &Source| room(&source.file).is_some_and(|room| room < 2);
    let starts =
        |source: &Source| source.code.contains("Command::") || source.code.contains("cmd!");
    let sources = sources();
    let found = sources.iter().filter(|source| low(source) && starts(source));
    let found = found.map(|source| &source.file).collect::<Vec<_>>();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn docker_is_started_in_one_file() {
    let mut found = Vec::new();
    for Source { file, text, code } in sources() {
        let by_hand = text.contains("Command::new(\"docker\")");
        let mut macros = code.match_indices("cmd!(").map(|(at, _)| text[at..].split('"').nth(1));
        let is_docker = |command: &str| command.split_whitespace().next() == Some("docker");
        let by_macro = file != DOCKER && macros.any(|command| command.is_some_and(is_docker));
        if by_hand || by_macro {
            found.push(file);
        }
    }
    assert!(found.is_empty(), "only {DOCKER} may, by cmd!: {found:#?}");
}

#[test]
fn files_and_functions_are_short() {
    let mut long = Vec::new();
    for Source { file, text, code } in sources() {
        if text.lines().count() > FILE_LINES {
            long.push(format!("{file}: {} lines", text.lines().count()));
        }
        for (name, range) in functions(&code) {
            let lines = text[range].lines().count();
            if lines > FUNCTION_LINES {
                long.push(format!("{file}: {name} has {lines} lines"));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

/// If this fails, the others may find nothing.
#[test]
fn imports_and_functions_are_read_as_rust_reads_them() {
    let uses = "use std::{fs, io};
        use super::{b, c::{self, D as E}, super::floor::*};
        // use crate::in_comment::X;
        fn f<'a>(x: &'a str) -> char { x = r#\"crate::in_text::X; \" }\"#; b::deep::g('\"') }
        #[cfg(test)]
        mod tests { use super::*; use crate::in_test::X; }";
    let files = [
        ("a/x.rs", uses),
        ("a/mod.rs", "mod x; pub use self::x::Y; fn g() { x::z::<u8>() }"),
        ("a/b/mod.rs", "use crate::{E, floor};"),
        ("a/b/deep.rs", "use super::super::c as d; fn f() { d::g() }"),
        ("a/c.rs", ""),
        ("floor.rs", ""),
        ("main.rs", ""),
        ("in_comment.rs", ""),
        ("in_text.rs", ""),
        ("in_test.rs", ""),
    ];
    let sources = files.map(|(file, text)| Source::new(file.to_owned(), text.to_owned()));
    let imports = imports(&sources);
    let of = |file: &str| imports[file].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(of("a/x.rs"), ["a/b/deep.rs", "a/b/mod.rs", "a/c.rs", "floor.rs"]);
    assert_eq!(of("a/mod.rs"), ["a/x.rs"]);
    assert_eq!(of("a/b/mod.rs"), ["floor.rs", "main.rs"]);
    assert_eq!(of("a/b/deep.rs"), ["a/c.rs"]);
    let [(name, range)] = &functions(&sources[0].code)[..] else { panic!("not one function") };
    assert!(name == "f" && uses[range.clone()].ends_with("g('\"') }"), "{name} {range:?}");
}

/// All files of `xtask/src`.
fn sources() -> Vec<Source> {
    let src = root().join("xtask/src");
    let (mut folders, mut sources) = (vec![src.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
                sources.push(Source::new(file, fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(!sources.is_empty());
    sources
}

impl Source {
    fn new(file: String, text: String) -> Self {
        let code = code(&text);
        Source { file, text, code }
    }

    /// `mod.rs` is the module of its folder, and `main.rs` is the crate's root.
    fn module(&self) -> Module {
        let path = Path::new(&self.file).with_extension("");
        let mut module = path.iter().map(|part| part.to_str().unwrap().to_owned());
        let mut module = module.by_ref().collect::<Module>();
        module.pop_if(|name| name == "mod" || name == "main");
        module
    }
}

/// The number of a file's room in `image/`.
fn room(file: &str) -> Option<usize> {
    let name = file.strip_prefix("image/")?.split('/').next()?.trim_end_matches(".rs");
    Some(ROOMS.iter().position(|room| *room == name).unwrap_or(ROOMS.len()))
}

/// The files that each file names a path of.
fn imports(sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let files = sources.iter().map(|source| (source.module(), source.file.clone()));
    let files = files.collect::<BTreeMap<_, _>>();
    let of = |source: &Source| {
        let (module, paths) = (source.module(), paths(&tokens(&source.code)));
        // Modules that go by a name of their own here.
        let mut names = BTreeMap::new();
        for path in paths.iter().filter(|path| path.is_use) {
            if let Some(full) = full(&module, &path.parts, &files, &BTreeMap::new())
                && files.contains_key(&full)
            {
                names.insert(path.name.clone(), full);
            }
        }
        let found = paths.iter().filter_map(|path| {
            let mut full = full(&module, &path.parts, &files, &names)?;
            while !files.contains_key(&full) {
                full.pop()?;
            }
            Some(files[&full].clone())
        });
        found.filter(|file| *file != source.file).collect()
    };
    sources.iter().map(|source| (source.file.clone(), of(source))).collect()
}

/// The path from the crate's root, if it has one. `names` are the modules that a file has imported.
fn full(
    module: &Module,
    path: &[String],
    files: &BTreeMap<Module, String>,
    names: &BTreeMap<String, Module>,
) -> Option<Module> {
    let (first, mut rest) = path.split_first()?;
    let child = [&module[..], std::slice::from_ref(first)].concat();
    let mut full = match first.as_str() {
        "crate" => Module::new(),
        "self" => module.clone(),
        "super" => module.split_last()?.1.to_vec(),
        name => names.get(name).cloned().or(files.contains_key(&child).then_some(child))?,
    };
    while let Some(("super", above)) = rest.split_first().map(|(part, rest)| (part.as_str(), rest))
    {
        full.pop()?;
        rest = above;
    }
    full.extend(rest.iter().filter(|part| *part != "self").cloned());
    Some(full)
}

fn reachable(imports: &BTreeMap<String, BTreeSet<String>>, file: &str) -> BTreeSet<String> {
    let (mut found, mut open) = (BTreeSet::new(), vec![file]);
    while let Some(next) = open.pop() {
        let new = imports[next].iter().filter(|file| found.insert((*file).clone()));
        open.extend(new.map(String::as_str));
    }
    found
}

struct Found {
    parts: Vec<String>,
    /// What it is called where it is used.
    name: String,
    is_use: bool,
}

/// All paths of two parts or more, with the trees of `use` taken apart.
fn paths(tokens: &[&str]) -> Vec<Found> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        if is_word(tokens[at]) && tokens.get(at + 1) == Some(&"::") {
            let is_use = at > 0 && tokens[at - 1] == "use";
            at = tree(tokens, at, &[], is_use, &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Adds the paths that begin at a token, and returns the number of the first token behind them.
fn tree(
    tokens: &[&str],
    mut at: usize,
    before: &[String],
    is_use: bool,
    found: &mut Vec<Found>,
) -> usize {
    let mut parts = before.to_vec();
    while is_word(tokens[at]) {
        parts.push(tokens[at].to_owned());
        at += 1;
        if tokens.get(at) != Some(&"::") {
            break;
        }
        at += 1;
    }
    let is_open = tokens[at - 1] != parts[parts.len() - 1];
    if is_open && tokens[at] == "{" {
        at += 1;
        while tokens[at] != "}" {
            at = tree(tokens, at, &parts, is_use, found).max(at + 1);
            at += usize::from(tokens[at] == ",");
        }
        return at + 1;
    }
    at += usize::from(is_open && tokens[at] == "*");
    let own = parts.iter().rfind(|part| *part != "self").cloned().unwrap_or_default();
    let is_renamed = is_use && tokens.get(at) == Some(&"as");
    let name = if is_renamed { tokens[at + 1].to_owned() } else { own };
    found.push(Found { parts, name, is_use });
    if is_renamed { at + 2 } else { at }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words, `::`, and single characters.
fn tokens(code: &str) -> Vec<&str> {
    let (mut tokens, mut rest) = (Vec::new(), code.trim_start());
    while let Some(first) = rest.chars().next() {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let end = match first {
            _ if is_part(first) => rest.find(|c| !is_part(c)).unwrap_or(rest.len()),
            _ if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        tokens.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    tokens
}

/// The name and the place of each function that has a body.
fn functions(code: &str) -> Vec<(String, Range<usize>)> {
    let function = |(at, _): (usize, &str)| {
        let name = code[at..].strip_prefix("fn ")?;
        let name = &name[..name.find(|c: char| !c.is_alphanumeric() && c != '_')?];
        let is_start = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let mut depth = 0_usize;
        let open = code[at..].find(|c| {
            match c {
                '(' | '[' => depth += 1,
                ')' | ']' => depth -= 1,
                _ => {}
            }
            depth == 0 && (c == '{' || c == ';')
        });
        let open = at + open?;
        let has_body = is_start && code[open..].starts_with('{');
        has_body.then(|| (name.to_owned(), at..block_end(code, open)))
    };
    code.match_indices("fn ").filter_map(function).collect()
}

/// The end of the block that opens at `open`.
fn block_end(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    let close = code[open..].find(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    close.map_or(code.len(), |close| open + close + 1)
}

/// Blanks for comments, literals and modules of tests.
fn code(text: &str) -> String {
    let mut code = text.as_bytes().to_vec();
    let mut at = 0;
    while at < text.len() {
        let end = at + literal(&text[at..], text[..at].chars().next_back());
        blank(&mut code[at..end]);
        let next = text[end..].chars().next().map_or(1, char::len_utf8);
        at = if end > at { end } else { at + next };
    }
    let mut code = String::from_utf8(code).unwrap();
    while let Some(at) = code.find("#[cfg(test)]") {
        let open = code[at..].find('{').map_or(code.len(), |open| at + open);
        let end = block_end(&code, open);
        let mut bytes = code.into_bytes();
        blank(&mut bytes[at..end]);
        code = String::from_utf8(bytes).unwrap();
    }
    code
}

fn blank(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().filter(|byte| **byte != b'\n') {
        *byte = b' ';
    }
}

/// How many bytes a comment or a literal takes that begins here, behind `before`.
fn literal(text: &str, before: Option<char>) -> usize {
    let to = |end: &str, from: usize| {
        text[from..].find(end).map_or(text.len(), |found| from + found + end.len())
    };
    let is_in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let hashes =
        text.strip_prefix('r').map_or(0, |raw| raw.len() - raw.trim_start_matches('#').len());
    let mut chars = text.chars();
    match (chars.next(), chars.next(), chars.next()) {
        (Some('/'), Some('/'), _) => text.find('\n').unwrap_or(text.len()),
        (Some('/'), Some('*'), _) => to("*/", 2),
        (Some('r'), ..) if !is_in_word && text[1 + hashes..].starts_with('"') => {
            to(&format!("\"{}", "#".repeat(hashes)), 2 + hashes)
        }
        (Some('"'), ..) => quoted(text, '"'),
        // Anything else is a lifetime.
        (Some('\''), Some('\\'), _) | (Some('\''), Some(_), Some('\'')) => quoted(text, '\''),
        _ => 0,
    }
}

/// The length of a literal that ends in the mark with which it begins.
fn quoted(text: &str, mark: char) -> usize {
    let mut is_escaped = false;
    let end = text[1..].find(|c| {
        let is_end = c == mark && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    });
    end.map_or(text.len(), |end| end + 2)
}
