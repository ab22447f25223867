//! How long a piece may be, and that each file begins by saying what it is for.

use crate::repository::Repository;
use crate::rust::functions;

/// In lines, from the signature to the closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// In lines, tests included.
const FILE_LINES_MAX: usize = 600;

/// Pieces that are longer, with their present length: (file, function or "" for the file itself, lines). A length may only
/// shrink, and a new row needs a reason beside it.
const RATCHET: &[(&str, &str, usize)] = &[];

pub(crate) fn headers(repository: &Repository) -> Vec<String> {
    let without = repository.rust().filter(|entry| !entry.text.starts_with("//!"));
    without.map(|entry| format!("{}:1: begin with `//!`: what is it for, what does it not know?", entry.path)).collect()
}

pub(crate) fn lengths(repository: &Repository) -> Vec<String> {
    let mut pieces = Vec::new();
    for entry in repository.rust() {
        pieces.push((entry.path.as_str(), "", 1, entry.text.lines().count()));
        let bodies = functions(&entry.code).into_iter();
        pieces.extend(bodies.map(|(name, first, last)| (entry.path.as_str(), name, first, last + 1 - first)));
    }
    too_long(&pieces, RATCHET)
}

/// Pieces are (file, function or "", first line, lines).
fn too_long(pieces: &[(&str, &str, usize, usize)], ratchet: &[(&str, &str, usize)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (file, function, line, lines) in pieces {
        let usual = if function.is_empty() { FILE_LINES_MAX } else { FUNCTION_LINES_MAX };
        let listed = ratchet.iter().find(|(of, name, _)| of == file && name == function).map(|(.., lines)| *lines);
        let what = if function.is_empty() { "the file" } else { function };
        match listed {
            None if *lines > usual => {
                wrong.push(format!("{file}:{line}: {what} has {lines} lines, at most {usual} are allowed"));
            }
            Some(listed) if *lines > listed => {
                wrong.push(format!("{file}:{line}: {what} has grown from {listed} to {lines} lines"));
            }
            _ => {}
        }
    }
    for (file, function, listed) in ratchet {
        let usual = if function.is_empty() { FILE_LINES_MAX } else { FUNCTION_LINES_MAX };
        let found = pieces.iter().filter(|(of, name, ..)| of == file && name == function);
        match found.map(|(.., lines)| *lines).max() {
            Some(lines) if lines > usual && lines < *listed => {
                wrong.push(format!("RATCHET: {file} {function} has {lines} lines now: lower {listed} to that"));
            }
            Some(lines) if lines > usual => {}
            _ => wrong.push(format!("RATCHET: {file} {function} needs no row any more")),
        }
    }
    wrong
}

pub(crate) mod self_tests {
    //! A row of the ratchet holds exactly, and goes when it is not needed.

    use super::too_long;

    pub(crate) fn ratchet() {
        let of = |lines, ratchet: &[(&str, &str, usize)]| too_long(&[("a.rs", "f", 9, lines)], ratchet).join(";");
        assert_eq!(of(70, &[]), "");
        assert_eq!(of(71, &[]), "a.rs:9: f has 71 lines, at most 70 are allowed");
        assert_eq!(of(80, &[("a.rs", "f", 80)]), "");
        assert_eq!(of(81, &[("a.rs", "f", 80)]), "a.rs:9: f has grown from 80 to 81 lines");
        assert_eq!(of(75, &[("a.rs", "f", 80)]), "RATCHET: a.rs f has 75 lines now: lower 80 to that");
        assert_eq!(of(70, &[("a.rs", "f", 80)]), "RATCHET: a.rs f needs no row any more");
    }
}
