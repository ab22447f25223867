//! Removal of the rules of several owners at once. What goes is decided from one listing of each chain that attachments share,
//! however many owners there are: a listing takes as long as the node has pods, and a pod may have a hundred attachments.

use std::collections::BTreeSet;

use super::message::{Batch, Family};
use super::rule::{comment_of, expressions, handle, jump};
use super::socket::{ATTEMPTS, InUse, Socket};
use super::{Owner, Rules, iptables, masquerade, spoof};
use crate::netlink::Failure;

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    family: Family,
    table: &'static str,
    chain: String,
}

impl Place {
    fn new(family: Family, table: &'static str, chain: &str) -> Self {
        Self { family, table, chain: chain.to_owned() }
    }
}

/// What goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Doomed {
    /// The rule of this number.
    Rule(Place, u64),
    /// All rules of a chain of an owner's own.
    Rules(Place),
    /// That chain itself.
    Chain(Place),
}

/// What the rules of some owners are found by.
#[derive(Debug, Default)]
struct Sought {
    /// How the comments of masquerade rules begin.
    marks: BTreeSet<String>,
    /// The comments of rules that lead to checks of hardware addresses.
    comments: BTreeSet<String>,
    /// Chains of the owners' own.
    chains: BTreeSet<Place>,
}

impl Sought {
    fn of(all: &[(Rules, Owner<'_>)]) -> Self {
        let mut sought = Self::default();
        for (rules, owner) in all {
            if rules.masquerade {
                sought.marks.insert(masquerade::mark(owner));
                let (chain, _) = iptables::masquerade(owner);
                sought.chains.extend(iptables::FAMILIES.map(|family| Place::new(family, iptables::TABLE, &chain)));
            }
            if rules.spoof_check {
                let (first, second, comment) = spoof::names(owner);
                sought.comments.insert(comment);
                sought.chains.extend([first, second].map(|name| Place::new(Family::Bridge, spoof::TABLE, &name)));
            }
        }
        sought
    }

    /// The chains to list, when of the owners' own `there` are there.
    fn shared(&self, there: &[Place]) -> Vec<Place> {
        let mut shared = Vec::new();
        if !self.marks.is_empty() {
            shared.push(Place::new(Family::Inet, masquerade::TABLE, masquerade::CHECKS));
        }
        if !self.comments.is_empty() {
            shared.push(Place::new(Family::Bridge, spoof::TABLE, spoof::PREROUTING));
        }
        let of_iptables = |family: &Family| there.iter().any(|place| place.family == *family);
        let families = iptables::FAMILIES.into_iter().filter(of_iptables);
        shared.extend(families.map(|family| Place::new(family, iptables::TABLE, iptables::POSTROUTING)));
        shared
    }

    /// The number of a rule in one of the shared chains, where it is an owner's.
    fn own(&self, family: Family, rule: &[u8]) -> Option<u64> {
        let is_own = match family {
            Family::Inet => {
                comment_of(rule).get(..masquerade::MARK_BYTES).is_some_and(|mark| self.marks.contains(mark))
            }
            Family::Bridge => self.comments.contains(&comment_of(rule)),
            Family::Ipv4 | Family::Ipv6 => jump(expressions(rule))
                .is_some_and(|chain| self.chains.contains(&Place { family, table: iptables::TABLE, chain })),
        };
        handle(rule).filter(|_| is_own)
    }
}

/// What goes, in an order in which the kernel lets it: what leads to a chain before it.
fn plan(rules: Vec<(Place, u64)>, there: Vec<Place>, in_use: InUse) -> Vec<Doomed> {
    let mut doomed: Vec<Doomed> = rules.into_iter().map(|(place, number)| Doomed::Rule(place, number)).collect();
    doomed.extend(there.iter().cloned().map(Doomed::Rules));
    doomed.extend(there.into_iter().filter(|_| in_use == InUse::Unlikely).map(Doomed::Chain));
    doomed
}

/// As few transactions as take it all.
fn transactions(doomed: &[Doomed]) -> Vec<Batch> {
    let mut all = Vec::new();
    let mut batch = Batch::new();
    for one in doomed {
        if !batch.has_room() {
            all.push(std::mem::replace(&mut batch, Batch::new()));
        }
        match one {
            Doomed::Rule(Place { family, table, chain }, number) => batch.delete_rule(*family, [table, chain], *number),
            Doomed::Rules(Place { family, table, chain }) => batch.flush(*family, table, chain),
            Doomed::Chain(Place { family, table, chain }) => batch.delete_chain(*family, table, chain),
        }
    }
    all.push(batch);
    all
}

fn look(socket: &mut Socket, sought: &Sought, in_use: InUse) -> Result<Vec<Doomed>, Failure> {
    let chains: Vec<&Place> = sought.chains.iter().collect();
    let asked: Vec<_> = chains.iter().map(|place| (place.family, place.table, place.chain.as_str())).collect();
    let found = socket.have_chains(&asked)?;
    let there: Vec<Place> = chains.into_iter().zip(found).filter(|(_, found)| *found).map(|(p, _)| p.clone()).collect();
    let mut rules = Vec::new();
    for place in sought.shared(&there) {
        let pick = |rule: &[u8]| sought.own(place.family, rule);
        let own = socket.picked(place.family, [place.table, &place.chain], pick, |number| *number)?;
        rules.extend(own.into_iter().map(|number| (place.clone(), number)));
    }
    Ok(plan(rules, there, in_use))
}

/// Removes the rules of all these owners, and says of whom it could not. What is not there is no error.
pub(super) fn remove<'a>(socket: &mut Socket, all: &[(Rules, Owner<'a>)]) -> Vec<(Owner<'a>, Failure)> {
    let all: Vec<_> = all.iter().filter(|(rules, _)| !rules.is_empty()).copied().collect();
    match remove_together(socket, &all) {
        Ok(()) => Vec::new(),
        Err(failure) => match all[..] {
            [(_, owner)] => vec![(owner, failure)],
            // Whose they are that cannot go is found out one by one.
            _ => all.iter().filter_map(|one| Some((one.1, remove_together(socket, &[*one]).err()?))).collect(),
        },
    }
}

fn remove_together(socket: &mut Socket, all: &[(Rules, Owner<'_>)]) -> Result<(), Failure> {
    let sought = Sought::of(all);
    socket.change_in_parts(|socket, in_use| {
        // For one chain that somebody leads to, those of the others need not stay.
        if in_use == InUse::Likely && all.len() > 1 {
            return Err(Failure::Interrupted { attempts: ATTEMPTS });
        }
        Ok(transactions(&look(socket, &sought, in_use)?))
    })
}

#[cfg(test)]
mod tests {
    use super::super::message::Attributes;
    use super::super::rule::{Expressions, Verdict};
    use super::*;

    const BOTH: Rules = Rules { masquerade: true, spoof_check: true };
    const NAT: &str = "nat";

    fn names(number: usize) -> Vec<String> {
        (0..number).map(|n| format!("net{n}")).collect()
    }

    fn owners(names: &[String]) -> Vec<(Rules, Owner<'_>)> {
        names.iter().map(|ifname| (BOTH, Owner { network: ifname, sandbox: "c1", ifname })).collect()
    }

    fn rule(number: u64, comment: &str, jumps_to: &str) -> Vec<u8> {
        let mut rule = Attributes::default();
        let list = Expressions::default().verdict(Verdict::Jump(jumps_to));
        rule.handle(3, number).raw(4, list.bytes()).comment(7, comment);
        rule.bytes
    }

    #[test]
    fn shared_chains_are_listed_once_for_however_many_owners() {
        for number in [1, 128] {
            let names = names(number);
            let sought = Sought::of(&owners(&names));
            assert_eq!((sought.marks.len(), sought.comments.len(), sought.chains.len()), (number, number, 4 * number));
            let shared = sought.shared(&sought.chains.iter().cloned().collect::<Vec<_>>());
            assert_eq!(
                shared,
                [
                    Place::new(Family::Inet, "cni_plugins_masquerade", "masq_checks"),
                    Place::new(Family::Bridge, NAT, "PREROUTING"),
                    Place::new(Family::Ipv4, NAT, "POSTROUTING"),
                    Place::new(Family::Ipv6, NAT, "POSTROUTING"),
                ]
            );
            assert_eq!(sought.shared(&[]), shared[..2], "no chain of iptables, no listing of its chains");
        }
        assert_eq!(Sought::of(&[]).shared(&[]), []);
    }

    #[test]
    fn of_a_listing_only_the_owners_rules_go() {
        let names = names(3);
        let owners = owners(&names);
        let sought = Sought::of(&owners[..2]);
        let numbered = |text: fn(&Owner<'_>) -> String| owners.iter().zip(7..).map(move |((_, o), n)| (n, text(o)));
        let own = |family, rules: Vec<Vec<u8>>| -> Vec<u64> {
            rules.iter().filter_map(|rule| sought.own(family, rule)).collect()
        };
        let inet = numbered(masquerade::comment).map(|(n, text)| rule(n, &text, ""));
        assert_eq!(own(Family::Inet, inet.chain([rule(3, "", ""), rule(4, "somebody's", "")]).collect()), [7, 8]);
        let bridge = numbered(|owner| spoof::names(owner).2).map(|(n, text)| rule(n, &text, ""));
        assert_eq!(own(Family::Bridge, bridge.chain([rule(3, "", "")]).collect()), [7, 8]);
        let ipv6 = numbered(|owner| iptables::masquerade(owner).0).map(|(n, chain)| rule(n, "", &chain));
        assert_eq!(own(Family::Ipv6, ipv6.chain([rule(3, "", "CNI-other")]).collect()), [7, 8]);
    }

    #[test]
    fn what_leads_to_a_chain_goes_before_it_and_a_chain_in_use_stays() {
        let (shared, own) = (Place::new(Family::Bridge, NAT, "PREROUTING"), Place::new(Family::Bridge, NAT, "own"));
        let rules = vec![(shared.clone(), 7)];
        let emptied = [Doomed::Rule(shared, 7), Doomed::Rules(own.clone())];
        assert_eq!(plan(rules.clone(), vec![own.clone()], InUse::Likely), emptied);
        let all = plan(rules, vec![own.clone()], InUse::Unlikely);
        assert_eq!((&all[..2], &all[2..]), (&emptied[..], &[Doomed::Chain(own)][..]));
    }

    #[test]
    fn a_transaction_is_never_larger_than_a_socket_takes() {
        let place = Place::new(Family::Inet, masquerade::TABLE, &"c".repeat(255));
        let doomed = |number| vec![Doomed::Rule(place.clone(), 1); number];
        assert_eq!(transactions(&doomed(256)).len(), 1);
        let many = transactions(&doomed(1000));
        assert!(many.len() < 5 && many.iter().all(|batch| !batch.is_full() && !batch.is_empty()), "{}", many.len());
    }
}
