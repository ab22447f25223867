//! One file per kind of interface: builds it, observes it, removes it. Knows no CNI JSON lists, no results and no Kubernetes.
//!
//! A kind is a file and a line in each table here. The path of one attachment: `Conf` (as it arrives) is validated into a
//! [`Spec`] (nothing looked up), resolved into a [`Resolved`] (the kernel was asked, nothing changed), and built by [`build`],
//! which undoes everything if a step fails.

pub mod bridge;
mod busy;
pub mod chained;
mod check;
mod default_route;
pub mod dummy;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod guid;
pub mod host_device;
pub mod ipvlan;
mod layer3;
pub mod loopback;
mod mac;
pub mod macvlan;
mod master;
mod monitor;
mod netlink;
mod netns;
pub mod nft;
mod notice;
mod pod;
mod probe;
pub mod ptp;
mod removal;
pub mod sriov;
mod sysctl;
pub mod sysfs;
pub mod tap;
mod veth;
pub mod vlan;

pub use check::Expected;
pub use default_route::{DefaultRoute, Family, Via, default_route_move, default_routes, uplinks};
pub use error::{Error, ErrorKind};
pub use guid::{Guid, GuidParseError};
pub use layer3::{Address, Layer3, Route};
pub use mac::{Mac, MacParseError};
pub use master::Before;
pub use monitor::{LinkChange, LinkMonitor, Told};
pub use netlink::{Failure, Refusal};
pub use netns::NetNs;
pub use notice::CardNotice;
pub use pod::{Entering, Host, Pod, cookie_of};
pub use probe::{filters_vlans, ready, supports};
pub use removal::{Deleter, Deletion, Doomed, Removed, Spawn, remove, remove_now};

use netlink::link::Link;
use pod::Side;
use serde::{Deserialize, Serialize};

/// A kind of interface this crate builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `lo`, set up.
    Loopback,
    /// A port of a bridge.
    Bridge,
    /// A pair between host and pod.
    Ptp,
    /// A link with its own hardware address on a lower device.
    Macvlan,
    /// A link that shares its lower device's hardware address.
    Ipvlan,
    /// A tagged VLAN of a lower device (IEEE 802.1Q).
    Vlan,
    /// A link that leads nowhere: addresses of the pod alone.
    Dummy,
    /// A device of the host, moved.
    HostDevice,
    /// A virtual function of a card, moved.
    Sriov,
    /// A link for a program of the pod.
    Tap,
}

/// Whether a kind needs address management (reference plugins' behaviour).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpamRule {
    /// It has its addresses already.
    Never,
    /// Without it, the interface is layer 2 only.
    Optional,
    /// Without it, nothing is built.
    Required,
    /// It may be missing only if the previous result has addresses.
    OptionalWithPrevResult,
}

/// Where a requested hardware address is taken from, the last one winning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacRule {
    /// Nowhere: the kernel chooses.
    Never,
    /// `MAC` of `CNI_ARGS`, then `runtimeConfig.mac`.
    ArgsThenRuntime,
    /// `MAC` of `CNI_ARGS`, then `args.cni.mac`, then `runtimeConfig.mac`.
    ArgsThenConfArgsThenRuntime,
}

/// Which `dns` the result has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsRule {
    /// None of its own.
    Never,
    /// The configuration's if any of its lists is there (even if empty), else the address management's.
    ConfIfSet,
    /// The configuration's, always.
    Conf,
    /// The configuration's, if there is address management.
    ConfWithIpam,
}

/// Whether STATUS is asked of the address management.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusRule {
    /// Not at all.
    Never,
    /// If there is one.
    IfIpam,
    /// Always: without one STATUS fails.
    Always,
}

/// What is true of a kind whatever its configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Address management.
    pub ipam: IpamRule,
    /// Requested hardware address.
    pub mac: MacRule,
    /// `dns` of the result.
    pub dns: DnsRule,
    /// STATUS.
    pub status: StatusRule,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Loopback,
        Self::Bridge,
        Self::Ptp,
        Self::Macvlan,
        Self::Ipvlan,
        Self::Vlan,
        Self::Dummy,
        Self::HostDevice,
        Self::Sriov,
        Self::Tap,
    ];

    /// The kind of this `type`.
    #[must_use]
    pub fn of(plugin_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == plugin_type)
    }

    /// The `type` in a configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Bridge => "bridge",
            Self::Ptp => "ptp",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Vlan => "vlan",
            Self::Dummy => "dummy",
            Self::HostDevice => "host-device",
            Self::Sriov => "sriov",
            Self::Tap => "tap",
        }
    }

    /// Whether it is a device of the host, which goes back to it, and is never deleted.
    #[must_use]
    pub const fn is_moved(self) -> bool {
        matches!(self, Self::HostDevice | Self::Sriov)
    }

    /// What is true of the kind whatever its configuration says.
    #[must_use]
    pub const fn rules(self) -> Rules {
        let (ipam, mac, dns, status) = match self {
            Self::Loopback => (IpamRule::Never, MacRule::Never, DnsRule::Never, StatusRule::Never),
            Self::Bridge => {
                (IpamRule::Optional, MacRule::ArgsThenConfArgsThenRuntime, DnsRule::ConfIfSet, StatusRule::IfIpam)
            }
            Self::Ptp => (IpamRule::Required, MacRule::Never, DnsRule::ConfIfSet, StatusRule::Always),
            Self::Macvlan => (IpamRule::Optional, MacRule::ArgsThenRuntime, DnsRule::Conf, StatusRule::IfIpam),
            Self::Ipvlan => (IpamRule::OptionalWithPrevResult, MacRule::Never, DnsRule::Conf, StatusRule::IfIpam),
            Self::Vlan => (IpamRule::Required, MacRule::Never, DnsRule::Conf, StatusRule::Always),
            Self::Dummy => (IpamRule::Required, MacRule::Never, DnsRule::Never, StatusRule::Always),
            Self::HostDevice => (IpamRule::Optional, MacRule::Never, DnsRule::ConfWithIpam, StatusRule::IfIpam),
            Self::Sriov => (IpamRule::Optional, MacRule::ArgsThenRuntime, DnsRule::Never, StatusRule::IfIpam),
            Self::Tap => (IpamRule::Optional, MacRule::ArgsThenRuntime, DnsRule::Conf, StatusRule::IfIpam),
        };
        Rules { ipam, mac, dns, status }
    }
}

/// An interface as a result lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address, "" if it has none.
    pub mac: String,
    /// Whether it is in the pod; the others are on the host.
    pub in_pod: bool,
    /// Its MTU, where the reference plugin reports it.
    pub mtu: Option<u32>,
}

impl Interface {
    pub(crate) fn in_pod(link: &Link) -> Self {
        Self { name: link.name.clone(), mac: link.mac_text(), in_pod: true, mtu: None }
    }
}

/// What is asked for beside the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The name of the pod's interface.
    pub ifname: &'a str,
    /// The device group of the pod's interface: all of one group can be removed at once.
    pub group: Option<u32>,
    /// The requested hardware address. Wins over the configuration's.
    pub mac: Option<Mac>,
}

/// The pod's interface as it was when it was built: what a result does not say of it, and CHECK compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Its index in the pod.
    pub ifindex: u32,
    /// The index of its lower device, or of a veth's other end, in the namespace that is in. `None`: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it was set up.
    pub up: bool,
}

impl Made {
    /// What becomes of a link that was just created or moved.
    const fn of(link: &Link, up: bool) -> Self {
        Self { ifindex: link.index, parent: link.parent, mtu: link.mtu, up }
    }
}

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// In the order of the reference plugin's result.
    pub interfaces: Vec<Interface>,
    /// Which of them has the addresses.
    pub address_interface: Option<usize>,
    /// The pod's interface. `None`: a device that the kernel knows no interface of.
    pub made: Option<Made>,
    /// The host's end of a pair.
    pub host_ifindex: Option<u32>,
    /// Addresses and routes with what the kind filled in.
    pub layer3: Layer3,
    /// What nobody has to act on, but should know.
    pub told: Vec<String>,
}

/// A link of the pod, as far as callers decide by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSummary {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// The kernel's kind: "veth", "macvlan"; empty for a physical device or `lo`.
    pub kind: String,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its device group.
    pub group: u32,
    /// Whether it is set up.
    pub up: bool,
}

/// The links of the pod.
///
/// # Errors
/// [`ErrorKind::Io`], [`ErrorKind::Refused`] or [`ErrorKind::Timeout`] if the kernel cannot be asked.
pub fn links(pod: &mut Pod) -> Result<Vec<LinkSummary>, Error> {
    let summary = |link: Link| LinkSummary {
        name: link.name,
        index: link.index,
        kind: link.kind,
        mac: link.mac,
        mtu: link.mtu,
        group: link.group,
        up: link.up,
    };
    Ok(pod.side.links()?.into_iter().map(summary).collect())
}

/// The host's end of a pair whose other end is in another namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEnd {
    /// Its name.
    pub name: String,
    /// The index of the bridge that it is a port of.
    pub controller: Option<u32>,
}

/// All such ends.
///
/// # Errors
/// As [`links`].
pub fn host_ends(host: &mut Host) -> Result<Vec<HostEnd>, Error> {
    let is_end = |link: &Link| link.kind == "veth" && link.parent_elsewhere;
    let ends = host.side.links()?.into_iter().filter(is_end);
    Ok(ends.map(|link| HostEnd { name: link.name, controller: link.controller }).collect())
}

/// The index of the host's link of this name, if there is one.
///
/// # Errors
/// As [`links`].
pub fn host_index(host: &mut Host, name: &str) -> Result<Option<u32>, Error> {
    Ok(host.side.link(name)?.map(|link| link.index))
}

/// The addresses of the pod's link of this name; none if there is no such link.
///
/// # Errors
/// As [`links`].
pub fn addresses(pod: &mut Pod, name: &str) -> Result<Option<Vec<std::net::IpAddr>>, Error> {
    let Some(link) = pod.side.link(name)? else { return Ok(None) };
    Ok(Some(pod.side.addresses(&link)?.into_iter().map(|present| present.address.ip()).collect()))
}

/// Whether a name is taken in the pod.
///
/// # Errors
/// [`ErrorKind::Io`], [`ErrorKind::Refused`] or [`ErrorKind::Timeout`] if the kernel cannot be asked.
pub fn exists(pod: &mut Pod, name: &str) -> Result<bool, Error> {
    Ok(pod.side.link(name)?.is_some())
}

/// Which of these names are taken in the pod, all asked for at once.
///
/// # Errors
/// As [`exists`].
pub fn taken<'n>(pod: &mut Pod, names: &[&'n str]) -> Result<Vec<&'n str>, Error> {
    pod.side.taken(names)
}

/// A validated configuration of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// `lo`.
    Loopback,
    /// A port of a bridge.
    Bridge(bridge::Spec),
    /// A pair between host and pod.
    Ptp(ptp::Spec),
    /// macvlan.
    Macvlan(macvlan::Spec),
    /// ipvlan.
    Ipvlan(ipvlan::Spec),
    /// vlan.
    Vlan(vlan::Spec),
    /// dummy.
    Dummy,
    /// A device of the host.
    HostDevice(host_device::Spec),
    /// A virtual function.
    Sriov(Box<sriov::Spec>),
    /// tap.
    Tap(tap::Spec),
}

/// A spec with what the kernel says about its surroundings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// `lo`.
    Loopback,
    /// A port of a bridge.
    Bridge(Box<bridge::Resolved>),
    /// A pair between host and pod.
    Ptp(ptp::Spec),
    /// macvlan.
    Macvlan(macvlan::Resolved),
    /// ipvlan.
    Ipvlan(ipvlan::Resolved),
    /// vlan.
    Vlan(vlan::Resolved),
    /// dummy.
    Dummy,
    /// A device of the host.
    HostDevice(Box<host_device::Resolved>),
    /// A virtual function.
    Sriov(Box<sriov::Resolved>),
    /// tap.
    Tap(tap::Resolved),
}

impl Spec {
    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Loopback => Kind::Loopback,
            Self::Bridge(_) => Kind::Bridge,
            Self::Ptp(_) => Kind::Ptp,
            Self::Macvlan(_) => Kind::Macvlan,
            Self::Ipvlan(_) => Kind::Ipvlan,
            Self::Vlan(_) => Kind::Vlan,
            Self::Dummy => Kind::Dummy,
            Self::HostDevice(_) => Kind::HostDevice,
            Self::Sriov(_) => Kind::Sriov,
            Self::Tap(_) => Kind::Tap,
        }
    }

    /// The lower device that must be on the host: `Some(None)` is that of the default route. A bridge is made where it is missing.
    fn master(&self) -> Option<Option<&str>> {
        match self {
            Self::Macvlan(spec) if !spec.link_in_container() => Some(spec.master()),
            Self::Ipvlan(spec) if !spec.link_in_container() => spec.master(),
            Self::Vlan(spec) if !spec.link_in_container() => Some(Some(spec.master())),
            _ => None,
        }
    }

    /// Whether it can be resolved only after a plugin before it in the chain: the result of that names its lower device.
    #[must_use]
    pub fn awaits_result(&self) -> bool {
        matches!(self, Self::Ipvlan(spec) if spec.awaits_result())
    }

    /// The result is there, with interfaces of these names.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if they do not say what the spec awaits.
    pub fn after(self, names: &[String]) -> Result<Self, Error> {
        match self {
            Self::Ipvlan(spec) => spec.after(names).map(Self::Ipvlan),
            other => Ok(other),
        }
    }

    /// Asks the kernel what the spec leaves open: lower devices, default routes, limits. Changes nothing. `pod` is needed where
    /// the lower device is in the pod.
    ///
    /// # Errors
    /// [`ErrorKind::LinkMissing`] or [`ErrorKind::Invalid`] with the reference plugins' texts; those of the kernel.
    pub fn resolve(self, host: &mut Host, pod: Option<&mut Pod>) -> Result<Resolved, Error> {
        match self {
            Self::Loopback => Ok(Resolved::Loopback),
            Self::Bridge(spec) => spec.resolve(host).map(|port| Resolved::Bridge(Box::new(port))),
            Self::Ptp(spec) => Ok(Resolved::Ptp(spec)),
            Self::Macvlan(spec) => spec.resolve(host, pod).map(Resolved::Macvlan),
            Self::Ipvlan(spec) => spec.resolve(host, pod).map(Resolved::Ipvlan),
            Self::Vlan(spec) => spec.resolve(host, pod).map(Resolved::Vlan),
            Self::Dummy => Ok(Resolved::Dummy),
            Self::HostDevice(spec) => spec.resolve(host).map(|device| Resolved::HostDevice(Box::new(device))),
            Self::Sriov(spec) => spec.resolve(host).map(|function| Resolved::Sriov(Box::new(function))),
            Self::Tap(spec) => spec.resolve(pod).map(Resolved::Tap),
        }
    }

    /// Fills in the gateways and routes that the kind's rules add. [`build`] does it too; doing it twice changes nothing.
    pub fn complete(&self, l3: &mut Layer3) {
        if let Self::Bridge(spec) = self {
            spec.complete(l3);
        }
    }
}

/// Builds the interface in the pod. A failure undoes everything that was done for this pod; if the undo fails too, the error
/// says so. A bridge that was missing stays, like the reference plugin's: others may use it already.
///
/// # Errors
/// [`ErrorKind::NameTaken`] if the name is taken in the pod; [`ErrorKind::Invalid`] for addresses the kind cannot have;
/// [`ErrorKind::PortState`]; those of the kernel.
pub fn build(
    host: &mut Host,
    pod: &mut Pod,
    resolved: &Resolved,
    target: &Target<'_>,
    l3: Layer3,
) -> Result<Built, Error> {
    match resolved {
        Resolved::Loopback => loopback::build(pod),
        Resolved::Bridge(resolved) => resolved.build(host, pod, target, l3),
        Resolved::Ptp(spec) => spec.build(host, pod, target, l3),
        Resolved::Macvlan(resolved) => resolved.build(host, pod, target, l3),
        Resolved::Ipvlan(resolved) => resolved.build(host, pod, target, l3),
        Resolved::Vlan(resolved) => resolved.build(host, pod, target, l3),
        Resolved::Dummy => dummy::build(pod, target, l3),
        Resolved::HostDevice(resolved) => resolved.build(host, pod, target, l3),
        Resolved::Sriov(resolved) => resolved.build(host, pod, target, l3),
        Resolved::Tap(resolved) => resolved.build(pod, target, l3),
    }
}

impl Resolved {
    /// Whether it is of a device of the host, which [`Resolved::undo`] brings back.
    #[must_use]
    pub const fn is_moved(&self) -> bool {
        matches!(self, Self::HostDevice(_) | Self::Sriov(_))
    }

    /// Whether what a record will say of a device of the host is still so. For whoever has made sure that nobody else works on it.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if it is not; those of [`Spec::resolve`].
    pub fn check_unchanged(&self, host: &mut Host) -> Result<(), Error> {
        match self {
            Self::Sriov(resolved) => resolved.check_unchanged(host),
            _ => Ok(()),
        }
    }

    /// Brings a device of the host back as it was before [`build`]. What was made in the pod is not touched.
    ///
    /// # Errors
    /// Those of [`host_device::give_back`] and [`sriov::give_back`].
    pub fn undo(&self, host: &mut Host, pod: &mut Pod, ifname: &str) -> Result<(), Error> {
        match self {
            Self::HostDevice(resolved) => resolved.undo(host, pod, ifname),
            Self::Sriov(resolved) => resolved.undo(host, pod, ifname),
            _ => Ok(()),
        }
    }
}

/// CHECK: whether the kernel's state is still the expected one. Changes nothing.
///
/// # Errors
/// [`ErrorKind::Mismatch`] with what differs, [`ErrorKind::Duplicate`] if another host has an address,
/// [`ErrorKind::LinkMissing`] if the lower device is gone; those of the kernel.
pub fn check(host: &mut Host, pod: &mut Pod, spec: &Spec, ifname: &str, expected: &Expected) -> Result<(), Error> {
    match spec {
        Spec::Loopback => loopback::check(pod),
        Spec::Bridge(spec) => bridge::check(host, pod, spec, ifname, expected),
        Spec::Ptp(_) => ptp::check(pod, ifname, expected),
        Spec::Macvlan(spec) => macvlan::check(host, pod, spec, ifname, expected),
        Spec::Ipvlan(spec) => ipvlan::check(host, pod, spec, ifname, expected),
        Spec::Vlan(spec) => vlan::check(host, pod, spec, ifname, expected),
        Spec::Dummy => dummy::check(pod, ifname, expected),
        Spec::HostDevice(spec) => host_device::check(pod, spec, ifname, expected),
        Spec::Sriov(spec) => sriov::check(host, pod, spec, ifname, expected),
        Spec::Tap(_) => tap::check(pod, ifname, expected),
    }
}

/// The side on which the lower device of macvlan, ipvlan and vlan is.
fn side_of_master<'a>(in_pod: bool, host: &'a mut Host, pod: Option<&'a mut Pod>) -> Result<&'a mut Side, Error> {
    match (in_pod, pod) {
        (false, _) => Ok(&mut host.side),
        (true, Some(pod)) => Ok(&mut pod.side),
        (true, None) => Err(Error::invalid("linkInContainer needs the pod's namespace to look for its master in")),
    }
}
