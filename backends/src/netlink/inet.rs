//! IPv4's parameters of one link that a message reads and sets as their files in `/proc/sys/net/ipv4/conf` do. That is cheaper: a
//! file's directory is made at the first look, and looked for among those of all namespaces.

use netlink_packet_core::{DefaultNla, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;

use super::link::{IFLA_AF_SPEC, NLA_F_NESTED, change, nested, plain};
use super::socket::Request;

/// `IFLA_INET_CONF` inside `IFLA_AF_SPEC`/`AF_INET`.
const IFLA_INET_CONF: u16 = 1;
const AF_INET: u16 = 2;
const NOTIFY: usize = 4;

/// Names of files, and numbers (`IPV4_DEVCONF_ARPFILTER` and so on, include/uapi/linux/ip.h). Of these a write changes the number and nothing
/// else; others' files also flush routes or tell listeners, which a message does not (`devinet_conf_proc`, net/ipv4/devinet.c).
const ARP: [(&str, u16); 5] =
    [("arp_filter", 13), ("arp_announce", 18), ("arp_ignore", 19), ("arp_accept", 21), ("arp_notify", 22)];

/// Values of these parameters, in this order. `None`: not this one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Inet {
    arp: [Option<i32>; ARP.len()],
}

impl Inet {
    /// That with a file's name, where it is one of these.
    pub(crate) fn get(&self, name: &str) -> Option<i32> {
        self.arp.get(position(name)?).copied().flatten()
    }

    /// With another value for a file's name; none: it is not one of these.
    pub(crate) fn with(mut self, name: &str, value: i32) -> Option<Self> {
        *self.arp.get_mut(position(name)?)? = Some(value);
        Some(self)
    }

    /// Of the value of `IFLA_AF_SPEC`, as the kernel writes it: an array whose first entry has number 1.
    pub(super) fn parse(spec: &[u8]) -> Option<Self> {
        let find =
            |all, kind: u16| NlasIterator::new(all).map_while(Result::ok).find(|attribute| attribute.kind() == kind);
        let family = find(spec, AF_INET)?;
        let all = find(family.value(), IFLA_INET_CONF)?;
        let value = |number: u16| {
            let at = usize::from(number.checked_sub(1)?) * 4;
            Some(i32::from_ne_bytes(all.value().get(at..at + 4)?.try_into().ok()?))
        };
        Some(Self { arp: ARP.map(|(_, number)| value(number)) })
    }

    /// The attribute that sets those that are given; none: none is.
    pub(super) fn attribute(&self) -> Option<LinkAttribute> {
        let set = ARP.iter().zip(self.arp).filter_map(|((_, number), value)| Some((*number, value?)));
        let all: Vec<u8> = set.flat_map(|(number, value)| plain(number, &value.to_ne_bytes())).collect();
        let conf = nested(AF_INET, &nested(IFLA_INET_CONF, &all));
        (!all.is_empty()).then(|| LinkAttribute::Other(DefaultNla::new(IFLA_AF_SPEC | NLA_F_NESTED, conf)))
    }
}

fn position(name: &str) -> Option<usize> {
    ARP.iter().position(|(known, _)| *known == name)
}

/// Sets `net.ipv4.conf.<link>.arp_notify` to 1: the kernel then announces the addresses when the link comes up.
pub(crate) fn set_arp_notify(index: u32) -> Request {
    let mut inet = Inet::default();
    inet.arp[NOTIFY] = Some(1);
    let mut message = change(index);
    message.attributes.extend(inet.attribute());
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(request: Request) -> Vec<u8> {
        let RouteNetlinkMessage::SetLink(message) = request.into_message() else { panic!() };
        let [LinkAttribute::Other(spec)] = message.attributes.as_slice() else { panic!("{message:?}") };
        let mut bytes = vec![0; netlink_packet_core::Nla::value_len(spec)];
        netlink_packet_core::Nla::emit_value(spec, &mut bytes);
        bytes
    }

    #[test]
    fn arp_notify_is_nested_three_deep() {
        assert_eq!(ARP[NOTIFY].0, "arp_notify");
        assert_eq!(value(set_arp_notify(5)), [16, 0, 2, 128, 12, 0, 1, 128, 8, 0, 22, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn each_is_read_at_its_place_and_set_by_its_number() {
        let conf: Vec<u8> = (1..=33_i32).flat_map(i32::to_ne_bytes).collect();
        let spec = plain(AF_INET, &plain(IFLA_INET_CONF, &conf));
        let inet = Inet::parse(&spec).unwrap();
        let read = ["arp_filter", "arp_announce", "arp_ignore", "arp_accept", "arp_notify"].map(|name| inet.get(name));
        assert_eq!(read, [13, 18, 19, 21, 22].map(Some));
        assert_eq!((inet.get("forwarding"), inet.with("rp_filter", 1)), (None, None));
        // An older kernel's array ends earlier.
        let short = plain(AF_INET, &plain(IFLA_INET_CONF, &conf[..76]));
        let short = Inet::parse(&short).unwrap();
        assert_eq!((short.get("arp_ignore"), short.get("arp_accept")), (Some(19), None));
        assert_eq!(Inet::parse(&plain(10, &conf)), None);
        assert!(Inet::default().attribute().is_none());
        let two = Inet::default().with("arp_ignore", -1).unwrap().with("arp_accept", 2).unwrap();
        let mut message = change(5);
        message.attributes.extend(two.attribute());
        let sent = value(Request::new(RouteNetlinkMessage::SetLink(message), 0));
        let set = [&[8, 0, 19, 0, 255, 255, 255, 255][..], &[8, 0, 21, 0, 2, 0, 0, 0]].concat();
        assert_eq!(sent, [&[24, 0, 2, 128, 20, 0, 1, 128][..], &set].concat());
    }
}
