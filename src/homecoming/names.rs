//! Names on the host that devices have by their records: a device whose record is lost gets none of them, whatever its pod says.

use std::collections::BTreeSet;
use std::path::Path;

use backends::host_device::Device;

use crate::journal::{Journal, Record, Step};

/// In small letters: nobody tells others apart at a glance.
pub(super) struct Names(Option<BTreeSet<String>>);

impl Names {
    /// Those of all records. Where these cannot be listed, any name may be one.
    pub(super) fn of(state_dir: &Path) -> Names {
        let listing = Journal::new(state_dir).all();
        Names(listing.ok().map(|listing| listing.records.iter().flat_map(of_record).collect()))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|names| names.contains(&name.to_ascii_lowercase()))
    }
}

fn of_record(record: &Record) -> impl Iterator<Item = String> {
    let steps = record.intent.attachments.iter().flat_map(|attachment| &attachment.steps);
    steps.flat_map(of_step).map(|name| name.to_ascii_lowercase())
}

fn of_step(step: &Step) -> impl Iterator<Item = &String> {
    let on_host = step.function.as_ref().and_then(|function| function.interface.as_ref());
    let devices = step.device.iter().chain(on_host.map(|on_host| &on_host.device));
    let names = devices.flat_map(|device: &Device| device.alt_names.iter().flatten().chain([&device.name]));
    names.chain(on_host.into_iter().flat_map(|on_host| &on_host.alt_names))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::journal::RECORDS;

    #[test]
    fn every_name_of_every_record_is_anothers_and_without_records_all_are() {
        let dir = std::env::temp_dir().join(format!("plexus-names-{}", std::process::id()));
        drop(fs::remove_dir_all(&dir));
        fs::create_dir_all(dir.join(RECORDS)).unwrap();
        let settings = json!({"mac": "02:00:00:00:01:00", "vlan": 0, "qos": 0, "proto": 33024, "minRate": 0, "maxRate": 0,
            "spoofCheck": true, "trust": false, "linkState": 0});
        let function = json!({"address": "0000:01:10.0", "pf": "0000:01:00.0", "index": 0, "settings": settings,
            "interface": {"device": {"name": "eth1"}, "ifindex": 4, "mtu": 1500, "altNames": ["enp1s0v0"]}});
        let steps = json!([{"type": "sriov", "native": true, "conf": {}, "function": function},
            {"type": "host-device", "native": true, "conf": {}, "device": {"name": "Uplink", "altNames": ["enp2s0"]}}]);
        let line = json!({"key": {"network": "n", "sandbox": "c", "ifname": "e"}, "bootId": "b", "netns": "", "path": [],
            "attachments": [{"network": "n", "cniName": "n", "cniVersion": "1.0.0", "ifname": "net1", "args": "",
                "default": false, "steps": steps}]});
        fs::write(dir.join(RECORDS).join("n:c:e.jsonl"), format!("{line}\n")).unwrap();
        let names = Names::of(&dir);
        for (name, has) in
            [("eth1", true), ("ETH1", true), ("enp1s0v0", true), ("uplink", true), ("enp2s0", true), ("eth2", false)]
        {
            assert_eq!(names.has(name), has, "{name}");
        }
        fs::remove_dir_all(dir.join(RECORDS)).unwrap();
        assert!(!Names::of(&dir).has("eth1"), "nobody has attached anything");
        fs::write(dir.join(RECORDS), "").unwrap();
        assert!(Names::of(&dir).has("eth2"));
        fs::remove_dir_all(dir).unwrap();
    }
}
