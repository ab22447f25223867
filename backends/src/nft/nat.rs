//! Expressions of rules that change where a packet goes: fields of it into registers, what is looked up by them, and the change.
//! Attribute numbers are those of include/uapi/linux/netfilter/nf_tables.h.
//!
//! A register is one of sixteen pieces of four bytes, numbered from 8; 1 to 4 are the same memory in pieces of sixteen.

use std::net::IpAddr;

use super::message::{Attributes, Family};
use super::rule::{EQUAL, Expressions, NETWORK, NOT_EQUAL, REGISTER, octets};

const META_L4PROTO: u32 = 16;
/// A payload base.
const TRANSPORT: u32 = 2;
/// `NFTA_FIB_F_DADDR`, `NFT_FIB_RESULT_ADDRTYPE`, and the answer (`RTN_LOCAL`), which is no network order.
const FIB_DESTINATION: u32 = 2;
const FIB_TYPE: u32 = 3;
const LOCAL: u32 = 2;
/// `NFT_CT_STATUS`, `NFT_CT_PROTO_DST`; `IP_CT_DIR_ORIGINAL`.
const CT_STATUS: u32 = 2;
const CT_PORT: u32 = 12;
const ORIGINAL: u8 = 0;
/// `IPS_DST_NAT` (include/uapi/linux/netfilter/nf_conntrack_common.h)
const DESTINATION_CHANGED: u32 = 1 << 5;
/// `NFT_NAT_DNAT`
const DNAT: u32 = 1;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`
const WITH_PORT: u32 = 2;
/// The second register of sixteen bytes.
const SECOND: u32 = 2;

/// The register that begins at this piece, as the kernel tells it: by the larger pieces where it can (`nft_dump_register` in
/// net/netfilter/nf_tables_api.c).
fn register(piece: u32) -> u32 {
    if piece.is_multiple_of(4) { 1 + piece / 4 } else { 8 + piece }
}

impl Expressions {
    /// The destination is one of the host's own addresses.
    pub(super) fn for_host(self) -> Self {
        let look = |fib: &mut Attributes| {
            fib.number(3, FIB_DESTINATION).number(2, FIB_TYPE).number(1, REGISTER);
        };
        self.push("fib", look).compare(EQUAL, &LOCAL.to_ne_bytes())
    }

    /// The destination of this connection's first packet was changed.
    pub(super) fn redirected(self) -> Self {
        let load = |ct: &mut Attributes| {
            ct.number(2, CT_STATUS).number(1, REGISTER);
        };
        self.push("ct", load).mask(&DESTINATION_CHANGED.to_ne_bytes()).compare(NOT_EQUAL, &[0; 4])
    }

    /// The source, whole, as the first of several fields, or only its network's part.
    pub(super) fn load_source(self, v6: bool, mask: Option<IpAddr>) -> Self {
        let (offset, length) = if v6 { (8, 16) } else { (12, 4) };
        let loaded = self.load(NETWORK, offset, length, REGISTER);
        match mask {
            Some(mask) => loaded.mask(&octets(mask, [0, 0]).0),
            None => loaded,
        }
    }

    /// The destination, as the field that begins at this piece.
    pub(super) fn load_destination(self, v6: bool, piece: u32) -> Self {
        let (offset, length) = if v6 { (24, 16) } else { (16, 4) };
        self.load(NETWORK, offset, length, register(piece))
    }

    /// The protocol, as the field that begins at this piece.
    pub(super) fn load_protocol(self, piece: u32) -> Self {
        self.push("meta", |meta| {
            meta.number(2, META_L4PROTO).number(1, register(piece));
        })
    }

    /// The destination's port, as the field that begins at this piece.
    pub(super) fn load_port(self, piece: u32) -> Self {
        self.load(TRANSPORT, 2, 2, register(piece))
    }

    /// The port that the connection's first packet came for, as the field that begins at this piece.
    pub(super) fn load_first_port(self, piece: u32) -> Self {
        self.push("ct", |ct| {
            ct.number(2, CT_PORT).number(1, register(piece)).raw(3, &[ORIGINAL]);
        })
    }

    fn load(self, base: u32, offset: u32, length: u32, register: u32) -> Self {
        self.push("payload", |payload| {
            payload.number(1, register).number(2, base).number(3, offset).number(4, length);
        })
    }

    /// The fields from the first piece on are in the set.
    pub(super) fn found_in(self, set: &str) -> Self {
        self.push("lookup", |lookup| {
            lookup.number(2, REGISTER).text(1, set);
        })
    }

    /// The fields from the first piece on are replaced by what the map has for them.
    pub(super) fn mapped(self, map: &str) -> Self {
        self.push("lookup", |lookup| {
            lookup.number(2, REGISTER).number(3, REGISTER).text(1, map);
        })
    }

    /// The destination becomes the address and the port that a map gave.
    pub(super) fn redirect_as_mapped(self, family: Family) -> Self {
        let port = register(if family == Family::Ipv6 { 4 } else { 1 });
        self.push("nat", |nat| {
            nat.number(1, DNAT).number(2, family as u32).number(3, REGISTER).number(5, port);
        })
    }

    /// The destination becomes this address and port.
    pub(super) fn redirect(self, family: Family, ip: IpAddr, port: u16) -> Self {
        let value = |register: u32, bytes: Vec<u8>| {
            move |immediate: &mut Attributes| {
                immediate.number(1, register).nest(2, |value| {
                    value.raw(1, &bytes);
                });
            }
        };
        let loaded = self
            .push("immediate", value(REGISTER, octets(ip, [0, 0]).0))
            .push("immediate", value(SECOND, port.to_be_bytes().to_vec()));
        loaded.push("nat", |nat| {
            nat.number(1, DNAT).number(2, family as u32).number(3, REGISTER).number(5, SECOND).number(7, WITH_PORT);
        })
    }

    /// The protocol is this.
    pub(super) fn of_protocol(self, protocol: u8) -> Self {
        let load = |meta: &mut Attributes| {
            meta.number(2, META_L4PROTO).number(1, REGISTER);
        };
        self.push("meta", load).compare(EQUAL, &[protocol])
    }

    /// The destination's port is this.
    pub(super) fn at_port(self, port: u16) -> Self {
        self.load(TRANSPORT, 2, 2, REGISTER).compare(EQUAL, &port.to_be_bytes())
    }

    /// The source is this address, in a table of its family only.
    pub(super) fn with_source(self, ip: IpAddr) -> Self {
        let (bytes, offset) = octets(ip, [12, 8]);
        self.with_address(&bytes, offset)
    }

    /// The destination is this address, in a table of its family only.
    pub(super) fn with_destination(self, ip: IpAddr) -> Self {
        let (bytes, offset) = octets(ip, [16, 24]);
        self.with_address(&bytes, offset)
    }

    fn with_address(self, bytes: &[u8], offset: u32) -> Self {
        let length = u32::try_from(bytes.len()).unwrap_or_default();
        self.load(NETWORK, offset, length, REGISTER).compare(EQUAL, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_told_by_the_larger_pieces() {
        assert_eq!([0, 1, 2, 3, 4, 5, 8, 9].map(register), [1, 9, 10, 11, 2, 13, 3, 17]);
    }
}
