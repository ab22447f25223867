//! Expressions of a rule, and what is read of a rule that is there. Attribute numbers are those of
//! include/uapi/linux/netfilter/nf_tables.h.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::message::{Attributes, contains, each, find};

/// `NFT_REG_1`
pub(super) const REGISTER: u32 = 1;
const META_NFPROTO: u32 = 15;
pub(super) const META_IIFNAME: u32 = 6;
pub(super) const EQUAL: u32 = 0;
pub(super) const NOT_EQUAL: u32 = 1;
/// Payload bases.
const LINK: u32 = 0;
pub(super) const NETWORK: u32 = 1;
/// Longest interface name with its NUL (`IFNAMSIZ`).
const IFNAMSIZ: usize = 16;

/// What becomes of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict<'a> {
    Drop,
    Accept,
    Return,
    Jump(&'a str),
    Goto(&'a str),
}

/// A rule's expressions.
#[derive(Debug, Default)]
pub(super) struct Expressions(Attributes);

impl Expressions {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// Whether a rule that the kernel tells has these expressions and no others.
    pub(super) fn are(&self, there: &[u8]) -> bool {
        let pairs = each(there).zip(each(self.bytes()));
        each(there).count() == each(self.bytes()).count() && pairs.into_iter().all(|(a, b)| contains(a.1, b.1))
    }

    pub(super) fn push(mut self, name: &str, fill: impl FnOnce(&mut Attributes)) -> Self {
        self.0.nest(1, |element| {
            element.text(1, name).nest(2, fill);
        });
        self
    }

    pub(super) fn meta(self, key: u32) -> Self {
        self.push("meta", |meta| {
            meta.number(2, key).number(1, REGISTER);
        })
    }

    pub(super) fn payload(self, base: u32, offset: u32, length: u32) -> Self {
        self.push("payload", |payload| {
            payload.number(1, REGISTER).number(2, base).number(3, offset).number(4, length);
        })
    }

    pub(super) fn compare(self, operator: u32, value: &[u8]) -> Self {
        self.push("cmp", |compare| {
            compare.number(1, REGISTER).number(2, operator).nest(3, |data| {
                data.raw(1, value);
            });
        })
    }

    pub(super) fn mask(self, mask: &[u8]) -> Self {
        self.push("bitwise", |bitwise| {
            bitwise.number(1, REGISTER).number(2, REGISTER).number(3, u32::try_from(mask.len()).unwrap_or_default());
            bitwise.nest(4, |data| {
                data.raw(1, mask);
            });
            bitwise.nest(5, |data| {
                data.raw(1, &vec![0; mask.len()]);
            });
        })
    }

    /// The packet is of the address' family.
    fn family(self, ip: IpAddr) -> Self {
        self.meta(META_NFPROTO).compare(EQUAL, &[if ip.is_ipv4() { 2 } else { 10 }])
    }

    /// The source is this address.
    pub(super) fn from(self, ip: IpAddr) -> Self {
        let (bytes, offset) = octets(ip, [12, 8]);
        let length = u32::try_from(bytes.len()).unwrap_or_default();
        self.family(ip).payload(NETWORK, offset, length).compare(EQUAL, &bytes)
    }

    /// The destination is in this network, whose family is given already.
    fn destination(self, network: IpNetwork, operator: u32) -> Self {
        let (bytes, offset) = octets(network.network(), [16, 24]);
        let (mask, _) = octets(network.mask(), [0, 0]);
        let prefix = usize::from(network.prefix());
        if prefix.is_multiple_of(8) {
            // Whole bytes need no mask.
            let bytes = bytes.get(..prefix / 8).unwrap_or_default();
            let length = u32::try_from(bytes.len()).unwrap_or_default();
            return self.payload(NETWORK, offset, length).compare(operator, bytes);
        }
        let length = u32::try_from(bytes.len()).unwrap_or_default();
        self.payload(NETWORK, offset, length).mask(&mask).compare(operator, &bytes)
    }

    /// The destination is in this network.
    pub(super) fn to(self, network: IpNetwork) -> Self {
        self.family(network.ip()).destination(network, EQUAL)
    }

    /// The destination is not in this network. To follow [`Expressions::from`].
    pub(super) fn not_to(self, network: IpNetwork) -> Self {
        self.destination(network, NOT_EQUAL)
    }

    /// It came in by this link.
    pub(super) fn by_link(self, name: &str) -> Self {
        self.meta(META_IIFNAME).compare(EQUAL, &link_name(name))
    }

    /// Its source hardware address is this.
    pub(super) fn source(self, mac: [u8; 6]) -> Self {
        self.payload(LINK, 6, 6).compare(EQUAL, &mac)
    }

    pub(super) fn masquerade(self) -> Self {
        self.push("masq", |_| {})
    }

    pub(super) fn verdict(self, verdict: Verdict<'_>) -> Self {
        let (code, chain) = match verdict {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Return => (-5, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
        };
        self.push("immediate", |immediate| {
            immediate.number(1, 0).nest(2, |data| {
                data.nest(2, |verdict| {
                    verdict.raw(1, &i32::to_be_bytes(code));
                    if let Some(chain) = chain {
                        verdict.text(2, chain);
                    }
                });
            });
        })
    }
}

/// A link's name as the kernel compares it.
pub(super) fn link_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(IFNAMSIZ, 0);
    bytes
}

/// An address' bytes, and the offset of its family.
pub(super) fn octets(ip: IpAddr, [v4, v6]: [u32; 2]) -> (Vec<u8>, u32) {
    match ip {
        IpAddr::V4(ip) => (ip.octets().to_vec(), v4),
        IpAddr::V6(ip) => (ip.octets().to_vec(), v6),
    }
}

/// A rule's number among its attributes.
pub(super) fn handle(rule: &[u8]) -> Option<u64> {
    find(rule, 3).and_then(|bytes| bytes.first_chunk()).map(|bytes| u64::from_be_bytes(*bytes))
}

/// A rule's expressions among its attributes, as the kernel tells them.
pub(super) fn expressions(rule: &[u8]) -> &[u8] {
    find(rule, 4).unwrap_or_default()
}

/// A rule's comment; empty where there is none.
pub(super) fn comment_of(rule: &[u8]) -> String {
    find(rule, 7).and_then(comment).unwrap_or_default()
}

/// A rule that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) handle: u64,
    /// The comment; empty where there is none.
    pub(super) comment: String,
    /// The chain it jumps to; empty where it does not.
    pub(super) jumps_to: String,
    /// The values it compares with, in order.
    pub(super) compared: Vec<Vec<u8>>,
}

impl Found {
    /// Reads a rule's attributes; none where they are of no rule.
    pub(super) fn parse(attributes: &[u8]) -> Option<Self> {
        let handle = handle(attributes)?;
        let comment = comment_of(attributes);
        let jumps_to = find(attributes, 4).and_then(jump).unwrap_or_default();
        let compared = find(attributes, 4).map(compared).unwrap_or_default();
        Some(Self { handle, comment, jumps_to, compared })
    }
}

/// A rule of any chain of a table, with what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) chain: String,
    pub(super) handle: u64,
    /// The comment; empty where there is none.
    pub(super) comment: String,
    /// As the kernel tells them.
    pub(super) expressions: Vec<u8>,
}

impl Told {
    /// Reads a rule's attributes; none where they are of no rule.
    pub(super) fn parse(attributes: &[u8]) -> Option<Self> {
        Some(Self {
            chain: find(attributes, 2).map(text)?,
            handle: handle(attributes)?,
            comment: comment_of(attributes),
            expressions: expressions(attributes).to_vec(),
        })
    }
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// Type 0 of the user data's entries.
pub(super) fn comment(mut entries: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = entries {
        let value = rest.get(..usize::from(*length))?;
        if *kind == 0 {
            return Some(text(value));
        }
        entries = rest.get(usize::from(*length)..)?;
    }
    None
}

/// The chain of the first expression that is a verdict with one.
pub(super) fn jump(list: &[u8]) -> Option<String> {
    each(list).find_map(|(_, element)| {
        let is_immediate = find(element, 1).is_some_and(|name| text(name) == "immediate");
        let data = find(element, 2).filter(|_| is_immediate)?;
        find(find(find(data, 2)?, 2)?, 2).map(text)
    })
}

/// The values of all comparisons.
pub(super) fn compared(list: &[u8]) -> Vec<Vec<u8>> {
    let value = |(_, element)| {
        let is_compare = find(element, 1).is_some_and(|name| text(name) == "cmp");
        find(find(find(element, 2).filter(|_| is_compare)?, 3)?, 1).map(<[u8]>::to_vec)
    };
    each(list).filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_back() {
        let expressions = Expressions::default().by_link("veth0").verdict(Verdict::Jump("chain"));
        let mut attributes = Attributes::default();
        attributes.text(1, "table").handle(3, 7).raw(4, expressions.bytes()).comment(7, "whose");
        let found = Found::parse(&attributes.bytes).unwrap();
        assert_eq!(
            found,
            Found {
                handle: 7,
                comment: "whose".to_owned(),
                jumps_to: "chain".to_owned(),
                compared: vec![link_name("veth0")]
            }
        );
    }

    #[test]
    fn a_rule_is_the_same_only_with_every_expression_and_every_value() {
        let multicast = |verdict| Expressions::default().to("224.0.0.0/4".parse().unwrap()).verdict(verdict);
        let wanted = multicast(Verdict::Return);
        // The kernel does not mark nesting, and tells an attribute that nobody gave.
        let mut there = Attributes::default();
        for (_, element) in each(wanted.bytes()) {
            let mut told = Attributes::default();
            for (kind, value) in each(element) {
                let more = if kind & 0x7fff == 2 { &[8, 0, 77, 0, 0, 0, 0, 1][..] } else { &[] };
                told.raw(kind & 0x7fff, &[more, value].concat());
            }
            there.raw(1, &told.bytes);
        }
        assert!(wanted.are(&there.bytes));
        assert!(!multicast(Verdict::Drop).are(&there.bytes));
        assert!(!multicast(Verdict::Goto("x")).are(&there.bytes));
        assert!(!Expressions::default().verdict(Verdict::Return).are(&there.bytes));
        assert!(!wanted.are(&[]));
        there.raw(1, &[]);
        assert!(!wanted.are(&there.bytes), "one expression more");
    }

    #[test]
    fn hostile_attributes_end_the_reading() {
        let whole = {
            let mut attributes = Attributes::default();
            attributes.handle(3, 7).comment(7, "whose");
            attributes.bytes
        };
        for length in 0..whole.len() {
            let _ = Found::parse(&whole[..length]);
        }
        for at in 0..whole.len() {
            for value in [0, 1, 3, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = Found::parse(&bytes);
            }
        }
        assert_eq!(Found::parse(&[]), None);
        assert_eq!(comment(&[0, 200, b'x']), None);
    }

    #[test]
    fn prefixes_of_whole_bytes_need_no_mask() {
        let length = |network: &str| Expressions::default().to(network.parse().unwrap()).bytes().len();
        assert!(length("10.0.0.0/8") < length("10.0.0.0/9"));
        assert!(length("fd00::/64") < length("fd00::/63"));
    }
}
