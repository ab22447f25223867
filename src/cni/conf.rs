//! One plugin's configuration: the whole object, because most of it belongs to the plugin, and the keys that belong to the
//! protocol, typed. Knows no plugin.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::{CniError, Code};
use super::gojson;
pub use super::list::{Injected, Injection, List, PluginConf};
pub use super::names::{validate_container_id, validate_ifname, validate_network_name};
use super::result::Dns;
use super::version::{self, SUPPORTED, Version};

/// A configuration as one plugin receives it.
#[derive(Clone, Debug, PartialEq)]
pub struct NetConf {
    /// Everything, as given.
    pub object: Map<String, Value>,
    /// `cniVersion`.
    pub cni_version: Version,
    /// `name`, unchecked: `validate_network_name`.
    pub name: String,
    /// `type`.
    pub plugin_type: String,
    /// `ipam`, where it is given.
    pub ipam: Option<Map<String, Value>>,
    /// `dns`.
    pub dns: Dns,
    /// Whether any key of `dns` is given, an empty list included: then bridge and ptp put it in the place of the IPAM's.
    pub dns_given: bool,
    /// `capabilities`: what the plugin takes from the runtime.
    pub capabilities: BTreeMap<String, bool>,
    /// `runtimeConfig`; `runtime::RuntimeConfig` gives it types.
    pub runtime_config: Map<String, Value>,
    /// `args.cni`.
    pub args_cni: Map<String, Value>,
    /// `prevResult`; `CniResult::parse_prev` reads it.
    pub prev_result: Option<Value>,
}

impl NetConf {
    /// Reads the text of a configuration.
    ///
    /// # Errors
    /// Code 6 where it is no JSON object or a key of the protocol has a wrong type, 1 where its version is unknown.
    pub fn parse(bytes: &[u8]) -> Result<NetConf, CniError> {
        let object = gojson::parse_object(bytes, "types.PluginConf");
        NetConf::from_object(object.map_err(|error| CniError::new(Code::Decode, error.to_string()))?)
    }

    /// Reads a configuration.
    ///
    /// # Errors
    /// Code 6 where a key of the protocol has a wrong type, 1 where the version is unknown.
    pub fn from_object(object: Map<String, Value>) -> Result<NetConf, CniError> {
        let raw = gojson::decode::<Raw>(&object).map_err(|error| CniError::new(Code::Decode, error.to_string()))?.value;
        let ipam_type = raw.ipam.as_ref().and_then(|ipam| gojson::field(ipam, "type"));
        if let Some(other) = ipam_type.filter(|named| !named.is_string()) {
            let refusal = gojson::mismatch(other, "struct field IPAM.ipam.type", "string");
            return Err(CniError::new(Code::Decode, refusal.to_string()));
        }
        let cni_version =
            Version::parse(&raw.cni_version).ok_or_else(|| version::incompatible(&raw.cni_version, &SUPPORTED))?;
        Ok(NetConf {
            dns_given: is_dns_given(&object),
            object,
            cni_version,
            name: raw.name,
            plugin_type: raw.plugin_type,
            ipam: raw.ipam,
            dns: raw.dns,
            capabilities: raw.capabilities,
            runtime_config: raw.runtime_config,
            args_cni: raw.args.cni,
            prev_result: raw.prev_result.map(Value::Object),
        })
    }

    /// `ipam.type`, empty where there is none.
    pub fn ipam_type(&self) -> &str {
        let named = self.ipam.as_ref().and_then(|ipam| gojson::field(ipam, "type"));
        named.and_then(Value::as_str).unwrap_or_default()
    }
}

/// Go asks whether a list is nil, which `[]` is not; `null` is.
fn is_dns_given(object: &Map<String, Value>) -> bool {
    let Some(Value::Object(dns)) = gojson::field(object, "dns") else { return false };
    let list_given = ["nameservers", "search", "options"].iter().any(|key| gojson::field(dns, key).is_some());
    list_given || gojson::field(dns, "domain").is_some_and(|domain| domain != "")
}

#[derive(Deserialize, Default)]
#[serde(rename = "NetConf", default)]
struct Raw {
    #[serde(rename = "cniVersion")]
    cni_version: String,
    name: String,
    #[serde(rename = "type")]
    plugin_type: String,
    capabilities: BTreeMap<String, bool>,
    ipam: Option<Map<String, Value>>,
    dns: Dns,
    #[serde(rename = "runtimeConfig")]
    runtime_config: Map<String, Value>,
    args: Args,
    #[serde(rename = "prevResult")]
    prev_result: Option<Map<String, Value>>,
}

/// Go's struct has no name here.
#[derive(Deserialize, Default)]
#[serde(rename = "", default)]
struct Args {
    cni: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn conf(value: Value) -> Result<NetConf, CniError> {
        NetConf::from_object(value.as_object().unwrap().clone())
    }

    #[test]
    fn the_keys_of_the_protocol_are_typed_and_nothing_is_lost() {
        let value = json!({
            "cniVersion": "0.4.0", "NAME": "net", "type": "bridge", "bridge": "cni0", "IPAM": {"Type": "host-local"},
            "capabilities": {"mac": true, "ips": false}, "RuntimeConfig": {"mac": "x"}, "args": {"cni": {"ips": []}},
            "dns": {"search": []}, "prevResult": {"ips": []},
        });
        let conf = conf(value.clone()).unwrap();
        assert_eq!((conf.name.as_str(), conf.plugin_type.as_str()), ("net", "bridge"));
        assert_eq!((conf.cni_version, conf.ipam_type()), (Version::V0_4_0, "host-local"));
        assert_eq!((conf.capabilities.get("mac"), conf.capabilities.get("ips")), (Some(&true), Some(&false)));
        assert_eq!((conf.runtime_config.len(), conf.args_cni.len()), (1, 1));
        assert!(conf.prev_result.is_some() && conf.dns_given && conf.dns.is_empty());
        assert_eq!(Value::Object(conf.object), value);
    }

    #[test]
    fn null_is_not_given() {
        let all = ["cniVersion", "name", "type", "ipam", "dns", "capabilities", "runtimeConfig", "args", "prevResult"];
        let object = all.iter().map(|key| (key.to_string(), Value::Null)).collect();
        let conf = NetConf::from_object(object).unwrap();
        assert_eq!((conf.cni_version, conf.ipam, conf.prev_result), (Version::V0_1_0, None, None));
        assert!(!conf.dns_given);
    }

    #[test]
    fn wrong_types_and_versions_are_refused() {
        let error = conf(json!({"type": 3})).unwrap_err();
        let text = conf(json!({"ipam": {"type": 5}})).unwrap_err().msg;
        assert_eq!(text, "json: cannot unmarshal number into Go struct field IPAM.ipam.type of type string");
        let expected = "json: cannot unmarshal number into Go struct field NetConf.type of type string";
        assert_eq!((error.code, error.msg.as_str()), (Code::Decode, expected));
        let error = conf(json!({"prevResult": "x"})).unwrap_err();
        assert!(error.msg.ends_with("NetConf.prevResult of type map[string]interface {}"), "{error}");
        assert_eq!(conf(json!({"cniVersion": "9.9.9"})).unwrap_err().code, Code::IncompatibleVersion);
        assert_eq!(NetConf::parse(b"[]").unwrap_err().code, Code::Decode);
    }

    #[test]
    fn the_last_duplicate_wins() {
        assert_eq!(NetConf::parse(br#"{"name":"a","name":"b"}"#).unwrap().name, "b");
    }

    #[test]
    fn dns_is_given_by_an_empty_list_but_not_by_null() {
        for (dns, given) in [
            (json!({}), false),
            (json!({"domain": ""}), false),
            (json!({"options": null}), false),
            (json!({"options": []}), true),
            (json!({"domain": "x"}), true),
        ] {
            assert_eq!(conf(json!({"dns": dns})).unwrap().dns_given, given, "{dns}");
        }
    }
}
