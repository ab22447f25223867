//! Limits of the rate of a pod's traffic.
