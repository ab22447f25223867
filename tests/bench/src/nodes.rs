//! Pods of a node with its own daemon, one or many at once, against a real API server: `plexus daemon`, `plexus oneshot`, Multus
//! with its daemon and without, and the bare messages. Knows no statistics but percentiles of pods that were started at once.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::attachment::Attachment;
use crate::cluster::{PORT, Server, environment};
use crate::figures::percentile;
use crate::pods::run;
use crate::resident::{NODE, Resident};
use crate::rest::{calm, settle};
use crate::rows::{Kind, Stage, Times, WARM_UP_ROUNDS};
use crate::side::{Call, Outcome, Side};
use crate::usage::{Usage, peak_of};
use crate::world::{Pod, STATE, make_bridge, remove_link};

/// What a node's row asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Kinds of the pods' definitions, besides the bridge of the default network.
    pub(crate) definitions: &'static [Kind],
    pub(crate) v6: bool,
    /// `statusBeforeAnswer`.
    pub(crate) status_first: bool,
    /// Pods at once. One of them is shown by its own time, more by percentiles.
    pub(crate) at_once: u16,
    /// Shown as a crowd, also where it is one pod.
    pub(crate) crowd: bool,
}

/// One side's pods of one row.
pub(crate) struct Nodes {
    side: Side,
    plan: Plan,
    server: Server,
    /// Kubernetes namespace, and prefix of all names.
    name: String,
    /// The default network first.
    attachments: Vec<Attachment>,
    conf: Value,
    program: PathBuf,
    /// CNI_PATH.
    path: PathBuf,
    daemon: Option<Resident>,
    /// Number of the last address that the floor gave to a pod.
    hosts: u16,
    rounds: usize,
    /// The most memory of all that was looked at, in MB, of ADDs and of DELs.
    peaks: [f64; 2],
    used: Vec<Pod>,
}

/// Names of what one verb of a round gives.
struct Names {
    verb: &'static str,
    wall: &'static str,
    shares: [(&'static str, f64); 3],
    rate: &'static str,
    cpu: &'static str,
    tasks: &'static str,
    requests: &'static str,
    peak: &'static str,
}

const ADD: Names = Names {
    verb: "ADD",
    wall: "ADD wall",
    shares: [("ADD p50", 0.5), ("ADD p95", 0.95), ("ADD p99", 0.99)],
    rate: "ADD, pods/s",
    cpu: "ADD, CPU ms/pod",
    tasks: "ADD, tasks started/pod",
    requests: "ADD, API requests/pod",
    peak: "ADD, peak MB",
};

const DEL: Names = Names {
    verb: "DEL",
    wall: "DEL wall",
    shares: [("DEL p50", 0.5), ("DEL p95", 0.95), ("DEL p99", 0.99)],
    rate: "DEL, pods/s",
    cpu: "DEL, CPU ms/pod",
    tasks: "DEL, tasks started/pod",
    requests: "DEL, API requests/pod",
    peak: "DEL, peak MB",
};

impl Nodes {
    pub(crate) fn prepare(stage: &mut Stage<'_>, side: Side, plan: Plan) -> Outcome<Self> {
        let server = stage.server.clone().ok_or("no API server: tests/bench/run --node")?;
        let mut attachments = Vec::new();
        for (position, kind) in [Kind::Bridge].iter().chain(plan.definitions).enumerate() {
            let subnet = stage.world.subnet()?;
            let attachment = Attachment::new(*kind, position, subnet, plan.v6);
            if side == Side::Floor && *kind == Kind::Bridge {
                make_bridge(&attachment.network, subnet)?;
            }
            attachments.push(attachment);
        }
        let name = attachments.first().ok_or("no network")?.network.clone();
        let path = stage.programs.directory(side).map(std::path::Path::to_owned).unwrap_or_default();
        let mut nodes = Self {
            side,
            plan,
            name,
            attachments,
            conf: Value::Null,
            program: stage.programs.floor().to_owned(),
            path,
            daemon: None,
            hosts: 1,
            rounds: 0,
            peaks: [0.0; 2],
            used: Vec::new(),
            server,
        };
        if side != Side::Floor {
            nodes.make_definitions()?;
            nodes.configure(stage)?;
        }
        Ok(nodes)
    }

    fn make_definitions(&self) -> Outcome<()> {
        let mut objects = vec![json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}})];
        for attachment in self.attachments.iter().skip(1) {
            objects.push(json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
                "metadata": {"name": attachment.network, "namespace": self.name},
                "spec": {"config": attachment.configuration().to_string()}}));
        }
        self.server.create_all(&json!({"apiVersion": "v1", "kind": "List", "items": objects})).map(drop)
    }

    /// What the runtime passes, and who serves it.
    fn configure(&mut self, stage: &Stage<'_>) -> Outcome<()> {
        let network = self.attachments.first().ok_or("no network")?.configuration();
        let kubeconfig = self.server.kubeconfig(&stage.files, "kubeconfig", PORT)?;
        let (name, own) = match self.side {
            Side::Thick => ("multus-shim", None),
            Side::Thin => ("multus", None),
            _ => ("plexus-cni", Some(self.path.join("plexus-cni"))),
        };
        self.program = own.unwrap_or_else(|| self.server.programs.join(name));
        if self.side == Side::Thick {
            let (daemon, conf) = Resident::multus(&self.server, &self.name, &self.path, &network)?;
            (self.daemon, self.conf) = (Some(daemon), conf);
            return Ok(());
        }
        self.conf = json!({"cniVersion": "1.0.0", "name": "node", "type": name, "kubeconfig": kubeconfig,
            "binDir": self.path, "cniDir": format!("{STATE}/multus"), "delegates": [network]});
        if let (Side::Daemon, Some(conf)) = (self.side, self.conf.as_object_mut()) {
            let (daemon, folder) = Resident::plexus(stage.programs, &self.name)?;
            self.daemon = Some(daemon);
            // Nobody else answers: what is measured is the daemon.
            conf.extend([("daemonSocketDir".to_owned(), json!(folder)), ("fallback".to_owned(), json!("fail"))]);
            conf.insert("statusBeforeAnswer".to_owned(), json!(self.plan.status_first));
        }
        Ok(())
    }

    /// ADD and DEL of fresh pods, each followed by a look into them.
    pub(crate) fn round(&mut self, stage: &mut Stage<'_>) -> Outcome<Times> {
        let mut pods = (0..self.plan.at_once).map(|_| stage.world.pod()).collect::<Outcome<Vec<_>>>()?;
        let uids = if self.side == Side::Floor { vec![String::new(); pods.len()] } else { self.make(&pods)? };
        let mut times = Times::new();
        let each = if self.plan.v6 { 2 } else { 1 };
        for (names, expected) in [(&ADD, self.attachments.len() * each), (&DEL, 0)] {
            let calls = self.calls(names.verb, &pods, &uids)?;
            times.extend(self.measured(stage, names, &calls)?);
            for pod in &mut pods {
                let addresses = pod.addresses()?;
                if addresses.len() != expected {
                    let after = names.verb;
                    return Err(format!("after {after}, {} has {addresses:?}, not {expected}", pod.id).into());
                }
            }
        }
        if let Some(daemon) = &self.daemon {
            times.push(("daemon's peak MB", daemon.memory("VmHWM:")?));
        }
        self.rounds += 1;
        self.keep(pods)?;
        Ok(times)
    }

    /// Namespaces stay until the row ends, as removing one makes the kernel work. But a crowd's go: no node has thousands, and opening a
    /// file below /proc/sys/net passes over those of all.
    fn keep(&mut self, mut pods: Vec<Pod>) -> Outcome<()> {
        if self.plan.at_once == 1 {
            self.used.append(&mut pods);
            return Ok(());
        }
        drop(pods);
        calm()
    }

    /// One verb for all pods.
    fn measured(&mut self, stage: &Stage<'_>, names: &Names, calls: &[Vec<Call>]) -> Outcome<Times> {
        let asked = |nodes: &Self| if nodes.side == Side::Floor { Ok(0.0) } else { nodes.server.requests() };
        let requests = asked(self)?;
        let before = Usage::now(self.daemon.as_ref())?;
        let work = || run(calls, &stage.watch);
        let looks = self.rounds < WARM_UP_ROUNDS;
        let (wall, each) = if looks {
            let (done, peak) = peak_of(self.daemon.as_ref().map(Resident::pid), work)?;
            let [of_add, of_del] = &mut self.peaks;
            let most = if names.verb == "ADD" { of_add } else { of_del };
            *most = most.max(peak);
            done
        } else {
            work()?
        };
        settle()?;
        let (cpu, tasks) = before.since(self.daemon.as_ref())?;
        let requests = asked(self)? - requests;
        let pods = f64::from(self.plan.at_once);
        // This program starts a thread for each pod of several.
        let own_threads = if calls.len() > 1 { pods } else { 0.0 };
        let mut times = Times::new();
        if self.plan.crowd {
            let shares = names.shares.iter();
            times.extend(shares.filter_map(|(name, share)| percentile(&each, *share).map(|ms| (*name, ms))));
            times.extend([(names.wall, wall), (names.rate, pods * 1e3 / wall)]);
        } else {
            times.push((names.verb, wall));
        }
        let [add_peak, del_peak] = self.peaks;
        let peak = if names.verb == "ADD" { add_peak } else { del_peak };
        times.extend([(names.cpu, cpu / pods), (names.tasks, (tasks - own_threads) / pods), (names.peak, peak)]);
        if self.side != Side::Floor {
            times.push((names.requests, requests / pods));
        }
        Ok(times)
    }

    /// The pods' objects; their UIDs.
    fn make(&self, pods: &[Pod]) -> Outcome<Vec<String>> {
        let networks: Vec<&str> = self.attachments.iter().skip(1).map(|one| one.network.as_str()).collect();
        let object = |pod: &Pod| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod.id, "namespace": self.name,
                "annotations": {"k8s.v1.cni.cncf.io/networks": networks.join(",")}},
                "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "none"}]}})
        };
        let objects: Vec<Value> = pods.iter().map(object).collect();
        let made = self.server.create_all(&json!({"apiVersion": "v1", "kind": "List", "items": objects}))?;
        let uid = |pod: &Pod| {
            let own = made.iter().find(|one| one.pointer("/metadata/name").and_then(Value::as_str) == Some(&pod.id));
            let uid = own.and_then(|one| one.pointer("/metadata/uid")).and_then(Value::as_str);
            Ok(uid.ok_or("a pod without UID")?.to_owned())
        };
        pods.iter().map(uid).collect()
    }

    fn calls(&mut self, verb: &str, pods: &[Pod], uids: &[String]) -> Outcome<Vec<Vec<Call>>> {
        let mut calls = Vec::new();
        for (pod, uid) in pods.iter().zip(uids) {
            let call = if self.side == Side::Floor { self.floor_call(verb, pod)? } else { self.call(verb, pod, uid) };
            calls.push(vec![call]);
        }
        Ok(calls)
    }

    fn floor_call(&mut self, verb: &str, pod: &Pod) -> Outcome<Call> {
        let netns = pod.path.display().to_string();
        let arguments = if verb == "ADD" {
            self.hosts = self.hosts.checked_add(1).ok_or("no address is left")?;
            let specs = self.attachments.iter().map(|attachment| attachment.spec(self.hosts));
            ["add".to_owned(), netns].into_iter().chain(specs).collect()
        } else {
            vec!["del".to_owned(), netns, self.attachments.len().to_string()]
        };
        Ok(Call { program: self.program.clone(), arguments, environment: Vec::new(), input: Vec::new() })
    }

    fn call(&self, command: &str, pod: &Pod, uid: &str) -> Call {
        let environment = environment(command, (&self.name, pod, uid), &self.path);
        let input = self.conf.to_string().into_bytes();
        Call { program: self.program.clone(), arguments: Vec::new(), environment, input }
    }

    pub(crate) fn daemon(&self) -> Option<&Resident> {
        self.daemon.as_ref()
    }

    /// No address may be left in a pool; the objects go, as no daemon of a later row is to know them.
    pub(crate) fn finish(self) -> Outcome<()> {
        drop(self.daemon);
        for attachment in &self.attachments {
            if attachment.kind == Kind::Bridge {
                remove_link(&attachment.network)?;
            }
            if self.side != Side::Floor {
                attachment.pool_is_empty()?;
            }
        }
        if self.side == Side::Floor {
            return Ok(());
        }
        self.server.remove_all(&format!("/api/v1/namespaces/{}/pods?gracePeriodSeconds=0", self.name))?;
        self.server
            .remove_all(&format!("/apis/k8s.cni.cncf.io/v1/namespaces/{}/network-attachment-definitions", self.name))
    }
}
