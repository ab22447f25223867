//! Frames between functions of one card: they reach who is in the same VLAN, and nobody else.

use std::process::Command;

use serde_json::{Value, json};

use crate::Case;
use crate::card::{Card, ip, link_of, netns, until};

pub(crate) const CASES: &[Case] =
    &[("traffic::functions_reach_who_is_in_their_vlan", functions_reach_who_is_in_their_vlan)];

/// Attaches two functions with these VLANs, and says whether the second answers the first.
fn reaches(card: &Card, vlans: [Value; 2]) -> bool {
    let pods = ["one", "two"];
    let confs: Vec<Value> = vlans
        .into_iter()
        .enumerate()
        .map(|(index, vlan)| {
            let mut more = json!({"mac": format!("02:00:00:00:00:1{index}")});
            if !vlan.is_null() {
                more["vlan"] = vlan;
            }
            card.conf(index, more)
        })
        .collect();
    let mut addresses = Vec::new();
    for (pod, conf) in pods.iter().zip(&confs) {
        ip(&format!("netns add {pod}"));
        let result = card.add(pod, conf);
        addresses.push(result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned());
    }
    for pod in pods {
        until("the carrier", || (link_of(pod, "net1")["operstate"] == "UP").then_some(()));
    }
    let ping = ["netns", "exec", "one", "ping", "-c", "5", "-i", "0.3", "-W", "2", "-w", "5", &addresses[1]];
    let answered = Command::new("ip").args(ping).output().unwrap().status.success();
    for (pod, conf) in pods.iter().zip(&confs) {
        card.del(pod, &netns(pod), conf);
        ip(&format!("netns del {pod}"));
    }
    answered
}

fn functions_reach_who_is_in_their_vlan(card: &Card) {
    assert!(reaches(card, [Value::Null, Value::Null]), "no VLAN");
    assert!(reaches(card, [json!(100), json!(100)]), "one VLAN");
    assert!(!reaches(card, [json!(100), json!(200)]), "two VLANs");
    assert!(!reaches(card, [json!(100), json!(0)]), "a VLAN and none");
}
