//! `plexus daemon`: serves the requests of this node's `plexus-cni` until it is told to end.

use std::path::PathBuf;

use clap::Args;
use plexus::config::SOCKET;
use plexus::daemon::{self, Options};

use super::failure::Failure;

/// Where its socket is.
const SOCKET_DIR: &str = "/run/plexus";

/// What it is told.
#[derive(Args, Debug)]
pub(super) struct DaemonArgs {
    /// The folder of its socket, plexus.sock: `daemonSocketDir` of the node's configuration
    #[arg(long, value_name = "DIR", default_value = SOCKET_DIR)]
    socket_dir: PathBuf,
    /// How the API server is reached; otherwise by the service account of its pod, or as the node's configuration says
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// Runs it.
pub(super) fn run(args: DaemonArgs) -> Result<(), Failure> {
    let options = Options { socket: args.socket_dir.join(SOCKET), kubeconfig: args.kubeconfig };
    Ok(daemon::run(&options)?)
}
