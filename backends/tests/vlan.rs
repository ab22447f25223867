//! vlan and dummy, and the VLANs of a bridge, against the kernel, where it has them.

use backends::{Error, ErrorKind, Expected, Layer3, Pod, Spec, Target, bridge, build, check, dummy, vlan};

use crate::Case;
use crate::world::{
    World, conf, host_link, host_links, in_pod, ip, layer3, pod_addresses, pod_link, pod_links, target,
};

pub(crate) const CASES: &[Case] = &[
    ("vlan::one_message_gives_the_final_link", one_message_gives_the_final_link),
    ("vlan::a_name_of_the_host_is_free_in_the_pod", a_name_of_the_host_is_free_in_the_pod),
    ("vlan::a_failing_step_leaves_nothing", a_failing_step_leaves_nothing),
    ("vlan::check_sees_another_id", check_sees_another_id),
    ("dummy::it_has_addresses_and_no_wire", it_has_addresses_and_no_wire),
    ("dummy::a_failing_step_leaves_nothing", a_failing_dummy_leaves_nothing),
    ("vlan_filtering::a_gateway_that_stayed_half_made_is_completed", a_half_made_gateway_is_completed),
    ("vlan_filtering::pods_of_one_vlan_reach_its_gateway_and_no_other", pods_reach_their_own_gateway),
];

/// What the kernel must have for the cases whose names begin so: words for `ip`.
pub(crate) const NEEDS: &[(&str, &str)] = &[
    ("vlan::", "link add link x0 name x0.5 type vlan id 5"),
    ("dummy::", "link add d0 type dummy"),
    ("ipvlan::", "link add link x0 name x1 type ipvlan"),
    ("vlan_filtering::", "link add b0 type bridge vlan_filtering 1"),
    ("vrf::", "link add v0 type vrf table 1"),
    ("tap::", "tuntap add mode tap name t0"),
];

const UNREACHABLE: &str = "192.0.2.0/24 172.16.0.1";

fn vlan_spec(text: &str) -> Spec {
    Spec::Vlan(conf::<vlan::Conf>(text).validate().unwrap())
}

fn built(world: &mut World, pod: &mut Pod, spec: Spec, target: &Target<'_>, l3: Layer3) -> Result<Expected, Error> {
    let resolved = spec.resolve(&mut world.host, Some(pod))?;
    let built = build(&mut world.host, pod, &resolved, target, l3)?;
    let backends::Built { interfaces, layer3, .. } = built;
    Ok(Expected { interfaces, addresses: layer3.addresses, routes: layer3.routes, ..Expected::default() })
}

fn one_message_gives_the_final_link(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    let spec = vlan_spec(r#"{"master":"ext0","vlanId":100,"mtu":1400}"#);
    let target = Target { group: Some(77), ..target("net1") };
    let l3 = layer3(&["10.0.0.2/24 10.0.0.1", "fd00::2/64"], &["0.0.0.0/0"]);
    let expected = built(world, &mut pod, spec.clone(), &target, l3).unwrap();
    let link = pod_link(&pod, "net1");
    assert_eq!((link["mtu"].as_u64(), link["group"].as_str()), (Some(1400), Some("77")));
    assert_eq!(link["linkinfo"]["info_kind"], "vlan");
    assert_eq!(link["linkinfo"]["info_data"]["id"], 100);
    assert_eq!(link["address"], host_link("ext0")["address"]);
    assert_eq!(pod_addresses(&pod, "net1"), ["10.0.0.2/24", "fd00::2/64"]);
    check(&mut world.host, &mut pod, &spec, "net1", &expected).unwrap();
}

fn a_name_of_the_host_is_free_in_the_pod(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    built(world, &mut pod, vlan_spec(r#"{"master":"ext0"}"#), &target("ext0"), layer3(&[], &[])).unwrap();
    assert_eq!(pod_link(&pod, "ext0")["linkinfo"]["info_data"]["id"], 0);
}

fn a_failing_step_leaves_nothing(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    let spec = vlan_spec(r#"{"master":"ext0","vlanId":5}"#);
    let error = built(world, &mut pod, spec, &target("net1"), layer3(&["10.0.0.2/24"], &[UNREACHABLE])).unwrap_err();
    assert!(error.undo_failure().is_none());
    assert_eq!(pod_links(&pod), ["lo"]);
}

fn check_sees_another_id(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    let spec = vlan_spec(r#"{"master":"ext0","vlanId":5}"#);
    let expected = built(world, &mut pod, spec, &target("net1"), layer3(&[], &[])).unwrap();
    for (text, words) in [
        (r#"{"master":"ext0","vlanId":6}"#, "container interface net1 has VLAN ID 5, expected 6"),
        (r#"{"master":"ext0","vlanId":5,"mtu":1400}"#, "container interface net1 has MTU 1500, expected 1400"),
    ] {
        let error = check(&mut world.host, &mut pod, &vlan_spec(text), "net1", &expected).unwrap_err();
        assert_eq!((error.kind(), error.chain().as_str()), (ErrorKind::Mismatch, words));
    }
}

fn it_has_addresses_and_no_wire(world: &mut World) {
    let mut pod = world.pod();
    assert_eq!(conf::<dummy::Conf>("{}"), dummy::Conf {});
    let target = Target { group: Some(77), ..target("net1") };
    let expected = built(world, &mut pod, Spec::Dummy, &target, layer3(&["10.0.0.2/24", "fd00::2/64"], &[])).unwrap();
    assert_eq!(pod_link(&pod, "net1")["group"], "77");
    assert_eq!(pod_addresses(&pod, "net1"), ["10.0.0.2/24", "fd00::2/64"]);
    check(&mut world.host, &mut pod, &Spec::Dummy, "net1", &expected).unwrap();
    in_pod(&pod, "link set net1 down");
    let error = check(&mut world.host, &mut pod, &Spec::Dummy, "net1", &expected).unwrap_err();
    assert_eq!(error.chain(), "Interface net1 is down");
}

fn a_failing_dummy_leaves_nothing(world: &mut World) {
    let mut pod = world.pod();
    let l3 = layer3(&["10.0.0.2/24"], &[UNREACHABLE]);
    built(world, &mut pod, Spec::Dummy, &target("net1"), l3).unwrap_err();
    assert_eq!(pod_links(&pod), ["lo"]);
}

fn bridge_spec(text: &str) -> Spec {
    Spec::Bridge(conf::<bridge::Conf>(text).validate(true).unwrap())
}

fn a_half_made_gateway_is_completed(world: &mut World) {
    let mut pod = world.pod();
    ip("link add br0 type bridge vlan_filtering 1");
    ip("link add br0.100 type veth peer name port0");
    ip("link set port0 master br0 up");
    let spec = bridge_spec(r#"{"bridge":"br0","vlan":100,"isGateway":true}"#);
    let expected = built(world, &mut pod, spec, &target("net1"), layer3(&["10.0.0.2/24"], &[])).unwrap();
    assert_eq!(expected.interfaces[3].name, "br0.100");
    assert_eq!(Some(expected.interfaces[3].mac.as_str()), host_link("br0.100")["address"].as_str());
    pod.netns().run(|| std::net::UdpSocket::bind("10.0.0.2:0").unwrap()).unwrap();
    reaches(&pod, "10.0.0.1:7000", true);
}

/// Whether the pod gets an answer of the host at this address.
fn reaches(pod: &Pod, address: &str, expected: bool) {
    let listener = std::net::TcpListener::bind(address).unwrap();
    let limit = std::time::Duration::from_secs(if expected { 20 } else { 1 });
    let there = listener.local_addr().unwrap();
    let reached = pod.netns().run(|| std::net::TcpStream::connect_timeout(&there, limit).is_ok()).unwrap();
    assert_eq!(reached, expected, "{address}");
}

fn pods_reach_their_own_gateway(world: &mut World) {
    let (mut first, mut second) = (world.pod(), world.pod());
    for (pod, vlan, address) in [(&mut first, 100, "10.0.0.2/24"), (&mut second, 200, "10.0.1.2/24")] {
        let spec = bridge_spec(&format!(r#"{{"bridge":"br0","vlan":{vlan},"isGateway":true}}"#));
        built(world, pod, spec, &target("net1"), layer3(&[address], &[])).unwrap();
    }
    assert!(host_links().contains(&"br0.100".to_owned()) && host_links().contains(&"br0.200".to_owned()));
    reaches(&first, "10.0.0.1:7000", true);
    reaches(&second, "10.0.1.1:7000", true);
    // An address of the other VLAN's network, as if it were on the same wire.
    in_pod(&second, "addr add 10.0.0.9/24 dev net1");
    reaches(&second, "10.0.0.1:7001", false);
}
