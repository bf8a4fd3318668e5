//! Writing the metadata log: one commit at a time, to every vote, done when a majority holds it.

use super::error::PoolError;
use super::log::{Cursor, LogArea, Position, Replayed, append};
use super::member::Member;
use super::planted::{Planted, is_planted};
use super::quorum::{Tally, Voter, votes_of, witness_counts};
use super::record::{Header, Kind, frame_len, link};
use super::state::{Change, State};
use super::state_codec::{emit_changes, emit_state};
use crate::base::units::{ByteLen, MemberId};
use crate::disk::{Disk, Patience};
use crate::reactor::Core;
use futures_util::future::join_all;
use nix::errno::Errno;
use std::sync::Arc;

/// Why no more is placed although there is space.
pub const LOG_FULL: &str = "the map of this pool is too large for the log of its smallest drive";

/// A place that holds a copy of the log.
pub struct Vote {
    pub voter: Voter,
    pub place: Place,
    pub area: LogArea,
    /// None until the first checkpoint of this opening.
    pub cursor: Option<Cursor>,
    /// The generation the log was in when it was opened; the next checkpoint goes to the other half.
    pub generation: u64,
    pub alive: bool,
}

/// The disk of a vote.
pub enum Place {
    Member(Arc<Member>),
    Witness(Arc<Disk>),
}

impl Place {
    pub fn disk(&self) -> Option<&Disk> {
        match self {
            Place::Member(member) => member.disk.as_deref(),
            Place::Witness(disk) => Some(disk),
        }
    }
}

/// All votes that are present, and where the history stands.
pub struct Votes {
    pub votes: Vec<Vote>,
    pub position: Position,
    /// Members of the pool, present or not.
    pub members: usize,
    /// A member that is removed and not gone: a majority without it is needed, too.
    pub parting: Option<MemberId>,
    /// The majority was lost: nothing is committed any more.
    pub frozen: bool,
    /// Opened without a majority, by order: the votes present are enough.
    pub forced: bool,
    /// Votes that failed and that no commit has reported yet.
    pub failed: Vec<(Voter, Errno)>,
}

/// What became of a commit.
pub struct Committed {
    pub sequence: u64,
    /// Votes that failed during it.
    pub lost: Vec<(Voter, Errno)>,
}

impl Votes {
    pub fn tally(&self) -> Tally {
        let counts = |v: &&Vote| v.alive && (v.voter != Voter::Witness || witness_counts(self.members));
        Tally { present: self.votes.iter().filter(counts).count(), total: votes_of(self.members) }
    }

    /// The votes without the member that is removed.
    fn tally_without(&self, parting: MemberId) -> Tally {
        let members = self.members - 1;
        let counts = |v: &&Vote| match v.voter {
            Voter::Member(id) => v.alive && id != parting,
            Voter::Witness => v.alive && witness_counts(members),
        };
        Tally { present: self.votes.iter().filter(counts).count(), total: votes_of(members) }
    }

    /// Whether what is written to all votes that are alive is done.
    fn suffice(&self) -> bool {
        let without = self.parting.map(|id| self.tally_without(id));
        let enough = |tally: Tally| tally.present > 0 && (tally.is_majority() || self.forced);
        enough(self.tally()) && without.is_none_or(enough)
    }

    /// Whether there is a majority without a member.
    pub fn could_part(&self, member: MemberId) -> Result<(), PoolError> {
        if self.frozen {
            return Err(PoolError::Frozen);
        }
        match self.tally_without(member).is_majority() {
            true => Ok(()),
            false => {
                Err(PoolError::Invalid("without this drive there would be no majority of votes".to_owned()))
            }
        }
    }

    /// A member is gone: it has no vote in the commit that says so, nor later. What it had is given back for a commit that
    /// could not be made.
    pub fn let_go(&mut self, member: MemberId) -> Option<Vote> {
        let at = self.votes.iter().position(|v| v.voter == Voter::Member(member));
        (self.members, self.parting) = (self.members - 1, None);
        at.map(|at| self.votes.remove(at))
    }

    /// A member is not gone after all.
    pub fn keep(&mut self, member: MemberId, vote: Option<Vote>) {
        (self.members, self.parting) = (self.members + 1, Some(member));
        self.votes.extend(vote);
    }

    /// Makes durable what was found. A process that was killed may have left the newest checkpoint in a drive's cache, and the
    /// one to come takes the place of the one before it.
    pub async fn secure(&mut self, core: &Core) {
        let flushes = self.votes.iter().map(async |vote| match vote.place.disk() {
            Some(disk) => disk.flush(core, Patience::Opening).await,
            None => Ok(()),
        });
        let ended = join_all(flushes).await;
        for (vote, end) in self.votes.iter_mut().zip(ended) {
            if let Err(errno) = end {
                vote.alive = false;
                self.failed.push((vote.voter, errno));
            }
        }
    }

    /// Brings votes that lack the newest commit up to it, before another one is made: otherwise an opening that is
    /// cut off after a crash within a commit would leave members in sync that lack two. `state` is the one at the
    /// present position.
    pub async fn catch_up(&mut self, core: &Core, state: &State, behind: &[Voter]) {
        let body = emit_state(state);
        let len = body.len() as u64; // widening
        for at in 0..self.votes.len() {
            let vote = &self.votes[at];
            let Some(disk) = vote.place.disk().filter(|_| behind.contains(&vote.voter)) else { continue };
            let cursor = Cursor { generation: vote.generation + 1, offset: ByteLen(0) };
            let header = self.header(Kind::Checkpoint, cursor.generation, self.position.link, len);
            let ended = append(core, disk, vote.area, cursor, &header, &body, Patience::Opening).await;
            let vote = &mut self.votes[at];
            match ended {
                Ok(cursor) => vote.cursor = Some(cursor),
                Err(errno) => {
                    vote.alive = false;
                    self.failed.push((vote.voter, errno));
                }
            }
        }
    }

    /// How long is waited for a vote: shorter where the others are enough without it.
    fn patience(&self) -> Patience {
        let spares = |Tally { present, total }| {
            let others = Tally { present: present.saturating_sub(1), total };
            others.present > 0 && (others.is_majority() || self.forced)
        };
        let without = self.parting.map(|id| self.tally_without(id));
        let spared = spares(self.tally()) && without.is_none_or(spares);
        if spared { Patience::Peers } else { Patience::Alone }
    }

    /// Whether a member holds everything that was committed.
    pub fn has(&self, member: MemberId) -> bool {
        self.votes.iter().any(|v| v.alive && v.voter == Voter::Member(member))
    }

    /// Gives a member that is there again the newest state, and its vote back. The state says that it is out of sync,
    /// so that it cannot pass for one that missed nothing.
    pub async fn rejoin(
        &mut self,
        core: &Core,
        member: &Arc<Member>,
        log: &Replayed,
        state: &State,
    ) -> Result<(), PoolError> {
        let voter = Voter::Member(member.id);
        self.votes.retain(|v| v.voter != voter);
        let mut vote = Vote {
            voter,
            place: Place::Member(member.clone()),
            area: member.log_area(),
            cursor: None,
            generation: log.generation_next() - 1,
            alive: true,
        };
        match is_planted(core, Planted::RejoinWithoutLog) {
            true => vote.cursor = Some(Cursor { generation: vote.generation + 1, offset: ByteLen(0) }),
            false => self.bring_up(core, &mut vote, state).await?,
        }
        self.votes.push(vote);
        Ok(())
    }

    /// Writes the state at the present position to a vote, in a new generation.
    pub async fn bring_up(&self, core: &Core, vote: &mut Vote, state: &State) -> Result<(), PoolError> {
        let body = emit_state(state);
        let len = body.len() as u64; // widening
        if frame_len(len) > vote.area.generation_len.0 {
            return Err(PoolError::LogFull(LOG_FULL));
        }
        let generation = vote.cursor.map_or(vote.generation, |c| c.generation) + 1;
        let cursor = Cursor { generation, offset: ByteLen(0) };
        let header = self.header(Kind::Checkpoint, generation, self.position.link, len);
        let disk = vote.place.disk().expect("a member that has a vote is there");
        let written = append(core, disk, vote.area, cursor, &header, &body, Patience::Opening).await;
        let path = disk.path().to_owned();
        vote.cursor = Some(written.map_err(|errno| PoolError::Disk { path, what: "written", errno })?);
        Ok(())
    }

    /// Commits the addition of members. Their logs have the state before it and come to know of it last, when a majority
    /// of the votes so far has it; it is done when a majority of all votes has it (`quorum`).
    pub async fn admit(
        &mut self,
        core: &Core,
        after: &State,
        changes: &[Change],
        mut joining: Vec<Vote>,
    ) -> Result<Committed, PoolError> {
        if is_planted(core, Planted::NewVotesFirst) {
            self.members = after.members.len();
            joining.append(&mut self.votes);
            self.votes = joining;
            return self.commit(core, after, changes).await;
        }
        let mut committed = self.commit(core, after, changes).await?;
        for vote in &mut joining {
            // One that failed is lost like any other member.
            if self.bring_up(core, vote, after).await.is_err() {
                vote.alive = false;
                committed.lost.push((vote.voter, Errno::EIO));
            }
        }
        self.members = after.members.len();
        self.votes.append(&mut joining);
        if !self.suffice() {
            self.frozen = true;
            return Err(PoolError::Frozen);
        }
        Ok(committed)
    }

    /// Whether there would be a majority with these members added, and whether their logs have room for the state.
    pub fn could_admit(&self, after: &State, joining: &[LogArea]) -> Result<(), PoolError> {
        if self.frozen {
            return Err(PoolError::Frozen);
        }
        let len = frame_len(emit_state(after).len() as u64); // widening
        let areas = self.votes.iter().filter(|v| v.alive).map(|v| &v.area).chain(joining);
        if areas.into_iter().any(|area| len > area.generation_len.0 / 2) {
            return Err(PoolError::LogFull(LOG_FULL));
        }
        let members = after.members.len();
        let counts = |v: &&Vote| v.alive && (v.voter != Voter::Witness || witness_counts(members));
        let present = self.votes.iter().filter(counts).count() + joining.len();
        if !(Tally { present, total: votes_of(members) }).is_majority() {
            return Err(PoolError::Invalid(
                "so many drives at a time would have more votes than are here".to_owned(),
            ));
        }
        Ok(())
    }

    /// Starts a new epoch: every vote gets a checkpoint of the state after these changes.
    pub async fn begin_epoch(
        &mut self,
        core: &Core,
        after: &State,
        changes: &[Change],
    ) -> Result<Committed, PoolError> {
        let state = emit_state(after);
        self.check_room(&state, 1)?;
        self.position.epoch += 1;
        self.advance(changes);
        self.checkpoint(core, state).await
    }

    /// Whether a checkpoint of this state fits into its share of a generation of every vote.
    fn check_room(&self, state: &[u8], share: u64) -> Result<(), PoolError> {
        let len = frame_len(state.len() as u64); // widening
        if self.votes.iter().any(|v| v.alive && len > v.area.generation_len.0 / share) {
            return Err(PoolError::LogFull(LOG_FULL));
        }
        Ok(())
    }

    /// Commits changes; `after` is the state with them.
    pub async fn commit(
        &mut self,
        core: &Core,
        after: &State,
        changes: &[Change],
    ) -> Result<Committed, PoolError> {
        if self.frozen {
            return Err(PoolError::Frozen);
        }
        if is_forgotten(core, changes) {
            return Ok(Committed { sequence: self.position.sequence, lost: Vec::new() });
        }
        let before = self.position.link;
        let body = emit_changes(changes);
        let len = body.len() as u64; // widening
        let fits = |v: &Vote| v.cursor.is_some_and(|cursor| v.area.fits(cursor, len));
        if !self.votes.iter().filter(|v| v.alive).all(fits) {
            // Half of a generation is left for records, unless the change makes nothing larger.
            let share = if changes.iter().any(grows) { 2 } else { 1 };
            let state = emit_state(after);
            self.check_room(&state, share)?;
            self.advance(changes);
            return self.checkpoint(core, state).await;
        }
        self.advance(changes);
        let header = |generation| self.header(Kind::Changes, generation, before, len);
        let patience = self.patience();
        let first = self.votes.first().map(|v| v.voter);
        let appends = self.votes.iter().map(async |vote| {
            let cursor = vote.cursor.filter(|_| vote.alive)?;
            if is_planted(core, Planted::CommitAtOneVote) && first != Some(vote.voter) {
                return Some(Ok(cursor));
            }
            let disk = vote.place.disk()?;
            Some(append(core, disk, vote.area, cursor, &header(cursor.generation), &body, patience).await)
        });
        let ended = join_all(appends).await;
        self.count(ended)
    }

    /// Writes the whole state to the other generation of every vote.
    async fn checkpoint(&mut self, core: &Core, body: Vec<u8>) -> Result<Committed, PoolError> {
        let len = body.len() as u64; // widening
        let start = |generation| Cursor { generation, offset: ByteLen(0) };
        let patience = self.patience();
        let writes = self.votes.iter().map(async |vote| {
            let disk = vote.place.disk().filter(|_| vote.alive)?;
            let step = if is_planted(core, Planted::CheckpointInPlace) { 2 } else { 1 };
            let generation = vote.cursor.map_or(vote.generation, |c| c.generation) + step;
            let header = self.header(Kind::Checkpoint, generation, self.position.link, len);
            Some(append(core, disk, vote.area, start(generation), &header, &body, patience).await)
        });
        let ended = join_all(writes).await;
        self.count(ended)
    }

    fn advance(&mut self, changes: &[Change]) {
        let body = emit_changes(changes);
        self.position.sequence += 1;
        let header = Header {
            kind: Kind::Changes,
            generation: 0,
            epoch: self.position.epoch,
            sequence: self.position.sequence,
            before: self.position.link,
            body_len: body.len() as u64, // widening
        };
        self.position.link = link(&header, &body);
    }

    fn header(&self, kind: Kind, generation: u64, before: u64, body_len: u64) -> Header {
        let Position { epoch, sequence, .. } = self.position;
        Header { kind, generation, epoch, sequence, before, body_len }
    }

    fn count(&mut self, ended: Vec<Option<Result<Cursor, Errno>>>) -> Result<Committed, PoolError> {
        let mut lost = std::mem::take(&mut self.failed);
        for (vote, end) in self.votes.iter_mut().zip(ended) {
            match end {
                Some(Ok(cursor)) => vote.cursor = Some(cursor),
                Some(Err(errno)) => {
                    vote.alive = false;
                    lost.push((vote.voter, errno));
                }
                None => vote.alive = false,
            }
        }
        if !self.suffice() {
            self.frozen = true;
            return Err(PoolError::Frozen);
        }
        Ok(Committed { sequence: self.position.sequence, lost })
    }
}

/// Whether a bug was planted that leaves out a commit of such changes.
fn is_forgotten(core: &Core, changes: &[Change]) -> bool {
    // A commit without changes is made for its own sake.
    let forgotten = |change: &Change| match change {
        Change::SlotAllocated { .. } => is_planted(core, Planted::AllocationNotCommitted),
        Change::SlotFreed { .. } => is_planted(core, Planted::FreeNotCommitted),
        Change::SlotMoved { .. } => is_planted(core, Planted::MoveNotCommitted),
        _ => false,
    };
    !changes.is_empty() && changes.iter().all(forgotten)
}

/// Whether a change makes the state larger.
fn grows(change: &Change) -> bool {
    match change {
        Change::VolumeCreated { .. }
        | Change::VolumeResized { .. }
        | Change::SlotAllocated { .. }
        | Change::MemberAdded { .. } => true,
        Change::VolumeReserved { reservations, .. } => !reservations.is_empty(),
        Change::Opened { .. }
        | Change::Closed
        | Change::MemberState { .. }
        | Change::MemberNamed { .. }
        | Change::MemberLeaving { .. }
        | Change::MemberGone { .. }
        | Change::Spreading { .. }
        | Change::VolumeRenamed { .. }
        | Change::VolumeCopies { .. }
        | Change::VolumeDestroyed { .. }
        | Change::SlotFreed { .. }
        | Change::SlotMoved { .. }
        | Change::Scrubbed { .. } => false,
    }
}
