//! Says when something happened to the node's cards: a device of the PCI bus came, went or changed its driver, or an interface of
//! a card is not as it was. It does not know what, nor who uses a card.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::Error;
use crate::netlink::Socket;
use crate::netlink::link::{GROUP_LINK, Link, RTM_DELLINK, RTM_NEWLINK, gone};
use crate::netlink::socket::Heard;
use crate::netlink::uevent::Uevents;

/// Room for what is announced while nobody listens, in bytes.
const BUFFER_BYTES: usize = 1 << 20;
/// As many announcements are read at once.
const GATHERED_MAX: usize = 16_384;
/// The bus of the cards.
const BUS: &str = "pci";

/// See the module.
#[derive(Debug)]
pub struct CardNotice {
    links: Socket,
    devices: Uevents,
    /// By index: names of links that were of interest.
    seen: BTreeMap<u32, (String, bool)>,
}

impl CardNotice {
    /// Listens in the namespace of the calling thread from now on.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] or [`crate::ErrorKind::Refused`]: no socket.
    pub fn open() -> Result<Self, Error> {
        let failed = |e| Error::kernel("listen to the devices of", "the host", e);
        let links = Socket::open().map_err(failed)?;
        // With less room more is lost, which is told.
        let _ = links.set_receive_buffer(BUFFER_BYTES);
        links.join(GROUP_LINK).map_err(failed)?;
        Ok(Self { links, devices: Uevents::open().map_err(failed)?, seen: BTreeMap::new() })
    }

    /// Waits until `deadline` for something that happens to a device of the bus, or to one of these interfaces: whether it did.
    ///
    /// # Errors
    /// What the kernel says; the notice is useless then.
    pub fn wait(&mut self, deadline: Instant, interfaces: &[String]) -> Result<bool, Error> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut watched = [self.links.as_fd(), self.devices.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let time = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let _ = poll(&mut watched, time); // a signal: a look more
            if self.devices.drain(BUS) | self.links_changed(interfaces)? {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
        }
    }

    fn links_changed(&mut self, interfaces: &[String]) -> Result<bool, Error> {
        let (mut changed, seen) = (false, &mut self.seen);
        for _ in 0..GATHERED_MAX {
            let at_once = Instant::now() + Duration::from_millis(1);
            let heard = self.links.event(at_once, |kind, payload| match kind {
                RTM_DELLINK => changed |= gone(payload).is_some_and(|index| seen.remove(&index).is_some()),
                RTM_NEWLINK => {
                    let Ok(link) = Link::parse(payload) else { return };
                    if interfaces.contains(&link.name) {
                        let now = (link.name, link.up);
                        changed |= seen.get(&link.index) != Some(&now);
                        seen.insert(link.index, now);
                    } else {
                        changed |= seen.remove(&link.index).is_some();
                    }
                }
                _ => {}
            });
            match heard.map_err(|e| Error::kernel("listen to the links of", "the host", e))? {
                Heard::Messages => {}
                Heard::Nothing => return Ok(changed),
                Heard::Lost => changed = true,
            }
        }
        Ok(true)
    }
}
