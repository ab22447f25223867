//! One module per plugin that is chained: it changes what plugins before it attached. Knows no CNI JSON lists and no results.
//!
//! Each has a `Conf` (as it arrives), which is validated into a `Spec` (nothing looked up), and functions that add, check and
//! remove what the spec says. Adding undoes itself when it fails; removing succeeds whatever is gone.

pub mod bandwidth;
pub mod firewall;
pub mod portmap;
pub mod sbr;
pub mod tuning;
pub mod vrf;

use crate::{Address, Interface, Route};

/// A plugin that is chained and built here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Chained {
    /// Kernel parameters of the pod, and attributes of its link.
    Tuning,
    /// Ports of the host that lead to the pod.
    Portmap,
    /// Limits of the rate of its traffic.
    Bandwidth,
    /// Traffic of the pod passes the host's filter.
    Firewall,
    /// Routing by source address.
    Sbr,
    /// A routing domain of its own.
    Vrf,
}

impl Chained {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Tuning, Self::Portmap, Self::Bandwidth, Self::Firewall, Self::Sbr, Self::Vrf];

    /// The one of this `type`.
    #[must_use]
    pub fn of(plugin_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|chained| chained.name() == plugin_type)
    }

    /// The `type` in a configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tuning => "tuning",
            Self::Portmap => "portmap",
            Self::Bandwidth => "bandwidth",
            Self::Firewall => "firewall",
            Self::Sbr => "sbr",
            Self::Vrf => "vrf",
        }
    }
}

/// What the plugins before it in the chain attached: the result that a chained plugin gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Previous {
    /// In the order of the result.
    pub interfaces: Vec<Interface>,
    /// In the order of the result, each with the position of its interface where the result tells it.
    pub addresses: Vec<(Address, Option<usize>)>,
    /// In the order of the result.
    pub routes: Vec<Route>,
}
