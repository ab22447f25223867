//! Which requests are those of nodes for their own certificate, as plexus' and Multus' daemons send them, and which only look like it. Pure:
//! who asks is what the API server says of the request, never what is written in it.

use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::Value;

use super::subject::{Part, Subject, Unreadable};
use crate::kube::call::bounded;
use crate::kube::signing::{ORGANIZATION, SIGNER, USAGES};

/// Who may ask: a kubelet, or a node that has such a certificate; after it comes the node's name. And the group that makes a user of that name
/// one of them.
const REQUESTERS: [(&str, &str); 2] = [("system:node:", "system:nodes"), (PREFIX, ORGANIZATION)];
/// What the names of such certificates begin with.
const PREFIX: &str = "system:multus:";
/// Of which groups who asks may be.
const GROUPS: [&str; 3] = ["system:nodes", ORGANIZATION, "system:authenticated"];
/// How long a certificate may live: 365 days.
const LIFE_SECONDS_MAX: i64 = 365 * 24 * 3600;
/// Kubernetes' bound of a node's name (DNS-1123 subdomain).
const NODE_BYTES_MAX: usize = 253;
/// Of a name that somebody made up, in bytes.
const NAME_BYTES_SHOWN: usize = 100;

/// What is read of a request.
#[derive(Debug, Default, Deserialize)]
struct Seen {
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    request: ByteString,
    #[serde(default)]
    signer_name: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    usages: Vec<String>,
    expiration_seconds: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    certificate: Option<ByteString>,
    /// Whatever they are, somebody has decided.
    #[serde(default)]
    conditions: Vec<Value>,
}

/// What is to become of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is decided, or somebody else's to decide.
    Leave,
    /// So is one of this signer's of which nothing can be known.
    LeaveUnread(Unreadable),
    /// A node asks for its own certificate: the node.
    Approve(String),
    /// It claims to be one of those, and is not: which rule it breaks, in a word, and how.
    Deny(&'static str, String),
}

/// What is to become of a CertificateSigningRequest (certificates.k8s.io/v1).
pub fn judge(object: &Value) -> Verdict {
    let Ok(Seen { spec, status }) = Seen::deserialize(object) else {
        return Verdict::Leave;
    };
    let is_signed = status.certificate.is_some_and(|ByteString(bytes)| !bytes.is_empty());
    if is_signed || !status.conditions.is_empty() || spec.signer_name != SIGNER {
        return Verdict::Leave;
    }
    of(&spec)
}

fn of(spec: &Spec) -> Verdict {
    let subject = match Subject::of(&spec.request.0) {
        Ok(subject) => subject,
        Err(why) => return Verdict::LeaveUnread(why),
    };
    if !claims(&subject) {
        return Verdict::Leave;
    }
    match node(spec, &subject) {
        Ok(node) => Verdict::Approve(node),
        Err((rule, why)) => Verdict::Deny(rule, why),
    }
}

/// Whether whoever had it signed could pass for a node of ours.
fn claims(subject: &Subject) -> bool {
    let has = |parts: &[Part], is_ours: fn(&str) -> bool| parts.iter().flatten().any(|text| is_ours(text));
    has(&subject.common_names, |name| name.starts_with(PREFIX))
        || has(&subject.organizations, |name| name == ORGANIZATION)
}

/// Which node asks for its own certificate, where all is as it should be.
fn node(spec: &Spec, subject: &Subject) -> Result<String, (&'static str, String)> {
    let who = shown(&spec.username);
    let stripped = |(prefix, group): &(&str, &'static str)| Some((spec.username.strip_prefix(prefix)?, *group));
    let Some((node, group)) = REQUESTERS.iter().find_map(stripped) else {
        return Err(("Requester", format!("{who} is neither system:node:NODE nor system:multus:NODE")));
    };
    if !is_node_name(node) {
        return Err(("NodeName", format!("what {who} names is no node: its name is no DNS-1123 subdomain")));
    }
    if !is_same(&spec.usages, &USAGES) {
        return Err(("Usages", format!("its usages are not exactly {}", USAGES.join(" and "))));
    }
    if let Some(other) = spec.groups.iter().find(|group| !GROUPS.contains(&group.as_str())) {
        let why = format!("{who} is also of the group {}: only {} are a node's", shown(other), GROUPS.join(", "));
        return Err(("Groups", why));
    }
    if !spec.groups.iter().any(|found| found == group) {
        return Err(("Groups", format!("{who} is not of the group {group}")));
    }
    let wanted = format!("{PREFIX}{node}");
    if !is_only(&subject.common_names, &wanted) {
        return Err(("CommonName", format!("{who} may ask for a certificate of {wanted}, and of no other name")));
    }
    if !is_only(&subject.organizations, ORGANIZATION) {
        return Err(("Organization", format!("the certificate's organization is not exactly {ORGANIZATION}")));
    }
    if subject.has_more_parts {
        return Err(("Subject", "its name has parts beside the common name and the organization".to_owned()));
    }
    if subject.has_attributes {
        return Err(("Attributes", "it has attributes: a node asks for no other names and no extensions".to_owned()));
    }
    match spec.expiration_seconds {
        Some(1..=LIFE_SECONDS_MAX) => Ok(node.to_owned()),
        Some(_) => Err(("Expiration", format!("expirationSeconds is not between 1 and {LIFE_SECONDS_MAX} (365 days)"))),
        None => Err(("Expiration", format!("expirationSeconds is not given: {LIFE_SECONDS_MAX} (365 days) at most"))),
    }
}

fn is_only(parts: &[Part], wanted: &str) -> bool {
    matches!(parts, [Some(only)] if only == wanted)
}

fn is_same(found: &[String], wanted: &[&str]) -> bool {
    found.iter().all(|usage| wanted.contains(&usage.as_str()))
        && wanted.iter().all(|usage| found.iter().any(|f| f == usage))
}

/// Whether it is a DNS-1123 subdomain (RFC 1123, 2.1, in lower case).
fn is_node_name(name: &str) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        let ends = [label.as_bytes().first(), label.as_bytes().last()];
        ends.into_iter().all(|end| end.is_some_and(is_plain))
            && label.bytes().all(|byte| is_plain(&byte) || byte == b'-')
    };
    name.len() <= NODE_BYTES_MAX && name.split('.').all(is_label)
}

fn shown(name: &str) -> String {
    format!("{:?}", bounded(name, NAME_BYTES_SHOWN))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::subject::tests::{CN, O, part, request, request_for_more, wrapped};
    use super::*;
    use crate::kube::certificate::base64;

    const UTF8: u8 = 0x0C;
    const NODE: &str = "system:node:a.b-1";

    fn named(common_names: &[&str], organizations: &[&str]) -> Value {
        let all = |which: &'static [u8], texts: &[&str]| {
            texts.iter().map(|text| part(which, UTF8, text.as_bytes())).collect::<Vec<_>>()
        };
        let parts = [all(O, organizations), all(CN, common_names)].concat();
        json!(base64(request(&parts).as_bytes()))
    }

    fn good() -> Value {
        json!({"metadata": {"name": "x"}, "spec": {"signerName": SIGNER, "username": NODE,
            "groups": ["system:nodes", "system:authenticated"], "usages": ["client auth", "digital signature"],
            "expirationSeconds": 600, "request": named(&["system:multus:a.b-1"], &["system:multus"])}})
    }

    fn with(key: &str, value: Value) -> Verdict {
        let mut object = good();
        object["spec"][key] = value;
        judge(&object)
    }

    fn rule(verdict: Verdict) -> &'static str {
        match verdict {
            Verdict::Deny(rule, why) => {
                assert!(!why.is_empty() && why.len() < 1000, "{why}");
                rule
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_node_gets_its_own_certificate() {
        let approved = Verdict::Approve("a.b-1".to_owned());
        assert_eq!(judge(&good()), approved.clone());
        let mut renewed = good();
        renewed["spec"]["username"] = json!("system:multus:a.b-1");
        renewed["spec"]["groups"] = json!(["system:multus", "system:authenticated"]);
        assert_eq!(judge(&renewed), approved);
        for seconds in [1, LIFE_SECONDS_MAX] {
            assert_eq!(with("expirationSeconds", json!(seconds)), approved);
        }
    }

    #[test]
    fn each_rule_that_is_broken_is_named() {
        for name in ["admin", "system:serviceaccount:kube-system:plexus", "system:nodes:a", "", "x system:node:a.b-1"] {
            assert_eq!(rule(with("username", json!(name))), "Requester", "{name}");
        }
        let long = format!("system:node:{}", "a".repeat(254));
        for name in [
            "system:node:",
            "system:node:A",
            "system:multus:a_b",
            "system:node:a..b",
            "system:node:-a",
            "system:node:a-",
            &long,
        ] {
            assert_eq!(rule(with("username", json!(name))), "NodeName", "{name}");
        }
        for usages in [json!([]), json!(["client auth"]), json!(["client auth", "digital signature", "server auth"])] {
            assert_eq!(rule(with("usages", usages)), "Usages");
        }
        for groups in [json!(["system:nodes", "system:masters"]), json!([]), json!(["system:multus"])] {
            assert_eq!(rule(with("groups", groups)), "Groups");
        }
        let ours = ["system:multus"];
        for names in [
            vec!["system:multus:other"],
            vec![],
            vec!["system:multus:a.b-1"; 2],
            vec!["system:multus:a.b-1", "admin"],
            vec!["admin"],
        ] {
            assert_eq!(rule(with("request", named(&names, &ours))), "CommonName", "{names:?}");
        }
        let own = ["system:multus:a.b-1"];
        for groups in
            [vec![], vec!["system:masters"], vec!["system:multus", "system:masters"], vec!["system:multus"; 2]]
        {
            assert_eq!(rule(with("request", named(&own, &groups))), "Organization", "{groups:?}");
        }
        let hidden = [part(O, UTF8, b"system:multus"), part(O, 0x1E, b"\0x"), part(CN, UTF8, own[0].as_bytes())];
        assert_eq!(rule(with("request", json!(base64(request(&hidden).as_bytes())))), "Organization");
        let both = [part(O, UTF8, b"system:multus"), part(CN, UTF8, own[0].as_bytes())];
        let uid = [0x2B, 6, 1, 4, 1, 0x83, 0xC2, 0x21, 2]; // 1.3.6.1.4.1.57683.2: a user's UID in Kubernetes
        let three = [both.as_slice(), &[part(&uid, UTF8, b"1")]].concat();
        assert_eq!(rule(with("request", json!(base64(request(&three).as_bytes())))), "Subject");
        assert_eq!(rule(with("request", json!(base64(request_for_more(&both).as_bytes())))), "Attributes");
        for seconds in [Value::Null, json!(0), json!(-1), json!(LIFE_SECONDS_MAX + 1)] {
            assert_eq!(rule(with("expirationSeconds", seconds)), "Expiration");
        }
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let strange = named(&["admin"], &["system:masters"]);
        assert_eq!(with("request", strange), Verdict::Leave);
        assert_eq!(with("request", named(&["system:multus"], &["system:multus:x"])), Verdict::Leave);
        assert_eq!(with("request", named(&[], &[])), Verdict::Leave);
        for signer in
            ["kubernetes.io/kube-apiserver-client-kubelet", "example.org/kubernetes.io/kube-apiserver-client", ""]
        {
            assert_eq!(with("signerName", json!(signer)), Verdict::Leave, "{signer}");
        }
        for status in [
            json!({"conditions": [{"type": "Approved"}]}),
            json!({"conditions": [{"type": "Denied"}]}),
            json!({"conditions": [{"type": "Failed"}]}),
            json!({"certificate": "eA=="}),
        ] {
            let mut decided = good();
            decided["status"] = status;
            assert_eq!(judge(&decided), Verdict::Leave);
        }
        for object in [
            json!(null),
            json!([]),
            json!({}),
            json!({"spec": 5}),
            json!({"spec": {"signerName": SIGNER, "groups": "x"}}),
        ] {
            assert_eq!(judge(&object), Verdict::Leave, "{object}");
        }
        let unread = |bytes: &[u8]| with("request", json!(base64(bytes)));
        assert_eq!(unread(b""), Verdict::LeaveUnread(Unreadable::NoPem));
        assert_eq!(unread(wrapped(b"\x30").as_bytes()), Verdict::LeaveUnread(Unreadable::NoRequest));
    }
}
