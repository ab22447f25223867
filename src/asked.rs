//! What a call asks for beside its plugin's own keys: a MAC, addresses, ranges. A value of another type is refused in
//! Go's words: one that was passed over would be a request that nobody hears of. Pure; knows neither CNI_ARGS nor what
//! is done with it.

use ipam::RangeSection;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::cni::gojson::{self, DecodeError};

/// The MACs of a configuration; empty text is none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Macs {
    /// `args.cni.mac`.
    pub args: String,
    /// `runtimeConfig.mac`.
    pub runtime: String,
}

/// The addresses of a configuration.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// `args.cni.ips`.
    pub args: Vec<String>,
    /// `runtimeConfig.ips`.
    pub runtime: Vec<String>,
}

/// The MACs asked for. `args` is looked at only where `with_args`: not every plugin does.
///
/// # Errors
/// A value of another type.
pub fn macs(conf: &Map<String, Value>, with_args: bool) -> Result<Macs, DecodeError> {
    let runtime = gojson::decode::<OfRuntime<Mac>>(conf)?.value.runtime.mac;
    let args = if with_args { gojson::decode::<OfArgs<BridgeArgs>>(conf)?.value.args.cni.mac } else { String::new() };
    Ok(Macs { args, runtime })
}

/// The identifier of an InfiniBand interface that is asked for; `args` is looked at only where `with_args`. Of what has another type its plugin says
/// what is wrong.
pub fn guid(conf: &Map<String, Value>, with_args: bool) -> Option<String> {
    let below = |keys: &[&str]| {
        let (last, before) = keys.split_last()?;
        let object = before.iter().try_fold(conf, |object, key| gojson::field(object, key)?.as_object())?;
        gojson::field(object, last)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let by_args = || if with_args { below(&["args", "cni", "guid"]) } else { None };
    below(&["runtimeConfig", "infinibandGUID"]).or_else(by_args)
}

/// The addresses asked for of host-local.
///
/// # Errors
/// A value of another type.
pub fn host_local(conf: &Map<String, Value>) -> Result<Addresses, DecodeError> {
    let plain = |ips: Vec<Ip>| ips.into_iter().map(|ip| ip.0).collect();
    let args = gojson::decode::<OfArgs<IpamArgs<Ip>>>(conf)?.value.args.cni.ips;
    let runtime = gojson::decode::<OfRuntime<Ips<Ip>>>(conf)?.value.runtime.ips;
    Ok(Addresses { args: plain(args), runtime: plain(runtime) })
}

/// The addresses asked for of static.
///
/// # Errors
/// A value of another type.
pub fn r#static(conf: &Map<String, Value>) -> Result<Addresses, DecodeError> {
    let args = gojson::decode::<OfArgs<IpamArgs<String>>>(conf)?.value.args.cni.ips;
    let runtime = gojson::decode::<OfRuntime<Ips<String>>>(conf)?.value.runtime.ips;
    Ok(Addresses { args, runtime })
}

/// `runtimeConfig.ipRanges`.
///
/// # Errors
/// A value of another type, a text that is no address.
pub fn ranges(conf: &Map<String, Value>) -> Result<Vec<Vec<RangeSection>>, DecodeError> {
    Ok(gojson::decode::<OfRuntime<Ranges>>(conf)?.value.runtime.ip_ranges)
}

#[derive(Default, Deserialize)]
#[serde(rename = "Net", default)]
struct OfRuntime<T: Default> {
    #[serde(rename = "runtimeConfig")]
    runtime: T,
}

#[derive(Default, Deserialize)]
#[serde(rename = "Net", default)]
struct OfArgs<T: Default> {
    args: Args<T>,
}

/// Go's struct has no name here, nor has any of `runtimeConfig`.
#[derive(Default, Deserialize)]
#[serde(rename = "", default)]
struct Args<T: Default> {
    cni: T,
}

#[derive(Default, Deserialize)]
#[serde(rename = "BridgeArgs", default)]
struct BridgeArgs {
    mac: String,
}

#[derive(Default, Deserialize)]
#[serde(rename = "", default)]
struct Mac {
    mac: String,
}

#[derive(Default, Deserialize)]
#[serde(rename = "IPAMArgs", default)]
struct IpamArgs<T: Default> {
    ips: Vec<T>,
}

#[derive(Default, Deserialize)]
#[serde(rename = "", default)]
struct Ips<T: Default> {
    ips: Vec<T>,
}

#[derive(Default, Deserialize)]
#[serde(rename = "", default)]
struct Ranges {
    #[serde(rename = "ipRanges")]
    ip_ranges: Vec<Vec<RangeSection>>,
}

/// An address, unparsed.
#[derive(Default, Deserialize)]
#[serde(rename = "*ip.IP")]
struct Ip(String);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn what_is_asked_for_is_found_in_any_case() {
        let conf =
            object(json!({"ARGS": {"Cni": {"MAC": "a", "ips": ["1"]}}, "runtimeconfig": {"mac": "b", "IPs": ["2"],
            "ipRanges": [[{"subnet": "10.0.0.0/24"}]]}}));
        assert_eq!(macs(&conf, true).unwrap(), Macs { args: "a".to_owned(), runtime: "b".to_owned() });
        assert_eq!(macs(&conf, false).unwrap().args, "");
        let asked = Addresses { args: vec!["1".to_owned()], runtime: vec!["2".to_owned()] };
        assert_eq!(host_local(&conf).unwrap(), asked);
        assert_eq!(r#static(&conf).unwrap(), asked);
        assert_eq!(ranges(&conf).unwrap().len(), 1);
    }

    #[test]
    fn a_guid_is_the_runtimes_else_that_of_the_arguments() {
        let both = object(json!({"args": {"cni": {"Guid": "a"}}, "runtimeConfig": {"infinibandGUID": "b"}}));
        let args = object(json!({"args": {"cni": {"guid": "a"}}, "runtimeConfig": {"infinibandGUID": ""}}));
        let odd = object(json!({"args": {"cni": {"guid": 7}}, "runtimeConfig": []}));
        let asked = [(&both, true), (&args, true), (&args, false), (&odd, true)].map(|(conf, args)| guid(conf, args));
        assert_eq!(asked, [Some("b".to_owned()), Some("a".to_owned()), None, None]);
    }

    #[test]
    fn another_type_is_refused_in_go_s_words() {
        let conf = object(json!({"args": {"cni": {"mac": 5, "ips": "x"}}, "runtimeConfig": {"ips": [7]}}));
        let texts = [
            macs(&conf, true).unwrap_err().to_string(),
            host_local(&conf).unwrap_err().to_string(),
            r#static(&object(json!({"runtimeConfig": {"ips": [7]}}))).unwrap_err().to_string(),
        ];
        let expected = [
            "json: cannot unmarshal number into Go struct field BridgeArgs.args.cni.mac of type string",
            "json: cannot unmarshal string into Go struct field IPAMArgs.args.cni.ips of type []*ip.IP",
            "json: cannot unmarshal number into Go struct field .runtimeConfig.ips of type string",
        ];
        assert_eq!(texts, expected);
        assert!(macs(&conf, false).is_ok(), "only the bridge looks at args");
    }
}
