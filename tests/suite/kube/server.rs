//! One API server for a whole run of the suite, as the suite's own process and the serving process see it: when it starts,
//! how cases in other namespaces reach it, and that it ends with the run. It does not know what is asked of the server.
//!
//! The serving process has namespaces of its own, so no port of the machine is taken. Cases cannot reach its ports, but
//! they can reach a Unix socket by its path: the serving process passes on what comes there.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::thread;

use nix::mount::{MntFlags, umount2};

use crate::world;

/// The directory of the server, in the environment of a case: its certificates and its socket.
pub(crate) const FOLDER: &str = "PLEXUS_SUITE_SERVER";

/// The socket's name in that directory.
pub(crate) const SOCKET: &str = "socket";

/// What starts etcd and the server, and where the server then answers in its own network namespace.
const SERVE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/k8s/serve");
const CERTIFICATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/k8s/certificates");
const ADDRESS: &str = "127.0.0.1:6443";

/// What must be installed for it, and the package.
const PROGRAMS: [(&str, &str); 5] =
    [("etcd", "etcd-server"), ("curl", "curl"), ("openssl", "openssl"), ("setpriv", "util-linux"), ("ip", "iproute2")];

/// The directory that `tests/k8s/build` fills.
///
/// # Errors
/// What is not there, as a sentence.
pub(crate) fn programs() -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut folders = target.ancestors().map(|folder| folder.join("k8s"));
    let built = folders.find(|folder| folder.join("kube-apiserver").is_file() && folder.join("kubectl").is_file());
    let built = built.ok_or("kube-apiserver is not built: run tests/k8s/build")?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    match PROGRAMS.iter().find(|(name, _)| !is_there(name)) {
        Some((name, package)) => Err(format!("{name} is not there: install {package}")),
        None => Ok(built),
    }
}

/// helm, as `tests/k8s/build` leaves it.
///
/// # Errors
/// That it is not there, as a sentence.
pub(crate) fn helm() -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let built = target.ancestors().map(|folder| folder.join("k8s/helm")).find(|program| program.is_file());
    built.ok_or_else(|| "helm is not built: run tests/k8s/build helm".to_owned())
}

/// The suite's own process: the directory of the server, which is started by the first who asks. It may not be ready
/// yet: its socket answers when it is.
pub(crate) fn folder() -> &'static Path {
    static SERVING: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let (folder, _) = SERVING.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("plexus-suite-{}", std::process::id()));
        // A process of this number that was killed may have left one.
        drop(std::fs::remove_dir_all(&folder));
        std::fs::DirBuilder::new().mode(0o700).create(&folder).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        // The end of this process, whatever it dies of, ends the server's standard input. That is the order to end: the
        // terminal's goes to a whole group.
        command.args(["--server".as_ref(), folder.as_os_str()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.process_group(0).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "listening\n", "the serving process has ended");
        (folder, child)
    });
    folder
}

/// The serving process, until its standard input ends.
pub(crate) fn serve_here(folder: &Path) -> ExitCode {
    // Both are there for every case, however early it comes.
    let made = Command::new(CERTIFICATES).arg(folder).status().unwrap();
    assert!(made.success(), "{CERTIFICATES}: {made}");
    let listener = UnixListener::bind(folder.join(SOCKET)).unwrap();
    io::stdout().write_all(b"listening\n").unwrap();
    let served = serve(folder, listener);
    // What `serve` mounted there.
    umount2(&folder.join("etcd"), MntFlags::MNT_DETACH).ok();
    drop(std::fs::remove_dir_all(folder));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("the API server: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn serve(folder: &Path, listener: UnixListener) -> Result<(), String> {
    let programs = programs()?;
    world::enter()?;
    let mut command = Command::new(SERVE);
    command.arg(folder).env("CARGO_TARGET_DIR", programs.parent().unwrap());
    let mut script = command.stdout(Stdio::piped()).spawn().map_err(|error| format!("{SERVE}: {error}"))?;
    let mut line = String::new();
    BufReader::new(script.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line == "ready\n" {
        thread::spawn(move || listener.incoming().flatten().for_each(pass_on));
    }
    let status = script.wait().unwrap();
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

/// Bytes both ways between a case and the server, in threads of their own.
fn pass_on(case: UnixStream) {
    let Ok(server) = TcpStream::connect(ADDRESS) else { return };
    let (mut from_case, mut to_case) = (case.try_clone().unwrap(), case);
    let (mut from_server, mut to_server) = (server.try_clone().unwrap(), server);
    // A connection that breaks is seen by both ends: that is all there is to say.
    thread::spawn(move || {
        drop(io::copy(&mut from_case, &mut to_server));
        drop(to_server.shutdown(Shutdown::Write));
    });
    thread::spawn(move || {
        drop(io::copy(&mut from_server, &mut to_case));
        drop(to_case.shutdown(Shutdown::Write));
    });
}
