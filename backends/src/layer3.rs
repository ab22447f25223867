//! Addresses and routes of an interface inside the pod, applied the same way for all kinds: parameters first, then one
//! datagram with every address, "up" and every route, in this order, so that the kernel announces complete addresses and
//! none is ever half configured. Knows no gateway rule of any kind.

use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use nix::errno::Errno;

use crate::busy;
use crate::error::Error;
use crate::mac::Mac;
use crate::netlink::addr::{self, Manner};
use crate::netlink::inet;
use crate::netlink::link::{self, GROUP_LINK, Link};
use crate::netlink::route::Entry;
use crate::netlink::socket::Heard;
use crate::netlink::{Refusal, Request};
use crate::pod::Side;
use crate::sysctl::Tree;

/// How long a carrier is waited for before addresses are announced, in milliseconds: as long as sriov-cni waits.
const CARRIER_TIMEOUT_MS: u64 = 200;

/// The destination of a default route.
#[expect(clippy::panic, reason = "zero is a prefix length of both families; a test asks for both")]
pub(crate) const fn any_destination(v6: bool) -> IpNetwork {
    if v6 {
        match Ipv6Network::new_checked(Ipv6Addr::UNSPECIFIED, 0) {
            Some(any) => IpNetwork::V6(any),
            None => panic!(),
        }
    } else {
        match Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 0) {
            Some(any) => IpNetwork::V4(any),
            None => panic!(),
        }
    }
}

/// A netmask as Go prints one: hexadecimal digits.
pub(crate) fn mask_text(network: IpNetwork) -> String {
    let hex = |octets: &[u8]| octets.iter().map(|byte| format!("{byte:02x}")).collect();
    match network.mask() {
        IpAddr::V4(mask) => hex(&mask.octets()),
        IpAddr::V6(mask) => hex(&mask.octets()),
    }
}

/// An address of the interface and the gateway it came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Address and prefix length.
    pub address: IpNetwork,
    /// The gateway of its network, where there is one.
    pub gateway: Option<IpAddr>,
}

/// A route of the interface (CNI spec 1.1, result, `routes`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destination. Bits beyond the prefix are the kernel's to refuse.
    pub dst: IpNetwork,
    /// `None`: the first gateway of the family.
    pub gw: Option<IpAddr>,
    /// Path MTU in bytes.
    pub mtu: Option<u32>,
    /// TCP segment size to advertise, in bytes.
    pub advmss: Option<u32>,
    /// Metric: the lowest wins. Not positive: the kernel's default.
    pub priority: Option<i32>,
    /// Table number. Not positive: main.
    pub table: Option<i32>,
    /// `RT_SCOPE_*`, 0 to 255.
    pub scope: Option<i32>,
}

impl Route {
    /// A route with nothing but a destination and a gateway.
    #[must_use]
    pub fn new(dst: IpNetwork, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// Addresses and routes. No address: the interface is brought up without any (layer 2 only).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer3 {
    /// In the order of the result.
    pub addresses: Vec<Address>,
    /// In the order of the result; added in this order.
    pub routes: Vec<Route>,
}

impl Layer3 {
    /// Whether the interface gets no address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    fn first_gateway(&self, v6: bool) -> Option<IpAddr> {
        self.addresses.iter().filter(|a| a.address.is_ipv6() == v6).find_map(|a| a.gateway)
    }

    /// The routes in the kernel's numbers; the interface's index is filled in when it is known.
    pub(crate) fn entries(&self) -> Result<Vec<(IpNetwork, Entry)>, Error> {
        let positive = |number: Option<i32>| number.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
        let entry = |route: &Route| {
            let scope = u8::try_from(route.scope.unwrap_or_default())
                .map_err(|_| Error::invalid(format!("route to {} has a scope that is none", route.dst)))?;
            let entry = Entry {
                gateway: route.gw.or_else(|| self.first_gateway(route.dst.is_ipv6())),
                priority: positive(route.priority),
                table: positive(route.table),
                scope,
                mtu: route.mtu.filter(|mtu| *mtu > 0),
                advmss: route.advmss.filter(|mss| *mss > 0),
                ..Entry::default()
            };
            Ok((route.dst, entry))
        };
        self.routes.iter().map(entry).collect()
    }
}

/// How IPv6 addresses are examined for duplicates. No way waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detection {
    /// Not at all: the address cannot collide, or the reference plugin does not look either.
    Off,
    /// While it is in use already (RFC 4429): a duplicate shows as `IFA_F_DADFAILED`.
    Optimistic,
}

/// What is done beside addresses and routes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manners {
    pub(crate) detection: Detection,
    /// The kernel announces IPv4 addresses by gratuitous ARP when the link comes up.
    pub(crate) announce_v4: bool,
    /// The kernel announces IPv6 addresses by unsolicited neighbour advertisements.
    pub(crate) announce_v6: bool,
    /// The kernel adds the route to each address's network.
    pub(crate) connected_routes: bool,
    /// The link has no carrier yet when it comes up: what the kernel announces then is lost.
    pub(crate) late_carrier: bool,
    /// The link is a card's: its driver may have no time to bring it up.
    pub(crate) by_driver: bool,
}

/// Brings the link up with these addresses and routes. `entries` are [`Layer3::entries`], with whatever the kind adds.
pub(crate) fn configure(
    pod: &mut Side,
    link: &Link,
    manners: Manners,
    addresses: &[Address],
    entries: &[(IpNetwork, Entry)],
) -> Result<(), Error> {
    parameters(pod, link, manners, addresses)?;
    let mut steps = steps(pod, link, manners, addresses, entries);
    let up = steps.iter().position(|step| matches!(step, Step::Up));
    let Some(up) = up.filter(|_| manners.by_driver) else {
        return send(pod, link, manners, &steps);
    };
    let after = steps.split_off(up + 1);
    send(pod, link, manners, steps.get(..up).unwrap_or_default())?;
    let is_awaited = manners.late_carrier && !addresses.is_empty();
    let has_carrier = raise(pod, link, is_awaited)?;
    let again = link.mac.filter(|_| has_carrier).map(Step::Again);
    send(pod, link, manners, &again.into_iter().chain(after).collect::<Vec<_>>())
}

/// Brings a link of a driver up. Says whether its carrier, which may be waited for, came afterwards.
fn raise(pod: &mut Side, link: &Link, is_carrier_awaited: bool) -> Result<bool, Error> {
    let failed = |e| Error::kernel("wait for the carrier of", link.name.clone(), e);
    if is_carrier_awaited {
        // Joined before the link comes up: nothing is missed.
        pod.socket.join(GROUP_LINK).map_err(failed)?;
    }
    let raised = busy::apply(pod, || link::set_up(link.index, true));
    raised.map_err(|e| Error::kernel("failed to set", format!("\"{}\" UP", link.name), e))?;
    if !is_carrier_awaited {
        return Ok(false);
    }
    let has_carrier = await_carrier(pod, link)?;
    pod.socket.leave(GROUP_LINK).and_then(|()| pod.socket.forget()).map_err(failed)?;
    Ok(has_carrier)
}

/// Waits for a link's carrier, and says whether it came.
fn await_carrier(pod: &mut Side, link: &Link) -> Result<bool, Error> {
    let deadline = Instant::now() + Duration::from_millis(CARRIER_TIMEOUT_MS);
    loop {
        if pod.link_at(link.index)?.is_some_and(|now| now.oper_state == Link::OPER_UP) {
            return Ok(true);
        }
        let heard = pod.socket.event(deadline, |_, _| {});
        if heard.map_err(|e| Error::kernel("wait for the carrier of", link.name.clone(), e))? == Heard::Nothing {
            return Ok(false);
        }
    }
}

/// Sends these in one datagram.
fn send(pod: &mut Side, link: &Link, manners: Manners, steps: &[Step]) -> Result<(), Error> {
    let requests = steps.iter().map(|step| step.request(link.index, manners)).collect();
    let refusals = pod.socket.batch(requests).map_err(|e| Error::kernel("configure", link.name.clone(), e))?;
    let mut refused = refusals.into_iter().filter_map(|(position, why)| steps.get(position)?.refused(&link.name, why));
    match refused.next() {
        Some(error) => Err(error),
        None if link.kind == "ipvlan" && steps.iter().any(Step::is_announced) => release_link_local(pod, link),
        None => Ok(()),
    }
}

/// One message of the datagram that configures a link.
#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    /// The kernel is to announce IPv4 addresses when the link comes up.
    AnnounceV4,
    /// A link-local address that is not examined.
    LinkLocal(IpNetwork),
    /// An address for good.
    Add(IpNetwork),
    /// An address that is not examined, until the link is up.
    AddToAnnounce(IpNetwork),
    /// The end of it.
    Announced(IpNetwork),
    Up,
    /// The link is given the hardware address that it has: no driver is asked (net/core/dev.c), and the kernel announces all addresses.
    Again(Mac),
    Route(&'a IpNetwork, &'a Entry),
}

/// The messages in their order.
///
/// When the link comes up the kernel advertises its IPv6 addresses (`ndisc_send_unsol_na` in net/ipv6/ndisc.c), but an optimistic
/// one without the Override flag (RFC 4429, 2.1), and never again: who knows the address by the hardware address of the pod that
/// had it goes on sending there, for eight seconds. So it comes up with an address that is not examined, which is then
/// replaced by the optimistic one. Should another host have the address, that one answers the examination, to all nodes and
/// overriding, and everybody knows the right owner again.
fn steps<'a>(
    pod: &Side,
    link: &Link,
    manners: Manners,
    addresses: &[Address],
    entries: &'a [(IpNetwork, Entry)],
) -> Vec<Step<'a>> {
    let is_replaced =
        |address: &IpNetwork| manners.announce_v6 && manners.detection == Detection::Optimistic && address.is_ipv6();
    let addresses = || addresses.iter().map(|address| address.address);
    let mut steps = Vec::with_capacity(3 * addresses().count() + entries.len() + 3);
    steps.extend(manners.announce_v4.then_some(Step::AnnounceV4));
    steps.extend(link_local(pod, link, manners, addresses()).map(Step::LinkLocal));
    steps.extend(addresses().map(|a| if is_replaced(&a) { Step::AddToAnnounce(a) } else { Step::Add(a) }));
    steps.push(Step::Up);
    steps.extend(addresses().filter(is_replaced).flat_map(|a| [Step::Announced(a), Step::Add(a)]));
    steps.extend(entries.iter().map(|(dst, entry)| Step::Route(dst, entry)));
    steps
}

impl Step<'_> {
    fn request(&self, index: u32, manners: Manners) -> Request {
        let unexamined = Manner { without_dad: true, optimistic: false, without_route: !manners.connected_routes };
        let address = Manner {
            without_dad: manners.detection == Detection::Off,
            optimistic: manners.detection == Detection::Optimistic,
            ..unexamined
        };
        match *self {
            Self::AnnounceV4 => inet::set_arp_notify(index),
            Self::LinkLocal(ip) => addr::add(index, ip, Manner { without_route: false, ..unexamined }),
            Self::Add(ip) => addr::add(index, ip, address),
            Self::AddToAnnounce(ip) => addr::add(index, ip, unexamined),
            Self::Announced(ip) => addr::delete(index, ip),
            Self::Up => link::set_up(index, true),
            Self::Again(mac) => link::set_mac(index, mac),
            Self::Route(dst, entry) => Entry { index, ..*entry }.add(*dst),
        }
    }

    fn is_announced(&self) -> bool {
        matches!(self, Self::Announced(_))
    }

    /// The error of a refused step. `None`: one that need not be. As with the reference plugins a kernel that cannot announce is
    /// no reason to fail; nor is a link-local address or a route that is there already.
    fn refused(&self, name: &str, refusal: Refusal) -> Option<Error> {
        let (act, what) = match *self {
            Self::AnnounceV4 | Self::LinkLocal(_) | Self::Again(_) => return None,
            Self::Route(..) if refusal.errno == Errno::EEXIST => return None,
            Self::Add(ip) | Self::AddToAnnounce(ip) => ("failed to add IP addr", format!("{ip} to \"{name}\"")),
            Self::Announced(ip) => ("failed to replace IP addr", format!("{ip} of \"{name}\"")),
            Self::Up => ("failed to set", format!("\"{name}\" UP")),
            Self::Route(dst, entry) => ("failed to add route", describe(name, *dst, entry)),
        };
        Some(Error::refused(act, what, refusal))
    }
}

/// The link-local address that the kernel would make, but usable at once.
///
/// While every address of a link is optimistic, the kernel solicits no neighbour at all: `ndisc_solicit` wants a source that
/// is past its examination and takes the link-local one (net/ipv6/ndisc.c). So for one to two seconds nobody could be
/// reached who did not speak first. It is made of the hardware address, so it collides only where that does too, and then
/// the optimistic addresses' own examination finds it. An ipvlan's hardware address is its master's: the kernel makes its
/// link-local address of another number, which it does not tell ([`release_link_local`]).
fn link_local(
    pod: &Side,
    link: &Link,
    manners: Manners,
    mut addresses: impl Iterator<Item = IpNetwork>,
) -> Option<IpNetwork> {
    let is_examined = manners.detection == Detection::Optimistic && addresses.any(|address| address.is_ipv6());
    let mac = link.mac.filter(|_| is_examined && link.kind != "ipvlan")?;
    match link.inet6 {
        Some(inet6) if inet6.by_hardware_address => link_local_by(mac),
        Some(_) => None,
        None => link_local_of(pod, &link.name, mac),
    }
}

/// Makes the link-local address that the kernel made when the link came up usable at once, as [`link_local`] does where it is
/// known before. Best effort: without it the link is complete, and reached a little later.
fn release_link_local(pod: &mut Side, link: &Link) -> Result<(), Error> {
    let is_link_local = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let made = pod.addresses(link)?.into_iter().map(|present| present.address).find(|made| is_link_local(made.ip()));
    let Some(made) = made else { return Ok(()) };
    let manner = Manner { without_dad: true, optimistic: false, without_route: false };
    let requests = vec![addr::delete(link.index, made), addr::add(link.index, made, manner)];
    let replaced = pod.socket.batch(requests);
    replaced.map(drop).map_err(|e| Error::kernel("configure", link.name.clone(), e))
}

/// The link-local address that the kernel makes of a hardware address, where it is told to make it so.
pub(crate) fn link_local_of(side: &Side, name: &str, mac: Mac) -> Option<IpNetwork> {
    let by_hardware_address = side.sysctls.read(Tree::V6, name, "addr_gen_mode").is_ok_and(|mode| mode == "0");
    link_local_by(mac).filter(|_| by_hardware_address)
}

fn link_local_by(mac: Mac) -> Option<IpNetwork> {
    IpNetwork::new(eui64_link_local(mac).into(), 64).ok()
}

/// RFC 4291, appendix A: the universal bit is turned over, `ff:fe` comes into the middle.
fn eui64_link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets().map(u16::from);
    let pair = |high: u16, low: u16| high << 8 | low;
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
}

/// A route as the reference plugins print it.
fn describe(name: &str, dst: IpNetwork, entry: &Entry) -> String {
    let mask = mask_text(dst);
    let gateway = entry.gateway.map_or_else(|| "<nil>".to_owned(), |ip| ip.to_string());
    let scope = match entry.scope {
        0 => "universe".to_owned(),
        200 => "site".to_owned(),
        253 => "link".to_owned(),
        254 => "host".to_owned(),
        255 => "nowhere".to_owned(),
        other => other.to_string(),
    };
    format!(
        "'{{{} {mask}}} via {gateway} dev {name} metric {} (Scope: {scope}, Table: {})'",
        dst.ip(),
        entry.priority.unwrap_or_default(),
        entry.table.unwrap_or_default()
    )
}

/// Kernel parameters that must be set before the first address.
fn parameters(pod: &Side, link: &Link, manners: Manners, addresses: &[Address]) -> Result<(), Error> {
    let name = link.name.as_str();
    // Best effort, as with the reference plugins: a kernel without IPv6 has none of these.
    let best_effort = |key: &str, value: &str| drop(pod.sysctls.write(Tree::V6, name, key, value));
    if manners.announce_v6 {
        best_effort("ndisc_notify", "1");
    }
    if !addresses.iter().any(|a| a.address.is_ipv6()) {
        return Ok(());
    }
    // The kernel has said it of the link itself.
    let own = link.inet6.is_none_or(|inet6| inet6.disabled).then_some(name);
    for link in iter::once("lo").chain(own) {
        if pod.sysctls.read(Tree::V6, link, "disable_ipv6").is_ok_and(|value| value != "0") {
            pod.sysctls.write(Tree::V6, link, "disable_ipv6", "0")?;
        }
    }
    pod.sysctls.write(Tree::V6, name, "keep_addr_on_down", "1")?;
    if manners.detection == Detection::Optimistic {
        best_effort("optimistic_dad", "1");
        best_effort("use_optimistic", "1");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_without_a_gateway_takes_the_first_of_its_family() {
        let address = |text: &str, gateway: &str| Address {
            address: text.parse().unwrap(),
            gateway: Some(gateway.parse().unwrap()),
        };
        let l3 = Layer3 {
            addresses: vec![address("10.0.0.2/24", "10.0.0.1"), address("fd00::2/64", "fd00::1")],
            routes: vec![
                Route::new("::/0".parse().unwrap(), None),
                Route { priority: Some(-1), table: Some(0), ..Route::new("192.0.2.0/24".parse().unwrap(), None) },
            ],
        };
        let entries = l3.entries().unwrap();
        assert_eq!(entries[0].1.gateway, Some("fd00::1".parse().unwrap()));
        assert_eq!(entries[1].1, Entry { gateway: Some("10.0.0.1".parse().unwrap()), ..Entry::default() });
    }

    #[test]
    fn the_link_local_address_is_the_kernel_s() {
        let mac = "62:20:df:68:f9:b4".parse().unwrap();
        assert_eq!(eui64_link_local(mac).to_string(), "fe80::6020:dfff:fe68:f9b4");
    }

    #[test]
    fn both_families_have_a_default_destination() {
        assert_eq!(any_destination(false).to_string(), "0.0.0.0/0");
        assert_eq!(any_destination(true).to_string(), "::/0");
    }

    #[test]
    fn a_scope_beyond_a_byte_is_refused_before_anything_is_built() {
        let route = Route { scope: Some(256), ..Route::new("0.0.0.0/0".parse().unwrap(), None) };
        let l3 = Layer3 { routes: vec![route], ..Layer3::default() };
        assert_eq!(l3.entries().unwrap_err().kind(), crate::ErrorKind::Invalid);
    }

    #[test]
    fn a_route_reads_as_the_reference_plugins_print_it() {
        let entry = Entry { gateway: Some("192.168.0.1".parse().unwrap()), ..Entry::default() };
        let dst = IpNetwork::new("192.168.5.7".parse().unwrap(), 16).unwrap();
        assert_eq!(
            describe("eth0", dst, &entry),
            "'{192.168.5.7 ffff0000} via 192.168.0.1 dev eth0 metric 0 (Scope: universe, Table: 0)'"
        );
    }
}
