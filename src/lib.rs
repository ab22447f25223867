//! plexus attaches pods to networks. Read `src/README.md` first: it is the map of this crate.
