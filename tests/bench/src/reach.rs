//! How long a connection through a mapped port takes to come about: its first packet is what looks the mapping up. Knows no plugin.

use std::fs::File;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::TimeVal;

use crate::figures::median;
use crate::rows::milliseconds;
use crate::side::Outcome;

/// Connections of one round: the median of so many is its figure.
const CONNECTIONS: usize = 101;
/// What does not come about by then never does.
const PATIENCE: Duration = Duration::from_secs(2);

/// The median time of a connection to `port` of the host, which is `inside` of the pod in the namespace at `path`, in milliseconds.
pub(crate) fn connect(path: &Path, host: Ipv4Addr, port: u16, inside: u16) -> Outcome<f64> {
    let (ready, is_ready) = sync_channel(1);
    thread::scope(|scope| {
        let serving = scope.spawn(move || -> Outcome<()> {
            let listener = listen(path, inside)?;
            ready.send(())?;
            for _ in 0..CONNECTIONS {
                drop(listener.accept()?);
            }
            Ok(())
        });
        let connected = match is_ready.recv_timeout(PATIENCE) {
            Ok(()) => times((host, port).into()),
            Err(_) => Ok(Vec::new()), // it says why
        };
        serving.join().map_err(|_| "the thread in the pod panicked")??;
        median(&connected?).ok_or_else(|| "nobody listened in the pod".into())
    })
}

/// In a thread that then ends.
#[expect(clippy::disallowed_methods, reason = "nothing of plexus is linked to what measures it")]
fn listen(path: &Path, port: u16) -> Outcome<TcpListener> {
    setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    setsockopt(&listener, ReceiveTimeout, &TimeVal::new(i64::try_from(PATIENCE.as_secs())?, 0))?;
    Ok(listener)
}

fn times(place: SocketAddr) -> Outcome<Vec<f64>> {
    let one = || -> Outcome<f64> {
        let start = Instant::now();
        let stream = TcpStream::connect_timeout(&place, PATIENCE)?;
        let taken = milliseconds(start);
        stream.shutdown(Shutdown::Both)?;
        Ok(taken)
    };
    (0..CONNECTIONS).map(|_| one()).collect()
}
