//! ipvlan on a lower device of the host, and of the pod, where the kernel has it.

use backends::{Before, Built, Error, ErrorKind, Expected, Layer3, Mac, Pod, Spec, Target, build, check, ipvlan};

use crate::Case;
use crate::world::{
    World, conf, host_link, in_pod, ip, layer3, pod_addresses, pod_link, pod_links, pod_routes, pod_sysctl, sysctl,
    target,
};

pub(crate) const CASES: &[Case] = &[
    ("ipvlan::one_message_gives_the_final_link", one_message_gives_the_final_link),
    ("ipvlan::every_mode_is_the_kernels", every_mode_is_the_kernels),
    ("ipvlan::the_master_is_that_of_the_default_route", the_master_is_that_of_the_default_route),
    ("ipvlan::a_master_in_the_pod_is_not_the_hosts", a_master_in_the_pod_is_not_the_hosts),
    ("ipvlan::a_missing_master_is_said", a_missing_master_is_said),
    ("ipvlan::an_mtu_that_the_kernel_refuses_is_said", an_mtu_that_the_kernel_refuses_is_said),
    ("ipvlan::a_taken_name_is_refused", a_taken_name_is_refused),
    ("ipvlan::a_name_of_the_host_is_free_in_the_pod", a_name_of_the_host_is_free_in_the_pod),
    ("ipvlan::a_failing_step_leaves_nothing", a_failing_step_leaves_nothing),
    ("ipvlan::check_sees_what_differs", check_sees_what_differs),
];

fn spec(text: &str) -> Spec {
    after(text, None)
}

/// As a plugin that gets a previous result with these interfaces.
fn after(text: &str, previous: Option<&[&str]>) -> Spec {
    let names: Option<Vec<String>> = previous.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
    let before = names.as_deref().map_or(Before::Nothing, Before::Result);
    Spec::Ipvlan(conf::<ipvlan::Conf>(text).validate(before).unwrap())
}

fn built(world: &mut World, pod: &mut Pod, spec: Spec, target: &Target<'_>, l3: Layer3) -> Result<Built, Error> {
    let resolved = spec.resolve(&mut world.host, Some(pod))?;
    build(&mut world.host, pod, &resolved, target, l3)
}

fn expected(built: Built) -> Expected {
    Expected {
        interfaces: built.interfaces,
        addresses: built.layer3.addresses,
        routes: built.layer3.routes,
        ..Expected::default()
    }
}

fn one_message_gives_the_final_link(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    let mac: Mac = "02:00:00:00:00:07".parse().unwrap();
    let target = Target { ifname: "net1", group: Some(77), mac: Some(mac) };
    let l3 = layer3(&["10.0.0.2/24 10.0.0.1", "fd00::2/64 fd00::1"], &["0.0.0.0/0", "::/0"]);
    let spec = spec(r#"{"master":"ext0","mode":"l3s","mtu":1400}"#);
    let built = built(world, &mut pod, spec, &target, l3).unwrap();
    let link = pod_link(&pod, "net1");
    assert_eq!(link["address"], host_link("ext0")["address"], "it has its lower device's, whatever was asked for");
    assert_eq!((link["mtu"].as_u64(), link["group"].as_str()), (Some(1400), Some("77")));
    assert_eq!(link["linkinfo"]["info_kind"], "ipvlan");
    assert_eq!(link["linkinfo"]["info_data"]["mode"], "l3s");
    assert_eq!(link["ifindex"].as_u64(), Some(built.made.unwrap().ifindex.into()));
    assert_eq!(pod_addresses(&pod, "net1"), ["10.0.0.2/24", "fd00::2/64"]);
    assert_eq!(
        pod_routes(&pod, "-4"),
        ["default via 10.0.0.1 dev net1", "10.0.0.0/24 dev net1 proto kernel scope link src 10.0.0.2"]
    );
    for key in ["ipv4/conf/net1/arp_notify", "ipv6/conf/net1/ndisc_notify"] {
        assert_eq!(pod_sysctl(&pod, key), "1", "{key}");
    }
    assert_eq!(built.interfaces.len(), 1);
    assert_eq!(Some(built.interfaces[0].mac.as_str()), host_link("ext0")["address"].as_str());
    assert_eq!((built.address_interface, built.host_ifindex), (Some(0), None));
}

/// All links of one lower device have one mode: each gets its own lower device.
fn every_mode_is_the_kernels(world: &mut World) {
    let mut pod = world.pod();
    for (mode, name) in [("", "l2"), ("l2", "l2"), ("l3", "l3"), ("l3s", "l3s")] {
        let (lower, link) = (format!("ext{mode}"), format!("net{mode}"));
        world.lower(&lower);
        let text = format!(r#"{{"master":"{lower}","mode":"{mode}"}}"#);
        let built = built(world, &mut pod, spec(&text), &target(&link), layer3(&[], &[])).unwrap();
        assert_eq!(pod_link(&pod, &link)["linkinfo"]["info_data"]["mode"], name);
        check(&mut world.host, &mut pod, &spec(&text), &link, &expected(built)).unwrap();
    }
}

fn the_master_is_that_of_the_default_route(world: &mut World) {
    let mut pod = world.pod();
    let error = spec("{}").resolve(&mut world.host, Some(&mut pod)).unwrap_err();
    assert_eq!((error.kind(), error.chain().as_str()), (ErrorKind::LinkMissing, "no default route interface found"));
    world.lower("ext0");
    world.lower("ext1");
    ip("addr add 192.0.2.1/24 dev ext1");
    ip("route add default via 192.0.2.254");
    built(world, &mut pod, spec("{}"), &target("net1"), layer3(&[], &[])).unwrap();
    assert_eq!(pod_link(&pod, "net1")["link_index"], host_link("ext1")["ifindex"]);
    // The only interface of a previous result comes before the default route.
    built(world, &mut pod, after("{}", Some(&["ext0"])), &target("net2"), layer3(&[], &[])).unwrap();
    assert_eq!(pod_link(&pod, "net2")["link_index"], host_link("ext0")["ifindex"]);
}

fn a_master_in_the_pod_is_not_the_hosts(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    let text = r#"{"master":"ext0","linkInContainer":true,"mtu":1300}"#;
    let missing = spec(text).resolve(&mut world.host, Some(&mut pod)).unwrap_err();
    assert_eq!(missing.chain(), "failed to lookup master \"ext0\": Link not found");
    assert_eq!(spec(text).resolve(&mut world.host, None).unwrap_err().kind(), ErrorKind::Invalid);

    in_pod(&pod, "link add ext0 mtu 1400 type veth peer name ext0-far");
    in_pod(&pod, "link set ext0 up");
    let built = built(world, &mut pod, spec(text), &target("net1"), layer3(&["10.0.0.2/24"], &[])).unwrap();
    let link = pod_link(&pod, "net1");
    assert_eq!((link["link"].as_str(), link["mtu"].as_u64()), (Some("ext0"), Some(1300)));
    let expected = expected(built);
    check(&mut world.host, &mut pod, &spec(text), "net1", &expected).unwrap();
    let error = check(&mut world.host, &mut pod, &spec(r#"{"master":"ext0"}"#), "net1", &expected).unwrap_err();
    assert_eq!(error.chain(), "container interface net1 is not on master ext0");
}

fn a_missing_master_is_said(world: &mut World) {
    let error = spec(r#"{"master":"nope"}"#).resolve(&mut world.host, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LinkMissing);
    assert_eq!(error.chain(), "failed to lookup master \"nope\": Link not found");
}

/// On the host's lower device and on the pod's: the refusal of the creation is not lost on the way.
fn an_mtu_that_the_kernel_refuses_is_said(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    in_pod(&pod, "link add ext0 type veth peer name ext0-far");
    let before = pod_links(&pod);
    for text in [r#"{"master":"ext0","mtu":70000}"#, r#"{"master":"ext0","mtu":70000,"linkInContainer":true}"#] {
        let error = built(world, &mut pod, spec(text), &target("net1"), layer3(&[], &[])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.chain().starts_with("create link net1: "), "{}", error.chain());
        assert_eq!(pod_links(&pod), before);
    }
}

fn a_taken_name_is_refused(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    in_pod(&pod, "link add net1 type bridge");
    let spec = spec(r#"{"master":"ext0"}"#);
    let error = built(world, &mut pod, spec, &target("net1"), layer3(&[], &[])).unwrap_err();
    assert_eq!((error.kind(), error.chain().as_str()), (ErrorKind::NameTaken, "create link net1: file exists"));
    assert_eq!(pod_link(&pod, "net1")["linkinfo"]["info_kind"], "bridge");
}

fn a_name_of_the_host_is_free_in_the_pod(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    let l3 = layer3(&["10.0.0.2/24"], &[]);
    built(world, &mut pod, spec(r#"{"master":"ext0"}"#), &target("ext0"), l3).unwrap();
    assert_eq!(pod_link(&pod, "ext0")["linkinfo"]["info_kind"], "ipvlan");
    assert_eq!(sysctl("ipv4/conf/ext0/arp_notify"), "0", "a parameter of the pod's link is not one of the host's");
    assert_eq!(pod_sysctl(&pod, "ipv4/conf/ext0/arp_notify"), "1");
}

fn a_failing_step_leaves_nothing(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    let l3 = layer3(&["10.0.0.2/24"], &["0.0.0.0/0 192.0.2.1"]);
    let error = built(world, &mut pod, spec(r#"{"master":"ext0"}"#), &target("net1"), l3).unwrap_err();
    assert!(error.undo_failure().is_none());
    assert_eq!((error.kind(), pod_links(&pod)), (ErrorKind::Refused, vec!["lo".to_owned()]));
}

fn check_sees_what_differs(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    world.lower("ext1");
    let l3 = layer3(&["10.0.0.2/24 10.0.0.1"], &["192.0.2.0/24"]);
    let built = built(world, &mut pod, spec(r#"{"master":"ext0"}"#), &target("net1"), l3).unwrap();
    let good = expected(built);
    let mut chain = |text: &str, expected: &Expected| {
        check(&mut world.host, &mut pod, &spec(text), "net1", expected).unwrap_err().chain()
    };
    let text = r#"{"master":"ext0"}"#;
    assert_eq!(chain(r#"{"master":"ext0","mode":"l3"}"#, &good), "container ipvlan net1 is not in mode L3");
    assert_eq!(chain(r#"{"master":"ext1"}"#, &good), "container interface net1 is not on master ext1");
    let mut other = good.clone();
    other.addresses[0].address = "10.0.0.3/24".parse().unwrap();
    assert_eq!(chain(text, &other), "Failed to match addr 10.0.0.3/24 on interface net1");
    let mut other = good.clone();
    other.interfaces[0].mac = "02:00:00:00:00:01".to_owned();
    assert!(chain(text, &other).ends_with("expected 02:00:00:00:00:01"));
    in_pod(&pod, "link del net1");
    let error = check(&mut world.host, &mut pod, &spec(text), "net1", &good).unwrap_err();
    assert_eq!(error.chain(), "Cannot find container link net1");
}
