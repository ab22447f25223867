//! STATUS: whether an ADD could be served now, found out without changing anything.
//!
//! Code 50: an ADD would fail. Code 51: it would, and what is attached suffers from the same (CNI spec 1.1, STATUS).

use std::path::{Path, PathBuf};
use std::time::Instant;

use backends::{Before, ErrorKind, Host};
use ipam::host_local::Pool;
use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sys::stat::stat;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};
use serde_json::{Map, Value};

use crate::chain;
use crate::cni::error::{CniError, Code};
use crate::cni::list::Injection;
use crate::cni::request::Command;
use crate::config::Config;
use crate::gather;
use crate::job::Job;
use crate::log::warn;
use crate::native::{self, Around, Ipam, Native, Verdict};

/// STATUS of a directly executed host-local.
///
/// # Errors
/// Code 50 where a range set is full, or its directory cannot be written.
pub fn pool(pool: &Pool) -> Result<(), CniError> {
    writable("host-local's directory", pool.directory())?;
    let usage = pool.usage().map_err(native::from_ipam)?;
    match usage.full() {
        None => Ok(()),
        Some(set) => {
            let msg = format!("no IP addresses available in range set: {}", set.ranges);
            Err(CniError::new(Code::NotAvailable, msg))
        }
    }
}

/// Whether a directory could be written, or made where it is missing.
///
/// # Errors
/// Code 50 with the reason.
pub fn writable(what: &str, dir: &Path) -> Result<(), CniError> {
    let refuse = |why: &str| {
        let msg = format!("{what} {} cannot be written: {why}", dir.display());
        Err(CniError::new(Code::NotAvailable, msg))
    };
    for place in dir.ancestors() {
        match access(place, AccessFlags::W_OK) {
            Ok(()) if !place.is_dir() => return refuse(&format!("{} is no directory", place.display())),
            Ok(()) => return if is_full(place) { refuse("no space is left on its device") } else { Ok(()) },
            // A link to nowhere is in the way of what is to be made.
            Err(Errno::ENOENT) if place.is_symlink() => return refuse(&format!("{} leads nowhere", place.display())),
            Err(Errno::ENOENT) => {}
            Err(errno) => return refuse(&errno.desc().to_lowercase()),
        }
    }
    Ok(())
}

/// Not being able to ask is no answer. Some file systems count no files.
fn is_full(place: &Path) -> bool {
    statvfs(place).is_ok_and(|all| all.blocks_available() == 0 || (all.files() > 0 && all.files_available() == 0))
}

/// STATUS of a directly executed plugin.
///
/// # Errors
/// Code 50 or 51 with what is missing; what its IPAM plugin says.
pub fn direct(job: &Job) -> Result<(), CniError> {
    writable("the state directory", &job.state_dir)?;
    let around = Around { args: "", ..job.around() };
    let path = job.request.path.clone();
    step(job, job.plugin, &job.request.config, &around, &path)
}

/// How often the file is looked for.
const READINESS_POLL: u16 = 100;

/// Waits for the file that says that the default network is ready, where the configuration names one.
///
/// # Errors
/// Multus' text, after the time that the configuration allows: code 11, for another ADD may find it.
pub fn await_file(config: &Config) -> Result<(), CniError> {
    let Some(path) = &config.readiness_file else { return Ok(()) };
    let begin = Instant::now();
    while stat(path).is_err() {
        let left = config.readiness_wait.saturating_sub(begin.elapsed());
        if left.is_zero() {
            let msg = format!(
                "have you checked that your default network is ready? still waiting for readinessindicatorfile @ {}. \
                 pollimmediate error: timed out waiting for the condition",
                path.display()
            );
            return Err(CniError::new(Code::TryAgainLater, msg));
        }
        let pause = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX).min(PollTimeout::from(READINESS_POLL));
        let _ = poll(&mut [], pause); // a signal that ends it early makes it look once more
    }
    Ok(())
}

/// STATUS asks for it and does not wait: runtimes ask again.
fn file_is_there(config: &Config) -> Result<(), CniError> {
    let Some(path) = &config.readiness_file else { return Ok(()) };
    stat(path).map(drop).map_err(|errno| {
        let why = errno.desc().to_lowercase();
        let msg = format!("the default network is not ready: readinessindicatorfile {}: {why}", path.display());
        CniError::new(Code::NotAvailable, msg)
    })
}

/// STATUS of the meta-plugin: each default network.
///
/// # Errors
/// The first that cannot serve an ADD.
pub fn meta(job: &Job, config: &Config) -> Result<(), CniError> {
    file_is_there(config)?;
    writable("the state directory", &job.state_dir)?;
    let path = config.search_path(&job.request.path);
    for list in gather::default_lists(config, &mut *job.place.reach(config, job.request)?)? {
        for (index, plugin) in list.plugins.iter().enumerate() {
            let around = Around {
                network: &list.name,
                version: list.cni_version,
                args: "",
                ifname: "",
                state_dir: &job.state_dir,
                before: if index > 0 { Before::Awaited } else { Before::Nothing },
            };
            let conf = list.inject(plugin, &Injection::default()).object;
            step(job, &plugin.plugin_type, &conf, &around, &path).inspect_err(|e| {
                warn(&format!("network {:?} is not ready: {}", list.name, e.msg));
            })?;
        }
    }
    Ok(())
}

fn step(job: &Job, plugin: &str, conf: &Map<String, Value>, around: &Around, path: &[PathBuf]) -> Result<(), CniError> {
    let caller = job.caller("", path, around.version);
    match native::read(plugin, conf, around)? {
        Verdict::Native(native, _) => {
            kernel(&native)?;
            match &native.ipam {
                Ipam::HostLocal(host_local) => pool(host_local),
                Ipam::Executed(plugin) => {
                    installed(plugin, path)?;
                    caller.execute_ipam(Command::Status, plugin, conf).map(|_| ())
                }
                Ipam::None | Ipam::Previous | Ipam::Static(_) => Ok(()),
            }
        }
        Verdict::Executed(_) if around.version.supports(Command::Status) => {
            installed(plugin, path)?;
            caller.execute(Command::Status, plugin, conf, None).map(|_| ())
        }
        Verdict::Executed(_) => installed(plugin, path),
        Verdict::Chained(spec, _) => {
            spec.ready().map_err(|error| CniError::new(Code::NotAvailable, native::chain(&error)))
        }
    }
}

/// Whether a plugin that is to be executed is there.
///
/// # Errors
/// Code 50 with where it was looked for.
pub fn installed(plugin: &str, path: &[PathBuf]) -> Result<(), CniError> {
    chain::find(plugin, path).map(drop).map_err(|e| CniError { code: Code::NotAvailable, ..e })
}

/// Whether the kernel can build it, and has what it is built on.
///
/// # Errors
/// Code 50 or 51 with what is missing.
pub fn kernel(native: &Native) -> Result<(), CniError> {
    let ready = Host::open().and_then(|mut host| backends::ready(&mut host, &native.spec, native.rules));
    ready.map_err(|error| {
        // Who is attached to a lower device that is gone has lost it too.
        let code = if error.kind() == ErrorKind::LinkMissing { Code::LimitedConnectivity } else { Code::NotAvailable };
        CniError::new(code, native::chain(&error))
    })
}
