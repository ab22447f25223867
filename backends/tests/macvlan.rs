//! macvlan on a lower device of the host, and of the pod.

use std::net::{Ipv6Addr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};

use backends::{Built, Error, ErrorKind, Expected, Mac, Pod, Spec, Target, build, check, macvlan};
use serde_json::Value;

use crate::Case;
use crate::world::{
    Events, World, conf, in_pod, ip, layer3, pod_addresses, pod_link, pod_links, pod_routes, pod_sysctl, sysctl, target,
};

pub(crate) const CASES: &[Case] = &[
    ("macvlan::one_message_gives_the_final_link", one_message_gives_the_final_link),
    ("macvlan::layer_2_is_up_without_addresses", layer_2_is_up_without_addresses),
    ("macvlan::an_ipv6_address_is_usable_at_once", an_ipv6_address_is_usable_at_once),
    ("macvlan::a_duplicate_ipv6_address_is_found_by_check", a_duplicate_ipv6_address_is_found_by_check),
    ("macvlan::the_master_is_that_of_the_default_route", the_master_is_that_of_the_default_route),
    ("macvlan::a_master_in_the_pod_is_not_the_hosts", a_master_in_the_pod_is_not_the_hosts),
    ("macvlan::a_missing_master_is_said", a_missing_master_is_said),
    ("macvlan::the_mtu_has_the_masters_bounds", the_mtu_has_the_masters_bounds),
    ("macvlan::neighbours_learn_a_new_owner_of_an_address", neighbours_learn_a_new_owner_of_an_address),
    ("macvlan::a_taken_name_is_refused", a_taken_name_is_refused),
    ("macvlan::a_name_of_the_host_is_free_in_the_pod", a_name_of_the_host_is_free_in_the_pod),
    ("macvlan::a_failing_step_leaves_nothing", a_failing_step_leaves_nothing),
    ("macvlan::routes_have_all_their_attributes", routes_have_all_their_attributes),
    ("macvlan::several_gateways_of_one_destination", several_gateways_of_one_destination),
    ("macvlan::check_survives_routes_moved_to_another_table", check_survives_routes_moved_to_another_table),
    ("macvlan::check_sees_what_differs", check_sees_what_differs),
];

fn spec(text: &str) -> Spec {
    Spec::Macvlan(conf::<macvlan::Conf>(text).validate().unwrap())
}

fn built(
    world: &mut World,
    pod: &mut Pod,
    text: &str,
    target: &Target<'_>,
    l3: backends::Layer3,
) -> Result<Built, Error> {
    let resolved = spec(text).resolve(&mut world.host, Some(pod))?;
    build(&mut world.host, pod, &resolved, target, l3)
}

fn one_message_gives_the_final_link(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    let mac: Mac = "02:00:00:00:00:07".parse().unwrap();
    let target = Target { ifname: "net1", group: Some(77), mac: Some(mac) };
    let l3 = layer3(&["10.0.0.2/24 10.0.0.1", "fd00::2/64 fd00::1"], &["0.0.0.0/0", "::/0"]);
    let text = r#"{"master":"ext0","mode":"private","mtu":1400,"mac":"02:00:00:00:00:01","bcqueuelen":2000}"#;
    let built = built(world, &mut pod, text, &target, l3).unwrap();

    let link = pod_link(&pod, "net1");
    assert_eq!(link["address"], "02:00:00:00:00:07");
    assert_eq!((link["mtu"].as_u64(), link["group"].as_str()), (Some(1400), Some("77")));
    assert_eq!(link["linkinfo"]["info_kind"], "macvlan");
    assert_eq!(link["linkinfo"]["info_data"]["mode"], "private");
    assert_eq!(link["linkinfo"]["info_data"]["bcqueuelen"], 2000);
    assert_eq!(link["ifindex"].as_u64(), Some(built.made.unwrap().ifindex.into()));
    assert_eq!(link["operstate"], "UP");
    assert_eq!(pod_addresses(&pod, "net1"), ["10.0.0.2/24", "fd00::2/64"]);
    assert_eq!(
        pod_routes(&pod, "-4"),
        ["default via 10.0.0.1 dev net1", "10.0.0.0/24 dev net1 proto kernel scope link src 10.0.0.2"]
    );
    assert_eq!(
        pod_routes(&pod, "-6"),
        [
            "fd00::/64 dev net1 proto kernel metric 256 pref medium",
            "default via fd00::1 dev net1 metric 1024 pref medium"
        ]
    );
    for (key, value) in [
        ("ipv4/conf/net1/arp_notify", "1"),
        ("ipv6/conf/net1/ndisc_notify", "1"),
        ("ipv6/conf/net1/keep_addr_on_down", "1"),
    ] {
        assert_eq!(pod_sysctl(&pod, key), value, "{key}");
    }
    assert_eq!(built.interfaces.len(), 1);
    assert_eq!((built.interfaces[0].name.as_str(), built.interfaces[0].mac.as_str()), ("net1", "02:00:00:00:00:07"));
    assert!(built.interfaces[0].in_pod);
    assert_eq!((built.address_interface, built.host_ifindex), (Some(0), None));
}

fn layer_2_is_up_without_addresses(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    built(world, &mut pod, r#"{"master":"ext0"}"#, &target("net1"), layer3(&[], &[])).unwrap();
    let link = pod_link(&pod, "net1");
    assert_eq!((link["operstate"].as_str(), link["mtu"].as_u64()), (Some("UP"), Some(1500)));
    assert_eq!(pod_sysctl(&pod, "ipv4/conf/net1/arp_notify"), "0");
    assert!(pod_addresses(&pod, "net1").is_empty());
}

fn an_ipv6_address_is_usable_at_once(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    ip("-6 addr add fd00::1/64 dev ext0-far nodad");
    let l3 = layer3(&["fd00::2/64"], &[]);
    built(world, &mut pod, r#"{"master":"ext0"}"#, &target("net1"), l3).unwrap();
    let own: Ipv6Addr = "fd00::2".parse().unwrap();
    pod.netns()
        .run(|| {
            let socket = UdpSocket::bind(SocketAddrV6::new(own, 0, 0, 0)).unwrap();
            socket.connect("[fd00::1]:9").unwrap();
            assert_eq!(socket.local_addr().unwrap().ip(), own);
            let chosen = UdpSocket::bind("[::]:0").unwrap();
            chosen.connect("[fd00::1]:9").unwrap();
            assert_eq!(chosen.local_addr().unwrap().ip(), own, "the kernel chooses it as a source, too");
        })
        .unwrap();
    // And it is reached: the answer to the neighbour's question comes from an address still examined.
    let listener = pod.netns().run(|| TcpListener::bind(SocketAddrV6::new(own, 0, 0, 0)).unwrap()).unwrap();
    TcpStream::connect(listener.local_addr().unwrap()).unwrap();
}

fn a_duplicate_ipv6_address_is_found_by_check(world: &mut World) {
    let (mut first, mut second) = (world.pod(), world.pod());
    world.lower("ext0");
    let l3 = layer3(&["fd00::2/64"], &[]);
    let text = r#"{"master":"ext0"}"#;
    let events = Events::of_addresses(&first);
    built(world, &mut first, text, &target("net1"), l3.clone()).unwrap();
    // Two that examine the same address at the same time see each other: the one that was first has to be done.
    events.until(|line| {
        line.contains("fd00::2/64") && ["nodad", "tentative", "optimistic"].iter().all(|flag| !line.contains(flag))
    });
    let events = Events::of_addresses(&second);
    let built = built(world, &mut second, text, &target("net1"), l3.clone()).unwrap();
    let expected =
        Expected { interfaces: built.interfaces, addresses: l3.addresses, routes: vec![], ..Expected::default() };
    events.until(|line| line.contains("fd00::2/64") && line.contains("dadfailed"));
    let error = check(&mut world.host, &mut second, &spec(text), "net1", &expected).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Duplicate);
    assert_eq!(error.chain(), "another host on the link of interface net1 has address fd00::2/64 too");
}

fn the_master_is_that_of_the_default_route(world: &mut World) {
    let mut pod = world.pod();
    let error = spec("{}").resolve(&mut world.host, Some(&mut pod)).unwrap_err();
    assert_eq!((error.kind(), error.chain().as_str()), (ErrorKind::LinkMissing, "no default route interface found"));
    world.lower("ext0");
    world.lower("ext1");
    ip("addr add 192.0.2.1/24 dev ext1");
    ip("route add default via 192.0.2.254");
    built(world, &mut pod, "{}", &target("net1"), layer3(&[], &[])).unwrap();
    assert_eq!(pod_link(&pod, "net1")["link_index"], crate::world::host_link("ext1")["ifindex"]);
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
    let l3 = layer3(&["10.0.0.2/24"], &[]);
    let built = built(world, &mut pod, text, &target("net1"), l3.clone()).unwrap();
    let link = pod_link(&pod, "net1");
    assert_eq!((link["link"].as_str(), link["mtu"].as_u64()), (Some("ext0"), Some(1300)));
    let expected =
        Expected { interfaces: built.interfaces, addresses: l3.addresses, routes: vec![], ..Expected::default() };
    check(&mut world.host, &mut pod, &spec(text), "net1", &expected).unwrap();
    let error = check(&mut world.host, &mut pod, &spec(r#"{"master":"ext0"}"#), "net1", &expected).unwrap_err();
    assert_eq!(error.chain(), "container interface net1 is not on master ext0");
}

fn a_missing_master_is_said(world: &mut World) {
    let error = spec(r#"{"master":"nope"}"#).resolve(&mut world.host, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LinkMissing);
    assert_eq!(error.chain(), "failed to lookup master \"nope\": Link not found");
}

fn the_mtu_has_the_masters_bounds(world: &mut World) {
    world.lower("ext0");
    ip("link set ext0 mtu 1400");
    for mtu in [1401, -1, i64::MAX] {
        let text = format!(r#"{{"master":"ext0","mtu":{mtu}}}"#);
        let error = spec(&text).resolve(&mut world.host, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.chain(), format!("invalid MTU {mtu}, must be [0, master MTU(1400)]"));
    }
    spec(r#"{"master":"ext0","mtu":1400}"#).resolve(&mut world.host, None).unwrap();
}

fn a_taken_name_is_refused(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    in_pod(&pod, "link add net1 type bridge");
    assert!(backends::exists(&mut pod, "net1").unwrap());
    let error = built(world, &mut pod, r#"{"master":"ext0"}"#, &target("net1"), layer3(&[], &[])).unwrap_err();
    assert_eq!((error.kind(), error.chain().as_str()), (ErrorKind::NameTaken, "create link net1: file exists"));
    assert_eq!(pod_link(&pod, "net1")["linkinfo"]["info_kind"], "bridge");
}

fn a_name_of_the_host_is_free_in_the_pod(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    let before = crate::world::host_link("ext0");
    built(world, &mut pod, r#"{"master":"ext0"}"#, &target("ext0"), layer3(&["10.0.0.2/24"], &[])).unwrap();
    assert_eq!(pod_link(&pod, "ext0")["linkinfo"]["info_kind"], "macvlan");
    assert_eq!(crate::world::host_link("ext0")["address"], before["address"]);
    assert_eq!(sysctl("ipv4/conf/ext0/arp_notify"), "0", "a parameter of the pod's link is not one of the host's");
    assert_eq!(sysctl("ipv6/conf/ext0/ndisc_notify"), "0");
    assert_eq!(pod_sysctl(&pod, "ipv6/conf/ext0/ndisc_notify"), "1");
}

fn a_failing_step_leaves_nothing(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    let failing = [
        (
            layer3(&["10.0.0.2/24", "10.0.0.2/24"], &[]),
            "failed to add IP addr 10.0.0.2/24 to \"net1\": file exists: ipv4: Address already assigned",
        ),
        (
            layer3(&["10.0.0.2/24"], &["0.0.0.0/0 192.0.2.1"]),
            "failed to add route '{0.0.0.0 00000000} via 192.0.2.1 dev net1 metric 0 (Scope: universe, Table: 0)': \
             network is unreachable: Nexthop has invalid gateway",
        ),
        (
            layer3(&["10.0.0.2/24 10.0.0.1"], &["192.168.5.7/16"]),
            "failed to add route '{192.168.5.7 ffff0000} via 10.0.0.1 dev net1 metric 0 (Scope: universe, Table: 0)': \
             invalid argument: Invalid prefix for given prefix length",
        ),
    ];
    for (l3, text) in failing {
        let error = built(world, &mut pod, r#"{"master":"ext0"}"#, &target("net1"), l3).unwrap_err();
        assert_eq!((error.kind(), error.chain().as_str()), (ErrorKind::Refused, text));
        assert_eq!(pod_links(&pod), ["lo"]);
    }
    // The lower device's own hardware address is refused only when the link comes up.
    let mac = crate::world::host_link("ext0")["address"].as_str().unwrap().parse().unwrap();
    let target = Target { mac: Some(mac), ..target("net1") };
    let error = built(world, &mut pod, r#"{"master":"ext0"}"#, &target, layer3(&[], &[])).unwrap_err();
    assert_eq!(error.chain(), "failed to set \"net1\" UP: address already in use");
    assert_eq!(pod_links(&pod), ["lo"]);
}

fn routes_have_all_their_attributes(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    let mut l3 =
        layer3(&["10.0.0.2/24 10.0.0.1"], &["192.0.2.0/24", "198.51.100.0/24", "192.0.2.0/24", "203.0.113.0/24"]);
    for position in [0, 2] {
        let route = &mut l3.routes[position];
        (route.mtu, route.advmss, route.priority) = (Some(1300), Some(1200), Some(50));
    }
    l3.routes[1].table = Some(1000);
    (l3.routes[3].scope, l3.routes[3].gw) = (Some(253), None);
    l3.addresses[0].gateway = None;
    l3.routes[0].gw = Some("10.0.0.1".parse().unwrap());
    l3.routes[2].gw = l3.routes[0].gw;
    built(world, &mut pod, r#"{"master":"ext0"}"#, &target("net1"), l3).unwrap();
    assert_eq!(
        pod_routes(&pod, "-4"),
        [
            "10.0.0.0/24 dev net1 proto kernel scope link src 10.0.0.2",
            "192.0.2.0/24 via 10.0.0.1 dev net1 metric 50 mtu 1300 advmss 1200",
            "203.0.113.0/24 dev net1 scope link",
        ]
    );
    assert_eq!(in_pod(&pod, "route show table 1000").trim(), "198.51.100.0/24 dev net1");
}

fn several_gateways_of_one_destination(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    let routes = ["192.0.2.0/24 10.0.0.1", "192.0.2.0/24 10.0.0.9", "fd01::/64 fd00::1", "fd01::/64 fd00::9"];
    let l3 = layer3(&["10.0.0.2/24", "fd00::2/64"], &routes);
    let built = built(world, &mut pod, r#"{"master":"ext0"}"#, &target("net1"), l3.clone()).unwrap();
    let v4 = pod_routes(&pod, "-4");
    let to: Vec<_> = v4.iter().filter(|line| line.starts_with("192.0.2.0/24")).collect();
    assert_eq!(to, ["192.0.2.0/24 via 10.0.0.9 dev net1", "192.0.2.0/24 via 10.0.0.1 dev net1"], "the last one wins");
    let v6: Value = serde_json::from_str(&in_pod(&pod, "-j -6 route show fd01::/64")).unwrap();
    assert_eq!(v6.as_array().unwrap().len(), 1);
    assert_eq!(v6[0]["nexthops"].as_array().unwrap().len(), 2, "{v6}");
    let expected =
        Expected { interfaces: built.interfaces, addresses: l3.addresses, routes: l3.routes, ..Expected::default() };
    check(&mut world.host, &mut pod, &spec(r#"{"master":"ext0"}"#), "net1", &expected).unwrap();
}

fn check_survives_routes_moved_to_another_table(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    let text = r#"{"master":"ext0"}"#;
    let l3 = layer3(&["10.0.0.2/24 10.0.0.1"], &["192.0.2.0/24"]);
    let built = built(world, &mut pod, text, &target("net1"), l3.clone()).unwrap();
    let mut expected =
        Expected { interfaces: built.interfaces, addresses: l3.addresses, routes: l3.routes, ..Expected::default() };
    expected.routes[0].gw = Some("10.0.0.1".parse().unwrap());
    check(&mut world.host, &mut pod, &spec(text), "net1", &expected).unwrap();
    in_pod(&pod, "route add 10.0.0.0/24 dev net1 table 100");
    in_pod(&pod, "route add 192.0.2.0/24 via 10.0.0.1 table 100");
    in_pod(&pod, "route del 192.0.2.0/24");
    in_pod(&pod, "route del 10.0.0.0/24");
    check(&mut world.host, &mut pod, &spec(text), "net1", &expected).unwrap();
    in_pod(&pod, "route flush table 100");
    let error = check(&mut world.host, &mut pod, &spec(text), "net1", &expected).unwrap_err();
    assert_eq!(error.chain(), "Failed to find Gateway 10.0.0.1 for interface net1");
}

fn check_sees_what_differs(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    let text = r#"{"master":"ext0"}"#;
    let l3 = layer3(&["10.0.0.2/24 10.0.0.1"], &["192.0.2.0/24"]);
    let built = built(world, &mut pod, text, &target("net1"), l3.clone()).unwrap();
    let good =
        Expected { interfaces: built.interfaces, addresses: l3.addresses, routes: l3.routes, ..Expected::default() };
    let mut chain = |text: &str, expected: &Expected| {
        check(&mut world.host, &mut pod, &spec(text), "net1", expected).unwrap_err().chain()
    };
    assert_eq!(
        chain(r#"{"master":"ext0","mode":"vepa"}"#, &good),
        "container macvlan mode bridge does not match expected value: vepa"
    );
    let mut other = good.clone();
    other.addresses[0].address = "10.0.0.3/24".parse().unwrap();
    assert_eq!(chain(text, &other), "Failed to match addr 10.0.0.3/24 on interface net1");
    let mut other = good.clone();
    other.routes[0].dst = "192.0.3.0/24".parse().unwrap();
    assert!(chain(text, &other).starts_with("Expected Route {Dst:{IP:192.0.3.0 Mask:ffffff00} GW:<nil> MTU:0"));
    let mut other = good.clone();
    other.interfaces[0].mac = "02:00:00:00:00:01".to_owned();
    assert!(chain(text, &other).ends_with("expected 02:00:00:00:00:01"));
    let mut other = good.clone();
    other.interfaces.clear();
    assert_eq!(chain(text, &other), "interface net1 in the sandbox is not part of the previous result");
    in_pod(&pod, "link del net1");
    let error = check(&mut world.host, &mut pod, &spec(text), "net1", &good).unwrap_err();
    assert_eq!(error.chain(), "Cannot find container link net1");
}

/// IPv6 has to wait: an address still examined may not override what neighbours know (RFC 4429, section 3.3).
fn neighbours_learn_a_new_owner_of_an_address(world: &mut World) {
    let mut pod = world.pod();
    world.lower("ext0");
    ip("addr add 10.0.0.1/24 dev ext0-far");
    ip("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:66 nud stale dev ext0-far");
    let mac = "02:00:00:00:00:77";
    let target = Target { mac: Some(mac.parse().unwrap()), ..target("net1") };
    let events = Events::of_neighbours("ext0-far");
    built(world, &mut pod, r#"{"master":"ext0"}"#, &target, layer3(&["10.0.0.2/24"], &[])).unwrap();
    events.until(|line| line.starts_with("10.0.0.2 ") && line.contains(mac));
}
