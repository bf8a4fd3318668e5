//! Rebuild: every slot that lost a copy with a member that is gone gets a new one in free space (R33).
//!
//! A member that is out of sync and gone for long enough, or is said to be dead, is given up: that is committed, so
//! that a restart goes on where it was. Then its copies are moved, most endangered slots first, several at a time, as
//! far as there is a copy to read from and room for another. A member that comes back ends it; what was moved stays.

use super::Pool;
use super::copies;
use super::crew::move_all;
use super::home::HomeRequest;
use super::moving::{Job, Place, Stuck};
use super::parting::part;
use super::shared::Shared;
use super::state::{MemberRecord, MemberState};
use super::{error::PoolError, member::Member};
use crate::base::units::MemberId;
use crate::reactor::Core;
use crate::reactor::sync::{lock, oneshot};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A member that is gone is given up after this time unless something else is asked for.
pub const DELAY_DEFAULT: Duration = Duration::from_secs(600);

/// How long is waited before what could not be moved is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

impl Pool {
    /// A member will not come back: its copies are made anew now.
    ///
    /// # Errors
    /// If the member is in use, or the change cannot be committed.
    pub async fn declare_dead(&self, member: MemberId) -> Result<(), PoolError> {
        give_up(&self.shared, member, true).await
    }
}

async fn give_up(pool: &Shared, member: MemberId, dead: bool) -> Result<(), PoolError> {
    let (answer, asked) = oneshot();
    let request = HomeRequest::GiveUp { member, dead, answer };
    pool.home.send(request).map_err(|_| PoolError::Closing)?;
    asked.await.unwrap_or(Err(PoolError::Closing))
}

/// Gives up members that stay away and makes their copies anew, until the pool closes.
pub async fn run(core: Core, pool: Arc<Shared>) {
    while !pool.is_closing() {
        let wanted = pool.rebuild_wanted.ticket();
        for member in due(&pool, core.wall_ns()) {
            // What cannot be committed now is tried again.
            let _ = give_up(&pool, member, false).await;
        }
        let left = work(&core, &pool).await;
        if pool.is_closing() {
            return;
        }
        let pause = match (left, next_due(&pool, core.wall_ns())) {
            (true, _) => TRY_AGAIN,
            (false, Some(pause)) => pause,
            (false, None) => Duration::from_secs(3600),
        };
        futures_util::future::select(wanted, core.sleep(pause)).await;
    }
}

/// Members out of sync that hold copies and were away for long enough.
fn due(pool: &Shared, wall_ns: u64) -> Vec<MemberId> {
    waiting(pool).into_iter().filter(|(_, at)| *at <= wall_ns).map(|(id, _)| id).collect()
}

fn next_due(pool: &Shared, wall_ns: u64) -> Option<Duration> {
    let pauses = waiting(pool).into_iter().map(|(_, at)| at.saturating_sub(wall_ns));
    // A clock that goes back makes it later, never a busy loop.
    pauses.min().map(|ns| Duration::from_nanos(ns.max(1_000_000_000)))
}

/// Members that may be given up, and when, wall clock.
fn waiting(pool: &Shared) -> Vec<(MemberId, u64)> {
    let delay = u64::try_from(pool.rebuild_after.as_nanos()).unwrap_or(u64::MAX);
    let live = lock(&pool.live);
    let gone = live.state.members.iter().filter(|(id, record)| {
        matches!(record.state, MemberState::Missing | MemberState::Faulted)
            && (record.leaving || live.state.holds_copies(**id))
    });
    gone.map(|(id, record)| (*id, record.absence.since_wall_ns.saturating_add(delay))).collect()
}

/// Moves what can be moved. True if something is left that could not.
async fn work(core: &Core, pool: &Arc<Shared>) -> bool {
    let jobs = jobs(pool);
    if jobs.is_empty() {
        return declare_empty(core, pool).await;
    }
    tracing::info!(slots = jobs.len(), "rebuilding what lost a copy");
    let wanted = |job: &Job| is_wanted(pool, job).then_some(*job);
    let stuck = move_all(core, pool, &pool.rebuild_progress, jobs, wanted).await.stuck;
    let no_room = stuck.contains(&Stuck::NoRoom);
    pool.no_room.store(no_room, Ordering::Release);
    let left = declare_empty(core, pool).await;
    left || !stuck.is_empty()
}

/// Whether the member of a job is still given up.
fn is_wanted(pool: &Shared, job: &Job) -> bool {
    let Place::Another(from) = job.place else { return false };
    let live = lock(&pool.live);
    live.state.members.get(&from.member).is_some_and(|m| m.state == MemberState::Rebuilding)
}

/// The copies on members that were given up, of slots that can be read; slots with the fewest copies first.
fn jobs(pool: &Shared) -> Vec<Job> {
    let live = lock(&pool.live);
    let mut found = Vec::new();
    for (id, volume) in &live.state.volumes {
        for (slot, record) in &volume.slots {
            let given_up = |m: MemberId| live.state.members[&m].state == MemberState::Rebuilding;
            let Some(from) = record.copies.iter().find(|c| given_up(c.member)) else { continue };
            // Where there is one too many anyway, this is the one that goes.
            if copies::may_lose(&live.state, *id, *slot, *from) {
                continue;
            }
            let sources = pool.authorities(&record.copies).len();
            if sources > 0 {
                let (volume, slot, stamp) = (*id, *slot, record.stamp);
                found.push((sources, Job { volume, slot, stamp, place: Place::Another(*from), to: None }));
            }
        }
    }
    found.sort_by_key(|(sources, job)| (*sources, job.volume, job.slot));
    found.into_iter().map(|(_, job)| job).collect()
}

/// Commits of members that were given up that nothing lies on them any more; those that were to leave, or will not come
/// back, are members no more. True if something still does on one.
async fn declare_empty(core: &Core, pool: &Shared) -> bool {
    let (empty, mut left) = {
        let live = lock(&pool.live);
        let given_up = live.state.members.iter().filter(|(_, m)| m.state == MemberState::Rebuilding);
        let given_up: Vec<MemberId> = given_up.map(|(id, _)| *id).collect();
        let (holding, empty): (Vec<MemberId>, Vec<MemberId>) =
            given_up.into_iter().partition(|id| live.state.holds_copies(*id));
        (empty, !holding.is_empty())
    };
    let _at_work = pool.background.take(1).await;
    for member in empty {
        let record = lock(&pool.live).state.members.get(&member).cloned();
        let Some(MemberRecord { leaving, absence, .. }) = record else { continue };
        if pool.is_closing() || (leaving || absence.dead) && part(core, pool, member).await.is_ok() {
            continue;
        }
        if leaving {
            left = true;
            continue;
        }
        let (answer, asked) = oneshot();
        if pool.home.send(HomeRequest::Emptied { member, answer }).is_ok() {
            // If it cannot be committed it is found again at the next look.
            let _ = asked.await;
        }
    }
    left
}

/// Why a member that was given up, or leaves, still holds copies, in words.
pub fn hindrance(pool: &Shared, member: &Member) -> Option<String> {
    let (given_up, leaves) = {
        let live = lock(&pool.live);
        let record = live.state.members.get(&member.id);
        let given_up = record.is_some_and(|m| m.state == MemberState::Rebuilding);
        (given_up, record.is_some_and(|m| m.leaving && m.state == MemberState::Active))
    };
    if leaves && pool.leave_stuck.load(Ordering::Acquire) {
        return Some("too little space is free for all that lies on it".to_owned());
    }
    let no_room = given_up && pool.no_room.load(Ordering::Acquire);
    no_room.then(|| "too little space is free for new copies of all that lies on it".to_owned())
}
