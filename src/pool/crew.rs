//! Several workers that move copies: as many as keep the drives busy while no client is there, one with clients.

use super::dropping::drop_copy;
use super::member::Member;
use super::moving::{Job, Place, Stuck, move_copy};
use super::pace::LOOK_EVERY;
use super::progress::Progress;
use super::shared::Shared;
use crate::reactor::Core;
use futures_util::future::join_all;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

/// Copies moved at the same time while no client is there: enough to keep every drive busy while others are flushed and
/// moves are committed. Drives that turn lose more by seeking than they gain by that.
const AT_ONCE: usize = 24;
const AT_ONCE_ROTATIONAL: usize = 4;

/// What came of the work.
#[derive(Default)]
pub struct Outcome {
    pub moved: usize,
    /// Why copies stayed where they are, each reason once for each worker.
    pub stuck: Vec<Stuck>,
}

/// Moves copies, one for each task that is still wanted when its turn comes. Ends early when the pool closes.
pub async fn move_all<T>(
    core: &Core,
    pool: &Arc<Shared>,
    progress: &Progress,
    tasks: Vec<T>,
    wanted: impl Fn(&T) -> Option<Job>,
) -> Outcome {
    let unit = pool.background.take(1).await;
    progress.begin(tasks.len() as u64 * pool.extent.0, core.now()); // widening
    let at_work = pool.pace.enter(core.now());
    let queue = RefCell::new(VecDeque::from(tasks));
    let turns = |m: &Arc<Member>| m.disk.as_ref().is_some_and(|d| d.facts().rotational);
    let at_once = if pool.members_in_sync().iter().any(turns) { AT_ONCE_ROTATIONAL } else { AT_ONCE };
    let workers = (0..at_once).map(|number| worker(core, pool, progress, (&queue, &wanted), number));
    let mut outcome = Outcome::default();
    for (moved, stuck) in join_all(workers).await {
        outcome.moved += moved;
        outcome.stuck.extend(stuck);
    }
    drop(at_work);
    progress.keep_rate(core.now());
    progress.end();
    drop(unit);
    outcome
}

/// Takes jobs until there are none; with clients, one worker is enough to do what they bear, and the others wait. Gives
/// the number of copies moved and the last reason why one was not.
async fn worker<T>(
    core: &Core,
    pool: &Arc<Shared>,
    progress: &Progress,
    (queue, wanted): (&RefCell<VecDeque<T>>, &impl Fn(&T) -> Option<Job>),
    number: usize,
) -> (usize, Option<Stuck>) {
    let (mut moved, mut stuck) = (0, None);
    loop {
        if pool.is_closing() {
            return (moved, stuck);
        }
        if number > 0 && pool.pace.has_clients(core.now()) && !queue.borrow().is_empty() {
            core.sleep(LOOK_EVERY).await;
            continue;
        }
        let Some(task) = queue.borrow_mut().pop_front() else { return (moved, stuck) };
        let Some(job) = wanted(&task) else { continue };
        match carry_out(core, pool, job, progress).await {
            Ok(()) => {
                tracing::debug!(?job, "a slot has other copies now");
                moved += 1;
            }
            Err(Stuck::Gone) => {}
            // Its turn comes when the other copy of its slot has arrived.
            Err(Stuck::Moving) => {
                queue.borrow_mut().push_back(task);
                core.sleep(LOOK_EVERY).await;
            }
            Err(why) => stuck = Some(why),
        }
    }
}

async fn carry_out(core: &Core, pool: &Arc<Shared>, job: Job, progress: &Progress) -> Result<(), Stuck> {
    match job.place {
        Place::Another(_) | Place::More => move_copy(core, pool, job, progress).await.map(|_| ()),
        Place::Less(copy) => {
            drop_copy(core, pool, &job, copy).await?;
            progress.add(pool.extent.0);
            Ok(())
        }
    }
}
