//! macvlan: a link with its own hardware address on a lower device, created in the pod in one message. Knows no address.

use serde::Deserialize;

use crate::check::{self, Expected};
use crate::error::Error;
use crate::layer3::{self, Detection, Layer3, Manners};
use crate::mac::Mac;
use crate::master;
use crate::netlink::{NewLink, Shape};
use crate::pod::{Host, Pod};
use crate::{Built, Interface, Made, Target};

/// The configuration as it arrives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "NetConf", default)]
pub struct Conf {
    /// The lower device. None: the one the default route leaves by.
    pub master: Option<String>,
    /// "" or "bridge", "private", "vepa", "passthru".
    pub mode: Option<String>,
    /// Bytes. Zero: the lower device's.
    pub mtu: i64,
    /// The hardware address; a requested one wins over it.
    pub mac: Option<String>,
    /// The lower device is in the pod.
    #[serde(rename = "linkInContainer")]
    pub link_in_container: bool,
    /// Packets the queue for broadcasts holds. Zero: the kernel's default.
    #[serde(rename = "bcqueuelen")]
    pub bc_queue_len: u32,
}

/// How links on one lower device see each other (`MACVLAN_MODE_*`, include/uapi/linux/if_link.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Not at all.
    Private,
    /// Through the switch outside, which sends frames back.
    Vepa,
    /// Directly.
    Bridge,
    /// The only link, which takes the lower device over.
    Passthru,
}

impl Mode {
    const fn number(self) -> u32 {
        match self {
            Self::Private => 1,
            Self::Vepa => 2,
            Self::Bridge => 4,
            Self::Passthru => 8,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Bridge => "bridge",
            Self::Passthru => "passthru",
        }
    }

    fn named(number: u32) -> &'static str {
        [Self::Private, Self::Vepa, Self::Bridge, Self::Passthru]
            .into_iter()
            .find(|mode| mode.number() == number)
            .map_or("unknown", Self::name)
    }
}

/// A configuration that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    master: Option<String>,
    mode: Mode,
    mtu: i64,
    mac: Option<Mac>,
    link_in_container: bool,
    bc_queue_len: Option<u32>,
}

impl Conf {
    /// Parses the configuration.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with the reference plugin's texts.
    pub fn validate(self) -> Result<Spec, Error> {
        let mode = match self.mode.as_deref().unwrap_or_default() {
            "" | "bridge" => Mode::Bridge,
            "private" => Mode::Private,
            "vepa" => Mode::Vepa,
            "passthru" => Mode::Passthru,
            other => return Err(Error::invalid(format!("unknown macvlan mode: \"{other}\""))),
        };
        let mac = match self.mac.filter(|mac| !mac.is_empty()) {
            Some(text) => {
                Some(text.parse().map_err(|e| Error::invalid(format!("invalid args {text} for MAC addr: {e}")))?)
            }
            None => None,
        };
        Ok(Spec {
            master: self.master.filter(|master| !master.is_empty()),
            mode,
            mtu: self.mtu,
            mac,
            link_in_container: self.link_in_container,
            bc_queue_len: Some(self.bc_queue_len).filter(|length| *length > 0),
        })
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
    /// Whether the lower device is looked for in the pod.
    #[must_use]
    pub fn link_in_container(&self) -> bool {
        self.link_in_container
    }

    pub(crate) fn master(&self) -> Option<&str> {
        self.master.as_deref()
    }

    pub(crate) fn resolve(self, host: &mut Host, pod: Option<&mut Pod>) -> Result<Resolved, Error> {
        let side = crate::side_of_master(self.link_in_container, host, pod)?;
        let master = master::find(side, self.master.as_deref())?;
        let mtu = master::mtu(self.mtu, &master)?;
        Ok(Resolved { spec: self, parent: master.index, mtu })
    }
}

impl Resolved {
    /// The creating request. A requested hardware address wins over the configuration's.
    fn link<'a>(&self, target: &Target<'a>) -> NewLink<'a> {
        let shape = Shape::Macvlan { mode: self.spec.mode.number(), bc_queue_len: self.spec.bc_queue_len };
        NewLink {
            parent: Some(self.parent),
            mtu: self.mtu,
            mac: target.mac.or(self.spec.mac),
            group: target.group,
            ..NewLink::new(target.ifname, shape)
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

/// Creates a link on a lower device and configures it: the same for macvlan, ipvlan and vlan.
pub(crate) fn build_on_master(
    host: &mut Host,
    pod: &mut Pod,
    new: &NewLink<'_>,
    in_container: bool,
    l3: Layer3,
) -> Result<Built, Error> {
    let entries = l3.entries()?;
    let link = if in_container { pod.create_inside(new)? } else { pod.create_from_host(host, new)? };
    let manners = Manners {
        detection: Detection::Optimistic,
        announce_v4: !l3.is_empty(),
        announce_v6: !l3.is_empty(),
        connected_routes: true,
        late_carrier: false,
        by_driver: false,
    };
    if let Err(error) = layer3::configure(&mut pod.side, &link, manners, &l3.addresses, &entries) {
        return Err(error.after_undo(pod.side.delete(link.index, &link.name)));
    }
    Ok(Built {
        interfaces: vec![Interface::in_pod(&link)],
        address_interface: Some(0),
        made: Some(Made::of(&link, true)),
        host_ifindex: None,
        told: Vec::new(),
        layer3: l3,
    })
}

/// CHECK of one macvlan.
pub(crate) fn check(
    host: &mut Host,
    pod: &mut Pod,
    spec: &Spec,
    ifname: &str,
    expected: &Expected,
) -> Result<(), Error> {
    let link = check::pod_interface(pod, ifname, "macvlan", expected)?;
    // Without a name it was whatever had the default route, which may be another link by now.
    if spec.master.is_some() || !expected.is_on_known_parent() {
        check::on_master(host, pod, &link, spec.master.as_deref(), spec.link_in_container)?;
    }
    let mode = Mode::named(link.mode.unwrap_or_default());
    if mode != spec.mode.name() {
        let wanted = spec.mode.name();
        return Err(Error::mismatch(format!("container macvlan mode {mode} does not match expected value: {wanted}")));
    }
    check::layer3(pod, &link, expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Result<Spec, Error> {
        serde_json::from_str::<Conf>(text).unwrap().validate()
    }

    #[test]
    fn the_requested_address_wins() {
        let conf = spec(r#"{"mac":"02:00:00:00:00:01","bcqueuelen":7}"#).unwrap();
        let resolved = Resolved { spec: conf, parent: 3, mtu: Some(1400) };
        let requested = Mac::new([2, 0, 0, 0, 0, 9]);
        let target = Target { ifname: "net1", group: Some(5), mac: Some(requested) };
        let link = resolved.link(&target);
        assert_eq!((link.mac, link.group, link.parent, link.mtu), (Some(requested), Some(5), Some(3), Some(1400)));
        let own = resolved.link(&Target { mac: None, ..target });
        assert_eq!(own.mac, Some(Mac::new([2, 0, 0, 0, 0, 1])));
        assert!(!own.up, "the kernel announces only what is configured before the link comes up");
    }

    #[test]
    fn wrong_values_have_the_reference_texts() {
        assert_eq!(spec(r#"{"mode":"x"}"#).unwrap_err().chain(), "unknown macvlan mode: \"x\"");
        assert_eq!(
            spec(r#"{"mac":"zz"}"#).unwrap_err().chain(),
            "invalid args zz for MAC addr: address zz: invalid MAC address"
        );
    }
}
