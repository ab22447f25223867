//! What all attachments share in a family's table: the way from FORWARD to the rules for each address, and the administrator's
//! chain. Written only where something of it is missing.

use super::isolation::Isolation;
use super::place::{At, Listed};
use super::words::{FORWARD, OWN, TABLE, admin, isolation, lead};
use crate::netlink::Failure;
use crate::nft::message::{Base, Batch, Family};
use crate::nft::rule::{Expressions, handle};
use crate::nft::socket::Socket;

/// `NF_INET_FORWARD`, `NF_IP_PRI_FILTER`; whatever its policy.
const BASE: Base = Base { kind: "filter", hook: 2, priority: 0, policy: None };
/// As iptables makes it: `NF_ACCEPT`.
const NEW_BASE: Base = Base { policy: Some(1), ..BASE };

/// What is there.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    pub(super) family: Family,
    admin: &'a str,
    /// Packets come by FORWARD.
    has_base: bool,
    forward: Vec<Listed>,
    /// The administrator's chain is jumped to.
    has_admin: bool,
}

impl<'a> Layout<'a> {
    pub(super) fn look(socket: &mut Socket, family: Family, admin: &'a str) -> Result<Self, Failure> {
        let forward = socket.picked(family, [TABLE, FORWARD], Listed::parse, |rule| rule.handle)?;
        // Who leads there came by it already.
        let has_base =
            forward.iter().any(|rule| rule.is(&lead())) || socket.has_base_chain(family, [TABLE, FORWARD], &BASE)?;
        Ok(Self { family, admin, has_base, forward, has_admin: is_jumped_to(socket, family, admin)? })
    }

    /// Where a rule of FORWARD is, and its handle.
    fn find(&self, wanted: &Expressions) -> Option<(usize, u64)> {
        let at = self.forward.iter().position(|rule| rule.is(wanted))?;
        self.forward.get(at).map(|rule| (at, rule.handle))
    }

    /// Whether packets come by the rules for each address.
    pub(super) fn leads(&self) -> bool {
        self.find(&lead()).is_some()
    }

    /// Whether nothing is missing for the rules of an address.
    pub(super) fn is_complete(&self) -> bool {
        self.has_admin && self.leads()
    }

    /// Whether the isolation of bridges comes before the rules for each address, which let a pod reach everybody.
    pub(super) fn isolates(&self) -> bool {
        let (isolation, lead) = (self.find(&isolation()), self.find(&lead()));
        isolation.is_some_and(|(at, _)| lead.is_none_or(|(lead, _)| at < lead))
    }

    /// Adds what is missing.
    pub(super) fn fill(&self, batch: &mut Batch, wanted: Option<&Isolation<'_>>) {
        let family = self.family;
        if !self.has_base {
            batch.table(family, TABLE, None);
            batch.new_base_chain(family, TABLE, FORWARD, &NEW_BASE);
        }
        if !self.is_complete() {
            batch.chain(family, TABLE, OWN, |_| {});
            batch.chain(family, TABLE, self.admin, |_| {});
        }
        let isolated = self.find(&isolation());
        if !self.leads() {
            let at = isolated.map_or(At::First, |(_, handle)| At::Behind(handle));
            batch.put(family, FORWARD, at, &lead(), None);
        }
        if !self.has_admin {
            batch.put(family, OWN, At::First, &admin(self.admin), None);
        }
        if let Some(wanted) = wanted {
            wanted.fill(batch);
            if !self.isolates() {
                if let Some((_, handle)) = isolated {
                    batch.delete_rule(family, [TABLE, FORWARD], handle);
                }
                batch.put(family, FORWARD, At::First, &isolation(), None);
            }
        }
    }
}

/// Whether any rule jumps to a chain: the kernel counts who refers to it, its own rules among them. The chain from which it is
/// jumped to has two rules for each address of the node: nobody reads these to find the one that is before them.
fn is_jumped_to(socket: &mut Socket, family: Family, chain: &str) -> Result<bool, Failure> {
    let Some(used) = socket.chain_use(family, TABLE, chain)? else { return Ok(false) };
    let own = socket.picked(family, [TABLE, chain], handle, |handle| *handle)?.len();
    Ok(usize::try_from(used).is_ok_and(|used| used > own))
}
