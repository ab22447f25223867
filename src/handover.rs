//! A request that must ask the Kubernetes API goes over to `plexus oneshot`, executed in this process's place: the same process
//! id, environment and standard streams, so that whoever waits for plexus-cni or kills it does so still.
//!
//! It is found beside this executable and nowhere else: never through PATH.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::cluster::{self, Cluster};
use crate::cni::error::{CniError, Code};
use crate::cni::request::Request;
use crate::config::Config;
use crate::handed::{Handed, Knowledge};
use crate::phase::Executed;
use crate::place::{OfFiles, Place};
use crate::refer::{self, Lease};

/// What is executed, and its command.
const PROGRAM: &str = "plexus";
const COMMAND: &str = "oneshot";

/// Set for the other program, which must never come here.
const MARK: &str = "PLEXUS_HANDED_OVER";

/// `plexus-cni`, as the runtime executes it.
#[derive(Debug, Default)]
pub struct Program {
    lease: Lease,
    /// Of the daemon.
    knowledge: RefCell<Option<Knowledge>>,
}

impl Program {
    /// Whether the daemon handed over what it asked an API server, by a login of its own, maybe.
    fn knows(&self, config: &Config) -> bool {
        let knowledge = self.knowledge.borrow();
        config.manifests.is_none() && knowledge.as_ref().is_some_and(|knowledge| !knowledge.is_empty())
    }
}

impl Place for Program {
    fn asks_daemon(&self) -> bool {
        true
    }

    fn is_left(&self, config: &Config, request: &Request) -> bool {
        self.knowledge.borrow().is_none() && cluster::is_needed(config, request)
    }

    fn has_api(&self, config: &Config) -> bool {
        self.knows(config) || cluster::has_api(config)
    }

    fn hand(&self, knowledge: Knowledge) {
        self.knowledge.replace(Some(knowledge));
    }

    /// The cluster as manifests tell it, or as the daemon handed it over; where only its API can tell, this process ends here and becomes another.
    fn reach<'a>(&'a self, config: &Config, request: &Request) -> Result<Box<dyn Cluster + 'a>, CniError> {
        if !self.knows(config) && !cluster::is_needed(config, request) {
            return OfFiles.reach(config, request);
        }
        let (Some(knowledge), Some(socket)) = (self.knowledge.take(), config.daemon_socket.clone()) else {
            return Err(execute(request));
        };
        let (config, request) = (config.clone(), request.clone());
        Ok(Box::new(Handed::new(knowledge, move |tidings| refer::tell(&socket, &config, &request, tidings))))
    }

    fn allow_execution(&self, request: &Request, why: Executed) -> Result<(), CniError> {
        self.lease.take(request, why)
    }
}

/// Comes back only with what went wrong.
fn execute(request: &Request) -> CniError {
    if std::env::var_os(MARK).is_some() {
        let msg = format!("the program {PROGRAM} beside plexus-cni is plexus-cni again: install both");
        return CniError::new(Code::InvalidEnvironment, msg);
    }
    let (program, error) = match (beside(), again(&request.stdin)) {
        (Ok(program), Ok(stdin)) => {
            let error = Command::new(&program).arg(COMMAND).env(MARK, "1").stdin(stdin).exec();
            (program, error)
        }
        (Err(error), _) | (_, Err(error)) => (PathBuf::from(PROGRAM), error),
    };
    let msg = format!(
        "this pod's networks are asked of the Kubernetes API, by {} {COMMAND}, which cannot be executed: {error}; install it \
         beside plexus-cni",
        program.display()
    );
    CniError::new(Code::InvalidEnvironment, msg)
}

fn beside() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().unwrap_or(Path::new("/")).join(PROGRAM))
}

/// Standard input has been read: the other program reads the same bytes from a file in memory.
fn again(stdin: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("stdin", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(stdin)?;
    file.rewind()?;
    Ok(file)
}
