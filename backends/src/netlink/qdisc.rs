//! Messages about a link's queueing disciplines and about the filters on what it receives. Their options are encoded here: the
//! message crate has none for a token bucket, and reads no action whose size a later kernel changed. Knows no configuration.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage};

use super::error::Failure;
use super::socket::Request;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
/// Of a token bucket (include/uapi/linux/pkt_sched.h): `struct tc_tbf_qopt`, and a rate that needs more than 32 bits.
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
/// `struct tc_tbf_qopt`, in bytes, and where in it the rate, the limit and the buffer are.
const TBF_LEN: usize = 36;
const TBF_RATE: usize = 8;
const TBF_LIMIT: usize = 24;
const TBF_BUFFER: usize = 28;
/// Of a u32 filter (include/uapi/linux/pkt_cls.h): what it matches, and its actions, numbered from 1.
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
/// `struct tc_mirred` (include/uapi/linux/tc_act/tc_mirred.h), and where in it the link is.
const TCA_MIRRED_PARMS: u16 = 2;
const MIRRED_LINK: usize = 24;
/// Sends the packet out of another link instead.
const TCA_EGRESS_REDIR: i32 = 1;
/// The packet belongs to whom the action gave it.
const TC_ACT_STOLEN: i32 = 4;
/// The link of a filter whose target is gone (net/sched/act_mirred.c, mirred_device_event).
const NO_LINK: u32 = 0;
/// Every protocol, in network order.
const ETH_P_ALL: u16 = 0x0003_u16.to_be();
/// `struct tcmsg`, in bytes.
const HEADER_LEN: usize = 20;

const TBF: &str = "tbf";
const U32: &str = "u32";
/// A root of this number is the reference plugin's too.
const ROOT_HANDLE: TcHandle = TcHandle { major: 1, minor: 0 };
/// What a link receives passes its filters here, whether "ingress" or "clsact" holds them (`TC_H_MIN_INGRESS`).
const RECEIVED: TcHandle = TcHandle { major: u16::MAX, minor: TcHandle::MIN_INGRESS };
/// The only number that both kinds can have.
const CLSACT_HANDLE: TcHandle = TcHandle { major: u16::MAX, minor: 0 };
/// Our filters come after those of others, which the kernel numbers from 49152 down where they do not say (net/sched/cls_api.c):
/// what is redirected comes back behind all of them (`tc_skip_classify`).
pub(crate) const PRIORITY: u16 = 65_520;

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tbf {
    /// Bytes a second.
    pub(crate) rate: u64,
    /// How long the whole burst takes at that rate, in ticks of the packet scheduler.
    pub(crate) buffer: u32,
    /// Bytes that wait at most.
    pub(crate) limit: u32,
}

impl Tbf {
    fn options(self) -> Vec<u8> {
        let mut parameters = [0; TBF_LEN];
        // The kernel takes the greater of both.
        let rate = u32::try_from(self.rate).unwrap_or(u32::MAX);
        for (place, value) in [(TBF_RATE, rate), (TBF_LIMIT, self.limit), (TBF_BUFFER, self.buffer)] {
            if let Some(bytes) = parameters.get_mut(place..place + 4) {
                bytes.copy_from_slice(&value.to_ne_bytes());
            }
        }
        let mut options = attribute(TCA_TBF_PARMS, &parameters);
        if u32::try_from(self.rate).is_err() {
            options.extend(attribute(TCA_TBF_RATE64, &self.rate.to_ne_bytes()));
        }
        options
    }

    fn parse(options: &[u8]) -> Option<Self> {
        let parameters = find(options, TCA_TBF_PARMS)?;
        let wide = find(options, TCA_TBF_RATE64).and_then(|value| Some(u64::from_ne_bytes(value.try_into().ok()?)));
        Some(Self {
            rate: wide.or_else(|| number(parameters, TBF_RATE).map(u64::from))?,
            limit: number(parameters, TBF_LIMIT)?,
            buffer: number(parameters, TBF_BUFFER)?,
        })
    }
}

/// What the kernel says about a queueing discipline: the token bucket, or nothing that is known here.
pub(crate) fn parse(payload: &[u8]) -> Result<Option<Tbf>, Failure> {
    let (_, attributes) = split(payload)?;
    let is_tbf = find(attributes, TCA_KIND).is_some_and(|kind| is_text(kind, TBF));
    Ok(find(attributes, TCA_OPTIONS).filter(|_| is_tbf).and_then(Tbf::parse))
}

/// A u32 filter on what a link receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Priority and protocol (`tcm_info`).
    info: u32,
    handle: u32,
    /// Where packets are redirected to; [`NO_LINK`] if that is gone, and nothing passes.
    target: u32,
}

impl Filter {
    /// Whether it leads to this link, or is ours and leads nowhere any more.
    pub(crate) fn leads_to(&self, link: Option<u32>) -> bool {
        link == Some(self.target) || (self.target == NO_LINK && self.info == info())
    }

    /// Whether it leads to this link.
    pub(crate) fn redirects_to(&self, link: u32) -> bool {
        self.target == link && link != NO_LINK
    }

    /// Reads one of a listing: `None` if it redirects nothing.
    pub(crate) fn parse(payload: &[u8]) -> Result<Option<Self>, Failure> {
        let (header, attributes) = split(payload)?;
        let target = find(attributes, TCA_KIND)
            .filter(|kind| is_text(kind, U32))
            .and_then(|_| find(attributes, TCA_OPTIONS))
            .and_then(|options| find(options, TCA_U32_ACT))
            .and_then(redirection);
        let read = |place| number(header, place).unwrap_or_default();
        Ok(target.map(|target| Self { handle: read(8), info: read(16), target }))
    }

    /// Removes it, and no other of its priority.
    pub(crate) fn delete(&self, link: u32) -> Request {
        let header = TcHeader { handle: self.handle.into(), parent: RECEIVED, info: self.info, ..TcHeader::default() };
        Request::new(RouteNetlinkMessage::DelTrafficFilter(message(link, header, U32)), 0)
    }
}

/// The link to which a list of actions redirects.
fn redirection(actions: &[u8]) -> Option<u32> {
    NlasIterator::new(actions).map_while(Result::ok).find_map(|action| {
        let parameters = find(find(action.value(), TCA_ACT_OPTIONS)?, TCA_MIRRED_PARMS)?;
        is_text(find(action.value(), TCA_ACT_KIND)?, "mirred").then(|| number(parameters, MIRRED_LINK))?
    })
}

/// Gives a link a token bucket for what it sends, or changes the one that was made so. A root that somebody else chose is not
/// replaced: the kernel refuses.
pub(crate) fn shape(link: u32, bucket: Tbf) -> Request {
    let header = TcHeader { handle: ROOT_HANDLE, parent: TcHandle::ROOT, ..TcHeader::default() };
    let mut message = message(link, header, TBF);
    message.attributes.push(TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, bucket.options())));
    Request::new(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE)
}

/// Takes the token bucket away: only one that was made by [`shape`] or by the reference plugin.
pub(crate) fn unshape(link: u32) -> Request {
    let header = TcHeader { handle: ROOT_HANDLE, parent: TcHandle::ROOT, ..TcHeader::default() };
    Request::new(RouteNetlinkMessage::DelQueueDiscipline(message(link, header, TBF)), 0)
}

/// Asks for the discipline of what a link sends. The kernel refuses where it is one of its own making.
pub(crate) fn root(link: u32) -> RouteNetlinkMessage {
    let header = TcHeader { parent: TcHandle::ROOT, ..TcHeader::default() };
    let mut question = message(link, header, TBF);
    question.attributes.clear();
    RouteNetlinkMessage::GetQueueDiscipline(question)
}

/// Makes a place for filters on what a link receives. The kernel refuses with `EEXIST` where there is one, of either kind.
pub(crate) fn receive_filters(link: u32) -> Request {
    let header = TcHeader { handle: CLSACT_HANDLE, parent: TcHandle::CLSACT, ..TcHeader::default() };
    let message = message(link, header, "clsact");
    Request::new(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Redirects all that a link receives to another link. By u32, which the reference plugin needs too, and no other classifier.
pub(crate) fn redirect(link: u32, target: u32) -> Request {
    let mut message = message(link, ours(), U32);
    // struct tc_u32_sel { flags: TC_U32_TERMINAL, .., nkeys: 1, .. } and one struct tc_u32_key of zeros, which all match.
    let selector: [u8; 32] = std::array::from_fn(|place| u8::from(place == 0 || place == 2));
    let action = [
        attribute(TCA_ACT_KIND, b"mirred\0"),
        attribute(TCA_ACT_OPTIONS, &attribute(TCA_MIRRED_PARMS, &mirred(target))),
    ];
    let options = [attribute(TCA_U32_SEL, &selector), attribute(TCA_U32_ACT, &attribute(1, &action.concat()))].concat();
    message.attributes.push(TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options)));
    Request::new(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Removes what [`redirect`] made, wherever it leads.
pub(crate) fn unredirect(link: u32) -> Request {
    Request::new(RouteNetlinkMessage::DelTrafficFilter(message(link, ours(), U32)), 0)
}

/// Asks for all filters on what a link receives.
pub(crate) fn filters(link: u32) -> RouteNetlinkMessage {
    let header = TcHeader { parent: RECEIVED, ..TcHeader::default() };
    let mut question = message(link, header, U32);
    question.attributes.clear();
    RouteNetlinkMessage::GetTrafficFilter(question)
}

/// { index, capab, action, refcnt, bindcnt, eaction, ifindex }
fn mirred(target: u32) -> [u8; 28] {
    let mut parameters = [0; 28];
    for (place, value) in [(8, TC_ACT_STOLEN), (20, TCA_EGRESS_REDIR)] {
        if let Some(bytes) = parameters.get_mut(place..place + 4) {
            bytes.copy_from_slice(&value.to_ne_bytes());
        }
    }
    if let Some(bytes) = parameters.get_mut(MIRRED_LINK..) {
        bytes.copy_from_slice(&target.to_ne_bytes());
    }
    parameters
}

fn ours() -> TcHeader {
    TcHeader { parent: RECEIVED, info: info(), ..TcHeader::default() }
}

fn info() -> u32 {
    u32::from(PRIORITY) << 16 | u32::from(ETH_P_ALL)
}

fn message(link: u32, header: TcHeader, kind: &str) -> TcMessage {
    let header = TcHeader { index: link.cast_signed(), ..header };
    TcMessage::from_parts(header, vec![TcAttribute::Kind(kind.to_owned())])
}

/// Header and attributes of a message.
fn split(payload: &[u8]) -> Result<(&[u8], &[u8]), Failure> {
    payload
        .split_at_checked(HEADER_LEN)
        .ok_or_else(|| Failure::Malformed(format!("message of {} bytes", payload.len())))
}

/// The value of the first attribute of this kind, nested or not.
fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    loop {
        let (&[a, b, c, d], _) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..length)?;
        // The two upper bits are flags (NLA_TYPE_MASK).
        if u16::from_ne_bytes([c, d]) & 0x3fff == kind {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn is_text(value: &[u8], text: &str) -> bool {
    value.strip_suffix(&[0]).unwrap_or(value) == text.as_bytes()
}

fn number(bytes: &[u8], place: usize) -> Option<u32> {
    bytes.get(place..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// One attribute, filled up to a multiple of four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = value.len() + 4;
    let mut bytes = u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;

    fn bytes(request: Request) -> Vec<u8> {
        let (RouteNetlinkMessage::NewQueueDiscipline(message)
        | RouteNetlinkMessage::DelQueueDiscipline(message)
        | RouteNetlinkMessage::NewTrafficFilter(message)
        | RouteNetlinkMessage::DelTrafficFilter(message)) = request.into_message()
        else {
            panic!("another message")
        };
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    #[test]
    fn a_bucket_is_what_the_reference_plugin_sends() {
        let bucket = Tbf { rate: 0x0102_0304, buffer: 0x0506_0708, limit: 0x090a_0b0c };
        // tcmsg (link 7, handle 1:, parent root), TCA_KIND, TCA_OPTIONS { TCA_TBF_PARMS { rate, peakrate, limit, buffer, mtu } }.
        let expected: &[&[u8]] = &[
            &[0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 1, 0, 255, 255, 255, 255, 0, 0, 0, 0],
            &[8, 0, 1, 0, b't', b'b', b'f', 0],
            &[44, 0, 2, 0, 40, 0, 1, 0],
            &[0, 0, 0, 0, 0, 0, 0, 0, 4, 3, 2, 1],
            &[0; 12],
            &[0x0c, 0x0b, 0x0a, 0x09, 8, 7, 6, 5, 0, 0, 0, 0],
        ];
        let made = bytes(shape(7, bucket));
        assert_eq!(made, expected.concat());
        assert_eq!(parse(&made).unwrap(), Some(bucket));
        let wide = Tbf { rate: 5 << 32, ..bucket };
        let made = bytes(shape(7, wide));
        assert_eq!(made[28..32], [56, 0, 2, 0]);
        assert_eq!((&made[44..48], &made[72..76]), (&[255; 4][..], &[12, 0, 4, 0][..]));
        assert_eq!(parse(&made).unwrap(), Some(wide));
    }

    #[test]
    fn a_redirection_matches_all_and_names_its_link() {
        let expected: &[&[u8]] = &[
            // tcmsg: link 7, parent ffff:fff2, info: priority and protocol.
            &[0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0xf2, 0xff, 0xff, 0xff, 0, 3, 0xf0, 0xff],
            &[8, 0, 1, 0, b'u', b'3', b'2', 0],
            &[96, 0, 2, 0],
            // TCA_U32_SEL: terminal, one key.
            &[36, 0, 5, 0, 1, 0, 1, 0],
            &[0; 28],
            // TCA_U32_ACT { 1 { TCA_ACT_KIND, TCA_ACT_OPTIONS { TCA_MIRRED_PARMS } } }
            &[56, 0, 7, 0, 52, 0, 1, 0],
            &[11, 0, 1, 0, b'm', b'i', b'r', b'r', b'e', b'd', 0, 0],
            &[36, 0, 2, 0, 32, 0, 2, 0],
            &[0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0],
        ];
        let made = bytes(redirect(7, 9));
        assert_eq!(made, expected.concat());
        let filter = Filter::parse(&made).unwrap().unwrap();
        assert!(filter.redirects_to(9) && filter.leads_to(Some(9)));
        assert!(!filter.leads_to(Some(8)) && !filter.leads_to(None));
        let deleted = bytes(filter.delete(7));
        assert_eq!(deleted, expected.concat()[..28]);
        assert_eq!(deleted, bytes(unredirect(7)));
    }

    #[test]
    fn a_filter_that_leads_nowhere_is_ours_by_its_priority() {
        let mut made = bytes(redirect(7, 0));
        let filter = Filter::parse(&made).unwrap().unwrap();
        assert!(filter.leads_to(None) && filter.leads_to(Some(9)) && !filter.redirects_to(0));
        made[18] = 1;
        assert!(!Filter::parse(&made).unwrap().unwrap().leads_to(None));
    }

    #[test]
    fn others_are_passed_over() {
        for (place, byte) in [(24, b'x'), (80, b'x')] {
            let mut made = bytes(redirect(7, 9));
            made[place] = byte;
            assert_eq!(Filter::parse(&made).unwrap(), None);
        }
        assert_eq!(parse(&bytes(receive_filters(7))).unwrap(), None);
    }

    #[test]
    fn no_answer_makes_the_readers_panic() {
        let bucket = Tbf { rate: 5 << 32, buffer: 1, limit: 1 };
        for whole in [bytes(shape(7, bucket)), bytes(redirect(7, 9))] {
            for length in 0..whole.len() {
                drop((parse(&whole[..length]), Filter::parse(&whole[..length])));
                for byte in [0, 1, 3, 255] {
                    let mut wrong = whole.clone();
                    wrong[length] = byte;
                    drop((parse(&wrong), Filter::parse(&wrong)));
                }
            }
        }
        assert!(matches!(parse(&[0; 19]), Err(Failure::Malformed(_))));
    }
}
