//! What the demo shows: its networks and pods, as the files a node would have. Whoever reads them is not known here.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::failure::Failure;

/// Where the namespaces are mounted.
pub(super) const NAMESPACES: &str = "/run/netns";
/// Where host-local keeps its leases.
pub(super) const LEASES: &str = "/var/lib/cni/networks";
/// Definitions and pods.
const MANIFESTS: &str = "/run/plexus-demo/manifests";
/// Where a runtime would look for plugins: empty, so nothing but plexus can build anything.
pub(super) const PLUGINS: &str = "/run/plexus-demo/plugins";
/// The pods' Kubernetes namespace.
pub(super) const NAMESPACE: &str = "demo";
/// Bridges stay when the last pod leaves, as the reference bridge plugin has it: they are not counted as left.
pub(super) const BRIDGES: [&str; 3] = ["pods0", "uplink0", "storage0"];
/// What is at the other end of the host's uplink.
pub(super) const NEIGHBOUR: &str = "neighbour";

/// One network of the demo.
pub(super) struct Network {
    /// The interface in every pod.
    pub(super) interface: &'static str,
    /// As `namespace/name`, or the configuration's name for the default network.
    pub(super) name: &'static str,
    /// The plugin type.
    pub(super) kind: &'static str,
    /// The families it has addresses of.
    pub(super) families: &'static [Family],
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Family {
    /// IPv4.
    #[serde(rename = "IPv4")]
    Four,
    /// IPv6.
    #[serde(rename = "IPv6")]
    Six,
}

impl Family {
    /// As people write it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Family::Four => "IPv4",
            Family::Six => "IPv6",
        }
    }

    /// Whether an address belongs to it.
    pub(super) fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Family::Four)
    }
}

const BOTH: &[Family] = &[Family::Four, Family::Six];

/// In the order of attachment; the first is the default network.
pub(super) const NETWORKS: [Network; 4] = [
    Network { interface: "eth0", name: "pods", kind: "bridge", families: BOTH },
    Network { interface: "net1", name: "demo/lan", kind: "macvlan", families: BOTH },
    Network { interface: "net2", name: "demo/storage", kind: "bridge", families: BOTH },
    Network { interface: "net3", name: "demo/edge", kind: "ptp", families: &[Family::Four] },
];

/// Pods, each asking for the same three networks in another of the annotation's forms.
pub(super) const PODS: [(&str, &str); 3] = [
    ("web", "lan, storage, edge"),
    ("api", "demo/lan@net1, demo/storage@net2, demo/edge@net3"),
    ("db", r#"[{"name": "lan"}, {"name": "storage"}, {"name": "edge", "interface": "net3"}]"#),
];

/// Writes every manifest.
///
/// # Errors
/// The file system refuses.
pub(super) fn write() -> Result<(), Failure> {
    for dir in [NAMESPACES, MANIFESTS, PLUGINS] {
        fs::create_dir_all(dir).map_err(Failure::system(format!("creating {dir}")))?;
    }
    for (name, config) in [("lan", lan()), ("storage", storage()), ("edge", edge())] {
        write_manifest(name, &definition(name, &config))?;
    }
    for (name, networks) in PODS {
        write_manifest(&format!("pod-{name}"), &pod(name, networks))?;
    }
    Ok(())
}

fn write_manifest(name: &str, text: &str) -> Result<(), Failure> {
    let path = Path::new(MANIFESTS).join(format!("{name}.yaml"));
    fs::write(&path, text).map_err(Failure::system(format!("writing {}", path.display())))
}

/// The configuration that the runtime sends for every pod.
pub(super) fn configuration() -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "node", "type": "plexus-cni",
        "manifests": MANIFESTS, "binDir": PLUGINS, "delegates": [pods()]
    })
}

/// The host's uplink: plexus in the place of the reference bridge plugin, without a pod and without addresses.
pub(super) fn uplink() -> Value {
    json!({"cniVersion": "1.0.0", "name": "uplink", "type": "bridge", "bridge": "uplink0", "ipam": {}})
}

fn pods() -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "pods", "type": "bridge", "bridge": "pods0", "isGateway": true,
        "ipam": host_local(&["10.244.0.0/24", "fd00:244::/64"], &["0.0.0.0/0", "::/0"])
    })
}

fn lan() -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "master": "uplink0", "mode": "bridge",
        "ipam": host_local(&["192.0.2.0/24", "2001:db8::/64"], &[])
    })
}

fn storage() -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "storage", "type": "bridge", "bridge": "storage0",
        "ipam": host_local(&["10.10.0.0/24", "fd00:10::/64"], &[])
    })
}

/// From pod to pod it is routed by the host.
fn edge() -> Value {
    json!({"cniVersion": "1.0.0", "name": "edge", "type": "ptp", "ipam": host_local(&["198.51.100.0/24"], &[])})
}

/// One range set for each family.
fn host_local(subnets: &[&str], routes: &[&str]) -> Value {
    let ranges: Vec<Value> = subnets.iter().map(|subnet| json!([{"subnet": subnet}])).collect();
    let routes: Vec<Value> = routes.iter().map(|dst| json!({"dst": dst})).collect();
    json!({"type": "host-local", "ranges": ranges, "routes": routes})
}

fn definition(name: &str, config: &Value) -> String {
    format!(
        "apiVersion: k8s.cni.cncf.io/v1\n\
         kind: NetworkAttachmentDefinition\n\
         metadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec:\n  config: '{config}'\n"
    )
}

fn pod(name: &str, networks: &str) -> String {
    format!(
        "apiVersion: v1\n\
         kind: Pod\n\
         metadata:\n  name: {name}\n  namespace: {NAMESPACE}\n  uid: {uid}\n  annotations:\n    \
         k8s.v1.cni.cncf.io/networks: '{networks}'\n",
        uid = uid(name)
    )
}

/// A UID that stays the same from run to run.
pub(super) fn uid(pod: &str) -> String {
    let digits = sandbox(pod);
    format!("{}-0000-4000-8000-000000000000", digits.get(..8).unwrap_or_default())
}

/// A container id of 64 digits: the name in hexadecimal, filled up.
pub(super) fn sandbox(name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{digits:0<64}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_say_what_the_tables_say() {
        let text = definition("lan", &lan());
        let config = text.split_once("config: '").and_then(|(_, rest)| rest.split_once('\'')).unwrap().0;
        let config: Value = serde_json::from_str(config).unwrap();
        assert_eq!((config["type"].as_str(), config["name"].as_str()), (Some(NETWORKS[1].kind), Some("lan")));
        assert!(pod("web", PODS[0].1).ends_with("k8s.v1.cni.cncf.io/networks: 'lan, storage, edge'\n"));
        for (_, networks) in PODS {
            assert!(!networks.contains('\''), "the manifest quotes with it");
        }
    }

    #[test]
    fn ids_are_what_a_runtime_would_give() {
        assert_eq!(sandbox("web").len(), 64);
        assert!(sandbox("neighbour").bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(uid("web"), uid("api"));
        assert_eq!(uid("db").len(), 36);
    }
}
