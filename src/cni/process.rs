//! A started process until its end: fed, read, and killed with everything it started when that takes too long. One poll
//! over all pipes, so that neither side can block the other, and no sleep. Knows nothing of plugins.

use std::io::{self, ErrorKind, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// The largest standard output taken, in bytes; more is an error.
pub const STDOUT_BYTES_MAX: usize = 4 << 20;

/// How much of standard error is kept, in bytes, from its end.
pub const STDERR_BYTES_MAX: usize = 64 << 10;

/// How much is still read once the process has ended, in bytes: the largest pipe an unprivileged process can have
/// (pipe(7), pipe-max-size), so everything it wrote, and an end to what its descendants go on writing.
const DRAIN_BYTES_MAX: usize = 1 << 20;

/// How long a killed process may take to die before it is left to its watcher, in milliseconds. Only a process stuck in
/// the kernel takes any time at all.
const KILL_WAIT_MS: u64 = 1000;

/// Bytes moved at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// Why an exchange did not come to its end.
#[derive(Debug)]
pub enum Stop {
    /// It took too long.
    Deadline,
    /// It printed too much.
    TooLarge,
    /// The system's reason.
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Io(error)
    }
}

/// A process that came to its end by itself.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// All that it printed.
    pub stdout: Vec<u8>,
    /// The last `STDERR_BYTES_MAX` of what it complained about.
    pub stderr: Vec<u8>,
}

/// A started process, and a thread that watches for its end without reaping it: until `Child::wait`, its process id and
/// group cannot become another's.
pub(super) struct Running {
    child: Option<Child>,
    group: Pid,
    /// Closed by the watcher when the process has ended.
    ended: PipeReader,
    /// Takes a child that does not die, so that somebody reaps it.
    heir: Option<Sender<Child>>,
    watcher: Option<JoinHandle<()>>,
}

impl Running {
    pub(super) fn start(mut child: Child) -> io::Result<Running> {
        let watched = i32::try_from(child.id()).map_err(io::Error::other).and_then(|id| watch(Pid::from_raw(id)));
        match watched {
            Ok((group, ended, heir, watcher)) => {
                Ok(Running { child: Some(child), group, ended, heir: Some(heir), watcher: Some(watcher) })
            }
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// Feeds and reads until the process has ended, then reaps it.
    pub(super) fn exchange(&mut self, stdin: &[u8], stdout_bytes_max: usize, until: Instant) -> Result<Ended, Stop> {
        let Some(mut child) = self.child.take() else { return Err(io::Error::other("already reaped").into()) };
        let mut pipes = Pipes::new(&mut child, stdin, stdout_bytes_max);
        self.child = Some(child);
        pipes.set_nonblocking()?;
        while !pipes.turn(&self.ended, until)? {}
        pipes.drain()?;
        let status = self.reap()?;
        Ok(Ended { status, stdout: pipes.stdout_bytes, stderr: pipes.stderr_bytes })
    }

    fn reap(&mut self) -> io::Result<ExitStatus> {
        let Some(mut child) = self.child.take() else { return Err(io::Error::other("already reaped")) };
        let status = child.wait();
        self.heir = None;
        if let Some(watcher) = self.watcher.take() {
            watcher.join().map_err(|_| io::Error::other("the watcher of the process panicked"))?;
        }
        status
    }

    /// Kills the whole group and reaps the process, or leaves it to the watcher where it does not die.
    pub(super) fn kill(&mut self) {
        if self.child.is_none() {
            return;
        }
        // The group is the unreaped child's: the only failure is that nobody of it is left.
        let _nobody_left = killpg(self.group, Signal::SIGKILL);
        let mut ended = [PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
        let until = Instant::now() + Duration::from_millis(KILL_WAIT_MS);
        let dead = loop {
            match poll(&mut ended, timeout(until)) {
                Err(Errno::EINTR) => {}
                Ok(count) => break count > 0,
                Err(_) => break false,
            }
        };
        if dead {
            // Its status says nothing new.
            let _killed = self.reap();
        } else if let (Some(heir), Some(child)) = (self.heir.take(), self.child.take()) {
            // The watcher is alive while the process is; were it not, the process is not either.
            let _taken = heir.send(child);
        }
    }
}

type Watch = (Pid, PipeReader, Sender<Child>, JoinHandle<()>);

fn watch(group: Pid) -> io::Result<Watch> {
    let (ended, alive) = io::pipe()?;
    let (heir, inherited) = mpsc::channel::<Child>();
    let watcher = std::thread::Builder::new().name("delegate".to_string()).spawn(move || {
        while waitid(Id::Pid(group), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
        drop(alive);
        if let Ok(mut child) = inherited.recv() {
            // Nobody is left to hear how it ended.
            let _status = child.wait();
        }
    })?;
    Ok((group, ended, heir, watcher))
}

/// Time left, in the whole milliseconds of poll(2), rounded up so that a wake-up is never early.
fn timeout(until: Instant) -> PollTimeout {
    let left = until.saturating_duration_since(Instant::now());
    let millis = left.as_micros().div_ceil(1000);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
}

/// The three pipes of a process, and what went through them.
struct Pipes<'a> {
    stdin: Option<ChildStdin>,
    stdin_left: &'a [u8],
    stdout: Option<ChildStdout>,
    stdout_bytes: Vec<u8>,
    stdout_bytes_max: usize,
    stderr: Option<ChildStderr>,
    stderr_bytes: Vec<u8>,
}

impl<'a> Pipes<'a> {
    fn new(child: &mut Child, stdin: &'a [u8], stdout_bytes_max: usize) -> Pipes<'a> {
        Pipes {
            stdin: child.stdin.take(),
            stdin_left: stdin,
            stdout: child.stdout.take(),
            stdout_bytes: Vec::new(),
            stdout_bytes_max,
            stderr: child.stderr.take(),
            stderr_bytes: Vec::new(),
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        let all = [
            self.stdin.as_ref().map(AsFd::as_fd),
            self.stdout.as_ref().map(AsFd::as_fd),
            self.stderr.as_ref().map(AsFd::as_fd),
        ];
        for pipe in all.into_iter().flatten() {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(())
    }

    /// Waits for any of the pipes and serves those that are ready; true when the process has ended.
    fn turn(&mut self, ended: &PipeReader, until: Instant) -> Result<bool, Stop> {
        let (has_ended, write, out, err) = self.ready(ended, until)?;
        if write {
            self.feed()?;
        }
        if out {
            self.read_stdout()?;
        }
        if err {
            self.read_stderr()?;
        }
        Ok(has_ended)
    }

    fn ready(&self, ended: &PipeReader, until: Instant) -> Result<(bool, bool, bool, bool), Stop> {
        let mut polled = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        polled.extend(self.stdin.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)));
        polled.extend(self.stdout.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        polled.extend(self.stderr.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        loop {
            if Instant::now() >= until {
                return Err(Stop::Deadline);
            }
            match poll(&mut polled, timeout(until)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => break,
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
        // A hang-up or an error is ready too: the read or write that follows tells which.
        let mut ready = polled.iter().map(|polled| polled.any().unwrap_or(true));
        let mut next = |is_open: bool| is_open && ready.next().unwrap_or(false);
        Ok((next(true), next(self.stdin.is_some()), next(self.stdout.is_some()), next(self.stderr.is_some())))
    }

    /// Writes what the pipe takes; closes it when all is written or nobody reads.
    fn feed(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.stdin else { return Ok(()) };
        if !self.stdin_left.is_empty() {
            match pipe.write(self.stdin_left) {
                Ok(written) => self.stdin_left = self.stdin_left.get(written..).unwrap_or_default(),
                Err(error) if is_passing(&error) => {}
                // A plugin need not read its input.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => self.stdin_left = &[],
                Err(error) => return Err(error),
            }
        }
        if self.stdin_left.is_empty() {
            self.stdin = None;
        }
        Ok(())
    }

    fn read_stdout(&mut self) -> Result<usize, Stop> {
        let read = read_chunk(&mut self.stdout, &mut self.stdout_bytes)?;
        if self.stdout_bytes.len() > self.stdout_bytes_max {
            return Err(Stop::TooLarge);
        }
        Ok(read)
    }

    fn read_stderr(&mut self) -> io::Result<usize> {
        let read = read_chunk(&mut self.stderr, &mut self.stderr_bytes)?;
        let surplus = self.stderr_bytes.len().saturating_sub(STDERR_BYTES_MAX);
        self.stderr_bytes.drain(..surplus);
        Ok(read)
    }

    /// Reads what was written before the process ended.
    fn drain(&mut self) -> Result<(), Stop> {
        let mut drained = 0;
        while drained < DRAIN_BYTES_MAX {
            let read = self.read_stdout()?;
            if read == 0 {
                break;
            }
            drained += read;
        }
        drained = 0;
        while drained < DRAIN_BYTES_MAX {
            let read = self.read_stderr()?;
            if read == 0 {
                break;
            }
            drained += read;
        }
        Ok(())
    }
}

/// Whether the pipe is only not ready now.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Appends what is there, one chunk at most; 0 when nothing is, and closes the pipe at its end.
fn read_chunk<P: Read>(pipe: &mut Option<P>, into: &mut Vec<u8>) -> io::Result<usize> {
    let Some(open) = pipe else { return Ok(0) };
    let mut chunk = vec![0; CHUNK_BYTES];
    let read = match open.read(&mut chunk) {
        Ok(0) => {
            *pipe = None;
            0
        }
        Ok(read) => read,
        Err(error) if is_passing(&error) => 0,
        Err(error) => return Err(error),
    };
    into.extend_from_slice(chunk.get(..read).unwrap_or_default());
    Ok(read)
}
