//! Expressions of rules as iptables' nft backend writes them: extensions of x_tables as blobs, a counter in every rule.
//! Knows no chain. `iptables` lists, compares and deletes a rule only if it consists of just these bytes.

use std::net::IpAddr;

use crate::nft::message::{Attributes, each, find};
use crate::nft::rule::{EQUAL, Expressions, META_IIFNAME, NETWORK, NOT_EQUAL, octets};

const META_OIFNAME: u32 = 7;
/// `struct xt_comment_info` (include/uapi/linux/netfilter/xt_comment.h), in bytes.
const COMMENT_BYTES: usize = 256;
/// `struct xt_conntrack_mtinfo3` (include/uapi/linux/netfilter/xt_conntrack.h) in bytes, and where its `match_flags` and
/// `state_mask` are.
const CONNTRACK_BYTES: usize = 168;
const CONNTRACK_FLAGS_AT: usize = 146;
const CONNTRACK_STATES_AT: usize = 150;
/// `XT_CONNTRACK_STATE`
const BY_STATE: u16 = 1;
/// `XT_CONNTRACK_STATE_BIT` of `IP_CT_ESTABLISHED` and `IP_CT_RELATED`.
const ESTABLISHED_OR_RELATED: u16 = 1 << 1 | 1 << 2;

/// Writes a number into a blob, in the machine's order. A place outside of it stays unwritten.
fn put(blob: &mut [u8], at: usize, value: u16) {
    if let Some(place) = blob.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_ne_bytes());
    }
}

impl Expressions {
    /// An extension (`NFTA_MATCH_NAME`, `NFTA_MATCH_REV`, `NFTA_MATCH_INFO`).
    fn extension(self, name: &str, revision: u32, blob: &[u8]) -> Self {
        self.push("match", |extension: &mut Attributes| {
            extension.text(1, name).number(2, revision).raw(3, blob);
        })
    }

    /// Whether there is an extension in it.
    pub(super) fn has_extension(&self) -> bool {
        each(self.bytes()).any(|(_, element)| find(element, 1).is_some_and(|name| name == b"match\0"))
    }

    /// `-m comment --comment TEXT`
    pub(super) fn note(self, text: &str) -> Self {
        let mut blob = text.as_bytes().to_vec();
        blob.resize(COMMENT_BYTES, 0);
        self.extension("comment", 0, &blob)
    }

    /// `-m conntrack --ctstate RELATED,ESTABLISHED`
    pub(super) fn established(self) -> Self {
        let mut blob = [0; CONNTRACK_BYTES];
        put(&mut blob, CONNTRACK_FLAGS_AT, BY_STATE);
        put(&mut blob, CONNTRACK_STATES_AT, ESTABLISHED_OR_RELATED);
        self.extension("conntrack", 3, &blob)
    }

    /// What every rule of iptables has before its verdict. Without numbers: whatever was counted, it is the same rule.
    pub(super) fn counter(self) -> Self {
        self.push("counter", |_| {})
    }

    /// `-s ADDRESS`, in a table of its family.
    pub(super) fn sent_by(self, ip: IpAddr) -> Self {
        self.address(ip, [12, 8])
    }

    /// `-d ADDRESS`, in a table of its family.
    pub(super) fn sent_to(self, ip: IpAddr) -> Self {
        self.address(ip, [16, 24])
    }

    fn address(self, ip: IpAddr, offsets: [u32; 2]) -> Self {
        let (bytes, offset) = octets(ip, offsets);
        let length = u32::try_from(bytes.len()).unwrap_or_default();
        self.payload(NETWORK, offset, length).compare(EQUAL, &bytes)
    }

    /// `-i NAME`
    pub(super) fn in_by(self, name: &str) -> Self {
        self.meta(META_IIFNAME).compare(EQUAL, &ended(name))
    }

    /// `-o NAME`
    pub(super) fn out_by(self, name: &str) -> Self {
        self.meta(META_OIFNAME).compare(EQUAL, &ended(name))
    }

    /// `! -o NAME`
    pub(super) fn not_out_by(self, name: &str) -> Self {
        self.meta(META_OIFNAME).compare(NOT_EQUAL, &ended(name))
    }
}

/// A link's name as iptables compares it: up to its NUL, so that no longer name is the same.
pub(super) fn ended(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::forward::words;
    use crate::nft::rule::Verdict;

    /// Attributes as text: numbers of types, bytes in hex without the zeros at their end, how many there are.
    fn told(rule: &Expressions) -> Vec<String> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let value = |value: &[u8]| format!("{}/{}", hex(value).trim_end_matches("00"), value.len());
        let one = |(_, element): (u16, &[u8])| {
            let name = String::from_utf8_lossy(find(element, 1).unwrap_or_default()).trim_end_matches('\0').to_owned();
            let inner = each(find(element, 2).unwrap_or_default());
            let inner: Vec<String> = inner.map(|(kind, bytes)| format!("{} {}", kind & 0x3fff, value(bytes))).collect();
            format!("{name}: {}", inner.join(", "))
        };
        each(rule.bytes()).map(one).collect()
    }

    /// What iptables 1.8.9 sends for the reference plugin, but for the counters' zeros.
    #[test]
    fn rules_are_the_bytes_of_iptables() {
        const COMMENT: &str = "match: 1 636f6d6d656e74/8, 2 /4, 3";
        const ACCEPT: &str = "immediate: 1 /4, 2 0c0002800800010000000001/12";
        let [answers, sent] = words::of_address([10, 1, 0, 2].into());
        let states = format!("{}0100000006", "00".repeat(146));
        assert_eq!(
            told(&answers),
            [
                "payload: 1 00000001/4, 2 00000001/4, 3 00000010/4, 4 00000004/4",
                "cmp: 1 00000001/4, 2 /4, 3 080001000a010002/8",
                &format!("match: 1 636f6e6e747261636b/10, 2 00000003/4, 3 {states}/168"),
                "counter: ",
                ACCEPT,
            ]
        );
        assert_eq!(
            told(&sent),
            [
                "payload: 1 00000001/4, 2 00000001/4, 3 0000000c/4, 4 00000004/4",
                "cmp: 1 00000001/4, 2 /4, 3 080001000a010002/8",
                "counter: ",
                ACCEPT,
            ]
        );
        assert_eq!(
            told(&words::lead()),
            [
                &format!("{COMMENT} 434e49206669726577616c6c20706c7567696e2072756c6573/256"),
                "counter: ",
                "immediate: 1 /4, 2 1c00028008000100fffffffd10000200434e492d464f5257415244/28",
            ]
        );
        assert_eq!(
            told(&words::leaves("br0", "isolated")),
            [
                "meta: 2 00000006/4, 1 00000001/4",
                "cmp: 1 00000001/4, 2 /4, 3 08000100627230/8",
                "meta: 2 00000007/4, 1 00000001/4",
                "cmp: 1 00000001/4, 2 00000001/4, 3 08000100627230/8",
                &format!(
                    "{COMMENT} 434e49206669726577616c6c20706c7567696e2072756c65732028696e6772657373506f6c6963793a2069736f6c6174656429/256"
                ),
                "counter: ",
                "immediate: 1 /4, 2 2800028008000100fffffffd1a000200434e492d49534f4c4154494f4e2d53544147452d32/40",
            ]
        );
    }

    #[test]
    fn an_extension_is_seen() {
        let plain = Expressions::default().counter().verdict(Verdict::Accept);
        assert!(!plain.has_extension() && words::lead().has_extension());
    }
}
