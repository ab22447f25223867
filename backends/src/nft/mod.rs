//! nftables by netlink: masquerade of a pod's addresses, and a bridge that drops frames with another hardware address than the
//! pod's. Tables, chains and comments are those of the reference plugins' nftables backend (1.9.1), so a node that runs both
//! cleans up after either. Every change is one batch, which the kernel applies whole or not at all.
//!
//! Rules are found again by their comment, never by an address that a link may have lost. Of a configuration it knows the backend's name only.

pub(crate) mod forward;
mod iptables;
mod lift;
mod listed;
mod masquerade;
mod message;
mod monitor;
mod nat;
pub(crate) mod ports;
mod rule;
mod set;
mod socket;
mod spoof;
mod survey;

use std::os::fd::OwnedFd;

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use sha2::{Digest, Sha512};

use crate::error::{Error, ErrorKind};
use crate::mac::Mac;
use crate::netlink::Failure;
pub use listed::Listed;
pub use monitor::{RuleMonitor, Taken};
use socket::Socket;
pub use survey::{Noted, noted, remove_noted};

/// Which rules belong to an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// Masquerade of its addresses.
    pub masquerade: bool,
    /// Frames must have the pod's hardware address.
    pub spoof_check: bool,
}

/// The backend of the reference plugins that is this one; also where a configuration names none.
const NFTABLES: &str = "nftables";
/// Their other one, which is not built here.
const IPTABLES: &str = "iptables";

/// What of a configuration's `ipMasq` and `ipMasqBackend` this crate does not build.
pub(crate) fn unsupported(masquerade: bool, backend: Option<&str>) -> Option<&'static str> {
    (masquerade && backend == Some(IPTABLES)).then_some("ipMasqBackend: iptables")
}

/// Refuses a backend that nobody knows, in the reference plugins' words.
pub(crate) fn validate(masquerade: bool, backend: Option<&str>) -> Result<(), Error> {
    match backend {
        Some(unknown) if masquerade && ![NFTABLES, IPTABLES].contains(&unknown) => {
            Err(Error::invalid(format!("unknown ipmasq backend \"{unknown}\"")))
        }
        _ => Ok(()),
    }
}

impl Rules {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Whether they are made of addresses alone: no port of a bridge, no hardware address.
    #[must_use]
    pub fn need_no_link(self) -> bool {
        self.masquerade && !self.spoof_check
    }

    fn include(self, others: Self) -> bool {
        (self.masquerade || !others.masquerade) && (self.spoof_check || !others.spoof_check)
    }
}

/// Whose rules they are: it is in every comment.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The network's name.
    pub network: &'a str,
    /// The container id.
    pub sandbox: &'a str,
    /// The interface in the pod.
    pub ifname: &'a str,
}

/// What the rules say.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The pod's addresses, with their networks' prefix lengths.
    pub addresses: &'a [IpNetwork],
    /// The port of the bridge.
    pub port: &'a str,
    /// The pod's hardware address; none: frames are not checked.
    pub mac: Option<Mac>,
}

/// Adds the rules, all or none.
///
/// # Errors
/// [`crate::ErrorKind::Refused`] if the kernel refuses (something else has a table of that name with other chains, a module is
/// missing), [`crate::ErrorKind::Io`] if it cannot be asked.
pub fn add(rules: Rules, owner: &Owner<'_>, subject: &Subject<'_>) -> Result<(), Error> {
    if rules.is_empty() {
        return Ok(());
    }
    Filter::open()?.add(rules, owner, subject)
}

/// What attachments share and was seen to be as it should, and the generation of the tables until which it is.
#[derive(Debug, Clone, Copy)]
struct Seen {
    rules: Rules,
    generation: u32,
}

impl Seen {
    /// After one more transaction; a generation is never 0 (`nf_tables_commit`).
    fn next(self) -> Self {
        Self { generation: self.generation.wrapping_add(1).max(1), ..self }
    }
}

/// What is there already is not written again: whoever closes a socket after a transaction replaced or removed anything waits for
/// the kernel's grace period, 4 to 15 ms (`nft_rcv_nl_event` in net/netfilter/nf_tables_api.c).
///
/// Nor is it looked at again while nobody but this socket changes anything: a transaction bound to the generation says so.
fn add_to(
    socket: &mut Socket,
    seen: &mut Option<Seen>,
    rules: Rules,
    owner: &Owner<'_>,
    subject: &Subject<'_>,
) -> Result<(), Failure> {
    let mac = subject.mac.filter(|_| rules.spoof_check);
    let wanted = Rules { masquerade: rules.masquerade && !subject.addresses.is_empty(), spoof_check: mac.is_some() };
    if wanted.is_empty() {
        return Ok(());
    }
    let commit = |socket: &mut Socket, mut batch: message::Batch, laid_out: Rules| {
        if let Some(mac) = mac {
            spoof::add(&mut batch, owner, subject.port, mac, laid_out.spoof_check);
        }
        if wanted.masquerade {
            masquerade::add(&mut batch, owner, subject.addresses, laid_out.masquerade);
        }
        socket.commit(batch)
    };
    if let Some(known) = seen.take().filter(|seen| seen.rules.include(wanted)) {
        match commit(socket, message::Batch::under(known.generation), known.rules) {
            // Somebody else has changed something.
            Err(failure) if matches!(failure.errno(), Some(Errno::ERESTART | Errno::ENOENT)) => {}
            Err(failure) => return Err(failure),
            Ok(()) => {
                *seen = Some(known.next());
                return Ok(());
            }
        }
    }
    let generation = socket.sure_generation()?;
    let laid_out = Rules {
        masquerade: wanted.masquerade && masquerade::is_laid_out(socket)?,
        spoof_check: wanted.spoof_check && spoof::is_laid_out(socket)?,
    };
    match commit(socket, message::Batch::new(), laid_out) {
        // What was there has gone since.
        Err(failure) if failure.errno() == Some(Errno::ENOENT) => {
            commit(socket, message::Batch::new(), Rules::default())?;
        }
        other => other?,
    }
    *seen = Some(Seen { rules: wanted, generation }.next());
    Ok(())
}

/// Whether the kernel has nftables.
///
/// # Errors
/// [`crate::ErrorKind::Io`] if it cannot be asked.
pub fn supported() -> Result<bool, Error> {
    let failed = |e| Error::kernel("ask the kernel for", "nftables", e);
    let Some(mut socket) = Socket::open_if_any().map_err(failed)? else { return Ok(false) };
    socket.knows_tables().map_err(failed)
}

/// Removes the rules of an owner, and those that the reference plugins made for it with iptables' nft backend. Rules that are not
/// there are no error.
///
/// # Errors
/// As [`add`].
pub fn remove(rules: Rules, owner: &Owner<'_>) -> Result<(), Error> {
    if rules.is_empty() {
        return Ok(());
    }
    Filter::open()?.remove_all(&[(rules, *owner)]).into_iter().next().map_or(Ok(()), Err)
}

/// A way to the packet filter for several changes. Whoever closes it last waits for the kernel's grace period (see [`add_to`]):
/// a process that must wait for another one anyway can be given a [`Filter::duplicate`].
#[derive(Default)]
pub struct Filter(Option<Socket>, Option<Seen>);

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Filter").field(&self.0.is_some()).finish()
    }
}

impl Filter {
    /// Opens it in the namespace of the calling thread. On a kernel without netfilter's netlink nothing can be there, and
    /// removals succeed.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] if there are no descriptors left.
    pub fn open() -> Result<Self, Error> {
        let failed = |e| Error::kernel("open a socket to", "nftables".to_owned(), e);
        Socket::open_if_any().map(|socket| Self(socket, None)).map_err(failed)
    }

    /// Adds the rules of an owner: as [`add`]. What attachments share is looked at once, unless somebody else changes the tables
    /// meanwhile.
    ///
    /// # Errors
    /// As [`add`].
    pub fn add(&mut self, rules: Rules, owner: &Owner<'_>, subject: &Subject<'_>) -> Result<(), Error> {
        const ACT: &str = "add nftables rules for";
        let none = || Error::at(ErrorKind::Refused, ACT, owner.place()).because_of("this kernel has no netfilter");
        let Self(socket, seen) = self;
        let socket = socket.as_mut().ok_or_else(none)?;
        add_to(socket, seen, rules, owner, subject).map_err(|e| Error::kernel(ACT, owner.place(), e))
    }

    /// Removes the rules of these owners: as [`remove`], in as few transactions as take them all. Returns an error for each owner
    /// of whom something stays.
    #[must_use]
    pub fn remove_all(&mut self, all: &[(Rules, Owner<'_>)]) -> Vec<Error> {
        let Some(socket) = self.0.as_mut() else { return Vec::new() };
        let failed = |(owner, e): (Owner<'_>, _)| Error::kernel("remove nftables rules of", owner.place(), e);
        lift::remove(socket, all).into_iter().map(failed).collect()
    }

    /// A second descriptor, which keeps it open after this value is gone; none where there are no descriptors left.
    #[must_use]
    pub fn duplicate(&self) -> Option<OwnedFd> {
        self.0.as_ref()?.duplicate().ok()
    }
}

/// GC: removes the masquerade rules of a network that are of none of the valid attachments: pairs of container id and interface
/// name. Without `by_ifname` the container id alone decides. Rules of the spoof check do not tell their network and stay.
///
/// # Errors
/// As [`add`].
pub fn retain(rules: Rules, network: &str, valid: &[(&str, &str)], by_ifname: bool) -> Result<(), Error> {
    if !rules.masquerade {
        return Ok(());
    }
    let failed = |e| Error::kernel("collect nftables rules of network", format!("\"{network}\""), e);
    let Some(mut socket) = Socket::open_if_any().map_err(failed)? else { return Ok(()) };
    socket.change(|socket, batch| masquerade::remove_others(socket, batch, network, valid, by_ifname)).map_err(failed)
}

#[cfg(fuzzing)]
pub(crate) use socket::read_anything;

impl Owner<'_> {
    /// For a person, in an error.
    pub(crate) fn place(&self) -> String {
        format!("{} of {} in network \"{}\"", self.ifname, self.sandbox, self.network)
    }
}

/// The first digits of a text's SHA-512, in lower case.
pub(crate) fn hash(text: &str, digits: usize) -> String {
    let hex: String = Sha512::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    hex.chars().take(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_reference_plugins() {
        assert_eq!(hash("lab", 16), "bd5920332d2f73b7");
        assert_eq!(hash("eth0:c1", 16), "f4d01f2ef4b92245");
    }
}
