//! Cards with virtual functions: how many each has, who holds some of them, and what is odd. Nothing where there is no such card.

use plexus::cards::Card;

use super::{Finding, SHOWN_MAX, State, Surroundings};
use crate::cli::devices::{look, whom};

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
    let held: Vec<_> =
        card.functions.iter().filter_map(|function| Some((function, function.holder.as_ref()?))).collect();
    words.push(match held.len() {
        0 => "none held".to_owned(),
        count => {
            let by =
                held.iter().take(SHOWN_MAX).map(|(function, holder)| format!("{} by {}", function.index, whom(holder)));
            let more = if count > SHOWN_MAX { ", ..." } else { "" };
            format!("{count} held ({}{more}; `plexus list --devices`)", by.collect::<Vec<_>>().join(", "))
        }
    });
    let mut findings = vec![Finding::new("device", name, State::Ok, words.join(", "))];
    let odd = card.odd.iter().take(SHOWN_MAX);
    findings.extend(odd.map(|odd| Finding::new("device", name, State::Wrong, &odd.what).mended_by(&odd.remedy)));
    let more = card.odd.len().saturating_sub(SHOWN_MAX);
    if more > 0 {
        let text = format!("{more} more are odd: `plexus list --devices` tells");
        findings.push(Finding::new("device", name, State::Wrong, text));
    }
    findings
}

#[cfg(test)]
mod tests {
    use plexus::cards::{Function, Holder, Odd};

    use super::*;

    #[test]
    fn a_card_is_a_row_and_what_is_odd_is_wrong() {
        let function = |index: u32| Function {
            index,
            address: format!("0000:01:10.{index}"),
            driver: None,
            iommu_group: None,
            numa_node: None,
            interface: None,
            holder: Some(Holder { pod: format!("demo/p{index}"), ..Holder::default() }),
        };
        let odd = |number: usize| Odd { what: format!("odd {number}"), remedy: "plexus gc".into() };
        let card = Card {
            address: "0000:01:00.0".into(),
            interface: Some("eth0".into()),
            is_up: Some(true),
            driver: Some("igb".into()),
            numa_node: Some(1),
            most: 7,
            functions: (0..6).map(function).collect(),
            odd: (0..7).map(odd).collect(),
        };
        let found = of_card(&card);
        let first = "0000:01:00.0, igb, NUMA node 1, 6 of 7 virtual functions, 6 held (0 by demo/p0, 1 by demo/p1, 2 by demo/p2, \
                     3 by demo/p3, 4 by demo/p4, ...; `plexus list --devices`)";
        assert_eq!((found[0].detail.as_str(), found[0].state), (first, State::Ok));
        assert_eq!(found.iter().filter(|finding| finding.state == State::Wrong).count(), SHOWN_MAX + 1);
        assert_eq!(found[6].detail, "2 more are odd: `plexus list --devices` tells");
    }
}
