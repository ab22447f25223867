//! The attachments a GC configuration calls valid. Knows nothing of what is attached.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::gojson::{self, DecodeError};

/// The key of the CNI spec 1.1.
pub const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";

/// The key an early text of the spec named; libcni sets both.
pub const ATTACHMENTS: &str = "cni.dev/attachments";

/// One attachment of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename = "types.GCAttachment", default)]
pub struct Attachment {
    /// The sandbox.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface in it.
    pub ifname: String,
}

/// The attachments to keep. `None`: the configuration names no list, and nothing may be concluded from that.
///
/// # Errors
/// The type error, when the list is not one.
pub fn parse(config: &Map<String, Value>) -> Result<Option<BTreeSet<Attachment>>, DecodeError> {
    let listed = gojson::field(config, VALID_ATTACHMENTS).or_else(|| gojson::field(config, ATTACHMENTS));
    match listed {
        None => Ok(None),
        Some(list) => Ok(Some(gojson::decode_value::<BTreeSet<Attachment>>(list)?.value)),
    }
}

/// Both keys with `attachments`, for the configuration of a delegate's GC.
pub fn to_keys(attachments: &BTreeSet<Attachment>) -> Map<String, Value> {
    let entry = |attachment: &Attachment| {
        let pairs = [("containerID", &attachment.container_id), ("ifname", &attachment.ifname)];
        Value::Object(pairs.into_iter().map(|(key, text)| (key.to_string(), Value::from(text.as_str()))).collect())
    };
    let list = Value::Array(attachments.iter().map(entry).collect());
    Map::from_iter([(VALID_ATTACHMENTS.to_string(), list.clone()), (ATTACHMENTS.to_string(), list)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(config: Value) -> Option<Vec<String>> {
        let set = parse(config.as_object().unwrap()).unwrap()?;
        Some(set.into_iter().map(|it| format!("{}/{}", it.container_id, it.ifname)).collect())
    }

    #[test]
    fn the_spec_s_key_wins_over_the_early_one() {
        let list = |id: &str| json!([{"containerID": id, "ifname": "eth0"}, {"containerID": id, "ifname": "eth0"}]);
        assert_eq!(parsed(json!({VALID_ATTACHMENTS: list("a"), ATTACHMENTS: list("b")})).unwrap(), ["a/eth0"]);
        assert_eq!(parsed(json!({ATTACHMENTS: list("b")})).unwrap(), ["b/eth0"]);
        assert_eq!(parsed(json!({VALID_ATTACHMENTS: null, ATTACHMENTS: list("b")})).unwrap(), ["b/eth0"]);
    }

    #[test]
    fn no_list_is_not_an_empty_list() {
        assert_eq!(parsed(json!({})), None);
        assert_eq!(parsed(json!({VALID_ATTACHMENTS: []})), Some(vec![]));
        assert!(parse(json!({VALID_ATTACHMENTS: {}}).as_object().unwrap()).is_err());
    }

    #[test]
    fn what_is_written_is_read() {
        let set = BTreeSet::from([Attachment { container_id: "c".into(), ifname: "net1".into() }]);
        assert_eq!(parse(&to_keys(&set)).unwrap().unwrap(), set);
    }
}
