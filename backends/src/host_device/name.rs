//! Names that a device comes back to the host with. What its pod says of them the pod has chosen: whoever may change a link there writes its
//! alias, its name and its alternative names.

use std::iter;

use crate::error::{Error, ErrorKind};
use crate::netlink::alt_name;
use crate::netlink::link::{Link, NAME_BYTES_MAX};
use crate::pod::Side;

/// How many names are tried where a device cannot have its own: no card has as many functions.
const NAMES_MAX: u32 = 4096;
/// Before a number, the name of a device that can have no other (net/core/dev.c, `default_device_exit_net`).
const NEUTRAL: &str = "dev";
/// How names begin that the kernel and udev give interfaces of cards (systemd.net-naming-scheme(7)).
const CARDS: [&str; 3] = ["eth", "en", "ib"];

/// Whether the kernel lets a link have a name (net/core/dev.c, `dev_valid_name`).
pub(crate) fn is_possible(name: &str) -> bool {
    let is_possible = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name != "." && name != ".." && name.chars().all(is_possible)
}

/// Whether a name is possible and looks like nothing else: it has visible ASCII characters alone, and is no pattern of which the kernel makes
/// a name, nor an option.
pub(crate) fn is_plain(name: &str) -> bool {
    is_possible(name) && looks_plain(name)
}

/// The same of an alternative name, which may be longer, and which the kernel takes of any characters.
pub(crate) fn is_plain_alternative(name: &str) -> bool {
    name != "." && name != ".." && looks_plain(name)
}

fn looks_plain(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_graphic() && !['%', '/', ':'].contains(&c);
    !name.is_empty() && !name.starts_with('-') && name.chars().all(is_plain)
}

/// Whether a name is one that interfaces of cards get: nobody makes a bridge or a tunnel of that name, and finds it taken.
pub(crate) fn is_of_card(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let has_more = |begin: &str| name.strip_prefix(begin).is_some_and(|more| !more.is_empty());
    name.len() <= NAME_BYTES_MAX && name.chars().all(is_plain) && CARDS.into_iter().any(has_more)
}

/// Whether a name is as [`free`] makes them.
pub(crate) fn is_neutral(name: &str) -> bool {
    name.strip_prefix(NEUTRAL).is_some_and(|number| number.parse::<u32>().is_ok())
}

/// A name that no link has, as the kernel makes one for a device whose namespace is gone.
pub(crate) fn free(side: &mut Side, ifindex: u32) -> Result<String, Error> {
    for number in iter::once(ifindex).chain(0..NAMES_MAX) {
        let name = format!("{NEUTRAL}{number}");
        if side.link(&name)?.is_none() {
            return Ok(name);
        }
    }
    Err(Error::new(ErrorKind::NameTaken, format!("of {NEUTRAL}0 to {NEUTRAL}{NAMES_MAX} no name is free")))
}

/// Takes from a link the alternative names that it is not to have. They go with it to the host otherwise, where nobody else can have them then; and
/// with one that is taken there it cannot go. Those that are no text nobody has noted.
pub(crate) fn strip(side: &mut Side, link: &Link, keeps: impl Fn(&str) -> bool) -> Result<(), Error> {
    let others = link.alt_names.iter().filter(|name| !keeps(name)).map(String::as_bytes);
    let mut all = others.chain(link.unreadable_names.iter().map(Vec::as_slice));
    all.try_for_each(|name| {
        let removed = side.apply(alt_name::remove(link.index, name));
        removed.map_err(|e| Error::kernel("remove alternative name", String::from_utf8_lossy(name).into_owned(), e))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_name_is_what_a_link_can_have_and_what_it_looks_like() {
        for (name, can) in [
            ("eth1", true),
            ("a234567890123456", false),
            ("a23456789012345", true),
            ("", false),
            ("..", false),
            ("a/b", false),
            ("a b", false),
            ("a:b", false),
            ("eth%d", false),
            ("-eth0", false),
            ("eth\u{3bf}", false),
            ("e\u{200b}th0", false),
        ] {
            assert_eq!(is_plain(name), can, "{name}");
        }
    }

    #[test]
    fn a_card_has_no_bridges_name() {
        for (name, is) in [
            ("eth0", true),
            ("ens1f0v3", true),
            ("enp129s0f0np0v", true),
            ("ibs5f1v0", true),
            ("ib0", true),
            ("eth", false),
            ("ETH0", false),
            ("eth0.5", false),
            ("docker0", false),
            ("cni0", false),
            ("lo", false),
            ("enp129s0f0np0v10", false),
        ] {
            assert_eq!(is_of_card(name), is, "{name}");
        }
        assert!(is_neutral("dev12") && !is_neutral("dev") && !is_neutral("devil0") && !is_neutral("eth0"));
    }
}
