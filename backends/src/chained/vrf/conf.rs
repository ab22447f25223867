//! What the configuration of a VRF says. Looks nothing up.

use serde::Deserialize;

use crate::error::Error;

/// The configuration as it arrives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename = "VRFNetConf", default)]
pub struct Conf {
    /// The VRF's name.
    #[serde(rename = "vrfname")]
    pub name: Option<String>,
    /// Its table. Zero: the first free one, or that of the VRF that is there.
    pub table: u32,
}

/// A configuration that can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub(super) name: String,
    pub(super) table: Option<u32>,
}

impl Conf {
    /// Parses the configuration.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with the reference plugin's text.
    pub fn validate(self) -> Result<Spec, Error> {
        let name = self.name.filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Error::invalid("configuration is expected to have a valid vrf name"))?;
        Ok(Spec { name, table: Some(self.table).filter(|table| *table > 0) })
    }
}

impl Spec {
    /// The VRF.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_needed_and_no_table() {
        for name in [None, Some(String::new())] {
            let error = Conf { name, table: 1 }.validate().unwrap_err();
            assert_eq!(error.chain(), "configuration is expected to have a valid vrf name");
        }
        let spec = Conf { name: Some("blue".to_owned()), table: 0 }.validate().unwrap();
        assert_eq!(spec, Spec { name: "blue".to_owned(), table: None });
    }
}
