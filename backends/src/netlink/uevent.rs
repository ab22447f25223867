//! What the kernel tells of its devices (`NETLINK_KOBJECT_UEVENT`): texts, of which only is read what kind of device it is of.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_sys::{Socket as RawSocket, SocketAddr, protocols::NETLINK_KOBJECT_UEVENT};
use nix::sys::socket::MsgFlags;

use super::Failure;

/// The kernel's own group: udev's has another.
const KERNEL_GROUP: u32 = 1;
/// The most that the kernel writes about one event, twice over (include/linux/kobject.h, UEVENT_BUFFER_SIZE).
const EVENT_BYTES_MAX: usize = 4096;
/// How many events are read at once.
const EVENTS_MAX: usize = 4096;

/// A socket that hears them.
pub(crate) struct Uevents {
    raw: RawSocket,
}

impl std::fmt::Debug for Uevents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uevents").field("fd", &self.raw.as_raw_fd()).finish()
    }
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}

impl Uevents {
    /// Hears from now on.
    pub(crate) fn open() -> Result<Self, Failure> {
        let mut raw = RawSocket::new(NETLINK_KOBJECT_UEVENT)?;
        raw.bind(&SocketAddr::new(0, KERNEL_GROUP))?;
        raw.set_non_blocking(true)?;
        Ok(Self { raw })
    }

    /// Reads what has been told. Whether one of that was of a device on this bus, or something was lost.
    pub(crate) fn drain(&mut self, bus: &str) -> bool {
        let (mut of_bus, mut buffer) = (false, Vec::new());
        for _ in 0..EVENTS_MAX {
            buffer.clear();
            buffer.reserve(EVENT_BYTES_MAX);
            match self.raw.recv_from(&mut buffer, MsgFlags::MSG_DONTWAIT.bits()) {
                Ok((_, sender)) => of_bus |= sender.port_number() == 0 && is_of(&buffer, bus),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return of_bus,
                // More than there was room for; and whatever else it is, a look shows how things are.
                Err(_) => of_bus = true,
            }
        }
        true
    }
}

fn is_of(event: &[u8], bus: &str) -> bool {
    event.split(|byte| *byte == 0).any(|part| part.strip_prefix(b"SUBSYSTEM=") == Some(bus.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_of_which_bus_its_device_is() {
        let event = b"remove@/devices/pci0000:00/0000:01:10.0\0ACTION=remove\0SUBSYSTEM=pci\0SEQNUM=7\0";
        assert!(is_of(event, "pci") && !is_of(event, "pc") && !is_of(event, "net"));
        assert!(!is_of(b"", "pci") && !is_of(b"SUBSYSTEM=", "pci"));
        assert!(!Uevents::open().unwrap().drain("no such bus"));
    }
}
