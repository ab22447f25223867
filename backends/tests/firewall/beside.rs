//! Beside the reference plugin and beside `iptables`: each finds, checks and removes what the other made.

use std::sync::atomic::{AtomicBool, Ordering};

use backends::nft::Owner;

use super::{
    BOTH_FAMILIES, ONE, TWO, added, check, done, execute, lines, mismatch, plain, previous, removed, resolved, saved,
};
use crate::Case;
use crate::world::{World, ip};

pub(crate) const CASES: &[Case] = &[
    ("firewall::the_rules_are_the_peers", the_rules_are_the_peers),
    ("firewall::the_peer_checks_and_removes_ours", the_peer_checks_and_removes_ours),
    ("firewall::what_the_peer_made_is_removed", what_the_peer_made_is_removed),
    ("firewall::check_complains_as_the_peer", check_complains_as_the_peer),
    ("firewall::the_peer_adds_to_ours_and_we_to_the_peers", the_peer_adds_to_ours_and_we_to_the_peers),
    ("firewall::writers_at_once_lose_nothing", writers_at_once_lose_nothing),
];

const POLICIES: [&str; 4] = [
    "{}",
    r#"{"ingressPolicy":"same-bridge"}"#,
    r#"{"ingressPolicy":"isolated"}"#,
    r#"{"iptablesAdminChainName":"MINE"}"#,
];

/// Each rule's expressions as the kernel has them, by chain.
fn expressions() -> Vec<String> {
    let text = done("nft", "--debug=netlink list ruleset");
    let mut all: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if line.starts_with("ip") {
            let chain: Vec<&str> = line.split(' ').take(3).collect();
            all.push((chain.join(" "), String::new()));
        } else if line.starts_with("  [") {
            all.last_mut().unwrap().1.push_str(line);
        }
    }
    all.sort_by(|one, other| one.0.cmp(&other.0));
    all.into_iter().map(|(chain, expressions)| format!("{chain}:{expressions}")).collect()
}

fn the_rules_are_the_peers(_: &mut World) {
    for keys in POLICIES {
        let previous = previous("br0", "veth0", BOTH_FAMILIES);
        let made = |by_peer: bool| {
            std::thread::spawn({
                let previous = previous.clone();
                move || {
                    let pod = World::new().pod();
                    if by_peer {
                        execute("ADD", &pod, "c1", keys, &previous).unwrap();
                    } else {
                        added(&ONE, &resolved(keys, &previous)).unwrap();
                    }
                    [saved(), expressions()].concat()
                }
            })
            .join()
            .unwrap()
        };
        let (peers, ours) = (made(true), made(false));
        assert!(peers.iter().any(|line| line.contains("match name conntrack rev 3")), "{peers:?}");
        assert_eq!(ours, peers, "{keys}");
    }
}

fn the_peer_checks_and_removes_ours(world: &mut World) {
    let pod = world.pod();
    for keys in POLICIES {
        let previous = previous("br0", "veth0", BOTH_FAMILIES);
        added(&ONE, &resolved(keys, &previous)).unwrap();
        added(&TWO, &plain(&["10.1.0.3/24", "fd00:1::3/64"])).unwrap();
        execute("CHECK", &pod, "c1", keys, &previous).unwrap();
        execute("DEL", &pod, "c1", keys, &previous).unwrap();
        assert_eq!(lines("10.1.0.2/32").len() + lines("fd00:1::2/128").len(), 0, "{keys}");
        check(&TWO, &plain(&["10.1.0.3/24", "fd00:1::3/64"])).unwrap();
        removed(&mut world.host, &TWO, None);
        removed(&mut world.host, &ONE, Some(&resolved(keys, &previous)));
    }
}

fn what_the_peer_made_is_removed(world: &mut World) {
    let pod = world.pod();
    for keys in POLICIES {
        let previous = previous("br0", "veth0", BOTH_FAMILIES);
        execute("ADD", &pod, "c1", keys, &previous).unwrap();
        check(&ONE, &resolved(keys, &previous)).unwrap();
        removed(&mut world.host, &ONE, Some(&resolved(keys, &previous)));
        assert_eq!(lines("10.1.0.2/32").len() + lines("fd00:1::2/128").len() + lines("br0").len(), 0, "{keys}");
        execute("DEL", &pod, "c1", keys, &previous).unwrap();
    }
}

fn check_complains_as_the_peer(world: &mut World) {
    let pod = world.pod();
    let previous = previous("br0", "veth0", &["10.1.0.2/24"]);
    for words in ["-F FORWARD", "-D CNI-FORWARD 1", "-D CNI-FORWARD 2", "-D CNI-FORWARD 3"] {
        added(&ONE, &plain(&["10.1.0.2/24"])).unwrap();
        done("iptables", words);
        let complaint = execute("CHECK", &pod, "c1", "{}", &previous).unwrap_err();
        // The comment's words are one argument in Go's list of them, printed without quotes.
        assert_eq!(mismatch(&ONE, &plain(&["10.1.0.2/24"])), complaint, "{words}");
        removed(&mut world.host, &ONE, None);
    }
}

fn the_peer_adds_to_ours_and_we_to_the_peers(world: &mut World) {
    let (pod, strict) = (world.pod(), r#"{"ingressPolicy":"isolated"}"#);
    let first = previous("br0", "veth0", BOTH_FAMILIES);
    let second = previous("br0", "veth1", &["10.1.0.3/24", "fd00:1::3/64"]);
    added(&ONE, &resolved(strict, &first)).unwrap();
    let shared =
        || saved().into_iter().filter(|line| !line.contains("/32") && !line.contains("/128")).collect::<Vec<_>>();
    let before = shared();
    execute("ADD", &pod, "c2", strict, &second).unwrap();
    assert_eq!(shared(), before);
    added(&Owner { sandbox: "c3", ..ONE }, &resolved(strict, &previous("br0", "veth2", &["10.1.0.4/24"]))).unwrap();
    assert_eq!(shared(), before);
    // The peer knows an address only: what it adds again for an address of ours is there already.
    execute("ADD", &pod, "c1", strict, &first).unwrap();
    assert_eq!(lines("-s 10.1.0.2/32").len(), 1);
}

/// Writers of the same tables that wait for nobody: `iptables` tries again by itself, and so do we.
fn writers_at_once_lose_nothing(_: &mut World) {
    const ROUNDS: usize = 50;
    let stop = AtomicBool::new(false);
    ip("link add br0 type bridge");
    done("iptables", "-N OTHER");
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let stop = &stop;
                scope.spawn(move || {
                    let mut written = 0;
                    while !stop.load(Ordering::Relaxed) {
                        written += 1;
                        done(
                            "iptables",
                            &format!(
                                "-w -A OTHER -s 192.0.2.{writer} -d 10.{}.{}.1 -j ACCEPT",
                                written / 250,
                                written % 250
                            ),
                        );
                    }
                    written
                })
            })
            .collect();
        let keys = [r#"{"ingressPolicy":"isolated"}"#, "{}"];
        let pods: Vec<_> = keys
            .into_iter()
            .enumerate()
            .map(|(pod, keys)| {
                scope.spawn(move || {
                    let mut host = backends::Host::open().unwrap();
                    for round in 0..ROUNDS {
                        let (sandbox, address) = (format!("p{pod}-{round}"), format!("10.1.{pod}.{round}/16"));
                        let owner = Owner { sandbox: &sandbox, ..ONE };
                        let resolved = resolved(
                            keys,
                            &previous("br0", "veth0", &[&address, &format!("fd00:1::{pod}:{round}/64")]),
                        );
                        added(&owner, &resolved).unwrap();
                        check(&owner, &resolved).unwrap();
                        if round % 2 == 0 {
                            removed(&mut host, &owner, Some(&resolved));
                        }
                    }
                })
            })
            .collect();
        let pods: Vec<_> = pods.into_iter().map(|pod| pod.join()).collect();
        stop.store(true, Ordering::Relaxed);
        pods.into_iter().for_each(|pod| pod.unwrap());
        for (writer, thread) in writers.into_iter().enumerate() {
            let written = thread.join().unwrap();
            assert_eq!(lines(&format!("-A OTHER -s 192.0.2.{writer}/32")).len(), written);
        }
    });
    assert_eq!((lines("-A CNI-FORWARD -s 10.1").len(), lines("-A CNI-FORWARD -s fd00:1").len()), (ROUNDS, ROUNDS));
    assert_eq!(lines("-j CNI-FORWARD").len() + lines("-j CNI-ADMIN").len(), 4, "one of each, in both families");
    assert_eq!(lines("-A FORWARD").iter().filter(|line| line.ends_with("STAGE-1")).count(), 2);
}
