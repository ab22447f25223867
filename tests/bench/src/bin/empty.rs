//! `empty`: what a static program's start takes that does nothing.

fn main() {}
