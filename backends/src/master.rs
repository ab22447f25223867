//! The lower device of macvlan and ipvlan: by its name, or the one that the default route leaves by. Read only. Knows no kind.

use crate::error::{Error, ErrorKind};
use crate::netlink::link::Link;
use crate::netlink::route::{self, MAIN_TABLE, Present};
use crate::pod::Side;

/// What ran before a plugin in its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before<'a> {
    /// Nothing.
    Nothing,
    /// Plugins whose result is not there yet.
    Awaited,
    /// Plugins whose result has interfaces of these names.
    Result(&'a [String]),
}

/// Finds the lower device on `side`.
///
/// # Errors
/// [`ErrorKind::LinkMissing`] if there is none of this name, or no default route.
pub(crate) fn find(side: &mut Side, name: Option<&str>) -> Result<Link, Error> {
    if let Some(name) = name {
        return side.link(name)?.ok_or_else(|| {
            Error::at(ErrorKind::LinkMissing, "failed to lookup master", format!("\"{name}\""))
                .because_of("Link not found")
        });
    }
    for v6 in [false, true] {
        let index = routes(side, v6, Some(MAIN_TABLE))?.into_iter().find(is_default).map(|route| route.index);
        if let Some(index) = index
            && let Some(link) = side.link_at(index)?
        {
            return Ok(link);
        }
    }
    Err(Error::new(ErrorKind::LinkMissing, "no default route interface found"))
}

/// Whether the route is the default of its family.
pub(crate) fn is_default(route: &Present) -> bool {
    route.dst.prefix() == 0
}

/// The unicast routes of one family, in one table or in all.
pub(crate) fn routes(side: &mut Side, v6: bool, table: Option<u32>) -> Result<Vec<Present>, Error> {
    let listed = side.socket.dump(&route::of_family(v6, table), |payload| route::parse(payload).map(Some));
    let listed = match listed {
        // A table exists only once something was added to it.
        Err(failure) if failure.errno() == Some(nix::errno::Errno::ENOENT) => Vec::new(),
        listed => listed.map_err(|e| Error::kernel("list", if v6 { "IPv6 routes" } else { "IPv4 routes" }, e))?,
    };
    // A kernel without strict checking answers with all tables.
    Ok(listed.into_iter().flatten().filter(|route| table.is_none_or(|table| table == route.table)).collect())
}

/// The MTU to create with: none given (zero) is the kernel's choice, the master's own.
///
/// # Errors
/// [`ErrorKind::Invalid`] beyond the master's, with the reference plugins' text.
pub(crate) fn mtu(wanted: i64, master: &Link) -> Result<Option<u32>, Error> {
    match u32::try_from(wanted) {
        Ok(mtu) if mtu <= master.mtu => Ok(Some(mtu).filter(|mtu| *mtu > 0)),
        _ => Err(Error::invalid(format!("invalid MTU {wanted}, must be [0, master MTU({})]", master.mtu))),
    }
}
