//! What came of each row, one file per case, for `tests/oracle/table`. It does not know what a row is about.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::call::UNDER_TEST;

/// Where the files are, below cargo's folder for tests.
const FOLDER: &str = "oracle";

/// Both sides are equal, but for the intended differences `ids`.
pub(super) fn same(case: &str, ids: &BTreeSet<&str>) {
    keep(case, &json!({"state": if ids.is_empty() { "equal" } else { "different" }, "ids": ids}));
}

/// Until it is known to be otherwise.
pub(super) fn failed(case: &str) {
    keep(case, &json!({"state": "failed"}));
}

/// The case cannot run here; one that is no row is passed over.
pub(crate) fn ignored(case: &str, reason: &str) {
    if case.starts_with("oracle::") {
        keep(case, &json!({"state": "ignored", "reason": reason}));
    }
}

/// A folder that cannot be written (a read-only checkout) costs the table, not the test.
fn keep(case: &str, came: &Value) {
    if std::env::var_os(UNDER_TEST).is_some() {
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(FOLDER);
    let mut row = json!({"case": case});
    super::merge(&mut row, came);
    drop(std::fs::create_dir_all(&folder));
    drop(std::fs::write(folder.join(case), format!("{row}\n")));
}
