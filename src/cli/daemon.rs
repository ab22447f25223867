//! `plexus daemon`: serves the requests of this node's `plexus-cni` until it is told to end.

use std::path::PathBuf;

use clap::Args;
use plexus::config::SOCKET;
use plexus::config::{Level, LogConf};
use plexus::daemon::http::{Exposure, Listen};
use plexus::daemon::{self, Options};

use super::failure::Failure;

/// Where its socket is.
const SOCKET_DIR: &str = "/run/plexus";
/// Where its metrics are, beside that.
const METRICS: &str = "metrics.sock";
/// They are nowhere.
const OFF: &str = "off";

/// What it is told.
#[derive(Args, Debug)]
pub(super) struct DaemonArgs {
    /// The folder of its socket, plexus.sock: `daemonSocketDir` of the node's configuration
    #[arg(long, value_name = "DIR", default_value = SOCKET_DIR)]
    socket_dir: PathBuf,
    /// How the API server is reached; otherwise by the service account of its pod, or as the node's configuration says
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Where /metrics, /healthz and /readyz are: `unix:/run/x.sock`, `127.0.0.1:9090`, or `off`; otherwise metrics.sock beside the socket
    #[arg(long, value_name = "PLACE")]
    metrics: Option<String>,
    /// They may be at an address that others than this machine can reach
    #[arg(long, requires = "metrics")]
    metrics_anywhere: bool,
    /// How much is written to standard error: panic, error, verbose or debug
    #[arg(long, value_name = "LEVEL", default_value = "error", value_parser = level)]
    log_level: Level,
    /// A file that is written to besides; it is put aside when it is full
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
}

fn level(word: &str) -> Result<Level, String> {
    Level::of(word).ok_or_else(|| "it is panic, error, verbose or debug".to_owned())
}

impl DaemonArgs {
    fn metrics(&self) -> Result<Option<Listen>, Failure> {
        let exposure = if self.metrics_anywhere { Exposure::Any } else { Exposure::Loopback };
        match self.metrics.as_deref() {
            None => Ok(Some(Listen::Unix(self.socket_dir.join(METRICS)))),
            Some(OFF) => Ok(None),
            Some(place) => Listen::parse(place, exposure)
                .map(Some)
                .map_err(|why| Failure::Input { act: "reading --metrics".to_owned(), why: why.to_string() }),
        }
    }
}

/// Runs it.
pub(super) fn run(args: DaemonArgs) -> Result<(), Failure> {
    let metrics = args.metrics()?;
    let log = LogConf::of_program(args.log_file, args.log_level);
    let options = Options { socket: args.socket_dir.join(SOCKET), kubeconfig: args.kubeconfig, metrics, log };
    Ok(daemon::run(&options)?)
}
