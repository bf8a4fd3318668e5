//! The home of a pool: one task, on one core, that decides and commits every change of its state.
//!
//! Requests come by mailbox. Those that wait at the same time are decided together and committed in one record.
//! Decisions are made on a copy of the state; the copy becomes the state when its commit is done.

use super::alloc::{self, Room};
use super::balance;
use super::copies;
use super::ends::{HOLLOW, mend};
use super::error::PoolError;
use super::flush::clean;
use super::joining::Joiner;
use super::leaving::Fit;
use super::lifecycle::{self, Event};
use super::log::Replayed;
use super::member::Member;
use super::moving::{Job, Place, Stuck};
use super::open::SAID_DEAD;
use super::planted::{Planted, is_planted};
use super::quorum::{Voter, is_forked};
use super::redundancy::mirror::{Copies, Copy};
use super::region::Placement;
use super::replay::replay;
use super::reservations::SetReservations;
use super::reserve::Reserve;
use super::returning::{Back, returned};
use super::shared::Shared;
use super::state::{Absence, Change, FreeExtents, MemberState, Rank, Scrubs, State, VolumeRecord};
use super::volume::PoolVolume;
use super::votes::{Committed, LOG_FULL, Votes};
use crate::base::limits::{COLUMNS_MAX, DIRTY_REGIONS_MAX};
use crate::base::units::{ByteLen, MemberId, SlotIndex, Span, VolumeId};
use crate::block::{ReservationError, Status};
use crate::disk::{Patience, in_words};
use crate::reactor::Core;
use crate::reactor::mailbox::Receiver;
use crate::reactor::sync::{Answer, lock};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Requests decided together, at most.
const BATCH_MAX: usize = 64;

/// Commits that a member in sync cannot lack all.
const COMMITS_THAT_PART: usize = 2;

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
        member: Arc<Member>,
        reason: String,
        answer: Answer<Result<(), Status>>,
    },
    /// A member is there again: take it in and begin to bring it up to date.
    MemberBack {
        back: Box<Back>,
        answer: Answer<Result<(), PoolError>>,
    },
    /// A member that was resynced lacks nothing any more.
    MemberSynced {
        member: Arc<Member>,
        answer: Answer<Result<(), PoolError>>,
    },
    SetReservations {
        set: SetReservations,
        answer: Answer<Result<(), ReservationError>>,
    },
    Change {
        change: VolumeChange,
        answer: Answer<Result<(), PoolError>>,
    },
    /// Find an extent for another copy of a slot and keep it free for that.
    Reserve {
        job: Job,
        answer: Answer<Result<Copy, Stuck>>,
    },
    Unreserve {
        copy: Copy,
        answer: Answer<()>,
    },
    /// A copy lies on a reserved extent now, or there is one less.
    Moved {
        job: Job,
        to: Option<Copy>,
        answer: Answer<Result<(), PoolError>>,
    },
    /// A member is not waited for any longer.
    GiveUp {
        member: MemberId,
        dead: bool,
        answer: Answer<Result<(), PoolError>>,
    },
    /// Nothing lies any more on a member that was given up.
    Emptied {
        member: MemberId,
        answer: Answer<Result<(), PoolError>>,
    },
    /// A member is to be taken out, or stays after all.
    Leave {
        member: MemberId,
        leaving: bool,
        answer: Answer<Result<(), PoolError>>,
    },
    /// Nothing lies on a member that leaves. Gives it if it is gone.
    Part {
        member: MemberId,
        answer: Answer<Result<Option<Arc<Member>>, PoolError>>,
    },
    /// Empty drives join the pool, in the place of another one where that is said.
    AddMembers {
        joiners: Vec<Joiner>,
        replaced: Option<MemberId>,
        answer: Answer<Result<(), PoolError>>,
    },
    /// Slots lie as they should by what was asked for so often.
    Spread {
        asked: u64,
        answer: Answer<Result<(), PoolError>>,
    },
    /// A scrub began, came further or ended.
    Scrubbed {
        scrubs: Scrubs,
        answer: Answer<Result<(), PoolError>>,
    },
    /// Make older images of members lack more than a crash can have cut off.
    PartImages {
        answer: Answer<Result<(), Status>>,
    },
    /// Everything is flushed: mark the pool clean and end.
    Close {
        answer: Answer<Result<(), PoolError>>,
    },
}

/// A change of the set of volumes, checked by whoever asks.
pub enum VolumeChange {
    Create(Box<VolumeRecord>),
    Grow {
        id: VolumeId,
        size: ByteLen,
        columns: u32,
    },
    /// Nothing is allocated beyond the new end.
    Shrink {
        id: VolumeId,
        size: ByteLen,
    },
    Rename {
        id: VolumeId,
        name: String,
    },
    Copies {
        id: VolumeId,
        copies: u8,
        /// One is enough.
        unprotected: bool,
    },
    Destroy {
        id: VolumeId,
    },
}

/// The home's own state; the task owns it.
pub struct Home {
    pub core: Core,
    pub pool: Arc<Shared>,
    pub votes: Votes,
    pub requests: Receiver<HomeRequest>,
}

/// A decided request that waits for its commit.
pub enum Decided {
    Placed { volume: VolumeId, slot: SlotIndex, answer: Answer<Result<Placement, Status>> },
    Freed { copies: Copies, answer: Answer<Result<(), Status>> },
    Changed { freed: Vec<Copy>, answer: Answer<Result<(), PoolError>> },
    Reserved { reserved: Result<Copy, Stuck>, answer: Answer<Result<Copy, Stuck>> },
    Unreserved { answer: Answer<()> },
    ReservationsSet { set: SetReservations, answer: Answer<Result<(), ReservationError>> },
}

/// What a batch of requests amounts to.
pub struct Batch {
    pub state: State,
    free: FreeExtents,
    reserved: Vec<Copy>,
    changes: Vec<Change>,
    pub decided: Vec<Decided>,
    sequence: u64,
    /// What may be allocated, once that was asked for.
    reserve: Option<Reserve>,
    /// Whether what is to be moved from members that leave keeps its room; None if nobody leaves.
    fit: Option<Fit>,
}

impl Drop for Home {
    /// The volumes know their pool and the pool its volumes: with its home one lets go of the other.
    fn drop(&mut self) {
        self.pool.volumes.store(Arc::default());
    }
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
                    let result = self.lose_member(&member, &reason).await;
                    answer.send(result.map_err(|_| Status::Io));
                }
                Some(HomeRequest::MemberBack { back, answer }) => {
                    answer.send(self.take_back(*back).await);
                }
                Some(HomeRequest::MemberSynced { member, answer }) => {
                    answer.send(self.finish_resync(&member).await);
                }
                Some(HomeRequest::GiveUp { member, dead, answer }) => {
                    answer.send(self.give_up(member, dead).await);
                }
                Some(HomeRequest::Emptied { member, answer }) => {
                    answer.send(self.emptied(member).await);
                }
                Some(HomeRequest::Leave { member, leaving, answer }) => {
                    answer.send(self.set_leaving(member, leaving).await);
                }
                Some(HomeRequest::Part { member, answer }) => {
                    answer.send(self.part(member).await);
                }
                Some(HomeRequest::AddMembers { joiners, replaced, answer }) => {
                    answer.send(self.add_members(joiners, replaced).await);
                }
                Some(HomeRequest::PartImages { answer }) => {
                    let result = self.part_images().await;
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
            fit: Fit::of(&live.state, &live.free),
            state: live.state.clone(),
            free: live.free.clone(),
            reserved: live.reserved.clone(),
            changes: Vec::new(),
            decided: Vec::new(),
            sequence: self.votes.position.sequence + 1,
            reserve: None,
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
            HomeRequest::SetReservations { set, answer } => match batch.set_reservations(&self.pool, &set) {
                Ok(()) => batch.decided.push(Decided::ReservationsSet { set, answer }),
                Err(error) => answer.send(Err(error)),
            },
            HomeRequest::Scrubbed { scrubs, answer } => {
                batch.apply(Change::Scrubbed { scrubs });
                batch.decided.push(Decided::Changed { freed: Vec::new(), answer });
            }
            HomeRequest::Spread { asked, answer } => {
                // If some were added since, or are to leave, that is not so any more.
                let last = self.pool.spread_asked.load(Ordering::Acquire);
                if batch.state.spreading && last == asked && balance::to_leave(&batch.state) == 0 {
                    batch.apply(Change::Spreading { going: false });
                }
                batch.decided.push(Decided::Changed { freed: Vec::new(), answer });
            }
            HomeRequest::Reserve { job, answer } => {
                let reserved = batch.reserve(&self.pool, &job);
                batch.decided.push(Decided::Reserved { reserved, answer });
            }
            HomeRequest::Unreserve { copy, answer } => {
                batch.unreserve(copy);
                batch.decided.push(Decided::Unreserved { answer });
            }
            HomeRequest::Moved { job, to, answer } => match batch.moved(&self.pool, &job, to) {
                Ok(freed) => batch.decided.push(Decided::Changed { freed, answer }),
                Err(error) => answer.send(Err(error)),
            },
            HomeRequest::GiveUp { .. }
            | HomeRequest::Emptied { .. }
            | HomeRequest::Leave { .. }
            | HomeRequest::Part { .. }
            | HomeRequest::AddMembers { .. }
            | HomeRequest::MemberFailed { .. }
            | HomeRequest::MemberBack { .. }
            | HomeRequest::MemberSynced { .. }
            | HomeRequest::PartImages { .. }
            | HomeRequest::Close { .. } => return Some(request),
        }
        None
    }

    async fn finish_batch(&mut self, batch: Batch) {
        let Batch { state, mut free, reserved, changes, decided, .. } = batch;
        let committed = if changes.is_empty() { Ok(()) } else { self.commit(state, &changes).await };
        match committed {
            Ok(()) => {
                self.return_extents(&decided, &mut free).await;
                {
                    let mut live = lock(&self.pool.live);
                    (live.free, live.reserved) = (free, reserved);
                }
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
            Decided::Placed { .. }
            | Decided::Reserved { .. }
            | Decided::Unreserved { .. }
            | Decided::ReservationsSet { .. } => &[],
        });
        let mut copies: Vec<Copy> = copies.copied().collect();
        copies.sort_unstable();
        for run in copies.chunk_by(|a, b| a.member == b.member && a.extent.0 + 1 == b.extent.0) {
            let member = self.pool.member(run[0].member);
            if let Some(disk) = member.disk.as_ref().filter(|_| member.is_in_sync()) {
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
            Decided::Reserved { reserved, answer } => answer.send(reserved),
            Decided::Unreserved { answer } => answer.send(()),
            Decided::ReservationsSet { set, answer } => answer.send(self.pool.publish_reservations(set)),
        }
    }

    /// Commits changes and makes their result the state.
    pub async fn commit(&mut self, after: State, changes: &[Change]) -> Result<(), PoolError> {
        let frozen = self.votes.frozen;
        let committed = self.votes.commit(&self.core, &after, changes).await;
        if matches!(committed, Err(PoolError::Frozen)) && !frozen {
            self.pool.doubts.note(changes);
        }
        self.take_effect(after, committed?).await
    }

    /// What was committed is the state. Votes lost on the way are members lost.
    pub async fn take_effect(&mut self, after: State, committed: Committed) -> Result<(), PoolError> {
        self.pool.kept_marks.committed(self.votes.position.sequence);
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
            let reason = format!("its metadata log could not be written: {}", in_words(errno));
            let member = self.pool.member(member);
            Box::pin(self.lose_member(&member, &reason)).await?;
        }
        Ok(())
    }

    /// Commits that a member's copies are out of sync; the other members remember what it may have missed.
    async fn lose_member(&mut self, member: &Arc<Member>, reason: &str) -> Result<(), PoolError> {
        let present = Arc::ptr_eq(&self.pool.member(member.id), member);
        let state = lock(&self.pool.live).state.members.get(&member.id).map(|m| m.state);
        let resyncing = state == Some(MemberState::Resyncing);
        if matches!(state, None | Some(MemberState::Removed)) {
            return Ok(());
        }
        if !present || !(member.is_in_sync() || member.is_following() || resyncing) {
            return Ok(());
        }
        tracing::error!(member = member.name, reason, "drive lost");
        let absence = self.absence_of(member);
        if !is_planted(&self.pool, Planted::LossNotCommitted) {
            self.commit_state(member.id, Event::Failed, absence).await?;
        }
        // From here on every new mark says that a copy misses the write. Writes that were marked before and failed
        // on this member wait for this function, so that what they changed is remembered before they are answered.
        member.set_out_of_sync(absence, reason);
        self.pool.membership.fetch_add(1, Ordering::AcqRel);
        if !is_planted(&self.pool, Planted::MissedNotRecorded) {
            self.pool.all_members().iter().for_each(|m| m.dirty.note_missed());
        }
        for (other, reason) in save_missed(&self.pool, &self.core).await {
            Box::pin(self.lose_member(&other, &reason)).await?;
        }
        self.pool.rebuild_wanted.wake_all();
        Ok(())
    }

    /// Commits that a member is not waited for any longer.
    async fn give_up(&mut self, id: MemberId, dead: bool) -> Result<(), PoolError> {
        let member = self.pool.member(id);
        if member.is_in_sync() || member.is_following() {
            return Err(PoolError::Invalid(format!("drive {} is in use", member.name)));
        }
        let absence = lock(&self.pool.live).state.members.get(&id).map(|m| m.absence);
        let absence = absence.ok_or_else(|| PoolError::Invalid("there is no such drive".to_owned()))?;
        self.commit_state(id, Event::GivenUp, Absence { dead: absence.dead || dead, ..absence }).await?;
        tracing::warn!(member = member.name, dead, "drive given up: its copies are made anew elsewhere");
        self.pool.rebuild_wanted.wake_all();
        Ok(())
    }

    /// Commits that nothing lies any more on a member that was given up.
    async fn emptied(&mut self, id: MemberId) -> Result<(), PoolError> {
        let (used, absence) = {
            let live = lock(&self.pool.live);
            (live.free.in_use(id), live.state.members.get(&id).map(|m| m.absence))
        };
        let Some(absence) = absence else { return Ok(()) };
        if used > 0 || self.state_of(id) != MemberState::Rebuilding {
            return Ok(());
        }
        self.commit_state(id, Event::Emptied, absence).await?;
        let member = self.pool.member(id);
        tracing::info!(member = member.name, "everything that lay on it has its copies elsewhere now");
        member.set_reason("all that lay on it has its copies elsewhere now".to_owned());
        Ok(())
    }

    /// A member in sync leaves with the next commit; one that is out of sync left long ago.
    fn absence_of(&self, member: &Member) -> Absence {
        if self.state_of(member.id) != MemberState::Active {
            return lock(&self.pool.live).state.members[&member.id].absence;
        }
        let left = self.votes.position.sequence + 1;
        let since_wall_ns = self.core.wall_ns();
        Absence {
            rank: Rank { left, kept: left },
            epoch: self.votes.position.epoch,
            whole: false,
            dead: false,
            since_wall_ns,
        }
    }

    fn state_of(&self, member: MemberId) -> MemberState {
        lock(&self.pool.live).state.members[&member].state
    }

    /// Commits what an event makes of a member.
    pub async fn commit_state(
        &mut self,
        member: MemberId,
        event: Event,
        absence: Absence,
    ) -> Result<MemberState, PoolError> {
        let mut after = lock(&self.pool.live).state.clone();
        let before = after.members.get(&member).map_or(MemberState::Removed, |m| m.state);
        let state = lifecycle::after(event, before)
            .ok_or_else(|| PoolError::Invalid(format!("a member that is {before:?} cannot be {event:?}")))?;
        let change = Change::MemberState { member, state, absence };
        after.apply(self.votes.position.sequence + 1, &change).expect("the member is known");
        self.commit(after, &[change]).await?;
        Ok(state)
    }

    /// Takes a member in that is there again: its log is brought up to date, then it is resynced.
    async fn take_back(&mut self, back: Back) -> Result<(), PoolError> {
        let Back { member, log, hollow } = back;
        if let Some(newest) = self.newest_log().await
            && is_forked(&newest, &log)
        {
            let (name, who) = (lock(&self.pool.live).state.name.clone(), member.name.clone());
            return Err(PoolError::Forked { name, who });
        }
        let state = lock(&self.pool.live).state.clone();
        let record = state.members.get(&member.id).cloned();
        let record = record.ok_or_else(|| PoolError::Invalid("it was taken out of the pool".to_owned()))?;
        if record.absence.dead {
            return Err(PoolError::Invalid(SAID_DEAD.to_owned()));
        }
        let now = self.votes.position;
        let absence = match hollow {
            true => {
                member.set_reason(HOLLOW.to_owned());
                Absence { whole: true, ..record.absence }
            }
            false => returned(&record, log.held, &state, &now),
        };
        // First what it is, then its vote: with the newest log an old image could pass for more than it is.
        self.commit_state(member.id, Event::Back, absence).await?;
        if let Some(disk) = &member.disk {
            mend(&self.core, disk).await;
        }
        let state = lock(&self.pool.live).state.clone();
        self.votes.rejoin(&self.core, &member, &log, &state).await?;
        self.commit_state(member.id, Event::Began, absence).await?;
        if !self.votes.has(member.id) {
            return Err(PoolError::Invalid("it failed again".to_owned()));
        }
        self.pool.begin_resync(member);
        Ok(())
    }

    async fn newest_log(&self) -> Option<Replayed> {
        for vote in self.votes.votes.iter().filter(|v| v.alive) {
            if let Some(disk) = vote.place.disk()
                && let Ok(Some(log)) = replay(&self.core, disk, vote.area).await
            {
                return Some(log);
            }
        }
        None
    }

    /// Commits that a member lacks nothing any more.
    async fn finish_resync(&mut self, member: &Arc<Member>) -> Result<(), PoolError> {
        let known = lock(&self.pool.live).state.members.contains_key(&member.id);
        let present = known && Arc::ptr_eq(&self.pool.member(member.id), member);
        let lacks_nothing = member.behind().is_some_and(|behind| behind.is_empty());
        if !present || !lacks_nothing || !self.votes.has(member.id) {
            return Err(PoolError::Invalid(format!("{} lacks something still", member.name)));
        }
        // What it was before it was brought up to date shall not pass for what it is now.
        self.part_images().await?;
        self.commit_state(member.id, Event::Synced, Absence::default()).await?;
        if self.state_of(member.id) != MemberState::Active {
            // The very commit failed on it.
            return Ok(());
        }
        member.set_in_sync();
        self.pool.membership.fetch_add(1, Ordering::AcqRel);
        tracing::info!(member = member.name, "drive in sync again");
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
            volume.follow_copies(record);
            after.insert(*id, volume);
        }
        for (id, volume) in before.iter().filter(|(id, _)| !after.contains_key(id)) {
            assert!(volume.is_destroyed(), "a volume is retired before it is destroyed");
            let marked = self.pool.cache.forget_volume(*id);
            self.pool.kept_marks.forget_volume(*id);
            self.pool.dirty_regions.fetch_sub(marked, Ordering::Relaxed);
        }
        self.pool.volumes.store(Arc::new(after));
    }

    /// A member in sync lacks one commit at most. Who lacks the two that are made here, which change nothing, is an
    /// image from before them.
    async fn part_images(&mut self) -> Result<(), PoolError> {
        for _ in 0..COMMITS_THAT_PART {
            let state = lock(&self.pool.live).state.clone();
            self.commit(state, &[]).await?;
        }
        Ok(())
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
    for member in &pool.members_in_sync() {
        let Some(disk) = &member.disk else { continue };
        let reason = match disk.size(core).await {
            Ok(size) if size >= member.layout.size => continue,
            Ok(size) => format!("it was cut to {} bytes of {}", size.0, member.layout.size.0),
            Err(errno) => format!("it does not answer: {}", in_words(errno)),
        };
        // When this cannot be committed, every write that needs the majority says so.
        let _ = pool.member_failed(member, reason).await;
    }
}

/// Makes durable what the members remember as missed by some other copy.
///
/// Gives the members to be given up since that failed on them, and why. The last one in sync is not among them: its
/// next write marks its region again before it is answered.
async fn save_missed(pool: &Shared, core: &Core) -> Vec<(Arc<Member>, String)> {
    let alone = pool.members_in_sync().len() < 2;
    let patience = if alone { Patience::Alone } else { Patience::Peers };
    let members = pool.all_members();
    let saves = members.iter().filter(|m| m.is_in_sync() || m.is_following()).map(async |member| {
        let saved = member.dirty.save_missed(core, member.disk.as_ref()?, patience).await;
        let reason = |errno| format!("what others missed could not be written on it: {}", in_words(errno));
        saved.err().filter(|_| !alone).map(|errno| (member.clone(), reason(errno)))
    });
    join_all(saves).await.into_iter().flatten().collect()
}

/// Makes durable what the members remember as missed by some other copy, and gives up those on which that fails.
pub async fn remember_missed(pool: &Shared, core: &Core) -> Result<(), Status> {
    for (member, reason) in save_missed(pool, core).await {
        pool.member_failed(&member, reason).await?;
    }
    Ok(())
}

fn refuse(decided: Decided, full: bool) {
    let status = if full { Status::NoSpace } else { Status::Io };
    match decided {
        Decided::Placed { answer, .. } => answer.send(Err(status)),
        Decided::Freed { answer, .. } => answer.send(Err(status)),
        Decided::Changed { answer, .. } if full => answer.send(Err(PoolError::LogFull(LOG_FULL))),
        Decided::Changed { answer, .. } => answer.send(Err(PoolError::Frozen)),
        Decided::Reserved { answer, .. } => answer.send(Err(Stuck::Failed)),
        Decided::Unreserved { answer } => answer.send(()),
        Decided::ReservationsSet { answer, .. } => answer.send(Err(status.into())),
    }
}

/// Slots of a stripe, at most.
const COLUMNS: usize = COLUMNS_MAX as usize; // a small constant

impl Batch {
    pub fn apply(&mut self, change: Change) {
        self.state.apply(self.sequence, &change).expect("decided against this very state");
        self.changes.push(change);
    }

    fn allocate(&mut self, pool: &Shared, volume: VolumeId, slot: SlotIndex) -> Result<(), Status> {
        let record = self.state.volumes.get(&volume).ok_or(Status::ShuttingDown)?;
        if record.slots.contains_key(&slot) {
            return Ok(());
        }
        let stripe = record.geometry(pool.extent).stripe_of(slot);
        let rooms = rooms(pool, (&self.state, record), &self.free, stripe, (volume, slot));
        let members = alloc::choose(&rooms, record.copies).ok_or(Status::NoSpace)?;
        if self.fit.as_mut().is_some_and(|fit| !fit.admits(members.len())) {
            return Err(Status::NoSpace);
        }
        if pool.reserve_enforced.load(Ordering::Acquire) {
            // What this batch frees counts from the next one on, as its extents do.
            let of = || Reserve::of(&self.state, &self.free, &self.reserved);
            if !self.reserve.get_or_insert_with(of).admits(&members) {
                return Err(Status::NoSpace);
            }
        }
        let take = |m: MemberId| self.free.take(m).map(|extent| Copy { member: m, extent });
        let one = is_planted(pool, Planted::CopiesOnOneMember);
        let members = members.iter().map(|m| if one { members[0] } else { *m });
        let copies: Copies = members.map(take).collect::<Option<_>>().ok_or(Status::NoSpace)?;
        self.apply(Change::SlotAllocated { id: volume, slot, copies });
        Ok(())
    }

    /// An extent on the member that is asked for, or on the one with most room, among those that have no copy of the slot.
    fn reserve(&mut self, pool: &Shared, job: &Job) -> Result<Copy, Stuck> {
        let record = self.state.volumes.get(&job.volume).ok_or(Stuck::Gone)?;
        let copies = record.slots.get(&job.slot).ok_or(Stuck::Gone)?.copies.clone();
        if job.place == Place::More && !copies::may_grow(&self.state, job.volume, job.slot) {
            return Err(Stuck::Gone);
        }
        let stripe = record.geometry(pool.extent).stripe_of(job.slot);
        let taken = |m: MemberId| copies.iter().any(|c| c.member == m);
        let mut rooms = rooms(pool, (&self.state, record), &self.free, stripe, (job.volume, job.slot));
        if !is_planted(pool, Planted::MoveBesideCopy) {
            rooms.retain(|room| !taken(room.member));
        }
        rooms.retain(|room| job.to.is_none_or(|to| room.member == to));
        let member =
            alloc::choose(&rooms, 1).and_then(|chosen| chosen.first().copied()).ok_or(Stuck::NoRoom)?;
        let extent = self.free.take(member).ok_or(Stuck::NoRoom)?;
        let copy = Copy { member, extent };
        self.reserved.push(copy);
        Ok(copy)
    }

    fn unreserve(&mut self, copy: Copy) {
        if let Some(at) = self.reserved.iter().position(|c| *c == copy) {
            self.reserved.remove(at);
            self.free.give_back(copy);
        }
    }

    /// Decides that a copy lies elsewhere, or that there is one more or less; returns the extent that is free after it.
    fn moved(&mut self, pool: &Shared, job: &Job, to: Option<Copy>) -> Result<Vec<Copy>, PoolError> {
        let gone = || PoolError::Invalid("what was to be moved is not there any more".to_owned());
        let slot = self.state.volumes.get(&job.volume).and_then(|v| v.slots.get(&job.slot));
        let copies = slot.filter(|s| job.is_of(s.stamp, &s.copies)).ok_or_else(gone)?.copies.clone();
        let still = match job.place {
            Place::Another(_) => true,
            Place::More => copies::may_grow(&self.state, job.volume, job.slot),
            Place::Less(copy) => {
                copies::may_lose(&self.state, job.volume, job.slot, copy)
                    || is_planted(pool, Planted::DroppedWrongCopy)
            }
        };
        if !still || job.place.takes_room() != to.is_some() {
            return Err(gone());
        }
        if let Some(to) = to {
            let reserved = self.reserved.iter().position(|c| *c == to).ok_or_else(gone)?;
            if !pool.member(to.member).is_in_sync() || self.state.is_leaving(to.member) {
                return Err(gone());
            }
            self.reserved.remove(reserved);
        }
        let copies = job.place.after(&copies, to);
        self.apply(Change::SlotMoved { id: job.volume, slot: job.slot, copies });
        Ok(job.place.gone().into_iter().collect())
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
            VolumeChange::Shrink { id, size } => self.shrink(id, size)?,
            VolumeChange::Rename { id, name } => match self.state.volume_named(&name) {
                Some(other) if other != id => return Err(PoolError::VolumeExists(name)),
                Some(_) | None => Change::VolumeRenamed { id, name },
            },
            VolumeChange::Copies { id, copies, unprotected } => {
                copies::check(&self.state, id, copies, unprotected, &self.free)?;
                Change::VolumeCopies { id, copies }
            }
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
        let mut geometry = record.geometry(self.state.extent);
        geometry.cover(size, columns);
        Ok(Change::VolumeResized { id, size, segments: geometry.segments })
    }

    fn shrink(&self, id: VolumeId, size: ByteLen) -> Result<Change, PoolError> {
        let record = self.state.volumes.get(&id).ok_or_else(|| PoolError::NoVolume(format!("{id:?}")))?;
        let geometry = record.geometry(self.state.extent);
        let start_of = |slot: SlotIndex| geometry.byte_of(slot, ByteLen(0)).map_or(u64::MAX, |at| at.0);
        // Its first byte is the lowest of a slot; slots of a stripe begin within a few units of each other.
        if let Some(last) = record.slots.keys().rev().take(COLUMNS).find(|s| start_of(**s) >= size.0) {
            let end = ByteLen(start_of(*last));
            return Err(PoolError::DataBeyond { name: record.name.clone(), end });
        }
        Ok(Change::VolumeResized { id, size, segments: record.segments.clone() })
    }
}

/// The members as placement sees them for a slot of this stripe.
fn rooms(
    pool: &Shared,
    (state, record): (&State, &VolumeRecord),
    free: &FreeExtents,
    stripe: std::ops::Range<u32>,
    (volume, slot): (VolumeId, SlotIndex),
) -> Vec<Room> {
    let mut in_stripe: BTreeMap<MemberId, u32> = BTreeMap::new();
    for (_, slot) in record.slots.range(SlotIndex(stripe.start)..SlotIndex(stripe.end)) {
        slot.copies.iter().for_each(|c| *in_stripe.entry(c.member).or_default() += 1);
    }
    let leaves = |m: &Member| state.is_leaving(m.id) && !is_planted(pool, Planted::LeavingGetsSlots);
    let room = |m: &Arc<Member>| Room {
        member: m.id,
        free: if m.is_in_sync() && !leaves(m) { free.free(m.id) } else { 0 },
        total: m.layout.extents,
        in_stripe: in_stripe.get(&m.id).copied().unwrap_or(0),
        lot: alloc::lot(volume, slot, m.id),
    };
    pool.all_members().iter().map(room).collect()
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
