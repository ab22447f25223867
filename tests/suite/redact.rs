//! What may differ between two equal runs, and why: random names, numbers the kernel hands out, running clocks.
//! Nothing else is hidden; an intended difference is in `oracle::differences`.

use std::net::Ipv6Addr;

use crate::compare::matches;
use crate::snapshot::{Facts, Snapshot};

/// One kind of fact that says nothing.
struct Redaction {
    /// Why it differs from run to run.
    reason: &'static str,
    /// Where: patterns of paths of facts.
    paths: &'static [&'static str],
    /// What stays of it.
    value: fn(&str) -> Option<&str>,
}

fn nothing(_: &str) -> Option<&str> {
    None
}

const REDACTIONS: &[Redaction] = &[
    Redaction {
        reason: "numbers handed out by the kernel; what they point to is compared by name",
        paths: &["*.link.*.ifindex", "*.link.*.link_index", "*.link.*.link_netnsid"],
        value: nothing,
    },
    Redaction {
        reason: "clocks that run",
        paths: &["*.linkinfo.*_timer", "*.cacheinfo*", "*.expires"],
        value: nothing,
    },
    Redaction {
        reason: "a lifetime counts down; whether it is endless is compared",
        paths: &["*.valid_life_time", "*.preferred_life_time"],
        value: |value| Some(if value == "4294967295" { "forever" } else { "counting" }),
    },
    Redaction {
        reason: "duplicate address detection of link-local addresses, and of the host's own, ends a second later; nobody waits",
        paths: &["*.addr.*.LL/64.tentative", "host.addr.*.tentative"],
        value: nothing,
    },
    Redaction {
        reason: "the kernel's own routes of such addresses appear when they are no longer tentative",
        paths: &[
            "*.route.local.local LL *",
            "*.route.local.anycast fe80:: *",
            "host.route.local.anycast *",
            "host.route.local.local *:* dev *",
        ],
        value: nothing,
    },
    Redaction {
        reason: "unknown: up, for links whose kind has no such state, before and after the link watch looked",
        paths: &["*.link.*.operstate"],
        value: |value| Some(if value == "UNKNOWN" { "UP" } else { value }),
    },
    Redaction {
        reason: "a route's `linkdown` mark and a link's `NO-CARRIER` follow the link watch",
        paths: &["*.route.*.flags.linkdown"],
        value: nothing,
    },
];

/// The facts without what differs from run to run, in the words of `names`.
pub(crate) fn redacted(facts: &Facts, names: &Names) -> Facts {
    let mut kept = Facts::new();
    for (path, value) in facts {
        let (path, value) = (names.apply(path), names.apply(value));
        let hit = REDACTIONS.iter().find(|redaction| redaction.paths.iter().any(|pattern| matches(pattern, &path)));
        let value = match hit {
            Some(redaction) => {
                debug_assert!(!redaction.reason.is_empty());
                (redaction.value)(&value).map(str::to_owned)
            }
            None => Some(value),
        };
        if let Some(value) = value {
            kept.insert(path, value);
        }
    }
    kept
}

/// The names that both sides give to the host's end of a pair.
fn is_random(name: &str) -> bool {
    name.starts_with("veth") && name.len() > 4
}

/// Random names and MACs, and the words that stand for them: learned from snapshots, so that "the MAC of eth0" in a
/// result must be the MAC that eth0 has.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// Texts that the test itself chose: never replaced.
    fixed: String,
    /// One word for all MACs.
    macs_alike: bool,
    known: Vec<(String, String)>,
}

impl Names {
    /// `fixed`: configuration and arguments of the calls; a MAC or name in it is compared as it is.
    pub(crate) fn new(fixed: &str, macs_alike: bool) -> Self {
        Self { fixed: fixed.to_lowercase(), macs_alike, known: Vec::new() }
    }

    /// Takes up the names in a snapshot that are not known yet.
    pub(crate) fn learn(&mut self, snapshot: &Snapshot) {
        let (host, pods) = snapshot.places.split_first().unwrap();
        for pod in pods {
            for inner in &pod.links {
                let peer = host.links.iter().find(|outer| {
                    outer["linkinfo"]["info_kind"] == "veth"
                        && outer["ifindex"] == inner["link_index"]
                        && inner["ifindex"] == outer["link_index"]
                });
                if let Some(name) = peer.and_then(|outer| outer["ifname"].as_str()) {
                    self.add(name, &format!("veth({}/{})", pod.name, inner["ifname"].as_str().unwrap()));
                }
            }
        }
        // A pair whose ends are both on the host: the gateway of a VLAN, and its port of the bridge. `ip` tells the other's name.
        for end in &host.links {
            let names = (end["ifname"].as_str(), end["link"].as_str());
            if let (Some(name), Some(other)) = names
                && is_random(name)
                && !is_random(other)
            {
                self.add(name, &format!("veth(host/{other})"));
            }
        }
        for place in &snapshot.places {
            let mut links: Vec<_> = place.links.iter().collect();
            links.sort_by_key(|link| self.apply(link["ifname"].as_str().unwrap_or_default()));
            for link in links {
                let (Some(name), Some(mac)) = (link["ifname"].as_str(), link["address"].as_str()) else { continue };
                let mut word = format!("MAC({}/{})", place.name, self.apply(name));
                if self.macs_alike {
                    "MAC".clone_into(&mut word);
                }
                if mac.len() == 17 && mac != "00:00:00:00:00:00" && self.add(mac, &word) {
                    // In a bridge's identity `ip` prints the bytes without leading zeros.
                    let short = mac.split(':').map(|byte| byte.strip_prefix('0').unwrap_or(byte)).collect::<Vec<_>>();
                    self.add(&short.join(":"), &word);
                }
            }
        }
    }

    fn add(&mut self, from: &str, to: &str) -> bool {
        let new = !self.fixed.contains(from) && self.known.iter().all(|(known, _)| known != from);
        if new {
            self.known.push((from.to_owned(), to.to_owned()));
        }
        new
    }

    /// `text` with every random name replaced.
    pub(crate) fn apply(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.known {
            if text.contains(from.as_str()) {
                text = text.replace(from.as_str(), to);
            }
        }
        self.without_link_locals(&without_random_veth(&text))
    }

    /// A link-local address that the kernel made is just `LL`: it comes from the MAC (RFC 4291, appendix A) and, on an
    /// ipvlan, a number; a bridge gets its own before or after its MAC changed to its first port's.
    fn without_link_locals(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("fe80::") {
            let (before, from) = rest.split_at(at);
            let length = from.bytes().take_while(|byte| byte.is_ascii_hexdigit() || *byte == b':').count();
            let (word, after) = from.split_at(length);
            let made = word != "fe80::" && word.parse::<Ipv6Addr>().is_ok();
            out.push_str(before);
            out.push_str(if made && !self.fixed.contains(word) { "LL" } else { word });
            rest = after;
        }
        out + rest
    }
}

/// `veth` and eight hexadecimal digits that no snapshot explained: a name that is gone again.
fn without_random_veth(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("veth") {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let digits = from["veth".len()..].bytes().take_while(u8::is_ascii_hexdigit).count();
        if digits == 8 {
            out.push_str("veth(gone)");
            rest = &from["veth".len() + 8..];
        } else {
            out.push_str("veth");
            rest = &from["veth".len()..];
        }
    }
    out + rest
}
