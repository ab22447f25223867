//! The scenes. The first ones are upstream's how-to-use and configuration pages, with links that every kernel has.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::play::{CACHE, CONF_DIR};
use super::scene::{OTHER, Scene};
use crate::kube::{Door, Fault};

fn ipam(subnet: &str) -> Value {
    json!({"type": "host-local", "ranges": [[{"subnet": subnet}]]})
}

fn macvlan(subnet: &str) -> Value {
    json!({"cniVersion": "1.0.0", "type": "macvlan", "master": "up0", "mode": "bridge", "ipam": ipam(subnet)})
}

fn bridge(name: &str, subnet: &str) -> Value {
    json!({"cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": format!("{name}0"), "isGateway": true,
        "ipam": ipam(subnet)})
}

/// Every scene.
pub(crate) fn all() -> Vec<Scene> {
    [plain(), requests(), routes(), references(), nodes(), refusals(), mishaps()].into_iter().flatten().collect()
}

fn plain() -> Vec<Scene> {
    let routed = json!({"cniVersion": "0.3.1", "type": "macvlan", "master": "up0", "mode": "bridge", "ipam": {"type": "host-local",
        "subnet": "192.168.1.0/24", "rangeStart": "192.168.1.200", "rangeEnd": "192.168.1.216",
        "routes": [{"dst": "192.0.2.0/24"}], "gateway": "192.168.1.1"}});
    let dual = json!({"cniVersion": "1.0.0", "name": "dual", "type": "bridge", "bridge": "dual0", "isGateway": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.4.0.0/24"}], [{"subnet": "fd00:4::/64"}]]}});
    let chained = json!({"cniVersion": "1.0.0", "name": "chained", "plugins": [bridge("chained", "10.5.0.0/24"),
        {"type": "tuning", "mtu": 1400}]});
    let statically = json!({"cniVersion": "1.0.0", "name": "fixed", "type": "macvlan", "master": "up0",
        "ipam": {"type": "static", "addresses": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}],
            "dns": {"nameservers": ["10.9.0.1"], "domain": "a.test", "search": ["b.test"]}}});
    vec![
        Scene::new("no_annotation"),
        Scene::new("an_empty_list").networks("[]"),
        Scene::new("one_by_name").definition("macvlan-conf-1", &routed).networks("macvlan-conf-1"),
        Scene::new("one_in_json").definition("blue", &macvlan("10.2.0.0/24")).networks(r#"[{"name": "blue"}]"#),
        Scene::new("the_same_twice").definition("blue", &macvlan("10.2.0.0/24")).networks("blue,blue"),
        Scene::new("two").definition("blue", &macvlan("10.2.0.0/24")).definition("dual", &dual).networks("blue, dual"),
        Scene::new("a_chain").definition("chained", &chained).networks("chained"),
        Scene::new("static_addresses_and_dns").definition("fixed", &statically).networks("fixed"),
        Scene::new("the_newest_version")
            .node(json!({"cniVersion": "1.1.0"}))
            .definition("new", &json!({"cniVersion": "1.1.0", "type": "bridge", "bridge": "new0", "mtu": 1300, "ipam": ipam("10.3.0.0/24")}))
            .networks("new"),
        Scene::new("an_old_version")
            .node(json!({"cniVersion": "0.3.1"}))
            .definition("old", &json!({"cniVersion": "0.3.1", "type": "bridge", "bridge": "old0", "ipam": ipam("10.3.0.0/24")}))
            .networks("old"),
    ]
}

fn requests() -> Vec<Scene> {
    let fixed = json!({"cniVersion": "1.0.0", "name": "fixed", "type": "macvlan", "master": "up0", "capabilities": {"ips": true},
        "ipam": {"type": "static"}});
    let tuned = json!({"cniVersion": "1.0.0", "name": "tuned", "plugins": [bridge("tuned", "10.5.0.0/24"),
        {"type": "tuning", "capabilities": {"mac": true}}]});
    let argued = json!({"cniVersion": "1.0.0", "name": "argued", "type": "bridge", "bridge": "argued0", "ipam": ipam("10.6.0.0/24")});
    vec![
        Scene::new("a_name_for_the_interface").definition("blue", &macvlan("10.2.0.0/24")).networks("blue@foo1"),
        Scene::new("names_and_numbers").definition("blue", &macvlan("10.2.0.0/24")).networks("blue@foo1,blue"),
        Scene::new("addresses")
            .definition("fixed", &fixed)
            .networks(r#"[{"name": "fixed", "ips": ["10.2.2.42/24", "fd00:2::42/64"]}]"#),
        Scene::new("a_mac").definition("tuned", &tuned).networks(r#"[{"name": "tuned", "mac": "c2:b0:57:49:47:f1"}]"#),
        Scene::new("arguments")
            .definition("argued", &argued)
            .networks(r#"[{"name": "argued", "cni-args": {"ips": ["10.6.0.77"]}}]"#),
        Scene::new("arguments_where_there_is_no_place")
            .definition("argued", &json!({"cniVersion": "1.0.0", "type": "bridge", "bridge": "a0", "args": "text", "ipam": ipam("10.6.0.0/24")}))
            .networks(r#"[{"name": "argued", "cni-args": {"ips": ["10.6.0.77"]}}]"#),
        Scene::new("an_interface_in_json")
            .definition("blue", &macvlan("10.2.0.0/24"))
            .networks(r#"[{"name": "blue", "interface": "data0"}]"#),
        Scene::new("an_interface_by_its_older_key_and_a_key_of_nobody")
            .definition("blue", &macvlan("10.2.0.0/24"))
            .networks(r#"[{"name": "blue", "interfaceRequest": "data0", "colour": "blue"}]"#),
        Scene::new("arguments_over_those_of_the_definition")
            .definition(
                "argued",
                &json!({"cniVersion": "1.0.0", "type": "bridge", "bridge": "argued0", "ipam": ipam("10.6.0.0/24"),
                    "args": {"cni": {"ips": ["10.6.0.66"], "colour": "red"}}}),
            )
            .networks(r#"[{"name": "argued", "cni-args": {"ips": ["10.6.0.77"]}}]"#),
        Scene::new("a_mac_that_only_the_arguments_tell")
            .definition("blue", &macvlan("10.2.0.0/24"))
            .networks(r#"[{"name": "blue", "mac": "c2:b0:57:49:47:f1"}]"#),
    ]
}

fn routes() -> Vec<Scene> {
    vec![
        Scene::new("the_default_route_moves")
            .definition("lan", &bridge("lan", "10.3.0.0/24"))
            .networks(r#"[{"name": "lan", "default-route": ["10.3.0.1"]}]"#),
        Scene::new("no_default_route_is_asked_for")
            .definition("lan", &bridge("lan", "10.3.0.0/24"))
            .networks(r#"[{"name": "lan", "default-route": []}]"#),
        Scene::new("two_default_routes").definition("lan", &bridge("lan", "10.3.0.0/24")).networks(
            r#"[{"name": "lan", "default-route": ["10.3.0.1"]}, {"name": "lan", "default-route": ["10.3.0.9"]}]"#,
        ),
    ]
}

fn references() -> Vec<Scene> {
    let isolated = json!({"namespaceIsolation": true});
    vec![
        Scene::new("another_namespace").definition_in(OTHER, "far", &bridge("far", "10.3.0.0/24")).networks("{other}/far"),
        Scene::new("another_namespace_in_json")
            .definition_in(OTHER, "far", &bridge("far", "10.3.0.0/24"))
            .networks(r#"[{"name": "far", "namespace": "{other}"}]"#),
        Scene::new("isolated")
            .node(isolated.clone())
            .definition_in(OTHER, "far", &bridge("far", "10.3.0.0/24"))
            .networks("{other}/far"),
        Scene::new("isolated_but_global")
            .node(json!({"namespaceIsolation": true, "globalNamespaces": "{other},default"}))
            .definition_in(OTHER, "far", &bridge("far", "10.3.0.0/24"))
            .networks("{other}/far"),
        Scene::new("another_default_network")
            .node(json!({"multusNamespace": "{own}"}))
            .definition("lan", &bridge("lan", "10.3.0.0/24"))
            .annotation("v1.multus-cni.io/default-network", "lan"),
        Scene::new("another_default_network_renamed")
            .definition("lan", &bridge("lan", "10.3.0.0/24"))
            .annotation("v1.multus-cni.io/default-network", "{own}/lan@first0"),
        Scene::new("isolated_default_network")
            .node(isolated)
            .definition_in(OTHER, "far", &bridge("far", "10.3.0.0/24"))
            .annotation("v1.multus-cni.io/default-network", "{other}/far"),
        Scene::new("a_file_of_the_node")
            .before(|_| {
                let conf = json!({"cniVersion": "1.0.0", "name": "filed", "type": "bridge", "bridge": "filed0", "ipam": ipam("10.7.0.0/24")});
                fs::write(format!("{CONF_DIR}/10-filed.conf"), conf.to_string()).unwrap();
            })
            .definition("filed", &Value::Null)
            .networks("filed"),
    ]
}

/// The cluster's own network as a list of plugins.
const LIST: &str = "/run/scratch/cluster/20-list.conflist";

fn nodes() -> Vec<Scene> {
    let ports = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    vec![
        Scene::new("inline_delegates")
            .thin_only()
            .node(json!({"clusterNetwork": null, "delegates": [bridge("inline", "10.8.0.0/24")]}))
            .definition("blue", &macvlan("10.2.0.0/24"))
            .networks("blue"),
        Scene::new("a_definition_as_the_cluster_network")
            .thin_only()
            .node(json!({"clusterNetwork": "primary", "multusNamespace": "{other}"}))
            .definition_in(OTHER, "primary", &bridge("primary", "10.8.0.0/24")),
        Scene::new("default_networks")
            .node(json!({"defaultNetworks": ["always"], "multusNamespace": "{other}"}))
            .definition_in(OTHER, "always", &bridge("always", "10.8.0.0/24"))
            .definition("blue", &macvlan("10.2.0.0/24"))
            .networks("blue"),
        Scene::new("default_networks_are_not_for_the_system")
            .node(json!({"defaultNetworks": ["always"], "multusNamespace": "{other}", "systemNamespaces": ["{own}"]}))
            .definition_in(OTHER, "always", &bridge("always", "10.8.0.0/24"))
            .definition("blue", &macvlan("10.2.0.0/24"))
            .networks("blue"),
        Scene::new("the_runtimes_ports").runtime(ports),
        Scene::new("a_list_as_the_cluster_network").thin_only().node(json!({"clusterNetwork": LIST})).before(|_| {
            let list = json!({"cniVersion": "1.0.0", "name": "list", "plugins": [bridge("list", "10.8.0.0/24")]});
            fs::write(LIST, list.to_string()).unwrap();
        }),
    ]
}

fn refusals() -> Vec<Scene> {
    vec![
        Scene::new("a_definition_that_is_missing").networks("nowhere"),
        Scene::new("words_that_are_no_list").networks("[{]"),
        Scene::new("a_space_alone").networks(" "),
        Scene::new("a_comma_too_many").definition("blue", &macvlan("10.2.0.0/24")).networks("blue,"),
        Scene::new("a_network_without_a_name").networks(r#"[{"interface": "net7"}]"#),
        Scene::new("two_other_default_networks")
            .definition("lan", &bridge("lan", "10.3.0.0/24"))
            .annotation("v1.multus-cni.io/default-network", "{own}/lan,{own}/lan"),
        Scene::new("no_other_default_network").annotation("v1.multus-cni.io/default-network", ""),
        Scene::new("a_type_that_is_missing")
            .definition("odd", &json!({"cniVersion": "1.0.0", "name": "odd", "type": "does-not-exist"}))
            .networks("odd"),
        Scene::new("an_interface_name_twice")
            .definition("blue", &macvlan("10.2.0.0/24"))
            .networks("blue@net7,blue@net7"),
        Scene::new("a_configuration_without_a_type")
            .definition("odd", &json!({"cniVersion": "1.0.0", "name": "odd"}))
            .networks("odd"),
        Scene::new("addresses_that_nothing_can_honour")
            .definition("lan", &bridge("lan", "10.3.0.0/24"))
            .networks(r#"[{"name": "lan", "ips": ["10.3.0.77/24"]}]"#),
        Scene::new("a_second_network_that_fails")
            .definition("blue", &macvlan("10.2.0.0/24"))
            .definition(
                "odd",
                &json!({"cniVersion": "1.0.0", "name": "odd", "type": "macvlan", "master": "nowhere0", "ipam": {}}),
            )
            .networks("blue,odd"),
    ]
}

fn mishaps() -> Vec<Scene> {
    let blue = || Scene::new("").definition("blue", &macvlan("10.2.0.0/24")).networks("blue");
    let named = |name, scene: Scene| Scene { name, ..scene };
    vec![
        named("the_definition_is_gone_before_del", blue().between(|stage| stage.cluster.delete_definition("blue"))),
        named("the_pod_is_gone_before_del", blue().between(|stage| stage.cluster.delete_pod("a"))),
        // Here and below: the daemon may not have heard of it yet.
        named("the_pod_is_gone_before_add", blue().thin_only().before(|stage| stage.cluster.delete_pod("a"))),
        // The daemon keeps a namespace open that was removed.
        named("the_namespace_is_gone_before_del", blue().thin_only().between(|stage| stage.bed.lose_pod("a"))),
        named(
            "another_pod_of_the_name",
            blue().thin_only().before(|stage| {
                stage.cluster.delete_pod("a");
                stage.cluster.pod("a", &[("k8s.v1.cni.cncf.io/networks", "blue")]);
            }),
        ),
        named(
            "another_static_pod_of_the_name",
            blue().thin_only().before(|stage| {
                stage.cluster.delete_pod("a");
                let networks = ("k8s.v1.cni.cncf.io/networks", "blue");
                stage.cluster.pod("a", &[networks, ("kubernetes.io/config.source", "file")]);
            }),
        ),
        named("the_server_is_gone_before_del", blue().between(|stage| stage.cluster.door(Door::Refused))),
        named(
            "the_server_is_gone_before_add",
            blue().thin_only().slow().before(|stage| stage.cluster.door(Door::Refused)),
        ),
        named(
            "the_server_is_slow",
            blue().thin_only().slow().before(|stage| {
                stage.cluster.fail("", "", usize::MAX, Fault::Slow(Duration::from_millis(700)));
            }),
        ),
        named(
            "the_status_is_refused",
            blue().before(|stage| stage.cluster.fail("", "/pods/a/status", usize::MAX, Fault::Status(403))),
        ),
        named(
            "the_status_conflicts_once",
            blue().before(|stage| stage.cluster.fail("", "/pods/a/status", 1, Fault::Status(409))),
        ),
        named(
            "the_kubeconfig_is_gone_before_del",
            blue().thin_only().between(|_| fs::remove_file("/run/scratch/kubeconfig").unwrap()),
        ),
        named(
            "the_cache_and_the_pod_are_gone_before_del",
            blue().thin_only().between(|stage| {
                drop(fs::remove_file(format!("{CACHE}/c1")));
                stage.cluster.delete_pod("a");
            }),
        ),
    ]
}
