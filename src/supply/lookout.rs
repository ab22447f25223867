//! Keeps looking at the node's cards: makes the functions that they are to have, and tells what there is to offer whenever that has
//! changed. It does not know to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use backends::sriov::{self, Making};
use backends::sysfs::{NetworkFunction, Sysfs};
use backends::{CardNotice, Host, uplinks};

use super::clerk::Clerk;
use super::stock::Stock;
use crate::config::devices::Devices as Wanted;
use crate::devices::{Devices, checkpoint};
use crate::log::{verbose, warn};
use crate::native;

/// How often the cards are looked at without anything that the kernel tells.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Between two looks, for what belongs together to come together: 256 functions come one by one.
const PAUSE: Duration = Duration::from_millis(300);
/// Until a card that could not be given its functions is asked again.
const MAKE_EVERY: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Lookout {
    wanted: Wanted,
    sysfs: Sysfs,
    clerk: Clerk,
    stock: Stock,
    /// What pods had when it was last of interest: at first, and while a device has another driver than it was chosen with.
    given: Option<Devices>,
    made: Option<Instant>,
    /// What stood in the way of functions, when they were last asked for.
    unmade: BTreeSet<String>,
    /// What has been said, and holds.
    said: BTreeSet<String>,
}

impl Lookout {
    /// Who looks for this.
    pub fn new(wanted: Wanted, clerk: Clerk) -> Lookout {
        let (sysfs, stock) = (Sysfs::default(), Stock::default());
        Lookout { wanted, sysfs, clerk, stock, given: None, made: None, unmade: BTreeSet::new(), said: BTreeSet::new() }
    }

    /// One look: what there is to offer, and the interfaces of the cards.
    pub fn look(&mut self) -> (&Stock, Vec<String>) {
        if self.made.is_none_or(|made| made.elapsed() >= MAKE_EVERY) {
            self.unmade = self.make();
            self.made = Some(Instant::now());
        }
        let mut trouble = self.unmade.clone();
        let functions = self.sysfs.network_functions();
        let uplinks = Host::open().and_then(|mut host| uplinks(&mut host)).unwrap_or_else(|e| {
            trouble.insert(format!("which interfaces the node needs is not known: {}", e.chain()));
            // No card is offered itself then; its functions are.
            functions
                .iter()
                .filter(|function| function.index.is_none())
                .flat_map(|card| card.interfaces.clone())
                .collect()
        });
        if self.given.is_none() || self.stock.has_other_drivers(&functions) {
            self.given = self.ask_checkpoint(&mut trouble);
        }
        let now = Stock::of(&self.wanted.resources, &functions, &uplinks, (&self.stock, self.given.as_ref()));
        now.news(&self.stock).iter().for_each(|line| warn(line));
        for shelf in &now.shelves {
            let name = shelf.resource.full_name();
            if self.stock.shelf(&name).is_none_or(|old| old.devices.len() != shelf.devices.len()) {
                verbose(|| format!("{name}: {} devices", shelf.devices.len()));
            }
        }
        trouble.extend(self.clerk.describe_all(&now));
        trouble.difference(&self.said).for_each(|line| warn(&format!("devices: {line}")));
        self.said = trouble;
        self.stock = now;
        (&self.stock, cards(&functions))
    }

    /// A checkpoint that cannot be read now can be with the next allocation.
    fn ask_checkpoint(&self, trouble: &mut BTreeSet<String>) -> Option<Devices> {
        let is_ours = |name: &str| self.wanted.resources.iter().any(|resource| resource.full_name() == name);
        let asked = checkpoint::allotted(&self.wanted.plugin_dir, is_ours);
        asked.map_err(|why| trouble.insert(why)).ok()
    }

    /// What stands in the way of it.
    fn make(&self) -> BTreeSet<String> {
        let mut trouble = BTreeSet::new();
        let mut cards = BTreeMap::new();
        for wanted in &self.wanted.functions {
            let (pf, count) = (&wanted.pf, wanted.count);
            let card = self.sysfs.physical_function_named(pf).map(|card| card.address);
            if let Some(first) = card.and_then(|card| cards.insert(card, pf)) {
                trouble.insert(format!("{first} and {pf} are one card: what is said of {first} counts"));
                continue;
            }
            let making = Host::open().and_then(|mut host| sriov::make_functions(&self.sysfs, &mut host, pf, count));
            match making {
                Ok(Making::Made) => warn(&format!("devices: {pf} has {count} virtual functions now")),
                Ok(Making::There) => {}
                Ok(Making::Others(there)) => {
                    let what = format!("{pf} has {there} virtual functions and is to have {count}");
                    trouble.insert(format!("{what}: a number is not changed while there are some"));
                }
                Err(e) => drop(trouble.insert(native::chain(&e))),
            }
        }
        trouble
    }
}

/// The interfaces whose state is that of devices.
fn cards(functions: &[NetworkFunction]) -> Vec<String> {
    let all: BTreeSet<&String> = functions.iter().filter_map(|function| function.pf_interface.as_ref()).collect();
    all.into_iter().cloned().collect()
}

/// Looks for ever, and tells `publish` what there is to offer, until that says that nobody wants to know it. `every`: how often it looks
/// where the kernel tells of nothing.
pub fn run(mut lookout: Lookout, every: Duration, publish: impl Fn(&Stock) -> bool) {
    // First: what happens during a look is told after it.
    let mut notice = notice();
    loop {
        let (stock, interfaces) = lookout.look();
        if !publish(stock) {
            return;
        }
        let looked = Instant::now();
        let next = looked + every;
        match notice.as_mut().map(|notice| notice.wait(next, &interfaces)) {
            Some(Ok(_)) => {}
            Some(Err(e)) => {
                warn(&format!("what happens to cards is seen only in intervals: {}", e.chain()));
                notice = None;
            }
            None => {
                rest(next);
                notice = self::notice();
            }
        }
        rest(looked + PAUSE);
    }
}

fn notice() -> Option<CardNotice> {
    CardNotice::open().inspect_err(|e| verbose(|| format!("cards are not listened to: {}", e.chain()))).ok()
}

/// Until then; whoever wakes this thread earlier has a look earlier.
fn rest(until: Instant) {
    thread::park_timeout(until.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::config::daemon::DaemonConfig;
    use crate::devices::fixture::Node;

    #[test]
    fn of_a_card_that_is_named_in_two_ways_the_first_number_counts() {
        let node = Node::new("twice", 0);
        let made = node.device("0000:01:00.0").join("sriov_numvfs");
        fs::write(&made, "0\n").unwrap();
        let functions = json!([{"pf": "eth0", "count": 4}, {"pf": "0000:01:00.0", "count": 6}]);
        let text = json!({"devices": {"virtualFunctions": functions}}).to_string();
        let wanted = DaemonConfig::parse(text.as_bytes()).unwrap().devices.unwrap();
        let mut lookout = Lookout::new(wanted, Clerk::new(None));
        lookout.sysfs = Sysfs::at(&node.0.join("sys"));
        let said = ["eth0 and 0000:01:00.0 are one card: what is said of eth0 counts".to_owned()];
        for _ in 0..2 {
            assert_eq!(lookout.make(), said.clone().into());
            assert_eq!(fs::read_to_string(&made).unwrap(), "4\n");
        }
    }
}
