//! Links without an end on the host are shaped inside the pod.

use backends::chained::Previous;
use backends::chained::bandwidth::{Spec, add, look, remove};
use backends::{Before, Doomed, Interface, Pod, build, ipvlan, macvlan, remove_now};

use super::{
    BOTH, EGRESS, ETH0, INGRESS, SHARED, added, checked, from, host_ifbs, of_filters, pod_bucket, pod_ifbs, spec,
    tc_in, towards,
};
use crate::Case;
use crate::world::{World, conf, in_pod, layer3, pod_link, pod_links, target};

pub(crate) const CASES: &[Case] = &[
    ("bandwidth::inside::what_the_pod_sends_needs_no_ifb", what_the_pod_sends_needs_no_ifb),
    ("bandwidth::inside::redirected::both_directions_come_and_go", both_directions_come_and_go),
    ("bandwidth::inside::redirected::the_ifb_leaves_with_the_pods_links", the_ifb_leaves_with_the_pods_links),
    ("bandwidth::inside::redirected::ipvlan::it_is_shaped_too", ipvlan_is_shaped_too),
];

/// The name of the ifb of this interface alone.
const OWN: &str = "bwpaaf5deae2c6a";

fn built(world: &mut World, pod: &mut Pod, spec: backends::Spec, addresses: &[&str]) -> Previous {
    let resolved = spec.resolve(&mut world.host, Some(pod)).unwrap();
    let built = build(&mut world.host, pod, &resolved, &target("eth0"), layer3(addresses, &[])).unwrap();
    Previous { interfaces: built.interfaces, ..Previous::default() }
}

/// macvlan on the near end of a pair of the host's.
pub(super) fn macvlan(world: &mut World, pod: &mut Pod, addresses: &[&str]) -> Previous {
    world.lower("ext0");
    let conf = conf::<macvlan::Conf>(r#"{"master":"ext0","mode":"bridge"}"#);
    built(world, pod, backends::Spec::Macvlan(conf.validate().unwrap()), addresses)
}

fn redirections(pod: &Pod) -> Vec<(u64, String)> {
    of_filters(&tc_in(pod, "-j filter show dev eth0 ingress"))
}

fn what_the_pod_sends_needs_no_ifb(world: &mut World) {
    let mut pod = world.pod();
    let previous = macvlan(world, &mut pod, &[]);
    assert_eq!(added(world, &mut pod, &spec(EGRESS), &ETH0, &previous).unwrap(), None);
    assert_eq!(pod_bucket(&pod, "eth0"), from());
    assert_eq!((pod_ifbs(&pod), host_ifbs()), (vec![], vec![]));
    assert_eq!(checked(world, &mut pod, &spec(EGRESS), &previous), "");
    assert_eq!(checked(world, &mut pod, &spec(INGRESS), &previous), "get ifb device: Link not found");
    remove(&mut world.host, Some(&mut pod), &ETH0, None).unwrap();
    assert_eq!(pod_bucket(&pod, "eth0"), None);
    assert_eq!(checked(world, &mut pod, &spec(EGRESS), &previous), "Failed to find qdisc");
    let error = added(world, &mut pod, &spec(EGRESS), &ETH0, &Previous::default()).unwrap_err();
    assert_eq!(error.chain(), "no interfaces provided");
}

fn come_and_go(world: &mut World, pod: &mut Pod, spec: &Spec, previous: &Previous) {
    let gained: Option<Interface> = added(world, pod, spec, &ETH0, previous).unwrap();
    assert_eq!(gained, None, "the pod's own affair");
    assert_eq!((pod_bucket(pod, "eth0"), pod_bucket(pod, OWN)), (from(), towards()));
    assert_eq!(pod_ifbs(pod), [(OWN.to_owned(), "plexus:bandwidth:lab:c1:eth0".to_owned())]);
    assert_eq!(redirections(pod), [(65_520, OWN.to_owned())]);
    assert_eq!(host_ifbs(), []);
    assert_eq!(checked(world, pod, spec, previous), "");
    added(world, pod, spec, &ETH0, previous).unwrap();
    assert_eq!((redirections(pod).len(), pod_ifbs(pod).len()), (1, 1), "a repeated ADD");
    for _ in 0..2 {
        remove(&mut world.host, Some(pod), &ETH0, None).unwrap();
        assert_eq!((pod_bucket(pod, "eth0"), redirections(pod), pod_ifbs(pod)), (None, vec![], vec![]));
    }
    assert_eq!(checked(world, pod, spec, previous), "Failed to find qdisc");
}

fn both_directions_come_and_go(world: &mut World) {
    let mut pod = world.pod();
    let previous = macvlan(world, &mut pod, &[]);
    // The name is free in the pod, but nobody else's.
    in_pod(&pod, &format!("link add {SHARED} type ifb"));
    come_and_go_beside(world, &mut pod, &previous);
    in_pod(&pod, &format!("link del {SHARED}"));
    come_and_go(world, &mut pod, &spec(BOTH), &previous);
}

fn come_and_go_beside(world: &mut World, pod: &mut Pod, previous: &Previous) {
    added(world, pod, &spec(BOTH), &ETH0, previous).unwrap();
    assert_eq!(pod_ifbs(pod).len(), 2);
    remove(&mut world.host, Some(pod), &ETH0, None).unwrap();
    assert_eq!(pod_ifbs(pod), [(SHARED.to_owned(), String::new())]);
}

/// One message for all links of the group: DEL needs none of its own for the ifb.
fn the_ifb_leaves_with_the_pods_links(world: &mut World) {
    let mut pod = world.pod();
    let previous = macvlan(world, &mut pod, &[]);
    in_pod(&pod, "link set eth0 group 77");
    let place = look(&mut world.host, &mut pod, &spec(BOTH), &ETH0, &previous).unwrap();
    add(&mut world.host, &mut pod, &spec(BOTH), &place, &ETH0, Some(77)).unwrap();
    assert_eq!(pod_link(&pod, OWN)["group"], "77");
    remove_now(&mut pod, &[Doomed::Group(77)]).unwrap();
    assert_eq!(pod_links(&pod), ["lo"]);
    remove(&mut world.host, Some(&mut pod), &ETH0, None).unwrap();
}

fn ipvlan_is_shaped_too(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    let conf = conf::<ipvlan::Conf>(r#"{"master":"ext0"}"#);
    let ipvlan = backends::Spec::Ipvlan(conf.validate(Before::Nothing).unwrap());
    let previous = built(world, &mut pod, ipvlan, &["10.9.0.2/24"]);
    come_and_go(world, &mut pod, &spec(BOTH), &previous);
}
