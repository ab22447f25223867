//! Whether a function is what a selector chooses. Pure.

use backends::sysfs::{NetworkFunction, VdpaUse};

use crate::config::devices::{OfCard, Selector, VdpaType};

/// All that the selector says is so.
pub(super) fn chooses(selector: &Selector, function: &NetworkFunction) -> bool {
    let said = |words: &[String], what: Option<&str>| {
        words.is_empty() || what.is_some_and(|what| words.iter().any(|word| word.eq_ignore_ascii_case(what)))
    };
    let of_card = |cards: &[OfCard], name: Option<&str>| {
        cards.is_empty() || name.is_some_and(|name| cards.iter().any(|card| is_of(card, name, function.index)))
    };
    said(&selector.vendors, Some(&function.vendor))
        && said(&selector.devices, Some(&function.device))
        && said(&selector.drivers, function.driver.as_deref())
        && said(&selector.pci_addresses, Some(function.address.as_str()))
        && said(&selector.acpi_indexes, function.acpi_index.as_deref())
        && of_card(&selector.pf_names, function.pf_interface.as_deref())
        && of_card(&selector.root_devices, Some(function.pf.as_str()))
        && said(&selector.link_types, function.link_type.as_deref())
        && (selector.partitions.is_empty() || function.partition.is_some_and(|key| selector.partitions.contains(&key)))
        && (selector.vdpa.is_none() || selector.vdpa == function.vdpa.map(used))
        && (!selector.is_rdma || !function.rdma.is_empty())
}

fn used(usage: VdpaUse) -> VdpaType {
    match usage {
        VdpaUse::Virtio => VdpaType::Virtio,
        VdpaUse::Vhost => VdpaType::Vhost,
    }
}

fn is_of(card: &OfCard, name: &str, index: Option<u32>) -> bool {
    let is_one = |indexes: &Vec<_>| {
        index.is_some_and(|index| indexes.iter().any(|range: &std::ops::RangeInclusive<u32>| range.contains(&index)))
    };
    card.name.eq_ignore_ascii_case(name) && card.indexes.as_ref().is_none_or(is_one)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixture::{card, devices, function};
    use super::*;

    fn chosen(selector: &Value, function: &NetworkFunction) -> bool {
        let devices = devices(&json!([{"resourceName": "r", "selectors": selector}]));
        chooses(&devices.resources[0].selectors[0], function)
    }

    #[test]
    fn each_word_chooses_and_all_must() {
        let mut one = function(3);
        one.acpi_index = Some("101".to_owned());
        (one.partition, one.vdpa) = (Some(0x8001), Some(VdpaUse::Vhost));
        for (yes, no) in [
            (json!({"vendors": ["15b3", "8086"]}), json!({"vendors": ["15b3"]})),
            (json!({"devices": ["10CA"]}), json!({"devices": ["10c9"]})),
            (json!({"drivers": ["igbvf", "vfio-pci"]}), json!({"drivers": ["vfio-pci"]})),
            (json!({"pciAddresses": ["0000:01:10.3"]}), json!({"pciAddresses": ["0000:01:10.2"]})),
            (json!({"acpiIndexes": ["101"]}), json!({"acpiIndexes": ["10"]})),
            (json!({"pfNames": ["eth0"]}), json!({"pfNames": ["eth1"]})),
            (json!({"pfNames": ["eth1", "eth0#0,2-7,9"]}), json!({"pfNames": ["eth0#0,4-7"]})),
            (json!({"rootDevices": ["0000:01:00.0#3"]}), json!({"rootDevices": ["0000:01:00.0#2"]})),
            (json!({"linkTypes": ["ether"]}), json!({"linkTypes": ["infiniband"]})),
            (json!({"pKeys": ["0x1", "0x8001"]}), json!({"pKeys": ["0x1"]})),
            (json!({"vdpaType": "vhost"}), json!({"vdpaType": "virtio"})),
        ] {
            assert!(chosen(&yes, &one) && !chosen(&no, &one), "{yes} {no}");
            let mut both = yes.clone();
            both["vendors"] = json!(["nobody"]);
            assert!(!chosen(&both, &one), "{both}");
        }
        let rdma = json!({"isRdma": true});
        assert!(!chosen(&rdma, &one));
        one.rdma = vec!["mlx5_0".to_owned()];
        assert!(chosen(&rdma, &one));
    }

    #[test]
    fn what_is_not_known_is_not_chosen_by() {
        let away = NetworkFunction { driver: None, link_type: None, pf_interface: None, ..function(0) };
        for selector in [
            json!({"drivers": ["igbvf"]}),
            json!({"linkTypes": ["ether"]}),
            json!({"pfNames": ["eth0"]}),
            json!({"pKeys": ["0x0"]}),
            json!({"vdpaType": "vhost"}),
        ] {
            assert!(!chosen(&selector, &away), "{selector}");
        }
        assert!(chosen(&json!({"rootDevices": ["0000:01:00.0"]}), &away));
        // A card is its own, and none of its functions.
        assert!(
            chosen(&json!({"pfNames": ["eth0"]}), &card(0)) && !chosen(&json!({"pfNames": ["eth0#0-9"]}), &card(0))
        );
    }
}
