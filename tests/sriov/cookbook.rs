//! The recipes of docs/cookbook.md that need a card: their definitions, as they stand there, and what the page says a pod gets. The suite runs
//! the others, and plans these.

use std::fs;

use serde_json::{Value, json};

use crate::Case;
use crate::card::{Card, ip, ip_json, link_of, netns};

pub(crate) const CASES: &[Case] = &[("cookbook::definitions_of_virtual_functions", definitions)];

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cookbook.md");

/// What definitions of this kind say, in the page's order.
fn configurations() -> Vec<Value> {
    let page = fs::read_to_string(PAGE).unwrap();
    let texts = page.split("  config: |\n").skip(1).map(|rest| {
        let lines = rest.lines().take_while(|line| line.starts_with("    "));
        lines.collect::<Vec<_>>().join("\n")
    });
    let all = texts.map(|text| serde_json::from_str::<Value>(&text).unwrap());
    all.filter(|conf| conf["type"] == "sriov").collect()
}

/// One for the kernel, one for a program of user space; the device is what a device plugin would have given.
fn definitions(card: &Card) {
    let all = configurations();
    assert_eq!(all.len(), 2, "{all:?}");
    for (index, definition) in all.into_iter().enumerate() {
        ip("netns add one");
        let mut conf = definition.clone();
        conf["name"] = json!(format!("recipe-{index}")); // a pool of its own
        conf["deviceID"] = json!(card.functions[index].pci);
        let result = card.add("one", &conf);
        assert_eq!(result["ips"][0]["address"], "10.2.0.2/24", "{definition}");
        assert_eq!(card.port(index)["vlan_list"][0]["vlan"], definition["vlan"]);
        if definition["driver"] == "vfio-pci" {
            assert_eq!(ip_json("-n one link").as_array().unwrap().len(), 1, "lo alone");
        } else {
            let link = link_of("one", "net1");
            assert!(link["flags"].as_array().unwrap().contains(&json!("UP")), "{link}");
            assert_eq!((&link["mtu"], &card.port(index)["trust"]), (&definition["mtu"], &json!(true)), "{link}");
        }
        let checked = card.check("one", &conf, &result);
        assert!(checked.success, "{}", checked.json);
        card.del("one", &netns("one"), &conf);
        ip("netns del one");
    }
}
