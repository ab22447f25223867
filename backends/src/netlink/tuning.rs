//! The message that changes attributes of a link while it is in use.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags};

use super::Request;
use super::inet::Inet;
use super::link::change;
use crate::mac::Mac;

/// Attributes of a link that can be changed while it is in use. `None`: left as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tuning {
    pub(crate) mac: Option<Mac>,
    pub(crate) promiscuous: Option<bool>,
    pub(crate) mtu: Option<u32>,
    pub(crate) all_multicast: Option<bool>,
    pub(crate) tx_queue: Option<u32>,
    /// IPv4's parameters.
    pub(crate) inet: Inet,
}

impl Tuning {
    /// Whether nothing is changed.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// All of it in one message. The kernel takes the attributes one after the other and keeps what it took before one that it
    /// refuses (net/core/rtnetlink.c, do_setlink).
    pub(crate) fn request(&self, index: u32) -> Request {
        let mut message = change(index);
        for (flag, wanted) in [(LinkFlags::Promisc, self.promiscuous), (LinkFlags::Allmulti, self.all_multicast)] {
            if let Some(on) = wanted {
                message.header.change_mask |= flag;
                message.header.flags.set(flag, on);
            }
        }
        let attributes = &mut message.attributes;
        attributes.extend(self.mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec())));
        attributes.extend(self.mtu.map(LinkAttribute::Mtu));
        attributes.extend(self.tx_queue.map(LinkAttribute::TxQueueLen));
        attributes.extend(self.inet.attribute());
        Request::new(RouteNetlinkMessage::SetLink(message), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuning_is_one_message_that_leaves_the_rest() {
        let bytes = |tuning: Tuning| {
            let RouteNetlinkMessage::SetLink(message) = tuning.request(5).into_message() else { panic!() };
            let mut bytes = vec![0; netlink_packet_core::Emitable::buffer_len(&message)];
            netlink_packet_core::Emitable::emit(&message, &mut bytes);
            bytes
        };
        let all = Tuning {
            mac: Some(Mac::new([2, 0, 0, 0, 0, 1])),
            promiscuous: Some(true),
            mtu: Some(1400),
            all_multicast: Some(false),
            tx_queue: Some(77),
            inet: Inet::default().with("arp_ignore", 1).unwrap(),
        };
        // ifinfomsg (IFF_PROMISC; it and IFF_ALLMULTI changed), IFLA_ADDRESS, IFLA_MTU, IFLA_TXQLEN, IFLA_AF_SPEC.
        let expected: &[&[u8]] = &[
            &[0, 0, 0, 0, 5, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0],
            &[10, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 0],
            &[8, 0, 4, 0, 0x78, 5, 0, 0],
            &[8, 0, 13, 0, 77, 0, 0, 0],
            &[20, 0, 26, 128, 16, 0, 2, 128, 12, 0, 1, 128, 8, 0, 19, 0, 1, 0, 0, 0],
        ];
        assert_eq!(bytes(all), expected.concat());
        let one = bytes(Tuning { tx_queue: Some(0), ..Tuning::default() });
        assert_eq!(one, [&[0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &[8, 0, 13, 0, 0, 0, 0, 0]].concat());
    }
}
