//! The frame that `plexus-cni` and the daemon share: one request, one answer, on a Unix stream of the node's own.
//!
//! A request is a head (magic, length), then texts with a length each: names and values of the environment, and standard input
//! last. With its first byte goes the descriptor of CNI_NETNS (SCM_RIGHTS, unix(7)). An answer is a head (magic, what it is,
//! length) and the bytes for standard output. It does not know what they mean, nor who sends them.

use std::ffi::OsString;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::cni::request::{Command, STDIN_BYTES_MAX};

/// How a request begins; the number is the version.
const REQUEST: [u8; 4] = *b"plx1";
/// How an answer begins.
const ANSWER: [u8; 4] = *b"pla1";
/// Magic and length of a request.
pub const HEAD_BYTES: usize = 8;
/// Magic, kind and length of an answer.
const ANSWER_HEAD_BYTES: usize = 9;
/// The largest request: standard input, and an environment beside it.
pub const REQUEST_BYTES_MAX: usize = 9 << 20;
/// The largest answer: a result of more attachments than a pod can have.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Pairs of the environment.
const PAIRS_MAX: usize = 32;
/// What of the environment is sent: the protocol's, and what a trace goes on by (W3C trace context).
pub const VARIABLES: [&str; 8] = [
    "CNI_COMMAND",
    "CNI_CONTAINERID",
    "CNI_NETNS",
    "CNI_IFNAME",
    "CNI_ARGS",
    "CNI_PATH",
    "CNI_NETNS_OVERRIDE",
    "TRACEPARENT",
];

/// How long `plexus-cni` waits for the answer to an ADD: longer than the daemon gives one, shorter than a runtime waits (containerd: 4
/// minutes).
pub const ADD_TIME: Duration = Duration::from_secs(180);
/// The same of a DEL, which it then carries out by itself: the kernel takes no such time.
pub const DEL_TIME: Duration = Duration::from_secs(30);

/// In the place of a request: somebody is about to execute plugins for this container. It is answered when it may, with
/// [`Answer::Yours`], and may for as long as it keeps the connection.
pub const LEASE: &str = "PLEXUS_LEASE";
/// In the place of a request: what came of one that was served where it came from ([`crate::handed::Tidings`]), for the daemon to tell;
/// with the container, and the configuration on standard input.
pub const NEWS: &str = "PLEXUS_NEWS";
/// Beside what is of the environment: the caller's pid namespace, by its inode. A daemon in a container is in another one.
pub const PID_NS: &str = "PLEXUS_PID_NS";
/// How long a lease may be waited for.
pub const LEASE_TIME: Duration = Duration::from_secs(60);

const _: () = assert!(REQUEST_BYTES_MAX as u64 > STDIN_BYTES_MAX);

/// One request as it arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Of the environment.
    pub pairs: Vec<(OsString, OsString)>,
    /// Standard input.
    pub stdin: Vec<u8>,
}

/// What the daemon says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A result, or nothing.
    Result(Vec<u8>),
    /// An error, as the runtime gets it.
    Error(Vec<u8>),
    /// It is to be served where it came from; what is known of it may come with it ([`crate::handed::Knowledge`]).
    Yours(Vec<u8>),
}

fn malformed(why: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

impl Frame {
    /// The frame as it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.stdin.len() + 1024);
        bytes.extend(REQUEST);
        bytes.extend([0; 4]);
        for text in self.pairs.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]) {
            put(&mut bytes, text);
        }
        put(&mut bytes, &self.stdin);
        let length = length_of(bytes.len() - HEAD_BYTES);
        if let Some(place) = bytes.get_mut(4..HEAD_BYTES) {
            place.copy_from_slice(&length);
        }
        bytes
    }

    /// A variable of the environment.
    pub fn variable(&self, name: &str) -> Option<&[u8]> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_bytes())
    }

    /// What it asks for, where that is known.
    pub fn command(&self) -> Option<Command> {
        let name = self.variable("CNI_COMMAND")?;
        str::from_utf8(name).ok().and_then(Command::parse)
    }

    /// How many bytes come after a head.
    ///
    /// # Errors
    /// It is no head, or of more than is taken.
    pub fn length(head: [u8; HEAD_BYTES]) -> io::Result<usize> {
        let [a, b, c, d, length @ ..] = head;
        if [a, b, c, d] != REQUEST {
            return Err(malformed("not a request of this version of plexus"));
        }
        bounded(length, REQUEST_BYTES_MAX)
    }

    /// What came after a head.
    ///
    /// # Errors
    /// A length that leads nowhere, or more pairs than are taken.
    pub fn parse(mut body: &[u8]) -> io::Result<Frame> {
        let mut texts: Vec<&[u8]> = Vec::new();
        while !body.is_empty() {
            let (length, rest) = body.split_first_chunk::<4>().ok_or_else(|| malformed("a length is cut short"))?;
            let length = bounded(*length, REQUEST_BYTES_MAX)?;
            let (text, rest) = rest.split_at_checked(length).ok_or_else(|| malformed("a text is cut short"))?;
            texts.push(text);
            body = rest;
            if texts.len() > 2 * PAIRS_MAX + 1 {
                return Err(malformed("too many variables"));
            }
        }
        let stdin = texts.pop().ok_or_else(|| malformed("no standard input"))?.to_vec();
        let (pairs, []) = texts.as_chunks::<2>() else { return Err(malformed("a name without a value")) };
        let owned = |text: &[u8]| OsString::from_vec(text.to_vec());
        let pairs = pairs.iter().map(|[name, value]| (owned(name), owned(value))).collect();
        Ok(Frame { pairs, stdin })
    }

    /// Sends it, and the descriptor with it.
    ///
    /// # Errors
    /// What the socket says.
    pub fn send(&self, stream: &mut UnixStream, netns: Option<BorrowedFd>) -> io::Result<()> {
        let bytes = self.to_bytes();
        let rights: Vec<_> = netns.iter().map(AsRawFd::as_raw_fd).collect();
        let messages = [ControlMessage::ScmRights(&rights)];
        let messages = if rights.is_empty() { &[][..] } else { &messages[..] };
        let sent = sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&bytes)], messages, MsgFlags::MSG_NOSIGNAL, None)?;
        stream.write_all(bytes.get(sent..).unwrap_or_default())
    }
}

impl Answer {
    /// The answer as it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Answer::Result(body) => (0, body.as_slice()),
            Answer::Error(body) => (1, body.as_slice()),
            // Without that it can be served as well.
            Answer::Yours(body) => {
                (2, Some(body.as_slice()).filter(|body| body.len() <= ANSWER_BYTES_MAX).unwrap_or_default())
            }
        };
        let mut bytes = Vec::with_capacity(ANSWER_HEAD_BYTES + body.len());
        bytes.extend(ANSWER);
        bytes.push(kind);
        bytes.extend(length_of(body.len()));
        bytes.extend(body);
        bytes
    }

    /// Waits for one.
    ///
    /// # Errors
    /// The end of the stream, its time limit, or what is no answer.
    pub fn receive(stream: &mut UnixStream) -> io::Result<Answer> {
        let mut head = [0; ANSWER_HEAD_BYTES];
        stream.read_exact(&mut head)?;
        let [a, b, c, d, kind, length @ ..] = head;
        if [a, b, c, d] != ANSWER {
            return Err(malformed("not an answer of this version of plexus"));
        }
        let mut body = vec![0; bounded(length, ANSWER_BYTES_MAX)?];
        stream.read_exact(&mut body)?;
        match kind {
            0 => Ok(Answer::Result(body)),
            1 => Ok(Answer::Error(body)),
            2 => Ok(Answer::Yours(body)),
            _ => Err(malformed("an answer of an unknown kind")),
        }
    }
}

fn put(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend(length_of(text.len()));
    bytes.extend(text);
}

/// Longer ones are beyond every bound.
fn length_of(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

fn bounded(length: [u8; 4], max: usize) -> io::Result<usize> {
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > max { Err(malformed("longer than is taken")) } else { Ok(length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame {
            pairs: vec![("CNI_COMMAND".into(), "ADD".into()), ("CNI_ARGS".into(), "".into())],
            stdin: br#"{"name":"n"}"#.to_vec(),
        }
    }

    fn body(frame: &Frame) -> Vec<u8> {
        frame.to_bytes()[HEAD_BYTES..].to_vec()
    }

    #[test]
    fn a_frame_comes_back_as_it_was() {
        let bytes = frame().to_bytes();
        let head = *bytes.first_chunk().unwrap();
        assert_eq!(Frame::length(head).unwrap(), bytes.len() - HEAD_BYTES);
        assert_eq!(Frame::parse(&body(&frame())).unwrap(), frame());
        assert_eq!((frame().command(), frame().variable("CNI_ARGS")), (Some(Command::Add), Some(&b""[..])));
        let odd = Frame { pairs: vec![("CNI_COMMAND".into(), "add".into())], stdin: Vec::new() };
        assert_eq!((odd.command(), odd.variable("CNI_NETNS")), (None, None));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let whole = body(&frame());
        for cut in 0..whole.len() {
            // A cut between two texts leaves an odd or an even number of them: never the same frame.
            assert_ne!(Frame::parse(&whole[..cut]).ok(), Some(frame()), "{cut}");
        }
        let head = |magic: &[u8; 4], length: u32| {
            let mut head = [0; HEAD_BYTES];
            head[..4].copy_from_slice(magic);
            head[4..].copy_from_slice(&length.to_le_bytes());
            head
        };
        assert!(Frame::length(head(b"plx2", 1)).is_err());
        assert!(Frame::length(head(b"plx1", u32::MAX)).is_err());
        assert!(Frame::parse(&u32::MAX.to_le_bytes()).is_err());
        assert!(Frame::parse(&[0; 4 * (2 * PAIRS_MAX + 2)]).is_err(), "more pairs than are taken");
        assert!(Frame::parse(&[0; 8]).is_err(), "a name without a value");
        assert!(Frame::parse(&[]).is_err());
    }

    #[test]
    fn an_answer_comes_back_as_it_was() {
        for answer in [Answer::Result(Vec::new()), Answer::Error(b"{}".to_vec()), Answer::Yours(b"[]".to_vec())] {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(&answer.to_bytes()).unwrap();
            assert_eq!(Answer::receive(&mut ours).unwrap(), answer);
        }
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"pla1\x00\xff\xff\xff\xff").unwrap();
        assert_eq!(Answer::receive(&mut ours).unwrap_err().kind(), ErrorKind::InvalidData);
        drop(theirs);
        assert_eq!(Answer::receive(&mut ours).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
