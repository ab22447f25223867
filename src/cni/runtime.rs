//! The capability values of `runtimeConfig` (CNI conventions, "Dynamic Plugin specific fields"), typed where plexus acts
//! on them and kept verbatim where it does not. Knows no port map and no rate limit, only how they are written.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::gojson::{self, DecodeError};

/// `runtimeConfig`. `None`: not given, or `null`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuntimeConfig {
    /// `portMappings`.
    pub port_mappings: Option<Vec<PortMapping>>,
    /// `bandwidth`.
    pub bandwidth: Option<Bandwidth>,
    /// `ips`: addresses, with or without prefix, unparsed.
    pub ips: Option<Vec<String>>,
    /// `mac`, unparsed.
    pub mac: Option<String>,
    /// `infinibandGUID`, unparsed.
    pub infiniband_guid: Option<String>,
    /// `deviceID`: a PCI address or another name of a device.
    pub device_id: Option<String>,
    /// `ipRanges`: sets of ranges for host-local.
    pub ip_ranges: Option<Vec<Vec<IpRange>>>,
    /// `CNIDeviceInfoFile`: where a device's description is (device-info spec).
    pub device_info_file: Option<String>,
    /// Every other key, as given.
    pub others: Map<String, Value>,
}

/// One port of the host that leads into the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename = "PortMapEntry", rename_all = "camelCase", default)]
pub struct PortMapping {
    /// The host's port.
    pub host_port: i64,
    /// The sandbox's port.
    pub container_port: i64,
    /// `tcp`, `udp` or `sctp`; empty is tcp.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// The host's address; empty is every address.
    #[serde(rename = "hostIP", skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

/// Rates in bits per second, bursts in bits; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename = "BandwidthEntry", rename_all = "camelCase", default)]
pub struct Bandwidth {
    /// Into the sandbox.
    pub ingress_rate: u64,
    /// Into the sandbox.
    pub ingress_burst: u64,
    /// Out of the sandbox.
    pub egress_rate: u64,
    /// Out of the sandbox.
    pub egress_burst: u64,
}

/// One range of addresses, unparsed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename = "allocator.Range", rename_all = "camelCase", default)]
pub struct IpRange {
    /// The subnet.
    pub subnet: String,
    /// The first address; empty is the subnet's first.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub range_start: String,
    /// The last address; empty is the subnet's last.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub range_end: String,
    /// The gateway; empty is the subnet's first address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway: String,
}

/// Go's struct of the reference plugins, all keys in one.
#[derive(Deserialize, Default)]
#[serde(rename = "RuntimeConfig", default)]
struct Known {
    #[serde(rename = "portMappings")]
    port_mappings: Option<Vec<PortMapping>>,
    bandwidth: Option<Bandwidth>,
    ips: Option<Vec<String>>,
    mac: Option<String>,
    #[serde(rename = "infinibandGUID")]
    infiniband_guid: Option<String>,
    #[serde(rename = "deviceID")]
    device_id: Option<String>,
    #[serde(rename = "ipRanges")]
    ip_ranges: Option<Vec<Vec<IpRange>>>,
    #[serde(rename = "CNIDeviceInfoFile")]
    device_info_file: Option<String>,
}

/// The keys of `Known`.
const KEYS: [&str; 8] =
    ["portMappings", "bandwidth", "ips", "mac", "infinibandGUID", "deviceID", "ipRanges", "CNIDeviceInfoFile"];

impl RuntimeConfig {
    /// Reads the object.
    ///
    /// # Errors
    /// The type error of a known key.
    pub fn parse(object: &Map<String, Value>) -> Result<RuntimeConfig, DecodeError> {
        let known: Known = gojson::decode(object)?.value;
        let other = |(key, _): &(&String, &Value)| !KEYS.iter().any(|name| gojson::folds_to(key, name));
        Ok(RuntimeConfig {
            port_mappings: known.port_mappings,
            bandwidth: known.bandwidth,
            ips: known.ips,
            mac: known.mac,
            infiniband_guid: known.infiniband_guid,
            device_id: known.device_id,
            ip_ranges: known.ip_ranges,
            device_info_file: known.device_info_file,
            others: object.iter().filter(other).map(|(key, value)| (key.clone(), value.clone())).collect(),
        })
    }

    /// The object again, with the keys that are given.
    pub fn to_object(&self) -> Map<String, Value> {
        let mut object = self.others.clone();
        let known = [
            ("portMappings", value_of(&self.port_mappings)),
            ("bandwidth", value_of(&self.bandwidth)),
            ("ips", value_of(&self.ips)),
            ("mac", value_of(&self.mac)),
            ("infinibandGUID", value_of(&self.infiniband_guid)),
            ("deviceID", value_of(&self.device_id)),
            ("ipRanges", value_of(&self.ip_ranges)),
            ("CNIDeviceInfoFile", value_of(&self.device_info_file)),
        ];
        object.extend(known.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?))));
        object
    }
}

fn value_of<T: Serialize>(value: &Option<T>) -> Option<Value> {
    // These types hold strings and numbers only: a value of theirs always has a JSON form.
    value.as_ref().and_then(|value| serde_json::to_value(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_read_is_written_again() {
        let value = json!({
            "portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": "10.0.0.1"}],
            "bandwidth": {"ingressRate": 1, "ingressBurst": 2, "egressRate": 3, "egressBurst": 4},
            "ips": ["10.0.0.9/24"],
            "mac": "02:00:00:00:00:01",
            "infinibandGUID": "c2:b0:57:49:47:f1:00:01",
            "deviceID": "0000:01:00.0",
            "ipRanges": [[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.5", "rangeEnd": "10.0.0.9", "gateway": "10.0.0.1"}]],
            "CNIDeviceInfoFile": "/run/x",
            "dns": {"servers": ["10.0.0.53"]},
            "io.kubernetes.cri.pod-annotations": {"a": "b"},
        });
        let config = RuntimeConfig::parse(value.as_object().unwrap()).unwrap();
        assert_eq!(config.port_mappings.as_ref().unwrap()[0].host_port, 80);
        assert_eq!(config.others.len(), 2);
        assert_eq!(Value::Object(config.to_object()), value);
    }

    #[test]
    fn null_is_not_given_and_types_are_checked() {
        let value = json!({"mac": null, "IPS": []});
        let config = RuntimeConfig::parse(value.as_object().unwrap()).unwrap();
        assert_eq!((config.mac, config.ips, config.others.len()), (None, Some(vec![]), 0));
        let value = json!({"portMappings": [{"hostPort": "80"}]});
        let error = RuntimeConfig::parse(value.as_object().unwrap()).unwrap_err().to_string();
        let expected =
            "json: cannot unmarshal string into Go struct field PortMapEntry.portMappings.hostPort of type int";
        assert_eq!(error, expected);
    }
}
