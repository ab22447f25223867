//! tuning: everything is set, found again by CHECK, and ends as it began, whoever adds and whoever removes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use backends::chained::tuning::{self, Asked, Backup, Conf, Gained, Looked, Original, Spec};
use backends::nft::Owner;
use backends::{Error, ErrorKind, Interface, Pod};
use serde_json::{Value, json};

use crate::Case;
use crate::world::{World, conf, host_link, in_pod, ip, pod_link, pod_sysctl};

pub(crate) const CASES: &[Case] = &[
    ("tuning::every_attribute_is_set_and_put_back", every_attribute_is_set_and_put_back),
    ("tuning::everything_at_once_and_back", everything_at_once_and_back),
    ("tuning::an_interface_with_dots_has_parameters", an_interface_with_dots_has_parameters),
    ("tuning::a_second_add_keeps_the_first_values", a_second_add_keeps_the_first_values),
    ("tuning::two_in_a_chain_end_as_it_began", two_in_a_chain_end_as_it_began),
    ("tuning::a_failure_in_the_middle_changes_nothing", a_failure_in_the_middle_changes_nothing),
    ("tuning::a_hostile_directory_changes_nothing", a_hostile_directory_changes_nothing),
    ("tuning::a_hostile_backup_is_told_and_gone", a_hostile_backup_is_told_and_gone),
    ("tuning::killed_at_any_instant_it_is_repaired", killed_at_any_instant_it_is_repaired),
    ("tuning::without_a_namespace_only_the_backup_goes", without_a_namespace_only_the_backup_goes),
    ("tuning::without_the_link_the_namespace_is_put_back", without_the_link_the_namespace_is_put_back),
    ("tuning::another_namespace_or_link_is_left", another_namespace_or_link_is_left),
    ("tuning::what_somebody_else_set_stays", what_somebody_else_set_stays),
    ("tuning::values_that_the_kernel_rewrites", values_that_the_kernel_rewrites),
    ("tuning::a_parameter_without_reading", a_parameter_without_reading),
    ("tuning::what_cannot_be_set_fails_before_any_change", what_cannot_be_set_fails_before_any_change),
    ("tuning::the_other_end_of_a_pair_has_the_same_mtu", the_other_end_of_a_pair_has_the_same_mtu),
    ("tuning::capturing_packets_is_not_promisc", capturing_packets_is_not_promisc),
    ("tuning::check_tells_what_differs", check_tells_what_differs),
    ("tuning::backups_are_found_by_their_owners", backups_are_found_by_their_owners),
    ("tuning::go_adds_and_this_removes", go_adds_and_this_removes),
    ("tuning::this_adds_and_go_removes", this_adds_and_go_removes),
    ("tuning::both_say_the_same", both_say_the_same),
];

const OWNER: Owner<'static> = Owner { network: "n", sandbox: "c1", ifname: "eth0" };
const MAC: &str = "02:00:00:00:00:0a";

/// Each test runs in a thread of its own, and all in one file system.
fn directory() -> PathBuf {
    PathBuf::from(format!("/run/tuning-{}", nix::unistd::gettid()))
}

fn backup() -> PathBuf {
    directory().join("c1_eth0.json")
}

/// The pod's path for other processes.
fn path_of(pod: &Pod) -> String {
    pod.netns().path().to_str().unwrap().replace("self", &std::process::id().to_string())
}

/// A pod with one end of a pair, as plugins before this one leave it.
fn tuned_pod(world: &mut World) -> Pod {
    let pod = world.pod();
    ip("link add v0 type veth peer name v1");
    ip("link set v0 up");
    ip(&format!("link set v1 netns {} name eth0 address 02:00:00:00:00:01", path_of(&pod)));
    in_pod(&pod, "link set eth0 up");
    pod
}

fn asked(ifname: &str) -> Asked<'_> {
    Asked { ifname, env_mac: "" }
}

fn spec_for(text: &str, ifname: &str) -> Spec {
    validated(text, ifname).unwrap()
}

fn validated(text: &str, ifname: &str) -> Result<Spec, Error> {
    let conf: Conf = conf(text);
    let own = directory().to_str().map(str::to_owned);
    Conf { directory: conf.directory.clone().or(own), ..conf }.validate(&asked(ifname))
}

fn spec(text: &str) -> Spec {
    spec_for(text, "eth0")
}

fn look(world: &mut World, pod: &mut Pod, spec: &Spec) -> Result<Looked, Error> {
    tuning::look(Some(&mut world.host), pod, spec, &OWNER)
}

fn add(world: &mut World, pod: &mut Pod, spec: &Spec) -> Result<(Gained, Original), Error> {
    let looked = look(world, pod, spec)?;
    let gained = tuning::add(Some(&mut world.host), pod, spec, &looked)?;
    Ok((gained, looked.original().clone()))
}

/// DEL by the journal's values, or by the backup alone. Nothing is left to be told.
fn remove(world: &mut World, pod: &mut Pod, original: Option<&Original>) {
    let told = told_by_remove(world, pod, original);
    assert!(told.is_empty(), "{told:?}");
    assert!(fs::symlink_metadata(backup()).is_err(), "the backup stays");
}

fn told_by_remove(world: &mut World, pod: &mut Pod, original: Option<&Original>) -> Vec<String> {
    let told = tuning::remove(Some(&mut world.host), Some(pod), &OWNER, &directory(), original);
    told.iter().map(Error::chain).collect()
}

/// All that a test changes, of both ends.
fn state(pod: &Pod) -> Value {
    let of = |link: Value| json!([link["address"], link["mtu"], link["txqlen"], link["promiscuity"], link["flags"]]);
    let keys = ["ipv4/conf/eth0/arp_ignore", "ipv4/conf/all/arp_ignore", "core/somaxconn", "ipv4/ip_local_port_range"];
    let parameters: Vec<_> = keys.iter().map(|key| pod_sysctl(pod, key)).collect();
    json!([of(pod_link(pod, "eth0")), of(host_link("v0")), parameters])
}

/// Every attribute, and parameters of the link and of the namespace.
const EVERYTHING: &str = r#"{"mac":"02-00-00-00-00-0A","mtu":1400,"promisc":true,"allmulti":true,"txQLen":77,
    "sysctl":{"net.ipv4.conf.IFNAME.arp_ignore":"1","net.core.somaxconn":"99","net.ipv4.conf.all.arp_ignore":"2",
    "net.ipv4.ip_local_port_range":"2000 3000"}}"#;

fn is_tuned(pod: &Pod) -> bool {
    let link = pod_link(pod, "eth0");
    let flags = link["flags"].as_array().unwrap();
    let has = |flag: &str| flags.iter().any(|one| one == flag);
    link["address"] == MAC
        && link["mtu"] == 1400
        && link["txqlen"] == 77
        && has("PROMISC")
        && has("ALLMULTI")
        && pod_sysctl(pod, "ipv4/conf/eth0/arp_ignore") == "1"
        && pod_sysctl(pod, "ipv4/conf/all/arp_ignore") == "2"
        && pod_sysctl(pod, "core/somaxconn") == "99"
        && pod_sysctl(pod, "ipv4/ip_local_port_range") == "2000\t3000"
}

/// From the configuration, from `args`, by journal and by backup.
fn every_attribute_is_set_and_put_back(world: &mut World) {
    let mut pod = tuned_pod(world);
    let before = state(&pod);
    for (text, field, value) in [
        (r#""mac":"02:00:00:00:00:0a""#, "address", json!(MAC)),
        (r#""mtu":1400"#, "mtu", json!(1400)),
        (r#""txQLen":0"#, "txqlen", Value::Null),
        (r#""txQLen":7"#, "txqlen", json!(7)),
        (r#""promisc":true"#, "promiscuity", json!(1)),
        (r#""allmulti":true"#, "allmulti", json!(1)),
        (r#""sysctl":{"net.ipv4.conf.IFNAME.arp_ignore":"3"}"#, "", json!("3")),
    ] {
        for in_args in [false, true] {
            let spec =
                spec(&if in_args { format!(r#"{{"args":{{"cni":{{{text}}}}}}}"#) } else { format!("{{{text}}}") });
            let (_, original) = add(world, &mut pod, &spec).unwrap();
            let link = pod_link(&pod, "eth0");
            if field.is_empty() {
                assert_eq!(pod_sysctl(&pod, "ipv4/conf/eth0/arp_ignore"), "3");
            } else if field == "allmulti" && link["allmulti"].is_null() {
                assert!(link["flags"].as_array().unwrap().contains(&json!("ALLMULTI")));
            } else {
                assert_eq!(link[field], value, "{text}");
            }
            tuning::check(&mut pod, &spec, &OWNER).unwrap();
            remove(world, &mut pod, Some(&original).filter(|_| in_args));
            assert_eq!(state(&pod), before, "{text}");
        }
    }
    in_pod(&pod, "link set eth0 allmulticast on");
    let (_, original) = add(world, &mut pod, &spec(r#"{"allmulti":false}"#)).unwrap();
    assert_eq!(state(&pod), before);
    remove(world, &mut pod, Some(&original));
    assert_ne!(state(&pod), before, "on again");
}

fn everything_at_once_and_back(world: &mut World) {
    let mut pod = tuned_pod(world);
    let before = state(&pod);
    let spec = spec(EVERYTHING);
    let (gained, original) = add(world, &mut pod, &spec).unwrap();
    assert!(is_tuned(&pod), "{}", state(&pod));
    assert_eq!(gained.mac.as_deref(), Some("02-00-00-00-00-0A"));
    let mut interfaces = ["v0", "eth0", "eth0"].map(|name| Interface { name: name.to_owned(), ..Interface::default() });
    gained.write_to(&mut interfaces, "eth0");
    assert_eq!(interfaces.map(|one| one.mac), ["", "02-00-00-00-00-0A", "02-00-00-00-00-0A"]);
    tuning::check(&mut pod, &spec, &OWNER).unwrap();
    let journal = serde_json::to_string(&original).unwrap();
    remove(world, &mut pod, Some(&serde_json::from_str(&journal).unwrap()));
    assert_eq!(state(&pod), before);
    remove(world, &mut pod, Some(&original));
    assert_eq!(state(&pod), before, "twice is once");
}

fn an_interface_with_dots_has_parameters(world: &mut World) {
    let mut pod = tuned_pod(world);
    in_pod(&pod, "link set eth0 down");
    in_pod(&pod, "link set eth0 name net.1.0");
    let owner = Owner { ifname: "net.1.0", ..OWNER };
    let spec = spec_for(r#"{"sysctl":{"net.ipv4.conf.IFNAME.arp_ignore":"1"}}"#, "net.1.0");
    let looked = tuning::look(None, &mut pod, &spec, &owner).unwrap();
    tuning::add(None, &mut pod, &spec, &looked).unwrap();
    assert_eq!(pod_sysctl(&pod, "ipv4/conf/net.1.0/arp_ignore"), "1");
    tuning::check(&mut pod, &spec, &owner).unwrap();
    assert!(tuning::remove(None, Some(&mut pod), &owner, &directory(), Some(looked.original())).is_empty());
    assert_eq!(pod_sysctl(&pod, "ipv4/conf/net.1.0/arp_ignore"), "0");
}

/// With another configuration, too, and one that fails.
fn a_second_add_keeps_the_first_values(world: &mut World) {
    let mut pod = tuned_pod(world);
    let before = state(&pod);
    let other = r#"{"mtu":1300,"txQLen":78,"sysctl":{"net.core.somaxconn":"98"}}"#;
    for second in [EVERYTHING, other] {
        for by_journal in [true, false] {
            add(world, &mut pod, &spec(EVERYTHING)).unwrap();
            let (_, original) = add(world, &mut pod, &spec(second)).unwrap();
            let tuned = state(&pod);
            let failed = add(world, &mut pod, &spec(r#"{"mtu":1,"sysctl":{"net.core.somaxconn":"5"}}"#)).unwrap_err();
            assert_eq!(failed.kind(), ErrorKind::Refused);
            assert_eq!(state(&pod), tuned, "a failing one changes nothing");
            remove(world, &mut pod, Some(&original).filter(|_| by_journal));
            assert_eq!(state(&pod), before);
        }
    }
}

fn two_in_a_chain_end_as_it_began(world: &mut World) {
    let mut pod = tuned_pod(world);
    let before = state(&pod);
    let first = add(world, &mut pod, &spec(r#"{"mtu":1400,"sysctl":{"net.core.somaxconn":"9"}}"#)).unwrap().1;
    let second =
        add(world, &mut pod, &spec(r#"{"mtu":1300,"txQLen":5,"sysctl":{"net.core.somaxconn":"8"}}"#)).unwrap().1;
    let tuned = state(&pod);
    remove(world, &mut pod, Some(&second));
    remove(world, &mut pod, Some(&first));
    assert_eq!(state(&pod), before);
    add(world, &mut pod, &spec(r#"{"mtu":1400,"sysctl":{"net.core.somaxconn":"9"}}"#)).unwrap();
    add(world, &mut pod, &spec(r#"{"mtu":1300,"txQLen":5,"sysctl":{"net.core.somaxconn":"8"}}"#)).unwrap();
    assert_eq!(state(&pod), tuned);
    remove(world, &mut pod, None);
    assert_eq!(state(&pod), before);
}

fn a_failure_in_the_middle_changes_nothing(world: &mut World) {
    let mut pod = tuned_pod(world);
    let before = state(&pod);
    let sysctls = r#""sysctl":{"net.core.somaxconn":"9","net.ipv4.conf.IFNAME.arp_ignore":"3""#;
    for rest in [
        // The kernel sets the address before it refuses the MTU.
        r#"},"mac":"02:00:00:00:00:0a","mtu":3,"promisc":true"#,
        r#"},"mac":"03:00:00:00:00:01","txQLen":4"#,
        r#","net.ipv4.conf.IFNAME.arp_notify":"x"}"#,
        r#","net.ipv4.tcp_congestion_control":"no such"},"mtu":1400"#,
    ] {
        let spec = spec(&format!("{{{sysctls}{rest}}}"));
        let error = add(world, &mut pod, &spec).unwrap_err();
        assert!(error.undo_failure().is_none(), "{}", error.chain());
        assert_eq!(state(&pod), before, "{}", error.chain());
        assert!(!backup().exists());
    }
    let error = add(world, &mut pod, &spec(r#"{"sysctl":{"net.ipv4.ip_forward":"x"}}"#)).unwrap_err();
    assert_eq!(error.chain(), "write /proc/sys/net/ipv4/ip_forward: invalid argument");
}

fn a_hostile_directory_changes_nothing(world: &mut World) {
    let mut pod = tuned_pod(world);
    let before = state(&pod);
    fs::write("/run/plain", "").unwrap();
    fs::create_dir("/run/full").unwrap();
    fs::create_dir("/run/full/c1_eth0.json").unwrap();
    for directory in ["/run/plain", "/run/plain/below", "/proc/tuning", "/run/full"] {
        let spec = spec(&format!(r#"{{"dataDir":"{directory}",{}"#, EVERYTHING.trim_start_matches('{')));
        let error = add(world, &mut pod, &spec).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{}", error.chain());
        assert!(error.chain().contains(directory), "{}", error.chain());
        assert_eq!(state(&pod), before);
        let told = tuning::remove(None, Some(&mut pod), &OWNER, directory.as_ref(), None);
        assert_eq!(told.is_empty(), directory == "/proc/tuning", "{directory}: {told:?}");
    }
    fs::remove_dir_all("/run/full").unwrap();
}

fn a_hostile_backup_is_told_and_gone(world: &mut World) {
    let mut pod = tuned_pod(world);
    let before = state(&pod);
    let long = "x".repeat(5 << 20);
    let escape = r#"{"mtu":1500,"plexus":{"network":"n","sandbox":"c1","ifname":"eth0","netns":[0,0],"sysctl":
        [{"path":"../../kernel/hostname","old":"a","new":"b"}]}}"#;
    for hostile in ["", "{", "[]", r#"{"mtu":-1}"#, r#"{"mac":"zz"}"#, long.as_str(), escape] {
        fs::create_dir_all(directory()).unwrap();
        fs::write(backup(), hostile).unwrap();
        let told = told_by_remove(world, &mut pod, None);
        assert_eq!(told.is_empty(), hostile == escape, "{told:?}");
        assert!(!backup().exists());
        // Nothing can be learnt from it, and it is in nobody's way.
        fs::write(backup(), hostile).unwrap();
        add(world, &mut pod, &spec(EVERYTHING)).unwrap();
        remove(world, &mut pod, None);
        assert_eq!(state(&pod), before);
    }
    fs::write("/run/secret", r#"{"mtu":1300}"#).unwrap();
    symlink("/run/secret", backup()).unwrap();
    assert_eq!(told_by_remove(world, &mut pod, None).len(), 1);
    symlink("/run/secret", backup()).unwrap();
    add(world, &mut pod, &spec(EVERYTHING)).unwrap();
    remove(world, &mut pod, None);
    assert_eq!((state(&pod), fs::read_to_string("/run/secret").unwrap()), (before, r#"{"mtu":1300}"#.to_owned()));
}

/// After any part of the changes, and before all of them.
fn killed_at_any_instant_it_is_repaired(world: &mut World) {
    let mut pod = tuned_pod(world);
    let before = state(&pod);
    let parts = [
        "{}",
        r#"{"sysctl":{"net.core.somaxconn":"99"}}"#,
        r#"{"sysctl":{"net.core.somaxconn":"99","net.ipv4.ip_local_port_range":"2000 3000"},"mac":"02-00-00-00-00-0A"}"#,
        EVERYTHING,
    ];
    for part in parts {
        let journal = look(world, &mut pod, &spec(EVERYTHING)).unwrap().original().clone();
        add(world, &mut pod, &spec(part)).unwrap();
        drop(fs::remove_file(backup()));
        remove(world, &mut pod, Some(&journal));
        assert_eq!(state(&pod), before, "{part}");
    }
}

fn without_a_namespace_only_the_backup_goes(world: &mut World) {
    let mut pod = tuned_pod(world);
    let (_, original) = add(world, &mut pod, &spec(EVERYTHING)).unwrap();
    for original in [Some(&original), None] {
        fs::write(backup(), "{}").unwrap();
        assert!(tuning::remove(Some(&mut world.host), None, &OWNER, &directory(), original).is_empty());
        assert!(!backup().exists());
    }
    assert!(is_tuned(&pod));
}

fn without_the_link_the_namespace_is_put_back(world: &mut World) {
    let mut pod = tuned_pod(world);
    let somaxconn = pod_sysctl(&pod, "core/somaxconn");
    let (_, original) = add(world, &mut pod, &spec(EVERYTHING)).unwrap();
    assert!(original.outlives_link());
    ip("link del v0");
    remove(world, &mut pod, Some(&original));
    assert_eq!(pod_sysctl(&pod, "core/somaxconn"), somaxconn);
    assert_eq!(pod_sysctl(&pod, "ipv4/conf/all/arp_ignore"), "0");
}

fn another_namespace_or_link_is_left(world: &mut World) {
    let mut pod = tuned_pod(world);
    let (_, original) = add(world, &mut pod, &spec(EVERYTHING)).unwrap();
    let mut other = world.pod();
    in_pod(&other, "link add eth0 mtu 1234 type bridge");
    remove(world, &mut other, Some(&original));
    assert_eq!(pod_link(&other, "eth0")["mtu"], 1234);
    assert!(is_tuned(&pod));
    // A link of that name again, but not that one. A backup of the old one is not believed either.
    add(world, &mut pod, &spec(EVERYTHING)).unwrap();
    ip("link del v0");
    in_pod(&pod, "link add eth0 mtu 1234 type bridge");
    let again = look(world, &mut pod, &spec(r#"{"mtu":1300}"#)).unwrap();
    assert!(serde_json::to_string(again.original()).unwrap().starts_with(r#"{"mtu":1234,"plexus""#));
    remove(world, &mut pod, Some(&original));
    assert_eq!(pod_link(&pod, "eth0")["mtu"], 1234);
    assert_eq!(pod_sysctl(&pod, "ipv4/conf/all/arp_ignore"), "0");
}

fn what_somebody_else_set_stays(world: &mut World) {
    let mut pod = tuned_pod(world);
    let (_, original) = add(world, &mut pod, &spec(EVERYTHING)).unwrap();
    let set = || fs::write("/proc/sys/net/core/somaxconn", "55").unwrap();
    pod.netns().run(set).unwrap();
    remove(world, &mut pod, Some(&original));
    assert_eq!(pod_sysctl(&pod, "core/somaxconn"), "55");
    assert_eq!(pod_sysctl(&pod, "ipv4/conf/all/arp_ignore"), "0");
}

/// Lists of ports are written in ranges, times are rounded to ticks. CHECK and DEL know them again.
fn values_that_the_kernel_rewrites(world: &mut World) {
    let mut pod = tuned_pod(world);
    let spec = spec(
        r#"{"sysctl":{"net.ipv4.ip_local_reserved_ports":"8081,8080,9000","net.ipv4.conf.IFNAME.arp_notify":"0x1",
        "net.ipv4.ip_local_port_range":" 2000   3000 "}}"#,
    );
    for by_journal in [true, false] {
        let (_, original) = add(world, &mut pod, &spec).unwrap();
        assert_eq!(pod_sysctl(&pod, "ipv4/ip_local_reserved_ports"), "8080-8081,9000");
        tuning::check(&mut pod, &spec, &OWNER).unwrap();
        remove(world, &mut pod, Some(&original).filter(|_| by_journal));
        assert_eq!(pod_sysctl(&pod, "ipv4/ip_local_reserved_ports"), "");
        assert_eq!(pod_sysctl(&pod, "ipv4/conf/eth0/arp_notify"), "0");
        assert_ne!(pod_sysctl(&pod, "ipv4/ip_local_port_range"), "2000\t3000");
    }
}

fn a_parameter_without_reading(world: &mut World) {
    let mut pod = tuned_pod(world);
    let spec = spec(r#"{"sysctl":{"net.ipv4.route.flush":"1","net.ipv6.conf.IFNAME.stable_secret":"2001:db8::1"}}"#);
    let (_, original) = add(world, &mut pod, &spec).unwrap();
    tuning::check(&mut pod, &spec, &OWNER).unwrap();
    remove(world, &mut pod, Some(&original));
}

fn what_cannot_be_set_fails_before_any_change(world: &mut World) {
    let mut pod = tuned_pod(world);
    let before = state(&pod);
    for (key, expected) in [
        ("net.ipv4.nosuch", "open /proc/sys/net/ipv4/nosuch: no such file or directory"),
        ("net.ipv4.conf", "open /proc/sys/net/ipv4/conf: is a directory"),
        ("net.ipv4.conf.IFNAME.mc_forwarding", "open /proc/sys/net/ipv4/conf/eth0/mc_forwarding: permission denied"),
    ] {
        let spec = spec(&format!(r#"{{"mtu":1400,"sysctl":{{"net.core.somaxconn":"5","{key}":"1"}}}}"#));
        assert_eq!(look(world, &mut pod, &spec).unwrap_err().chain(), expected);
    }
    let missing = Owner { ifname: "eth9", ..OWNER };
    let error = tuning::look(None, &mut pod, &spec_for(r#"{"mtu":1400}"#, "eth9"), &missing).unwrap_err();
    assert_eq!(
        (error.chain().as_str(), error.kind()),
        ("failed to get \"eth9\": Link not found", ErrorKind::LinkMissing)
    );
    // Its file's name is also that of another container's interface.
    fs::create_dir_all(directory()).unwrap();
    let text = r#"{"plexus":{"network":"n","sandbox":"c1_eth0","ifname":"b","netns":[0,0]}}"#;
    fs::write(directory().join("c1_eth0_b.json"), text).unwrap();
    let ambiguous = Owner { ifname: "eth0_b", ..OWNER };
    let spec = spec_for(r#"{"sysctl":{"net.core.somaxconn":"5"}}"#, "eth0_b");
    assert_eq!(tuning::look(None, &mut pod, &spec, &ambiguous).unwrap_err().kind(), ErrorKind::Invalid);
    assert!(tuning::remove(None, Some(&mut pod), &ambiguous, &directory(), None).is_empty());
    assert_eq!(fs::read_to_string(directory().join("c1_eth0_b.json")).unwrap(), text);
    assert_eq!(state(&pod), before);
}

/// Where the host's end is a bridge's port it is raised, never lowered: a bridge has the smallest MTU of its ports.
fn the_other_end_of_a_pair_has_the_same_mtu(world: &mut World) {
    let mut pod = tuned_pod(world);
    ip("link add b0 type bridge");
    for (port, wanted, expected) in [(false, 1400, 1400), (false, 9000, 9000), (true, 1400, 1500), (true, 9000, 9000)] {
        ip(if port { "link set v0 master b0" } else { "link set v0 nomaster" });
        let (_, original) = add(world, &mut pod, &spec(&format!(r#"{{"mtu":{wanted}}}"#))).unwrap();
        assert_eq!(
            (host_link("v0")["mtu"].as_u64(), pod_link(&pod, "eth0")["mtu"].as_u64()),
            (Some(expected), Some(wanted))
        );
        assert!(host_link("b0")["mtu"].as_u64() >= Some(1500));
        remove(world, &mut pod, Some(&original));
        assert_eq!((&host_link("v0")["mtu"], &pod_link(&pod, "eth0")["mtu"]), (&json!(1500), &json!(1500)));
    }
}

/// A bridge in the pod makes its port promiscuous without anybody's request: the count is not what was configured.
fn capturing_packets_is_not_promisc(world: &mut World) {
    let mut pod = tuned_pod(world);
    in_pod(&pod, "link add b0 type bridge");
    in_pod(&pod, "link set eth0 master b0");
    assert_eq!(pod_link(&pod, "eth0")["promiscuity"], 1);
    tuning::check(&mut pod, &spec(r#"{"mtu":1500}"#), &OWNER).unwrap();
    let spec = spec(r#"{"promisc":true}"#);
    let (_, original) = add(world, &mut pod, &spec).unwrap();
    assert_eq!(pod_link(&pod, "eth0")["promiscuity"], 2);
    remove(world, &mut pod, Some(&original));
    in_pod(&pod, "link set eth0 nomaster");
    assert_eq!(pod_link(&pod, "eth0")["promiscuity"], 0);
}

fn check_tells_what_differs(world: &mut World) {
    let mut pod = tuned_pod(world);
    tuning::check(&mut pod, &spec("{}"), &OWNER).unwrap();
    add(world, &mut pod, &spec(EVERYTHING)).unwrap();
    let place = "/proc/sys/net/ipv4/ip_local_port_range";
    let rest = EVERYTHING.trim_start_matches('{');
    for (text, expected) in [
        (
            r#"{"sysctl":{"net.ipv4.ip_local_port_range":"1 2"}}"#.to_owned(),
            format!("configured value of {place} is 1 2, current value is 2000\t3000"),
        ),
        (r#"{"mtu":1400}"#.to_owned(), "link eth0 configured promisc is false, current value is 1".to_owned()),
        (
            EVERYTHING.replace("0A", "0b"),
            format!("configured Ethernet of eth0 is 02-00-00-00-00-0b, current value is {MAC}"),
        ),
        (EVERYTHING.replace("1400", "1300"), "configured MTU of eth0 is 1300, current value is 1400".to_owned()),
        (
            EVERYTHING.replace(r#""allmulti":true"#, r#""allmulti":false"#),
            "configured all-multicast mode of eth0 is false, current value is true".to_owned(),
        ),
        (
            format!(r#"{{"args":{{"cni":{{"txQLen":78}}}},{rest}"#),
            "configured Transmit Queue Length of eth0 is 78, current value is 77".to_owned(),
        ),
    ] {
        let error = tuning::check(&mut pod, &spec(&text), &OWNER).unwrap_err();
        assert_eq!((error.chain(), error.kind()), (format!("Error: Tuning {expected}"), ErrorKind::Mismatch));
    }
    in_pod(&pod, "link set eth0 promisc off");
    let error = tuning::check(&mut pod, &spec(EVERYTHING), &OWNER).unwrap_err();
    assert_eq!(error.chain(), "Error: Tuning link eth0 configured promisc is true, current value is 0");
    ip("link del v0");
    let error = tuning::check(&mut pod, &spec(r#"{"mtu":1400}"#), &OWNER).unwrap_err();
    assert_eq!(error.chain(), "Cannot find container link eth0");
}

fn backups_are_found_by_their_owners(world: &mut World) {
    let mut pod = tuned_pod(world);
    add(world, &mut pod, &spec(EVERYTHING)).unwrap();
    let found: Vec<Backup> = tuning::backups(&directory()).unwrap();
    let [backup] = found.as_slice() else { panic!("{found:?}") };
    let owner = backup.owner().unwrap();
    assert_eq!((owner.network, owner.sandbox, owner.ifname), ("n", "c1", "eth0"));
    assert!(backup.may_be_of("c1") && !backup.may_be_of("c"));
    backup.remove().unwrap();
    assert!(tuning::backups(&directory()).unwrap().is_empty());
}

/// Runs the reference plugin: what it prints, and whether it succeeded. `None`: it is not built.
fn go(pod: &Pod, command: &str, text: &str) -> Option<(Value, bool)> {
    let plugin = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers/tuning");
    if !plugin.exists() {
        return None;
    }
    let previous = r#""prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}]}"#;
    let rest = text.trim_start_matches(['{', '}']);
    let own = format!(r#""cniVersion":"1.0.0","name":"n","type":"tuning","dataDir":"{}""#, directory().display());
    let text = format!("{{{own},{previous}{}{rest}", if rest.is_empty() { "}" } else { "," });
    let mut child = Command::new(plugin)
        .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_PATH", "/x")])
        .env("CNI_NETNS", path_of(pod))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Some((serde_json::from_slice(&output.stdout).unwrap_or_default(), output.status.success()))
}

fn go_adds_and_this_removes(world: &mut World) {
    let mut pod = tuned_pod(world);
    let before = state(&pod);
    let text = EVERYTHING.split(r#","#).take(5).collect::<Vec<_>>().join(",") + "}";
    let Some((_, added)) = go(&pod, "ADD", &text) else { return };
    assert!(added && pod_link(&pod, "eth0")["mtu"] == 1400);
    tuning::check(&mut pod, &spec(&text), &OWNER).unwrap();
    // A second ADD, by this one, keeps what the first one saved.
    let (_, original) = add(world, &mut pod, &spec(EVERYTHING)).unwrap();
    assert!(is_tuned(&pod));
    remove(world, &mut pod, Some(&original));
    assert_eq!(state(&pod), before);
    go(&pod, "ADD", &text).unwrap();
    remove(world, &mut pod, None);
    assert_eq!(state(&pod), before);
}

/// Its DEL puts back what it knows of.
fn this_adds_and_go_removes(world: &mut World) {
    let mut pod = tuned_pod(world);
    let before = state(&pod);
    add(world, &mut pod, &spec(EVERYTHING)).unwrap();
    let Some((_, removed)) = go(&pod, "DEL", "{}") else { return };
    assert!(removed && !backup().exists());
    let now = state(&pod);
    assert_eq!(now[0], before[0]);
    assert_ne!(now[2], before[2], "the reference plugin leaves parameters");
}

/// The backup but for the key more, the texts of what is wrong, the result's hardware address.
fn both_say_the_same(world: &mut World) {
    let mut pod = tuned_pod(world);
    let Some((result, _)) = go(&pod, "ADD", EVERYTHING) else { return };
    let theirs = fs::read_to_string(backup()).unwrap();
    go(&pod, "DEL", "{}").unwrap();
    let (gained, original) = add(world, &mut pod, &spec(EVERYTHING)).unwrap();
    assert_eq!(result["interfaces"][0]["mac"].as_str(), gained.mac.as_deref());
    let ours = fs::read_to_string(backup()).unwrap();
    assert!(ours.starts_with(&format!("{},\n \"plexus\": {{\n  ", theirs.trim_end_matches("\n}"))), "{theirs}\n{ours}");
    remove(world, &mut pod, Some(&original));
    for text in [
        r#"{"sysctl":{"kernel.x":"1"}}"#,
        r#"{"sysctl":{"net.ipv4.nosuch":"1"}}"#,
        r#"{"sysctl":{"net.ipv4.conf":"1"}}"#,
        r#"{"sysctl":{"net.ipv4.ip_forward":"x"}}"#,
        r#"{"sysctl":{"net.ipv4.conf.IFNAME.mc_forwarding":"1"}}"#,
        r#"{"mac":"zz"}"#,
        r#"{"sysctl":{"net.ipv4.a":"1","net.ipv4.a":"1"}}"#,
    ] {
        let own = tuning::refuse_duplicates(text.as_bytes())
            .and_then(|()| validated(text, "eth0"))
            .and_then(|spec| add(world, &mut pod, &spec));
        let (error, _) = go(&pod, "ADD", text).unwrap();
        assert_eq!(error["msg"].as_str(), Some(own.unwrap_err().chain().as_str()), "{text}");
    }
}
