//! macspoofchk: a bridge drops frames of a port that have another source hardware address than the pod's.

use super::message::{Base, Batch, Family};
use super::rule::{Expressions, Found, Verdict, link_name};
use super::socket::Socket;
use super::{Owner, Subject};
use crate::mac::Mac;
use crate::netlink::Failure;

pub(super) const TABLE: &str = "nat";
pub(super) const PREROUTING: &str = "PREROUTING";
/// `NF_BR_PRE_ROUTING`, `NF_BR_PRI_NAT_DST_BRIDGED`, `NF_ACCEPT`.
const BASE: Base = Base { kind: "filter", hook: 0, priority: -300, policy: Some(1) };
/// Where the rules are, for a person.
pub(super) const PLACE: &str = "table bridge nat";

/// How the comment of every rule begins.
pub(super) const COMMENT: &str = "macspoofchk-";

/// How the name of each chain begins.
const CHAIN: &str = "cni-br-iface-";

/// The chain that a port's frames jump to, the one that looks at the address, and the comment of every rule.
pub(super) fn names(owner: &Owner<'_>) -> (String, String, String) {
    let whose = format!("{}-{}", owner.sandbox, owner.ifname);
    (format!("{CHAIN}{whose}"), format!("{CHAIN}{whose}-mac"), format!("{COMMENT}{whose}"))
}

/// Whether what all attachments share is as [`add`] would leave it.
pub(super) fn is_laid_out(socket: &mut Socket) -> Result<bool, Failure> {
    socket.has_base_chain(Family::Bridge, [TABLE, PREROUTING], &BASE)
}

/// `laid_out`: what all attachments share is there.
pub(super) fn add(batch: &mut Batch, owner: &Owner<'_>, port: &str, mac: Mac, laid_out: bool) {
    let (first, second, comment) = names(owner);
    batch.table(Family::Bridge, TABLE, None);
    if !laid_out {
        batch.base_chain(Family::Bridge, TABLE, PREROUTING, &BASE);
    }
    for chain in [&first, &second] {
        batch.chain(Family::Bridge, TABLE, chain, |_| {});
        batch.flush(Family::Bridge, TABLE, chain);
    }
    let mut rule = |chain: &str, rule: &Expressions| batch.rule(Family::Bridge, [TABLE, chain], rule, Some(&comment));
    rule(PREROUTING, &Expressions::default().by_link(port).verdict(Verdict::Jump(&first)));
    rule(&first, &Expressions::default().verdict(Verdict::Jump(&second)));
    rule(&second, &Expressions::default().source(mac.octets()).verdict(Verdict::Return));
    rule(&second, &Expressions::default().verdict(Verdict::Drop));
}

/// The comments of the rules that lead frames to a check.
pub(super) fn comments(socket: &mut Socket) -> Result<Vec<String>, Failure> {
    let rules = jumps(socket)?.into_iter();
    // Nobody else's rule with such a comment leads to the chain of that name.
    let is_ours = |rule: &Found| {
        rule.comment.strip_prefix(COMMENT).is_some_and(|whose| rule.jumps_to == format!("{CHAIN}{whose}"))
    };
    Ok(rules.filter(is_ours).map(|rule| rule.comment).collect())
}

/// All rules that frames come by first.
pub(super) fn jumps(socket: &mut Socket) -> Result<Vec<Found>, Failure> {
    socket.rules(Family::Bridge, TABLE, PREROUTING)
}

/// Whether one of them leads the port's frames to the owner's chain.
pub(super) fn is_led_to(jumps: &[Found], owner: &Owner<'_>, subject: &Subject<'_>) -> bool {
    let ((first, ..), port) = (names(owner), link_name(subject.port));
    jumps.iter().any(|rule| rule.jumps_to == first && rule.compared.contains(&port))
}

/// Whether that chain looks at them, for the pod's hardware address.
pub(super) fn is_there(socket: &mut Socket, owner: &Owner<'_>, subject: &Subject<'_>) -> Result<bool, Failure> {
    let (first, second, comment) = names(owner);
    let looks = socket.rules(Family::Bridge, TABLE, &first)?.iter().any(|rule| rule.jumps_to == second);
    let decides = socket.rules(Family::Bridge, TABLE, &second)?;
    let mac = subject.mac.map(|mac| mac.octets().to_vec());
    let passes = mac.is_none_or(|mac| decides.first().is_some_and(|rule| rule.compared.contains(&mac)));
    let ours = decides.iter().filter(|rule| rule.comment == comment).count();
    Ok(looks && passes && (ours, decides.len()) == (2, 2))
}
