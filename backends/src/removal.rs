//! Removing links of the pod. The kernel announces a removal in a third of a millisecond, but answers the request only after
//! its grace periods (18 ms in sendmsg, net/core/dev.c netdev_run_todo): so another process sends it, and this one returns at the
//! announcement. Knows no lease and no host end: the other end of a veth goes with this one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::error::{Error, ErrorKind};
use crate::loopback;
use crate::mac::random_bytes;
use crate::netlink::link::{self, GROUP_LINK, Link, RTM_DELLINK};
use crate::netlink::socket::{Heard, stand_alone};
use crate::netlink::{Failure, Message, Socket};
use crate::pod::{Pod, Side};

/// How long the announcements may take: many removals at once queue behind each other, 0.2 s for hundreds.
const ANNOUNCED_TIMEOUT_MS: u64 = 10_000;
/// How often the other process is looked at while nothing is announced, and the links where announcements were lost.
const CHILD_LOOK_MS: u64 = 10;
/// As many links are announced within what a socket holds unread (net.core.rmem_default, 208 kB): each some three times, 4 kB at a time.
const QUIET_LINKS_MAX: usize = 16;
/// Room for what is announced of each of more.
const LINK_BYTES: usize = 16 << 10;
/// The most room, in bytes.
const ROOM_BYTES_MAX: usize = 8 << 20;

/// A link of the pod to remove.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Doomed {
    /// By its name.
    Name(String),
    /// By its index.
    Index(u32),
    /// All links of a device group (`IFLA_GROUP`).
    Group(u32),
}

/// What another process has to do: send `message` on `socket`, read the answer, end.
#[derive(Debug)]
pub struct Deletion {
    /// A netlink socket inside the pod's namespace; it does not matter where the process is.
    pub socket: OwnedFd,
    /// One request that asks for an acknowledgement.
    pub message: Vec<u8>,
}

/// Whoever carries out a [`Deletion`].
pub trait Deleter {
    /// Whether it has ended, successfully or not. Does not wait.
    ///
    /// # Errors
    /// If that cannot be said; it then counts as ended.
    fn ended(&mut self) -> io::Result<bool>;
}

impl Deleter for std::process::Child {
    fn ended(&mut self) -> io::Result<bool> {
        self.try_wait().map(|status| status.is_some())
    }
}

impl<T> Deleter for JoinHandle<T> {
    fn ended(&mut self) -> io::Result<bool> {
        Ok(self.is_finished())
    }
}

/// Starts somebody who carries out a deletion.
pub type Spawn<'a> = dyn Fn(Deletion) -> io::Result<Box<dyn Deleter>> + 'a;

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// The names of the links that were there. A loopback interface was set down, not removed.
    pub names: Vec<String>,
}

/// Removes links and returns as soon as the kernel announces that they are gone. `spawn` starts the process that sends the
/// request; if it cannot, or ends without the removal, the request is sent from here, and waited for. A link that is not there
/// is no error. `gone` may hear of a link by name as soon as it is announced gone, while others are not; of which, is not promised.
///
/// # Errors
/// [`ErrorKind::Refused`] if the kernel refuses, [`ErrorKind::Timeout`] if no removal is announced, [`ErrorKind::Io`] if the
/// kernel cannot be asked.
pub fn remove(
    pod: &mut Pod,
    doomed: &[Doomed],
    spawn: &Spawn<'_>,
    gone: &mut dyn FnMut(&str),
) -> Result<Removed, Error> {
    let links = find(pod, doomed)?;
    let removed = removed(&links);
    let links = set_loopback_down(pod, links)?;
    let Some(message) = request(&mut pod.side, doomed, &links)? else { return Ok(removed) };
    let second = pod.second_socket()?;
    hand_over(&mut pod.side, &second, &links, message, (spawn, gone))?;
    Ok(removed)
}

/// Removes links of one side. With a second socket of its namespace, and somebody to hand that to, it returns at the announcement,
/// as [`remove`] does.
pub(crate) fn remove_links(
    side: &mut Side,
    links: &[Link],
    elsewhere: Option<(Socket, &Spawn<'_>)>,
) -> Result<(), Error> {
    let Some(message) = request(side, &[], links)? else { return Ok(()) };
    match elsewhere {
        Some((second, spawn)) => hand_over(side, &second, links, message, (spawn, &mut |_| {})),
        None => delete(side, links, message),
    }
}

/// Has another process send the request and waits for the announcement.
fn hand_over(
    side: &mut Side,
    second: &Socket,
    links: &[Link],
    message: Message,
    (spawn, gone): (&Spawn<'_>, &mut dyn FnMut(&str)),
) -> Result<(), Error> {
    let socket = second.as_fd().try_clone_to_owned();
    let socket =
        socket.map_err(|e| Error::at(ErrorKind::Io, "hand over a socket to delete", names(links)).because(e))?;
    if links.len() > QUIET_LINKS_MAX {
        // With less room announcements are lost, and links are looked for instead.
        let _ = side.socket.set_receive_buffer((links.len() * LINK_BYTES).min(ROOM_BYTES_MAX));
    }
    // Before the request is under way: nothing is missed.
    let failed = |e| Error::kernel("listen for the removal of", names(links), e);
    side.socket.join(GROUP_LINK).map_err(failed)?;
    let bytes = stand_alone(message.clone());
    let outcome = match spawn(Deletion { socket, message: bytes }) {
        Ok(mut deleter) => announced(side, links, deleter.as_mut(), gone),
        Err(_) => Ok(false),
    };
    let left = side.socket.leave(GROUP_LINK).map_err(failed);
    if !outcome? {
        delete(side, links, message)?;
    }
    left
}

/// Removes links and waits for the kernel's answer.
///
/// # Errors
/// As [`remove`].
pub fn remove_now(pod: &mut Pod, doomed: &[Doomed]) -> Result<Removed, Error> {
    let links = find(pod, doomed)?;
    let removed = removed(&links);
    let links = set_loopback_down(pod, links)?;
    if let Some(message) = request(&mut pod.side, doomed, &links)? {
        delete(&mut pod.side, &links, message)?;
    }
    Ok(removed)
}

fn removed(links: &[Link]) -> Removed {
    Removed { names: links.iter().map(|link| link.name.clone()).collect() }
}

fn names(links: &[Link]) -> String {
    links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The doomed links that are there, each once.
fn find(pod: &mut Pod, doomed: &[Doomed]) -> Result<Vec<Link>, Error> {
    let mut found: Vec<Link> = Vec::new();
    if doomed.iter().any(|d| matches!(d, Doomed::Group(_))) {
        let is_doomed = |link: &Link| {
            doomed.iter().any(|doomed| match doomed {
                Doomed::Name(name) => *name == link.name,
                Doomed::Index(index) => *index == link.index,
                Doomed::Group(group) => *group == link.group,
            })
        };
        found.extend(pod.side.links()?.into_iter().filter(is_doomed));
        return Ok(found);
    }
    for doomed in doomed {
        let link = match doomed {
            Doomed::Name(name) => pod.side.link(name)?,
            Doomed::Index(index) => pod.side.link_at(*index)?,
            Doomed::Group(_) => None,
        };
        found.extend(link.filter(|link| !found.iter().any(|other| other.index == link.index)));
    }
    Ok(found)
}

/// The loopback interface cannot be deleted: it goes down. Gives the others.
fn set_loopback_down(pod: &mut Pod, links: Vec<Link>) -> Result<Vec<Link>, Error> {
    let (loopbacks, others): (Vec<_>, Vec<_>) = links.into_iter().partition(|link| link.loopback);
    loopbacks.iter().try_for_each(|link| loopback::set_down(pod, link))?;
    Ok(others)
}

/// One request for all links. Deleted one by one, each would wait for the grace periods of the one before.
fn request(side: &mut Side, doomed: &[Doomed], links: &[Link]) -> Result<Option<Message>, Error> {
    match (doomed, links) {
        (_, []) => Ok(None),
        (_, [only]) => Ok(Some(link::delete(only.index).into_message())),
        ([Doomed::Group(group)], _) => Ok(Some(link::delete_group(*group))),
        _ => {
            let [a, b, c, d, ..] = random_bytes();
            // Groups of that size are nobody's by intention.
            let group = u32::from_ne_bytes([a, b, c, d]) | 1 << 31;
            let requests = links.iter().map(|link| link::set_group(link.index, group)).collect();
            let failed = |e| Error::kernel("group for deletion", names(links), e);
            for (_, refusal) in side.socket.batch(requests).map_err(failed)? {
                if refusal.errno != Errno::ENODEV {
                    return Err(failed(refusal.into()));
                }
            }
            Ok(Some(link::delete_group(group)))
        }
    }
}

/// Waits until all links are announced gone. `Ok(false)`: the deleter ended and they are not.
fn announced(
    side: &mut Side,
    links: &[Link],
    deleter: &mut dyn Deleter,
    gone: &mut dyn FnMut(&str),
) -> Result<bool, Error> {
    let failed = |e| Error::kernel("wait for the removal of", names(links), e);
    let deadline = Instant::now() + Duration::from_millis(ANNOUNCED_TIMEOUT_MS);
    let mut left: Vec<&Link> = links.iter().collect();
    let mut announced: Vec<u32> = Vec::new();
    while !left.is_empty() {
        let now = Instant::now();
        if now >= deadline {
            return Err(Error::at(ErrorKind::Timeout, "wait for the removal of", names(links))
                .because_of(format!("nothing announced within {ANNOUNCED_TIMEOUT_MS} ms")));
        }
        let heard = side.socket.event(deadline.min(now + Duration::from_millis(CHILD_LOOK_MS)), |kind, payload| {
            if kind == RTM_DELLINK {
                announced.extend(link::gone(payload));
            }
        });
        for index in announced.drain(..) {
            if let Some(position) = left.iter().position(|link| link.index == index) {
                gone(&left.swap_remove(position).name);
            }
        }
        match heard.map_err(failed)? {
            Heard::Messages => {}
            Heard::Nothing if !deleter.ended().unwrap_or(true) => {}
            // Nothing more will be announced, or something was and is lost: see for ourselves.
            Heard::Nothing | Heard::Lost => return seen_gone(side, left, deleter, gone, deadline),
        }
    }
    Ok(true)
}

/// Looks for the links until they are gone. Nothing more is listened to: what is announced would push answers out of the socket's
/// buffer (net/netlink/af_netlink.c, `netlink_attachskb` for one, `netlink_overrun` for all that follow).
fn seen_gone(
    side: &mut Side,
    mut left: Vec<&Link>,
    deleter: &mut dyn Deleter,
    gone: &mut dyn FnMut(&str),
    deadline: Instant,
) -> Result<bool, Error> {
    let failed = |left: &[&Link], e| {
        let names: Vec<&str> = left.iter().map(|link| link.name.as_str()).collect();
        Error::kernel("wait for the removal of", names.join(", "), e)
    };
    side.socket.leave(GROUP_LINK).and_then(|()| side.socket.forget()).map_err(|e| failed(&left, e))?;
    loop {
        // First: what it has done is seen then.
        let ended = deleter.ended().unwrap_or(true);
        let there = side.are_there(&left)?;
        let mut is_there = there.into_iter();
        left.retain(|link| {
            let stays = is_there.next().unwrap_or(true);
            if !stays {
                gone(&link.name);
            }
            stays
        });
        if left.is_empty() || ended {
            return Ok(left.is_empty());
        }
        if Instant::now() >= deadline {
            let limit_ms = ANNOUNCED_TIMEOUT_MS;
            return Err(failed(&left, Failure::Timeout { limit_ms }));
        }
        thread::park_timeout(Duration::from_millis(CHILD_LOOK_MS));
    }
}

/// Sends the request from here and waits for the answer.
fn delete(side: &mut Side, links: &[Link], message: Message) -> Result<(), Error> {
    match side.socket.acknowledged(message, 0) {
        Err(failure) if failure.errno() != Some(Errno::ENODEV) => {
            Err(Error::kernel("delete link", names(links), failure))
        }
        _ => Ok(()),
    }
}
