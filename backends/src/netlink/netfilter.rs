//! A socket to the kernel's netfilter. It never waits: the kernel has done its work when `send` returns, and its answers lie
//! in the receive buffer. Knows no table.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_sys::constants::NETLINK_NETFILTER;
use netlink_sys::{Socket as RawSocket, SocketAddr};
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use nix::sys::socket::{MsgFlags, setsockopt};

use super::error::Failure;

/// The kernel builds no datagram of a listing above 32 kB.
const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Netfilter {
    raw: RawSocket,
    buffer: Vec<u8>,
}

impl Netfilter {
    /// Opens a socket in the namespace of the calling thread.
    pub(crate) fn open() -> Result<Self, Failure> {
        let mut raw = RawSocket::new(NETLINK_NETFILTER)?;
        raw.set_ext_ack(true)?;
        raw.set_cap_ack(true)?;
        raw.bind(&SocketAddr::new(0, 0))?;
        Ok(Self { raw, buffer: Vec::new() })
    }

    /// Joins a multicast group (`NFNLGRP_*`) with this much room, in bytes, for what is not read yet; beyond the node's limit where this
    /// process may (CAP_NET_ADMIN), else up to that.
    pub(crate) fn join(&mut self, group: u32, room: usize) -> Result<(), Failure> {
        let made = setsockopt(&self.raw, RcvBufForce, &room).or_else(|_| setsockopt(&self.raw, RcvBuf, &room));
        made.map_err(io::Error::from)?;
        Ok(self.raw.add_membership(group)?)
    }

    /// A second descriptor of the same socket.
    pub(crate) fn duplicate(&self) -> Result<OwnedFd, Failure> {
        Ok(self.raw.as_fd().try_clone_to_owned()?)
    }

    /// Sends messages; the kernel has worked on them when this returns.
    pub(crate) fn send(&self, messages: &[u8]) -> Result<(), Failure> {
        self.raw.send(messages, 0)?;
        Ok(())
    }

    /// The next datagram of the answer; none where there are no more.
    pub(crate) fn receive(&mut self) -> Result<Option<&[u8]>, Failure> {
        loop {
            self.buffer.clear();
            self.buffer.reserve(RECEIVE_BUFFER_BYTES);
            match self.raw.recv(&mut self.buffer, MsgFlags::MSG_DONTWAIT.bits()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(Some(&self.buffer)),
            }
        }
    }
}

impl AsFd for Netfilter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}
