//! The home of a pool: one task, on one core, that decides and commits every change of its state.
//!
//! Requests come by mailbox. Those that wait at the same time are decided together and committed in one record.
//! Decisions are made on a copy of the state; the copy becomes the state when its commit is done.

use super::alloc::{self, Room};
use super::error::PoolError;
use super::flush::clean;
use super::lifecycle;
use super::member::Member;
use super::planted::{Planted, is_planted};
use super::quorum::Voter;
use super::redundancy::mirror::{Copies, Copy};
use super::redundancy::stripe::Geometry;
use super::region::Placement;
use super::shared::Shared;
use super::state::{Change, FreeExtents, MemberState, State, VolumeRecord};
use super::volume::PoolVolume;
use super::votes::{LOG_FULL, Votes};
use crate::base::limits::DIRTY_REGIONS_MAX;
use crate::base::units::{ByteLen, MemberId, SlotIndex, Span, VolumeId};
use crate::block::Status;
use crate::reactor::Core;
use crate::reactor::mailbox::Receiver;
use crate::reactor::sync::{Answer, lock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Requests decided together, at most.
const BATCH_MAX: usize = 64;

/// How often the cleaner looks for quiet regions.
const CLEAN_EVERY: Duration = Duration::from_secs(1);

/// What the home is asked to do.
pub enum HomeRequest {
    Allocate {
        volume: VolumeId,
        slot: SlotIndex,
        answer: Answer<Result<Placement, Status>>,
    },
    Free {
        volume: VolumeId,
        slot: SlotIndex,
        answer: Answer<Result<(), Status>>,
    },
    MemberFailed {
        member: MemberId,
        reason: String,
        answer: Answer<Result<(), Status>>,
    },
    Change {
        change: VolumeChange,
        answer: Answer<Result<(), PoolError>>,
    },
    /// Everything is flushed: mark the pool clean and end.
    Close {
        answer: Answer<Result<(), PoolError>>,
    },
}

/// A change of the set of volumes, checked by whoever asks.
pub enum VolumeChange {
    Create(Box<VolumeRecord>),
    Grow { id: VolumeId, size: ByteLen, columns: u32 },
    Rename { id: VolumeId, name: String },
    Destroy { id: VolumeId },
}

/// The home's own state; the task owns it.
pub struct Home {
    pub core: Core,
    pub pool: Arc<Shared>,
    pub votes: Votes,
    pub requests: Receiver<HomeRequest>,
}

/// A decided request that waits for its commit.
enum Decided {
    Placed { volume: VolumeId, slot: SlotIndex, answer: Answer<Result<Placement, Status>> },
    Freed { copies: Copies, answer: Answer<Result<(), Status>> },
    Changed { freed: Vec<Copy>, answer: Answer<Result<(), PoolError>> },
}

/// What a batch of requests amounts to.
struct Batch {
    state: State,
    free: FreeExtents,
    changes: Vec<Change>,
    decided: Vec<Decided>,
    sequence: u64,
}

impl Home {
    /// Serves requests until the pool is closed or nobody is left to ask.
    pub async fn run(mut self) {
        while let Some(first) = self.requests.receive().await {
            let mut batch = self.begin_batch();
            let mut next = Some(first);
            let mut alone = None;
            while let Some(request) = next {
                alone = self.decide(&mut batch, request);
                let more = alone.is_none() && batch.decided.len() < BATCH_MAX;
                next = if more { self.requests.try_receive() } else { None };
            }
            self.finish_batch(batch).await;
            match alone {
                Some(HomeRequest::MemberFailed { member, reason, answer }) => {
                    let result = self.lose_member(member, &reason).await;
                    answer.send(result.map_err(|_| Status::Io));
                }
                Some(HomeRequest::Close { answer }) => {
                    answer.send(self.close().await);
                    return;
                }
                Some(_) | None => {}
            }
        }
    }

    fn begin_batch(&self) -> Batch {
        let live = lock(&self.pool.live);
        Batch {
            state: live.state.clone(),
            free: live.free.clone(),
            changes: Vec::new(),
            decided: Vec::new(),
            sequence: self.votes.position.sequence + 1,
        }
    }

    /// Decides a request within a batch; gives it back if it must be done alone, after the batch.
    fn decide(&self, batch: &mut Batch, request: HomeRequest) -> Option<HomeRequest> {
        match request {
            HomeRequest::Allocate { volume, slot, answer } => {
                match batch.allocate(&self.pool, volume, slot) {
                    Ok(()) => batch.decided.push(Decided::Placed { volume, slot, answer }),
                    Err(status) => answer.send(Err(status)),
                }
            }
            HomeRequest::Free { volume, slot, answer } => match batch.free(volume, slot) {
                Some(copies) => batch.decided.push(Decided::Freed { copies, answer }),
                None => answer.send(Ok(())),
            },
            HomeRequest::Change { change, answer } => match batch.change(change) {
                Ok(freed) => batch.decided.push(Decided::Changed { freed, answer }),
                Err(error) => answer.send(Err(error)),
            },
            HomeRequest::MemberFailed { .. } | HomeRequest::Close { .. } => return Some(request),
        }
        None
    }

    async fn finish_batch(&mut self, batch: Batch) {
        let Batch { state, mut free, changes, decided, .. } = batch;
        let committed = if changes.is_empty() { Ok(()) } else { self.commit(state, &changes).await };
        match committed {
            Ok(()) => {
                self.return_extents(&decided, &mut free).await;
                lock(&self.pool.live).free = free;
                self.publish_volumes();
                decided.into_iter().for_each(|d| self.answer(d));
            }
            Err(error) => {
                let full = matches!(error, PoolError::LogFull(_));
                decided.into_iter().for_each(|d| refuse(d, full));
            }
        }
    }

    /// Freed extents are free once the commit is done; what they held is given back to the device first.
    async fn return_extents(&self, decided: &[Decided], free: &mut FreeExtents) {
        let copies = decided.iter().flat_map(|entry| match entry {
            Decided::Freed { copies, .. } => &copies[..],
            Decided::Changed { freed, .. } => &freed[..],
            Decided::Placed { .. } => &[],
        });
        let mut copies: Vec<Copy> = copies.copied().collect();
        copies.sort_unstable();
        for run in copies.chunk_by(|a, b| a.member == b.member && a.extent.0 + 1 == b.extent.0) {
            let member = self.pool.member(run[0].member);
            if let Some(disk) = &member.disk {
                let at = member.layout.data(run[0].extent, ByteLen(0));
                disk.discard(&self.core, Span::at(at.0, self.pool.slot_bytes(run.len()).0)).await;
            }
            run.iter().for_each(|copy| free.give_back(*copy));
        }
    }

    fn answer(&self, decided: Decided) {
        match decided {
            Decided::Placed { volume, slot, answer } => {
                answer.send(self.pool.placement(volume, slot).ok_or(Status::Io));
            }
            Decided::Freed { answer, .. } => answer.send(Ok(())),
            Decided::Changed { answer, .. } => answer.send(Ok(())),
        }
    }

    /// Commits changes and makes their result the state. Votes lost on the way are members lost.
    async fn commit(&mut self, after: State, changes: &[Change]) -> Result<(), PoolError> {
        let committed = self.votes.commit(&self.core, &after, changes).await?;
        {
            let mut live = lock(&self.pool.live);
            live.state = after;
            live.votes_present = self.votes.tally().present;
        }
        let lost = committed.lost.into_iter().filter_map(|(voter, errno)| match voter {
            Voter::Member(member) => Some((member, errno)),
            Voter::Witness => None,
        });
        for (member, errno) in lost {
            let reason = format!("its metadata log could not be written: {}", errno.desc());
            Box::pin(self.lose_member(member, &reason)).await?;
        }
        Ok(())
    }

    /// Commits that a member's copies are out of sync; the other members remember what it may have missed.
    async fn lose_member(&mut self, id: MemberId, reason: &str) -> Result<(), PoolError> {
        let member = self.pool.members.get(&id).cloned().expect("failures name members of the pool");
        if !member.is_in_sync() {
            return Ok(());
        }
        tracing::error!(member = member.name, reason, "drive lost");
        let mut after = lock(&self.pool.live).state.clone();
        let next = lifecycle::after(lifecycle::Event::Failed, MemberState::Active);
        let change = Change::MemberState { member: id, state: next };
        after.apply(self.votes.position.sequence + 1, &change).expect("the member is known");
        if !is_planted(&self.pool, Planted::LossNotCommitted) {
            self.commit(after, &[change]).await?;
        }
        member.set_in_sync(false, reason);
        self.pool.membership.fetch_add(1, Ordering::AcqRel);
        // From here on every new mark says that a copy misses the write. Writes that were marked before and failed
        // on this member wait for this function, so that what they changed is remembered before they are answered.
        remember_missed(&self.pool, &self.core).await;
        Ok(())
    }

    /// Makes the table of volumes follow the state.
    fn publish_volumes(&self) {
        let live = lock(&self.pool.live);
        let before = self.pool.volumes.load_full();
        let mut after = BTreeMap::new();
        for (id, record) in &live.state.volumes {
            let volume = match before.get(id) {
                Some(volume) => volume.clone(),
                None => Arc::new(PoolVolume::new(self.pool.clone(), *id, record)),
            };
            let shape = volume.shape.load();
            if shape.size != record.size || shape.name != record.name {
                volume.reshape(record);
            }
            after.insert(*id, volume);
        }
        for (id, volume) in before.iter().filter(|(id, _)| !after.contains_key(id)) {
            assert!(volume.is_destroyed(), "a volume is retired before it is destroyed");
            let marked = self.pool.cache.forget_volume(*id);
            self.pool.dirty_regions.fetch_sub(marked, Ordering::Relaxed);
        }
        self.pool.volumes.store(Arc::new(after));
    }

    async fn close(&mut self) -> Result<(), PoolError> {
        let mut after = lock(&self.pool.live).state.clone();
        after.apply(self.votes.position.sequence + 1, &Change::Closed).expect("closing is always possible");
        self.commit(after, &[Change::Closed]).await
    }
}

/// Gives up members that became smaller than they were: what lay behind their end is gone, and a file would take
/// writes there as if nothing had happened.
async fn notice_shrunk(pool: &Shared, core: &Core) {
    for member in pool.members.values().filter(|m| m.is_in_sync()) {
        let Some(disk) = &member.disk else { continue };
        let reason = match disk.size(core).await {
            Ok(size) if size >= member.layout.size => continue,
            Ok(size) => format!("it was cut to {} bytes of {}", size.0, member.layout.size.0),
            Err(errno) => format!("it does not answer: {}", errno.desc()),
        };
        // When this cannot be committed, every write that needs the majority says so.
        let _ = pool.member_failed(member.id, reason).await;
    }
}

/// Makes every member in sync remember the regions being written as missed by some other copy.
pub async fn remember_missed(pool: &Shared, core: &Core) {
    for member in pool.members.values().filter(|m| m.is_in_sync()) {
        if let Some(disk) = &member.disk {
            // If this fails, the next write to that member fails too and it is given up as well.
            let _ = member.dirty.dirty_to_missed(core, disk).await;
        }
    }
}

fn refuse(decided: Decided, full: bool) {
    let status = if full { Status::NoSpace } else { Status::Io };
    match decided {
        Decided::Placed { answer, .. } => answer.send(Err(status)),
        Decided::Freed { answer, .. } => answer.send(Err(status)),
        Decided::Changed { answer, .. } if full => answer.send(Err(PoolError::LogFull(LOG_FULL))),
        Decided::Changed { answer, .. } => answer.send(Err(PoolError::Frozen)),
    }
}

impl Batch {
    fn apply(&mut self, change: Change) {
        self.state.apply(self.sequence, &change).expect("decided against this very state");
        self.changes.push(change);
    }

    fn allocate(&mut self, pool: &Shared, volume: VolumeId, slot: SlotIndex) -> Result<(), Status> {
        let record = self.state.volumes.get(&volume).ok_or(Status::ShuttingDown)?;
        if record.slots.contains_key(&slot) {
            return Ok(());
        }
        let stripe = Geometry {
            extent: pool.extent,
            region: pool.region,
            unit: record.unit,
            segments: record.segments.clone(),
        }
        .stripe_of(slot);
        let rooms = rooms(pool, record, &self.free, stripe);
        let members = alloc::choose(&rooms, record.copies).ok_or(Status::NoSpace)?;
        let take = |m: MemberId| self.free.take(m).map(|extent| Copy { member: m, extent });
        let copies: Copies = members.into_iter().map(take).collect::<Option<_>>().ok_or(Status::NoSpace)?;
        self.apply(Change::SlotAllocated { id: volume, slot, copies });
        Ok(())
    }

    fn free(&mut self, volume: VolumeId, slot: SlotIndex) -> Option<Copies> {
        let copies = self.state.volumes.get(&volume)?.slots.get(&slot)?.copies.clone();
        self.apply(Change::SlotFreed { id: volume, slot });
        Some(copies)
    }

    /// Decides a change; returns the extents that are free after it.
    fn change(&mut self, change: VolumeChange) -> Result<Vec<Copy>, PoolError> {
        let mut freed = Vec::new();
        let change = match change {
            VolumeChange::Create(volume) => {
                if self.state.volume_named(&volume.name).is_some() {
                    return Err(PoolError::VolumeExists(volume.name));
                }
                Change::VolumeCreated { id: VolumeId(self.state.next_volume), volume: *volume }
            }
            VolumeChange::Grow { id, size, columns } => self.grow(id, size, columns)?,
            VolumeChange::Rename { id, name } => match self.state.volume_named(&name) {
                Some(other) if other != id => return Err(PoolError::VolumeExists(name)),
                Some(_) | None => Change::VolumeRenamed { id, name },
            },
            VolumeChange::Destroy { id } => {
                let Some(volume) = self.state.volumes.get(&id) else {
                    return Err(PoolError::NoVolume(format!("{id:?}")));
                };
                freed.extend(volume.slots.values().flat_map(|slot| slot.copies.iter().copied()));
                Change::VolumeDestroyed { id }
            }
        };
        self.apply(change);
        Ok(freed)
    }

    fn grow(&self, id: VolumeId, size: ByteLen, columns: u32) -> Result<Change, PoolError> {
        let record = self.state.volumes.get(&id).ok_or_else(|| PoolError::NoVolume(format!("{id:?}")))?;
        if size < record.size {
            return Err(PoolError::Invalid(format!("volume {} is larger than that already", record.name)));
        }
        let mut geometry = Geometry {
            extent: self.state.extent,
            region: super::layout::region_size(self.state.extent),
            unit: record.unit,
            segments: record.segments.clone(),
        };
        geometry.cover(size, columns);
        Ok(Change::VolumeGrown { id, size, segments: geometry.segments })
    }
}

/// The members as placement sees them for a slot of this stripe.
fn rooms(
    pool: &Shared,
    record: &VolumeRecord,
    free: &FreeExtents,
    stripe: std::ops::Range<u32>,
) -> Vec<Room> {
    let mut in_stripe: BTreeMap<MemberId, u32> = BTreeMap::new();
    for (_, slot) in record.slots.range(SlotIndex(stripe.start)..SlotIndex(stripe.end)) {
        slot.copies.iter().for_each(|c| *in_stripe.entry(c.member).or_default() += 1);
    }
    let room = |m: &Arc<Member>| Room {
        member: m.id,
        free: if m.is_in_sync() { free.free(m.id) } else { 0 },
        total: m.layout.extents,
        in_stripe: in_stripe.get(&m.id).copied().unwrap_or(0),
    };
    pool.members.values().map(room).collect()
}

/// Takes dirty marks away from quiet regions, until the pool closes. Runs beside the home on its core.
pub async fn cleaner(core: Core, pool: Arc<Shared>) {
    while !pool.closing.load(Ordering::Acquire) {
        let asked = pool.clean_now.swap(false, Ordering::AcqRel);
        let pressed = asked || pool.dirty_regions.load(Ordering::Relaxed) * 4 > DIRTY_REGIONS_MAX * 3;
        if pool.has_work_for_cleaner() {
            // What could not be cleaned is tried again the next time; errors are counted where they arise.
            let _ = clean(&pool, &core, pressed).await;
        }
        pool.cleaned.wake_all();
        notice_shrunk(&pool, &core).await;
        let wanted = pool.clean_wanted.ticket();
        if !pool.clean_now.load(Ordering::Acquire) {
            futures_util::future::select(wanted, core.sleep(CLEAN_EVERY)).await;
        } else {
            core.sleep(Duration::from_millis(1)).await;
        }
    }
}
