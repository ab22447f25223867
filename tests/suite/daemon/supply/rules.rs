//! By which rules devices are offered and given: what becomes of one when its driver changes, what the node itself needs, what the kubelet may
//! ask, and what is written down for a runtime.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use super::super::{Daemon, until};
use super::wire::{Client, Given, Watch};
use super::{CARD, DEVICES, Kubelet, PLUGINS, address, ask, config, function, rig, set_card};
use crate::case::Case;
use crate::meta::Node;
use crate::observe::has;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("daemon::supply_looks_again_at_a_device_whose_driver_changed", &[], driver_changed),
        Case::new("daemon::supply_offers_what_fits_of_a_file_that_is_wrong", &[], wrong_file),
        Case::new("daemon::supply_does_not_offer_what_a_default_route_goes_through", &[], under_a_bridge),
        Case::new("daemon::supply_refuses_what_no_kubelet_asks", &[], refused),
        Case::new("daemon::supply_gives_the_file_of_a_vdpa_device", &[], vdpa),
        Case::new("daemon::supply_describes_devices_for_the_runtime", &[], described),
        Case::new("daemon::supply_gives_what_needs_no_description_where_none_can_be_written", &[], undescribed),
    ]
}

const CDI: &str = "/run/scratch/cdi";

/// Which driver a function has from now on.
fn bind(index: u32, driver: Option<&str>) {
    let link = Path::new(DEVICES).join(address(index)).join("driver");
    drop(fs::remove_file(&link));
    if let Some(driver) = driver {
        symlink(format!("/x/drivers/{driver}"), link).unwrap();
    }
}

/// The kernel tells of the card: it is looked at.
fn stir(node: &Node) {
    node.bed.ip("link set eth0 down");
    node.bed.ip("link set eth0 up");
}

fn ids(watch: &mut Watch) -> Vec<String> {
    watch.next().unwrap().devices.into_iter().map(|one| one.id).collect()
}

/// A resource of functions of programs, and one of whatever the card has besides.
fn program_and_rest() -> Value {
    json!({"resourcePrefix": "a.b", "resourceList": [
        {"resourceName": "dpdk", "selectors": {"drivers": ["vfio-pci"]}},
        {"resourceName": "rest", "selectors": {"pfNames": ["eth0#0-9"]}}]})
}

fn driver_changed() {
    let node = rig(4);
    bind(3, None);
    let kubelet = Kubelet::serve();
    let daemon = Daemon::start_keeping(&config(&program_and_rest()));
    let (mut dpdk, mut rest) = (kubelet.client("a.b/dpdk").watch(), kubelet.client("a.b/rest").watch());
    assert_eq!((ids(&mut dpdk), ids(&mut rest)), (vec![address(1)], [0, 2, 3].map(address).to_vec()));
    bind(3, Some("vfio-pci"));
    stir(&node);
    assert_eq!((ids(&mut rest), ids(&mut dpdk)), ([0, 2].map(address).to_vec(), [1, 3].map(address).to_vec()));
    until("it is said", || daemon.said().contains("0000:01:10.3 of a.b/rest is of a.b/dpdk now"));
    // One that a pod has is bound for that pod, and stays.
    let entry = json!({"PodUID": "u", "ContainerName": "c", "ResourceName": "a.b/rest", "DeviceIDs": {"0": [address(0)]}, "AllocResp": ""});
    let checkpoint = json!({"Data": {"PodDeviceEntries": [entry], "RegisteredDevices": {}}, "Checksum": 7});
    fs::write(Path::new(PLUGINS).join("kubelet_internal_checkpoint"), checkpoint.to_string()).unwrap();
    bind(0, Some("vfio-pci"));
    bind(2, Some("vfio-pci"));
    stir(&node);
    assert_eq!((ids(&mut rest), ids(&mut dpdk)), (vec![address(0)], [1, 2, 3].map(address).to_vec()));
    bind(0, Some("igbvf"));
    bind(2, Some("igbvf"));
    stir(&node);
    assert_eq!((ids(&mut rest), ids(&mut dpdk)), ([0, 2].map(address).to_vec(), [1, 3].map(address).to_vec()));
    daemon.stop();
}

/// The daemon serves pods whatever is wrong with the other plugin's file.
fn wrong_file() {
    let _node = rig(2);
    let kubelet = Kubelet::serve();
    let file = Path::new("/run/scratch/resources.json");
    let offered = |number: u32| json!({"resourceName": format!("r{number}"), "selectors": {"pciAddresses": [address(number.min(1))]}});
    let list: Vec<Value> = (0..65).map(offered).collect();
    fs::write(file, json!({"resourceList": list}).to_string()).unwrap();
    let conf = |file: &Path| config(&json!({"resourcePrefix": "a.b", "configFile": file}));
    let daemon = Daemon::start_keeping(&conf(file));
    assert_eq!(ids(&mut kubelet.client("a.b/r0").watch()), [address(0)]);
    let said = "resourceList of the file: 1 resources, from r64 on, are not offered: there may be 64";
    until("it is said", || daemon.said().contains(said));
    has("plexus_device_faults 1");
    daemon.stop();
    let daemon = Daemon::start_keeping(&conf(Path::new("/run/scratch/absent.json")));
    until("it is said", || daemon.said().contains("no resource of /run/scratch/absent.json is offered: "));
    has("plexus_device_faults 1");
    daemon.stop();
}

fn under_a_bridge() {
    let node = rig(0);
    let other = function("0000:02:00.0", "igb", "0x10c9");
    fs::create_dir_all(other.join("net/eth1")).unwrap();
    for words in
        ["link add br0 type bridge", "link set br0 up", "link set eth0 master br0", "address add 192.0.2.1/24 dev br0"]
    {
        node.bed.ip(words);
    }
    node.bed.ip("route add default via 192.0.2.254 dev br0");
    let kubelet = Kubelet::serve();
    let cards = json!({"resourcePrefix": "a.b", "resourceList": [{"resourceName": "card", "selectors": {"vendors": ["8086"]}}]});
    let daemon = Daemon::start_keeping(&config(&cards));
    let mut watch = kubelet.client("a.b/card").watch();
    assert_eq!(ids(&mut watch), ["0000:02:00.0"]);
    node.bed.ip("route del default");
    stir(&node);
    assert_eq!(ids(&mut watch), [CARD, "0000:02:00.0"], "nobody needs it any more");
    daemon.stop();
}

fn refused() {
    let _node = rig(4);
    let kubelet = Kubelet::serve();
    let daemon = Daemon::start_keeping(&config(&program_and_rest()));
    let mut client = kubelet.client("a.b/rest");
    let long = "x".repeat(100_000);
    let many: Vec<String> = (0..5_000).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (asked, part) in [
        (vec![long.as_str()], "no name of a device"),
        (vec!["0000:01:10.0", "0000:01:10.2", "0000:01:10.0"], "0000:01:10.0 of a.b/rest is asked for twice"),
        (many, "more than 4096 devices"),
    ] {
        let (code, why) = client.ask::<Given>("Allocate", &ask(&asked)).unwrap_err();
        let why = why.replace("%20", " ");
        assert!(code == "9" && why.contains(part) && why.len() < 1_000, "{code} {why:.2000}");
    }
    // The same for two containers.
    let mut twice = ask(&["0000:01:10.0"]);
    twice.containers.extend(ask(&["0000:01:10.0"]).containers);
    assert!(client.ask::<Given>("Allocate", &twice).is_err());
    client.ask::<Given>("Allocate", &ask(&["0000:01:10.2", "0000:01:10.0"])).unwrap();
    let said = daemon.said();
    assert!(said.contains("are not given") && said.len() < 20_000, "{} bytes", said.len());
    daemon.stop();
}

fn vdpa() {
    let _node = rig(4);
    let device = Path::new(DEVICES).join(address(2)).join("vdpa0");
    fs::create_dir_all(device.join("vhost-vdpa-5")).unwrap();
    symlink("/x/drivers/vhost_vdpa", device.join("driver")).unwrap();
    let kubelet = Kubelet::serve();
    let devices = json!({"resourcePrefix": "a.b", "resourceList": [
        {"resourceName": "vdpa", "selectors": {"vdpaType": "vhost"}}, {"resourceName": "rest", "selectors": {"pfNames": ["eth0"]}}]});
    let daemon = Daemon::start_keeping(&config(&devices));
    assert_eq!(ids(&mut kubelet.client("a.b/rest").watch()), [0, 1, 3].map(address));
    let given: Given = kubelet.client("a.b/vdpa").ask("Allocate", &ask(&[&address(2)])).unwrap();
    let nodes: Vec<&str> = given.containers[0].nodes.iter().map(|node| node.host.as_str()).collect();
    assert_eq!(nodes, ["/dev/vhost-vdpa-5"]);
    let description = format!("/var/run/k8s.cni.cncf.io/devinfo/dp/a.b-vdpa-{}-device.json", address(2));
    let description: Value = serde_json::from_slice(&fs::read(description).unwrap()).unwrap();
    let vdpa =
        json!({"parent-device": "vdpa0", "driver": "vhost", "path": "/dev/vhost-vdpa-5", "pci-address": address(2)});
    assert_eq!(description, json!({"type": "vdpa", "version": "1.1.0", "vdpa": vdpa}));
    daemon.stop();
}

fn described() {
    let _node = rig(4);
    fs::create_dir_all(CDI).unwrap();
    let kind = |kind: &str| json!({"cdiVersion": "0.5.0", "kind": kind, "devices": []}).to_string();
    for (name, text) in [
        ("plexus-a.b_net-pci_old.json", kind("a.b/net-pci")),
        ("plexus-c.d_net-pci_old.json", kind("c.d/net-pci")),
        // What is not ours, whatever it is called.
        ("plexus-a.b_net-pci_other.json", kind("a.b/gpu")),
        ("plexus-a.b_net-pci_text.json", "not JSON".to_owned()),
        ("sriov-dp-net-pci.json", kind("a.b/net-pci")),
    ] {
        fs::write(Path::new(CDI).join(name), text).unwrap();
    }
    let kubelet = Kubelet::serve();
    let of = |index: u32| json!({"pciAddresses": [address(index)]});
    let devices = json!({"resourcePrefix": "a.b", "useCdi": true, "cdiDir": CDI, "resourceList": [
        {"resourceName": "one", "selectors": of(1)}, {"resourceName": "three", "selectors": of(3)}]});
    let daemon = Daemon::start_keeping(&config(&devices));
    let mut all = BTreeSet::new();
    for (resource, index) in [("a.b/one", 1), ("a.b/three", 3)] {
        let given: Given = kubelet.client(resource).ask("Allocate", &ask(&[&address(index)])).unwrap();
        let container = given.containers.into_iter().next().unwrap();
        assert_eq!((container.nodes.len(), container.annotations.len()), (0, 1));
        for (key, devices) in container.annotations {
            assert_eq!(devices, format!("a.b/net-pci={}", address(index)));
            assert!(
                all.insert(key),
                "a container of both gets one annotation for both, and the kubelet keeps the first"
            );
        }
    }
    let mut left: Vec<String> =
        fs::read_dir(CDI).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    let own = ["plexus-a.b_net-pci_one.json", "plexus-a.b_net-pci_other.json", "plexus-a.b_net-pci_text.json"];
    assert_eq!(left, [&own[..], &["plexus-a.b_net-pci_three.json", "sriov-dp-net-pci.json"]].concat());
    daemon.stop();
}

fn undescribed() {
    let node = rig(4);
    fs::create_dir_all(CDI).unwrap();
    mount(Some("tmpfs"), CDI, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>).unwrap();
    let kubelet = Kubelet::serve();
    let mut devices = program_and_rest();
    (devices["useCdi"], devices["cdiDir"]) = (json!(true), json!(CDI));
    let daemon = Daemon::start_keeping(&config(&devices));
    let given: Given = kubelet.client("a.b/rest").ask("Allocate", &ask(&[&address(0)])).unwrap();
    assert_eq!(given.containers[0].envs["PCIDEVICE_A_B_REST"], address(0), "it has no node");
    let socket = Path::new(PLUGINS).join(kubelet.registration("a.b/dpdk").endpoint);
    let (_, why) = Client::at(&socket).ask::<Given>("Allocate", &ask(&[&address(1)])).unwrap_err();
    assert!(why.contains("Read-only"), "{why}");
    // It is looked again, and said once.
    let mut watch = Client::at(&socket).watch();
    watch.until_healthy(&[true, true]);
    set_card(false);
    stir(&node);
    watch.until_healthy(&[false, false]);
    let said = daemon.said();
    assert_eq!(said.matches("warning: devices: describing a.b/").count(), 1, "{said}");
    daemon.stop();
}
