//! Files with mistakes, and where they are told.

use super::*;

const NAD: &str = "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: lan}\nspec:\n";
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  annotations:\n";

fn report(texts: &[&str], configuration: Option<&str>) -> Report {
    let named = texts.iter().enumerate();
    let texts: Vec<Text> =
        named.map(|(i, text)| Text { name: format!("{i}.yaml"), text: (*text).to_owned() }).collect();
    check(&texts, &Settings::of(configuration.map(str::as_bytes), "default").unwrap())
}

/// `line:column level: key: what` of all findings but notes.
fn told(texts: &[&str], configuration: Option<&str>) -> Vec<String> {
    let findings = report(texts, configuration).findings;
    let line =
        |f: Finding| format!("{}:{} {}: {}: {} => {}", f.line, f.column, f.level.word(), f.key, f.what, f.instead);
    findings.into_iter().filter(|finding| finding.level != Level::Note).map(line).collect()
}

/// A definition with this configuration as a block, whose first line is the sixth.
fn of_config(config: &str) -> Vec<String> {
    let config: String = config.lines().map(|line| format!("    {line}\n")).collect();
    told(&[&format!("{NAD}  config: |\n{config}")], None)
}

fn starts(found: &[String], expected: &[&str]) {
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn mistakes_of_a_configuration_are_told_at_their_key() {
    let cases: [(&str, &[&str]); 17] = [
        ("{\"type\": \"macvlan\",}", &["6:24 error: spec.config: no JSON: invalid character '}'"]),
        ("{\"type\": \"macvlan\"\n \"mode\": \"bridge\"}", &["7:6 error: spec.config: no JSON"]),
        ("{\"type\": \"macvlan\"", &["6:23 error: spec.config: no JSON: unexpected end"]),
        ("{'type': 1}", &["6:6 error: spec.config: no JSON"]),
        ("[]", &["6:5 error: spec.config: error parsing configuration list: json: cannot unmarshal array"]),
        (
            "{\"cniVersion\": \"9.0.0\", \"type\": \"dummy\"}",
            &[
                "6:6 error: spec.config: cniVersion: incompatible CNI versions: config is",
                "6:29 error: spec.config: type: dummy interface requires",
            ],
        ),
        ("{\"name\": \"x\"}", &["6:5 error: spec.config: no plugin configs found"]),
        (
            "{\"plugins\": []}",
            &["6:6 error: spec.config: plugins: error parsing configuration list: no plugins in list"],
        ),
        ("{\"plugins\": [{\"typ\": \"macvlan\"}]}", &["6:19 error: spec.config: plugins[0].typ: "]),
        ("{\"type\": \"macvlan\", \"mtu\": \"1500\"}", &["6:25 error: spec.config: mtu: failed to load netconf: json"]),
        ("{\"type\": \"macvlan\",\n\"mode\": \"sideways\"}", &["7:5 error: spec.config: mode: "]),
        (
            "{\"type\": \"macvlan\", \"mtu\": 70000}",
            &["6:25 error: spec.config: mtu: the kernel refuses the MTU 70000"],
        ),
        ("{\"type\": \"bridge\", \"vlan\": 5000}", &["6:24 error: spec.config: vlan: "]),
        ("{\"type\": \"vlan\", \"master\": \"a\", \"vlanId\": 4095}", &["6:37 error: spec.config: vlanId: "]),
        (
            "{\"type\": \"tuning\"}",
            &["6:6 error: spec.config: type: Required prevResult missing => a plugin before it"],
        ),
        ("{\"name\": \"../x\", \"type\": \"macvlan\"}", &["6:6 error: spec.config: name: "]),
        ("{\"type\": \"multus\", \"name\": \"x\"}", &["6:6 error: spec.config: type: network \"x\" is of type"]),
    ];
    for (config, expected) in cases {
        starts(&of_config(config), expected);
    }
}

#[test]
fn ranges_types_and_misspelt_keys_are_told_too() {
    let cases: [(&str, &[&str]); 13] = [
        (
            "{\"type\": \"macvlan\", \"mut\": 1400, \"ipam\": {\"type\": \"host-local\", \"subnet\": \"10.1.0.0/24\", \"rangestrat\": 1}}",
            &["6:25 warning: spec.config: mut: plexus does not know", "6:94 warning: spec.config: ipam.rangestrat: "],
        ),
        (
            "{\"type\": \"macvlan\", \"ipam\": {\"type\": \"host-local\",\n\"subnet\": \"10.1.0.0/24\",\n\"rangeStart\": \"10.2.0.1\"}}",
            &["8:5 error: spec.config: ipam.rangeStart: "],
        ),
        (
            "{\"type\": \"macvlan\", \"mtu\": \"x\", \"ipam\": {\"type\": \"host-local\",\n\"subnet\": \"10.1.0.0/24\",\n\"gateway\": \"ten\"}}",
            &["6:25 error: spec.config: mtu: ", "8:5 error: spec.config: ipam.gateway: "],
        ),
        (
            "{\"type\": \"macvlan\", \"ipam\": {\"type\": \"host-local\", \"ranges\": [[{\"subnet\": \"10.1.0.0/24\"},\n{\"subnet\": \"10.1.0.0/25\"}]]}}",
            &["7:5 error: spec.config: ipam.ranges[0][1]: invalid range set"],
        ),
        (
            "{\"type\": \"macvlan\", \"mastre\": \"eth1\", \"mode\": \"x\"}",
            &["6:25 warning: spec.config: mastre: ", "6:43 error: spec.config: mode: "],
        ),
        (
            "{\"type\": \"macvlan\", \"ipam\": {\"type\": \"host-local\", \"ranges\": [[{\"subnet\": \"10.1.0.0/24\",\n\"gateway\": \"10.2.0.1\"}]]}}",
            &["7:5 warning: spec.config: ipam.ranges[0][0].gateway: the gateway 10.2.0.1 is not in 10.1.0.0/24"],
        ),
        ("{\"type\": \"sriov\"}", &["6:6 error: spec.config: type: sriov needs a device"]),
        ("{\"type\": \"sriov\", \"pf\": \"eth0\"}", &[]),
        (
            "{\"type\": \"sriov\", \"deviceID\": \"0000:01:10.0\",\n\"vlan\": 4095}",
            &["7:5 error: spec.config: vlan: vlan is not in the range 0 to 4094"],
        ),
        (
            "{\"type\": \"sriov\", \"deviceID\": \"0000:01:10.0\",\n\"link_state\": \"up\"}",
            &["7:5 error: spec.config: link_state: link_state \"up\" is not auto"],
        ),
        ("{\"type\": \"macvaln\"}", &["6:6 warning: spec.config: type: macvaln is executed: /opt/cni/bin/macvaln"]),
        (
            "{\"plugins\": [{\"type\": \"dummy\", \"ipam\": {\"type\": \"static\"}}], \"disablecheck\": true}",
            &["6:66 warning: spec.config: disablecheck: "],
        ),
        (
            "{\"type\": \"macvlan\", \"mtu\": 1400, \"mtu\": 1500}",
            &["6:38 warning: spec.config: mtu: the key is there twice"],
        ),
    ];
    for (config, expected) in cases {
        starts(&of_config(config), expected);
    }
}

#[test]
fn what_a_virtual_function_cannot_be_given_is_told_at_its_key() {
    let of = |rest: &str| format!("{{\"type\": \"sriov\", \"deviceID\": \"0000:01:10.0\",\n{rest}}}");
    let cases: [(&str, &[&str]); 13] = [
        (
            r#""trust": "yes""#,
            &[
                r#"7:5 warning: spec.config: trust: trust "yes" is neither on nor off: it is taken for off => "on" or "off""#,
            ],
        ),
        (r#""spoofchk": "ON""#, &["7:5 warning: spec.config: spoofchk: spoofchk \"ON\" is neither on nor off"]),
        (
            r#""trust": "on", "spoofchk": "off", "link_state": "auto", "vlan": 0, "min_tx_rate": 0, "max_tx_rate": 9"#,
            &[],
        ),
        (
            r#""link_state": "up""#,
            &[
                r#"7:5 error: spec.config: link_state: link_state "up" is not auto, enable or disable => "auto", "enable""#,
            ],
        ),
        (
            r#""vlan": 4095"#,
            &["7:5 error: spec.config: vlan: vlan is not in the range 0 to 4094 => a number from 0 to 4094"],
        ),
        (
            r#""vlan": 5, "vlanQoS": 8"#,
            &["7:16 error: spec.config: vlanQoS: vlanQoS is not in the range 0 to 7 => a number from 0 to 7"],
        ),
        (
            r#""vlan": 5, "vlanProto": "x""#,
            &["7:16 error: spec.config: vlanProto: vlanProto \"x\" is neither 802.1q nor 802.1ad => \"802.1q\""],
        ),
        (
            r#""max_tx_rate": 2, "min_tx_rate": 3"#,
            &[
                "7:23 error: spec.config: min_tx_rate: min_tx_rate 3 is more than max_tx_rate 2 => a number of Mbit/s that is not more",
            ],
        ),
        (
            r#""driver": "igb_uio""#,
            &["7:5 error: spec.config: driver: driver \"igb_uio\" is neither netdev nor vfio-pci => \"netdev\""],
        ),
        (r#""optional": ["vlan"]"#, &["7:18 error: spec.config: optional[0]: optional: \"vlan\" is none of "]),
        (
            r#""pf": ["eth1", "eth1"]"#,
            &["7:20 error: spec.config: pf[1]: pf names eth1 twice => the name of a card's own interface"],
        ),
        (r#""pf": 7"#, &["7:5 error: spec.config: pf: "]),
        (r#""trust": "yes", "vlan": -1"#, &["7:5 warning: spec.config: trust: ", "7:21 error: spec.config: vlan: "]),
    ];
    for (rest, expected) in cases {
        starts(&of_config(&of(rest)), expected);
    }
    // And where nothing else says of which card it is.
    for (pf, expected) in [
        ("7", "7:5 error: spec.config: pf: failed to load netconf: invalid type: integer"),
        ("{\"a\": 1}", "7:5 error: spec.config: pf: failed to load netconf: invalid type: map"),
        ("[]", "7:5 error: spec.config: pf: pf names 0 cards"),
        (
            "\"../eth0\"",
            "7:5 error: spec.config: pf: pf names \"../eth0\", which is neither an interface nor a PCI address",
        ),
        ("[\"e0\", \"a/b\"]", "7:18 error: spec.config: pf[1]: pf names \"a/b\""),
    ] {
        starts(&of_config(&format!("{{\"type\": \"sriov\",\n\"pf\": {pf}}}")), &[expected]);
    }
}

#[test]
fn a_device_that_is_no_address_is_told_and_is_a_mistake_where_it_is_used() {
    let conf = r#"{"type": "sriov", "deviceID": "eth5"}"#;
    let said =
        r#"6:23 error: spec.config: deviceID: "eth5" is no PCI address, as "0000:01:10.0" => the address of a device"#;
    starts(&of_config(conf), &[said]);
    let listed = r#"{"plugins": [{"type": "host-device", "pciBusID": "01:10.0"}]}"#;
    starts(&of_config(listed), &[r#"6:42 error: spec.config: plugins[0].pciBusID: "01:10.0" is no PCI address"#]);
    for right in
        [r#"{"type": "sriov", "deviceID": "0000:01:10.0"}"#, r#"{"type": "host-device", "pciBusID": "0000:01:10.0"}"#]
    {
        starts(&of_config(right), &[]);
    }
    let annotated = NAD.replace("{name: lan}", "{name: lan, annotations: {k8s.v1.cni.cncf.io/resourceName: a.b/vf}}");
    let found = told(&[&format!("{annotated}  config: '{conf}'\n")], None);
    starts(
        &found,
        &[r#"5:30 warning: spec.config: deviceID: "eth5" is no PCI address, as "0000:01:10.0"; nobody uses it"#],
    );
}

#[test]
fn what_is_right_is_not_told() {
    for config in [
        "{\"cniVersion\": \"0.3.1\", \"type\": \"macvlan\", \"master\": \"eth0\", \"mode\": \"bridge\", \"ipam\": {\"type\": \"host-local\", \"subnet\": \"10.1.0.0/24\"}}",
        "{\"type\": \"ovs-cni\", \"vlan\": 1000, \"ipam\": {\"type\": \"whereabouts\", \"range\": \"10.1.0.0/24\"}}",
        "{\"cniVersion\": \"0.3.1\", \"plugins\": [{\"type\": \"bridge\", \"bridge\": \"b\", \"vlan\": 5}, {\"type\": \"tuning\", \"capabilities\": {\"mac\": true}}]}",
    ] {
        starts(&of_config(config), &[]);
    }
    starts(&told(&[NAD.trim_end_matches("spec:\n")], None), &[]);
}

#[test]
fn the_outside_of_a_definition_is_looked_at() {
    let cases: [(String, &[&str]); 6] = [
        (format!("{NAD}  config: {{\"type\": \"macvlan\"}}\n"), &["5:3 error: spec.config: spec.config is no text"]),
        (format!("{NAD}  Config: '{{}}'\n"), &["5:3 warning: spec.Config: a definition's spec has no \"Config\""]),
        (NAD.replace("/v1", "/v1beta1"), &["1:1 error: apiVersion: "]),
        (NAD.replace("{name: lan}", "{}"), &["3:1 error: metadata: a definition without a name"]),
        (format!("{NAD}  config: [\n"), &["5:11 error: : no YAML: "]),
        (
            format!("{NAD}  config: '{{\"type\": \"dummy\", \"ipam\": {{\"type\": \"static\"}}}}'\n---\n{NAD}"),
            &["9:12 error: metadata.name: it is in 0.yaml:3 too"],
        ),
    ];
    for (text, expected) in cases {
        starts(&told(&[&text], None), expected);
    }
}

/// A definition with addresses, and nothing that a pod may ask for beside them.
const LAN: &str = r#"{"cniVersion": "0.3.1", "type": "macvlan", "master": "eth0", "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}}"#;

fn of_networks(networks: &str, configuration: Option<&str>) -> Vec<String> {
    let definition = format!("{NAD}  config: '{LAN}'\n");
    let pod = format!("{POD}    k8s.v1.cni.cncf.io/networks: '{networks}'\n");
    told(&[&definition, &pod], configuration)
}

#[test]
fn mistakes_of_an_annotation_are_told_at_their_key() {
    let cases: [(&str, &[&str]); 14] = [
        ("lan, lan@b", &[]),
        (r#"[{"name": "lan"}, {"name": "lan", "interface": "x"}]"#, &[]),
        ("lan,La n", &["6:39 error: k8s.v1.cni.cncf.io/networks: [1]: network \"La n\" is no name"]),
        ("lan@x, lan@x", &["6:42 error: k8s.v1.cni.cncf.io/networks: [1]: interface \"x\" is wanted by"]),
        (
            "lan, wan",
            &["6:40 warning: k8s.v1.cni.cncf.io/networks: [1].name: no file here defines the network default/wan"],
        ),
        (
            "other/lan",
            &[
                "6:35 warning: k8s.v1.cni.cncf.io/networks: [0].name: no file here defines the network other/lan: the cluster must have it => default/lan",
            ],
        ),
        (r#"[{"name": "lan"},]"#, &["6:52 error: k8s.v1.cni.cncf.io/networks: no JSON"]),
        (r#"{"name": "lan"}"#, &["6:35 error: k8s.v1.cni.cncf.io/networks: the JSON form is a list"]),
        (r#"[{"name": "lan", "ips": ["10.2.0.5"]}]"#, &["6:60 error: k8s.v1.cni.cncf.io/networks: [0].ips[0]: "]),
        (r#"[{"name": "lan", "mac": "01:00:00:00:00:01"}]"#, &["6:52 error: k8s.v1.cni.cncf.io/networks: [0].mac: "]),
        (
            r#"[{"name": "lan", "portMappings": [{"hostPort": 99999, "containerPort": 1}]}]"#,
            &["6:70 error: k8s.v1.cni.cncf.io/networks: [0].portMappings[0].hostPort: "],
        ),
        (
            r#"[{"name": "lan", "portMappings": [{"hostPort": 9, "containerPort": 1}]}]"#,
            &["6:52 error: k8s.v1.cni.cncf.io/networks: [0].portMappings: network"],
        ),
        (
            r#"[{"name": "lan", "interfac": "x"}]"#,
            &[
                "6:52 warning: k8s.v1.cni.cncf.io/networks: [0].interfac: nobody knows this key: it is ignored => \"interface\"",
            ],
        ),
        (
            r#"[{"name": "lan", "deviceID": "0000:00:00.1"}]"#,
            &["6:52 error: k8s.v1.cni.cncf.io/networks: [0].deviceID: "],
        ),
    ];
    for (networks, expected) in cases {
        starts(&of_networks(networks, None), expected);
    }
    let several = r#"[{"name": "lan", "mac": "x"}, {"name": "lan", "interface": "net3"}, {"name": "lan"}, {"name": "lan", "ips": [1], "bandwidth": {"ingressRate": 1}}, {"name": "lan", "interface": "net3"}]"#;
    let found = of_networks(several, None);
    let keys: Vec<&str> = found.iter().filter_map(|line| line.split("networks: ").nth(1)?.split(':').next()).collect();
    assert_eq!(keys, ["[0].mac", "[1].interface", "[3].ips", "[3].bandwidth"], "{found:#?}");
}

#[test]
fn policies_of_the_node_are_kept() {
    let strict = r#"{"clusterNetwork": "/etc/cni/net.d/10.conflist", "namespaceIsolation": true, "globalNamespaces": "shared", "allowedDelegates": ["ovs-cni"]}"#;
    let isolated =
        of_networks(r#"[{"name": "lan", "namespace": "other"}, {"name": "x", "namespace": "shared"}]"#, Some(strict));
    starts(&isolated, &["6:52 error: k8s.v1.cni.cncf.io/networks: [0].namespace: namespace isolation", "6:76 warning"]);
    let text = format!("{NAD}  config: '{{\"type\": \"ovs\"}}'\n");
    starts(&told(&[&text], Some(strict)), &["5:13 error: spec.config: type: plugin \"ovs\" may not be executed"]);
    starts(&told(&[&text.replace("\"ovs\"", "\"ovs-cni\"")], Some(strict)), &[]);
    starts(
        &told(&[&text.replace("\"ovs\"", "\"macvlan\", \"ipam\": {\"type\": \"dhcp\"}")], Some(strict)),
        &["5:41 error: spec.config: ipam.type: "],
    );
    let daemon = r#"{"logLevel": "verbose", "namespaceIsolation": true}"#;
    assert!(!of_networks("x/lan", Some(daemon)).is_empty());
    assert!(Settings::of(Some(b"{"), "").is_err() && Settings::of(Some(br#"{"clusterNetwork": 3}"#), "").is_err());
}

#[test]
fn templates_and_lists_are_looked_at() {
    let pod = format!("{POD}    k8s.v1.cni.cncf.io/networks: A\n").replace("kind: Pod", "kind: List\nitems: []");
    starts(&told(&[&pod], None), &[]);
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n  annotations: {k8s.v1.cni.cncf.io/networks: lan}\nspec:\n  template:\n    metadata:\n      annotations:\n        k8s.v1.cni.cncf.io/network: lan\n        v1.multus-cni.io/default-network: a,b\n";
    let found = told(&[deployment], None);
    let list = deployment
        .replace("spec:\n  template:\n    metadata:", "spec:\n  jobTemplate:\n   spec:\n    template:\n     metadata:");
    starts(
        &found,
        &[
            "5:17 warning: metadata.annotations.k8s.v1.cni.cncf.io/networks: the annotation is the workload's own",
            "10:9 warning: spec.template.metadata.annotations.k8s.v1.cni.cncf.io/network: nobody reads",
            "11:43 warning: v1.multus-cni.io/default-network: [0].name: no file here defines the network kube-system/a",
            "11:45 error: v1.multus-cni.io/default-network: [1]: more than one default network",
            "11:45 warning: v1.multus-cni.io/default-network: [1].name: ",
        ],
    );
    assert_eq!(told(&[&list], None).len(), 5);
}

#[test]
fn one_pool_for_two_networks_is_told() {
    let of = |namespace: &str, name: &str, subnet: &str, master: &str| {
        let config = LAN
            .replace("10.1.0.0/24", subnet)
            .replace("eth0", master)
            .replace("\"type\": \"mac", "\"name\": \"lan\", \"type\": \"mac");
        format!(
            "{}  config: '{config}'\n",
            NAD.replace("{name: lan}", &format!("{{name: {name}, namespace: {namespace}}}"))
        )
    };
    let first = of("a", "lan", "10.1.0.0/24", "eth0");
    starts(&told(&[&first, &of("b", "lan", "10.1.0.0/24", "eth0")], None), &[]);
    starts(
        &told(&[&first, &of("b", "lan2", "10.2.0.0/24", "eth0")], None),
        &[
            "5:36 error: spec.config: name: it shares with a/lan the CNI name \"lan\", and so one pool of addresses, but with different ranges",
        ],
    );
    let found = told(&[&first, &of("b", "lan", "10.1.0.0/24", "eth1")], None);
    assert!(found[0].contains("lower device eth1 and eth0"), "{found:?}");
}

#[test]
fn hostile_files_come_to_an_end() {
    let deep = format!("{NAD}  config: '{}'\n", "[".repeat(5000));
    let wide = format!(
        "{NAD}  config: '{{\"type\": \"macvlan\", \"mode\": \"x\", {}}}'\n",
        (0..600).map(|i| format!("\"k{i}\": [1, 2]")).collect::<Vec<_>>().join(",")
    );
    let many = format!("{POD}    k8s.v1.cni.cncf.io/networks: '[{}]'\n", vec!["{\"name\": \"A\"}"; 300].join(","));
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\n".to_owned();
    for text in
        [deep, wide, many, bomb, "\u{feff}{".to_owned(), "kind: List\nitems: {a: b}".to_owned(), "- - -\n".to_owned()]
    {
        let _ = report(&[&text], None); // an end and no panic is all that is asked
    }
}
