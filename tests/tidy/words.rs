//! Words that say nothing in a name, and texts that must not land in any file.

use crate::repository::{Entry, Repository};
use crate::rust::declared;

/// Words that are no part of the name of a file, module or type, and what to say in their place.
const EMPTY_WORDS: &[(&str, &str)] = &[
    ("driver", "the kind it builds, or `backend`"),
    ("manager", "what it does: a pool, a journal, a table"),
    ("helper", "put it where it is used, or name its subject"),
    ("util", "its subject: `mac`, `sysctl`, `names`"),
    ("utils", "its subject: `mac`, `sysctl`, `names`"),
    ("common", "what its users have in common"),
    ("core", "its subject; `engine` is the word for one request"),
    ("handler", "the verb: `add`, `detach`, `serve`"),
    ("context", "what it holds: `Request`, `Stage`, `Place`"),
    ("data", "what the bytes are: `Record`, `Lease`, `Result`"),
    ("info", "what is known: `Link`, `Summary`, `Machine`"),
    ("misc", "one file for each subject"),
];

/// Names that need such a word: (path or name, word, reason).
const WORD_EXCEPTIONS: &[(&str, &str, &str)] = &[("Data", "data", "hyper's name for what a body is made of")];

/// The last name in a path, and the last part of a declared name, count as well as all others.
pub(crate) fn names(repository: &Repository) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut used = vec![false; WORD_EXCEPTIONS.len()];
    for entry in repository.rust() {
        let path_words = entry.path.split('/').map(|part| (1, part.trim_end_matches(".rs"), true));
        let declared = declared(&entry.code).into_iter().map(|(line, name)| (line, name, false));
        for (line, name, of_path) in path_words.chain(declared) {
            let words = split(name);
            for (word, instead) in EMPTY_WORDS.iter().filter(|(word, _)| words.iter().any(|one| one == word)) {
                let what = if of_path { entry.path.as_str() } else { name };
                match WORD_EXCEPTIONS.iter().position(|(of, except, _)| *of == what && except == word) {
                    Some(index) => used[index] = true,
                    None => wrong.push(format!("{}:{line}: `{word}` in {name} says nothing: {instead}", entry.path)),
                }
            }
        }
    }
    let unused = WORD_EXCEPTIONS.iter().zip(used).filter(|(_, used)| !used);
    wrong.extend(unused.map(|((of, word, _), _)| format!("WORD_EXCEPTIONS: `{word}` in {of} needs no row any more")));
    wrong
}

/// The words of a name in snake, kebab or camel case, in lower case. Capitals in a row are one word.
fn split(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for c in name.chars() {
        if !c.is_alphanumeric() || c.is_uppercase() && !before.is_uppercase() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// A text that must not be in a file.
struct Ban {
    text: &'static str,
    why: &'static str,
    /// Only in Rust, where comments and literals do not count.
    in_code: bool,
}

/// Written in two pieces each, so that this file does not break its own rule.
const BANS: &[Ban] = &[
    Ban { text: concat!("/wo", "rk/"), why: "a path of one machine", in_code: false },
    Ban { text: concat!("/ro", "ot/"), why: "a path of one machine", in_code: false },
    Ban { text: concat!("/ho", "me/"), why: "a path of one machine", in_code: false },
    Ban { text: concat!("FIX", "ME"), why: "fix it, or open an issue", in_code: false },
    Ban { text: concat!("XX", "X:"), why: "say what is wrong", in_code: false },
    Ban { text: "todo!", why: "unfinished work does not land", in_code: true },
    Ban { text: "unimplemented!", why: "unfinished work does not land", in_code: true },
    Ban { text: "dbg!", why: "left over from a search", in_code: true },
    Ban { text: "#[ignore]", why: "say why: #[ignore = \"reason\"]", in_code: true },
    Ban { text: "thread::sleep", why: "wait for an event with a deadline", in_code: true },
];

/// Files in which such a text is right: (path, text, reason).
const TEXT_EXCEPTIONS: &[(&str, &str, &str)] =
    &[("tests/vm/init", concat!("/ro", "ot/"), "the guest mounts its new root there, whoever runs it")];

pub(crate) fn texts(repository: &Repository) -> Vec<String> {
    let mut wrong: Vec<String> = repository.entries.iter().flat_map(found_in).collect();
    let needed =
        |(path, text, _): &&(&str, &str, &str)| repository.entry(path).is_some_and(|entry| entry.text.contains(text));
    let unneeded = TEXT_EXCEPTIONS.iter().filter(|row| !needed(row));
    wrong.extend(unneeded.map(|(path, text, _)| format!("TEXT_EXCEPTIONS: {text} in {path} needs no row any more")));
    wrong
}

fn found_in(entry: &Entry) -> Vec<String> {
    let mut wrong = Vec::new();
    for ban in BANS.iter().filter(|ban| !ban.in_code || entry.is_rust()) {
        if TEXT_EXCEPTIONS.iter().any(|(path, text, _)| *path == entry.path && *text == ban.text) {
            continue;
        }
        let lines = if ban.in_code { entry.code.lines() } else { entry.text.lines() };
        let lines = lines.enumerate().filter(|(_, line)| line.contains(ban.text));
        wrong.extend(lines.map(|(index, _)| format!("{}:{}: `{}`: {}", entry.path, index + 1, ban.text, ban.why)));
    }
    let unnumbered = entry.text.lines().enumerate().filter(|(_, line)| is_unnumbered_to_do(line));
    wrong.extend(unnumbered.map(|(index, _)| format!("{}:{}: an open end without #number", entry.path, index + 1)));
    wrong.extend(silent_exceptions(entry));
    wrong.extend(commented_code(entry));
    wrong
}

fn is_unnumbered_to_do(line: &str) -> bool {
    let marker = concat!("TO", "DO");
    line.match_indices(marker).any(|(start, _)| {
        let whole_word = !line[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let rest = &line[start + marker.len()..];
        let numbered = rest.trim_start_matches(['(', ' ', ':']).strip_prefix('#');
        whole_word
            && !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')
            && !numbered.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    })
}

/// Attributes that switch a lint off without saying why.
fn silent_exceptions(entry: &Entry) -> Vec<String> {
    let mut wrong = Vec::new();
    for attribute in ["[allow(", "[expect("] {
        for (start, _) in entry.code.match_indices(attribute) {
            let end = entry.code[start..].find(")]").map_or(entry.code.len(), |length| start + length);
            if !entry.code[start..end].contains("reason") {
                let line = entry.code[..start].lines().count().max(1);
                wrong.push(format!("{}:{line}: #{attribute}...)] needs `reason = \"...\"`", entry.path));
            }
        }
    }
    wrong
}

/// A plain comment that ends as a statement does and has what only code has. Sentences with code in backticks do not end so.
fn commented_code(entry: &Entry) -> Vec<String> {
    let looks_like_code = |line: &&str| {
        let Some(comment) = line.trim_start().strip_prefix("//") else { return false };
        if comment.starts_with(['/', '!']) {
            return false;
        }
        let comment = comment.trim();
        let starts = ["let ", "use ", "pub ", "fn ", "return", "if ", "for ", "match ", "}", "assert"];
        starts.iter().any(|start| comment.starts_with(start)) && comment.ends_with([';', '{'])
            || comment == "}"
            || comment.ends_with(");") && comment.contains('(')
    };
    let lines = entry.text.lines().enumerate().filter(|(_, line)| entry.is_rust() && looks_like_code(line));
    lines.map(|(index, _)| format!("{}:{}: code in a comment: git remembers it", entry.path, index + 1)).collect()
}

pub(crate) mod self_tests {
    //! What counts as a word, and which texts are caught.

    use super::{found_in, split};
    use crate::repository::Entry;
    use crate::rust::blank;

    pub(crate) fn splits() {
        assert_eq!(split("LinkInfo"), ["link", "info"]);
        assert_eq!(split("host_local-utils"), ["host", "local", "utils"]);
        assert_eq!(split("InformationDatabase"), ["information", "database"]);
        assert_eq!(split("CNIError"), ["cnierror"]);
    }

    fn count(path: &str, text: &str) -> usize {
        let code = if path.ends_with(".rs") { blank(text) } else { String::new() };
        found_in(&Entry { path: path.to_owned(), text: text.to_owned(), code }).len()
    }

    pub(crate) fn caught() {
        assert_eq!(count("a.md", concat!("see /wo", "rk/x\n", "TO", "DO later\n")), 2);
        assert_eq!(count("a.md", concat!("TO", "DO #12: later; TO", "DO(#3); ", "TO", "DOS\n")), 0);
        assert_eq!(count("a.rs", "fn f() { dbg!(1); let text = \"dbg!\"; } // todo! is a macro\n"), 1);
        assert_eq!(count("a.rs", "#[allow(dead_code)]\n#[expect(x, reason = \"y\")]\n#[ignore]\n"), 2);
        assert_eq!(count("a.rs", "// let a = 1;\n// We let it pass; it is (a) fine.\n/// let a = 1;\n"), 1);
    }
}
