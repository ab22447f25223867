//! When a certificate is used and when it is renewed, and what a request says.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};

use super::*;

/// A certificate of this name, and its key.
pub(super) fn signed(common_name: &str, begin: &str, end: &str) -> (String, String) {
    let time = |text: &str| {
        let second = text.parse::<Timestamp>().unwrap().as_second();
        (std::time::UNIX_EPOCH + Duration::from_secs(second.try_into().unwrap())).into()
    };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (time(begin), time(end));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, ORGANIZATION);
    params.distinguished_name.push(DnType::CommonName, common_name);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn pair(common_name: &str, begin: &str, end: &str) -> Pair {
    let (pem, key) = signed(common_name, begin, end);
    Pair::of((pem + &key).as_bytes()).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

const NODE: &str = "system:multus:node";

#[test]
fn it_is_renewed_between_seven_and_nine_tenths_of_its_time() {
    let now = at("2026-01-01T00:00:00Z");
    let mut times: Vec<i64> = (0..40)
        .map(|_| {
            let found = Ok(Some(pair(NODE, "2026-01-01T00:00:00Z", "2026-01-01T00:16:40Z")));
            match standing(&found, NODE, now) {
                Standing::Good { renew_at } => renew_at - now.as_second(),
                other => panic!("{other:?}"),
            }
        })
        .collect();
    times.sort_unstable();
    times.dedup();
    assert!(times.iter().all(|second| (700..=900).contains(second)), "{times:?}");
    assert!(times.len() > 5, "not all at once: {times:?}");
}

#[test]
fn only_one_that_is_this_nodes_and_not_over_is_used() {
    let long = || pair(NODE, "2026-01-01T00:00:00Z", "2999-12-31T23:59:59Z");
    let now = at("2026-01-02T00:00:00Z");
    assert!(
        matches!(standing(&Ok(Some(long())), NODE, now), Standing::Good { renew_at } if renew_at > now.as_second())
    );
    assert_eq!(standing(&Ok(None), NODE, now), Standing::None);
    let useless = |found: Result<Option<Pair>, String>, why: &str| match standing(&found, NODE, now) {
        Standing::Useless(told) => assert!(told.contains(why), "{told}"),
        other => panic!("{other:?}"),
    };
    useless(Err("broken".to_owned()), "broken");
    useless(
        Ok(Some(pair("system:multus:other", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"))),
        "system:multus:other",
    );
    useless(
        Ok(Some(pair(NODE, "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"))),
        "was valid until 2026-01-02T00:00:00Z",
    );
}

#[test]
fn pauses_double_up_to_a_bound() {
    let mut rounds = Rounds::default();
    let pauses: Vec<Duration> = (0..12).map(|_| rounds.back_off()).collect();
    assert!(pauses.iter().all(|pause| *pause <= RETRY_MAX && *pause >= RETRY_MIN / 2), "{pauses:?}");
    assert!(pauses[11] >= RETRY_MAX / 2, "{pauses:?}");
}

#[test]
fn without_a_login_a_folder_or_a_name_it_is_refused() {
    let whole = Certificate {
        enabled: true,
        bootstrap_kubeconfig: Some("/b".into()),
        dir: Some("/d".into()),
        duration: Duration::from_secs(600),
    };
    let node = || Some("node".to_owned());
    assert!(Wanted::of(&whole, node()).unwrap().is_some());
    assert_eq!(Wanted::of(&Certificate { enabled: false, ..whole.clone() }, None), Ok(None));
    for (certificate, node, part) in [
        (Certificate { bootstrap_kubeconfig: None, ..whole.clone() }, node(), "bootstrapKubeconfig is not given"),
        (Certificate { dir: None, ..whole.clone() }, node(), "certDir is not given"),
        (whole.clone(), None, "MULTUS_NODE_NAME"),
        (whole, Some("a/b".to_owned()), "no name of an object"),
    ] {
        let error = Wanted::of(&certificate, node).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}
