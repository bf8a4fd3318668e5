//! Thin wrappers of xxh3: one for data blocks, one for metadata structures.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The seed that ties a data block's checksum to where the block belongs, so that a block written to the
/// wrong place does not verify there.
pub fn block_seed(pool: u64, volume: u32, slot: u32, stamp: u64, block: u32) -> u64 {
    let mut id = [0; 28];
    id[0..8].copy_from_slice(&pool.to_le_bytes());
    id[8..12].copy_from_slice(&volume.to_le_bytes());
    id[12..16].copy_from_slice(&slot.to_le_bytes());
    id[16..24].copy_from_slice(&stamp.to_le_bytes());
    id[24..28].copy_from_slice(&block.to_le_bytes());
    xxh3_64(&id)
}

/// The 32-bit checksum of a data block under the seed of its place.
pub fn block_sum(seed: u64, block: &[u8]) -> u32 {
    let wide = xxh3_64_with_seed(block, seed);
    // Truncation is meant: the low half of xxh3 is as good as any other.
    (wide & 0xffff_ffff) as u32
}

/// The 64-bit checksum of a metadata structure.
pub fn structure_sum(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// A number drawn by lot: always the same for the same three, and as good as independent for others.
pub fn lot_of(volume: u32, slot: u32, member: u16) -> u16 {
    let mut id = [0; 10];
    id[0..4].copy_from_slice(&volume.to_le_bytes());
    id[4..8].copy_from_slice(&slot.to_le_bytes());
    id[8..10].copy_from_slice(&member.to_le_bytes());
    // Truncation is meant.
    (xxh3_64(&id) & 0xffff) as u16
}
