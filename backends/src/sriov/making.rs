//! Virtual functions of a card are made, where it has none. A number is never changed: functions that are there may be somebody's.

use crate::error::{Error, ErrorKind};
use crate::netlink::link;
use crate::pod::Host;
use crate::sysfs::Sysfs;

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Making {
    /// They were made.
    Made,
    /// There were as many.
    There,
    /// There are others, and so they stay.
    Others(u32),
}

/// Has a card have so many functions; it is set up first: a function whose card is down has no address that the card knows. `card`: its
/// interface's name, or its address.
///
/// # Errors
/// [`ErrorKind::LinkMissing`] where there is no such card; [`ErrorKind::Invalid`] where it cannot have so many; those of the kernel.
pub fn make_functions(sysfs: &Sysfs, host: &mut Host, card: &str, count: u32) -> Result<Making, Error> {
    let pf = sysfs.physical_function_named(card);
    let pf = pf.ok_or_else(|| {
        Error::new(ErrorKind::LinkMissing, format!("{card} is no card that can have virtual functions (SR-IOV) here"))
    })?;
    match sysfs.functions_made(&pf.address).unwrap_or_default() {
        0 => {}
        made if made == count => return Ok(Making::There),
        made => return Ok(Making::Others(made)),
    }
    if count > pf.most {
        return Err(Error::invalid(format!("{card} can have {} virtual functions, not {count}", pf.most)));
    }
    if let Some(name) = &pf.interface
        && pf.is_up == Some(false)
    {
        let found = host.side.link(name)?;
        let found = found.ok_or_else(|| Error::at(ErrorKind::LinkMissing, "set up the card", name.clone()))?;
        host.side
            .apply(link::set_up(found.index, true))
            .map_err(|e| Error::kernel("set up the card", name.clone(), e))?;
    }
    let made = sysfs.make_functions(&pf.address, count);
    made.map_err(|e| {
        Error::at(ErrorKind::Refused, "make virtual functions of", format!("{card} ({})", pf.address)).because(e)
    })?;
    Ok(Making::Made)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sysfs::tests::Tree;

    #[test]
    fn a_number_is_never_changed() {
        let tree = Tree::new("making").with_functions(0);
        let pf = tree.0.join("bus/pci/devices/0000:01:00.0");
        let (sysfs, mut host) = (tree.sysfs(), Host::open().unwrap());
        let none = make_functions(&sysfs, &mut host, "eth0", 4).unwrap_err();
        assert_eq!(none.chain(), "eth0 is no card that can have virtual functions (SR-IOV) here");
        fs::write(pf.join("sriov_totalvfs"), "7\n").unwrap();
        fs::write(pf.join("net/eth0/flags"), "0x1003\n").unwrap();
        let number = |count: &str| fs::write(pf.join("sriov_numvfs"), count).unwrap();
        number("0\n");
        assert_eq!(make_functions(&sysfs, &mut host, "0000:01:00.0", 4).unwrap(), Making::Made);
        assert_eq!(fs::read_to_string(pf.join("sriov_numvfs")).unwrap(), "4\n");
        assert_eq!(make_functions(&sysfs, &mut host, "eth0", 4).unwrap(), Making::There);
        assert_eq!(make_functions(&sysfs, &mut host, "eth0", 7).unwrap(), Making::Others(4));
        assert_eq!(fs::read_to_string(pf.join("sriov_numvfs")).unwrap(), "4\n");
        number("0\n");
        let many = make_functions(&sysfs, &mut host, "eth0", 8).unwrap_err();
        assert_eq!(
            (many.kind(), many.chain().as_str()),
            (ErrorKind::Invalid, "eth0 can have 7 virtual functions, not 8")
        );
    }
}
