//! One file per kind of interface: builds it, observes it, removes it. Knows no CNI JSON lists, no results and no Kubernetes.
