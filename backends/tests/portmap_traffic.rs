//! Connections to ports of the host that lead to pods: what a client, a neighbour, the pod itself and the host see.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use backends::chained::portmap::{add, remove};
use backends::nft::{Filter, Owner};
use backends::{NetNs, Pod, Spec, bridge, build};

use crate::Case;
use crate::portmap::{previous, spec};
use crate::world::{World, conf, in_pod, ip, layer3, sysctl, target};

pub(crate) const CASES: &[Case] = &[
    ("nft::portmap_a_client_reaches_the_pod_and_is_seen", a_client_reaches_the_pod_and_is_seen),
    ("nft::portmap_an_address_of_the_host_goes_before_all", an_address_of_the_host_goes_before_all),
    ("nft::portmap_a_pod_reaches_itself_and_its_neighbour", a_pod_reaches_itself_and_its_neighbour),
    ("nft::portmap_the_host_reaches_the_pod", the_host_reaches_the_pod),
    ("nft::portmap_without_snat_only_others_reach_the_pod", without_snat_only_others_reach_the_pod),
    ("nft::portmap_with_masq_all_nobody_is_seen", with_masq_all_nobody_is_seen),
    ("nft::portmap_other_destinations_are_not_taken", other_destinations_are_not_taken),
    ("nft::portmap_other_redirections_keep_their_source", other_redirections_keep_their_source),
    ("nft::portmap_udp_flows_follow_the_mapping", udp_flows_follow_the_mapping),
    ("nft::portmap_the_compatible_layout_works_the_same", the_compatible_layout_works_the_same),
];

/// How long a connection may take. Reached only when a test fails.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long is waited for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(300);

const ONE: Owner<'_> = Owner { network: "lab", sandbox: "c1", ifname: "eth0" };
const TWO: Owner<'_> = Owner { sandbox: "c2", ..ONE };

/// A host with a second address, a client beside it, and two pods on one of its bridges.
struct Net {
    client: Pod,
    pods: [Pod; 2],
    filter: Filter,
}

fn net(world: &mut World) -> Net {
    let client = world.pod();
    ip("link add up0 type veth peer name eth0");
    ip(&format!(
        "link set eth0 netns {}",
        client.netns().path().display().to_string().replace("self", &std::process::id().to_string())
    ));
    for address in ["192.0.2.1/24", "192.0.2.9/24", "fd00:9::1/64", "fd00:9::9/64"] {
        ip(&format!("addr add {address} dev up0{}", if address.contains(':') { " nodad" } else { "" }));
    }
    ip("link set up0 up");
    in_pod(&client, "addr add 192.0.2.2/24 dev eth0");
    in_pod(&client, "addr add fd00:9::2/64 dev eth0 nodad");
    in_pod(&client, "link set eth0 up");
    in_pod(&client, "route add default via 192.0.2.1");
    in_pod(&client, "-6 route add default via fd00:9::1");
    let mut pod = |host: u8| {
        let mut pod = world.pod();
        let l3 = layer3(&[&format!("10.1.0.{host}/24"), &format!("fd00:1::{host}/64")], &[]);
        let spec = Spec::Bridge(
            conf::<bridge::Conf>(r#"{"isDefaultGateway":true,"hairpinMode":true}"#).validate(true).unwrap(),
        );
        let resolved = spec.resolve(&mut world.host, Some(&mut pod)).unwrap();
        build(&mut world.host, &mut pod, &resolved, &target("eth0"), l3).unwrap();
        pod
    };
    let pods = [pod(5), pod(6)];
    Net { client, pods, filter: Filter::open().unwrap() }
}

impl Net {
    /// Maps ports of the host to a pod.
    fn map(&mut self, world: &mut World, owner: &Owner<'_>, pod: u8, mappings: &str, more: &str) {
        let addresses = [format!("10.1.0.{pod}/24"), format!("fd00:1::{pod}/64")];
        let previous = previous(&addresses.each_ref().map(String::as_str));
        add(&mut world.host, &mut self.filter, &spec(mappings, more), owner, &previous).unwrap();
    }
}

/// Serves TCP on this port of the pod, in both families: tells each client its name, and as whom it sees the client.
fn serve(pod: &Pod, name: &'static str, port: u16) {
    for any in ["0.0.0.0", "::"] {
        let any: IpAddr = any.parse().unwrap();
        let bind = || {
            let socket = socket_of_family(any);
            nix::sys::socket::bind(
                std::os::fd::AsRawFd::as_raw_fd(&socket),
                &nix::sys::socket::SockaddrStorage::from(SocketAddr::new(any, port)),
            )
            .unwrap();
            nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::new(16).unwrap()).unwrap();
            TcpListener::from(socket)
        };
        let listener = pod.netns().run(bind).unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                let _ = write!(stream, "{name} {}", peer.ip());
            }
        });
    }
}

/// The IPv6 one for that family alone.
fn socket_of_family(ip: IpAddr) -> std::os::fd::OwnedFd {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt::Ipv6V6Only};
    let family = if ip.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    if ip.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &true).unwrap();
    }
    socket
}

/// Who answers, and as whom it sees the caller; or why nobody does.
fn call(address: &str) -> Result<String, ErrorKind> {
    let mut stream = TcpStream::connect_timeout(&address.parse().unwrap(), DEADLINE).map_err(|e| e.kind())?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|e| e.kind())?;
    Ok(text)
}

fn call_from(netns: &NetNs, address: &str) -> Result<String, ErrorKind> {
    netns.run(|| call(address)).unwrap()
}

fn told(text: &str) -> Result<String, ErrorKind> {
    Ok(text.to_owned())
}

const REFUSED: Result<String, ErrorKind> = Err(ErrorKind::ConnectionRefused);
const TCP: &str = r#"{"hostPort":8080,"containerPort":80,"protocol":"tcp"}"#;

fn a_client_reaches_the_pod_and_is_seen(world: &mut World) {
    let mut net = net(world);
    serve(&net.pods[0], "one", 80);
    let calls = |net: &Net| {
        ["192.0.2.1:8080", "192.0.2.9:8080", "[fd00:9::1]:8080"].map(|to| call_from(net.client.netns(), to))
    };
    assert_eq!(calls(&net), [REFUSED, REFUSED, REFUSED]);
    for _ in 0..2 {
        net.map(world, &ONE, 5, TCP, "");
        assert_eq!(calls(&net), [told("one 192.0.2.2"), told("one 192.0.2.2"), told("one fd00:9::2")]);
    }
    assert_eq!(call_from(net.client.netns(), "192.0.2.1:80"), REFUSED, "another port");
    remove(&mut net.filter, Some(&spec(TCP, "")), &ONE).unwrap();
    assert_eq!(calls(&net), [REFUSED, REFUSED, REFUSED]);
}

fn an_address_of_the_host_goes_before_all(world: &mut World) {
    let mut net = net(world);
    serve(&net.pods[0], "one", 80);
    serve(&net.pods[1], "two", 80);
    let at = |ip: &str| format!(r#"{{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":"{ip}"}}"#);
    net.map(world, &ONE, 5, &format!("{},{}", at("192.0.2.9"), at("fd00:9::9")), "");
    let calls = |net: &Net| {
        ["192.0.2.1:8080", "192.0.2.9:8080", "[fd00:9::1]:8080", "[fd00:9::9]:8080"]
            .map(|to| call_from(net.client.netns(), to).map(|text| text[..3].to_owned()))
    };
    assert_eq!(calls(&net), [REFUSED, told("one"), REFUSED, told("one")]);
    net.map(world, &TWO, 6, TCP, "");
    assert_eq!(calls(&net), [told("two"), told("one"), told("two"), told("one")]);
    remove(&mut net.filter, None, &ONE).unwrap();
    assert_eq!(calls(&net), [told("two"), told("two"), told("two"), told("two")]);
}

fn a_pod_reaches_itself_and_its_neighbour(world: &mut World) {
    let mut net = net(world);
    serve(&net.pods[0], "one", 80);
    net.map(world, &ONE, 5, TCP, "");
    // Where bridged packets pass the packet filter and where they do not.
    for bridged in ["0", "1"] {
        for key in ["iptables", "ip6tables"] {
            let _ = std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{key}"), bridged);
        }
        for pod in &net.pods {
            assert_eq!(call_from(pod.netns(), "192.0.2.1:8080"), told("one 10.1.0.1"));
            assert_eq!(call_from(pod.netns(), "10.1.0.1:8080"), told("one 10.1.0.1"));
            assert_eq!(call_from(pod.netns(), "[fd00:9::1]:8080"), told("one fd00:1::1"));
        }
    }
    assert_eq!(call_from(net.pods[1].netns(), "10.1.0.5:80"), told("one 10.1.0.6"), "no way by the host");
}

fn the_host_reaches_the_pod(world: &mut World) {
    let mut net = net(world);
    serve(&net.pods[0], "one", 80);
    assert_eq!(sysctl("ipv4/conf/cni0/route_localnet"), "0");
    net.map(world, &ONE, 5, TCP, "");
    assert_eq!(sysctl("ipv4/conf/cni0/route_localnet"), "1");
    assert_eq!(call("192.0.2.1:8080"), told("one 192.0.2.1"));
    assert_eq!(call("10.1.0.1:8080"), told("one 10.1.0.1"));
    assert_eq!(call("127.0.0.1:8080"), told("one 10.1.0.1"));
    assert_eq!(call("[fd00:9::1]:8080"), told("one fd00:9::1"));
}

fn without_snat_only_others_reach_the_pod(world: &mut World) {
    let mut net = net(world);
    serve(&net.pods[0], "one", 80);
    net.map(world, &ONE, 5, TCP, r#","snat":false"#);
    assert_eq!(sysctl("ipv4/conf/cni0/route_localnet"), "0");
    assert_eq!(call_from(net.client.netns(), "192.0.2.1:8080"), told("one 192.0.2.2"));
    assert_eq!(call("192.0.2.1:8080"), told("one 192.0.2.1"));
    let rules = ip("-V").is_empty() || crate::portmap::nft("list table ip plexus_portmap").contains("masquerade");
    assert!(!rules, "nothing is masqueraded");
}

fn with_masq_all_nobody_is_seen(world: &mut World) {
    let mut net = net(world);
    serve(&net.pods[0], "one", 80);
    net.map(world, &ONE, 5, TCP, r#","masqAll":true"#);
    for (netns, to, seen) in [
        (net.client.netns(), "192.0.2.1:8080", "one 10.1.0.1"),
        (net.client.netns(), "[fd00:9::1]:8080", "one fd00:1::1"),
        (net.pods[0].netns(), "192.0.2.1:8080", "one 10.1.0.1"),
        (net.pods[1].netns(), "192.0.2.1:8080", "one 10.1.0.1"),
    ] {
        assert_eq!(call_from(netns, to), told(seen), "{to}");
    }
    assert_eq!(call("127.0.0.1:8080"), told("one 10.1.0.1"));
    assert_eq!(call_from(net.client.netns(), "10.1.0.5:80"), told("one 192.0.2.2"), "no way by a port of the host");
}

/// CVE-2025-67499: a port that is mapped is one of the host, not of everybody behind it.
fn other_destinations_are_not_taken(world: &mut World) {
    let mut net = net(world);
    serve(&net.pods[0], "one", 80);
    serve(&net.pods[1], "two", 8080);
    net.map(world, &ONE, 5, TCP, "");
    assert_eq!(call_from(net.client.netns(), "10.1.0.6:8080"), told("two 192.0.2.2"));
    assert_eq!(call_from(net.client.netns(), "[fd00:1::6]:8080"), told("two fd00:9::2"));
    assert_eq!(call("10.1.0.6:8080"), told("two 10.1.0.1"));
    serve(&net.client, "client", 8080);
    assert_eq!(call_from(net.pods[0].netns(), "192.0.2.2:8080"), told("client 10.1.0.5"));
}

/// A service of somebody else leads to the same pod: its callers are seen.
fn other_redirections_keep_their_source(world: &mut World) {
    let mut net = net(world);
    serve(&net.pods[0], "one", 80);
    net.map(world, &ONE, 5, TCP, "");
    crate::portmap::nft("add table ip services");
    crate::portmap::nft("add chain ip services prerouting { type nat hook prerouting priority -100 ; }");
    crate::portmap::nft("add rule ip services prerouting ip daddr 10.96.0.1 tcp dport 443 dnat to 10.1.0.5:80");
    // The pod's answers come back by the host.
    in_pod(&net.pods[0], "route add 10.1.0.6/32 via 10.1.0.1");
    assert_eq!(call_from(net.pods[1].netns(), "10.96.0.1:443"), told("one 10.1.0.6"));
}

/// Answers with its name.
fn serve_udp(pod: &Pod, name: &'static str) {
    for any in ["0.0.0.0:53", "[fd00:1::5]:53", "[fd00:1::6]:53"] {
        let Ok(socket) = pod.netns().run(|| UdpSocket::bind(any)).unwrap() else { continue };
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), peer);
            }
        });
    }
}

fn udp_flows_follow_the_mapping(world: &mut World) {
    let mut net = net(world);
    serve_udp(&net.pods[0], "one");
    serve_udp(&net.pods[1], "two");
    let one = r#"{"hostPort":5353,"containerPort":53,"protocol":"UDP"}"#.to_owned();
    let others = (1..6).map(|port| format!(r#",{{"hostPort":{port},"containerPort":53,"protocol":"udp"}}"#));
    let many = format!("{one}{}", others.collect::<String>());
    for (from, to, mapping) in [
        ("0.0.0.0:0", "192.0.2.1:5353", &one),
        ("[::]:0", "[fd00:9::1]:5353", &one),
        ("0.0.0.0:0", "192.0.2.1:5353", &many),
        ("[::]:0", "[fd00:9::1]:5353", &many),
    ] {
        let client = net.client.netns().run(|| UdpSocket::bind(from).unwrap()).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        let ask = |client: &UdpSocket| {
            client.send_to(b"?", to).unwrap();
            let mut buffer = [0; 64];
            client.recv_from(&mut buffer).map(|(length, _)| String::from_utf8(buffer[..length].to_vec()).unwrap())
        };
        net.map(world, &ONE, 5, mapping, "");
        assert_eq!(ask(&client).unwrap(), "one");
        remove(&mut net.filter, Some(&spec(mapping, "")), &ONE).unwrap();
        assert_eq!(ask(&client).unwrap(), "one", "the kernel remembers the flow");
        net.map(world, &TWO, 6, mapping, "");
        assert_eq!(ask(&client).unwrap(), "two");
        remove(&mut net.filter, Some(&spec(mapping, "")), &TWO).unwrap();
        let fresh = net.client.netns().run(|| UdpSocket::bind(from).unwrap()).unwrap();
        fresh.set_read_timeout(Some(SILENCE)).unwrap();
        assert!(ask(&fresh).is_err(), "nobody is there any more");
    }
}

fn the_compatible_layout_works_the_same(world: &mut World) {
    let mut net = net(world);
    serve(&net.pods[0], "one", 80);
    let more = r#","layout":"compatible""#;
    net.map(world, &ONE, 5, TCP, more);
    assert_eq!(call_from(net.client.netns(), "192.0.2.1:8080"), told("one 192.0.2.2"));
    assert_eq!(call_from(net.client.netns(), "[fd00:9::1]:8080"), told("one fd00:9::2"));
    assert_eq!(call_from(net.pods[0].netns(), "192.0.2.1:8080"), told("one 10.1.0.1"));
    assert_eq!(call("127.0.0.1:8080"), told("one 10.1.0.1"));
    remove(&mut net.filter, Some(&spec(TCP, more)), &ONE).unwrap();
    assert_eq!(call_from(net.client.netns(), "192.0.2.1:8080"), REFUSED);
}
