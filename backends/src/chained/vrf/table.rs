//! Which table a new VRF takes. Asks nobody.

use std::collections::BTreeSet;

use crate::netlink::link::Link;
use crate::netlink::rule;
use crate::netlink::whole::Route;

/// Tables of the kernel's own: default, main, local (include/uapi/linux/rtnetlink.h).
const RESERVED: [u32; 3] = [253, 254, 255];

/// The first one that no VRF has, and nobody else uses. `None`: there is none.
pub(super) fn first_free(links: &[Link], rules: &[rule::Present], routes: &[Route]) -> Option<u32> {
    let vrfs = links.iter().filter(|link| link.kind == "vrf").filter_map(|link| link.mode);
    let rules = rules.iter().map(|rule| rule.table);
    let routes = routes.iter().map(|route| route.table);
    let taken: BTreeSet<u32> = vrfs.chain(rules).chain(routes).chain(RESERVED).collect();
    (1..=u32::MAX).find(|table| !taken.contains(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: &str, number: u32) -> Link {
        Link { kind: kind.to_owned(), mode: Some(number), ..Link::default() }
    }

    fn links(tables: impl Iterator<Item = u32>) -> Vec<Link> {
        tables.map(|table| link("vrf", table)).collect()
    }

    #[test]
    fn the_first_hole_is_taken() {
        assert_eq!(first_free(&[], &[], &[]), Some(1));
        assert_eq!(first_free(&links([1, 2, 5].into_iter()), &[], &[]), Some(3));
        assert_eq!(first_free(&[link("vlan", 1)], &[], &[]), Some(1));
    }

    #[test]
    fn the_kernel_s_own_tables_and_those_in_use_are_not_free() {
        assert_eq!(first_free(&links(1..253), &[], &[]), Some(256));
        assert_eq!(first_free(&links(1..1000), &[], &[]), Some(1000));
        let rule = rule::Present { source: None, table: 1, priority: 7, plain: true };
        assert_eq!(first_free(&[], &[rule], &[]), Some(2));
    }
}
