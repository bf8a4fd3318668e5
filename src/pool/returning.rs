//! Members that come back while the pool is open: looked for at the place where they were last seen, recognised by
//! superblock and log, and taken in again.

use super::dirty_log::DirtyLog;
use super::error::PoolError;
use super::home::HomeRequest;
use super::log::{Age, Position, Replayed};
use super::member::Member;
use super::open::{find_in_place, find_member, is_current};
use super::redundancy::mirror::Copies;
use super::shared::Shared;
use super::state::{Absence, MemberRecord, MemberState, State};
use crate::base::units::MemberId;
use crate::disk::Disk;
use crate::reactor::Core;
use crate::reactor::sync::{lock, oneshot};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often a member that is gone is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Every how many looks the other places are looked at, where no member was last seen.
const LOOK_ELSEWHERE: u64 = 10;

/// The longest pause before a member that failed again and again is tried once more.
const PATIENCE_MAX: Duration = Duration::from_secs(3600);

/// A member that is there again.
pub struct Back {
    pub member: Arc<Member>,
    pub log: Replayed,
    /// Its end is gone: it counts as having nothing.
    pub hollow: bool,
}

/// What is known of a member out of sync that is there again, from its record and the end of its own log.
///
/// An image that lacks commits from before it left holds less than its rank says, and what the others remember as missed
/// is not all. Its rank stays: what was written up to then nobody else may have, and none of the others may pass for it
/// (R21). Among members that left together, those that have more are
/// raised above the ones that are not there: what is written from now on, only they have.
pub fn returned(record: &MemberRecord, held: Age, state: &State, now: &Position) -> Absence {
    let mut absence = record.absence;
    let before = absence.rank.left.saturating_sub(1);
    let left = Age { epoch: absence.epoch, sequence: before.max(held.sequence) };
    if held.sequence < before && !is_current(left, held) {
        absence.whole = true;
    }
    if absence.whole {
        return absence;
    }
    let peers = state.members.values().filter(|m| m.absence.rank.left == absence.rank.left);
    if peers.map(|m| m.absence.rank.kept).max().is_none_or(|most| most <= absence.rank.kept) {
        absence.rank.kept = now.sequence + 1;
    }
    absence
}

/// What has been tried with a member.
#[derive(Default)]
struct Attempts {
    path: Option<PathBuf>,
    failed: u32,
    not_before: Duration,
}

/// Looks for members that are gone, until the pool closes.
pub async fn watch(core: Core, pool: Arc<Shared>) {
    let begun = core.now();
    let mut attempts: BTreeMap<MemberId, Attempts> = BTreeMap::new();
    let mut turn = 0u64;
    while !pool.is_closing() {
        let at_work = pool.background.take(1).await;
        for member in pool.all_members() {
            let known = attempts.entry(member.id).or_default();
            if let Some(disk) = &member.disk {
                known.path = Some(disk.path().to_owned());
            }
            let gone = !member.is_in_sync() && !member.is_following() && is_awaited(&pool, member.id);
            let now = core.now().since(begun);
            if gone && now >= known.not_before && !pool.is_closing() {
                let elsewhere = turn.is_multiple_of(LOOK_ELSEWHERE);
                if try_member(&core, &pool, &member, known.path.as_deref(), elsewhere).await {
                    // One that fails again at once is left alone for longer and longer.
                    known.failed += 1;
                    let pause = LOOK_EVERY * 4u32.saturating_pow(known.failed.min(8));
                    known.not_before = now + PATIENCE_MAX.min(pause);
                }
            }
        }
        drop(at_work);
        turn += 1;
        let closed = pool.closed.ticket();
        if !pool.is_closing() {
            futures_util::future::select(closed, core.sleep(LOOK_EVERY)).await;
        }
    }
}

/// Whether a member that is not there may come back: it was not said to be dead, and is not taken out.
fn is_awaited(pool: &Shared, member: MemberId) -> bool {
    let live = lock(&pool.live);
    let record = live.state.members.get(&member);
    record.is_some_and(|m| !m.absence.dead && m.state != MemberState::Removed)
}

/// Looks for one member; true if it was there and was tried.
async fn try_member(
    core: &Core,
    pool: &Arc<Shared>,
    gone: &Arc<Member>,
    path: Option<&Path>,
    elsewhere: bool,
) -> bool {
    if let Some(disk) = &gone.disk {
        // Commands of its earlier life may still reach the drive: nothing new is written to it before they have ended.
        if disk.load() > 0 {
            return false;
        }
        // What was written and not flushed is lost, or was marked as missed by this member: a mirror makes up for it.
        // Where only this drive has something, its users must notice.
        let alone = is_needed(pool, gone);
        if !disk.has_failed_flush()
            && let Some(back) = find_in_place(core, pool, gone).await
        {
            take_in(core, pool, &gone.name, back).await;
            return true;
        }
        if disk.load() > 0 || alone && !disk.is_flushed() {
            return false;
        }
        disk.close(core).await;
        let dirty = DirtyLog::empty(&gone.layout);
        let absent = Member::new(gone.id, gone.uuid, gone.name.clone(), gone.layout, None, dirty);
        let Some(absence) = lock(&pool.live).state.members.get(&gone.id).map(|m| m.absence) else {
            return false;
        };
        absent.set_out_of_sync(absence, &gone.reason());
        pool.replace(Arc::new(absent));
    }
    let members = pool.all_members();
    let taken = |p: &Path| members.iter().any(|m| m.disk.as_ref().is_some_and(|d| d.path() == p));
    let all = lock(&pool.places).clone();
    let places: &[PathBuf] = if elsewhere { &all } else { &[] };
    let others = places.iter().map(PathBuf::as_path).filter(|p| Some(*p) != path);
    for place in path.into_iter().chain(others).filter(|p| !taken(p)) {
        let Some(back) = find_member(core, pool, gone, place).await else { continue };
        let rest = all.iter().map(PathBuf::as_path).filter(|p| *p != place && !taken(p));
        match find_twin(core, pool, gone, rest).await {
            None => take_in(core, pool, &gone.name, back).await,
            Some(twin) => {
                gone.set_reason(PoolError::Twins(place.to_owned(), twin).to_string());
                close_unused(core, pool, &back.member).await;
            }
        }
        return true;
    }
    false
}

/// A second drive that says it is this member, while the first is held open: another name of the same drive cannot
/// be opened then.
async fn find_twin<'a>(
    core: &Core,
    pool: &Shared,
    gone: &Member,
    places: impl Iterator<Item = &'a Path>,
) -> Option<PathBuf> {
    for place in places {
        if let Some(twin) = find_member(core, pool, gone, place).await {
            close_unused(core, pool, &twin.member).await;
            return Some(place.to_owned());
        }
    }
    None
}

/// Whether some slot cannot be written without this member.
fn is_needed(pool: &Shared, member: &Member) -> bool {
    let slots: Vec<Copies> = {
        let live = lock(&pool.live);
        let slots = live.state.volumes.values().flat_map(|v| v.slots.values());
        slots.map(|s| s.copies.clone()).filter(|c| c.iter().any(|c| c.member == member.id)).collect()
    };
    slots.iter().any(|copies| pool.is_sole_authority(copies, member.id))
}

async fn take_in(core: &Core, pool: &Arc<Shared>, name: &str, back: Back) {
    let member = back.member.clone();
    let (answer, asked) = oneshot();
    let request = HomeRequest::MemberBack { back: Box::new(back), answer };
    let result = match pool.home.send(request) {
        Ok(()) => asked.await,
        Err(_) => None,
    };
    match result {
        Some(Ok(())) => tracing::info!(member = name, "drive is back"),
        Some(Err(error)) => {
            tracing::warn!(member = name, %error, "drive is back and cannot be used");
            pool.member(member.id).set_reason(format!("it is back and cannot be used: {error}"));
            close_unused(core, pool, &member).await;
        }
        None => close_unused(core, pool, &member).await,
    }
}

/// Closes the disk of a member that was not taken in, unless the one that it was to replace has it open.
async fn close_unused(core: &Core, pool: &Shared, member: &Member) {
    let same = |a: &Arc<Disk>| pool.member(member.id).disk.as_ref().is_some_and(|b| Arc::ptr_eq(a, b));
    if let Some(disk) = member.disk.as_ref().filter(|disk| !same(disk)) {
        disk.close(core).await;
    }
}
