//! Plays a scene in a fresh bed for one side, and keeps what can be seen of it. It does not know what is intended to differ.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::scene::{OTHER, OWN, Scene};
use super::thick::Daemon;
use super::{Meta, programs};
use crate::call::{Answer, Call, Side};
use crate::compare::matches;
use crate::kube::{Cluster, Login};
use crate::redact::Names;
use crate::snapshot::{Facts, Snapshot, flatten};
use crate::testbed::Testbed;

/// Where every side finds what a scene puts on the node.
pub(crate) const CONF_DIR: &str = "/run/scratch/multus.d";
/// The cluster's own network, as a file of the node.
pub(crate) const CLUSTER_NETWORK: &str = "/run/scratch/cluster/10-cluster.conf";
/// Multus' scratch directory.
pub(crate) const CACHE: &str = "/var/lib/cni/multus";

/// What of the kernel's state a meta-plugin answers for. How a link is built is compared by the oracle of kinds.
const KEPT: [&str; 11] = [
    "pod.a.link.*.mtu",
    "pod.a.link.*.linkinfo.info_kind",
    "pod.a.link.*.linkinfo.info_data.mode",
    "pod.a.link.*.flags.UP",
    "pod.a.addr.*.prefixlen",
    "pod.a.route.main.*.gateway",
    "pod.a.route.main.*.dst",
    "pod.a.route.main.*.dev",
    "host.link.*.linkinfo.info_kind",
    "host.addr.*.prefixlen",
    "file.*",
];

/// Of these, what says nothing of a pod, or is made by one plugin for itself.
const PASSED_OVER: [&str; 4] = ["*.LL*", "file.*/lock", "file.*/last_reserved_ip.*", "file.c1_*.json"];

/// The labels of what is kept: after ADD, and after each DEL.
const ADD: &str = "1-add";
const DELS: [&str; 2] = ["2-del", "3-del-again"];

/// What came of a scene.
pub(crate) struct Came {
    pub(crate) facts: Facts,
    /// Method and resource of each request to the API server, with how often it came.
    pub(crate) asked: BTreeMap<String, usize>,
    pub(crate) transcript: String,
}

/// A scene in its bed.
pub(crate) struct Stage {
    pub(crate) bed: Testbed,
    pub(crate) cluster: Arc<Cluster>,
    meta: Meta,
    other: String,
    uid: String,
    conf: Value,
    runtime: Value,
    facts: RefCell<Facts>,
    _daemon: Option<Daemon>,
}

/// Plays `scene` once.
pub(crate) fn play(scene: &Scene, meta: Meta) -> Came {
    handed_over(scene, meta, meta)
}

/// The same, where `heir` has taken the node over when the pod is deleted.
pub(crate) fn handed_over(scene: &Scene, meta: Meta, heir: Meta) -> Came {
    let mut stage = Stage::set(scene, meta);
    stage.cluster.seen();
    let mut names = Names::new(&json!([scene.annotations, scene.node]).to_string(), false);
    let before = Snapshot::settled(&stage.bed, &mut names);
    (scene.before)(&stage);
    let answer = stage.call("ADD").run();
    stage.keep(&mut names, &before, ADD, &answer);
    (scene.between)(&stage);
    stage.meta = heir;
    for label in DELS {
        let answer = stage.call("DEL").run();
        stage.keep(&mut names, &before, label, &answer);
    }
    let mut asked = BTreeMap::new();
    for seen in stage.cluster.seen() {
        *asked.entry(kind_of(&seen.method, &seen.path)).or_default() += 1;
    }
    Came { facts: stage.facts.take(), asked, transcript: stage.bed.transcript() }
}

/// `GET pods`: without names and query.
fn kind_of(method: &str, path: &str) -> String {
    let path = path.split('?').next().unwrap_or_default();
    let words: Vec<&str> = path.split('/').skip_while(|word| *word != "namespaces").skip(2).collect();
    match words[..] {
        [] => format!("{method} {path}"),
        [resource] | [resource, _] => format!("{method} {resource}"),
        [resource, .., sub] => format!("{method} {resource}/{sub}"),
    }
}

impl Stage {
    fn set(scene: &Scene, meta: Meta) -> Self {
        let bed = Testbed::new();
        bed.parent("up0");
        let cluster = Cluster::of(&bed);
        let other = cluster.another_namespace();
        let named = |text: &str| text.replace(OWN, cluster.namespace()).replace(OTHER, &other);
        for (namespace, name, config, annotations) in &scene.definitions {
            cluster.definition_in(&named(namespace), name, &named(config), annotations);
        }
        let annotations: Vec<(&str, String)> =
            scene.annotations.iter().map(|(key, value)| (*key, named(value))).collect();
        let annotations: Vec<(&str, &str)> = annotations.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let uid = cluster.pod("a", &annotations);
        bed.pod("a");
        std::fs::create_dir_all(CONF_DIR).unwrap();
        bed.file("cluster/10-cluster.conf", &cluster_network().to_string());
        let folder = programs().unwrap();
        for name in ["multus", "multus-shim"] {
            bed.install(Side::Go, name, &folder.join(name));
        }
        bed.install(Side::Plexus, "multus", &crate::call::executable(Side::Plexus, "plexus-cni"));
        let mut conf = json!({"cniVersion": "1.0.0", "name": "node", "type": "multus", "clusterNetwork": CLUSTER_NETWORK,
            "kubeconfig": cluster.kubeconfig(&bed, &Login::Token("admin-token".to_owned())), "binDir": bed.bin(side(meta)),
            "confDir": CONF_DIR, "cniDir": CACHE, "logLevel": "error", "logToStderr": true});
        for (key, value) in scene.node.as_object().unwrap() {
            let value = serde_json::from_str(&named(&value.to_string())).unwrap();
            if value == Value::Null { drop(conf.as_object_mut().unwrap().remove(key)) } else { conf[key] = value }
        }
        let (daemon, conf) = match meta {
            Meta::Thick => {
                let (daemon, conf) = Daemon::start(&bed, &cluster, &conf);
                (Some(daemon), conf)
            }
            Meta::Thin | Meta::Plexus => (None, conf),
        };
        let runtime = scene.runtime.clone();
        Self { bed, cluster, meta, other, uid, conf, runtime, facts: RefCell::default(), _daemon: daemon }
    }

    /// A call as a runtime makes it for the pod.
    pub(crate) fn call(&self, command: &str) -> Call<'_> {
        let name = if self.meta == Meta::Thick { "multus-shim" } else { "multus" };
        let mut conf = self.conf.clone();
        if !self.runtime.is_null() {
            conf["runtimeConfig"] = self.runtime.clone();
            conf["capabilities"] = json!({"portMappings": true, "bandwidth": true, "ips": true, "mac": true});
        }
        let call = self.bed.call(side(self.meta), name).command(command).container("c1").pod("a");
        call.kubernetes(self.cluster.namespace(), "a", &self.uid).conf(&conf)
    }

    fn keep(&self, names: &mut Names, before: &Facts, label: &str, answer: &Answer) {
        let snapshot = Snapshot::settled(&self.bed, names);
        let is_any = |patterns: &[&str], path: &str| patterns.iter().any(|pattern| matches(pattern, path));
        let is_kept = |path: &str| is_any(&KEPT, path) && !is_any(&PASSED_OVER, path);
        let new = snapshot.into_iter().filter(|(path, value)| is_kept(path) && before.get(path) != Some(value));
        let mut facts: Facts = new.collect();
        let word = if answer.succeeded() { "succeeds" } else { "fails" };
        facts.insert("answer".to_owned(), word.to_owned());
        let is_attached = label == ADD && answer.succeeded();
        if is_attached {
            flatten("result", &answer.json(), &mut facts);
        }
        let status = self.cluster.network_status("a");
        if !status.is_null() {
            flatten("status", &status, &mut facts);
        }
        for (reason, message) in self.cluster.events().into_iter().filter(|_| label == ADD) {
            facts.insert(format!("event.{reason}.{message}"), "there".to_owned());
        }
        // While a pod lives, what a side keeps of it is its own.
        for path in ["", "results"].into_iter().filter(|_| !is_attached) {
            for entry in std::fs::read_dir(Path::new(CACHE).join(path)).into_iter().flatten().flatten() {
                if entry.path().is_file() {
                    facts.insert(format!("cache.{path}.{}", entry.file_name().to_string_lossy()), "there".to_owned());
                }
            }
        }
        let same = |text: &str| {
            let text = names.apply(text).replace(self.cluster.namespace(), OWN).replace(&self.other, OTHER);
            text.replace(&self.bed.bin(side(self.meta)).display().to_string(), "{bin}").replace(&self.uid, "{uid}")
        };
        let renamed = facts.iter().map(|(path, value)| (format!("{label}|{}", same(path)), same(value)));
        self.facts.borrow_mut().extend(renamed);
    }
}

/// Whose plugins a meta-plugin executes.
fn side(meta: Meta) -> Side {
    if meta == Meta::Plexus { Side::Plexus } else { Side::Go }
}

fn cluster_network() -> Value {
    json!({"cniVersion": "1.0.0", "name": "cluster", "type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]}})
}
