//! One certificate signing request, from its key to what came of it. It does not know who asks, nor where the certificate goes.

use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::Deserialize;
use serde_json::json;

use super::store::Pair;
use crate::kube::call::{Calls, Failure};
use crate::kube::certificate;
use crate::kube::objects::Meta;
use crate::kube::signing::{COLLECTION, ORGANIZATION, SIGNER, USAGES};

/// Bytes of the key that are in the request's name: nobody else has it, and whoever sends it twice makes it once.
const NAME_BYTES: usize = 12;

/// How long it is waited for, as Multus does.
const ISSUE_LIMIT: Duration = Duration::from_secs(120);
/// The first pause between two looks; it doubles up to the other.
const LOOK_MIN: Duration = Duration::from_millis(250);
const LOOK_MAX: Duration = Duration::from_secs(5);
/// How long one look may take, however often it is tried.
const LOOK_TIME: Duration = Duration::from_secs(10);
/// How often it is sent.
const SENDS_MAX: u32 = 4;
/// A certificate with its issuers is shorter.
const CERTIFICATE_BYTES_MAX: usize = 64 << 10;
/// What an approver says is shorter, or cut.
const REASON_CHARS_MAX: usize = 400;

/// What a look sees.
#[derive(Debug, Default, Deserialize)]
struct Seen {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    certificate: Option<ByteString>,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
struct Condition {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// Why there is no certificate.
#[derive(Debug)]
pub(super) enum Refused {
    /// Nobody has decided yet: the same request may still be.
    Late(String),
    /// Nothing will come of it.
    Ended(String),
    /// The server does not take it from who asks; somebody else might be heard.
    Unheard(String),
}

impl Refused {
    fn unheard(act: &str, failure: &Failure) -> Refused {
        let why = format!("{act}: {failure}");
        match failure {
            Failure::Login(_) | Failure::Forbidden(_) => Refused::Unheard(why),
            _ => Refused::Late(why),
        }
    }
}

/// A request, with the key that it is for.
pub(super) struct Signing {
    name: String,
    common_name: String,
    key: KeyPair,
    body: Vec<u8>,
    is_sent: bool,
}

impl Signing {
    /// With a key of its own. `life`: how long the certificate is to live.
    ///
    /// # Errors
    /// A sentence: there is no key to be had.
    pub(super) fn new(common_name: &str, life: Duration) -> Result<Signing, String> {
        let told = |e: rcgen::Error| format!("making a key and a request for its certificate: {e}");
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(told)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, ORGANIZATION);
        params.distinguished_name.push(DnType::CommonName, common_name);
        let request = params.serialize_request(&key).and_then(|request| request.pem()).map_err(told)?;
        // The first byte says how the point is written (SEC 1, 2.3.3).
        let letters = key.public_key_raw().iter().skip(1).take(NAME_BYTES).map(|byte| format!("{byte:02x}"));
        let name = format!("multus-client-{}", letters.collect::<String>());
        let body = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": name},
            "spec": {"request": certificate::base64(request.as_bytes()), "signerName": SIGNER, "usages": USAGES,
                "expirationSeconds": life.as_secs()}});
        let body = body.to_string().into_bytes();
        Ok(Signing { name, common_name: common_name.to_owned(), key, body, is_sent: false })
    }

    pub(super) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Sends it, where that is not done, and waits for what comes of it.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) async fn carry_out(&mut self, calls: &Calls) -> Result<Pair, Refused> {
        self.send(calls).await?;
        let until = Instant::now() + ISSUE_LIMIT;
        let path = format!("{COLLECTION}/{}", self.name);
        let mut pause = LOOK_MIN;
        loop {
            match calls.within(LOOK_TIME).get::<Seen>(&path).await {
                Ok(seen) => {
                    if let Some(pair) = self.read(seen)? {
                        return Ok(pair);
                    }
                }
                Err(Failure::Missing) => return Err(Refused::Ended(format!("{} was deleted", self.title()))),
                Err(failure @ Failure::Passing(_)) if Instant::now() < until => drop(failure),
                Err(failure) => return Err(Refused::unheard(&format!("looking at {}", self.title()), &failure)),
            }
            if Instant::now() + pause >= until {
                return Err(Refused::Late(self.late()));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_MAX);
        }
    }

    async fn send(&mut self, calls: &Calls) -> Result<(), Refused> {
        let (mut sends, mut pause) = (1, LOOK_MIN);
        while !self.is_sent {
            match calls.within(LOOK_TIME).create(COLLECTION, &self.body).await {
                // It has come, and its answer has not.
                Ok(()) | Err(Failure::Conflict(_)) => self.is_sent = true,
                Err(failure) if failure.is_passing() && sends < SENDS_MAX => {
                    sends += 1;
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(failure @ Failure::Lasting(_)) => {
                    return Err(Refused::Ended(format!("creating {}: {failure}", self.title())));
                }
                Err(failure) => return Err(Refused::unheard(&format!("creating {}", self.title()), &failure)),
            }
        }
        Ok(())
    }

    /// None: nobody has decided yet, or who signs has not yet signed.
    fn read(&self, seen: Seen) -> Result<Option<Pair>, Refused> {
        let title = self.title();
        if seen.metadata.name != self.name {
            return Err(Refused::Late(format!("looking at {title}: another object is answered")));
        }
        let said = |kind: &str| seen.status.conditions.iter().find(|condition| condition.kind == kind);
        let ended = |what: &str, condition: &Condition, advice: &str| {
            let Condition { reason, message, .. } = condition;
            let words: String = format!("{reason}: {message}").chars().take(REASON_CHARS_MAX).collect();
            Refused::Ended(format!("{title} {what} ({words}): {advice}"))
        };
        if let Some(denied) = said("Denied") {
            let advice = "whoever approves requests of this cluster must let it have this name, or perNodeCertificate is to be disabled";
            return Err(ended("was denied", denied, advice));
        }
        if let Some(failed) = said("Failed") {
            return Err(ended("was not signed", failed, &format!("see the signer {SIGNER} (kube-controller-manager)")));
        }
        let Some(ByteString(bytes)) = seen.status.certificate.filter(|ByteString(bytes)| !bytes.is_empty()) else {
            return Ok(None);
        };
        if bytes.len() > CERTIFICATE_BYTES_MAX {
            return Err(Refused::Ended(format!("{title}: a certificate of {} bytes is none", bytes.len())));
        }
        let whole = [bytes.as_slice(), b"\n", self.key_pem().as_bytes()].concat();
        let pair = Pair::of(&whole).map_err(|why| Refused::Ended(format!("what was signed for {title}: {why}")))?;
        if !pair.leaf.is_of(&self.common_name, ORGANIZATION) {
            let name = pair.leaf.common_name();
            return Err(Refused::Ended(format!("what was signed for {title} is a certificate of {name:?}")));
        }
        Ok(Some(pair))
    }

    fn title(&self) -> String {
        format!("the certificate signing request {} of {}", self.name, self.common_name)
    }

    fn late(&self) -> String {
        format!(
            "{} is not approved and signed within {} s: `kubectl certificate approve {}` approves it, and an approver of {SIGNER} all of \
             them; it is still waited for",
            self.title(),
            ISSUE_LIMIT.as_secs(),
            self.name
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::kube::approver::{Verdict, judge};
    use crate::kube::enrolment::tests::signed;

    const NODE: &str = "system:multus:node";

    fn signing() -> Signing {
        Signing::new(NODE, Duration::from_secs(600)).unwrap()
    }

    fn read(signing: &Signing, status: &Value) -> Result<Option<Pair>, Refused> {
        let object = json!({"metadata": {"name": signing.name}, "status": status});
        signing.read(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn its_name_is_of_its_key_and_its_spec_is_multus() {
        let (one, other) = (signing(), signing());
        assert_ne!((&one.name, one.key_pem()), (&other.name, other.key_pem()));
        assert!(one.name.len() < 64 && one.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        let body: Value = serde_json::from_slice(&one.body).unwrap();
        let spec = &body["spec"];
        assert_eq!((&spec["expirationSeconds"], &spec["signerName"]), (&json!(600), &json!(SIGNER)));
        assert_eq!(spec["usages"], json!(["digital signature", "client auth"]));
        let text = certificate::text_of(spec["request"].as_str().unwrap()).unwrap();
        assert!(text.starts_with("-----BEGIN CERTIFICATE REQUEST-----"), "{text}");
        let mut sent = body;
        sent["spec"]["username"] = json!("system:node:node");
        sent["spec"]["groups"] = json!(["system:nodes", "system:authenticated"]);
        assert_eq!(judge(&sent), Verdict::Approve("node".to_owned()), "our own approver takes it");
    }

    #[test]
    fn what_a_look_sees_decides() {
        let signing = signing();
        let told = |status: Value| match read(&signing, &status) {
            Err(Refused::Ended(why)) => why,
            other => panic!("{other:?}"),
        };
        for status in [json!({}), json!({"conditions": [{"type": "Approved"}]}), json!({"certificate": ""})] {
            assert!(matches!(read(&signing, &status), Ok(None)), "{status}");
        }
        let long = "x".repeat(100_000);
        let denied = told(json!({"conditions": [{"type": "Denied", "reason": "R", "message": long}]}));
        assert!(denied.contains("was denied (R: xxx") && denied.len() < 1000, "{denied}");
        let failed = told(json!({"conditions": [{"type": "Approved"}, {"type": "Failed", "reason": "R"}]}));
        assert!(failed.contains("was not signed (R: )"), "{failed}");
        let certificate = |text: &str| json!({"certificate": certificate::base64(text.as_bytes())});
        assert!(told(certificate(&"x".repeat(CERTIFICATE_BYTES_MAX + 1))).contains("bytes is none"));
        assert!(told(certificate("x")).contains("there is no certificate in it"));
        let (strange, _) = signed(NODE, "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
        assert!(told(certificate(&strange)).contains("do not belong together"));
        let other = json!({"metadata": {"name": "other"}, "status": certificate(&strange)});
        assert!(matches!(signing.read(serde_json::from_value(other).unwrap()), Err(Refused::Late(_))));
    }

    #[test]
    fn a_certificate_of_another_name_is_refused() {
        let mut signing = signing();
        let (pem, key) = signed("system:masters", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
        signing.key = KeyPair::from_pem(&key).unwrap();
        let status = json!({"certificate": certificate::base64(pem.as_bytes())});
        let refused = read(&signing, &status);
        assert!(matches!(&refused, Err(Refused::Ended(why)) if why.contains("system:masters")), "{refused:?}");
        signing.common_name = "system:masters".to_owned();
        assert!(read(&signing, &status).unwrap().is_some());
    }
}
