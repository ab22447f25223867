//! The cards that a configuration names: one, or several in the order in which functions are taken of them. Which there are is not
//! known here.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};

use crate::error::Error;
use crate::host_device;
use crate::sysfs::PciAddress;

/// More cards than any node has.
const CARDS_MAX: usize = 64;

/// `pf` as it arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cards {
    /// A name; an empty one says nothing.
    One(String),
    /// A list of names.
    Several(Vec<String>),
}

impl Default for Cards {
    fn default() -> Self {
        Self::One(String::new())
    }
}

impl Cards {
    /// Their names, each once; none where nothing is said.
    pub(super) fn validate(self) -> Result<Vec<String>, Error> {
        let names = match self {
            Self::One(name) if name.is_empty() => return Ok(Vec::new()),
            Self::One(name) => vec![name],
            Self::Several(names) => names,
        };
        if names.is_empty() || names.len() > CARDS_MAX {
            return Err(Error::invalid(format!("pf names {} cards, and 1 to {CARDS_MAX} are possible", names.len())));
        }
        if names.iter().any(String::is_empty) {
            return Err(Error::invalid("pf names a card with no name"));
        }
        let is_card = |name: &String| host_device::is_possible(name) || name.parse::<PciAddress>().is_ok();
        if let Some(name) = names.iter().find(|name| !is_card(name)) {
            return Err(Error::invalid(format!("pf names {name:?}, which is neither an interface nor a PCI address")));
        }
        let mut seen = BTreeSet::new();
        match names.iter().find(|name| !seen.insert(name.as_str())) {
            Some(twice) => Err(Error::invalid(format!("pf names {twice} twice"))),
            None => Ok(names),
        }
    }
}

impl<'de> Deserialize<'de> for Cards {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Either)
    }
}

/// Takes a text or a list of texts.
struct Either;

impl<'de> Visitor<'de> for Either {
    type Value = Cards;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a card, or a list of names, in pf")
    }

    fn visit_str<E>(self, text: &str) -> Result<Cards, E> {
        Ok(Cards::One(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Cards, E> {
        Ok(Cards::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Cards, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = list.next_element::<String>()? {
            if names.len() > CARDS_MAX {
                return Err(A::Error::custom(format!("pf names more than {CARDS_MAX} cards")));
            }
            names.push(name);
        }
        Ok(Cards::Several(names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cards(text: &str) -> Result<Vec<String>, String> {
        let cards: Cards = serde_json::from_str(text).map_err(|e| e.to_string())?;
        cards.validate().map_err(|e| e.chain())
    }

    #[test]
    fn one_name_and_a_list_are_read() {
        for (text, names) in [
            (r#""eth1""#, vec!["eth1"]),
            (r#"["eth2","0000:01:00.0"]"#, vec!["eth2", "0000:01:00.0"]),
            (r#""0000:0A:00.0""#, vec!["0000:0A:00.0"]),
            (r#""""#, vec![]),
            ("null", vec![]),
        ] {
            assert_eq!(cards(text).unwrap(), names, "{text}");
        }
    }

    #[test]
    fn what_names_no_card_is_refused() {
        let many: Vec<String> = (0..=CARDS_MAX).map(|n| format!("\"eth{n}\"")).collect();
        for (text, part) in [
            ("[]", "pf names 0 cards, and 1 to 64 are possible"),
            (r#"["eth1",""]"#, "pf names a card with no name"),
            (r#"["eth1","eth2","eth1"]"#, "pf names eth1 twice"),
            (r#""../eth0""#, r#"pf names "../eth0", which is neither an interface nor a PCI address"#),
            (r#"["eth1","a23456789012345b"]"#, r#"pf names "a23456789012345b", which"#),
            (r#""0000:01:00.9""#, "which is neither"),
            ("7", "expected the name of a card, or a list of names, in pf"),
            (r#"["eth1",7]"#, "invalid type"),
            (r#"{"a":"b"}"#, "invalid type: map"),
            (&format!("[{}]", many.join(",")), "pf names 65 cards"),
            (&format!("[{}]", [many.join(","), many.join(",")].join(",")), "more than 64 cards"),
        ] {
            let error = cards(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
