//! `plexus list --devices`: the node's cards with virtual functions, a function a row, who holds which, and below that what is odd.

use std::io::{self, Write};
use std::path::Path;

use backends::sriov::{User, Users};
use backends::sysfs::Sysfs;
use plexus::alive::{Life, Observer};
use plexus::cards::{self, Books, Card, Function, Holder};
use plexus::homecoming::peer;
use plexus::journal::Journal;

use super::failure::Failure;
use super::list::SANDBOX_CHARS;
use super::output::{Format, Out};
use super::table::{Table, or_none, printable};

/// Lists the cards of the sysfs in `sysfs`.
///
/// # Errors
/// The journal, or a record, cannot be read: then what can be is printed. Something is odd, and was printed.
pub(super) fn run(sysfs: &Path, state_dir: &Path, output: Format, out: &mut Out) -> Result<(), Failure> {
    let (cards, unreadable) = look(sysfs, state_dir, false)?;
    match output {
        Format::Json => out.json(&cards)?,
        Format::Table if cards.is_empty() => {
            let _ = writeln!(io::stderr(), "There is no card with virtual functions (SR-IOV)."); // no headers without rows
        }
        Format::Table => out.text(&render(&cards))?,
    }
    if let Some(why) = unreadable {
        return Err(Failure::Input { act: format!("listing {}", state_dir.display()), why });
    }
    match cards.iter().map(|card| card.odd.len()).sum() {
        0 => Ok(()),
        wrong => Err(Failure::Unwell { wrong }),
    }
}

/// The cards, and which records could not be read. Where there is no card nothing else is looked at.
///
/// # Errors
/// The journal cannot be read.
pub(super) fn look(sysfs: &Path, state_dir: &Path, on_node: bool) -> Result<(Vec<Card>, Option<String>), Failure> {
    let sysfs = Sysfs::at(sysfs);
    if sysfs.physical_functions().is_empty() {
        return Ok((Vec::new(), None));
    }
    let listing = Journal::new(state_dir).all().map_err(|e| Failure::Input {
        act: format!("listing {}", state_dir.display()),
        why: plexus::native::chain(&e),
    })?;
    let unreadable = listing.failure();
    let (peer_dir, users) = (Path::new(peer::PLACE), Users::look());
    let books = Books { state_dir, peer_dir, records: &listing.records, users: &users };
    // Who cannot look knows of no end.
    let observer = Observer::look(on_node).ok();
    let cards = cards::look(&sysfs, &books, &|record| {
        observer.as_ref().map_or(Life::Unclear, |observer| observer.life(record))
    });
    Ok((cards, unreadable))
}

fn render(cards: &[Card]) -> String {
    let mut table =
        Table::new(["CARD", "FUNCTION", "ADDRESS", "DRIVER", "GROUP", "NUMA", "INTERFACE", "HELD BY", "SANDBOX"]);
    for card in cards {
        let name = card.interface.as_deref().unwrap_or(&card.address);
        let number = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
        let down = if card.is_up == Some(false) { " (down)" } else { "" };
        let interface = card.interface.as_ref().map(|name| format!("{name}{down}")).unwrap_or_default();
        let most = format!("{} of {}", card.functions.len(), card.most);
        let driver = card.driver.as_deref().unwrap_or_default();
        let numa = number(card.numa_node);
        table.row([name, &most, &card.address, driver, "", &numa, &interface, "", ""].map(or_none));
        for function in &card.functions {
            let (index, group) = (function.index.to_string(), number(function.iommu_group));
            let (numa, driver) = (number(function.numa_node), function.driver.as_deref().unwrap_or_default());
            let sandbox = function.holder.as_ref().map(|holder| holder.sandbox.as_str()).unwrap_or_default();
            let sandbox: String = sandbox.chars().take(SANDBOX_CHARS).collect();
            let (interface, holder) = (interface_of(function), held_by(function).unwrap_or_default());
            let cells = [name, &index, &function.address, driver, &group, &numa, &interface, &holder, &sandbox];
            table.row(cells.map(or_none));
        }
    }
    let mut text = table.render();
    let mut odd = cards.iter().flat_map(|card| &card.odd).peekable();
    if odd.peek().is_some() {
        text.push('\n');
    }
    for odd in odd {
        let remedy = if odd.remedy.is_empty() { String::new() } else { format!(": {}", odd.remedy) };
        text.push_str(&format!("warning: {}\n", printable(&format!("{}{remedy}", odd.what))));
    }
    text
}

/// Its name where it can be seen; sysfs shows the caller's namespace only.
fn interface_of(function: &Function) -> String {
    match (&function.interface, &function.holder) {
        (Some(name), _) => name.clone(),
        (None, Some(holder)) if function.driver.as_deref() != Some("vfio-pci") && !holder.interface.is_empty() => {
            format!("in pod as {}", holder.interface)
        }
        (None, Some(_)) if function.driver.as_deref() != Some("vfio-pci") => "in pod".to_owned(),
        (None, _) => String::new(),
    }
}

/// Who has a function, as far as that is known; none where it is free.
pub(super) fn held_by(function: &Function) -> Option<String> {
    match (&function.holder, &function.user, &function.unclear) {
        (Some(holder), ..) => Some(whom(holder)),
        (None, Some(User { process: Some(process) }), _) => Some(format!("process {} ({})", process.id, process.name)),
        (None, Some(User { process: None }), _) => Some("a program".to_owned()),
        (None, None, Some(_)) => Some("not known".to_owned()),
        (None, None, None) => None,
    }
}

/// Whom a person would look for.
fn whom(holder: &Holder) -> String {
    match (holder.by_peer, holder.pod.is_empty()) {
        (true, _) => format!("sriov-cni, {}", holder.netns),
        (false, true) => holder.netns.clone(),
        (false, false) => holder.pod.clone(),
    }
}

#[cfg(test)]
mod tests {
    use plexus::cards::Odd;

    use super::*;

    #[test]
    fn a_card_and_its_functions_are_rows_that_line_up_and_what_is_odd_is_below() {
        let function = |index: u32, driver: &str, interface: Option<&str>, holder: Option<Holder>| Function {
            index,
            address: format!("0000:01:10.{index}"),
            driver: Some(driver.into()),
            iommu_group: Some(8 + index),
            numa_node: None,
            interface: interface.map(str::to_owned),
            holder,
            user: None,
            unclear: None,
        };
        let process = backends::sriov::Process { id: 12, name: "dpdk-testpmd".into() };
        let used = Some(User { process: Some(process) });
        let holder = |pod: &str, interface: &str, by_peer: bool| Holder {
            pod: pod.into(),
            sandbox: if by_peer { String::new() } else { "0123456789abcdef".into() },
            netns: "/run/netns/a".into(),
            interface: interface.into(),
            by_peer,
        };
        let card = Card {
            address: "0000:01:00.0".into(),
            interface: Some("eth0".into()),
            is_up: Some(false),
            driver: Some("igb".into()),
            numa_node: Some(1),
            most: 7,
            functions: vec![
                function(0, "igbvf", None, Some(holder("demo/web", "net1", false))),
                function(1, "vfio-pci", None, Some(holder("demo/dpdk", "net1", false))),
                function(2, "igbvf", None, Some(holder("", "", true))),
                function(3, "igbvf", Some("eth4"), None),
                Function { user: used, ..function(4, "vfio-pci", None, None) },
                Function { unclear: Some("why".into()), ..function(5, "igbvf", Some("eth6"), None) },
            ],
            odd: vec![Odd { what: "eth0 is down".into(), remedy: "ip link set eth0 up".into() }],
        };
        let expected = "\
CARD   FUNCTION   ADDRESS        DRIVER     GROUP    NUMA     INTERFACE        HELD BY                     SANDBOX
eth0   6 of 7     0000:01:00.0   igb        <none>   1        eth0 (down)      <none>                      <none>
eth0   0          0000:01:10.0   igbvf      8        <none>   in pod as net1   demo/web                    0123456789ab
eth0   1          0000:01:10.1   vfio-pci   9        <none>   <none>           demo/dpdk                   0123456789ab
eth0   2          0000:01:10.2   igbvf      10       <none>   in pod           sriov-cni, /run/netns/a     <none>
eth0   3          0000:01:10.3   igbvf      11       <none>   eth4             <none>                      <none>
eth0   4          0000:01:10.4   vfio-pci   12       <none>   <none>           process 12 (dpdk-testpmd)   <none>
eth0   5          0000:01:10.5   igbvf      13       <none>   eth6             not known                   <none>

warning: eth0 is down: ip link set eth0 up
";
        assert_eq!(render(&[card]), expected);
    }

    #[test]
    fn a_node_without_a_card_has_nothing_to_show() {
        let nowhere = Path::new("/proc/self/no-such-place");
        let (cards, unreadable) = look(nowhere, nowhere, false).unwrap();
        assert_eq!((cards.len(), unreadable), (0, None));
    }
}
