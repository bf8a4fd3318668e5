//! What a pool says about itself: space, protection, and what would be lost with each drive. Computed from the
//! map; nothing here is kept up to date by hand.

use super::Pool;
use super::alloc::usable;
use super::leaving::Fit;
use super::lifecycle::{self, Event};
use super::member::Member;
use super::meter::{Gauge, Group, IfLost, Standing, groups, if_lost, protected, rate_expected};
use super::quorum::{Tally, votes_of};
use super::rebuild::hindrance;
use super::reserve::{Margin, Stored};
use super::state::{MemberState, State};
use crate::base::limits::BLOCK;
use crate::base::units::{ByteLen, MemberId, Span, VolumeId};
use crate::reactor::sync::lock;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A pool's figures.
#[derive(Clone, Debug)]
pub struct PoolFacts {
    pub state: State,
    pub epoch: u64,
    pub votes: Tally,
    /// Bytes of all extents of members in sync that do not leave.
    pub raw: ByteLen,
    /// What can still be allocated, for 1, 2 and 3 copies.
    pub free: [ByteLen; 3],
    /// What could be allocated if nothing were, for 1, 2 and 3 copies.
    pub usable: [ByteLen; 3],
    pub members: Vec<MemberFacts>,
    pub volumes: Vec<VolumeFacts>,
    /// What no copy gives any more, as far as it was met.
    pub lost: Vec<LostRange>,
    /// Volume bytes that stay readable whichever drive is lost.
    pub protected: ByteLen,
    /// Volume bytes that must stay free so that every slot gets its copies back after the largest drive is lost:
    /// what that drive adds to the space for volumes of the pool's default copies.
    pub heal_needed: ByteLen,
    /// Whether all copies that would be lacking without the largest drive would find a new place.
    pub heal_possible: bool,
    /// How far that is from what is stored, by the arithmetic, in slots of the pool's default copies.
    pub margin: Margin,
    /// What would break it is refused.
    pub reserve_enforced: bool,
    /// How fast copies are expected to be made anew, bytes per second, and whether a rebuild has shown that.
    pub copy_rate: u64,
    pub copy_rate_measured: bool,
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
    /// It is to be taken out of the pool.
    pub leaving: bool,
    pub reason: String,
    pub rotational: bool,
    pub used: ByteLen,
    /// Bytes of volumes that would have no readable copy without this member, beyond those that have none now.
    pub lost_without: ByteLen,
    /// Bytes of volumes with more than one copy promised that would be left with exactly one.
    pub exposed_without: ByteLen,
    /// Bytes of copies that would be made again without this member, and bytes of those that would find no place.
    pub heals: ByteLen,
    pub does_not_heal: ByteLen,
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
    /// Copies that every slot has at least.
    pub fewest_copies: u8,
    /// Slots that do not have so many copies yet, or have more still.
    pub lacking: u64,
    pub surplus: u64,
    pub columns: u32,
    pub unit: ByteLen,
    pub checksums: bool,
    pub lba_bytes: u32,
    pub allocated: ByteLen,
    /// Allocated bytes with fewer readable copies than there are places for; with exactly one; with none.
    pub below_promise: ByteLen,
    pub single_copy: ByteLen,
    pub unavailable: ByteLen,
}

impl Pool {
    /// The pool's figures now.
    pub fn facts(&self) -> PoolFacts {
        let mut in_sync = self.shared.members_in_sync();
        let leaves = |m: &Arc<Member>| lock(&self.shared.live).state.is_leaving(m.id);
        in_sync.retain(|m| !leaves(m));
        let totals: Vec<u32> = in_sync.iter().map(|m| m.layout.extents).collect();
        let (state, free, fit, stored, epoch, present) = {
            let live = lock(&self.shared.live);
            let free: Vec<u32> = in_sync.iter().map(|m| live.free.free(m.id)).collect();
            let stored = Stored::of(&live.state, &live.free);
            let fit = Fit::of(&live.state, &live.free);
            (live.state.clone(), free, fit, stored, live.epoch, live.votes_present)
        };
        let extent = state.extent;
        let each = |room: &[u32]| [1, 2, 3].map(|copies| ByteLen(usable(room, copies) * extent.0));
        let (groups, gauges) = self.meter(&state);
        let members: Vec<MemberFacts> = state
            .members
            .keys()
            .map(|id| self.member_facts(&state, *id, if_lost(&groups, &gauges, *id)))
            .collect();
        let (heal_needed, heal_possible) = heal(&state, &in_sync, &members);
        let measured = self.shared.rebuild_progress.rate_reached();
        PoolFacts {
            epoch,
            votes: Tally { present, total: votes_of(state.members.len()) },
            raw: ByteLen(totals.iter().map(|e| u64::from(*e)).sum::<u64>() * extent.0),
            free: room_left(each(&free), fit, extent),
            usable: each(&totals),
            volumes: state.volumes.keys().map(|id| self.volume_facts(&state, *id)).collect(),
            copy_rate: measured.unwrap_or(rate_expected(members.iter().any(|m| m.rotational))),
            copy_rate_measured: measured.is_some(),
            members,
            lost: self.lost_ranges(&state),
            protected: ByteLen(protected(&groups) * extent.0),
            heal_needed,
            heal_possible,
            margin: stored.margin(state.copies),
            reserve_enforced: self.shared.reserve_enforced.load(Ordering::Acquire),
            state,
        }
    }

    /// The slots in groups, and the members, as the meter sees them.
    fn meter(&self, state: &State) -> (Vec<Group>, Vec<Gauge>) {
        let slots = state.volumes.values().flat_map(|v| v.slots.values());
        let groups = groups(slots.map(|s| &s.copies), |copies| self.shared.authorities(copies));
        let live = lock(&self.shared.live);
        let gauge = |member: &Arc<Member>| {
            // What copies are being moved to at the moment is theirs, and they are counted where they are.
            let reserved = live.reserved.iter().filter(|c| c.member == member.id).count();
            let free = live.free.free(member.id) + u32::try_from(reserved).unwrap_or(0);
            let state = live.state.members.get(&member.id).map_or(MemberState::Removed, |m| m.state);
            let standing = match state {
                _ if member.is_in_sync() => Standing::InSync,
                _ if member.disk.is_none() => Standing::Gone,
                MemberState::Active | MemberState::Suspect | MemberState::Stale | MemberState::Resyncing => {
                    Standing::Behind
                }
                MemberState::Missing
                | MemberState::Rebuilding
                | MemberState::Faulted
                | MemberState::Removed => Standing::Gone,
            };
            let free = if live.state.is_leaving(member.id) { 0 } else { free };
            Gauge { member: member.id, standing, free }
        };
        (groups, self.shared.all_members().iter().map(gauge).collect())
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

    fn member_facts(&self, state: &State, id: MemberId, without: IfLost) -> MemberFacts {
        let member = self.shared.member(id);
        let bytes = |slots: u64| ByteLen(slots * state.extent.0);
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
            leaving: state.members[&id].leaving,
            reason: hindrance(&self.shared, &member).unwrap_or_else(|| member.reason()),
            rotational: member.disk.as_ref().is_some_and(|d| d.facts().rotational),
            used: bytes(without.held),
            lost_without: bytes(without.lost),
            exposed_without: bytes(without.exposed),
            heals: bytes(without.heals),
            does_not_heal: bytes(without.homeless),
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
            below += usize::from(readable < slot.copies.len());
            single += usize::from(readable == 1);
            none += usize::from(readable == 0);
        }
        let bytes = |slots: usize| self.shared.slot_bytes(slots);
        let slots = |such: &dyn Fn(usize) -> bool| {
            volume.slots.values().filter(|slot| such(slot.copies.len())).count() as u64 // widening
        };
        VolumeFacts {
            id,
            name: volume.name.clone(),
            uuid: volume.uuid,
            size: volume.size,
            copies: volume.copies,
            fewest_copies: volume.fewest_copies(),
            lacking: slots(&|copies| copies < usize::from(volume.copies)),
            surplus: slots(&|copies| copies > usize::from(volume.copies)),
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
}

/// What is free for 1, 2 and 3 copies, less what is to be moved from members that leave.
fn room_left(free: [ByteLen; 3], fit: Option<Fit>, extent: ByteLen) -> [ByteLen; 3] {
    let Some(fit) = fit else { return free };
    [1, 2, 3].map(|copies| free[copies - 1].min(ByteLen(fit.spare(copies) * extent.0)))
}

/// What must stay free to heal after losing the largest member, and whether every copy that is lacking then finds a
/// new place. Of several that are the largest, after losing any.
fn heal(state: &State, in_sync: &[Arc<Member>], members: &[MemberFacts]) -> (ByteLen, bool) {
    let mut extents: Vec<u32> = in_sync.iter().map(|m| m.layout.extents).collect();
    extents.sort_unstable();
    let all = usable(&extents, state.copies);
    let Some(most) = extents.pop() else { return (ByteLen(0), false) };
    let needed = all - usable(&extents, state.copies);
    let is_largest = |m: &&MemberFacts| m.in_sync && !m.leaving && state.members[&m.id].extents == most;
    let possible = members.iter().filter(is_largest).all(|m| m.does_not_heal.0 == 0);
    (ByteLen(needed * state.extent.0), possible && state.copies > 1)
}

/// What people are told about a member: what is committed, and what is suspected.
fn shown_state(member: &Member, committed: MemberState) -> MemberState {
    let suspected = member.is_in_sync() && member.is_suspect();
    if suspected { lifecycle::after(Event::Slow, committed).unwrap_or(committed) } else { committed }
}
