//! What was there before tuning changed it: all that is needed to put it back. Its JSON is the reference plugin's backup, which
//! ignores the one key more. Touches neither files nor the kernel.

use serde::{Deserialize, Serialize};

use super::key;
use crate::mac::Mac;
use crate::netlink::link::Link;
use crate::netlink::tuning::Tuning;
use crate::nft::Owner;

/// The values before the first change, of all that is changed and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<Mac>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    promisc: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    allmulti: Option<bool>,
    #[serde(rename = "txQLen", default, skip_serializing_if = "Option::is_none")]
    tx_queue: Option<u32>,
    /// `None`: the reference plugin wrote it.
    #[serde(rename = "plexus", default, skip_serializing_if = "Option::is_none")]
    pub(super) beyond: Option<Beyond>,
}

/// What the reference plugin's backup does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Beyond {
    pub(super) network: String,
    pub(super) sandbox: String,
    pub(super) ifname: String,
    /// The namespace's device and inode: values of another one are nobody's here.
    pub(super) netns: (u64, u64),
    /// `None`: there was no such link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) link: Option<Identity>,
    /// In the order in which they are written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) sysctl: Vec<Former>,
    /// The host's end of the pair whose other end is the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) peer: Option<Peer>,
}

/// Which link it is. The index alone is not enough: that of a link which was moved in can be given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) ifindex: u32,
    /// Its lower device's index, or that of its other end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<u32>,
}

impl Identity {
    pub(super) fn of(link: &Link) -> Self {
        Self { ifindex: link.index, parent: link.parent }
    }
}

/// A parameter that is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Former {
    /// Below [`key::TREE`].
    pub(super) path: String,
    /// `None`: it could not be read, and is not put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) old: Option<String>,
    /// What it is set to.
    pub(super) new: String,
    /// What it then reads, where that is another text: the kernel writes lists in its own way, and rounds times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reads: Option<String>,
}

/// The host's end of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Peer {
    pub(super) ifindex: u32,
    pub(super) mtu: u32,
}

impl Original {
    /// Those of the link's attributes that `wanted` changes.
    pub(super) fn of(link: Option<&Link>, wanted: &Tuning, beyond: Beyond) -> Self {
        let Some(link) = link else { return Self { beyond: Some(beyond), ..Self::default() } };
        Self {
            mac: wanted.mac.and(link.mac),
            promisc: wanted.promiscuous.map(|_| link.promiscuous),
            mtu: wanted.mtu.map(|_| link.mtu),
            allmulti: wanted.all_multicast.map(|_| link.all_multicast),
            tx_queue: wanted.tx_queue.map(|_| link.tx_queue),
            beyond: Some(beyond),
        }
    }

    /// Whether anything stays changed when the link is deleted: parameters of the whole namespace, or of another link. Where
    /// not, and the link is deleted anyway, [`super::remove`] needs no pod.
    #[must_use]
    pub fn outlives_link(&self) -> bool {
        let ifname = self.beyond.as_ref().map(|own| own.ifname.as_str());
        self.parameters().iter().any(|former| key::link_of(&former.path) != ifname)
    }

    /// The link's attributes as they were.
    pub(super) fn tuning(&self) -> Tuning {
        Tuning {
            mac: self.mac,
            promiscuous: self.promisc,
            mtu: self.mtu.filter(|mtu| *mtu > 0),
            all_multicast: self.allmulti,
            tx_queue: self.tx_queue,
            ..Tuning::default()
        }
    }

    /// The parameters that were changed.
    pub(super) fn parameters(&self) -> &[Former] {
        self.beyond.as_ref().map_or(&[], |beyond| &beyond.sysctl)
    }

    /// The host's end, where it was changed.
    pub(super) fn peer(&self) -> Option<Peer> {
        self.beyond.as_ref().and_then(|beyond| beyond.peer)
    }

    /// Whether it may be of this owner. The reference plugin's says nothing of it but its file's name.
    pub(super) fn may_be_of(&self, owner: &Owner<'_>) -> bool {
        self.beyond.as_ref().is_none_or(|own| own.sandbox == owner.sandbox && own.ifname == owner.ifname)
    }

    /// Whether it may be of this namespace.
    pub(super) fn may_be_in(&self, netns: (u64, u64)) -> bool {
        self.beyond.as_ref().is_none_or(|own| own.netns == netns)
    }

    /// Whether it may be of this link.
    pub(super) fn may_be_on(&self, link: Identity) -> bool {
        self.beyond.as_ref().is_none_or(|own| own.link == Some(link))
    }

    /// These values, with what an earlier change found in place of what is there now: an attachment that is added twice, or
    /// is tuned twice in a chain, ends as it began.
    pub(super) fn preceded_by(mut self, earlier: Self) -> Self {
        let Some(own) = self.beyond.as_mut() else { return self };
        if !earlier.may_be_in(own.netns) {
            return self;
        }
        // The link may be another one of the same name: then the earlier values are a dead link's.
        let same_link = own.link.is_some_and(|link| earlier.may_be_on(link));
        for former in earlier.parameters() {
            if key::link_of(&former.path) == Some(own.ifname.as_str()) && !same_link {
                continue;
            }
            match own.sysctl.iter_mut().find(|one| one.path == former.path) {
                Some(one) => one.old.clone_from(&former.old),
                None => own.sysctl.push(former.clone()),
            }
        }
        own.sysctl.sort_by(|a, b| key::order(&a.path).cmp(&key::order(&b.path)));
        if same_link {
            own.peer = match (earlier.peer(), own.peer) {
                (Some(earlier), Some(now)) if earlier.ifindex != now.ifindex => Some(now),
                (earlier, now) => earlier.or(now),
            };
            self.mac = earlier.mac.or(self.mac);
            self.promisc = earlier.promisc.or(self.promisc);
            self.mtu = earlier.mtu.or(self.mtu);
            self.allmulti = earlier.allmulti.or(self.allmulti);
            self.tx_queue = earlier.tx_queue.or(self.tx_queue);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = concat!(
        r#"{"mac":"02:00:00:00:00:01","promisc":false,"mtu":1500,"allmulti":true,"txQLen":1000,"plexus":{"network":"n","#,
        r#""sandbox":"c","ifname":"eth0","netns":[4,7],"link":{"ifindex":2,"parent":9},"sysctl":[{"path":"ipv4/x","old":"0","new":"1"},"#,
        r#"{"path":"ipv4/conf/eth0/x","old":"0","new":"1","reads":"01"}],"peer":{"ifindex":9,"mtu":1500}}}"#
    );

    fn original(text: &str) -> Original {
        serde_json::from_str(text).unwrap()
    }

    fn own(text: &str) -> Original {
        original(&format!(r#"{{"plexus":{{"network":"n","sandbox":"c","ifname":"eth0",{text}}}}}"#))
    }

    #[test]
    fn its_json_is_read_as_it_was_written() {
        assert_eq!(serde_json::to_string(&original(FULL)).unwrap(), FULL);
        assert_eq!(serde_json::to_string(&Original::default()).unwrap(), "{}");
        assert!(original(FULL).outlives_link());
        let of_link = own(r#""netns":[4,7],"sysctl":[{"path":"ipv4/conf/eth0/x","old":"0","new":"1"}]"#);
        assert!(!of_link.outlives_link() && !Original::default().outlives_link());
        let go = original(r#"{"mtu":1400,"later":1}"#);
        assert_eq!(go.tuning(), Tuning { mtu: Some(1400), ..Tuning::default() });
        assert!(
            go.may_be_in((1, 1)) && go.may_be_on(Identity { ifindex: 3, parent: None }) && go.parameters().is_empty()
        );
    }

    #[test]
    fn the_first_values_stay() {
        let mut now =
            own(r#""netns":[4,7],"link":{"ifindex":2,"parent":9},"sysctl":[{"path":"ipv4/x","old":"1","new":"2"},
            {"path":"ipv4/y","old":"5","new":"6"}],"peer":{"ifindex":9,"mtu":1400}"#);
        now.mtu = Some(1400);
        let both = now.clone().preceded_by(original(FULL));
        assert_eq!(both.tuning(), original(FULL).tuning());
        assert_eq!(both.peer(), Some(Peer { ifindex: 9, mtu: 1500 }));
        let values: Vec<_> =
            both.parameters().iter().map(|p| (p.path.as_str(), p.old.as_deref(), p.new.as_str())).collect();
        assert_eq!(
            values,
            [("ipv4/x", Some("0"), "2"), ("ipv4/y", Some("5"), "6"), ("ipv4/conf/eth0/x", Some("0"), "1")]
        );
        let after_go = now.clone().preceded_by(original(r#"{"mtu":1500,"txQLen":5}"#));
        assert_eq!(after_go.tuning(), Tuning { mtu: Some(1500), tx_queue: Some(5), ..Tuning::default() });
    }

    #[test]
    fn those_of_another_link_or_namespace_do_not() {
        let elsewhere = own(r#""netns":[4,8],"link":{"ifindex":2,"parent":9}"#);
        assert_eq!(elsewhere.clone().preceded_by(original(FULL)), elsewhere);
        let other_link = own(r#""netns":[4,7],"link":{"ifindex":2,"parent":10}"#).preceded_by(original(FULL));
        assert!(other_link.tuning().is_empty() && other_link.peer().is_none());
        let paths: Vec<_> = other_link.parameters().iter().map(|p| p.path.as_str()).collect();
        assert_eq!(paths, ["ipv4/x"]);
    }
}
