//! STATUS: whether the next ADD can be served. It knows the protocol's codes, not how plexus counts addresses.

use serde_json::{Value, json};

use crate::call::{Call, Side};
use crate::case::Case;
use crate::meta::{Node, node};
use crate::need::Need;
use crate::testbed::Testbed;

/// CNI spec 1.1, STATUS: "the plugin is not available (i.e. cannot service ADD requests)".
const NOT_AVAILABLE: u64 = 50;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("status::a_node_is_ready_until_its_pool_is_full", &[], pool_of_the_default_network),
        Case::new("status::each_plugin_of_the_default_network_is_asked", &[], executed),
        Case::new("status::a_definition_is_not_asked", &[], definitions_do_not_count),
        Case::new("status::host_local_is_ready_until_it_is_full", &[], || directly("host-local")),
        Case::new("status::bridge_is_as_ready_as_its_pool", &[], || directly("bridge")),
        Case::new("status::each_family_counts", &[], each_family),
        Case::new("status::a_missing_lower_device_is_told", &[Need::Macvlan], missing_master),
        Case::new("status::what_cannot_be_written_is_told", &[], read_only),
        Case::new("status::a_kind_that_the_kernel_lacks_is_told", &[], lacking),
    ]
}

/// A range of two addresses.
fn two_addresses() -> Value {
    json!({"type": "host-local", "ranges": [[{"subnet": "10.6.0.0/24", "rangeStart": "10.6.0.10", "rangeEnd": "10.6.0.11"}]]})
}

/// A node of version 1.1.0 with such a default network.
fn small_node() -> Node {
    let mut node = node();
    node.conf["cniVersion"] = json!("1.1.0");
    node.conf["delegates"] = json!([{"cniVersion": "1.1.0", "name": "cluster", "type": "bridge", "bridge": "cni0", "ipam": two_addresses()}]);
    node
}

/// As a runtime sends it: without container, namespace and arguments.
fn status(node: &Node) -> Call<'_> {
    let call = node.bed.call(Side::Plexus, "plexus-cni").command("STATUS").conf(&node.conf);
    call.without("CNI_CONTAINERID").without("CNI_IFNAME")
}

fn pool_of_the_default_network() {
    let node = small_node();
    let ready = status(&node).run();
    assert_eq!((ready.rc, ready.stdout.trim()), (Some(0), ""), "STATUS has no result");
    node.add("a", "");
    status(&node).run().ok();
    node.add("b", "");
    status(&node).run().fails(NOT_AVAILABLE, "no IP addresses available in range set: 10.6.0.10-10.6.0.11");
    node.pod("c", &[]);
    assert!(!node.call("ADD", "c").run().succeeded(), "and it is true");
    node.call("DEL", "a").run().ok();
    status(&node).run().ok();
    node.call("DEL", "b").run().ok();
    node.assert_clean();
}

fn executed() {
    let mut node = small_node();
    node.script("ready", r#"cat >/dev/null; [ "$CNI_COMMAND" = STATUS ]"#);
    node.script("not-ready", r#"cat >/dev/null; echo '{"code": 51, "msg": "the fabric is down"}'; exit 1"#);
    let chain = |last: &str| {
        json!([{"cniVersion": "1.1.0", "name": "cluster", "plugins": [
            {"type": "bridge", "bridge": "cni0", "ipam": two_addresses()}, {"type": last}]}])
    };
    node.conf["delegates"] = chain("ready");
    status(&node).run().ok();
    node.conf["delegates"] = chain("not-ready");
    status(&node).run().fails(51, "the fabric is down");
    // A plugin of an older network does not know STATUS and is not asked.
    node.conf["delegates"][0]["cniVersion"] = json!("1.0.0");
    status(&node).run().ok();
}

/// A network that only some pods want says nothing about the next pod.
fn definitions_do_not_count() {
    let node = small_node();
    let conf = json!({"cniVersion": "1.0.0", "name": "tiny", "type": "bridge", "bridge": "green0",
        "ipam": {"type": "host-local", "subnet": "10.7.0.0/30"}});
    crate::meta::definition(&node.bed, "default", "tiny", &conf.to_string());
    node.add("a", "tiny");
    node.pod("b", &[("k8s.v1.cni.cncf.io/networks", "tiny")]);
    assert!(!node.call("ADD", "b").run().succeeded());
    status(&node).run().ok();
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// The plugin called by its own name; the addresses are taken by `host-local`.
fn directly(plugin: &str) {
    let bed = Testbed::new();
    let conf = json!({"cniVersion": "1.1.0", "name": "n", "type": "bridge", "bridge": "cni0", "ipam": two_addresses()});
    let status = || bed.call(Side::Plexus, plugin).command("STATUS").conf(&conf).without("CNI_CONTAINERID").run();
    let lease = |command, owner| {
        let call = bed.call(Side::Plexus, "host-local").command(command).container(owner);
        call.env("CNI_NETNS", "/run/netns/none").conf(&conf).run().ok()
    };
    status().ok();
    lease("ADD", "one");
    status().ok();
    lease("ADD", "two");
    status().fails(NOT_AVAILABLE, "10.6.0.10-10.6.0.11");
    lease("DEL", "one");
    status().ok();
    lease("DEL", "two");
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

/// An ADD needs an address of each range set: one that is full is enough.
fn each_family() {
    let bed = Testbed::new();
    let conf = json!({"cniVersion": "1.1.0", "name": "n", "type": "bridge", "ipam": {"type": "host-local", "ranges": [
        [{"subnet": "10.6.0.0/24"}],
        [{"subnet": "fd00:6::/64", "rangeStart": "fd00:6::a", "rangeEnd": "fd00:6::a"}]]}});
    let call =
        |command| bed.call(Side::Plexus, "host-local").command(command).env("CNI_NETNS", "/run/netns/none").conf(&conf);
    call("STATUS").run().ok();
    call("ADD").run().ok();
    call("STATUS").run().fails(NOT_AVAILABLE, "fd00:6::a-fd00:6::a");
    call("DEL").run().ok();
    call("STATUS").run().ok();
}

/// Who is attached to it already has lost it too: CNI spec 1.1, code 51.
fn missing_master() {
    let mut node = small_node();
    let macvlan = |master: Option<&str>| json!([{"cniVersion": "1.1.0", "name": "lan", "type": "macvlan", "master": master, "ipam": two_addresses()}]);
    node.conf["delegates"] = macvlan(Some("up0"));
    status(&node).run().ok();
    node.conf["delegates"] = macvlan(Some("up7"));
    status(&node).run().fails(51, "failed to lookup master \"up7\"");
    node.conf["delegates"] = macvlan(None);
    status(&node).run().fails(51, "no default route interface found");
    node.bed.ip("addr add 192.0.2.1/24 dev up0");
    node.bed.ip("route add default via 192.0.2.254");
    status(&node).run().ok();
    assert_eq!(node.bed.links(""), ["lo", "up0"], "nothing was made to find out");
}

fn read_only() {
    let node = small_node();
    let mount = |words: &str| {
        let done = std::process::Command::new("mount").args(words.split(' ')).status().unwrap();
        assert!(done.success(), "mount {words}");
    };
    for dir in ["/var/lib/cni/plexus", "/var/lib/cni/networks"] {
        std::fs::create_dir_all(dir).unwrap();
        status(&node).run().ok();
        mount(&format!("--bind {dir} {dir}"));
        mount(&format!("-o remount,bind,ro {dir}"));
        status(&node).run().fails(NOT_AVAILABLE, "cannot be written: read-only file system");
        assert!(std::process::Command::new("umount").arg(dir).status().unwrap().success());
        status(&node).run().ok();
    }
}

fn lacking() {
    let mut node = small_node();
    node.conf["delegates"] =
        json!([{"cniVersion": "1.1.0", "name": "lan", "type": "ipvlan", "master": "up0", "ipam": two_addresses()}]);
    let run = status(&node).run();
    match Need::Ipvlan.missing() {
        None => drop(run.ok()),
        Some(_) => run.fails(NOT_AVAILABLE, "this kernel builds no ipvlan: its module is missing"),
    }
    assert_eq!(node.bed.links(""), ["lo", "up0"], "nothing was made to find out");
}
