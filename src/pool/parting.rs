//! Members that are taken out of an open pool.
//!
//! ```text
//! commit "it leaves" ─▶ nothing new comes there, all that lies there moves (`rebalance`) ─▶ commit "it is removed"
//!                   ─▶ its vote goes: commit "it is gone" ─▶ clear its superblocks, close it
//! ```
//!
//! Why there are two commits at the end, and who has to have them, is said in `quorum`. A drive whose superblocks were
//! not cleared names the pool and no pool names it: an opening leaves it aside, and it can be added again.

use super::Pool;
use super::create::clear_superblocks;
use super::error::PoolError;
use super::home::{Home, HomeRequest};
use super::leaving::{Departure, departure};
use super::lifecycle::Event;
use super::member::Member;
use super::planted::{Planted, is_planted};
use super::shared::Shared;
use super::state::{Absence, Change, MemberState};
use crate::base::units::MemberId;
use crate::reactor::Core;
use crate::reactor::sync::{lock, oneshot};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long is waited between looks whether a drive has ended what it does.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// So many looks at most: a drive that answers nothing is left as it is.
const LOOKS_MAX: u32 = 600;

impl Pool {
    /// What it would mean to take a member out.
    ///
    /// # Errors
    /// Why it cannot be taken out.
    pub fn departure(&self, member: MemberId) -> Result<Departure, PoolError> {
        departure(&lock(&self.shared.live).state, member)
    }

    /// A member in sync is to be taken out: from here on nothing new comes to it, and what lies there moves to others. When
    /// nothing does any more it is no member, and its drive is free.
    ///
    /// # Errors
    /// If the others cannot hold what is stored, or it cannot be committed. Then it stays.
    pub async fn remove_disk(&self, member: MemberId) -> Result<(), PoolError> {
        self.ask(|answer| HomeRequest::Leave { member, leaving: true, answer }).await
    }

    /// A member that leaves stays after all, and gets its share again.
    ///
    /// # Errors
    /// If it does not leave, or is gone already, or it cannot be committed.
    pub async fn keep_disk(&self, member: MemberId) -> Result<(), PoolError> {
        self.ask(|answer| HomeRequest::Leave { member, leaving: false, answer }).await
    }
}

/// Takes out a member on which nothing lies. The caller has a unit of the pool's background work.
pub async fn part(core: &Core, pool: &Shared, member: MemberId) -> Result<(), PoolError> {
    let (answer, asked) = oneshot();
    pool.home.send(HomeRequest::Part { member, answer }).map_err(|_| PoolError::Closing)?;
    if let Some(gone) = asked.await.unwrap_or(Err(PoolError::Closing))? {
        set_free(core, pool, &gone).await;
    }
    Ok(())
}

/// Takes the superblocks away from a drive that is no member any more, and closes it.
async fn set_free(core: &Core, pool: &Shared, gone: &Member) {
    let Some(disk) = &gone.disk else { return };
    let mut looks = 0;
    while disk.load() > 0 && looks < LOOKS_MAX && !pool.is_closing() {
        core.sleep(LOOK_EVERY).await;
        looks += 1;
    }
    // Where that fails, an opening leaves the drive aside.
    if disk.load() == 0
        && let Err(errno) = clear_superblocks(core, disk, &gone.layout).await
    {
        tracing::warn!(member = gone.name, %errno, "its superblocks could not be cleared");
    }
    disk.close(core).await;
    lock(&pool.places).retain(|path| path != disk.path());
}

impl Home {
    /// Commits that a member leaves, or stays after all.
    pub async fn set_leaving(&mut self, id: MemberId, leaving: bool) -> Result<(), PoolError> {
        let mut after = lock(&self.pool.live).state.clone();
        match (leaving, after.is_leaving(id)) {
            (true, true) => return Ok(()),
            (true, false) => {
                departure(&after, id)?;
                self.votes.could_part(id)?;
            }
            (false, true) if after.parting() != Some(id) => {}
            (false, _) => return Err(PoolError::Invalid("this drive is not being taken out".to_owned())),
        }
        let change = Change::MemberLeaving { member: id, leaving };
        let applied = after.apply(self.votes.position.sequence + 1, &change);
        applied.map_err(|_| PoolError::Invalid("there is no such drive".to_owned()))?;
        self.commit(after, &[change]).await?;
        let member = self.pool.member(id);
        tracing::info!(member = member.name, leaving, "whether it leaves the pool was changed");
        self.pool.leave_stuck.store(false, Ordering::Release);
        self.pool.spread_asked.fetch_add(1, Ordering::AcqRel);
        self.pool.spread_wanted.wake_all();
        self.pool.rebuild_wanted.wake_all();
        Ok(())
    }

    /// Commits that a member on which nothing lies is none any more. Gives it if it is gone now; None if it stays.
    pub async fn part(&mut self, id: MemberId) -> Result<Option<Arc<Member>>, PoolError> {
        let Some(parting) = self.begin_parting(id).await? else { return Ok(None) };
        let member = self.pool.member(parting);
        let gone = self.let_go(&member).await;
        match gone {
            Ok(()) => Ok(Some(member)),
            Err(error) => Err(error),
        }
    }

    /// The first commit: the member is removed. Gives the one that is: another one comes first that was begun with.
    async fn begin_parting(&mut self, id: MemberId) -> Result<Option<MemberId>, PoolError> {
        let (record, used) = {
            let live = lock(&self.pool.live);
            if let Some(begun) = live.state.parting() {
                return Ok(Some(begun));
            }
            let reserved = live.reserved.iter().any(|copy| copy.member == id);
            (live.state.members.get(&id).cloned(), reserved || live.free.in_use(id) > 0)
        };
        let Some(record) = record else { return Ok(None) };
        let leaves = match record.state {
            MemberState::Active => record.leaving,
            MemberState::Rebuilding => record.leaving || record.absence.dead,
            _ => false,
        };
        if !leaves || used && !is_planted(&self.core, Planted::VoteBeforeData) {
            return Ok(None);
        }
        self.votes.could_part(id)?;
        if is_planted(&self.core, Planted::PartedAtOnce) {
            return Ok(Some(id));
        }
        self.votes.parting = Some(id);
        let absence = Absence { since_wall_ns: self.core.wall_ns(), ..record.absence };
        if let Err(error) = self.commit_state(id, Event::Evacuated, absence).await
            && lock(&self.pool.live).state.parting() != Some(id)
        {
            self.votes.parting = None;
            return Err(error);
        }
        Ok(Some(id))
    }

    /// The second commit: the member is gone, and has no vote in this one any more.
    async fn let_go(&mut self, member: &Arc<Member>) -> Result<(), PoolError> {
        let mut after = lock(&self.pool.live).state.clone();
        let mut changes = vec![Change::MemberGone { member: member.id }];
        if is_planted(&self.core, Planted::PartedAtOnce) {
            let (member, state, absence) = (member.id, MemberState::Removed, Absence::default());
            changes.insert(0, Change::MemberState { member, state, absence });
        }
        for change in &changes {
            let applied = after.apply(self.votes.position.sequence + 1, change);
            applied.map_err(|_| PoolError::Invalid("something lies on this drive".to_owned()))?;
        }
        member.set_out_of_sync(Absence::default(), "it was taken out of the pool");
        let vote = self.votes.let_go(member.id);
        let committed = match self.votes.commit(&self.core, &after, &changes).await {
            Ok(committed) => committed,
            Err(error) => {
                self.votes.keep(member.id, vote);
                return Err(error);
            }
        };
        self.pool.part(member);
        lock(&self.pool.live).free.remove(member.id);
        tracing::info!(member = member.name, "drive taken out of the pool");
        // Who was lost on the way is not what was asked: this one is gone.
        if let Err(error) = self.take_effect(after, committed).await {
            tracing::error!(%error, "a drive was lost while another was taken out, and that could not be committed");
        }
        self.pool.spread_wanted.wake_all();
        Ok(())
    }
}
