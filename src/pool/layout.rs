//! Where things lie on a member. Pure arithmetic; the byte table is in docs/format.md.
//!
//! ```text
//! 0            superblock, front
//! 64 KiB       metadata log, generation 0, then generation 1
//!              dirty log: plane "dirty", then plane "missed"
//!              region blocks: two for every region of every extent
//!              extents
//! end - 4 KiB  superblock, back
//! ```

use crate::base::limits::{BLOCK, EXTENT_MAX, EXTENT_MIN, EXTENTS_PER_MEMBER_MIN, REGION_MAX};
use crate::base::units::{ByteLen, ByteOffset, ExtentIndex, RegionIndex, round_down, round_up};

/// Where the metadata log starts; what lies between is the front superblock and reserved space.
pub const LOG_START: ByteOffset = ByteOffset(64 << 10);

/// Bounds of one generation of the metadata log, bytes.
pub const LOG_GENERATION_MIN: u64 = 512 << 10;
pub const LOG_GENERATION_MAX: u64 = 64 << 20;

/// Bytes of one region's two blocks in the region area.
pub const REGION_BLOCKS_LEN: u64 = 2 * BLOCK;

/// Region bits in one 512-byte sector of the dirty log; the rest of the sector is its header.
pub const DIRTY_BITS_PER_SECTOR: u64 = (512 - DIRTY_HEADER_LEN) * 8;
pub const DIRTY_HEADER_LEN: u64 = 16;

/// The layout of one member, a function of its size and the pool's extent size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemberLayout {
    /// The member's size rounded down to whole blocks.
    pub size: ByteLen,
    pub extent: ByteLen,
    pub region: ByteLen,
    pub extents: u32,
    /// Bytes of one of the two generations of the metadata log.
    pub log_generation: ByteLen,
    pub dirty_start: ByteOffset,
    /// Bytes of one plane of the dirty log.
    pub dirty_plane: ByteLen,
    pub regions_start: ByteOffset,
    pub extents_start: ByteOffset,
}

/// The size of a region for an extent size.
pub fn region_size(extent: ByteLen) -> ByteLen {
    ByteLen(extent.0.min(REGION_MAX))
}

/// The layout of a member of `size` bytes in a pool with this extent size; None if not one extent fits.
pub fn member_layout(size: ByteLen, extent: ByteLen) -> Option<MemberLayout> {
    let size = round_down(size.0, BLOCK);
    let region = region_size(extent).0;
    let per_extent = extent.0 / region;
    let generation = round_up((size / 128).clamp(LOG_GENERATION_MIN, LOG_GENERATION_MAX), BLOCK);
    let dirty_start = LOG_START.0 + 2 * generation;
    let place = |extents: u64| -> MemberLayout {
        let regions = extents * per_extent;
        let plane = round_up(regions.div_ceil(DIRTY_BITS_PER_SECTOR) * 512, BLOCK);
        let regions_start = dirty_start + 2 * plane;
        let extents_start = round_up(regions_start + regions * REGION_BLOCKS_LEN, 64 << 10);
        MemberLayout {
            size: ByteLen(size),
            extent,
            region: ByteLen(region),
            extents: u32::try_from(extents).unwrap_or(u32::MAX),
            log_generation: ByteLen(generation),
            dirty_start: ByteOffset(dirty_start),
            dirty_plane: ByteLen(plane),
            regions_start: ByteOffset(regions_start),
            extents_start: ByteOffset(extents_start),
        }
    };
    let room = size.checked_sub(dirty_start + BLOCK)?;
    let most = room / (extent.0 + per_extent * REGION_BLOCKS_LEN);
    // The dirty log and alignment cost at most a few extents more.
    (1..=most.min(u64::from(u32::MAX))).rev().map(place).find(|layout| layout.end() + BLOCK <= size)
}

/// The extent size for a new pool of members of these sizes: a power of two, such that the smallest member gets
/// about 512 extents and at least `EXTENTS_PER_MEMBER_MIN` where that is possible at all.
pub fn extent_size_for(sizes: &[ByteLen]) -> ByteLen {
    let smallest = sizes.iter().map(|s| s.0).min().unwrap_or(0);
    let mut extent = EXTENT_MAX;
    while extent > EXTENT_MIN && extent > smallest / 512 {
        extent /= 2;
    }
    ByteLen(extent)
}

/// The smallest drive that a pool takes: one that holds `EXTENTS_PER_MEMBER_MIN` of the smallest extents.
pub fn member_size_min() -> ByteLen {
    let mut size = EXTENTS_PER_MEMBER_MIN * EXTENT_MIN;
    let enough = |size| {
        member_layout(ByteLen(size), ByteLen(EXTENT_MIN))
            .is_some_and(|l| u64::from(l.extents) >= EXTENTS_PER_MEMBER_MIN)
    };
    while !enough(size) {
        size += EXTENT_MIN;
    }
    ByteLen(size)
}

impl MemberLayout {
    fn end(&self) -> u64 {
        self.extents_start.0 + u64::from(self.extents) * self.extent.0
    }

    pub fn regions_per_extent(&self) -> u32 {
        u32::try_from(self.extent.0 / self.region.0).expect("128 at most")
    }

    /// The two superblocks: front and back.
    pub fn superblocks(&self) -> [ByteOffset; 2] {
        [ByteOffset(0), ByteOffset(self.size.0 - BLOCK)]
    }

    /// Where a generation of the metadata log starts.
    pub fn log_start(&self, generation: u64) -> ByteOffset {
        LOG_START + ByteLen((generation % 2) * self.log_generation.0)
    }

    /// A byte of an extent's data.
    pub fn data(&self, extent: ExtentIndex, offset: ByteLen) -> ByteOffset {
        self.extents_start + ByteLen(u64::from(extent.0) * self.extent.0) + offset
    }

    /// One of the two blocks that describe a region.
    pub fn region_block(&self, extent: ExtentIndex, region: RegionIndex, version: u64) -> ByteOffset {
        let number = self.region_number(extent, region);
        self.regions_start + ByteLen(number * REGION_BLOCKS_LEN + (version % 2) * BLOCK)
    }

    /// A region's number on this member: its bit in the dirty log.
    pub fn region_number(&self, extent: ExtentIndex, region: RegionIndex) -> u64 {
        u64::from(extent.0) * u64::from(self.regions_per_extent()) + u64::from(region.0)
    }

    /// Regions on this member.
    pub fn regions(&self) -> u64 {
        u64::from(self.extents) * u64::from(self.regions_per_extent())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_do_not_overlap_and_end_before_the_back_superblock() {
        for size in [70_000_000, 80_000_000, 500_000_000, 80_000_000_000, 8_000_000_000_000u64] {
            let extent = extent_size_for(&[ByteLen(size)]);
            let l = member_layout(ByteLen(size), extent).unwrap();
            assert!(u64::from(l.extents) >= EXTENTS_PER_MEMBER_MIN, "{size}: {}", l.extents);
            assert!(l.log_start(1).0 + l.log_generation.0 <= l.dirty_start.0);
            assert!(l.dirty_start.0 + 2 * l.dirty_plane.0 <= l.regions_start.0);
            let last = l.region_block(ExtentIndex(l.extents - 1), RegionIndex(l.regions_per_extent() - 1), 1);
            assert!(last.0 + BLOCK <= l.extents_start.0);
            assert!(l.end() <= l.superblocks()[1].0);
            assert!(l.end() + extent.0 + (1 << 20) > l.size.0 - (64 << 10), "little is wasted");
        }
    }

    #[test]
    fn a_member_without_room_for_an_extent_has_no_layout() {
        assert_eq!(member_layout(ByteLen(1 << 20), ByteLen(1 << 20)), None);
        assert!(member_size_min().0 < 80_000_000);
    }
}
