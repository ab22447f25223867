//! One interface of a pod: its network configuration, and the same in the floor's words. Knows no side and no program.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::rows::Kind;
use crate::side::Outcome;
use crate::world::{PARENT, POOLS, Subnet};

/// One interface of a row's pods.
pub(crate) struct Attachment {
    pub(crate) kind: Kind,
    pub(crate) ifname: String,
    /// The network's name: also the name of its pool, and of its bridge or device.
    pub(crate) network: String,
    pub(crate) subnet: Subnet,
    pub(crate) v6: bool,
    pub(crate) default_route: bool,
    /// What its configuration has besides.
    pub(crate) keys: Map<String, Value>,
}

impl Attachment {
    /// The interface number `position` of a pod, on a network of its own: the first one has the default route.
    pub(crate) fn new(kind: Kind, position: usize, subnet: Subnet, v6: bool) -> Self {
        let ifname = if position == 0 { "eth0".to_owned() } else { format!("net{position}") };
        let network = format!("n{}", subnet.number());
        Self { kind, ifname, network, subnet, v6, default_route: position == 0, keys: Map::new() }
    }

    /// No address may be left in its pool, which goes then.
    pub(crate) fn pool_is_empty(&self) -> Outcome<()> {
        let pool = Path::new(POOLS).join(&self.network);
        let leases = fs::read_dir(&pool)?.filter_map(Result::ok).map(|entry| entry.file_name());
        let kept: Vec<_> = leases.filter(|name| name.to_string_lossy().starts_with(['1', 'f'])).collect();
        if !kept.is_empty() {
            return Err(format!("{} still holds {kept:?}", pool.display()).into());
        }
        Ok(fs::remove_dir_all(&pool)?)
    }

    pub(crate) fn plugin(&self) -> &'static str {
        match self.kind {
            Kind::Bridge => "bridge",
            Kind::Macvlan => "macvlan",
            Kind::Ptp => "ptp",
            Kind::Vlan => "vlan",
            Kind::Dummy => "dummy",
            Kind::HostDevice => "host-device",
            Kind::Tap => "tap",
        }
    }

    /// The network configuration, as a runtime passes it for one plugin.
    pub(crate) fn configuration(&self) -> Value {
        let mut ranges = vec![json!([{"subnet": self.subnet.text4()}])];
        let mut routes = vec![json!({"dst": "0.0.0.0/0"})];
        if self.v6 {
            ranges.push(json!([{"subnet": self.subnet.text6()}]));
            routes.push(json!({"dst": "::/0"}));
        }
        let mut ipam = json!({"type": "host-local", "ranges": ranges});
        if self.default_route
            && let Some(ipam) = ipam.as_object_mut()
        {
            ipam.insert("routes".into(), routes.into());
        }
        let mut configuration =
            json!({"cniVersion": "1.0.0", "name": self.network, "type": self.plugin(), "ipam": ipam});
        if let Some(own) = configuration.as_object_mut() {
            match self.kind {
                Kind::Bridge => {
                    own.extend([("bridge".to_owned(), json!(self.network)), ("isGateway".to_owned(), json!(true))])
                }
                Kind::Macvlan => own.extend([("master".to_owned(), json!(PARENT))]),
                Kind::Vlan => own
                    .extend([("master".to_owned(), json!(PARENT)), ("vlanId".to_owned(), json!(self.subnet.number()))]),
                Kind::HostDevice => own.extend([("device".to_owned(), json!(self.network))]),
                Kind::Ptp | Kind::Dummy | Kind::Tap => {}
            }
            own.extend(self.keys.clone());
        }
        configuration
    }

    /// The same, in the floor's words.
    pub(crate) fn spec(&self, host: u16) -> String {
        let master = if self.kind == Kind::Bridge { self.network.as_str() } else { PARENT };
        let gateway = |ip: String| if self.default_route { ip } else { "-".to_owned() };
        let subnet = self.subnet;
        let mut spec = format!("{},{},{master}", self.plugin(), self.ifname);
        spec += &format!(",{}/{},{}", subnet.host4(host), Subnet::PREFIX4, gateway(subnet.gateway4().to_string()));
        if self.v6 {
            spec += &format!(",{}/{},{}", subnet.host6(host), Subnet::PREFIX6, gateway(subnet.gateway6().to_string()));
        }
        spec
    }
}
