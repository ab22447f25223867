//! A blocking routing-netlink socket with the kernel's manners: extended acknowledgements, strict checking, a bounded wait,
//! a buffer that notices truncation, interrupted listings that are repeated. Knows no attribute of any message.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_ECHO, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket as RawSocket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc;
use nix::sys::socket::sockopt::{GetStruct, RcvBuf, RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{MsgFlags, getsockopt, setsockopt};
use nix::sys::time::TimeVal;

use super::error::{Failure, Refusal, verdict};

/// The kernel builds no listing's datagram above 32 kB, and one link without its statistics and virtual functions is far less.
const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;
/// Requests of one datagram: with attributes of 200 bytes each a quarter of what a socket may send (net.core.wmem_default).
const DATAGRAM_REQUESTS_MAX: usize = 256;
/// How long an answer may take. RTNL is held up to 0.2 s by other work (closing many namespaces); this is far above.
const ANSWER_TIMEOUT_MS: u64 = 10_000;
/// More datagrams than a socket's buffer holds.
const FORGOTTEN_MAX: usize = 65_536;
/// How often a listing is repeated after the kernel said that the tables changed under it.
const DUMP_ATTEMPTS: u32 = 8;

/// What the kernel numbers network namespaces by, from Linux 5.14 on: a number never returns within a boot, as an inode does
/// (net/core/net_namespace.c, `net_cookie`).
#[derive(Debug, Clone, Copy)]
struct NamespaceCookie;

nix::getsockopt_impl!(NamespaceCookie, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, u64, GetStruct<u64>);

/// One request: the message and its flags beyond `NLM_F_REQUEST` and `NLM_F_ACK`.
#[derive(Debug)]
pub(crate) struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
}

impl Request {
    pub(crate) fn new(message: RouteNetlinkMessage, flags: u16) -> Self {
        Self { message, flags }
    }

    /// The message alone.
    pub(crate) fn into_message(self) -> RouteNetlinkMessage {
        self.message
    }
}

/// What a wait for events gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// At least one message.
    Messages,
    /// No message until the deadline.
    Nothing,
    /// Messages came faster than they were read, and are gone: only a look at the state helps.
    Lost,
}

/// A routing-netlink socket in the namespace of the thread that opened it.
pub(crate) struct Socket {
    raw: RawSocket,
    sequence: u32,
    buffer: Vec<u8>,
    /// The largest answer that is received, in bytes.
    room: usize,
    /// The receive time-out now set on the descriptor: setting it again would be a system call for nothing.
    timeout: Duration,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("fd", &self.raw.as_raw_fd()).field("sequence", &self.sequence).finish()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}

impl Socket {
    /// Opens a socket in the namespace of the calling thread.
    pub(crate) fn open() -> Result<Self, Failure> {
        let mut raw = RawSocket::new(NETLINK_ROUTE)?;
        raw.set_ext_ack(true)?;
        raw.set_cap_ack(true)?;
        raw.set_netlink_get_strict_chk(true)?;
        // Without a port of its own the socket would get no multicast: the kernel takes port 0 for the sender's own.
        raw.bind(&SocketAddr::new(0, 0))?;
        let mut socket =
            Self { raw, sequence: 0, buffer: Vec::new(), room: RECEIVE_BUFFER_BYTES, timeout: Duration::ZERO };
        socket.set_timeout(Duration::from_millis(ANSWER_TIMEOUT_MS))?;
        Ok(socket)
    }

    /// The number of the namespace it was opened in; 0 from a kernel that has none.
    pub(crate) fn namespace_cookie(&self) -> u64 {
        getsockopt(&self.raw, NamespaceCookie).unwrap_or_default()
    }

    /// Makes room for so many bytes of what is not read yet, beyond the node's limit where this process may (CAP_NET_ADMIN).
    pub(crate) fn set_receive_buffer(&self, bytes: usize) -> Result<(), Failure> {
        let forced = setsockopt(&self.raw, RcvBufForce, &bytes).or_else(|_| setsockopt(&self.raw, RcvBuf, &bytes));
        Ok(forced.map_err(io::Error::from)?)
    }

    /// Joins a multicast group (`RTNLGRP_*`): its messages come out of [`Socket::event`].
    pub(crate) fn join(&self, group: u32) -> Result<(), Failure> {
        Ok(self.raw.add_membership(group)?)
    }

    /// Leaves a multicast group.
    pub(crate) fn leave(&self, group: u32) -> Result<(), Failure> {
        Ok(self.raw.drop_membership(group)?)
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn acknowledged(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Failure> {
        match self.batch(vec![Request::new(message, flags)])?.into_iter().next() {
            Some((_, refusal)) => Err(refusal.into()),
            None => Ok(()),
        }
    }

    /// Sends all requests, in one datagram where they fit, and returns those that were refused, with their position. The
    /// kernel goes on after a refusal.
    pub(crate) fn batch(&mut self, requests: Vec<Request>) -> Result<Vec<(usize, Refusal)>, Failure> {
        let mut refused = Vec::new();
        let mut sent = 0;
        let mut rest = requests.into_iter();
        loop {
            let datagram: Vec<Request> = rest.by_ref().take(DATAGRAM_REQUESTS_MAX).collect();
            let count = datagram.len();
            let begin = sent;
            refused.extend(self.datagram(datagram)?.into_iter().map(|(position, why)| (begin + position, why)));
            sent += count;
            if count < DATAGRAM_REQUESTS_MAX {
                return Ok(refused);
            }
        }
    }

    /// Only the last request asks for an acknowledgement: refusals always come, and in order.
    fn datagram(&mut self, requests: Vec<Request>) -> Result<Vec<(usize, Refusal)>, Failure> {
        let count = requests.len();
        let mut datagram = Vec::new();
        let first = self.sequence.wrapping_add(1);
        for (position, request) in requests.into_iter().enumerate() {
            let acknowledge = if position + 1 == count { NLM_F_ACK } else { 0 };
            self.append(&mut datagram, request.message, NLM_F_REQUEST | acknowledge | request.flags);
        }
        if count == 0 {
            return Ok(Vec::new());
        }
        self.send(&datagram)?;
        let last = self.sequence;
        let mut refused = Vec::new();
        self.answers(
            |message| {
                if message.message_type() != NLMSG_ERROR {
                    return Ok(false);
                }
                let position = message.sequence_number().wrapping_sub(first);
                if let Some(refusal) = verdict(message.flags(), message.payload())? {
                    refused.push((usize::try_from(position).unwrap_or(usize::MAX), refusal));
                }
                Ok(message.sequence_number() == last)
            },
            first,
        )?;
        Ok(refused)
    }

    /// Asks several questions in one datagram, each with exactly one answer; `parse` gets the payloads in order.
    pub(crate) fn questions<T>(
        &mut self,
        questions: Vec<RouteNetlinkMessage>,
        parse: impl Fn(&[u8]) -> Result<T, Failure>,
    ) -> Result<Vec<Result<T, Refusal>>, Failure> {
        self.ask(questions, 0, parse)
    }

    /// As [`Socket::questions`], one alone, whose answer may have so many bytes.
    pub(crate) fn question_of<T>(
        &mut self,
        question: RouteNetlinkMessage,
        bytes: usize,
        parse: impl Fn(&[u8]) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.room = bytes;
        let answers = self.ask(vec![question], 0, parse);
        self.room = RECEIVE_BUFFER_BYTES;
        match answers?.pop() {
            Some(answer) => Ok(answer?),
            None => Err(Failure::Malformed("no answer".to_owned())),
        }
    }

    /// As [`Socket::questions`], one alone, of the kind whose answer goes only to who asks for the echo of a change: those about
    /// queueing disciplines (net/sched/sch_api.c, qdisc_get_notify).
    pub(crate) fn echoed<T>(
        &mut self,
        question: RouteNetlinkMessage,
        parse: impl Fn(&[u8]) -> Result<T, Failure>,
    ) -> Result<Option<Result<T, Refusal>>, Failure> {
        Ok(self.ask(vec![question], NLM_F_ECHO, parse)?.pop())
    }

    fn ask<T>(
        &mut self,
        questions: Vec<RouteNetlinkMessage>,
        flags: u16,
        parse: impl Fn(&[u8]) -> Result<T, Failure>,
    ) -> Result<Vec<Result<T, Refusal>>, Failure> {
        let count = questions.len();
        let mut datagram = Vec::new();
        let first = self.sequence.wrapping_add(1);
        for question in questions {
            self.append(&mut datagram, question, NLM_F_REQUEST | flags);
        }
        self.send(&datagram)?;
        let mut answers = Vec::with_capacity(count);
        self.answers(
            |message| {
                if message.message_type() == NLMSG_ERROR {
                    if let Some(refusal) = verdict(message.flags(), message.payload())? {
                        answers.push(Err(refusal));
                    }
                } else {
                    answers.push(Ok(parse(message.payload())?));
                }
                Ok(answers.len() == count)
            },
            first,
        )?;
        Ok(answers)
    }

    /// Lists: `each` gets every answer's payload. Begins again when the kernel says that the listing is not consistent.
    pub(crate) fn dump<T>(
        &mut self,
        question: &RouteNetlinkMessage,
        each: impl Fn(&[u8]) -> Result<Option<T>, Failure>,
    ) -> Result<Vec<T>, Failure> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(found) = self.dump_once(question.clone(), &each)? {
                return Ok(found);
            }
        }
        Err(Failure::Interrupted { attempts: DUMP_ATTEMPTS })
    }

    /// One listing; `None` if it was interrupted.
    fn dump_once<T>(
        &mut self,
        question: RouteNetlinkMessage,
        each: impl Fn(&[u8]) -> Result<Option<T>, Failure>,
    ) -> Result<Option<Vec<T>>, Failure> {
        let mut datagram = Vec::new();
        self.append(&mut datagram, question, NLM_F_REQUEST | NLM_F_DUMP);
        self.send(&datagram)?;
        let (mut found, mut interrupted) = (Vec::new(), false);
        self.answers(
            |message| {
                interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
                match message.message_type() {
                    NLMSG_DONE | NLMSG_ERROR => {
                        verdict(message.flags(), message.payload())?.map_or(Ok(true), |refusal| Err(refusal.into()))
                    }
                    _ => {
                        found.extend(each(message.payload())?);
                        Ok(false)
                    }
                }
            },
            self.sequence,
        )?;
        Ok(if interrupted { None } else { Some(found) })
    }

    /// Waits until `deadline` for one datagram of a joined group. `each` gets type and payload of every message in it.
    pub(crate) fn event(&mut self, deadline: Instant, mut each: impl FnMut(u16, &[u8])) -> Result<Heard, Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Heard::Nothing);
        }
        self.set_timeout(left)?;
        match self.receive() {
            Ok(()) => messages(&self.buffer, |message| {
                each(message.message_type(), message.payload());
                Ok(())
            })
            .map(|()| Heard::Messages),
            Err(failure) if failure.is_overrun() => Ok(Heard::Lost),
            Err(Failure::Timeout { .. }) => Ok(Heard::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Reads what has been announced and is of no interest any more, after the group was left: answers need the room.
    pub(crate) fn forget(&mut self) -> Result<(), Failure> {
        for _ in 0..FORGOTTEN_MAX {
            let at_once = Instant::now() + Duration::from_millis(1);
            if self.event(at_once, |_, _| ())? == Heard::Nothing {
                break;
            }
        }
        Ok(())
    }

    /// Adds one message to a datagram under the next sequence number. Messages begin at multiples of four bytes.
    fn append(&mut self, datagram: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        datagram.extend_from_slice(&serialize(message, flags, self.sequence));
    }

    fn send(&mut self, datagram: &[u8]) -> Result<(), Failure> {
        self.raw.send_to(datagram, &SocketAddr::new(0, 0), 0)?;
        Ok(())
    }

    /// Receives until `each` says that it has all. Messages before the sequence number `first`, and those of other senders
    /// than our requests (multicast has sequence 0), are passed over: an answer that came too late spoils nothing.
    fn answers(
        &mut self,
        mut each: impl FnMut(&NetlinkBuffer<&[u8]>) -> Result<bool, Failure>,
        first: u32,
    ) -> Result<(), Failure> {
        let limit = Duration::from_millis(ANSWER_TIMEOUT_MS);
        let deadline = Instant::now() + limit;
        self.set_timeout(limit)?;
        let (mut done, last) = (false, self.sequence);
        while !done {
            if Instant::now() >= deadline {
                return Err(Failure::Timeout { limit_ms: ANSWER_TIMEOUT_MS });
            }
            match self.receive() {
                Ok(()) => {}
                // Multicast of a joined group was lost, which is no matter of this answer.
                Err(failure) if failure.is_overrun() => continue,
                Err(failure) => return Err(failure),
            }
            messages(&self.buffer, |message| {
                let ours = message.sequence_number().wrapping_sub(first) <= last.wrapping_sub(first);
                if ours && !done {
                    done = each(message)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Receives one datagram of the kernel into the buffer.
    fn receive(&mut self) -> Result<(), Failure> {
        loop {
            self.buffer.clear();
            self.buffer.reserve(self.room);
            match self.raw.recv_from(&mut self.buffer, MsgFlags::MSG_TRUNC.bits()) {
                // Only the kernel has port 0: a datagram of another process is not an answer.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok((received, _)) if received > self.buffer.len() => {
                    return Err(Failure::Truncated { received, limit: self.room });
                }
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Failure::Timeout { limit_ms: millis(self.timeout) });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn set_timeout(&mut self, timeout: Duration) -> Result<(), Failure> {
        // Zero would mean "for ever".
        let timeout = timeout.max(Duration::from_millis(1));
        if self.timeout != timeout {
            let value =
                TimeVal::new(timeout.as_secs().try_into().unwrap_or(i64::MAX), i64::from(timeout.subsec_micros()));
            setsockopt(&self.raw, ReceiveTimeout, &value).map_err(io::Error::from)?;
            self.timeout = timeout;
        }
        Ok(())
    }
}

/// One request with an acknowledgement, as another process sends it on a socket of its own.
pub(crate) fn stand_alone(message: RouteNetlinkMessage) -> Vec<u8> {
    serialize(message, NLM_F_REQUEST | NLM_F_ACK, 1)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The bytes of one request, as they go to the kernel.
fn serialize(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    debug_assert!(matches!(message.payload, NetlinkPayload::InnerMessage(_)));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
    message.serialize(&mut bytes);
    bytes
}

/// Walks the messages of one datagram.
pub(super) fn messages(
    datagram: &[u8],
    mut each: impl FnMut(&NetlinkBuffer<&[u8]>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).map_err(|e| Failure::Malformed(e.to_string()))?;
        each(&message)?;
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX).checked_next_multiple_of(4);
        rest = length.and_then(|length| rest.get(length..)).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::link::LinkMessage;
    use nix::errno::Errno;

    #[test]
    fn a_datagram_of_two_messages_is_walked_and_a_cut_one_refused() {
        let mut datagram = serialize(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_REQUEST, 7);
        datagram.extend(serialize(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_REQUEST, 8));
        let mut seen = Vec::new();
        messages(&datagram, |message| {
            seen.push(message.sequence_number());
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [7, 8]);
        assert!(matches!(messages(&datagram[..40], |_| Ok(())), Err(Failure::Malformed(_))));
        datagram[..4].copy_from_slice(&0_u32.to_ne_bytes());
        assert!(
            matches!(messages(&datagram, |_| Ok(())), Err(Failure::Malformed(_))),
            "or it would be walked for ever"
        );
    }

    #[test]
    fn a_refused_request_does_not_hide_the_next_answer() {
        let mut socket = Socket::open().unwrap();
        let absent = super::super::link::by_name("no-such-link");
        let lo = super::super::link::by_name("lo");
        let answers = socket.questions(vec![absent, lo], super::super::link::Link::parse).unwrap();
        assert_eq!(answers[0].as_ref().unwrap_err().errno, Errno::ENODEV);
        assert_eq!(answers[1].as_ref().unwrap().name, "lo");
    }
}
