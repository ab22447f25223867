//! What the runtime executes: what it must not contain, and how large it may be.

use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Completion, Failed};

/// The program as this test run built it.
const TESTED: &str = env!("CARGO_BIN_EXE_plexus-cni");
/// A node reads it for every pod: it fits into two megabytes, standard library included.
const RELEASE_BYTES_MAX: u64 = 2_650_000;
/// Set to 1, the release build is made here.
const BUILD_VARIABLE: &str = "PLEXUS_TIDY_RELEASE";

/// Crates of `plexus` and of a daemon. Each name appears in symbols, and, after stripping, in the paths of panic messages.
const ABSENT: &[&str] = &["tokio", "kube_client", "kube-client", "clap_builder", "hyper_util", "hyper-util"];

/// The build of this test run still has its symbols.
pub(crate) fn tested() -> Vec<String> {
    absent_from(Path::new(TESTED))
}

/// The release build: an existing one, or one made now.
pub(crate) fn released() -> Result<Completion, Failed> {
    if std::env::var_os(BUILD_VARIABLE).is_some_and(|value| value == "1") {
        build()?;
    }
    let Some(binary) = release_binary().filter(|binary| binary.exists()) else {
        let how = format!("no release build of plexus-cni: `cargo build --release`, or {BUILD_VARIABLE}=1");
        return Ok(Completion::ignored_with(how));
    };
    let bytes = std::fs::metadata(&binary)?.len();
    let mut wrong = absent_from(&binary);
    if bytes >= RELEASE_BYTES_MAX {
        wrong.push(format!("{} has {bytes} bytes, less than {RELEASE_BYTES_MAX} are allowed", binary.display()));
    }
    crate::complain(wrong).map(|()| Completion::Completed)
}

fn build() -> Result<(), Failed> {
    let root = env!("CARGO_MANIFEST_DIR");
    let arguments = ["build", "--release", "--bin", "plexus-cni"];
    let status = Command::new(env!("CARGO")).current_dir(root).args(arguments).status()?;
    if status.success() { Ok(()) } else { Err(format!("cargo build --release: {status}").into()) }
}

/// Beside the directory of the tested one: `.../debug/plexus-cni` and `.../release/plexus-cni`.
fn release_binary() -> Option<PathBuf> {
    let tested = Path::new(TESTED);
    Some(tested.parent()?.parent()?.join("release").join(tested.file_name()?))
}

fn absent_from(binary: &Path) -> Vec<String> {
    let bytes = match std::fs::read(binary) {
        Ok(bytes) => bytes,
        Err(error) => return vec![format!("{}: {error}", binary.display())],
    };
    let found = ABSENT.iter().filter(|name| contains(&bytes, name.as_bytes()));
    found.map(|name| format!("{} contains `{name}`", binary.display())).collect()
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
