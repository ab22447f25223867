//! Go plugins and plexus on one machine: what one attached the other checks and removes, and both serve one pool.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Child;

use serde_json::{Value, json};

use crate::call::{NATIVE, Side};
use crate::case::Case;
use crate::need::Need;
use crate::testbed::{LEASES, Testbed, files_below};

/// Versions with CHECK.
const VERSIONS: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("interop::alternating", &[Need::Peers], alternating),
        Case::new("interop::one_pool_at_once", &[Need::Peers], one_pool_at_once),
        Case::new("interop::one_small_pool_at_once", &[Need::Peers], one_small_pool_at_once),
        Case::new("interop::adds_and_dels_at_once", &[Need::Peers], adds_and_dels_at_once),
        Case::new("interop::links_at_once", &[Need::Peers], links_at_once),
    ];
    for kind in NATIVE {
        let needs: Vec<Need> = std::iter::once(Need::Peers).chain(Need::of_kind(kind)).collect();
        for version in VERSIONS {
            let there = format!("interop::{kind}::go_adds_plexus_removes@{version}");
            cases.push(Case::new(there, &needs, move || handed_over(kind, version, Side::Go, Side::Plexus)));
            let back = format!("interop::{kind}::plexus_adds_go_removes@{version}");
            cases.push(Case::new(back, &needs, move || handed_over(kind, version, Side::Plexus, Side::Go)));
        }
    }
    cases
}

fn conf(kind: &str, version: &str) -> Value {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]});
    let mut conf = json!({"cniVersion": version, "name": "net1", "type": kind, "ipam": ipam});
    match kind {
        "bridge" => conf["isGateway"] = json!(true),
        "macvlan" | "ipvlan" => conf["master"] = json!("up0"),
        "host-device" => conf["device"] = json!("up0"),
        "vlan" => {
            conf["master"] = json!("up0");
            conf["vlanId"] = json!(5);
        }
        "static" => conf["ipam"] = json!({"type": "static", "addresses": [{"address": "10.1.0.9/24"}]}),
        _ => {}
    }
    conf
}

/// Leftovers without the bridge, which stays on purpose.
fn left(bed: &Testbed) -> Vec<String> {
    let left = bed.leftovers().into_iter();
    left.filter(|left| left != "link cni0").collect()
}

fn handed_over(kind: &str, version: &str, adds: Side, removes: Side) {
    let bed = Testbed::new();
    bed.pod("a");
    bed.parent("up0");
    let mut conf = conf(kind, version);
    let result = bed.call(adds, kind).command("ADD").pod("a").conf(&conf).run().ok();
    conf["prevResult"] = result;
    bed.call(removes, kind).command("CHECK").pod("a").conf(&conf).run().ok();
    bed.call(removes, kind).command("DEL").pod("a").conf(&conf).run().ok();
    // The Go plugin does not know that plexus keeps a record: that stays until plexus collects it.
    let left: Vec<String> =
        left(&bed).into_iter().filter(|left| removes == Side::Plexus || !left.starts_with("record ")).collect();
    assert_eq!(left, Vec::<String>::new());
    // And it can be attached again.
    conf.as_object_mut().unwrap().remove("prevResult");
    bed.call(removes, kind).command("ADD").pod("a").conf(&conf).run().ok();
}

/// A host-local configuration over `subnet`.
fn pool(subnet: &str) -> Value {
    json!({"cniVersion": "1.1.0", "name": "net1", "type": "bridge", "ipam": {"type": "host-local", "subnet": subnet}})
}

fn side(number: usize) -> Side {
    if number.is_multiple_of(2) { Side::Go } else { Side::Plexus }
}

fn start(bed: &Testbed, number: usize, side: Side, command: &str, conf: &Value) -> Child {
    let container = format!("c{number}");
    bed.call(side, "host-local").command(command).container(&container).pod("a").conf(conf).start()
}

/// The address a started ADD got, or none with its error text.
fn address(child: Child) -> Result<String, String> {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(text);
    }
    let result: Value = serde_json::from_str(&text).unwrap();
    Ok(result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned())
}

/// Lease files: address to owner.
fn leases() -> BTreeMap<String, String> {
    let files = files_below(&Path::new(LEASES).join("net1")).into_iter();
    let named = files.map(|(path, bytes)| (path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
    named.filter(|(name, _)| name != "lock" && !name.starts_with("last_reserved_ip")).collect()
}

/// Asserts that each holder's lease is on disk, and no other.
fn assert_leases(held: &BTreeMap<String, usize>) {
    let expected: BTreeMap<String, String> =
        held.iter().map(|(address, number)| (address.clone(), format!("c{number}\r\neth0"))).collect();
    assert_eq!(leases(), expected);
}

fn alternating() {
    let bed = Testbed::new();
    bed.pod("a");
    let conf = pool("10.1.0.0/24");
    let mut held = BTreeMap::new();
    for number in 0..12 {
        let got = address(start(&bed, number, side(number), "ADD", &conf)).unwrap();
        assert_eq!(got, format!("10.1.0.{}", number + 2), "the addresses follow one another whoever hands them out");
        held.insert(got, number);
        assert_leases(&held);
    }
    for number in 0..12 {
        let removed = start(&bed, number, side(number + 1), "DEL", &conf).wait_with_output().unwrap();
        assert!(removed.status.success(), "{removed:?}");
        held.retain(|_, holder| *holder != number);
        assert_leases(&held);
    }
    assert_eq!(
        address(start(&bed, 99, Side::Plexus, "ADD", &conf)).unwrap(),
        "10.1.0.14",
        "last_reserved_ip is shared"
    );
}

/// Processes at once: enough to meet in the lock, few enough for two processors.
const AT_ONCE: usize = 24;

fn add_all(bed: &Testbed, conf: &Value, numbers: std::ops::Range<usize>) -> (BTreeMap<String, usize>, Vec<String>) {
    let children: Vec<_> = numbers.map(|number| (number, start(bed, number, side(number), "ADD", conf))).collect();
    let mut held = BTreeMap::new();
    let mut refused = Vec::new();
    for (number, child) in children {
        match address(child) {
            Ok(got) => assert_eq!(held.insert(got.clone(), number), None, "{got} was handed out twice"),
            Err(text) => refused.push(text),
        }
    }
    (held, refused)
}

fn one_pool_at_once() {
    let bed = Testbed::new();
    bed.pod("a");
    let conf = pool("10.1.0.0/24");
    let (held, refused) = add_all(&bed, &conf, 0..AT_ONCE);
    assert_eq!(refused, Vec::<String>::new());
    assert_leases(&held);
    let removals: Vec<_> = (0..AT_ONCE).map(|number| start(&bed, number, side(number + 1), "DEL", &conf)).collect();
    for child in removals {
        let removed = child.wait_with_output().unwrap();
        assert!(removed.status.success(), "{removed:?}");
    }
    assert_leases(&BTreeMap::new());
}

fn one_small_pool_at_once() {
    let bed = Testbed::new();
    bed.pod("a");
    // 16 addresses without network, gateway and broadcast.
    let (held, refused) = add_all(&bed, &pool("10.1.0.0/28"), 0..AT_ONCE);
    assert_eq!((held.len(), refused.len()), (13, AT_ONCE - 13), "{refused:?}");
    assert!(
        refused.iter().all(|text| text.contains("no IP addresses available in range set: 10.1.0.1-10.1.0.14")),
        "{refused:?}"
    );
    assert_leases(&held);
}

fn adds_and_dels_at_once() {
    let bed = Testbed::new();
    bed.pod("a");
    let conf = pool("10.1.0.0/24");
    let (mut held, _) = add_all(&bed, &conf, 0..8);
    for round in 1..4 {
        let old: Vec<_> =
            held.values().map(|number| start(&bed, *number, side(number + round), "DEL", &conf)).collect();
        let (new, refused) = add_all(&bed, &conf, round * 8..round * 8 + 8);
        assert_eq!(refused, Vec::<String>::new());
        for child in old {
            assert!(child.wait_with_output().unwrap().status.success());
        }
        assert_leases(&new);
        held = new;
    }
}

/// Whole attachments: bridges of both sides over one pool and one bridge, at once.
fn links_at_once() {
    let bed = Testbed::new();
    let conf = conf("bridge", "1.1.0");
    let all = |command: &str, shift: usize| {
        let one = |number: usize| {
            let (container, pod) = (format!("c{number}"), format!("p{number}"));
            bed.call(side(number + shift), "bridge")
                .command(command)
                .container(&container)
                .pod(&pod)
                .conf(&conf)
                .start()
        };
        let children: Vec<Child> = (0..8).map(one).collect();
        for child in children {
            let ended = child.wait_with_output().unwrap();
            assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
        }
    };
    (0..8).for_each(|number| drop(bed.pod(&format!("p{number}"))));
    all("ADD", 0);
    assert_eq!(leases().len(), 16, "two families: {:?}", leases());
    assert_eq!(bed.links("").iter().filter(|link| link.as_str() != "lo" && link.as_str() != "cni0").count(), 8);
    all("DEL", 1);
    assert_eq!(
        left(&bed).into_iter().filter(|left| !left.starts_with("record ")).collect::<Vec<_>>(),
        Vec::<String>::new()
    );
}
