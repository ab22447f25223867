//! Cards with virtual functions: each, some of its functions with driver, IOMMU group and holder, and what is odd. Nothing where there is
//! no such card.

use plexus::cards::{Card, Function};

use super::{Finding, SHOWN_MAX, State, Surroundings};
use crate::cli::devices::{held_by, look};

/// How many functions of a card have a row of their own, on one screen.
const FUNCTIONS_SHOWN: usize = 8;

pub(super) fn findings(around: &Surroundings) -> Vec<Finding> {
    let places = &around.places;
    let cards = match look(&around.sysfs, &places.state_dir, places.on_node) {
        Ok((cards, _)) => cards,
        // That the journal cannot be read is told with the journal.
        Err(e) => return vec![Finding::new("device", "cards", State::Note, format!("not looked at: {e}"))],
    };
    cards.iter().flat_map(of_card).collect()
}

fn of_card(card: &Card) -> Vec<Finding> {
    let name = card.interface.as_deref().unwrap_or(&card.address);
    let mut words = vec![card.address.clone()];
    words.extend(card.driver.clone());
    words.extend(card.numa_node.map(|node| format!("NUMA node {node}")));
    words.push(format!("{} of {} virtual functions", card.functions.len(), card.most));
    words.push(match card.functions.iter().filter(|function| function.is_held()).count() {
        0 => "none held".to_owned(),
        count => format!("{count} held"),
    });
    let unclear = card.functions.iter().filter(|function| !function.is_held() && !function.is_free()).count();
    words.extend((unclear > 0).then(|| format!("{unclear} not known")));
    let mut findings = vec![Finding {
        card: Some(Box::new(card.clone())),
        ..Finding::new("device", name, State::Ok, words.join(", "))
    }];
    // Where there is not room for all, those that are not free are looked for first.
    let mut shown: Vec<&Function> = card.functions.iter().collect();
    if shown.len() > FUNCTIONS_SHOWN {
        shown.sort_by_key(|function| function.is_free());
        shown.truncate(FUNCTIONS_SHOWN);
    }
    findings.extend(shown.into_iter().map(|function| of_function(name, function)));
    let more = card.functions.len().saturating_sub(FUNCTIONS_SHOWN);
    if more > 0 {
        let text = format!("{more} more functions: `plexus list --devices` tells");
        findings.push(Finding::new("device", name, State::Ok, text));
    }
    let odd = card.odd.iter().take(SHOWN_MAX);
    findings.extend(odd.map(|odd| Finding::new("device", name, State::Wrong, &odd.what).mended_by(&odd.remedy)));
    let more = card.odd.len().saturating_sub(SHOWN_MAX);
    if more > 0 {
        let text = format!("{more} more are odd: `plexus list --devices` tells");
        findings.push(Finding::new("device", name, State::Wrong, text));
    }
    findings
}

fn of_function(card: &str, function: &Function) -> Finding {
    let mut words = vec![function.address.clone()];
    words.push(function.driver.clone().unwrap_or_else(|| "no driver".to_owned()));
    words.push(function.iommu_group.map_or("no IOMMU group".to_owned(), |group| format!("IOMMU group {group}")));
    words.push(match (held_by(function), &function.unclear) {
        (_, Some(why)) if !function.is_held() => why.clone(),
        (Some(whom), _) => format!("held by {whom}"),
        (None, _) => "free".to_owned(),
    });
    Finding::new("device", format!("{card} {}", function.index), State::Ok, words.join(", "))
}

#[cfg(test)]
mod tests {
    use backends::sriov::{Process, User};
    use plexus::cards::{Holder, Odd};

    use super::*;

    fn card(functions: u32, held: impl Fn(u32) -> bool) -> Card {
        let function = |index: u32| Function {
            index,
            address: format!("0000:01:10.{index}"),
            driver: Some(if index == 1 { "vfio-pci" } else { "igbvf" }.into()),
            iommu_group: Some(8 + index),
            numa_node: None,
            interface: None,
            holder: held(index).then(|| Holder { pod: format!("demo/p{index}"), ..Holder::default() }),
            user: None,
            unclear: None,
        };
        Card {
            address: "0000:01:00.0".into(),
            interface: Some("eth0".into()),
            is_up: Some(true),
            driver: Some("igb".into()),
            numa_node: Some(1),
            most: 63,
            functions: (0..functions).map(function).collect(),
            odd: Vec::new(),
        }
    }

    #[test]
    fn a_card_and_each_of_its_functions_are_a_row_with_driver_and_group() {
        let mut card = card(3, |index| index == 1);
        card.functions[2] = Function { driver: None, iommu_group: None, ..card.functions[2].clone() };
        let rows: Vec<(String, String)> = of_card(&card).into_iter().map(|row| (row.what, row.detail)).collect();
        let expected = [
            ("eth0", "0000:01:00.0, igb, NUMA node 1, 3 of 63 virtual functions, 1 held"),
            ("eth0 0", "0000:01:10.0, igbvf, IOMMU group 8, free"),
            ("eth0 1", "0000:01:10.1, vfio-pci, IOMMU group 9, held by demo/p1"),
            ("eth0 2", "0000:01:10.2, no driver, no IOMMU group, free"),
        ];
        assert_eq!(rows, expected.map(|(what, detail)| (what.to_owned(), detail.to_owned())));
    }

    #[test]
    fn one_that_a_program_has_and_one_whose_claim_tells_nothing_are_not_free() {
        let mut card = card(3, |_| false);
        let process = Process { id: 12, name: "dpdk-testpmd".into() };
        card.functions[0].user = Some(User { process: Some(process) });
        card.functions[1].user = Some(User { process: None });
        card.functions[2].unclear = Some("claim cannot be read: why".into());
        let rows: Vec<String> = of_card(&card).into_iter().map(|row| row.detail).collect();
        let ends = [
            "2 held, 1 not known",
            ", held by process 12 (dpdk-testpmd)",
            ", held by a program",
            ", claim cannot be read: why",
        ];
        assert!(rows.iter().zip(ends).all(|(row, end)| row.ends_with(end)), "{rows:?}");
    }

    #[test]
    fn a_large_card_fits_one_screen_and_a_program_gets_all_of_it() {
        let found = of_card(&card(40, |index| index % 10 == 9));
        let what: Vec<&str> = found.iter().map(|row| row.what.as_str()).collect();
        let shown = ["eth0 9", "eth0 19", "eth0 29", "eth0 39", "eth0 0", "eth0 1", "eth0 2", "eth0 3"];
        assert_eq!(what, [&["eth0"], shown.as_slice(), &["eth0"]].concat());
        assert_eq!(found[9].detail, "32 more functions: `plexus list --devices` tells");
        let json = serde_json::to_value(&found[0]).unwrap();
        let functions = json["card"]["functions"].as_array().unwrap();
        assert_eq!(functions.len(), 40);
        assert_eq!((&functions[39]["driver"], &functions[39]["iommuGroup"]), (&"igbvf".into(), &47.into()));
        assert_eq!(functions[39]["holder"]["pod"], "demo/p39");
        assert!(serde_json::to_value(&found[1]).unwrap().get("card").is_none());
    }

    #[test]
    fn what_is_odd_is_wrong() {
        let odd = |number: usize| Odd { what: format!("odd {number}"), remedy: "plexus gc".into() };
        let found = of_card(&Card { odd: (0..7).map(odd).collect(), ..card(0, |_| false) });
        assert_eq!(found[0].state, State::Ok);
        assert_eq!(found.iter().filter(|finding| finding.state == State::Wrong).count(), SHOWN_MAX + 1);
        assert_eq!(found.last().unwrap().detail, "2 more are odd: `plexus list --devices` tells");
    }
}
