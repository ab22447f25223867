//! Network configuration lists as libcni reads them, and what it puts into each plugin's configuration before the plugin
//! sees it. Pure: bytes in, bytes out; which file a list came from is the caller's matter.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::attachments::Attachment;
use super::error::{CniError, Code};
use super::gojson::{self, DecodeError};
use super::goprint::{Layout, object_to_string_go, quote};
use super::result::Dns;
use super::version::{self, SUPPORTED, Version};

/// The most plugins in one list: each is a process or a change to the kernel.
pub const LIST_PLUGINS_MAX: usize = 64;

/// A network: its plugins in the order of ADD.
#[derive(Clone, Debug, PartialEq)]
pub struct List {
    /// `name`, unchecked: `validate_network_name`.
    pub name: String,
    /// `cniVersion`, or the newest supported one of `cniVersions`.
    pub cni_version: Version,
    /// CHECK does nothing.
    pub disable_check: bool,
    /// GC does nothing.
    pub disable_gc: bool,
    /// Plugins in `<confdir>/<name>/*.conf` are not appended.
    pub load_only_inlined: bool,
    /// The plugins.
    pub plugins: Vec<PluginConf>,
}

/// One plugin of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginConf {
    /// `type`: not empty.
    pub plugin_type: String,
    /// `capabilities`.
    pub capabilities: BTreeMap<String, bool>,
    /// The configuration.
    pub object: Map<String, Value>,
    /// Its text, as it was given.
    pub raw: String,
}

/// What a runtime adds to a plugin's configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Injection<'a> {
    /// The previous plugin's result, in the list's version.
    pub prev_result: Option<&'a Value>,
    /// Capability arguments; a plugin gets those it has a true capability for.
    pub runtime_config: Option<&'a Map<String, Value>>,
    /// Other keys, put at the top in place of what stands there.
    pub extra: Option<&'a Map<String, Value>>,
}

/// A configuration ready for a plugin.
#[derive(Clone, Debug, PartialEq)]
pub struct Injected {
    /// The configuration.
    pub object: Map<String, Value>,
    /// Its text: the given text where nothing had to be added, else keys sorted, as libcni writes it.
    pub bytes: Vec<u8>,
}

impl List {
    /// Reads a configuration list (`.conflist`). It may have no plugins: those may stand in files of their own.
    ///
    /// # Errors
    /// Code 7 with libcni's text; 1 where the version is not supported.
    pub fn parse(bytes: &[u8]) -> Result<List, CniError> {
        let object = gojson::parse_object(bytes, "map[string]interface {}").map_err(refused)?;
        let name = match object.get("name") {
            None => return Err(refused("no name")),
            Some(Value::String(name)) => name.clone(),
            Some(other) => return Err(refused(format!("invalid name type {}", go_type(other)))),
        };
        let mut list = List {
            name,
            cni_version: chosen_version(&object)?,
            disable_check: flag(&object, "disableCheck")?,
            disable_gc: flag(&object, "disableGC")?,
            load_only_inlined: flag(&object, "loadOnlyInlinedPlugins")?,
            plugins: Vec::new(),
        };
        match object.get("plugins") {
            None if list.load_only_inlined => {
                return Err(refused("`loadOnlyInlinedPlugins` is true, and no 'plugins' key"));
            }
            None => {}
            Some(Value::Array(plugins)) => list.plugins = parse_plugins(bytes, plugins)?,
            Some(other) => return Err(refused(format!("invalid 'plugins' type {}", go_type(other)))),
        }
        Ok(list)
    }

    /// Reads a single configuration (`.conf`, `.json`) as a list of one.
    ///
    /// # Errors
    /// As `PluginConf::parse`; code 1 where the version is not supported.
    pub fn from_conf(bytes: &[u8]) -> Result<List, CniError> {
        let plugin = PluginConf::parse(bytes)?;
        let text = |key| gojson::field(&plugin.object, key).and_then(Value::as_str).unwrap_or_default();
        Ok(List {
            name: text("name").to_string(),
            cni_version: supported(text("cniVersion"))?,
            disable_check: false,
            disable_gc: false,
            load_only_inlined: false,
            plugins: vec![plugin],
        })
    }

    /// Reads either: a configuration that has a `type` is a single one, as Multus decides it.
    ///
    /// # Errors
    /// As `parse` and `from_conf`.
    pub fn parse_either(bytes: &[u8]) -> Result<List, CniError> {
        let object = gojson::parse_object(bytes, "map[string]interface {}").map_err(refused)?;
        match gojson::field(&object, "type") {
            None => List::parse(bytes),
            Some(Value::String(name)) if name.is_empty() => List::parse(bytes),
            Some(_) => List::from_conf(bytes),
        }
    }

    /// Refuses a list that has no plugins once every file was read.
    ///
    /// # Errors
    /// Code 7, `no plugin configs found`.
    pub fn require_plugins(&self) -> Result<(), CniError> {
        if self.plugins.is_empty() {
            return Err(CniError::new(Code::InvalidConfig, "no plugin configs found"));
        }
        Ok(())
    }

    /// The configuration `plugin` gets: name and version of the list, and what `injection` holds for it.
    pub fn inject(&self, plugin: &PluginConf, injection: &Injection<'_>) -> Injected {
        let mut object = plugin.object.clone();
        object.insert("name".to_string(), Value::from(self.name.as_str()));
        object.insert("cniVersion".to_string(), Value::from(self.cni_version.as_str()));
        if let Some(result) = injection.prev_result {
            object.insert("prevResult".to_string(), result.clone());
        }
        if let Some(offered) = injection.runtime_config {
            let taken = |(key, _): &(&String, &Value)| plugin.capabilities.get(*key).copied().unwrap_or_default();
            let taken: Map<_, _> = offered.iter().filter(taken).map(|(k, v)| (k.clone(), v.clone())).collect();
            if !taken.is_empty() {
                object.insert("runtimeConfig".to_string(), Value::Object(taken));
            }
        }
        for (key, value) in injection.extra.into_iter().flatten() {
            object.insert(key.clone(), value.clone());
        }
        if object == plugin.object {
            return Injected { object, bytes: plugin.raw.clone().into_bytes() };
        }
        let bytes = object_to_string_go(&object, Layout::Compact).into_bytes();
        Injected { object, bytes }
    }
}

impl PluginConf {
    /// Reads one plugin's configuration.
    ///
    /// # Errors
    /// Code 7, `error parsing configuration: ...`.
    pub fn parse(bytes: &[u8]) -> Result<PluginConf, CniError> {
        let refused = |why: String| CniError::new(Code::InvalidConfig, format!("error parsing configuration: {why}"));
        let decoding = |error: DecodeError| refused(error.to_string());
        let object = gojson::parse_object(bytes, "types.PluginConf").map_err(decoding)?;
        let raw: RawConf = gojson::decode(&object).map_err(decoding)?.value;
        if raw.plugin_type.is_empty() {
            return Err(refused("missing 'type'".to_string()));
        }
        Ok(PluginConf {
            plugin_type: raw.plugin_type,
            capabilities: raw.capabilities,
            object,
            // It parsed as JSON, so it is UTF-8.
            raw: String::from_utf8_lossy(bytes).into_owned(),
        })
    }
}

/// Go's types.PluginConf: the keys whose types are checked whatever the plugin is.
#[derive(Deserialize, Default)]
#[serde(rename = "types.PluginConf", default)]
struct RawConf {
    #[serde(rename = "cniVersion")]
    _cni_version: String,
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "type")]
    plugin_type: String,
    capabilities: BTreeMap<String, bool>,
    #[serde(rename = "ipam")]
    _ipam: Ipam,
    #[serde(rename = "dns")]
    _dns: Dns,
    #[serde(rename = "prevResult")]
    _prev_result: Map<String, Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    _valid_attachments: Vec<Attachment>,
}

#[derive(Deserialize, Default)]
#[serde(rename = "types.IPAM", default)]
struct Ipam {
    #[serde(rename = "type")]
    _plugin_type: String,
}

fn refused(why: impl std::fmt::Display) -> CniError {
    CniError::new(Code::InvalidConfig, format!("error parsing configuration list: {why}"))
}

fn supported(name: &str) -> Result<Version, CniError> {
    Version::parse(name).ok_or_else(|| version::incompatible(name, &SUPPORTED))
}

/// Go's `%T` of a decoded value.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A flag that may be written as text.
fn flag(object: &Map<String, Value>, key: &str) -> Result<bool, CniError> {
    match object.get(key) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) => match text.to_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(refused(format!("invalid value {} for {key}", quote(other)))),
        },
        Some(other) => Err(refused(format!("invalid type {} for {key}", go_type(other)))),
    }
}

/// The newest of `cniVersions` and `cniVersion` that is not beyond the newest this program speaks.
fn chosen_version(object: &Map<String, Value>) -> Result<Version, CniError> {
    let single = match object.get("cniVersion") {
        None => "",
        Some(Value::String(name)) => name,
        Some(other) => return Err(refused(format!("invalid cniVersion type {}", go_type(other)))),
    };
    let listed = match object.get("cniVersions") {
        None => return supported(single),
        Some(Value::Array(listed)) => listed,
        // Go names the type it wanted here, not the one it found.
        Some(_) => return Err(refused("invalid type for cniVersions: []interface {}")),
    };
    let newest = version::numbers(Version::CURRENT.as_str()).map_err(refused)?;
    let mut candidates = Vec::new();
    for (index, entry) in listed.iter().enumerate() {
        let Value::String(name) = entry else {
            return Err(refused(format!("invalid type for cniVersions index {index}: {}", go_type(entry))));
        };
        let numbers = version::numbers(name)
            .map_err(|why| refused(format!("invalid cniVersions entry {name} at index {index}: {why}")))?;
        candidates.push((numbers, name.as_str()));
    }
    if !single.is_empty() {
        let numbers = version::numbers(single).map_err(|why| refused(format!("invalid cniVersion {single}: {why}")))?;
        candidates.push((numbers, single));
    }
    candidates.retain(|(numbers, _)| *numbers <= newest);
    supported(candidates.into_iter().max().map_or(single, |(_, name)| name))
}

/// The plugins with their own text, which the parsed list no longer has.
fn parse_plugins(bytes: &[u8], plugins: &[Value]) -> Result<Vec<PluginConf>, CniError> {
    if plugins.is_empty() {
        return Err(refused("no plugins in list"));
    }
    if plugins.len() > LIST_PLUGINS_MAX {
        return Err(refused(format!("more than {LIST_PLUGINS_MAX} plugins in list")));
    }
    // Borrowed from what was given, unless something in there is no Unicode.
    let mended;
    let texts: BTreeMap<String, &RawValue> = match serde_json::from_slice(bytes) {
        Ok(texts) => texts,
        Err(_) => {
            mended = gojson::mended(bytes);
            serde_json::from_slice(&mended).map_err(refused)?
        }
    };
    let text = texts.get("plugins").map_or("[]", |raw| raw.get());
    let texts: Vec<&RawValue> = serde_json::from_str(text).map_err(refused)?;
    let parse = |(index, raw): (usize, &&RawValue)| {
        PluginConf::parse(raw.get().as_bytes())
            .map_err(|error| error.within(&format!("failed to parse plugin config {index}")))
    };
    texts.iter().enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refusal(text: &str) -> String {
        List::parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_list_that_is_no_unicode_is_read_as_go_reads_it() {
        let list =
            List::parse(b"{\"name\":\"n\",\"\xff\":1,\"plugins\":[{\"type\":\"a\",\"k\":\"\xff\\ud800\"}]}").unwrap();
        assert_eq!(list.plugins[0].object["k"], "\u{fffd}\u{fffd}");
    }

    #[test]
    fn refusals_of_a_list_are_libcni_s() {
        // Each was printed by libcni for the same text.
        let list = [
            ("{", "unexpected end of JSON input"),
            ("[]", "json: cannot unmarshal array into Go value of type map[string]interface {}"),
            ("{}", "no name"),
            (r#"{"NAME":"n"}"#, "no name"),
            (r#"{"name":3}"#, "invalid name type float64"),
            (r#"{"name":null}"#, "invalid name type <nil>"),
            (r#"{"name":"n","cniVersion":3}"#, "invalid cniVersion type float64"),
            (r#"{"name":"n","cniVersions":"x"}"#, "invalid type for cniVersions: []interface {}"),
            (r#"{"name":"n","cniVersions":[1]}"#, "invalid type for cniVersions index 0: float64"),
            (
                r#"{"name":"n","cniVersions":["abc"]}"#,
                r#"invalid cniVersions entry abc at index 0: failed to convert major version part "abc": strconv.Atoi: parsing "abc": invalid syntax"#,
            ),
            (
                r#"{"name":"n","cniVersion":"x.y","cniVersions":["1.0.0"]}"#,
                r#"invalid cniVersion x.y: failed to convert major version part "x": strconv.Atoi: parsing "x": invalid syntax"#,
            ),
            (r#"{"name":"n","disableCheck":"Yes\n"}"#, r#"invalid value "yes\n" for disableCheck"#),
            (r#"{"name":"n","disableGC":3}"#, "invalid type float64 for disableGC"),
            (r#"{"name":"n","disableGC":null}"#, "invalid type <nil> for disableGC"),
            (r#"{"name":"n","loadOnlyInlinedPlugins":true}"#, "`loadOnlyInlinedPlugins` is true, and no 'plugins' key"),
            (r#"{"name":"n","plugins":{}}"#, "invalid 'plugins' type map[string]interface {}"),
            (r#"{"name":"n","plugins":null}"#, "invalid 'plugins' type <nil>"),
            (r#"{"name":"n","plugins":[]}"#, "no plugins in list"),
        ];
        for (text, expected) in list {
            assert_eq!(refusal(text), format!("error parsing configuration list: {expected}"), "{text}");
        }
    }

    #[test]
    fn refusals_of_a_plugin_are_libcni_s() {
        let plugin = [
            ("{}", "missing 'type'"),
            ("null", "missing 'type'"),
            ("3", "json: cannot unmarshal number into Go value of type types.PluginConf"),
            (r#"{"type":3}"#, "json: cannot unmarshal number into Go struct field PluginConf.type of type string"),
            (
                r#"{"type":"a","capabilities":{"x":1}}"#,
                "json: cannot unmarshal number into Go struct field PluginConf.capabilities of type bool",
            ),
            (
                r#"{"type":"a","capabilities":[]}"#,
                "json: cannot unmarshal array into Go struct field PluginConf.capabilities of type map[string]bool",
            ),
            (
                r#"{"type":"a","ipam":[]}"#,
                "json: cannot unmarshal array into Go struct field PluginConf.ipam of type types.IPAM",
            ),
            (
                r#"{"type":"a","ipam":{"type":1}}"#,
                "json: cannot unmarshal number into Go struct field IPAM.ipam.type of type string",
            ),
            (
                r#"{"type":"a","dns":{"search":"x"}}"#,
                "json: cannot unmarshal string into Go struct field DNS.dns.search of type []string",
            ),
            (
                r#"{"type":"a","prevResult":[]}"#,
                "json: cannot unmarshal array into Go struct field PluginConf.prevResult of type map[string]interface {}",
            ),
            (
                r#"{"type":"a","cni.dev/valid-attachments":{}}"#,
                "json: cannot unmarshal object into Go struct field PluginConf.cni.dev/valid-attachments of type []types.GCAttachment",
            ),
        ];
        for (text, expected) in plugin {
            let list = format!(r#"{{"name":"n","plugins":[{{"type":"ok"}},{text}]}}"#);
            assert_eq!(
                refusal(&list),
                format!("failed to parse plugin config 1: error parsing configuration: {expected}")
            );
            let single = List::from_conf(text.as_bytes()).unwrap_err();
            assert_eq!(
                (single.code, single.msg),
                (Code::InvalidConfig, format!("error parsing configuration: {expected}"))
            );
        }
        assert_eq!(List::from_conf(b"{").unwrap_err().msg, "error parsing configuration: unexpected end of JSON input");
    }

    #[test]
    fn the_newest_supported_version_is_chosen() {
        let cases = [
            (r#""cniVersion":"0.3.1","cniVersions":["1.0.0","0.4.0","1.1.0","9.0.0"]"#, "1.1.0"),
            (r#""cniVersion":"1.0.0","cniVersions":["9.0.0"]"#, "1.0.0"),
            (r#""cniVersion":"1.0.0","cniVersions":["0.4.0"]"#, "1.0.0"),
            (r#""cniVersions":["0.4.0","0.3.1"]"#, "0.4.0"),
            (r#""cniVersions":[]"#, "0.1.0"),
            (r#""cniVersion":"""#, "0.1.0"),
        ];
        for (keys, expected) in cases {
            let list = List::parse(format!(r#"{{"name":"n",{keys}}}"#).as_bytes()).unwrap();
            assert_eq!(list.cni_version.as_str(), expected, "{keys}");
        }
        let error = List::parse(br#"{"name":"n","cniVersion":"9.0.0","cniVersions":["9.1.0"]}"#).unwrap_err();
        assert_eq!(error.code, Code::IncompatibleVersion);
    }

    #[test]
    fn flags_may_be_text() {
        let text = br#"{"name":"n","disableCheck":"TRUE","disableGC":true,"loadOnlyInlinedPlugins":"false"}"#;
        let list = List::parse(text).unwrap();
        assert_eq!((list.disable_check, list.disable_gc, list.load_only_inlined), (true, true, false));
        assert_eq!(list.require_plugins().unwrap_err().msg, "no plugin configs found");
    }

    #[test]
    fn a_single_configuration_becomes_a_list() {
        let text = r#"{"NAME": "n", "cniVersion": "0.4.0", "type": "bridge", "plugins": []}"#;
        for list in [List::from_conf(text.as_bytes()), List::parse_either(text.as_bytes())] {
            let list = list.unwrap();
            assert_eq!((list.name.as_str(), list.cni_version, list.plugins.len()), ("n", Version::V0_4_0, 1));
            assert_eq!(list.plugins[0].raw, text);
        }
        let text = br#"{"name": "n", "type": "", "plugins": [{"type": "a"}, {"type": "b"}]}"#;
        let kinds: Vec<_> = List::parse_either(text).unwrap().plugins.into_iter().map(|it| it.plugin_type).collect();
        assert_eq!(kinds, ["a", "b"]);
    }

    #[test]
    fn lists_are_bounded() {
        let many = vec![json!({"type": "a"}); LIST_PLUGINS_MAX + 1];
        let text = json!({"name": "n", "plugins": many}).to_string();
        assert_eq!(refusal(&text), "error parsing configuration list: more than 64 plugins in list");
    }

    #[test]
    fn a_plugin_gets_what_it_has_a_capability_for() {
        let text = r#"{"cniVersion":"1.0.0","name":"n","plugins":[
            {"type":"a","capabilities":{"mac":true,"ips":false},"name":"old","z":1,"runtimeConfig":{"kept":1}},
            {"type":"b","runtimeConfig":{"kept":1}}]}"#;
        let list = List::parse(text.as_bytes()).unwrap();
        let offered = json!({"mac": "m", "ips": ["i"], "portMappings": []});
        let (prev, extra) = (json!({"cniVersion": "1.0.0"}), json!({"deviceID": "0000:00:00.1"}));
        let injection =
            Injection { prev_result: Some(&prev), runtime_config: offered.as_object(), extra: extra.as_object() };
        let first = list.inject(&list.plugins[0], &injection);
        let expected = r#"{"capabilities":{"ips":false,"mac":true},"cniVersion":"1.0.0","deviceID":"0000:00:00.1","name":"n","prevResult":{"cniVersion":"1.0.0"},"runtimeConfig":{"mac":"m"},"type":"a","z":1}"#;
        assert_eq!(String::from_utf8(first.bytes).unwrap(), expected);
        assert_eq!(Value::Object(first.object), serde_json::from_str::<Value>(expected).unwrap());
        let second =
            list.inject(&list.plugins[1], &Injection { runtime_config: offered.as_object(), ..Injection::default() });
        let expected = r#"{"cniVersion":"1.0.0","name":"n","runtimeConfig":{"kept":1},"type":"b"}"#;
        assert_eq!(String::from_utf8(second.bytes).unwrap(), expected);
    }

    #[test]
    fn text_that_needs_nothing_passes_unchanged() {
        let plugin = r#"{ "type":"a",  "name": "n", "cniVersion":"1.0.0" , "big": 12345678901234567890 }"#;
        let text = format!(r#"{{"plugins":[],"cniVersion":"1.0.0","name":"n","plugins":[{plugin}]}}"#);
        let list = List::parse(text.as_bytes()).unwrap();
        assert_eq!(list.plugins[0].raw, plugin);
        assert_eq!(list.inject(&list.plugins[0], &Injection::default()).bytes, plugin.as_bytes());
    }
}
