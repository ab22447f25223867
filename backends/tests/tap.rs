//! tap in a pod: what the link is like, and that nothing stays of one that failed.

use backends::{Built, Error, ErrorKind, Expected, Layer3, Pod, Spec, Target, build, check, tap};

use crate::Case;
use crate::world::{World, conf, in_pod, layer3, pod_addresses, pod_link, pod_links, target};

pub(crate) const CASES: &[Case] = &[
    ("tap::it_has_every_property", it_has_every_property),
    ("tap::it_joins_a_bridge_of_the_pod", it_joins_a_bridge_of_the_pod),
    ("tap::a_taken_name_is_refused", a_taken_name_is_refused),
    ("tap::a_failing_step_leaves_nothing", a_failing_step_leaves_nothing),
    ("tap::check_sees_what_differs", check_sees_what_differs),
];

fn built(world: &mut World, pod: &mut Pod, text: &str, target: &Target<'_>, l3: Layer3) -> Result<Built, Error> {
    let resolved = Spec::Tap(conf::<tap::Conf>(text).validate().unwrap()).resolve(&mut world.host, Some(pod))?;
    build(&mut world.host, pod, &resolved, target, l3)
}

fn it_has_every_property(world: &mut World) {
    let mut pod = world.pod();
    let text = r#"{"owner":0,"group":0,"multiQueue":true,"mtu":1400,"mac":"02:00:00:00:00:01"}"#;
    let target = Target { group: Some(77), mac: Some("02:00:00:00:00:07".parse().unwrap()), ..target("net1") };
    let built = built(world, &mut pod, text, &target, layer3(&["10.0.0.2/24"], &[])).unwrap();
    let link = pod_link(&pod, "net1");
    assert_eq!((link["address"].as_str(), link["mtu"].as_u64()), (Some("02:00:00:00:00:07"), Some(1400)));
    assert_eq!(link["group"], "77");
    let own = &link["linkinfo"]["info_data"];
    assert_eq!((own["type"].as_str(), own["persist"].as_bool()), (Some("tap"), Some(true)));
    assert_eq!((own["vnet_hdr"].as_bool(), own["multi_queue"].as_bool()), (Some(true), Some(true)));
    assert_eq!((built.interfaces[0].mac.as_str(), built.interfaces[0].in_pod), ("02:00:00:00:00:07", true));
    assert_eq!(pod_addresses(&pod, "net1"), ["10.0.0.2/24"]);
}

fn it_joins_a_bridge_of_the_pod(world: &mut World) {
    let mut pod = world.pod();
    in_pod(&pod, "link add br0 type bridge");
    built(world, &mut pod, r#"{"bridge":"br0"}"#, &target("net1"), layer3(&[], &[])).unwrap();
    assert_eq!(pod_link(&pod, "net1")["master"], "br0");
    let error = built(world, &mut pod, r#"{"bridge":"br1"}"#, &target("net2"), layer3(&[], &[])).unwrap_err();
    assert_eq!(error.chain(), "failed to get bridge br1: Link not found");
    assert!(!pod_links(&pod).contains(&"net2".to_owned()));
}

fn a_taken_name_is_refused(world: &mut World) {
    let mut pod = world.pod();
    built(world, &mut pod, "{}", &target("net1"), layer3(&[], &[])).unwrap();
    let error = built(world, &mut pod, "{}", &target("net1"), layer3(&[], &[])).unwrap_err();
    assert_eq!((error.kind(), error.chain().as_str()), (ErrorKind::NameTaken, "create link net1: file exists"));
    assert_eq!(pod_links(&pod).len(), 2);
}

fn a_failing_step_leaves_nothing(world: &mut World) {
    let mut pod = world.pod();
    let unreachable = layer3(&["10.0.0.2/24"], &["192.0.2.0/24 172.16.0.1"]);
    for (text, l3) in [("{}", unreachable), (r#"{"mtu":20}"#, layer3(&[], &[]))] {
        let error = built(world, &mut pod, text, &target("net1"), l3).unwrap_err();
        assert!(error.undo_failure().is_none(), "{}", error.chain());
        assert_eq!(pod_links(&pod), ["lo"], "{text}");
    }
}

fn check_sees_what_differs(world: &mut World) {
    let mut pod = world.pod();
    let built = built(world, &mut pod, "{}", &target("net1"), layer3(&["10.0.0.2/24"], &[])).unwrap();
    let expected = Expected {
        interfaces: built.interfaces,
        addresses: built.layer3.addresses,
        routes: built.layer3.routes,
        ..Expected::default()
    };
    let spec = Spec::Tap(conf::<tap::Conf>("{}").validate().unwrap());
    check(&mut world.host, &mut pod, &spec, "net1", &expected).unwrap();
    in_pod(&pod, "link set net1 address 02:00:00:00:00:55");
    check(&mut world.host, &mut pod, &spec, "net1", &expected).unwrap();
    in_pod(&pod, "addr del 10.0.0.2/24 dev net1");
    let error = check(&mut world.host, &mut pod, &spec, "net1", &expected).unwrap_err();
    assert_eq!(error.chain(), "Failed to match addr 10.0.0.2/24 on interface net1");
    in_pod(&pod, "link del net1");
    in_pod(&pod, "link add net1 type bridge");
    let error = check(&mut world.host, &mut pod, &spec, "net1", &expected).unwrap_err();
    assert_eq!(error.chain(), "container interface net1 is of kind \"bridge\", not tun");
}
