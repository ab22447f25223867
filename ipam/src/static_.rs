//! static: the addresses of the configuration, or of the call in their place. Keeps no state and touches no file.
//! Knows no CNI results.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Deserialize;

use crate::gotext::{Cidr, optional_ip};
use crate::{Address, Allocation, Dns, Error, ErrorKind, Route};

/// The `ipam` object of a static configuration, its own keys only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "IPAMConfig", rename_all = "camelCase", default)]
pub struct Section {
    /// The addresses, unless the call brings its own.
    pub addresses: Vec<AddressSection>,
    /// Handed on.
    pub routes: Vec<Route>,
    /// Handed on.
    pub dns: Dns,
}

/// A configured address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "Address", rename_all = "camelCase", default)]
pub struct AddressSection {
    /// In CIDR notation. Text, because it is looked at only where nothing replaces it.
    pub address: String,
    /// The gateway, if there is one.
    #[serde(deserialize_with = "optional_ip")]
    pub gateway: Option<IpAddr>,
}

/// What one call asks for beyond the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StaticRequests {
    /// CNI_ARGS `IP`: CIDRs joined by commas, added to the configured addresses.
    pub cni_args_ip: Option<String>,
    /// CNI_ARGS `GATEWAY`: addresses joined by commas, for those addresses of CNI_ARGS in whose subnet they are. Not
    /// for the configured ones, which is what the Go plugin does.
    pub cni_args_gateway: Option<String>,
    /// `args.cni.ips`: CIDRs in place of all of these.
    pub args_ips: Vec<String>,
    /// Capability `ips`: CIDRs in place of everything.
    pub runtime_ips: Vec<String>,
    /// The configuration's version where that is below 0.3.0 and allows one address of each family.
    pub one_per_family: Option<String>,
}

/// A validated static configuration for one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Static {
    allocation: Allocation,
}

impl Static {
    /// Validates configuration and requests together. No address at all is allowed.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] with the Go plugin's text.
    pub fn new(section: Section, requests: &StaticRequests) -> Result<Self, Error> {
        let addresses = addresses(&section.addresses, requests)
            .map_err(|text| Error::refused(ErrorKind::InvalidConfig, "reading the configuration of", "static", text))?;
        Ok(Self { allocation: Allocation { addresses, routes: section.routes, dns: section.dns } })
    }

    /// What the interface gets.
    #[must_use]
    pub fn allocation(&self) -> Allocation {
        self.allocation.clone()
    }

    /// Compares gateways with an earlier result: an address that is missing there passes, as in the Go plugin, for
    /// whoever configures the interface checks that.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] with the Go plugin's text.
    pub fn check(&self, earlier: &[Address], ifname: &str) -> Result<(), Error> {
        for own in &self.allocation.addresses {
            let same = |other: &&Address| canonical(other.address.ip()) == canonical(own.address.ip());
            let Some(found) = earlier.iter().find(same) else { continue };
            if own.gateway.is_some() && own.gateway.map(canonical) != found.gateway.map(canonical) {
                let text =
                    format!("static: Failed to match addr {} on interface {ifname}", canonical(found.address.ip()));
                return Err(Error::refused(ErrorKind::Mismatch, "checking", ifname, text));
            }
        }
        Ok(())
    }
}

fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// The addresses of one call: runtime before arguments before CNI_ARGS and configuration.
fn addresses(configured: &[AddressSection], requests: &StaticRequests) -> Result<Vec<Address>, String> {
    // Every source is looked at, also one that another replaces: the Go plugin refuses what is wrong in any of them.
    let cni_args = from_cni_args(requests)?;
    let args = in_place(&requests.args_ips)?;
    let runtime = in_place(&requests.runtime_ips)?;
    let addresses = match (runtime, args) {
        (Some(runtime), _) => runtime,
        (None, Some(args)) => args,
        (None, None) => {
            let configured = configured.iter().map(from_section).collect::<Result<Vec<_>, _>>()?;
            configured.into_iter().chain(cni_args).collect()
        }
    };
    let v4 = addresses.iter().filter(|address| address.address.is_ipv4()).count();
    match requests.one_per_family.as_deref() {
        Some(version) if v4 > 1 || addresses.len() - v4 > 1 => {
            Err(format!("CNI version {version} does not support more than 1 address per family"))
        }
        _ => Ok(addresses),
    }
}

fn from_section(section: &AddressSection) -> Result<Address, String> {
    let text = &section.address;
    let cidr = Cidr::parse(text)
        .ok_or_else(|| format!("the 'address' field is expected to be in CIDR notation, got: '{text}'"))?;
    Ok(Address { address: cidr.network(), gateway: section.gateway.map(canonical) })
}

fn from_cni_args(requests: &StaticRequests) -> Result<Vec<Address>, String> {
    let list = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let mut addresses = Vec::new();
    for item in list(&requests.cni_args_ip).iter().flat_map(|text| text.split(',')) {
        let item = item.trim();
        let cidr = Cidr::parse(item)
            .ok_or_else(|| format!("the 'ip' field is expected to be in CIDR notation, got: '{item}'"))?;
        addresses.push(Address { address: cidr.network(), gateway: None });
    }
    for item in list(&requests.cni_args_gateway).iter().flat_map(|text| text.split(',')) {
        let gateway: IpAddr = item.trim().parse().map_err(|_| format!("invalid gateway address: {item}"))?;
        let gateway = canonical(gateway);
        for address in addresses.iter_mut().filter(|address| contains(address.address, gateway)) {
            address.gateway = Some(gateway);
        }
    }
    Ok(addresses)
}

fn contains(network: IpNetwork, ip: IpAddr) -> bool {
    network.is_ipv4() == ip.is_ipv4() && network.contains(ip)
}

/// A list in place of every source below it; `None` if it is empty.
fn in_place(items: &[String]) -> Result<Option<Vec<Address>>, String> {
    let read = |item: &String| {
        let cidr = Cidr::parse(item)
            .ok_or_else(|| format!("an entry in the 'ips' field is NOT in CIDR notation, got: '{item}'"))?;
        Ok(Address { address: cidr.network(), gateway: None })
    };
    let addresses = items.iter().map(read).collect::<Result<Vec<_>, String>>()?;
    Ok((!addresses.is_empty()).then_some(addresses))
}

#[cfg(test)]
mod tests;
