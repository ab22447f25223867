//! Which device is of which resource, and how it is. Pure.
//!
//! The first resource that chooses a device has it. Once it has it, it keeps it for as long as the daemon lives: a device that is given
//! to a pod has another driver or no interface, and would not be chosen any more; one that is gone is offered as ailing, for
//! the kubelet knows it. One that no pod has is looked at again when its driver is another one: it was seen before it was bound.

use std::collections::{BTreeMap, BTreeSet};

use backends::sysfs::{NetworkFunction, PciAddress};

use super::choice::chooses;
use crate::config::devices::{Resource, Selector};
use crate::devices::Devices;

/// More than any node has functions.
pub(super) const DEVICES_MAX: usize = 4096;

/// All resources, in the order of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stock {
    /// One each.
    pub shelves: Vec<Shelf>,
}

/// A resource and its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shelf {
    /// What it is offered as.
    pub resource: Resource,
    /// By address.
    pub devices: BTreeMap<PciAddress, Device>,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The driver that it had when it was chosen.
    pub driver: Option<String>,
    /// The NUMA node it is near, where that is to be told.
    pub numa_node: Option<u32>,
    /// What is wrong with it.
    pub ailment: Option<Ailment>,
    /// What a container gets besides.
    pub besides: Besides,
}

/// What a container of a device gets besides what its driver says, by the selector that chose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Besides {
    /// The files of its RDMA devices.
    pub is_rdma: bool,
    /// The files of vhost-net.
    pub needs_vhost_net: bool,
    /// The file of its vDPA device.
    pub is_vdpa: bool,
}

/// What is wrong with a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ailment {
    /// Its card, by its interface, is down.
    CardDown(String),
    /// It is the node's own: it has the default route, or functions by now.
    Needed,
    /// There is no such device any more.
    Gone,
}

impl std::fmt::Display for Ailment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ailment::CardDown(card) => write!(f, "its card {card} is down"),
            Ailment::Needed => f.write_str("the node needs it itself, for its default route or for its functions"),
            Ailment::Gone => f.write_str("it is gone"),
        }
    }
}

/// What is known of a device that was there before, or of one that is chosen: the resource, and what a container of it gets.
#[derive(Clone, Debug)]
struct Choice {
    position: usize,
    driver: Option<String>,
    besides: Besides,
}

impl Choice {
    fn by(position: usize, selector: &Selector, function: &NetworkFunction) -> Choice {
        let Selector { is_rdma, needs_vhost_net, vdpa, .. } = *selector;
        let besides = Besides { is_rdma, needs_vhost_net, is_vdpa: vdpa.is_some() };
        Choice { position, driver: function.driver.clone(), besides }
    }
}

impl Stock {
    /// What there is now. `uplinks`: interfaces that the node itself needs. `before`: what there was; `given`: what the kubelet gave to
    /// pods, which stays of its resource whatever has become of it; where that is not known, it may have given all of them.
    pub(super) fn of(
        resources: &[Resource],
        functions: &[NetworkFunction],
        uplinks: &[String],
        (before, given): (&Stock, Option<&Devices>),
    ) -> Stock {
        let shelf = |resource: &Resource| Shelf { resource: resource.clone(), devices: BTreeMap::new() };
        let mut stock = Stock { shelves: resources.iter().map(shelf).collect() };
        let mut there = BTreeSet::new();
        for function in functions.iter().take(DEVICES_MAX) {
            there.insert(&function.address);
            let of_given = || given.and_then(|given| of_given(resources, function, given));
            let known = before.find(&function.address).filter(|known| !is_to_be_seen_again(known, function, given));
            let chosen = known.or_else(of_given).or_else(|| chosen(resources, function, uplinks));
            if let Some(Choice { position, driver, besides }) = chosen
                && let Some(shelf) = stock.shelves.get_mut(position)
            {
                let numa_node = function.numa_node.filter(|_| !shelf.resource.exclude_topology);
                let device = Device { numa_node, driver, ailment: ailment(function, uplinks), besides };
                shelf.devices.insert(function.address.clone(), device);
            }
        }
        let mut room = DEVICES_MAX.saturating_sub(stock.shelves.iter().map(|shelf| shelf.devices.len()).sum());
        for (old, shelf) in before.shelves.iter().zip(&mut stock.shelves) {
            for (address, device) in &old.devices {
                if room > 0 && !there.contains(address) {
                    let device = Device { ailment: Some(Ailment::Gone), ..device.clone() };
                    shelf.devices.insert(address.clone(), device);
                    room -= 1;
                }
            }
        }
        stock
    }

    /// Whether a device has another driver than when it was chosen.
    pub(super) fn has_other_drivers(&self, functions: &[NetworkFunction]) -> bool {
        functions
            .iter()
            .any(|function| self.find(&function.address).is_some_and(|known| is_bound_anew(&known, function)))
    }

    /// Whose a device is, and what a container of it gets.
    fn find(&self, address: &PciAddress) -> Option<Choice> {
        let mut all = self.shelves.iter().enumerate();
        all.find_map(|(position, shelf)| {
            let device = shelf.devices.get(address)?;
            let Device { driver, besides, .. } = device.clone();
            Some(Choice { position, driver, besides })
        })
    }

    /// The shelf of a resource, by its whole name.
    pub fn shelf(&self, resource: &str) -> Option<&Shelf> {
        self.shelves.iter().find(|shelf| shelf.resource.full_name() == resource)
    }

    /// What became of devices since `before`, a line each.
    pub(super) fn news(&self, before: &Stock) -> Vec<String> {
        let mut lines = Vec::new();
        for shelf in &self.shelves {
            let (name, old) = (shelf.resource.full_name(), before.shelf(&shelf.resource.full_name()));
            for (address, device) in &shelf.devices {
                let was = old.and_then(|old| old.devices.get(address)).map(|old| old.ailment.as_ref());
                match (was, &device.ailment) {
                    (Some(was), now) if was == now.as_ref() => {}
                    (None, None) => {}
                    (_, Some(ailment)) => lines.push(format!("device {address} of {name} is not healthy: {ailment}")),
                    (Some(_), None) => lines.push(format!("device {address} of {name} is healthy again")),
                }
            }
            for address in old.iter().flat_map(|old| old.devices.keys()).filter(|old| !shelf.devices.contains_key(old))
            {
                let now = self.find(address).and_then(|now| self.shelves.get(now.position));
                let now = now.map_or_else(|| "no resource".to_owned(), |now| now.resource.full_name());
                lines.push(format!("device {address} of {name} is of {now} now: it has another driver"));
            }
        }
        lines
    }
}

fn is_needed(function: &NetworkFunction, uplinks: &[String]) -> bool {
    function.functions > 0 || function.interfaces.iter().any(|interface| uplinks.contains(interface))
}

/// What it was offered as says nothing of what it has become.
fn ailment(function: &NetworkFunction, uplinks: &[String]) -> Option<Ailment> {
    if is_needed(function, uplinks) {
        return Some(Ailment::Needed);
    }
    let is_down = function.index.is_some() && function.is_pf_up == Some(false);
    is_down.then(|| Ailment::CardDown(function.pf_interface.clone().unwrap_or_default()))
}

/// One without a driver is on its way: to another one, or out of the machine.
fn is_bound_anew(known: &Choice, function: &NetworkFunction) -> bool {
    function.driver.is_some() && known.driver != function.driver
}

/// What is bound for a pod is nobody else's.
fn is_to_be_seen_again(known: &Choice, function: &NetworkFunction, given: Option<&Devices>) -> bool {
    is_bound_anew(known, function) && given.is_some_and(|given| given.resource_of(function.address.as_str()).is_none())
}

fn chosen(resources: &[Resource], function: &NetworkFunction, uplinks: &[String]) -> Option<Choice> {
    if is_needed(function, uplinks) {
        return None;
    }
    resources.iter().enumerate().find_map(|(position, resource)| {
        let selector = resource.selectors.iter().find(|selector| chooses(selector, function))?;
        Some(Choice::by(position, selector, function))
    })
}

/// Which of its selectors chose it nobody knows any more: it is of none that others would not have been.
fn of_given(resources: &[Resource], function: &NetworkFunction, given: &Devices) -> Option<Choice> {
    let owner = given.resource_of(function.address.as_str())?;
    let (position, resource) = resources.iter().enumerate().find(|(_, resource)| resource.full_name() == owner)?;
    let selector = resource.selectors.iter().find(|selector| chooses(selector, function));
    selector.or(resource.selectors.first()).map(|selector| Choice::by(position, selector, function))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixture::{card, devices, function};
    use super::*;

    fn resources() -> Vec<Resource> {
        let all = json!([
            {"resourceName": "first", "selectors": [{"pfNames": ["eth0#0"]}, {"pfNames": ["eth0#1"], "needVhostNet": true}]},
            {"resourceName": "rest", "excludeTopology": true, "selectors": {"vendors": ["8086"], "linkTypes": ["ether"]}}]);
        devices(&all).resources
    }

    fn of(functions: &[NetworkFunction], uplinks: &[&str], before: &Stock, given: &Devices) -> Stock {
        let uplinks: Vec<String> = uplinks.iter().map(|name| (*name).to_owned()).collect();
        Stock::of(&resources(), functions, &uplinks, (before, Some(given)))
    }

    fn new(functions: &[NetworkFunction], uplinks: &[&str]) -> Stock {
        of(functions, uplinks, &Stock::default(), &Devices::default())
    }

    /// The devices of each resource, with a sign where one is not healthy.
    fn shown(stock: &Stock) -> [Vec<String>; 2] {
        [0, 1].map(|position| {
            let mark = |device: &Device| if device.ailment.is_some() { "!" } else { "" };
            let all = stock.shelves[position].devices.iter();
            all.map(|(address, device)| format!("{}{}", &address.as_str()[5..], mark(device))).collect()
        })
    }

    #[test]
    fn a_card_that_the_node_needs_by_now_is_not_healthy() {
        let plain = NetworkFunction { functions: 0, ..card(0) };
        let before = new(std::slice::from_ref(&plain), &[]);
        assert_eq!(shown(&before)[1].len(), 1, "nobody needs it yet");
        let name = plain.interfaces.first().cloned().unwrap();
        for (functions, uplinks) in [(2, vec![]), (0, vec![name.as_str()])] {
            let now = of(&[NetworkFunction { functions, ..plain.clone() }], &uplinks, &before, &Devices::default());
            assert!(shown(&now)[1][0].ends_with('!'), "{now:?}");
        }
    }

    #[test]
    fn the_first_that_chooses_has_it() {
        let stock = new(&[card(3), function(0), function(1), function(2)], &[]);
        assert_eq!(shown(&stock), [vec!["01:10.0", "01:10.1"], vec!["01:10.2"]]);
        let device = |shelf: usize, index: u32| stock.shelves[shelf].devices[&function(index).address].clone();
        assert_eq!([device(0, 0).besides.needs_vhost_net, device(0, 1).besides.needs_vhost_net], [false, true]);
        assert_eq!([device(0, 0).numa_node, device(1, 2).numa_node], [Some(1), None]);
    }

    #[test]
    fn what_the_node_needs_and_a_card_with_functions_are_not_offered() {
        assert_eq!(shown(&new(&[card(0)], &[])), [vec![], vec!["01:00.0"]]);
        assert_eq!(shown(&new(&[card(1)], &[])), [vec![""; 0], vec![]]);
        assert_eq!(shown(&new(&[card(0), function(3)], &["eth0", "eth4"])), [vec![""; 0], vec![]]);
    }

    #[test]
    fn what_pods_have_stays_of_its_resource() {
        let before = new(&[function(0), function(2)], &[]);
        let mut away = function(2);
        (away.link_type, away.driver, away.interfaces) = (None, Some("vfio-pci".to_owned()), Vec::new());
        let mut given = Devices::default();
        given.add("a.b/rest", "0000:01:10.2").unwrap();
        given.add("other/rest", "0000:01:10.3").unwrap();
        assert_eq!(shown(&of(&[function(0), away.clone()], &[], &before, &given)), [["01:10.0"], ["01:10.2"]]);
        assert_eq!(shown(&new(&[function(0), away.clone()], &[])), [vec!["01:10.0"], vec![]]);
        let after_restart = of(&[function(0), away.clone()], &[], &Stock::default(), &given);
        assert_eq!(shown(&after_restart), [["01:10.0"], ["01:10.2"]]);
        // Whether a pod has it is not known: it may.
        let unknown = Stock::of(&resources(), &[function(0), away], &[], (&before, None));
        assert_eq!(shown(&unknown), [["01:10.0"], ["01:10.2"]]);
    }

    #[test]
    fn one_that_no_pod_has_is_looked_at_again_when_it_is_bound() {
        let all = json!([{"resourceName": "first", "selectors": {"drivers": ["vfio-pci"]}},
            {"resourceName": "rest", "selectors": {"pfNames": ["eth0"]}}]);
        let (resources, none) = (devices(&all).resources, Devices::default());
        let of = |driver: Option<&str>, before: &Stock, given: &Devices| {
            let function = NetworkFunction { driver: driver.map(str::to_owned), ..function(0) };
            let differs = !before.shelves.is_empty() && driver.is_some();
            assert_eq!(before.has_other_drivers(std::slice::from_ref(&function)), differs);
            Stock::of(&resources, &[function], &[], (before, Some(given)))
        };
        let unbound = of(None, &Stock::default(), &none);
        let bound = of(Some("vfio-pci"), &unbound, &none);
        assert_eq!([&unbound, &bound].map(|stock| shown(stock).map(|shelf| shelf.len())), [[0, 1], [1, 0]]);
        let line = "device 0000:01:10.0 of a.b/rest is of a.b/first now: it has another driver";
        assert_eq!(bound.news(&unbound), [line]);
        assert_eq!(shown(&of(None, &bound, &none)).map(|shelf| shelf.len()), [1, 0], "on its way");
        // Bound for its pod: what it was chosen with is known, and it is no news that it has that again.
        let mut given = Devices::default();
        given.add("a.b/rest", "0000:01:10.0").unwrap();
        let of_pod = of(Some("vfio-pci"), &unbound, &given);
        assert_eq!((&of_pod, of_pod.news(&unbound)), (&unbound, vec![]));
        assert_eq!(of(Some("igbvf"), &of_pod, &none).shelves[1].devices.len(), 1);
    }

    #[test]
    fn a_card_that_is_down_and_a_function_that_is_gone_ail() {
        let before = new(&[function(0), function(2)], &[]);
        let mut down = function(0);
        down.is_pf_up = Some(false);
        let none = Devices::default();
        let after = of(&[down], &[], &before, &none);
        assert_eq!(shown(&after), [["01:10.0!"], ["01:10.2!"]]);
        assert_eq!(
            after.news(&before),
            [
                "device 0000:01:10.0 of a.b/first is not healthy: its card eth0 is down",
                "device 0000:01:10.2 of a.b/rest is not healthy: it is gone"
            ]
        );
        let again = of(&[function(0), function(2)], &[], &after, &none);
        assert_eq!(again, before);
        assert_eq!(again.news(&after).len(), 2);
        assert_eq!((again.news(&again), before.news(&Stock::default())), (vec![], vec![]));
        // A card that is offered itself is down until a pod has it.
        let mut alone = card(0);
        alone.is_pf_up = Some(false);
        assert_eq!(shown(&new(&[alone], &[])), [vec![], vec!["01:00.0"]]);
    }
}
