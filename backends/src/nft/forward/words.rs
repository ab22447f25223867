//! The rules that the reference firewall plugin (1.9.1) makes with `iptables`, one function each, with the words of the command
//! where CHECK tells them. Knows no socket.

use std::net::IpAddr;

use crate::nft::rule::{Expressions, Verdict};

/// The table of iptables, one for each family.
pub(in crate::nft) const TABLE: &str = "filter";
/// Where every packet comes by that is forwarded.
pub(super) const FORWARD: &str = "FORWARD";
/// The chain of the rules for each address.
pub(super) const OWN: &str = "CNI-FORWARD";
/// What leaves a bridge that is isolated.
pub(super) const LEAVING: &str = "CNI-ISOLATION-STAGE-1";
/// What is about to enter a bridge that is isolated, and comes from another such.
pub(super) const ENTERING: &str = "CNI-ISOLATION-STAGE-2";

const NOTE: &str = "CNI firewall plugin rules";
const ADMIN_NOTE: &str = "CNI firewall plugin admin overrides";
/// The comment of rules that both policies have.
const EITHER: &str = "same-bridge|isolated";

/// The jump from [`FORWARD`].
pub(super) fn lead() -> Expressions {
    Expressions::default().note(NOTE).counter().verdict(Verdict::Jump(OWN))
}

/// The command's words of [`lead`].
pub(super) fn lead_words() -> String {
    format!("{FORWARD} rule [-m comment --comment {NOTE} -j {OWN}]")
}

/// The jump to the administrator's chain.
pub(super) fn admin(chain: &str) -> Expressions {
    Expressions::default().note(ADMIN_NOTE).counter().verdict(Verdict::Jump(chain))
}

/// The command's words of [`admin`].
pub(super) fn admin_words(chain: &str) -> String {
    format!("{OWN} rule [-m comment --comment {ADMIN_NOTE} -j {chain}]")
}

/// Answers reach the address; it reaches everybody.
pub(super) fn of_address(ip: IpAddr) -> [Expressions; 2] {
    let accepted = |rule: Expressions| rule.counter().verdict(Verdict::Accept);
    [accepted(Expressions::default().sent_to(ip).established()), accepted(Expressions::default().sent_by(ip))]
}

/// The command's words of [`of_address`].
pub(super) fn of_address_words(ip: IpAddr) -> [String; 2] {
    let whole = if ip.is_ipv4() { 32 } else { 128 };
    [
        format!("rule [-d {ip}/{whole} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT]"),
        format!("rule [-s {ip}/{whole} -j ACCEPT]"),
    ]
}

fn policy_note(policy: &str) -> String {
    format!("{NOTE} (ingressPolicy: {policy})")
}

fn end(rule: Expressions, policy: &str, verdict: Verdict<'_>) -> Expressions {
    rule.note(&policy_note(policy)).counter().verdict(verdict)
}

/// The jump from [`FORWARD`], which comes before [`lead`].
pub(super) fn isolation() -> Expressions {
    end(Expressions::default(), EITHER, Verdict::Jump(LEAVING))
}

/// The end of both chains of isolation.
pub(super) fn back() -> Expressions {
    end(Expressions::default(), EITHER, Verdict::Return)
}

/// In [`LEAVING`]: what leaves the bridge is looked at again.
pub(super) fn leaves(bridge: &str, policy: &str) -> Expressions {
    end(Expressions::default().in_by(bridge).not_out_by(bridge), policy, Verdict::Jump(ENTERING))
}

/// In [`LEAVING`]: what stays on the bridge is dropped.
pub(super) fn stays(bridge: &str, policy: &str) -> Expressions {
    end(Expressions::default().in_by(bridge).out_by(bridge), policy, Verdict::Drop)
}

/// In [`ENTERING`]: what comes from another bridge is dropped.
pub(super) fn enters(bridge: &str) -> Expressions {
    end(Expressions::default().out_by(bridge), EITHER, Verdict::Drop)
}
