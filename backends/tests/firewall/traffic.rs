//! What passes, seen by packets.

use backends::Pod;
use backends::chained::Previous;

use super::{ONE, TWO, added, check, done, previous, removed, resolved};
use crate::Case;
use crate::world::{World, in_pod, ip};

pub(crate) const CASES: &[Case] = &[
    ("firewall::a_dropping_node_forwards_for_the_pod_only", a_dropping_node_forwards_for_the_pod_only),
    ("firewall::the_administrator_overrides", the_administrator_overrides),
    ("firewall::bridges_of_a_policy_do_not_reach_each_other", bridges_of_a_policy_do_not_reach_each_other),
    (
        "firewall::pods_of_an_isolated_bridge_do_not_reach_each_other",
        pods_of_an_isolated_bridge_do_not_reach_each_other,
    ),
];

/// A pod at a bridge that is its gateway, made if it is not there: the pod, what a result says of it, and its addresses.
fn attach(world: &mut World, bridge: u8, pod: u8) -> (Pod, Previous, [String; 2]) {
    let (name, port) = (format!("br{bridge}"), format!("veth{bridge}{pod}"));
    let inside = world.pod();
    // Even a link-local address that is still examined for duplicates makes the first packet wait.
    let examine_nothing = || {
        for conf in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{conf}/accept_dad"), "0").unwrap();
        }
    };
    examine_nothing();
    inside.netns().run(examine_nothing).unwrap();
    if !std::path::Path::new("/proc/sys/net/ipv4/conf").join(&name).exists() {
        ip(&format!("link add {name} type bridge"));
        ip(&format!("link set {name} up"));
        ip(&format!("addr add 10.{bridge}.0.1/24 dev {name}"));
        ip(&format!("addr add fd00:{bridge}::1/64 dev {name} nodad"));
    }
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{key}"), "1").unwrap();
    }
    let netns = inside.netns().path().to_str().unwrap().replace("self", &std::process::id().to_string());
    ip(&format!("link add {port} master {name} type veth peer name eth0 netns {netns}"));
    ip(&format!("link set {port} up"));
    in_pod(&inside, "link set eth0 up");
    let addresses = [format!("10.{bridge}.0.{pod}"), format!("fd00:{bridge}::{pod}")];
    in_pod(&inside, &format!("addr add {}/24 dev eth0", addresses[0]));
    in_pod(&inside, &format!("addr add {}/64 dev eth0 nodad", addresses[1]));
    in_pod(&inside, &format!("route add default via 10.{bridge}.0.1"));
    in_pod(&inside, &format!("-6 route add default via fd00:{bridge}::1"));
    let previous = previous(&name, &port, &[&format!("{}/24", addresses[0]), &format!("{}/64", addresses[1])]);
    (inside, previous, addresses)
}

/// Whether an echo comes back, by each family.
fn reaches(pod: &Pod, addresses: &[String; 2]) -> [bool; 2] {
    let echo = |address: &str| {
        // One answer of three: a neighbour that a dropped solicitation has made unknown is asked for again.
        let words = ["-n", "-q", "-c", "3", "-i", "0.3", "-W", "1", address];
        pod.netns().run(|| std::process::Command::new("ping").args(words).output().unwrap().status.success()).unwrap()
    };
    [echo(&addresses[0]), echo(&addresses[1])]
}

fn dropping() {
    for program in ["iptables", "ip6tables"] {
        done(program, "-P FORWARD DROP");
    }
}

fn a_dropping_node_forwards_for_the_pod_only(world: &mut World) {
    let (pod, result, own) = attach(world, 1, 2);
    let (outside, _, far) = attach(world, 2, 2);
    assert_eq!((reaches(&pod, &far), reaches(&outside, &own)), ([true; 2], [true; 2]), "before");
    dropping();
    assert_eq!((reaches(&pod, &far), reaches(&outside, &own)), ([false; 2], [false; 2]), "nothing passes");
    let plain = resolved("{}", &result);
    added(&ONE, &plain).unwrap();
    assert_eq!(reaches(&pod, &far), [true; 2], "it reaches everybody, and answers come back");
    assert_eq!(reaches(&outside, &own), [false; 2], "others do not reach it by its rules");
    check(&ONE, &plain).unwrap();
    removed(&mut world.host, &ONE, None);
    assert_eq!(reaches(&pod, &far), [false; 2]);
}

fn the_administrator_overrides(world: &mut World) {
    let (pod, result, _) = attach(world, 1, 2);
    let (_, _, far) = attach(world, 2, 2);
    dropping();
    added(&ONE, &resolved("{}", &result)).unwrap();
    assert_eq!(reaches(&pod, &far), [true; 2]);
    done("iptables", &format!("-A CNI-ADMIN -d {} -j DROP", far[0]));
    assert_eq!(reaches(&pod, &far), [false, true]);
}

fn bridges_of_a_policy_do_not_reach_each_other(world: &mut World) {
    let keys = r#"{"ingressPolicy":"same-bridge"}"#;
    let (first, of_first, _) = attach(world, 1, 2);
    let (_, _, neighbour) = attach(world, 1, 3);
    let (second, of_second, far) = attach(world, 2, 2);
    let (_, _, open) = attach(world, 3, 2);
    added(&ONE, &resolved(keys, &of_first)).unwrap();
    assert_eq!(reaches(&first, &far), [true; 2], "the other bridge has no policy yet");
    added(&TWO, &resolved(keys, &of_second)).unwrap();
    assert_eq!(reaches(&first, &far), [false; 2]);
    assert_eq!(reaches(&first, &neighbour), [true; 2], "its own bridge");
    assert_eq!((reaches(&first, &open), reaches(&second, &open)), ([true; 2], [true; 2]), "one without a policy");
    ip("link del veth22");
    removed(&mut world.host, &TWO, Some(&resolved(keys, &of_second)));
    let (_, _, far) = attach(world, 2, 3);
    assert_eq!(reaches(&first, &far), [true; 2], "its policy went with its last pod");
}

/// Frames between ports of one bridge come by the filter (`net.bridge.bridge-nf-call-iptables`).
fn pods_of_an_isolated_bridge_do_not_reach_each_other(world: &mut World) {
    for key in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        std::fs::write(format!("/proc/sys/net/bridge/{key}"), "1").unwrap();
    }
    let (first, of_first, _) = attach(world, 1, 2);
    let (_, of_second, neighbour) = attach(world, 1, 3);
    let (_, _, far) = attach(world, 2, 2);
    let strict = resolved(r#"{"ingressPolicy":"isolated"}"#, &of_first);
    added(&ONE, &strict).unwrap();
    assert_eq!((reaches(&first, &neighbour), reaches(&first, &far)), ([false; 2], [true; 2]));
    added(&TWO, &resolved(r#"{"ingressPolicy":"same-bridge"}"#, &of_second)).unwrap();
    assert_eq!(reaches(&first, &neighbour), [true; 2], "the later policy replaces the earlier");
}
