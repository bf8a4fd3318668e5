//! Spreading: after drives were added, slots move to them until every member is filled in proportion to its size; what lies
//! on drives that are to leave moves to the others, and comes first. And slots get or lose copies when their volume is to
//! have another number of them (`copies`).
//!
//! Copies too many go before all else: that takes next to no time, makes room for the rest, and what is out of sync need
//! not be made again then. Copies that are lacking are made when nothing is to leave any more, so that none is made from
//! a drive that is about to be taken out, nor takes the room of what lies there; and before slots are spread, since with
//! them members are filled otherwise.
//!
//! That it goes on is in the state, so that a restart goes on with it; how far it is, the map tells (`balance`). A copy
//! counts at its old place until it is whole at the new one, so that no slot ever has fewer than it had. Whatever makes
//! copies anew comes first: nothing moves while some member lacks something that another has.

use super::balance::{self, Move};
use super::copies::{self, Task};
use super::crew::{Outcome, move_all};
use super::home::HomeRequest;
use super::moving::{Job, Place, Stuck};
use super::parting::part;
use super::planted::{Planted, is_planted};
use super::redundancy::mirror::Copy;
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

/// The same for copies that find no room.
const TRY_ROOM_AGAIN: Duration = Duration::from_secs(60);

/// Attempts in a row that move nothing before it is left as it is.
const FRUITLESS_MAX: u32 = 6;

/// What is to be done next.
enum Step {
    /// No slot is to be moved, or all lie as they should.
    Nothing,
    /// Something else comes first.
    Wait,
    Work(Vec<Move>),
    /// Slots have too many copies, or too few.
    Copies(Vec<Task>),
    /// Nothing lies on a member that leaves.
    Part(MemberId),
}

/// How the attempts so far went.
#[derive(Default)]
struct Tries {
    /// Passes over what is to be moved.
    passes: u32,
    /// Attempts in a row that moved nothing.
    fruitless: u32,
    /// The same for copies that are too many or lacking.
    copies_fruitless: u32,
    /// The last of these found no room.
    no_room: bool,
}

/// Moves slots whenever members were added, and gives them the copies that they are to have, until the pool closes.
pub async fn run(core: Core, pool: Arc<Shared>) {
    let mut tries = Tries::default();
    while !pool.is_closing() {
        let wanted = pool.spread_wanted.ticket();
        let asked = pool.spread_asked.load(Ordering::Acquire);
        let pause = match next(&pool, &tries) {
            Step::Nothing => {
                if is_spreading(&pool) {
                    declare_spread(&pool, asked).await;
                }
                let no_room = tries.no_room;
                let lacks = !copies::are_as_asked(&lock(&pool.live).state);
                tries = Tries { copies_fruitless: tries.copies_fruitless, ..Tries::default() };
                // A commit that failed is tried again, and so is what cannot be copied now.
                match (is_spreading(&pool), lacks) {
                    (true, _) => TRY_AGAIN,
                    (false, true) if no_room => TRY_ROOM_AGAIN,
                    (false, true) => TRY_AGAIN,
                    (false, false) => Duration::from_secs(3600),
                }
            }
            Step::Wait => TRY_AGAIN,
            Step::Part(member) => match take_out(&core, &pool, member).await {
                true => Duration::ZERO,
                false => TRY_AGAIN,
            },
            Step::Copies(tasks) => {
                let moved = change_copies(&core, &pool, tasks, &mut tries).await;
                // Where nothing came of it something else may be to do, and make room.
                if moved || tries.copies_fruitless == 1 { Duration::ZERO } else { TRY_AGAIN }
            }
            Step::Work(moves) => {
                tries.passes += 1;
                let Outcome { moved, stuck } = work(&core, &pool, moves).await;
                let moved = moved > 0;
                tries.fruitless = if moved || stuck.is_empty() { 0 } else { tries.fruitless + 1 };
                if moved {
                    tries.copies_fruitless = 0;
                }
                note_stuck(&pool, !moved && stuck.contains(&Stuck::NoRoom));
                if tries.fruitless >= FRUITLESS_MAX {
                    tracing::warn!("some slots cannot be moved; they stay where they are");
                    declare_spread(&pool, asked).await;
                    tries = Tries { copies_fruitless: tries.copies_fruitless, ..Tries::default() };
                }
                if moved { Duration::ZERO } else { TRY_AGAIN }
            }
        };
        if !pool.is_closing() && pause > Duration::ZERO {
            futures_util::future::select(wanted, core.sleep(pause)).await;
            // What could not be done then may be possible by now.
            tries.copies_fruitless = 0;
        }
    }
}

fn is_spreading(pool: &Shared) -> bool {
    lock(&pool.live).state.spreading
}

/// The first pass goes all the way; another one follows only where clients took so much meanwhile that it is worth it.
///
/// What lies on members that leave goes by itself, as long as that gets on.
fn next(pool: &Shared, tries: &Tries) -> Step {
    let state = lock(&pool.live).state.clone();
    if let Some(member) = state.parting().or_else(|| empty(pool, &state)) {
        return Step::Part(member);
    }
    let surplus = copies::surplus(&state);
    if tries.copies_fruitless == 0 && surplus.iter().any(|task| goes(pool, task).is_some()) {
        return Step::Copies(surplus);
    }
    let lacking = copies::lacking(&state);
    if !state.spreading && lacking.is_empty() {
        return Step::Nothing;
    }
    if is_hindered(pool, &state) {
        return Step::Wait;
    }
    let urgent = balance::to_leave(&state) > 0;
    if !urgent && tries.copies_fruitless == 0 && !lacking.is_empty() {
        return Step::Copies(lacking);
    }
    // Copies that are lacking may find room once what there is lies otherwise.
    if !state.spreading && !tries.no_room {
        return Step::Nothing;
    }
    let moves = match urgent && tries.fruitless == 0 {
        true => balance::plan_departures(&state),
        false if tries.passes > 0 && balance::is_even(&state) => Vec::new(),
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

/// Gives slots the copies that they lack, or takes away those that are too many. True if something came of it.
async fn change_copies(core: &Core, pool: &Arc<Shared>, tasks: Vec<Task>, tries: &mut Tries) -> bool {
    tracing::info!(copies = tasks.len(), "changing how many copies slots have");
    let wanted = |task: &Task| copies_job(pool, task);
    let Outcome { moved, stuck } = move_all(core, pool, &pool.copies_progress, tasks, wanted).await;
    if !stuck.is_empty() {
        tracing::info!(moved, ?stuck, "some slots have other copies than they are to have");
    }
    tries.copies_fruitless = if moved > 0 { 0 } else { tries.copies_fruitless + 1 };
    tries.no_room = stuck.contains(&Stuck::NoRoom);
    pool.copies_stuck.store(moved == 0 && tries.no_room, Ordering::Release);
    // What was given up may have nothing left to be made again.
    pool.rebuild_wanted.wake_all();
    moved > 0
}

/// What is to become of a slot's copies, as it is by now.
fn copies_job(pool: &Shared, task: &Task) -> Option<Job> {
    let Task { volume, slot } = *task;
    let gone = goes(pool, task);
    let live = lock(&pool.live);
    let grows = copies::may_grow(&live.state, volume, slot);
    let place = gone.map(Place::Less).or(grows.then_some(Place::More))?;
    let stamp = live.state.volumes.get(&volume)?.slots.get(&slot)?.stamp;
    Some(Job { volume, slot, stamp, place, to: None })
}

/// The copy of a slot that is too many and may go now.
fn goes(pool: &Shared, Task { volume, slot }: &Task) -> Option<Copy> {
    let live = lock(&pool.live);
    let goes = copies::that_goes(&live.state, |m| live.free.in_use(m), *volume, *slot);
    if is_planted(pool, Planted::DroppedWrongCopy) && goes.is_some() {
        let slot = live.state.volumes.get(volume)?.slots.get(slot)?;
        return slot.copies.iter().find(|c| live.state.is_in_sync(c.member)).copied();
    }
    goes
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
    let asked = pool.copies_asked.load(Ordering::Acquire);
    // Copies come first, also those that are asked for meanwhile.
    let wanted = |task: &Move| {
        let alone = pool.copies_asked.load(Ordering::Acquire) == asked;
        job_of(pool, task).filter(|_| alone)
    };
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
    let place = Place::Another(*from);
    let job = Job { volume: *volume, slot: *slot, stamp: record.stamp, place, to: Some(*to) };
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
