//! What a case needs of the machine, found out by trying. It does not know the cases.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::Duration;

use crate::kube::server;
use crate::testbed::Testbed;
use crate::{call, process, world};

/// Something that not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Namespaces for an ordinary user, or root's; needed by every case.
    Namespaces,
    /// The Go plugins, built by `tests/peers/build`.
    Peers,
    /// The Go Multus, built by `tests/k8s/build multus`.
    Multus,
    /// macvlan links.
    Macvlan,
    /// ipvlan links.
    Ipvlan,
    /// dummy links.
    Dummy,
    /// VLAN links.
    Vlan,
    /// VRF links.
    Vrf,
    /// tap links: /dev/net/tun, open to this user.
    Tap,
    /// Bridges with `vlan_filtering`.
    VlanFiltering,
    /// `ping`, allowed to this user.
    Ping,
    /// nftables, and `nft` to list them.
    Nft,
    /// `iptables` on nftables, which the Go plugins execute.
    Iptables,
    /// kube-apiserver, built by `tests/k8s/build`, and etcd.
    ApiServer,
    /// helm, built by `tests/k8s/build helm`.
    Helm,
    /// Spans, which a build without the feature `otel` has not.
    Otel,
    /// Another user than the one who runs the suite: only root has them (see `world::AS_ROOT`).
    Users,
}

const ALL: [Need; 17] = [
    Need::Namespaces,
    Need::Peers,
    Need::Multus,
    Need::Macvlan,
    Need::Ipvlan,
    Need::Dummy,
    Need::Vlan,
    Need::Vrf,
    Need::Tap,
    Need::VlanFiltering,
    Need::Ping,
    Need::Nft,
    Need::Iptables,
    Need::ApiServer,
    Need::Helm,
    Need::Otel,
    Need::Users,
];

/// How long a probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(30);

impl Need {
    /// Why the machine does not have it, asked once per process: in a process of its own, because entering
    /// namespaces cannot be undone.
    pub(crate) fn missing(self) -> Option<String> {
        static ANSWERS: Mutex<BTreeMap<Need, Option<String>>> = Mutex::new(BTreeMap::new());
        let mut answers = ANSWERS.lock().unwrap();
        answers
            .entry(self)
            .or_insert_with(|| {
                let mut probe = Command::new(std::env::current_exe().unwrap());
                let ended = process::run(probe.args(["--probe", &format!("{self:?}")]), &[], PROBE_LIMIT);
                (!ended.status.success()).then(|| {
                    let reason = ended.stderr.trim();
                    if reason.is_empty() { format!("{self:?}: {}", ended.status) } else { reason.to_owned() }
                })
            })
            .clone()
    }

    /// What links of this kind need.
    pub(crate) fn of_kind(kind: &str) -> Option<Self> {
        let needs = [
            ("macvlan", Self::Macvlan),
            ("ipvlan", Self::Ipvlan),
            ("vlan", Self::Vlan),
            ("dummy", Self::Dummy),
            ("vrf", Self::Vrf),
        ];
        needs.into_iter().find_map(|(name, need)| (name == kind).then_some(need))
    }

    fn probe(self) -> Result<(), String> {
        if self == Self::Peers {
            return call::peers().map(drop);
        }
        if self == Self::Otel {
            let missing = || "this build has no spans: cargo test --features otel".to_owned();
            return if cfg!(feature = "otel") { Ok(()) } else { Err(missing()) };
        }
        if self == Self::ApiServer {
            return server::programs().map(drop);
        }
        if self == Self::Helm {
            return server::helm().map(drop);
        }
        if self == Self::Multus {
            return call::multus().map(drop);
        }
        world::enter()?;
        let bed = Testbed::new();
        let link = |words: &str| {
            bed.parent("up0");
            bed.try_ip(words).map(drop).map_err(|text| format!("{self:?} is not in this kernel: {}", text.trim()))
        };
        let tool = |program: &str, words: &str| {
            let words: Vec<&str> = words.split(' ').collect();
            let ended = Command::new(program).args(words).output().map_err(|error| format!("{program}: {error}"))?;
            let text = String::from_utf8_lossy(&ended.stderr);
            if ended.status.success() { Ok(()) } else { Err(format!("{program} does not work: {}", text.trim())) }
        };
        match self {
            Self::Namespaces | Self::Peers | Self::ApiServer | Self::Helm | Self::Multus | Self::Otel => Ok(()),
            Self::Macvlan => link("link add m0 link up0 type macvlan"),
            Self::Ipvlan => link("link add i0 link up0 type ipvlan"),
            Self::Dummy => link("link add d0 type dummy"),
            Self::Vlan => link("link add v0 link up0 type vlan id 5"),
            Self::Vrf => link("link add r0 type vrf table 10"),
            Self::Tap => link("tuntap add mode tap name t0"),
            Self::VlanFiltering => link("link add b0 type bridge vlan_filtering 1"),
            Self::Users => {
                let other = Command::new("true").uid(1).status();
                other
                    .map(drop)
                    .map_err(|error| format!("no other users ({error}): run as root with {}=1", world::AS_ROOT))
            }
            Self::Nft => tool("nft", "add table inet t"),
            Self::Iptables => tool("iptables-nft", "-t nat -N T"),
            Self::Ping => {
                bed.ip("link set lo up");
                let ended = process::run(Command::new("ping").args(["-c1", "-W1", "127.0.0.1"]), &[], PROBE_LIMIT);
                if ended.status.success() { Ok(()) } else { Err(format!("ping does not work: {}", ended.stderr)) }
            }
        }
    }
}

/// The probing process.
pub(crate) fn probe_here(name: &str) -> ExitCode {
    let need = ALL.into_iter().find(|need| format!("{need:?}") == name).expect("a need's name");
    match need.probe() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}
