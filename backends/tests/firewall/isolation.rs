//! The isolation of bridges: which rules there are, in which order, and until when.

use std::sync::atomic::{AtomicBool, Ordering};

use backends::chained::firewall::{Policy, Resolved, remove_idle_isolation};
use backends::nft::{Filter, Owner};
use backends::{Host, Pod};

use super::{BOTH_FAMILIES, ONE, TWO, added, check, done, execute, lines, previous, removed, resolved};
use crate::Case;
use crate::world::{World, in_pod, ip};

pub(crate) const CASES: &[Case] = &[
    ("firewall::another_policy_replaces_the_first", another_policy_replaces_the_first),
    ("firewall::a_policy_that_the_peer_left_is_replaced", a_policy_that_the_peer_left_is_replaced),
    ("firewall::isolation_comes_before_the_rules_of_addresses", isolation_comes_before_the_rules_of_addresses),
    ("firewall::isolation_goes_with_the_last_port_into_a_pod", isolation_goes_with_the_last_port_into_a_pod),
    ("firewall::isolation_of_bridges_that_are_gone_goes", isolation_of_bridges_that_are_gone_goes),
    ("firewall::idle_isolation_is_collected", idle_isolation_is_collected),
    ("firewall::the_last_pod_that_goes_meets_one_that_comes", the_last_pod_that_goes_meets_one_that_comes),
];

fn policy(policy: &str, bridge: &str, port: &str, addresses: &[&str]) -> Resolved {
    resolved(&format!(r#"{{"ingressPolicy":"{policy}"}}"#), &previous(bridge, port, addresses))
}

/// A port of a bridge whose other end is in the pod.
fn port(pod: &Pod, bridge: &str, name: &str) {
    let netns = pod.netns().path().to_str().unwrap().replace("self", &std::process::id().to_string());
    ip(&format!("link add {name} type veth peer name eth0"));
    in_pod(pod, "link show lo");
    ip(&format!("link set eth0 netns {netns}"));
    ip(&format!("link set {name} master {bridge} up"));
}

const STRICT: [&str; 3] = [
    "-A CNI-ISOLATION-STAGE-1 -i br0 -o br0 -m comment --comment \"CNI firewall plugin rules (ingressPolicy: isolated)\" -j DROP",
    "-A CNI-ISOLATION-STAGE-1 -i br0 ! -o br0 -m comment --comment \"CNI firewall plugin rules (ingressPolicy: isolated)\" -j CNI-ISOLATION-STAGE-2",
    "-A CNI-ISOLATION-STAGE-2 -o br0 -m comment --comment \"CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)\" -j DROP",
];
const SAME: [&str; 2] = [
    "-A CNI-ISOLATION-STAGE-1 -i br0 ! -o br0 -m comment --comment \"CNI firewall plugin rules (ingressPolicy: same-bridge)\" -j CNI-ISOLATION-STAGE-2",
    STRICT[2],
];

fn another_policy_replaces_the_first(_: &mut World) {
    let strict = policy("isolated", "br0", "veth0", &["10.1.0.2/24"]);
    let same = policy("same-bridge", "br0", "veth1", &["10.1.0.3/24"]);
    assert_eq!(strict.isolation.as_ref().unwrap().policy, Policy::Isolated);
    added(&ONE, &strict).unwrap();
    added(&Owner { sandbox: "c3", ..ONE }, &policy("isolated", "br1", "veth3", &["10.2.0.2/24"])).unwrap();
    let other = lines("br1");
    for _ in 0..2 {
        added(&ONE, &strict).unwrap();
        assert_eq!(lines(" br0 "), STRICT);
        added(&TWO, &same).unwrap();
        assert_eq!(lines(" br0 "), SAME);
        check(&ONE, &strict).unwrap();
    }
    assert_eq!((lines("br1"), other.len()), (other, 3));
    for stage in ["-A CNI-ISOLATION-STAGE-1", "-A CNI-ISOLATION-STAGE-2"] {
        assert!(lines(stage).last().unwrap().ends_with("-j RETURN"));
    }
}

fn a_policy_that_the_peer_left_is_replaced(world: &mut World) {
    let pod = world.pod();
    let previous = previous("br0", "veth0", &["10.1.0.2/24"]);
    execute("ADD", &pod, "c1", r#"{"ingressPolicy":"isolated"}"#, &previous).unwrap();
    execute("ADD", &pod, "c1", r#"{"ingressPolicy":"same-bridge"}"#, &previous).unwrap();
    assert_eq!(lines(" br0 ").len(), 4, "the peer leaves both");
    added(&TWO, &policy("same-bridge", "br0", "veth1", &["10.1.0.3/24"])).unwrap();
    assert_eq!(lines(" br0 "), SAME);
}

fn isolation_comes_before_the_rules_of_addresses(_: &mut World) {
    let strict = policy("isolated", "br0", "veth0", BOTH_FAMILIES);
    let order =
        || lines("-A FORWARD").iter().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect::<Vec<_>>();
    let right = [["CNI-ISOLATION-STAGE-1", "CNI-FORWARD"]; 2].concat();
    let plain = resolved("{}", &previous("br0", "veth0", BOTH_FAMILIES));
    added(&ONE, &strict).unwrap();
    assert_eq!(order(), right);
    // Somebody removes the second jump. The peer would put its own before the first.
    for program in ["iptables", "ip6tables"] {
        done(program, "-D FORWARD 2");
    }
    added(&ONE, &plain).unwrap();
    assert_eq!(order(), right);
    // They stand the wrong way round.
    for program in ["iptables", "ip6tables"] {
        let rule = "FORWARD -m comment --comment X -j CNI-FORWARD";
        done(program, "-D FORWARD 2");
        let words = ["-I", "FORWARD", "-m", "comment", "--comment", "CNI firewall plugin rules", "-j", "CNI-FORWARD"];
        assert!(std::process::Command::new(program).args(words).status().unwrap().success(), "{rule}");
    }
    assert_eq!(order(), [["CNI-FORWARD", "CNI-ISOLATION-STAGE-1"]; 2].concat());
    assert!(check(&ONE, &strict).is_err());
    added(&ONE, &strict).unwrap();
    assert_eq!(order(), right);
}

fn isolation_goes_with_the_last_port_into_a_pod(world: &mut World) {
    ip("link add br0 type bridge");
    ip("link add tap0 type veth peer name far0");
    ip("link set tap0 master br0");
    let pods = [world.pod(), world.pod()];
    port(&pods[0], "br0", "veth0");
    port(&pods[1], "br0", "veth1");
    let (first, second) = (
        policy("isolated", "br0", "veth0", BOTH_FAMILIES),
        policy("isolated", "br0", "veth1", &["10.1.0.3/24", "fd00:1::3/64"]),
    );
    added(&ONE, &first).unwrap();
    added(&TWO, &second).unwrap();
    removed(&mut world.host, &ONE, Some(&first));
    assert_eq!(lines(" br0 ").len(), 6, "the second pod is there");
    ip("link del veth0");
    removed(&mut world.host, &TWO, Some(&second));
    assert_eq!(
        (lines(" br0 ").len(), lines("-s ").len()),
        (0, 0),
        "its own port does not count, nor one that leads nowhere"
    );
    removed(&mut world.host, &TWO, Some(&second));
    // A pod of the peer holds it too.
    execute("ADD", &pods[0], "c1", r#"{"ingressPolicy":"isolated"}"#, &previous("br0", "veth1", BOTH_FAMILIES))
        .unwrap();
    removed(&mut world.host, &ONE, Some(&first));
    assert_eq!((lines(" br0 ").len(), lines("-s ").len()), (6, 0));
}

fn isolation_of_bridges_that_are_gone_goes(world: &mut World) {
    ip("link add br0 type bridge");
    ip("link add br1 type bridge");
    let pod = world.pod();
    port(&pod, "br1", "veth1");
    let first = policy("same-bridge", "br0", "veth0", &["10.1.0.2/24"]);
    let second = policy("same-bridge", "br1", "veth1", &["10.2.0.2/24"]);
    let third = policy("same-bridge", "br2", "veth2", &["10.3.0.2/24"]);
    for (sandbox, resolved) in [("c1", &first), ("c2", &second), ("c3", &third)] {
        added(&Owner { sandbox, ..ONE }, resolved).unwrap();
    }
    done("iptables", "-I CNI-ISOLATION-STAGE-1 -i br7 -j DROP");
    removed(&mut world.host, &ONE, Some(&first));
    assert_eq!(
        [" br0 ", " br1 ", " br2 ", " br7 "].map(|bridge| lines(bridge).len()),
        [0, 2, 0, 1],
        "somebody's rule stays"
    );
    ip("link del br1");
    removed(&mut world.host, &TWO, Some(&second));
    assert_eq!(lines(" br1 ").len(), 0);
}

fn idle_isolation_is_collected(world: &mut World) {
    let pod = world.pod();
    ip("link add br0 type bridge");
    ip("link add br1 type bridge");
    port(&pod, "br1", "veth1");
    for bridge in ["br0", "br1", "br2"] {
        added(&ONE, &policy("isolated", bridge, "veth0", BOTH_FAMILIES)).unwrap();
    }
    for _ in 0..2 {
        remove_idle_isolation(&mut world.host, &mut Filter::open().unwrap()).unwrap();
        assert_eq!([" br0 ", " br1 ", " br2 "].map(|bridge| lines(bridge).len()), [0, 6, 0]);
    }
}

/// Whoever comes has its port before it looks at the rules, and finds them or writes them.
fn the_last_pod_that_goes_meets_one_that_comes(world: &mut World) {
    const ROUNDS: usize = 40;
    ip("link add br0 type bridge");
    let pod = world.pod();
    port(&pod, "br0", "veth1");
    let stays = policy("isolated", "br0", "veth1", BOTH_FAMILIES);
    let leaves = policy("isolated", "br0", "veth0", &["10.1.0.3/24"]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut host = Host::open().unwrap();
            while !stop.load(Ordering::Relaxed) {
                added(&TWO, &leaves).unwrap();
                removed(&mut host, &TWO, Some(&leaves));
            }
        });
        let rounds = scope.spawn(|| {
            for _ in 0..ROUNDS {
                ip("link set veth1 master br0");
                added(&ONE, &stays).unwrap();
                check(&ONE, &stays).unwrap();
                ip("link set veth1 nomaster");
                removed(&mut world.host, &ONE, Some(&stays));
            }
        });
        let rounds = rounds.join();
        stop.store(true, Ordering::Relaxed);
        rounds.unwrap();
    });
    assert_eq!((lines(" br0 ").len(), lines("-s ").len()), (0, 0));
}
