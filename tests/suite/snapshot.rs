//! The state of the kernel and of the lease directory, as a flat list of facts that two runs can be compared by.
//! It does not know what is expected.
//!
//! A fact is a path and a value: `pod.a.addr.eth0.10.1.0.2/24.scope` is `global`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::redact::{Names, redacted};
use crate::testbed::{BACKUPS, LEASES, Testbed, files_below};
use crate::world;

/// Path of a fact to its value.
pub(crate) type Facts = BTreeMap<String, String>;

/// Interface settings that plugins write, or whose change would follow from another order of messages.
const SYSCTLS_4: [&str; 6] = ["arp_ignore", "arp_notify", "forwarding", "proxy_arp", "route_localnet", "rp_filter"];
/// As above, of IPv6.
const SYSCTLS_6: [&str; 10] = [
    "accept_dad",
    "accept_ra",
    "addr_gen_mode",
    "disable_ipv6",
    "enhanced_dad",
    "forwarding",
    "keep_addr_on_down",
    "ndisc_notify",
    "optimistic_dad",
    "use_optimistic",
];
/// Settings of a whole namespace that plugins write.
const SYSCTLS_ALL: [&str; 3] =
    ["net/ipv4/ip_forward", "net/ipv4/conf/all/log_martians", "net/ipv6/conf/all/forwarding"];

/// How long links may take to come up (the kernel's link watch works once a second at least), in an emulated machine too.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// One network namespace, as `ip` and `/proc/sys` show it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// `host` or `pod.NAME`.
    pub(crate) name: String,
    pub(crate) links: Vec<Value>,
    routes: Vec<Value>,
    rules: [Vec<Value>; 2],
    vlans: Vec<Value>,
    sysctls: Facts,
}

/// Everything at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) places: Vec<Place>,
    files: Facts,
}

impl Snapshot {
    /// What is there now.
    pub(crate) fn take(bed: &Testbed) -> Self {
        let mut places = vec![Place::take(bed, "")];
        places.extend(bed.pods().iter().map(|pod| Place::take(bed, pod)));
        Self { places, files: files(Path::new(LEASES)).into_iter().chain(files(Path::new(BACKUPS))).collect() }
    }

    /// What is there once links that are coming up are up, and two looks see the same; redacted.
    pub(crate) fn settled(bed: &Testbed, names: &mut Names) -> Facts {
        let deadline = Instant::now() + SETTLE_LIMIT;
        let mut before = Facts::new();
        loop {
            let snapshot = Self::take(bed);
            let facts = snapshot.facts();
            let quiet = snapshot.places.iter().all(Place::is_settled) && still(&before).eq(still(&facts));
            if quiet || Instant::now() > deadline {
                names.learn(&snapshot);
                return redacted(&facts, names);
            }
            before = facts;
            snapshot.places.iter().for_each(|place| place.urge_link_watch(bed));
        }
    }

    fn facts(&self) -> Facts {
        let mut facts = Facts::new();
        for place in &self.places {
            place.add_facts(&mut facts);
        }
        facts.extend(self.files.clone());
        facts
    }
}

/// The facts that are no clocks.
fn still(facts: &Facts) -> impl Iterator<Item = (&String, &String)> {
    facts.iter().filter(|(path, _)| !path.ends_with("_timer") && !path.ends_with("_life_time"))
}

impl Place {
    fn take(bed: &Testbed, pod: &str) -> Self {
        let [links, routes, rules_4, rules_6] = bed.look(pod, |[all, six]| {
            [all.list("addr show"), all.list("route show table all"), all.list("rule show"), six.list("rule show")]
        });
        let filtering = links.iter().any(|link| link["linkinfo"]["info_data"]["vlan_filtering"] == 1);
        let vlans = if filtering { vlans(bed, pod) } else { vec![] };
        let names: Vec<&str> = links.iter().filter_map(|link| link["ifname"].as_str()).collect();
        let sysctls = if pod.is_empty() { sysctls(&names) } else { world::inside(&bed.netns(pod), || sysctls(&names)) };
        let name = if pod.is_empty() { "host".to_owned() } else { format!("pod.{pod}") };
        Self { name, rules: [rules_4, rules_6], sysctls, vlans, routes, links }
    }

    /// Asks for each link by its name: since Linux 6.8 the kernel catches up with a link's carrier before it answers
    /// that (`linkwatch_sync_dev` in net/core/rtnetlink.c), and otherwise once a second. Twice, because a port's
    /// carrier may give its bridge one.
    fn urge_link_watch(&self, bed: &Testbed) {
        let names: Vec<String> = self.links.iter().map(|link| text(&link["ifname"])).collect();
        bed.look(self.name.strip_prefix("pod.").unwrap_or(""), |[all, _]| all.touch(&[names.clone(), names].concat()));
    }

    /// The link watch has looked at every link: one that is up is called up exactly if it has carrier.
    fn is_settled(&self) -> bool {
        self.links.iter().all(|link| {
            let has = |flag: &str| link["flags"].as_array().is_some_and(|flags| flags.iter().any(|one| one == flag));
            let up = match link["linkinfo"]["info_kind"].as_str().unwrap_or_default() {
                "veth" | "macvlan" => link["operstate"] == "UP",
                // Until it has its first port its state is unknown.
                "bridge" => link["operstate"] == "UP" || link["operstate"] == "UNKNOWN",
                _ => return true,
            };
            !has("UP") || has("LOWER_UP") == up
        })
    }

    fn add_facts(&self, facts: &mut Facts) {
        let at = &self.name;
        for link in &self.links {
            let ifname = text(&link["ifname"]);
            for (key, value) in
                link.as_object().unwrap().iter().filter(|(key, _)| *key != "addr_info" && *key != "ifname")
            {
                flatten(&format!("{at}.link.{ifname}.{key}"), value, facts);
            }
            for address in link["addr_info"].as_array().into_iter().flatten() {
                let place = format!("{at}.addr.{ifname}.{}/{}", text(&address["local"]), address["prefixlen"]);
                flatten(&place, address, facts);
            }
        }
        let route_name = |route: &Value| {
            let table = route["table"].as_str().unwrap_or("main");
            let kind = route["type"].as_str().unwrap_or("unicast");
            format!("{at}.route.{table}.{kind} {} dev {}", text(&route["dst"]), text(&route["dev"]))
        };
        numbered(&self.routes, route_name, facts);
        for (rules, family) in self.rules.iter().zip([4, 6]) {
            numbered(rules, |rule| format!("{at}.rule.{family}.{}", rule["priority"]), facts);
        }
        numbered(&self.vlans, |port| format!("{at}.vlan.{}", text(&port["ifname"])), facts);
        facts.extend(self.sysctls.iter().map(|(path, value)| (format!("{at}.sysctl.{path}"), value.clone())));
    }
}

/// Facts of objects that may share a name: their order is part of the fact, because the first route wins.
fn numbered(objects: &[Value], name: impl Fn(&Value) -> String, facts: &mut Facts) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for object in objects {
        let name = name(object);
        let before = seen.entry(name.clone()).or_default();
        let path = if *before == 0 { name } else { format!("{name}#{before}") };
        *before += 1;
        flatten(&path, object, facts);
    }
}

pub(crate) fn flatten(path: &str, value: &Value, facts: &mut Facts) {
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(key, member)| flatten(&format!("{path}.{key}"), member, facts))
        }
        // Flags and the like: a set of words. Other lists keep their order.
        Value::Array(words) if words.iter().all(Value::is_string) => {
            facts.extend(words.iter().map(|word| (format!("{path}.{}", text(word)), "set".to_owned())));
        }
        Value::Array(members) => {
            members.iter().enumerate().for_each(|(number, member)| flatten(&format!("{path}.{number}"), member, facts));
        }
        _ => drop(facts.insert(path.to_owned(), text(value))),
    }
}

/// A string without its quotation marks, anything else as JSON.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The VLANs of bridges' ports.
fn vlans(bed: &Testbed, pod: &str) -> Vec<Value> {
    let place = if pod.is_empty() { vec![] } else { vec!["-n", pod] };
    let words: Vec<&str> = place.into_iter().chain(["-j", "vlan", "show"]).collect();
    serde_json::from_str(&bed.tool("bridge", &words, "").unwrap()).unwrap()
}

/// The settings of the namespace that the calling thread is in.
fn sysctls(links: &[&str]) -> Facts {
    let mut paths: Vec<String> = SYSCTLS_ALL.iter().map(|path| (*path).to_owned()).collect();
    for link in links {
        paths.extend(SYSCTLS_4.iter().map(|name| format!("net/ipv4/conf/{link}/{name}")));
        paths.extend(SYSCTLS_6.iter().map(|name| format!("net/ipv6/conf/{link}/{name}")));
    }
    // A link may vanish between the list and the look.
    let read = |path: String| {
        fs::read_to_string(format!("/proc/sys/{path}")).ok().map(|value| (path, value.trim().to_owned()))
    };
    paths.into_iter().filter_map(read).collect()
}

/// A directory as facts: each file's mode and bytes.
pub(crate) fn files(folder: &Path) -> Facts {
    let describe = |(path, bytes): (std::path::PathBuf, Vec<u8>)| {
        let mode = fs::metadata(folder.join(&path)).map_or(0, |file| file.permissions().mode() & 0o7777);
        (format!("file.{}", path.display()), format!("{mode:04o} {:?}", String::from_utf8_lossy(&bytes)))
    };
    files_below(folder).into_iter().map(describe).collect()
}
