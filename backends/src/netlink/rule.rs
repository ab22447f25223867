//! Messages about routing rules: which table is asked for which source. Knows no route.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleHeader, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::addr::family;
use super::error::Failure;
use super::socket::Request;

/// A rule that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Present {
    /// `None`: it is for all sources.
    pub(crate) source: Option<IpNetwork>,
    /// 0 where it leads to no table.
    pub(crate) table: u32,
    /// The lowest is asked first.
    pub(crate) priority: u32,
    /// It asks for nothing but the source, and leads to a table.
    pub(crate) plain: bool,
}

impl Present {
    /// Whether it is for this address and nothing else.
    pub(crate) fn is_for(&self, source: IpAddr) -> bool {
        self.plain && self.source.is_some_and(|network| network == IpNetwork::from(source))
    }
}

fn message(source: IpAddr, table: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header = RuleHeader {
        family: family(source),
        src_len: IpNetwork::from(source).prefix(),
        table: u8::try_from(table).unwrap_or_default(),
        action: RuleAction::ToTable,
        ..RuleHeader::default()
    };
    message.attributes.push(RuleAttribute::Source(source));
    if u8::try_from(table).is_err() {
        message.attributes.push(RuleAttribute::Table(table));
    }
    message
}

/// Adds a rule for one source address. The kernel gives it the priority before that of all others (`fib_default_rule_pref`
/// in net/core/fib_rules.c). Refused if there is the same already.
pub(crate) fn add(source: IpAddr, table: u32) -> Request {
    Request::new(RouteNetlinkMessage::NewRule(message(source, table)), NLM_F_CREATE | NLM_F_EXCL)
}

/// Removes one rule for one source address.
pub(crate) fn delete(source: IpAddr, table: u32, priority: u32) -> Request {
    let mut message = message(source, table);
    message.attributes.push(RuleAttribute::Priority(priority));
    Request::new(RouteNetlinkMessage::DelRule(message), 0)
}

/// Asks for the rules of all families.
pub(crate) fn all() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetRule(RuleMessage::default())
}

/// Reads one rule. `None`: of a family this crate does not know.
pub(crate) fn parse(payload: &[u8]) -> Result<Option<Present>, Failure> {
    // The parser of the attributes begins where the header ends, without looking whether there is that much.
    RuleHeader::parse(payload).map_err(|e| Failure::Malformed(e.to_string()))?;
    let message = RuleMessage::parse(payload).map_err(|e| Failure::Malformed(e.to_string()))?;
    let header = &message.header;
    if ![AddressFamily::Inet, AddressFamily::Inet6].contains(&header.family) {
        return Ok(None);
    }
    let mut present = Present {
        source: None,
        table: header.table.into(),
        priority: 0,
        plain: header.action == RuleAction::ToTable
            && header.dst_len == 0
            && header.tos == 0
            && header.flags.is_empty(),
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(ip) => present.source = IpNetwork::new(*ip, header.src_len).ok(),
            RuleAttribute::Table(table) => present.table = *table,
            RuleAttribute::Priority(priority) => present.priority = *priority,
            // Said of every rule, and no condition: who made it, and that no prefix length is suppressed.
            RuleAttribute::Protocol(_) | RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            _ => present.plain = false,
        }
    }
    Ok(Some(present))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;

    fn bytes(request: Request) -> Vec<u8> {
        let (RouteNetlinkMessage::NewRule(message) | RouteNetlinkMessage::DelRule(message)) = request.into_message()
        else {
            panic!()
        };
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    #[test]
    fn a_rule_is_a_header_and_a_source_and_a_large_table() {
        // fib_rule_hdr (AF_INET, dst_len, src_len, tos, table, -, -, FR_ACT_TO_TBL, flags), FRA_SRC.
        let small = [2, 0, 32, 0, 100, 0, 0, 1, 0, 0, 0, 0, 8, 0, 2, 0, 10, 0, 0, 2];
        assert_eq!(bytes(add("10.0.0.2".parse().unwrap(), 100)), small);
        let large = bytes(add("10.0.0.2".parse().unwrap(), 1000));
        assert_eq!(large[4], 0);
        assert_eq!(large[20..], [8, 0, 15, 0, 0xe8, 3, 0, 0]);
    }

    #[test]
    fn what_was_sent_is_read_and_another_condition_is_not_plain() {
        let source = "fd00::2".parse().unwrap();
        let mut read = parse(&bytes(delete(source, 1000, 32765))).unwrap().unwrap();
        assert_eq!((read.table, read.priority, read.is_for(source)), (1000, 32765, true));
        assert!(!read.is_for("fd00::3".parse().unwrap()));
        read.plain = false;
        assert!(!read.is_for(source));
        let mut marked = message(source, 100);
        marked.attributes.push(RuleAttribute::FwMark(7));
        let mut payload = vec![0; marked.buffer_len()];
        marked.emit(&mut payload);
        assert!(!parse(&payload).unwrap().unwrap().plain);
    }

    #[test]
    fn no_answer_makes_the_reader_panic() {
        let whole = bytes(delete("10.0.0.2".parse().unwrap(), 1000, 1));
        for length in 0..whole.len() {
            drop(parse(&whole[..length]));
            for byte in [0, 1, 3, 255] {
                let mut wrong = whole.clone();
                wrong[length] = byte;
                drop(parse(&wrong));
            }
        }
        assert!(matches!(parse(&whole[..7]), Err(Failure::Malformed(_))));
    }
}
