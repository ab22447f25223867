//! What pods are attached by against the definitions as they are now. A pod keeps what it was given until it is made anew: whoever
//! changes a definition is told which pods have the old one. Pure. It does not know who knows definitions.

use serde_json::{Map, Value};

use crate::cni::gojson;
use crate::journal::Attachment;
use crate::sources::Definition;

/// A definition by namespace and name as it is now: `Some(None)`, there is none; none, nobody knows.
pub type Definitions<'a> = dyn Fn(&str, &str) -> Option<Option<Definition>> + 'a;

/// What ADD itself puts into a plugin's configuration, or changes in it.
const INJECTED: [&str; 8] =
    ["name", "cniVersion", "prevResult", "runtimeConfig", "args", "capabilities", "deviceID", "pciBusID"];

/// What became of an attachment's definition; none where nothing did, or nobody knows.
pub(super) fn drift(attachment: &Attachment, definitions: &Definitions) -> Option<&'static str> {
    let (namespace, name) = attachment.network.split_once('/')?;
    let Some(found) = definitions(namespace, name)? else { return Some("its definition is there no more") };
    // Without a configuration of its own a file of the node has it.
    let text = found.config.trim();
    let is_same = text.is_empty() || plugins(text).is_some_and(|plugins| are_same(attachment, &plugins));
    (!is_same).then_some("its definition was changed since: the pod has it anew when it is made anew")
}

/// The plugins of a configuration, or of a list.
fn plugins(text: &str) -> Option<Vec<Map<String, Value>>> {
    let Ok(Value::Object(mut object)) = gojson::read(text.as_bytes()) else { return None };
    match object.remove("plugins") {
        None => Some(vec![object]),
        Some(Value::Array(plugins)) => plugins
            .into_iter()
            .map(|plugin| if let Value::Object(plugin) = plugin { Some(plugin) } else { None })
            .collect(),
        Some(_) => None,
    }
}

fn are_same(attachment: &Attachment, plugins: &[Map<String, Value>]) -> bool {
    let own = |conf: &Map<String, Value>| -> Map<String, Value> {
        let is_own = |key: &str| !INJECTED.contains(&key) && !key.starts_with("cni.dev/");
        conf.iter().filter(|(key, _)| is_own(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let steps = &attachment.steps;
    steps.len() == plugins.len() && steps.iter().zip(plugins).all(|(step, plugin)| own(&step.conf) == own(plugin))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn attachment(network: &str, confs: &[Value]) -> Attachment {
        let step = |conf: &Value| json!({"type": conf["type"], "native": true, "conf": conf});
        let steps: Vec<Value> = confs.iter().map(step).collect();
        serde_json::from_value(json!({"network": network, "cniName": "n", "cniVersion": "1.0.0", "ifname": "net1",
            "args": "", "default": false, "steps": steps}))
        .unwrap()
    }

    #[test]
    fn a_definition_that_says_something_else_is_told() {
        let conf = json!({"type": "macvlan", "master": "up0", "name": "n", "cniVersion": "1.0.0", "deviceID": "x"});
        let chained = json!({"type": "tuning", "mtu": 1400, "name": "n", "runtimeConfig": {}});
        let recorded = attachment("ns/blue", &[conf, chained]);
        let list = |master: &str, mtu: u32| json!({"plugins": [{"type": "macvlan", "master": master}, {"type": "tuning", "mtu": mtu}]});
        let single = json!({"type": "macvlan", "master": "up0"});
        for (text, is_told) in [
            (list("up0", 1400).to_string(), false),
            (String::new(), false),
            (list("up1", 1400).to_string(), true),
            (list("up0", 1500).to_string(), true),
            (single.to_string(), true),
            ("{".to_owned(), true),
            (r#"{"plugins": {}}"#.to_owned(), true),
            (r#"{"plugins": [1, 2]}"#.to_owned(), true),
        ] {
            let found = Definition { config: text.clone(), ..Definition::default() };
            assert_eq!(drift(&recorded, &|_, _| Some(Some(found.clone()))).is_some(), is_told, "{text}");
        }
        assert!(drift(&recorded, &|_, _| Some(None)).is_some_and(|told| told.contains("no more")));
        assert_eq!(drift(&recorded, &|_, _| None), None, "nobody knows");
        let of_node = attachment("node-network", &[]);
        assert_eq!(drift(&of_node, &|_, _| Some(None)), None, "the configuration's own is no definition");
    }
}
