//! One echo request and its reply (RFC 792, RFC 4443), on a raw socket of the calling thread's namespace.
//! No ping program is needed, and no sysctl is touched as the kernel's own ping sockets would ask for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, recv, send, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// How long one request waits for its reply: a bridge forwards at once, and a lost packet is lost.
const REPLY_WAIT: Duration = Duration::from_millis(250);
/// Requests before a ping counts as unanswered. An optimistic IPv6 address answers neighbours only after work that the kernel
/// defers and does under RTNL (addrconf_dad_work), which a busy machine holds for long.
const ATTEMPTS_MAX: u16 = 20;
/// Larger than any reply to what is sent here.
const PACKET_BYTES_MAX: usize = 512;
/// Sent along, to be more than a bare header.
const PAYLOAD: [u8; 8] = *b"plexus\r\n";

/// Sends requests to an address until one is answered, and says how long that one took.
///
/// # Errors
/// None was answered: the last reason.
pub(super) fn ping(to: IpAddr, id: u16) -> io::Result<Duration> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    let wait = TimeVal::milliseconds(i64::try_from(REPLY_WAIT.as_millis()).unwrap_or(i64::MAX));
    setsockopt(&socket, ReceiveTimeout, &wait)?;
    // A connected raw socket receives from this address only (raw(7)).
    connect(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(to, 0)))?;
    let mut last = Errno::ETIMEDOUT;
    for sequence in 1..=ATTEMPTS_MAX {
        match attempt(socket.as_raw_fd(), to, id, sequence) {
            Ok(took) => return Ok(took),
            Err(errno) => last = errno,
        }
    }
    Err(last.into())
}

fn attempt(socket: i32, to: IpAddr, id: u16, sequence: u16) -> Result<Duration, Errno> {
    let start = Instant::now();
    send(socket, &request(to, id, sequence), MsgFlags::empty())?;
    let mut packet = [0; PACKET_BYTES_MAX];
    while start.elapsed() < REPLY_WAIT {
        let length = match recv(socket, &mut packet, MsgFlags::empty()) {
            Ok(length) => length,
            Err(Errno::EAGAIN) => break,
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
        };
        if packet.get(..length).and_then(|packet| reply(to, packet)) == Some((id, sequence)) {
            return Ok(start.elapsed());
        }
    }
    Err(Errno::ETIMEDOUT)
}

/// Type, code, checksum, identifier, sequence number, payload. The kernel fills in ICMPv6's checksum (RFC 3542, 3.1),
/// which covers addresses that only it knows.
fn request(to: IpAddr, id: u16, sequence: u16) -> [u8; 16] {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let ([i, d], [s, q]) = (id.to_be_bytes(), sequence.to_be_bytes());
    let [a, b, c, e, f, g, h, j] = PAYLOAD;
    let mut packet = [kind, 0, 0, 0, i, d, s, q, a, b, c, e, f, g, h, j];
    if to.is_ipv4() {
        [packet[2], packet[3]] = checksum(&packet).to_be_bytes();
    }
    packet
}

/// The Internet checksum (RFC 1071); 0 over a packet that holds its own.
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| match pair {
        [high, low] => u16::from_be_bytes([*high, *low]),
        [high] => u16::from_be_bytes([*high, 0]),
        _ => 0,
    };
    !bytes.chunks(2).map(word).fold(0u16, |sum, word| {
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry) // at most 0xfffe when it carried
    })
}

/// Identifier and sequence number of an echo reply; none for any other or damaged packet.
fn reply(from: IpAddr, packet: &[u8]) -> Option<(u16, u16)> {
    let message = match from {
        // A raw IPv4 socket gets the IP header as well; its length in words is the low half of the first byte.
        IpAddr::V4(_) => packet.get(usize::from(packet.first()? & 0x0f) * 4..).filter(|it| checksum(it) == 0)?,
        IpAddr::V6(_) => packet,
    };
    let expected = if from.is_ipv4() { 0 } else { 129 };
    match message {
        [kind, 0, _, _, i, d, s, q, ..] if *kind == expected => {
            Some((u16::from_be_bytes([*i, *d]), u16::from_be_bytes([*s, *q])))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FOUR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const SIX: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    /// The reply that an IPv4 peer sends to a request: type 0, an IP header of five words before it.
    fn answer(id: u16, sequence: u16) -> Vec<u8> {
        let mut message = request(FOUR, id, sequence);
        message[0] = 0;
        [message[2], message[3]] = [0, 0];
        [message[2], message[3]] = checksum(&message).to_be_bytes();
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet.extend(message);
        packet
    }

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        // RFC 1071, section 3: these words sum to ddf2 in one's complement.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[0xff]), !0xff00, "an odd byte is the high one");
        assert_eq!(checksum(&[]), 0xffff);
    }

    #[test]
    fn a_request_carries_a_checksum_only_where_the_kernel_does_not_fill_it_in() {
        let four = request(FOUR, 0x1234, 7);
        assert_eq!((four[0], checksum(&four)), (8, 0));
        assert_eq!(four[4..8], [0x12, 0x34, 0, 7]);
        let six = request(SIX, 0x1234, 7);
        assert_eq!((six[0], &six[2..4]), (128, &[0, 0][..]));
    }

    #[test]
    fn only_an_undamaged_echo_reply_is_one() {
        assert_eq!(reply(FOUR, &answer(9, 2)), Some((9, 2)));
        let mut damaged = answer(9, 2);
        damaged[30] ^= 1;
        assert_eq!(reply(FOUR, &damaged), None);
        let mut unreachable = request(SIX, 9, 2);
        unreachable[0] = 1;
        assert_eq!(reply(SIX, &unreachable), None);
        unreachable[0] = 129;
        assert_eq!(reply(SIX, &unreachable), Some((9, 2)));
        assert_eq!(reply(SIX, &request(SIX, 9, 2)), None, "a request is no reply");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(packet in prop::collection::vec(any::<u8>(), 0..64)) {
            for from in [FOUR, SIX] {
                if let Some((id, sequence)) = reply(from, &packet) {
                    prop_assert!(packet.len() >= 8, "{id} {sequence}");
                }
            }
        }

        #[test]
        fn a_reply_gives_back_what_was_asked(id: u16, sequence: u16) {
            prop_assert_eq!(reply(FOUR, &answer(id, sequence)), Some((id, sequence)));
        }
    }
}
