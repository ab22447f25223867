//! Which default routes there are, and moving the default to one interface.

use backends::{ErrorKind, Family, Pod, Via, default_route_move, default_routes};

use crate::Case;
use crate::world::{World, in_pod, pod_routes};

pub(crate) const CASES: &[Case] = &[
    ("default_route::an_empty_pod_has_none", an_empty_pod_has_none),
    ("default_route::it_moves_to_a_gateway_of_another_interface", it_moves_to_a_gateway_of_another_interface),
    ("default_route::an_interface_keeps_its_own", an_interface_keeps_its_own),
    ("default_route::an_unreachable_gateway_changes_nothing", an_unreachable_gateway_changes_nothing),
];

/// Two interfaces with a network each, in both families.
fn two_interfaces(pod: &Pod) {
    for (name, number) in [("eth0", 1), ("net1", 2)] {
        in_pod(pod, &format!("link add {name} type veth peer name {name}-far"));
        in_pod(pod, &format!("link set {name} up"));
        in_pod(pod, &format!("link set {name}-far up"));
        in_pod(pod, &format!("addr add 10.0.{number}.2/24 dev {name}"));
        in_pod(pod, &format!("-6 addr add fd0{number}::2/64 dev {name} nodad"));
    }
}

fn listed(pod: &mut Pod, family: Family) -> Vec<String> {
    let text = |route: backends::DefaultRoute| {
        format!("{} {} {}", route.ifname, route.gateway.map_or_else(String::new, |ip| ip.to_string()), route.metric)
    };
    default_routes(pod, family).unwrap().into_iter().map(text).collect()
}

fn an_empty_pod_has_none(world: &mut World) {
    let mut pod = world.pod();
    for family in [Family::V4, Family::V6] {
        assert!(default_routes(&mut pod, family).unwrap().is_empty());
        let error = default_route_move(&mut pod, family, "eth0", Via::Own).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LinkMissing);
    }
}

fn it_moves_to_a_gateway_of_another_interface(world: &mut World) {
    let mut pod = world.pod();
    two_interfaces(&pod);
    in_pod(&pod, "route add default via 10.0.1.1");
    in_pod(&pod, "route add default via 10.0.1.9 metric 50");
    in_pod(&pod, "route add default via 10.0.2.9 metric 60");
    in_pod(&pod, "route add default via 10.0.1.1 table 100");
    in_pod(&pod, "-6 route add default via fd01::1");
    in_pod(&pod, "-6 route append default via fd01::9");
    in_pod(&pod, "-6 route add default via fd01::8 metric 50");
    let before = pod_routes(&pod, "-6");
    default_route_move(&mut pod, Family::V4, "net1", Via::Gateway("10.0.2.1".parse().unwrap())).unwrap();
    assert_eq!(listed(&mut pod, Family::V4), ["net1 10.0.2.1 0"]);
    assert_eq!(pod_routes(&pod, "-6"), before, "the other family is nobody's business");
    assert_eq!(in_pod(&pod, "route show table 100").trim(), "default via 10.0.1.1 dev eth0");
    default_route_move(&mut pod, Family::V6, "net1", Via::Gateway("fd02::1".parse().unwrap())).unwrap();
    assert_eq!(listed(&mut pod, Family::V6), ["net1 fd02::1 1024"]);
    // Again, and back.
    default_route_move(&mut pod, Family::V4, "net1", Via::Gateway("10.0.2.1".parse().unwrap())).unwrap();
    default_route_move(&mut pod, Family::V4, "eth0", Via::Gateway("10.0.1.1".parse().unwrap())).unwrap();
    assert_eq!(listed(&mut pod, Family::V4), ["eth0 10.0.1.1 0"]);
}

fn an_interface_keeps_its_own(world: &mut World) {
    let mut pod = world.pod();
    two_interfaces(&pod);
    in_pod(&pod, "route add default via 10.0.1.1");
    in_pod(&pod, "-6 route add default via fd01::1");
    for family in [Family::V4, Family::V6] {
        let error = default_route_move(&mut pod, family, "net1", Via::Own).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(listed(&mut pod, family).len(), 1, "nothing was removed");
    }
    in_pod(&pod, "route add default via 10.0.2.1 metric 100");
    in_pod(&pod, "-6 route add default via fd02::1 metric 2000");
    default_route_move(&mut pod, Family::V4, "net1", Via::Own).unwrap();
    default_route_move(&mut pod, Family::V6, "net1", Via::Own).unwrap();
    assert_eq!(listed(&mut pod, Family::V4), ["net1 10.0.2.1 100"]);
    assert_eq!(listed(&mut pod, Family::V6), ["net1 fd02::1 2000"]);
}

fn an_unreachable_gateway_changes_nothing(world: &mut World) {
    let mut pod = world.pod();
    two_interfaces(&pod);
    in_pod(&pod, "route add default via 10.0.1.1");
    let gateway = Via::Gateway("192.0.2.1".parse().unwrap());
    let error = default_route_move(&mut pod, Family::V4, "net1", gateway).unwrap_err();
    assert_eq!(
        error.chain(),
        "move the default route to 192.0.2.1 at net1: network is unreachable: Nexthop has invalid gateway"
    );
    assert_eq!(listed(&mut pod, Family::V4), ["eth0 10.0.1.1 0"]);
}
