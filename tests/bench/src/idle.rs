//! What a daemon needs that knows a big cluster and has nothing to do: memory, with a thousand definitions and 250 pods of its
//! node. Knows no time.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::nodes::{Nodes, Plan};
use crate::resident::{NODE, Resident};
use crate::rest::pause;
use crate::rows::{Kind, Stage, Times};
use crate::side::{Outcome, Side};

/// The Kubernetes namespace of what is only known.
const NAMESPACE: &str = "many";
const DEFINITIONS: usize = 1_000;
const PODS: usize = 250;
/// One request of `kubectl` makes so many.
const OBJECTS_OF_A_LIST: usize = 250;
/// Memory is steady when so many looks in a row differ by less than this, in MB.
const STEADY_LOOKS: usize = 10;
const STEADY_MB: f64 = 0.1;
const LOOK_EVERY_MS: u16 = 200;
const STEADY_MAX: Duration = Duration::from_secs(60);

/// The pod that makes a daemon look at the cluster has one definition.
const PLAN: Plan = Plan { definitions: &[Kind::Macvlan], v6: false, status_first: false, at_once: 1, crowd: false };

/// One side's daemon.
pub(crate) struct Idle {
    nodes: Nodes,
}

impl Idle {
    pub(crate) fn prepare(stage: &mut Stage<'_>, side: Side) -> Outcome<Self> {
        if !stage.is_crowded {
            fill(stage)?;
            stage.is_crowded = true;
        }
        Ok(Self { nodes: Nodes::prepare(stage, side, PLAN)? })
    }

    /// One pod, and then rest.
    pub(crate) fn round(&mut self, stage: &mut Stage<'_>) -> Outcome<Times> {
        let times = self.nodes.round(stage)?;
        let daemon = self.nodes.daemon().ok_or("this side has no daemon")?;
        // An ADD of a daemon that knows its pod and the definition reads nothing from the server.
        let asked = times.into_iter().filter(|(name, _)| *name == "ADD, API requests/pod");
        Ok(asked.chain([("idle, MB", steady(daemon)?), ("peak, MB", daemon.memory("VmHWM:")?)]).collect())
    }

    pub(crate) fn finish(self) -> Outcome<()> {
        self.nodes.finish()
    }
}

/// Its memory once that changes no more.
fn steady(daemon: &Resident) -> Outcome<f64> {
    let deadline = Instant::now() + STEADY_MAX;
    let (mut before, mut looks) = (daemon.memory("VmRSS:")?, 0);
    while looks < STEADY_LOOKS {
        if Instant::now() > deadline {
            return Err(format!("its memory changes all the time: {before:.1} MB after {STEADY_MAX:?}").into());
        }
        pause(LOOK_EVERY_MS)?;
        let now = daemon.memory("VmRSS:")?;
        looks = if (now - before).abs() < STEADY_MB { looks + 1 } else { 0 };
        before = now;
    }
    Ok(before)
}

/// Makes what is only known.
fn fill(stage: &Stage<'_>) -> Outcome<()> {
    let server = stage.server.as_ref().ok_or("no API server: tests/bench/run --node")?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let definitions = (0..DEFINITIONS).map(definition);
    let objects: Vec<Value> = [namespace].into_iter().chain(definitions).chain((0..PODS).map(pod)).collect();
    for some in objects.chunks(OBJECTS_OF_A_LIST) {
        server.create_all(&json!({"apiVersion": "v1", "kind": "List", "items": some}))?;
    }
    Ok(())
}

fn definition(number: usize) -> Value {
    let config = json!({"cniVersion": "1.0.0", "name": format!("net{number}"), "type": "macvlan", "master": "eth0",
        "mode": "bridge", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.200.0.0/16"}]],
            "routes": [{"dst": "192.168.0.0/16"}]}});
    json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": format!("net{number}"), "namespace": NAMESPACE}, "spec": {"config": config.to_string()}})
}

/// As a deployment makes it: most of a pod is nothing to a network.
fn pod(number: usize) -> Value {
    let variables: Vec<Value> =
        (0..10).map(|number| json!({"name": format!("SETTING_{number}"), "value": "a value of some length"})).collect();
    let container = |name: &str| {
        json!({"name": name, "image": "registry.example/team/service:1.2.3", "env": variables,
            "command": ["/service", "--listen", ":8080"], "ports": [{"containerPort": 8080}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}})
    };
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod{number}"), "namespace": NAMESPACE,
            "labels": {"app": "service", "tier": "backend"},
            "annotations": {"k8s.v1.cni.cncf.io/networks": format!("net{number},net{}", number + 1)}},
        "spec": {"nodeName": NODE, "containers": [container("main"), container("side")]}})
}
