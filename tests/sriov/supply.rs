//! The node's daemon offers the card's functions to a kubelet: which there are, what a container of one gets, how they are when the card
//! goes down and when they go. The kubelet is what one is at the wire.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::Case;
use crate::card::{Card, ip, ip_json, names, netns, until};
use crate::looks::Looks;
use crate::user_space::bind;
use crate::wire::{Ask, Client, Given, Ids, Registration, Server};

pub(crate) const CASES: &[Case] = &[
    ("supply::its_functions_are_offered_and_follow_the_card", its_functions_are_offered_and_follow_the_card),
    ("supply::what_the_kernel_tells_is_enough", what_the_kernel_tells_is_enough),
    ("supply::functions_are_made_of_a_card_that_has_none", functions_are_made_of_a_card_that_has_none),
];

/// A daemon with a folder of its own, and a kubelet's end of its registrations.
struct Rig {
    folder: PathBuf,
    daemon: Child,
    seen: Arc<Mutex<Vec<Registration>>>,
    _kubelet: Server,
}

impl Rig {
    fn start(card: &Card, mut devices: Value) -> Rig {
        let folder = std::env::temp_dir().join(format!("plexus-sriov-supply-{}", std::process::id()));
        let plugins = folder.join("device-plugins");
        let seen = Arc::<Mutex<Vec<Registration>>>::default();
        let told = Arc::clone(&seen);
        let kubelet = Server::at(&plugins.join("kubelet.sock"), move |_, message| {
            told.lock().unwrap().push(prost::Message::decode(message).unwrap());
            Vec::new()
        });
        devices["pluginDir"] = json!(plugins);
        let config = folder.join("daemon-config.json");
        let net_d = folder.join("net.d");
        fs::create_dir_all(&net_d).unwrap();
        fs::write(&config, json!({"cniConfigDir": net_d, "devices": devices}).to_string()).unwrap();
        let mut command = card.plexus();
        command.args(["daemon", "--socket-dir"]).arg(&folder).arg("--config").arg(&config);
        let daemon = command.spawn().unwrap();
        until("the daemon", || UnixStream::connect(folder.join("metrics.sock")).is_ok().then_some(()));
        Rig { folder, daemon, seen, _kubelet: kubelet }
    }

    /// Asks where a resource says it is to be asked.
    fn client(&self, resource: &str) -> Client {
        let endpoint = until("a registration", || {
            let seen = self.seen.lock().unwrap();
            seen.iter().find(|one| one.resource == resource).map(|one| one.endpoint.clone())
        });
        Client::at(&self.folder.join("device-plugins").join(endpoint))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(self.daemon.kill());
        drop(self.daemon.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn its_functions_are_offered_and_follow_the_card(card: &Card) {
    let program = &card.functions[3].pci;
    bind(program, "vfio-pci");
    let of =
        |driver: &str| json!({"pfNames": [format!("{}#0-3", card.name)], "drivers": [driver], "linkTypes": ["ether"]});
    let rig = Rig::start(
        card,
        json!({"resourcePrefix": "a.b", "resourceList": [
            {"resourceName": "kernel", "selectors": of("igbvf")}, {"resourceName": "dpdk", "selectors": of("vfio-pci")}]}),
    );
    let (mut kernel, mut dpdk) = (rig.client("a.b/kernel").watch(), rig.client("a.b/dpdk").watch());
    let ids = |watch: &mut crate::wire::Watch| -> Vec<String> {
        watch.next().unwrap().devices.into_iter().map(|one| one.id).collect()
    };
    let expected: Vec<String> = card.functions.iter().map(|function| function.pci.clone()).collect();
    assert_eq!((ids(&mut kernel).as_slice(), ids(&mut dpdk)), (&expected[..3], vec![program.clone()]));
    // What a container of the program gets is there.
    let ask = Ask { containers: vec![Ids { ids: vec![program.clone()] }] };
    let given: Given = rig.client("a.b/dpdk").ask("Allocate", &ask).unwrap();
    let container = &given.containers[0];
    assert_eq!(&container.envs["PCIDEVICE_A_B_DPDK"], program);
    let group = fs::read_link(Path::new("/sys/bus/pci/devices").join(program).join("iommu_group")).unwrap();
    let group = Path::new("/dev/vfio").join(group.file_name().unwrap());
    let nodes: Vec<&str> = container.nodes.iter().map(|node| node.host.as_str()).collect();
    assert_eq!(nodes, ["/dev/vfio/vfio", group.to_str().unwrap()]);
    assert!(nodes.iter().all(|node| fs::metadata(node).unwrap().file_type().is_char_device()), "{nodes:?}");
    let description = format!("/var/run/k8s.cni.cncf.io/devinfo/dp/a.b-dpdk-{program}-device.json");
    assert!(fs::read_to_string(description).unwrap().contains(program));
    // A pod that has one takes nothing from the kubelet.
    ip("netns add one");
    let conf = card.conf(0, json!({"vlan": 100}));
    card.add("one", &conf);
    ip(&format!("link set {} down", card.name));
    kernel.until_healthy(&[false; 3]);
    dpdk.until_healthy(&[false]);
    ip(&format!("link set {} up", card.name));
    kernel.until_healthy(&[true; 3]);
    dpdk.until_healthy(&[true]);
    card.del("one", &netns("one"), &conf);
    ip("netns del one");
    bind(program, "");
    let net = Path::new("/sys/bus/pci/devices").join(program).join("net");
    until("the interface", || names(&net).into_iter().next());
    // No pod has it, by the kubelet's checkpoint: its driver says whose it is.
    kernel.until_healthy(&[true; 4]);
    dpdk.until_healthy(&[]);
    card.renew(|| kernel.until_healthy(&[false; 4]));
    kernel.until_healthy(&[true; 4]);
}

/// Without a look that is due by the clock.
fn what_the_kernel_tells_is_enough(card: &Card) {
    let looks = Looks::start(&json!({"resourcePrefix": "a.b", "resourceList": [
        {"resourceName": "kernel", "selectors": {"pfNames": [format!("{}#0-3", card.name)], "drivers": ["igbvf"]}}]}));
    let each = |healthy: bool| card.functions.iter().map(|one| (one.pci.as_str(), healthy)).collect::<Vec<_>>();
    looks.until("the card", &each(true));
    ip(&format!("link set {} down", card.name));
    looks.until("that the card is down", &each(false));
    ip(&format!("link set {} up", card.name));
    looks.until("that the card is up", &each(true));
    // No pod has it: another driver is another resource's.
    let program = &card.functions[3].pci;
    bind(program, "vfio-pci");
    looks.until("that a function has another driver", &each(true)[..3]);
    bind(program, "");
    looks.until("that it has its own again", &each(true));
}

fn functions_are_made_of_a_card_that_has_none(card: &Card) {
    let number = Path::new("/sys/class/net").join(&card.name).join("device/sriov_numvfs");
    card.renew(|| {
        ip(&format!("link set {} down", card.name));
        let count = card.functions.len();
        let rig = Rig::start(card, json!({"virtualFunctions": [{"pf": card.name, "count": count}]}));
        until("the functions", || (fs::read_to_string(&number).unwrap().trim() == count.to_string()).then_some(()));
        let link = ip_json(&format!("link show {}", card.name));
        assert!(link[0]["flags"].as_array().unwrap().contains(&json!("UP")), "{link}");
        drop(rig);
    });
}
