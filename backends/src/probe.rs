//! What the kernel can build, found out without building it: a request that is valid but for one value is refused because of that
//! value where the kernel knows the kind (it loads the module if it can, as for an ADD), and as unknown where not.

use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use crate::error::{Error, ErrorKind};
use crate::mac::Mac;
use crate::master;
use crate::netlink::{NewLink, Shape};
use crate::nft::{self, Rules};
use crate::pod::Host;
use crate::sysfs::Sysfs;
use crate::veth::random_name;
use crate::{Kind, Spec};

/// No link can have this address, for it is that of a group (IEEE 802): each kind's `validate` refuses it before anything is made.
const OF_A_GROUP: Mac = Mac::new([1, 0, 0, 0, 0, 0]);
/// No mode of ipvlan, which looks at no address (`ipvlan_validate` in drivers/net/ipvlan/ipvlan_main.c).
const NO_IPVLAN_MODE: u16 = u16::MAX;
/// Makes taps.
const TUN: &str = "/dev/net/tun";

/// Whether the kernel can build a kind; changes nothing.
///
/// # Errors
/// [`ErrorKind::Refused`] if the caller may not build links at all; the kernel cannot be asked.
pub fn supports(host: &mut Host, kind: Kind) -> Result<bool, Error> {
    let peer = || Box::new(NewLink::new("", Shape::Peer));
    match kind {
        Kind::Loopback | Kind::HostDevice | Kind::Sriov => Ok(true),
        Kind::Tap => Ok(Path::new(TUN).exists()),
        Kind::Bridge => Ok(knows(host, Shape::Bridge { vlan_filtering: false })? && knows(host, Shape::Veth(peer()))?),
        Kind::Ptp => knows(host, Shape::Veth(peer())),
        Kind::Macvlan => knows(host, Shape::Macvlan { mode: 0, bc_queue_len: None }),
        Kind::Ipvlan => knows(host, Shape::Ipvlan(NO_IPVLAN_MODE)),
        Kind::Vlan => knows(host, Shape::Vlan(1)),
        Kind::Dummy => knows(host, Shape::Dummy),
    }
}

/// Whether the kernel can build a link of this shape; changes nothing.
pub(crate) fn knows(host: &mut Host, shape: Shape<'_>) -> Result<bool, Error> {
    let name = random_name();
    let link = NewLink { mac: Some(OF_A_GROUP), ..NewLink::new(&name, shape) };
    match host.side.apply(link.request()) {
        Err(failure) if failure.errno() == Some(Errno::EOPNOTSUPP) => Ok(false),
        Err(failure) if matches!(failure.errno(), Some(Errno::EADDRNOTAVAIL | Errno::EINVAL)) => Ok(true),
        Err(failure) => Err(Error::kernel("ask the kernel for links of kind", name, failure)),
        // No kernel known does this.
        Ok(()) => match host.side.link(&name)? {
            Some(made) => host.side.delete(made.index, &made.name).map(|()| true),
            None => Ok(true),
        },
    }
}

/// Whether bridges can forward by VLAN, found out in a network namespace that ends with this call.
///
/// # Errors
/// [`ErrorKind::Io`] if there may be no such namespace; [`ErrorKind::Panicked`].
pub fn filters_vlans() -> Result<bool, Error> {
    let work = || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| Error::io("make", "a network namespace to try in", errno))?;
        let mut host = Host::open()?;
        let bridge = NewLink::new("plexus-try", Shape::Bridge { vlan_filtering: true });
        Ok(host.side.apply(bridge.request()).is_ok())
    };
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(Error::at(ErrorKind::Panicked, "try", "a bridge with VLANs")))
}

/// Whether what a spec needs is there: its kind, its lower device where that is the host's, nftables where it has rules.
///
/// # Errors
/// [`ErrorKind::LinkMissing`] without the lower device, [`ErrorKind::Refused`] where the kernel cannot, and as [`supports`].
pub fn ready(host: &mut Host, spec: &Spec, rules: Rules) -> Result<(), Error> {
    let kind = spec.kind();
    if !supports(host, kind)? {
        let text = format!("this kernel builds no {}: its module is missing", kind.name());
        return Err(Error::new(ErrorKind::Refused, text));
    }
    if !rules.is_empty() && !nft::supported()? {
        let text = "this kernel has no nftables (nf_tables), which ipMasq and macspoofchk need";
        return Err(Error::new(ErrorKind::Refused, text));
    }
    if matches!(spec, Spec::Bridge(bridge) if bridge.filters_vlans()) && !filters_vlans()? {
        let text =
            "this kernel's bridges filter no VLANs (CONFIG_BRIDGE_VLAN_FILTERING), which vlan and vlanTrunk need";
        return Err(Error::new(ErrorKind::Refused, text));
    }
    if let Spec::Sriov(function) = spec {
        function.ready(&Sysfs::default())?;
    }
    match spec.master() {
        Some(name) => master::find(&mut host.side, name).map(drop),
        None => Ok(()),
    }
}
