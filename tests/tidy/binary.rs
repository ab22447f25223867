//! What the runtime executes: what it must not contain, and how large it may be.

use std::path::{Path, PathBuf};

use libtest_mimic::{Completion, Failed};

/// The program as this test run built it.
const TESTED: &str = env!("CARGO_BIN_EXE_plexus-cni");
/// A node reads it for every pod: as it is shipped, standard library and C library included, it has no more. Six plugins of
/// chains and virtual functions took 0.4 MB beyond the two that the first design allows (src/README.md).
const RELEASE_BYTES_MAX: u64 = 2_550_000;
/// The script that builds it so.
const BUILD: &str = "deployments/build";

/// Where its crates' sources were, as they stand in the paths of panic messages; and what stands before them, wherever that was.
const SOURCES: &str = "/registry/src/";
const HOME: &str = "/cargo";

/// Crates of `plexus` and of a daemon, which the feature `api` brings: it is built without. Each name appears in symbols, and,
/// after stripping, in the paths of panic messages.
const ABSENT: &[&str] = &["tokio", "kube_client", "kube-client", "clap_builder", "hyper_util", "hyper-util"];

/// The release build, where there is one.
pub(crate) fn released() -> Result<Completion, Failed> {
    let Some(binary) = release_binary().filter(|binary| binary.exists()) else {
        return Ok(Completion::ignored_with(format!("plexus-cni has not been built as it is shipped: {BUILD}")));
    };
    let bytes = std::fs::metadata(&binary)?.len();
    let mut wrong = absent_from(&binary);
    if bytes >= RELEASE_BYTES_MAX {
        wrong.push(format!("{} has {bytes} bytes, less than {RELEASE_BYTES_MAX} are allowed", binary.display()));
    }
    crate::complain(wrong).map(|()| Completion::Completed)
}

/// Beside the target of the tested one: `x86_64-unknown-linux-gnu/debug/plexus-cni`, and
/// `x86_64-unknown-linux-musl/release/plexus-cni`.
fn release_binary() -> Option<PathBuf> {
    let tested = Path::new(TESTED);
    let target = tested.parent()?.parent()?.parent()?;
    let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    Some(target.join(triple).join("release").join(tested.file_name()?))
}

fn absent_from(binary: &Path) -> Vec<String> {
    let bytes = match std::fs::read(binary) {
        Ok(bytes) => bytes,
        Err(error) => return vec![format!("{}: {error}", binary.display())],
    };
    let found = ABSENT.iter().filter(|name| contains(&bytes, name.as_bytes()));
    let mut wrong: Vec<String> = found.map(|name| format!("{} contains `{name}`", binary.display())).collect();
    if tells_where(&bytes) {
        wrong.push(format!("{} names a folder of whoever built it: another build has other bytes", binary.display()));
    }
    wrong
}

/// Whether it has paths of crates that are not those that every build has ([`BUILD`], `--remap-path-prefix`). They stand one after the
/// other, without an end: of a CARGO_HOME that is called `cargo` this sees nothing, of `.cargo` it does.
fn tells_where(bytes: &[u8]) -> bool {
    let places = bytes.windows(SOURCES.len()).enumerate().filter(|(_, part)| *part == SOURCES.as_bytes());
    places.map(|(at, _)| &bytes[..at]).any(|before| !before.ends_with(HOME.as_bytes()))
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    let Some(first) = wanted.first() else { return true };
    let mut rest = bytes;
    while let Some(start) = rest.iter().position(|byte| byte == first) {
        if rest[start..].starts_with(wanted) {
            return true;
        }
        rest = &rest[start + 1..];
    }
    false
}
