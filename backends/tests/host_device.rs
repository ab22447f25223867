//! A device of the host on its way into a pod and back, and wherever it can get lost on that way.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use backends::{Built, Error, ErrorKind, Layer3, Pod, Resolved, Spec, Target, build, host_device};

use crate::Case;
use crate::world::{
    World, conf, host_link, host_links, in_pod, ip, layer3, pod_addresses, pod_link, pod_links, target,
};

pub(crate) const CASES: &[Case] = &[
    ("host_device::it_moves_in_whole_and_comes_back", it_moves_in_whole_and_comes_back),
    ("host_device::a_pod_may_have_a_link_of_its_name", a_pod_may_have_a_link_of_its_name),
    ("host_device::a_failing_step_gives_it_back_up", a_failing_step_gives_it_back_up),
    ("host_device::a_taken_name_moves_nothing", a_taken_name_moves_nothing),
    ("host_device::it_works_on_while_its_name_is_taken", it_works_on_while_its_name_is_taken),
    ("host_device::a_move_that_stopped_half_way_is_undone", a_move_that_stopped_half_way_is_undone),
    ("host_device::it_is_put_right_on_the_host", it_is_put_right_on_the_host),
    ("host_device::a_lost_one_is_found_by_the_next_pod", a_lost_one_is_found_by_the_next_pod),
    (
        "host_device::an_alternative_name_finds_it_and_its_own_comes_back",
        an_alternative_name_finds_it_and_its_own_comes_back,
    ),
    ("host_device::an_alias_like_its_name_comes_back", an_alias_like_its_name_comes_back),
    ("host_device::what_an_alias_says_is_no_name", what_an_alias_says_is_no_name),
    ("host_device::without_a_record_the_alias_says", without_a_record_the_alias_says),
    ("host_device::a_pod_chooses_no_name_of_the_hosts", a_pod_chooses_no_name_of_the_hosts),
    ("host_device::a_pods_alternative_names_stay_behind", a_pods_alternative_names_stay_behind),
    ("host_device::whatever_bytes_a_pods_names_are", whatever_bytes_a_pods_names_are),
    ("host_device::another_link_of_the_name_stays", another_link_of_the_name_stays),
    ("host_device::one_of_user_space_does_not_move", one_of_user_space_does_not_move),
];

fn resolved(world: &mut World, text: &str) -> Result<host_device::Resolved, Error> {
    let spec = Spec::HostDevice(conf::<host_device::Conf>(text).validate().unwrap());
    let Resolved::HostDevice(resolved) = spec.resolve(&mut world.host, None)? else { panic!("not a host-device") };
    Ok(*resolved)
}

fn built(
    world: &mut World,
    pod: &mut Pod,
    device: &host_device::Resolved,
    target: &Target<'_>,
    l3: Layer3,
) -> Result<Built, Error> {
    build(&mut world.host, pod, &Resolved::HostDevice(Box::new(device.clone())), target, l3)
}

/// A device `dev0` that is up and has an alias, in the pod as net1.
fn moved(world: &mut World, pod: &mut Pod) -> host_device::Resolved {
    world.lower("dev0");
    ip("link set dev0 alias uplink");
    let device = resolved(world, r#"{"device":"dev0"}"#).unwrap();
    built(world, pod, &device, &target("net1"), layer3(&["10.0.0.2/24"], &[])).unwrap();
    device
}

fn is_home(name: &str) -> bool {
    host_links().iter().any(|link| link == name)
}

fn it_moves_in_whole_and_comes_back(world: &mut World) {
    let mut pod = world.pod();
    world.lower("dev0");
    ip("link set dev0 alias uplink address 02:00:00:00:00:07 mtu 1400");
    let device = resolved(world, r#"{"hwaddr":"02:00:00:00:00:07"}"#).unwrap();
    let record = device.device().unwrap().clone();
    assert_eq!((record.name.as_str(), record.alias.as_str(), record.kind.as_str()), ("dev0", "uplink", "veth"));
    let target = Target { group: Some(77), ..target("net1") };
    let l3 = layer3(&["10.0.0.2/24 10.0.0.1"], &["0.0.0.0/0"]);
    let built = built(world, &mut pod, &device, &target, l3).unwrap();

    let link = pod_link(&pod, "net1");
    assert_eq!((link["ifalias"].as_str(), link["operstate"].as_str()), (Some("dev0"), Some("UP")));
    assert_eq!((link["address"].as_str(), link["mtu"].as_u64()), (Some("02:00:00:00:00:07"), Some(1400)));
    assert_eq!(link["group"], "default", "a group is deleted as a whole");
    assert_eq!(pod_addresses(&pod, "net1"), ["10.0.0.2/24"]);
    assert_eq!((built.interfaces[0].name.as_str(), built.interfaces[0].in_pod), ("net1", true));
    assert_eq!(built.interfaces[0].mac, "02:00:00:00:00:07");
    assert!(!is_home("dev0"));

    // The pod may write what it likes to it.
    in_pod(&pod, "link set net1 address 02:00:00:00:00:99");
    host_device::give_back(&mut world.host, Some(&mut pod), "net1", &record, true).unwrap();
    let link = host_link("dev0");
    assert_eq!((link["ifalias"].as_str(), link["operstate"].as_str()), (Some("uplink"), Some("DOWN")));
    assert_eq!(pod_links(&pod), ["lo"]);
    // Again: nothing is left to do.
    host_device::give_back(&mut world.host, Some(&mut pod), "net1", &record, true).unwrap();
    assert_eq!(host_link("dev0")["ifalias"], "uplink");
}

fn a_pod_may_have_a_link_of_its_name(world: &mut World) {
    let mut pod = world.pod();
    in_pod(&pod, "link add dev0 type bridge");
    let device = moved(world, &mut pod);
    let mut links = pod_links(&pod);
    links.sort();
    assert_eq!(links, ["dev0", "lo", "net1"]);
    host_device::give_back(&mut world.host, Some(&mut pod), "net1", device.device().unwrap(), true).unwrap();
    assert_eq!(host_link("dev0")["ifalias"], "uplink");
    assert_eq!(pod_link(&pod, "dev0")["linkinfo"]["info_kind"], "bridge");
}

fn a_failing_step_gives_it_back_up(world: &mut World) {
    let mut pod = world.pod();
    world.lower("dev0");
    ip("link set dev0 alias uplink");
    let device = resolved(world, r#"{"device":"dev0"}"#).unwrap();
    let unreachable = layer3(&["10.0.0.2/24"], &["192.0.2.0/24 172.16.0.1"]);
    let error = built(world, &mut pod, &device, &target("net1"), unreachable).unwrap_err();
    assert!(error.chain().contains("failed to add route") && error.undo_failure().is_none(), "{}", error.chain());
    let link = host_link("dev0");
    assert_eq!((link["ifalias"].as_str(), link["operstate"].as_str()), (Some("uplink"), Some("UP")));
    assert_eq!(pod_links(&pod), ["lo"]);
}

fn a_taken_name_moves_nothing(world: &mut World) {
    let mut pod = world.pod();
    world.lower("dev0");
    in_pod(&pod, "link add net1 type bridge");
    let device = resolved(world, r#"{"device":"dev0"}"#).unwrap();
    let error = built(world, &mut pod, &device, &target("net1"), layer3(&[], &[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NameTaken);
    assert_eq!(
        error.chain(),
        "failed to move link failed to move \"net1\" (host: \"dev0\") to container NS: file exists"
    );
    assert_eq!(host_link("dev0")["operstate"], "UP");
}

fn it_works_on_while_its_name_is_taken(world: &mut World) {
    let mut pod = world.pod();
    let device = moved(world, &mut pod);
    ip("link add dev0 type bridge");
    let recorded = host_device::give_back(&mut world.host, Some(&mut pod), "net1", device.device().unwrap(), true);
    let unrecorded = host_device::give_back_unrecorded(&mut world.host, &mut pod, "net1", &|_| false);
    for error in [recorded, unrecorded] {
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NameTaken);
        assert_eq!(error.chain(), "failed to move \"dev0\" to hostNS: file exists");
    }
    assert_eq!(pod_link(&pod, "net1")["operstate"], "UP");
    assert_eq!(pod_addresses(&pod, "net1"), ["10.0.0.2/24"]);
    ip("link del dev0");
    host_device::give_back(&mut world.host, Some(&mut pod), "net1", device.device().unwrap(), true).unwrap();
    assert_eq!(host_link("dev0")["linkinfo"]["info_kind"], "veth");
}

fn a_move_that_stopped_half_way_is_undone(world: &mut World) {
    // What a kernel leaves that moved it and could not rename it; and what a removal leaves that was killed after its renaming.
    for alias in ["uplink", "dev0"] {
        let mut pod = world.pod();
        let device = moved(world, &mut pod);
        in_pod(&pod, "link set net1 down");
        in_pod(&pod, "link set net1 name dev0");
        in_pod(&pod, &format!("link set dev0 alias {alias}"));
        host_device::give_back(&mut world.host, Some(&mut pod), "net1", device.device().unwrap(), false).unwrap();
        assert_eq!(host_link("dev0")["ifalias"], "uplink");
        ip("link del dev0");
    }
}

/// The kernel moves a physical device to the host when its namespace dies: down, with its name and alias in the pod.
fn left_by_a_lost_pod(world: &mut World) -> host_device::Resolved {
    let mut pod = world.pod();
    let device = moved(world, &mut pod);
    host_device::give_back(&mut world.host, Some(&mut pod), "net1", device.device().unwrap(), false).unwrap();
    ip("link set dev0 name net1");
    ip("link set net1 alias dev0");
    device
}

fn it_is_put_right_on_the_host(world: &mut World) {
    let device = left_by_a_lost_pod(world);
    host_device::give_back(&mut world.host, None, "net1", device.device().unwrap(), false).unwrap();
    assert_eq!(host_link("dev0")["ifalias"], "uplink");
    assert!(!is_home("net1"));
    // Its owner may have called it something else by now: that is nobody's to change.
    ip("link set dev0 name other0 alias mine");
    host_device::give_back(&mut world.host, None, "net1", device.device().unwrap(), false).unwrap();
    assert!(is_home("other0") && !is_home("dev0"));
}

fn a_lost_one_is_found_by_the_next_pod(world: &mut World) {
    left_by_a_lost_pod(world);
    let mut pod = world.pod();
    let device = resolved(world, r#"{"device":"dev0"}"#).unwrap();
    assert_eq!((device.device().unwrap().name.as_str(), device.device().unwrap().alias.as_str()), ("dev0", ""));
    built(world, &mut pod, &device, &target("eth1"), layer3(&[], &[])).unwrap();
    assert_eq!(pod_link(&pod, "eth1")["ifalias"], "dev0");
    host_device::give_back(&mut world.host, Some(&mut pod), "eth1", device.device().unwrap(), true).unwrap();
    assert!(host_link("dev0")["ifalias"].is_null());
    assert!(!is_home("net1"));
}

fn an_alternative_name_finds_it_and_its_own_comes_back(world: &mut World) {
    for name in ["enp1s0", "a-name-of-more-than-fifteen-bytes"] {
        let mut pod = world.pod();
        world.lower("dev0");
        ip(&format!("link property add dev dev0 altname {name}"));
        let device = resolved(world, &format!(r#"{{"device":"{name}"}}"#)).unwrap();
        assert_eq!(device.device().unwrap().name, "dev0");
        built(world, &mut pod, &device, &target("net1"), layer3(&[], &[])).unwrap();
        assert_eq!(pod_link(&pod, "net1")["ifalias"], "dev0");
        host_device::give_back(&mut world.host, Some(&mut pod), "net1", device.device().unwrap(), true).unwrap();
        let link = host_link("dev0");
        assert_eq!((link["ifname"].as_str(), link["altnames"][0].as_str()), (Some("dev0"), Some(name)));
        ip("link del dev0");
    }
}

fn an_alias_like_its_name_comes_back(world: &mut World) {
    let mut pod = world.pod();
    world.lower("dev0");
    ip("link set dev0 alias dev0");
    let device = resolved(world, r#"{"device":"dev0"}"#).unwrap();
    built(world, &mut pod, &device, &target("net1"), layer3(&[], &[])).unwrap();
    host_device::give_back(&mut world.host, Some(&mut pod), "net1", device.device().unwrap(), true).unwrap();
    assert_eq!(host_link("dev0")["ifalias"], "dev0");
}

fn what_an_alias_says_is_no_name(world: &mut World) {
    left_by_a_lost_pod(world);
    let is_found = |world: &mut World| match resolved(world, r#"{"device":"dev0"}"#) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.chain(), "failed to find host device: Link not found");
            false
        }
    };
    assert!(is_found(world), "one that the kernel gave back is down");
    ip("link set net1 up");
    assert!(!is_found(world), "somebody uses it");
    ip("link set net1 down");
    world.lower("other0");
    ip("link set other0 down");
    ip("link set other0 alias dev0");
    assert!(!is_found(world), "one of the two is not the one");
}

fn without_a_record_the_alias_says(world: &mut World) {
    let mut pod = world.pod();
    moved(world, &mut pod);
    host_device::give_back_unrecorded(&mut world.host, &mut pod, "net1", &|_| false).unwrap();
    assert!(host_link("dev0")["ifalias"].is_null());
    host_device::give_back_unrecorded(&mut world.host, &mut pod, "net1", &|_| false).unwrap();
    in_pod(&pod, "link add net1 type bridge");
    let error = host_device::give_back_unrecorded(&mut world.host, &mut pod, "net1", &|_| false).unwrap_err();
    assert_eq!(error.chain(), "failed to find original ifname for \"net1\" (alias is not set)");
    assert_eq!(pod_link(&pod, "net1")["linkinfo"]["info_kind"], "bridge");
}

fn a_pod_chooses_no_name_of_the_hosts(world: &mut World) {
    for (said, is_anothers) in [("-eth0", false), ("eth%d", false), ("eth\u{3bf}", false), ("eth7", true)] {
        let mut pod = world.pod();
        moved(world, &mut pod);
        in_pod(&pod, &format!("link set net1 alias {said}"));
        in_pod(&pod, "link property add dev net1 altname eth8");
        in_pod(&pod, "link property add dev net1 altname dev0-far");
        in_pod(&pod, "link property add dev net1 altname mine");
        let is_anothers = |name: &str| name == "eth8" || (is_anothers && name == said);
        host_device::give_back_unrecorded(&mut world.host, &mut pod, "net1", &is_anothers).unwrap();
        assert_eq!(pod_links(&pod), ["lo"], "{said}");
        let name = host_links().into_iter().find(|name| name != "lo" && name != "dev0-far").unwrap();
        let number = name.strip_prefix("dev").unwrap();
        assert!(number.parse::<u32>().is_ok(), "{name}");
        assert_eq!(host_link(&name)["altnames"], serde_json::json!(["mine"]), "{said}");
        ip("link del dev0-far");
    }
}

fn a_pods_alternative_names_stay_behind(world: &mut World) {
    for taken in [false, true] {
        let mut pod = world.pod();
        world.lower("dev0");
        ip("link property add dev dev0 altname enp1s0");
        let device = resolved(world, r#"{"device":"dev0"}"#).unwrap();
        built(world, &mut pod, &device, &target("net1"), layer3(&[], &[])).unwrap();
        in_pod(&pod, "link property add dev net1 altname docker0");
        if taken {
            ip("link add docker0 type bridge");
        }
        host_device::give_back(&mut world.host, Some(&mut pod), "net1", device.device().unwrap(), true).unwrap();
        assert_eq!(host_link("dev0")["altnames"], serde_json::json!(["enp1s0"]));
        // What a namespace that has gone leaves.
        if !taken {
            ip("link property add dev dev0 altname docker0");
            host_device::give_back(&mut world.host, None, "net1", device.device().unwrap(), false).unwrap();
            assert_eq!(host_link("dev0")["altnames"], serde_json::json!(["enp1s0"]));
        }
        ip("link del dev0");
    }
}

/// The kernel wants no text.
fn whatever_bytes_a_pods_names_are(world: &mut World) {
    let names: [&[u8]; 3] = [b"\xff\xfe", b"a%d", "e\u{202e}".as_bytes()];
    let give = |pod: &Pod, name: &[u8]| {
        let mut add = Command::new("ip");
        add.args(["link", "property", "add", "dev", "net1", "altname"]).arg(OsStr::from_bytes(name));
        assert!(pod.netns().run(|| add.status().unwrap()).unwrap().success(), "{name:?}");
    };
    for recorded in [true, false] {
        let mut pod = world.pod();
        let device = moved(world, &mut pod);
        give(&pod, b"dev0");
        names.iter().for_each(|name| give(&pod, name));
        give(&pod, &[0xff; 127]);
        let back = match recorded {
            true => host_device::give_back(&mut world.host, Some(&mut pod), "net1", device.device().unwrap(), true),
            false => host_device::give_back_unrecorded(&mut world.host, &mut pod, "net1", &|_| false),
        };
        back.unwrap();
        assert_eq!(pod_links(&pod), ["lo"]);
        assert!(host_link("dev0")["altnames"].is_null(), "{}", host_link("dev0"));
        ip("link del dev0");
    }
}

fn another_link_of_the_name_stays(world: &mut World) {
    let mut pod = world.pod();
    let device = moved(world, &mut pod);
    host_device::give_back(&mut world.host, Some(&mut pod), "net1", device.device().unwrap(), false).unwrap();
    in_pod(&pod, "link add net1 type bridge");
    in_pod(&pod, "link add dev0 type bridge");
    host_device::give_back(&mut world.host, Some(&mut pod), "net1", device.device().unwrap(), false).unwrap();
    let mut links = pod_links(&pod);
    links.sort();
    assert_eq!(links, ["dev0", "lo", "net1"]);
}

fn one_of_user_space_does_not_move(world: &mut World) {
    let mut pod = world.pod();
    world.lower("dev0");
    let device = resolved(world, r#"{"device":"dev0","DPDKMode":true}"#).unwrap();
    assert!(device.device().is_none());
    let built = built(world, &mut pod, &device, &target("net1"), layer3(&["10.0.0.2/24"], &[])).unwrap();
    assert_eq!((built.interfaces[0].name.as_str(), built.interfaces[0].mac.as_str()), ("net1", ""));
    assert_eq!(built.address_interface, Some(0));
    assert_eq!(pod_links(&pod), ["lo"]);
    device.undo(&mut world.host, &mut pod, "net1").unwrap();
    assert!(is_home("dev0"));
}
