//! ptp: a veth pair whose host end is the pod's gateway, without a bridge. The pod reaches even its own network through the
//! gateway; the host has one route per pod address. Everything is planned before the pair exists. Masquerade is `nft`'s.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use serde::Deserialize;

use crate::check::{self, Expected};
use crate::error::Error;
use crate::layer3::{self, Address, Detection, Layer3, Manners};
use crate::netlink::Request;
use crate::netlink::addr::{self, Manner};
use crate::netlink::route::Entry;
use crate::nft;
use crate::pod::{Host, Pod};
use crate::sysctl::Tree;
use crate::veth::{Ends, Pair};
use crate::{Built, Interface, Made, Target};

/// `RT_SCOPE_LINK`: reached without a gateway.
const SCOPE_LINK: u8 = 253;
/// `RT_SCOPE_HOST`: what the reference plugin gives the host's routes.
const SCOPE_HOST: u8 = 254;
/// Nobody else is on the wire: there is nothing to examine.
const UNEXAMINED: Manner = Manner { without_dad: true, optimistic: false, without_route: false };

/// The configuration as it arrives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "NetConf", default)]
pub struct Conf {
    /// Masquerade of the pod's addresses: [`crate::nft`].
    #[serde(rename = "ipMasq")]
    pub ip_masq: bool,
    /// Masquerade by "iptables" (not built here) or "nftables".
    #[serde(rename = "ipMasqBackend")]
    pub ip_masq_backend: Option<String>,
    /// Bytes. Zero: the kernel's default.
    pub mtu: i64,
}

/// A configuration that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    mtu: Option<u32>,
}

impl Conf {
    /// The first key whose effect this crate does not build: execute the plugin's binary then.
    #[must_use]
    pub fn unsupported(&self) -> Option<&'static str> {
        nft::unsupported(self.ip_masq, self.ip_masq_backend.as_deref())
    }

    /// Parses the configuration.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for an unknown backend, and for an MTU beyond all links.
    pub fn validate(self) -> Result<Spec, Error> {
        nft::validate(self.ip_masq, self.ip_masq_backend.as_deref())?;
        // The reference plugin asks for an MTU only if it is positive; the kernel refuses what is too large.
        let mtu = u32::try_from(self.mtu.max(0))
            .map_err(|_| Error::invalid(format!("invalid MTU {}: more than any link has", self.mtu)))?;
        Ok(Spec { mtu: Some(mtu).filter(|mtu| *mtu > 0) })
    }
}

/// What is put on both ends, decided before either exists.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    pod_routes: Vec<(IpNetwork, Entry)>,
    host_addresses: Vec<IpNetwork>,
    host_routes: Vec<IpNetwork>,
}

impl Plan {
    fn new(l3: &Layer3) -> Result<Self, Error> {
        let (mut pod_routes, mut host_addresses, mut host_routes) = (Vec::new(), Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for Address { address, gateway } in &l3.addresses {
            let gateway = gateway.filter(|gateway| gateway.is_ipv4() == address.is_ipv4()).ok_or_else(|| {
                Error::invalid(format!("address {address} has no gateway: a point-to-point interface needs one"))
            })?;
            let source = Some(address.ip());
            // Two addresses may share a gateway or a network: one route leads there.
            if seen.insert(alone(gateway)) {
                pod_routes.push((alone(gateway), Entry { source, scope: SCOPE_LINK, ..Entry::default() }));
                host_addresses.push(alone(gateway));
            }
            let network = IpNetwork::new(address.network(), address.prefix())
                .map_err(|_| Error::invalid(format!("address {address} has no network")))?;
            if network != alone(address.ip()) && seen.insert(network) {
                pod_routes.push((network, Entry { source, gateway: Some(gateway), ..Entry::default() }));
            }
            host_routes.push(alone(address.ip()));
        }
        // The reference plugin adds these while the kernel still has its own route to the network, so any gateway in it
        // will do. Here that route never is.
        let on_link = |gateway: IpAddr| !seen.contains(&alone(gateway));
        pod_routes.extend(l3.entries()?.into_iter().map(|(dst, entry)| {
            let in_network = |gateway: &IpAddr| l3.addresses.iter().any(|a| a.address.contains(*gateway));
            (dst, Entry { on_link: entry.gateway.filter(in_network).is_some_and(on_link), ..entry })
        }));
        Ok(Self { pod_routes, host_addresses, host_routes })
    }

    /// The host's part, in one datagram: addresses first, a route needs them.
    fn host_requests(&self, index: u32) -> Vec<Request> {
        let route = Entry { index, scope: SCOPE_HOST, ..Entry::default() };
        let addresses = self.host_addresses.iter().map(|gateway| addr::add(index, *gateway, UNEXAMINED));
        addresses.chain(self.host_routes.iter().map(|dst| route.add(*dst))).collect()
    }
}

/// The address with all bits: a network of one.
fn alone(ip: IpAddr) -> IpNetwork {
    IpNetwork::from(ip)
}

impl Spec {
    pub(crate) fn build(
        &self,
        host: &mut Host,
        pod: &mut Pod,
        target: &Target<'_>,
        l3: Layer3,
    ) -> Result<Built, Error> {
        let plan = Plan::new(&l3)?;
        for (tree, v6) in [(Tree::V4, false), (Tree::V6, true)] {
            if l3.addresses.iter().any(|a| a.address.is_ipv6() == v6) {
                host.side.sysctls.ensure(tree, "all", "forwarding", "1")?;
            }
        }
        let ends = Pair { mtu: self.mtu, controller: None }.create(host, pod, target)?;
        if let Err(error) = configure(host, pod, &ends, &plan, &l3) {
            return Err(error.after_undo(pod.side.delete(ends.pod.index, &ends.pod.name)));
        }
        Ok(Built {
            interfaces: vec![ends.host_interface(), Interface::in_pod(&ends.pod)],
            address_interface: Some(1),
            made: Some(Made::of(&ends.pod, true)),
            host_ifindex: Some(ends.host_index),
            told: Vec::new(),
            layer3: l3,
        })
    }
}

fn configure(host: &mut Host, pod: &mut Pod, ends: &Ends, plan: &Plan, l3: &Layer3) -> Result<(), Error> {
    let manners = Manners {
        detection: Detection::Off,
        announce_v4: true,
        announce_v6: l3.addresses.iter().any(|a| a.address.is_ipv6()),
        // The pod's network is reached through the gateway, so the kernel's own route to it must not be.
        connected_routes: false,
        late_carrier: false,
        by_driver: false,
    };
    let name = ends.host_name.as_str();
    // What the host forwards to the pod waits for a neighbour solicitation, which it sends from its link-local address only when
    // that is past its examination (`ndisc_send_ns` in net/ipv6/ndisc.c): one to two seconds, of an address that nobody can have.
    let link_local = manners.announce_v6.then(|| layer3::link_local_of(&host.side, name, ends.host_mac)).flatten();
    let requests = link_local.map(|address| addr::add(ends.host_index, address, UNEXAMINED)).into_iter().collect();
    host.side.socket.batch(requests).map_err(|e| Error::kernel("configure", name, e))?;
    layer3::configure(&mut pod.side, &ends.pod, manners, &l3.addresses, &plan.pod_routes)?;
    let refusals =
        host.side.socket.batch(plan.host_requests(ends.host_index)).map_err(|e| Error::kernel("configure", name, e))?;
    for (position, refusal) in refusals {
        if refusal.errno == Errno::EEXIST {
            continue;
        }
        let (act, what) = match plan.host_addresses.get(position) {
            Some(gateway) => ("failed to add IP addr", gateway),
            None => {
                let route = position.checked_sub(plan.host_addresses.len()).and_then(|p| plan.host_routes.get(p));
                match route {
                    Some(dst) => ("failed to add route on host", dst),
                    None => continue,
                }
            }
        };
        return Err(Error::refused(act, format!("{what} to \"{name}\""), refusal));
    }
    Ok(())
}

/// CHECK of one ptp attachment.
pub(crate) fn check(pod: &mut Pod, ifname: &str, expected: &Expected) -> Result<(), Error> {
    let link = check::pod_interface(pod, ifname, "veth", expected)?;
    check::layer3(pod, &link, expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn l3(addresses: &[(&str, Option<&str>)]) -> Layer3 {
        let address = |(address, gateway): &(&str, Option<&str>)| Address {
            address: address.parse().unwrap(),
            gateway: gateway.map(|ip| ip.parse().unwrap()),
        };
        Layer3 { addresses: addresses.iter().map(address).collect(), routes: vec![] }
    }

    fn routes(plan: &Plan) -> Vec<String> {
        let text = |(dst, entry): &(IpNetwork, Entry)| {
            format!("{dst} via {:?} src {}", entry.gateway.map(|ip| ip.to_string()), entry.source.unwrap())
        };
        plan.pod_routes.iter().map(text).collect()
    }

    #[test]
    fn two_addresses_may_share_a_gateway() {
        let plan = Plan::new(&l3(&[("10.0.0.2/24", Some("10.0.0.1")), ("10.0.0.3/24", Some("10.0.0.1"))])).unwrap();
        assert_eq!(
            routes(&plan),
            ["10.0.0.1/32 via None src 10.0.0.2", "10.0.0.0/24 via Some(\"10.0.0.1\") src 10.0.0.2"]
        );
        assert_eq!((plan.host_addresses.len(), plan.host_routes.len()), (1, 2));
    }

    #[test]
    fn an_address_alone_in_its_network_needs_no_route_to_itself() {
        let plan = Plan::new(&l3(&[("10.0.0.2/32", Some("10.0.0.1"))])).unwrap();
        assert_eq!(routes(&plan), ["10.0.0.1/32 via None src 10.0.0.2"]);
    }

    #[test]
    fn without_a_gateway_nothing_is_built() {
        for gateway in [None, Some("fd00::1")] {
            let error = Plan::new(&l3(&[("10.0.0.2/24", gateway)])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn masquerading_by_iptables_is_left_to_the_binary() {
        let conf = |text: &str| -> Conf { serde_json::from_str(text).unwrap() };
        let iptables = conf(r#"{"ipMasq":true,"ipMasqBackend":"iptables"}"#);
        assert_eq!(iptables.unsupported(), Some("ipMasqBackend: iptables"));
        assert_eq!(conf(r#"{"ipMasq":true,"ipMasqBackend":"nftables"}"#).unsupported(), None);
        let unknown = conf(r#"{"ipMasq":true,"ipMasqBackend":"zz"}"#);
        assert_eq!(unknown.validate().unwrap_err().chain(), "unknown ipmasq backend \"zz\"");
    }
}
