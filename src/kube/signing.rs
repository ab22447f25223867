//! What who asks for a node's certificate and who approves it have in common: where requests are, and Multus' words, which its daemon, its
//! approver and the roles of a cluster know.

/// All requests of the cluster.
pub(super) const COLLECTION: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// Who signs certificates by which the API server is asked.
pub(super) const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
/// What the certificate is good for.
pub(super) const USAGES: [&str; 2] = ["digital signature", "client auth"];
/// Whose members have such a certificate, and what its names begin with.
pub(super) const ORGANIZATION: &str = "system:multus";
