//! What an operator and the Go plugin's own tests see: files, texts, order.

use super::*;

#[test]
fn add_and_del_leave_what_the_go_plugin_leaves() {
    let ground = Ground::new();
    fs::write(ground.root.join("resolv.conf"), "nameserver 192.0.2.3").unwrap();
    let section = json!({
        "ranges": [
            [{ "subnet": "10.1.2.0/24" }, { "subnet": "10.2.2.0/24" }],
            [{ "subnet": "2001:db8:1::/64" }],
        ],
        "routes": [
            { "dst": "0.0.0.0/0" }, { "dst": "::/0" }, { "dst": "192.168.0.0/16", "gw": "1.1.1.1", "table": 7 },
            { "dst": "2001:db8:2::/64", "gw": "2001:db8:3::1", "mtu": 1400 },
        ],
        "resolvConf": ground.root.join("resolv.conf"),
    });
    let pool = ground.pool(&section);
    let got = pool.add(&Owner { sandbox: " dummy\n", ifname: "eth0" }).unwrap();
    let addresses: Vec<_> =
        got.addresses.iter().map(|a| (a.address.to_string(), a.gateway.unwrap().to_string())).collect();
    assert_eq!(
        addresses,
        [("10.1.2.2/24".into(), "10.1.2.1".into()), ("2001:db8:1::2/64".into(), "2001:db8:1::1".to_owned())]
    );
    assert_eq!(serde_json::to_value(&got.routes).unwrap(), section["routes"]);
    assert_eq!(got.dns.nameservers, ["192.0.2.3"]);

    let expected = [
        ("10.1.2.2", "dummy\r\neth0"),
        ("2001:db8:1::2", "dummy\r\neth0"),
        ("last_reserved_ip.0", "10.1.2.2"),
        ("last_reserved_ip.1", "2001:db8:1::2"),
    ];
    assert_eq!(ground.files(), expected.map(|(name, text)| (name.to_owned(), text.to_owned())).into());
    assert_eq!(mode(&ground.dir()) & !0o022, 0o755);
    assert_eq!(mode(&ground.dir().join("lock")) & !0o022, 0o750);
    assert_eq!(fs::metadata(ground.dir().join("lock")).unwrap().len(), 0);
    for name in ["10.1.2.2", "last_reserved_ip.0"] {
        assert_eq!(mode(&ground.dir().join(name)), 0o600);
    }
    assert_eq!(mode(&ground.index_file()), 0o600);
    assert_eq!(mode(&ground.state()), 0o700);
    assert_eq!(mode(&ground.state().join("index")), 0o700);

    pool.check(&owner("dummy")).unwrap();
    assert_eq!(pool.held_by(&owner("dummy")).unwrap().len(), 2);
    pool.del(&owner("dummy")).unwrap();
    let left: Vec<_> = ground.files().into_keys().collect();
    assert_eq!(left, ["last_reserved_ip.0", "last_reserved_ip.1"]);
    pool.del(&owner("dummy")).unwrap();
    let text = pool.check(&owner("dummy")).unwrap_err();
    assert_eq!(text.to_string(), "host-local: Failed to find address added by container dummy");
    assert_eq!(text.kind(), ErrorKind::Mismatch);
}

#[test]
fn two_interfaces_of_one_sandbox_are_two_owners() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("10.1.2.0/24"));
    let (one, two) = (Owner { sandbox: "c", ifname: "eth0" }, Owner { sandbox: "c", ifname: "eth1" });
    assert_eq!(ips(&pool.add(&one).unwrap()), ["10.1.2.2"]);
    assert_eq!(ips(&pool.add(&two).unwrap()), ["10.1.2.3"]);
    let again = pool.add(&one).unwrap_err();
    assert_eq!(
        again.to_string(),
        "failed to allocate for range 0: 10.1.2.2 has been allocated to c, duplicate allocation is not allowed"
    );
    assert_eq!(again.kind(), ErrorKind::Duplicate);
    pool.del(&one).unwrap();
    assert_eq!(ground.leases().into_keys().collect::<Vec<_>>(), ["10.1.2.3"]);
}

#[test]
fn the_old_format_is_read_when_there_is_nothing_newer() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("10.1.2.0/24"));
    ground.put("10.1.2.9", "c");
    assert!(add(&pool, "c").unwrap_err().contains("10.1.2.9 has been allocated to c"));
    pool.check(&Owner { sandbox: "c", ifname: "any" }).unwrap();
    pool.del(&owner("c")).unwrap();
    assert_eq!(ground.leases(), BTreeMap::new());

    ground.put("10.1.2.9", "c");
    ground.put("10.1.2.8", " c\r\neth0 \n");
    assert_eq!(pool.held_by(&owner("c")).unwrap(), ["10.1.2.8".parse::<IpAddr>().unwrap()]);
    pool.del(&owner("c")).unwrap();
    assert_eq!(ground.leases().into_keys().collect::<Vec<_>>(), ["10.1.2.9"]);
}

#[test]
fn the_next_address_by_table() {
    for (subnets, held, last, expected) in [
        (&["10.0.0.0/29"][..], &[][..], "", "10.0.0.2"),
        (&["2001:db8:1::0/64"], &[], "", "2001:db8:1::2"),
        (&["10.0.0.0/30"], &[], "", "10.0.0.2"),
        (&["10.0.0.0/29"], &["10.0.0.2"], "", "10.0.0.3"),
        (&["10.0.0.0/29"], &[], "10.0.0.5", "10.0.0.6"),
        (&["10.0.0.0/29"], &["10.0.0.4", "10.0.0.5"], "10.0.0.3", "10.0.0.6"),
        (&["10.0.0.0/29"], &["10.0.0.6"], "10.0.0.5", "10.0.0.2"),
        (&["10.0.0.0/29"], &["10.0.0.2"], "10.0.0.128", "10.0.0.3"),
        (&["10.0.0.0/29"], &["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"], "10.0.0.3", "10.0.0.3"),
        (&["10.0.0.0/29"], &["10.0.0.2"], "half an addr", "10.0.0.3"),
        (&["10.0.0.0/29"], &[], "10.0.0.5\n", "10.0.0.6"),
        (&["10.0.0.0/30", "10.0.1.0/30"], &[], "", "10.0.0.2"),
        (&["10.0.0.0/30", "10.0.1.0/30"], &[], "10.0.0.2", "10.0.1.2"),
        (&["10.0.0.0/30", "10.0.1.0/30", "10.0.2.0/30"], &[], "10.0.2.2", "10.0.0.2"),
        (&["fd00::/64"], &["fd00::2"], "fd00::ffff:ffff:ffff:ffff", "fd00::3"),
        (&["255.255.255.248/29"], &[], "255.255.255.254", "255.255.255.250"),
        (&["::/0"], &[], "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::2"),
        (&["::/0"], &[], "::fffe:ffff:ffff", "::1:0:0:0"),
        (&["0.0.0.0/0"], &[], "255.255.255.254", "0.0.0.2"),
    ] {
        let ground = Ground::new();
        for name in held {
            ground.put(name, "id");
        }
        if !last.is_empty() {
            ground.put("last_reserved_ip.0", last);
        }
        let ranges: Vec<_> = subnets.iter().map(|subnet| json!({ "subnet": subnet })).collect();
        let pool = ground.pool(&json!({ "ranges": [ranges] }));
        assert_eq!(add(&pool, "ID"), Ok(vec![expected.to_owned()]), "{subnets:?} {held:?} {last}");
        assert_eq!(ground.files()["last_reserved_ip.0"], expected);
    }
}

#[test]
fn a_full_set_says_so_and_keeps_nothing() {
    let ground = Ground::new();
    let pool = ground.pool(&json!({ "ranges": [[{ "subnet": "10.0.0.0/30" }, { "subnet": "10.0.1.0/30" }]] }));
    assert_eq!(add(&pool, "a"), Ok(vec!["10.0.0.2".into()]));
    assert_eq!(pool.usage().unwrap().full(), None);
    assert_eq!(add(&pool, "b"), Ok(vec!["10.0.1.2".into()]));
    let full = pool.add(&owner("c")).unwrap_err();
    assert_eq!(
        full.to_string(),
        "failed to allocate for range 0: no IP addresses available in range set: 10.0.0.1-10.0.0.2,10.0.1.1-10.0.1.2"
    );
    assert_eq!((full.kind(), full.place()), (ErrorKind::Exhausted, "net"));
    let usage = pool.usage().unwrap();
    let ranges = "10.0.0.1-10.0.0.2,10.0.1.1-10.0.1.2".to_owned();
    assert_eq!(usage.full(), Some(&SetUsage { ranges, used: 2, total: 2 }));
    pool.del(&owner("a")).unwrap();
    assert_eq!(add(&pool, "c"), Ok(vec!["10.0.0.2".into()]));
}

#[test]
fn broadcast_and_gateway_are_not_given_out() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("192.168.1.0/29"));
    for nth in 2..7 {
        assert_eq!(add(&pool, &format!("ID{nth}")), Ok(vec![format!("192.168.1.{nth}")]));
    }
    assert!(add(&pool, "ID8").is_err());

    let ground = Ground::new();
    let far = ground.pool(&json!({ "ranges": [[{ "subnet": "10.0.0.0/29", "rangeStart": "10.0.0.0", "rangeEnd": "10.0.0.7", "gateway": "9.9.9.9" }]] }));
    let all: Vec<_> = (0..8).map(|nth| add(&far, &format!("c{nth}")).unwrap().remove(0)).collect();
    assert_eq!(all, (0..8).map(|nth| format!("10.0.0.{nth}")).collect::<Vec<_>>());
    let only = Ground::new();
    let only = only.pool(&json!({ "subnet": "10.0.0.0/24", "rangeStart": "10.0.0.1", "rangeEnd": "10.0.0.1" }));
    assert!(add(&only, "c").unwrap_err().ends_with("no IP addresses available in range set: 10.0.0.1-10.0.0.1"));
    assert!(only.usage().unwrap().full().is_some());
}

#[test]
fn requested_addresses() {
    let ground = Ground::new();
    let section = json!({ "ranges": [
        [{ "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.10", "rangeEnd": "10.1.2.20" }, { "subnet": "10.1.3.0/24" }],
        [{ "subnet": "2001:db8:1::/48" }],
    ] });
    let got = ground.asking(&section, &["2001:db8:1::999/120", "10.1.3.88", "10.1.3.88"]).add(&owner("c")).unwrap();
    let got: Vec<_> = got.addresses.iter().map(|address| address.address.to_string()).collect();
    assert_eq!(got, ["10.1.3.88/24", "2001:db8:1::999/48"]);
    assert_eq!(ground.files()["last_reserved_ip.0"], "10.1.3.88");

    let set = "10.1.2.10-10.1.2.20,10.1.3.1-10.1.3.254";
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    for (asked, by, text, kind) in [
        (
            &["10.1.3.88"][..],
            "d",
            format!(
                "failed to allocate for range 0: requested IP address 10.1.3.88 is not available in range set {set}"
            ),
            ErrorKind::Unavailable(ip("10.1.3.88")),
        ),
        // The owner asks again for what it has: the same words.
        (
            &["10.1.3.88"],
            "c",
            format!(
                "failed to allocate for range 0: requested IP address 10.1.3.88 is not available in range set {set}"
            ),
            ErrorKind::Unavailable(ip("10.1.3.88")),
        ),
        // And for a second address: the Go plugin would give it.
        (
            &["10.1.3.89"],
            "c",
            "failed to allocate for range 0: 10.1.3.88 has been allocated to c, duplicate allocation is not allowed"
                .into(),
            ErrorKind::Duplicate,
        ),
        (
            &["10.1.3.1"],
            "d",
            "failed to allocate for range 0: requested ip 10.1.3.1 is subnet's gateway".into(),
            ErrorKind::Unavailable(ip("10.1.3.1")),
        ),
        (&["10.1.2.9"], "d", "failed to allocate all requested IPs: 10.1.2.9".into(), ErrorKind::InvalidConfig),
        (
            &["10.1.2.21", "10.1.2.11", "10.1.2.12"],
            "d",
            "failed to allocate all requested IPs: 10.1.2.21 10.1.2.12".into(),
            ErrorKind::InvalidConfig,
        ),
    ] {
        let before = ground.leases();
        let error = ground.asking(&section, asked).add(&owner(by)).unwrap_err();
        assert_eq!((error.to_string(), error.kind()), (text, kind));
        assert_eq!(ground.leases(), before);
    }
    for (asked, text) in [
        ("x", "invalid IP address x"),
        ("10.0.0.1/33", "invalid IP address 10.0.0.1/33"),
        ("", "cannot understand ip: IP <nil> not v4 nor v6"),
    ] {
        let requests = Requests { ips: vec![asked.into()], ..Requests::default() };
        assert_eq!(ground.try_pool(&section, &requests).unwrap_err().to_string(), text);
    }
}

#[test]
fn a_failing_later_set_keeps_what_the_owner_had() {
    let ground = Ground::new();
    let v4 = json!([{ "subnet": "10.0.0.0/24" }]);
    let full = json!([{ "subnet": "fd00::/64", "rangeStart": "fd00::1", "rangeEnd": "fd00::1" }]);
    let other = json!([{ "subnet": "10.9.0.0/24" }]);
    let before = ground.pool(&json!({ "ranges": [other] }));
    assert_eq!(add(&before, "c"), Ok(vec!["10.9.0.2".into()]));
    let pool = ground.pool(&json!({ "ranges": [v4, full] }));
    let error = add(&pool, "c").unwrap_err();
    assert_eq!(error, "failed to allocate for range 1: no IP addresses available in range set: fd00::1-fd00::1");
    assert_eq!(ground.leases().into_keys().collect::<Vec<_>>(), ["10.9.0.2"]);
    assert_eq!(before.held_by(&owner("c")).unwrap().len(), 1);
    // The order has moved on all the same.
    assert_eq!(ground.files()["last_reserved_ip.0"], "10.0.0.2");
}

#[test]
fn every_form_of_the_configuration_in_its_order() {
    let ground = Ground::new();
    let section = json!({
        "type": "host-local", "unknown": [1],
        "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.20", "gateway": "10.1.2.30",
        "ranges": [[{ "subnet": "11.1.2.0/24", "rangeStart": "", "gateway": "" }]],
    });
    let runtime = vec![vec![RangeSection { subnet: Cidr::parse("12.1.3.0/24"), ..RangeSection::default() }]];
    let requests = Requests { runtime_ranges: runtime, ..Requests::default() };
    let got = ground.try_pool(&section, &requests).unwrap().add(&owner("c")).unwrap();
    assert_eq!(ips(&got), ["12.1.3.2", "10.1.2.9", "11.1.2.2"]);
    assert_eq!(got.addresses[1].gateway, Some("10.1.2.30".parse().unwrap()));

    let old = Requests { one_per_family: Some("0.2.0".into()), ..Requests::default() };
    let text = ground.try_pool(&section, &old).unwrap_err().to_string();
    assert_eq!(text, "CNI version 0.2.0 does not support more than 1 address per family");
    // A start without a subnet is no range.
    let none = ground.try_pool(&json!({ "rangeStart": "10.0.0.1" }), &Requests::default()).unwrap_err();
    assert_eq!((none.to_string().as_str(), none.kind()), ("no IP ranges specified", ErrorKind::InvalidConfig));
}

#[test]
fn bad_values_have_the_words_of_go() {
    for (section, text) in [
        (json!({ "subnet": "10.0.0.0" }), "invalid CIDR address: 10.0.0.0"),
        (json!({ "ranges": [[{ "subnet": "x" }]] }), "invalid CIDR address: x"),
        (json!({ "ranges": [[{ "subnet": "10.0.0.0/8", "gateway": "y" }]] }), "invalid IP address: y"),
        (json!({ "rangeStart": "10.0.0" }), "invalid IP address: 10.0.0"),
        (json!({ "routes": [{ "dst": "z" }] }), "invalid CIDR address: z"),
        (json!({ "routes": [{ "dst": "10.0.0.0/8", "gw": "q" }] }), "invalid IP address: q"),
    ] {
        assert_eq!(serde_json::from_value::<Section>(section).unwrap_err().to_string(), text);
    }
}

#[test]
fn a_network_name_is_no_path() {
    let section = || serde_json::from_value::<Section>(one_range("10.0.0.0/24")).unwrap();
    let ground = Ground::new();
    for (name, text) in [
        ("", "missing network name"),
        ("..", "invalid characters found in network name"),
        ("a/b", "invalid characters found in network name"),
        (".a", "invalid characters found in network name"),
        ("a b", "invalid characters found in network name"),
        ("é", "invalid characters found in network name"),
    ] {
        let error = Pool::new(section(), name, &Requests::default(), &ground.state()).unwrap_err();
        assert_eq!(error.to_string(), text);
        assert!(release(&ground.data(), name, &owner("c"), &ground.state()).is_err());
    }
    assert!(Pool::new(section(), "a.b_c-1", &Requests::default(), &ground.state()).is_ok());
}

#[test]
fn an_owner_is_one_line_of_text() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("10.0.0.0/24"));
    let long = "c".repeat(5000);
    for sandbox in ["", " \n", "a\r\neth0", long.as_str()] {
        assert_eq!(pool.add(&owner(sandbox)).unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
    assert!(!ground.dir().exists());
}

#[test]
fn del_check_and_usage_make_no_directory() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("10.0.0.0/24"));
    pool.del(&owner("c")).unwrap();
    assert_eq!(pool.held_by(&owner("c")).unwrap(), Vec::<IpAddr>::new());
    assert!(pool.check(&owner("c")).is_err());
    assert_eq!(pool.usage().unwrap().sets[0].used, 0);
    assert_eq!(pool.retain(&|_| false).unwrap(), Vec::<IpAddr>::new());
    assert_eq!(release(&ground.data(), "net", &owner("c"), &ground.state()).unwrap(), Vec::<IpAddr>::new());
    assert!(!ground.dir().exists() && !ground.state().exists());
}

#[test]
fn release_needs_no_ranges() {
    let ground = Ground::new();
    let pool = ground.pool(&json!({ "ranges": [[{ "subnet": "10.0.0.0/24" }], [{ "subnet": "fd00::/64" }]] }));
    add(&pool, "c").unwrap();
    add(&pool, "d").unwrap();
    let mut released = release(&ground.data(), "net", &owner("c"), &ground.state()).unwrap();
    released.sort();
    assert_eq!(released, ["10.0.0.2", "fd00::2"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    assert_eq!(ground.leases().len(), 2);
}

#[test]
fn gc_releases_whose_owner_is_not_valid() {
    let ground = Ground::new();
    let pool = ground.pool(&one_range("10.0.0.0/24"));
    for sandbox in ["a", "b", "c"] {
        add(&pool, sandbox).unwrap();
    }
    ground.put("10.0.0.50", "old");
    ground.put("10.0.0.51", "stale");
    ground.put("10.0.0.52", "");
    ground.put("notes.txt", "a\r\neth0");
    let all = held(&ground.data(), "net", &ground.state()).unwrap();
    let of = |address: &str| all.iter().find(|held| held.address.to_string() == address).unwrap();
    assert_eq!((of("10.0.0.3").sandbox.as_str(), of("10.0.0.3").ifname.as_str()), ("b", "eth0"));
    assert_eq!((of("10.0.0.50").sandbox.as_str(), of("10.0.0.50").ifname.as_str()), ("old", ""));
    assert_eq!((all.len(), of("10.0.0.52").sandbox.as_str()), (6, ""));
    let valid = |owner: &Owner<'_>| {
        *owner == Owner { sandbox: "b", ifname: "eth0" } || *owner == Owner { sandbox: "old", ifname: "" }
    };
    let mut released: Vec<_> = pool.retain(&valid).unwrap().iter().map(ToString::to_string).collect();
    released.sort();
    assert_eq!(released, ["10.0.0.2", "10.0.0.4", "10.0.0.51"]);
    assert_eq!(ground.leases().into_keys().collect::<Vec<_>>(), ["10.0.0.3", "10.0.0.50"]);
    // The index followed: nothing is listed, and what was released can be had.
    let (got, listings) = listings_of(|| (pool.held_by(&owner("a")).unwrap(), add(&pool, "e")));
    assert_eq!((got.0.len(), got.1, listings), (0, Ok(vec!["10.0.0.5".into()]), 0));
    // An empty list of valid owners releases all.
    assert_eq!(pool.retain(&|_| false).unwrap().len(), 3);
    assert_eq!(ground.files().into_keys().collect::<Vec<_>>(), ["last_reserved_ip.0", "notes.txt"]);
}

#[test]
fn usage_counts_each_set_without_its_gateways() {
    let ground = Ground::new();
    let pool = ground.pool(&json!({ "ranges": [
        [{ "subnet": "10.0.0.0/29" }, { "subnet": "10.0.64.0/18" }],
        [{ "subnet": "fd00::/64" }],
    ] }));
    for nth in 0..8 {
        add(&pool, &format!("c{nth}")).unwrap();
    }
    ground.put("10.0.0.1", "somebody took the gateway");
    ground.put("10.9.9.9", "outside");
    let sets: Vec<_> = pool.usage().unwrap().sets.into_iter().map(|set| (set.used, set.total)).collect();
    assert_eq!(sets, [(8, 5 + 16_381), (8, (1 << 64) - 2)]);
}
