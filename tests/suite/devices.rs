//! Devices that the kubelet allocated to pods: which network gets which, that no two attachments of a node get one, and what is
//! told of them. The kubelet is its checkpoint here; it knows no device plugin.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::call::Answer;
use crate::case::Case;
use crate::crash::kill_after;
use crate::meta::{Node, node, statuses};
use crate::program::{plexus, text};
use crate::testbed::RECORDS;

mod api;
mod cards;
mod kubelet;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("devices::each_network_gets_its_own", &[], each_its_own),
        Case::new("devices::d10_one_count_over_all_networks_of_a_pod", &[], one_count),
        Case::new("devices::d03_a_pod_names_only_what_it_was_given", &[], named),
        Case::new("devices::where_any_may_be_named_it_is_a_capability", &[], any_named),
        Case::new("devices::who_needs_one_and_gets_none_is_refused_first", &[], needed),
        Case::new("devices::a_resource_that_marks_nodes_has_none", &[], marker),
        Case::new("devices::a_checkpoint_that_cannot_be_read_is_told", &[], broken_checkpoint),
        Case::new("devices::a_hollow_checkpoint_costs_its_own_bytes", &[], hollow_checkpoint),
        Case::new("devices::one_of_two_pods_gets_it", &[], two_pods),
        Case::new("devices::two_at_once_have_one_winner", &[], at_once),
        Case::new("devices::a_pod_that_is_gone_without_a_del_blocks_nobody", &[], lost_pod),
        Case::new("devices::claims_that_lead_nowhere_or_to_another_boot_are_free", &[], dead_claims),
        Case::new("devices::a_failed_add_gives_back", &[], failed_add),
        Case::new("devices::a_description_goes_both_ways", &[], description),
        Case::new("devices::kill_9_at_any_instant_blocks_nobody", &[], killed),
        Case::new("devices::a_plan_supposes_the_devices_that_it_needs", &[], explained),
        Case::new("devices::a_native_kind_takes_it", &[], native),
    ];
    cases.extend(api::cases());
    cases.extend(cards::cases());
    cases
}

const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
const RESOURCE: &str = "example.com/vf";
const KUBELET: &str = "/run/scratch/kubelet";
const DESCRIPTIONS: &str = "/var/run/k8s.cni.cncf.io/devinfo";

/// Keeps what it is sent by pod and interface, and says it made nothing.
const KEEPS: &str = r#"mkdir -p /run/scratch/sent; conf=$(cat)
printf '%s' "$conf" >"/run/scratch/sent/$CNI_CONTAINERID-$CNI_IFNAME-$CNI_COMMAND"
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion": "1.0.0"}'"#;

/// A node with a definition `vf` of a resource, of the type `ib-sriov`, which keeps what it is sent.
fn rig() -> Node {
    let mut node = node();
    node.conf["kubeletDir"] = json!(KUBELET);
    node.script("ib-sriov", KEEPS);
    resource(&node, "vf", &sriov());
    node
}

fn sriov() -> Value {
    json!({"cniVersion": "1.0.0", "name": "vf", "type": "ib-sriov", "deviceID": "overwritten", "PCIBUSID": "this too",
        "capabilities": {"deviceID": true, "CNIDeviceInfoFile": true}})
}

/// A definition of [`RESOURCE`].
fn resource(node: &Node, name: &str, conf: &Value) {
    in_namespace(node, "default", name, conf);
}

fn in_namespace(node: &Node, namespace: &str, name: &str, conf: &Value) {
    let manifest = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"namespace": namespace, "name": name, "annotations": {"k8s.v1.cni.cncf.io/resourceName": RESOURCE}},
        "spec": {"config": conf.to_string()}});
    node.bed.file(&format!("manifests/nad-{namespace}-{name}.json"), &manifest.to_string());
}

/// The kubelet's checkpoint: which pod has which devices.
fn allocate(node: &Node, pods: &[(&str, &[&str])]) {
    let uids: Vec<String> = pods.iter().map(|(pod, _)| format!("uid-{pod}")).collect();
    let pods: Vec<(&str, &[&str])> = uids.iter().zip(pods).map(|(uid, (_, ids))| (uid.as_str(), *ids)).collect();
    allocate_uid(node, &pods);
}

/// The same by UIDs.
fn allocate_uid(node: &Node, pods: &[(&str, &[&str])]) {
    let entry = |(pod, ids): &(&str, &[&str])| json!({"PodUID": pod, "ContainerName": "c", "ResourceName": RESOURCE, "DeviceIDs": {"0": ids}, "AllocResp": ""});
    let entries: Vec<Value> = pods.iter().map(entry).collect();
    let text = json!({"Data": {"PodDeviceEntries": entries, "RegisteredDevices": {}}, "Checksum": 7}).to_string();
    node.bed.file("kubelet/device-plugins/kubelet_internal_checkpoint", &text);
}

fn sent(pod: &str, ifname: &str, command: &str) -> Value {
    let text = fs::read_to_string(format!("/run/scratch/sent/id-{pod}-{ifname}-{command}")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn device(pod: &str, ifname: &str) -> String {
    sent(pod, ifname, "ADD")["deviceID"].as_str().unwrap().to_owned()
}

/// ADD of a pod with these networks, whatever comes of it.
fn try_add(node: &Node, pod: &str, networks: &str) -> Answer {
    node.pod(pod, &[(NETWORKS, networks)]);
    node.call("ADD", pod).run()
}

fn claims() -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("{RECORDS}/devices")) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn each_its_own() {
    let node = rig();
    allocate(&node, &[("a", &["0000:01:10.2", "0000:01:10.0"]), ("b", &["0000:01:10.4"])]);
    node.add("a", "vf,vf");
    for (ifname, id) in [("net1", "0000:01:10.0"), ("net2", "0000:01:10.2")] {
        let conf = sent("a", ifname, "ADD");
        assert_eq!((&conf["deviceID"], &conf["pciBusID"], conf.get("PCIBUSID")), (&json!(id), &json!(id), None));
        let file = format!("{DESCRIPTIONS}/cni/default-vf-id-a_{ifname}");
        assert_eq!(conf["runtimeConfig"], json!({"deviceID": id, "CNIDeviceInfoFile": file}));
    }
    assert_eq!(claims(), ["0000:01:10.0", "0000:01:10.2"]);
    node.call("DEL", "a").run().ok();
    assert_eq!(sent("a", "net2", "DEL")["deviceID"], "0000:01:10.2", "DEL knows it from the record");
    assert_eq!(claims(), Vec::<String>::new());
    node.assert_clean();
}

fn one_count() {
    let mut node = rig();
    in_namespace(&node, "kube-system", "first", &json!({"cniVersion": "1.0.0", "name": "first", "type": "ib-sriov"}));
    in_namespace(&node, "kube-system", "second", &json!({"cniVersion": "1.0.0", "name": "second", "type": "ib-sriov"}));
    node.conf.as_object_mut().unwrap().remove("delegates");
    node.conf["clusterNetwork"] = json!("first");
    node.conf["defaultNetworks"] = json!(["second"]);
    let ids = ["v1", "v2", "v3"];
    allocate(&node, &[("a", &ids), ("b", &ids)]);
    node.add("a", "vf");
    let got = |pod| ["eth0", "net1", "net2"].map(|ifname| device(pod, ifname));
    assert_eq!(got("a"), ids);
    node.call("DEL", "a").run().ok();
    // The pod's own default network takes part in the same count.
    node.pod("b", &[("v1.multus-cni.io/default-network", "default/vf"), (NETWORKS, "vf")]);
    node.call("ADD", "b").run().ok();
    assert_eq!(got("b"), ids);
    node.call("DEL", "b").run().ok();
    node.assert_clean();
}

fn named() {
    let node = rig();
    allocate(&node, &[("a", &["v1", "v2"]), ("b", &["v3"])]);
    let wish = |id: &str| json!([{"name": "vf"}, {"name": "vf", "deviceID": id}]).to_string();
    for id in ["v3", "0000:00:01.0", "../../../etc"] {
        try_add(&node, "a", &wish(id)).fails(7, "a pod cannot name a device; it gets those it was allocated");
        assert_eq!((node.bed.links("a"), claims()), (vec!["lo".to_owned()], vec![]));
    }
    node.add("a", &wish("v1"));
    assert_eq!([device("a", "net1"), device("a", "net2")], ["v2", "v1"]);
    node.call("DEL", "a").run().ok();
    let twice = json!([{"name": "vf", "deviceID": "v1"}, {"name": "vf", "deviceID": "v1"}]).to_string();
    try_add(&node, "a", &twice).fails(7, "device v1 is wanted by networks");
    node.assert_clean();
}

fn any_named() {
    let mut node = rig();
    node.conf["allowDeviceID"] = json!(true);
    allocate(&node, &[("a", &["v1"])]);
    crate::meta::definition(
        &node.bed,
        "default",
        "plain",
        &json!({"cniVersion": "1.0.0", "name": "plain", "type": "keeps",
        "capabilities": {"deviceID": true}})
        .to_string(),
    );
    crate::meta::definition(
        &node.bed,
        "default",
        "deaf",
        &json!({"cniVersion": "1.0.0", "name": "deaf", "type": "keeps"}).to_string(),
    );
    node.script("keeps", KEEPS);
    node.add("a", &json!([{"name": "vf", "deviceID": "other"}, {"name": "plain", "deviceID": "free"}]).to_string());
    assert_eq!(device("a", "net1"), "v1", "what was allocated goes first");
    let conf = sent("a", "net2", "ADD");
    assert_eq!((&conf["runtimeConfig"]["deviceID"], conf.get("deviceID")), (&json!("free"), None));
    // It is held like any other.
    try_add(&node, "b", &json!([{"name": "plain", "deviceID": "free"}]).to_string()).fails(11, "pod default/a");
    try_add(&node, "b", &json!([{"name": "deaf", "deviceID": "x"}]).to_string()).fails(7, "capability \"deviceID\"");
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

fn needed() {
    let node = rig();
    resource(&node, "moved", &json!({"cniVersion": "1.0.0", "name": "moved", "type": "host-device"}));
    resource(&node, "vf", &json!({"cniVersion": "1.0.0", "name": "vf", "type": "ib-sriov"}));
    resource(&node, "odd", &json!({"cniVersion": "1.0.0", "name": "odd", "type": "ovs"}));
    node.script("ovs", KEEPS);
    // Without a checkpoint as well.
    for network in ["vf", "moved"] {
        let kind = if network == "vf" { "ib-sriov" } else { "host-device" };
        let answer = try_add(&node, "a", network);
        answer.fails(7, &format!("{kind} needs a device, and no device of resource {RESOURCE}"));
        assert_eq!(node.bed.links("a"), ["lo"]);
        allocate(&node, &[("b", &["v1"])]);
    }
    allocate(&node, &[("a", &["v1"])]);
    try_add(&node, "a", "vf,vf").fails(7, "ib-sriov needs a device");
    assert!(!Path::new("/run/scratch/sent").exists(), "nothing was executed");
    let odd = try_add(&node, "b", "odd");
    assert!(odd.succeeded() && odd.stderr.contains("ovs gets no device"), "{}", odd.stderr);
    node.call("DEL", "b").run().ok();
    node.assert_clean();
}

fn marker() {
    let node = rig();
    let conf = json!({"cniVersion": "1.0.0", "name": "marked", "type": "bridge", "bridge": "green0",
        "ipam": {"type": "host-local", "subnet": "10.5.0.0/24"}});
    resource(&node, "marked", &conf);
    node.add("a", "marked");
    assert_eq!((node.addresses("a", "net1"), claims()), (vec!["10.5.0.2/24".to_owned()], vec![]));
    node.call("DEL", "a").run().ok();
    // A bridge with a device is built in process all the same.
    allocate(&node, &[("a", &["v1"])]);
    node.add("a", "marked");
    assert_eq!(claims(), ["example.com%2Fvf=v1"]);
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

fn broken_checkpoint() {
    let node = rig();
    resource(&node, "marked", &json!({"cniVersion": "1.0.0", "name": "marked", "type": "bridge", "bridge": "green0"}));
    node.bed.file("kubelet/device-plugins/kubelet_internal_checkpoint", "{");
    try_add(&node, "a", "vf").fails(11, "reading the kubelet's checkpoint");
    let marked = try_add(&node, "a", "marked");
    assert!(marked.succeeded() && marked.stderr.contains("reading the kubelet's checkpoint"), "{}", marked.stderr);
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// A tree of what is in it would have gigabytes.
fn hollow_checkpoint() {
    let node = rig();
    let entry = |pod: &str, ids: &str| {
        format!(
            r#"{{"PodUID": "{pod}", "ContainerName": "c", "ResourceName": "{RESOURCE}", "DeviceIDs": {{"0": [{ids}]}}, "AllocResp": ""}}"#
        )
    };
    let others = entry("uid-other", &[r#""","#.repeat(14 << 20).as_str(), r#""""#].concat());
    let text =
        format!(r#"{{"Data": {{"PodDeviceEntries": [{others}, {}]}}, "Checksum": 7}}"#, entry("uid-a", r#""v1""#));
    node.bed.file("kubelet/device-plugins/kubelet_internal_checkpoint", &text);
    node.pod("a", &[(NETWORKS, "vf")]);
    node.call("ADD", "a").within_memory(128 << 10).run().ok();
    assert_eq!(device("a", "net1"), "v1");
    node.call("DEL", "a").run().ok();
    // Nobody has so many devices.
    let many: Vec<String> = (0..=4096).map(|number| format!("\"v{number}\"")).collect();
    let text = format!(r#"{{"Data": {{"PodDeviceEntries": [{}]}}}}"#, entry("uid-a", &many.join(",")));
    node.bed.file("kubelet/device-plugins/kubelet_internal_checkpoint", &text);
    try_add(&node, "a", "vf").fails(11, "more than 4096 devices of one pod");
    node.assert_clean();
}

fn two_pods() {
    let node = rig();
    allocate(&node, &[("a", &["v1"]), ("b", &["v1"])]);
    node.add("a", "vf");
    let refused = try_add(&node, "b", "vf");
    refused.fails(11, "device v1 of resource example.com/vf is held by pod default/a, container id-a, as net1 of network \"default/vf\"");
    assert_eq!(node.bed.links("b"), ["lo"]);
    // The refused one must not give back what it does not have.
    node.call("DEL", "b").run().ok();
    assert_eq!(claims().len(), 1);
    node.call("DEL", "a").run().ok();
    node.add("b", "vf");
    node.call("DEL", "b").run().ok();
    node.assert_clean();
}

fn at_once() {
    let node = rig();
    let pods = ["a", "b", "c", "d"];
    allocate(&node, &pods.map(|pod| (pod, &["v1"][..])));
    for pod in pods {
        node.pod(pod, &[(NETWORKS, "vf")]);
    }
    let running: Vec<_> = pods.iter().map(|pod| node.call("ADD", pod).start()).collect();
    let ended: Vec<_> = running.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    let won = ended.iter().filter(|output| output.status.success()).count();
    assert_eq!(won, 1, "{ended:?}");
    let lost = ended.iter().filter(|output| !output.status.success());
    for output in lost {
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(error["code"] == 11 && error["msg"].as_str().unwrap().contains("device v1"), "{error}");
    }
    for pod in pods {
        node.call("DEL", pod).run().ok();
    }
    node.assert_clean();
}

fn lost_pod() {
    let node = rig();
    allocate(&node, &[("a", &["v1"]), ("b", &["v1"])]);
    node.add("a", "vf");
    node.bed.lose_pod("a");
    node.add("b", "vf");
    assert_eq!(sent("a", "net1", "DEL")["deviceID"], "v1", "the one that is gone is deleted first");
    node.call("DEL", "a").run().ok();
    assert_eq!(claims().len(), 1, "a late DEL of it takes nothing away");
    node.call("DEL", "b").run().ok();
    node.assert_clean();
}

fn dead_claims() {
    let node = rig();
    allocate(&node, &[("a", &["v1"]), ("b", &["v1"]), ("c", &["v1"])]);
    let claim = format!("{RECORDS}/devices/example.com%2Fvf=v1");
    fs::create_dir_all(format!("{RECORDS}/devices")).unwrap();
    symlink("../journal/node:gone:eth0.jsonl", &claim).unwrap();
    node.add("a", "vf");
    // An older boot's record stays for the DEL of its plugin, and has no device any more.
    let record = format!("{RECORDS}/journal/node:id-a:eth0.jsonl");
    let text = fs::read_to_string(&record).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fs::write(&record, text.replace(boot.trim(), "another-boot")).unwrap();
    node.add("b", "vf");
    assert!(fs::read_link(&claim).unwrap().to_str().unwrap().contains("id-b") && Path::new(&record).exists());
    node.call("DEL", "a").run().ok();
    node.bed.lose_pod("a");
    assert!(fs::symlink_metadata(&claim).is_ok(), "it is b's by now");
    node.call("DEL", "b").run().ok();
    // What is no claim is nobody's to remove.
    fs::write(&claim, "").unwrap();
    try_add(&node, "c", "vf").fails(5, "reading a claim");
    fs::remove_file(&claim).unwrap();
    node.assert_clean();
}

fn failed_add() {
    let node = rig();
    allocate(&node, &[("a", &["v1", "v2"])]);
    fs::create_dir_all(format!("{DESCRIPTIONS}/dp")).unwrap();
    fs::write(format!("{DESCRIPTIONS}/dp/example.com-vf-v1-device.json"), r#"{"type": "pci"}"#).unwrap();
    node.script("fails", r#"cat >/dev/null; [ "$CNI_COMMAND" = DEL ]"#);
    try_add(&node, "a", "vf,failing").fails(999, "");
    assert_eq!(claims(), Vec::<String>::new());
    assert_eq!(fs::read_dir(format!("{DESCRIPTIONS}/cni")).unwrap().count(), 0);
    node.assert_clean();
}

fn description() {
    let node = rig();
    allocate(&node, &[("a", &["v1", "v2"])]);
    let told = json!({"type": "pci", "version": "1.1.0", "pci": {"pci-address": "0000:01:10.0"}});
    fs::create_dir_all(format!("{DESCRIPTIONS}/dp")).unwrap();
    fs::write(format!("{DESCRIPTIONS}/dp/example.com-vf-v1-device.json"), told.to_string()).unwrap();
    // The second has none, and its plugin writes one.
    node.script(
        "ib-sriov",
        r#"conf=$(cat); file=$(printf '%s' "$conf" | jq -r .runtimeConfig.CNIDeviceInfoFile)
[ "$CNI_COMMAND" != DEL ] || exit 1
[ -e "$file" ] || echo '{"type": "memif", "memif": {"role": "master"}, "more": 1}' >"$file"
echo '{"cniVersion": "1.0.0"}'"#,
    );
    node.add("a", "vf,vf");
    let status = statuses().remove(0);
    assert_eq!(status[1]["device-info"], told);
    assert_eq!(status[2]["device-info"], json!({"type": "memif", "memif": {"role": "master"}}));
    assert_eq!(status[0].get("device-info"), None);
    assert_eq!(fs::read_dir(format!("{DESCRIPTIONS}/cni")).unwrap().count(), 2);
    assert!(!node.call("DEL", "a").run().succeeded());
    assert_eq!(fs::read_dir(format!("{DESCRIPTIONS}/cni")).unwrap().count(), 0, "they go although the plugin fails");
    assert_eq!(claims().len(), 2, "but not the devices, which it may still have");
    node.script("ib-sriov", "cat >/dev/null");
    node.call("DEL", "a").run().ok();
    node.assert_clean();
}

/// How many instants of an ADD, and as many of a DEL.
const INSTANTS: u32 = 24;

/// Whatever the killed one was doing, the next pod with its device is attached at once, or after the DEL of the first.
fn killed() {
    let node = rig();
    let ipam = json!({"type": "host-local", "subnet": "10.5.0.0/24"});
    let conf = json!({"cniVersion": "1.0.0", "name": "marked", "type": "bridge", "bridge": "green0", "ipam": ipam});
    resource(&node, "marked", &conf);
    allocate(&node, &[("a", &["v1"]), ("b", &["v1"])]);
    let start = Instant::now();
    node.add("a", "marked");
    let usual = start.elapsed();
    node.call("DEL", "a").run().ok();
    for instant in 0..2 * INSTANTS {
        node.pod("a", &[(NETWORKS, "marked")]);
        let command = if instant % 2 == 0 { "ADD" } else { "DEL" };
        if command == "DEL" {
            node.call("ADD", "a").run().ok();
        }
        kill_after(node.call(command, "a").start(), usual * (instant / 2) / INSTANTS);
        let first = try_add(&node, "b", "marked");
        if !first.succeeded() {
            first.fails(11, "device v1 of resource example.com/vf is held by");
            node.call("DEL", "b").run().ok();
            if instant % 4 < 2 {
                node.call("DEL", "a").run().ok();
            } else {
                node.bed.lose_pod("a");
            }
            node.add("b", "marked");
        }
        assert_eq!(claims(), ["example.com%2Fvf=v1"], "instant {instant} of {command}");
        node.call("DEL", "b").run().ok();
        node.call("DEL", "a").run().ok();
        assert_eq!(claims(), Vec::<String>::new(), "instant {instant} of {command}");
        node.assert_clean();
    }
}

/// Away from the node no kubelet knows the pod.
fn explained() {
    let node = rig();
    resource(&node, "vf", &json!({"cniVersion": "1.0.0", "name": "vf", "type": "ib-sriov"}));
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "default", "name": "a", "uid": "uid-a",
        "annotations": {NETWORKS: "vf,vf"}}});
    let pod = node.bed.file("pod.json", &pod.to_string());
    let conf = node.bed.file("node.conf", &node.conf.to_string());
    let explain = || plexus(&["explain", pod.to_str().unwrap(), "--config", conf.to_str().unwrap(), "-o", "json"]);
    let supposed = explain();
    assert!(supposed.status.success(), "{}", text(&supposed.stderr));
    let plan: Value = serde_json::from_slice(&supposed.stdout).unwrap();
    assert_eq!(plan.as_array().unwrap().iter().filter(|row| row["kind"] == "ib-sriov").count(), 2);
    // On the node one does.
    allocate(&node, &[("a", &["v1"])]);
    let known = explain();
    assert!(
        text(&known.stderr).contains("ib-sriov needs a device, and no device of resource"),
        "{}",
        text(&known.stderr)
    );
    assert_eq!(claims(), Vec::<String>::new());
}

/// No machine has this address: its words show that it came through.
fn native() {
    let node = rig();
    allocate(&node, &[("a", &["ffff:ff:1f.7"])]);
    resource(&node, "moved", &json!({"cniVersion": "1.0.0", "name": "moved", "type": "host-device"}));
    try_add(&node, "a", "moved").fails(999, "/sys/bus/pci/devices/ffff:ff:1f.7");
    let capable =
        json!({"cniVersion": "1.0.0", "name": "moved", "type": "host-device", "capabilities": {"deviceID": true}});
    resource(&node, "moved", &capable);
    try_add(&node, "a", "moved").fails(999, "runtime config DeviceID ffff:ff:1f.7 not found");
    assert_eq!(claims(), Vec::<String>::new());
    node.assert_clean();
}
