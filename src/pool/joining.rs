//! Empty drives that join an open pool.
//!
//! ```text
//! open it, look at it ─▶ clear it, an empty dirty log ─▶ a log with the state as it is, superblocks
//!                     ─▶ commit "they are members": old votes, then new ones ─▶ room for slots
//! ```
//!
//! Up to the commit such a drive names the pool and no pool names it: an opening leaves it aside (`open::take_logs`),
//! and it can be added again. Why the old votes come first is said in `quorum`.

use super::Pool;
use super::create::{clear_member, clear_superblocks, disk_error, open_exclusive, write_superblocks};
use super::dirty_log::DirtyLog;
use super::error::PoolError;
use super::home::{Home, HomeRequest};
use super::layout::{LOG_START, MemberLayout, member_layout, member_size_min};
use super::leaving::departure;
use super::lifecycle::{self, Event};
use super::log::LogArea;
use super::member::Member;
use super::parting::part;
use super::planted::{Planted, is_planted};
use super::quorum::Voter;
use super::shared::Shared;
use super::state::{Absence, Change, MemberState, State};
use super::superblock::{Superblock, VERSION};
use super::survey::superblocks;
use super::votes::{Place, Vote};
use crate::base::limits::MEMBERS_MAX;
use crate::base::units::MemberId;
use crate::disk::Disk;
use crate::io::driver::Access;
use crate::reactor::Core;
use crate::reactor::sync::{lock, oneshot};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uuid::Uuid;

/// Generations that a log of a new member begins with are drawn below this: frames that an earlier use of the drive left
/// in its log area are then of other generations.
const GENERATION_MAX: u64 = 1 << 48;

/// A drive that is empty and has no superblock yet.
pub struct Joiner {
    disk: Arc<Disk>,
    layout: MemberLayout,
    uuid: Uuid,
    name: String,
    generation: u64,
}

impl Pool {
    /// Adds drives, given with the names that people know them by. What is on them is lost; the caller has made sure
    /// that nothing of value is. There is more room when this returns; slots that exist move by and by.
    ///
    /// # Errors
    /// If a drive cannot be used, or the pool takes no changes. Then it has the members it had, except after `Frozen`: the
    /// next opening has the one or the other.
    pub async fn add_disks(&self, core: &Core, disks: &[(PathBuf, String)]) -> Result<(), PoolError> {
        self.take_disks(core, disks, None).await
    }

    /// Adds a drive and takes out another one, with one commit: that one leaves, or is dead if it is not in sync.
    ///
    /// # Errors
    /// As `add_disks`, and if the pool with the new one and without the old one cannot hold what is stored. Then nothing is
    /// changed.
    pub async fn replace_disk(
        &self,
        core: &Core,
        replaced: MemberId,
        by: &(PathBuf, String),
    ) -> Result<(), PoolError> {
        self.take_disks(core, std::slice::from_ref(by), Some(replaced)).await
    }

    async fn take_disks(
        &self,
        core: &Core,
        disks: &[(PathBuf, String)],
        replaced: Option<MemberId>,
    ) -> Result<(), PoolError> {
        let _at_work = self.shared.background.take(1).await;
        if self.shared.is_closing() {
            return Err(PoolError::Closing);
        }
        // Who votes changes in one way at a time.
        let parting = lock(&self.shared.live).state.parting();
        if let Some(member) = parting {
            part(core, &self.shared, member).await?;
        }
        let mut opened = Vec::new();
        let result = self.join(core, disks, replaced, &mut opened).await;
        if result.is_err() {
            for disk in opened {
                disk.close(core).await;
            }
        }
        result
    }

    async fn join(
        &self,
        core: &Core,
        disks: &[(PathBuf, String)],
        replaced: Option<MemberId>,
        opened: &mut Vec<Arc<Disk>>,
    ) -> Result<(), PoolError> {
        let mut joiners = Vec::new();
        for (path, name) in disks {
            let disk = Arc::new(open_exclusive(core, path, Access::Exclusive).await?);
            opened.push(disk.clone());
            joiners.push(joiner(core, &self.shared, disk, name).await?);
        }
        let state = lock(&self.shared.live).state.clone();
        if let Some(old) = replaced {
            leave_for(with_members(&state, 0, &joiners)?.0, old)?;
        }
        // None is touched before all were looked at.
        for Joiner { disk, layout, .. } in &joiners {
            let cleared = clear_member(core, disk, layout).await;
            cleared.map_err(|errno| disk_error(disk, "formatted", errno))?;
        }
        let (answer, asked) = oneshot();
        let request = HomeRequest::AddMembers { joiners, replaced, answer };
        self.shared.home.send(request).map_err(|_| PoolError::Closing)?;
        asked.await.unwrap_or(Err(PoolError::Closing))
    }
}

/// Looks at a drive: whether it can be a member.
async fn joiner(core: &Core, pool: &Shared, disk: Arc<Disk>, name: &str) -> Result<Joiner, PoolError> {
    let size = disk.facts().size;
    let layout = member_layout(size, pool.extent).filter(|_| size >= member_size_min());
    let Some(layout) = layout else {
        let min = member_size_min().0.max(2 * pool.extent.0);
        return Err(PoolError::TooSmall { path: disk.path().to_owned(), min });
    };
    let known = |uuid: Uuid| lock(&pool.live).state.members.values().any(|m| m.uuid == uuid);
    let found = superblocks(core, &disk).await;
    let mut sound = found.iter().filter_map(|s| s.content.as_ref().ok());
    if sound.any(|s| s.pool == pool.uuid && known(s.member)) {
        let why = format!("{} is a member of this pool", disk.path().display());
        return Err(PoolError::Invalid(why));
    }
    let (uuid, generation) = core.with_prng(|prng| (prng.uuid(), prng.below(GENERATION_MAX)));
    Ok(Joiner { disk, layout, uuid, name: name.chars().take(80).collect(), generation })
}

impl Joiner {
    fn area(&self) -> LogArea {
        LogArea { start: LOG_START, generation_len: self.layout.log_generation }
    }

    fn member(&self, id: MemberId) -> Arc<Member> {
        let (layout, dirty) = (self.layout, DirtyLog::empty(&self.layout));
        Arc::new(Member::new(id, self.uuid, self.name.clone(), layout, Some(self.disk.clone()), dirty))
    }

    fn vote(&self, member: &Arc<Member>) -> Vote {
        let (voter, place) = (Voter::Member(member.id), Place::Member(member.clone()));
        Vote { voter, place, area: self.area(), cursor: None, generation: self.generation, alive: true }
    }

    /// A log with the state as it is, then the superblocks: from here on the drive names the pool.
    async fn name_pool(&self, home: &Home, vote: &mut Vote, state: &State) -> Result<(), PoolError> {
        home.votes.bring_up(&home.core, vote, state).await?;
        if is_planted(&home.core, Planted::NamedAfterJoining) {
            return Ok(());
        }
        self.write_superblocks(home, vote, state).await
    }

    async fn write_superblocks(&self, home: &Home, vote: &Vote, state: &State) -> Result<(), PoolError> {
        let Voter::Member(id) = vote.voter else { return Ok(()) };
        let superblock = Superblock {
            version: VERSION,
            pool: state.pool,
            pool_name: state.name.clone(),
            member: self.uuid,
            id,
            size: self.layout.size,
            extent: self.layout.extent,
            created_wall_ns: home.core.wall_ns(),
        };
        let written = write_superblocks(&home.core, &self.disk, &self.layout, &superblock).await;
        written.map_err(|errno| disk_error(&self.disk, "formatted", errno))
    }
}

impl Home {
    /// Commits that drives are members, and puts them into the pool; one in whose place they come is to leave.
    pub async fn add_members(
        &mut self,
        joiners: Vec<Joiner>,
        replaced: Option<MemberId>,
    ) -> Result<(), PoolError> {
        let state = lock(&self.pool.live).state.clone();
        if state.members.len() + joiners.len() > MEMBERS_MAX {
            return Err(PoolError::Invalid(format!("a pool has {MEMBERS_MAX} drives at most")));
        }
        let sequence = self.votes.position.sequence + 1;
        let (mut after, mut changes) = with_members(&state, sequence, &joiners)?;
        if let Some(old) = replaced {
            let change = leave_for(after.clone(), old)?;
            let applied = after.apply(sequence, &change);
            applied.map_err(|_| PoolError::Invalid("there is no such drive".to_owned()))?;
            changes.push(change);
        }
        let areas: Vec<LogArea> = joiners.iter().map(Joiner::area).collect();
        self.votes.could_admit(&after, &areas)?;
        let ids = (0..).map(|n| MemberId(state.next_member.0 + n));
        let members: Vec<Arc<Member>> = joiners.iter().zip(ids).map(|(j, id)| j.member(id)).collect();
        let mut votes: Vec<Vote> = joiners.iter().zip(&members).map(|(j, m)| j.vote(m)).collect();
        for (joiner, vote) in joiners.iter().zip(&mut votes) {
            if let Err(error) = joiner.name_pool(self, vote, &state).await {
                self.forget(&joiners).await;
                return Err(error);
            }
        }
        let committed = self.votes.admit(&self.core, &after, &changes, votes).await?;
        if is_planted(&self.core, Planted::NamedAfterJoining) {
            for (joiner, member) in joiners.iter().zip(&members) {
                joiner.write_superblocks(self, &joiner.vote(member), &state).await?;
            }
        }
        for member in members {
            tracing::info!(member = member.name, "drive added");
            member.set_in_sync();
            let path = member.disk.as_ref().map(|disk| disk.path().to_owned());
            lock(&self.pool.places).extend(path);
            lock(&self.pool.live).free.add(member.id, member.layout.extents);
            self.pool.replace(member);
        }
        // Who was lost on the way is not what was asked: they are members.
        if let Err(error) = self.take_effect(after, committed).await {
            tracing::error!(%error, "a drive was lost while others were added, and that could not be committed");
        }
        self.pool.no_room.store(false, Ordering::Release);
        self.pool.leave_stuck.store(false, Ordering::Release);
        self.pool.spread_asked.fetch_add(1, Ordering::AcqRel);
        self.pool.rebuild_wanted.wake_all();
        self.pool.spread_wanted.wake_all();
        Ok(())
    }

    /// Takes the superblocks away again of drives that do not join after all. Where that fails, an opening leaves the drive
    /// aside.
    async fn forget(&self, joiners: &[Joiner]) {
        for Joiner { disk, layout, .. } in joiners {
            let _ = clear_superblocks(&self.core, disk, layout).await;
        }
    }
}

/// The state with these members, and the changes that make it.
fn with_members(state: &State, sequence: u64, joiners: &[Joiner]) -> Result<(State, Vec<Change>), PoolError> {
    let mut after = state.clone();
    let mut changes = Vec::new();
    for Joiner { layout, uuid, name, .. } in joiners {
        let (member, uuid, name) = (after.next_member, *uuid, name.clone());
        let (size, extents) = (layout.size, layout.extents);
        let change = Change::MemberAdded { member, uuid, size, extents, name };
        let applied = after.apply(sequence, &change);
        applied.map_err(|_| PoolError::Invalid("no number is left for a new member".to_owned()))?;
        changes.push(change);
    }
    Ok((after, changes))
}

/// The change by which a member makes room for those that were added: it leaves, or is given up if it is gone.
fn leave_for(with_new: State, old: MemberId) -> Result<Change, PoolError> {
    let record =
        with_new.members.get(&old).ok_or_else(|| PoolError::Invalid("there is no such drive".to_owned()))?;
    if record.state == MemberState::Active {
        departure(&with_new, old)?;
        return Ok(Change::MemberLeaving { member: old, leaving: true });
    }
    let why = || {
        PoolError::Invalid(format!("{} is being brought up to date: wait until it is in sync", record.name))
    };
    let state = lifecycle::after(Event::GivenUp, record.state).ok_or_else(why)?;
    Ok(Change::MemberState { member: old, state, absence: Absence { dead: true, ..record.absence } })
}
