//! A network namespace in a pod's place: a thread that lives in it, as a pod's processes would, and a path that leads to it.
//!
//! No thread changes its namespace after its first instant: what must happen inside is sent there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::SockaddrStorage;

use super::sandbox;
use super::world::NAMESPACES;
use crate::cli::failure::Failure;

/// Longer than anything that is sent into a namespace may take.
const INSIDE_DEADLINE: Duration = Duration::from_secs(8);

type Work = Box<dyn FnOnce() + Send>;

/// A network namespace.
pub(super) struct Namespace {
    name: String,
    work: Sender<Work>,
    thread: JoinHandle<()>,
}

/// An interface as the kernel shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Interface {
    /// Its MAC address.
    pub(super) mac: String,
    /// Its addresses, link-local ones left out.
    pub(super) addresses: Vec<IpNetwork>,
}

impl Namespace {
    /// Makes a namespace and mounts it where a runtime would.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn make(name: &str) -> Result<Namespace, Failure> {
        let path = path(name);
        File::create(&path).map_err(Failure::system(format!("creating {}", path.display())))?;
        let (work, queue) = mpsc::channel();
        let (tell, born) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let made = begin(&path);
                let serves = made.is_ok();
                if tell.send(made).is_ok() && serves {
                    serve(&queue);
                }
            })
            .map_err(Failure::system("starting a thread"))?;
        let failure = || format!("making the network namespace {name}");
        match born.recv_timeout(INSIDE_DEADLINE) {
            Ok(made) => made.map_err(Failure::system(failure()))?,
            Err(_) => return Err(Failure::system(failure())(Errno::ETIMEDOUT)),
        }
        Ok(Namespace { name: name.to_owned(), work, thread })
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The path that leads to it.
    pub(super) fn path(&self) -> PathBuf {
        path(&self.name)
    }

    /// Does something inside.
    ///
    /// # Errors
    /// The thread inside did not answer in time.
    pub(super) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        let (tell, done) = mpsc::channel();
        let work: Work = Box::new(move || drop(tell.send(work()))); // nobody listens after the deadline
        let sent = self.work.send(work).ok();
        sent.and_then(|()| done.recv_timeout(INSIDE_DEADLINE).ok()).ok_or_else(|| {
            Failure::system(format!("waiting for work inside the network namespace {}", self.name))(Errno::ETIMEDOUT)
        })
    }

    /// Unmounts it and ends the thread inside: then nothing holds it any more.
    ///
    /// # Errors
    /// It cannot be unmounted.
    pub(super) fn dissolve(self) -> Result<(), Failure> {
        let path = self.path();
        let place = path.display();
        umount2(&path, MntFlags::MNT_DETACH).map_err(Failure::system(format!("unmounting {place}")))?;
        fs::remove_file(&path).map_err(Failure::system(format!("removing {place}")))?;
        drop(self.work);
        self.thread.join().map_err(|_| Failure::system(format!("ending the thread in {place}"))(Errno::EIO))
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(NAMESPACES).join(name)
}

fn begin(path: &PathBuf) -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let none = None::<&str>;
    mount(Some("/proc/thread-self/ns/net"), path, none, MsFlags::MS_BIND, none)
}

fn serve(queue: &Receiver<Work>) {
    for work in queue {
        work();
    }
}

/// The interfaces of the calling thread's namespace but loopback, by name.
///
/// # Errors
/// The kernel cannot be asked.
pub(super) fn interfaces() -> Result<BTreeMap<String, Interface>, Failure> {
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    for entry in getifaddrs().map_err(Failure::system("reading the addresses of a pod"))? {
        let Some(address) = entry.address else { continue };
        if entry.interface_name == "lo" {
            continue;
        }
        let interface = found.entry(entry.interface_name).or_default();
        if let Some(link) = address.as_link_addr().and_then(|link| link.addr()) {
            interface.mac = link.map(|byte| format!("{byte:02x}")).join(":");
        }
        interface.addresses.extend(network(&address, entry.netmask.as_ref()).filter(|it| !is_link_local(it)));
    }
    Ok(found)
}

fn network(address: &SockaddrStorage, mask: Option<&SockaddrStorage>) -> Option<IpNetwork> {
    let mask = mask?;
    if let (Some(address), Some(mask)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
        return IpNetwork::with_netmask(address.ip().into(), mask.ip().into()).ok();
    }
    let (address, mask) = (address.as_sockaddr_in6()?, mask.as_sockaddr_in6()?);
    IpNetwork::with_netmask(address.ip().into(), mask.ip().into()).ok()
}

fn is_link_local(network: &IpNetwork) -> bool {
    matches!(network, IpNetwork::V6(six) if six.ip().is_unicast_link_local())
}

/// The links inside but those that every new namespace has.
///
/// # Errors
/// The thread inside did not answer.
pub(super) fn links_inside(namespace: &Namespace) -> Result<usize, Failure> {
    let found = namespace.inside(sandbox::links)??;
    Ok(found.iter().filter(|name| !sandbox::is_born_with(name)).count())
}
