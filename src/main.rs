//! `plexus`: what a person runs.
fn main() {}
