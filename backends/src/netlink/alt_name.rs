//! Messages about a link's alternative names. Knows no rule of who has which.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;

use super::link::{IFLA_ALT_IFNAME, IFLA_PROP_LIST, NLA_F_NESTED, change, padded};
use super::socket::Request;

/// Gives a link one more alternative name.
pub(crate) fn add(index: u32, name: &str) -> Request {
    Request::new(RouteNetlinkMessage::NewLinkProp(message(index, name.as_bytes())), NLM_F_CREATE | NLM_F_EXCL)
}

/// Takes one away, whatever bytes it is.
pub(crate) fn remove(index: u32, name: &[u8]) -> Request {
    Request::new(RouteNetlinkMessage::DelLinkProp(message(index, name)), 0)
}

fn message(index: u32, name: &[u8]) -> netlink_packet_route::link::LinkMessage {
    let mut message = change(index);
    let names = padded(IFLA_ALT_IFNAME, &[name, &[0]].concat());
    message.attributes.push(LinkAttribute::Other(DefaultNla::new(IFLA_PROP_LIST | NLA_F_NESTED, names)));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_with_zero_and_is_padded() {
        let RouteNetlinkMessage::NewLinkProp(message) = add(5, "enp1s0v0").into_message() else { panic!() };
        let mut bytes = vec![0; netlink_packet_core::Emitable::buffer_len(&message)];
        netlink_packet_core::Emitable::emit(&message, &mut bytes);
        let (header, rest) = bytes.split_at(16);
        assert_eq!(header, [0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let expected: &[&[u8]] = &[&[20, 0, 52, 128, 13, 0, 53, 0], b"enp1s0v0", &[0; 4]];
        assert_eq!(rest, expected.concat());
        assert!(matches!(remove(5, b"a").into_message(), RouteNetlinkMessage::DelLinkProp(_)));
    }
}
