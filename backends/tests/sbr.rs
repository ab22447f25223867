//! Source based routing against the kernel, beside the reference plugin, and with traffic.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use backends::chained::sbr::{self, Attached, Conf, Original};
use backends::{Error, ErrorKind, NetNs, Pod};

use crate::Case;
use crate::routing::{Link, Plugin, give_far_ends, network, peer_plugin, ping, previous, snapshot, until_locked_out};
use crate::world::{World, conf, in_pod};

pub(crate) const CASES: &[Case] = &[
    ("sbr::replies_leave_by_the_interface_they_came_in", replies_leave_by_the_interface_they_came_in),
    ("sbr::it_is_undone_exactly", it_is_undone_exactly),
    ("sbr::a_failing_step_leaves_nothing", a_failing_step_leaves_nothing),
    ("sbr::what_is_half_done_or_half_gone_is_undone", what_is_half_done_or_half_gone_is_undone),
    ("sbr::static_gateways_win", static_gateways_win),
    ("sbr::source_hints_stay_in_main", source_hints_stay_in_main),
    ("sbr::a_table_gets_rules_alone", a_table_gets_rules_alone),
    ("sbr::errors_are_the_reference_plugin_s", errors_are_the_reference_plugin_s),
    ("sbr::two_at_once_take_two_tables", two_at_once_take_two_tables),
    ("sbr::check_sees_a_missing_rule_and_route", check_sees_a_missing_rule_and_route),
    ("sbr::without_its_namespace_it_is_gone", without_its_namespace_it_is_gone),
    ("sbr::peer_makes_the_same", peer_makes_the_same),
    ("sbr::peer_removes_ours_and_we_remove_its", peer_removes_ours_and_we_remove_its),
    ("sbr::peer_and_we_at_once_take_two_tables", peer_and_we_at_once_take_two_tables),
];

/// How long a connection may take, in seconds. Reached only when the test fails.
const CONNECT_S: u64 = 10;

const BOTH: &[&str] = &["10.0.2.2/24 10.0.2.1", "fd02::2/64 fd02::1"];

/// Routes of every sort, for `ip`: several next hops, metrics, sources, no gateway, a rival of another interface.
const ROUTES: &[&str] = &[
    "route add default via 10.0.2.1",
    "route append default via 10.0.1.1",
    "route append default via 10.0.2.8",
    "route add 192.0.2.0/24 via 10.0.2.9 metric 50 mtu 1400 advmss 1200",
    "route add 192.0.2.0/24 via 10.0.1.9 metric 50 tos 0x10",
    "route add 198.51.100.0/24 via 10.0.2.9 src 10.0.2.2",
    "route add 203.0.113.0/24 dev net2",
    "route add 203.0.113.128/25 via 192.168.77.1 dev net2 onlink",
    "route add 172.16.0.0/16 nexthop via 10.0.2.9 weight 3 nexthop via 10.0.2.10",
    "-6 route add default via fd02::1",
    "-6 route append default via fd02::9",
    "-6 route add 2001:db8::/32 via fd02::1 metric 5 mtu 1400",
    "-6 route add 2001:db8:1::/48 dev net2",
];

fn add(pod: &mut Pod, text: &str, addresses: &[&str]) -> Result<Original, Error> {
    let spec = conf::<Conf>(text).validate()?;
    let resolved = sbr::look(pod, &spec, "net2", &previous("net2", addresses))?;
    // As it comes out of a record.
    let record = serde_json::to_string(resolved.original()).unwrap();
    sbr::add(pod, resolved).map(|()| serde_json::from_str(&record).unwrap())
}

fn remove(pod: &mut Pod, original: &Original) {
    let attached = Attached { ifname: "net2", table: None, previous: None, original: Some(original), link_stays: true };
    sbr::remove(Some(pod), &attached).unwrap();
}

fn two_networks(world: &mut World) -> Pod {
    let pod = world.pod();
    network(&pod, &Link::numbered(1));
    network(&pod, &Link::numbered(2));
    pod
}

/// Both routers of the pod have the same remote address behind them: only the right one awaits the answer.
fn replies_leave_by_the_interface_they_came_in(world: &mut World) {
    let (mut pod, first, second) = (world.pod(), world.pod(), world.pod());
    network(&pod, &Link::numbered(1));
    network(&pod, &Link::numbered(2));
    give_far_ends(&pod, &[&first, &second]);
    for (number, router) in [(1, &first), (2, &second)] {
        for words in [
            "addr add 192.0.2.9/32 dev lo".to_owned(),
            "-6 addr add 2001:db8::9/128 dev lo".to_owned(),
            format!("addr add 10.0.{number}.1/24 dev net{number}-far"),
            format!("-6 addr add fd0{number}::1/64 dev net{number}-far nodad"),
            format!("route replace 10.0.{number}.0/24 dev net{number}-far src 192.0.2.9"),
            format!("-6 route replace fd0{number}::/64 dev net{number}-far src 2001:db8::9 metric 1"),
        ] {
            in_pod(router, &words);
        }
    }
    in_pod(&pod, "route add default via 10.0.1.1");
    in_pod(&pod, "-6 route add default via fd01::1");
    let from = |source: &str, to: &str| in_pod(&pod, &format!("route get {to} from {source}"));
    assert!(from("10.0.2.2", "192.0.2.9").contains("dev net1"), "or there is nothing to show");
    assert!(from("fd02::2", "2001:db8::9").contains("dev net1"));
    add(&mut pod, "{}", BOTH).unwrap();
    for (number, router) in [(1, &first), (2, &second)] {
        for address in [format!("10.0.{number}.2"), format!("fd0{number}::2")] {
            let source = if number == 1 { "net1" } else { "net2" };
            let listener = pod.netns().run(|| TcpListener::bind((address.as_str(), 0))).unwrap().unwrap();
            let to: SocketAddr = listener.local_addr().unwrap();
            let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(CONNECT_S));
            let stream = router.netns().run(connect).unwrap().unwrap_or_else(|e| panic!("{address} {source}: {e}"));
            assert!(["192.0.2.9", "2001:db8::9"].contains(&stream.local_addr().unwrap().ip().to_string().as_str()));
            router.netns().run(|| ping(&address)).unwrap();
        }
    }
}

fn it_is_undone_exactly(world: &mut World) {
    for (text, addresses) in [
        ("{}", BOTH),
        ("{}", &["10.0.2.2/24 10.0.2.1", "10.0.3.2/24", "fd02::2/64"]),
        (r#"{"addSourceHints":true}"#, BOTH),
        (r#"{"gateways":["10.0.2.254"]}"#, BOTH),
    ] {
        let mut pod = two_networks(world);
        in_pod(&pod, "addr add 10.0.3.2/24 dev net2");
        ROUTES.iter().for_each(|words| drop(in_pod(&pod, words)));
        let before = snapshot(&pod);
        let original = add(&mut pod, text, addresses).unwrap();
        let between = snapshot(&pod);
        assert!(between.iter().any(|line| line.contains("lookup 100")), "{between:#?}");
        let is_of_main =
            |line: &&String| line.contains("dev net2") && !line.contains("table") && !line.contains("fe80");
        if !text.contains("Hints") {
            assert_eq!(between.iter().filter(is_of_main).collect::<Vec<_>>(), Vec::<&String>::new());
        }
        let default = in_pod(&pod, "route show default");
        assert_eq!(default.trim(), "default via 10.0.1.1 dev net1");
        remove(&mut pod, &original);
        assert_eq!(snapshot(&pod), before, "{text}");
        // IPv4's order says which of them decides.
        let defaults = in_pod(&pod, "route show default");
        let gateways: Vec<_> = defaults.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
        assert_eq!(gateways, ["10.0.2.1", "10.0.1.1", "10.0.2.8"]);
        // Again: nothing is left to undo.
        remove(&mut pod, &original);
        assert_eq!(snapshot(&pod), before);
    }
}

fn a_failing_step_leaves_nothing(world: &mut World) {
    let mut pod = two_networks(world);
    ROUTES.iter().for_each(|words| drop(in_pod(&pod, words)));
    let before = snapshot(&pod);
    for gateway in ["10.9.9.9", "192.0.2.77"] {
        let text = format!(r#"{{"gateways":["{gateway}"]}}"#);
        let error = add(&mut pod, &text, BOTH).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        let wanted = format!("Failed to add default route to {gateway}: network is unreachable: ");
        assert!(error.chain().starts_with(&wanted), "{}", error.chain());
        assert_eq!(snapshot(&pod), before);
    }
}

/// As after a kill at any instant: some of it is there, some is not.
fn what_is_half_done_or_half_gone_is_undone(world: &mut World) {
    let mut pod = two_networks(world);
    ROUTES.iter().for_each(|words| drop(in_pod(&pod, words)));
    let before = snapshot(&pod);
    let spec = conf::<Conf>("{}").validate().unwrap();
    let resolved = sbr::look(&mut pod, &spec, "net2", &previous("net2", BOTH)).unwrap();
    let original = resolved.original().clone();
    drop(resolved);
    remove(&mut pod, &original);
    assert_eq!(snapshot(&pod), before, "nothing was done yet");
    let original = add(&mut pod, "{}", BOTH).unwrap();
    in_pod(&pod, "rule del from 10.0.2.2 lookup 100");
    in_pod(&pod, "route flush table 100");
    in_pod(&pod, "route add 10.0.2.0/24 dev net2 proto kernel scope link src 10.0.2.2");
    remove(&mut pod, &original);
    assert_eq!(snapshot(&pod), before);
    // The interface is gone, and another one has its name: only rules are left.
    let original = add(&mut pod, "{}", BOTH).unwrap();
    in_pod(&pod, "link del net2");
    network(&pod, &Link::numbered(2));
    let another = snapshot(&pod);
    remove(&mut pod, &original);
    let left: Vec<_> = another.into_iter().filter(|line| !line.contains("lookup 10")).collect();
    assert_eq!(snapshot(&pod), left);
}

fn static_gateways_win(world: &mut World) {
    let mut pod = two_networks(world);
    in_pod(&pod, "route add default via 10.0.2.1");
    add(&mut pod, r#"{"gateways":["fd02::254","10.0.2.254"]}"#, BOTH).unwrap();
    assert_eq!(in_pod(&pod, "route show table 100 default").trim(), "default via 10.0.2.254 dev net2");
    let v6 = in_pod(&pod, "-6 route show table 101 default");
    assert_eq!(v6.trim(), "default via fd02::254 dev net2 metric 1024 pref medium");
}

fn source_hints_stay_in_main(world: &mut World) {
    let mut pod = two_networks(world);
    ROUTES.iter().for_each(|words| drop(in_pod(&pod, words)));
    // The reference plugin would take the other interface's route away.
    in_pod(&pod, "route append 10.0.2.0/24 dev net1");
    add(&mut pod, r#"{"addSourceHints":true}"#, BOTH).unwrap();
    let lines =
        |words: &str| -> Vec<String> { in_pod(&pod, words).lines().map(|line| line.trim().to_owned()).collect() };
    assert_eq!(lines("-4 route show dev net2"), ["10.0.2.0/24 scope link src 10.0.2.2", "203.0.113.0/24 scope link"]);
    let v6 = lines("-6 route show dev net2");
    assert_eq!(v6, ["fd02::/64 src fd02::2 metric 1024 pref medium", "fe80::/64 proto kernel metric 256 pref medium"]);
    assert_eq!(lines("-4 route show dev net1 10.0.2.0/24"), ["10.0.2.0/24 scope link"]);
    // A hint that the kernel refuses, for nobody has this address: the network stays as it was.
    let mut pod = two_networks(world);
    add(&mut pod, r#"{"addSourceHints":true}"#, &["10.0.2.77/24 10.0.2.1"]).unwrap();
    let main = in_pod(&pod, "-4 route show dev net2");
    assert_eq!(main.trim(), "10.0.2.0/24 proto kernel scope link src 10.0.2.2");
}

fn a_table_gets_rules_alone(world: &mut World) {
    let mut pod = two_networks(world);
    in_pod(&pod, "route add default via 10.0.2.1 table 5000");
    let before = snapshot(&pod);
    let original = add(&mut pod, r#"{"table":5000}"#, BOTH).unwrap();
    let added: Vec<_> = snapshot(&pod).into_iter().filter(|line| !before.contains(line)).collect();
    assert_eq!(added, ["32765: from 10.0.2.2 lookup 5000", "32765: from fd02::2 lookup 5000"]);
    // There already: the other one's rule stays.
    let between = snapshot(&pod);
    let error = add(&mut pod, r#"{"table":5000}"#, BOTH).unwrap_err();
    assert_eq!((error.kind(), error.chain().as_str()), (ErrorKind::NameTaken, "failed to add rule: file exists"));
    assert_eq!(snapshot(&pod), between);
    // Without a record they are found by the addresses; those of another table stay.
    in_pod(&pod, "rule add from 10.0.2.2 lookup 6000 priority 7");
    let addresses = previous("net2", BOTH);
    let attached =
        Attached { ifname: "net2", table: Some(5000), previous: Some(&addresses), original: None, link_stays: true };
    sbr::remove(Some(&mut pod), &attached).unwrap();
    in_pod(&pod, "rule del from 10.0.2.2 lookup 6000 priority 7");
    assert_eq!(snapshot(&pod), before);
    remove(&mut pod, &original);
    assert_eq!(snapshot(&pod), before);
}

fn errors_are_the_reference_plugin_s(world: &mut World) {
    let mut pod = world.pod();
    let error = add(&mut pod, "{}", &[]).unwrap_err();
    assert_eq!(error.chain(), "No IP addresses supplied on interface: net2");
    let error = add(&mut pod, "{}", BOTH).unwrap_err();
    assert_eq!(
        (error.kind(), error.chain().as_str()),
        (ErrorKind::LinkMissing, "Cannot find network interface net2: Link not found")
    );
}

fn tables_of(pod: &Pod) -> Vec<String> {
    let rules = ["-4 rule", "-6 rule"].map(|words| in_pod(pod, words)).concat();
    let table = |line: &str| line.split_whitespace().last().unwrap().to_owned();
    let mut tables: Vec<_> =
        rules.lines().filter(|line| line.contains("from 10.") || line.contains("from fd")).map(table).collect();
    tables.sort();
    tables
}

/// Decides for net1, lets `other` begin for net2, and goes on when that waits.
fn one_decides_first(pod: &Pod, other: impl FnOnce() + Send) {
    let mut first = Pod::enter(NetNs::open(pod.netns().path()).unwrap()).unwrap();
    let spec = conf::<Conf>("{}").validate().unwrap();
    let resolved = sbr::look(&mut first, &spec, "net1", &previous("net1", &["10.0.1.2/24 10.0.1.1"])).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(other);
        until_locked_out(pod);
        sbr::add(&mut first, resolved).unwrap();
    });
}

fn two_at_once_take_two_tables(world: &mut World) {
    let pod = two_networks(world);
    in_pod(&pod, "rule add from 192.0.2.1 lookup 101");
    one_decides_first(&pod, || {
        let mut second = Pod::enter(NetNs::open(pod.netns().path()).unwrap()).unwrap();
        drop(add(&mut second, "{}", &BOTH[..1]).unwrap());
    });
    assert_eq!(tables_of(&pod), ["100", "102"]);
    assert!(in_pod(&pod, "route show table 100").contains("dev net1"));
}

fn check_sees_a_missing_rule_and_route(world: &mut World) {
    let mut pod = two_networks(world);
    let spec = conf::<Conf>("{}").validate().unwrap();
    let result = previous("net2", BOTH);
    let error = sbr::check(&mut pod, &spec, "net2", &result).unwrap_err();
    assert_eq!(error.chain(), "the rule to a table from 10.0.2.2 of interface net2 is missing");
    add(&mut pod, "{}", BOTH).unwrap();
    sbr::check(&mut pod, &spec, "net2", &result).unwrap();
    in_pod(&pod, "-6 route del default table 101");
    let error = sbr::check(&mut pod, &spec, "net2", &result).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert_eq!(error.chain(), "the default route to fd02::1 from fd02::2 of interface net2 is missing");
    let other = conf::<Conf>(r#"{"table":5000}"#).validate().unwrap();
    let error = sbr::check(&mut pod, &other, "net2", &result).unwrap_err();
    assert_eq!(error.chain(), "the rule to table 5000 from 10.0.2.2 of interface net2 is missing");
}

fn without_its_namespace_it_is_gone(_: &mut World) {
    let attached = Attached { ifname: "net2", table: None, previous: None, original: None, link_stays: false };
    sbr::remove(None, &attached).unwrap();
}

/// Alike but for what is better: the IPv6 link-local network stays in the main table, too.
fn peer_makes_the_same(world: &mut World) {
    let plain =
        ROUTES.iter().filter(|words| !["append", "onlink", "nexthop", "tos"].iter().any(|word| words.contains(word)));
    let plain: Vec<_> = plain.collect();
    for (text, addresses, routes) in [
        ("{}", BOTH, &plain[..]),
        ("{}", BOTH, &[]),
        ("{}", &["10.0.2.2/24 10.0.2.1", "10.0.3.2/24 10.0.3.1", "fd02::2/64"], &plain[..]),
        ("{}", &["10.0.2.2/24", "10.0.2.3/24 10.0.2.1"], &[]),
        (r#"{"table":5000}"#, BOTH, &plain[..]),
    ] {
        let after = [false, true].map(|ours| {
            let mut pod = two_networks(world);
            for address in addresses.iter().filter_map(|text| text.split(' ').next()).filter(|a| a.starts_with("10.")) {
                in_pod(&pod, &format!("addr replace {address} dev net2"));
            }
            in_pod(&pod, "rule add from 192.0.2.1 lookup 101");
            routes.iter().for_each(|words| drop(in_pod(&pod, words)));
            if ours {
                add(&mut pod, text, addresses).unwrap();
            } else {
                peer_plugin("sbr", &Plugin { pod: &pod, ifname: "net2", text, addresses }, "ADD").unwrap();
            }
            snapshot(&pod)
        });
        let [peer, mut ours] = after;
        if !text.contains("table") {
            ours.retain(|line| line != "fe80::/64 dev net2 proto kernel metric 256 pref medium");
        }
        assert_eq!(ours, peer, "{text} {addresses:?}");
    }
}

fn peer_removes_ours_and_we_remove_its(world: &mut World) {
    let mut pod = two_networks(world);
    let rules = |pod: &Pod| snapshot(pod).into_iter().filter(|line| line.contains("lookup")).collect::<Vec<_>>();
    let before = rules(&pod);
    add(&mut pod, "{}", BOTH).unwrap();
    assert_ne!(rules(&pod), before);
    peer_plugin("sbr", &Plugin { pod: &pod, ifname: "net2", text: "{}", addresses: BOTH }, "DEL").unwrap();
    assert_eq!(rules(&pod), before);
    for with_result in [true, false] {
        let mut pod = two_networks(world);
        peer_plugin("sbr", &Plugin { pod: &pod, ifname: "net2", text: "{}", addresses: BOTH }, "ADD").unwrap();
        assert_ne!(rules(&pod), before);
        let result = previous("net2", BOTH);
        let previous = with_result.then_some(&result);
        let attached = Attached { ifname: "net2", table: None, previous, original: None, link_stays: true };
        sbr::remove(Some(&mut pod), &attached).unwrap();
        assert_eq!(rules(&pod), before);
        assert_eq!(in_pod(&pod, "route show table 100"), "");
        sbr::remove(Some(&mut pod), &attached).unwrap();
    }
}

fn peer_and_we_at_once_take_two_tables(world: &mut World) {
    let pod = two_networks(world);
    one_decides_first(&pod, || {
        let plugin = Plugin { pod: &pod, ifname: "net2", text: "{}", addresses: BOTH };
        peer_plugin("sbr", &plugin, "ADD").unwrap();
    });
    assert_eq!(tables_of(&pod), ["100", "101", "102"]);
    assert!(in_pod(&pod, "route show table 100").contains("dev net1"));
}
