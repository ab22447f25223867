//! The kernel, the privileges, the directories, and the plugins' binaries.

use std::fs;
use std::path::Path;

use backends::{Host, Kind, filters_vlans, nft, supports};
use plexus::{native, readiness};

use super::{Finding, State, Surroundings};

/// `CAP_NET_ADMIN` and `CAP_SYS_ADMIN` (include/uapi/linux/capability.h).
const CAPABILITIES: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];
/// Programs of this project in a directory of plugins begin so.
const OWN: &str = "plexus-cni";

pub(super) fn findings(around: &Surroundings) -> Vec<Finding> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut findings = vec![Finding::new("node", "kernel", State::Ok, release.trim())];
    findings.push(privileges(&fs::read_to_string("/proc/self/status").unwrap_or_default()));
    for dir in std::iter::once(&around.places.state_dir).chain(&around.places.data_dirs) {
        let what = dir.display().to_string();
        findings.push(match readiness::writable("the directory", dir) {
            Ok(()) => Finding::new("node", what, State::Ok, "can be written"),
            Err(e) => Finding::new("node", what, State::Wrong, e.msg),
        });
    }
    findings.extend(kinds());
    findings.extend(plugins(&around.bin_dir));
    findings
}

/// From the lines of /proc/self/status (proc(5)).
fn privileges(status: &str) -> Finding {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or_default();
    let missing: Vec<&str> =
        CAPABILITIES.iter().filter(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| *name).collect();
    match missing.as_slice() {
        [] => Finding::new("node", "privileges", State::Ok, CAPABILITIES.map(|(_, name)| name).join(", ")),
        some => Finding::new("node", "privileges", State::Wrong, format!("missing: {}", some.join(", ")))
            .mended_by("run plexus as root, as the runtime does"),
    }
}

fn kinds() -> Vec<Finding> {
    let mut host = match Host::open() {
        Ok(host) => host,
        Err(e) => return vec![Finding::new("kind", "all", State::Wrong, native::chain(&e))],
    };
    let lacks = "is not in this kernel: pods that ask for it will fail";
    let found = |what: &str, answer: Result<bool, backends::Error>, lacks: &str| match answer {
        Ok(true) => Finding::new("kind", what, State::Ok, "built in process"),
        Ok(false) => Finding::new("kind", what, State::Note, lacks),
        Err(e) => Finding::new("kind", what, State::Note, format!("not found out: {}", native::chain(&e))),
    };
    let mut findings: Vec<Finding> =
        Kind::ALL.into_iter().map(|kind| found(kind.name(), supports(&mut host, kind), lacks)).collect();
    let vlans = "is not in this kernel: `vlan` and `vlanTrunk` of bridge will fail";
    findings.push(found("bridge with VLANs", filters_vlans(), vlans));
    let rules = "is not in this kernel (nf_tables): ipMasq and macspoofchk will fail";
    findings.push(found("nftables", nft::supported(), rules));
    findings
}

/// Who is executed under the name of each kind, and of the IPAM plugins that plexus is too.
fn plugins(dir: &Path) -> Vec<Finding> {
    let names = Kind::ALL.iter().map(|kind| kind.name()).chain(["host-local", "static"]);
    let [mut own, mut others, mut missing] = [const { Vec::new() }; 3];
    for name in names {
        match fs::canonicalize(dir.join(name)) {
            Err(_) => missing.push(name),
            Ok(path) if is_own(&path) => own.push(name),
            Ok(_) => others.push(name),
        }
    }
    let rows = [(own, "are plexus"), (others, "are other programs"), (missing, "are not there")];
    let rows = rows.into_iter().filter(|(names, _)| !names.is_empty());
    let place = dir.display();
    rows.map(|(names, are)| Finding::new("plugin", format!("{place}: {are}"), State::Ok, names.join(", "))).collect()
}

fn is_own(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(OWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_are_two_bits() {
        let state = |digits: &str| privileges(&format!("Name:\tx\nCapEff:\t{digits}\n"));
        assert_eq!(state("000001ffffffffff").state, State::Ok);
        assert_eq!(state("0000000000001000").detail, "missing: CAP_SYS_ADMIN");
        assert_eq!(privileges("").detail, "missing: CAP_NET_ADMIN, CAP_SYS_ADMIN");
    }

    #[test]
    fn a_link_to_plexus_is_plexus() {
        let dir = std::env::temp_dir().join(format!("plexus-doctor-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("plexus-cni"), "").unwrap();
        std::os::unix::fs::symlink("plexus-cni", dir.join("bridge")).unwrap();
        fs::write(dir.join("ptp"), "").unwrap();
        let found = plugins(&dir);
        fs::remove_dir_all(&dir).unwrap();
        let rows: Vec<&str> = found.iter().map(|row| row.detail.as_str()).collect();
        assert_eq!(rows[..2], ["bridge", "ptp"]);
        assert!(rows[2].starts_with("loopback, macvlan"), "{rows:?}");
    }
}
