//! The socket of a resource in the kubelet's folder, and the conversations at it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::service::Service;
use crate::durable;

/// Connections at once: a kubelet has one, and one more while it begins anew.
const CONNECTIONS_MAX: usize = 8;
/// Calls at once on a connection.
const STREAMS_MAX: u32 = 64;
/// Whoever listens lets in at once.
const KNOCK_TIME: Duration = Duration::from_secs(1);
/// After a connection that the system did not give.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Which file it is: a name may come to be another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    /// An inode's number may come again: when it was made, in nanoseconds.
    made: (i64, i64),
}

impl Identity {
    /// The file of this name; none where there is none.
    pub(super) fn of(path: &Path) -> Option<Identity> {
        let found = fs::symlink_metadata(path).ok()?;
        Some(Identity { device: found.dev(), inode: found.ino(), made: (found.ctime(), found.ctime_nsec()) })
    }

    fn is_file_of(&self, other: &Identity) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// Whether somebody listens there.
pub(super) async fn is_alive(socket: &Path) -> bool {
    Identity::of(socket).is_some() && matches!(timeout(KNOCK_TIME, UnixStream::connect(socket)).await, Ok(Ok(_)))
}

/// A socket that is listened to until it is dropped; its file stays, for it may be another's by then.
#[derive(Debug)]
pub(super) struct Door {
    identity: Identity,
    path: PathBuf,
    /// Aborted when it is dropped.
    _listening: JoinSet<()>,
}

impl Door {
    /// Makes it, in the place of whatever has its name.
    pub(super) fn open(path: &Path, service: Service) -> io::Result<Door> {
        let new = path.with_extension("new");
        durable::remove(&new)?;
        let listener = UnixListener::bind(&new)?;
        fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        durable::rename(&new, path)?;
        let identity = Identity::of(path).ok_or(io::ErrorKind::NotFound)?;
        let mut listening = JoinSet::new();
        listening.spawn(listen(listener, service));
        Ok(Door { identity, path: path.to_owned(), _listening: listening })
    }

    /// The kubelet finds it by its name.
    pub(super) fn is_there(&self) -> bool {
        // Somebody may have changed whose it is: while it is listened to, its number is no other file's.
        Identity::of(&self.path).is_some_and(|found| found.is_file_of(&self.identity))
    }
}

async fn listen(listener: UnixListener, service: Service) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut conversations = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = conversations.join_next() => continue,
        };
        match (accepted, Arc::clone(&places).try_acquire_owned()) {
            (Ok((stream, _)), Ok(place)) => drop(conversations.spawn(converse(stream, service.clone(), place))),
            // Too many: it is hung up on.
            (Ok(_), Err(_)) => {}
            (Err(_), _) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn converse(stream: UnixStream, service: Service, place: OwnedSemaphorePermit) {
    let answer = service_fn(move |request| service.clone().answer(request));
    let mut speaker = http2::Builder::new(TokioExecutor::new());
    speaker.max_concurrent_streams(STREAMS_MAX);
    // How a conversation ends is the kubelet's business.
    drop(speaker.serve_connection(TokioIo::new(stream), answer).await);
    drop(place);
}
