//! Ports of the host that lead to a pod, by nftables.
