//! What a pool knows about itself: members, volumes, and which extents hold which slots.
//!
//! `State` is what a checkpoint stores; `Change` is what a log record stores; `State::apply` is the only way
//! from one to the next, so that a replayed log gives what the running pool had. Pure.

use super::layout::{member_layout, region_size};
use super::redundancy::mirror::{Copies, Copy};
use super::redundancy::stripe::{Geometry, Segment};
use super::verdict::Findings;
use crate::base::limits::{LINEAGE_MAX, MEMBERS_MAX};
use crate::base::units::{ByteLen, ExtentIndex, MemberId, SlotIndex, VolumeId};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// What is known of a member. The transitions are in `lifecycle`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberState {
    /// Its copies are in sync: read and written.
    Active,
    /// In sync, but slow or silent at the moment: read only where there is no other copy. Never committed.
    Suspect,
    /// It was not there, or vanished; its copies may have missed writes since.
    Missing,
    /// It is there, but its copies missed writes.
    Stale,
    /// What its copies missed is being brought to it; regions that have it are read and written.
    Resyncing,
    /// It is out of sync and given up: its copies are being made anew on other members.
    Rebuilding,
    /// It failed a write, a flush, or a metadata commit, or did not answer in time.
    Faulted,
    /// Nothing lies on it, and it is about to be no member any more: a majority of all votes and one of the votes without
    /// it are needed until that is committed, too.
    Removed,
}

/// Orders copies that are out of sync by how much they hold: by the commit that took their member out of sync, since a
/// slot is written only while a copy of the highest rank is there. Members that left together differ only if one of
/// them came back and served without the others: that raises `kept`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Rank {
    pub left: u64,
    pub kept: u64,
}

impl Rank {
    /// Of a member in sync: above all others.
    pub const IN_SYNC: Rank = Rank { left: u64::MAX, kept: u64::MAX };
}

/// How and when a member left the ones in sync; meaningless while it is active.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Absence {
    pub rank: Rank,
    /// The epoch of the commit that `rank.left` names.
    pub epoch: u64,
    /// What it missed is not known from the others' missed bits, and it may hold less than its rank says: everything is
    /// copied to it.
    pub whole: bool,
    /// Somebody said that it will not come back.
    pub dead: bool,
    /// Wall clock, nanoseconds: for people, and for the delay before its copies are made anew.
    pub since_wall_ns: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberRecord {
    pub uuid: Uuid,
    pub size: ByteLen,
    pub extents: u32,
    pub state: MemberState,
    /// It is to be taken out of the pool: it gets nothing new, and all that lies on it moves to others.
    pub leaving: bool,
    pub absence: Absence,
    /// The name it was last known by, for messages about a drive that is not there.
    pub name: String,
}

impl MemberRecord {
    /// Whether the pool counts on the room of a member with so many extents in use: until it is given up, or is to leave.
    /// While one is away for a moment nothing changes.
    pub fn counts(&self, in_use: u32) -> bool {
        match self.state {
            _ if self.leaving => false,
            MemberState::Active | MemberState::Suspect | MemberState::Stale | MemberState::Resyncing => true,
            MemberState::Missing | MemberState::Faulted => in_use > 0,
            MemberState::Rebuilding | MemberState::Removed => false,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeRecord {
    pub uuid: Uuid,
    pub name: String,
    pub size: ByteLen,
    /// Copies that a new slot gets, and that all are to have; a slot may have others still.
    pub copies: u8,
    pub unit: ByteLen,
    pub checksums: bool,
    /// The sector that hosts see which count in sectors, bytes.
    pub lba_bytes: u32,
    /// Who may use it, as a protocol wrote it down; empty where nothing is to be kept.
    pub reservations: Arc<[u8]>,
    pub segments: Vec<Segment>,
    pub slots: BTreeMap<SlotIndex, SlotRecord>,
}

impl VolumeRecord {
    /// Its address arithmetic, in a pool with this extent size.
    pub fn geometry(&self, extent: ByteLen) -> Geometry {
        let (region, segments) = (region_size(extent), self.segments.clone());
        Geometry { extent, region, unit: self.unit, segments }
    }

    /// Copies that every slot has, and a new one gets.
    pub fn fewest_copies(&self) -> u8 {
        let slots = self.slots.values().map(|slot| u8::try_from(slot.copies.len()).unwrap_or(u8::MAX));
        slots.chain([self.copies]).min().unwrap_or(self.copies)
    }
}

/// Where a slot's copies lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotRecord {
    /// The sequence number of the commit that allocated it. Region blocks carry it: one with another stamp is
    /// left over from an earlier use of the extent and says nothing.
    pub stamp: u64,
    pub copies: Copies,
}

/// What is known of scrubs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scrubs {
    /// When the pool was made; wall clock, nanoseconds, like the others.
    pub since_wall_ns: u64,
    /// Seconds from the end of one scrub to the next that nobody asks for; zero: never.
    pub every_s: u32,
    /// The one that goes on.
    pub current: Option<ScrubRun>,
    /// The last one that went through to its end.
    pub last: Option<ScrubRun>,
}

/// One scrub.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScrubRun {
    pub began_wall_ns: u64,
    /// Zero while it goes on.
    pub ended_wall_ns: u64,
    /// Where it goes on after a restart.
    pub next: ScrubPlace,
    pub found: Findings,
}

/// A place in the map of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubPlace {
    pub volume: VolumeId,
    pub slot: SlotIndex,
}

impl Scrubs {
    /// When the next one begins by itself.
    pub fn due_wall_ns(&self) -> Option<u64> {
        let since = self.last.as_ref().map_or(self.since_wall_ns, |last| last.ended_wall_ns);
        (self.every_s > 0).then(|| since.saturating_add(u64::from(self.every_s) * 1_000_000_000))
    }

    pub fn is_due(&self, wall_ns: u64) -> bool {
        self.due_wall_ns().is_some_and(|due| wall_ns >= due)
    }
}

/// One opening of the pool. Together they are its lineage: what one history has and another has not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opening {
    /// Drawn at random by the opening, so that two openings from the same state differ. Never zero.
    pub mark: u64,
    /// Its first commit.
    pub sequence: u64,
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
    /// Members were added or are leaving, and slots are to be moved until all are filled in proportion.
    pub spreading: bool,
    /// Somebody opened the pool without a majority, by order.
    pub forced: bool,
    /// The openings so far, oldest first; the oldest are forgotten.
    pub lineage: Vec<Opening>,
    pub scrubs: Scrubs,
    pub members: BTreeMap<MemberId, MemberRecord>,
    /// The number of the next member that is added.
    pub next_member: MemberId,
    pub volumes: BTreeMap<VolumeId, VolumeRecord>,
    pub next_volume: u32,
}

/// One change of a pool's state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    Opened {
        forced: bool,
        /// Zero in the commits that only confirm an opening.
        mark: u64,
    },
    Closed,
    MemberState {
        member: MemberId,
        state: MemberState,
        absence: Absence,
    },
    MemberNamed {
        member: MemberId,
        name: String,
    },
    /// An empty drive belongs to the pool from here on, and has a vote.
    MemberAdded {
        member: MemberId,
        uuid: Uuid,
        size: ByteLen,
        extents: u32,
        name: String,
    },
    /// A member is to be taken out of the pool, or stays after all.
    MemberLeaving {
        member: MemberId,
        leaving: bool,
    },
    /// A member that was removed has no vote any more, and the pool does not know it.
    MemberGone {
        member: MemberId,
    },
    /// Slots lie as they should after members were added, or are to be moved so that they do.
    Spreading {
        going: bool,
    },
    VolumeCreated {
        id: VolumeId,
        volume: VolumeRecord,
    },
    VolumeResized {
        id: VolumeId,
        size: ByteLen,
        segments: Vec<Segment>,
    },
    VolumeRenamed {
        id: VolumeId,
        name: String,
    },
    /// New slots get so many copies, and all others are to have as many.
    VolumeCopies {
        id: VolumeId,
        copies: u8,
    },
    VolumeDestroyed {
        id: VolumeId,
    },
    VolumeReserved {
        id: VolumeId,
        reservations: Arc<[u8]>,
    },
    SlotAllocated {
        id: VolumeId,
        slot: SlotIndex,
        copies: Copies,
    },
    SlotFreed {
        id: VolumeId,
        slot: SlotIndex,
    },
    /// A scrub began, came further or ended, or the interval was changed.
    Scrubbed {
        scrubs: Scrubs,
    },
    /// One of a slot's copies lies elsewhere now, or there is one more, or one less; its stamp stays.
    SlotMoved {
        id: VolumeId,
        slot: SlotIndex,
        copies: Copies,
    },
}

/// A record of the log that does not fit the state before it: the log is not one history.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a record does not fit the state before it")]
pub struct Contradiction;

impl State {
    /// Applies a change that the commit with this sequence number carries.
    pub fn apply(&mut self, sequence: u64, change: &Change) -> Result<(), Contradiction> {
        match change {
            Change::Opened { forced, mark } => {
                self.clean = false;
                self.forced |= *forced;
                if *mark != 0 {
                    if self.lineage.last().is_some_and(|last| last.sequence >= sequence) {
                        return Err(Contradiction);
                    }
                    let known = self.lineage.len().saturating_sub(LINEAGE_MAX - 1);
                    self.lineage.drain(..known);
                    self.lineage.push(Opening { mark: *mark, sequence });
                }
            }
            Change::Closed => self.clean = true,
            Change::MemberState { member, state, absence } => self.set_standing(*member, *state, *absence)?,
            Change::MemberNamed { member, name } => self.member_mut(*member)?.name.clone_from(name),
            Change::MemberAdded { member, uuid, size, extents, name } => {
                self.add_member(*member, *uuid, *size, *extents, name)?;
            }
            Change::MemberLeaving { member, leaving } => {
                self.member_mut(*member)?.leaving = *leaving;
                self.spreading = true;
            }
            Change::MemberGone { member } => self.forget_member(*member)?,
            Change::Spreading { going } => self.spreading = *going,
            Change::VolumeCreated { id, volume } => {
                if id.0 < self.next_volume || self.volume_named(&volume.name).is_some() {
                    return Err(Contradiction);
                }
                self.next_volume = id.0.checked_add(1).ok_or(Contradiction)?;
                self.volumes.insert(*id, volume.clone());
            }
            Change::VolumeResized { id, size, segments } => {
                let volume = self.volume_mut(*id)?;
                volume.size = *size;
                volume.segments.clone_from(segments);
            }
            Change::VolumeRenamed { id, name } => self.volume_mut(*id)?.name.clone_from(name),
            Change::VolumeCopies { id, copies } => self.volume_mut(*id)?.copies = *copies,
            Change::VolumeDestroyed { id } => {
                self.volumes.remove(id).ok_or(Contradiction)?;
            }
            Change::VolumeReserved { id, reservations } => {
                self.volume_mut(*id)?.reservations = reservations.clone();
            }
            Change::SlotAllocated { id, slot, copies } => {
                self.check_copies(copies, &[])?;
                let record = SlotRecord { stamp: sequence, copies: copies.clone() };
                match self.volume_mut(*id)?.slots.insert(*slot, record) {
                    None => {}
                    Some(_) => return Err(Contradiction),
                }
            }
            Change::SlotFreed { id, slot } => {
                self.volume_mut(*id)?.slots.remove(slot).ok_or(Contradiction)?;
            }
            Change::Scrubbed { scrubs } => self.scrubs.clone_from(scrubs),
            Change::SlotMoved { id, slot, copies } => {
                let before = self.volume_mut(*id)?.slots.get(slot).ok_or(Contradiction)?.copies.clone();
                self.check_copies(copies, &before)?;
                if copies.len().abs_diff(before.len()) > 1 {
                    return Err(Contradiction);
                }
                let record = self.volume_mut(*id)?.slots.get_mut(slot).ok_or(Contradiction)?;
                record.copies.clone_from(copies);
            }
        }
        Ok(())
    }

    fn set_standing(
        &mut self,
        member: MemberId,
        state: MemberState,
        absence: Absence,
    ) -> Result<(), Contradiction> {
        if state == MemberState::Removed && self.holds_copies(member) {
            return Err(Contradiction);
        }
        let record = self.member_mut(member)?;
        (record.state, record.absence) = (state, absence);
        Ok(())
    }

    fn forget_member(&mut self, member: MemberId) -> Result<(), Contradiction> {
        let removed = self.members.remove(&member).is_some_and(|m| m.state == MemberState::Removed);
        if removed { Ok(()) } else { Err(Contradiction) }
    }

    /// Numbers of members are never used again: what an older log says of a number is about the same member.
    fn add_member(
        &mut self,
        member: MemberId,
        uuid: Uuid,
        size: ByteLen,
        extents: u32,
        name: &str,
    ) -> Result<(), Contradiction> {
        let known = self.members.values().any(|m| m.uuid == uuid);
        let layout = member_layout(size, self.extent).is_some_and(|layout| layout.extents == extents);
        if known || !layout || member != self.next_member || self.members.len() >= MEMBERS_MAX {
            return Err(Contradiction);
        }
        self.next_member = MemberId(member.0.checked_add(1).ok_or(Contradiction)?);
        let (state, absence, name) = (MemberState::Active, Absence::default(), name.to_owned());
        self.members
            .insert(member, MemberRecord { uuid, size, extents, state, leaving: false, absence, name });
        self.spreading = true;
        Ok(())
    }

    /// The number after the last of the members that are there.
    pub fn number_after_last(&self) -> MemberId {
        self.members.keys().next_back().map_or(MemberId(0), |last| MemberId(last.0.saturating_add(1)))
    }

    pub fn is_leaving(&self, member: MemberId) -> bool {
        self.members.get(&member).is_some_and(|m| m.leaving)
    }

    /// Whether some slot has a copy on a member.
    pub fn holds_copies(&self, member: MemberId) -> bool {
        self.extents_in_use().any(|(copy, _, _)| copy.member == member)
    }

    /// The member that is removed, whose vote is about to go.
    pub fn parting(&self) -> Option<MemberId> {
        self.members.iter().find(|(_, m)| m.state == MemberState::Removed).map(|(id, _)| *id)
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

    /// Whether a slot may have these copies, where it had others before: nothing new comes to a member that leaves.
    fn check_copies(&self, copies: &Copies, before: &[Copy]) -> Result<(), Contradiction> {
        let known = |c: &Copy| {
            let record = self.members.get(&c.member);
            let takes = |m: &MemberRecord| !m.leaving && m.state != MemberState::Removed;
            record.is_some_and(|m| c.extent.0 < m.extents && (takes(m) || before.contains(c)))
        };
        if copies.is_empty() || !copies.iter().all(known) { Err(Contradiction) } else { Ok(()) }
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
            free.add(*id, member.extents);
        }
        for (copy, _, _) in state.extents_in_use() {
            free.occupy(copy)?;
        }
        Ok(free)
    }

    /// A member that nothing lies on yet.
    pub fn add(&mut self, member: MemberId, extents: u32) {
        let extents = ByteLen(u64::from(extents)).as_usize();
        self.used.entry(member).or_insert_with(|| (crate::base::bitmap::Bitmap::new(extents), 0, 0));
    }

    /// A member that is none any more.
    pub fn remove(&mut self, member: MemberId) {
        self.used.remove(&member);
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
