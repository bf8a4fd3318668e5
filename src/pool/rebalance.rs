//! Spreading: after drives were added, slots move to them until every member is filled in proportion to its size; what lies
//! on drives that are to leave moves to the others, and comes first.
//!
//! That it goes on is in the state, so that a restart goes on with it; how far it is, the map tells (`balance`). A copy
//! counts at its old place until it is whole at the new one, so that no slot ever has fewer than it had. Whatever makes
//! copies anew comes first: nothing moves while some member lacks something that another has.

use super::balance::{self, Move};
use super::crew::{Outcome, move_all};
use super::home::HomeRequest;
use super::moving::{Job, Stuck};
use super::parting::part;
use super::planted::{Planted, is_planted};
use super::shared::Shared;
use super::state::{MemberRecord, MemberState, State};
use crate::base::units::MemberId;
use crate::reactor::Core;
use crate::reactor::sync::{lock, oneshot};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long is waited while something else comes first, or before what could not be moved is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Attempts in a row that move nothing before it is left as it is.
const FRUITLESS_MAX: u32 = 6;

/// What is to be done next.
enum Step {
    /// No slot is to be moved, or all lie as they should.
    Nothing,
    /// Something else comes first.
    Wait,
    Work(Vec<Move>),
    /// Nothing lies on a member that leaves.
    Part(MemberId),
}

/// Moves slots whenever members were added, until the pool closes.
pub async fn run(core: Core, pool: Arc<Shared>) {
    let mut passes = 0u32;
    let mut fruitless = 0u32;
    while !pool.is_closing() {
        let wanted = pool.spread_wanted.ticket();
        let asked = pool.spread_asked.load(Ordering::Acquire);
        let pause = match next(&pool, passes, fruitless) {
            Step::Nothing => {
                if is_spreading(&pool) {
                    declare_spread(&pool, asked).await;
                }
                (passes, fruitless) = (0, 0);
                // A commit that failed is tried again.
                if is_spreading(&pool) { TRY_AGAIN } else { Duration::from_secs(3600) }
            }
            Step::Wait => TRY_AGAIN,
            Step::Part(member) => match take_out(&core, &pool, member).await {
                true => Duration::ZERO,
                false => TRY_AGAIN,
            },
            Step::Work(moves) => {
                passes += 1;
                let Outcome { moved, stuck } = work(&core, &pool, moves).await;
                let moved = moved > 0;
                fruitless = if moved || stuck.is_empty() { 0 } else { fruitless + 1 };
                note_stuck(&pool, !moved && stuck.contains(&Stuck::NoRoom));
                if fruitless >= FRUITLESS_MAX {
                    tracing::warn!("some slots cannot be moved; they stay where they are");
                    declare_spread(&pool, asked).await;
                    (passes, fruitless) = (0, 0);
                }
                if moved { Duration::ZERO } else { TRY_AGAIN }
            }
        };
        if !pool.is_closing() && pause > Duration::ZERO {
            futures_util::future::select(wanted, core.sleep(pause)).await;
        }
    }
}

fn is_spreading(pool: &Shared) -> bool {
    lock(&pool.live).state.spreading
}

/// The first pass goes all the way; another one follows only where clients took so much meanwhile that it is worth it.
///
/// What lies on members that leave goes by itself, as long as that gets on.
fn next(pool: &Shared, passes: u32, fruitless: u32) -> Step {
    let state = lock(&pool.live).state.clone();
    if let Some(member) = state.parting().or_else(|| empty(pool, &state)) {
        return Step::Part(member);
    }
    if !state.spreading {
        return Step::Nothing;
    }
    if is_hindered(pool, &state) {
        return Step::Wait;
    }
    let urgent = balance::to_leave(&state) > 0;
    let moves = match urgent && fruitless == 0 {
        true => balance::plan_departures(&state),
        false if passes > 0 && balance::is_even(&state) => Vec::new(),
        false => balance::plan(&state),
    };
    match moves.is_empty() {
        false => Step::Work(moves),
        true if urgent => {
            note_stuck(pool, true);
            Step::Wait
        }
        true => Step::Nothing,
    }
}

/// A member in sync that leaves and has nothing any more, nor is about to get something.
fn empty(pool: &Shared, state: &State) -> Option<MemberId> {
    let live = lock(&pool.live);
    let is_empty = |id: &MemberId| {
        let nothing = live.free.in_use(*id) == 0 && !live.reserved.iter().any(|copy| copy.member == *id);
        nothing || is_planted(pool, Planted::VoteBeforeData)
    };
    let leaves = |m: &MemberRecord| m.leaving && m.state == MemberState::Active;
    state.members.iter().find(|(id, m)| leaves(m) && is_empty(id)).map(|(id, _)| *id)
}

/// Takes a member out. False if it has to be tried again later.
async fn take_out(core: &Core, pool: &Shared, member: MemberId) -> bool {
    let _at_work = pool.background.take(1).await;
    if pool.is_closing() {
        return false;
    }
    let parted = part(core, pool, member).await;
    if let Err(error) = &parted {
        tracing::warn!(%error, "a drive cannot be taken out yet");
    }
    parted.is_ok()
}

/// What lies on members that leave finds a place, or does not.
fn note_stuck(pool: &Shared, stuck: bool) {
    pool.leave_stuck.store(stuck, Ordering::Release);
}

/// Whether something comes first: a member lacks what others have, or what it has cannot be believed any more once it is
/// elsewhere.
fn is_hindered(pool: &Shared, state: &State) -> bool {
    let out: BTreeSet<MemberId> =
        state.members.iter().filter(|(_, m)| m.state != MemberState::Active).map(|(id, _)| *id).collect();
    let waits = |id: &MemberId| {
        // A member that is gone and holds nothing is in nobody's way.
        state.members[id].state == MemberState::Resyncing || lock(&pool.live).free.in_use(*id) > 0
    };
    let failed_flush =
        || pool.members_in_sync().iter().any(|m| m.disk.as_ref().is_some_and(|d| d.has_failed_flush()));
    out.iter().any(waits) || failed_flush()
}

/// Does the moves that are still right when their turn comes.
async fn work(core: &Core, pool: &Arc<Shared>, moves: Vec<Move>) -> Outcome {
    tracing::info!(slots = moves.len(), "spreading slots over all drives");
    let wanted = |task: &Move| job_of(pool, task);
    let outcome = move_all(core, pool, &pool.spread_progress, moves, wanted).await;
    if !outcome.stuck.is_empty() {
        tracing::info!(moved = outcome.moved, stuck = ?outcome.stuck, "some slots were not moved");
    }
    outcome
}

/// The job of a move, if the slot still lies where it lay and nothing came in between.
fn job_of(pool: &Shared, Move { volume, slot, from, to }: &Move) -> Option<Job> {
    let live = lock(&pool.live);
    let record = live.state.volumes.get(volume)?.slots.get(slot)?;
    let from = record.copies.iter().find(|c| c.member == *from)?;
    let is_calm = record.copies.iter().all(|c| live.state.is_in_sync(c.member)) && live.state.is_in_sync(*to);
    let taken = record.copies.iter().any(|c| c.member == *to);
    let job = Job { volume: *volume, slot: *slot, stamp: record.stamp, from: *from, to: Some(*to) };
    (is_calm && !taken && !resyncs(&live.state)).then_some(job)
}

fn resyncs(state: &State) -> bool {
    state.members.values().any(|m| matches!(m.state, MemberState::Resyncing | MemberState::Rebuilding))
}

/// Commits that slots lie as they should.
async fn declare_spread(pool: &Shared, asked: u64) {
    let (answer, answered) = oneshot();
    if pool.home.send(HomeRequest::Spread { asked, answer }).is_ok() {
        // If it cannot be committed it is found again at the next look.
        let _ = answered.await;
        tracing::info!("slots are spread over all drives");
    }
}
