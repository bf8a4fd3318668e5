//! What a commit was about that failed: it may be in the log all the same, and then the next opening goes by it.
//!
//! Where that would take bytes away (a slot that may be free, or may lie elsewhere; a volume that may be gone) nothing
//! is written any more until the pool is opened again: a write that was answered could be lost.

use super::state::Change;
use crate::base::units::{SlotIndex, VolumeId};
use crate::reactor::sync::lock;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// The slots and volumes of a pool whose place is in doubt; safe to use from any core.
#[derive(Default)]
pub struct Doubts {
    any: AtomicBool,
    /// None: the whole volume.
    places: Mutex<BTreeSet<(VolumeId, Option<SlotIndex>)>>,
}

impl Doubts {
    /// These changes could not be committed, and may have been.
    pub fn note(&self, changes: &[Change]) {
        let mut places = lock(&self.places);
        places.extend(changes.iter().filter_map(place_of));
        self.any.store(!places.is_empty(), Ordering::Release);
    }

    /// Whether a slot may not be where it is written.
    pub fn concern(&self, volume: VolumeId, slot: SlotIndex) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let places = lock(&self.places);
        places.contains(&(volume, Some(slot))) || places.contains(&(volume, None))
    }
}

fn place_of(change: &Change) -> Option<(VolumeId, Option<SlotIndex>)> {
    match change {
        Change::SlotFreed { id, slot } | Change::SlotMoved { id, slot, .. } => Some((*id, Some(*slot))),
        Change::VolumeDestroyed { id } => Some((*id, None)),
        Change::Opened { .. }
        | Change::Closed
        | Change::MemberState { .. }
        | Change::MemberNamed { .. }
        | Change::MemberAdded { .. }
        | Change::MemberLeaving { .. }
        | Change::MemberGone { .. }
        | Change::Spreading { .. }
        | Change::VolumeCreated { .. }
        | Change::VolumeResized { .. }
        | Change::VolumeRenamed { .. }
        | Change::VolumeReserved { .. }
        | Change::VolumeCopies { .. }
        | Change::SlotAllocated { .. }
        | Change::Scrubbed { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_that_may_be_free_and_volumes_that_may_be_gone_are_in_doubt() {
        let doubts = Doubts::default();
        let (id, other) = (VolumeId(1), VolumeId(2));
        doubts.note(&[Change::VolumeRenamed { id, name: "new".to_owned() }]);
        assert!(!doubts.concern(id, SlotIndex(3)));
        doubts.note(&[Change::SlotFreed { id, slot: SlotIndex(3) }, Change::VolumeDestroyed { id: other }]);
        assert!(doubts.concern(id, SlotIndex(3)) && !doubts.concern(id, SlotIndex(4)));
        assert!(doubts.concern(other, SlotIndex(0)));
    }
}
