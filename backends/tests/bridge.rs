//! A bridge's ports, the bridge itself, and its addresses.

use backends::{Built, Error, ErrorKind, Expected, Layer3, Mac, Pod, Spec, Target, bridge, build, check};

use crate::Case;
use crate::world::{
    Events, World, conf, host_addresses, host_link, host_links, in_pod, ip, layer3, pod_addresses, pod_link, pod_links,
    pod_routes, pod_sysctl, sysctl, target,
};

pub(crate) const CASES: &[Case] = &[
    ("bridge::the_first_attachment_makes_the_bridge", the_first_attachment_makes_the_bridge),
    ("bridge::two_pods_reach_each_other_and_the_gateway", two_pods_reach_each_other_and_the_gateway),
    ("bridge::its_hardware_address_never_changes", its_hardware_address_never_changes),
    ("bridge::layer_2_is_up_without_addresses", layer_2_is_up_without_addresses),
    ("bridge::a_disabled_interface_stays_down", a_disabled_interface_stays_down),
    ("bridge::ipv6_is_not_waited_for", ipv6_is_not_waited_for),
    ("bridge::with_enabledad_a_duplicate_is_found_by_check", with_enabledad_a_duplicate_is_found_by_check),
    ("bridge::an_existing_bridge_keeps_its_attributes", an_existing_bridge_keeps_its_attributes),
    ("bridge::another_link_of_that_name_is_refused", another_link_of_that_name_is_refused),
    ("bridge::ports_are_as_configured", ports_are_as_configured),
    ("bridge::another_address_is_in_the_way", another_address_is_in_the_way),
    ("bridge::a_bridge_that_lost_its_address_gets_one", a_bridge_that_lost_its_address_gets_one),
    ("bridge::neighbours_learn_a_new_owner_of_an_address", neighbours_learn_a_new_owner_of_an_address),
    ("bridge::a_taken_name_is_refused", a_taken_name_is_refused),
    ("bridge::a_failing_step_leaves_no_pair", a_failing_step_leaves_no_pair),
    ("bridge::check_sees_what_differs", check_sees_what_differs),
    ("bridge::a_bridge_made_meanwhile_is_used", a_bridge_made_meanwhile_is_used),
];

fn spec(text: &str) -> Spec {
    Spec::Bridge(conf::<bridge::Conf>(text).validate(true).unwrap())
}

fn built(world: &mut World, pod: &mut Pod, text: &str, target: &Target<'_>, l3: Layer3) -> Result<Built, Error> {
    let spec = conf::<bridge::Conf>(text).validate(!l3.is_empty())?;
    let resolved = Spec::Bridge(spec).resolve(&mut world.host, Some(pod))?;
    build(&mut world.host, pod, &resolved, target, l3)
}

fn the_first_attachment_makes_the_bridge(world: &mut World) {
    let mut pod = world.pod();
    let mac: Mac = "02:00:00:00:00:07".parse().unwrap();
    let target = Target { ifname: "eth0", group: Some(77), mac: Some(mac) };
    let l3 = layer3(&["10.0.0.2/24", "fd00::2/64"], &["192.0.2.0/24"]);
    let built = built(world, &mut pod, r#"{"isDefaultGateway":true,"mtu":1400}"#, &target, l3).unwrap();

    let (bridge, link) = (host_link("cni0"), pod_link(&pod, "eth0"));
    assert_eq!((bridge["linkinfo"]["info_kind"].as_str(), bridge["mtu"].as_u64()), (Some("bridge"), Some(1400)));
    assert_eq!(bridge["promiscuity"], 0);
    assert_eq!(link["linkinfo"]["info_kind"], "veth");
    assert_eq!((link["address"].as_str(), link["group"].as_str()), (Some("02:00:00:00:00:07"), Some("77")));
    assert_eq!((link["mtu"].as_u64(), link["txqlen"].as_u64()), (Some(1400), Some(1000)));

    let [first, second, third] = built.interfaces.as_slice() else { panic!("{:?}", built.interfaces) };
    assert_eq!((first.name.as_str(), first.in_pod), ("cni0", false));
    assert_eq!(Some(first.mac.as_str()), bridge["address"].as_str());
    let port = host_link(&second.name);
    assert!(second.name.starts_with("veth") && !second.in_pod);
    assert_eq!((port["master"].as_str(), port["operstate"].as_str()), (Some("cni0"), Some("UP")));
    assert_eq!((port["mtu"].as_u64(), port["group"].as_str()), (Some(1400), Some("default")));
    assert_eq!(Some(second.mac.as_str()), port["address"].as_str());
    assert_eq!(port["ifindex"].as_u64(), built.host_ifindex.map(u64::from));
    assert_eq!((third.name.as_str(), third.mac.as_str(), third.in_pod), ("eth0", "02:00:00:00:00:07", true));
    assert_eq!(built.address_interface, Some(2));

    assert_eq!(pod_addresses(&pod, "eth0"), ["10.0.0.2/24", "fd00::2/64"]);
    assert_eq!(host_addresses("cni0"), ["10.0.0.1/24", "fd00::1/64"]);
    assert_eq!(
        pod_routes(&pod, "-4"),
        [
            "default via 10.0.0.1 dev eth0",
            "10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.2",
            "192.0.2.0/24 via 10.0.0.1 dev eth0",
        ]
    );
    assert!(pod_routes(&pod, "-6").contains(&"default via fd00::1 dev eth0 metric 1024 pref medium".to_owned()));
    let gateways: Vec<_> = built.layer3.addresses.iter().map(|a| a.gateway.unwrap().to_string()).collect();
    assert_eq!((gateways.join(" ").as_str(), built.layer3.routes.len()), ("10.0.0.1 fd00::1", 3));
    for (key, value) in [("accept_ra".to_owned(), "0"), ("forwarding".to_owned(), "1")] {
        assert_eq!(sysctl(&format!("ipv6/conf/cni0/{key}")), value, "{key}");
    }
    assert_eq!(sysctl(&format!("ipv6/conf/{}/accept_ra", second.name)), "0");
    assert_eq!(sysctl("ipv4/ip_forward"), "1");
    for (key, value) in [
        ("ipv4/conf/eth0/arp_notify", "1"),
        ("ipv6/conf/eth0/accept_dad", "0"),
        ("ipv6/conf/eth0/keep_addr_on_down", "1"),
    ] {
        assert_eq!(pod_sysctl(&pod, key), value, "{key}");
    }
}

fn two_pods_reach_each_other_and_the_gateway(world: &mut World) {
    let (mut first, mut second) = (world.pod(), world.pod());
    let text = r#"{"bridge":"br0","isGateway":true}"#;
    built(world, &mut first, text, &target("eth0"), layer3(&["10.0.0.2/24", "fd00::2/64"], &[])).unwrap();
    built(world, &mut second, text, &target("eth0"), layer3(&["10.0.0.3/24", "fd00::3/64"], &[])).unwrap();
    for address in ["10.0.0.2:0", "[fd00::2]:0"] {
        let listener = first.netns().run(|| std::net::TcpListener::bind(address).unwrap()).unwrap();
        let there = listener.local_addr().unwrap();
        second.netns().run(|| std::net::TcpStream::connect(there).unwrap()).unwrap();
        std::net::TcpStream::connect(there).unwrap();
    }
}

fn its_hardware_address_never_changes(world: &mut World) {
    let text = r#"{"bridge":"br0"}"#;
    let mut pods: Vec<_> = (0..4).map(|_| world.pod()).collect();
    let macs: Vec<_> = pods
        .iter_mut()
        .map(|pod| built(world, pod, text, &target("eth0"), layer3(&[], &[])).unwrap().interfaces[0].mac.clone())
        .collect();
    assert!(macs.iter().all(|mac| *mac == macs[0]), "{macs:?}");
    for pod in &pods {
        in_pod(pod, "link del eth0");
    }
    assert_eq!(host_link("br0")["address"].as_str(), Some(macs[0].as_str()));
}

fn layer_2_is_up_without_addresses(world: &mut World) {
    let mut pod = world.pod();
    let built = built(world, &mut pod, r#"{"isGateway":true}"#, &target("eth0"), layer3(&[], &[])).unwrap();
    assert_eq!(pod_link(&pod, "eth0")["operstate"], "UP");
    assert_eq!(built.interfaces.len(), 3);
    assert_eq!(pod_sysctl(&pod, "ipv4/conf/eth0/arp_notify"), "0");
    assert!(host_addresses("cni0").is_empty());
}

fn a_disabled_interface_stays_down(world: &mut World) {
    let mut pod = world.pod();
    let text = r#"{"disableContainerInterface":true}"#;
    let built = built(world, &mut pod, text, &target("eth0"), layer3(&[], &[])).unwrap();
    assert_eq!(pod_link(&pod, "eth0")["operstate"], "DOWN");
    assert_eq!(host_link(&built.interfaces[1].name)["master"], "cni0");
}

fn ipv6_is_not_waited_for(world: &mut World) {
    for text in [r#"{"bridge":"br0","isGateway":true}"#, r#"{"bridge":"br0","isGateway":true,"enabledad":true}"#] {
        let mut pod = world.pod();
        let address = if text.contains("enabledad") { "fd00::3/64" } else { "fd00::2/64" };
        built(world, &mut pod, text, &target("eth0"), layer3(&[address], &[])).unwrap();
        let own = address.trim_end_matches("/64");
        pod.netns()
            .run(|| {
                let socket = std::net::UdpSocket::bind(format!("[{own}]:0")).unwrap();
                socket.connect("[fd00::1]:9").unwrap();
                assert_eq!(socket.local_addr().unwrap().ip().to_string(), own);
            })
            .unwrap();
    }
}

fn with_enabledad_a_duplicate_is_found_by_check(world: &mut World) {
    let (mut first, mut second) = (world.pod(), world.pod());
    let text = r#"{"enabledad":true}"#;
    let l3 = layer3(&["fd00::2/64"], &[]);
    let events = Events::of_addresses(&first);
    built(world, &mut first, text, &target("eth0"), l3.clone()).unwrap();
    events.until(|line| {
        line.contains("fd00::2/64") && ["nodad", "tentative", "optimistic"].iter().all(|flag| !line.contains(flag))
    });
    let events = Events::of_addresses(&second);
    let built = built(world, &mut second, text, &target("eth0"), l3).unwrap();
    events.until(|line| line.contains("fd00::2/64") && line.contains("dadfailed"));
    assert_eq!(pod_sysctl(&second, "ipv6/conf/eth0/enhanced_dad"), "1");
    let expected = Expected {
        interfaces: built.interfaces,
        addresses: built.layer3.addresses,
        routes: built.layer3.routes,
        ..Expected::default()
    };
    let error = check(&mut world.host, &mut second, &spec(text), "eth0", &expected).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Duplicate, "{}", error.chain());
}

fn an_existing_bridge_keeps_its_attributes(world: &mut World) {
    let mut pod = world.pod();
    ip("link add br0 address 02:00:00:00:00:99 type bridge ageing_time 12300 stp_state 1 forward_delay 200");
    ip("link set br0 mtu 1300");
    let text = r#"{"bridge":"br0","mtu":1400,"isGateway":true}"#;
    let error = built(world, &mut pod, text, &target("eth0"), layer3(&["10.0.0.2/24"], &[])).map(|_| ());
    // Spanning tree keeps the port from forwarding for a while, but it is up, which is all that is waited for.
    error.unwrap();
    let bridge = host_link("br0");
    assert_eq!((bridge["mtu"].as_u64(), bridge["address"].as_str()), (Some(1300), Some("02:00:00:00:00:99")));
    assert_eq!(bridge["linkinfo"]["info_data"]["ageing_time"], 12300);
    assert_eq!(bridge["linkinfo"]["info_data"]["stp_state"], 1);
}

fn another_link_of_that_name_is_refused(world: &mut World) {
    world.lower("br0");
    let error = spec(r#"{"bridge":"br0"}"#).resolve(&mut world.host, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.chain(), "failed to create bridge \"br0\": \"br0\" already exists but is not a bridge");
}

fn ports_are_as_configured(world: &mut World) {
    for (text, hairpin, isolated, promiscuity) in [
        (r#"{"bridge":"br0"}"#, false, false, 0),
        (r#"{"bridge":"br0","hairpinMode":true}"#, true, false, 0),
        (r#"{"bridge":"br0","portIsolation":true}"#, false, true, 0),
        (r#"{"bridge":"br0","portIsolation":true,"hairpinMode":true}"#, true, true, 0),
        (r#"{"bridge":"br0","promiscMode":true}"#, false, false, 1),
        (r#"{"bridge":"br0","promiscMode":true}"#, false, false, 1),
    ] {
        let mut pod = world.pod();
        let built = built(world, &mut pod, text, &target("eth0"), layer3(&["10.0.0.2/24"], &[])).unwrap();
        let port = host_link(&built.interfaces[1].name);
        let slave = &port["linkinfo"]["info_slave_data"];
        assert_eq!(
            (slave["hairpin"].as_bool(), slave["isolated"].as_bool()),
            (Some(hairpin), Some(isolated)),
            "{text}"
        );
        assert_eq!(host_link("br0")["promiscuity"], promiscuity, "{text}");
    }
}

fn another_address_is_in_the_way(world: &mut World) {
    ip("link add br0 type bridge");
    ip("addr add 10.9.0.1/24 dev br0");
    ip("addr add fd00::9/64 dev br0");
    ip("addr add fd09::1/64 dev br0");
    let text = r#"{"bridge":"br0","isGateway":true}"#;
    for (l3, wanted) in [(layer3(&["10.0.0.2/24"], &[]), "10.0.0.1/24"), (layer3(&["fd00::2/64"], &[]), "fd00::1/64")] {
        let mut pod = world.pod();
        let error = built(world, &mut pod, text, &target("eth0"), l3).unwrap_err();
        assert_eq!(
            error.chain(),
            format!("failed to set bridge addr: \"br0\" already has an IP address different from {wanted}")
        );
        assert_eq!((pod_links(&pod), host_links()), (vec!["lo".to_owned()], vec!["lo".to_owned(), "br0".to_owned()]));
    }
    // A network of its own is beside the others.
    let mut pod = world.pod();
    built(world, &mut pod, text, &target("eth0"), layer3(&["fd05::2/64"], &[])).unwrap();
    assert!(host_addresses("br0").contains(&"fd05::1/64".to_owned()));

    let mut pod = world.pod();
    let forced = r#"{"bridge":"br0","isGateway":true,"forceAddress":true}"#;
    built(world, &mut pod, forced, &target("eth0"), layer3(&["10.0.0.2/24", "fd00::2/64"], &[])).unwrap();
    let mut now = host_addresses("br0");
    now.sort();
    assert_eq!(now, ["10.0.0.1/24", "fd00::1/64", "fd05::1/64", "fd09::1/64"]);
}

fn a_bridge_that_lost_its_address_gets_one(world: &mut World) {
    ip("link add br0 type bridge");
    ip("link add port0 type veth peer name port0-far");
    ip("link set port0 master br0");
    ip("link del port0");
    let mut pod = world.pod();
    let text = r#"{"bridge":"br0","isGateway":true}"#;
    let built = built(world, &mut pod, text, &target("eth0"), layer3(&["10.0.0.2/24"], &[])).unwrap();
    let mac = built.interfaces[0].mac.clone();
    assert_ne!(mac, "00:00:00:00:00:00");
    in_pod(&pod, "link del eth0");
    assert_eq!(host_link("br0")["address"].as_str(), Some(mac.as_str()), "pinned");
}

fn a_taken_name_is_refused(world: &mut World) {
    let mut pod = world.pod();
    in_pod(&pod, "link add eth0 type bridge");
    let error = built(world, &mut pod, "{}", &target("eth0"), layer3(&[], &[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NameTaken);
    let text = error.chain();
    assert!(text.starts_with("container veth name (\"eth0\") peer provided (\"veth"), "{text}");
    assert!(text.ends_with("\") already exists"), "{text}");
    assert_eq!(host_links(), ["lo", "cni0"]);
}

fn a_failing_step_leaves_no_pair(world: &mut World) {
    let mut pod = world.pod();
    let gateway = r#"{"isGateway":true}"#;
    for (text, l3) in [
        (gateway, layer3(&["10.0.0.2/24", "10.0.0.2/24"], &[])),
        (gateway, layer3(&["10.0.0.2/24"], &["0.0.0.0/0 192.0.2.1"])),
        // The bridge cannot have a gateway that is no unicast address.
        (gateway, layer3(&["10.0.0.2/24 224.0.0.1", "10.0.1.2/24"], &[])),
        (gateway, layer3(&["10.0.0.2/24 10.0.0.1", "10.0.1.2/24"], &[])),
        (r#"{"mtu":4000000000}"#, layer3(&["10.0.0.2/24"], &[])),
    ] {
        let error = built(world, &mut pod, text, &target("eth0"), l3).unwrap_err();
        assert!(error.undo_failure().is_none(), "{}", error.chain());
        assert_eq!(pod_links(&pod), ["lo"], "{}", error.chain());
        assert!(!host_links().iter().any(|name| name.starts_with("veth")), "{}", error.chain());
    }
}

fn check_sees_what_differs(world: &mut World) {
    let mut pod = world.pod();
    let text = r#"{"isGateway":true}"#;
    let l3 = layer3(&["10.0.0.2/24", "fd00::2/64"], &["192.0.2.0/24"]);
    let built = built(world, &mut pod, text, &target("eth0"), l3).unwrap();
    let port = built.interfaces[1].name.clone();
    let good = Expected {
        interfaces: built.interfaces,
        addresses: built.layer3.addresses,
        routes: built.layer3.routes,
        ..Expected::default()
    };
    check(&mut world.host, &mut pod, &spec(text), "eth0", &good).unwrap();

    let mut chain = |text: &str, expected: &Expected| {
        check(&mut world.host, &mut pod, &spec(text), "eth0", expected).unwrap_err().chain()
    };
    assert_eq!(
        chain(r#"{"promiscMode":true}"#, &good),
        "Bridge interface cni0 configured Promisc Mode true doesn't match current state: false "
    );
    for position in 0..3 {
        let mut other = good.clone();
        other.interfaces[position].mac = "02:00:00:00:00:01".to_owned();
        assert!(chain(text, &other).ends_with("expected 02:00:00:00:00:01"), "{position}");
        other.interfaces.remove(position);
        assert!(chain(text, &other).ends_with("is not part of the previous result"), "{position}");
    }
    ip(&format!("link set {port} nomaster"));
    let error = check(&mut world.host, &mut pod, &spec(text), "eth0", &good).unwrap_err();
    assert_eq!(error.chain(), format!("interface {port} is not a port of bridge cni0"));
    ip("link del cni0");
    let error = check(&mut world.host, &mut pod, &spec(text), "eth0", &good).unwrap_err();
    assert_eq!(error.chain(), "bridge cni0 is not in the host's namespace");
}

fn a_bridge_made_meanwhile_is_used(world: &mut World) {
    let mut pod = world.pod();
    let resolved = spec("{}").resolve(&mut world.host, None).unwrap();
    ip("link add cni0 address 02:00:00:00:00:99 type bridge");
    let built = build(&mut world.host, &mut pod, &resolved, &target("eth0"), layer3(&["10.0.0.2/24"], &[])).unwrap();
    assert_eq!(built.interfaces[0].mac, "02:00:00:00:00:99");

    let mut pod = world.pod();
    let resolved = spec(r#"{"bridge":"br0"}"#).resolve(&mut world.host, None).unwrap();
    world.lower("br0");
    let error = build(&mut world.host, &mut pod, &resolved, &target("eth0"), layer3(&[], &[])).unwrap_err();
    assert_eq!(error.chain(), "failed to create bridge \"br0\": \"br0\" already exists but is not a bridge");
}

fn neighbours_learn_a_new_owner_of_an_address(world: &mut World) {
    let mut pod = world.pod();
    ip("link add br0 up address 02:00:00:00:00:99 type bridge");
    ip("addr add 10.0.0.1/24 dev br0");
    ip("-6 addr add fd00::1/64 dev br0 nodad");
    let mac = "02:00:00:00:00:77";
    for address in ["10.0.0.2", "fd00::2"] {
        ip(&format!("neigh replace {address} lladdr 02:00:00:00:00:66 nud stale dev br0"));
    }
    let target = Target { mac: Some(mac.parse().unwrap()), ..target("net1") };
    let (v4, v6) = (Events::of_neighbours("br0"), Events::of_neighbours("br0"));
    built(world, &mut pod, r#"{"bridge":"br0"}"#, &target, layer3(&["10.0.0.2/24", "fd00::2/64"], &[])).unwrap();
    v4.until(|line| line.starts_with("10.0.0.2 ") && line.contains(mac));
    v6.until(|line| line.starts_with("fd00::2 ") && line.contains(mac));
}
