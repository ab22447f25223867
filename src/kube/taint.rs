//! A taint of a node is taken off it; the others stay as they are. It does not know why.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::call::{Calls, Failure};
use super::objects::{Identity, NodeObject, node_path};

/// Others change a node, too: the server refuses what was changed since it was read.
const TRIES_MAX: usize = 5;

/// Takes every taint of this key off; whether there was one.
///
/// # Errors
/// The node cannot be read or changed.
pub(super) async fn remove(calls: &Calls, node: &str, key: &str) -> Result<bool, Failure> {
    let path = node_path(node)?;
    let mut tries = 0;
    loop {
        let found: Value = calls.get(&path).await?;
        let object = NodeObject::deserialize(&found).unwrap_or_default();
        if !object.is("", node) {
            return Err(calls.foreign());
        }
        // As the server has them, whatever is in them: what is not known here is not lost.
        let taints = found.pointer("/spec/taints").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let kept: Vec<&Value> =
            taints.iter().filter(|taint| taint.get("key").and_then(Value::as_str) != Some(key)).collect();
        if kept.len() == taints.len() {
            return Ok(false);
        }
        let metadata = json!({"uid": object.metadata.uid, "resourceVersion": object.metadata.resource_version});
        let change = json!({"metadata": metadata, "spec": {"taints": kept}});
        tries += 1;
        match calls.merge::<IgnoredAny>(&path, change.to_string().as_bytes()).await {
            Err(Failure::Conflict(_)) if tries < TRIES_MAX => {}
            done => return done.map(|_| true),
        }
    }
}
