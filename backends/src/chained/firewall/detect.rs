//! Whether the node's rules are of a kind that is not written here, so that the reference plugin has to be executed: firewalld's,
//! or those of legacy x_tables. Changes nothing.

use std::fmt;
use std::fs::File;
use std::io::Read;

use super::bus::{self, Answer, Asked};
use super::conf::Spec;

/// Firewalld's name on D-Bus.
const FIREWALLD: &str = "org.fedoraproject.FirewallD1";
/// The tables of legacy x_tables in the namespace of the calling thread, one name a line.
const LEGACY: [&str; 2] = ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"];

/// Why the reference plugin has to be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It is running, and the configuration does not say iptables.
    Firewalld,
    /// Whether it is running could not be learned: why.
    Unknown(&'static str),
    /// Rules that netlink does not show are in use: this file lists their tables.
    Legacy(&'static str),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Firewalld => f.write_str("firewalld is running"),
            Self::Unknown(why) => write!(f, "whether firewalld is running is not known: {why}"),
            Self::Legacy(file) => {
                let name = file.rsplit('/').next().unwrap_or_default();
                write!(f, "legacy iptables has tables (/proc/net/{name})")
            }
        }
    }
}

/// A question that the bus may answer while the caller does something else.
#[derive(Debug)]
pub struct Question {
    asked: Option<Asked>,
    legacy: Option<&'static str>,
}

impl Question {
    /// Asks: some ten microseconds, without waiting for anybody.
    #[must_use]
    pub fn ask(spec: &Spec) -> Self {
        let asked = spec.prefers_firewalld.then(|| bus::ask(FIREWALLD));
        Self { asked, legacy: LEGACY.into_iter().find(|file| has_tables(file)) }
    }

    /// Waits for the answer, a second at most. Firewalld decides, as in the reference plugin: without a bus it is not running.
    #[must_use]
    pub fn answer(self) -> Option<Reason> {
        match self.asked.map_or(Answer::No, Asked::answer) {
            Answer::Yes => Some(Reason::Firewalld),
            Answer::Unknown(why) => Some(Reason::Unknown(why)),
            Answer::No => self.legacy.map(Reason::Legacy),
        }
    }
}

/// Whether the reference plugin has to be executed, and why.
#[must_use]
pub fn detect(spec: &Spec) -> Option<Reason> {
    Question::ask(spec).answer()
}

/// Whether there is a first byte. A file that is not there or may not be read tells of none.
fn has_tables(file: &str) -> bool {
    let mut first = [0];
    File::open(file).and_then(|mut file| file.read(&mut first)).is_ok_and(|length| length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_told() {
        assert_eq!(Reason::Firewalld.to_string(), "firewalld is running");
        assert_eq!(Reason::Legacy(LEGACY[1]).to_string(), "legacy iptables has tables (/proc/net/ip6_tables_names)");
    }

    #[test]
    fn an_empty_or_missing_file_tells_of_no_table() {
        assert!(!has_tables("/dev/null") && !has_tables("/nowhere") && has_tables("/proc/self/status"));
    }
}
