//! The page "quickstart" and the folder of examples of Multus: the first pod of whoever tries it, addresses and a MAC that a pod
//! asks for, a device of a device plugin, and what a reader of network-status finds.

use std::fs;

use serde_json::{Value, json};

use super::lab;
use crate::api::{Member, NETWORKS};
use crate::case::Case;
use crate::need::Need;

pub(super) fn cases() -> Vec<Case> {
    let needs = &[Need::Macvlan, Need::ApiServer];
    vec![
        Case::new("examples::quickstart_samplepod_and_its_network_status", needs, samplepod),
        Case::new("examples::quickstart_one_definition_twice", needs, twice),
        Case::new("examples::quickstart_loopback_with_additional_information", needs, loopback),
        Case::new("examples::folder_macvlan_pod_with_address_and_mac", needs, macvlan_pod),
        Case::new("examples::folder_sriov_pod", needs, sriov_pod),
    ]
}

/// The page's definition; `routes`: what it has installed.
fn macvlan_conf(routes: &Value) -> Value {
    json!({"cniVersion": "0.3.0", "type": "macvlan", "master": "eth1", "mode": "bridge", "ipam": {"type": "host-local",
        "subnet": "192.168.1.0/24", "rangeStart": "192.168.1.200", "rangeEnd": "192.168.1.216", "routes": routes,
        "gateway": "192.168.1.1"}})
}

/// What `ip -j addr` of a pod says of a link: its MAC, its IPv4 address.
fn link(member: &Member, pod: &str, ifname: &str) -> (Value, Value) {
    let shown: Value =
        serde_json::from_str(&member.node.bed.ip(&format!("-n {pod} -j addr show dev {ifname}"))).unwrap();
    let four = shown[0]["addr_info"].as_array().unwrap().iter().find(|one| one["family"] == "inet").unwrap();
    (shown[0]["address"].clone(), four["local"].clone())
}

/// The pod's default routes of IPv4, in the kernel's order.
fn ways_out(member: &Member, pod: &str) -> Vec<String> {
    let shown = member.node.bed.ip(&format!("-n {pod} -4 route show default"));
    shown.lines().map(|line| line.trim().trim_start_matches("default ").trim_start_matches("via ").to_owned()).collect()
}

/// Three interfaces, and a status whose keys are those that its readers know, with what the kernel has.
fn samplepod() {
    let lab = lab();
    let member = &lab.member;
    member.cluster.definition("macvlan-conf", &macvlan_conf(&json!([{"dst": "0.0.0.0/0"}])));
    let (uid, answer) = member.add("samplepod", "macvlan-conf");
    answer.ok();
    assert_eq!(member.node.bed.links("samplepod"), ["lo", "eth0", "net1"]);
    let pod = member.cluster.get_pod("samplepod");
    let text = pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"].as_str().unwrap();
    let status: Value = serde_json::from_str(text).unwrap();
    let (mac, address) = link(member, "samplepod", "net1");
    assert_eq!(address, "192.168.1.200");
    assert_eq!(
        status[1],
        json!({"name": format!("{}/macvlan-conf", member.cluster.namespace()), "interface": "net1", "ips": ["192.168.1.200"],
            "mac": mac, "default": false, "dns": {}})
    );
    let (mac, address) = link(member, "samplepod", "eth0");
    let first = &status[0];
    assert_eq!(
        (&first["name"], &first["interface"], &first["default"]),
        (&json!("cluster"), &json!("eth0"), &json!(true))
    );
    assert_eq!((&first["mac"], &first["ips"][0], &first["dns"]), (&mac, &address, &json!({})));
    assert_eq!(ways_out(member, "samplepod"), ["192.168.1.1 dev net1", "10.1.0.1 dev eth0"]);
    let added = format!("Add net1 [192.168.1.200/24] from {}/macvlan-conf", member.cluster.namespace());
    assert!(member.cluster.events().contains(&("AddedInterface".to_owned(), added)));
    member.del("samplepod", &uid);
    member.assert_clean();
}

/// `macvlan-conf,macvlan-conf`, and `foo` before it.
fn twice() {
    let lab = lab();
    lab.member.cluster.definition("macvlan-conf", &macvlan_conf(&json!([])));
    lab.member.cluster.definition("foo", &super::macvlan(None, "18.10.0.0/16"));
    lab.shows("macvlan-conf,macvlan-conf", &[("net1", "192.168.1.200/24"), ("net2", "192.168.1.201/24")]);
    let (_, answer) = lab.member.add("both", "foo,macvlan-conf");
    answer.ok();
    assert_eq!(lab.member.node.addresses("both", "net1"), ["18.10.1.20/16"]);
    assert!(lab.member.node.addresses("both", "net2")[0].starts_with("192.168.1.2"));
}

/// The smallest configuration of the page: a plugin that makes nothing, and a key that nobody knows.
fn loopback() {
    let member = Member::new();
    member
        .cluster
        .definition("lo-conf", &json!({"cniVersion": "0.3.0", "type": "loopback", "additional": "information"}));
    let (uid, answer) = member.add("pod", "lo-conf");
    let links = member.node.bed.links("pod");
    eprintln!("{answer:?} {links:?}");
    answer.ok();
    let shown = member.node.bed.ip("-n pod addr show dev lo");
    assert!(shown.contains("127.0.0.1/8") && shown.contains("UP"), "{shown}");
    member.del("pod", &uid);
    member.assert_clean();
}

/// A static address and a MAC by the annotation, each by the plugin that declares it. `gateway` in the annotation is a word of old:
/// it is `default-route` by now, and without that every network's default route is there: of two the kernel takes the later one, with the
/// Go plugins as here.
fn macvlan_pod() {
    let lab = lab();
    let member = &lab.member;
    let conf = json!({"cniVersion": "0.3.1", "plugins": [
        {"type": "macvlan", "capabilities": {"ips": true}, "master": "eth1", "mode": "bridge",
            "ipam": {"type": "static", "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.1.1"}]}},
        {"capabilities": {"mac": true}, "type": "tuning"}]});
    member.cluster.definition("macvlan-conf", &conf);
    let asked = |key: &str| {
        json!([{"name": "macvlan-conf", "ips": ["10.1.1.101/24"], "mac": "c2:b0:57:49:47:f1", key: ["10.1.1.1"]}])
            .to_string()
    };
    let both: &[&str] = &["10.1.1.1 dev net1", "10.1.0.1 dev eth0"];
    for (pod, key, wanted) in [("old", "gateway", both), ("new", "default-route", &both[..1])] {
        let (uid, answer) = member.add(pod, &asked(key));
        answer.ok();
        assert_eq!(member.node.addresses(pod, "net1"), ["10.1.1.101/24"]);
        assert_eq!(link(member, pod, "net1").0, "c2:b0:57:49:47:f1");
        assert_eq!(ways_out(member, pod), wanted);
        let status = member.cluster.network_status(pod);
        assert_eq!((&status[1]["mac"], &status[1]["ips"]), (&json!("c2:b0:57:49:47:f1"), &json!(["10.1.1.101"])));
        member.del(pod, &uid);
    }
    member.assert_clean();
}

/// A device of the kubelet's checkpoint by the resource's name that the definition has. There is no card here for the kind that plexus
/// builds itself: what is executed gets the same.
fn sriov_pod() {
    let mut member = Member::new();
    member.node.conf["kubeletDir"] = json!("/run/scratch/kubelet");
    member.node.script(
        "ib-sriov",
        r#"cat >"/run/scratch/sriov-$CNI_COMMAND"
[ "$CNI_COMMAND" != ADD ] || echo "{\"cniVersion\": \"0.3.1\", \"interfaces\": [{\"name\": \"$CNI_IFNAME\", \"sandbox\": \"$CNI_NETNS\"}],
  \"ips\": [{\"version\": \"4\", \"interface\": 0, \"address\": \"10.56.217.171/24\"}]}""#,
    );
    let conf = json!({"type": "ib-sriov", "vlan": 1000, "ipam": {"type": "host-local", "subnet": "10.56.217.0/24",
        "rangeStart": "10.56.217.171", "rangeEnd": "10.56.217.181", "routes": [{"dst": "0.0.0.0/0"}], "gateway": "10.56.217.1"}});
    let resource = [("k8s.v1.cni.cncf.io/resourceName", "intel.com/sriov")];
    member.cluster.definition_in(member.cluster.namespace(), "sriov-net-a", &conf.to_string(), &resource);
    let uid = member.pod("testpod1", &[(NETWORKS, "sriov-net-a")]);
    // Without a device there is no interface.
    let answer = member.call("ADD", "testpod1", &uid).run();
    assert!(!answer.succeeded() && answer.stdout.contains("intel.com/sriov"), "{}", answer.stdout);
    assert_eq!(member.node.bed.links("testpod1"), ["lo"]);
    let entry = json!({"PodUID": uid, "ContainerName": "appcntr1", "ResourceName": "intel.com/sriov",
        "DeviceIDs": {"0": ["0000:03:02.0"]}, "AllocResp": ""});
    let text = json!({"Data": {"PodDeviceEntries": [entry], "RegisteredDevices": {}}, "Checksum": 7}).to_string();
    member.node.bed.file("kubelet/device-plugins/kubelet_internal_checkpoint", &text);
    member.call("ADD", "testpod1", &uid).run().ok();
    let sent: Value = serde_json::from_str(&fs::read_to_string("/run/scratch/sriov-ADD").unwrap()).unwrap();
    assert_eq!(
        (&sent["deviceID"], &sent["vlan"], &sent["name"]),
        (&json!("0000:03:02.0"), &json!(1000), &json!("sriov-net-a"))
    );
    let status = member.cluster.network_status("testpod1");
    assert_eq!((&status[1]["interface"], &status[1]["ips"]), (&json!("net1"), &json!(["10.56.217.171"])));
    member.del("testpod1", &uid);
    assert!(fs::exists("/run/scratch/sriov-DEL").unwrap());
    member.assert_clean();
}
