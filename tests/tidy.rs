//! The style of the repository as tests: what may use what, how long a piece may be, which words and texts stay out, and
//! that nothing is dead, dangling or unexplained. Knows nothing of what plexus does.
//!
//! Every exception stands in a table of this directory with its reason, and one that is needed no more fails too.
#![expect(
    clippy::indexing_slicing,
    reason = "a wrong index in a test is a failed test; its own harness hides that from clippy"
)]

#[path = "tidy/arrows.rs"]
mod arrows;
#[path = "tidy/binary.rs"]
mod binary;
#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/repository.rs"]
mod repository;
#[path = "tidy/rust.rs"]
mod rust;
#[path = "tidy/sizes.rs"]
mod sizes;
#[path = "tidy/words.rs"]
mod words;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};

use repository::Repository;

/// A rule: what it finds wrong, one line each.
type Rule = fn(&Repository) -> Vec<String>;

const RULES: &[(&str, Rule)] = &[
    ("arrows between the modules of the root crate", arrows::inner),
    ("arrows between the crates", arrows::outer),
    ("each foreign crate in its place", arrows::foreign),
    ("pure modules name no file, process or kernel", arrows::pure),
    ("each file says what it is for", sizes::headers),
    ("files and functions are short", sizes::lengths),
    ("names say what a thing is", words::names),
    ("nothing unfinished or unexplained", words::texts),
    ("no dead source file", rust::dead_files),
    ("each package has the workspace's lints", documents::lints),
    ("licence, changelog and readme", documents::first_look),
    ("each known defect has its case or its reason", documents::defects),
    ("scripts are executable and strict", documents::scripts),
    ("links and the code map lead somewhere", documents::links),
    ("each page of docs is in the book", documents::book),
    ("the configuration's reference is up to date", documents::configuration),
    ("the metrics' reference is up to date", documents::metrics),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let repository = match Repository::read() {
        Ok(repository) => Arc::new(repository),
        Err(error) => {
            eprintln!("tidy: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut trials: Vec<Trial> = RULES
        .iter()
        .map(|(name, rule)| {
            let repository = Arc::clone(&repository);
            Trial::test(*name, move || complain(rule(&repository)))
        })
        .collect();
    trials.push(Trial::ignorable_test("plexus-cni as released is small", binary::released));
    trials.extend(self_tests());
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn complain(found: Vec<String>) -> Result<(), Failed> {
    if found.is_empty() {
        return Ok(());
    }
    Err(found.join("\n").into())
}

/// The rules rest on a small reader of Rust: what it must not get wrong.
fn self_tests() -> Vec<Trial> {
    let tests: &[(&str, fn())] = &[
        ("reader: comments and strings are not code", rust::self_tests::blanks),
        ("reader: paths in groups", rust::self_tests::paths),
        ("reader: functions and their lines", rust::self_tests::bodies),
        ("reader: declared names", rust::self_tests::names),
        ("words: of snake and camel case", words::self_tests::splits),
        ("texts: what is caught and what is not", words::self_tests::caught),
        ("links: of Markdown and Mermaid", documents::self_tests::links),
        ("sizes: a ratchet only shrinks", sizes::self_tests::ratchet),
    ];
    let trial = |(name, test): &(&str, fn())| {
        let test = *test;
        Trial::test(*name, move || {
            test();
            Ok(())
        })
    };
    tests.iter().map(trial).collect()
}
