//! The daemon of the thick Multus, as its pod starts it: a service account, its own configuration, and the one that it writes
//! for the runtime. It does not know what it is asked.

use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::play::CLUSTER_NETWORK;
use super::programs;
use crate::kube::Cluster;
use crate::testbed::Testbed;

/// Where the daemon writes what the runtime reads, and where the shim finds the daemon.
const RUNTIME: &str = "/run/scratch/net.d";
const SOCKETS: &str = "/run/multus/";

/// Keys of a node's configuration that are the daemon's own business.
const NOT_THE_DAEMONS: [&str; 4] = ["clusterNetwork", "kubeconfig", "name", "type"];

/// A running daemon, which ends with this.
pub(crate) struct Daemon(Child);

impl Daemon {
    /// Starts it with the keys of `conf`; the configuration that it wrote for the runtime.
    pub(crate) fn start(bed: &Testbed, cluster: &Cluster, conf: &Value) -> (Self, Value) {
        let mut own = json!({"chrootDir": "", "socketDir": SOCKETS, "daemonSocketDir": SOCKETS, "cniConfigDir": RUNTIME,
            "multusConfigFile": "auto", "multusMasterCNI": "10-cluster.conf",
            "multusAutoconfigDir": std::path::Path::new(CLUSTER_NETWORK).parent()});
        let keys = conf.as_object().unwrap().iter().filter(|(key, _)| !NOT_THE_DAEMONS.contains(&key.as_str()));
        own.as_object_mut().unwrap().extend(keys.map(|(key, value)| (key.clone(), value.clone())));
        let file = bed.file("daemon-config.json", &own.to_string());
        std::fs::create_dir_all(RUNTIME).unwrap();
        std::fs::create_dir_all(SOCKETS).unwrap();
        let log = std::fs::File::create("/run/scratch/daemon.log").unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(programs().unwrap().join("multus-daemon"));
        command.arg("-config").arg(file).env_clear().envs(cluster.service_account("admin-token"));
        command.env("MULTUS_NODE_NAME", "node").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = Self(command.spawn().unwrap());
        let ready = format!(
            "for i in $(seq 400); do [ -s {RUNTIME}/00-multus.conf ] && [ -S {SOCKETS}multus.sock ] && exit; sleep 0.05; done; cat /run/scratch/daemon.log >&2; exit 1"
        );
        bed.tool("sh", &["-c", &ready], "").unwrap_or_else(|text| panic!("multus-daemon does not come up: {text}"));
        let written = std::fs::read_to_string(format!("{RUNTIME}/00-multus.conf")).unwrap();
        (daemon, serde_json::from_str(&written).unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
        if std::thread::panicking() {
            eprintln!("---- multus-daemon\n{}", std::fs::read_to_string("/run/scratch/daemon.log").unwrap_or_default());
        }
    }
}
