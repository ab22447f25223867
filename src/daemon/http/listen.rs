//! Where the HTTP server listens: read strictly, and taken without ever taking it from a daemon that lives. It does not know HTTP.

use std::fmt;
use std::fs::{DirBuilder, symlink_metadata};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};

/// Where it listens when nobody says otherwise.
pub const SOCKET: &str = "/run/plexus/metrics.sock";
/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 16;
/// Bytes of a socket's path (unix(7): `sun_path` has 108, with the zero at its end).
const PATH_BYTES_MAX: usize = 107;
/// What a path begins with, so that it cannot be taken for an address.
const UNIX: &str = "unix:";

/// A place to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A Unix socket of mode 0600.
    Unix(PathBuf),
    /// An address and a port.
    Tcp(SocketAddr),
}

/// Which addresses may be listened at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Those of this machine alone.
    Loopback,
    /// Any: the configuration says so explicitly.
    Any,
}

/// Why a text is no [`Listen`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Neither form.
    #[error("listen at `{0}`: neither unix:/path nor address:port")]
    Form(String),
    /// The path is not absolute, or has `.` or `..` in it, or ends with `/`, or has a zero byte.
    #[error("listen at `{0}`: not the absolute path of a file")]
    Path(String),
    /// The path is longer than an address can be.
    #[error("listen at a path of {0} bytes: at most {PATH_BYTES_MAX} are possible")]
    PathLength(usize),
    /// Nobody would know which port it is.
    #[error("listen at `{0}`: port 0")]
    Port(SocketAddr),
    /// Others than this machine could read it.
    #[error("listen at `{0}`: not a loopback address")]
    Exposed(SocketAddr),
}

/// A socket could not be had.
#[derive(Debug, Error)]
#[error("listen at {place}: {kind}")]
pub struct BindError {
    /// Where.
    pub place: Listen,
    /// Why.
    pub kind: BindErrorKind,
    /// The system's reason.
    #[source]
    pub source: Option<io::Error>,
}

/// What kept a socket from being had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BindErrorKind {
    /// A process listens there: another daemon. It may be tried again when that has ended.
    #[error("a process listens there")]
    Taken,
    /// There is a file that is no socket. It is left alone.
    #[error("there is a file that is no socket")]
    NoSocket,
    /// The system refused.
    #[error("refused")]
    System,
}

/// A socket that listens.
#[derive(Debug)]
pub enum Bound {
    /// At a path.
    Unix(UnixListener),
    /// At an address.
    Tcp(TcpListener),
}

impl Default for Listen {
    fn default() -> Self {
        Self::Unix(PathBuf::from(SOCKET))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "{UNIX}{}", path.display()),
            Self::Tcp(address) => address.fmt(formatter),
        }
    }
}

impl Listen {
    /// Reads `unix:/run/x.sock`, `127.0.0.1:9090` or `[::1]:9090`; and `fd00::1:9090`, as `$(HOST_IP):9090` in a manifest becomes where nodes
    /// have IPv6. No name is looked up.
    ///
    /// # Errors
    /// What the text is not.
    pub fn parse(text: &str, exposure: Exposure) -> Result<Self, ListenError> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return parse_path(path);
        }
        let bare = || text.rsplit_once(':').and_then(|(ip, port)| format!("[{ip}]:{port}").parse().ok());
        let address: SocketAddr = text.parse().ok().or_else(bare).ok_or_else(|| ListenError::Form(text.to_owned()))?;
        if address.port() == 0 {
            return Err(ListenError::Port(address));
        }
        if exposure == Exposure::Loopback && !address.ip().is_loopback() {
            return Err(ListenError::Exposed(address));
        }
        Ok(Self::Tcp(address))
    }

    /// Whether it can still be found there by who looks for it, as far as a file says that.
    pub(in crate::daemon) fn is_there(&self) -> bool {
        match self {
            Self::Unix(path) => path.symlink_metadata().is_ok(),
            Self::Tcp(_) => true,
        }
    }

    /// Listens. A socket that a daemon left behind which lives no more is replaced. On a runtime's thread.
    ///
    /// # Errors
    /// See [`BindErrorKind`].
    pub fn bind(&self) -> Result<Bound, BindError> {
        let bound = match self {
            Self::Unix(path) => bind_unix(path).map(Bound::Unix),
            Self::Tcp(address) => bind_tcp(*address).map(Bound::Tcp).map_err(Obstacle::from),
        };
        bound.map_err(|Obstacle(kind, source)| BindError { place: self.clone(), kind, source })
    }
}

/// A path that two readers of it cannot understand in two ways.
fn parse_path(text: &str) -> Result<Listen, ListenError> {
    let path = Path::new(text);
    let plain = path.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    // `components` forgets a dot, a double slash and a slash at the end: put together again, the text must be the same.
    let same = path.components().collect::<PathBuf>().as_os_str() == text;
    if !path.is_absolute() || !plain || !same || path.file_name().is_none() || text.contains('\0') {
        return Err(ListenError::Path(text.to_owned()));
    }
    if text.len() > PATH_BYTES_MAX {
        return Err(ListenError::PathLength(text.len()));
    }
    Ok(Listen::Unix(path.to_owned()))
}

/// Why, and the system's reason.
struct Obstacle(BindErrorKind, Option<io::Error>);

impl From<io::Error> for Obstacle {
    fn from(error: io::Error) -> Self {
        let taken = error.kind() == io::ErrorKind::AddrInUse;
        Self(if taken { BindErrorKind::Taken } else { BindErrorKind::System }, Some(error))
    }
}

impl From<Errno> for Obstacle {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    // The standard library sets SO_REUSEADDR: a port whose last connections are in TIME_WAIT can be had again.
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Makes the socket, and the folder it is in.
fn bind_unix(path: &Path) -> Result<UnixListener, Obstacle> {
    if let Some(folder) = path.parent() {
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
    }
    let address = UnixAddr::new(path)?;
    let socket = unix_socket()?;
    // The file of a socket takes the socket's own mode (net/unix/af_unix.c, unix_bind_bsd): there is no instant in which others may
    // connect.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    match bind(socket.as_raw_fd(), &address) {
        Err(Errno::EADDRINUSE) => {
            remove_stale(path, &address)?;
            bind(socket.as_raw_fd(), &address)?;
        }
        bound => bound?,
    }
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(UnixListener::from_std(StdUnixListener::from(socket))?)
}

fn unix_socket() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}

/// Removes a socket that nobody listens at. Two daemons that start at once are kept apart elsewhere: by the socket for requests.
fn remove_stale(path: &Path, address: &UnixAddr) -> Result<(), Obstacle> {
    if !symlink_metadata(path)?.file_type().is_socket() {
        return Err(Obstacle(BindErrorKind::NoSocket, None));
    }
    match connect(unix_socket()?.as_raw_fd(), address) {
        // Its process has ended, or never listened.
        Err(Errno::ECONNREFUSED) => Ok(std::fs::remove_file(path)?),
        Err(Errno::ENOENT) => Ok(()),
        // Accepted, or its queue is full.
        Ok(()) | Err(Errno::EAGAIN) => Err(Obstacle(BindErrorKind::Taken, None)),
        Err(errno) => Err(errno.into()),
    }
}
