//! At the host's end of a pair: what comes from the pod is redirected to an ifb.

use std::cell::Cell;
use std::io;

use backends::chained::bandwidth::{add, look, noted, remove};
use backends::nft::Owner;
use backends::{Deleter, Deletion, Interface};

use super::{
    BOTH, EGRESS, ETH0, INGRESS, SHARED, added, checked, from, host_bucket, host_ifbs, pair, redirections, spec, tc,
    towards,
};
use crate::Case;
use crate::removal::sent_by_a_thread;
use crate::world::{World, host_link, ip};

pub(crate) const CASES: &[Case] = &[
    ("bandwidth::redirected::both_directions_come_and_go", both_directions_come_and_go),
    ("bandwidth::redirected::interfaces_of_one_container_have_their_own", interfaces_have_their_own),
    ("bandwidth::redirected::filters_of_others_are_left_in_place", filters_of_others_are_left_in_place),
    ("bandwidth::redirected::a_repeated_add_leaves_one_of_each", a_repeated_add_leaves_one_of_each),
    ("bandwidth::redirected::check_sees_what_differs", check_sees_what_differs),
    ("bandwidth::redirected::another_process_deletes_the_ifb", another_process_deletes_the_ifb),
    ("bandwidth::redirected::a_pair_that_is_gone_leaves_an_ifb_to_remove", a_pair_that_is_gone),
];

/// The lowest priority but fifteen.
const PRIORITY: u64 = 65_520;
const ALIAS: &str = "plexus:bandwidth:lab:c1:eth0";

fn both_directions_come_and_go(world: &mut World) {
    let mut pod = world.pod();
    let (host, previous) = pair(world, &mut pod, "eth0");
    ip(&format!("link set {host} mtu 1400"));
    let ifb = added(world, &mut pod, &spec(BOTH), &ETH0, &previous).unwrap().unwrap();
    assert_eq!((ifb.name.as_str(), ifb.in_pod, ifb.mtu), (SHARED, false, None));
    let link = host_link(SHARED);
    assert_eq!(link["address"].as_str(), Some(ifb.mac.as_str()));
    assert_eq!((link["mtu"].as_u64(), link["ifalias"].as_str()), (Some(1400), Some(ALIAS)));
    // `ip` tells of no length that is 0.
    assert_eq!((link["txqlen"].as_u64(), link["flags"].to_string().contains("\"UP\"")), (None, true));
    assert_eq!((host_bucket(&host), host_bucket(SHARED)), (towards(), from()));
    assert_eq!(redirections(&host), [(PRIORITY, SHARED.to_owned())]);
    assert_eq!(checked(world, &mut pod, &spec(BOTH), &previous), "");
    assert!(noted(&mut world.host).unwrap()[0].can_be_of(&ETH0));
    for _ in 0..2 {
        remove(&mut world.host, Some(&mut pod), &ETH0, None).unwrap();
        assert_eq!((host_bucket(&host), redirections(&host), host_ifbs()), (None, vec![], vec![]));
    }
    let ifb = added(world, &mut pod, &spec(EGRESS), &ETH0, &previous).unwrap();
    assert_eq!((ifb.is_some(), host_bucket(&host), host_bucket(SHARED)), (true, None, from()));
    assert_eq!(checked(world, &mut pod, &spec(EGRESS), &previous), "");
}

/// The reference plugin's second ADD fails ("adding link: file exists") and leaves its bucket.
fn interfaces_have_their_own(world: &mut World) {
    let mut pod = world.pod();
    let net1 = Owner { ifname: "net1", ..ETH0 };
    let (host0, previous0) = pair(world, &mut pod, "eth0");
    let (host1, previous1) = pair(world, &mut pod, "net1");
    added(world, &mut pod, &spec(BOTH), &ETH0, &previous0).unwrap();
    // Asked before the first one was there: the name is taken meanwhile.
    let place = look(&mut world.host, &mut pod, &spec(EGRESS), &net1, &previous1).unwrap();
    let other = add(&mut world.host, &mut pod, &spec(EGRESS), &place, &net1, None).unwrap().unwrap().name;
    assert_eq!(other, "bwp72d2f63ea6be");
    assert_eq!((redirections(&host0)[0].1.as_str(), redirections(&host1)[0].1.as_str()), (SHARED, other.as_str()));
    assert_eq!(checked(world, &mut pod, &spec(BOTH), &previous0), "");
    remove(&mut world.host, Some(&mut pod), &ETH0, None).unwrap();
    assert_eq!(host_ifbs(), [(other.clone(), "plexus:bandwidth:lab:c1:net1".to_owned())]);
    // A repeated ADD keeps its own, though the better name is free now.
    assert_eq!(added(world, &mut pod, &spec(EGRESS), &net1, &previous1).unwrap().unwrap().name, other);
    remove(&mut world.host, None, &net1, None).unwrap();
    assert_eq!(host_ifbs(), []);
}

fn filters_of_others_are_left_in_place(world: &mut World) {
    for kind in ["clsact", "ingress"] {
        let mut pod = world.pod();
        let (host, previous) = pair(world, &mut pod, "eth0");
        tc(&format!("qdisc add dev {host} {kind}"));
        let filter = "u32 match u32 1 1 at 0 flowid 1:1";
        tc(&format!("filter add dev {host} ingress protocol all pref 1 {filter}"));
        tc(&format!("filter add dev {host} ingress protocol all {filter}"));
        let others = || tc(&format!("filter show dev {host} ingress")).matches("flowid 1:1").count();
        added(world, &mut pod, &spec(BOTH), &ETH0, &previous).unwrap();
        assert_eq!((others(), redirections(&host).len()), (2, 1));
        assert_eq!(checked(world, &mut pod, &spec(BOTH), &previous), "");
        remove(&mut world.host, Some(&mut pod), &ETH0, None).unwrap();
        assert_eq!((others(), redirections(&host).len()), (2, 0));
        assert!(tc(&format!("qdisc show dev {host}")).contains(kind));
        ip(&format!("link del {host}"));
    }
}

fn a_repeated_add_leaves_one_of_each(world: &mut World) {
    let mut pod = world.pod();
    let (host, previous) = pair(world, &mut pod, "eth0");
    added(world, &mut pod, &spec(r#"{"egressRate":800,"egressBurst":8000}"#), &ETH0, &previous).unwrap();
    for _ in 0..2 {
        let ifb = added(world, &mut pod, &spec(BOTH), &ETH0, &previous).unwrap().unwrap();
        assert_eq!(ifb.name, SHARED);
        assert_eq!((host_bucket(&host), host_bucket(SHARED)), (towards(), from()));
        assert_eq!((host_ifbs().len(), redirections(&host).len()), (1, 1));
    }
    // Somebody deleted the ifb: nothing passes any more.
    ip(&format!("link del {SHARED}"));
    added(world, &mut pod, &spec(BOTH), &ETH0, &previous).unwrap();
    assert_eq!(redirections(&host), [(PRIORITY, SHARED.to_owned())]);
    assert_eq!(checked(world, &mut pod, &spec(BOTH), &previous), "");
    ip(&format!("link del {SHARED}"));
    remove(&mut world.host, Some(&mut pod), &ETH0, None).unwrap();
    assert_eq!(tc(&format!("filter show dev {host} ingress")), "");
}

fn check_sees_what_differs(world: &mut World) {
    let mut pod = world.pod();
    let (host, previous) = pair(world, &mut pod, "eth0");
    let lost = format!("Failed to find filter that redirects {host} to {SHARED}");
    let down = format!("ifb device {SHARED} is down");
    type Broken<'a> = (&'a dyn Fn(), &'a str);
    let cases: [Broken<'_>; 6] = [
        (
            &|| drop(tc(&format!("qdisc change dev {SHARED} root handle 1: tbf rate 1mbit burst 9k limit 9k"))),
            "Rate doesn't match",
        ),
        (&|| drop(tc(&format!("qdisc del dev {SHARED} root"))), "Failed to find qdisc"),
        (&|| drop(tc(&format!("qdisc del dev {host} root"))), "Failed to find qdisc"),
        (&|| drop(tc(&format!("filter del dev {host} ingress"))), &lost),
        (&|| drop(ip(&format!("link set {SHARED} down"))), &down),
        (&|| drop(ip(&format!("link del {SHARED}"))), "get ifb device: Link not found"),
    ];
    for (breaking, text) in cases {
        added(world, &mut pod, &spec(BOTH), &ETH0, &previous).unwrap();
        breaking();
        assert_eq!(checked(world, &mut pod, &spec(BOTH), &previous), text);
        remove(&mut world.host, Some(&mut pod), &ETH0, None).unwrap();
    }
    added(world, &mut pod, &spec(INGRESS), &ETH0, &previous).unwrap();
    assert_eq!(checked(world, &mut pod, &spec(EGRESS), &previous), "get ifb device: Link not found");
}

fn another_process_deletes_the_ifb(world: &mut World) {
    let mut pod = world.pod();
    let (_, previous) = pair(world, &mut pod, "eth0");
    added(world, &mut pod, &spec(BOTH), &ETH0, &previous).unwrap();
    let deletions = Cell::new(0);
    let spawn = |deletion: Deletion| -> io::Result<Box<dyn Deleter>> {
        deletions.set(deletions.get() + 1);
        sent_by_a_thread(deletion)
    };
    for _ in 0..2 {
        remove(&mut world.host, Some(&mut pod), &ETH0, Some(&spawn)).unwrap();
        assert_eq!((deletions.get(), host_ifbs()), (1, vec![]), "without an ifb there is nothing to hand over");
    }
}

fn a_pair_that_is_gone(world: &mut World) {
    let mut pod = world.pod();
    let (host, previous) = pair(world, &mut pod, "eth0");
    let ifb: Option<Interface> = added(world, &mut pod, &spec(BOTH), &ETH0, &previous).unwrap();
    ip(&format!("link del {host}"));
    assert_eq!(host_ifbs(), [(ifb.unwrap().name, ALIAS.to_owned())]);
    remove(&mut world.host, None, &ETH0, None).unwrap();
    assert_eq!(host_ifbs(), []);
}
