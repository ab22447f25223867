//! The messages of other programs' interfaces, as far as plexus reads them.

pub(super) mod deviceplugin;
pub(super) mod podresources;
