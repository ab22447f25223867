//! The detached child that waits for the kernel while a DEL has long been answered.
//!
//! The kernel answers RTM_DELLINK only after its RCU grace periods (15-20 ms), and whoever sent it waits inside `sendmsg`,
//! but announces the removal after 0.3 ms. So another process sends it: this executable under the name [`NAME`], its
//! standard input a netlink socket that is already in the pod's namespace, its argument the message in hexadecimal.
//! It holds no pipe of the runtime's, parses no configuration, and knows nothing about what it deletes.

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{self, Command, ExitCode, Stdio};

use backends::{Deleter, Deletion};
use nix::sys::socket::{MsgFlags, recv, send};

/// argv[0] of the child.
pub const NAME: &str = "plexus-deleter";
/// One message with a few attributes; anything longer was not written by [`spawn`].
const MESSAGE_BYTES_MAX: usize = 4096;

/// Whoever carries deletions out.
pub trait Deletes: Debug {
    /// Has somebody send the message, wait for the answer, and keep `kept` open until then.
    ///
    /// # Errors
    /// Nobody can: the caller then waits itself.
    fn start(&self, deletion: Deletion, kept: Option<OwnedFd>) -> io::Result<Box<dyn Deleter>>;
}

/// A detached child for each.
#[derive(Debug)]
pub struct Child;

impl Deletes for Child {
    fn start(&self, deletion: Deletion, kept: Option<OwnedFd>) -> io::Result<Box<dyn Deleter>> {
        Ok(Box::new(spawn(deletion.socket, &deletion.message, kept)?))
    }
}

/// Starts the child that sends `message` on `socket` and waits for the kernel's answer. It has `kept` for its standard output,
/// which it never writes to, so that what closes with it closes late.
///
/// # Errors
/// What fork and exec say, such as EAGAIN at the limit of processes: the caller then waits itself.
pub fn spawn(socket: OwnedFd, message: &[u8], kept: Option<OwnedFd>) -> io::Result<process::Child> {
    use std::fmt::Write as _;
    let mut hex = String::with_capacity(message.len() * 2);
    for byte in message {
        let _ = write!(hex, "{byte:02x}"); // writing to a String cannot fail
    }
    Command::new("/proc/self/exe")
        .arg0(NAME)
        .arg(hex)
        .env_clear()
        .stdin(Stdio::from(socket))
        .stdout(kept.map_or_else(Stdio::null, Stdio::from))
        .stderr(Stdio::null())
        .process_group(0) // a runtime that kills the plugin's group at a deadline must not stop a deletion under way
        .spawn()
}

/// The child's whole life. Exit status 0: the kernel has answered, whatever it said: the parent looks for itself.
pub fn run(message: Option<&str>) -> ExitCode {
    let answered = message.and_then(decode).map(|message| carry_out(&io::stdin(), &message));
    if matches!(answered, Some(Ok(()))) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Sends the message, and waits for the kernel's answer, whatever that is.
///
/// # Errors
/// What the socket says.
pub fn carry_out(socket: &impl AsRawFd, message: &[u8]) -> io::Result<()> {
    let socket = socket.as_raw_fd();
    send(socket, message, MsgFlags::empty())?;
    let mut answer = [0; MESSAGE_BYTES_MAX];
    recv(socket, &mut answer, MsgFlags::empty())?;
    Ok(())
}

fn decode(hex: &str) -> Option<Vec<u8>> {
    if hex.len() > 2 * MESSAGE_BYTES_MAX || !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return None;
    }
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(hex.get(i..i + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn only_whole_bytes_within_the_bound_decode() {
        assert_eq!(decode("00ff10"), Some(vec![0, 255, 16]));
        assert_eq!(decode("00f"), None);
        assert_eq!(decode("zz"), None);
        assert_eq!(decode(&"00".repeat(5000)), None);
    }
}
