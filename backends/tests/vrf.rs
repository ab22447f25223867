//! VRFs against the kernel, where it has them, beside the reference plugin, and with traffic.

use std::sync::Barrier;

use backends::chained::tables;
use backends::chained::vrf::{self, Attached, Conf, Original};
use backends::{Error, ErrorKind, NetNs, Pod};

use crate::Case;
use crate::routing::{Link, Plugin, give_far_ends, network, peer_plugin, ping, snapshot};
use crate::world::{World, conf, in_pod, pod_links};

pub(crate) const CASES: &[Case] = &[
    ("vrf::the_interface_takes_all_along", the_interface_takes_all_along),
    ("vrf::it_is_undone_exactly", it_is_undone_exactly),
    ("vrf::two_with_one_address_are_reached", two_with_one_address_are_reached),
    ("vrf::the_last_one_takes_the_vrf_along", the_last_one_takes_the_vrf_along),
    ("vrf::two_that_leave_at_once_leave_nothing", two_that_leave_at_once_leave_nothing),
    ("vrf::errors_are_the_reference_plugin_s", errors_are_the_reference_plugin_s),
    ("vrf::check_sees_the_table", check_sees_the_table),
    ("vrf::peer_makes_the_same", peer_makes_the_same),
    ("vrf::peer_removes_ours_and_we_remove_its", peer_removes_ours_and_we_remove_its),
];

/// Routes of every sort, for `ip`.
const ROUTES: &[&str] = &[
    "route add default via 10.0.2.1",
    "route append default via 10.0.2.8",
    "route add 192.0.2.0/24 via 10.0.2.9 metric 50 mtu 1400 advmss 1200",
    "route add 198.51.100.0/24 via 10.0.2.9 src 10.0.2.2",
    "route add 203.0.113.0/24 dev net2",
    "route add 172.16.0.0/16 nexthop via 10.0.2.9 weight 3 nexthop via 10.0.2.10",
    "route add 192.0.2.0/24 via 10.0.2.9 table 700",
    "-6 route add default via fd02::1",
    "-6 route append default via fd02::9",
    "-6 route add 2001:db8::/32 via fd02::1 metric 5 src fd02::2",
    "-6 route add 2001:db8:1::/48 dev net2",
];

fn add(pod: &mut Pod, text: &str, ifname: &str) -> Result<Original, Error> {
    let spec = conf::<Conf>(text).validate()?;
    let resolved = vrf::look(pod, &spec, ifname)?;
    // As it comes out of a record.
    let record = serde_json::to_string(resolved.original()).unwrap();
    vrf::add(pod, resolved).map(|()| serde_json::from_str(&record).unwrap())
}

fn attached<'a>(ifname: &'a str, original: Option<&'a Original>) -> Attached<'a> {
    Attached { ifname, vrf: "blue", original, link_stays: original.is_some() }
}

fn two_networks(world: &mut World) -> Pod {
    let pod = world.pod();
    network(&pod, &Link::numbered(1));
    network(&pod, &Link::numbered(2));
    pod
}

/// Rules and routes without link-local ones, whose time is the kernel's.
fn routes(pod: &Pod) -> Vec<String> {
    snapshot(pod).into_iter().filter(|line| !line.contains("fe80:")).collect()
}

fn addresses(pod: &Pod) -> Vec<String> {
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    in_pod(pod, "-6 -o addr show dev net2").lines().map(line).filter(|line| !line.contains("fe80:")).collect()
}

fn of_net2(lines: &[String]) -> Vec<String> {
    lines.iter().filter(|line| line.split(' ').any(|word| word == "net2")).cloned().collect()
}

/// `ip` says the table in the middle.
fn sorted_words(line: String) -> Vec<String> {
    let mut words: Vec<_> = line.split(' ').map(str::to_owned).collect();
    words.sort();
    words
}

/// The words of a route that moved from the main table, or of a local one; those of other tables stay there.
fn in_table_1(line: String) -> Vec<String> {
    let line = line.replace("table local", "table 1");
    sorted_words(if line.contains("table") { line } else { format!("{line} table 1") })
}

fn the_interface_takes_all_along(world: &mut World) {
    let mut pod = two_networks(world);
    in_pod(&pod, "-6 addr add fd02::7/64 dev net2 noprefixroute nodad valid_lft 5000 preferred_lft 4000");
    ROUTES.iter().for_each(|words| drop(in_pod(&pod, words)));
    let main = routes(&pod);
    assert_eq!(tables(&mut pod, "net2", &[]).unwrap(), [254]);
    add(&mut pod, r#"{"vrfname":"blue"}"#, "net2").unwrap();
    assert_eq!(tables(&mut pod, "net2", &[]).unwrap(), [1]);
    let mut wanted: Vec<_> = of_net2(&main).into_iter().map(in_table_1).collect();
    let mut found: Vec<_> = of_net2(&routes(&pod)).into_iter().map(sorted_words).collect();
    wanted.sort();
    found.sort();
    assert_eq!(found, wanted);
    let defaults = in_pod(&pod, "route show default table 1");
    let gateways: Vec<_> = defaults.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(gateways, ["10.0.2.1", "10.0.2.8"], "the first one stays the first");
    assert_eq!(in_pod(&pod, "-6 addr show dev net2 tentative"), "", "usable at once");
    let lifetimes = in_pod(&pod, "-6 -o addr show dev net2 to fd02::7");
    assert!(lifetimes.contains("valid_lft 4") || lifetimes.contains("valid_lft 5000sec"), "{lifetimes}");
    assert!(lifetimes.contains("noprefixroute"), "{lifetimes}");
    // Nothing of the other interface has moved.
    let other = |line: &&String| line.contains("net1");
    assert_eq!(routes(&pod).iter().filter(other).count(), main.iter().filter(other).count());
}

fn it_is_undone_exactly(world: &mut World) {
    let mut pod = two_networks(world);
    ROUTES.iter().for_each(|words| drop(in_pod(&pod, words)));
    let before = routes(&pod);
    let known = addresses(&pod);
    let original = add(&mut pod, r#"{"vrfname":"blue","table":900}"#, "net2").unwrap();
    let rules = |lines: Vec<String>| lines.into_iter().filter(|line| !line.contains("l3mdev")).collect::<Vec<_>>();
    for _ in 0..2 {
        vrf::remove(Some(&mut pod), &attached("net2", Some(&original))).unwrap();
        assert_eq!(rules(routes(&pod)), before);
        assert_eq!(addresses(&pod), known);
        assert!(!pod_links(&pod).contains(&"blue".to_owned()));
    }
    // As after a kill: before anything was done, and before anything came back.
    let spec = conf::<Conf>(r#"{"vrfname":"blue"}"#).validate().unwrap();
    let original = vrf::look(&mut pod, &spec, "net2").unwrap().original().clone();
    vrf::remove(Some(&mut pod), &attached("net2", Some(&original))).unwrap();
    assert_eq!(rules(routes(&pod)), before);
    in_pod(&pod, "link add blue up type vrf table 3");
    in_pod(&pod, "link set net2 master blue");
    vrf::remove(Some(&mut pod), &attached("net2", Some(&original))).unwrap();
    assert_eq!(rules(routes(&pod)), before);
    assert_eq!(addresses(&pod), known);
    // A step that fails: the loopback device is no port.
    let between = routes(&pod);
    let error = add(&mut pod, r#"{"vrfname":"blue"}"#, "lo").unwrap_err();
    assert!(error.chain().starts_with("could not set vrf blue as master of lo: "), "{}", error.chain());
    assert_eq!(routes(&pod), between);
    assert!(!pod_links(&pod).contains(&"blue".to_owned()), "what was made for it is gone");
}

/// Two interfaces in two VRFs with the same address, each reached from its own network.
fn two_with_one_address_are_reached(world: &mut World) {
    let (mut pod, first, second) = (two_networks(world), world.pod(), world.pod());
    give_far_ends(&pod, &[&first, &second]);
    for (number, name, router) in [(1, "blue", &first), (2, "red", &second)] {
        for words in ["addr add 10.9.0.2/24", "-6 addr add fd09::2/64 nodad"] {
            in_pod(&pod, &format!("{words} dev net{number}"));
        }
        for words in ["addr add 10.9.0.1/24", "-6 addr add fd09::1/64 nodad"] {
            in_pod(router, &format!("{words} dev net{number}-far"));
        }
        in_pod(&pod, &format!("route add 192.0.2.{number} via 10.9.0.1 dev net{number}"));
        add(&mut pod, &format!(r#"{{"vrfname":"{name}"}}"#), &format!("net{number}")).unwrap();
    }
    for router in [&first, &second] {
        for address in ["10.9.0.2", "fd09::2"] {
            router.netns().run(|| ping(address)).unwrap();
        }
    }
    assert!(in_pod(&pod, "route show table 1").contains("192.0.2.1 via 10.9.0.1"));
    assert!(in_pod(&pod, "route show table 2").contains("192.0.2.2 via 10.9.0.1"));
}

fn the_last_one_takes_the_vrf_along(world: &mut World) {
    let mut pod = two_networks(world);
    let has_vrf = |pod: &Pod| pod_links(pod).contains(&"blue".to_owned());
    vrf::remove(Some(&mut pod), &attached("net1", None)).unwrap();
    add(&mut pod, r#"{"vrfname":"blue","table":1001}"#, "net1").unwrap();
    add(&mut pod, r#"{"vrfname":"blue","table":1001}"#, "net2").unwrap();
    // Another VRF may have the same table.
    in_pod(&pod, "link add d0 type veth peer name d1");
    add(&mut pod, r#"{"vrfname":"red","table":1001}"#, "d0").unwrap();
    vrf::remove(Some(&mut pod), &attached("net1", None)).unwrap();
    assert!(has_vrf(&pod));
    // The main plugin was there first: the interface is gone.
    in_pod(&pod, "link del net2");
    vrf::remove(Some(&mut pod), &attached("net2", None)).unwrap();
    assert!(!has_vrf(&pod));
    assert!(pod_links(&pod).contains(&"red".to_owned()));
    vrf::remove(None, &attached("net2", None)).unwrap();
}

fn two_that_leave_at_once_leave_nothing(world: &mut World) {
    let pod = two_networks(world);
    let enter = || Pod::enter(NetNs::open(pod.netns().path()).unwrap()).unwrap();
    for _ in 0..3 {
        for work in [
            |pod: &mut Pod, name: &str| drop(add(pod, r#"{"vrfname":"blue"}"#, name).unwrap()),
            |pod: &mut Pod, name: &str| vrf::remove(Some(pod), &attached(name, None)).unwrap(),
        ] {
            let start = Barrier::new(2);
            std::thread::scope(|scope| {
                for name in ["net1", "net2"] {
                    let (mut pod, start) = (enter(), &start);
                    scope.spawn(move || {
                        start.wait();
                        work(&mut pod, name);
                    });
                }
            });
        }
        assert!(!pod_links(&pod).contains(&"blue".to_owned()));
    }
}

fn errors_are_the_reference_plugin_s(world: &mut World) {
    let mut pod = two_networks(world);
    in_pod(&pod, "link add blue type vrf table 10");
    in_pod(&pod, "link add red type vrf table 1");
    in_pod(&pod, "link set net1 master red");
    for (text, ifname, kind, wanted) in [
        (
            r#"{"vrfname":"blue","table":11}"#,
            "net2",
            ErrorKind::Invalid,
            "VRF blue already exist with different routing table 10",
        ),
        (r#"{"vrfname":"net1"}"#, "net2", ErrorKind::Invalid, "Netlink net1 is not a VRF"),
        (r#"{"vrfname":"blue"}"#, "net1", ErrorKind::Invalid, "interface net1 has already a master set: red"),
        (r#"{"vrfname":"green"}"#, "net9", ErrorKind::LinkMissing, "could not get link by name net9"),
        (r#"{"vrfname":""}"#, "net2", ErrorKind::Invalid, "configuration is expected to have a valid vrf name"),
    ] {
        let links = pod_links(&pod);
        let error = add(&mut pod, text, ifname).unwrap_err();
        assert_eq!((error.kind(), error.chain().as_str()), (kind, wanted));
        assert_eq!(pod_links(&pod), links);
    }
}

fn check_sees_the_table(world: &mut World) {
    let mut pod = two_networks(world);
    let spec = |text: &str| conf::<Conf>(text).validate().unwrap();
    add(&mut pod, r#"{"vrfname":"blue","table":10}"#, "net2").unwrap();
    for (text, ifname, wanted) in [
        (r#"{"vrfname":"blue"}"#, "net1", "failed to find net1 associated to vrf blue"),
        (r#"{"vrfname":"red"}"#, "net2", "Link not found"),
        (r#"{"vrfname":"blue","table":11}"#, "net2", "VRF blue has routing table 10, expected 11"),
    ] {
        let error = vrf::check(&mut pod, &spec(text), ifname).unwrap_err();
        assert_eq!((error.kind(), error.chain().as_str()), (ErrorKind::Mismatch, wanted));
    }
    vrf::check(&mut pod, &spec(r#"{"vrfname":"blue"}"#), "net2").unwrap();
    vrf::check(&mut pod, &spec(r#"{"vrfname":"blue","table":10}"#), "net2").unwrap();
}

/// What both take along; the reference plugin loses routes with several next hops, and those without a gateway.
fn peer_makes_the_same(world: &mut World) {
    let both = ROUTES
        .iter()
        .filter(|words| !["append", "nexthop", "dev net2", "table"].iter().any(|word| words.contains(word)));
    let both: Vec<_> = both.collect();
    for (text, routes_before) in
        [(r#"{"vrfname":"blue"}"#, &both[..]), (r#"{"vrfname":"blue","table":77}"#, &both[..1])]
    {
        let [peer, ours] = [false, true].map(|ours| {
            let mut pod = two_networks(world);
            routes_before.iter().for_each(|words| drop(in_pod(&pod, words)));
            if ours {
                add(&mut pod, text, "net2").unwrap();
            } else {
                let plugin = Plugin { pod: &pod, ifname: "net2", text, addresses: &["10.0.2.2/24"] };
                peer_plugin("vrf", &plugin, "ADD").unwrap();
            }
            (routes(&pod), addresses(&pod))
        });
        assert_eq!(ours, peer, "{text}");
    }
}

fn peer_removes_ours_and_we_remove_its(world: &mut World) {
    let mut pod = two_networks(world);
    let text = r#"{"vrfname":"blue"}"#;
    let has_vrf = |pod: &Pod| pod_links(pod).contains(&"blue".to_owned());
    add(&mut pod, text, "net2").unwrap();
    let call = |pod: &Pod, command| {
        peer_plugin("vrf", &Plugin { pod, ifname: "net2", text, addresses: &["10.0.2.2/24"] }, command)
    };
    call(&pod, "CHECK").unwrap();
    call(&pod, "DEL").unwrap();
    assert!(!has_vrf(&pod));
    call(&pod, "ADD").unwrap();
    assert!(has_vrf(&pod));
    vrf::remove(Some(&mut pod), &attached("net2", None)).unwrap();
    assert!(!has_vrf(&pod));
}
