//! What came of each row, one file per case, for `tests/oracle/table` and `tests/k8s/oracle`. It does not know what a row is about.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use crate::call::UNDER_TEST;

/// Both sides are equal, but for the intended differences `ids`.
pub(crate) fn same(case: &str, ids: &BTreeSet<&str>) {
    keep(case, &json!({"state": if ids.is_empty() { "equal" } else { "different" }, "ids": ids}));
}

/// As [`same`], with the requests that each side made of the API server.
pub(crate) fn same_asking(
    case: &str,
    ids: &BTreeSet<&str>,
    theirs: &BTreeMap<String, usize>,
    ours: &BTreeMap<String, usize>,
) {
    let state = if ids.is_empty() { "equal" } else { "different" };
    keep(case, &json!({"state": state, "ids": ids, "peer": theirs, "plexus": ours}));
}

/// Until it is known to be otherwise.
pub(crate) fn failed(case: &str) {
    keep(case, &json!({"state": "failed"}));
}

/// The case cannot run here; one that is no row is passed over.
pub(crate) fn ignored(case: &str, reason: &str) {
    if case.starts_with("oracle::") || case.starts_with("multus::") {
        keep(case, &json!({"state": "ignored", "reason": reason}));
    }
}

/// A folder that cannot be written (a read-only checkout) costs the table, not the test.
fn keep(case: &str, came: &Value) {
    if std::env::var_os(UNDER_TEST).is_some() {
        return;
    }
    // `oracle` or `multus`, below cargo's folder for tests.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(case.split("::").next().unwrap_or_default());
    let mut row = json!({"case": case});
    super::merge(&mut row, came);
    drop(std::fs::create_dir_all(&folder));
    drop(std::fs::write(folder.join(case), format!("{row}\n")));
}
