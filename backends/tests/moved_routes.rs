//! CHECK of every kind finds the routes of its result in whatever table a chained plugin moved them to.

use backends::chained::{Previous, sbr, tables, vrf};
use backends::{
    ErrorKind, Expected, Kind, Pod, Spec, bridge, build, check, host_device, ipvlan, macvlan, ptp, supports, tap, vlan,
};

use crate::Case;
use crate::world::{World, conf, in_pod, ip, layer3, target};

pub(crate) const CASES: &[Case] = &[
    ("sbr::check_of_every_kind_finds_its_routes", sbr_moves_them),
    ("vrf::check_of_every_kind_finds_its_routes", vrf_moves_them),
];

/// A configuration of each kind that has routes; the lower device is `ext0`, the host's device `dev0`.
fn specs() -> [(Kind, Spec); 8] {
    let on_ext0 = r#"{"master":"ext0","vlanId":5}"#;
    [
        (Kind::Bridge, Spec::Bridge(conf::<bridge::Conf>("{}").validate(true).unwrap())),
        (Kind::Ptp, Spec::Ptp(conf::<ptp::Conf>("{}").validate().unwrap())),
        (Kind::Macvlan, Spec::Macvlan(conf::<macvlan::Conf>(on_ext0).validate().unwrap())),
        (Kind::Ipvlan, Spec::Ipvlan(conf::<ipvlan::Conf>(on_ext0).validate(backends::Before::Nothing).unwrap())),
        (Kind::Vlan, Spec::Vlan(conf::<vlan::Conf>(on_ext0).validate().unwrap())),
        (Kind::Dummy, Spec::Dummy),
        (Kind::HostDevice, Spec::HostDevice(conf::<host_device::Conf>(r#"{"device":"dev0"}"#).validate().unwrap())),
        (Kind::Tap, Spec::Tap(conf::<tap::Conf>("{}").validate().unwrap())),
    ]
}

/// Builds each kind that this kernel has, lets `move_routes` work, and checks before, after, and without one of the routes. What
/// `move_routes` gives is the table of IPv4's.
fn each_kind(world: &mut World, move_routes: impl Fn(&mut Pod, &Previous) -> u32) {
    for (kind, spec) in specs() {
        if !supports(&mut world.host, kind).unwrap() {
            assert!(![Kind::Bridge, Kind::Ptp].contains(&kind));
            continue;
        }
        let mut pod = world.pod();
        // No lower device has links of two kinds.
        world.lower("ext0");
        if kind == Kind::HostDevice {
            world.lower("dev0");
        }
        let l3 = layer3(
            &["10.0.0.2/24 10.0.0.1", "fd00::2/64 fd00::1"],
            &["0.0.0.0/0", "192.0.2.0/24 10.0.0.9", "::/0", "2001:db8::/32 fd00::9"],
        );
        let resolved = spec.clone().resolve(&mut world.host, Some(&mut pod)).unwrap();
        let built = build(&mut world.host, &mut pod, &resolved, &target("net1"), l3).unwrap();
        let backends::Built { interfaces, made, address_interface, layer3: l3, .. } = built;
        let expected = Expected { interfaces, made, addresses: l3.addresses, routes: l3.routes, ..Expected::default() };
        let previous = Previous {
            interfaces: expected.interfaces.clone(),
            addresses: expected.addresses.iter().map(|address| (*address, address_interface)).collect(),
            routes: expected.routes.clone(),
        };
        let mut checked = |pod: &mut Pod| check(&mut world.host, pod, &spec, "net1", &expected);
        checked(&mut pod).unwrap_or_else(|e| panic!("{kind:?} before: {}", e.chain()));
        let table = move_routes(&mut pod, &previous);
        assert_eq!(in_pod(&pod, "-4 route show table main").trim(), "", "{kind:?}");
        checked(&mut pod).unwrap_or_else(|e| panic!("{kind:?} after: {}", e.chain()));
        in_pod(&pod, &format!("route del 192.0.2.0/24 table {table}"));
        let error = checked(&mut pod).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.chain().starts_with("Expected Route {Dst:{IP:192.0.2.0 Mask:ffffff00}"), "{}", error.chain());
        ip("link del ext0");
    }
}

fn sbr_moves_them(world: &mut World) {
    each_kind(world, |pod, previous| {
        let spec = conf::<sbr::Conf>("{}").validate().unwrap();
        let resolved = sbr::look(pod, &spec, "net1", previous).unwrap();
        sbr::add(pod, resolved).unwrap();
        sbr::check(pod, &spec, "net1", previous).unwrap();
        let addresses: Vec<_> = previous.addresses.iter().map(|(address, _)| address.address.ip()).collect();
        // A rule of each family.
        assert_eq!(tables(pod, "net1", &addresses).unwrap(), [254, 100, 101]);
        100
    });
}

fn vrf_moves_them(world: &mut World) {
    each_kind(world, |pod, _| {
        let spec = conf::<vrf::Conf>(r#"{"vrfname":"blue"}"#).validate().unwrap();
        let resolved = vrf::look(pod, &spec, "net1").unwrap();
        vrf::add(pod, resolved).unwrap();
        vrf::check(pod, &spec, "net1").unwrap();
        assert_eq!(tables(pod, "net1", &[]).unwrap(), [1]);
        // As it was before: usable, also where it is still examined.
        let text = in_pod(pod, "-6 -o addr show dev net1 tentative");
        assert!(text.lines().all(|line| line.contains("optimistic") || line.contains("fe80")), "{text}");
        1
    });
}
