//! What a pool says about itself: space, protection, and what would be lost with each drive. Computed from the
//! map; nothing here is kept up to date by hand.

use super::Pool;
use super::alloc::usable;
use super::lifecycle::{self, Event};
use super::member::Member;
use super::quorum::{Tally, votes_of};
use super::rebuild::hindrance;
use super::state::{MemberState, State};
use crate::base::limits::BLOCK;
use crate::base::units::{ByteLen, MemberId, Span, VolumeId};
use crate::reactor::sync::lock;
use std::sync::atomic::Ordering;

/// A pool's figures.
#[derive(Clone, Debug)]
pub struct PoolFacts {
    pub state: State,
    pub epoch: u64,
    pub votes: Tally,
    /// Bytes of all extents of members in sync.
    pub raw: ByteLen,
    /// What can still be allocated, for 1, 2 and 3 copies.
    pub free: [ByteLen; 3],
    /// What could be allocated if nothing were, for 1, 2 and 3 copies.
    pub usable: [ByteLen; 3],
    pub members: Vec<MemberFacts>,
    pub volumes: Vec<VolumeFacts>,
    /// What no copy gives any more, as far as it was met.
    pub lost: Vec<LostRange>,
    /// Volume bytes that must stay free so that every slot gets its copies back after the largest drive is lost:
    /// what that drive adds to the space for volumes of the pool's default copies.
    pub heal_needed: ByteLen,
    /// Whether all copies that lie on the largest drive now would find a new place.
    pub heal_possible: bool,
}

/// Bytes of a volume that no copy gives any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LostRange {
    pub volume: String,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub struct MemberFacts {
    pub id: MemberId,
    pub name: String,
    pub path: Option<std::path::PathBuf>,
    pub uuid: uuid::Uuid,
    pub size: ByteLen,
    pub state: MemberState,
    pub in_sync: bool,
    pub reason: String,
    pub rotational: bool,
    pub used: ByteLen,
    /// Bytes of volumes that would have no readable copy without this member, beyond those that have none now.
    pub lost_without: ByteLen,
    /// Bytes of volumes with more than one copy promised that would be left with exactly one.
    pub exposed_without: ByteLen,
    pub read_errors: u64,
    pub write_errors: u64,
    pub checksum_errors: u64,
    /// Blocks that were written again from another copy.
    pub healed_blocks: u64,
}

#[derive(Clone, Debug, Default)]
pub struct VolumeFacts {
    pub id: VolumeId,
    pub name: String,
    pub uuid: uuid::Uuid,
    pub size: ByteLen,
    pub copies: u8,
    pub columns: u32,
    pub unit: ByteLen,
    pub checksums: bool,
    pub lba_bytes: u32,
    pub allocated: ByteLen,
    /// Allocated bytes with fewer readable copies than promised; with exactly one; with none.
    pub below_promise: ByteLen,
    pub single_copy: ByteLen,
    pub unavailable: ByteLen,
}

impl Pool {
    /// The pool's figures now.
    pub fn facts(&self) -> PoolFacts {
        let in_sync = self.shared.members_in_sync();
        let totals: Vec<u32> = in_sync.iter().map(|m| m.layout.extents).collect();
        let (state, free, epoch, present) = {
            let live = lock(&self.shared.live);
            let free: Vec<u32> = in_sync.iter().map(|m| live.free.free(m.id)).collect();
            (live.state.clone(), free, live.epoch, live.votes_present)
        };
        let extent = state.extent;
        let each = |room: &[u32]| [1, 2, 3].map(|copies| ByteLen(usable(room, copies) * extent.0));
        let members: Vec<MemberFacts> =
            state.members.keys().map(|id| self.member_facts(&state, *id)).collect();
        let (heal_needed, heal_possible) = self.heal(&state);
        PoolFacts {
            epoch,
            votes: Tally { present, total: votes_of(state.members.len()) },
            raw: ByteLen(totals.iter().map(|e| u64::from(*e)).sum::<u64>() * extent.0),
            free: each(&free),
            usable: each(&totals),
            volumes: state.volumes.keys().map(|id| self.volume_facts(&state, *id)).collect(),
            members,
            lost: self.lost_ranges(&state),
            heal_needed,
            heal_possible,
            state,
        }
    }

    /// Lost blocks as ranges of their volumes, in order.
    fn lost_ranges(&self, state: &State) -> Vec<LostRange> {
        let volumes = self.shared.volumes.load();
        let mut blocks = Vec::new();
        for lost in self.shared.lost.list() {
            let Some(volume) = volumes.get(&lost.volume) else { continue };
            let shape = volume.shape.load();
            let still = state.volumes.get(&lost.volume).is_some_and(|v| v.slots.contains_key(&lost.slot));
            let at = shape.geometry.byte_of(lost.slot, ByteLen(u64::from(lost.block) * BLOCK));
            if let Some(at) = at.filter(|at| still && at.0 < shape.size.0) {
                blocks.push((shape.name.clone(), at));
            }
        }
        blocks.sort_unstable();
        let mut ranges: Vec<LostRange> = Vec::new();
        for (volume, at) in blocks {
            match ranges.last_mut() {
                Some(last) if last.volume == volume && last.span.end() == at => {
                    last.span = Span::at(last.span.offset().0, last.span.len().0 + BLOCK);
                }
                Some(_) | None => ranges.push(LostRange { volume, span: Span::at(at.0, BLOCK) }),
            }
        }
        ranges
    }

    fn member_facts(&self, state: &State, id: MemberId) -> MemberFacts {
        let member = self.shared.member(id);
        let (mut used, mut lost, mut exposed) = (0, 0, 0);
        for volume in state.volumes.values() {
            for slot in volume.slots.values().filter(|s| s.copies.iter().any(|c| c.member == id)) {
                used += 1;
                // A copy that a resync has not finished is not enough once this one is gone.
                let holders = self.shared.authorities(&slot.copies);
                let here = holders.contains(&id);
                match holders.iter().filter(|m| **m != id).count() {
                    0 if here => lost += 1,
                    1 if here && slot.copies.len() > 1 => exposed += 1,
                    _ => {}
                }
            }
        }
        let bytes = |slots: usize| self.shared.slot_bytes(slots);
        let count = |pick: fn(&crate::disk::ErrorCounts) -> &std::sync::atomic::AtomicU64| {
            member.disk.as_ref().map_or(0, |d| pick(&d.errors).load(Ordering::Relaxed))
        };
        MemberFacts {
            id,
            name: member.name.clone(),
            path: member.disk.as_ref().map(|d| d.path().to_owned()),
            uuid: member.uuid,
            size: state.members[&id].size,
            state: shown_state(&member, state.members[&id].state),
            in_sync: member.is_in_sync(),
            reason: hindrance(&self.shared, &member).unwrap_or_else(|| member.reason()),
            rotational: member.disk.as_ref().is_some_and(|d| d.facts().rotational),
            used: bytes(used),
            lost_without: bytes(lost),
            exposed_without: bytes(exposed),
            read_errors: count(|e| &e.read),
            write_errors: count(|e| &e.write),
            checksum_errors: count(|e| &e.checksum),
            healed_blocks: count(|e| &e.healed),
        }
    }

    fn volume_facts(&self, state: &State, id: VolumeId) -> VolumeFacts {
        let volume = &state.volumes[&id];
        let (mut below, mut single, mut none) = (0, 0, 0);
        for slot in volume.slots.values() {
            let readable = self.shared.holders(&slot.copies).len();
            below += usize::from(readable < usize::from(volume.copies));
            single += usize::from(readable == 1);
            none += usize::from(readable == 0);
        }
        let bytes = |slots: usize| self.shared.slot_bytes(slots);
        VolumeFacts {
            id,
            name: volume.name.clone(),
            uuid: volume.uuid,
            size: volume.size,
            copies: volume.copies,
            columns: volume.segments.iter().map(|s| s.columns).max().unwrap_or(1),
            unit: volume.unit,
            checksums: volume.checksums,
            lba_bytes: volume.lba_bytes,
            allocated: bytes(volume.slots.len()),
            below_promise: bytes(below),
            single_copy: bytes(single),
            unavailable: bytes(none),
        }
    }

    /// What must stay free to heal after losing the largest drive, and whether every lost copy finds a new place.
    fn heal(&self, state: &State) -> (ByteLen, bool) {
        let in_sync = self.shared.members_in_sync();
        let Some(largest) = in_sync.iter().max_by_key(|m| m.layout.extents) else {
            return (ByteLen(0), false);
        };
        let all: Vec<u32> = in_sync.iter().map(|m| m.layout.extents).collect();
        let rest: Vec<u32> =
            in_sync.iter().filter(|m| m.id != largest.id).map(|m| m.layout.extents).collect();
        let needed = usable(&all, state.copies) - usable(&rest, state.copies);
        let mut free = free_without(self, largest.id);
        let slots = state.volumes.values().flat_map(|v| v.slots.values());
        let lost = slots.filter(|s| s.copies.len() > 1 && s.copies.iter().any(|c| c.member == largest.id));
        let possible = lost.fold(state.copies > 1, |possible, slot| possible & place_copy(slot, &mut free));
        (ByteLen(needed * self.shared.extent.0), possible)
    }
}

/// Takes an extent for a new copy of a slot from the member with most room that has none yet.
fn place_copy(slot: &super::state::SlotRecord, free: &mut [(MemberId, u32)]) -> bool {
    let taken = |m: &MemberId| slot.copies.iter().any(|c| c.member == *m);
    match free.iter_mut().filter(|(m, _)| !taken(m)).max_by_key(|(_, free)| *free) {
        Some((_, free)) if *free > 0 => {
            *free -= 1;
            true
        }
        Some(_) | None => false,
    }
}

/// Free extents of the members in sync but one.
fn free_without(pool: &Pool, without: MemberId) -> Vec<(MemberId, u32)> {
    let live = lock(&pool.shared.live);
    let members = pool.shared.members_in_sync();
    let others = members.iter().filter(|m| m.id != without);
    others.map(|m| (m.id, live.free.free(m.id))).collect()
}

/// What people are told about a member: what is committed, and what is suspected.
fn shown_state(member: &Member, committed: MemberState) -> MemberState {
    let suspected = member.is_in_sync() && member.is_suspect();
    if suspected { lifecycle::after(Event::Slow, committed).unwrap_or(committed) } else { committed }
}
