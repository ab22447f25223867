//! The frame as its page says it is, written by hand: what a case sends need not be one.

use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::Value;

use super::SOCKET;
use crate::call::Side;
use crate::meta::Node;

/// What the daemon said.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    Result(Value),
    Error(Value),
    Yours,
    /// Nothing: it closed the connection.
    Closed,
}

impl Said {
    /// The code of an error.
    pub(super) fn code(&self) -> Option<u64> {
        if let Said::Error(error) = self { error["code"].as_u64() } else { None }
    }
}

/// Magic, length, and so many bytes.
pub(super) fn head(magic: &[u8; 4], length: u32) -> Vec<u8> {
    [magic.as_slice(), &length.to_le_bytes()].concat()
}

/// A request of these variables.
pub(super) fn request(pairs: &[(&str, &[u8])], stdin: &[u8]) -> Vec<u8> {
    let texts = pairs.iter().flat_map(|(name, value)| [name.as_bytes(), value]).chain([stdin]);
    let body: Vec<u8> =
        texts.flat_map(|text| [&u32::try_from(text.len()).unwrap().to_le_bytes(), text].concat()).collect();
    [head(b"plx1", u32::try_from(body.len()).unwrap()), body].concat()
}

/// What `Node::call` would have plexus-cni send.
pub(super) fn of_pod(node: &Node, command: &str, pod: &str) -> Vec<u8> {
    of_pod_with(node, command, pod, node.conf.to_string().as_bytes())
}

/// The same with another standard input.
pub(super) fn of_pod_with(node: &Node, command: &str, pod: &str, stdin: &[u8]) -> Vec<u8> {
    of_sandbox(node, command, (pod, &format!("id-{pod}")), stdin)
}

/// The same for a sandbox of the pod that has this ID.
pub(super) fn of_sandbox(node: &Node, command: &str, (pod, id): (&str, &str), stdin: &[u8]) -> Vec<u8> {
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID=uid-{pod}");
    let pairs = [
        ("CNI_COMMAND", command.to_owned()),
        ("CNI_CONTAINERID", id.to_owned()),
        ("CNI_NETNS", node.bed.netns(pod).display().to_string()),
        ("CNI_IFNAME", "eth0".to_owned()),
        ("CNI_ARGS", args),
        ("CNI_PATH", node.bed.bin(Side::Plexus).display().to_string()),
    ];
    let pairs: Vec<(&str, &[u8])> = pairs.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    request(&pairs, stdin)
}

/// A connection on which nothing was sent.
pub(super) fn connect() -> UnixStream {
    UnixStream::connect(SOCKET).unwrap()
}

/// Sends bytes with descriptors. Who is not read any more has been refused: what it is told shows that.
pub(super) fn send(stream: &mut UnixStream, bytes: &[u8], descriptors: &[BorrowedFd]) {
    let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let messages = [ControlMessage::ScmRights(&numbers)];
    let messages = if numbers.is_empty() { &[][..] } else { &messages[..] };
    let sent = sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], messages, MsgFlags::MSG_NOSIGNAL, None);
    if let Ok(sent) = sent {
        stream.write_all(&bytes[sent..]).ok();
    }
}

/// Waits for an answer without a body, after which the connection stays.
pub(super) fn answer_head(stream: &mut UnixStream) -> Said {
    let mut head = [0; 9];
    stream.read_exact(&mut head).unwrap();
    assert_eq!((&head[..4], &head[5..]), (b"pla1".as_slice(), [0; 4].as_slice()));
    if head[4] == 2 { Said::Yours } else { panic!("an answer of kind {}", head[4]) }
}

/// Waits for the answer, or for the end.
pub(super) fn answer(stream: &mut UnixStream) -> Said {
    let mut bytes = Vec::new();
    // A connection that is closed with unread bytes in it is reset.
    stream.read_to_end(&mut bytes).ok();
    if bytes.is_empty() {
        return Said::Closed;
    }
    let (head, body) = bytes.split_at(9);
    assert_eq!(
        (&head[..4], &head[5..]),
        (b"pla1".as_slice(), u32::try_from(body.len()).unwrap().to_le_bytes().as_slice())
    );
    let json = || if body.is_empty() { Value::Null } else { serde_json::from_slice(body).unwrap() };
    match head[4] {
        0 => Said::Result(json()),
        1 => Said::Error(json()),
        2 => Said::Yours,
        other => panic!("an answer of kind {other}"),
    }
}

/// One connection: bytes with descriptors there, the answer back.
pub(super) fn ask(bytes: &[u8], descriptors: &[BorrowedFd]) -> Said {
    let mut stream = connect();
    send(&mut stream, bytes, descriptors);
    answer(&mut stream)
}
