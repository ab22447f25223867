//! `plexus cert-approver`: decides about nodes' requests for certificates until it is told to end. One serves a cluster.

use std::path::PathBuf;

use clap::Args;
use plexus::config::{Level, LogConf};
use plexus::kube::approver;

use super::daemon::{level, look_at_kubeconfig};
use super::failure::Failure;

/// What it is told.
#[derive(Args, Debug)]
pub(super) struct ApproverArgs {
    /// How the API server is reached; otherwise by the service account of its pod
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// How much is written to standard error: panic, error, verbose (each decision) or debug
    #[arg(long, value_name = "LEVEL", value_parser = level, default_value = "verbose")]
    log_level: Level,
}

/// Runs it.
pub(super) fn run(args: ApproverArgs) -> Result<(), Failure> {
    args.kubeconfig.as_deref().map_or(Ok(()), look_at_kubeconfig)?;
    approver::run(args.kubeconfig, &LogConf::of_program(None, args.log_level)).map_err(Failure::system("starting"))
}
