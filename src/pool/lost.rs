//! Blocks that no copy gives any more, as far as they were met: named in the status, never served.

use crate::base::units::{SlotIndex, VolumeId};
use crate::reactor::sync::lock;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Blocks that are remembered by name; beyond that only the scrub's count tells of them.
pub const LOST_MAX: usize = 4096;

/// A block of a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LostBlock {
    pub volume: VolumeId,
    pub slot: SlotIndex,
    /// Counted from the start of the slot.
    pub block: u32,
}

/// The lost blocks of a pool; safe to use from any core.
#[derive(Default)]
pub struct LostBlocks {
    known: Mutex<BTreeSet<LostBlock>>,
    count: AtomicUsize,
}

impl LostBlocks {
    pub fn note(&self, block: LostBlock) {
        let mut known = lock(&self.known);
        if known.len() < LOST_MAX && known.insert(block) {
            self.count.store(known.len(), Ordering::Release);
        }
    }

    /// These blocks of a slot were written, or could be read after all.
    pub fn forget(&self, volume: VolumeId, slot: SlotIndex, blocks: Range<u32>) {
        if self.is_empty() {
            return;
        }
        let mut known = lock(&self.known);
        known.retain(|l| l.volume != volume || l.slot != slot || !blocks.contains(&l.block));
        self.count.store(known.len(), Ordering::Release);
    }

    /// One look at an atomic: writes ask it every time.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    pub fn list(&self) -> Vec<LostBlock> {
        lock(&self.known).iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_again_is_not_lost_any_more_and_the_list_is_bounded() {
        let lost = LostBlocks::default();
        let at = |slot, block| LostBlock { volume: VolumeId(1), slot: SlotIndex(slot), block };
        (0..10).for_each(|block| lost.note(at(3, block)));
        lost.note(at(4, 5));
        lost.forget(VolumeId(1), SlotIndex(3), 1..10);
        lost.forget(VolumeId(2), SlotIndex(4), 0..10);
        assert_eq!(lost.list(), [at(3, 0), at(4, 5)]);
        (0..2 * u32::try_from(LOST_MAX).expect("small")).for_each(|block| lost.note(at(9, block)));
        assert_eq!(lost.list().len(), LOST_MAX);
    }
}
