//! The pod's own interface.

use backends::{Doomed, Expected, Resolved, Spec, build, check, remove_now};

use crate::Case;
use crate::world::{World, in_pod, layer3, pod_link, target};

pub(crate) const CASES: &[Case] = &[
    ("loopback::up_with_its_addresses_and_down_again", up_with_its_addresses_and_down_again),
    ("loopback::another_address_is_refused", another_address_is_refused),
];

fn up_with_its_addresses_and_down_again(world: &mut World) {
    let mut pod = world.pod();
    in_pod(&pod, "link set lo down");
    let error = check(&mut world.host, &mut pod, &Spec::Loopback, "lo", &Expected::default()).unwrap_err();
    assert_eq!(error.chain(), "loopback interface is down");
    let resolved = Spec::Loopback.resolve(&mut world.host, None).unwrap();
    let built = build(&mut world.host, &mut pod, &resolved, &target("eth0"), layer3(&[], &[])).unwrap();
    let addresses: Vec<_> = built.layer3.addresses.iter().map(|a| a.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1/8", "::1/128"]);
    assert_eq!((built.interfaces[0].name.as_str(), built.interfaces[0].mac.as_str()), ("lo", "00:00:00:00:00:00"));
    check(&mut world.host, &mut pod, &Spec::Loopback, "lo", &Expected::default()).unwrap();
    assert_eq!(remove_now(&mut pod, &[Doomed::Name("lo".to_owned())]).unwrap().names, ["lo"]);
    assert_eq!(pod_link(&pod, "lo")["operstate"], "DOWN");
}

fn another_address_is_refused(world: &mut World) {
    let mut pod = world.pod();
    in_pod(&pod, "link set lo down");
    in_pod(&pod, "addr add 10.0.0.1/24 dev lo");
    let error = build(&mut world.host, &mut pod, &Resolved::Loopback, &target("lo"), layer3(&[], &[])).unwrap_err();
    assert_eq!(error.chain(), "loopback interface found with non-loopback address \"10.0.0.1\"");
    assert_eq!(pod_link(&pod, "lo")["operstate"], "DOWN", "as it was");
}
