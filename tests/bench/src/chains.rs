//! A whole chain of plugins for one interface: plexus in one exec, Go's binaries one after another as a runtime executes them,
//! each with the result of the one before. Knows no statistics.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::reach;
use crate::resident::Resident;
use crate::rest::settle;
use crate::rows::{Stage, Times, milliseconds};
use crate::side::{Call, Outcome, Programs, Side, Watch};
use crate::world::{Pod, Subnet, remove_link};

/// The first of the host's ports that stand-ins hold; each holds two.
const FIRST_HELD_PORT: u16 = 10_000;
/// The ports of the pod that is measured.
const OWN_PORTS: [u16; 2] = [8_080, 8_443];
/// What they lead to.
const CONTAINER_PORT: u16 = 80;

/// One side's pods of one row.
pub(crate) struct Chains {
    side: Side,
    network: String,
    subnet: Subnet,
    /// The chain, without what differs from call to call.
    plugins: Vec<Map<String, Value>>,
    programs: PathBuf,
    /// Whether the measured pod has mapped ports.
    maps: bool,
    /// Containers that hold ports already.
    held: Vec<Held>,
    /// Who serves the meta-plugin, and where it is asked.
    daemon: Option<(Resident, PathBuf)>,
    used: Vec<Pod>,
}

/// A container that holds two mapped ports and nothing else.
struct Held {
    id: String,
    result: Value,
    ports: [u16; 2],
}

impl Chains {
    /// `plugins`: a JSON list of what comes after a bridge with an address of each family.
    pub(crate) fn prepare(stage: &mut Stage<'_>, side: Side, plugins: &str, maps: bool, held: u16) -> Outcome<Self> {
        let subnet = stage.world.subnet()?;
        let network = format!("n{}", subnet.number());
        let mut all = vec![bridge(&network, subnet)];
        all.extend(serde_json::from_str::<Vec<Map<String, Value>>>(plugins)?);
        let programs = stage.programs.directory(side).ok_or("no programs")?.to_owned();
        let daemon = (side == Side::Daemon).then(|| Resident::plexus(stage.programs, &network)).transpose()?;
        let plugins = all;
        let mut chains =
            Self { side, network, subnet, plugins, programs, maps, held: Vec::new(), daemon, used: Vec::new() };
        if held > 0 {
            let pod = stage.world.pod()?;
            for number in 0..held {
                chains.hold(&pod, subnet, number, &stage.watch)?;
            }
            chains.used.push(pod);
        }
        Ok(chains)
    }

    /// One more container that holds ports: portmap alone, on an address that nobody has.
    fn hold(&mut self, pod: &Pod, subnet: Subnet, number: u16, watch: &Watch) -> Outcome<()> {
        let host = number.checked_add(1_000).ok_or("no address is left")?;
        let first = FIRST_HELD_PORT.checked_add(number.checked_mul(2).ok_or("no port is left")?);
        let first = first.ok_or("no port is left")?;
        let held = Held {
            id: format!("held{number}"),
            result: json!({"cniVersion": "1.0.0",
                "interfaces": [{"name": "eth0", "sandbox": pod.path.display().to_string()}],
                "ips": [{"address": format!("{}/16", subnet.host4(host)), "interface": 0},
                    {"address": format!("{}/64", subnet.host6(host)), "interface": 0}]}),
            ports: [first, first + 1],
        };
        self.portmap_of(&held, "ADD", pod).run(watch)?;
        self.held.push(held);
        Ok(())
    }

    fn portmap_of(&self, held: &Held, command: &str, pod: &Pod) -> Call {
        let configuration = json!({"cniVersion": "1.0.0", "name": self.network, "type": "portmap",
            "capabilities": {"portMappings": true}, "prevResult": held.result, "runtimeConfig": mappings(held.ports)});
        self.call(command, &held.id, pod, "portmap", &configuration)
    }

    /// ADD and DEL of a fresh pod.
    pub(crate) fn round(&mut self, stage: &mut Stage<'_>) -> Outcome<Times> {
        let mut pod = stage.world.pod()?;
        let start = Instant::now();
        let result = self.add(&pod, &stage.watch)?;
        let add = milliseconds(start);
        settle()?;
        look(&mut pod, 2, "ADD")?;
        // That of the Go plugins is iptables' affair.
        let through = (self.maps && self.side != Side::Go).then(|| {
            let [port, _] = OWN_PORTS;
            reach::connect(&pod.path, self.subnet.gateway4(), port, CONTAINER_PORT)
        });
        let through = through.transpose()?;

        let start = Instant::now();
        self.del(&pod, &result, &stage.watch)?;
        let del = milliseconds(start);
        settle()?;
        let at_rest = milliseconds(start);
        look(&mut pod, 0, "DEL")?;
        self.used.push(pod);
        let mut times = vec![("ADD", add), ("DEL", del), ("DEL, all at rest", at_rest)];
        times.extend(through.map(|time| ("connecting", time)));
        Ok(times)
    }

    fn add(&self, pod: &Pod, watch: &Watch) -> Outcome<Value> {
        if self.side != Side::Go {
            let output = self.whole("ADD", pod).run(watch)?;
            return Ok(serde_json::from_slice(&output)?);
        }
        let mut result = Value::Null;
        for plugin in &self.plugins {
            result = serde_json::from_slice(&self.one("ADD", pod, plugin, &result).run(watch)?)?;
        }
        Ok(result)
    }

    fn del(&self, pod: &Pod, result: &Value, watch: &Watch) -> Outcome<()> {
        if self.side != Side::Go {
            return self.whole("DEL", pod).run(watch).map(drop);
        }
        self.plugins.iter().rev().try_for_each(|plugin| self.one("DEL", pod, plugin, result).run(watch).map(drop))
    }

    /// The meta-plugin with the chain as the pod's default network.
    fn whole(&self, command: &str, pod: &Pod) -> Call {
        let list = json!({"cniVersion": "1.0.0", "name": self.network, "plugins": self.plugins});
        let runtime = if self.maps { mappings(OWN_PORTS) } else { json!({}) };
        let mut configuration = json!({"cniVersion": "1.0.0", "name": "node", "type": "plexus-cni", "delegates": [list],
            "runtimeConfig": runtime});
        if let (Some((_, folder)), Some(own)) = (&self.daemon, configuration.as_object_mut()) {
            // Nobody else answers: what is measured is the daemon.
            own.extend([("daemonSocketDir".to_owned(), json!(folder)), ("fallback".to_owned(), json!("fail"))]);
        }
        self.call(command, &pod.id, pod, "plexus-cni", &configuration)
    }

    /// One plugin, as libcni executes it.
    fn one(&self, command: &str, pod: &Pod, plugin: &Map<String, Value>, previous: &Value) -> Call {
        let mut own = plugin.clone();
        own.insert("cniVersion".to_owned(), json!("1.0.0"));
        own.insert("name".to_owned(), json!(self.network));
        if !previous.is_null() {
            own.insert("prevResult".to_owned(), previous.clone());
        }
        if self.maps && own.contains_key("capabilities") {
            own.insert("runtimeConfig".to_owned(), mappings(OWN_PORTS));
        }
        let name = plugin.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.call(command, &pod.id, pod, &name, &own.into())
    }

    fn call(&self, command: &str, id: &str, pod: &Pod, plugin: &str, configuration: &Value) -> Call {
        let environment = vec![
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", id.to_owned()),
            ("CNI_NETNS", pod.path.display().to_string()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", self.programs.display().to_string()),
            ("PATH", Programs::PATH.to_owned()),
        ];
        let input = configuration.to_string().into_bytes();
        Call { program: self.programs.join(plugin), arguments: Vec::new(), environment, input }
    }

    /// Who held ports gives them back.
    pub(crate) fn finish(self, watch: &Watch) -> Outcome<()> {
        if let Some(pod) = self.used.first() {
            for held in &self.held {
                self.portmap_of(held, "DEL", pod).run(watch)?;
            }
        }
        remove_link(&self.network)
    }
}

fn bridge(network: &str, subnet: Subnet) -> Map<String, Value> {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": subnet.text4()}], [{"subnet": subnet.text6()}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]});
    Map::from_iter([
        ("type".to_owned(), json!("bridge")),
        ("bridge".to_owned(), json!(network)),
        ("isGateway".to_owned(), json!(true)),
        ("ipam".to_owned(), ipam),
    ])
}

fn mappings(ports: [u16; 2]) -> Value {
    let one = |port: u16| json!({"hostPort": port, "containerPort": CONTAINER_PORT, "protocol": "tcp"});
    json!({"portMappings": ports.map(one)})
}

/// A plugin that does nothing is not fast: it fails here.
fn look(pod: &mut Pod, expected: usize, after: &str) -> Outcome<()> {
    let addresses = pod.addresses()?;
    if addresses.len() == expected {
        return Ok(());
    }
    Err(format!("after {after}, {} has {addresses:?}, not {expected} addresses", pod.id).into())
}
