//! What becomes of the host's links, told by the kernel when it happens (`RTNLGRP_LINK`). Only what can take something from who
//! uses a link: it goes, it loses its bridge, its lower device or its hardware address, it is set down. Knows no attachment.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::netlink::link::{self, GROUP_LINK, Link, RTM_DELLINK, RTM_NEWLINK};
use crate::netlink::socket::Heard;
use crate::netlink::{Failure, Socket};
use crate::pod::Host;

/// Room for what is announced while nobody listens, in bytes: some thousand announcements.
const BUFFER_BYTES: usize = 8 << 20;
/// How long nobody listens after something was announced. Each attachment is announced some ten times, and who listens to each
/// takes the processor from whoever makes it.
const GATHER: Duration = Duration::from_millis(200);
/// As many are read at once.
const GATHERED_MAX: usize = 16_384;

/// A link of the host that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkChange {
    /// Its index.
    pub index: u32,
    /// Its name; where that changed, the old one.
    pub name: String,
}

/// What a wait gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Something, which may be nothing of interest.
    Something,
    /// Nothing until the deadline.
    Nothing,
    /// More than there was room for: what was lost nobody knows.
    Lost,
}

/// As far as it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Look {
    name: String,
    kind: String,
    mac: String,
    controller: Option<u32>,
    parent: Option<u32>,
    up: bool,
}

impl Look {
    fn of(link: Link) -> (u32, Look) {
        let mac = link.mac_text();
        let Link { index, name, kind, controller, parent, up, .. } = link;
        (index, Look { name, kind, mac, controller, parent, up })
    }

    /// Whether something was taken from who uses the link. A bridge has the hardware address of one of its ports, and another one
    /// with the next.
    fn is_worse(&self, before: &Look) -> bool {
        self.name != before.name
            || (before.controller.is_some() && self.controller != before.controller)
            || self.parent != before.parent
            || (before.up && !self.up)
            || (self.kind != "bridge" && self.mac != before.mac)
    }
}

/// See the module.
#[derive(Debug)]
pub struct LinkMonitor {
    socket: Socket,
    /// By index: as many as the host has links.
    seen: BTreeMap<u32, Look>,
}

impl AsFd for LinkMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl LinkMonitor {
    /// Listens in the namespace of the calling thread from now on.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] or [`crate::ErrorKind::Refused`]: no socket, or the kernel does not list its links.
    pub fn open() -> Result<Self, Error> {
        let failed = |e: Failure| Error::kernel("listen to the links of", "the host", e);
        let socket = Socket::open().map_err(failed)?;
        // With less room more is lost, and then all links are listed.
        let _ = socket.set_receive_buffer(BUFFER_BYTES);
        // First: what happens during the listing is told after it.
        socket.join(GROUP_LINK).map_err(failed)?;
        let mut monitor = Self { socket, seen: BTreeMap::new() };
        monitor.look()?;
        Ok(monitor)
    }

    /// By a socket of its own: an answer's reader passes over what is announced meanwhile.
    fn look(&mut self) -> Result<(), Error> {
        self.seen = Host::open()?.side.links()?.into_iter().map(Look::of).collect();
        Ok(())
    }

    /// Waits until `deadline` for what the kernel tells, lets it gather for a moment, and adds what was taken from somebody to
    /// `changes`.
    ///
    /// # Errors
    /// As [`LinkMonitor::open`].
    pub fn wait(&mut self, deadline: Instant, changes: &mut Vec<LinkChange>) -> Result<Told, Error> {
        let first = self.hear(deadline, changes)?;
        if first != Told::Something {
            return Ok(first);
        }
        thread::park_timeout(GATHER);
        for _ in 0..GATHERED_MAX {
            match self.hear(Instant::now() + Duration::from_millis(1), changes)? {
                Told::Something => {}
                Told::Nothing => return Ok(Told::Something),
                Told::Lost => return Ok(Told::Lost),
            }
        }
        Ok(Told::Something)
    }

    /// One announcement. A link that is new takes nothing, unless it is no end of a pair: those are made by every attachment.
    fn hear(&mut self, deadline: Instant, changes: &mut Vec<LinkChange>) -> Result<Told, Error> {
        let seen = &mut self.seen;
        let heard = self.socket.event(deadline, |kind, payload| match kind {
            RTM_DELLINK => {
                let gone = link::gone(payload).and_then(|index| Some((index, seen.remove(&index)?)));
                changes.extend(gone.map(|(index, look)| LinkChange { index, name: look.name }));
            }
            // A bridge's own announcement of a port has another family, and less in it.
            RTM_NEWLINK if link::gone(payload).is_some() => {
                let Ok(link) = Link::parse(payload) else { return };
                let (index, look) = Look::of(link);
                let change = match seen.get(&index) {
                    Some(before) => look.is_worse(before).then(|| before.name.clone()),
                    None => (look.kind != "veth").then(|| look.name.clone()),
                };
                changes.extend(change.map(|name| LinkChange { index, name }));
                seen.insert(index, look);
            }
            _ => {}
        });
        match heard.map_err(|e| Error::kernel("listen to the links of", "the host", e))? {
            Heard::Messages => Ok(Told::Something),
            Heard::Nothing => Ok(Told::Nothing),
            Heard::Lost => self.look().map(|()| Told::Lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(kind: &str) -> Look {
        Look {
            name: "a".to_owned(),
            kind: kind.to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            controller: Some(3),
            parent: Some(2),
            up: true,
        }
    }

    #[test]
    fn only_what_is_taken_away_is_worse() {
        let port = look("veth");
        for worse in [
            Look { controller: None, ..port.clone() },
            Look { controller: Some(4), ..port.clone() },
            Look { parent: None, ..port.clone() },
            Look { up: false, ..port.clone() },
            Look { mac: String::new(), ..port.clone() },
            Look { name: "b".to_owned(), ..port.clone() },
        ] {
            assert!(worse.is_worse(&port), "{worse:?}");
        }
        let new = Look { controller: None, up: false, ..port.clone() };
        assert!(!port.is_worse(&port) && !port.is_worse(&new), "what it gains is taken from nobody");
        let bridge = look("bridge");
        assert!(!Look { mac: String::new(), ..bridge.clone() }.is_worse(&bridge));
    }
}
