//! Comparing two lists of facts, with named exceptions. It does not know what the facts are about.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::snapshot::Facts;

/// An intended difference: in the cases that match, facts that match differ; all others are equal.
pub(crate) struct Difference {
    /// Its row in `tests/oracle/DIFFERENCES.md`.
    pub(crate) id: &'static str,
    /// Patterns of names of cases.
    pub(crate) cases: &'static [&'static str],
    /// Patterns of paths of facts.
    pub(crate) facts: &'static [&'static str],
    /// It need not occur in each of the cases.
    pub(crate) sometimes: bool,
}

/// `*` in a pattern stands for any text, also none; everything else for itself.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    let inner = text.strip_suffix(end).and_then(|text| text.strip_prefix(start));
    let Some(mut left) = inner else { return false };
    // The first place of each part leaves the most for the parts after it.
    middle.split('*').all(|part| match left.find(part) {
        Some(at) => {
            left = &left[at + part.len()..];
            true
        }
        None => false,
    })
}

fn any(patterns: &[&str], text: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, text))
}

/// Compares what the Go plugin did with what plexus did: the ids of the intended differences that occurred.
///
/// # Errors
/// A text with each fact that differs without being in `differences`, and each difference that does not occur.
pub(crate) fn compare(
    case: &str,
    go: &Facts,
    plexus: &Facts,
    differences: &[Difference],
) -> Result<BTreeSet<&'static str>, String> {
    let expected: Vec<&Difference> = differences.iter().filter(|difference| any(difference.cases, case)).collect();
    let mut occurred = BTreeSet::new();
    let mut text = String::new();
    let paths: BTreeSet<&String> = go.keys().chain(plexus.keys()).collect();
    for path in paths {
        let (theirs, ours) = (go.get(path), plexus.get(path));
        if theirs == ours {
            continue;
        }
        let covering: Vec<_> = expected.iter().filter(|difference| any(difference.facts, path)).collect();
        occurred.extend(covering.iter().map(|difference| difference.id));
        if covering.is_empty() {
            let show = |value: Option<&String>| value.map_or("(absent)".to_owned(), |value| format!("{value:?}"));
            writeln!(text, "  {path}\n      go:     {}\n      plexus: {}", show(theirs), show(ours)).unwrap();
        }
    }
    for difference in expected.iter().filter(|difference| !difference.sometimes && !occurred.contains(difference.id)) {
        writeln!(text, "  the intended difference {} does not occur", difference.id).unwrap();
    }
    if text.is_empty() { Ok(occurred) } else { Err(text) }
}
