//! Kernel parameters of the pod's namespace and attributes of its link, put back when the attachment ends. What they were is
//! looked up first ([`look`]), kept where DEL finds it (the caller's journal, and the reference plugin's backup), and only then changed
//! ([`add`]). Knows no result beyond the hardware address in it.

mod add;
mod allow;
mod backup;
mod check;
mod conf;
mod duplicate;
mod key;
mod listing;
mod look;
mod original;
mod parameter;
mod remove;
mod value;

pub use add::{Gained, add};
pub use allow::{ALLOW_LIST, AllowList};
pub use check::{check, parameters};
pub use conf::{Args, Asked, Conf, Overrides, Runtime, Spec};
pub use duplicate::refuse_duplicates;
pub use listing::{Backup, backups};
pub use look::{Looked, look};
pub use original::Original;
pub use remove::remove;
