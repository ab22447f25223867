//! One question to D-Bus: has this name an owner? A Unix socket, a few messages by value (D-Bus specification 0.43), and a
//! deadline. Knows nothing of who has names.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// How long the bus may take for all of its answers.
const DEADLINE: Duration = Duration::from_secs(1);
/// Where the system's bus is, if the environment says nothing.
const ADDRESS: &str = "unix:path=/var/run/dbus/system_bus_socket";
/// Longest that the bus may say before it has answered: a line, three small messages.
const ANSWERS_BYTES_MAX: usize = 64 * 1024;
/// The bus itself.
const BUS: &str = "org.freedesktop.DBus";
const PATH: &str = "/org/freedesktop/DBus";
/// Message types, and the header field that says what is answered.
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const REPLY_SERIAL: u8 = 5;
/// The number of the question; the greeting before it has 1.
const QUESTION: u32 = 2;
/// Bytes of a message before its header fields.
const FIXED_BYTES: usize = 16;
const SILENT: Answer = Answer::Unknown("D-Bus does not answer");
const STRANGE: Answer = Answer::Unknown("D-Bus answers with something else");

/// Whether the name has an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    /// Also where there is no bus, or it does not let us in.
    No,
    /// Why nobody can say.
    Unknown(&'static str),
}

/// A question on its way.
#[derive(Debug)]
pub(super) enum Asked {
    Waiting { stream: UnixStream, since: Instant },
    Settled(Answer),
}

/// Asks the system's bus, where the reference plugin would.
pub(super) fn ask(name: &str) -> Asked {
    let told = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok().filter(|address| !address.is_empty());
    ask_at(told.as_deref().unwrap_or(ADDRESS), name)
}

/// Asks the first bus of a list of addresses that is there.
fn ask_at(addresses: &str, name: &str) -> Asked {
    for address in addresses.split(';') {
        let Some(keys) = address.strip_prefix("unix:") else {
            if address.starts_with("tcp:") || address.starts_with("nonce-tcp:") || address.starts_with("unixexec:") {
                return Asked::Settled(Answer::Unknown("DBUS_SYSTEM_BUS_ADDRESS is not a Unix socket"));
            }
            continue;
        };
        match place(keys).map(|place| open(&place)) {
            Some(Ok(mut stream)) => {
                return match stream.write_all(&conversation(name)) {
                    Ok(()) => Asked::Waiting { stream, since: Instant::now() },
                    Err(_) => Asked::Settled(Answer::No),
                };
            }
            // Its queue is full: it is there, and has no time.
            Some(Err(Errno::EAGAIN)) => return Asked::Settled(SILENT),
            Some(Err(_)) | None => {}
        }
    }
    Asked::Settled(Answer::No)
}

/// The socket of an address' keys.
fn place(keys: &str) -> Option<UnixAddr> {
    keys.split(',').find_map(|pair| match pair.split_once('=')? {
        ("path", path) => UnixAddr::new(unescaped(path)?.as_slice()).ok(),
        ("abstract", name) => UnixAddr::new_abstract(&unescaped(name)?).ok(),
        _ => None,
    })
}

/// Bytes that an address writes as `%` and two digits.
fn unescaped(value: &str) -> Option<Vec<u8>> {
    let mut parts = value.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend(part.get(2..)?.as_bytes());
    }
    Some(bytes)
}

/// Connects without waiting for a place in the queue.
fn open(place: &UnixAddr) -> Result<UnixStream, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&socket), place)?;
    Ok(UnixStream::from(socket))
}

/// All that is said, at once: who asks, a greeting, the question. A bus that lets nobody in answers the first.
fn conversation(name: &str) -> Vec<u8> {
    let uid = nix::unistd::getuid().to_string();
    let uid: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut bytes = format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n").into_bytes();
    bytes.extend(call(1, "Hello", None));
    bytes.extend(call(QUESTION, "NameHasOwner", Some(name)));
    bytes
}

/// A method call of the bus, with at most one text.
fn call(serial: u32, member: &str, argument: Option<&str>) -> Vec<u8> {
    let mut fields = Vec::new();
    for (code, kind, value) in [(1, b'o', PATH), (6, b's', BUS), (2, b's', BUS), (3, b's', member)] {
        pad(&mut fields);
        fields.extend([code, 1, kind, 0]);
        text(&mut fields, value);
    }
    let mut body = Vec::new();
    if let Some(argument) = argument {
        pad(&mut fields);
        fields.extend([8, 1, b'g', 0, 1, b's', 0]);
        text(&mut body, argument);
    }
    let mut message = vec![b'l', 1, 0, 1];
    for number in [length(&body), serial, length(&fields)] {
        message.extend(number.to_le_bytes());
    }
    message.extend(fields);
    pad(&mut message);
    message.extend(body);
    message
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Structures begin at a multiple of eight.
fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

fn text(bytes: &mut Vec<u8>, value: &str) {
    bytes.extend(length(value.as_bytes()).to_le_bytes());
    bytes.extend(value.as_bytes());
    bytes.push(0);
}

impl Asked {
    /// Waits for the answer until the deadline.
    pub(super) fn answer(self) -> Answer {
        match self {
            Self::Settled(answer) => answer,
            Self::Waiting { stream, since } => wait(stream, since),
        }
    }
}

fn wait(mut stream: UnixStream, since: Instant) -> Answer {
    let (mut told, mut part) = (Vec::new(), [0; 4096]);
    if stream.set_nonblocking(false).is_err() {
        return SILENT;
    }
    while told.len() < ANSWERS_BYTES_MAX {
        if let Some(answer) = read(&told) {
            return answer;
        }
        let left = DEADLINE.saturating_sub(since.elapsed());
        // A timeout of zero is none.
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return SILENT;
        }
        match stream.read(&mut part) {
            Ok(0) => return Answer::No,
            Ok(length) => told.extend(part.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return SILENT,
            Err(_) => return Answer::No,
        }
    }
    STRANGE
}

/// The answer in what the bus has said so far; none: it goes on.
fn read(told: &[u8]) -> Option<Answer> {
    let end = told.windows(2).position(|pair| pair == b"\r\n")?;
    if !told.starts_with(b"OK ") {
        return Some(Answer::No);
    }
    let mut rest = told.get(end + 2..)?;
    loop {
        let message = match Message::split(rest)? {
            Ok((message, next)) => {
                rest = next;
                message
            }
            Err(answer) => return Some(answer),
        };
        match (message.kind, message.answers) {
            (METHOD_RETURN, Some(QUESTION)) => {
                return Some(if message.body.iter().any(|byte| *byte != 0) { Answer::Yes } else { Answer::No });
            }
            (ERROR, Some(_)) => return Some(Answer::No),
            _ => {}
        }
    }
}

/// A message of the bus, as far as it is read.
#[derive(Debug)]
struct Message<'a> {
    kind: u8,
    /// The number of the call that it answers.
    answers: Option<u32>,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first message, and what follows it; none if it is not whole yet.
    fn split(bytes: &'a [u8]) -> Option<Result<(Self, &'a [u8]), Answer>> {
        let order = *bytes.first()?;
        let kind = *bytes.get(1)?;
        let (body, fields) = (number(order, bytes.get(4..8)?), number(order, bytes.get(12..FIXED_BYTES)?));
        let (Some(body), Some(fields)) = (body.and_then(small), fields.and_then(small)) else {
            return Some(Err(STRANGE));
        };
        let begin = (FIXED_BYTES + fields).next_multiple_of(8);
        let listed = bytes.get(FIXED_BYTES..FIXED_BYTES + fields)?;
        let content = bytes.get(begin..begin + body)?;
        let message = Self { kind, answers: answered(order, listed), body: content };
        Some(Ok((message, bytes.get(begin + body..)?)))
    }
}

/// A length that a message of the bus can have.
fn small(length: u32) -> Option<usize> {
    usize::try_from(length).ok().filter(|length| *length < ANSWERS_BYTES_MAX)
}

/// A number in a message's own byte order.
fn number(order: u8, bytes: &[u8]) -> Option<u32> {
    let bytes = *bytes.first_chunk::<4>()?;
    match order {
        b'l' => Some(u32::from_le_bytes(bytes)),
        b'B' => Some(u32::from_be_bytes(bytes)),
        _ => None,
    }
}

/// The serial that is answered, among a message's header fields; none also where a field is of a type that none has.
fn answered(order: u8, fields: &[u8]) -> Option<u32> {
    let mut at = 0_usize;
    loop {
        at = at.checked_next_multiple_of(8)?;
        let [code, 1, kind, 0] = *fields.get(at..)?.first_chunk::<4>()? else { return None };
        let value = fields.get(at + 4..)?;
        if (code, kind) == (REPLY_SERIAL, b'u') {
            return number(order, value);
        }
        let length = match kind {
            b'u' => 4,
            // A length of four bytes or of one, the text, a NUL.
            b's' | b'o' => small(number(order, value)?)? + 5,
            b'g' => usize::from(*value.first()?) + 2,
            _ => return None,
        };
        at += 4 + length;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// An answer to call `serial` with a number as its body, behind a field of each type.
    fn reply(kind: u8, serial: u32, owned: u32) -> Vec<u8> {
        let mut fields = vec![6, 1, b's', 0];
        text(&mut fields, ":1.7");
        pad(&mut fields);
        fields.extend([8, 1, b'g', 0, 1, b'b', 0, 0]);
        fields.extend([REPLY_SERIAL, 1, b'u', 0]);
        fields.extend(serial.to_le_bytes());
        let mut message = vec![b'l', kind, 1, 1];
        for number in [4, 9, length(&fields)] {
            message.extend(number.to_le_bytes());
        }
        message.extend(&fields);
        pad(&mut message);
        message.extend(owned.to_le_bytes());
        message
    }

    #[test]
    fn the_question_is_of_the_specification() {
        let call = call(2, "NameHasOwner", Some("a.b"));
        let expected: &[&[u8]] = &[
            b"l\x01\0\x01\x08\0\0\0\x02\0\0\0\x7f\0\0\0",
            b"\x01\x01o\0\x15\0\0\0/org/freedesktop/DBus\0\0\0",
            b"\x06\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0",
            b"\x02\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0",
            b"\x03\x01s\0\x0c\0\0\0NameHasOwner\0\0\0\0",
            b"\x08\x01g\0\x01s\0\0",
            b"\x03\0\0\0a.b\0",
        ];
        assert_eq!(call, expected.concat());
    }

    #[test]
    fn an_answer_is_found_behind_others_and_only_when_it_is_whole() {
        let greeting = [&b"OK 0123\r\n"[..], &reply(METHOD_RETURN, 1, 1)].concat();
        for (last, expected) in [
            (reply(METHOD_RETURN, QUESTION, 1), Answer::Yes),
            (reply(METHOD_RETURN, QUESTION, 0), Answer::No),
            (reply(ERROR, QUESTION, 1), Answer::No),
        ] {
            let whole = [&greeting[..], &last].concat();
            for length in 0..whole.len() {
                assert_eq!(read(&whole[..length]), None, "{length}");
            }
            assert_eq!(read(&whole), Some(expected));
        }
        assert_eq!(read(b"REJECTED EXTERNAL\r\n"), Some(Answer::No));
    }

    #[test]
    fn hostile_answers_end_the_reading() {
        let whole = [&b"OK 0123\r\n"[..], &reply(METHOD_RETURN, 1, 1), &reply(METHOD_RETURN, QUESTION, 1)].concat();
        for at in 0..whole.len() {
            for value in [0, 1, 7, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = read(&bytes);
            }
        }
        let huge = [&b"OK 0123\r\n"[..], b"l\x02\0\x01\xff\xff\xff\xff\x02\0\0\0\0\0\0\0"].concat();
        assert_eq!(read(&huge), Some(STRANGE));
        assert_eq!(read(b"OK 0123\r\nx\x02\0\x01\0\0\0\0\x02\0\0\0\0\0\0\0"), Some(STRANGE));
    }

    #[test]
    fn a_bus_is_asked_at_the_first_address_that_is_there() {
        let directory = std::env::temp_dir().join(format!("bus {}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let escaped = path.to_str().unwrap().replace(' ', "%20");
        let addresses = format!("unix:path=/nowhere/at/all;unix:guid=7,path={escaped}");
        let bus = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = vec![0; conversation("a.b").len()];
            stream.read_exact(&mut heard).unwrap();
            assert_eq!(heard, conversation("a.b"));
            stream.write_all(b"OK 0123\r\n").unwrap();
            stream.write_all(&reply(METHOD_RETURN, QUESTION, 1)).unwrap();
            drop(stream);
            drop(listener.accept().unwrap());
        });
        assert_eq!(ask_at(&addresses, "a.b").answer(), Answer::Yes);
        assert_eq!(ask_at(&addresses, "a.b").answer(), Answer::No, "closed without a word");
        bus.join().unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(ask_at(&addresses, "a.b").answer(), Answer::No);
        assert_eq!(ask_at("nonsense;unix:path=%zz;unix:", "a.b").answer(), Answer::No);
        assert!(matches!(ask_at("tcp:host=localhost,port=1", "a.b").answer(), Answer::Unknown(_)));
    }
}
