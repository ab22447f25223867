//! CHECK of several owners: what they share is listed once, however many they are. A listing takes as long as the node has pods, and a
//! pod may have a hundred attachments. Nothing is changed.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use super::forward::{self, Ours};
use super::message::Family;
use super::rule::Found;
use super::socket::Socket;
use super::{Owner, Rules, Subject, iptables, masquerade, spoof};
use crate::error::Error;
use crate::netlink::Failure;

/// What was listed once; what is there since is not seen.
#[derive(Default)]
pub struct Listed {
    socket: Option<Socket>,
    masquerades: Once<Vec<Found>>,
    is_led_to: Once<bool>,
    jumps: Once<Vec<Found>>,
    forwards: BTreeMap<Family, Once<Vec<Ours>>>,
}

impl std::fmt::Debug for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listed").finish_non_exhaustive()
    }
}

/// A value that is asked for at its first use.
#[derive(Debug)]
struct Once<T>(Option<T>);

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Once<T> {
    fn of(&mut self, ask: impl FnOnce() -> Result<T, Failure>) -> Result<&T, Failure> {
        match &mut self.0 {
            Some(known) => Ok(known),
            none => Ok(none.insert(ask()?)),
        }
    }
}

impl Listed {
    /// Whether the rules of an owner are there.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Mismatch`] with what is missing; [`crate::ErrorKind::Io`] if the kernel cannot be asked.
    pub fn check(&mut self, rules: Rules, owner: &Owner<'_>, subject: &Subject<'_>) -> Result<(), Error> {
        if rules.is_empty() {
            return Ok(());
        }
        let failed = |e| Error::kernel("look at nftables rules of", owner.place(), e);
        if rules.masquerade
            && let Some(missing) = self.masquerade(owner, subject).map_err(failed)?
        {
            return Err(Error::mismatch(missing));
        }
        if rules.spoof_check && subject.mac.is_some() && !self.spoof_check(owner, subject).map_err(failed)? {
            let text =
                format!("the rules that check the hardware address of {} are not in {}", owner.ifname, spoof::PLACE);
            return Err(Error::mismatch(text));
        }
        Ok(())
    }

    fn masquerade(&mut self, owner: &Owner<'_>, subject: &Subject<'_>) -> Result<Option<String>, Failure> {
        let addresses: Vec<IpNetwork> = subject.addresses.iter().filter(|a| a.prefix() > 0).copied().collect();
        let (wanted, place) = (addresses.len(), masquerade::PLACE);
        let socket = opened(&mut self.socket)?;
        let found = masquerade::count(self.masquerades.of(|| masquerade::list(socket))?, owner, &addresses);
        if wanted > 0 && found >= wanted && !*self.is_led_to.of(|| masquerade::is_led_to(socket))? {
            return Ok(Some(format!("nothing leads to the masquerade rules in {place}")));
        }
        // The reference plugins' other backend is as good: who was attached by it stays until DEL.
        if found < wanted && !iptables::is_there(socket, owner)? {
            return Ok(Some(format!("{found} of {wanted} masquerade rules for {} are in {place}", owner.ifname)));
        }
        Ok(None)
    }

    fn spoof_check(&mut self, owner: &Owner<'_>, subject: &Subject<'_>) -> Result<bool, Failure> {
        let socket = opened(&mut self.socket)?;
        let jumps = self.jumps.of(|| spoof::jumps(socket))?;
        Ok(spoof::is_led_to(jumps, owner, subject) && spoof::is_there(socket, owner, subject)?)
    }

    /// What lets traffic of pods pass, of a family; and the socket by which everything else of it is asked for.
    pub(super) fn forwards(&mut self, family: Family) -> Result<(&mut Socket, &[Ours]), Failure> {
        let socket = opened(&mut self.socket)?;
        let listed = self.forwards.entry(family).or_default().of(|| forward::list(socket, family))?;
        Ok((socket, listed))
    }
}

/// In the namespace of the calling thread.
fn opened(socket: &mut Option<Socket>) -> Result<&mut Socket, Failure> {
    match socket {
        Some(socket) => Ok(socket),
        none => Ok(none.insert(Socket::open()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_asked_for_once_and_what_failed_again() {
        let (mut once, mut asked) = (Once::default(), 0);
        assert!(once.of(|| Err(Failure::Interrupted { attempts: 1 })).is_err());
        for _ in 0..64 {
            let known = once.of(|| {
                asked += 1;
                Ok(vec![asked])
            });
            assert_eq!(known.unwrap(), &[1]);
        }
        assert_eq!(asked, 1);
    }
}
