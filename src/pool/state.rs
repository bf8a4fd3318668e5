//! What a pool knows about itself: members, volumes, and which extents hold which slots.
//!
//! `State` is what a checkpoint stores; `Change` is what a log record stores; `State::apply` is the only way
//! from one to the next, so that a replayed log gives what the running pool had. Pure.

use super::redundancy::mirror::{Copies, Copy};
use super::redundancy::stripe::Segment;
use crate::base::units::{ByteLen, ExtentIndex, MemberId, SlotIndex, VolumeId};
use std::collections::BTreeMap;
use uuid::Uuid;

/// What is known of a member. The transitions are in `lifecycle`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberState {
    /// Its copies are in sync: read and written.
    Active,
    /// It was not there, or vanished; its copies may have missed writes since.
    Missing,
    /// It is there, but its copies missed writes: not read, not written.
    Stale,
    /// It failed a write, a flush, or a metadata commit.
    Faulted,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberRecord {
    pub uuid: Uuid,
    pub size: ByteLen,
    pub extents: u32,
    pub state: MemberState,
    /// The name it was last known by, for messages about a drive that is not there.
    pub name: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeRecord {
    pub uuid: Uuid,
    pub name: String,
    pub size: ByteLen,
    pub copies: u8,
    pub unit: ByteLen,
    pub checksums: bool,
    pub segments: Vec<Segment>,
    pub slots: BTreeMap<SlotIndex, SlotRecord>,
}

/// Where a slot's copies lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotRecord {
    /// The sequence number of the commit that allocated it. Region blocks carry it: one with another stamp is
    /// left over from an earlier use of the extent and says nothing.
    pub stamp: u64,
    pub copies: Copies,
}

/// Everything a pool knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    pub pool: Uuid,
    pub name: String,
    pub extent: ByteLen,
    /// Copies of a volume that does not ask for another number.
    pub copies: u8,
    /// The drives were flushed and nothing was written since.
    pub clean: bool,
    /// Somebody opened the pool without a majority, by order.
    pub forced: bool,
    pub members: BTreeMap<MemberId, MemberRecord>,
    pub volumes: BTreeMap<VolumeId, VolumeRecord>,
    pub next_volume: u32,
}

/// One change of a pool's state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    Opened { forced: bool },
    Closed,
    MemberState { member: MemberId, state: MemberState },
    MemberNamed { member: MemberId, name: String },
    VolumeCreated { id: VolumeId, volume: VolumeRecord },
    VolumeGrown { id: VolumeId, size: ByteLen, segments: Vec<Segment> },
    VolumeRenamed { id: VolumeId, name: String },
    VolumeDestroyed { id: VolumeId },
    SlotAllocated { id: VolumeId, slot: SlotIndex, copies: Copies },
    SlotFreed { id: VolumeId, slot: SlotIndex },
}

/// A record of the log that does not fit the state before it: the log is not one history.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a record does not fit the state before it")]
pub struct Contradiction;

impl State {
    /// Applies a change that the commit with this sequence number carries.
    pub fn apply(&mut self, sequence: u64, change: &Change) -> Result<(), Contradiction> {
        match change {
            Change::Opened { forced } => {
                self.clean = false;
                self.forced |= *forced;
            }
            Change::Closed => self.clean = true,
            Change::MemberState { member, state } => self.member_mut(*member)?.state = *state,
            Change::MemberNamed { member, name } => self.member_mut(*member)?.name.clone_from(name),
            Change::VolumeCreated { id, volume } => {
                if id.0 < self.next_volume || self.volume_named(&volume.name).is_some() {
                    return Err(Contradiction);
                }
                self.next_volume = id.0.checked_add(1).ok_or(Contradiction)?;
                self.volumes.insert(*id, volume.clone());
            }
            Change::VolumeGrown { id, size, segments } => {
                let volume = self.volume_mut(*id)?;
                volume.size = *size;
                volume.segments.clone_from(segments);
            }
            Change::VolumeRenamed { id, name } => self.volume_mut(*id)?.name.clone_from(name),
            Change::VolumeDestroyed { id } => {
                self.volumes.remove(id).ok_or(Contradiction)?;
            }
            Change::SlotAllocated { id, slot, copies } => {
                let known = |c: &Copy| self.members.get(&c.member).is_some_and(|m| c.extent.0 < m.extents);
                if copies.is_empty() || !copies.iter().all(known) {
                    return Err(Contradiction);
                }
                let record = SlotRecord { stamp: sequence, copies: copies.clone() };
                match self.volume_mut(*id)?.slots.insert(*slot, record) {
                    None => {}
                    Some(_) => return Err(Contradiction),
                }
            }
            Change::SlotFreed { id, slot } => {
                self.volume_mut(*id)?.slots.remove(slot).ok_or(Contradiction)?;
            }
        }
        Ok(())
    }

    pub fn volume_named(&self, name: &str) -> Option<VolumeId> {
        self.volumes.iter().find(|(_, v)| v.name == name).map(|(id, _)| *id)
    }

    pub fn is_in_sync(&self, member: MemberId) -> bool {
        self.members.get(&member).is_some_and(|m| m.state == MemberState::Active)
    }

    /// Every extent in use, with its user. A pair of equal entries would be two slots on one extent.
    pub fn extents_in_use(&self) -> impl Iterator<Item = (Copy, VolumeId, SlotIndex)> + '_ {
        self.volumes.iter().flat_map(|(id, volume)| {
            volume.slots.iter().flat_map(|(slot, record)| record.copies.iter().map(|c| (*c, *id, *slot)))
        })
    }

    fn member_mut(&mut self, member: MemberId) -> Result<&mut MemberRecord, Contradiction> {
        self.members.get_mut(&member).ok_or(Contradiction)
    }

    fn volume_mut(&mut self, id: VolumeId) -> Result<&mut VolumeRecord, Contradiction> {
        self.volumes.get_mut(&id).ok_or(Contradiction)
    }
}

/// Which extents of the members are free; derived from the state, kept beside it.
#[derive(Clone, Debug, Default)]
pub struct FreeExtents {
    used: BTreeMap<MemberId, (crate::base::bitmap::Bitmap, u32, usize)>,
}

impl FreeExtents {
    /// Derives the map; fails if two slots claim one extent.
    pub fn of(state: &State) -> Result<FreeExtents, Contradiction> {
        let mut free = FreeExtents::default();
        for (id, member) in &state.members {
            let extents = ByteLen(u64::from(member.extents)).as_usize();
            free.used.insert(*id, (crate::base::bitmap::Bitmap::new(extents), 0, 0));
        }
        for (copy, _, _) in state.extents_in_use() {
            free.occupy(copy)?;
        }
        Ok(free)
    }

    pub fn free(&self, member: MemberId) -> u32 {
        self.used.get(&member).map_or(0, |(map, used, _)| u32::try_from(map.len()).unwrap_or(u32::MAX) - used)
    }

    pub fn in_use(&self, member: MemberId) -> u32 {
        self.used.get(&member).map_or(0, |(_, used, _)| *used)
    }

    /// Takes a free extent of a member, the one after the last taken, so that a slot's neighbours lie together.
    pub fn take(&mut self, member: MemberId) -> Option<ExtentIndex> {
        let (map, used, next) = self.used.get_mut(&member)?;
        let found = (*next..map.len()).chain(0..*next).find(|e| !map.get(*e))?;
        map.set(found, true);
        *used += 1;
        *next = found + 1;
        u32::try_from(found).ok().map(ExtentIndex)
    }

    pub fn give_back(&mut self, copy: Copy) {
        if let Some((map, used, _)) = self.used.get_mut(&copy.member) {
            let changed = map.set(ByteLen(u64::from(copy.extent.0)).as_usize(), false);
            assert!(changed, "an extent is freed once");
            *used -= 1;
        }
    }

    fn occupy(&mut self, copy: Copy) -> Result<(), Contradiction> {
        let (map, used, _) = self.used.get_mut(&copy.member).ok_or(Contradiction)?;
        let bit = ByteLen(u64::from(copy.extent.0)).as_usize();
        if bit >= map.len() || !map.set(bit, true) {
            return Err(Contradiction);
        }
        *used += 1;
        Ok(())
    }
}
