//! The daemon's sockets: made so that a new daemon takes them over with no call refused, and the frames that arrive on its own.
//!
//! It does not know what a request asks for.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::Sender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{timeout, timeout_at};

use super::Event;
use super::compat::{self, Overlay};
use super::mark::Mark;
use super::metrics::{Metrics, Refusal};
use super::work::{Back, Call, Purpose};
use crate::cni::request::Command;
use crate::log::warn;
use crate::wire::{Frame, HEAD_BYTES, LEASE, NEWS};

/// Connections that have not sent their request yet.
const CONNECTIONS_MAX: u32 = 256;
/// Which part of the descriptors there are places for.
const CONNECTIONS_SHARE: usize = 16;
/// Requests with the loop, from their last byte until they are answered; the loop refuses what is too many for it.
const CALLS_MAX: usize = 4096;
/// Which part of the descriptors there may be requests for: each has two while it waits.
const CALLS_SHARE: usize = 8;
static CALLS: Semaphore = Semaphore::const_new(CALLS_MAX);
/// How long one may take for it: it is written by a program that has it whole.
pub(super) const FRAME_TIME: Duration = Duration::from_secs(10);
/// The same where all places are taken and somebody waits for one.
const CROWDED_TIME: Duration = Duration::from_millis(500);
/// How long an answer may take to write: who does not read has gone.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(10);
/// After a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What all large requests together may have, from their first byte until they are served, in pages: a few of the largest.
static ROOM: Semaphore = Semaphore::const_new(64 << 20 >> 12);
const PAGE_BYTES: usize = 4096;
/// A request of less is not large: what may wait of them is within 80 MiB.
const SMALL_BYTES: usize = 64 << 10;
/// Bytes read at a time: most requests at once.
const CHUNK_BYTES: usize = 8 << 10;
/// Descriptors taken with one read; one is wanted.
const DESCRIPTORS_MAX: usize = 4;

/// Why a daemon does not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act}{place}")]
pub struct OpenError {
    act: &'static str,
    place: String,
    #[source]
    source: io::Error,
}

impl OpenError {
    pub(super) fn system(act: &'static str) -> impl FnOnce(io::Error) -> OpenError {
        move |source| OpenError { act, place: String::new(), source }
    }

    fn at(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        move |source| OpenError { act, place: format!(" {}", path.display()), source }
    }
}

/// The room of a large request, until it is served.
pub(super) type Room = Option<SemaphorePermit<'static>>;

/// The place of a request among all, until it is answered. One that asks for a lease has none: those that have one wait for it.
pub(super) type Seated = Option<SemaphorePermit<'static>>;

/// Before the first request: the process may have so many descriptors. Who finds no place waits, and with it who connects.
/// Returns how many connections have one before they have sent their request.
pub(super) fn narrow(descriptors: usize) -> u32 {
    CALLS.forget_permits(CALLS_MAX.saturating_sub((descriptors / CALLS_SHARE).max(1)));
    u32::try_from(descriptors / CONNECTIONS_SHARE).map_or(CONNECTIONS_MAX, |share| share.clamp(1, CONNECTIONS_MAX))
}

/// Waits for a place among all requests.
pub(super) async fn seat() -> Seated {
    // The semaphore is never closed.
    CALLS.acquire().await.ok()
}

/// What is spoken on a socket.
#[derive(Clone)]
pub(super) enum Tongue {
    /// Frames of `plexus-cni`.
    Frames,
    /// The protocol of Multus' shim.
    Shim(Arc<Overlay>),
}

/// Who is told of what arrives.
#[derive(Clone)]
pub(super) struct Ears {
    /// Hears whole requests.
    pub(super) events: Sender<Event>,
    /// Counts what is none.
    pub(super) metrics: Arc<Metrics>,
    /// What is heard.
    pub(super) tongue: Tongue,
    /// From how many at once.
    pub(super) places: u32,
}

/// A socket while it takes requests.
pub(super) struct Door {
    mark: Mark,
    listener: Arc<UnixListener>,
    accepting: JoinHandle<()>,
    /// Dropped: nothing is accepted any more.
    accepts: oneshot::Sender<()>,
    ears: Ears,
    places: Arc<Places>,
}

/// Who may send a request now.
struct Places {
    free: Arc<Semaphore>,
    /// Who has a place, the oldest first, and a way to take it back. Whose other end has gone has sent its request.
    silent: Mutex<VecDeque<(Instant, oneshot::Sender<()>)>>,
}

impl Places {
    fn new(number: u32) -> Places {
        Places { free: Arc::new(Semaphore::new(number as usize)), silent: Mutex::default() }
    }

    fn silent(&self) -> MutexGuard<'_, VecDeque<(Instant, oneshot::Sender<()>)>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place. Where none becomes free, who has had one longest without a whole request gives way.
    async fn one(&self) -> Option<OwnedSemaphorePermit> {
        let free = || Arc::clone(&self.free).acquire_owned();
        let until = {
            let mut silent = self.silent();
            while silent.front().is_some_and(|(_, silenced)| silenced.is_closed()) {
                silent.pop_front();
            }
            silent.front().map_or_else(Instant::now, |(since, _)| *since) + CROWDED_TIME
        };
        if let Ok(place) = timeout_at(until.into(), free()).await {
            return place.ok();
        }
        if let Some((_, oldest)) = self.silent().pop_front() {
            let _ = oldest.send(()); // it has sent its request just now
        }
        free().await.ok()
    }

    /// Of somebody who has a place now: told when it is to give way.
    fn taken(&self) -> oneshot::Receiver<()> {
        let (silenced, gives_way) = oneshot::channel();
        let mut silent = self.silent();
        if silent.len() >= 2 * CONNECTIONS_MAX as usize {
            silent.retain(|(_, silenced)| !silenced.is_closed());
        }
        silent.push_back((Instant::now(), silenced));
        gives_way
    }
}

impl Door {
    pub(super) fn path(&self) -> &Path {
        self.mark.path()
    }

    /// Its file.
    pub(super) fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Takes the place of whoever has the path: it goes on with the calls that it has, and hears no new ones.
    pub(super) fn open(path: &Path, ears: Ears) -> Result<Door, OpenError> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(OpenError::at("make the folder", dir))?;
        let _one_at_a_time = lock(path).map_err(OpenError::at("lock", path))?;
        let new = path.with_extension("new");
        let _ = fs::remove_file(&new); // of one that was killed in between
        let listener = StdListener::bind(&new).map_err(OpenError::at("listen on", &new))?;
        let prepared = fs::set_permissions(&new, fs::Permissions::from_mode(0o600))
            .and_then(|()| listener.set_nonblocking(true))
            .and_then(|()| fs::metadata(&new))
            .and_then(|file| fs::rename(&new, path).map(|()| Mark::new(path, &file)));
        let mark = prepared.map_err(OpenError::at("listen on", path))?;
        let listener = Arc::new(UnixListener::from_std(listener).map_err(OpenError::at("listen on", path))?);
        let places = Arc::new(Places::new(ears.places));
        let (accepts, ended) = oneshot::channel();
        let accepting = tokio::spawn(accept(Arc::clone(&listener), ears.clone(), Arc::clone(&places), ended));
        Ok(Door { mark, listener, accepting, accepts, ears, places })
    }

    /// The same door once more, where somebody has removed its socket.
    pub(super) fn again(&self) -> Result<Door, OpenError> {
        Door::open(self.path(), self.ears.clone())
    }

    /// Takes no new call, and loses none that was made before. The path is left to whoever has taken it.
    pub(super) fn close(self) {
        let path = self.path();
        let removed = lock(path).and_then(|_lock| {
            let found = fs::metadata(path)?;
            if self.mark.is(&found) { fs::remove_file(path) } else { Ok(()) }
        });
        if let Err(error) = removed.or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) }) {
            warn(&format!("removing {}: {error}", path.display()));
        }
        // Nobody comes to this socket any more: those that did are the last.
        tokio::spawn(async move {
            drop(self.accepts);
            let _ = self.accepting.await; // it has ended
            while let Ok(Ok((stream, _))) = timeout(Duration::from_millis(1), self.listener.accept()).await {
                let Some(place) = self.places.one().await else { return };
                hear(stream, &self.ears, &self.places, place);
            }
            // A connection gives its place back after its request is with the loop, or will never be.
            let _all = self.places.free.acquire_many(self.ears.places).await;
            let _ = self.ears.events.send(Event::Silent).await; // the loop ends after this, or has
        });
    }
}

/// Held while the path changes hands.
fn lock(path: &Path) -> io::Result<Flock<File>> {
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.with_extension("lock"))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

async fn accept(listener: Arc<UnixListener>, ears: Ears, places: Arc<Places>, mut ended: oneshot::Receiver<()>) {
    let mut has_told = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut ended => return,
        };
        match accepted {
            Ok((stream, _)) => {
                has_told = false;
                // Meanwhile, who connects waits in the kernel's queue.
                let Some(place) = places.one().await else { return };
                hear(stream, &ears, &places, place);
            }
            Err(error) => {
                if !std::mem::replace(&mut has_told, true) {
                    warn(&format!("accepting connections: {error}; who connects waits until that is over"));
                }
                // No descriptor or memory is free, most likely, and nothing tells when one is.
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// `place`: kept until the request has come.
fn hear(stream: UnixStream, ears: &Ears, places: &Places, place: OwnedSemaphorePermit) {
    let (ears, gives_way) = (ears.clone(), places.taken());
    tokio::spawn(async move {
        match &ears.tongue {
            Tongue::Frames => {
                receive(stream, ears, gives_way).await;
                drop(place);
            }
            Tongue::Shim(overlay) => {
                let overlay = Arc::clone(overlay);
                compat::converse(stream, ears, overlay, (place, gives_way)).await;
            }
        }
    });
}

async fn receive(stream: UnixStream, ears: Ears, gives_way: oneshot::Receiver<()>) {
    let arrived = Instant::now();
    let received = tokio::select! {
        biased;
        received = timeout(FRAME_TIME, read(&stream)) => received.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())),
        Ok(()) = gives_way => Err(io::Error::new(ErrorKind::TimedOut, "it was silent while others waited")),
    };
    let call = received.and_then(|(frame, netns, room)| {
        let back = Back::Frame(blocking(stream)?);
        Ok(Call { frame, netns, back, arrived, purpose: Purpose::Own, room, seated: None })
    });
    match call {
        Ok(mut call) => {
            if call.lease().is_none() {
                call.seated = seat().await;
            }
            drop(ears.events.send(Event::Arrived(Box::new(call))).await);
        }
        Err(error) => {
            ears.metrics.refused(Refusal::Frame);
            warn(&format!("a connection without a request: {error}"));
        }
    }
}

/// Workers write answers, and wait for that.
fn blocking(stream: UnixStream) -> io::Result<StdStream> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(ANSWER_TIME))?;
    Ok(stream)
}

/// Whether whoever is at the other end may ask.
pub(super) fn admit(stream: &UnixStream) -> io::Result<()> {
    let peer = getsockopt(stream, PeerCredentials)?.uid();
    if peer != 0 && peer != geteuid().as_raw() {
        return Err(io::Error::new(ErrorKind::PermissionDenied, format!("user {peer} may not ask")));
    }
    Ok(())
}

/// One request, from somebody who may make one.
async fn read(stream: &UnixStream) -> io::Result<(Frame, Option<OwnedFd>, Room)> {
    admit(stream)?;
    let (mut bytes, mut netns) = (Vec::new(), None);
    let (mut length, mut kept) = (None, None);
    while length.is_none_or(|length| bytes.len() < HEAD_BYTES + length) {
        let read = stream.async_io(Interest::READABLE, || chunk(stream, &mut bytes, &mut netns)).await?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if length.is_none()
            && let Some(head) = bytes.first_chunk()
        {
            let announced = Frame::length(*head)?;
            length = Some(announced);
            // As it comes, and as it is taken apart.
            kept = room(2 * announced).await;
        }
    }
    let body = bytes.get(HEAD_BYTES..).filter(|body| Some(body.len()) == length);
    let frame = Frame::parse(body.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "more than one request"))?)?;
    let is_request = ![LEASE, NEWS].iter().any(|word| frame.variable(word).is_some());
    if netns.is_none() && frame.command() != Some(Command::Status) && is_request {
        return Err(io::Error::new(ErrorKind::InvalidData, "no network namespace came with it"));
    }
    Ok((frame, netns, kept))
}

/// Waits until a request of so many bytes may be kept.
pub(super) async fn room(bytes: usize) -> Room {
    if bytes < SMALL_BYTES {
        return None;
    }
    // The semaphore is never closed.
    ROOM.acquire_many(u32::try_from(bytes.div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX)).await.ok()
}

/// Takes what there is; the first descriptor is kept, others are closed.
fn chunk(stream: &UnixStream, bytes: &mut Vec<u8>, netns: &mut Option<OwnedFd>) -> io::Result<usize> {
    let mut chunk = [0; CHUNK_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut chunk)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            for descriptor in descriptors {
                netns.get_or_insert(descriptor);
            }
        }
    }
    bytes.extend(chunk.get(..received.bytes).unwrap_or_default());
    Ok(received.bytes)
}
