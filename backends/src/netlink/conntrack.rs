//! Connections that the kernel remembers (include/uapi/linux/netfilter/nfnetlink_conntrack.h): only how to let it forget some.

use super::error::{Failure, verdict};
use super::netfilter::Netfilter;

/// `NFNL_SUBSYS_CTNETLINK`; `IPCTNL_MSG_CT_GET`, `IPCTNL_MSG_CT_DELETE`.
const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const NLM_F_REQUEST: u16 = 0x001;
const NLM_F_ACK: u16 = 0x004;
const NLM_F_DUMP: u16 = 0x300;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLMSG_ERROR: u16 = 2;
const NLMSG_HEADER_LEN: usize = 16;
const NFGENMSG_LEN: usize = 4;

/// `CTA_TUPLE_ORIG`, `CTA_TUPLE_PROTO` in it, and in that the protocol and the destination's port.
const TUPLE: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL: u16 = 1;
const PORT: u16 = 3;
/// `CTA_ID`, `CTA_ZONE`: which of several with the same tuple.
const ID: u16 = 12;
const ZONE: u16 = 18;
/// `CTA_FILTER`, and its `CTA_FILTER_ORIG_FLAGS`: the protocol and the destination's port are compared.
const FILTER: u16 = 25;
const FILTER_TUPLE: u16 = 1;
const BY_PROTOCOL_AND_PORT: u32 = 1 << 3 | 1 << 5;

const UDP: u8 = 17;
/// A walk through an empty table takes 0.2 ms (262,144 buckets); with more ports one walk that tells every flow takes less.
const WALKS_MAX: usize = 4;
/// Requests in one datagram: each is answered by up to a kilobyte of the receive buffer.
const REQUESTS_AT_ONCE: usize = 64;

/// Lets the kernel forget the UDP flows of a family that came first for one of these ports, whoever they are of. For each port it
/// walks through its whole table; and an older kernel does not choose by port: then they are listed and named one by one.
pub(crate) fn forget_udp(netfilter: &mut Netfilter, v6: bool, ports: &[u16]) -> Result<(), Failure> {
    if ports.len() > WALKS_MAX {
        return forget_one_by_one(netfilter, v6, ports);
    }
    let requests: Vec<Vec<u8>> = ports.iter().map(|port| request(DELETE, NLM_F_ACK, v6, &chosen_by(*port))).collect();
    if send(netfilter, &requests).is_ok() {
        return Ok(());
    }
    forget_one_by_one(netfilter, v6, ports)
}

fn send(netfilter: &mut Netfilter, requests: &[Vec<u8>]) -> Result<(), Failure> {
    netfilter.send(&requests.concat())?;
    let mut refused = None;
    answers(netfilter, |kind, flags, payload| {
        if kind == NLMSG_ERROR && refused.is_none() {
            refused = verdict(flags, payload)?;
        }
        Ok(())
    })?;
    refused.map_or(Ok(()), |refusal| Err(refusal.into()))
}

fn forget_one_by_one(netfilter: &mut Netfilter, v6: bool, ports: &[u16]) -> Result<(), Failure> {
    netfilter.send(&request(GET, NLM_F_DUMP, v6, &[]))?;
    let mut doomed = Vec::new();
    answers(netfilter, |kind, _, payload| {
        let attributes = payload.get(NFGENMSG_LEN..).unwrap_or_default();
        if kind == SUBSYSTEM << 8 && udp_port(attributes).is_some_and(|port| ports.contains(&port)) {
            doomed.push(request(DELETE, NLM_F_ACK, v6, &named(attributes)));
        }
        Ok(())
    })?;
    // One that has ended meanwhile is what was wanted.
    doomed.chunks(REQUESTS_AT_ONCE).for_each(|some| drop(send(netfilter, some)));
    Ok(())
}

fn answers(
    netfilter: &mut Netfilter,
    mut each: impl FnMut(u16, u16, &[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    while let Some(mut rest) = netfilter.receive()? {
        while let Some((kind, flags, payload, next)) = split(rest) {
            each(kind, flags, payload)?;
            rest = next;
        }
    }
    Ok(())
}

/// Type, flags and payload of a datagram's first message, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let flags = u16::from_ne_bytes(*bytes.get(6..)?.first_chunk()?);
    let payload = bytes.get(NLMSG_HEADER_LEN..length)?;
    Some((kind, flags, payload, bytes.get(length.checked_next_multiple_of(4)?..).unwrap_or_default()))
}

fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes(), &kind.to_ne_bytes(), payload].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Never without a tuple: that would be all connections.
fn chosen_by(port: u16) -> Vec<u8> {
    let fields = [attribute(PROTOCOL, &[UDP]), attribute(PORT, &port.to_be_bytes())].concat();
    let tuple = attribute(TUPLE | NLA_F_NESTED, &attribute(TUPLE_PROTOCOL | NLA_F_NESTED, &fields));
    let flags = attribute(FILTER_TUPLE, &BY_PROTOCOL_AND_PORT.to_ne_bytes());
    [tuple, attribute(FILTER | NLA_F_NESTED, &flags)].concat()
}

/// What names one connection, of what the kernel told of it.
fn named(attributes: &[u8]) -> Vec<u8> {
    let again = |kind: u16| {
        let nested = if kind == TUPLE { NLA_F_NESTED } else { 0 };
        find(attributes, kind).map(|payload| attribute(kind | nested, payload)).unwrap_or_default()
    };
    [again(TUPLE), again(ID), again(ZONE)].concat()
}

/// The port that a UDP flow came first for.
pub(super) fn udp_port(attributes: &[u8]) -> Option<u16> {
    let fields = find(find(attributes, TUPLE)?, TUPLE_PROTOCOL)?;
    let is_udp = find(fields, PROTOCOL)? == [UDP];
    find(fields, PORT)?.first_chunk().copied().map(u16::from_be_bytes).filter(|_| is_udp)
}

fn find(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk::<2>()?));
        let found = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk::<2>()?) & NLA_TYPE_MASK;
        let payload = bytes.get(4..length)?;
        if found == kind {
            return Some(payload);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn request(message: u16, flags: u16, v6: bool, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(NLMSG_HEADER_LEN + NFGENMSG_LEN + attributes.len()).unwrap_or(u32::MAX);
    let family = if v6 { 10 } else { 2 };
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend((SUBSYSTEM << 8 | message).to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_chosen_by_protocol_and_port() {
        let bytes = request(DELETE, NLM_F_ACK, false, &chosen_by(53));
        assert_eq!(bytes[..20], [56, 0, 0, 0, 2, 1, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(bytes[20..44], [24, 0, 1, 128, 20, 0, 2, 128, 5, 0, 1, 0, 17, 0, 0, 0, 6, 0, 3, 0, 0, 53, 0, 0]);
        assert_eq!(bytes[44..], [12, 0, 25, 128, 8, 0, 1, 0, 40, 0, 0, 0][..], "in the machine's own order");
    }

    #[test]
    fn a_flow_is_read_and_hostile_bytes_are_none() {
        let told = [chosen_by(53), attribute(ID, &[1, 2, 3, 4])].concat();
        assert_eq!(udp_port(&told), Some(53));
        assert_eq!(named(&told), [&told[..24], &attribute(ID, &[1, 2, 3, 4])[..]].concat());
        for length in 0..24 {
            assert_eq!(udp_port(&told[..length]), None, "{length}");
        }
        for at in 0..told.len() {
            for value in [0, 1, 3, 0xff] {
                let mut bytes = told.clone();
                bytes[at] = value;
                assert!(named(&bytes).len() <= 2 * bytes.len());
                let _ = udp_port(&bytes);
            }
        }
        assert!(split(&[16, 0, 0, 0]).is_none());
    }
}
