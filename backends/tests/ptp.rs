//! A pair between host and pod, without a bridge.

use backends::{Built, Error, ErrorKind, Expected, Layer3, Pod, Spec, Target, build, check, ptp};

use crate::Case;
use crate::world::{
    World, conf, host_addresses, host_link, host_links, host_routes, in_pod, layer3, pod_addresses, pod_link,
    pod_links, pod_routes, sysctl, target,
};

pub(crate) const CASES: &[Case] = &[
    ("ptp::the_pod_reaches_everything_through_the_gateway", the_pod_reaches_everything_through_the_gateway),
    ("ptp::ipv6_is_not_waited_for", ipv6_is_not_waited_for),
    ("ptp::addresses_that_the_go_plugin_cannot_do", addresses_that_the_go_plugin_cannot_do),
    ("ptp::a_missing_gateway_fails_before_any_link", a_missing_gateway_fails_before_any_link),
    ("ptp::a_failing_step_leaves_no_pair", a_failing_step_leaves_no_pair),
    ("ptp::check_sees_what_differs", check_sees_what_differs),
];

fn spec(text: &str) -> Spec {
    Spec::Ptp(conf::<ptp::Conf>(text).validate().unwrap())
}

fn built(world: &mut World, pod: &mut Pod, text: &str, target: &Target<'_>, l3: Layer3) -> Result<Built, Error> {
    let resolved = spec(text).resolve(&mut world.host, Some(pod))?;
    build(&mut world.host, pod, &resolved, target, l3)
}

fn the_pod_reaches_everything_through_the_gateway(world: &mut World) {
    let mut pod = world.pod();
    let l3 = layer3(&["10.0.0.2/24 10.0.0.1", "fd00::2/64 fd00::1"], &["0.0.0.0/0", "::/0"]);
    let target = Target { ifname: "eth0", group: Some(9), mac: None };
    let built = built(world, &mut pod, r#"{"mtu":1400}"#, &target, l3).unwrap();

    let [first, second] = built.interfaces.as_slice() else { panic!("{:?}", built.interfaces) };
    let (port, link) = (host_link(&first.name), pod_link(&pod, "eth0"));
    assert!(first.name.starts_with("veth") && !first.in_pod && second.in_pod);
    assert_eq!((port["address"].as_str(), link["address"].as_str()), (Some(&*first.mac), Some(&*second.mac)));
    assert_eq!((port["mtu"].as_u64(), link["mtu"].as_u64()), (Some(1400), Some(1400)));
    assert_eq!((built.address_interface, link["group"].as_str()), (Some(1), Some("9")));
    assert_eq!(port["ifindex"].as_u64(), built.host_ifindex.map(u64::from));

    assert_eq!(
        pod_routes(&pod, "-4"),
        [
            "default via 10.0.0.1 dev eth0",
            "10.0.0.0/24 via 10.0.0.1 dev eth0 src 10.0.0.2",
            "10.0.0.1 dev eth0 scope link src 10.0.0.2",
        ]
    );
    assert_eq!(
        pod_routes(&pod, "-6"),
        [
            "fd00::1 dev eth0 src fd00::2 metric 1024 pref medium",
            "fd00::/64 via fd00::1 dev eth0 src fd00::2 metric 1024 pref medium",
            "default via fd00::1 dev eth0 metric 1024 pref medium",
        ]
    );
    let name = first.name.as_str();
    assert_eq!(host_addresses(name), ["10.0.0.1/32", "fd00::1/128"]);
    assert_eq!(host_routes("-4"), [format!("10.0.0.2 dev {name} scope host")]);
    assert!(host_routes("-6").contains(&format!("fd00::2 dev {name} metric 1024 pref medium")));
    assert_eq!((sysctl("ipv4/ip_forward"), sysctl("ipv6/conf/all/forwarding")), ("1".to_owned(), "1".to_owned()));
    assert_eq!(sysctl(&format!("ipv6/conf/{name}/accept_ra")), "0");

    for address in ["10.0.0.2:0", "[fd00::2]:0"] {
        let listener = pod.netns().run(|| std::net::TcpListener::bind(address).unwrap()).unwrap();
        std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    }
}

fn ipv6_is_not_waited_for(world: &mut World) {
    let mut pod = world.pod();
    built(world, &mut pod, "{}", &target("eth0"), layer3(&["fd00::2/64 fd00::1"], &[])).unwrap();
    pod.netns()
        .run(|| {
            let socket = std::net::UdpSocket::bind("[fd00::2]:0").unwrap();
            socket.connect("[fd00::1]:9").unwrap();
        })
        .unwrap();
    assert_eq!(sysctl("ipv4/ip_forward"), "0", "only the families there are");
}

fn addresses_that_the_go_plugin_cannot_do(world: &mut World) {
    let mut pod = world.pod();
    let l3 = layer3(&["10.0.0.2/32 10.0.0.1", "fd00::2/128 fd00::1"], &["0.0.0.0/0"]);
    let alone = built(world, &mut pod, "{}", &target("eth0"), l3).unwrap();
    assert_eq!(pod_routes(&pod, "-4"), ["default via 10.0.0.1 dev eth0", "10.0.0.1 dev eth0 scope link src 10.0.0.2"]);
    let expected = Expected {
        interfaces: alone.interfaces,
        addresses: alone.layer3.addresses,
        routes: vec![],
        ..Expected::default()
    };
    check(&mut world.host, &mut pod, &spec("{}"), "eth0", &expected).unwrap();

    let mut pod = world.pod();
    let l3 = layer3(&["10.1.0.2/24 10.1.0.1", "10.1.0.3/24 10.1.0.1"], &[]);
    let two = built(world, &mut pod, "{}", &target("eth0"), l3).unwrap();
    assert_eq!(pod_addresses(&pod, "eth0"), ["10.1.0.2/24", "10.1.0.3/24"]);
    let name = two.interfaces[0].name.as_str();
    assert_eq!(host_addresses(name), ["10.1.0.1/32"]);
    assert_eq!(host_routes("-4").iter().filter(|route| route.contains(name)).count(), 2);
}

fn a_missing_gateway_fails_before_any_link(world: &mut World) {
    let mut pod = world.pod();
    let error = built(world, &mut pod, "{}", &target("eth0"), layer3(&["10.0.0.2/24"], &[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.chain(), "address 10.0.0.2/24 has no gateway: a point-to-point interface needs one");
    assert_eq!((pod_links(&pod), host_links()), (vec!["lo".to_owned()], vec!["lo".to_owned()]));
    assert_eq!(sysctl("ipv4/ip_forward"), "0");
}

fn a_failing_step_leaves_no_pair(world: &mut World) {
    let mut pod = world.pod();
    for l3 in [
        layer3(&["10.0.0.2/24 10.0.0.1", "10.0.0.2/24 10.0.0.1"], &[]),
        layer3(&["10.0.0.2/24 10.0.0.1"], &["0.0.0.0/0 192.0.2.1"]),
        layer3(&["fd00::2/64 ::"], &[]),
    ] {
        let error = built(world, &mut pod, "{}", &target("eth0"), l3).unwrap_err();
        assert!(error.undo_failure().is_none(), "{}", error.chain());
        assert_eq!(
            (pod_links(&pod), host_links()),
            (vec!["lo".to_owned()], vec!["lo".to_owned()]),
            "{}",
            error.chain()
        );
    }
    // Only the host's end cannot have its address.
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    let error = built(world, &mut pod, "{}", &target("eth0"), layer3(&["fd00::2/64 fd00::1"], &[])).unwrap_err();
    assert!(error.chain().contains("failed to add IP addr fd00::1/128 to \"veth"), "{}", error.chain());
    assert_eq!((pod_links(&pod), host_links()), (vec!["lo".to_owned()], vec!["lo".to_owned()]));
    in_pod(&pod, "link add eth0 type bridge");
    let error = built(world, &mut pod, "{}", &target("eth0"), layer3(&["10.0.0.2/24 10.0.0.1"], &[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NameTaken);
}

fn check_sees_what_differs(world: &mut World) {
    let mut pod = world.pod();
    let l3 = layer3(&["10.0.0.2/24 10.0.0.1", "fd00::2/64 fd00::1"], &["0.0.0.0/0"]);
    let built = built(world, &mut pod, "{}", &target("eth0"), l3).unwrap();
    let good = Expected {
        interfaces: built.interfaces,
        addresses: built.layer3.addresses,
        routes: built.layer3.routes,
        ..Expected::default()
    };
    check(&mut world.host, &mut pod, &spec("{}"), "eth0", &good).unwrap();
    in_pod(&pod, "route del default");
    let error = check(&mut world.host, &mut pod, &spec("{}"), "eth0", &good).unwrap_err();
    assert!(error.chain().starts_with("Expected Route {Dst:{IP:0.0.0.0 Mask:00000000}"), "{}", error.chain());
}
