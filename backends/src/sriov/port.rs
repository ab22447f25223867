//! The physical function's side of a virtual one: what it is told, in which order, and how it is brought back to what was
//! recorded. Knows no pod.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::conf::{Attribute, Spec};
use super::order::{self, Act, PAUSE_MS, Seen};
use crate::busy;
use crate::error::{Error, ErrorKind};
use crate::guid::Guid;
use crate::mac::Mac;
use crate::netlink::link::{GROUP_LINK, Link};
use crate::netlink::vf::{self, Change, Settings};
use crate::netlink::{Failure, Socket};
use crate::pod::Host;
use crate::sysfs::VirtualFunction;

/// One virtual function, as its physical one numbers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    /// The physical function's interface, for people: everything else goes by its index.
    pub(super) name: String,
    index: u32,
    vf: u32,
    /// Whether that interface is up: a function of one that is down has no carrier.
    pub(super) is_up: bool,
    /// Whether it has a carrier.
    pub(super) has_carrier: bool,
}

/// What is told, and what of it may be refused.
type Wanted = (Change, Vec<Attribute>);

impl Port {
    pub(super) fn find(host: &mut Host, function: &VirtualFunction) -> Result<Self, Error> {
        let missing = || {
            let text = format!("the physical function {} of {} has no interface here", function.pf, function.address);
            Error::new(ErrorKind::LinkMissing, text)
        };
        let name = function.pf_interface.as_ref().ok_or_else(missing)?;
        let link = host.side.link(name)?.ok_or_else(missing)?;
        let has_carrier = link.oper_state == Link::OPER_UP;
        Ok(Self { name: link.name, index: link.index, vf: function.index, is_up: link.up, has_carrier })
    }

    fn place(&self) -> String {
        format!("vf {} of {}", self.vf, self.name)
    }

    /// How the function is set up.
    pub(super) fn settings(&self, host: &mut Host) -> Result<Settings, Error> {
        let parse = |payload: &[u8]| vf::parse(payload, self.vf);
        let asked = host.side.socket.question_of(vf::question(self.index), vf::ANSWER_BYTES_MAX, parse);
        let settings = asked.map_err(|e| Error::kernel("read the settings of", self.place(), e))?;
        settings.ok_or_else(|| Error::at(ErrorKind::LinkMissing, "read the settings of", self.place()))
    }

    fn tell(&self, host: &mut Host, change: Change) -> Result<(), Failure> {
        host.side.apply(change.request(self.index, self.vf))
    }

    /// As often as it takes until the card has time.
    fn insist(&self, host: &mut Host, change: Change) -> Result<(), Error> {
        let told = busy::apply(&mut host.side, || change.request(self.index, self.vf));
        told.map_err(|e| self.refused(change, e))
    }

    /// Sets up what the configuration asks for and is not so already. What may be lacking and is refused is told.
    pub(super) fn set_up(
        &self,
        host: &mut Host,
        spec: &Spec,
        mac: Option<Mac>,
        now: &Settings,
        told: &mut Vec<String>,
    ) -> Result<(), Error> {
        for (change, may_lack) in wanted(spec, mac, now) {
            let done = match change {
                Change::Mac(mac) => self.give_mac(host, mac),
                other => self.insist(host, other),
            };
            match done {
                Err(e) if !may_lack.is_empty() && e.errno().is_some() => {
                    let keys: Vec<&str> = may_lack.iter().map(|attribute| attribute.key()).collect();
                    told.push(format!("{} is left as it is: {}", keys.join(", "), e.chain()));
                }
                other => other?,
            }
        }
        Ok(())
    }

    fn refused(&self, change: Change, failure: Failure) -> Error {
        let act = match change {
            Change::Vlan { .. } => "set vlan of",
            Change::Mac(_) => "set mac of",
            Change::Rate { .. } => "set min_tx_rate and max_tx_rate of",
            Change::SpoofCheck(_) => "set spoofchk of",
            Change::Trust(_) => "set trust of",
            Change::LinkState(_) => "set link_state of",
            Change::NodeGuid(_) | Change::PortGuid(_) => "set infinibandGUID of",
        };
        Error::kernel(act, self.place(), failure)
    }

    /// Gives the function an address, and reads it back.
    fn give_mac(&self, host: &mut Host, mac: Mac) -> Result<(), Error> {
        let mut seen = Seen::default();
        let mut refusal = None;
        let mut patience = Patience::default();
        loop {
            seen.is_taken = seen.answer.is_some() && self.settings(host)?.mac == mac;
            let act = order::of_port(seen);
            match act {
                Act::Done => return Ok(()),
                Act::Give | Act::WaitAndGive => {
                    if act == Act::WaitAndGive {
                        patience.wait(host)?;
                    }
                    refusal = self.tell(host, Change::Mac(mac)).err();
                    seen.answer = Some(answer(&refusal)?);
                }
                Act::Wait => patience.wait(host)?,
                Act::Reset | Act::GiveUp => return Err(not_taken("set mac of", self.place(), mac, refusal)),
            }
            seen.attempts += 1;
        }
    }

    /// Brings everything back that is not as it was recorded. All of it is tried; the first failure is returned. Says whether its GUIDs
    /// are other ones now.
    pub(super) fn restore(&self, host: &mut Host, recorded: &Settings) -> Result<bool, Error> {
        let now = self.settings(host)?;
        let mut first = Ok(());
        let mut is_renumbered = false;
        for change in changes(&now, recorded) {
            is_renumbered |= matches!(change, Change::NodeGuid(_) | Change::PortGuid(_));
            let done = match change {
                Change::Mac(mac) if !mac.is_zero() => self.give_mac(host, mac),
                other => self.insist(host, other),
            };
            let done = done.or_else(|e| if is_beyond(change, e.errno()) { Ok(()) } else { Err(e) });
            first = first.and(done);
        }
        first.map(|()| is_renumbered)
    }
}

/// What no attempt can bring back: a driver that has no such setting, and one that takes no address back once it was given.
fn is_beyond(change: Change, refused: Option<Errno>) -> bool {
    match change {
        _ if refused == Some(Errno::EOPNOTSUPP) => true,
        Change::Mac(mac) => mac.is_zero() && matches!(refused, Some(Errno::EINVAL | Errno::EADDRNOTAVAIL)),
        _ => false,
    }
}

/// The kernel's refusal as the next decision takes it; what else goes wrong is no answer.
pub(super) fn answer(refusal: &Option<Failure>) -> Result<Result<(), Errno>, Error> {
    match refusal {
        None => Ok(Ok(())),
        Some(failure) => match failure.errno() {
            Some(errno) => Ok(Err(errno)),
            None => Err(Error::at(ErrorKind::Io, "set mac", failure.to_string())),
        },
    }
}

/// The error of an address that did not come.
pub(super) fn not_taken(act: &'static str, place: String, mac: Mac, refusal: Option<Failure>) -> Error {
    match refusal {
        Some(failure) => Error::kernel(act, place, failure),
        None => Error::at(ErrorKind::Refused, act, place)
            .because_of(format!("it was accepted, but {mac} is not there after {} attempts", order::ATTEMPTS_MAX)),
    }
}

/// Waits for the kernel's next announcement about any link, and no longer than until the next look.
#[derive(Debug, Default)]
pub(super) struct Patience {
    listener: Option<Socket>,
}

impl Patience {
    pub(super) fn wait(&mut self, host: &Host) -> Result<(), Error> {
        let failed = |e| Error::kernel("wait for a change of", "a link", e);
        let listener = match &mut self.listener {
            Some(listener) => listener,
            none => {
                let listener = host.second_socket()?;
                listener.join(GROUP_LINK).map_err(failed)?;
                none.insert(listener)
            }
        };
        let deadline = Instant::now() + Duration::from_millis(PAUSE_MS);
        listener.event(deadline, |_, _| {}).map(drop).map_err(failed)
    }
}

/// What to tell, in the order of sriov-cni: what is so already is left alone, for a driver that has no such setting shows the
/// default and refuses to be told even that.
fn wanted(spec: &Spec, mac: Option<Mac>, now: &Settings) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut tell = |change: Change, may_lack: &[Attribute]| {
        let lacks = may_lack.iter().all(|attribute| spec.may_lack(*attribute));
        wanted.push((change, if lacks { may_lack.to_vec() } else { Vec::new() }));
    };
    if let Some(vlan) = spec.vlan
        && ((vlan.id, vlan.qos) != (now.vlan, now.qos) || vlan.proto != now.proto)
    {
        tell(Change::Vlan { id: vlan.id, qos: vlan.qos, proto: vlan.proto }, &[]);
    }
    if let Some(mac) = mac.filter(|mac| *mac != now.mac) {
        tell(Change::Mac(mac), &[]);
    }
    if spec.min_rate.is_some() || spec.max_rate.is_some() {
        let (min, max) = (spec.min_rate.unwrap_or_default(), spec.max_rate.unwrap_or_default());
        let keys = [(Attribute::MinRate, spec.min_rate), (Attribute::MaxRate, spec.max_rate)];
        let keys: Vec<Attribute> = keys.into_iter().filter(|(_, given)| given.is_some()).map(|(key, _)| key).collect();
        if (min, max) != (now.min_rate, now.max_rate) {
            tell(Change::Rate { min, max }, &keys);
        }
    }
    if let Some(on) = spec.spoof_check.filter(|on| now.spoof_check != Some(*on)) {
        tell(Change::SpoofCheck(on), &[Attribute::SpoofCheck]);
    }
    if let Some(on) = spec.trust.filter(|on| now.trust != Some(*on)) {
        tell(Change::Trust(on), &[Attribute::Trust]);
    }
    if let Some(state) = spec.link_state.filter(|state| *state != now.link_state) {
        tell(Change::LinkState(state), &[Attribute::LinkState]);
    }
    for (now, change) in spec.guid.into_iter().flat_map(|guid| guids(guid, now)) {
        if now != spec.guid {
            tell(change, &[]);
        }
    }
    wanted
}

/// A function has one GUID as a node and as a port: what it has, and what it is told.
fn guids(guid: Guid, now: &Settings) -> [(Option<Guid>, Change); 2] {
    [(now.node_guid, Change::NodeGuid(guid)), (now.port_guid, Change::PortGuid(guid))]
}

/// What brings settings back to the recorded ones. What the driver does not tell cannot be compared, and is left alone.
fn changes(now: &Settings, recorded: &Settings) -> Vec<Change> {
    let mut changes = Vec::new();
    let differs = |now: Option<bool>, recorded: Option<bool>| recorded.filter(|on| now.is_some() && now != Some(*on));
    if (now.vlan, now.qos, now.proto) != (recorded.vlan, recorded.qos, recorded.proto) {
        changes.push(Change::Vlan { id: recorded.vlan, qos: recorded.qos, proto: recorded.proto });
    }
    changes.extend((now.mac != recorded.mac).then_some(Change::Mac(recorded.mac)));
    if (now.min_rate, now.max_rate) != (recorded.min_rate, recorded.max_rate) {
        changes.push(Change::Rate { min: recorded.min_rate, max: recorded.max_rate });
    }
    changes.extend(differs(now.spoof_check, recorded.spoof_check).map(Change::SpoofCheck));
    changes.extend(differs(now.trust, recorded.trust).map(Change::Trust));
    changes.extend((now.link_state != recorded.link_state).then_some(Change::LinkState(recorded.link_state)));
    let other = |now: Option<Guid>, recorded: Option<Guid>| recorded.filter(|guid| now != Some(*guid));
    changes.extend(other(now.node_guid, recorded.node_guid).map(Change::NodeGuid));
    changes.extend(other(now.port_guid, recorded.port_guid).map(Change::PortGuid));
    changes
}

/// What a function is set up as, and should not be; none where all is as configured.
pub(super) fn difference(spec: &Spec, now: &Settings) -> Option<String> {
    let left = wanted(spec, None, now).into_iter().find(|(_, may_lack)| may_lack.is_empty());
    left.map(|(change, _)| match change {
        Change::Vlan { id, qos, .. } => {
            format!("vlan {} with priority {}, expected {id} with {qos}", now.vlan, now.qos)
        }
        Change::Mac(mac) => format!("mac {}, expected {mac}", now.mac),
        Change::Rate { min, max } => {
            format!("rates {} to {} Mbit/s, expected {min} to {max}", now.min_rate, now.max_rate)
        }
        Change::SpoofCheck(on) => format!("spoofchk {}, expected {}", word(!on), word(on)),
        Change::Trust(on) => format!("trust {}, expected {}", word(!on), word(on)),
        Change::LinkState(state) => format!("link_state {}, expected {state}", now.link_state),
        Change::NodeGuid(guid) | Change::PortGuid(guid) => format!("another GUID than {guid}"),
    })
}

fn word(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sriov::Conf;

    const NOW: Settings = Settings {
        mac: Mac::new([2, 0, 0, 0, 0, 1]),
        vlan: 0,
        qos: 0,
        proto: 0x8100,
        min_rate: 0,
        max_rate: 0,
        spoof_check: Some(true),
        trust: Some(false),
        link_state: 0,
        node_guid: None,
        port_guid: None,
    };

    fn spec(rest: &str) -> Spec {
        let text = format!(r#"{{"deviceID":"0000:01:10.0"{rest}}}"#);
        serde_json::from_str::<Conf>(&text).unwrap().validate().unwrap()
    }

    #[test]
    fn what_is_so_already_is_not_told() {
        let same = r#","vlan":0,"min_tx_rate":0,"spoofchk":"on","trust":"off","link_state":"auto""#;
        assert_eq!(wanted(&spec(same), Some(NOW.mac), &NOW), []);
        assert_eq!(wanted(&spec(""), None, &NOW), [], "what is not asked for stays");
        assert_eq!(difference(&spec(same), &NOW), None);
    }

    #[test]
    fn everything_is_told_in_order() {
        let all = r#","vlan":100,"vlanQoS":3,"max_tx_rate":9,"spoofchk":"off","trust":"on","link_state":"enable","optional":["trust"]"#;
        let mac = Mac::new([2, 0, 0, 0, 0, 7]);
        let expected = [
            (Change::Vlan { id: 100, qos: 3, proto: 0x8100 }, vec![]),
            (Change::Mac(mac), vec![]),
            (Change::Rate { min: 0, max: 9 }, vec![]),
            (Change::SpoofCheck(false), vec![]),
            (Change::Trust(true), vec![Attribute::Trust]),
            (Change::LinkState(1), vec![]),
        ];
        assert_eq!(wanted(&spec(all), Some(mac), &NOW), expected);
        let told = difference(&spec(all), &NOW).unwrap();
        assert_eq!(told, "vlan 0 with priority 0, expected 100 with 3");
        assert_eq!(difference(&spec(r#","trust":"on","optional":["trust"]"#), &NOW), None);
    }

    #[test]
    fn another_protocol_is_another_vlan() {
        let now = Settings { vlan: 100, proto: 0x88a8, ..NOW };
        let told = wanted(&spec(r#","vlan":100"#), None, &now);
        assert_eq!(told, [(Change::Vlan { id: 100, qos: 0, proto: 0x8100 }, vec![])]);
    }

    #[test]
    fn a_rate_may_be_lacking_only_if_all_of_it_may() {
        let both = r#","min_tx_rate":1,"max_tx_rate":9,"optional":["min_tx_rate"]"#;
        assert_eq!(wanted(&spec(both), None, &NOW), [(Change::Rate { min: 1, max: 9 }, vec![])]);
        let one = r#","min_tx_rate":1,"optional":["min_tx_rate"]"#;
        let expected = [(Change::Rate { min: 1, max: 0 }, vec![Attribute::MinRate])];
        assert_eq!(wanted(&spec(one), None, &NOW), expected);
    }

    #[test]
    fn what_differs_from_the_record_is_brought_back_and_nothing_else() {
        assert_eq!(changes(&NOW, &NOW), []);
        let other = Settings {
            mac: Mac::new([2, 0, 0, 0, 0, 9]),
            vlan: 100,
            qos: 1,
            proto: 0x88a8,
            min_rate: 1,
            max_rate: 2,
            spoof_check: Some(false),
            trust: Some(true),
            link_state: 2,
            node_guid: None,
            port_guid: None,
        };
        let expected = [
            Change::Vlan { id: 0, qos: 0, proto: 0x8100 },
            Change::Mac(NOW.mac),
            Change::Rate { min: 0, max: 0 },
            Change::SpoofCheck(true),
            Change::Trust(false),
            Change::LinkState(0),
        ];
        assert_eq!(changes(&other, &NOW), expected);
        let untold = Settings { spoof_check: None, trust: None, ..NOW };
        assert_eq!((changes(&untold, &NOW), changes(&NOW, &untold)), (vec![], vec![]));
    }

    #[test]
    fn a_guid_is_told_twice_and_comes_back_where_it_was_told_by_the_driver() {
        let text = r#","runtimeConfig":{"infinibandGUID":"c2:11:22:33:44:55:66:77"}"#;
        let (guid, old): (Guid, Guid) = ("c2:11:22:33:44:55:66:77".parse().unwrap(), Guid::new(7));
        let both = [(Change::NodeGuid(guid), vec![]), (Change::PortGuid(guid), vec![])];
        assert_eq!(wanted(&spec(text), None, &NOW), both);
        let had = Settings { node_guid: Some(old), port_guid: Some(old), ..NOW };
        let has = Settings { node_guid: Some(guid), port_guid: Some(guid), ..NOW };
        assert_eq!((wanted(&spec(text), None, &has), difference(&spec(text), &has)), (vec![], None));
        assert_eq!(changes(&has, &had), [Change::NodeGuid(old), Change::PortGuid(old)]);
        assert_eq!(changes(&has, &NOW), [], "nobody knows what it was");
        assert_eq!(difference(&spec(text), &had).unwrap(), "another GUID than c2:11:22:33:44:55:66:77");
    }

    #[test]
    fn what_cannot_come_back_does_not_hold_a_pod_up() {
        assert!(is_beyond(Change::LinkState(0), Some(Errno::EOPNOTSUPP)));
        assert!(is_beyond(Change::Mac(Mac::new([0; 6])), Some(Errno::EINVAL)));
        assert!(!is_beyond(Change::Mac(NOW.mac), Some(Errno::EINVAL)));
        assert!(!is_beyond(Change::Trust(false), Some(Errno::EPERM)));
        assert!(!is_beyond(Change::Trust(false), None));
    }
}
