//! Plugins of other people (`tests/plugins`): each works by itself, with the plugins of both sides, and as a delegate of
//! the meta-plugin.

use std::path::Path;

use serde_json::json;

use crate::call::Side;
use crate::case::Case;
use crate::meta::{Node, definition, node, statuses};
use crate::need::Need;
use crate::testbed::Testbed;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("plugins::newcomer", &[], newcomer),
        Case::new("plugins::newcomer_refuses", &[], newcomer_refuses),
        Case::new("plugins::flannel_like_with_go", &[Need::Peers], || flannel_like(Side::Go)),
        Case::new("plugins::flannel_like_with_plexus", &[], || flannel_like(Side::Plexus)),
        Case::new("plugins::newcomer_is_a_delegate", &[], newcomer_is_a_delegate),
        Case::new("plugins::newcomer_is_the_default_network", &[], newcomer_is_the_default_network),
        Case::new("plugins::flannel_like_is_the_default_network", &[], || flannel_like_is_the_default("flannel")),
        Case::new("plugins::flannel_like_has_the_name_of_the_node", &[], || flannel_like_is_the_default("node")),
    ]
}

/// Puts a plugin of `tests/plugins` among those of `side`.
pub(crate) fn install(bed: &Testbed, side: Side, name: &str) {
    bed.install(side, name, &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plugins").join(name));
}

fn newcomer() {
    let bed = Testbed::new();
    bed.pod("a");
    install(&bed, Side::Plexus, "newcomer");
    let conf = json!({"cniVersion": "1.0.0", "name": "new", "type": "newcomer", "address": "10.20.0.5/24"});
    let call = |command| bed.call(Side::Plexus, "newcomer").command(command).pod("a").conf(&conf).run();
    let result = call("ADD").ok();
    assert_eq!(result["ips"][0]["address"], "10.20.0.5/24");
    assert_eq!(result["interfaces"][0]["sandbox"], "/run/netns/a");
    call("CHECK").ok();
    call("DEL").ok();
    call("DEL").ok();
    let newest = json!({"cniVersion": "1.1.0", "name": "new", "type": "newcomer", "cni.dev/valid-attachments": []});
    for command in ["STATUS", "GC"] {
        bed.call(Side::Plexus, "newcomer").command(command).conf(&newest).run().ok();
    }
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

fn newcomer_refuses() {
    let bed = Testbed::new();
    bed.pod("a");
    install(&bed, Side::Plexus, "newcomer");
    let conf = json!({"cniVersion": "1.0.0", "name": "new", "type": "newcomer"});
    bed.call(Side::Plexus, "newcomer").command("ADD").pod("a").conf(&conf).run().fails(7, "address is missing");
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

fn flannel_like(side: Side) {
    let bed = Testbed::new();
    bed.pod("a");
    install(&bed, side, "flannel-like");
    let conf = json!({"cniVersion": "1.0.0", "name": "flannel", "type": "flannel-like", "subnet": "10.42.3.0/24"});
    let call = |command| bed.call(side, "flannel-like").command(command).pod("a").conf(&conf).run();
    let result = call("ADD").ok();
    assert_eq!(result["ips"][0]["address"], "10.42.3.2/24");
    assert!(bed.ip("-n a route show").contains("10.42.0.0/16 via 10.42.3.1 dev eth0"));
    assert!(bed.ip("link show flannel0").contains("mtu 1450"));
    call("DEL").ok();
    call("DEL").ok();
    assert_eq!(bed.leftovers(), ["link flannel0"]);
}

/// A node on which newcomer is installed, and a definition of it.
fn with_newcomer() -> Node {
    let node = node();
    install(&node.bed, Side::Plexus, "newcomer");
    let conf = json!({"cniVersion": "1.0.0", "name": "new", "type": "newcomer", "address": "10.20.0.5/24"});
    definition(&node.bed, "default", "new", &conf.to_string());
    node
}

fn newcomer_is_a_delegate() {
    let node = with_newcomer();
    node.add("a", "new@lan, six");
    assert_eq!(node.addresses("a", "lan"), ["10.20.0.5/24"]);
    let status = &statuses()[0];
    let mac = status[1]["mac"].as_str().unwrap();
    assert!(node.bed.ip("-n a link show dev lan").contains(mac));
    let told = |key: &str| status[1][key].clone();
    assert_eq!(
        (told("name"), told("interface"), told("ips"), told("default")),
        (json!("default/new"), json!("lan"), json!(["10.20.0.5"]), json!(false))
    );
    node.call("CHECK", "a").run().ok();
    node.bed.ip("-n a addr del 10.20.0.5/24 dev lan");
    node.call("CHECK", "a").run().fails(101, "the address is gone");
    node.call("DEL", "a").run().ok();
    assert_eq!(node.bed.links("a"), ["lo"]);
    node.assert_clean();
    node.call("DEL", "a").run().ok();
}

/// Its result is the runtime's; its words too, where it refuses; and it is asked for STATUS and GC.
fn newcomer_is_the_default_network() {
    let mut node = with_newcomer();
    let newcomer =
        |address: &str| json!([{"cniVersion": "1.1.0", "name": "new", "type": "newcomer", "address": address}]);
    node.conf["delegates"] = newcomer("");
    node.pod("a", &[]);
    node.call("ADD", "a").run().fails(7, "address is missing");
    node.conf["delegates"] = newcomer("10.20.0.6/24");
    let result = node.add("a", "new, six");
    assert_eq!(result["ips"][0]["address"], "10.20.0.6/24");
    assert_eq!(
        (&result["interfaces"][0]["name"], &result["interfaces"][0]["sandbox"]),
        (&json!("eth0"), &json!("/run/netns/a"))
    );
    assert_eq!(node.addresses("a", "net1"), ["10.20.0.5/24"]);
    node.call("CHECK", "a").run().ok();
    node.conf["cniVersion"] = json!("1.1.0");
    node.call("STATUS", "a").run().ok();
    node.conf["cni.dev/valid-attachments"] = json!([{"containerID": "id-a", "ifname": "eth0"}]);
    node.call("GC", "a").run().ok();
    assert_eq!(node.bed.links("a").len(), 4);
    node.call("DEL", "a").run().ok();
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// plexus executes flannel-like, which executes plexus as `bridge`: two commands for one sandbox and interface at the same
/// time, one inside the other.
fn flannel_like_is_the_default(network: &str) {
    let mut node = node();
    install(&node.bed, Side::Plexus, "flannel-like");
    node.conf["delegates"] =
        json!([{"cniVersion": "1.0.0", "name": network, "type": "flannel-like", "subnet": "10.42.3.0/24"}]);
    let result = node.add("a", "six");
    assert_eq!(result["ips"][0]["address"], "10.42.3.2/24");
    assert!(node.bed.ip("-n a route show").contains("10.42.0.0/16 via 10.42.3.1 dev eth0"));
    assert_eq!(
        (node.addresses("a", "eth0"), node.addresses("a", "net1")),
        (vec!["10.42.3.2/24".to_owned()], vec!["10.4.0.2/24".to_owned(), "fd00:4::2/64".to_owned()],)
    );
    let status = statuses();
    let of_pod = status.iter().find(|status| status.as_array().is_some_and(|all| all.len() == 2)).unwrap();
    assert_eq!((&of_pod[0]["name"], &of_pod[0]["default"]), (&json!(network), &json!(true)));
    node.call("CHECK", "a").run().ok();
    node.call("DEL", "a").run().ok();
    node.call("DEL", "a").run().ok();
    assert_eq!(node.bed.links("a"), ["lo"]);
    let left: Vec<String> = node.bed.leftovers();
    assert_eq!(left, ["link flannel0", "link six0"]);
}
