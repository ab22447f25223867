//! nfnetlink messages as bytes (include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h): integers big-endian, texts with a NUL,
//! nested attributes marked, everything padded to four bytes. Knows no table of ours.

/// A batch is cut here: a socket takes 208 kB at once (net.core.wmem_default).
const BATCH_BYTES_MAX: usize = 128 * 1024;
/// A message that removes something: a header, a number, and two names of up to 256 bytes (`NFT_NAME_MAXLEN`).
const REMOVAL_BYTES_MAX: usize = 1024;

const NLM_F_REQUEST: u16 = 0x001;
const NLM_F_ACK: u16 = 0x004;
pub(super) const NLM_F_ECHO: u16 = 0x008;
pub(super) const NLM_F_DUMP: u16 = 0x300;
/// Of a new object: what is there already is refused.
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;
pub(super) const NLA_F_NESTED: u16 = 1 << 15;
/// What is left of an attribute's type without its flags.
const NLA_TYPE_MASK: u16 = 0x3fff;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
/// `NFNL_SUBSYS_NFTABLES`
pub(super) const SUBSYSTEM: u16 = 10;

/// The sequence number of a batch's first message: the frame around it has the one before.
const FIRST: u32 = 2;

/// A netlink header and `struct nfgenmsg`, in bytes.
const HEADER_LEN: usize = 20;

/// Protocol families (include/uapi/linux/netfilter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    Inet = 1,
    Ipv4 = 2,
    Bridge = 7,
    Ipv6 = 10,
}

impl Family {
    /// nft's word.
    fn word(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ipv4 => "ip",
            Self::Bridge => "bridge",
            Self::Ipv6 => "ip6",
        }
    }
}

/// Message numbers (`enum nf_tables_msg_types`).
pub(super) const NEWTABLE: u16 = 0;
pub(super) const DELTABLE: u16 = 2;
pub(super) const NEWCHAIN: u16 = 3;
pub(super) const GETCHAIN: u16 = 4;
pub(super) const DELCHAIN: u16 = 5;
pub(super) const NEWRULE: u16 = 6;
pub(super) const GETRULE: u16 = 7;
pub(super) const DELRULE: u16 = 8;
pub(super) const NEWSET: u16 = 9;
pub(super) const NEWSETELEM: u16 = 12;
pub(super) const GETSETELEM: u16 = 13;
pub(super) const DELSETELEM: u16 = 14;
pub(super) const GETGEN: u16 = 16;

/// Attributes under construction.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    pub(super) bytes: Vec<u8>,
}

impl Attributes {
    pub(super) fn raw(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        let length = u16::try_from(payload.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(payload);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.raw(kind, &value.to_be_bytes())
    }

    pub(super) fn handle(&mut self, kind: u16, value: u64) -> &mut Self {
        self.raw(kind, &value.to_be_bytes())
    }

    pub(super) fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        self.raw(kind, &[text.as_bytes(), b"\0"].concat())
    }

    pub(super) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) -> &mut Self {
        let mut nested = Self::default();
        inner(&mut nested);
        self.raw(kind | NLA_F_NESTED, &nested.bytes)
    }

    /// A comment as nft writes it: a type, a length, the text with its NUL.
    pub(super) fn comment(&mut self, kind: u16, text: &str) -> &mut Self {
        let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
        self.raw(kind, &[&[0, length], text.as_bytes(), b"\0"].concat())
    }
}

/// What makes a chain one that packets come by (`NFTA_CHAIN_TYPE`, `NFTA_CHAIN_HOOK`, `NFTA_CHAIN_POLICY`).
#[derive(Debug, Clone, Copy)]
pub(super) struct Base {
    pub(super) kind: &'static str,
    pub(super) hook: u32,
    pub(super) priority: i32,
    /// None: not told, the kernel's own.
    pub(super) policy: Option<u32>,
}

impl Base {
    fn fill(&self, chain: &mut Attributes) {
        chain.nest(4, |hook| {
            hook.number(1, self.hook).raw(2, &self.priority.to_be_bytes());
        });
        if let Some(policy) = self.policy {
            chain.number(5, policy);
        }
        chain.text(7, self.kind);
    }

    /// Whether a chain with these attributes is one.
    pub(super) fn is(&self, chain: &[u8]) -> bool {
        let mut wanted = Attributes::default();
        self.fill(&mut wanted);
        contains(chain, &wanted.bytes)
    }
}

/// The attributes in these bytes, with the flags of their types; ends at the first that is cut short.
pub(super) fn each(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk::<2>()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk::<2>()?);
        let payload = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// The payload of the first attribute of this type.
pub(super) fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    each(attributes).find(|(found, _)| found & NLA_TYPE_MASK == kind).map(|(_, payload)| payload)
}

/// Whether each wanted attribute, nested ones too, is there with its value. The kernel tells more than it was told, in an order
/// of its own, and marks nesting or not. As deep as `wanted`, which is ours.
pub(super) fn contains(there: &[u8], wanted: &[u8]) -> bool {
    each(wanted).all(|(kind, value)| {
        let Some(found) = find(there, kind & NLA_TYPE_MASK) else { return false };
        if kind & NLA_F_NESTED == 0 { found == value } else { contains(found, value) }
    })
}

/// A transaction under construction.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    /// Where the header of the last message begins.
    last: usize,
    /// Where each message but the frame works, for a person: the first has the sequence number [`FIRST`].
    places: Vec<String>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self::begin(&[])
    }

    /// One that the kernel refuses (`ERESTART`) if anybody changed anything since this generation.
    pub(super) fn under(generation: u32) -> Self {
        let mut attributes = Attributes::default();
        attributes.number(1, generation);
        Self::begin(&attributes.bytes)
    }

    fn begin(attributes: &[u8]) -> Self {
        let mut batch = Self { bytes: Vec::with_capacity(4096), sequence: 0, last: 0, places: Vec::new() };
        batch.header(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 0, SUBSYSTEM, attributes);
        batch
    }

    /// Whether it changes nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.last == 0
    }

    /// Whether it is as long as a socket takes.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() > BATCH_BYTES_MAX
    }

    /// Whether one more message that removes something fits in.
    pub(super) fn has_room(&self) -> bool {
        self.bytes.len() + REMOVAL_BYTES_MAX <= BATCH_BYTES_MAX
    }

    fn header(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) {
        self.sequence += 1;
        self.bytes.extend(header(kind, flags, self.sequence, family, resource, attributes.len()));
        self.bytes.extend(attributes);
    }

    /// A message of `[table, chain]`; the chain is empty where the table itself is meant.
    pub(super) fn message(
        &mut self,
        number: u16,
        flags: u16,
        family: Family,
        [table, chain]: [&str; 2],
        fill: impl FnOnce(&mut Attributes),
    ) {
        let mut attributes = Attributes::default();
        attributes.text(1, table);
        fill(&mut attributes);
        self.last = self.bytes.len();
        self.header(SUBSYSTEM << 8 | number, NLM_F_REQUEST | flags, family as u8, 0, &attributes.bytes);
        let chain = if chain.is_empty() { String::new() } else { format!(", chain {chain}") };
        self.places.push(format!("table {} {table}{chain}", family.word()));
    }

    /// A table, unless it is there.
    pub(super) fn table(&mut self, family: Family, name: &str, comment: Option<&str>) {
        self.message(NEWTABLE, NLM_F_CREATE, family, [name, ""], |table| {
            table.number(2, 0);
            if let Some(comment) = comment {
                table.comment(6, comment);
            }
        });
    }

    /// A chain, unless it is there.
    pub(super) fn chain(&mut self, family: Family, table: &str, name: &str, more: impl FnOnce(&mut Attributes)) {
        self.message(NEWCHAIN, NLM_F_CREATE, family, [table, name], |chain| {
            chain.text(3, name);
            more(chain);
        });
    }

    /// A chain that packets come by, unless it is there.
    pub(super) fn base_chain(&mut self, family: Family, table: &str, name: &str, base: &Base) {
        self.chain(family, table, name, |chain| base.fill(chain));
    }

    /// A chain that packets come by, which nobody has made before: its policy would be changed.
    pub(super) fn new_base_chain(&mut self, family: Family, table: &str, name: &str, base: &Base) {
        self.message(NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL, family, [table, name], |chain| {
            chain.text(3, name);
            base.fill(chain);
        });
    }

    pub(super) fn delete_chain(&mut self, family: Family, table: &str, name: &str) {
        self.message(DELCHAIN, 0, family, [table, name], |chain| {
            chain.text(3, name);
        });
    }

    /// Removes every rule of a chain.
    pub(super) fn flush(&mut self, family: Family, table: &str, chain: &str) {
        self.message(DELRULE, 0, family, [table, chain], |rule| {
            rule.text(2, chain);
        });
    }

    /// A rule at the end of its chain.
    pub(super) fn rule(
        &mut self,
        family: Family,
        [table, chain]: [&str; 2],
        expressions: &super::rule::Expressions,
        comment: Option<&str>,
    ) {
        self.message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, family, [table, chain], |rule| {
            rule.text(2, chain).raw(4 | NLA_F_NESTED, expressions.bytes());
            if let Some(comment) = comment {
                rule.comment(7, comment);
            }
        });
    }

    pub(super) fn delete_rule(&mut self, family: Family, [table, chain]: [&str; 2], handle: u64) {
        self.message(DELRULE, 0, family, [table, chain], |rule| {
            rule.text(2, chain).handle(3, handle);
        });
    }

    /// Where the message of this sequence number works; none for the frame.
    pub(super) fn place(&self, sequence: u32) -> Option<&str> {
        let index = usize::try_from(sequence.checked_sub(FIRST)?).ok()?;
        self.places.get(index).map(String::as_str)
    }

    /// The whole transaction; its last message asks for an acknowledgement.
    pub(super) fn finish(&mut self) -> &[u8] {
        let flags = self.last + 6;
        if let Some(bytes) = self.bytes.get_mut(flags..flags + 2) {
            let asked = bytes.first_chunk::<2>().map_or(0, |flags| u16::from_ne_bytes(*flags)) | NLM_F_ACK;
            bytes.copy_from_slice(&asked.to_ne_bytes());
        }
        self.header(NFNL_MSG_BATCH_END, NLM_F_REQUEST, 0, SUBSYSTEM, &[]);
        &self.bytes
    }
}

fn header(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, length: usize) -> Vec<u8> {
    let length = u32::try_from(HEADER_LEN + length).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER_LEN);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes
}

/// Asks for the rules of one chain.
pub(super) fn rules_of(sequence: u32, family: Family, table: &str, chain: &str) -> Vec<u8> {
    let mut attributes = Attributes::default();
    attributes.text(1, table).text(2, chain);
    question(GETRULE, NLM_F_DUMP, sequence, family, &attributes)
}

/// Asks for the rules of all chains of a table.
pub(super) fn rules_of_table(sequence: u32, family: Family, table: &str) -> Vec<u8> {
    let mut attributes = Attributes::default();
    attributes.text(1, table);
    question(GETRULE, NLM_F_DUMP, sequence, family, &attributes)
}

/// Asks for the number of changes so far.
pub(super) fn generation(sequence: u32) -> Vec<u8> {
    question(GETGEN, 0, sequence, Family::Inet, &Attributes::default())
}

/// Asks for one rule.
pub(super) fn rule_of(sequence: u32, family: Family, [table, chain]: [&str; 2], handle: u64) -> Vec<u8> {
    let mut attributes = Attributes::default();
    attributes.text(1, table).text(2, chain).handle(3, handle);
    question(GETRULE, NLM_F_ACK, sequence, family, &attributes)
}

/// Whether a message of the kernel tells of a rule that is there.
pub(super) fn is_rule(kind: u16) -> bool {
    kind == SUBSYSTEM << 8 | NEWRULE
}

/// Asks for one chain.
pub(super) fn chain_of(sequence: u32, family: Family, table: &str, chain: &str) -> Vec<u8> {
    let mut attributes = Attributes::default();
    attributes.text(1, table).text(3, chain);
    question(GETCHAIN, NLM_F_ACK, sequence, family, &attributes)
}

pub(super) fn question(number: u16, flags: u16, sequence: u32, family: Family, attributes: &Attributes) -> Vec<u8> {
    let kind = SUBSYSTEM << 8 | number;
    let mut bytes = header(kind, NLM_F_REQUEST | flags, sequence, family as u8, 0, attributes.bytes.len());
    bytes.extend(&attributes.bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_framed_and_its_last_message_is_acknowledged() {
        let mut batch = Batch::new();
        assert!(batch.is_empty());
        batch.table(Family::Inet, "t", None);
        let bytes = batch.finish().to_vec();
        let first = |at: usize| bytes[at..at + 8].to_vec();
        assert_eq!(first(0), [20, 0, 0, 0, 16, 0, 1, 0]);
        // 20 + the name (4 + 2, padded to 8) + flags (8)
        assert_eq!(first(20), [36, 0, 0, 0, 0, 10, 5, 4]);
        assert_eq!(bytes[36..40], [1, 0, 0, 0], "family inet, version 0, resource 0");
        assert_eq!(bytes[40..48], [6, 0, 1, 0, b't', 0, 0, 0]);
        assert_eq!(bytes[48..56], [8, 0, 2, 0, 0, 0, 0, 0]);
        assert_eq!(first(56), [20, 0, 0, 0, 17, 0, 1, 0]);
        assert_eq!(bytes[74..76], [0, 10]);
        assert_eq!((batch.place(1), batch.place(2), batch.place(3)), (None, Some("table inet t"), None));
    }

    #[test]
    fn a_batch_can_be_bound_to_a_generation() {
        let mut batch = Batch::under(0x0102_0304);
        assert!(batch.is_empty());
        batch.table(Family::Ipv4, "t", None);
        let bytes = batch.finish();
        assert_eq!(bytes[..8], [28, 0, 0, 0, 16, 0, 1, 0]);
        assert_eq!(bytes[20..28], [8, 0, 1, 0, 1, 2, 3, 4]);
        assert_eq!((batch.place(1), batch.place(2)), (None, Some("table ip t")));
    }

    #[test]
    fn a_comment_is_a_type_a_length_and_a_text() {
        let mut attributes = Attributes::default();
        attributes.comment(7, "ctr-aaaa");
        assert_eq!(attributes.bytes, [&[15, 0, 7, 0, 0, 9][..], b"ctr-aaaa\0", &[0]].concat());
    }
}
