//! Scrub: everything that was written is read from every copy, compared, and healed.
//!
//! One task per pool. A scrub is begun by order, or when the last one is long enough ago; how far it came and what it
//! found is committed now and then, so that it goes on where it was after a restart.

use super::error::PoolError;
use super::flush::give_block;
use super::heal::{examine, heal};
use super::home::HomeRequest;
use super::load::{ensure_loaded, stored_by_copy};
use super::region::{Hold, Region};
use super::settle::flush_members;
use super::shared::Shared;
use super::state::{ScrubPlace, ScrubRun, Scrubs};
use super::verdict::Findings;
use super::volume::PoolVolume;
use super::{Pool, planted};
use crate::base::units::{RegionIndex, SlotIndex, VolumeId};
use crate::block::Status;
use crate::reactor::Core;
use crate::reactor::sync::{lock, oneshot};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often the progress of a scrub is committed.
const COMMIT_EVERY: Duration = Duration::from_secs(30);

/// How often is looked whether a scrub is due.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// How long a scrub waits before it goes on after an error of the pool.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// Scrubs that nobody asks for begin so long after the last one ended.
pub const EVERY_DEFAULT_S: u32 = 30 * 24 * 3600;

impl Pool {
    /// Begins a scrub, or joins the one that goes on.
    pub async fn begin_scrub(&self, core: &Core) -> Result<(), PoolError> {
        begin(core, &self.shared).await
    }

    pub fn is_scrubbing(&self) -> bool {
        lock(&self.shared.live).state.scrubs.current.is_some()
    }

    /// Scrubs to the end and tells what was found.
    pub async fn scrub(&self, core: &Core) -> Result<Findings, PoolError> {
        begin(core, &self.shared).await?;
        loop {
            let ended = self.shared.scrub_changed.ticket();
            let scrubs = lock(&self.shared.live).state.scrubs.clone();
            match scrubs {
                Scrubs { current: None, last: Some(last), .. } => return Ok(last.found),
                Scrubs { .. } if self.shared.is_closing() => return Err(PoolError::Closing),
                Scrubs { .. } => ended.await,
            }
        }
    }

    /// Scrubs that nobody asks for begin so long after the last one; zero: never.
    pub async fn scrub_every(&self, seconds: u32) -> Result<(), PoolError> {
        let mut scrubs = lock(&self.shared.live).state.scrubs.clone();
        scrubs.every_s = seconds;
        commit(&self.shared, scrubs).await
    }
}

async fn begin(core: &Core, pool: &Shared) -> Result<(), PoolError> {
    let mut scrubs = lock(&pool.live).state.scrubs.clone();
    if scrubs.current.is_none() {
        scrubs.current = Some(ScrubRun { began_wall_ns: core.wall_ns(), ..ScrubRun::default() });
        commit(pool, scrubs).await?;
    }
    pool.scrub_wanted.wake_all();
    Ok(())
}

async fn commit(pool: &Shared, scrubs: Scrubs) -> Result<(), PoolError> {
    let (answer, asked) = oneshot();
    pool.home.send(HomeRequest::Scrubbed { scrubs, answer }).map_err(|_| PoolError::Closing)?;
    asked.await.unwrap_or(Err(PoolError::Closing))
}

/// Scrubs when it is asked for or due, until the pool closes.
pub async fn run(core: Core, pool: Arc<Shared>) {
    while !pool.is_closing() {
        let wanted = pool.scrub_wanted.ticket();
        let mut pause = LOOK_EVERY;
        let scrubs = lock(&pool.live).state.scrubs.clone();
        if scrubs.current.is_some() || scrubs.is_due(core.wall_ns()) {
            let ended = match begin(&core, &pool).await {
                Ok(()) => scrub(&core, &pool).await,
                Err(error) => Err(error),
            };
            pool.scrub_progress.end();
            pool.scrub_changed.wake_all();
            if let Err(error) = ended {
                tracing::warn!(%error, "the scrub stopped; it goes on later");
                pause = TRY_AGAIN;
            }
        }
        if pool.is_closing() {
            return;
        }
        futures_util::future::select(wanted, core.sleep(pause)).await;
    }
}

/// From where the current scrub is to the end of the map.
async fn scrub(core: &Core, pool: &Arc<Shared>) -> Result<(), PoolError> {
    let mut scrubs = lock(&pool.live).state.scrubs.clone();
    let mut at_work = scrubs.current.take().unwrap_or_default();
    pool.scrub_progress.begin(bytes_from(pool, at_work.next), core.now());
    let mut committed = core.now();
    let _at_work = pool.pace.enter(core.now());
    while let Some((volume, slot)) = next_slot(pool, at_work.next) {
        if pool.is_closing() {
            return Ok(());
        }
        let unit = pool.background.take(1).await;
        at_work.found.add(&scrub_slot(core, &volume, slot).await);
        drop(unit);
        pool.scrub_progress.add(pool.extent.0);
        at_work.next = ScrubPlace { volume: volume.id, slot: SlotIndex(slot.0.saturating_add(1)) };
        if core.now().since(committed) >= COMMIT_EVERY {
            committed = core.now();
            // The interval may have been changed meanwhile.
            scrubs.every_s = lock(&pool.live).state.scrubs.every_s;
            commit(pool, Scrubs { current: Some(at_work.clone()), ..scrubs.clone() }).await?;
        }
    }
    if at_work.found.repaired > 0 {
        // What is said to be repaired stays so whatever comes.
        flush_members(core, pool).await?;
    }
    at_work.ended_wall_ns = core.wall_ns();
    tracing::info!(found = ?at_work.found, "scrub ended");
    scrubs.every_s = lock(&pool.live).state.scrubs.every_s;
    commit(pool, Scrubs { current: None, last: Some(at_work), ..scrubs }).await
}

/// The first slot at or behind a place.
fn next_slot(pool: &Shared, from: ScrubPlace) -> Option<(Arc<PoolVolume>, SlotIndex)> {
    let (id, slot) = {
        let live = lock(&pool.live);
        let first = |id: &VolumeId| if *id == from.volume { from.slot } else { SlotIndex(0) };
        let behind = live.state.volumes.range(from.volume..);
        let mut slots =
            behind.filter_map(|(id, v)| v.slots.range(first(id)..).next().map(|(s, _)| (*id, *s)));
        slots.next()?
    };
    match pool.volumes.load().get(&id) {
        Some(volume) => Some((volume.clone(), slot)),
        None => next_slot(pool, ScrubPlace { volume: VolumeId(id.0 + 1), slot: SlotIndex(0) }),
    }
}

/// Bytes of all slots from a place on, each counted once.
fn bytes_from(pool: &Shared, from: ScrubPlace) -> u64 {
    let live = lock(&pool.live);
    let first = |id: &VolumeId| if *id == from.volume { from.slot } else { SlotIndex(0) };
    let slots: usize =
        live.state.volumes.range(from.volume..).map(|(id, v)| v.slots.range(first(id)..).count()).sum();
    pool.slot_bytes(slots).0
}

async fn scrub_slot(core: &Core, volume: &PoolVolume, slot: SlotIndex) -> Findings {
    let mut found = Findings::default();
    if slot.0 % 2 == 1 && planted::is_planted(&volume.pool, planted::Planted::ScrubSkips) {
        return found;
    }
    let Ok(_entered) = volume.enter() else { return found };
    let Some(placement) = volume.pool.placement(volume.id, slot) else { return found };
    if volume.pool.authorities(&placement.copies).is_empty() {
        // Nothing of it is there now; that is said elsewhere.
        return found;
    }
    for number in 0..volume.pool.regions_per_slot() {
        let region = volume.pool.region(volume.id, slot, RegionIndex(number), volume.checksums);
        found.add(&scrub_region(core, volume, &region).await);
        found.add(&scrub_region_block(core, volume, &region).await);
    }
    found
}

/// Step by step, as clients bear it.
async fn scrub_region(core: &Core, volume: &PoolVolume, region: &Arc<Region>) -> Findings {
    let mut found = Findings::default();
    let end = volume.pool.region_blocks();
    {
        // What is written there is known only now. If it cannot be, each step says so.
        let hold = region.hold(0..1, false).await;
        let _ = ensure_loaded(volume, core, &hold).await;
    }
    let mut first = 0;
    while first < end {
        let blocks = volume.pool.next_step(core, region, first).await;
        found.add(&scrub_blocks(core, volume, region, blocks.clone()).await);
        first = blocks.end;
    }
    found
}

async fn scrub_blocks(
    core: &Core,
    volume: &PoolVolume,
    region: &Arc<Region>,
    blocks: std::ops::Range<u32>,
) -> Findings {
    let unreadable = || Findings { lost: u64::from(blocks.end - blocks.start), ..Findings::default() };
    {
        let hold = region.hold(blocks.clone(), false).await;
        match looked_at(core, volume, &hold, blocks.clone()).await {
            Ok(found) if found.is_clean() => return found,
            Ok(_) => {}
            Err(_) => return unreadable(),
        }
    }
    let hold = region.hold(blocks.clone(), true).await;
    if planted::is_planted(&volume.pool, planted::Planted::ScrubOnlyLooks) {
        return looked_at(core, volume, &hold, blocks.clone()).await.unwrap_or_else(|_| unreadable());
    }
    match ensure_loaded(volume, core, &hold).await {
        Ok(()) => heal(volume, core, &hold, blocks.clone()).await.unwrap_or_else(|_| unreadable()),
        Err(_) => unreadable(),
    }
}

async fn looked_at(
    core: &Core,
    volume: &PoolVolume,
    hold: &Hold,
    blocks: std::ops::Range<u32>,
) -> Result<Findings, Status> {
    ensure_loaded(volume, core, hold).await?;
    examine(volume, core, hold, blocks).await
}

/// Copies whose own newest region block is not the one that counts get that one.
async fn scrub_region_block(core: &Core, volume: &PoolVolume, region: &Arc<Region>) -> Findings {
    let mut found = Findings::default();
    let hold = region.hold(0..volume.pool.region_blocks(), true).await;
    if ensure_loaded(volume, core, &hold).await.is_err() {
        return found;
    }
    let (placement, version) = {
        let state = region.state();
        let at_rest = state.saving == 0 && !state.is_unsaved() && state.version > 0;
        match (&state.placement, at_rest) {
            (Some(placement), true) => (placement.clone(), state.version),
            (Some(_) | None, _) => return found,
        }
    };
    let reach = volume.pool.reach(&placement, region.key.region);
    let stored = stored_by_copy(volume, core, region, &placement, &reach).await;
    for (reached, places) in reach.copies.iter().zip(&stored) {
        if places.as_ref().and_then(|p| p.newest.as_ref()).is_some_and(|b| b.version == version) {
            continue;
        }
        let errors = &reached.disk().errors;
        match places {
            Some(_) => {
                found.mismatched += 1;
                errors.checksum.fetch_add(1, Ordering::Relaxed);
            }
            None => found.unreadable += 1,
        }
        if give_block(volume, core, &hold, reached).await.is_ok() {
            found.repaired += 1;
            errors.healed.fetch_add(1, Ordering::Relaxed);
        } else {
            found.unrepaired += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrub_is_due_an_interval_after_the_last_one_or_after_the_pool_was_made() {
        let day = 24 * 3600 * 1_000_000_000;
        let mut scrubs = Scrubs { since_wall_ns: 5 * day, every_s: EVERY_DEFAULT_S, ..Scrubs::default() };
        assert_eq!(scrubs.due_wall_ns(), Some(35 * day));
        assert!(!scrubs.is_due(35 * day - 1) && scrubs.is_due(35 * day));
        scrubs.last = Some(ScrubRun { ended_wall_ns: 20 * day, ..ScrubRun::default() });
        assert_eq!(scrubs.due_wall_ns(), Some(50 * day));
        scrubs.every_s = 0;
        assert_eq!(scrubs.due_wall_ns(), None);
        assert!(!scrubs.is_due(u64::MAX));
    }
}
