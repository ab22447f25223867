//! ipvlan: a link that shares its lower device's hardware address, created in the pod in one message. Knows no address.

use serde::Deserialize;

use crate::check::{self, Expected};
use crate::error::Error;
use crate::layer3::Layer3;
use crate::macvlan::build_on_master;
use crate::master::{self, Before};
use crate::netlink::{NewLink, Shape};
use crate::pod::{Host, Pod};
use crate::{Built, Target};

/// The configuration as it arrives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "NetConf", default)]
pub struct Conf {
    /// The lower device. None: that of the previous result, or the one the default route leaves by.
    pub master: Option<String>,
    /// "" or "l2", "l3", "l3s".
    pub mode: Option<String>,
    /// Bytes. Zero: the lower device's. The kernel refuses what it cannot do.
    pub mtu: i64,
    /// The lower device is in the pod.
    #[serde(rename = "linkInContainer")]
    pub link_in_container: bool,
}

/// Who routes (`IPVLAN_MODE_*`, include/uapi/linux/if_link.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The pod.
    L2,
    /// The host.
    L3,
    /// The host, with connection tracking.
    L3s,
}

impl Mode {
    const fn number(self) -> u16 {
        match self {
            Self::L2 => 0,
            Self::L3 => 1,
            Self::L3s => 2,
        }
    }
}

/// The lower device, as far as the configuration and the plugins before it say.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Master {
    /// The one the default route leaves by.
    OfDefaultRoute,
    /// The only interface of a result that is not there yet.
    OfResult,
    /// The one of this name.
    Named(String),
}

/// A configuration that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    master: Master,
    mode: Mode,
    mtu: Option<u32>,
    link_in_container: bool,
}

impl Conf {
    /// Parses the configuration.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with the reference plugin's texts.
    pub fn validate(self, before: Before<'_>) -> Result<Spec, Error> {
        let mode = match self.mode.as_deref().unwrap_or_default() {
            "" | "l2" => Mode::L2,
            "l3" => Mode::L3,
            "l3s" => Mode::L3s,
            other => return Err(Error::invalid(format!("unknown ipvlan mode: \"{other}\""))),
        };
        let master = match (self.master.filter(|master| !master.is_empty()), before) {
            (Some(master), _) => Master::Named(master),
            (None, Before::Nothing) => Master::OfDefaultRoute,
            (None, Before::Awaited) => Master::OfResult,
            (None, Before::Result(names)) => only(names)?,
        };
        let mtu = u32::try_from(self.mtu.max(0))
            .map_err(|_| Error::invalid(format!("invalid MTU {}: more than any link has", self.mtu)))?;
        Ok(Spec { master, mode, mtu: Some(mtu).filter(|mtu| *mtu > 0), link_in_container: self.link_in_container })
    }
}

/// The lower device that a previous result means.
fn only(names: &[String]) -> Result<Master, Error> {
    match names {
        [only] if !only.is_empty() => Ok(Master::Named(only.clone())),
        _ => Err(Error::invalid("chained master failure. PrevResult lacks a single named interface")),
    }
}

/// A spec with what the kernel says about its lower device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    spec: Spec,
    parent: u32,
}

impl Spec {
    /// Whether the lower device is looked for in the pod.
    #[must_use]
    pub fn link_in_container(&self) -> bool {
        self.link_in_container
    }

    /// Nothing where a result names it.
    pub(crate) fn master(&self) -> Option<Option<&str>> {
        match &self.master {
            Master::Named(name) => Some(Some(name)),
            Master::OfDefaultRoute => Some(None),
            Master::OfResult => None,
        }
    }

    /// Whether its lower device is in a result that is not there yet.
    pub(crate) fn awaits_result(&self) -> bool {
        self.master == Master::OfResult
    }

    /// The result is there, with interfaces of these names.
    pub(crate) fn after(self, names: &[String]) -> Result<Self, Error> {
        let master = if self.awaits_result() { only(names)? } else { self.master };
        Ok(Self { master, ..self })
    }

    pub(crate) fn resolve(self, host: &mut Host, pod: Option<&mut Pod>) -> Result<Resolved, Error> {
        let side = crate::side_of_master(self.link_in_container, host, pod)?;
        let early = || Error::invalid("the result that names the master of this ipvlan is not there yet");
        let parent = master::find(side, self.master().ok_or_else(early)?)?.index;
        Ok(Resolved { spec: self, parent })
    }
}

impl Resolved {
    fn link<'a>(&self, target: &Target<'a>) -> NewLink<'a> {
        NewLink {
            parent: Some(self.parent),
            mtu: self.spec.mtu,
            group: target.group,
            ..NewLink::new(target.ifname, Shape::Ipvlan(self.spec.mode.number()))
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

/// CHECK of one ipvlan.
pub(crate) fn check(
    host: &mut Host,
    pod: &mut Pod,
    spec: &Spec,
    ifname: &str,
    expected: &Expected,
) -> Result<(), Error> {
    let link = check::pod_interface(pod, ifname, "ipvlan", expected)?;
    // Without a name it was whatever had the default route or was in a result, which may be another link by now.
    if let Master::Named(master) = &spec.master {
        check::on_master(host, pod, &link, Some(master), spec.link_in_container)?;
    }
    if link.mode != Some(spec.mode.number().into()) {
        return Err(Error::mismatch(format!("container ipvlan {ifname} is not in mode {:?}", spec.mode)));
    }
    check::layer3(pod, &link, expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mac::Mac;

    fn conf(text: &str) -> Conf {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_master_is_its_own_or_the_only_previous_interface() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let master = |text: &str, before: Before<'_>| conf(text).validate(before).map(|spec| spec.master);
        assert_eq!(master("{}", Before::Nothing).unwrap(), Master::OfDefaultRoute);
        assert_eq!(master("{}", Before::Result(&names(&["bond0"]))).unwrap(), Master::Named("bond0".to_owned()));
        assert_eq!(master(r#"{"master":"eth1"}"#, Before::Result(&[])).unwrap(), Master::Named("eth1".to_owned()));
        let awaiting = conf("{}").validate(Before::Awaited).unwrap();
        assert!(awaiting.awaits_result());
        assert_eq!(awaiting.clone().after(&names(&["bond0"])).unwrap().master, Master::Named("bond0".to_owned()));
        for previous in [names(&[]), names(&[""]), names(&["a", "b"])] {
            let error = master("{}", Before::Result(&previous)).unwrap_err();
            assert_eq!(error.chain(), "chained master failure. PrevResult lacks a single named interface");
            assert_eq!(awaiting.clone().after(&previous).unwrap_err().chain(), error.chain());
        }
        let error = conf(r#"{"mode":"x"}"#).validate(Before::Nothing).unwrap_err();
        assert_eq!(error.chain(), "unknown ipvlan mode: \"x\"");
    }

    #[test]
    fn one_message_carries_everything_but_a_hardware_address() {
        let spec = conf(r#"{"mode":"l3s","mtu":1400}"#).validate(Before::Nothing).unwrap();
        let resolved = Resolved { spec, parent: 4 };
        let target = Target { ifname: "net1", group: Some(9), mac: Some(Mac::new([2, 0, 0, 0, 0, 1])) };
        let bytes = crate::netlink::link::created_bytes(&resolved.link(&target));
        // ifinfomsg, then IFLA_IFNAME, IFLA_MTU, IFLA_GROUP, IFLA_LINK, IFLA_LINKINFO { kind, data { mode 2 } }.
        let expected: &[&[u8]] = &[
            &[0; 16],
            &[9, 0, 3, 0, b'n', b'e', b't', b'1', 0, 0, 0, 0],
            &[8, 0, 4, 0, 0x78, 5, 0, 0],
            &[8, 0, 27, 0, 9, 0, 0, 0],
            &[8, 0, 5, 0, 4, 0, 0, 0],
            &[28, 0, 18, 0, 11, 0, 1, 0, b'i', b'p', b'v', b'l', b'a', b'n', 0, 0],
            &[12, 0, 2, 0, 6, 0, 1, 0, 2, 0, 0, 0],
        ];
        assert_eq!(bytes, expected.concat());
    }
}
