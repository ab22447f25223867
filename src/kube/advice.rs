//! What to do about a failure, for whoever looks at the pod and not at the node: by the words in which it is told. It does not know how it
//! reaches them.

use crate::cni::error::{CniError, Code};

/// Words of a failure, and what to do about it; the first that fits. What is said of the cluster comes before what is said of a plugin.
const BY_WORDS: &[(&str, &str)] = &[
    ("cannot find a network-attachment-definition", "create it, or correct the pod's annotation"),
    ("forbids it (403)", "give plexus' role on the cluster what it lacks"),
    ("(401)", "give the node's configuration a token or a certificate that the API server knows"),
    ("namespace isolation", "name a network of the pod's own namespace, or of one of globalNamespaces"),
    ("annotation k8s.v1.cni.cncf.io/networks:", "correct the pod's annotation: `plexus validate` tells where and how"),
    (
        "annotation v1.multus-cni.io/default-network:",
        "correct the pod's annotation: `plexus validate` tells where and how",
    ),
    (
        "allowedDelegates does not list it",
        "name another network, or have it added to allowedDelegates of the nodes' configuration",
    ),
    (
        "no plugin of it has the capability",
        "declare it in the plugin that takes it, as \"capabilities\": {\"ips\": true}, or take that key out of the pod's annotation",
    ),
    (
        "no plugin has the capability",
        "declare it in the plugin that takes it, or take that key out of the pod's annotation",
    ),
    ("needs a device", "have a container of the pod request it, or correct the definition"),
    ("is wanted by", "give one of them another interface in the pod's annotation"),
    ("is asked for twice", "ask for another one in the pod's annotation"),
    (
        "no IP addresses available",
        "delete pods that hold its addresses, or make its range larger; `plexus doctor` on the node names leases of nobody",
    ),
    ("is not available in range set", "ask for another address, or wait until its pod has gone"),
    ("failed to allocate all requested IPs", "ask for addresses in the definition's ranges"),
    ("failed to find plugin", "install it on the node, or correct the type in the definition"),
    ("Link not found", "make that interface on the node, or name another one in the definition"),
    ("invalid MTU", "write a smaller mtu into the definition, or none"),
    (
        "no network \"",
        "write spec.config into the definition, or put a file with that name into this directory of the node",
    ),
    ("definition ", "correct the definition: `plexus validate` tells where and how"),
];

/// What to do about it.
pub(super) fn on(error: &CniError) -> &'static str {
    let said = || BY_WORDS.iter().find(|(words, _)| error.msg.contains(words)).map(|(_, advice)| *advice);
    match error.code {
        Code::TryAgainLater => "it is tried again",
        _ if said().is_some() => said().unwrap_or_default(),
        // Its own code: plexus has none of these.
        Code::Other(_) => "this is the plugin's own answer; the node's log has what it said besides",
        Code::InvalidConfig | Code::Decode | Code::UnsupportedField | Code::IncompatibleVersion => {
            "correct the definition or the pod's annotation"
        }
        _ if is_of_a_definition(&error.msg) => "correct the definition: `plexus validate` tells where and how",
        _ => "see the node's log, or run `plexus doctor` there",
    }
}

/// What is refused before anything is attached names a network, and no interface: `network "a/b": ...`.
fn is_of_a_definition(msg: &str) -> bool {
    let behind = msg.strip_prefix("network \"").and_then(|rest| rest.split_once('"'));
    behind.is_some_and(|(_, rest)| rest.starts_with(':'))
}
