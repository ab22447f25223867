//! What fuzz targets reach (`tests/fuzz`), and nobody else: this module is there only in their builds.

use crate::netlink;
use crate::nft;

/// Reads a datagram as every question of this crate would read its answers.
pub fn netlink(bytes: &[u8]) {
    netlink::read_anything(bytes);
}

/// The same for answers of nftables.
pub fn nftables(bytes: &[u8]) {
    nft::read_anything(bytes);
}
