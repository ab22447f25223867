//! The body of a request of Multus' shim, and what holds over the configuration in it. Pure. It does not know HTTP.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cni::gojson;
use crate::daemon::work::Purpose;
use crate::engine::Plug;
use crate::select;
use crate::takeover::base64;
use crate::wire::{Frame, VARIABLES};

/// The interface where a request names none.
const IFNAME: &str = "eth0";
/// Where plugins are that nobody says anything of.
const PATH: &str = "/opt/cni/bin";
/// What a daemon waits for before it starts: no request waits for it again.
const READINESS: &str = "readinessindicatorfile";

/// Which of its paths a request came to.
#[derive(Clone, Copy, Debug)]
pub(in crate::daemon) enum Asked {
    /// `/cni`: a runtime's request.
    Runtime,
    /// `/delegate`: one interface more, or less.
    Plug,
}

/// What Multus' types.go says of it.
#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    env: Option<BTreeMap<String, String>>,
    /// In base64, as Go writes bytes.
    #[serde(default)]
    config: Option<String>,
    /// Of `/delegate`.
    #[serde(default, rename = "interfaceAttributes")]
    attributes: Option<Map<String, Value>>,
}

/// Keys that hold over those of a request's configuration.
#[derive(Debug)]
pub(in crate::daemon) struct Overlay(Map<String, Value>);

impl Overlay {
    /// Multus' daemon puts every key of its `daemon-config.json` over the configuration; here only those do that are a network
    /// configuration's. `kubeconfig`: how the daemon was told to reach the API server, for a shim's configuration does not say it.
    pub(super) fn new(mut own: Map<String, Value>, kubeconfig: Option<&Path>) -> Overlay {
        own.retain(|key, _| !gojson::folds_to(key, READINESS));
        if let Some(path) = kubeconfig {
            own.retain(|key, _| !gojson::folds_to(key, "kubeconfig"));
            own.insert("kubeconfig".to_owned(), json!(path));
        }
        Overlay(own)
    }

    /// The configuration with them. What is no object stays as it is: the engine says so in its own words.
    fn over(&self, config: Vec<u8>) -> Vec<u8> {
        if self.0.is_empty() {
            return config;
        }
        let Ok(mut object) = gojson::read::<Map<String, Value>>(&config) else { return config };
        object.retain(|key, _| !self.0.keys().any(|own| gojson::folds_to(key, own)));
        object.extend(self.0.clone());
        serde_json::to_vec(&object).unwrap_or(config)
    }
}

/// The frame that `plexus-cni` would have sent, and what it is for.
///
/// # Errors
/// Multus' sentence, where it has one: it is no JSON, its configuration no base64, a variable is missing.
pub(super) fn read(asked: Asked, body: &[u8], overlay: &Overlay) -> Result<(Frame, Purpose), String> {
    let body: Body = gojson::read(body).map_err(|e| e.to_string())?;
    let config = body.config.unwrap_or_default();
    let config = base64::decode(&config).ok_or("config: this is no base64")?;
    let mut env = body.env.unwrap_or_default();
    let missing = |why: &str| format!("could not extract the CNI command args: {why}");
    if !env.contains_key("CNI_COMMAND") {
        return Err(missing("unexpected or missing CNI_COMMAND"));
    }
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_ARGS"] {
        if !env.contains_key(name) {
            return Err(missing(&format!("missing {name}")));
        }
    }
    env.entry("CNI_IFNAME".to_owned()).or_insert_with(|| IFNAME.to_owned());
    if matches!(asked, Asked::Plug) {
        // Its clients know none; the node's configuration and the pod's record do.
        env.entry("CNI_PATH".to_owned()).or_insert_with(|| PATH.to_owned());
    }
    let pairs = env.into_iter().filter(|(name, _)| VARIABLES.contains(&name.as_str()));
    let pairs = pairs.map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
    let (stdin, purpose) = match asked {
        Asked::Runtime => (overlay.over(config), Purpose::Runtime),
        // The plugin's configuration is its network's, whoever asks: nothing is put over it.
        Asked::Plug => {
            let wish = select::parse_attributes(&body.attributes.unwrap_or_default());
            let wish = wish.map_err(|why| format!("interfaceAttributes: {why}"))?;
            (config, Purpose::Plug(Box::new(Plug { wish, own: overlay.0.clone() })))
        }
    };
    Ok((Frame { pairs, stdin }, purpose))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(own: &Value) -> Overlay {
        Overlay::new(own.as_object().unwrap().clone(), Some(Path::new("/k")))
    }

    fn body(without: &str, config: &str) -> Vec<u8> {
        let mut env =
            json!({"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/n", "CNI_ARGS": "", "HOME": "/root"});
        env.as_object_mut().unwrap().remove(without);
        json!({"env": env, "config": config}).to_string().into_bytes()
    }

    fn read(body: &[u8]) -> Result<Frame, String> {
        super::read(Asked::Runtime, body, &Overlay(Map::new())).map(|(frame, _)| frame)
    }

    #[test]
    fn a_request_of_the_shim_is_a_frame() {
        let frame = read(&body("", &base64::encode(b"{}"))).unwrap();
        let names: Vec<_> = frame.pairs.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(
            names,
            ["CNI_ARGS", "CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"],
            "not all of the environment"
        );
        assert_eq!((frame.variable("CNI_IFNAME"), frame.stdin.as_slice()), (Some(&b"eth0"[..]), &b"{}"[..]));
    }

    #[test]
    fn what_is_none_is_refused() {
        for (without, part) in [
            ("CNI_COMMAND", "missing CNI_COMMAND"),
            ("CNI_ARGS", "missing CNI_ARGS"),
            ("CNI_NETNS", "missing CNI_NETNS"),
        ] {
            let why = read(&body(without, "")).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
        assert_eq!(read(&body("", "e")).unwrap_err(), "config: this is no base64");
        for text in ["", "null", "[]", "{", r#"{"env": 5}"#, r#"{"env": {"CNI_ARGS": 5}}"#] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_daemon_s_own_keys_hold() {
        let overlay = overlay(&json!({"readinessindicatorfile": "/r", "binDir": "/b", "kubeConfig": "/other"}));
        let over = |config: &str| String::from_utf8(overlay.over(config.into())).unwrap();
        let object: Value =
            serde_json::from_str(&over(r#"{"name": "n", "BinDir": "/x", "readinessindicatorfile": "/y"}"#)).unwrap();
        assert_eq!(object, json!({"name": "n", "binDir": "/b", "kubeconfig": "/k", "readinessindicatorfile": "/y"}));
        assert_eq!((over("[]"), over("{")), ("[]".to_owned(), "{".to_owned()));
    }

    #[test]
    fn what_is_wished_for_one_interface_is_read_and_nothing_is_put_over_its_configuration() {
        let of = |attributes: Value| {
            let mut body: Value = serde_json::from_slice(&body("", &base64::encode(b"{}"))).unwrap();
            body["interfaceAttributes"] = attributes;
            super::read(Asked::Plug, body.to_string().as_bytes(), &overlay(&json!({"binDir": "/b"})))
        };
        let wish = |attributes: Value| match of(attributes).unwrap() {
            (frame, Purpose::Plug(plug)) => {
                assert_eq!((frame.stdin.as_slice(), plug.own["binDir"].as_str()), (&b"{}"[..], Some("/b")));
                assert_eq!(frame.variable("CNI_PATH"), Some(&b"/opt/cni/bin"[..]));
                plug.wish
            }
            (_, other) => panic!("{other:?}"),
        };
        // As Go writes one in which nothing is set.
        assert_eq!(wish(json!({"cni-args": null})), wish(Value::Null));
        assert_eq!(wish(json!({"ips": []})), wish(json!({})));
        let wished = wish(json!({"ips": ["10.0.0.1/24"], "mac": "02:00:00:00:00:01", "cni-args": {"a": 1}}));
        assert_eq!((wished.ips.len(), wished.mac.is_some(), wished.cni_args.is_some()), (1, true, true));
        for wrong in [json!({"ips": "10.0.0.1"}), json!({"mac": 5}), json!({"cni-args": []}), json!([])] {
            assert!(of(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
