//! Pods that name a card and no function: each gets another one, as long as there are any.

use serde_json::{Value, json};

use crate::Case;
use crate::card::{Card, ip, link_of, netns};

pub(crate) const CASES: &[Case] = &[
    ("choice::each_pod_gets_another_one_until_the_card_is_full", each_pod_gets_another_one_until_the_card_is_full),
    ("choice::what_a_killed_request_had_is_free", what_a_killed_request_had_is_free),
];

/// A configuration that names the card.
fn conf(card: &Card) -> Value {
    let mut conf = card.conf(0, json!({"pf": card.name, "vlan": 100}));
    conf.as_object_mut().unwrap().remove("deviceID");
    conf
}

/// How many attachments are told of a function (device information files).
fn described(function: &str) -> usize {
    let all = std::fs::read_dir("/var/run/k8s.cni.cncf.io/devinfo/cni").into_iter().flatten();
    let told =
        all.map(|entry| serde_json::from_slice::<Value>(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap());
    told.filter(|told| *told == json!({"type": "pci", "version": "1.1.0", "pci": {"pci-address": function}})).count()
}

fn each_pod_gets_another_one_until_the_card_is_full(card: &Card) {
    let (before, conf) = (card.state(), conf(card));
    let pods: Vec<String> = (0..card.functions.len()).map(|index| format!("pod{index}")).collect();
    for (pod, function) in pods.iter().zip(&card.functions) {
        ip(&format!("netns add {pod}"));
        let result = card.add(pod, &conf);
        assert_eq!(link_of(pod, "net1")["parentdev"], function.pci, "in the order of their numbers");
        assert_eq!(described(&function.pci), 1);
        let checked = card.check(pod, &conf, &result);
        assert!(checked.success, "{}", checked.json);
    }
    ip("netns add late");
    let refused = card.call("ADD", "late", &conf);
    let said = refused.json["msg"].as_str().unwrap();
    let expected = format!("no virtual function of {} is free: of 4, 4 are held", card.name);
    assert!(refused.json["code"] == 11 && said.contains(&expected) && said.contains("container pod3"), "{said}");
    // One that is given back, and one that was lost with its namespace.
    card.del("pod2", &netns("pod2"), &conf);
    assert_eq!(described(&card.functions[2].pci), 0);
    card.add("late", &conf);
    assert_eq!(link_of("late", "net1")["parentdev"], card.functions[2].pci);
    ip("netns del pod1");
    card.add("pod2", &conf);
    assert_eq!(link_of("pod2", "net1")["parentdev"], card.functions[1].pci);
    for pod in ["pod0", "pod1", "pod2", "pod3", "late"] {
        card.del(pod, if pod == "pod1" { "" } else { "/run/netns/x" }.replace('x', pod).as_str(), &conf);
    }
    card.assert_state(&before, "after all");
    for pod in ["pod0", "pod2", "pod3", "late"] {
        ip(&format!("netns del {pod}"));
    }
}

fn what_a_killed_request_had_is_free(card: &Card) {
    let (before, mut conf) = (card.state(), conf(card));
    // Of several cards, one that is here.
    conf["pf"] = json!(["no-such-card", card.name]);
    // Only one is left.
    for pod in ["a", "b", "c"] {
        ip(&format!("netns add {pod}"));
        card.add(pod, &conf);
    }
    let attached = card.state();
    ip("netns add one");
    // Until it has been killed with a function in its hands: the first call takes as long as its files take to be read.
    let begun = std::time::Instant::now();
    card.add("one", &conf);
    let usual = begun.elapsed();
    card.del("one", &netns("one"), &conf);
    let mut had = 0;
    for part in 1..=8 {
        let begun = std::time::Instant::now();
        let mut child = card.begin("ADD", "one", &conf);
        while begun.elapsed() < usual * part / 8 {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let held = card.left().into_iter().filter(|path| path.contains("/devices/")).count();
        had += held.saturating_sub(3);
        ip("netns del one");
        ip("netns add two");
        card.add("two", &conf);
        assert_eq!(link_of("two", "net1")["parentdev"], card.functions[3].pci, "killed after {part}/8");
        card.del("one", "", &conf);
        card.del("two", &netns("two"), &conf);
        card.assert_state(&attached, &format!("killed after {part}/8"));
        ip("netns del two");
        ip("netns add one");
    }
    assert!(had > 0, "it never had one when it was killed");
    for pod in ["a", "b", "c"] {
        card.del(pod, &netns(pod), &conf);
        ip(&format!("netns del {pod}"));
    }
    card.assert_state(&before, "after all");
    ip("netns del one");
}
