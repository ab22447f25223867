//! How an ifb is named, and how it tells whose it is. Knows no limit.

use crate::mac::Mac;
use crate::netlink::link::Link;
use crate::nft::{Owner, hash};

/// Names begin so; twelve digits of a hash follow.
const PREFIX: &str = "bwp";
const NAME_DIGITS: usize = 12;
/// Aliases begin so: network, container id and interface follow.
const MARK: &str = "plexus:bandwidth:";
/// A network's name or container id that is longer stands in the alias as its hash: the kernel has room for 255 bytes.
const PART_BYTES_MAX: usize = 80;
const PART_DIGITS: usize = 64;
/// What no such name can have, before a hash.
const HASHED: char = '#';
/// The kernel's kind.
const IFB: &str = "ifb";

/// The reference plugin's name. All interfaces of a container in one network share it, so only the first can have it.
pub(super) fn shared_name(owner: &Owner<'_>) -> String {
    format!("{PREFIX}{}", hash(&format!("{}{}", owner.network, owner.sandbox), NAME_DIGITS))
}

/// A name for this interface alone. No id has a colon: it is nobody's shared name.
pub(super) fn own_name(owner: &Owner<'_>) -> String {
    format!("{PREFIX}{}", hash(&told(owner), NAME_DIGITS))
}

fn told(owner: &Owner<'_>) -> String {
    format!("{}:{}:{}", owner.network, owner.sandbox, owner.ifname)
}

/// What the ifb tells in words.
pub(super) fn alias(owner: &Owner<'_>) -> String {
    let part = |text: &str| match text.len() {
        ..=PART_BYTES_MAX => text.to_owned(),
        _ => format!("{HASHED}{}", hash(text, PART_DIGITS)),
    };
    format!("{MARK}{}:{}:{}", part(owner.network), part(owner.sandbox), owner.ifname)
}

/// What it tells by its hardware address, which nothing else uses: the kernel takes that in the message that makes the link, but no
/// alias. So there is no instant at which it is nobody's.
pub(super) fn mac(owner: &Owner<'_>) -> Mac {
    let digits = hash(&told(owner), 10);
    let number = u64::from_str_radix(&digits, 16).unwrap_or_default();
    let [_, _, _, a, b, c, d, e] = number.to_be_bytes();
    // Locally administered, of one station.
    Mac::new([2, a, b, c, d, e])
}

/// Whether it was made here for this owner.
pub(super) fn is_ours(link: &Link, owner: &Owner<'_>) -> bool {
    link.kind == IFB && (link.alias == alias(owner) || (link.alias.is_empty() && link.mac == Some(mac(owner))))
}

/// Whether the reference plugin can have made it for this owner, or for another interface of the same container.
pub(super) fn is_shared(link: &Link, owner: &Owner<'_>) -> bool {
    link.kind == IFB && link.alias.is_empty() && link.name == shared_name(owner) && link.mac != Some(mac(owner))
}

/// An ifb on the host that limits an attachment's rate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Noted {
    /// The ifb's name.
    pub device: String,
    /// The network's name, or its hash after `#` if it is long; empty if the ifb does not tell, as those that the reference
    /// plugin made.
    pub network: String,
    /// The container id, in the same manner.
    pub sandbox: String,
    /// The interface in the pod.
    pub ifname: String,
    alias: String,
    mac: Option<[u8; 6]>,
}

impl Noted {
    /// Nothing if it is no ifb of this plugin's.
    pub(super) fn of(link: &Link) -> Option<Self> {
        let hash = link.name.strip_prefix(PREFIX)?;
        let is_hash = hash.len() == NAME_DIGITS && hash.bytes().all(|digit| digit.is_ascii_hexdigit());
        let told = link.alias.strip_prefix(MARK).and_then(|told| {
            let (network, rest) = told.split_once(':')?;
            let (sandbox, ifname) = rest.split_once(':')?;
            Some([network, sandbox, ifname])
        });
        let is_known = link.kind == IFB && is_hash && (told.is_some() || link.alias.is_empty());
        let [network, sandbox, ifname] = told.unwrap_or_default().map(str::to_owned);
        let (alias, mac) = (link.alias.clone(), link.mac.map(Mac::octets));
        is_known.then(|| Self { device: link.name.clone(), network, sandbox, ifname, alias, mac })
    }

    /// Whether it can be this owner's: one that does not tell has the name of all interfaces of a container in a network.
    #[must_use]
    pub fn can_be_of(&self, owner: &Owner<'_>) -> bool {
        match self.alias.as_str() {
            "" => self.device == shared_name(owner) || self.mac == Some(mac(owner).octets()),
            told => told == alias(owner),
        }
    }

    /// Whether it still is the one that was listed.
    pub(super) fn is(&self, link: &Link) -> bool {
        Self::of(link).as_ref() == Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Owner<'_> = Owner { network: "n", sandbox: "c1", ifname: "eth0" };

    fn ifb(name: String, alias: String) -> Link {
        changed(Link::default(), |link| (link.name, link.alias, link.kind) = (name, alias, IFB.to_owned()))
    }

    fn changed(mut link: Link, change: impl FnOnce(&mut Link)) -> Link {
        change(&mut link);
        link
    }

    #[test]
    fn the_first_interface_has_the_reference_plugin_s_name() {
        assert_eq!(shared_name(&ONE), SHARED);
        assert_eq!(shared_name(&Owner { ifname: "net1", ..ONE }), SHARED);
        assert_ne!(own_name(&ONE), own_name(&Owner { ifname: "net1", ..ONE }));
        assert_eq!(own_name(&ONE).len(), 15);
    }

    /// Read from the kernel after that plugin's ADD.
    const SHARED: &str = "bwp9b00b9b7c279";

    #[test]
    fn an_alias_names_its_owner_and_fits() {
        let (network, sandbox) = ("n".repeat(200), "c".repeat(200));
        let long = Owner { network: &network, sandbox: &sandbox, ifname: "a123456789abcde" };
        assert!(alias(&long).len() <= 255, "{}", alias(&long).len());
        assert_eq!(alias(&ONE), "plexus:bandwidth:n:c1:eth0");
        for owner in [ONE, long] {
            let noted = Noted::of(&ifb(own_name(&owner), alias(&owner))).unwrap();
            assert!(noted.can_be_of(&owner));
            assert!(!noted.can_be_of(&Owner { ifname: "net1", ..owner }));
        }
        let noted = Noted::of(&ifb(own_name(&ONE), alias(&ONE))).unwrap();
        assert_eq!([noted.network, noted.sandbox, noted.ifname], ["n", "c1", "eth0"]);
    }

    #[test]
    fn one_that_does_not_tell_is_known_by_its_name_or_hardware_address() {
        let other = Owner { ifname: "net1", ..ONE };
        let foreign = ifb(shared_name(&ONE), String::new());
        assert!(is_shared(&foreign, &ONE) && is_shared(&foreign, &other) && !is_ours(&foreign, &ONE));
        assert!(Noted::of(&foreign).unwrap().can_be_of(&other));
        let half_made = changed(foreign, |link| link.mac = Some(mac(&ONE)));
        assert!(is_ours(&half_made, &ONE) && !is_shared(&half_made, &ONE));
    }

    #[test]
    fn nobody_else_s_link_is_noted() {
        let told = |change: fn(&mut Link)| changed(ifb(own_name(&ONE), alias(&ONE)), change);
        assert!(Noted::of(&told(|_| {})).is_some());
        for link in [
            told(|link| link.kind = "veth".to_owned()),
            told(|link| link.name = "ifb0".to_owned()),
            told(|link| link.name = "bwp0123456789ag".to_owned()),
            told(|link| link.alias = "mine".to_owned()),
            told(|link| link.alias = format!("{MARK}n:c1")),
        ] {
            assert_eq!(Noted::of(&link), None, "{link:?}");
        }
    }
}
