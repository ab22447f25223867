//! The two sides an attachment lies between: the host's namespace and the pod's, each with a socket opened inside. Knows no
//! kind of interface.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;

use crate::error::{Error, ErrorKind};
use crate::netlink::addr::{self, Present};
use crate::netlink::link::{self, Link};
use crate::netlink::{Failure, Message, NewLink, Request, Socket};
use crate::netns::{NetNs, STACK_BYTES};
use crate::sysctl::{Sysctls, Tree};
use crate::veth::random_name;

/// Questions of one datagram: their answers come at once, and have to fit into what a socket holds unread (208 kB, 4 each).
const QUESTIONS_MAX: usize = 32;

/// What is set in a pod: IPv4's parameters there are set by messages (`inet::set_arp_notify`).
const POD_TREES: &[Tree] = &[Tree::V6];

/// One namespace as a builder sees it: a socket and the kernel's parameters, both usable from any thread.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) socket: Socket,
    pub(crate) sysctls: Sysctls,
}

impl Side {
    /// Opens a side in the namespace of the calling thread.
    fn open(trees: &[Tree]) -> Result<Self, Failure> {
        Ok(Self { socket: Socket::open()?, sysctls: Sysctls::open(trees) })
    }

    /// The link of this name, if there is one.
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        self.look_up(link::by_name(name)).map_err(|e| Error::kernel("look up link", name, e))
    }

    /// Which of these names links have.
    pub(crate) fn taken<'n>(&mut self, names: &[&'n str]) -> Result<Vec<&'n str>, Error> {
        let failed = |e: Failure| Error::kernel("look up link", names.join(", "), e);
        let questions = names.iter().map(|name| link::by_name(name)).collect();
        let answers = self.socket.questions(questions, Link::parse).map_err(failed)?;
        let mut taken = Vec::new();
        for (name, answer) in names.iter().zip(answers) {
            match answer {
                Ok(_) => taken.push(*name),
                Err(refusal) if refusal.errno == Errno::ENODEV => {}
                Err(refusal) => return Err(failed(refusal.into())),
            }
        }
        Ok(taken)
    }

    /// The link of this index, if there is one.
    pub(crate) fn link_at(&mut self, index: u32) -> Result<Option<Link>, Error> {
        self.look_up(link::by_index(index)).map_err(|e| Error::kernel("look up link", format!("number {index}"), e))
    }

    /// Whether each of these links is there, by their indexes.
    pub(crate) fn are_there(&mut self, links: &[&Link]) -> Result<Vec<bool>, Error> {
        let failed = |e| Error::kernel("look up links", format!("{} of them", links.len()), e);
        let mut there = Vec::with_capacity(links.len());
        for some in links.chunks(QUESTIONS_MAX) {
            let questions = some.iter().map(|link| link::by_index(link.index)).collect();
            for answer in self.socket.questions(questions, Link::parse).map_err(failed)? {
                match answer {
                    Ok(_) => there.push(true),
                    Err(refusal) if refusal.errno == Errno::ENODEV => there.push(false),
                    Err(refusal) => return Err(failed(refusal.into())),
                }
            }
        }
        Ok(there)
    }

    fn look_up(&mut self, question: Message) -> Result<Option<Link>, Failure> {
        match self.socket.questions(vec![question], Link::parse)?.into_iter().next() {
            Some(Ok(link)) => Ok(Some(link)),
            Some(Err(refusal)) if refusal.errno == Errno::ENODEV => Ok(None),
            Some(Err(refusal)) => Err(refusal.into()),
            None => Ok(None),
        }
    }

    /// All links.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>, Error> {
        self.socket
            .dump(&link::all(), |payload| Link::parse(payload).map(Some))
            .map_err(|e| Error::kernel("list links", "", e))
    }

    /// The addresses of one link, of both families.
    pub(crate) fn addresses(&mut self, link: &Link) -> Result<Vec<Present>, Error> {
        let listed = self
            .socket
            .dump(&addr::of_link(link.index), addr::parse)
            .map_err(|e| Error::kernel("list addresses of", link.name.clone(), e))?;
        // A kernel before 4.20 knows no strict checking and lists those of all links.
        Ok(listed.into_iter().filter(|present| present.index == link.index).collect())
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn apply(&mut self, request: Request) -> Result<(), Failure> {
        match self.socket.batch(vec![request])?.into_iter().next() {
            Some((_, refusal)) => Err(refusal.into()),
            None => Ok(()),
        }
    }

    /// Deletes a link; one that is gone is no error.
    pub(crate) fn delete(&mut self, index: u32, name: &str) -> Result<(), Error> {
        match self.apply(link::delete(index)) {
            Err(failure) if failure.errno() != Some(Errno::ENODEV) => Err(Error::kernel("delete link", name, failure)),
            _ => Ok(()),
        }
    }
}

/// The host's side: the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Host {
    pub(crate) side: Side,
    netns: NetNs,
    tell: fn(&str),
}

impl Host {
    /// Opens a socket in the namespace of the calling thread.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if it cannot be opened.
    pub fn open() -> Result<Self, Error> {
        let side =
            Side::open(&[Tree::V4, Tree::V6]).map_err(|e| Error::kernel("open a netlink socket on", "the host", e))?;
        Ok(Self { side, netns: NetNs::own()?, tell: |_| () })
    }

    /// Whoever works here has this told what nobody has to act on, but should know, whether the work ends well or not.
    #[must_use]
    pub fn telling(self, tell: fn(&str)) -> Self {
        Self { tell, ..self }
    }

    pub(crate) fn tell(&self, line: &str) {
        (self.tell)(line);
    }

    /// A second socket in the namespace of the calling thread, which is the host's.
    pub(crate) fn second_socket(&self) -> Result<Socket, Error> {
        Socket::open().map_err(|e| Error::kernel("open a netlink socket on", "the host", e))
    }

    /// The host's namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }
}

/// The number of a namespace: see [`Pod::cookie`].
///
/// # Errors
/// Those of [`Pod::enter`].
pub fn cookie_of(netns: &NetNs) -> Result<u64, Error> {
    let opened = netns.run(|| Socket::open().map(|socket| socket.namespace_cookie()))?;
    opened.map_err(|e| Pod::no_socket(netns, e))
}

/// A namespace that is being entered.
#[derive(Debug)]
pub struct Entering {
    thread: io::Result<JoinHandle<Result<(Pod, bool), Error>>>,
}

impl Entering {
    /// Waits for it; also tells whether it is the namespace of the caller.
    ///
    /// # Errors
    /// As [`NetNs::open`] and [`Pod::enter`].
    pub fn wait(self) -> Result<(Pod, bool), Error> {
        let failed = |kind| Error::at(kind, "enter the pod's network namespace", "");
        let thread = self.thread.map_err(|e| failed(ErrorKind::Io).because(e))?;
        thread.join().unwrap_or_else(|_| Err(failed(ErrorKind::Panicked)))
    }
}

/// The pod's side: its namespace and a socket opened inside it.
#[derive(Debug)]
pub struct Pod {
    pub(crate) side: Side,
    netns: NetNs,
    /// A second socket inside, for the process that deletes.
    spare: Option<Socket>,
    /// What a program that works in the pod for this process keeps open until it ends.
    guard: Option<OwnedFd>,
}

impl Pod {
    /// Opens a socket inside the namespace, in a thread that then ends.
    ///
    /// # Errors
    /// Those of [`NetNs::run`], and [`ErrorKind::Io`] if the socket cannot be opened.
    pub fn enter(netns: NetNs) -> Result<Self, Error> {
        Self::enter_with(netns, POD_TREES, false)
    }

    /// As [`Pod::enter`], and opens the second socket that [`crate::remove`] hands to another process: one thread instead of
    /// two.
    ///
    /// # Errors
    /// Those of [`Pod::enter`].
    pub fn enter_to_remove(netns: NetNs) -> Result<Self, Error> {
        Self::enter_with(netns, &[], true)
    }

    /// As [`Pod::enter`], in a thread that works while the caller goes on: entering takes as long as deciding what to do inside.
    #[must_use]
    pub fn enter_ahead(open: impl FnOnce() -> Result<NetNs, Error> + Send + 'static) -> Entering {
        let work = move || {
            let netns = open()?;
            let is_own = netns.is_current()?;
            let side = netns.enter_for_good(|| Side::open(POD_TREES))?.map_err(|e| Self::no_socket(&netns, e))?;
            Ok((Self { side, netns, spare: None, guard: None }, is_own))
        };
        Entering { thread: thread::Builder::new().stack_size(STACK_BYTES).spawn(work) }
    }

    fn enter_with(netns: NetNs, trees: &[Tree], spare: bool) -> Result<Self, Error> {
        let second = || if spare { Socket::open().map(Some) } else { Ok(None) };
        let open = || -> Result<_, Failure> { Ok((Side::open(trees)?, second()?)) };
        let (side, spare) = netns.run(open)?.map_err(|e| Self::no_socket(&netns, e))?;
        Ok(Self { side, netns, spare, guard: None })
    }

    /// The pod's namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Gives what a program that works in the pod for this process keeps open until it ends, even where this process is killed
    /// first. A lock on it, taken before (flock(2)), lasts as long: nobody in the pod can take it, as one on its namespace.
    pub fn guard_with(&mut self, file: OwnedFd) {
        self.guard = Some(file);
    }

    /// What was given, once more.
    pub(crate) fn guard(&self) -> io::Result<Option<OwnedFd>> {
        self.guard.as_ref().map(OwnedFd::try_clone).transpose()
    }

    /// The number by which the kernel tells the namespace from every other of this boot, those included that are gone; 0 from a
    /// kernel before 5.14.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        self.side.socket.namespace_cookie()
    }

    /// Whether the pod's namespace is the host's own: then nothing of the pod is elsewhere.
    pub(crate) fn is_on(&self, host: &Host) -> bool {
        self.netns.id() == host.netns.id()
    }

    /// A second socket inside the namespace: the one opened on entering, or a new one.
    pub(crate) fn second_socket(&mut self) -> Result<Socket, Error> {
        match self.spare.take() {
            Some(socket) => Ok(socket),
            None => self.netns.run(Socket::open)?.map_err(|e| Self::no_socket(&self.netns, e)),
        }
    }

    fn no_socket(netns: &NetNs, failure: Failure) -> Error {
        Error::kernel("open a netlink socket in", format!("\"{}\"", netns.path().display()), failure)
    }

    /// Creates a link in the pod, under its final name, on a lower device of the host; then looks at it. The message is sent
    /// on the host. A kernel before 6.14 looks for a link of the same name on the host first and refuses if it finds one
    /// (net/core/rtnetlink.c, rtnl_newlink), and from the pod it makes the link on the host first: only there it gets another
    /// name, and then its own.
    pub(crate) fn create_from_host(&mut self, host: &mut Host, link: &NewLink<'_>) -> Result<Link, Error> {
        let here = NewLink { netns: Some(self.netns.as_fd()), ..link.clone() };
        match host.side.apply(here.request()) {
            Ok(()) => self.created(link.name),
            Err(failure) if failure.errno() == Some(Errno::EEXIST) => {
                self.refuse_taken(link.name)?;
                self.create_and_rename(host, link)
            }
            Err(failure) => Err(Error::kernel("create link", link.name, failure)),
        }
    }

    fn create_and_rename(&mut self, host: &mut Host, link: &NewLink<'_>) -> Result<Link, Error> {
        let name = random_name();
        let new = NewLink { name: &name, netns: Some(self.netns.as_fd()), ..link.clone() };
        host.side.apply(new.request()).map_err(|e| Error::kernel("create link", link.name, e))?;
        let created = self.created(&name)?;
        if let Err(failure) = self.side.apply(link::rename(created.index, link.name)) {
            let error = Error::kernel("name link", link.name, failure);
            return Err(error.after_undo(self.side.delete(created.index, &name)));
        }
        self.created(link.name)
    }

    /// Creates a link in the pod on a lower device of the pod; then looks at it.
    pub(crate) fn create_inside(&mut self, link: &NewLink<'_>) -> Result<Link, Error> {
        match self.side.apply(link.request()) {
            Ok(()) => self.created(link.name),
            Err(failure) => {
                if failure.errno() == Some(Errno::EEXIST) {
                    self.refuse_taken(link.name)?;
                }
                Err(Error::kernel("create link", link.name, failure))
            }
        }
    }

    fn refuse_taken(&mut self, name: &str) -> Result<(), Error> {
        match self.side.link(name)? {
            Some(_) => Err(Error::at(ErrorKind::NameTaken, "create link", name).because_of("file exists")),
            None => Ok(()),
        }
    }

    fn created(&mut self, name: &str) -> Result<Link, Error> {
        self.side.link(name)?.ok_or_else(|| Error::at(ErrorKind::LinkMissing, "find the new link", name))
    }
}
