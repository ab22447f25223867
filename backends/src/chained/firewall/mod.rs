//! Rules that let a pod's traffic pass the host's filter, where the node's own rules are.
