//! Why a pod was not attached, as its events say it: the cause, and what to do about it. The same said again, of a new sandbox of the
//! same pod, is the same event.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let needs = &[Need::Macvlan, Need::ApiServer];
    vec![
        Case::new("api::reasons::of_definitions_and_annotations", needs, || of_each(of_texts())),
        Case::new("api::reasons::of_the_node", needs, || of_each(of_the_node())),
        Case::new("api::reasons::of_the_api_server", needs, of_the_server),
        Case::new("api::reasons::of_a_default_network_that_does_not_come", needs, of_the_default),
    ]
}

/// One way to fail.
struct Reason {
    /// The definition `x`; empty: there is none.
    config: String,
    /// The annotation.
    networks: &'static str,
    /// What the event's message says: why, and what to do.
    says: [&'static str; 2],
}

fn row(config: &Value, networks: &'static str, says: [&'static str; 2]) -> Reason {
    let mut whole = json!({"cniVersion": "1.0.0"});
    whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    Reason { config: whole.to_string(), networks, says }
}

fn text(config: &str, networks: &'static str, says: [&'static str; 2]) -> Reason {
    Reason { config: config.to_owned(), networks, says }
}

const VALIDATE: &str = "; correct the definition: `plexus validate` tells where and how";
const ANNOTATION: &str = "; correct the pod's annotation: `plexus validate` tells where and how";
const CAPABILITY: &str = "; declare it in the plugin that takes it, as \"capabilities\": {\"ips\": true}, or take that key out of the pod's annotation";
const INTERFACE: &str = "; give one of them another interface in the pod's annotation";

#[rustfmt::skip]
fn of_texts() -> Vec<Reason> {
    let bridge = json!({"type": "bridge"});
    vec![
        text("", "x", ["cannot find a network-attachment-definition (x) in namespace", "; create it, or correct the pod's annotation"]),
        text("{ torn", "x", ["/x: error parsing configuration list: invalid character 't'", VALIDATE]),
        row(&json!({"type": 5}), "x", ["/x: error parsing configuration: json: cannot unmarshal number", VALIDATE]),
        row(&json!({"type": "macvlan", "master": "up0", "mode": "sideways"}), "x", ["unknown macvlan mode: \"sideways\"", VALIDATE]),
        row(&json!({"type": "sriov"}), "x", ["sriov needs a device: the definition names no resource", "; have a container of the pod request it, or correct the definition"]),
        row(&bridge, r#"[{"name": "x", "bandwidth": {"ingressRate": 1, "ingressBurst": 1}}]"#, ["bandwidth was requested of network", CAPABILITY]),
        row(&bridge, r#"[{"name": "x", "ips": ["10.1.0.1"]}]"#, ["ips was requested of network", CAPABILITY]),
        row(&bridge, "x@lo", ["interface \"lo\" is wanted by network", INTERFACE]),
        row(&bridge, "x,x@net1", ["interface \"net1\" is wanted by networks", INTERFACE]),
        text("", "[{", ["annotation k8s.v1.cni.cncf.io/networks: unexpected end of JSON input", ANNOTATION]),
        text("", "A", ["network \"A\" is no name", ANNOTATION]),
        text("", "other/x", ["pod is in namespace", "; name a network of the pod's own namespace, or of one of globalNamespaces"]),
        row(&json!({"type": "unlisted"}), "x", ["plugin \"unlisted\" may not be executed on this node", "; name another network, or have it added to allowedDelegates of the nodes' configuration"]),
    ]
}

#[rustfmt::skip]
fn of_the_node() -> Vec<Reason> {
    let full = |range: Value| {
        let mut pool = json!({"type": "host-local", "subnet": "10.9.0.0/24"});
        pool.as_object_mut().unwrap().extend(range.as_object().unwrap().clone());
        json!({"name": "held", "type": "bridge", "bridge": "held0", "capabilities": {"ips": true}, "ipam": pool})
    };
    let one = full(json!({"rangeStart": "10.9.0.9", "rangeEnd": "10.9.0.9"}));
    let link = "; make that interface on the node, or name another one in the definition";
    vec![
        row(&json!({"type": "macvlan", "master": "none0"}), "x", ["failed to lookup master \"none0\"", link]),
        row(&json!({"type": "macvlan", "master": "up0", "mtu": 9000}), "x", ["invalid MTU 9000", "; write a smaller mtu into the definition, or none"]),
        row(&json!({"type": "host-device", "device": "none0"}), "x", ["failed to find host device", link]),
        row(&json!({"type": "none"}), "x", ["failed to find plugin \"none\"", "; install it on the node, or correct the type in the definition"]),
        row(&json!({"type": "talks"}), "x", ["no luck in", "; this is the plugin's own answer; the node's log has what it said besides"]),
        row(&json!({"type": "fails"}), "x", ["no luck today", "; this is the plugin's own answer; the node's log has what it said besides"]),
        row(&one, "x", ["no IP addresses available in range set: 10.9.0.9-10.9.0.9", "; delete pods that hold its addresses, or make its range larger; `plexus doctor` on the node names leases of nobody"]),
        row(&one, r#"[{"name": "x", "ips": ["10.9.0.9"]}]"#, ["requested IP address 10.9.0.9 is not available", "; ask for another address, or wait until its pod has gone"]),
        row(&one, r#"[{"name": "x", "ips": ["10.8.0.9"]}]"#, ["failed to allocate all requested IPs: 10.8.0.9", "; ask for addresses in the definition's ranges"]),
        text(" ", "x", ["no network \"x\" in /etc/cni/multus/net.d", "; write spec.config into the definition, or put a file with that name into this directory of the node"]),
    ]
}

fn rig() -> Member {
    let mut member = Member::new();
    member.node.conf["namespaceIsolation"] = json!(true);
    member.node.conf["allowedDelegates"] = json!(["none", "fails", "talks"]);
    member.node.script("unlisted", "exit 1");
    member.node.script(
        "fails",
        r#"cat >/dev/null; echo '{"cniVersion":"1.0.0","code":117,"msg":"no luck today"}'; [ "$CNI_COMMAND" = DEL ]"#,
    );
    member.node.script(
        "talks",
        r#"cat >/dev/null; echo "{\"code\":118,\"msg\":\"no luck in $CNI_CONTAINERID\"}"; [ "$CNI_COMMAND" = DEL ]"#,
    );
    // Who holds the one address of the pool.
    let held = json!({"cniVersion": "1.0.0", "name": "held", "type": "bridge", "bridge": "held0",
        "ipam": {"type": "host-local", "subnet": "10.9.0.0/24", "rangeStart": "10.9.0.9", "rangeEnd": "10.9.0.9"}});
    member.cluster.definition("held", &held);
    member.add("holder", "held").1.ok();
    member
}

/// Two sandboxes of one pod fail in the same way, as the kubelet makes them one after the other: one event.
fn fails_twice(member: &Member, pod: &str, networks: &str, says: [&str; 2]) {
    let uid = member.pod(pod, &[(NETWORKS, networks)]);
    let again = format!("{pod}-again");
    member.node.bed.pod(&again);
    for (number, sandbox) in [pod, &again].into_iter().enumerate() {
        // As runtimes call it.
        let id = format!("{}{number:032x}", uid.replace('-', ""));
        let call = member.call("ADD", pod, &uid).container(&id).pod(sandbox);
        let answer = call.kubernetes(member.cluster.namespace(), pod, &uid).run();
        assert_ne!(answer.rc, Some(0), "{networks}: {}", answer.stdout);
    }
    let list = member.cluster.get(&format!("/api/v1/namespaces/{}/events", member.cluster.namespace()));
    let mut items = list["items"].as_array().unwrap().iter().filter(|item| item["involvedObject"]["uid"] == uid);
    let event = items.next().unwrap_or_else(|| panic!("no event: {networks}"));
    assert_eq!(items.next(), None, "one event: {event}");
    let message = event["message"].as_str().unwrap();
    let reason = if says[0].starts_with("cannot find") { "NoNetworkFound" } else { "FailedAddingInterface" };
    assert_eq!(
        (&event["reason"], &event["type"], &event["count"]),
        (&json!(reason), &json!("Warning"), &json!(2)),
        "{message}"
    );
    assert!(message.contains(says[0]) && message.ends_with(says[1]), "{message}");
}

fn of_each(table: Vec<Reason>) {
    let member = rig();
    for (i, Reason { config, networks, says }) in table.into_iter().enumerate() {
        // The API server keeps no definition that says nothing at all.
        let is_there = !config.is_empty();
        if is_there {
            member.cluster.definition_in(member.cluster.namespace(), "x", config.trim(), &[]);
        }
        fails_twice(&member, &format!("p{i}"), networks, says);
        if is_there {
            member.cluster.delete_definition("x");
        }
    }
}

/// Said before anything was asked of the server, and told there all the same.
fn of_the_default() {
    let mut member = rig();
    let file = "/run/scratch/none-of-it";
    member
        .node
        .conf
        .as_object_mut()
        .unwrap()
        .extend([("readinessindicatorfile".to_owned(), json!(file)), ("readinessWaitMs".to_owned(), json!(0))]);
    let advice = "; it is tried again";
    fails_twice(
        &member,
        "late",
        "blue",
        ["still waiting for readinessindicatorfile @ /run/scratch/none-of-it", advice],
    );
    assert_eq!(member.node.bed.links("late"), ["lo"]);
}

fn of_the_server() {
    let mut member = rig();
    member.node.conf["apiCallTimeoutMs"] = json!(300);
    member.node.conf["apiDeadlineMs"] = json!(700);
    for (pod, fault, says) in [
        ("a", Fault::Status(403), ["forbids it (403)", "; give plexus' role on the cluster what it lacks"]),
        ("b", Fault::Status(500), ["asking the API server for definition", "; it is tried again"]),
        (
            "c",
            Fault::Hang,
            ["did not answer in time: one call has 300 ms (apiCallTimeoutMs), a request", "; it is tried again"],
        ),
    ] {
        member.cluster.fail("GET", "/network-attachment-definitions/", usize::MAX, fault);
        fails_twice(&member, pod, "blue", says);
        member.cluster.heal();
    }
}
