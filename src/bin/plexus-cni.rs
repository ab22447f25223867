//! `plexus-cni`: what the container runtime executes.
fn main() {}
