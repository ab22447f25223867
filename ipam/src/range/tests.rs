//! Canonical forms and texts by table; the order of addresses against one that walks address by address.

use proptest::prelude::*;

use super::*;

fn section(subnet: &str, start: &str, end: &str, gateway: &str) -> RangeSection {
    let ip = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
    let subnet = (!subnet.is_empty()).then(|| Cidr::parse(subnet).unwrap());
    RangeSection { subnet, range_start: ip(start), range_end: ip(end), gateway: ip(gateway) }
}

fn set(subnets: &[&str]) -> RangeSet {
    RangeSet::new(&subnets.iter().map(|subnet| section(subnet, "", "", "")).collect::<Vec<_>>()).unwrap()
}

#[test]
fn what_is_left_open_is_filled_in() {
    for (given, first, last, gateway) in [
        (section("192.0.2.0/24", "", "", ""), "192.0.2.1", "192.0.2.254", "192.0.2.1"),
        (section("192.0.2.0/25", "", "", ""), "192.0.2.1", "192.0.2.126", "192.0.2.1"),
        (section("192.0.2.0/30", "", "", ""), "192.0.2.1", "192.0.2.2", "192.0.2.1"),
        (section("0.0.0.0/0", "", "", ""), "0.0.0.1", "255.255.255.254", "0.0.0.1"),
        (section("255.255.255.252/30", "", "", ""), "255.255.255.253", "255.255.255.254", "255.255.255.253"),
        (section("2001:DB8:1::/64", "", "", ""), "2001:db8:1::1", "2001:db8:1:0:ffff:ffff:ffff:ffff", "2001:db8:1::1"),
        (section("::/0", "", "", ""), "::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1"),
        (section("192.0.2.0/24", "192.0.2.40", "192.0.2.50", "192.0.2.254"), "192.0.2.40", "192.0.2.50", "192.0.2.254"),
        (section("192.0.2.0/24", "192.0.2.0", "192.0.2.255", "9.9.9.9"), "192.0.2.0", "192.0.2.255", "9.9.9.9"),
        (section("192.0.2.0/24", "::ffff:192.0.2.7", "", ""), "192.0.2.7", "192.0.2.254", "192.0.2.1"),
    ] {
        let range = Range::new(&given).unwrap();
        let found = [range.first, range.last, range.gateway].map(|at| address(at).to_string());
        assert_eq!(found, [first, last, gateway]);
    }
}

#[test]
fn texts_of_a_range() {
    for (given, text) in [
        (section("", "10.0.0.1", "", ""), "IP <nil> not v4 nor v6"),
        (section("192.0.2.0/31", "", "", ""), "Network 192.0.2.0/31 too small to allocate from"),
        (section("192.0.2.1/32", "", "", ""), "Network 192.0.2.1/32 too small to allocate from"),
        (section("fd00::/127", "", "", ""), "Network fd00::/127 too small to allocate from"),
        (section("::ffff:10.0.0.0/120", "", "", ""), "IPNet IP and Mask version mismatch"),
        (
            section("192.0.2.12/24", "", "", ""),
            "Network has host bits set. For a subnet mask of length 24 the network address is 192.0.2.0",
        ),
        (
            section("192.168.127.0/23", "", "", ""),
            "Network has host bits set. For a subnet mask of length 23 the network address is 192.168.126.0",
        ),
        (
            section("2001:DB8:1::24:19ff:fee1:c44a/64", "", "", ""),
            "Network has host bits set. For a subnet mask of length 64 the network address is 2001:db8:1::",
        ),
        (
            section("2001:DB8:24:19ff::/63", "", "", ""),
            "Network has host bits set. For a subnet mask of length 63 the network address is 2001:db8:24:19fe::",
        ),
        (section("192.0.2.0/24", "192.0.3.0", "", ""), "RangeStart 192.0.3.0 not in network 192.0.2.0/24"),
        (section("192.0.2.0/24", "fd00::1", "", ""), "RangeStart fd00::1 not in network 192.0.2.0/24"),
        (section("192.0.2.0/24", "", "192.0.4.0", ""), "RangeEnd 192.0.4.0 not in network 192.0.2.0/24"),
        (section("192.0.2.0/24", "", "192.0.2.0", ""), "RangeEnd 192.0.2.0 not in network 192.0.2.0/24"),
        (section("192.0.2.0/24", "192.0.2.4", "fd00::1", ""), "RangeEnd fd00::1 not in network 192.0.2.0/24"),
        (section("192.0.2.0/24", "192.0.2.50", "192.0.2.40", ""), "RangeStart 192.0.2.50 not in network 192.0.2.0/24"),
        (section("192.0.2.0/24", "192.0.2.255", "", ""), "RangeEnd 192.0.2.254 not in network 192.0.2.0/24"),
        (section("::/0", "10.0.0.1", "", ""), "RangeStart 10.0.0.1 not in network ::/0"),
    ] {
        assert_eq!(Range::new(&given).unwrap_err(), text);
    }
    assert!(Range::new(&section("192.0.2.0/30", "", "", "")).is_ok());
    assert!(Range::new(&section("fd00::/126", "", "", "")).is_ok());
}

#[test]
fn texts_of_sets() {
    let plain = |subnet| section(subnet, "", "", "");
    for (given, version, text) in [
        (vec![], None, "no IP ranges specified"),
        (vec![vec![]], None, "invalid range set 0: empty range set"),
        (
            vec![vec![plain("10.0.0.0/24")], vec![plain("10.1.0.0/31")]],
            None,
            "invalid range set 1: Network 10.1.0.0/31 too small to allocate from",
        ),
        (vec![vec![plain("10.0.0.0/24"), plain("fd00::/64")]], None, "invalid range set 0: mixed address families"),
        (
            vec![vec![plain("10.0.0.0/20"), plain("10.0.1.0/24")]],
            None,
            "invalid range set 0: subnets 10.0.0.1-10.0.15.254 and 10.0.1.1-10.0.1.254 overlap",
        ),
        (
            vec![vec![plain("10.0.0.0/24")], vec![plain("fd00::/64")], vec![plain("10.0.0.0/16")]],
            None,
            "range set 0 overlaps with 2",
        ),
        (
            vec![vec![plain("10.0.0.0/24")], vec![plain("10.1.0.0/24")]],
            Some("0.2.0"),
            "CNI version 0.2.0 does not support more than 1 address per family",
        ),
        (
            vec![vec![plain("fd00::/64")], vec![plain("fd01::/64")]],
            Some(""),
            "CNI version  does not support more than 1 address per family",
        ),
    ] {
        assert_eq!(range_sets(&given, version).unwrap_err(), text);
    }
    assert!(range_sets(&[vec![plain("10.0.0.0/24")], vec![plain("fd00::/64")]], Some("0.2.0")).is_ok());
    let many: Vec<_> = (0..MAX_RANGES + 1).map(|_| plain("10.0.0.0/24")).collect();
    assert!(range_sets(&[many], None).is_err());
}

#[test]
fn overlap_is_of_the_addresses_given_out() {
    for (one, two, expected) in [
        (section("10.0.0.0/24", "", "", ""), section("10.0.1.0/24", "", "", ""), false),
        (section("0.0.0.0/24", "", "", ""), section("::/24", "", "", ""), false),
        (section("10.0.0.0/24", "", "", ""), section("10.0.0.0/24", "", "", ""), true),
        (section("10.0.0.0/20", "", "", ""), section("10.0.1.0/24", "", "", ""), true),
        (section("10.0.0.0/24", "", "10.0.0.127", ""), section("10.0.0.0/24", "10.0.0.128", "", ""), false),
        (section("10.0.0.0/24", "", "10.0.0.127", ""), section("10.0.0.0/24", "10.0.0.127", "", ""), true),
        // The IPv6 line runs around the IPv4 block, and shares nothing with it.
        (section("::/0", "", "", ""), section("10.0.0.0/24", "", "", ""), false),
    ] {
        let (one, two) = (Range::new(&one).unwrap(), Range::new(&two).unwrap());
        assert_eq!((one.overlaps(&two), two.overlaps(&one)), (expected, expected), "{one} {two}");
    }
}

#[test]
fn membership() {
    let range = Range::new(&section("192.0.2.0/24", "192.0.2.40", "192.0.2.50", "192.0.2.254")).unwrap();
    for (ip, expected) in
        [("192.0.3.0", false), ("192.0.2.39", false), ("192.0.2.40", true), ("192.0.2.50", true), ("192.0.2.51", false)]
    {
        assert_eq!(range.contains(number(ip.parse().unwrap())), expected, "{ip}");
    }
    let all = Range::new(&section("::/0", "", "", "")).unwrap();
    assert!(!all.contains(number("10.0.0.1".parse().unwrap())));
}

#[test]
fn sizes_do_not_overflow() {
    for (given, size) in [
        (section("10.0.0.0/29", "", "", ""), 5),
        (section("10.0.0.0/29", "10.0.0.0", "10.0.0.7", "10.9.9.9"), 8),
        (section("10.0.0.0/29", "10.0.0.1", "10.0.0.1", ""), 0),
        (section("0.0.0.0/0", "0.0.0.0", "255.255.255.255", "fd00::1"), 1 << 32),
        (section("fd00::/64", "", "", ""), (1 << 64) - 2),
        (section("::/0", "", "", ""), u128::MAX - 1 - (1 << 32)),
    ] {
        let range = Range::new(&given).unwrap();
        assert_eq!(range.size(), size, "{range}");
    }
}

/// Every address in the order of the set.
fn flat(set: &RangeSet, last: Option<&str>) -> Vec<String> {
    let spans = set.order(last.map(|ip| number(ip.parse().unwrap())));
    spans.iter().flat_map(|(low, high)| (*low..=*high).map(|at| address(at).to_string())).collect()
}

#[test]
fn order_is_round_robin() {
    let one = set(&["192.168.1.0/29"]);
    let tail = |ends: &[u8]| ends.iter().map(|end| format!("192.168.1.{end}")).collect::<Vec<_>>();
    assert_eq!(flat(&one, None), tail(&[2, 3, 4, 5, 6]));
    assert_eq!(flat(&one, Some("192.168.1.6")), tail(&[2, 3, 4, 5, 6]));
    assert_eq!(flat(&one, Some("192.168.1.3")), tail(&[4, 5, 6, 2, 3]));
    assert_eq!(flat(&one, Some("10.0.0.128")), tail(&[2, 3, 4, 5, 6]));
    let three = set(&["10.0.0.0/30", "10.0.1.0/30", "10.0.2.0/30"]);
    assert_eq!(flat(&three, None), ["10.0.0.2", "10.0.1.2", "10.0.2.2"]);
    assert_eq!(flat(&three, Some("10.0.0.2")), ["10.0.1.2", "10.0.2.2", "10.0.0.2"]);
    assert_eq!(flat(&three, Some("10.0.2.2")), ["10.0.0.2", "10.0.1.2", "10.0.2.2"]);
}

#[test]
fn the_only_address_may_be_the_gateway() {
    let only = RangeSet::new(&[section("10.0.0.0/24", "10.0.0.1", "10.0.0.1", "")]).unwrap();
    assert_eq!(flat(&only, None), Vec::<String>::new());
    assert_eq!(flat(&only, Some("10.0.0.1")), Vec::<String>::new());
}

#[test]
fn order_at_the_edges_of_the_line() {
    let all = set(&["::/0"]);
    let spans = all.order(Some(u128::MAX));
    assert_eq!(spans, [(2, V4_FIRST - 1), (V4_LAST + 1, u128::MAX)]);
    let spans = all.order(Some(u128::MAX - 1));
    assert_eq!(spans, [(u128::MAX, u128::MAX), (2, V4_FIRST - 1), (V4_LAST + 1, u128::MAX - 1)]);
    let top = RangeSet::new(&[section("255.255.255.252/30", "", "255.255.255.255", "")]).unwrap();
    assert_eq!(flat(&top, Some("255.255.255.255")), ["255.255.255.254", "255.255.255.255"]);
}

/// The same order, found by walking as the Go plugin's iterator does.
fn walked(set: &RangeSet, last: Option<Number>) -> Vec<Number> {
    let mut place = last.and_then(|at| set.ranges.iter().position(|range| range.contains(at)).map(|index| (index, at)));
    let (mut seen, mut begin) = (Vec::new(), None);
    loop {
        let next = match place {
            None => (0, set.ranges[0].first),
            Some((index, at)) if at == set.ranges[index].last => {
                let index = (index + 1) % set.ranges.len();
                (index, set.ranges[index].first)
            }
            Some((index, at)) => (index, at + 1),
        };
        if begin == Some(next) {
            return seen;
        }
        begin.get_or_insert(next);
        place = Some(next);
        if next.1 != set.ranges[next.0].gateway {
            seen.push(next.1);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn order_is_the_walked_one(
        parts in prop::collection::vec((0u8..5, 0u8..5, 0u8..16), 1..4),
        last in prop::option::of((0u8..4, 0u8..16)),
        v6 in any::<bool>(),
    ) {
        let ip = |net: usize, host: u8| -> IpAddr {
            if v6 { format!("fd00::{net:x}:{host:x}").parse().unwrap() } else { format!("10.0.{net}.{host}").parse().unwrap() }
        };
        let sections: Vec<_> = parts.iter().enumerate().map(|(net, &(start, extra, gateway))| RangeSection {
            subnet: Some(Cidr { ip: ip(net, 0), prefix: if v6 { 124 } else { 28 } }),
            range_start: Some(ip(net, start)),
            range_end: Some(ip(net, start + extra)),
            gateway: Some(ip(net, gateway)),
        }).collect();
        let set = RangeSet::new(&sections).unwrap();
        let last = last.map(|(net, host)| number(ip(net.into(), host)));
        let flat: Vec<Number> = set.order(last).iter().flat_map(|(low, high)| *low..=*high).collect();
        prop_assert_eq!(flat, walked(&set, last));
    }

    #[test]
    fn no_section_panics(
        base in any::<u128>(), prefix in 0u8..=128, start in prop::option::of(any::<u128>()),
        end in prop::option::of(any::<u128>()), gateway in prop::option::of(any::<u128>()), last in any::<u128>(), masked in any::<bool>(),
    ) {
        let subnet = Cidr { ip: IpAddr::V6(base.into()), prefix };
        let subnet = if masked { let network = IpNetwork::new(subnet.ip, prefix).unwrap().network(); Cidr { ip: network, prefix } } else { subnet };
        let ip = |at: Option<u128>| at.map(|at| IpAddr::V6(at.into()));
        let section = RangeSection { subnet: Some(subnet), range_start: ip(start), range_end: ip(end), gateway: ip(gateway) };
        if let Ok(set) = RangeSet::new(&[section]) {
            let range = &set.ranges[0];
            prop_assert!(range.size() <= range.last - range.first || range.size() - 1 <= range.last - range.first);
            let ordered: u128 = set.order(Some(last)).iter().map(|(low, high)| high - low + 1).sum();
            prop_assert_eq!(ordered, range.size());
        }
    }
}
