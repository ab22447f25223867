//! At the host's end of a pair: what needs no filter.

use backends::chained::Previous;
use backends::chained::bandwidth::{add, check, look, noted, remove, remove_noted};
use backends::nft::Owner;
use backends::{ErrorKind, Interface};

use super::{BOTH, ETH0, INGRESS, SHARED, added, checked, host_bucket, host_ifbs, pair, path_of, spec, tc, towards};
use crate::Case;
use crate::world::{World, host_links, in_pod, ip, pod_link};

pub(crate) const CASES: &[Case] = &[
    ("bandwidth::pair::the_bucket_is_at_the_hosts_end", the_bucket_is_at_the_hosts_end),
    ("bandwidth::pair::a_repeated_add_replaces", a_repeated_add_replaces),
    ("bandwidth::pair::a_root_of_somebody_else_stays", a_root_of_somebody_else_stays),
    ("bandwidth::pair::without_a_host_end_it_says_why", without_a_host_end_it_says_why),
    ("bandwidth::pair::an_index_of_a_third_namespace_is_not_the_hosts", an_index_of_a_third_namespace),
    ("bandwidth::pair::without_limits_nothing_is_asked", without_limits_nothing_is_asked),
    ("bandwidth::pair::everything_may_be_gone", everything_may_be_gone),
    ("bandwidth::pair::a_half_made_ifb_is_found", a_half_made_ifb_is_found),
    ("bandwidth::pair::collection_names_owners", collection_names_owners),
];

fn the_bucket_is_at_the_hosts_end(world: &mut World) {
    let mut pod = world.pod();
    let (host, previous) = pair(world, &mut pod, "eth0");
    let spec = spec(INGRESS);
    assert_eq!(added(world, &mut pod, &spec, &ETH0, &previous).unwrap(), None, "a bucket is no interface");
    assert_eq!(host_bucket(&host), towards());
    assert_eq!(host_ifbs(), []);
    assert_eq!(checked(world, &mut pod, &spec, &previous), "");
    for (words, text) in [
        ("rate 8001kbit burst 100000 latency 25ms", "Rate doesn't match"),
        ("rate 8mbit burst 100000 latency 26ms", "Limit doesn't match"),
        ("rate 8mbit burst 90000 limit 125000", "Buffer doesn't match"),
    ] {
        tc(&format!("qdisc change dev {host} root handle 1: tbf {words}"));
        assert_eq!(checked(world, &mut pod, &spec, &previous), text);
    }
    tc(&format!("qdisc replace dev {host} root handle 9: pfifo"));
    assert_eq!(checked(world, &mut pod, &spec, &previous), "Failed to find qdisc");
    remove(&mut world.host, Some(&mut pod), &ETH0, None).unwrap();
    assert!(tc(&format!("qdisc show dev {host}")).contains("pfifo 9:"), "it is somebody else's");
    tc(&format!("qdisc del dev {host} root"));
    assert_eq!(checked(world, &mut pod, &spec, &previous), "Failed to find qdisc");
    added(world, &mut pod, &spec, &ETH0, &previous).unwrap();
    for _ in 0..2 {
        remove(&mut world.host, Some(&mut pod), &ETH0, None).unwrap();
        assert_eq!(host_bucket(&host), None);
    }
}

/// The reference plugin's second ADD fails: "create qdisc: file exists".
fn a_repeated_add_replaces(world: &mut World) {
    let mut pod = world.pod();
    let (host, previous) = pair(world, &mut pod, "eth0");
    added(world, &mut pod, &spec(r#"{"ingressRate":80,"ingressBurst":80000}"#), &ETH0, &previous).unwrap();
    added(world, &mut pod, &spec(INGRESS), &ETH0, &previous).unwrap();
    assert_eq!(host_bucket(&host), towards());
}

fn a_root_of_somebody_else_stays(world: &mut World) {
    let mut pod = world.pod();
    let (host, previous) = pair(world, &mut pod, "eth0");
    tc(&format!("qdisc add dev {host} root handle 9: pfifo"));
    let error = added(world, &mut pod, &spec(BOTH), &ETH0, &previous).unwrap_err();
    assert!(error.chain().starts_with("create qdisc: file exists"), "{}", error.chain());
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(tc(&format!("qdisc show dev {host}")).contains("pfifo 9:"));
    assert_eq!(host_ifbs(), [], "a failing step leaves nothing");
}

fn without_a_host_end_it_says_why(world: &mut World) {
    let mut pod = world.pod();
    let (host, previous) = pair(world, &mut pod, "eth0");
    in_pod(&pod, "link add net1 type veth peer name net2");
    let named = |name: &str| Previous {
        interfaces: vec![Interface { name: name.to_owned(), ..Interface::default() }],
        ..Previous::default()
    };
    let in_pod_only = Previous { interfaces: vec![previous.interfaces[1].clone()], ..Previous::default() };
    let index = pod_link(&pod, "net2")["ifindex"].as_u64().unwrap();
    let nowhere = format!("veth peer with index {index} is not in host ns");
    for (ifname, previous, text) in [
        ("eth0", Previous::default(), "no interfaces provided"),
        ("eth0", named("veth77"), "no veth peer of container interface found in host ns"),
        ("eth0", in_pod_only, "no veth peer of container interface found in host ns"),
        ("eth9", named(&host), "container interface eth9 has no veth peer: could not look up \"eth9\": Link not found"),
        ("lo", named(&host), "container interface lo has no veth peer: interface \"lo\" was not a veth interface"),
        ("net1", named(&host), &nowhere),
    ] {
        let (owner, spec) = (Owner { ifname, ..ETH0 }, spec(BOTH));
        let error = look(&mut world.host, &mut pod, &spec, &owner, &previous).unwrap_err();
        assert_eq!(error.chain(), text);
        let error = check(&mut world.host, &mut pod, &spec, &owner, &previous).unwrap_err();
        assert_eq!(error.chain(), text);
    }
}

/// The reference plugin takes the host's link of that index, whatever it is.
fn an_index_of_a_third_namespace(world: &mut World) {
    let (mut pod, third) = (world.pod(), world.pod());
    in_pod(&third, "link add far index 500 type veth peer name eth0");
    in_pod(&third, &format!("link set eth0 netns {}", path_of(&pod)));
    ip("link add veth77 index 500 type veth peer name veth78");
    let interfaces = vec![Interface { name: "veth77".to_owned(), ..Interface::default() }];
    let previous = Previous { interfaces, ..Previous::default() };
    let error = look(&mut world.host, &mut pod, &spec(INGRESS), &ETH0, &previous).unwrap_err();
    assert_eq!(error.chain(), "veth peer with index 500 is not in host ns");
    tc("qdisc add dev veth77 root handle 1: tbf rate 8mbit burst 100000 latency 25ms");
    remove(&mut world.host, Some(&mut pod), &ETH0, None).unwrap();
    assert_eq!(host_bucket("veth77"), towards(), "it is another's");
}

fn without_limits_nothing_is_asked(world: &mut World) {
    let mut pod = world.pod();
    let (host, previous) = pair(world, &mut pod, "eth0");
    let place = look(&mut world.host, &mut pod, &spec(BOTH), &ETH0, &previous).unwrap();
    let idle = spec(r#"{"ingressRate":0}"#);
    assert!(idle.is_idle());
    assert_eq!(add(&mut world.host, &mut pod, &idle, &place, &ETH0, None).unwrap(), None);
    check(&mut world.host, &mut pod, &idle, &ETH0, &Previous::default()).unwrap();
    assert_eq!((host_bucket(&host), host_ifbs()), (None, vec![]));
}

fn everything_may_be_gone(world: &mut World) {
    let mut pod = world.pod();
    remove(&mut world.host, Some(&mut pod), &ETH0, None).unwrap();
    remove(&mut world.host, None, &ETH0, None).unwrap();
    let (host, previous) = pair(world, &mut pod, "eth0");
    added(world, &mut pod, &spec(INGRESS), &ETH0, &previous).unwrap();
    ip(&format!("link del {host}"));
    let error = checked(world, &mut pod, &spec(INGRESS), &previous);
    assert_eq!(error, "container interface eth0 has no veth peer: could not look up \"eth0\": Link not found");
    remove(&mut world.host, Some(&mut pod), &ETH0, None).unwrap();
    remove(&mut world.host, None, &ETH0, None).unwrap();
}

/// As it is when the process is killed right after the message that makes it: without an alias. The hardware address tells.
fn a_half_made_ifb_is_found(world: &mut World) {
    let mut pod = world.pod();
    let (_, previous) = pair(world, &mut pod, "eth0");
    let half_made = |owner: &Owner<'_>| format!("link add {SHARED} address {} type ifb", mac_of(owner));
    for ifname in ["eth0", "net1"] {
        ip(&half_made(&Owner { ifname, ..ETH0 }));
        remove(&mut world.host, Some(&mut pod), &ETH0, None).unwrap();
        assert_eq!(host_ifbs().is_empty(), ifname == "eth0", "the other one is another interface's");
    }
    let listed = noted(&mut world.host).unwrap();
    assert!(listed[0].can_be_of(&Owner { ifname: "net1", ..ETH0 }));
    remove(&mut world.host, None, &Owner { ifname: "net1", ..ETH0 }, None).unwrap();
    assert_eq!(host_ifbs(), []);
    ip(&half_made(&ETH0));
    let place = look(&mut world.host, &mut pod, &spec(BOTH), &ETH0, &previous).unwrap();
    assert!(format!("{place:?}").contains(SHARED), "it is taken up again");
}

/// 2 and the first 40 bits of the SHA-512 of network, container and interface.
fn mac_of(owner: &Owner<'_>) -> String {
    let known = [("eth0", ETH0_MAC), ("net1", NET1_MAC)];
    known.into_iter().find(|(ifname, _)| *ifname == owner.ifname).unwrap().1.to_owned()
}

const ETH0_MAC: &str = "02:aa:f5:de:ae:2c";
const NET1_MAC: &str = "02:72:d2:f6:3e:a6";

fn collection_names_owners(world: &mut World) {
    for (name, alias) in [
        ("bwp000000000001", "plexus:bandwidth:lab:c1:eth0"),
        ("bwp000000000002", "plexus:bandwidth:lab:c2:eth0"),
        (SHARED, ""),
        ("ifb7", "plexus:bandwidth:lab:c1:eth0"),
        ("bwp000000000003", "somebody's"),
    ] {
        ip(&format!("link add {name} type ifb"));
        if !alias.is_empty() {
            ip(&format!("link set {name} alias {alias}"));
        }
    }
    ip("link add bwp000000000004 type veth peer name x");
    let listed = noted(&mut world.host).unwrap();
    let told: Vec<_> = listed.iter().map(|one| (one.device.as_str(), one.sandbox.as_str())).collect();
    assert_eq!(told, [("bwp000000000001", "c1"), ("bwp000000000002", "c2"), (SHARED, "")]);
    let of_eth0: Vec<_> = listed.iter().filter(|one| one.can_be_of(&ETH0)).map(|one| one.device.as_str()).collect();
    assert_eq!(of_eth0, ["bwp000000000001", SHARED]);

    // One has become another's since, one is gone.
    ip("link set bwp000000000002 alias other");
    ip("link del bwp000000000001");
    remove_noted(&mut world.host, &listed).unwrap();
    let mut left = host_links();
    left.retain(|name| name != "lo");
    left.sort();
    assert_eq!(left, ["bwp000000000002", "bwp000000000003", "bwp000000000004", "ifb7", "x"]);
    remove_noted(&mut world.host, &[]).unwrap();
}
