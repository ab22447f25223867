//! The world of a run: a host namespace with a macvlan parent, and one fresh pod namespace for each call. Knows no plugin.
//! Everything is made in the namespaces that `tests/bench/run` opened, and is gone with this process.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::side::Outcome;

/// The lower device of all macvlans: one end of a veth pair, as this kernel may have no dummy.
pub(crate) const PARENT: &str = "m0";
/// A directory of the disk is mounted here.
pub(crate) const STATE: &str = "/var/lib/cni";
/// host-local's directory of pools.
pub(crate) const POOLS: &str = "/var/lib/cni/networks";
const NAMESPACES: &str = "/run/netns";
/// Each network of each row has a /16 of its own, of 10.0.0.0/8 and what comes after that: all of it is in this namespace.
const SUBNETS_MAX: u16 = 1_000;
/// First byte of the first subnet, and how many have the same one.
const FIRST_BYTE: u16 = 10;
const SUBNETS_OF_A_BYTE: u16 = 250;

/// What is shared by all rows.
#[derive(Debug)]
pub(crate) struct World {
    subnets: u16,
    pods: u32,
}

impl World {
    /// Sets up the host namespace.
    pub(crate) fn new() -> Outcome<Self> {
        fs::create_dir_all(NAMESPACES)?;
        fs::create_dir_all(POOLS)?;
        ip("link set lo up")?;
        ip(&format!("link add {PARENT} type veth peer name m1"))?;
        ip(&format!("link set {PARENT} up"))?;
        ip("link set m1 up")?;
        Ok(Self { subnets: 0, pods: 0 })
    }

    /// A subnet that nobody else has.
    pub(crate) fn subnet(&mut self) -> Outcome<Subnet> {
        self.subnets = self.subnets.checked_add(1).filter(|n| *n <= SUBNETS_MAX).ok_or("no subnet is left")?;
        Ok(Subnet(self.subnets))
    }

    /// A pod's namespace with a name that nobody had before.
    pub(crate) fn pod(&mut self) -> Outcome<Pod> {
        self.pods += 1;
        let id = format!("bench{}", self.pods);
        let path = Path::new(NAMESPACES).join(&id);
        File::create_new(&path)?;
        let opened = std::thread::scope(|scope| scope.spawn(|| open_namespace(&path)).join());
        let socket = opened.map_err(|_| "the thread of a new namespace panicked")??;
        Ok(Pod { id, path, socket })
    }
}

/// Removes what a row's bridge leaves.
pub(crate) fn remove_link(name: &str) -> Outcome<()> {
    ip(&format!("link del {name}"))
}

/// Makes a bridge with the gateway's addresses, as the plugins leave it after their first pod.
pub(crate) fn make_bridge(name: &str, subnet: Subnet) -> Outcome<()> {
    ip(&format!("link add {name} type bridge"))?;
    ip(&format!("addr add {}/{} dev {name}", subnet.gateway4(), Subnet::PREFIX4))?;
    ip(&format!("addr add {}/{} dev {name} nodad", subnet.gateway6(), Subnet::PREFIX6))?;
    ip(&format!("link set {name} up"))
}

/// Makes a device that the host can lend to a pod: one end of a veth pair.
pub(crate) fn make_device(name: &str) -> Outcome<()> {
    ip(&format!("link add {name} type veth peer name {name}p"))?;
    ip(&format!("link set {name}p up"))
}

/// Why this kernel cannot make what these arguments of `ip` make under the name `probe0`; none where it can.
pub(crate) fn lacks(probe: &str) -> Option<String> {
    let Err(error) = ip(probe) else {
        // What cannot be removed again ends with this process.
        let _ = remove_link("probe0");
        return None;
    };
    let failure = error.to_string();
    Some(failure.lines().next().unwrap_or_default().to_owned())
}

fn ip(arguments: &str) -> Outcome<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// Runs in a thread that then ends, and takes its namespace with it; the mount and the socket stay inside.
fn open_namespace(path: &Path) -> Outcome<Socket> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// One pod's namespace.
pub(crate) struct Pod {
    /// Also the container id.
    pub(crate) id: String,
    pub(crate) path: PathBuf,
    socket: Socket,
}

impl Pod {
    /// The addresses in it, of all interfaces, that are of use outside of their link and not tentative.
    pub(crate) fn addresses(&mut self) -> Outcome<Vec<IpAddr>> {
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetAddress(AddressMessage::default()));
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut addresses = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)?;
                match message.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(found)) => {
                        addresses.extend(usable(&found));
                    }
                    NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                    _ if message.header.message_type == NLMSG_DONE => return Ok(addresses),
                    _ => {}
                }
                let length = usize::try_from(message.header.length)?.next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // What fails here ends with this process.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.path);
    }
}

fn usable(message: &AddressMessage) -> Option<IpAddr> {
    let tentative = |attribute: &AddressAttribute| match attribute {
        // An optimistic address is in use while it is examined (RFC 4429).
        AddressAttribute::Flags(flags) => {
            flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic)
        }
        _ => false,
    };
    if message.header.scope != AddressScope::Universe || message.attributes.iter().any(tentative) {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    })
}

/// One network's addresses: 10.N.0.0/16 and fd00:0:0:N::/64. The first host is the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subnet(u16);

impl Subnet {
    pub(crate) const PREFIX4: u8 = 16;
    pub(crate) const PREFIX6: u8 = 64;

    pub(crate) fn number(self) -> u16 {
        self.0
    }

    /// Host number `host` of the IPv4 subnet, counted from the subnet's own address.
    pub(crate) fn host4(self, host: u16) -> Ipv4Addr {
        let [high, low] = host.to_be_bytes();
        let first = FIRST_BYTE + self.0 / SUBNETS_OF_A_BYTE;
        let [[_, first], [_, second]] = [first, self.0 % SUBNETS_OF_A_BYTE].map(u16::to_be_bytes);
        Ipv4Addr::new(first, second, high, low)
    }

    pub(crate) fn host6(self, host: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, self.0, 0, 0, 0, host)
    }

    pub(crate) fn gateway4(self) -> Ipv4Addr {
        self.host4(1)
    }

    pub(crate) fn gateway6(self) -> Ipv6Addr {
        self.host6(1)
    }

    pub(crate) fn text4(self) -> String {
        format!("{}/{}", self.host4(0), Self::PREFIX4)
    }

    pub(crate) fn text6(self) -> String {
        format!("{}/{}", self.host6(0), Self::PREFIX6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_a_subnet() {
        let subnet = Subnet(7);
        assert_eq!(subnet.text4(), "10.7.0.0/16");
        assert_eq!(subnet.text6(), "fd00:0:0:7::/64");
        assert_eq!(subnet.gateway4().to_string(), "10.7.0.1");
        assert_eq!(subnet.host4(0xea62).to_string(), "10.7.234.98");
        assert_eq!((Subnet(250).text4(), Subnet(251).text4()), ("11.0.0.0/16".into(), "11.1.0.0/16".into()));
    }
}
