//! `plexus daemon`: serves the requests of this node's `plexus-cni` until it is told to end.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use plexus::config::daemon::{Certificate, DaemonConfig};
use plexus::config::devices::Devices;
use plexus::config::{Level, LogConf, SOCKET};
use plexus::daemon::compat::Compat;
use plexus::daemon::http::{Exposure, Listen};
use plexus::daemon::taint::Taint;
use plexus::daemon::{self, Options};
use plexus::keep::{Account, Keep};
use plexus::kube::{Wanted, node_name};
use plexus::sources;

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
    /// A folder with a second socket, multus.sock, on which Multus' shim and clients of its `/delegate` are served as by its own daemon
    #[arg(long, value_name = "DIR")]
    compat_socket_dir: Option<PathBuf>,
    /// How the API server is reached; otherwise by the service account of its pod, or as the node's configuration says
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A daemon-config.json, as Multus' daemon reads it: the node's CNI configuration is written and kept as that says
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where /metrics, /healthz and /readyz are: `unix:/run/x.sock`, `127.0.0.1:9090`, or `off`; otherwise metrics.sock beside the socket
    #[arg(long, value_name = "PLACE")]
    metrics: Option<String>,
    /// They may be at an address that others than this machine can reach
    #[arg(long, requires = "metrics")]
    metrics_anywhere: bool,
    /// How much is written to standard error: panic, error, verbose or debug; otherwise as --config says, or error
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    log_level: Option<Level>,
    /// A file that is written to besides; it is put aside when it is full
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// The key of a taint that this node was registered with, `plexus/not-ready`: it is taken off when the configuration is there that
    /// --config tells of
    #[arg(long, value_name = "KEY", requires = "config", value_parser = taint_key)]
    startup_taint: Option<String>,
    /// How long an ADD may wait and be served; then what it began is undone
    #[arg(long, value_name = "SECONDS", default_value_t = daemon::REQUEST_TIME.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..=daemon::REQUEST_TIME_MAX.as_secs()))]
    request_time: u64,
    /// For how many pods plugins that plexus does not build are executed at once, by plexus-cni
    #[arg(long, value_name = "NUMBER", default_value_t = daemon::EXECUTIONS, value_parser = clap::value_parser!(u16).range(1..))]
    executions: u16,
}

pub(super) fn level(word: &str) -> Result<Level, String> {
    Level::of(word).ok_or_else(|| "it is panic, error, verbose or debug".to_owned())
}

fn taint_key(word: &str) -> Result<String, String> {
    Taint::is_key(word).then(|| word.to_owned()).ok_or_else(|| {
        "it is no key of a taint: letters, digits, '-', '_' and '.', after a prefix such as plexus/".to_owned()
    })
}

/// The node is this daemon's own: nobody else says when its pods can be attached.
fn startup_taint(key: Option<String>) -> Result<Option<Taint>, Failure> {
    let Some(key) = key else { return Ok(None) };
    let node = node_name().ok_or_else(|| Failure::Input {
        act: "reading --startup-taint".to_owned(),
        why: "whose node this is, nobody says: set NODE_NAME".to_owned(),
    })?;
    Ok(Some(Taint { node, key }))
}

impl DaemonArgs {
    fn metrics(&self, conf: Option<&DaemonConfig>) -> Result<Option<Listen>, Failure> {
        let exposure = if self.metrics_anywhere { Exposure::Any } else { Exposure::Loopback };
        let port = conf.and_then(|conf| conf.metrics_port).map(|port| format!("127.0.0.1:{port}"));
        match self.metrics.as_deref().or(port.as_deref()) {
            None => Ok(Some(Listen::Unix(self.socket_dir.join(METRICS)))),
            Some(OFF) => Ok(None),
            Some(place) => Listen::parse(place, exposure)
                .map(Some)
                .map_err(|why| Failure::Input { act: "reading --metrics".to_owned(), why: why.to_string() }),
        }
    }
}

/// A daemon-config.json, and what is to be kept of the node's configuration by it.
fn read(file: &Path, socket_dir: &Path) -> Result<(DaemonConfig, Keep), Failure> {
    let refused = |why: String| Failure::Input { act: format!("reading {}", file.display()), why };
    let bytes = sources::read(file).map_err(refused)?;
    let conf = DaemonConfig::parse(&bytes).map_err(|e| refused(e.msg))?;
    let account = Account::of_pod(&|name| std::env::var(name).ok());
    let keep = Keep::of(&conf, account, socket_dir).map_err(refused)?;
    Ok((conf, keep))
}

/// Keys of Multus' daemon that this one does nothing for, and what nobody knows.
fn notes(conf: &DaemonConfig, has_compat: bool) -> Vec<String> {
    let unused = [
        (conf.enable_pprof, "enablePprof: there are no profiles; see --metrics"),
        (conf.connection_limit.is_some(), "connectionLimit: the daemon has bounds of its own"),
        (
            conf.chroot_dir.is_some(),
            "chrootDir: plugins are executed by plexus-cni, on the node; those of multus.sock where the daemon is",
        ),
        (conf.socket_dir.is_some() && !has_compat, "socketDir: nobody listens there; see --compat-socket-dir"),
        (conf.metrics_port.is_some(), "metricsPort: on this machine's own address only; see --metrics-anywhere"),
    ];
    let unused = unused.iter().filter(|(is_given, _)| *is_given).map(|(_, note)| (*note).to_owned());
    let unknown = conf.unknown.iter().map(|key| format!("unknown key {key} is ignored"));
    unused.chain(unknown).chain(conf.warnings.iter().cloned()).collect()
}

/// How the API server is reached: by a certificate of the node's own, where the configuration wants one, or as a person said.
fn login(
    certificate: Option<&Certificate>,
    kubeconfig: Option<PathBuf>,
) -> Result<(Option<Wanted>, Option<PathBuf>), Failure> {
    let refused = |why: String| Failure::Input { act: "reading --config".to_owned(), why };
    let wanted = certificate.map(|wanted| Wanted::of(wanted, node_name())).transpose().map_err(refused)?.flatten();
    if wanted.is_none() {
        return Ok((None, kubeconfig));
    }
    if kubeconfig.is_some() {
        let why = "perNodeCertificate is enabled, and --kubeconfig is another login: drop one of them";
        return Err(refused(why.to_owned()));
    }
    Ok((wanted, certificate.and_then(Certificate::kubeconfig)))
}

/// A kubeconfig may come later, as one that another container writes; what is there and no file will be none.
pub(super) fn look_at_kubeconfig(file: &Path) -> Result<(), Failure> {
    let refused = |why: String| {
        let why = format!("{why}; name a kubeconfig, which may be written later, or leave it out");
        Err(Failure::Input { act: format!("reading --kubeconfig {}", file.display()), why })
    };
    match fs::metadata(file) {
        Ok(found) if found.is_dir() => refused("it is a folder".to_owned()),
        Ok(found) if !found.is_file() => refused("it is no regular file".to_owned()),
        Err(why) if why.kind() == ErrorKind::NotADirectory => refused(why.to_string()),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// What is offered to the kubelet, with that of the other device plugin's file. What is wrong with that keeps nobody's pods from networks.
fn offered(mut devices: Devices) -> Devices {
    if let Some(file) = devices.file.clone() {
        devices.add_file(sources::read(&file));
    }
    devices
}

fn look_at_log(file: &Path) -> Result<(), Failure> {
    plexus::log::try_file(file).map_err(|why| {
        let why =
            format!("{why}; name a file in a folder that can be written, or leave it out for standard error alone");
        Failure::Input { act: format!("opening --log-file {}", file.display()), why }
    })
}

/// Runs it.
pub(super) fn run(args: DaemonArgs) -> Result<(), Failure> {
    args.kubeconfig.as_deref().map_or(Ok(()), look_at_kubeconfig)?;
    args.log_file.as_deref().map_or(Ok(()), look_at_log)?;
    // What the node's configuration names must be found from everywhere.
    let socket_dir = std::path::absolute(&args.socket_dir).unwrap_or_else(|_| args.socket_dir.clone());
    let read = |file: &Path| read(file, &socket_dir);
    let (conf, keep) = args.config.as_deref().map(read).transpose()?.unzip();
    let metrics = args.metrics(conf.as_ref())?;
    let log = match &conf {
        Some(conf) if args.log_level.is_none() && args.log_file.is_none() => conf.log.clone(),
        _ => LogConf::of_program(args.log_file, args.log_level.unwrap_or(Level::Error)),
    };
    let notes = conf.as_ref().map(|conf| notes(conf, args.compat_socket_dir.is_some())).unwrap_or_default();
    let devices = conf.as_ref().and_then(|conf| conf.devices.clone()).map(offered);
    let executions = usize::from(args.executions);
    let request_time = Duration::from_secs(args.request_time);
    let socket = args.socket_dir.join(SOCKET);
    let own = |conf: &DaemonConfig| conf.network.clone();
    let compat = args.compat_socket_dir.map(|dir| Compat::new(&dir, conf.as_ref().map(own).unwrap_or_default()));
    let certificate = conf.as_ref().and_then(|conf| conf.certificate.as_ref());
    let (certificate, kubeconfig) = login(certificate, args.kubeconfig)?;
    let startup_taint = startup_taint(args.startup_taint)?;
    let of_devices = devices.iter().flat_map(|devices| devices.warnings.iter().chain(&devices.faults).cloned());
    let notes = notes.into_iter().chain(of_devices).collect();
    let options = Options {
        socket,
        compat,
        kubeconfig,
        certificate,
        metrics,
        keep,
        startup_taint,
        devices,
        notes,
        log,
        request_time,
        executions,
    };
    Ok(daemon::run(&options)?)
}
