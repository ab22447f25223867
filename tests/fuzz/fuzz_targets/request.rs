//! A request for a certificate may be anything: the approver never panics, and approves none without the name of who asks.
//!
//! The first byte says whether the others are the DER that is in a PEM, or all of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plexus::kube::approver::{Verdict, judge};
use plexus::takeover::base64;
use serde_json::json;

const NAME: &[u8] = b"system:multus:n";

fuzz_target!(|bytes: &[u8]| {
    let Some((which, content)) = bytes.split_first() else { return };
    let is_der = which % 2 == 0;
    let pem = if is_der {
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", base64::encode(content)).into_bytes()
    } else {
        content.to_vec()
    };
    let object = json!({"spec": {"signerName": "kubernetes.io/kube-apiserver-client", "username": "system:node:n",
        "groups": ["system:nodes"], "usages": ["client auth", "digital signature"], "expirationSeconds": 600, "request": base64::encode(&pem)}});
    if judge(&object) == Verdict::Approve("n".to_owned()) && is_der {
        assert!(content.windows(NAME.len()).any(|part| part == NAME), "the name of who asks");
    }
});
