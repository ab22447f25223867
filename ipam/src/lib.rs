//! Addresses in, addresses out. Knows no CNI JSON lists, no results and no Kubernetes.
