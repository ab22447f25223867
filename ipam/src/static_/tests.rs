//! static, source by source.

use serde_json::json;

use super::*;

fn section(value: serde_json::Value) -> Section {
    serde_json::from_value(value).unwrap()
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

fn shown(section: Section, requests: &StaticRequests) -> Result<Vec<(String, Option<String>)>, String> {
    let plan = Static::new(section, requests).map_err(|error| {
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        error.to_string()
    })?;
    let addresses = plan.allocation().addresses;
    Ok(addresses.iter().map(|a| (a.address.to_string(), a.gateway.map(|ip| ip.to_string()))).collect())
}

fn pair(address: &str, gateway: &str) -> (String, Option<String>) {
    (address.to_owned(), (!gateway.is_empty()).then(|| gateway.to_owned()))
}

#[test]
fn what_is_configured() {
    let value = json!({
        "type": "static",
        "addresses": [
            { "address": "10.10.0.1/24", "gateway": "10.10.0.254" },
            { "address": "3ffe:ffff:0:01ff::1/64", "gateway": "3ffe:ffff:0::1" },
            { "address": "::ffff:10.9.0.1/120" },
        ],
        "routes": [
            { "dst": "0.0.0.0/0" }, { "dst": "192.168.0.0/16", "gw": "10.10.5.1" }, { "dst": "192.168.0.0/16", "gw": "10.10.5.2" },
            { "dst": "3ffe:ffff:0:01ff::1/64" },
        ],
        "dns": { "nameservers": ["10.1.1.1"], "domain": "d", "search": ["s"], "options": ["o"] },
    });
    let plan = Static::new(section(value), &StaticRequests::default()).unwrap();
    let got = plan.allocation();
    assert_eq!(got.routes.len(), 4, "the same destination twice stays twice");
    assert_eq!(got.dns.domain.as_deref(), Some("d"));
    assert_eq!(got.addresses[0].address.to_string(), "10.10.0.1/24");
    assert_eq!(got.addresses[1].gateway, Some("3ffe:ffff::1".parse().unwrap()));
    assert_eq!(got.addresses[2], Address { address: "10.9.0.1/24".parse().unwrap(), gateway: None });
    assert_eq!(shown(section(json!({})), &StaticRequests::default()), Ok(vec![]));
}

#[test]
fn cni_args_add_and_gateways_are_theirs() {
    let configured = || section(json!({ "addresses": [{ "address": "10.10.0.9/24" }] }));
    let requests = StaticRequests {
        cni_args_ip: Some("10.10.0.1/24, 11.11.0.1/24,3ffe::1/64".into()),
        cni_args_gateway: Some("10.10.0.254, 3ffe::ff,10.10.0.253".into()),
        ..StaticRequests::default()
    };
    assert_eq!(
        shown(configured(), &requests),
        Ok(vec![
            pair("10.10.0.9/24", ""),
            pair("10.10.0.1/24", "10.10.0.253"),
            pair("11.11.0.1/24", ""),
            pair("3ffe::1/64", "3ffe::ff")
        ])
    );
    let empty = StaticRequests {
        cni_args_ip: Some(String::new()),
        cni_args_gateway: Some(String::new()),
        ..StaticRequests::default()
    };
    assert_eq!(shown(configured(), &empty), Ok(vec![pair("10.10.0.9/24", "")]));
}

#[test]
fn runtime_before_arguments_before_all_else() {
    let configured = || section(json!({ "addresses": [{ "address": "not looked at" }] }));
    let mut requests = StaticRequests {
        cni_args_ip: Some("10.10.0.1/24".into()),
        args_ips: strings(&["10.11.0.1/24", "11.11.0.1/24"]),
        runtime_ips: strings(&["10.12.0.1/24", "3ffe::1/64"]),
        ..StaticRequests::default()
    };
    assert_eq!(shown(configured(), &requests), Ok(vec![pair("10.12.0.1/24", ""), pair("3ffe::1/64", "")]));
    requests.runtime_ips.clear();
    assert_eq!(shown(configured(), &requests), Ok(vec![pair("10.11.0.1/24", ""), pair("11.11.0.1/24", "")]));
}

#[test]
fn each_source_has_its_words() {
    let none = StaticRequests::default;
    let bad = "10.10.0.1";
    let plain = || section(json!({}));
    for (section, requests, text) in [
        (
            section(json!({ "addresses": [{ "address": bad }] })),
            none(),
            "the 'address' field is expected to be in CIDR notation, got: '10.10.0.1'",
        ),
        (
            section(json!({ "addresses": [{}] })),
            none(),
            "the 'address' field is expected to be in CIDR notation, got: ''",
        ),
        (
            plain(),
            StaticRequests { cni_args_ip: Some(bad.into()), ..none() },
            "the 'ip' field is expected to be in CIDR notation, got: '10.10.0.1'",
        ),
        (plain(), StaticRequests { cni_args_gateway: Some(" x".into()), ..none() }, "invalid gateway address:  x"),
        (
            plain(),
            StaticRequests { args_ips: strings(&[bad]), ..none() },
            "an entry in the 'ips' field is NOT in CIDR notation, got: '10.10.0.1'",
        ),
        (
            plain(),
            StaticRequests { runtime_ips: strings(&[bad]), ..none() },
            "an entry in the 'ips' field is NOT in CIDR notation, got: '10.10.0.1'",
        ),
        (
            plain(),
            StaticRequests {
                runtime_ips: strings(&["10.0.0.1/24", "10.0.0.2/24"]),
                one_per_family: Some("0.2.0".into()),
                ..none()
            },
            "CNI version 0.2.0 does not support more than 1 address per family",
        ),
    ] {
        assert_eq!(shown(section, &requests), Err(text.to_owned()));
    }
    let both = StaticRequests {
        runtime_ips: strings(&["10.0.0.1/24", "fd00::1/64"]),
        one_per_family: Some("0.2.0".into()),
        ..none()
    };
    assert!(shown(plain(), &both).is_ok());
    let error = serde_json::from_value::<Section>(json!({ "addresses": [{ "gateway": "x" }] })).unwrap_err();
    assert_eq!(error.to_string(), "invalid IP address: x");
}

#[test]
fn check_compares_gateways() {
    let value =
        json!({ "addresses": [{ "address": "10.0.0.1/24", "gateway": "10.0.0.254" }, { "address": "10.0.1.1/24" }] });
    let plan = Static::new(section(value), &StaticRequests::default()).unwrap();
    let earlier = |ip: &str, gateway: Option<&str>| Address {
        address: ip.parse().unwrap(),
        gateway: gateway.map(|ip| ip.parse().unwrap()),
    };
    plan.check(&plan.allocation().addresses, "eth0").unwrap();
    plan.check(&[], "eth0").unwrap();
    plan.check(
        &[
            earlier("10.0.0.1/8", Some("10.0.0.254")),
            earlier("10.0.1.1/24", Some("10.0.1.9")),
            earlier("9.9.9.9/8", None),
        ],
        "eth0",
    )
    .unwrap();
    for gateway in [None, Some("10.0.0.253")] {
        let error = plan.check(&[earlier("10.0.0.1/24", gateway)], "eth0").unwrap_err();
        assert_eq!(error.to_string(), "static: Failed to match addr 10.0.0.1 on interface eth0");
        assert_eq!(error.kind(), ErrorKind::Mismatch);
    }
}
