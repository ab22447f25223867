//! Manifests, scripts and pages: what a reader or a tool relies on before reading any code.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::repository::{Entry, Repository};
use crate::rust::join;

/// Places of the code map in src/README.md that do not exist yet. A row goes when its place is there.
pub(crate) const PLANNED: &[&str] = &[];

/// The page with the code map.
const CODE_MAP: &str = "src/README.md";

/// What the readme must name: how to see it work, and how to test it.
const COMMANDS: &[&str] = &["cargo run --release -- demo", "tests/run"];

/// A member takes the workspace's lints; a package outside of it at least forbids unsafe code.
pub(crate) fn lints(repository: &Repository) -> Vec<String> {
    let mut wrong = Vec::new();
    for manifest in repository.manifests() {
        let lines: Vec<&str> = manifest.text.lines().map(str::trim).collect();
        let inherits = lines.windows(2).any(|pair| pair == ["[lints]", "workspace = true"]);
        let own_workspace = lines.contains(&"[workspace]");
        let forbids = manifest.text.contains("unsafe_code = \"forbid\"");
        if !(inherits || own_workspace && forbids) {
            wrong.push(format!("{}: `[lints]` must say `workspace = true`", manifest.path));
        }
    }
    wrong
}

pub(crate) fn first_look(repository: &Repository) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut demand = |path: &str, texts: &[&str]| match repository.entry(path) {
        None => wrong.push(format!("{path} is missing")),
        Some(entry) => {
            let missing = texts.iter().filter(|text| !entry.text.contains(**text));
            wrong.extend(missing.map(|text| format!("{path}: does not say `{text}`")));
        }
    };
    demand("LICENSE", &["Apache License"]);
    demand("CHANGELOG.md", &["## Unreleased"]);
    demand("README.md", COMMANDS);
    wrong
}

/// The peers' defects: the suite with a page of them, the letter before their numbers, and how many there are.
const DEFECTS: [(&str, char, usize); 2] = [("tests/suite", 'D', 33), ("tests/sriov", 'S', 8)];

/// Each defect has a row; each case that a row names is one of the suite.
pub(crate) fn defects(repository: &Repository) -> Vec<String> {
    DEFECTS.iter().flat_map(|(suite, letter, count)| defects_of(repository, suite, *letter, *count)).collect()
}

fn defects_of(repository: &Repository, suite: &str, letter: char, count: usize) -> Vec<String> {
    let path = format!("{suite}/DEFECTS.md");
    let Some(page) = repository.entry(&path) else { return vec![format!("{path} is missing")] };
    let cases: String =
        repository.rust().filter(|e| Path::new(&e.path).starts_with(suite)).map(|e| e.text.as_str()).collect();
    let mut wrong = Vec::new();
    for number in 1..=count {
        let Some(row) = page.text.lines().find(|line| line.starts_with(&format!("| {letter}{number} |"))) else {
            wrong.push(format!("{path}: {letter}{number} has no row"));
            continue;
        };
        let named: Vec<&str> = row.split('`').filter(|word| word.contains("::")).collect();
        let absent = named.iter().filter(|name| !cases.contains(&format!("\"{name}\"")));
        wrong.extend(
            absent.map(|name| format!("{path}: {letter}{number} names `{name}`, which is no case of the suite")),
        );
        if named.is_empty() && !row.contains("none: ") {
            wrong.push(format!("{path}: {letter}{number} names no case, and does not say why"));
        }
    }
    wrong
}

/// A script is executable, and stops at its first failure.
pub(crate) fn scripts(repository: &Repository) -> Vec<String> {
    let mut wrong = Vec::new();
    for entry in &repository.entries {
        let first = entry.text.lines().next().unwrap_or_default();
        let is_script = first.starts_with("#!") && !entry.is_rust();
        let mode = repository.root.join(&entry.path).metadata().map_or(0, |meta| meta.permissions().mode());
        let executable = mode & 0o111 != 0;
        if executable != is_script {
            let what = if is_script { "a script that is not executable" } else { "executable, but no script" };
            wrong.push(format!("{}:1: {what}", entry.path));
        }
        let is_bash = first.ends_with("bash");
        if is_bash && !entry.text.lines().any(|line| line.trim() == "set -euo pipefail") {
            wrong.push(format!("{}: `set -euo pipefail` is missing", entry.path));
        }
    }
    wrong
}

/// Where the references are that are made of tables.
const CONFIGURATION: &str = "docs/configuration.md";
const METRICS: &str = "docs/metrics.md";
/// Set: the pages are written and not compared.
const WRITE: &str = "PLEXUS_WRITE_DOCS";

/// The reference is what the tables of keys say.
pub(crate) fn configuration(repository: &Repository) -> Vec<String> {
    reference(repository, CONFIGURATION, &plexus::config::page::configuration())
}

/// The reference is what the table of metrics says.
pub(crate) fn metrics(repository: &Repository) -> Vec<String> {
    reference(repository, METRICS, &plexus::daemon::metrics::table::page())
}

fn reference(repository: &Repository, place: &str, page: &str) -> Vec<String> {
    if std::env::var_os(WRITE).is_some() {
        let path = repository.root.join(place);
        let written = std::fs::create_dir_all(path.with_file_name("")).and_then(|()| std::fs::write(&path, page));
        return written.err().map(|error| format!("{place}: {error}")).into_iter().collect();
    }
    if repository.entry(place).is_some_and(|entry| entry.text == page) {
        return Vec::new();
    }
    vec![format!("{place} is not what the tables say: {WRITE}=1 cargo test --test tidy -- reference")]
}

/// Links in Markdown, targets in Mermaid, and the places of the code map.
pub(crate) fn links(repository: &Repository) -> Vec<String> {
    let mut wrong = Vec::new();
    for entry in repository.entries.iter().filter(|entry| entry.path.ends_with(".md")) {
        for (line, target) in targets(&entry.text) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => entry.path.clone(),
                file if file.starts_with('/') => join("", file),
                file => join(entry.directory(), file),
            };
            if !repository.exists(Path::new(&path)) {
                wrong.push(format!("{}:{line}: there is no {path}", entry.path));
            } else if !anchor.is_empty() && repository.entry(&path).is_some_and(|page| !has_heading(page, anchor)) {
                wrong.push(format!("{}:{line}: {path} has no heading for #{anchor}", entry.path));
            }
        }
    }
    wrong.extend(repository.entry(CODE_MAP).map_or_else(Vec::new, |page| code_map(repository, page)));
    wrong
}

/// The book's table of contents, which mdBook reads: a page that it does not name is in no book.
const CONTENTS: &str = "docs/SUMMARY.md";

/// Each page beside the table of contents is named there, once.
pub(crate) fn book(repository: &Repository) -> Vec<String> {
    let Some(contents) = repository.entry(CONTENTS) else { return vec![format!("{CONTENTS} is missing")] };
    let pages = repository.entries.iter().filter(|entry| {
        entry.directory() == contents.directory() && entry.path.ends_with(".md") && entry.path != CONTENTS
    });
    let named: Vec<String> =
        targets(&contents.text).into_iter().map(|(_, target)| join(contents.directory(), target)).collect();
    let count = |page: &Entry| named.iter().filter(|name| **name == page.path).count();
    let wrong = pages.map(|page| (page, count(page))).filter(|(_, count)| *count != 1);
    wrong.map(|(page, count)| format!("{CONTENTS} names {} {count} times, not once", page.path)).collect()
}

/// Relative link targets with their lines. Code blocks have none, except a Mermaid `click`.
fn targets(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fence = None;
    for (index, line) in text.lines().enumerate() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(language.trim()) };
            continue;
        }
        match fence {
            None => found.extend(line.split("](").skip(1).filter_map(|rest| {
                let target = rest.split([')', ' ']).next()?;
                Some((index + 1, target))
            })),
            Some("mermaid") if line.trim_start().starts_with("click ") => {
                found.extend(line.split('"').nth(1).map(|target| (index + 1, target)));
            }
            Some(_) => {}
        }
    }
    let is_local = |target: &str| !target.contains("://") && !target.starts_with("mailto:") && !target.is_empty();
    found.retain(|(_, target)| is_local(target));
    found
}

/// GitHub's anchors: lower case, spaces to hyphens, other punctuation dropped.
fn has_heading(page: &Entry, anchor: &str) -> bool {
    let slug = |heading: &str| -> String {
        let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    let mut headings = page.text.lines().filter(|line| line.starts_with('#'));
    !page.path.ends_with(".md") || headings.any(|line| slug(line.trim_start_matches('#')) == anchor)
}

/// The first column of the code map names places that exist; PLANNED names those that do not.
fn code_map(repository: &Repository, page: &Entry) -> Vec<String> {
    let mut wrong = Vec::new();
    for (index, line) in page.text.lines().enumerate() {
        let first_cell = line.strip_prefix('|').and_then(|rest| rest.split('|').next()).map(str::trim);
        let place = first_cell.and_then(|cell| cell.strip_prefix('`')?.strip_suffix('`'));
        let Some(place) = place else { continue };
        // A module may be a file or a directory: `src/plan.rs` or `src/plan/`.
        if !repository.exists(Path::new(place)) && !PLANNED.contains(&place) {
            wrong.push(format!("{}:{}: there is no {place}", page.path, index + 1));
        }
    }
    let stale = PLANNED.iter().filter(|place| {
        let other = place.strip_suffix(".rs").or_else(|| place.strip_suffix('/')).unwrap_or(place);
        [place.to_string(), format!("{other}.rs"), format!("{other}/")].iter().any(|p| repository.exists(Path::new(p)))
    });
    wrong.extend(stale.map(|place| format!("PLANNED: {place} is there: remove its row")));
    wrong
}

pub(crate) mod self_tests {
    //! Which links are looked at.

    use super::{has_heading, targets};
    use crate::repository::Entry;

    pub(crate) fn links() {
        let text = "[a](b.md#c) and [d](https://e) `x`\n```sh\n[f](g)\n```\n```mermaid\nclick h \"i.rs\"\nj --> k\n```\n![l](m.png)";
        assert_eq!(targets(text), [(1, "b.md#c"), (6, "i.rs"), (9, "m.png")]);
        let page = Entry { path: "a.md".into(), text: "# What it is, and `why`\n".into(), code: String::new() };
        assert!(has_heading(&page, "what-it-is-and-why") && !has_heading(&page, "what-it-is"));
    }
}
