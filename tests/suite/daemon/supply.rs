//! The device side in the daemon: the node's cards, as sysfs shows them, offered to a kubelet at its sockets. The kubelet is what
//! one is at the wire; the card is files of a test's own, and a link.

mod looks;
mod rules;
mod wire;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::mount::{MsFlags as MountFlags, mount};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket};
use serde_json::{Value, json};

use self::looks::Looks;
use self::wire::{Ask, Client, Devices, Given, Ids, Registration, Server};
use super::{Daemon, node, until};
use crate::case::Case;
use crate::meta::{Node, statuses};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("daemon::supply_offers_a_card_and_gives_its_functions", &[], offers),
        Case::new("daemon::supply_gives_what_a_pods_status_tells", &[], told),
        Case::new("daemon::supply_tells_how_devices_are", &[], health),
        Case::new("daemon::supply_hears_of_devices_without_looking_for_them", &[], heard),
        Case::new("daemon::supply_follows_a_kubelet_that_begins_anew", &[], begins_anew),
        Case::new("daemon::supply_leaves_a_resource_to_another_plugin", &[], left),
        Case::new("daemon::supply_goes_over_to_a_newer_daemon", &[], handed_over),
        Case::new("daemon::supply_makes_functions_where_there_are_none", &[], made),
        Case::new("daemon::supply_is_off_unless_it_is_wanted", &[], off),
    ];
    cases.extend(rules::cases());
    cases
}

const KUBELET: &str = "/run/scratch/kubelet";
const PLUGINS: &str = "/run/scratch/kubelet/device-plugins";
const DEVICES: &str = "/sys/bus/pci/devices";
const CARD: &str = "0000:01:00.0";

/// A node with a card `eth0` that has so many functions, of which the odd ones are bound to vfio-pci.
fn rig(functions: u32) -> Node {
    let node = node("fail");
    node.bed.parent("eth0");
    mount(Some("tmpfs"), "/sys", Some("tmpfs"), MountFlags::empty(), Some("mode=755")).unwrap();
    let pf = function(CARD, "igb", "0x10c9");
    fs::create_dir_all(pf.join("net/eth0")).unwrap();
    set_card(true);
    fs::write(pf.join("sriov_totalvfs"), "7\n").unwrap();
    fs::write(pf.join("sriov_numvfs"), format!("{functions}\n")).unwrap();
    for index in 0..functions {
        let driver = if index % 2 == 1 { "vfio-pci" } else { "igbvf" };
        let vf = function(&address(index), driver, "0x10ca");
        symlink(format!("../{CARD}"), vf.join("physfn")).unwrap();
        symlink(format!("../{}", address(index)), pf.join(format!("virtfn{index}"))).unwrap();
        symlink(format!("/x/iommu_groups/{}", 8 + index), vf.join("iommu_group")).unwrap();
        fs::write(vf.join("numa_node"), format!("{}\n", index % 2)).unwrap();
    }
    node
}

fn address(index: u32) -> String {
    format!("0000:01:10.{index}")
}

fn function(address: &str, driver: &str, device: &str) -> PathBuf {
    let path = Path::new(DEVICES).join(address);
    fs::create_dir_all(&path).unwrap();
    for (name, text) in [("class", "0x020000"), ("vendor", "0x8086"), ("device", device)] {
        fs::write(path.join(name), format!("{text}\n")).unwrap();
    }
    symlink(format!("/x/drivers/{driver}"), path.join("driver")).unwrap();
    path
}

/// AllocatableResourcesResponse: of each resource its devices.
#[derive(Clone, PartialEq, prost::Message)]
struct Allocatable {
    #[prost(message, repeated, tag = "1")]
    devices: Vec<OfResource>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OfResource {
    #[prost(string, tag = "1")]
    resource: String,
    #[prost(string, repeated, tag = "2")]
    ids: Vec<String>,
}

/// What sysfs says of the card's interface.
fn set_card(up: bool) {
    let flags = if up { "0x1003\n" } else { "0x1002\n" };
    fs::write(Path::new(DEVICES).join(CARD).join("net/eth0/flags"), flags).unwrap();
}

/// A kubelet's end of registrations.
struct Kubelet {
    seen: Arc<Mutex<Vec<Registration>>>,
    _server: Server,
}

impl Kubelet {
    fn serve() -> Kubelet {
        let seen = Arc::<Mutex<Vec<Registration>>>::default();
        let told = Arc::clone(&seen);
        let server = Server::at(&Path::new(PLUGINS).join("kubelet.sock"), move |path, message| {
            assert_eq!(path, "/v1beta1.Registration/Register");
            told.lock().unwrap().push(prost::Message::decode(message).unwrap());
            Vec::new()
        });
        Kubelet { seen, _server: server }
    }

    /// The registration of a resource; forgotten afterwards.
    fn registration(&self, resource: &str) -> Registration {
        let mut found = None;
        until(&format!("{resource} is registered"), || {
            let mut seen = self.seen.lock().unwrap();
            let position = seen.iter().position(|one| one.resource == resource);
            found = position.map(|position| seen.remove(position));
            found.is_some()
        });
        found.unwrap()
    }

    /// Asks where the resource says it is to be asked.
    fn client(&self, resource: &str) -> Client {
        Client::at(&Path::new(PLUGINS).join(self.registration(resource).endpoint))
    }
}

fn config(devices: &Value) -> PathBuf {
    let mut devices = devices.clone();
    devices["pluginDir"] = json!(PLUGINS);
    let path = PathBuf::from("/run/scratch/daemon-config.json");
    fs::create_dir_all("/run/scratch/net.d").unwrap();
    let conf =
        json!({"cniConfigDir": "/run/scratch/net.d", "devices": devices, "logLevel": "verbose", "logToStderr": true});
    fs::write(&path, conf.to_string()).unwrap();
    path
}

/// Two resources of the card: functions of the kernel, and of programs.
fn two() -> Value {
    let of = |driver: &str| json!({"pfNames": ["eth0#0-3"], "drivers": [driver]});
    json!({"resourcePrefix": "a.b", "resourceList": [
        {"resourceName": "kernel", "selectors": of("igbvf")}, {"resourceName": "dpdk", "selectors": [of("vfio-pci")]}]})
}

fn ask(ids: &[&str]) -> Ask {
    Ask { containers: vec![Ids { ids: ids.iter().map(|id| (*id).to_owned()).collect() }] }
}

fn offers() {
    let _node = rig(5);
    let kubelet = Kubelet::serve();
    let daemon = Daemon::start_keeping(&config(&two()));
    let registered = kubelet.registration("a.b/kernel");
    assert_eq!((registered.version.as_str(), registered.endpoint.contains('/')), ("v1beta1", false));
    let socket = Path::new(PLUGINS).join(registered.endpoint);
    let mut watch = Client::at(&socket).watch();
    let list = watch.next().unwrap();
    let shown: Vec<(String, String, i64)> =
        list.devices.into_iter().map(|one| (one.id, one.health, one.topology.unwrap().nodes[0].id)).collect();
    assert_eq!(shown, [0, 2].map(|index| (address(index), "Healthy".to_owned(), 0)));
    let mut client = Client::at(&socket);
    let options: Devices = client.ask("GetDevicePluginOptions", &Devices::default()).unwrap();
    assert_eq!(options, Devices::default(), "none is set");
    let given: Given = client.ask("Allocate", &ask(&["0000:01:10.2", "0000:01:10.0"])).unwrap();
    let [container] = given.containers.as_slice() else { panic!("{given:?}") };
    assert_eq!(container.envs["PCIDEVICE_A_B_KERNEL"], "0000:01:10.2,0000:01:10.0");
    assert_eq!((container.nodes.len(), container.annotations.len()), (0, 0));
    // A pod's program finds the files of its group.
    let mut client = kubelet.client("a.b/dpdk");
    let two = Ask { containers: [ask(&["0000:01:10.1"]).containers, ask(&["0000:01:10.3"]).containers].concat() };
    let given: Given = client.ask("Allocate", &two).unwrap();
    for (container, index) in given.containers.iter().zip([1, 3]) {
        let nodes: Vec<[&str; 3]> = container
            .nodes
            .iter()
            .map(|node| [node.host.as_str(), node.inside.as_str(), node.permissions.as_str()])
            .collect();
        let group = format!("/dev/vfio/{}", 8 + index);
        assert_eq!(nodes, [["/dev/vfio/vfio", "/dev/vfio/vfio", "rw"], [&group, &group, "rw"]]);
        let id = address(index);
        let info: Value = serde_json::from_str(&container.envs["PCIDEVICE_A_B_DPDK_INFO"]).unwrap();
        let vfio = json!({"mount": "/dev/vfio/vfio", "dev-mount": group});
        assert_eq!(info, json!({&id: {"generic": {"deviceID": id}, "vfio": vfio}}));
        let description = format!("/var/run/k8s.cni.cncf.io/devinfo/dp/a.b-dpdk-{id}-device.json");
        let description: Value = serde_json::from_slice(&fs::read(description).unwrap()).unwrap();
        assert_eq!(description, json!({"type": "pci", "version": "1.1.0", "pci": {"pci-address": id}}));
    }
    let (code, why) = client.ask::<Given>("Allocate", &ask(&["0000:01:10.0"])).unwrap_err();
    assert_eq!((code.as_str(), why.replace("%20", " ")), ("9", "a.b/dpdk has no device 0000:01:10.0".to_owned()));
    assert_eq!(client.ask::<Given>("Steal", &ask(&[])).unwrap_err().0, "12");
    daemon.stop();
}

/// From the kubelet's request to what the pod is told of its device.
fn told() {
    let mut node = rig(4);
    let kubelet = Kubelet::serve();
    let daemon = Daemon::start_keeping(&config(&two()));
    let id = address(3);
    drop(kubelet.client("a.b/dpdk").ask::<Given>("Allocate", &ask(&[&id])).unwrap());
    let entry = json!({"PodUID": "uid-a", "ContainerName": "c", "ResourceName": "a.b/dpdk", "DeviceIDs": {"1": [id]}, "AllocResp": ""});
    let checkpoint = json!({"Data": {"PodDeviceEntries": [entry], "RegisteredDevices": {}}, "Checksum": 7});
    node.bed.file("kubelet/device-plugins/kubelet_internal_checkpoint", &checkpoint.to_string());
    node.conf["kubeletDir"] = json!(KUBELET);
    let conf = json!({"cniVersion": "1.0.0", "name": "vf", "type": "ib-sriov"});
    let annotations = json!({"k8s.v1.cni.cncf.io/resourceName": "a.b/dpdk"});
    let definition = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"namespace": "default", "name": "vf", "annotations": annotations}, "spec": {"config": conf.to_string()}});
    node.bed.file("manifests/nad-default-vf.json", &definition.to_string());
    node.script("ib-sriov", r#"cat >/dev/null; echo '{"cniVersion": "1.0.0"}'"#);
    node.add("a", "vf");
    let device = json!({"type": "pci", "version": "1.1.0", "pci": {"pci-address": id}});
    assert_eq!(statuses().remove(0)[1]["device-info"], device);
    node.call("DEL", "a").run().ok();
    daemon.stop();
}

fn health() {
    let node = rig(3);
    let kubelet = Kubelet::serve();
    let daemon = Daemon::start_keeping(&config(&json!({"resourcePrefix": "a.b",
        "resourceList": [{"resourceName": "vf", "selectors": {"rootDevices": [CARD]}}]})));
    let mut watch = kubelet.client("a.b/vf").watch();
    watch.until_healthy(&[true; 3]);
    set_card(false);
    node.bed.ip("link set eth0 down");
    watch.until_healthy(&[false; 3]);
    set_card(true);
    node.bed.ip("link set eth0 up");
    watch.until_healthy(&[true; 3]);
    // A function that a pod has is another's to look at: it stays, without an interface and with another driver.
    let [given, gone] = [1, 2].map(|index| Path::new(DEVICES).join(address(index)));
    fs::remove_file(given.join("driver")).unwrap();
    fs::remove_dir_all(gone).unwrap();
    watch.until_healthy(&[true, true, false]);
    let said = daemon.said();
    for line in ["of a.b/vf is not healthy: its card eth0 is down", "0000:01:10.2 of a.b/vf is not healthy: it is gone"]
    {
        assert!(said.contains(line), "{said}");
    }
    daemon.stop();
}

/// The kernel hands this on to whoever listens in this namespace, as its own (lib/kobject_uevent.c, `uevent_net_rcv_skb`).
fn tell_of_device(action: &str) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, flags, Some(SockProtocol::NetlinkKObjectUEvent)).unwrap();
    let text = format!("{action}@/devices/x\0ACTION={action}\0DEVPATH=/devices/x\0SUBSYSTEM=pci\0");
    // struct nlmsghdr: length, type (the first that is no control message), flags (a request), sequence and port.
    let length = u32::try_from(16 + text.len()).unwrap();
    let message =
        [length.to_ne_bytes().as_slice(), &0x10_u16.to_ne_bytes(), &1_u16.to_ne_bytes(), &[0; 8], text.as_bytes()]
            .concat();
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty()).unwrap();
}

fn heard() {
    let node = rig(3);
    let looks = Looks::start(&json!({"resourcePrefix": "a.b",
        "resourceList": [{"resourceName": "vf", "selectors": {"rootDevices": [CARD]}}]}));
    let all = [0, 1, 2].map(address);
    let each = |healthy: bool| all.each_ref().map(|id| (id.as_str(), healthy));
    looks.until("the card", &each(true));
    set_card(false);
    node.bed.ip("link set eth0 down");
    looks.until("that the card is down", &each(false));
    set_card(true);
    node.bed.ip("link set eth0 up");
    looks.until("that the card is up", &each(true));
    fs::remove_dir_all(Path::new(DEVICES).join(&all[2])).unwrap();
    tell_of_device("remove");
    looks.until("that a function has gone", &[(&all[0], true), (&all[1], true), (&all[2], false)]);
}

fn begins_anew() {
    let _node = rig(2);
    let config = config(&two());
    let daemon = Daemon::start_keeping(&config);
    until("it waits for a kubelet", || daemon.said().contains("there is no kubelet's socket"));
    let kubelet = Kubelet::serve();
    let mut watch = kubelet.client("a.b/kernel").watch();
    watch.until_healthy(&[true]);
    drop(kubelet.registration("a.b/dpdk"));
    drop(kubelet);
    // As a kubelet does when it starts.
    for entry in fs::read_dir(PLUGINS).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let kubelet = Kubelet::serve();
    let mut again = kubelet.client("a.b/kernel").watch();
    again.until_healthy(&[true]);
    drop(kubelet.registration("a.b/dpdk"));
    assert!(watch.next().is_none(), "nobody speaks at a socket that is gone");
    // One that was told, and listens no more, has forgotten it.
    drop(again);
    let mut again = kubelet.client("a.b/kernel").watch();
    again.until_healthy(&[true]);
    daemon.stop();
}

fn left() {
    let _node = rig(4);
    // One by its socket, the other by what the kubelet has.
    let other = Server::at(&Path::new(PLUGINS).join("a.b_kernel.sock"), |_, _| Vec::new());
    let lists = Server::at(&Path::new(KUBELET).join("pod-resources/kubelet.sock"), |path, _| {
        assert_eq!(path, "/v1.PodResourcesLister/GetAllocatableResources");
        let of = |resource: &str| OfResource { resource: resource.to_owned(), ids: vec!["x".to_owned()] };
        prost::Message::encode_to_vec(&Allocatable { devices: vec![of("a.b/dpdk")] })
    });
    let mut wanted = two();
    let third = json!({"resourceName": "card", "selectors": {"pciAddresses": [address(0), address(1)]}});
    wanted["resourceList"].as_array_mut().unwrap().insert(0, third);
    let kubelet = Kubelet::serve();
    let daemon = Daemon::start_keeping(&config(&wanted));
    drop(kubelet.client("a.b/card"));
    for (resource, who) in
        [("kernel", "another device plugin (/run/scratch/kubelet"), ("dpdk", "another device plugin")]
    {
        until("it is said", || daemon.said().contains(&format!("devices of a.b/{resource}: {who}")));
    }
    assert_eq!(*kubelet.seen.lock().unwrap(), [], "what others offer is not registered");
    drop((other, lists));
    daemon.stop();
}

fn handed_over() {
    let _node = rig(2);
    let kubelet = Kubelet::serve();
    let config = config(&two());
    let old = Daemon::start_keeping(&config);
    let mut watch = kubelet.client("a.b/kernel").watch();
    watch.until_healthy(&[true]);
    let new = Daemon::start_keeping(&config);
    let mut again = kubelet.client("a.b/kernel").watch();
    again.until_healthy(&[true]);
    until("the old one lets go", || old.said().contains("devices of a.b/kernel: another plexus offers it"));
    assert!(watch.next().is_none());
    old.stop();
    assert!(Path::new(PLUGINS).join("plexus-a.b_kernel.sock").exists(), "it is the new one's");
    let mut client = Client::at(&Path::new(PLUGINS).join("plexus-a.b_kernel.sock"));
    client.ask::<Given>("Allocate", &ask(&["0000:01:10.0"])).unwrap();
    new.stop();
}

fn made() {
    let node = rig(0);
    set_card(false);
    node.bed.ip("link set eth0 down");
    let number = Path::new(DEVICES).join(CARD).join("sriov_numvfs");
    let devices = json!({"virtualFunctions": [{"pf": "eth0", "count": 4}]});
    let daemon = Daemon::start_keeping(&config(&devices));
    until("they are made", || fs::read_to_string(&number).unwrap() == "4\n");
    assert!(node.bed.ip("link show eth0").contains(",UP"), "a card is set up before its functions are made");
    daemon.stop();
    // Somebody may have them.
    fs::write(&number, "2\n").unwrap();
    let daemon = Daemon::start_keeping(&config(&devices));
    let said = "eth0 has 2 virtual functions and is to have 4: a number is not changed while there are some";
    until("it is said", || daemon.said().contains(said));
    assert_eq!(fs::read_to_string(&number).unwrap(), "2\n");
    daemon.stop();
}

fn off() {
    let _node = rig(2);
    let _kubelet = Kubelet::serve();
    fs::create_dir_all("/run/scratch/net.d").unwrap();
    let conf = Path::new("/run/scratch/daemon-config.json");
    fs::write(conf, json!({"cniConfigDir": "/run/scratch/net.d"}).to_string()).unwrap();
    let daemon = Daemon::start_keeping(conf);
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let names = threads.map(|entry| fs::read_to_string(entry.unwrap().path().join("comm")).unwrap());
    assert!(names.map(|name| name.trim().to_owned()).all(|name| name != "devices" && name != "cards"));
    daemon.stop();
}
