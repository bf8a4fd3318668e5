//! Which slots have fewer or more copies than their volume is to have, and what is to be done about it. Pure.
//!
//! The map alone tells how far a change of a volume's number of copies is: a slot that does not have the number yet is
//! left to be done, whatever was cut off where, and a number that is set back makes what is left the other way round.
//!
//! A copy is added only where nothing is lacking: all copies of the slot are in sync, and no copy is being made anew or
//! brought up to date. A copy may go as long as another one is in sync. Those that are out of sync go first: they are
//! worth least, and need not be made again then. While one is being brought up to date that is waited for.

use super::error::PoolError;
use super::leaving::Fit;
use super::redundancy::mirror::{Copies, Copy};
use super::state::{FreeExtents, MemberState, SlotRecord, State, VolumeRecord};
use crate::base::limits::COPIES_MAX;
use crate::base::units::{ByteLen, MemberId, SlotIndex, VolumeId};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// A slot that is to get one copy more, or one less.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Task {
    pub volume: VolumeId,
    pub slot: SlotIndex,
}

/// Copies that slots lack, one task for each: those of slots with the fewest first.
pub fn lacking(state: &State) -> Vec<Task> {
    in_order(state, |record, slot| slot.copies.len()..usize::from(record.copies))
}

/// Copies that slots have too many, one task for each: those of slots with the most first.
pub fn surplus(state: &State) -> Vec<Task> {
    let of = |record: &VolumeRecord, slot: &SlotRecord| {
        let (copies, wanted) = (slot.copies.len(), usize::from(record.copies));
        COPIES_MAX - copies..COPIES_MAX - wanted.min(copies)
    };
    in_order(state, of)
}

/// Whether every slot has the copies that it is to have.
pub fn are_as_asked(state: &State) -> bool {
    let whole = |v: &VolumeRecord| v.slots.values().all(|s| s.copies.len() == usize::from(v.copies));
    state.volumes.values().all(whole)
}

/// A task for each rank that a slot has, those of the lowest rank first.
fn in_order(
    state: &State,
    ranks: impl Fn(&VolumeRecord, &SlotRecord) -> std::ops::Range<usize>,
) -> Vec<Task> {
    let mut found = Vec::new();
    for (volume, record) in &state.volumes {
        for (slot, placed) in &record.slots {
            let task = Task { volume: *volume, slot: *slot };
            found.extend(ranks(record, placed).map(|rank| (rank, task)));
        }
    }
    found.sort_by_key(|(rank, task)| (*rank, task.volume, task.slot));
    found.into_iter().map(|(_, task)| task).collect()
}

/// Whether a slot is to get one more copy, and may now.
pub fn may_grow(state: &State, volume: VolumeId, slot: SlotIndex) -> bool {
    let Some((record, slot)) = find(state, volume, slot) else { return false };
    let in_sync = slot.copies.iter().all(|c| state.is_in_sync(c.member));
    let calm = |m: MemberState| !matches!(m, MemberState::Resyncing | MemberState::Rebuilding);
    slot.copies.len() < usize::from(record.copies) && in_sync && state.members.values().all(|m| calm(m.state))
}

/// Whether a slot is to lose a copy, and may lose this one now: another one is in sync, and none is on its way to be.
pub fn may_lose(state: &State, volume: VolumeId, slot: SlotIndex, copy: Copy) -> bool {
    let Some((record, slot)) = find(state, volume, slot) else { return false };
    let standing = |c: &Copy| state.members.get(&c.member).map(|m| m.state);
    slot.copies.len() > usize::from(record.copies)
        && slot.copies.contains(&copy)
        && slot.copies.iter().all(|c| standing(c) != Some(MemberState::Resyncing))
        && slot.copies.iter().any(|c| *c != copy && state.is_in_sync(c.member))
}

/// The copy of a slot that goes, of those that may: one that is out of sync before one that is not, the one that misses
/// most before others; then one on a member that leaves; then the one on the member that is filled most in proportion.
pub fn that_goes(
    state: &State,
    used: impl Fn(MemberId) -> u32,
    volume: VolumeId,
    slot: SlotIndex,
) -> Option<Copy> {
    let (_, record) = find(state, volume, slot)?;
    let worth = |copy: &&Copy| {
        let member = &state.members[&copy.member];
        let rank = Reverse((!state.is_in_sync(copy.member)).then_some(member.absence.rank));
        let out = !state.is_in_sync(copy.member);
        let filled = (u64::from(used(copy.member)) << 32) / u64::from(member.extents.max(1));
        (out, rank, member.leaving, filled, copy.member)
    };
    let may = record.copies.iter().filter(|copy| may_lose(state, volume, slot, **copy));
    may.max_by_key(worth).copied()
}

fn find(state: &State, volume: VolumeId, slot: SlotIndex) -> Option<(&VolumeRecord, &SlotRecord)> {
    let record = state.volumes.get(&volume)?;
    Some((record, record.slots.get(&slot)?))
}

/// Whether a volume may be told to have so many copies.
///
/// # Errors
/// Why not, with the numbers.
pub fn check(
    state: &State,
    id: VolumeId,
    copies: u8,
    unprotected: bool,
    free: &FreeExtents,
) -> Result<(), PoolError> {
    let record = state.volumes.get(&id).ok_or_else(|| PoolError::NoVolume(format!("{id:?}")))?;
    if !(1..=COPIES_MAX).contains(&usize::from(copies)) {
        return Err(PoolError::Invalid(format!("a volume has 1 to {COPIES_MAX} copies")));
    }
    let name = record.name.clone();
    if copies == 1 && record.copies > 1 && !unprotected {
        let (stored, lost) = exposed(state, id, free);
        return Err(PoolError::WouldBeUnprotected { name, stored, lost });
    }
    if copies <= record.copies {
        return Ok(());
    }
    let stays = state.members.values().filter(|m| !m.leaving && m.state == MemberState::Active);
    let rooms: Vec<u64> = stays.map(|m| u64::from(m.extents)).collect();
    if rooms.len() < usize::from(copies) {
        return Err(PoolError::TooFewForCopies { name, copies, drives: rooms.len() });
    }
    let mut after = state.clone();
    after.volumes.entry(id).and_modify(|v| v.copies = copies);
    let of = |state: &State| Fit::promised(rooms.clone(), state).homeless();
    let homeless = of(&after);
    if homeless > 0 && homeless > of(state) {
        let bytes = |extents: u64| ByteLen(extents * state.extent.0);
        let more = |slot: &SlotRecord| usize::from(copies).saturating_sub(slot.copies.len()) as u64; // widening
        let needed = record.slots.values().map(more).sum();
        return Err(PoolError::NoRoomForCopies {
            name,
            copies,
            needed: bytes(needed),
            short: bytes(homeless),
        });
    }
    Ok(())
}

/// Bytes that a volume stores, and how many of them the member has that would have most, if each of its slots had one
/// copy.
fn exposed(state: &State, id: VolumeId, free: &FreeExtents) -> (ByteLen, ByteLen) {
    let Some(record) = state.volumes.get(&id) else { return (ByteLen(0), ByteLen(0)) };
    let mut after = state.clone();
    after.volumes.entry(id).and_modify(|v| v.copies = 1);
    let mut used: BTreeMap<MemberId, u32> = state.members.keys().map(|m| (*m, free.in_use(*m))).collect();
    let mut held: BTreeMap<MemberId, u64> = BTreeMap::new();
    for slot in record.slots.keys() {
        while let Some(copy) = that_goes(&after, |m| used[&m], id, *slot) {
            used.entry(copy.member).and_modify(|used| *used = used.saturating_sub(1));
            let slots = after.volumes.get_mut(&id).and_then(|v| v.slots.get_mut(slot));
            slots.expect("it is there").copies.retain(|c| *c != copy);
        }
        let left: &Copies = &after.volumes[&id].slots[slot].copies;
        left.iter().for_each(|c| *held.entry(c.member).or_default() += 1);
    }
    let bytes = |slots: u64| ByteLen(slots * state.extent.0);
    (bytes(record.slots.len() as u64), bytes(held.values().copied().max().unwrap_or(0))) // widening
}

#[cfg(test)]
mod tests;
