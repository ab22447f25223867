//! vlan: a tagged VLAN (IEEE 802.1Q) of a lower device, created in the pod in one message. Knows no address.

use serde::Deserialize;

use crate::check::{self, Expected};
use crate::error::Error;
use crate::layer3::Layer3;
use crate::macvlan::build_on_master;
use crate::master;
use crate::netlink::{NewLink, Shape};
use crate::pod::{Host, Pod};
use crate::{Built, Target};

/// The largest VLAN id (IEEE 802.1Q: 4095 is reserved).
const VLAN_ID_MAX: u16 = 4094;

/// The configuration as it arrives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "NetConf", default)]
pub struct Conf {
    /// The lower device.
    pub master: Option<String>,
    /// The VLAN's id. 0 tags frames with a priority only.
    #[serde(rename = "vlanId")]
    pub vlan_id: i64,
    /// Bytes. Zero: the lower device's.
    pub mtu: i64,
    /// The lower device is in the pod.
    #[serde(rename = "linkInContainer")]
    pub link_in_container: bool,
}

/// A configuration that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    master: String,
    vlan_id: u16,
    mtu: i64,
    link_in_container: bool,
}

impl Conf {
    /// Parses the configuration.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with the reference plugin's texts.
    pub fn validate(self) -> Result<Spec, Error> {
        let master = self.master.filter(|master| !master.is_empty()).ok_or_else(|| {
            Error::invalid("\"master\" field is required. It specifies the host interface name to create the VLAN for")
        })?;
        let vlan_id = u16::try_from(self.vlan_id).ok().filter(|id| *id <= VLAN_ID_MAX).ok_or_else(|| {
            Error::invalid(format!("invalid VLAN ID {} (must be between 0 and 4095 inclusive)", self.vlan_id))
        })?;
        Ok(Spec { master, vlan_id, mtu: self.mtu, link_in_container: self.link_in_container })
    }
}

/// A spec with what the kernel says about its lower device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    spec: Spec,
    parent: u32,
    mtu: Option<u32>,
}

impl Spec {
    pub(crate) fn link_in_container(&self) -> bool {
        self.link_in_container
    }

    pub(crate) fn master(&self) -> &str {
        &self.master
    }

    pub(crate) fn resolve(self, host: &mut Host, pod: Option<&mut Pod>) -> Result<Resolved, Error> {
        let side = crate::side_of_master(self.link_in_container, host, pod)?;
        let master = master::find(side, Some(&self.master))?;
        let mtu = master::mtu(self.mtu, &master)?;
        Ok(Resolved { spec: self, parent: master.index, mtu })
    }
}

impl Resolved {
    fn link<'a>(&self, target: &Target<'a>) -> NewLink<'a> {
        NewLink {
            parent: Some(self.parent),
            mtu: self.mtu,
            group: target.group,
            ..NewLink::new(target.ifname, Shape::Vlan(self.spec.vlan_id))
        }
    }

    pub(crate) fn build(
        &self,
        host: &mut Host,
        pod: &mut Pod,
        target: &Target<'_>,
        l3: Layer3,
    ) -> Result<Built, Error> {
        build_on_master(host, pod, &self.link(target), self.spec.link_in_container, l3)
    }
}

/// CHECK of one vlan.
pub(crate) fn check(
    host: &mut Host,
    pod: &mut Pod,
    spec: &Spec,
    ifname: &str,
    expected: &Expected,
) -> Result<(), Error> {
    let link = check::pod_interface(pod, ifname, "vlan", expected)?;
    check::on_master(host, pod, &link, Some(&spec.master), spec.link_in_container)?;
    let found = link.mode.unwrap_or_default();
    if found != u32::from(spec.vlan_id) {
        let wanted = spec.vlan_id;
        return Err(Error::mismatch(format!("container interface {ifname} has VLAN ID {found}, expected {wanted}")));
    }
    if spec.mtu != 0 && spec.mtu != i64::from(link.mtu) {
        let (found, wanted) = (link.mtu, spec.mtu);
        return Err(Error::mismatch(format!("container interface {ifname} has MTU {found}, expected {wanted}")));
    }
    check::layer3(pod, &link, expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mac::Mac;

    fn spec(text: &str) -> Result<Spec, Error> {
        serde_json::from_str::<Conf>(text).unwrap().validate()
    }

    #[test]
    fn wrong_values_have_the_reference_texts() {
        const MASTER: &str =
            "\"master\" field is required. It specifies the host interface name to create the VLAN for";
        assert_eq!(spec(r#"{"vlanId":5000}"#).unwrap_err().chain(), MASTER);
        assert_eq!(spec(r#"{"master":""}"#).unwrap_err().chain(), MASTER);
        for id in ["-1", "4095", "65536"] {
            assert_eq!(
                spec(&format!(r#"{{"master":"m","vlanId":{id}}}"#)).unwrap_err().chain(),
                format!("invalid VLAN ID {id} (must be between 0 and 4095 inclusive)")
            );
        }
    }

    #[test]
    fn one_message_carries_everything_but_a_hardware_address() {
        let spec = spec(r#"{"master":"m","vlanId":4094,"mtu":1400}"#).unwrap();
        let resolved = Resolved { spec, parent: 4, mtu: Some(1400) };
        let target = Target { ifname: "net1", group: Some(9), mac: Some(Mac::new([2, 0, 0, 0, 0, 1])) };
        let bytes = crate::netlink::link::created_bytes(&resolved.link(&target));
        // ifinfomsg, then IFLA_IFNAME, IFLA_MTU, IFLA_GROUP, IFLA_LINK, IFLA_LINKINFO { kind, data { id } }.
        let expected: &[&[u8]] = &[
            &[0; 16],
            &[9, 0, 3, 0, b'n', b'e', b't', b'1', 0, 0, 0, 0],
            &[8, 0, 4, 0, 0x78, 5, 0, 0],
            &[8, 0, 27, 0, 9, 0, 0, 0],
            &[8, 0, 5, 0, 4, 0, 0, 0],
            &[28, 0, 18, 0, 9, 0, 1, 0, b'v', b'l', b'a', b'n', 0, 0, 0, 0],
            &[12, 0, 2, 0, 6, 0, 1, 0, 0xfe, 0x0f, 0, 0],
        ];
        assert_eq!(bytes, expected.concat());
    }
}
