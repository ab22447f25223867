//! Which plugins need a device, and what is said where they get none. Pure.

use serde_json::{Map, Value};

use super::allot::advice;
use super::{Allotment, RESOURCE_NAME};
use crate::cni::error::{CniError, Code};
use crate::cni::gojson;
use crate::native;

/// Whether a plugin can do without a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// It makes an interface by itself: a resource only marks the nodes where it can, as KubeVirt's bridge marker does.
    Never,
    /// It has nothing else to make an interface of.
    Always,
    /// Its configuration names one, which a device of the pod takes the place of.
    Own,
    /// Its configuration names a card, of which a free one is chosen; not where a resource counts who has which.
    Card,
    /// Who wrote it knows.
    Unknown,
}

/// What each plugin of a network needs against what the network got. A line for a person where nothing fails.
///
/// # Errors
/// A plugin that needs a device gets none; it may need one, and nobody could say whether there is one.
pub fn check<'a>(
    allotment: &Allotment,
    network: &str,
    plugins: impl Iterator<Item = (&'a str, &'a Map<String, Value>)>,
) -> Result<Option<String>, CniError> {
    if allotment.device().is_some() {
        return Ok(None);
    }
    let mut warning = None;
    for (plugin, conf) in plugins {
        let need = need(plugin, conf);
        match (need, allotment) {
            (Need::Never, _) | (Need::Unknown | Need::Own | Need::Card, Allotment::Unasked) => {}
            (Need::Own, Allotment::Lacking { unknown: None, .. }) => {}
            (Need::Always | Need::Card, Allotment::Lacking { resource, unknown: None }) => {
                let msg = format!("{plugin} needs a device, and {}", advice(resource));
                return Err(CniError::new(Code::InvalidConfig, msg));
            }
            (_, Allotment::Lacking { resource, unknown: Some(why) }) => {
                let what = if need == Need::Unknown { "may need" } else { "needs" };
                let msg = format!("{plugin} {what} a device of resource {resource}: {}", native::chain(why));
                return Err(CniError::new(Code::TryAgainLater, msg));
            }
            (Need::Unknown, Allotment::Lacking { resource, unknown: None }) => {
                warning.get_or_insert_with(|| {
                    format!("network {network:?}: {plugin} gets no device: {}", advice(resource))
                });
            }
            // It says in its own words what its configuration lacks.
            (Need::Always, _) if plugin == "host-device" => {}
            (Need::Always, _) => {
                let msg = format!(
                    "{plugin} needs a device: the definition names no resource (annotation {RESOURCE_NAME}), and its \
                     configuration no deviceID, or pf of sriov"
                );
                return Err(CniError::new(Code::InvalidConfig, msg));
            }
            (Need::Unknown | Need::Own | Need::Card, _) => {}
        }
    }
    if let Allotment::Lacking { resource, unknown: Some(why) } = allotment {
        let why = native::chain(why);
        warning.get_or_insert_with(|| {
            format!("network {network:?}: which device of {resource} the pod has is not known: {why}")
        });
    }
    Ok(warning)
}

fn need(plugin: &str, conf: &Map<String, Value>) -> Need {
    let has = |key: &str| gojson::field(conf, key).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    match plugin {
        "host-device" if ["device", "hwaddr", "kernelpath", "pciBusID"].into_iter().any(has) => Need::Own,
        "sriov" | "ib-sriov" if has("deviceID") => Need::Own,
        // A name or a list of names; whatever else it is the plugin refuses.
        "sriov" if gojson::field(conf, "pf").is_some_and(|pf| !pf.is_null() && pf != "") => Need::Card,
        "host-device" | "sriov" | "ib-sriov" => Need::Always,
        other if native::builds(other) => Need::Never,
        _ => Need::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::journal::Allotted;
    use crate::sources::SourceError;

    fn checked(allotment: &Allotment, conf: &Value) -> Result<Option<String>, CniError> {
        let conf = conf.as_object().unwrap();
        check(allotment, "n", [(conf["type"].as_str().unwrap(), conf)].into_iter())
    }

    #[test]
    fn who_needs_a_device_and_gets_none_is_refused() {
        let lacking = Allotment::Lacking { resource: "a/vf".into(), unknown: None };
        for plugin in ["host-device", "sriov", "ib-sriov"] {
            let error = checked(&lacking, &json!({"type": plugin})).unwrap_err();
            assert!(
                error.msg.starts_with(&format!("{plugin} needs a device, and no device of resource a/vf")),
                "{}",
                error.msg
            );
            let given = Allotment::Allocated(Allotted { resource: "a/vf".into(), id: "v".into() });
            assert_eq!(checked(&given, &json!({"type": plugin})).unwrap(), None);
        }
        assert!(checked(&Allotment::Unasked, &json!({"type": "sriov"})).unwrap_err().msg.contains("names no resource"));
        for card in [json!({"type": "sriov", "pf": "eth0"}), json!({"type": "sriov", "pf": ["eth0", "eth1"]})] {
            assert_eq!(checked(&Allotment::Unasked, &card).unwrap(), None, "one is chosen");
            assert!(checked(&lacking, &card).unwrap_err().msg.contains("no device of resource a/vf"));
        }
        assert!(checked(&Allotment::Unasked, &json!({"type": "sriov", "pf": ""})).is_err());
        for own in [json!({"type": "sriov", "deviceID": "x"}), json!({"type": "host-device", "device": "eth7"})] {
            assert_eq!(checked(&lacking, &own).unwrap(), None);
            assert_eq!(checked(&Allotment::Unasked, &own).unwrap(), None);
        }
    }

    #[test]
    fn a_marker_works_without_a_device_and_a_strange_plugin_with_a_warning() {
        let lacking = Allotment::Lacking { resource: "bridge.network.kubevirt.io/br1".into(), unknown: None };
        for plugin in ["bridge", "macvlan", "tuning"] {
            assert_eq!(checked(&lacking, &json!({"type": plugin})).unwrap(), None);
        }
        assert!(checked(&lacking, &json!({"type": "ovs"})).unwrap().unwrap().contains("ovs gets no device"));
        assert_eq!(checked(&Allotment::Unasked, &json!({"type": "ovs"})).unwrap(), None);
    }

    #[test]
    fn whose_devices_nobody_knows_tries_again_unless_it_needs_none() {
        let why = SourceError::Api { act: "asking the kubelet".into(), why: "it hangs".into(), transient: true };
        let unknown = Allotment::Lacking { resource: "a/vf".into(), unknown: Some(why) };
        for conf in [json!({"type": "sriov"}), json!({"type": "ovs"}), json!({"type": "sriov", "deviceID": "x"})] {
            let error = checked(&unknown, &conf).unwrap_err();
            assert!(error.code == Code::TryAgainLater && error.msg.contains("it hangs"), "{}", error.msg);
        }
        assert!(checked(&unknown, &json!({"type": "bridge"})).unwrap().unwrap().contains("it hangs"));
    }
}
