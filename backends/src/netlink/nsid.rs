//! The numbers by which one namespace knows another. Knows nothing else of namespaces.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::Parseable;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use nix::errno::Errno;

use super::error::Failure;
use super::socket::Socket;

/// "No number yet", and "choose one" in a request (`NETNSA_NSID_NOT_ASSIGNED`).
const NOT_ASSIGNED: i32 = -1;

fn message(netns: BorrowedFd<'_>, id: Option<i32>) -> NsidMessage {
    let mut message = NsidMessage::default();
    // A descriptor is never negative, so its bits are the same in both types.
    message.attributes.push(NsidAttribute::Fd(netns.as_raw_fd().cast_unsigned()));
    message.attributes.extend(id.map(NsidAttribute::Id));
    message
}

/// The number by which the socket's namespace knows `netns`; gives it one if it has none.
pub(crate) fn of(socket: &mut Socket, netns: BorrowedFd<'_>) -> Result<i32, Failure> {
    if let Some(id) = known(socket, netns)? {
        return Ok(id);
    }
    match socket.acknowledged(RouteNetlinkMessage::NewNsId(message(netns, Some(NOT_ASSIGNED))), 0) {
        // Somebody else gave it one meanwhile.
        Ok(()) => {}
        Err(failure) if failure.errno() == Some(Errno::EEXIST) => {}
        Err(failure) => return Err(failure),
    }
    known(socket, netns)?.ok_or_else(|| Failure::Malformed("namespace has no number".to_owned()))
}

fn known(socket: &mut Socket, netns: BorrowedFd<'_>) -> Result<Option<i32>, Failure> {
    let answers = socket.questions(vec![RouteNetlinkMessage::GetNsId(message(netns, None))], |payload| {
        let answer = NsidMessage::parse(payload).map_err(|e| Failure::Malformed(e.to_string()))?;
        Ok(answer.attributes.iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(id) if *id != NOT_ASSIGNED => Some(*id),
            _ => None,
        }))
    })?;
    match answers.into_iter().next() {
        Some(Ok(id)) => Ok(id),
        Some(Err(refusal)) => Err(refusal.into()),
        None => Ok(None),
    }
}
