//! What is forwarded from and to a pod, in the tables of iptables' nft backend: where their policy is to drop, only an accept in
//! these tables lets a packet pass. Chains, rules and their bytes are those of the reference firewall plugin (1.9.1), so that
//! `iptables` and that plugin go on working with them. Every change is one batch for both families.
//!
//! No `iptables` is needed. What must never be written there is an expression that iptables does not know: it would call the
//! whole table incompatible, for everybody. Rules of legacy x_tables are invisible to netlink.

mod addresses;
mod isolation;
mod layout;
mod place;
mod words;
mod xt;

use std::net::IpAddr;

use nix::errno::Errno;

use super::message::{Batch, Family};
use super::socket::Socket;
use super::{Filter, Owner, masquerade};
use crate::error::{Error, ErrorKind};
use crate::netlink::Failure;
pub use addresses::Handles;
pub(super) use addresses::{NAMED, PLACE, names};
use isolation::Isolation;
use layout::Layout;
pub(super) use words::TABLE;

/// How often a change is tried that must meet nobody else's: the kernel tells only whether anybody changed anything.
const QUIET_ATTEMPTS: usize = 32;
/// How often it is tried then without that, on a node where somebody writes without a pause. Two who add what all share at once
/// may write it twice, which changes nothing for a packet.
const LOUD_ATTEMPTS: usize = 8;
/// Rules that one collection removes at most: a transaction of a hundred kilobytes. The next collection takes the others.
const COLLECTED_MAX: usize = 1000;

/// What the rules say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// The administrator's chain.
    pub(crate) admin: &'a str,
    /// The pod's, each once.
    pub(crate) addresses: &'a [IpAddr],
    /// A bridge to isolate, and whether its own pods do not reach each other either.
    pub(crate) isolation: Option<(&'a str, bool)>,
}

/// Chooses among isolated bridges those whose isolation goes. Asked while nobody changes the packet filter, or once more.
pub(crate) type Choose<'a> = &'a mut dyn FnMut(&[String]) -> Result<Vec<String>, Error>;

impl Wanted<'_> {
    /// The families it has addresses of.
    fn families(&self) -> impl Iterator<Item = Family> {
        let has = |family| addresses::of_family(self.addresses, family).next().is_some();
        [Family::Ipv4, Family::Ipv6].into_iter().filter(move |family| has(*family))
    }
}

/// Adds the rules, all or none.
///
/// # Errors
/// [`ErrorKind::Refused`] if the kernel refuses (something else is FORWARD, an extension is missing), [`ErrorKind::Io`] if it
/// cannot be asked.
pub(crate) fn add(filter: &mut Filter, owner: &Owner<'_>, wanted: &Wanted<'_>) -> Result<Handles, Error> {
    let failed = |e| Error::kernel("add firewall rules for", owner.place(), e);
    let absent = || Error::at(ErrorKind::Io, "add firewall rules for", owner.place()).because_of("no netfilter");
    let socket = filter.0.as_mut().ok_or_else(absent)?;
    // The usual way: all that is shared is there, and who adds to it needs no quiet.
    let usual = usize::from(wanted.isolation.is_none());
    let modes = [(Mode::Usual, usual), (Mode::Quiet, QUIET_ATTEMPTS), (Mode::Loud, LOUD_ATTEMPTS)];
    for mode in modes.into_iter().flat_map(|(mode, times)| std::iter::repeat_n(mode, times)) {
        match add_once(socket, owner, wanted, mode).map_err(failed)? {
            Outcome::Done(handles) => return Ok(handles),
            Outcome::Disturbed => {}
        }
    }
    Err(failed(interrupted()))
}

fn interrupted() -> Failure {
    Failure::Interrupted { attempts: (QUIET_ATTEMPTS + LOUD_ATTEMPTS).try_into().unwrap_or(u32::MAX) }
}

/// How a change is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Only rules of its own are added, to what is there.
    Usual,
    /// Nobody changes anything between the look and the change.
    Quiet,
    /// Whatever others do.
    Loud,
}

/// What became of an attempt.
enum Outcome {
    Done(Handles),
    /// To be tried again.
    Disturbed,
}

fn add_once(socket: &mut Socket, owner: &Owner<'_>, wanted: &Wanted<'_>, mode: Mode) -> Result<Outcome, Failure> {
    let mut batch = if mode == Mode::Quiet { Batch::under(socket.sure_generation()?) } else { Batch::new() };
    for family in wanted.families() {
        let layout = Layout::look(socket, family, wanted.admin)?;
        if mode == Mode::Usual && !layout.is_complete() {
            return Ok(Outcome::Disturbed);
        }
        let isolation = match wanted.isolation {
            Some((bridge, is_strict)) => Some(Isolation::look(socket, family, bridge, is_strict)?),
            None => None,
        };
        layout.fill(&mut batch, isolation.as_ref());
        addresses::add(&mut batch, family, owner, wanted.addresses);
    }
    let mut handles = Handles::default();
    match socket.commit_and_hear(batch, |family, rule| handles.hear(family, rule)) {
        Err(failure) if failure.errno() == Some(Errno::ERESTART) => Ok(Outcome::Disturbed),
        // A chain has gone or come since. In quiet it is an extension that the kernel does not have.
        Err(failure) if mode != Mode::Quiet && matches!(failure.errno(), Some(Errno::ENOENT | Errno::EEXIST)) => {
            Ok(Outcome::Disturbed)
        }
        other => other.map(|()| Outcome::Done(handles)),
    }
}

/// What is known of rules that are to go.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Known<'a> {
    /// The addresses they are about.
    pub(crate) addresses: &'a [IpAddr],
    /// What [`add`] returned.
    pub(crate) handles: Option<&'a Handles>,
}

impl Known<'_> {
    fn remove(&self, socket: &mut Socket, batch: &mut Batch, owner: &Owner<'_>) -> Result<(), Failure> {
        if let Some(handles) = self.handles
            && addresses::remove_numbered(socket, batch, owner, handles)?
        {
            return Ok(());
        }
        addresses::remove(socket, batch, owner, self.addresses)
    }
}

/// Removes an owner's rules; where none names it, those of the addresses that name nobody. The isolation of the bridges
/// that are `idle` goes too.
///
/// # Errors
/// As [`add`], and those of `idle`.
pub(crate) fn remove(
    filter: &mut Filter,
    owner: &Owner<'_>,
    known: Known<'_>,
    mut idle: Option<Choose<'_>>,
) -> Result<(), Error> {
    let failed = |e| Error::kernel("remove firewall rules of", owner.place(), e);
    let Some(socket) = filter.0.as_mut() else { return Ok(()) };
    for attempt in 0..QUIET_ATTEMPTS + LOUD_ATTEMPTS {
        // On a node that is never quiet the isolation stays, for the next removal or collection.
        let mut idle = idle.as_mut().filter(|_| attempt < QUIET_ATTEMPTS);
        let mut batch = match idle {
            Some(_) => Batch::under(socket.sure_generation().map_err(failed)?),
            None => Batch::new(),
        };
        known.remove(socket, &mut batch, owner).map_err(failed)?;
        if let Some(idle) = &mut idle {
            remove_isolation(socket, &mut batch, *idle, failed)?;
        }
        match socket.commit(batch) {
            Err(failure) if is_disturbance(&failure) => {}
            other => return other.map_err(failed),
        }
    }
    Err(failed(interrupted()))
}

fn is_disturbance(failure: &Failure) -> bool {
    matches!(failure.errno(), Some(Errno::ENOENT | Errno::ERESTART))
}

fn remove_isolation(
    socket: &mut Socket,
    batch: &mut Batch,
    idle: Choose<'_>,
    failed: impl Fn(Failure) -> Error,
) -> Result<(), Error> {
    let mut isolated = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        isolated.push((family, isolation::bridges(socket, family).map_err(&failed)?));
    }
    let mut all: Vec<String> = isolated.iter().flat_map(|(_, bridges)| bridges.clone()).collect();
    all.sort();
    all.dedup();
    if all.is_empty() {
        return Ok(());
    }
    let going = idle(&all)?;
    for (family, _) in isolated {
        isolation::remove(socket, batch, family, &going).map_err(&failed)?;
    }
    Ok(())
}

/// Removes the isolation of bridges: those that `idle` chooses among all that are isolated.
///
/// # Errors
/// As [`remove`].
pub(crate) fn remove_idle(filter: &mut Filter, idle: Choose<'_>) -> Result<(), Error> {
    let failed = |e| Error::kernel("remove firewall rules of", "bridges without pods", e);
    let Some(socket) = filter.0.as_mut() else { return Ok(()) };
    for _ in 0..QUIET_ATTEMPTS {
        let mut batch = Batch::under(socket.sure_generation().map_err(failed)?);
        remove_isolation(socket, &mut batch, idle, failed)?;
        match socket.commit(batch) {
            Err(failure) if is_disturbance(&failure) => {}
            other => return other.map_err(failed),
        }
    }
    Err(failed(interrupted()))
}

/// Removes the rules whose owner is named by one of these texts.
pub(super) fn remove_named(socket: &mut Socket, batch: &mut Batch, texts: &[&str]) -> Result<(), Failure> {
    addresses::remove_named(socket, batch, usize::MAX, |named| texts.contains(&named))
}

/// GC: as [`super::retain`].
///
/// # Errors
/// As [`add`].
pub(crate) fn retain(filter: &mut Filter, network: &str, valid: &[(&str, &str)], by_ifname: bool) -> Result<(), Error> {
    let failed = |e| Error::kernel("collect firewall rules of network", format!("\"{network}\""), e);
    let Some(socket) = filter.0.as_mut() else { return Ok(()) };
    let is_other = masquerade::others(network, valid, by_ifname);
    let fill = |socket: &mut Socket, batch: &mut Batch| {
        let is_one = |named: &str| named.strip_prefix(NAMED).is_some_and(&is_other);
        addresses::remove_named(socket, batch, COLLECTED_MAX, is_one)
    };
    socket.change(fill).map_err(failed)
}

/// CHECK: whether the rules are there, whoever made them. Changes nothing.
///
/// # Errors
/// [`ErrorKind::Mismatch`] with the reference plugin's text; as [`add`].
pub(crate) fn check(all: &mut super::Listed, owner: &Owner<'_>, wanted: &Wanted<'_>) -> Result<(), Error> {
    let failed = |e| Error::kernel("look at firewall rules of", owner.place(), e);
    for family in wanted.families() {
        let (socket, listed) = all.forwards(family).map_err(failed)?;
        if let Some(missing) = missing(socket, listed, family, owner, wanted).map_err(failed)? {
            return Err(Error::mismatch(format!("expected {missing} not found")));
        }
    }
    Ok(())
}

/// A rule of the chain that pods' traffic passes, and whom it names.
#[derive(Debug)]
pub(super) struct Ours {
    rule: place::Listed,
    named: Option<Vec<u8>>,
}

/// All of them, of all owners.
pub(super) fn list(socket: &mut Socket, family: Family) -> Result<Vec<Ours>, Failure> {
    let read = |rule: &[u8]| {
        Some(Ours { rule: place::Listed::parse(rule)?, named: place::named_in(rule).map(<[u8]>::to_vec) })
    };
    socket.picked(family, [TABLE, words::OWN], read, |ours| ours.rule.handle)
}

/// The first rule that is not there, in the words of its command.
fn missing(
    socket: &mut Socket,
    listed: &[Ours],
    family: Family,
    owner: &Owner<'_>,
    wanted: &Wanted<'_>,
) -> Result<Option<String>, Failure> {
    let layout = Layout::look(socket, family, wanted.admin)?;
    if !layout.leads() {
        return Ok(Some(words::lead_words()));
    }
    let own = addresses::name(owner);
    // What names another owner is of the pod that has the address by now.
    let is_usable = |ours: &&Ours| ours.named.as_ref().is_none_or(|named| named == own.as_bytes());
    let listed: Vec<&place::Listed> = listed.iter().filter(is_usable).map(|ours| &ours.rule).collect();
    let has = |wanted: &super::rule::Expressions| listed.iter().any(|rule| rule.is(wanted));
    if !has(&words::admin(wanted.admin)) {
        return Ok(Some(words::admin_words(wanted.admin)));
    }
    for ip in addresses::of_family(wanted.addresses, family) {
        let pairs = words::of_address(ip).into_iter().zip(words::of_address_words(ip));
        if let Some((_, words)) = pairs.into_iter().find(|(rule, _)| !has(rule)) {
            return Ok(Some(words));
        }
    }
    let Some((bridge, is_strict)) = wanted.isolation else { return Ok(None) };
    let is_isolated = layout.isolates() && Isolation::look(socket, family, bridge, is_strict)?.is_there();
    Ok((!is_isolated).then(|| format!("isolation of bridge \"{bridge}\" before the rules of {}", words::OWN)))
}
