//! A small reader of Rust: enough to find references, functions, declared names and modules, without a parser crate.
//! Knows no rule but one: every source file is reached from a crate's root.

use std::collections::BTreeSet;

use crate::repository::{Entry, Repository};

/// The text with comments and the insides of string and character literals replaced by blanks; lines stay where they are.
pub(crate) fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out: Vec<char> = chars.iter().map(|c| if *c == '\n' { '\n' } else { ' ' }).collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut index = 0;
    while index < chars.len() {
        let end = match (at(index), at(index + 1)) {
            ('/', '/') => (index..chars.len()).find(|i| at(*i) == '\n').unwrap_or(chars.len()),
            ('/', '*') => block_comment_end(&chars, index),
            ('"', _) => string_end(&chars, index + 1),
            ('r' | '#', '"' | '#') if raw_hashes(&chars, index).is_some() => {
                raw_string_end(&chars, index, raw_hashes(&chars, index).unwrap_or(0))
            }
            // A character literal, not a lifetime: 'x' or an escape.
            ('\'', '\\') => (index + 3..chars.len()).find(|i| at(*i) == '\'').map_or(chars.len(), |i| i + 1),
            ('\'', _) if at(index + 2) == '\'' => index + 3,
            (c, _) => {
                out[index] = c;
                index += 1;
                continue;
            }
        };
        // Quotes stay, so that a literal still is one.
        for place in [index, end - 1] {
            if matches!(at(place), '"' | '\'') {
                out[place] = at(place);
            }
        }
        index = end;
    }
    out.into_iter().collect()
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut index = start;
    while index + 1 < chars.len() {
        match (chars[index], chars[index + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                index += 1;
                continue;
            }
        }
        index += 2;
        if depth == 0 {
            return index;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], mut index: usize) -> usize {
    while index < chars.len() {
        match chars[index] {
            '\\' => index += 2,
            '"' => return index + 1,
            _ => index += 1,
        }
    }
    chars.len()
}

/// The number of `#` of a raw string that begins here with its `r`.
fn raw_hashes(chars: &[char], index: usize) -> Option<usize> {
    let before = index.checked_sub(1).and_then(|i| chars.get(i)).copied().unwrap_or(' ');
    if chars.get(index) != Some(&'r') || is_word(before) && before != 'b' && before != 'c' {
        return None;
    }
    let hashes = chars[index + 1..].iter().take_while(|c| **c == '#').count();
    (chars.get(index + 1 + hashes) == Some(&'"')).then_some(hashes)
}

fn raw_string_end(chars: &[char], index: usize, hashes: usize) -> usize {
    let closes = |i: &usize| chars[*i] == '"' && (1..=hashes).all(|n| chars.get(i + n) == Some(&'#'));
    (index + hashes + 2..chars.len()).find(closes).map_or(chars.len(), |i| i + 1 + hashes)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The tokens of blanked code: words, `::`, and single characters; each with its line, counted from 1.
pub(crate) fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let (token, after) = rest.split_at(length);
            tokens.push((number + 1, token));
            rest = after.trim_start();
        }
    }
    tokens
}

/// What follows `root::` in code, one step deep, with lines: `root::a::b` and `root::{a::b, c}` give `a`; `a` and `c`.
pub(crate) fn references<'a>(code: &'a str, root: &str) -> Vec<(usize, &'a str)> {
    let tokens = tokens(code);
    let token = |index: usize| tokens.get(index).map_or("", |(_, token)| *token);
    let mut found = Vec::new();
    for index in 0..tokens.len() {
        // `x::crate_name::` is a path inside of x, except after a leading `::`.
        let inner = index >= 2 && token(index - 1) == "::" && token(index - 2).chars().all(is_word);
        if token(index) != root || token(index + 1) != "::" || inner && root != "super" {
            continue;
        }
        if token(index + 2) != "{" {
            found.push((tokens[index].0, token(index + 2)));
            continue;
        }
        let mut depth = 1;
        for (inside, (line, _)) in tokens.iter().enumerate().skip(index + 3) {
            let opens_item = matches!(token(inside - 1), "{" | ",") && depth == 1;
            match token(inside) {
                "{" => depth += 1,
                "}" => depth -= 1,
                word if opens_item && word.starts_with(is_word) => found.push((*line, word)),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

/// The functions with a body: name, first and last line.
pub(crate) fn functions(code: &str) -> Vec<(&str, usize, usize)> {
    let tokens = tokens(code);
    let mut functions = Vec::new();
    for index in 0..tokens.len() {
        let (line, word) = tokens[index];
        let Some((_, name)) = tokens.get(index + 1).filter(|(_, name)| word == "fn" && name.starts_with(is_word))
        else {
            continue;
        };
        // The body begins at the first brace outside of brackets; a declaration ends with a semicolon before it.
        let (mut brackets, mut braces) = (0, 0);
        for (end, token) in &tokens[index + 2..] {
            match *token {
                "(" | "[" => brackets += 1,
                ")" | "]" => brackets -= 1,
                ";" if brackets == 0 && braces == 0 => break,
                "{" => braces += 1,
                "}" => braces -= 1,
                _ => continue,
            }
            if *token == "}" && braces == 0 {
                functions.push((*name, line, *end));
                break;
            }
        }
    }
    functions
}

/// The names of declared modules and types, with lines.
pub(crate) fn declared(code: &str) -> Vec<(usize, &str)> {
    let tokens = tokens(code);
    let pairs = tokens.windows(2);
    let declares = |word: &str| matches!(word, "mod" | "struct" | "enum" | "union" | "trait" | "type");
    pairs.filter(|pair| declares(pair[0].1) && pair[1].1.starts_with(is_word)).map(|pair| pair[1]).collect()
}

/// A source file that no crate's root reaches is dead: nothing compiles it.
pub(crate) fn dead_files(repository: &Repository) -> Vec<String> {
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<(String, bool)> = repository.manifests().flat_map(|m| roots(repository, m)).collect();
    while let Some((path, is_root)) = waiting.pop() {
        if let Some(entry) = repository.entry(&path)
            && reached.insert(path)
        {
            waiting.extend(children(entry, is_root).into_iter().map(|path| (path, false)));
        }
    }
    repository
        .rust()
        .filter(|entry| !reached.contains(&entry.path))
        .map(|entry| format!("{}: no `mod` and no manifest names it: remove it or declare it", entry.path))
        .collect()
}

/// The crate roots of one package: Cargo's own places, and what the manifest names.
fn roots(repository: &Repository, manifest: &Entry) -> Vec<(String, bool)> {
    let here = |path: &str| join(manifest.directory(), path);
    let mut roots: Vec<String> = ["src/lib.rs", "src/main.rs", "build.rs"].map(here).to_vec();
    let named = manifest.text.lines().filter_map(|line| line.trim().strip_prefix("path")?.trim().strip_prefix('='));
    roots.extend(named.map(|value| here(value.trim().trim_matches('"'))));
    let in_directory = |directory: String| {
        repository.rust().filter(move |entry| entry.directory() == directory).map(|entry| entry.path.clone())
    };
    roots.extend(in_directory(here("src/bin")));
    if !manifest.text.contains("autotests = false") {
        roots.extend(in_directory(here("tests")));
    }
    roots.into_iter().map(|root| (root, true)).collect()
}

/// The files that a file's `mod` declarations and inclusions name.
pub(crate) fn children(entry: &Entry, is_root: bool) -> Vec<String> {
    let owns_directory = is_root || entry.stem() == "mod";
    let base = if owns_directory { entry.directory().to_owned() } else { join(entry.directory(), entry.stem()) };
    let tokens = tokens(&entry.code);
    let mut files = Vec::new();
    for window in tokens.windows(3) {
        if let [(line, "mod"), (_, name), (_, ";")] = window {
            match path_attribute(&entry.text, *line) {
                Some(path) => files.push(join(entry.directory(), path)),
                None => files.extend([join(&base, &format!("{name}.rs")), join(&base, &format!("{name}/mod.rs"))]),
            }
        }
    }
    let included = entry.text.lines().filter_map(|line| line.split_once("include!(\"")?.1.split('"').next());
    files.extend(included.map(|path| join(entry.directory(), path)));
    files
}

/// The value of `#[path = "..."]` on the line before line `line`.
fn path_attribute(text: &str, line: usize) -> Option<&str> {
    let before = text.lines().nth(line.checked_sub(2)?)?;
    before.trim().strip_prefix("#[path = \"")?.strip_suffix("\"]")
}

/// A path below a directory of the repository, with `..` resolved.
pub(crate) fn join(directory: &str, path: &str) -> String {
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

pub(crate) mod self_tests {
    //! What the reader must get right.

    use super::{blank, declared, functions, references};

    pub(crate) fn blanks() {
        let text = "let a = \"fn x() {\"; // crate::b\nlet c = '\"'; /* /* d */ e */ let f: &'a str = r#\"g\"h\"#; i";
        let squeezed = blank(text).replace(' ', "");
        assert_eq!(squeezed, "leta=\"\";\nletc='';letf:&'astr=;i");
    }

    pub(crate) fn paths() {
        let code = "use crate::a::b;\nuse crate::{c::{d, e}, f as g, self};\nlet h = crate::i::J; x::crate::k;";
        let found: Vec<_> = references(code, "crate").into_iter().map(|(_, name)| name).collect();
        assert_eq!(found, ["a", "c", "f", "self", "i"]);
        assert_eq!(references("::plexus::x; let plexus = 1;", "plexus"), [(1, "x")]);
    }

    pub(crate) fn bodies() {
        let code =
            "trait T { fn none(&self) -> [u8; 3]; }\nfn one() { { } }\nfn two(\n  a: u8,\n) {\n}\nlet f: fn(u8) = g;";
        assert_eq!(functions(code), [("one", 2, 2), ("two", 3, 6)]);
    }

    pub(crate) fn names() {
        let code =
            blank("pub(crate) mod a; struct B<T>; enum C {} trait D { type E; } // struct F\nlet type_name = 1;");
        let found: Vec<_> = declared(&code).into_iter().map(|(_, name)| name).collect();
        assert_eq!(found, ["a", "B", "C", "D", "E"]);
    }
}
